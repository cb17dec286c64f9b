//! The harness itself: the stand-ins work with each other, so that what fails elsewhere is not theirs.

use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use system_tests::{
    LocalServer, SOON,
    client::{self, Body, Reply, empty, fetch, full, get},
    eventually,
    local::{Recorder, app, big_digest},
    noise,
    plain_agent::{PlainAgent, PlainOptions},
    plain_relay::PlainRelay,
    postgres::{Postgres, WEB_APP, web_user},
    raw::exchange,
    sha256,
    throttle::{Rate, Throttle},
    within,
};

async fn digest(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    Response::new(full(sha256(&body)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_agent_and_the_plain_relay_understand_each_other() {
    for text in [false, true] {
        let relay = PlainRelay::start(text).await;
        let options = PlainOptions { text, ..PlainOptions::new("a") };
        let _agent = PlainAgent::connect(relay.addr, "t", options, digest).await.unwrap();
        assert!(relay.agent(1).await.target.starts_with("/v1/relay/connect?machine_id=machine-a&name=a"));
        let mut connection = relay.connection().await;
        for n in 0..20_usize {
            let body = noise(n as u64, n * 20_000);
            let request = client::request(Method::POST, "/", full(body.clone()));
            let response = within("an answer", SOON, connection.send(request)).await.unwrap();
            assert_eq!(Reply::collect(response).await.unwrap().text(), sha256(&body), "{n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_link_is_as_slow_as_it_says_and_a_frozen_one_is_silent() {
    let local = LocalServer::router(app()).await;
    let link = Throttle::start(local.addr, Rate { up: None, down: Some(1_000_000) }).await;
    let begun = Instant::now();
    let reply = fetch(link.addr, get("/big/2000000")).await;
    assert!(begun.elapsed() > Duration::from_millis(1700), "{:?}", begun.elapsed());
    assert_eq!(format!("{} {}", reply.body.len(), sha256(&reply.body)), big_digest(2_000_000).await);

    let mut connection = client::Connection::open(link.addr).await.unwrap();
    let first = connection.send(get("/hello")).await.unwrap();
    assert_eq!(Reply::collect(first).await.unwrap().text(), "hello");
    link.freeze();
    let waiting = tokio::spawn(async move {
        let response = connection.send(get("/hello")).await.unwrap();
        Reply::collect(response).await.unwrap()
    });
    assert_eq!(fetch(link.addr, get("/hello")).await.text(), "hello", "new connections pass");
    assert!(!waiting.is_finished());
    link.thaw();
    assert_eq!(within("the answer", SOON, waiting).await.unwrap().text(), "hello");
    link.block(true);
    assert!(client::try_fetch(link.addr, get("/hello")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorder_keeps_exact_bytes_and_the_raw_reader_sees_what_is_missing() {
    let recorder = Recorder::start().await;
    let request =
        "POST //a%2F HTTP/1.1\r\nHOST: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: 1\r\n\r\n";
    let (head, body) = exchange(recorder.server.addr, request).await.unwrap();
    assert_eq!((head.status(), body.bytes.as_slice(), body.complete), (200, &b"ok"[..], true));
    let (head, body) = recorder.last();
    assert_eq!((head.target().as_slice(), head.all("host")), (&b"//a%2F"[..], vec!["x".to_owned()]));
    assert_eq!((body.bytes.as_slice(), body.trailers.as_slice()), (&b"ab"[..], &["x: 1".to_owned()][..]));

    let cut = Recorder::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n").await;
    let mut conn = system_tests::raw::RawConn::connect(cut.server.addr).await;
    conn.write("GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let head = conn.head().await.unwrap();
    let read = tokio::spawn(async move { conn.response_body(&head).await });
    eventually("it was asked", SOON, || async { cut.count() == 1 }).await;
    drop(cut);
    let body = within("the end", SOON, read).await.unwrap();
    assert_eq!((body.bytes.as_slice(), body.complete), (&b"ab"[..], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_gives_its_port_back() {
    let local = LocalServer::router(app()).await;
    let addr = local.addr;
    assert_eq!(fetch(addr, get("/hello")).await.text(), "hello");
    local.stop().await;
    assert!(client::try_fetch(addr, get("/hello")).await.is_err());
    let _again = LocalServer::router_on(addr, app()).await;
    let reply = fetch(addr, client::request(Method::HEAD, "/big/99", empty())).await;
    assert_eq!(reply.header("content-length"), Some("99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_starts_and_takes_the_web_apps_tables() {
    let postgres = Postgres::start().await;
    postgres.database("x").await;
    postgres.execute("x", WEB_APP).await;
    let (user, _) = web_user(&postgres, "x", "a@example.com").await;
    assert_eq!(postgres.text("x", "SELECT id::text FROM users").await, user.to_string());
}
