//! What signed exchanges need of a relay that does not know them: headers, record streams, long queries
//! and the agent's own paths pass as they are.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Frame, Incoming};
use relay_protocol::api::HostStatus;
use system_tests::{
    Relay, RelayOptions, SOON,
    client::{self, Body, empty, fetch, full, next_data},
    plain_agent::{PlainAgent, PlainOptions},
    stack::{EMAIL, HOST},
    within,
};
use tokio::sync::mpsc;

const APP: &str = "https://app.example.com";
const RECORDS: &str = "application/vnd.relay.records";

struct World {
    relay: Relay,
    _agent: PlainAgent,
    prefix: String,
}

/// A relay, and an agent that answers so.
async fn world<H, Fut>(handler: H) -> World
where
    H: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let relay = Relay::start(RelayOptions::default().env("RELAY_ALLOWED_ORIGINS", APP)).await;
    let token = relay.user_with_token(EMAIL).await;
    let agent =
        PlainAgent::connect(relay.addr, &token, PlainOptions::new(HOST), handler).await.expect("a tunnel");
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;
    World { relay, _agent: agent, prefix: format!("/v1/relay/h/{host}/s/{session}") }
}

fn signed_headers() -> [(&'static str, &'static str); 3] {
    [
        ("signature", "relay=:AAAA/+==:, other=:BBBB:"),
        (
            "signature-input",
            "relay=(\"@status\" \"content-digest\" \"signature\";key=\"relay\";req);created=1;keyid=\"h\";alg=\"ed25519\"",
        ),
        ("content-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
    ]
}

fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap().to_ascii_lowercase());
    lines.flat_map(|line| line.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_sign_and_verify() {
    let world = world(|_| async {
        let mut response = Response::new(full("ok"));
        for (name, value) in signed_headers() {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    })
    .await;
    let asked =
        "signature,signature-input,content-digest,x-relay-records,content-type,x-apps-own,x-relay-csrf";
    for path in ["/api/x", "/_relay/session"] {
        let request = Request::options(format!("{}{path}", world.prefix))
            .header("origin", APP)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", asked)
            .body(empty())
            .unwrap();
        let reply = fetch(world.relay.addr, request).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{path}");
        let mut allowed = asked.split(',').map(ToOwned::to_owned).collect::<Vec<_>>();
        assert_eq!(allowed.pop().as_deref(), Some("x-relay-csrf"), "for the relay's own pages alone");
        assert_eq!(list(&reply.headers, "access-control-allow-headers"), allowed, "{path}");
    }
    let request = Request::get(format!("{}/x", world.prefix)).header("origin", APP).body(empty()).unwrap();
    let reply = fetch(world.relay.addr, request).await;
    for (name, value) in signed_headers() {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    let exposed = list(&reply.headers, "access-control-expose-headers");
    for name in ["signature", "signature-input", "content-digest", "x-relay-records", "x-vk-resp-signature"] {
        assert!(exposed.contains(&name.to_owned()), "{name} in {exposed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_out_as_they_come_and_as_they_are() {
    let (bodies, mut body) = mpsc::channel::<mpsc::Sender<Frame<Bytes>>>(1);
    let world = world(move |request: Request<Incoming>| {
        let bodies = bodies.clone();
        async move {
            assert_eq!(request.headers()["x-relay-records"], "1");
            let (sender, body) = client::channel();
            bodies.send(sender).await.unwrap();
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static(RECORDS));
            response
        }
    })
    .await;
    let path = format!("{}/events", world.prefix);
    let request = Request::get(path).header("x-relay-records", "1").header("accept-encoding", "gzip, br");
    let mut response =
        within("the head", SOON, client::send(world.relay.addr, request.body(empty()).unwrap()))
            .await
            .unwrap();
    assert_eq!(response.headers()["content-type"], RECORDS);
    assert!(!response.headers().contains_key("content-encoding"));
    let sender = body.recv().await.unwrap();
    // Each record is here before the next one is written.
    for n in 0..20_u8 {
        let record = Bytes::from(vec![n, 0, 0xff, b'\r', b'\n', n]);
        sender.send(Frame::data(record.clone())).await.unwrap();
        let mut got = Vec::new();
        while got.len() < record.len() {
            let next = within("the record", SOON, next_data(response.body_mut())).await;
            got.extend_from_slice(&next.unwrap().unwrap());
        }
        assert_eq!(got, record);
    }
    drop(sender);
    assert!(within("the end", SOON, next_data(response.body_mut())).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_paths_and_signed_upgrades_pass_byte_for_byte() {
    let (seen, mut targets) = mpsc::channel::<(Method, String, HeaderMap)>(8);
    let world = world(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (method, target) = (request.method().clone(), request.uri().to_string());
            seen.send((method, target, request.headers().clone())).await.unwrap();
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        }
    })
    .await;
    for local in [
        "/_relay/hello",
        "/_relay/pairing/start?",
        "/_relay//x/%2e%2E/%2F?a=%00&b",
        "/_relay/browsers/%7B%7D",
    ] {
        for (name, value) in [("signature", "relay=:AA==:"), ("signature-input", "relay=();created=1")] {
            let request = Request::post(format!("{}{local}", world.prefix)).header(name, value);
            let reply = fetch(world.relay.addr, request.body(full("{}")).unwrap()).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
            let (method, target, headers) = targets.recv().await.unwrap();
            assert_eq!((method, target.as_str()), (Method::POST, local));
            assert_eq!(headers[name], value);
        }
    }
    // As long as 64 components with long names make it, and more.
    let input = "%22x-a-component-with-a-name%22%20".repeat(64);
    let local = format!(
        "/socket?a=1&relay-signature-input=({input})%3Bcreated%3D1&relay-signature={}",
        "A".repeat(86)
    );
    assert!(local.len() > 2000, "{}", local.len());
    let path = format!("{}{local}", world.prefix);
    let refused =
        client::websocket(world.relay.addr, &path, &[("origin", APP), ("sec-websocket-protocol", "x")]).await;
    let tokio_tungstenite::tungstenite::Error::Http(answer) = refused.unwrap_err() else {
        panic!("no answer")
    };
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "the agent's answer");
    let (_, target, headers) = targets.recv().await.unwrap();
    assert_eq!(target, local);
    assert_eq!(
        (&headers["upgrade"], &headers["sec-websocket-protocol"]),
        (&"websocket".parse().unwrap(), &"x".parse().unwrap())
    );
    assert!(!world.relay.log().contains("relay-signature"), "queries are not logged");
}
