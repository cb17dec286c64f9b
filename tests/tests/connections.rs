//! An agent with several connections to real relays that share a database: one relay's end is not felt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use nix::sys::signal::Signal;
use relay_protocol::api::HostStatus;
use serde_json::Value;
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, client,
    client::try_fetch,
    eventually,
    front::Front,
    local::app,
    postgres::Postgres,
    signed::Browser,
    stack::{EMAIL, HOST},
    throttle::{Rate, Throttle},
    tokens::SECRET,
    within,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Two relays on one database, and what stands in front of each; the first offers the second.
struct Two {
    _postgres: Postgres,
    relays: [Relay; 2],
    fronts: [Front; 2],
    token: String,
}

impl Two {
    async fn start() -> Self {
        let postgres = Postgres::start().await;
        let url = postgres.database("two").await;
        let options = RelayOptions::default().database(&url).env("RELAY_JWT_SECRET", SECRET);
        let one = Relay::start(options.clone()).await;
        let two = Relay::start(options).await;
        let fronts = [Front::start(one.addr, "one").await, Front::start(two.addr, "two").await];
        fronts[0].offer(&[&fronts[1].url()]);
        fronts[1].offer(&[&fronts[0].url()]);
        let token = one.user_with_token(EMAIL).await;
        Self { _postgres: postgres, relays: [one, two], fronts, token }
    }

    fn agent(&self, to: &str) -> AgentOptions {
        AgentOptions::new(&self.fronts[0].url(), to, &self.token, HOST).arg("--connections").arg("2")
    }

    /// The host, and the path of a session of it.
    async fn session(&self) -> (Uuid, String) {
        let host = self.relays[0].await_host(&self.token, HOST, HostStatus::Online).await.id;
        let session = self.relays[0].create_session(&self.token, host).await;
        (host, format!("/v1/relay/h/{host}/s/{session}"))
    }

    /// Asks again and again through one relay, until it is told to end.
    fn ask(&self, relay: usize, prefix: &str) -> Asking {
        let (addr, path) = (self.relays[relay].addr, format!("{prefix}/hello"));
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut count = 0;
            while !told.load(Ordering::SeqCst) {
                let reply = try_fetch(addr, client::get(&path)).await.expect("an answer");
                assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "hello"), "after {count}");
                count += 1;
            }
            count
        });
        Asking { stop, task }
    }
}

/// Somebody who asks all the time.
struct Asking {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Asking {
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        within("the last answer", SOON, self.task).await.expect("no request failed")
    }
}

