//! Requests through a tunnel in memory to local servers on real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use axum::{
    Router,
    body::Body as AxumBody,
    extract::Request as AxumRequest,
    routing::{any, get as on_get},
};
use bytes::Bytes;
use common::*;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use relay_protocol::problem::{Code, Problem};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says what came in: request line, headers in order, body length.
fn mirror() -> Router {
    Router::new().fallback(any(|request: AxumRequest| async move {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let mut text = format!("{} {}\n", parts.method, parts.uri);
        for (name, value) in &parts.headers {
            text += &format!("{name}: {}\n", value.to_str().unwrap());
        }
        text + &format!("body: {}", body.len())
    }))
}

#[tokio::test]
async fn a_request_arrives_as_the_policy_says() {
    let target = app(mirror()).await;
    let authority = target.to_string().replace("http://", "");
    let pair = pair(target).await;
    let mut exchange = pair.exchange().await;
    let request = Request::put("/a//b%2Fc/./d?x=%20&y=/../")
        .header("host", "relay.example")
        .header("origin", "https://relay.example")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-relayed", "0")
        .header("cookie", "a=b")
        .body(full("12345"))
        .unwrap();
    let response = exchange.sender.send_request(request).await.unwrap();
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(text.starts_with("PUT /a//b%2Fc/./d?x=%20&y=/../\n"), "{text}");
    for line in [
        format!("host: {authority}"),
        format!("origin: http://{authority}"),
        "x-relayed: 1".to_owned(),
        "x-vk-relayed: 1".to_owned(),
        "cookie: a=b".to_owned(),
        "content-length: 5".to_owned(),
        "body: 5".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    assert!(!text.contains("x-hop") && !text.contains("transfer-encoding"), "{text}");
    let counts = pair.forwarder.stats().counts();
    assert_eq!((counts.total, counts.active, counts.bytes_received), (1, 0, 5));
    assert_eq!(counts.bytes_sent, text.len() as u64);
}

#[tokio::test]
async fn bodies_of_unknown_length_pass_with_any_method() {
    let pair = pair(app(mirror()).await).await;
    for method in ["POST", "GET", "DELETE"] {
        let mut exchange = pair.exchange().await;
        let frames = ["ab", "cde"].map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("transfer-encoding", "chunked")
            .body(body)
            .unwrap();
        let response = soon(exchange.sender.send_request(request)).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b"body: 5"), "{method}: {text:?}");
    }
}

