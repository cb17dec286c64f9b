//! Methods and bodies in every framing that HTTP/1.1 has, over HTTP/1.1 and h2.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::Frame;
use relay_protocol::problem::Code;
use system_tests::{
    LocalServer, SOON, Stack,
    client::{self, Connection, Reply, channel, empty, full, h2},
    local::{Recorder, app},
    noise,
    raw::{RawConn, exchange},
    sha256, within,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_method_arrives_as_it_was_sent() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "lower"] {
        let reply = stack.fetch(stack.request(method, "/m").body(empty()).unwrap()).await;
        assert_eq!(reply.text(), "ok", "{method}");
        let (head, body) = recorder.last();
        assert_eq!(head.start_line(), format!("{method} /m HTTP/1.1"));
        assert!(body.bytes.is_empty() && body.complete, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_without_a_body_gets_none_invented() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    stack.get("/x").await;
    let head = recorder.last().0;
    assert!(
        head.all("transfer-encoding").is_empty() && head.all("content-length").is_empty(),
        "{}",
        head.text()
    );
    let zero = stack.request("POST", "/x").header("content-length", "0").body(empty()).unwrap();
    stack.fetch(zero).await;
    assert_eq!(recorder.last().0.all("content-length"), ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_keeps_its_length_has_no_body_and_leaves_the_connection_usable() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let mut conn = RawConn::connect(stack.addr()).await;
    for _ in 0..3 {
        conn.write(format!("HEAD {} HTTP/1.1\r\nhost: r\r\n\r\n", stack.path("/big/12345"))).await.unwrap();
        let head = conn.head().await.expect("an answer");
        assert_eq!((head.status(), head.header("content-length").as_deref()), (200, Some("12345")));
        conn.write(format!("GET {} HTTP/1.1\r\nhost: r\r\n\r\n", stack.path("/hello"))).await.unwrap();
        let head = conn.head().await.expect("an answer");
        assert_eq!(conn.response_body(&head).await.bytes, b"hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_keep_their_framing_and_their_bytes() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    for len in [0_usize, 1, 1023, 65_536, 65_537, 3_000_000] {
        let body = noise(len as u64, len);
        let fixed = stack.request("POST", "/fixed").body(full(body.clone())).unwrap();
        assert_eq!(stack.fetch(fixed).await.text(), "ok", "{len}");
        let (head, seen) = recorder.last();
        assert!(
            seen.complete && sha256(&seen.bytes) == sha256(&body),
            "{len} bytes came as {}",
            seen.bytes.len()
        );
        if len > 0 {
            assert_eq!(head.all("content-length"), [len.to_string()]);
        }
        assert!(head.all("transfer-encoding").is_empty(), "{}", head.text());

        let (sender, chunked) = channel();
        let pieces: Vec<Bytes> = body.chunks(7777).map(Bytes::copy_from_slice).collect();
        let feed = tokio::spawn(async move {
            for piece in pieces {
                sender.send(Frame::data(piece)).await.ok();
            }
        });
        let reply = stack.fetch(stack.request("PUT", "/chunked").body(chunked).unwrap()).await;
        assert_eq!(reply.text(), "ok", "{len}");
        feed.await.unwrap();
        let (head, seen) = recorder.last();
        assert!(
            seen.complete && sha256(&seen.bytes) == sha256(&body),
            "{len} bytes came as {}",
            seen.bytes.len()
        );
        assert_eq!(
            (head.all("transfer-encoding"), head.all("content-length")),
            (vec!["chunked".into()], vec![])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_may_carry_a_body() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let request = stack.request("GET", "/search").body(full("{\"query\":1}")).unwrap();
    assert_eq!(stack.fetch(request).await.text(), "ok");
    assert_eq!(recorder.last().1.bytes, b"{\"query\":1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_in_every_framing_arrive_whole() {
    let both =
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let long =
        "HTTP/1.1 200 OK\r\ncontent-length: 30\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answers: [(&str, u16, &[u8]); 9] = [
        // The framing counts, not the length beside it (RFC 9112 section 6.3).
        (both, 200, b"hello"),
        (long, 200, b"hello"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfixed", 200, b"fixed"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nchu\r\n4;ext=1\r\nnked\r\n0\r\n\r\n",
            200,
            b"chunked",
        ),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", 200, b"until the end"),
        ("HTTP/1.0 200 OK\r\n\r\nold", 200, b"old"),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        ("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n", 304, b""),
        ("HTTP/1.1 599 Whatever\r\ncontent-length: 0\r\n\r\n", 599, b""),
    ];
    for (answer, status, body) in answers {
        let local = LocalServer::raw(move |mut conn| async move {
            conn.head().await;
            conn.write(answer).await.ok();
            if !answer.contains("close") && !answer.starts_with("HTTP/1.0") {
                conn.rest().await;
            }
        })
        .await;
        let stack = Stack::start(&local.url()).await;
        let reply = within(answer, SOON, stack.get("/x")).await;
        assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (status, body), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_informational_response_does_not_take_the_place_of_the_final_one() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
                 HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let recorder = Recorder::answering(early).await;
    let stack = Stack::start(&recorder.server.url()).await;
    for _ in 0..3 {
        let mut conn = RawConn::connect(stack.addr()).await;
        conn.write(format!("GET {} HTTP/1.1\r\nhost: r\r\n\r\n", stack.path("/x"))).await.unwrap();
        let mut head = within("an answer", SOON, conn.head()).await.expect("an answer");
        while (100..200).contains(&head.status()) {
            assert_ne!(head.status(), 101);
            head = within("the final answer", SOON, conn.head()).await.expect("the final answer");
        }
        assert_eq!((head.status(), conn.response_body(&head).await.bytes), (200, b"ok".to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_waits_for_100_continue_is_asked_for_by_the_local_server() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let mut conn = RawConn::connect(stack.addr()).await;
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n",
        stack.path("/x")
    );
    conn.write(head).await.unwrap();
    let head = within("100 Continue", SOON, conn.head()).await.expect("100 Continue");
    assert_eq!(head.status(), 100, "{}", head.text());
    conn.write("upload").await.unwrap();
    let head = within("the answer", SOON, conn.head()).await.expect("the answer");
    assert_eq!((head.status(), conn.response_body(&head).await.bytes), (200, b"ok".to_vec()));
    assert_eq!(recorder.last().1.bytes, b"upload");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_spares_the_upload() {
    let local = LocalServer::raw(|mut conn| async move {
        let head = conn.head().await.expect("a request");
        assert!(head.header("expect").is_some(), "the expectation reaches the one who can answer it");
        conn.write("HTTP/1.1 413 Content Too Large\r\ncontent-length: 7\r\n\r\ntoo big").await.ok();
        conn.rest().await;
    })
    .await;
    let stack = Stack::start(&local.url()).await;
    let mut conn = RawConn::connect(stack.addr()).await;
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\ncontent-length: 10000000\r\n\r\n",
        stack.path("/x")
    );
    conn.write(head).await.unwrap();
    let head = within("the refusal", SOON, conn.head()).await.expect("an answer");
    assert_eq!(head.status(), 413, "the upload was asked for although nobody wants it: {}", head.text());
    assert_eq!(conn.response_body(&head).await.bytes, b"too big");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_waits_gets_an_error_when_nobody_is_there() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    drop(local);
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\ncontent-length: 10000000\r\n\r\n",
        stack.path("/x")
    );
    let (head, _) = within("an answer", SOON, exchange(stack.addr(), head)).await.expect("an answer");
    assert_eq!(head.status(), Code::LocalServerUnreachable.status().as_u16(), "{}", head.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_come_before_the_upload_is_finished() {
    let local = LocalServer::raw(|mut conn| async move {
        let head = conn.head().await.expect("a request");
        conn.chunk().await.expect("the first chunk");
        drop(head);
        conn.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.ok();
        conn.rest().await;
    })
    .await;
    let stack = Stack::start(&local.url()).await;
    let (sender, body) = channel();
    let mut connection = Connection::open(stack.addr()).await.unwrap();
    let request = stack.request("POST", "/x").body(body).unwrap();
    sender.send(Frame::data(Bytes::from_static(b"the beginning"))).await.unwrap();
    let response = within("an early answer", SOON, connection.send(request)).await.expect("an early answer");
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let reply = within("its body", SOON, Reply::collect(response)).await.expect("its body");
    assert_eq!(reply.text(), "no");
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_stream_at_once() {
    let local = LocalServer::raw(|mut conn| async move {
        conn.head().await.expect("a request");
        conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok();
        while let Some(chunk) = conn.chunk().await {
            let end = chunk.is_empty();
            let mut out = format!("{:x}\r\n", chunk.len()).into_bytes();
            out.extend(&chunk);
            out.extend(b"\r\n");
            conn.write(out).await.ok();
            if end {
                return;
            }
        }
    })
    .await;
    let stack = Stack::start(&local.url()).await;
    let (sender, body) = channel();
    let mut connection = Connection::open(stack.addr()).await.unwrap();
    sender.send(Frame::data(Bytes::from_static(b"0"))).await.unwrap();
    let request = stack.request("POST", "/x").body(body).unwrap();
    let mut answer = within("the head", SOON, connection.send(request)).await.expect("the head").into_body();
    for n in 0..20_u8 {
        let back = within("the echo", SOON, client::next_data(&mut answer)).await.expect("an echo").unwrap();
        assert_eq!(back, n.to_string());
        sender.send(Frame::data(Bytes::from((n + 1).to_string()))).await.unwrap();
    }
    drop(sender);
    let last = within("the echo", SOON, client::next_data(&mut answer)).await.expect("an echo").unwrap();
    assert_eq!(last, "20");
    assert!(within("the end", SOON, client::next_data(&mut answer)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_in_both_directions() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, grpc-status\r\n\r\n\
                  2\r\nok\r\n0\r\nx-sum: 17\r\ngrpc-status: 0\r\n\r\n";
    let recorder = Recorder::answering(answer).await;
    let stack = Stack::start(&recorder.server.url()).await;

    let (sender, body) = channel();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-check", HeaderValue::from_static("42"));
    sender.send(Frame::data(Bytes::from_static(b"data"))).await.unwrap();
    sender.send(Frame::trailers(trailers.clone())).await.unwrap();
    drop(sender);
    let request =
        stack.request("POST", "/x").header("te", "trailers").header("trailer", "x-check").body(body).unwrap();
    let reply = stack.fetch(request).await;
    assert_eq!(reply.text(), "ok");
    let got = reply.trailers.expect("the response's trailers");
    assert_eq!(got.get("x-sum").unwrap(), "17");
    assert_eq!(got.get("grpc-status").unwrap(), "0");
    let (head, seen) = recorder.last();
    assert_eq!(seen.bytes, b"data");
    assert_eq!(seen.trailers, ["x-check: 42"], "{}", head.text());

    // The same from h2, where trailers need no announcement of the hop.
    let mut h2 = h2(stack.addr()).await;
    let (sender, body) = channel();
    sender.send(Frame::data(Bytes::from_static(b"data"))).await.unwrap();
    sender.send(Frame::trailers(trailers)).await.unwrap();
    drop(sender);
    let uri = format!("http://{}{}", stack.addr(), stack.path("/x"));
    let request =
        http::Request::post(uri).header("te", "trailers").header("trailer", "x-check").body(body).unwrap();
    let response = h2.send_request(request).await.expect("an answer over h2");
    let reply = Reply::collect(response).await.expect("its body");
    assert_eq!(reply.text(), "ok");
    assert_eq!(reply.trailers.expect("the response's trailers").get("x-sum").unwrap(), "17");
    assert_eq!(recorder.last().1.trailers, ["x-check: 42"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_carries_many_requests_on_one_connection() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let h2 = h2(stack.addr()).await;
    let mut all = tokio::task::JoinSet::new();
    for n in 0..40_usize {
        let mut h2 = h2.clone();
        let body = noise(n as u64, n * 5000);
        let uri = format!("http://{}{}", stack.addr(), stack.path("/digest"));
        all.spawn(async move {
            let request = http::Request::put(uri).body(full(body.clone())).unwrap();
            let response = h2.send_request(request).await.expect("an answer over h2");
            assert_eq!(response.version(), http::Version::HTTP_2);
            let reply = Reply::collect(response).await.expect("its body");
            assert_eq!(reply.text(), format!("{} {}", body.len(), sha256(&body)));
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let mut h2 = h2.clone();
    let uri = format!("http://{}{}//a%2Fb?c", stack.addr(), stack.prefix());
    let request =
        http::Request::get(uri).header("cookie", "a=1").header("cookie", "b=2").body(empty()).unwrap();
    let reply = Reply::collect(h2.send_request(request).await.unwrap()).await.unwrap();
    assert_eq!(
        reply.status,
        StatusCode::NOT_FOUND,
        "the app has no such path, and answered itself: {reply:?}"
    );
    let uri = format!("http://{}{}", stack.addr(), stack.path("/echo?x"));
    let request =
        http::Request::get(uri).header("cookie", "a=1").header("cookie", "b=2").body(empty()).unwrap();
    let echo: serde_json::Value =
        Reply::collect(h2.send_request(request).await.unwrap()).await.unwrap().json();
    let cookies: Vec<_> = echo["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|h| h[0] == "cookie")
        .map(|h| h[1].clone())
        .collect();
    // RFC 9113 section 8.2.3: pieces become one header again before they leave h2.
    assert_eq!(cookies, ["a=1; b=2"], "{echo}");
    let forwarded = echo["headers"].as_array().unwrap().iter().find(|h| h[0] == "x-forwarded-host").unwrap();
    assert_eq!(forwarded[1], stack.addr().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_h2_client_that_resets_its_stream_disturbs_no_other() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let h2 = h2(stack.addr()).await;
    for _ in 0..10 {
        let uri = format!("http://{}{}", stack.addr(), stack.path("/big/100000000"));
        let response = h2.clone().send_request(http::Request::get(uri).body(empty()).unwrap()).await.unwrap();
        drop(response);
        let uri = format!("http://{}{}", stack.addr(), stack.path("/hello"));
        let request = http::Request::get(uri).body(empty()).unwrap();
        let response = within("an answer", SOON, h2.clone().send_request(request)).await.unwrap();
        assert_eq!(Reply::collect(response).await.unwrap().text(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_connections_at_both_ends() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let mut connection = Connection::open(stack.addr()).await.unwrap();
    for _ in 0..100 {
        let response =
            connection.send(client::request(Method::GET, &stack.path("/hello"), empty())).await.unwrap();
        assert_eq!(Reply::collect(response).await.unwrap().text(), "hello");
    }
    let accepted = local.counts.accepted();
    assert!(accepted < 10, "{accepted} connections to the local server for 100 requests in a row");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_local_server_closed_while_idle_is_not_an_error() {
    // Each connection answers once, says nothing of closing, and closes.
    let local = LocalServer::raw(|mut conn| async move {
        conn.head().await;
        conn.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok();
    })
    .await;
    let stack = Stack::start(&local.url()).await;
    for n in 0..50 {
        let reply = within("an answer", Duration::from_secs(10), stack.get("/x")).await;
        assert_eq!(reply.status, StatusCode::OK, "request {n}: {reply:?}");
    }
}
