//! WebSockets inside exchanges, over the relay.

use crate::{
    client,
    common::{app, soon},
    exchanges::both,
    setup::Setup,
    signed::Failure,
    websockets::{close_code, router},
};
use bytes::Bytes;
use futures_util::SinkExt;
use http::{HeaderMap, Method, StatusCode};
use relay_protocol::{
    exchange::{PATH, RequestHead, encode_query},
    problem::Code,
    record::{Close, Kind, Record},
};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn messages_and_closes_pass_both_ways() {
    let (ended, mut told) = mpsc::channel(16);
    let setup = Setup::new(app(router(ended)).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let mut socket = soon(session.websocket("/echo?x=%20", Some("a, b"))).await.unwrap();
        assert_eq!(socket.head.status, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(socket.head.headers["sec-websocket-protocol"], "b", "inside, not outside");
        for (kind, payload) in [
            (Kind::Text, Bytes::from("hällo")),
            (Kind::Binary, Bytes::from(vec![3; 4 << 20])),
            (Kind::Text, Bytes::new()),
        ] {
            socket.send(kind, payload.clone()).await.unwrap();
            assert_eq!(soon(socket.next()).await.unwrap(), Record { kind, payload });
        }
        soon(socket.close()).await.unwrap();
        let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
        let close = Close { code: 4000, reason: "bye".into() };
        socket.send(Kind::Close, Close::encode(Some(&close))).await.unwrap();
        assert_eq!(soon(told.recv()).await.unwrap(), "closed 4000 bye");
        let answer = soon(socket.next()).await.unwrap();
        assert_eq!(Close::decode(&answer.payload).unwrap().unwrap().code, 4000);
        assert_eq!(close_code(&mut socket).await, Some(1000));
        let mut socket = soon(session.websocket("/close", None)).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().kind, Kind::Ping);
        let close = soon(socket.next()).await.unwrap();
        assert_eq!(Close::decode(&close.payload).unwrap().unwrap().code, 4001);
        // One that breaks off is no end.
        let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
        socket.send(Kind::Error, "{}").await.unwrap();
        assert_eq!(soon(told.recv()).await.unwrap(), "broken");
        assert_eq!(close_code(&mut socket).await, Some(1000));
        let mut refused = soon(session.websocket("/refuse", None)).await.unwrap();
        assert_eq!(refused.head.status, StatusCode::FORBIDDEN);
        assert_eq!(soon(refused.next()).await.unwrap().kind, Kind::End);
    }
    setup.until_idle().await;
}

#[tokio::test]
async fn what_is_not_the_browsers_opens_nothing() {
    let (ended, _told) = mpsc::channel(16);
    let setup = Setup::new(app(router(ended)).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let (path, exchange) = session.seal_upgrade("/echo", None);
        let mut altered = path.clone().into_bytes();
        let at = altered.len() - 20;
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        for (what, path, code) in [
            ("altered", String::from_utf8(altered).unwrap(), Code::SignatureInvalid),
            ("cut", path[..path.len() - 40].to_owned(), Code::BadRequest),
            ("more", format!("{path}&a=1"), Code::BadRequest),
            ("nothing", PATH.to_owned(), Code::BadRequest),
        ] {
            let refused = soon(session.websocket_at(&path, session.exchange())).await.err().unwrap();
            assert_eq!(refused, Failure::Unsigned(code.status(), Some(code)), "{what}");
        }
        let named = soon(client::websocket(browser.addr, &path, &[("sec-websocket-protocol", "a")])).await;
        assert!(named.is_err());
        // Still good, once.
        assert!(soon(session.websocket_at(&path, exchange)).await.is_ok());
        let refused = soon(session.websocket_at(&path, session.exchange())).await.err().unwrap();
        assert_eq!(refused, Failure::Unsigned(StatusCode::UNAUTHORIZED, Some(Code::Replayed)));
        // Heads that ask for something else are answered in records.
        for (target, websocket, code) in [
            ("/echo", false, Code::BadRequest),
            ("/_relay/browsers", true, Code::NotFound),
            ("/x/..%2f_relay", true, Code::NotFound),
        ] {
            let mut exchange = session.exchange();
            let target = target.parse().unwrap();
            let head = RequestHead { method: Method::GET, target, headers: HeaderMap::new(), websocket };
            let record = exchange.record(Kind::Head, head.encode().unwrap());
            let path = format!("{PATH}?{}", encode_query(&exchange.prelude, &record).unwrap());
            let refused = soon(session.websocket_at(&path, exchange)).await.err().unwrap();
            assert_eq!(refused, Failure::Agent(code));
        }
    }
}

#[tokio::test]
async fn a_wrong_record_and_a_revoked_browser_close_it() {
    let (ended, mut told) = mpsc::channel(16);
    let setup = Setup::new(app(router(ended)).await).await;
    for form in 0..2 {
        let browser = setup.browser().await;
        let session = &both(&browser).await[form];
        type Alter = fn(&mut Vec<u8>);
        let alterations: [Alter; 3] =
            [|bytes| bytes[6] ^= 1, |bytes| bytes.truncate(9), |bytes| bytes.push(0)];
        for alter in alterations {
            let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
            let mut bytes = socket.protect(Kind::Text, "hello").to_vec();
            alter(&mut bytes);
            socket.ws.send(Message::Binary(bytes.into())).await.unwrap();
            assert_eq!(soon(told.recv()).await.unwrap(), "broken");
            assert_eq!(close_code(&mut socket).await, Some(1002));
        }
        let mut socket = soon(session.websocket("/tell", None)).await.unwrap();
        setup.pairing.browsers().revoke(browser.client_id).unwrap();
        assert_eq!(soon(told.recv()).await.unwrap(), "broken");
        assert_eq!(close_code(&mut socket).await, Some(1008));
    }
    setup.until_idle().await;
}
