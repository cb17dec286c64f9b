//! Signed WebSockets, and what a relay or a broken browser might make of them.

use crate::{
    client,
    common::{app, head, local, soon},
    setup::Setup,
    signed::{Browser, Failure, Session, Socket},
};
use axum::{
    Router,
    extract::ws::{CloseFrame, Message as AxumMessage, WebSocket, WebSocketUpgrade},
    response::IntoResponse,
    routing::{any, get},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use local_agent_client::LocalTarget;
use relay_protocol::{
    keys::b64,
    problem::Code,
    record::{Close, Kind, Record},
};
use std::sync::atomic::Ordering;
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{self, coding::CloseCode},
};

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, AxumMessage::Text(_) | AxumMessage::Binary(_))
            && socket.send(message).await.is_err()
        {
            return;
        }
    }
}

/// Echoes at `/echo`; tells at `/tell` how each WebSocket ended.
pub fn router(ended: mpsc::Sender<String>) -> Router {
    let upgrade = |upgrade: WebSocketUpgrade| async {
        upgrade.max_message_size(8 << 20).protocols(["b"]).on_upgrade(echo)
    };
    let tell = move |upgrade: WebSocketUpgrade| {
        let ended = ended.clone();
        async move {
            upgrade.on_upgrade(move |mut socket| async move {
                loop {
                    match socket.recv().await {
                        Some(Ok(AxumMessage::Close(frame))) => {
                            // Reading on is what sends the answer.
                            let _ = socket.recv().await;
                            let frame =
                                frame.map(|frame| format!("{} {}", frame.code, frame.reason.as_str()));
                            return ended
                                .send(format!("closed {}", frame.unwrap_or_default()))
                                .await
                                .unwrap();
                        }
                        Some(Ok(AxumMessage::Ping(data))) => {
                            ended.send(format!("ping {}", String::from_utf8_lossy(&data))).await.unwrap();
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return ended.send("broken".to_owned()).await.unwrap(),
                    }
                }
            })
        }
    };
    let close = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(|mut socket| async move {
            let frame = CloseFrame { code: 4001, reason: "enough".into() };
            socket.send(AxumMessage::Ping(Bytes::from_static(b"p"))).await.unwrap();
            socket.send(AxumMessage::Close(Some(frame))).await.unwrap();
            while let Some(Ok(_)) = socket.recv().await {}
        })
    };
    Router::new().route("/echo", any(upgrade)).route("/tell", any(tell)).route("/close", any(close)).route(
        "/refuse",
        get(|| async { (StatusCode::FORBIDDEN, [("x-why", "no")], "not you").into_response() }),
    )
}

struct Sockets {
    setup: Setup,
    browser: Browser,
    ended: mpsc::Receiver<String>,
}

async fn sockets() -> Sockets {
    let (sender, ended) = mpsc::channel(16);
    let setup = Setup::new(app(router(sender)).await).await;
    let browser = setup.browser().await;
    Sockets { setup, browser, ended }
}

async fn session(browser: &Browser) -> Session<'_> {
    soon(browser.session()).await.unwrap()
}

