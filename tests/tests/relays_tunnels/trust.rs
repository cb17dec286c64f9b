//! Who is believed to be a relay, and what a relay does for another.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use relay_protocol::api::HostStatus;
use relay_protocol::problem::Code;
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, SOON,
    client::{self, Reply, empty, fetch, full},
    eventually,
    fleet::{Across, Fleet, address},
    local::{Recorder, app},
    plain_agent::{PlainAgent, PlainOptions},
    raw::Head,
    stack::{EMAIL, HOST},
};
use uuid::Uuid;

const FORWARDED: &str = "x-relay-forwarded";

/// A relay with the host's tunnel that the other relay takes to be somewhere else: there its requests are kept,
/// as they come with the other relay's signature.
struct Kept {
    _fleet: Fleet,
    near: Relay,
    far: Relay,
    agent: Option<PlainAgent>,
    kept: Recorder,
    seen: Seen,
    token: String,
    host: Uuid,
    session: Uuid,
}

/// What agents were asked.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<HeaderMap>>>);

impl Seen {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    async fn agent(&self, relay: &Relay, token: &str) -> PlainAgent {
        let seen = self.0.clone();
        let answer = move |request: Request<Incoming>| {
            seen.lock().unwrap().push(request.headers().clone());
            async { Response::new(full("ok")) }
        };
        PlainAgent::connect(relay.addr, token, PlainOptions::new(HOST), answer).await.expect("a tunnel")
    }
}

impl Kept {
    async fn start() -> Self {
        let answer = "HTTP/1.1 200 OK\r\nx-relay-forwarded: answered\r\ncontent-length: 4\r\n\r\nkept";
        let kept = Recorder::answering(answer).await;
        let fleet = Fleet::start().await;
        let near = fleet.relay("near").await;
        let far = fleet.relay_behind("far", |_| kept.server.url()).await;
        let token = near.user_with_token(EMAIL).await;
        let seen = Seen::default();
        let agent = Some(seen.agent(&far, &token).await);
        let host = near.await_host(&token, HOST, HostStatus::Online).await.id;
        let session = near.create_session(&token, host).await;
        let all = Self { _fleet: fleet, near, far, agent, kept, seen, token, host, session };
        eventually("the near relay passes requests on", SOON, || async {
            fetch(all.near.addr, client::get(&all.path("/"))).await.text() == "kept"
        })
        .await;
        all
    }

    fn path(&self, local: &str) -> String {
        format!("/v1/relay/h/{}/s/{}{local}", self.host, self.session)
    }

    /// A request that the near relay passes on, as it came.
    async fn capture(&self, method: Method, local: &str) -> Head {
        let reply = fetch(self.near.addr, client::request(method, &self.path(local), empty())).await;
        assert_eq!(reply.text(), "kept", "{reply:?}");
        self.kept.last().0
    }

