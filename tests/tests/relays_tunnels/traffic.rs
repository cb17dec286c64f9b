//! What a local server and a browser see of each other across two relays: the same as across one.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use relay_protocol::problem::Code;
use serde_json::Value;
use system_tests::{
    LocalServer, SOON, TRANSFER,
    client::{self, Connection, fetch, full, next_data, websocket},
    eventually,
    fleet::{Across, Fleet},
    local::{Recorder, app, big_body, big_digest, body_digest},
    noise,
    raw::RawConn,
    within,
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

const MIB: u64 = 1 << 20;

fn all<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_as_across_one_relay() {
    let local = LocalServer::router(app()).await;
    let across = Across::start(&local.url()).await;
    assert_eq!(across.get("/hello").await.text(), "hello");
    let head =
        across.fetch(client::request(Method::HEAD, &across.path("/big/1234567"), client::empty())).await;
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, Some("1234567")));
    assert!(head.body.is_empty());

    let request = across
        .request("POST", "/echo?q=%2F..%2f&x")
        .header("host", "relay.example:8443")
        .header("cookie", format!("relay_session=secret; own=1; last={}", across.session))
        .header("authorization", format!("Bearer {}", across.token))
        .header("x-own", "kept")
        .header("x-forwarded-for", "192.0.2.66")
        .header("x-forwarded-proto", "https")
        .header("x-real-ip", "192.0.2.66")
        .header("referer", format!("http://relay.example:8443{}", across.path("/page")))
        .body(full("sent"));
    let reply = across.fetch(request.unwrap()).await;
    let echoed: Value = reply.json();
    assert_eq!((&echoed["method"], &echoed["body"]), (&Value::from("POST"), &Value::from("sent")));
    assert_eq!(echoed["target"], "/echo?q=%2F..%2f&x");
    let headers: Vec<(String, String)> = serde_json::from_value(echoed["headers"].clone()).unwrap();
    assert_eq!(all(&headers, "x-own"), ["kept"]);
    assert_eq!(all(&headers, "cookie"), ["own=1"]);
    assert_eq!(all(&headers, "x-forwarded-for"), ["127.0.0.1"], "the browser, not the other relay");
    assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&headers, "x-forwarded-host"), ["relay.example:8443"]);
    assert_eq!(all(&headers, "x-forwarded-prefix"), [format!("/v1/relay/h/{}", across.host)]);
    assert_eq!(all(&headers, "x-request-id"), [reply.header("x-request-id").unwrap()]);
    for name in ["authorization", "x-real-ip", "x-relay-forwarded", "expect"] {
        assert!(all(&headers, name).is_empty(), "{name}: {headers:?}");
    }
    assert!(!echoed.to_string().contains(&across.session.to_string()), "{echoed}");
    assert!(!reply.headers.contains_key("x-relay-forwarded"), "{reply:?}");
    // Both relays tell the same caller and id.
    let id = reply.header("x-request-id").unwrap();
    for relay in [&across.near, &across.far] {
        eventually("the log has it", SOON, || async {
            let log = relay.log();
            let line = log.lines().find(|line| line.contains("relay::access") && line.contains(id));
            line.is_some_and(|line| line.contains("127.0.0.1"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_cookies_of_the_local_server_are_mapped_once() {
    let answer = "HTTP/1.1 302 Found\r\nlocation: /next?a=1\r\nset-cookie: a=1; Path=/app; HttpOnly\r\n\
                  set-cookie: b=2; Domain=localhost\r\nset-cookie: relay_session=evil\r\n\
                  x-relay-forwarded: moved\r\nalt-svc: h3=\":1\"\r\ncontent-length: 2\r\n\r\nok";
    let local = Recorder::answering(answer).await;
    let across = Across::start(&local.server.url()).await;
    let near = fetch(across.near.addr, client::get(&across.path("/x"))).await;
    let far = fetch(across.far.addr, client::get(&across.path("/x"))).await;
    assert_eq!(near.status, StatusCode::FOUND, "{near:?}");
    assert_eq!(near.header("location"), Some(across.path("/next?a=1").as_str()));
    let cookies = |reply: &client::Reply| -> Vec<String> {
        reply.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(cookies(&near), [format!("a=1; Path={}/app; HttpOnly", across.prefix()), "b=2".to_owned()]);
    assert!(!near.headers.contains_key("alt-svc") && !near.headers.contains_key("x-relay-forwarded"));
    assert_eq!((cookies(&far), far.header("location")), (cookies(&near), near.header("location")));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_few_connections() {
    let local = LocalServer::router(app()).await;
    let across = Across::start(&local.url()).await;
    let mut connection = Connection::open(across.near.addr).await.unwrap();
    for n in 0..50 {
        let mut request = client::get(&across.path("/hello"));
        if n % 2 == 1 {
            request = across.request("POST", "/digest").body(full(noise(n, 3000))).unwrap();
        }
        let reply = client::Reply::collect(connection.send(request).await.unwrap()).await.unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    }
    let sockets = across.far.process.fds();
    let more = across.near.process.fds();
    for _ in 0..100 {
        let reply =
            client::Reply::collect(connection.send(client::get(&across.path("/hello"))).await.unwrap());
        assert_eq!(reply.await.unwrap().text(), "hello");
    }
    // Less than the database's connections may come and go meanwhile.
    assert!(across.far.process.fds() <= sockets + 10 && across.near.process.fds() <= more + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_the_local_servers_word_when_the_browser_does() {
    // A local server that reads the head, and answers without the body, or asks for it.
    let local = LocalServer::raw(|mut conn| async move {
        while let Some(head) = conn.head().await {
            if head.start_line().contains("/refuse") {
                let _ = conn
                    .write("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .await;
                return;
            }
            if head.header("expect").is_some() {
                let _ = conn.write("HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            let body = conn.request_body(&head).await;
            let text = format!("{} {}", body.bytes.len(), head.header("expect").is_some());
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            let _ = conn.write(answer).await;
        }
    })
    .await;
    let across = Across::start(&local.url()).await;
    let head = |path: &str, expect: &str| {
        format!(
            "POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n{expect}connection: close\r\n\r\n",
            across.path(path)
        )
    };
    let mut conn = RawConn::connect(across.near.addr).await;
    conn.write(head("/refuse", "expect: 100-continue\r\n")).await.unwrap();
    let answer = within("the refusal", SOON, conn.head()).await.unwrap();
    assert_eq!(answer.status(), 413, "no body was asked for: {answer:?}");

    let mut conn = RawConn::connect(across.near.addr).await;
    conn.write(head("/take", "expect: 100-continue\r\n")).await.unwrap();
    let answer = within("the word", SOON, conn.head()).await.unwrap();
    assert_eq!(answer.status(), 100, "{answer:?}");
    conn.write("12345").await.unwrap();
    let answer = within("the answer", SOON, conn.head()).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");

    // The wait between the relays is theirs alone.
    let mut conn = RawConn::connect(across.near.addr).await;
    conn.write(head("/take", "")).await.unwrap();
    conn.write("12345").await.unwrap();
    let answer = within("the answer", SOON, conn.head()).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let body = conn.response_body(&answer).await;
    assert_eq!(String::from_utf8_lossy(&body.bytes), "5 false");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_so_many_requests_on_their_way_and_gets_its_places_back() {
    const PLACES: usize = 128;
    let local = LocalServer::router(app()).await;
    let fleet = Fleet::start().await.with(|options| options.env("RELAY_MAX_CONNECTIONS_PER_IP", 1000));
    let across = Across::with(fleet, &local.url(), |agent| agent).await;
    // One after the other, none keeps a place.
    for _ in 0..PLACES {
        assert_eq!(across.get("/hello").await.text(), "hello");
    }
    let mut sockets = Vec::new();
    for _ in 0..PLACES {
        sockets.push(websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap());
    }
    let refused = across.get("/hello").await;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    refused.is_problem(Code::TooManyStreams);
    assert!(websocket(across.near.addr, &across.path("/ws"), &[]).await.is_err());
    // The owner's other browsers go on.
    let other = across.near.create_session(&across.token, across.host).await;
    let path = format!("/v1/relay/h/{}/s/{other}/hello", across.host);
    assert_eq!(fetch(across.near.addr, client::get(&path)).await.text(), "hello");
    drop(sockets);
    eventually("there are places again", SOON, || async { across.get("/hello").await.text() == "hello" })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_header_lines_as_across_one_relay() {
    let local = Recorder::start().await;
    let across = Across::start(&local.server.url()).await;
    for (lines, status) in [(100, 200), (101, 431), (127, 431)] {
        // One of them is the host, one says how the body is framed.
        let own: String = (2..lines).map(|line| format!("x-{line}: a\r\n")).collect();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{own}\r\n1\r\na\r\n0\r\n\r\n",
            across.path("/digest")
        );
        for relay in [&across.near, &across.far] {
            let mut conn = RawConn::connect(relay.addr).await;
            conn.write(&head).await.unwrap();
            let answer = within("an answer", SOON, conn.head()).await.unwrap();
            assert_eq!(answer.status(), status, "{lines}: {answer:?}");
            let body = conn.response_body(&answer).await;
            assert!(status != 200 || local.last().0.all("x-2") == ["a"]);
            let text = String::from_utf8_lossy(&body.bytes);
            assert_eq!(text.contains("header_too_large"), status == 431, "{lines}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one() {
    let produce = Arc::new(Notify::new());
    let gate = Arc::clone(&produce);
    let router = Router::new().route(
        "/events",
        get(move || async move {
            let events = futures_util::stream::unfold(0_u32, move |n| {
                let gate = Arc::clone(&gate);
                async move {
                    if n > 0 {
                        gate.notified().await;
                    }
                    (n < 5).then(|| (Ok::<_, Infallible>(Bytes::from(format!("data: {n}\n\n"))), n + 1))
                }
            });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(AxumBody::from_stream(events))
                .unwrap()
        }),
    );
    let local = LocalServer::router(router).await;
    let across = Across::start(&local.url()).await;
    let response = client::send(across.near.addr, client::get(&across.path("/events"))).await.unwrap();
    let mut events = response.into_body();
    for n in 0..5 {
        let event = within("an event", SOON, next_data(&mut events)).await.expect("an event").unwrap();
        assert_eq!(event, format!("data: {n}\n\n"));
        // Only now may the next one come into being.
        produce.notify_one();
    }
    assert!(within("the end", SOON, next_data(&mut events)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_large_bodies_pass_both_ways() {
    const SIZE: u64 = 256 * MIB;
    let local = LocalServer::router(app()).await;
    let across = Across::start(&local.url()).await;
    let expected = big_digest(SIZE).await;
    for relay in [&across.near, &across.far] {
        relay.process.reset_peak();
    }
    let before = [across.near.process.rss(), across.far.process.rss()];
    let response =
        client::send(across.near.addr, client::get(&across.path(&format!("/big/{SIZE}")))).await.unwrap();
    assert_eq!(within("the download", TRANSFER, body_digest(response.into_body())).await, expected);
    let request =
        across.request("POST", "/digest").header("content-length", SIZE).body(big_body(SIZE)).unwrap();
    let reply = within("the upload", TRANSFER, client::try_fetch(across.near.addr, request)).await.unwrap();
    assert_eq!(reply.text(), expected);
    let chunked = across.request("PUT", "/digest").body(big_body(8 * MIB)).unwrap();
    assert_eq!(across.fetch(chunked).await.text(), big_digest(8 * MIB).await);
    for (relay, before) in [&across.near, &across.far].into_iter().zip(before) {
        let extra = relay.process.peak_rss().saturating_sub(before);
        assert!(extra < 64 * MIB, "a relay grew by {} MiB", extra / MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_and_end_on_both_sides() {
    let local = LocalServer::router(app()).await;
    let across = Across::start(&local.url()).await;
    let (mut ws, response) = websocket(across.near.addr, &across.path("/ws"), &[]).await.unwrap();
    assert!(!response.headers().contains_key("x-relay-forwarded"), "{response:?}");
    for n in 0..20_usize {
        let message = Message::Binary(noise(n as u64, n * 10_000));
        ws.send(message.clone()).await.unwrap();
        assert_eq!(within("an echo", SOON, ws.next()).await.unwrap().unwrap(), message);
    }
    ws.send(Message::text("close 4321 enough")).await.unwrap();
    match within("the close", SOON, ws.next()).await.unwrap().unwrap() {
        Message::Close(Some(frame)) => {
            assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4321, "enough"))
        }
        other => panic!("{other:?}"),
    }
    drop(ws);
}

/// A local server that begins to answer (or to speak another protocol) and goes on until it is left.
async fn endless() -> LocalServer {
    LocalServer::raw(|mut conn| async move {
        let Some(head) = conn.head().await else { return };
        let line = head.start_line();
        let answer = if line.contains(" / ") {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        } else if line.contains("/ws") {
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: own\r\n\r\nhello"
        } else if line.contains("/silent") {
            ""
        } else {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"
        };
        let _ = conn.write(answer).await;
        if !line.contains(" / ") {
            conn.rest().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_leaves_is_felt_by_the_local_server() {
    let local = endless().await;
    let across = Across::start(&local.url()).await;
    let counts = local.counts.clone();
    eventually("nothing is open", SOON, || async { counts.open() == 0 }).await;
    let upgrade = "connection: upgrade\r\nupgrade: own\r\n";
    let upload = "content-length: 1000000\r\n";
    for (method, path, more, status) in [
        ("GET", "/events", "", Some(200)),
        ("GET", "/silent", "", None),
        ("GET", "/ws", upgrade, Some(101)),
        ("POST", "/silent-upload", upload, None),
    ] {
        for reset in [false, true] {
            let mut conn = RawConn::connect(across.near.addr).await;
            let head = format!("{method} {} HTTP/1.1\r\nhost: x\r\n{more}\r\n", across.path(path));
            conn.write(head).await.unwrap();
            if method == "POST" {
                conn.write(noise(1, 1000)).await.unwrap();
            }
            if let Some(status) = status {
                let head = within("the head", SOON, conn.head()).await.unwrap();
                assert_eq!(head.status(), status, "{head:?}");
            }
            eventually("it is under way", SOON, || async { counts.open() == 1 }).await;
            if reset {
                conn.reset()
            } else {
                drop(conn)
            }
            eventually(path, SOON, || async { counts.open() == 0 }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_server_that_leaves_is_felt_by_the_browser() {
    let local = endless().await;
    let across = Across::start(&local.url()).await;
    let mut conn = RawConn::connect(across.near.addr).await;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n",
        across.path("/ws")
    );
    conn.write(head).await.unwrap();
    assert_eq!(within("the head", SOON, conn.head()).await.unwrap().status(), 101);
    assert_eq!(within("its bytes", SOON, conn.take(5)).await, b"hello");
    let events = client::send(across.near.addr, client::get(&across.path("/events"))).await.unwrap();
    let mut events = events.into_body();
    within("the beginning", SOON, next_data(&mut events)).await.unwrap().unwrap();
    local.stop().await;
    assert!(conn.ends(SOON).await);
    assert!(
        within("the end", SOON, next_data(&mut events)).await.unwrap().is_err(),
        "it must not look whole"
    );
}