async fn until_none_is_open(setup: &Setup) {
    soon(async {
        while setup.gate.forwarder().stats().gate().counts().websockets > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// How the agent closed the connection.
pub async fn close_code(socket: &mut Socket) -> Option<u16> {
    soon(async {
        while let Some(Ok(message)) = socket.ws.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.code.into());
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn messages_pass_both_ways_as_they_are() {
    let test = sockets().await;
    let session = session(&test.browser).await;
    let mut socket = soon(session.websocket("/echo?x=%20", Some("a, b"))).await.unwrap();
    assert_eq!(socket.head.status, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(socket.head.headers["sec-websocket-protocol"], "b");
    assert!(!socket.head.headers.contains_key("sec-websocket-accept"));
    let large = Bytes::from(vec![3; 4 << 20]);
    for (kind, payload) in [
        (Kind::Text, Bytes::from("hällo")),
        (Kind::Binary, Bytes::from_static(&[0, 255])),
        (Kind::Text, Bytes::new()),
        (Kind::Binary, large),
    ] {
        socket.send(kind, payload.clone()).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap(), Record { kind, payload });
    }
    assert_eq!(test.setup.gate.forwarder().stats().gate().counts().websockets, 1);
    soon(socket.close()).await.unwrap();
    until_none_is_open(&test.setup).await;
}

#[tokio::test]
async fn closes_and_pings_go_to_the_other_end() {
    let mut test = sockets().await;
    let session = session(&test.browser).await;
    let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
    socket.send(Kind::Ping, "are you there").await.unwrap();
    assert_eq!(soon(test.ended.recv()).await.unwrap(), "ping are you there");
    let pong = soon(socket.next()).await.unwrap();
    assert_eq!((pong.kind, &pong.payload[..]), (Kind::Pong, &b"are you there"[..]));
    let close = Close { code: 4000, reason: "bye".into() };
    socket.send(Kind::Close, Close::encode(Some(&close))).await.unwrap();
    assert_eq!(soon(test.ended.recv()).await.unwrap(), "closed 4000 bye");
    let answer = soon(socket.next()).await.unwrap();
    assert_eq!((answer.kind, Close::decode(&answer.payload).unwrap().unwrap().code), (Kind::Close, 4000));
    assert_eq!(close_code(&mut socket).await, Some(1000));

    let mut socket = soon(session.websocket("/close", None)).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().kind, Kind::Ping);
    let record = soon(socket.next()).await.unwrap();
    let close = Close::decode(&record.payload).unwrap().unwrap();
    assert_eq!((record.kind, close.code, close.reason.as_str()), (Kind::Close, 4001, "enough"));
    // What was on its way when the close came has nobody to go to; the answer ends it.
    socket.send(Kind::Text, "late").await.unwrap();
    socket.send(Kind::Close, Close::encode(None)).await.unwrap();
    assert_eq!(close_code(&mut socket).await, Some(1000));
    until_none_is_open(&test.setup).await;
}

#[tokio::test]
async fn an_end_without_a_close_stays_one() {
    let mut test = sockets().await;
    let session = session(&test.browser).await;
    // The browser's: dropped, and by the connection's close without a record.
    let socket = soon(session.websocket("/tell", None)).await.unwrap();
    drop(socket);
    assert_eq!(soon(test.ended.recv()).await.unwrap(), "broken");
    let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
    let close = frame::CloseFrame { code: CloseCode::Library(4005), reason: "off".into() };
    socket.ws.close(Some(close)).await.unwrap();
    assert_eq!(soon(test.ended.recv()).await.unwrap(), "broken");
    assert_eq!(close_code(&mut socket).await, Some(4005), "it is answered all the same");
    until_none_is_open(&test.setup).await;
    // The local server's.
    let (target, _) = local(|socket| async move {
        let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
        socket.send("one".into()).await.unwrap();
        drop(socket);
    })
    .await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut socket = soon(session.websocket("/", None)).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().payload, "one");
    assert_eq!(soon(socket.next()).await.unwrap_err(), Failure::Truncated);
}

#[tokio::test]
async fn whatever_is_no_record_of_the_browser_ends_both_ends() {
    let mut test = sockets().await;
    let session = session(&test.browser).await;
    type Hostile = fn(&mut Socket) -> Vec<Message>;
    let cases: &[(&str, Hostile)] = &[
        ("a text message", |_| vec![Message::text("{}")]),
        ("an empty message", |_| vec![Message::binary(Bytes::new())]),
        ("garbage", |_| vec![Message::binary(vec![0, 0, 0, 1, 5, 9])]),
        ("an unprotected record", |s| {
            let mut record = s.protect(Kind::Text, "x").to_vec();
            let end = record.len() - 1;
            record[end] ^= 1;
            vec![Message::binary(record)]
        }),
        ("an altered payload", |s| {
            let mut record = s.protect(Kind::Text, "x").to_vec();
            record[5] = b'y';
            vec![Message::binary(record)]
        }),
        ("an altered type", |s| {
            let mut record = s.protect(Kind::Text, "x").to_vec();
            record[4] = Kind::Binary as u8;
            vec![Message::binary(record)]
        }),
        ("a record twice", |s| {
            let record = s.protect(Kind::Text, "x");
            vec![Message::Binary(record.clone()), Message::Binary(record)]
        }),
        ("records swapped", |s| {
            let (one, two) = (s.protect(Kind::Text, "1"), s.protect(Kind::Text, "2"));
            vec![Message::Binary(two), Message::Binary(one)]
        }),
        ("a record left out", |s| {
            s.protect(Kind::Text, "1");
            vec![Message::Binary(s.protect(Kind::Text, "2"))]
        }),
        ("two records in one message", |s| {
            let both = [s.protect(Kind::Text, "1"), s.protect(Kind::Text, "2")].concat();
            vec![Message::binary(both)]
        }),
        ("an answer's record", |s| vec![Message::Binary(s.protect(Kind::Data, "x"))]),
        ("no UTF-8", |s| vec![Message::Binary(s.protect(Kind::Text, vec![0xff]))]),
        ("a close code that nobody sends", |s| {
            vec![Message::Binary(s.protect(Kind::Close, vec![0x03, 0xee]))]
        }),
    ];
    for (what, hostile) in cases {
        let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
        for message in hostile(&mut socket) {
            // The agent may have closed after the first.
            let _ = socket.ws.send(message).await;
        }
        assert_eq!(soon(test.ended.recv()).await.unwrap(), "broken", "{what}");
        assert_eq!(close_code(&mut socket).await, Some(1002), "{what}");
    }
    until_none_is_open(&test.setup).await;
}

#[tokio::test]
async fn a_message_larger_than_any_record_is_told_so() {
    let mut test = sockets().await;
    let session = session(&test.browser).await;
    for size in [(4 << 20) + 70, 20 << 20] {
        let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
        let _ = soon(socket.ws.send(Message::binary(vec![0; size]))).await;
        assert_eq!(soon(test.ended.recv()).await.unwrap(), "broken", "{size}");
        assert_eq!(close_code(&mut socket).await, Some(1009), "{size}");
    }
    until_none_is_open(&test.setup).await;
}

#[tokio::test]
async fn a_signature_that_is_wrong_or_used_is_refused_in_plain_http() {
    let test = sockets().await;
    let session = session(&test.browser).await;
    let (path, made) = session.sign_upgrade("/echo?a=1", None);
    for (altered, code) in [
        (path.replace("/echo", "/tell"), Code::SignatureInvalid),
        (path.replace("a=1", "a=2"), Code::SignatureInvalid),
        (path.replace("a=1&", ""), Code::SignatureInvalid),
        (format!("{path}x"), Code::BadRequest),
        (format!("{path}&b=1"), Code::BadRequest),
        (path.split("&relay-signature=").next().unwrap().to_owned(), Code::BadRequest),
        ("/echo".to_owned(), Code::SignatureMissing),
    ] {
        let refused = soon(session.websocket_at(&altered, &made, None)).await.err().unwrap();
        assert_eq!(refused, Failure::Unsigned(code.status(), Some(code)), "{altered}");
    }
    // A sub-protocol that the relay added, and one that it changed.
    let refused = soon(session.websocket_at(&path, &made, Some("a"))).await.err().unwrap();
    assert_eq!(refused, Failure::Unsigned(StatusCode::BAD_REQUEST, Some(Code::Uncovered)));
    let (with, made_with) = session.sign_upgrade("/echo", Some("a, b"));
    let refused = soon(session.websocket_at(&with, &made_with, Some("b"))).await.err().unwrap();
    assert_eq!(refused, Failure::Unsigned(StatusCode::UNAUTHORIZED, Some(Code::SignatureInvalid)));
    // What was refused is still good, once.
    assert!(soon(session.websocket_at(&path, &made, None)).await.is_ok());
    let refused = soon(session.websocket_at(&path, &made, None)).await.err().unwrap();
    assert_eq!(refused, Failure::Unsigned(StatusCode::UNAUTHORIZED, Some(Code::Replayed)));
}

#[tokio::test]
async fn a_requests_signature_opens_no_websocket() {
    let test = sockets().await;
    let session = session(&test.browser).await;
    let signed = session.sign(Request::get("/echo").body(Bytes::new()).unwrap());
    let input = signed.request.headers()["signature-input"].to_str().unwrap().strip_prefix("relay=").unwrap();
    let input: String = input.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path =
        format!("/echo?relay-signature-input={input}&relay-signature={}", b64::encode(signed.signature));
    let opened = soon(client::websocket(test.setup.addr, &path, &[("x-relay-records", "1")])).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(refused)) = opened else { panic!("it was opened") };
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(test.setup.refused("bad_request"), 1);
}

#[tokio::test]
async fn revoking_closes_it_at_once() {
    let mut test = sockets().await;
    let session = session(&test.browser).await;
    let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
    test.setup.pairing.browsers().revoke(test.browser.client_id).unwrap();
    assert_eq!(soon(test.ended.recv()).await.unwrap(), "broken");
    assert_eq!(close_code(&mut socket).await, Some(1008));
    until_none_is_open(&test.setup).await;
}

#[tokio::test]
async fn a_local_server_that_refuses_or_fails_is_told_in_records() {
    let test = sockets().await;
    let session = session(&test.browser).await;
    let mut socket = soon(session.websocket("/refuse", Some("a"))).await.unwrap();
    assert_eq!(
        (socket.head.status, &socket.head.headers["x-why"]),
        (StatusCode::FORBIDDEN, &"no".parse().unwrap())
    );
    let end = soon(socket.next()).await.unwrap();
    assert_eq!((end.kind, end.payload.len()), (Kind::End, 0));
    // One that switches to something else, and one that is not there.
    let (switches, _) = local(|mut socket| async move {
        head(&mut socket).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
        socket.write_all(answer).await.unwrap();
    })
    .await;
    for (target, code) in [
        (switches, Code::LocalServerFailed),
        ("http://127.0.0.1:9".parse().unwrap(), Code::LocalServerUnreachable),
    ] {
        let setup = Setup::new(target).await;
        let browser = setup.browser().await;
        let session = soon(browser.session()).await.unwrap();
        let refused = soon(session.websocket("/", None)).await.err().unwrap();
        assert_eq!(refused, Failure::Agent(code));
        until_none_is_open(&setup).await;
    }
}

#[tokio::test]
async fn a_service_inside_this_program_speaks_websocket_too() {
    let (sender, _ended) = mpsc::channel(1);
    let setup = Setup::new(LocalTarget::service(router(sender))).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut socket = soon(session.websocket("/echo", None)).await.unwrap();
    socket.send(Kind::Text, "inside").await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().payload, "inside");
    soon(socket.close()).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_slows_the_sender() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    let router = Router::new().route(
        "/",
        any(move |upgrade: WebSocketUpgrade| async move {
            upgrade.on_upgrade(move |mut socket| async move {
                while socket.send(AxumMessage::Binary(Bytes::from(vec![1; 64 * 1024]))).await.is_ok() {
                    count.fetch_add(64 * 1024, Ordering::SeqCst);
                }
            })
        }),
    );
    let setup = Setup::new(app(router).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut socket = soon(session.websocket("/", None)).await.unwrap();
    let mut before = usize::MAX;
    soon(async {
        while sent.load(Ordering::SeqCst) != before {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    })
    .await;
    assert!(before < 64 << 20, "{before}");
    for _ in 0..100 {
        assert_eq!(soon(socket.next()).await.unwrap().kind, Kind::Binary);
    }
    drop(socket);
    until_none_is_open(&setup).await;
}