#[tokio::test]
async fn the_first_event_arrives_before_the_second_is_made() {
    let (events, stream) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let stream = std::sync::Mutex::new(Some(stream));
    let stream = std::sync::Arc::new(stream);
    let target = app(Router::new().route(
        "/",
        on_get(move || async move {
            let mut receiver = stream.lock().unwrap().take().unwrap();
            AxumBody::from_stream(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)))
        }),
    ))
    .await;
    let pair = pair(target).await;
    let mut exchange = pair.exchange().await;
    let response = soon(exchange.sender.send_request(get("/"))).await.unwrap();
    let mut body = response.into_body();
    for event in ["one", "two"] {
        events.send(Ok(event.into())).await.unwrap();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), event);
    }
    drop(events);
    assert!(soon(body.frame()).await.is_none());
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let target = app(Router::new().route(
        "/",
        any(|request: AxumRequest| async move {
            assert_eq!(request.headers()["te"], "trailers");
            let came = request.into_body().collect().await.unwrap();
            let sum = came.trailers().unwrap()["x-sum"].clone();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-answer", sum);
            let frames =
                [Ok::<_, std::io::Error>(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
            let body = AxumBody::new(StreamBody::new(futures_util::stream::iter(frames)));
            axum::response::Response::builder().header("trailer", "x-answer").body(body).unwrap()
        }),
    ))
    .await;
    let pair = pair(target).await;
    let mut exchange = pair.exchange().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
    let request = Request::post("/")
        .header("te", "trailers")
        .header("connection", "te")
        .header("trailer", "x-sum")
        .body(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
        .unwrap();
    let response = soon(exchange.sender.send_request(request)).await.unwrap();
    let body = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-answer"], "42");
}

/// Sends a request as raw bytes and gives the stream, so that interim responses are seen.
async fn raw(pair: &Pair, request: &str) -> relay_protocol::tunnel::Stream {
    let mut stream = pair.relay.open().await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

const EXPECT: &str = "POST / HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";

#[tokio::test]
async fn expect_continue_is_the_local_servers_to_answer() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let (target, _) = local(move |mut socket| {
        let asked = asked.clone();
        async move {
            let head = head(&mut socket).await;
            assert!(head.to_ascii_lowercase().contains("expect: 100-continue"), "{head}");
            let (go, wait) = tokio::sync::oneshot::channel::<()>();
            asked.send(go).await.unwrap();
            wait.await.unwrap();
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let mut body = [0; 4];
            socket.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"body");
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let pair = pair(target).await;
    let mut stream = raw(&pair, EXPECT).await;
    let go = soon(was_asked.recv()).await.unwrap();
    // Until the local server agrees, the relay is not told to go on.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), stream.read_u8()).await.is_err());
    go.send(()).unwrap();
    assert!(soon(head(&mut stream)).await.starts_with("HTTP/1.1 100"));
    stream.write_all(b"body").await.unwrap();
    assert!(soon(head(&mut stream)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_the_local_server_refuses_is_never_asked_for() {
    let (closed, mut was_closed) = tokio::sync::mpsc::channel(1);
    let (target, _) = local(move |mut socket| {
        let closed = closed.clone();
        async move {
            head(&mut socket).await;
            socket
                .write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno")
                .await
                .unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            closed.send(rest).await.unwrap();
        }
    })
    .await;
    let pair = pair(target).await;
    let mut stream = raw(&pair, EXPECT).await;
    let answer = soon(head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 417"), "{answer}");
    let mut body = [0; 2];
    soon(stream.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"no");
    assert_eq!(
        soon(was_closed.recv()).await.unwrap(),
        b"",
        "the connection is closed, without a byte of the body"
    );
}

#[tokio::test]
async fn a_local_server_that_does_not_know_expect_gets_the_body_all_the_same() {
    let (target, _) = local(|mut socket| async move {
        head(&mut socket).await;
        socket.read_exact(&mut [0; 4]).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let pair = pair(target).await;
    let mut stream = raw(&pair, EXPECT).await;
    assert!(soon(head(&mut stream)).await.starts_with("HTTP/1.1 100"));
    stream.write_all(b"body").await.unwrap();
    assert!(soon(head(&mut stream)).await.starts_with("HTTP/1.1 200"));
}

const UPGRADE: &str = "GET /up HTTP/1.1\r\nhost: r\r\nconnection: Upgrade\r\nupgrade: echo/1\r\n\r\n";

async fn echo_upgrade(mut socket: tokio::net::TcpStream) {
    let head = head(&mut socket).await.to_ascii_lowercase();
    assert!(head.contains("upgrade: echo/1") && head.contains("connection: upgrade"), "{head}");
    // The first bytes of the new protocol right behind the head.
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo/1\r\n\r\nhello";
    socket.write_all(answer).await.unwrap();
    let (mut read, mut write) = socket.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_until_either_ends() {
    let (target, _) = local(echo_upgrade).await;
    let pair = pair(target).await;
    let mut stream = raw(&pair, UPGRADE).await;
    let answer = soon(head(&mut stream)).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101") && answer.contains("upgrade: echo/1"), "{answer}");
    let mut hello = [0; 5];
    soon(stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut got = vec![0; expected.len()];
    soon(read.read_exact(&mut got)).await.unwrap();
    assert!(got == expected);
    assert_eq!(pair.forwarder.stats().counts().active, 1);
    drop((read, soon(writer).await.unwrap()));
    soon(async {
        while pair.forwarder.stats().counts().active > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_local_servers_end_ends_an_upgraded_stream_cleanly() {
    let (target, _) = local(|mut socket| async move {
        head(&mut socket).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo/1\r\n\r\nbye";
        socket.write_all(answer).await.unwrap();
        socket.shutdown().await.unwrap();
        let _ = socket.read_u8().await;
    })
    .await;
    let pair = pair(target).await;
    let mut stream = raw(&pair, UPGRADE).await;
    soon(head(&mut stream)).await;
    let mut rest = String::new();
    soon(stream.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "bye");
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_an_error() {
    let (target, _) = local(|mut socket| async move {
        head(&mut socket).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: x\r\n\r\n";
        socket.write_all(answer).await.unwrap();
        let _ = socket.read_u8().await;
    })
    .await;
    let (status, body) = pair(target).await.get("/").await;
    assert_eq!(status, 502);
    assert_eq!(serde_json::from_str::<Problem>(&body).unwrap().code, Code::LocalServerFailed);
}

/// Waits for the end of the connection to the local server, and tells how long it took.
async fn until_closed(mut closed: tokio::sync::mpsc::Receiver<()>, what: &str) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(1), closed.recv()).await;
    assert_eq!(waited.expect(what), Some(()), "{what}");
}

#[tokio::test]
async fn an_abort_reaches_a_local_server_that_is_silent_within_a_second() {
    // Before the head, in the middle of a body, and in an upgraded connection.
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n",
    ] {
        let (closed, was_closed) = tokio::sync::mpsc::channel(1);
        let (target, _) = local(move |mut socket| {
            let closed = closed.clone();
            async move {
                head(&mut socket).await;
                socket.write_all(answer.as_bytes()).await.unwrap();
                let _ = socket.read_to_end(&mut Vec::new()).await;
                closed.send(()).await.unwrap();
            }
        })
        .await;
        let pair = pair(target).await;
        let mut stream = raw(&pair, UPGRADE).await;
        if answer.is_empty() {
            while pair.forwarder.stats().counts().active == 0 {
                tokio::task::yield_now().await;
            }
        } else {
            soon(head(&mut stream)).await;
        }
        drop(stream);
        until_closed(was_closed, answer).await;
    }
}

#[tokio::test]
async fn an_abandoned_upload_that_nobody_takes_frees_the_local_connection() {
    let (closed, was_closed) = tokio::sync::mpsc::channel(1);
    let (target, _) = local(move |mut socket| {
        let closed = closed.clone();
        async move {
            head(&mut socket).await;
            // Takes nothing of the body. An interim response now and then shows when the peer is gone.
            while socket.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let pair = pair(target).await;
    let mut stream = raw(&pair, "POST / HTTP/1.1\r\nhost: r\r\ncontent-length: 100000000\r\n\r\n").await;
    // Fill every buffer on the way.
    let chunk = vec![7; 64 * 1024];
    while tokio::time::timeout(std::time::Duration::from_millis(500), stream.write_all(&chunk)).await.is_ok()
    {
    }
    assert_eq!(pair.forwarder.stats().counts().active, 1);
    drop(stream);
    until_closed(was_closed, "the upload's connection").await;
    assert_eq!(pair.forwarder.stats().counts().active, 0);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_an_error_to_the_caller() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
    ] {
        let (target, _) = local(move |mut socket| async move {
            head(&mut socket).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
        })
        .await;
        let pair = pair(target).await;
        let mut exchange = pair.exchange().await;
        let response = soon(exchange.sender.send_request(get("/"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(soon(response.into_body().collect()).await.is_err(), "{answer}");
        assert!(pair.forwarder.stats().take_error().unwrap().contains("broke off"));
    }
}

#[tokio::test]
async fn a_local_server_that_ends_before_it_answers_has_failed() {
    let (target, _) = local(|mut socket| async move {
        head(&mut socket).await;
    })
    .await;
    let pair = pair(target).await;
    let mut exchange = pair.exchange().await;
    let request = Request::post("/").header("x-request-id", "r-1").body(full("x")).unwrap();
    let response = soon(exchange.sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Problem =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((problem.code, problem.request_id.as_deref()), (Code::LocalServerFailed, Some("r-1")));
}

#[tokio::test]
async fn an_unreachable_local_server_is_told_and_works_again_by_itself() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let pair = pair(format!("http://{address}").parse().unwrap()).await;
    let (status, body) = pair.get("/").await;
    let problem: Problem = serde_json::from_str(&body).unwrap();
    assert_eq!((status, problem.code), (502, Code::LocalServerUnreachable));
    assert!(problem.detail.contains(&address.to_string()), "{}", problem.detail);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, mirror()).await });
    assert_eq!(pair.get("/").await.0, 200);
}

#[tokio::test]
async fn connections_to_the_local_server_are_reused() {
    let (target, accepted) = local(|socket| async move {
        let service =
            hyper::service::service_fn(|_| async { Ok::<_, hyper::Error>(http::Response::new(full("ok"))) });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(socket), service)
            .await;
    })
    .await;
    let pair = pair(target).await;
    for _ in 0..3 {
        let mut exchange = pair.exchange().await;
        for _ in 0..5 {
            let response = soon(exchange.sender.send_request(get("/"))).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        }
    }
    // One, or two where a connection was not yet back in the pool when the next request came.
    assert!(accepted.load(Ordering::SeqCst) <= 2, "{accepted:?}");
}

/// Answers the first request of each connection, and ends at the second without an answer.
async fn one_then_gone(mut socket: tokio::net::TcpStream) {
    head(&mut socket).await;
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    head(&mut socket).await;
}

#[tokio::test]
async fn a_pooled_connection_that_went_stale_is_retried_only_for_safe_methods() {
    let (target, accepted) = local(one_then_gone).await;
    let pair = pair(target).await;
    for expected in [1, 2, 3] {
        assert_eq!(pair.get("/").await, (200, "ok".to_owned()));
        assert_eq!(accepted.load(Ordering::SeqCst), expected);
    }
    let mut exchange = pair.exchange().await;
    let request = Request::post("/").body(full("")).unwrap();
    let response = soon(exchange.sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "a POST is never sent twice");
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_agents_paths_are_never_forwarded() {
    let (target, accepted) = local(|_| async {}).await;
    let pair = pair(target).await;
    for path in ["/_relay", "/_relay/pairing", "//_relay/x", "/%5Frelay/x", "/a/../_relay/x?y"] {
        let (status, body) = pair.get(path).await;
        assert_eq!(status, 404, "{path}");
        assert_eq!(serde_json::from_str::<Problem>(&body).unwrap().code, Code::NotFound);
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_early_answer_to_an_unfinished_upload_passes() {
    let (target, _) = local(|mut socket| async move {
        head(&mut socket).await;
        socket
            .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
            .await
            .unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let pair = pair(target).await;
    let mut stream = raw(&pair, "POST / HTTP/1.1\r\nhost: r\r\ncontent-length: 1000\r\n\r\npart").await;
    assert!(soon(head(&mut stream)).await.starts_with("HTTP/1.1 413"));
    let mut body = [0; 3];
    soon(stream.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"big");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_a_local_server_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { axum::serve(listener, mirror()).await });
    let (status, text) = pair(format!("unix:{}", path.display()).parse().unwrap()).await.get("/x").await;
    assert_eq!(status, 200);
    assert!(text.starts_with("GET /x\n") && text.contains("host: localhost\n"), "{text}");
}

#[tokio::test]
async fn a_router_is_served_without_a_socket_with_upgrades() {
    let router = mirror().route(
        "/ws",
        any(|upgrade: axum::extract::WebSocketUpgrade| async {
            upgrade.on_upgrade(|mut socket| async move {
                while let Some(Ok(message)) = socket.recv().await {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
            })
        }),
    );
    let pair = pair(local_agent_client::LocalTarget::service(router)).await;
    let (status, text) = pair.get("/a?b").await;
    assert!(status == 200 && text.contains("x-relayed: 1"), "{text}");

    let stream = pair.relay.open().await.unwrap();
    let request = Request::get("ws://localhost/ws")
        .header("host", "relay.example")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap();
    let (mut socket, _) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    futures_util::SinkExt::send(&mut socket, "hello".into()).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap().into_text().unwrap(), "hello");
}

#[tokio::test]
async fn stopping_lets_what_is_under_way_finish() {
    use local_agent_client::tunnel::Mode;
    let (target, _) = local(|mut socket| async move {
        head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        socket.write_all(b"cd").await.unwrap();
    })
    .await;
    let pair = pair(target).await;
    let mut exchange = pair.exchange().await;
    let response = soon(exchange.sender.send_request(get("/"))).await.unwrap();
    let ended = tokio::spawn(pair.live.end(Mode::Stop));
    assert_eq!(soon(response.into_body().collect()).await.unwrap().to_bytes(), "abcd");
    soon(ended).await.unwrap();
    let closed = soon(pair.relay.closed()).await;
    assert!(matches!(closed, relay_protocol::tunnel::Ended::Closed { code: 1001, .. }), "{closed:?}");
}

#[tokio::test]
async fn large_heads_pass_both_ways() {
    let (target, _) = local(|mut socket| async move {
        let came = head(&mut socket).await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-came: {}\r\nx-large: {}\r\n{}content-length: 0\r\n\r\n",
            came.lines().filter(|line| line.starts_with("x-")).count(),
            "r".repeat(200 * 1024),
            "x-many: 1\r\n".repeat(200),
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let pair = pair(target).await;
    let request = format!(
        "GET /{} HTTP/1.1\r\nhost: r\r\nx-large: {}\r\n{}\r\n",
        "p".repeat(16 * 1024),
        "q".repeat(1024 * 1024),
        "x-many: 1\r\n".repeat(200),
    );
    let mut stream = raw(&pair, &request).await;
    let answer = soon(head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.len() > 200 * 1024, "{:.200}", answer);
    // The large one, the many, and the two that the policy adds.
    assert!(answer.contains("x-came: 203\r\n"), "{:.200}", answer);
}

#[tokio::test]
async fn only_a_request_on_a_connection_from_the_pool_is_repeated() {
    // Answers the first request of the first connection, and closes at every other.
    let requests = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = requests.clone();
    let (target, accepted) = local(move |mut socket| {
        let count = count.clone();
        async move {
            while !head(&mut socket).await.is_empty() {
                if count.fetch_add(1, Ordering::SeqCst) > 0 {
                    return;
                }
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let pair = pair(target).await;
    let counts = || (requests.load(Ordering::SeqCst), accepted.load(Ordering::SeqCst));
    assert_eq!(pair.get("/").await.0, 200);
    assert_eq!(counts(), (1, 1));
    // From the pool, closed; once more on a fresh one, closed as well.
    assert_eq!(pair.get("/").await.0, 502);
    assert_eq!(counts(), (3, 2));
    // On a fresh one at once: not repeated.
    assert_eq!(pair.get("/").await.0, 502);
    assert_eq!(counts(), (4, 3));
}