/// Where each connection is, or that it is down.
fn places(status: &Value) -> Vec<&str> {
    let connections = status["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    let place = |connection: &'_ Value| connection["connected"] == true;
    connections
        .iter()
        .map(
            |connection| {
                if place(connection) { connection["relay_id"].as_str().unwrap_or("?") } else { "down" }
            },
        )
        .collect()
}

async fn at(agent: &mut Agent, expected: [&str; 2]) -> Value {
    let what = format!("connections at {expected:?}");
    // A relay that was away is looked for once a minute at the least.
    agent.status_becomes(&what, Duration::from_secs(120), |status| places(status) == expected).await
}

async fn hello(relay: &Relay, prefix: &str) -> bool {
    let reply = try_fetch(relay.addr, client::get(&format!("{prefix}/hello"))).await;
    reply.is_ok_and(|reply| reply.status == StatusCode::OK && reply.text() == "hello")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_is_not_felt_through_the_other_and_used_again_when_it_is_back() {
    let local = LocalServer::router(app()).await;
    let mut two = Two::start().await;
    let mut agent = Agent::start(two.agent(&local.url())).await;
    let status = at(&mut agent, ["one", "two"]).await;
    assert_eq!(status["connected"], true);
    assert_eq!(status["connections"][1]["relay"], two.fronts[1].url().as_str());
    let (_, prefix) = two.session().await;
    for relay in &two.relays {
        eventually("both serve", SOON, || hello(relay, &prefix)).await;
    }
    // The relay that the agent was configured with goes last, so that the other's offer is needed.
    for gone in [1, 0] {
        let stays = 1 - gone;
        let name = ["one", "two"][stays];
        let asking = two.ask(stays, &prefix);
        two.relays[gone].process.kill();
        at(&mut agent, [name; 2]).await;
        two.relays[gone].restart().await;
        at(&mut agent, ["one", "two"]).await;
        let again = &two.relays[gone];
        eventually("it serves again", SOON, || hello(again, &prefix)).await;
        assert!(asking.end().await > 0);
    }
    let shown = system_tests::process::run(agent.command(&["status"])).await;
    assert!(shown.stdout.contains("2 of 2"), "{}", shown.stdout);
    assert!(shown.stdout.contains(&format!("{} (two): up for", two.fronts[1].url())), "{}", shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_drains_is_left_and_come_back_to() {
    let local = LocalServer::router(app()).await;
    let mut two = Two::start().await;
    let mut agent = Agent::start(two.agent(&local.url())).await;
    at(&mut agent, ["one", "two"]).await;
    let (_, prefix) = two.session().await;
    let asking = two.ask(0, &prefix);
    two.relays[1].signal(Signal::SIGTERM);
    at(&mut agent, ["one", "one"]).await;
    assert!(two.relays[1].process.wait(SOON).await.success(), "{}", two.relays[1].log());
    two.relays[1].restart().await;
    at(&mut agent, ["one", "two"]).await;
    assert!(asking.end().await > 0);
    let again = &two.relays[1];
    eventually("it serves again", SOON, || hello(again, &prefix)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paired_browsers_session_goes_on_through_the_other_relay() {
    let local = LocalServer::router(app()).await;
    let mut two = Two::start().await;
    let mut agent = Agent::start(two.agent(&local.url()).paired()).await;
    at(&mut agent, ["one", "two"]).await;
    let (host, prefix) = two.session().await;
    let (mut pair, code) = agent.show_code().await;
    let mut browser = Browser::pair(two.relays[0].addr, &prefix, host, &code).await.expect("it pairs");
    assert!(pair.wait(SOON).await.success(), "{}", pair.log());
    let get = || Request::get("/hello").body(Bytes::new()).expect("a request");
    let id = {
        let session = browser.session().await.expect("a session");
        assert_eq!(session.fetch(get()).await.expect("an answer").text(), "hello");
        session.id
    };
    two.relays[0].process.kill();
    // The agent has noticed, and its session is as it was.
    at(&mut agent, ["two", "two"]).await;
    browser.addr = two.relays[1].addr;
    let session = system_tests::signed::Session { browser: &browser, id };
    assert_eq!(session.fetch(get()).await.expect("an answer").text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_relay_a_second_tunnel_outlives_a_dead_connection() {
    let local = LocalServer::router(app()).await;
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let link = Throttle::start(relay.addr, Rate::default()).await;
    let front = Front::start(link.addr, "one").await;
    let options = AgentOptions::new(&front.url(), &local.url(), &token, HOST).env("RELAY_CONNECTIONS", "2");
    let mut agent = Agent::start(options).await;
    at(&mut agent, ["one", "one"]).await;
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;
    let prefix = format!("/v1/relay/h/{host}/s/{session}");
    assert!(hello(&relay, &prefix).await);
    assert_eq!((front.connects(), link.connections()), (2, 2), "nobody dials in circles");
    // Both ends are cut; both come back.
    link.cut();
    eventually("both dial again", SOON, || async { link.connections() == 4 }).await;
    at(&mut agent, ["one", "one"]).await;
    eventually("it serves again", SOON, || hello(&relay, &prefix)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_relay_offers_is_not_dialled() {
    let local = LocalServer::router(app()).await;
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let front = Front::start(relay.addr, "one").await;
    // It would be dialled if any of these were believed.
    let trap = Front::start(relay.addr, "trap").await;
    let port = trap.addr.port();
    let offers = [
        format!("http://127.0.0.2:{port}"),
        format!("http://localhost:{port}"),
        format!("http://x@127.0.0.1:{port}"),
        format!("ws://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/?a=b"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
        "x".repeat(3000),
    ];
    front.offer(&offers.each_ref().map(String::as_str));
    let options = AgentOptions::new(&front.url(), &local.url(), &token, HOST).arg("--connections").arg("2");
    let mut agent = Agent::start(options).await;
    at(&mut agent, ["one", "one"]).await;
    assert_eq!((front.connects(), trap.connects()), (2, 0));
    assert!(agent.process.log().contains("offers others that are not believed"), "{}", agent.process.log());
    assert!(!agent.process.log().contains("xxxx"), "what it said is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_does_not_know_the_token_is_told_of_and_does_not_disturb_the_other() {
    let local = LocalServer::router(app()).await;
    let secret = RelayOptions::default().env("RELAY_JWT_SECRET", SECRET);
    let (one, other) = (Relay::start(secret.clone()).await, Relay::start(secret).await);
    let token = one.user_with_token(EMAIL).await;
    let options = AgentOptions::new(&one.url(), &local.url(), &token, HOST)
        .arg("--connections")
        .arg("2")
        .arg("--also-relay")
        .arg(&other.url());
    let mut agent = Agent::start(options).await;
    // The token is not one of the other relay, whose database knows nobody.
    let told = |status: &Value| status["connections"][1]["last_error"]["message"].is_string();
    let status = agent.status_becomes("the other relay's refusal", SOON, told).await;
    assert_eq!(status["connected"], true);
    let host = one.await_host(&token, HOST, HostStatus::Online).await.id;
    assert_eq!(status["host_id"], host.to_string());
}
