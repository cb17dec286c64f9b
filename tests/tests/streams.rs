//! What does not end soon: event streams, WebSockets, other upgrades, readers that stall, callers
//! that leave.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{
        Query, WebSocketUpgrade,
        ws::{CloseFrame, Message as AxumMessage},
    },
    response::Response,
    routing::get,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use relay_protocol::api::HostStatus;
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{self, Connection, h2, next_data, websocket},
    eventually,
    local::{Counts, app, big_digest, body_digest},
    noise,
    raw::RawConn,
    sha256,
    stack::{EMAIL, HOST},
    throttle::{Rate, Throttle},
    within,
};
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame as WsCloseFrame, frame::coding::CloseCode},
};

/// How soon a caller's end must reach the local server.
const ABORT_WITHIN: Duration = Duration::from_secs(1);

/// How soon abandoned uploads must have given everything back.
const FREED_WITHIN: Duration = Duration::from_secs(5);

fn event_stream(stream: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Response {
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(Body::from_stream(stream.map(Ok::<_, Infallible>)))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_arrives_before_the_second_is_produced() {
    let produce = Arc::new(Notify::new());
    let gate = Arc::clone(&produce);
    let router = Router::new().route(
        "/events",
        get(move || async move {
            event_stream(futures_util::stream::unfold(0_u32, move |n| {
                let gate = Arc::clone(&gate);
                async move {
                    if n > 0 {
                        gate.notified().await;
                    }
                    (n < 5).then(|| (Bytes::from(format!("data: {n}\n\n")), n + 1))
                }
            }))
        }),
    );
    let local = LocalServer::router(router).await;
    let stack = Stack::start(&local.url()).await;
    let uri = format!("http://{}{}", stack.addr(), stack.path("/events"));
    let mut h2 = h2(stack.addr()).await;
    for protocol in ["HTTP/1.1", "h2"] {
        let mut events = match protocol {
            "h2" => {
                let request = http::Request::get(&uri).body(client::empty()).unwrap();
                within("the head", SOON, h2.send_request(request)).await.unwrap().into_body()
            }
            _ => {
                let response = client::send(stack.addr(), client::get(&stack.path("/events"))).await.unwrap();
                response.into_body()
            }
        };
        for n in 0..5 {
            let event = within("an event", SOON, next_data(&mut events)).await.expect("an event").unwrap();
            assert_eq!(event, format!("data: {n}\n\n"), "{protocol}");
            // Only now may the next one come into being.
            produce.notify_one();
        }
        let end = within("the end", SOON, next_data(&mut events)).await;
        assert!(end.is_none(), "{protocol}: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_event_streams_over_a_slow_uplink_lose_no_event() {
    const STREAMS: usize = 100;
    const EVENTS: usize = 150;
    fn event(stream: usize, n: usize) -> String {
        format!("id: {n}\ndata: {stream} {}\n\n", "x".repeat((stream * 31 + n * 17) % 300))
    }
    let router = Router::new().route(
        "/events",
        get(|Query(query): Query<std::collections::HashMap<String, usize>>| async move {
            let stream = query["stream"];
            event_stream(futures_util::stream::iter(0..EVENTS).then(move |n| async move {
                // Written one by one, so that each is a chunk of its own.
                tokio::task::yield_now().await;
                Bytes::from(event(stream, n))
            }))
        }),
    );
    let local = LocalServer::router(router).await;
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let link = Throttle::start(relay.addr, Rate { up: Some(1_000_000), down: None }).await;
    let _agent = Agent::start(AgentOptions::new(&link.url(), &local.url(), &token, HOST)).await;
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;

    let mut all = tokio::task::JoinSet::new();
    for stream in 0..STREAMS {
        let addr = relay.addr;
        let path = format!("/v1/relay/h/{host}/s/{session}/events?stream={stream}");
        all.spawn(async move {
            let reply = client::try_fetch(addr, client::get(&path)).await;
            let reply = reply.unwrap_or_else(|e| panic!("stream {stream}: {e:#}"));
            let expected: String = (0..EVENTS).map(|n| event(stream, n)).collect();
            assert_eq!(reply.status, 200, "stream {stream}: {reply:?}");
            assert_eq!(reply.text(), expected, "stream {stream}");
        });
    }
    let all = async {
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    };
    within("every stream ends", Duration::from_secs(120), all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_messages_of_every_size_pass_both_ways() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let (mut ws, response) = websocket(stack.addr(), &stack.path("/ws"), &[]).await.expect("an upgrade");
    assert_eq!(response.status(), 101);
    for size in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, 16 << 20] {
        let sent = noise(size as u64 + 1, size);
        ws.send(Message::Binary(sent.clone())).await.unwrap();
        let back = within("the echo", SOON, ws.next()).await.expect("an echo").unwrap();
        let Message::Binary(back) = back else { panic!("{size} bytes came back as another kind") };
        assert_eq!((back.len(), sha256(&back)), (size, sha256(&sent)));
        let text = "ä".repeat(size / 2);
        ws.send(Message::text(text.clone())).await.unwrap();
        let back = within("the echo", SOON, ws.next()).await.expect("an echo").unwrap();
        assert!(matches!(&back, Message::Text(t) if t.as_str() == text), "{size} bytes of text");
    }
    ws.send(Message::Ping(Bytes::from_static(b"are you there"))).await.unwrap();
    let pong = within("the pong", SOON, ws.next()).await.expect("a pong").unwrap();
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"are you there")));
    // Many at once, so that frames of different messages queue up on the way.
    let (mut tx, mut rx) = ws.split();
    let sender = tokio::spawn(async move {
        for n in 0..2000_u32 {
            tx.send(Message::Binary(noise(n.into(), (n as usize * 37) % 5000))).await.unwrap();
        }
        tx
    });
    for n in 0..2000_u32 {
        let back = within("the echo", SOON, rx.next()).await.expect("an echo").unwrap();
        assert_eq!(back, Message::Binary(noise(n.into(), (n as usize * 37) % 5000)), "message {n}");
    }
    drop(sender.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn close_codes_and_subprotocols_are_kept() {
    let (seen, mut closes) = mpsc::channel::<Option<CloseFrame>>(8);
    let router = app().route(
        "/closing",
        get(move |ws: WebSocketUpgrade| async move {
            ws.protocols(["chat.v2"]).on_upgrade(move |mut socket| async move {
                while let Some(Ok(message)) = socket.recv().await {
                    if let AxumMessage::Close(frame) = message {
                        seen.send(frame).await.ok();
                    }
                }
            })
        }),
    );
    let local = LocalServer::router(router).await;
    let stack = Stack::start(&local.url()).await;
    // The local server closes.
    for (code, reason) in
        [(1000, ""), (1001, "going away"), (1011, "oops"), (4000, "ünicode"), (4999, "last")]
    {
        let (mut ws, _) = websocket(stack.addr(), &stack.path("/ws"), &[]).await.unwrap();
        ws.send(Message::text(format!("close {code} {reason}"))).await.unwrap();
        let close = within("the close", SOON, ws.next()).await.expect("a close").unwrap();
        let Message::Close(Some(frame)) = close else { panic!("{close:?}") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (code, reason));
    }
    // The browser closes.
    for (code, reason) in [(1000, "bye"), (3001, ""), (4321, "why")] {
        let offer = [("sec-websocket-protocol", "chat.v1, chat.v2")];
        let (mut ws, response) = websocket(stack.addr(), &stack.path("/closing"), &offer).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
        let frame = WsCloseFrame { code: CloseCode::from(code), reason: reason.into() };
        ws.close(Some(frame)).await.unwrap();
        let frame = within("the local server sees it", SOON, closes.recv()).await.unwrap();
        let frame = frame.expect("the code is kept");
        assert_eq!((frame.code, frame.reason.as_str()), (code, reason));
        let echoed = within("the end", SOON, ws.next()).await;
        assert!(matches!(echoed, Some(Ok(Message::Close(_))) | None), "{echoed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_the_local_server_refuses_is_refused_with_its_answer() {
    let local = LocalServer::raw(|mut conn| async move {
        conn.head().await;
        conn.write("HTTP/1.1 403 Forbidden\r\nx-why: no\r\ncontent-length: 4\r\n\r\nnope").await.ok();
        conn.rest().await;
    })
    .await;
    let stack = Stack::start(&local.url()).await;
    let error = websocket(stack.addr(), &stack.path("/ws"), &[]).await.expect_err("no upgrade");
    let tokio_tungstenite::tungstenite::Error::Http(response) = error else { panic!("{error}") };
    assert_eq!((response.status().as_u16(), response.headers()["x-why"].to_str().unwrap()), (403, "no"));
}

/// A server that takes `Upgrade: telegraph`, says the bytes back in reverse until it gets a `.`, and
/// tells when it saw the end.
async fn telegraph(ended: Arc<AtomicUsize>) -> LocalServer {
    LocalServer::raw(move |mut conn| {
        let ended = Arc::clone(&ended);
        async move {
            let head = conn.head().await.expect("a request");
            assert_eq!(head.header("upgrade").as_deref(), Some("telegraph"), "{}", head.text());
            let connection = head.header("connection").unwrap_or_default().to_ascii_lowercase();
            assert!(connection.contains("upgrade"), "{}", head.text());
            // The first bytes come in one piece with the head, as they may.
            conn.write(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: telegraph\r\n\r\nready",
            )
            .await
            .ok();
            loop {
                let bytes = conn.take(1).await;
                match bytes.first() {
                    None => break,
                    Some(b'.') => return,
                    Some(byte) => {
                        if conn.write([byte.wrapping_add(1)]).await.is_err() {
                            break;
                        }
                    }
                }
            }
            ended.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await
}

async fn telegraph_client(stack: &Stack) -> RawConn {
    let mut conn = RawConn::connect(stack.addr()).await;
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: r\r\nconnection: upgrade\r\nupgrade: telegraph\r\n\r\n",
        stack.path("/t")
    );
    conn.write(request).await.unwrap();
    let head = within("the switch", SOON, conn.head()).await.expect("an answer");
    assert_eq!(
        (head.status(), head.header("upgrade").as_deref()),
        (101, Some("telegraph")),
        "{}",
        head.text()
    );
    assert_eq!(within("the first bytes", SOON, conn.take(5)).await, b"ready");
    conn
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_upgrade_carries_bytes_both_ways_and_ends_from_either_side() {
    let ended = Arc::new(AtomicUsize::new(0));
    let local = telegraph(Arc::clone(&ended)).await;
    let stack = Stack::start(&local.url()).await;
    let mut conn = telegraph_client(&stack).await;
    for byte in [0_u8, 13, 10, 127, 200, 254] {
        conn.write([byte]).await.unwrap();
        assert_eq!(within("the answer", SOON, conn.take(1)).await, [byte + 1]);
    }
    conn.write(".").await.unwrap();
    assert!(conn.ends(SOON).await, "the local server's end does not reach the browser");
    eventually("no connection is left", SOON, || async { local.counts.open() == 0 }).await;

    let conn = telegraph_client(&stack).await;
    drop(conn);
    eventually("the browser's end reaches the local server", ABORT_WITHIN, || async {
        ended.load(Ordering::SeqCst) == 1
    })
    .await;
    let conn = telegraph_client(&stack).await;
    conn.reset();
    eventually("the browser's reset reaches the local server", ABORT_WITHIN, || async {
        ended.load(Ordering::SeqCst) == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_slows_nobody_else_and_misses_nothing() {
    const BIG: u64 = 64 << 20;
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let response =
            client::send(stack.addr(), client::get(&stack.path(&format!("/big/{BIG}")))).await.unwrap();
        assert_eq!(response.status(), 200);
        stalled.push(response.into_body());
    }
    let (mut ws, _) = websocket(stack.addr(), &stack.path("/ws"), &[]).await.unwrap();
    for _ in 0..64 {
        // Nobody reads the echoes: the socket may fill up, and that is its own affair.
        let sent = ws.send(Message::Binary(noise(1, 1 << 20)));
        if tokio::time::timeout(Duration::from_millis(200), sent).await.is_err() {
            break;
        }
    }
    let mut connection = Connection::open(stack.addr()).await.unwrap();
    for _ in 0..200 {
        let request = client::get(&stack.path("/hello"));
        let response =
            within("a small request", Duration::from_secs(5), connection.send(request)).await.unwrap();
        assert_eq!(client::Reply::collect(response).await.unwrap().text(), "hello");
    }
    let expected = big_digest(BIG).await;
    for body in stalled {
        let got = within("the rest of a stalled download", Duration::from_secs(120), body_digest(body)).await;
        assert_eq!(got, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_lets_go_of_what_its_stalled_readers_held() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let request = client::get(&stack.path(&format!("/big/{}", 256u64 << 20)));
        stalled.push(client::send(stack.addr(), request).await.unwrap());
    }
    eventually("the downloads have begun", SOON, || async { local.counts.open() >= 4 }).await;
    let path = format!("/v1/relay/sessions/{}", stack.session);
    assert_eq!(stack.relay.api(http::Method::DELETE, &path, &stack.token).await.status, 204);
    eventually("the local server's connections are free", FREED_WITHIN, || async {
        local.counts.open() == 0
    })
    .await;
    for response in stalled {
        let mut body = response.into_body();
        let mut ended = None;
        while let Some(data) = next_data(&mut body).await {
            if let Err(error) = data {
                ended = Some(error);
                break;
            }
        }
        assert!(ended.is_some(), "what was cut off must not look complete");
    }
}

/// A server that does `what` and then waits for the end of the connection.
async fn waiting(what: &'static str) -> LocalServer {
    LocalServer::raw(move |mut conn| async move {
        conn.head().await;
        conn.write(what).await.ok();
        conn.rest().await;
    })
    .await
}

async fn ends(counts: &Counts, what: &str) {
    eventually(what, ABORT_WITHIN, || async { counts.open() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_is_noticed_by_the_local_server_within_a_second() {
    let cases = [
        ("before the response's head", "", false),
        (
            "in an event stream that is silent",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
            true,
        ),
        ("in a body of known length", "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nabc", true),
        ("in a body that ends with the connection", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc", true),
    ];
    for (what, begins, answered) in cases {
        let local = waiting(begins).await;
        let stack = Stack::start(&local.url()).await;
        for reset in [false, true] {
            let mut conn = RawConn::connect(stack.addr()).await;
            conn.write(format!("GET {} HTTP/1.1\r\nhost: r\r\n\r\n", stack.path("/x"))).await.unwrap();
            if answered {
                let head = within("the head", SOON, conn.head()).await.expect("the head");
                assert_eq!(head.status(), 200, "{what}");
                conn.take(1).await;
            }
            eventually("the local server has it", SOON, || async { local.counts.open() == 1 }).await;
            if reset {
                conn.reset()
            } else {
                drop(conn)
            }
            ends(&local.counts, what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_h2_stream_that_is_reset_is_noticed_by_the_local_server_within_a_second() {
    let local = waiting("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
    let stack = Stack::start(&local.url()).await;
    let h2 = h2(stack.addr()).await;
    let uri = format!("http://{}{}", stack.addr(), stack.path("/x"));
    let request = http::Request::get(uri).body(client::empty()).unwrap();
    let mut body = h2.clone().send_request(request).await.unwrap().into_body();
    assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "a");
    drop(body);
    ends(&local.counts, "the reset stream").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_abandoned_free_every_connection_at_both_ends() {
    const UPLOADS: usize = 20;
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    let (relay_fds, agent_fds) = (stack.relay.process.fds(), stack.agent.process.fds());
    let idle = local.counts.open();
    for chunked in [false, true] {
        let framing = if chunked { "transfer-encoding: chunked" } else { "content-length: 100000000" };
        let mut uploads = Vec::new();
        for _ in 0..UPLOADS {
            let mut conn = RawConn::connect(stack.addr()).await;
            let head = format!("POST {} HTTP/1.1\r\nhost: r\r\n{framing}\r\n\r\n", stack.path("/digest"));
            conn.write(head).await.unwrap();
            for _ in 0..8 {
                if chunked {
                    conn.write("10000\r\n").await.unwrap();
                }
                conn.write(noise(3, 0x10000)).await.unwrap();
                if chunked {
                    conn.write("\r\n").await.unwrap();
                }
            }
            uploads.push(conn);
        }
        eventually("every upload has reached the local server", SOON, || async {
            local.counts.open() >= UPLOADS
        })
        .await;
        // The tabs close: no end of the body, just no connection any more.
        for (n, conn) in uploads.into_iter().enumerate() {
            if n % 2 == 0 { conn.reset() } else { drop(conn) }
        }
        eventually("the local server's connections are free", FREED_WITHIN, || async {
            local.counts.open() <= idle.max(1)
        })
        .await;
        eventually("the relay's and the agent's files are closed", FREED_WITHIN, || async {
            stack.relay.process.fds() <= relay_fds + 1 && stack.agent.process.fds() <= agent_fds + 1
        })
        .await;
    }
    assert_eq!(stack.get("/hello").await.text(), "hello");
}
