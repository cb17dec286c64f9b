//! Every limit, each with an error of its own, and each free again when what used it has ended.

use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use nix::sys::signal::Signal;
use relay_protocol::{api::HostStatus, problem::Code};
use system_tests::{
    LocalServer, Relay, RelayOptions, Reply, SOON, Stack,
    client::{self, Body, empty, fetch, full, get, try_fetch, websocket},
    eventually,
    local::{Recorder, app},
    plain_agent::{PlainAgent, PlainOptions},
    raw::{RawConn, exchange},
    relay::bearer,
    stack::{EMAIL, HOST},
    within,
};
use tokio_tungstenite::tungstenite::Error;

async fn ok(_: Request<Incoming>) -> Response<Body> {
    Response::new(full("ok"))
}

fn with(name: &str, value: impl ToString) -> RelayOptions {
    RelayOptions::default().env(name, value)
}

async fn relay_and_token(options: RelayOptions) -> (Relay, String) {
    let relay = Relay::start(options).await;
    let token = relay.user_with_token(EMAIL).await;
    (relay, token)
}

/// The problem of an upgrade that was refused.
#[track_caller]
fn refused<T>(result: Result<T, Error>) -> (Code, Option<u64>) {
    match result {
        Err(Error::Http(response)) => {
            let retry = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
            let body = response.body().clone().unwrap_or_default();
            let problem: relay_protocol::problem::Problem = serde_json::from_slice(&body)
                .unwrap_or_else(|e| panic!("{e}: {} {}", response.status(), String::from_utf8_lossy(&body)));
            assert_eq!(problem.status, response.status().as_u16());
            (problem.code, retry)
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_too_large() {
    let recorder = Recorder::start().await;
    let stack = Stack::with(&recorder.server.url(), with("RELAY_MAX_HEADER_BYTES", "16KiB"), |a| a).await;
    let request = |len: usize| {
        let value = "v".repeat(len);
        format!("GET {} HTTP/1.1\r\nhost: r\r\nconnection: close\r\nx-big: {value}\r\n\r\n", stack.path("/x"))
    };
    let (head, _) = exchange(stack.addr(), request(12 * 1024)).await.expect("an answer");
    assert_eq!(head.status(), 200, "{}", head.text());
    let seen = recorder.count();
    for len in [17 * 1024, 64 * 1024, 1 << 20] {
        let (head, _) =
            within("an answer", SOON, exchange(stack.addr(), request(len))).await.expect("an answer");
        assert_eq!(head.status(), Code::HeaderTooLarge.status().as_u16(), "{len}: {}", head.text());
    }
    let mut many = format!("GET {} HTTP/1.1\r\nhost: r\r\n", stack.path("/x"));
    for n in 0..1000 {
        many += &format!("x-{n}: {n}\r\n");
    }
    let (head, _) = exchange(stack.addr(), many + "\r\n").await.expect("an answer");
    assert_eq!(head.status(), 431, "{}", head.text());
    assert_eq!(recorder.count(), seen);
    // Over h2, where the answer is a problem with its code in any case.
    let mut h2 = client::h2(stack.addr()).await;
    let uri = format!("http://{}{}", stack.addr(), stack.path("/x"));
    let big = Request::get(uri).header("x-big", "v".repeat(17 * 1024)).body(empty()).unwrap();
    if let Ok(response) = h2.send_request(big).await {
        assert_eq!(response.status(), Code::HeaderTooLarge.status());
    }
    assert_eq!(recorder.count(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_long() {
    let recorder = Recorder::start().await;
    let stack = Stack::with(&recorder.server.url(), with("RELAY_MAX_URI_BYTES", "2KiB"), |a| a).await;
    assert_eq!(stack.get(&format!("/x?{}", "q".repeat(1500))).await.text(), "ok");
    stack.get(&format!("/x?{}", "q".repeat(3000))).await.is_problem(Code::UriTooLong);
    stack.get(&format!("/{}", "p".repeat(10_000))).await.is_problem(Code::UriTooLong);
    assert_eq!(recorder.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_head_does_not_arrive() {
    let recorder = Recorder::start().await;
    let stack = Stack::with(&recorder.server.url(), with("RELAY_HEADER_TIMEOUT", "500ms"), |a| a).await;
    for beginning in [format!("GET {} HTTP/1.1\r\nhost: r\r\n", stack.path("/x")), "G".to_owned()] {
        let mut conn = RawConn::connect(stack.addr()).await;
        conn.write(&beginning).await.unwrap();
        // A byte now and then does not buy more time.
        let drip = async {
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(250)).await;
                if conn.write("x").await.is_err() {
                    return true;
                }
            }
            false
        };
        assert!(within("the end of patience", SOON, drip).await, "{beginning:?} is waited for without end");
    }
    let mut conn = RawConn::connect(stack.addr()).await;
    conn.write(format!("GET {} HTTP/1.1\r\nhost: r\r\n", stack.path("/x"))).await.unwrap();
    let head = within("an answer or an end", SOON, conn.head()).await;
    if let Some(head) = head {
        assert_eq!(head.status(), Code::RequestTimeout.status().as_u16(), "{}", head.text());
        let body = conn.response_body(&head).await;
        assert!(String::from_utf8_lossy(&body.bytes).contains("request_timeout"), "{body:?}");
    }
    assert_eq!(recorder.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_for_the_relays_own_interface() {
    let (relay, token) = relay_and_token(with("RELAY_MAX_API_BODY_BYTES", "2KiB")).await;
    let path = format!("/v1/relay/hosts/{}", uuid::Uuid::new_v4());
    let json = format!("{{\"name\":\"{}\"}}", "x".repeat(4000));
    let fixed = bearer(Method::PATCH, &path, &token)
        .header("content-type", "application/json")
        .body(full(json.clone()));
    fetch(relay.addr, fixed.unwrap()).await.is_problem(Code::BodyTooLarge);
    let mut chunked = format!(
        "PATCH {path} HTTP/1.1\r\nhost: r\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    for piece in json.as_bytes().chunks(100) {
        chunked += &format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece));
    }
    let (head, body) = exchange(relay.addr, chunked + "0\r\n\r\n").await.expect("an answer");
    assert_eq!(head.status(), 413, "{}", head.text());
    assert!(String::from_utf8_lossy(&body.bytes).contains("body_too_large"), "{body:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_caller_that_goes_on_sending() {
    // RFC 9112 section 9.6: a server that closes at once loses its answer to a reset.
    let (relay, token) = relay_and_token(with("RELAY_MAX_API_BODY_BYTES", "2KiB")).await;
    let path = format!("/v1/relay/hosts/{}", uuid::Uuid::new_v4());
    for _ in 0..5 {
        let mut conn = RawConn::connect(relay.addr).await;
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nhost: r\r\nauthorization: Bearer {token}\r\ncontent-length: 262144\r\n\r\n"
        );
        conn.write(head).await.unwrap();
        for _ in 0..64 {
            // A caller that minds no answer until it has sent all.
            if conn.write([b'x'; 4096]).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let head = within("an answer", SOON, conn.head()).await.expect("the answer was lost to a reset");
        assert_eq!(head.status(), 413, "{}", head.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_tunnels_and_websockets_per_minute() {
    let options = with("RELAY_UPGRADE_RATE_PER_MINUTE", 3).env("RELAY_TRUSTED_PROXIES", "127.0.0.1");
    let (relay, token) = relay_and_token(options).await;
    let authorization = format!("Bearer {token}");
    let connect = async |client: &str| {
        let path = "/v1/relay/connect?machine_id=m&name=n&agent_version=1";
        let headers = [("authorization", authorization.as_str()), ("x-forwarded-for", client)];
        websocket(relay.addr, path, &headers).await
    };
    for n in 0..3 {
        connect("203.0.113.1").await.unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    let (code, retry) = refused(connect("203.0.113.1").await);
    assert_eq!(code, Code::RateLimited);
    assert!((1..=60).contains(&retry.expect("Retry-After")), "{retry:?}");
    // Each address has its own; what a stranger puts to the left of it does not count.
    connect("203.0.113.2").await.expect("another client is another address");
    assert_eq!(refused(connect("198.51.100.1, 203.0.113.1").await).0, Code::RateLimited);
    // The API is counted apart.
    assert!(relay.api(Method::GET, "/v1/relay/hosts", &token).await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_use_up_what_the_owner_needs() {
    // Behind one proxy that is not trusted everybody has one address: the budget of those who have no
    // token must not be the one of those who have.
    let (relay, token) = relay_and_token(with("RELAY_UPGRADE_RATE_PER_MINUTE", 5)).await;
    let path = "/v1/relay/connect?machine_id=m&name=n&agent_version=1";
    for _ in 0..20 {
        match websocket(relay.addr, path, &[("authorization", "Bearer forged")]).await {
            Err(Error::Http(response)) => assert!(matches!(response.status().as_u16(), 401 | 429)),
            other => panic!("{:?}", other.map(|_| "taken")),
        }
    }
    let good = format!("Bearer {token}");
    websocket(relay.addr, path, &[("authorization", &good)]).await.expect("the owner is let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_api_per_minute() {
    let (relay, token) = relay_and_token(with("RELAY_API_RATE_PER_MINUTE", 5)).await;
    let mut last = None;
    for _ in 0..8 {
        last = Some(relay.api(Method::GET, "/v1/relay/hosts", &token).await);
    }
    let last: Reply = last.unwrap();
    last.is_problem(Code::RateLimited);
    assert!(last.header("retry-after").is_some(), "{last:?}");
    assert!(fetch(relay.addr, get("/health")).await.status.is_success(), "/health is not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_tunnels_and_websockets_per_address() {
    let (relay, token) = relay_and_token(with("RELAY_MAX_CONNECTIONS_PER_IP", 2)).await;
    let connect =
        async |n: u32| PlainAgent::connect(relay.addr, &token, PlainOptions::new(&format!("h{n}")), ok).await;
    let first = connect(1).await.expect("one");
    let _second = connect(2).await.expect("two");
    assert_eq!(refused(connect(3).await).0, Code::TooManyConnections);
    drop(first);
    relay.await_host(&token, "h1", HostStatus::Offline).await;
    eventually("the place is free again", SOON, || async { connect(4).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_per_host() {
    let (relay, token) = relay_and_token(with("RELAY_MAX_TUNNELS_PER_HOST", 2)).await;
    let connect =
        async |name: &str| PlainAgent::connect(relay.addr, &token, PlainOptions::new(name), ok).await;
    let first = connect(HOST).await.expect("one");
    let _second = connect(HOST).await.expect("two");
    // The 101 may be here a moment before the tunnel counts.
    eventually("a third is refused", SOON, || async {
        let third = connect(HOST).await;
        third.is_err() && refused(third).0 == Code::TooManyTunnels
    })
    .await;
    let _other = connect("another").await.expect("another host");
    drop(first);
    eventually("the place is free again", SOON, || async { connect(HOST).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_per_tunnel() {
    let local = LocalServer::raw(|mut conn| async move {
        while let Some(head) = conn.head().await {
            if head.target() == b"/hang" {
                conn.rest().await;
                return;
            }
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.ok();
        }
    })
    .await;
    let stack = Stack::with(&local.url(), with("RELAY_MAX_STREAMS_PER_TUNNEL", 3), |a| a).await;
    let mut hanging = Vec::new();
    for _ in 0..3 {
        let mut conn = RawConn::connect(stack.addr()).await;
        conn.write(format!("GET {} HTTP/1.1\r\nhost: r\r\n\r\n", stack.path("/hang"))).await.unwrap();
        hanging.push(conn);
    }
    eventually("three streams are in use", SOON, || async { local.counts.open() >= 3 }).await;
    let reply = within("an answer", SOON, stack.get("/hello")).await;
    reply.is_problem(Code::TooManyStreams);
    assert!(reply.header("retry-after").is_some(), "{reply:?}");
    drop(hanging.pop());
    eventually("the place is free again", SOON, || async { stack.get("/hello").await.text() == "hello" })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_a_stream_to_an_agent_that_does_not_take_it() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::with(&local.url(), with("RELAY_STREAM_OPEN_TIMEOUT", "1s"), |a| a).await;
    stack.agent.signal(Signal::SIGSTOP);
    // The first may travel on a stream that was there before, so it is the second that tells.
    let mut codes = Vec::new();
    for _ in 0..2 {
        let reply =
            within("an answer", Duration::from_secs(20), try_fetch(stack.addr(), get(&stack.path("/hello"))));
        codes.push(reply.await.expect("an answer").problem().code);
    }
    assert!(codes.contains(&Code::AgentUnresponsive), "{codes:?}");
    stack.agent.signal(Signal::SIGCONT);
    eventually("it serves again", SOON, || async { stack.get("/hello").await.text() == "hello" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_response_that_does_not_come() {
    let local = LocalServer::raw(|mut conn| async move {
        conn.head().await;
        conn.rest().await;
    })
    .await;
    let stack = Stack::with(&local.url(), with("RELAY_RESPONSE_HEAD_TIMEOUT", "500ms"), |a| a).await;
    let reply = within("an answer", SOON, stack.get("/x")).await;
    reply.is_problem(Code::ResponseTimeout);
    eventually("the local server is let go", SOON, || async { local.counts.open() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_upload_is_not_a_late_response() {
    // The deadline of the head begins when there is something to answer.
    let local = LocalServer::router(app()).await;
    let stack = Stack::with(&local.url(), with("RELAY_RESPONSE_HEAD_TIMEOUT", "1s"), |a| a).await;
    let (sender, body) = client::channel();
    tokio::spawn(async move {
        for _ in 0..8 {
            sender.send(hyper::body::Frame::data("piece".into())).await.ok();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let reply = stack.fetch(stack.request("POST", "/digest").body(body).unwrap()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.text().starts_with("40 "), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_or_an_upgrade_that_is_silent() {
    let local = LocalServer::raw(|mut conn| async move {
        let head = conn.head().await.expect("a request");
        let answer = match head.target().as_slice() {
            b"/up" => "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nab",
            _ => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        };
        conn.write(answer).await.ok();
        conn.rest().await;
    })
    .await;
    let stack = Stack::with(&local.url(), with("RELAY_STREAM_IDLE_TIMEOUT", "1s"), |a| a).await;
    let reply = within("an end", SOON, try_fetch(stack.addr(), get(&stack.path("/silent")))).await;
    assert!(reply.is_err(), "a body that was given up looks complete: {reply:?}");
    let mut conn = RawConn::connect(stack.addr()).await;
    conn.write(format!(
        "GET {} HTTP/1.1\r\nhost: r\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        stack.path("/up")
    ))
    .await
    .unwrap();
    let head = conn.head().await.expect("an answer");
    assert_eq!(head.status(), 101, "{}", head.text());
    assert!(conn.ends(SOON).await, "a silent upgrade stays open");
    eventually("the local server is let go", SOON, || async { local.counts.open() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_connections_per_address() {
    let recorder = Recorder::start().await;
    let stack = Stack::with(&recorder.server.url(), with("RELAY_MAX_TCP_CONNECTIONS_PER_IP", 8), |a| a).await;
    let mut held = Vec::new();
    for _ in 0..30 {
        held.push(RawConn::connect(stack.addr()).await);
    }
    let mut conn = RawConn::connect(stack.addr()).await;
    conn.write("GET /health HTTP/1.1\r\nhost: r\r\n\r\n").await.ok();
    let head = within("a refusal", SOON, conn.head()).await;
    assert!(head.is_none_or(|h| h.status() == 429), "the limit is none");
    drop(held);
    eventually("the places are free again", SOON, || async {
        try_fetch(stack.addr(), get(&stack.path("/x"))).await.is_ok_and(|r| r.text() == "ok")
    })
    .await;
}