    /// Sends something with that header to the far relay.
    async fn send(&self, method: Method, path: &str, header: &str) -> Reply {
        let request = Request::builder().method(method).uri(path).header(FORWARDED, header);
        fetch(self.far.addr, request.body(empty()).unwrap()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_counts_once_here_now_and_as_it_was() {
    let mut world = Kept::start().await;
    let good = world.capture(Method::GET, "/a?b=c").await;
    let header = good.header(FORWARDED).unwrap();
    assert_eq!(good.all(FORWARDED).len(), 1);
    for told in ["v=1;from=near;to=far;ts=", ";client=127.0.0.1;for=127.0.0.1;scheme=http;host="] {
        assert!(header.contains(told), "{header}");
    }
    assert!(String::from_utf8(good.target()).unwrap().ends_with("/a?b=c"));

    // Changed in any way it counts for nothing, and does not use the good one up.
    let path = world.path("/a?b=c");
    let (fields, signature) = header.split_once(";sig=").unwrap();
    for (method, path, header) in [
        (Method::POST, path.clone(), header.clone()),
        (Method::GET, world.path("/a?b=d"), header.clone()),
        (Method::GET, "/v1/relay/hosts".to_owned(), header.clone()),
        (Method::GET, path.clone(), fields.to_owned()),
        (Method::GET, path.clone(), format!("{};sig={signature}", fields.replace("127.0.0.1", "127.0.0.2"))),
        (Method::GET, path.clone(), format!("{};sig={signature}", fields.replace("to=far", "to=near"))),
        (Method::GET, path.clone(), format!("{fields};sig={}", "A".repeat(43))),
        (Method::GET, path.clone(), "1".to_owned()),
        (Method::GET, path.clone(), String::new()),
    ] {
        let reply = world.send(method, &path, &header).await;
        reply.is_problem(Code::ForwardRefused);
        assert_eq!(reply.header(FORWARDED), Some("refused"));
    }
    let before = world.seen.count();
    let first = world.send(Method::GET, &path, &header).await;
    assert_eq!((first.status, first.header(FORWARDED)), (StatusCode::OK, Some("answered")), "{first:?}");
    world.send(Method::GET, &path, &header).await.is_problem(Code::ForwardRefused);
    assert_eq!(world.seen.count(), before + 1);
    assert!(
        world.seen.0.lock().unwrap().iter().all(|headers| !headers.contains_key(FORWARDED)),
        "no agent sees it"
    );
    assert_ne!(first.header("x-request-id"), None);

    // For another relay it is no more than for nobody.
    let other = world.capture(Method::GET, "/a?b=c").await.header(FORWARDED).unwrap();
    let request = Request::get(&path).header(FORWARDED, &other).body(empty()).unwrap();
    fetch(world.near.addr, request).await.is_problem(Code::ForwardRefused);
    // What was signed before a relay began may have been used in its life before.
    world.far.restart().await;
    world.send(Method::GET, &path, &other).await.is_problem(Code::ForwardRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_alone_takes_nobodys_word() {
    let relay = Relay::start(system_tests::RelayOptions::default()).await;
    for path in ["/health", "/v1/relay/hosts", "/v1/relay/h/x"] {
        let request = Request::get(path).header(FORWARDED, "v=1;from=a;to=b;sig=AAAA").body(empty()).unwrap();
        fetch(relay.addr, request).await.is_problem(Code::ForwardRefused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_on_once_goes_no_further() {
    let mut world = Kept::start().await;
    let signed = world.capture(Method::GET, "/x").await.header(FORWARDED).unwrap();
    // The host moves to the near relay, and the far one can know.
    let _second = world.seen.agent(&world.near, &world.token).await;
    drop(world.agent.take());
    let far = &world.far;
    eventually("the far relay's tunnel has ended", SOON, || async {
        far.log().contains("a tunnel has ended")
    })
    .await;
    let seen = world.seen.count();
    let reply = world.send(Method::GET, &world.path("/x"), &signed).await;
    assert_eq!(reply.header(FORWARDED), Some("moved"), "{reply:?}");
    reply.is_problem(Code::HostOffline);
    assert_eq!(world.seen.count(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_relays_word_is_shown_to_nobody() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nx-relay-forwarded: refused\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nx-relay-forwarded: answered, moved\r\ncontent-length: 4\r\n\r\nevil",
        "SSH-2.0-x\r\n",
    ] {
        let stranger = Recorder::answering(answer).await;
        let local = LocalServer::router(app()).await;
        let fleet = Fleet::start().await;
        let near = fleet.relay("near").await;
        let far = fleet.relay_behind("far", |_| stranger.server.url()).await;
        let token = near.user_with_token(EMAIL).await;
        let _agent = Agent::spawn(AgentOptions::new(&far.url(), &local.url(), &token, HOST));
        let host = near.await_host(&token, HOST, HostStatus::Online).await.id;
        let session = near.create_session(&token, host).await;
        let path = format!("/v1/relay/h/{host}/s/{session}/hello");
        eventually("the stranger is asked", SOON, || async {
            let reply = fetch(near.addr, client::get(&path)).await;
            assert!(!reply.text().contains("evil"), "{reply:?}");
            stranger.count() > 0 && reply.problem().code == Code::RelayUnreachable
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_far_relay_counts_by_the_browser_and_authorises_by_itself() {
    let local = LocalServer::router(app()).await;
    let fleet = Fleet::start().await.with(|options| options.env("RELAY_MAX_CONNECTIONS_PER_IP", 2));
    // The far relay takes two of a browser, whatever the near one allows.
    let near = Relay::start(
        fleet
            .options("near", address())
            .env("RELAY_MAX_CONNECTIONS_PER_IP", 50)
            .env("RELAY_TRUSTED_PROXIES", "127.0.0.0/8"),
    )
    .await;
    let far = fleet.relay("far").await;
    let across = Across::between(fleet, near, far, &local.url(), |agent| agent).await;
    let from = |client: &'static str| [("x-forwarded-for", client)];
    let open = |client: &'static str| {
        let (addr, path) = (across.near.addr, across.path("/ws"));
        async move { client::websocket(addr, &path, &from(client)).await }
    };
    let first = open("192.0.2.1").await.unwrap();
    let second = open("192.0.2.1").await.unwrap();
    assert!(open("192.0.2.1").await.is_err(), "a third of the same browser");
    let other = open("192.0.2.2").await.expect("another browser's first");
    drop((first, second, other));

    // What is revoked at one relay ends at the other.
    let path = across.path("/hello");
    let revoke = format!("/v1/relay/sessions/{}", across.session);
    assert!(across.near.api(Method::DELETE, &revoke, &across.token).await.status.is_success());
    fetch(across.near.addr, client::get(&path)).await.is_problem(Code::SessionExpired);
    eventually("the far relay feels it", SOON, || async {
        fetch(across.far.addr, client::get(&path)).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
    let delete = format!("/v1/relay/hosts/{}", across.host);
    assert!(across.near.api(Method::DELETE, &delete, &across.token).await.status.is_success());
    // The agent's tunnel at the far relay ends, and so it comes back as a new host.
    eventually("the deleted host's tunnel has ended", SOON, || async {
        across.near.find_host(&across.token, HOST).await.is_some_and(|host| host.id != across.host)
    })
    .await;
}
