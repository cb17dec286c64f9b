//! What does not end soon: event streams, WebSockets, and a paired browser with both.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{Router, routing::get};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use system_tests::client::{self, empty, next_data, websocket};
use system_tests::edge::{Edge, PROTOCOLS, Program, Protocol};
use system_tests::local::app;
use system_tests::signed::Browser;
use system_tests::{LocalServer, SOON, eventually, noise, sha256, within};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::WebSocketConfig};

/// Counts itself out.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub async fn events_arrive_one_by_one_and_end_with_their_reader(program: Program) {
    let (produce, open) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&produce), Arc::clone(&open));
    let events = move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        let stream = futures_util::stream::unfold((0_u32, Open(count)), move |(n, open)| {
            let gate = Arc::clone(&gate);
            async move {
                if n > 0 {
                    gate.notified().await;
                }
                Some((Ok::<_, Infallible>(Bytes::from(format!("data: {n}\n\n"))), (n + 1, open)))
            }
        });
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(axum::body::Body::from_stream(stream))
            .unwrap()
    };
    let local = LocalServer::router(Router::new().route("/events", get(events))).await;
    let edge = Edge::start(program, &local.url()).await;
    for protocol in PROTOCOLS {
        let request = edge.request("GET", &edge.path("/events")).header("accept-encoding", "gzip, br");
        let response = within("the head", SOON, edge.send(protocol, request.body(empty()).unwrap())).await;
        assert_eq!(response.status(), StatusCode::OK, "{protocol:?}");
        let mut body = response.into_body();
        for n in 0..5 {
            let event = within("an event", SOON, next_data(&mut body)).await.expect("an event").unwrap();
            assert_eq!(event, format!("data: {n}\n\n"), "{protocol:?}");
            // Only now may the next one come into being.
            produce.notify_one();
        }
        assert_eq!(open.load(Ordering::SeqCst), 1, "{protocol:?}");
        drop(body);
        let ended = || async { open.load(Ordering::SeqCst) == 0 };
        eventually("a reader that left ends the stream at the local server", SOON, ended).await;
        // One permit may be left over.
        let _ = futures_util::FutureExt::now_or_never(produce.notified());
    }
}

/// An echo of small, large and many messages, and the server's way to close.
async fn converse<T>(socket: &mut WebSocketStream<T>, what: &str)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let large = Message::Binary(noise(7, 3 << 20));
    for message in [Message::text("hello"), Message::Binary(Bytes::new()), large, Message::text("€")] {
        socket.send(message.clone()).await.unwrap();
        let echo = within("an echo", SOON, socket.next()).await.unwrap().unwrap();
        assert!(echo == message, "{what}: {} bytes come back as {}", message.len(), echo.len());
    }
    for n in 0..200 {
        socket.send(Message::text(n.to_string())).await.unwrap();
    }
    for n in 0..200 {
        let echo = within("an echo", SOON, socket.next()).await.unwrap().unwrap();
        assert_eq!(echo, Message::text(n.to_string()), "{what}");
    }
    socket.send(Message::text("close 4321 bye")).await.unwrap();
    let close = within("the close", SOON, socket.next()).await.unwrap().unwrap();
    let frame = CloseFrame { code: CloseCode::from(4321), reason: "bye".into() };
    assert_eq!(close, Message::Close(Some(frame)), "{what}");
}

pub async fn websockets_pass(program: Program) {
    let local = LocalServer::router(app()).await;
    let edge = Edge::start(program, &local.url()).await;
    // The agent itself came by wss:// through the proxy; nothing else leads to the local server.
    assert_eq!(edge.get(Protocol::H2, &edge.path("/hello")).await.text(), "hello");
    for n in 0..3 {
        let (mut socket, _) = websocket(edge.http1_addr(), &edge.path("/ws"), &[]).await.unwrap();
        converse(&mut socket, &format!("socket {n}")).await;
    }
    // Refusals of the relay come through as what they are.
    let refused = websocket(edge.http1_addr(), "/v1/relay/connect?machine_id=m&name=n", &[]).await;
    match refused {
        Err(Error::Http(response)) => assert_eq!(response.status(), StatusCode::UNAUTHORIZED),
        other => panic!("{other:?}"),
    }
}

/// RFC 8441: what browsers use when a server offers it.
pub async fn websockets_inside_h2_pass(program: Program) {
    let local = LocalServer::router(app()).await;
    let edge = Edge::start(program, &local.url()).await;
    let mut h2 = client::h2(edge.h2_addr()).await;
    // The offer comes with the first answer, if not before it.
    let hello = edge.request("GET", &edge.path("/hello")).body(empty()).unwrap();
    assert_eq!(h2.send_request(hello).await.unwrap().status(), StatusCode::OK);
    for n in 0..2 {
        let mut request: Request<_> = edge
            .request("CONNECT", &edge.path("/ws"))
            .header("sec-websocket-version", "13")
            .body(empty())
            .unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        let response = within("the answer", SOON, h2.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let config = WebSocketConfig::default();
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
        converse(&mut socket, &format!("socket {n} inside h2")).await;
    }
}

pub async fn a_paired_browser_is_served(program: Program) {
    let local = LocalServer::router(app()).await;
    let mut edge = Edge::start(program, &local.url()).await;
    edge.pair_only().await;
    let (mut pair, code) = edge.agent.show_code().await;
    let browser = Browser::pair(edge.http1_addr(), &edge.path(""), edge.host, &code).await.expect("it pairs");
    assert!(pair.wait(SOON).await.success(), "{}", pair.log());
    let upload = || Request::post("/digest?a=%2Fb&c").body(noise(3, 300_000)).unwrap();
    let digest = format!("300000 {}", sha256(&noise(3, 300_000)));
    let signed = browser.session().await.unwrap();
    assert_eq!(signed.get("/hello").await.unwrap().text(), "hello");
    assert_eq!(signed.fetch(upload()).await.unwrap().text(), digest);
    let sealed = browser.sealed().await.unwrap();
    assert_eq!(sealed.get("/hello").await.unwrap().text(), "hello");
    assert_eq!(sealed.fetch(upload()).await.unwrap().text(), digest);
}
