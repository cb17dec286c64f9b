//! The whole way: an offer inside a signed request, and exchanges on the streams of the peer that it makes.

use crate::{
    browser::{self, Browser as Window, Connected, SOON},
    common::app,
    setup::Setup,
    signed::{Failure, Session},
};
use axum::{Router, body::Bytes as Body, routing::any};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use local_agent_client::{
    gate::Options,
    peer::{Answer, Peers, sdp::MAX_SDP},
};
use relay_protocol::{
    exchange::{Prelude, RequestHead},
    keys::BrowserSigningKey,
    problem::Code,
    record::{Decoder, Direction, Head, Kind, Protect, SignedOpen, SignedProtect},
    tunnel::Stream,
};
use serde_json::{Value, json};
use std::io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use uuid::Uuid;

/// Tells the method, a header, and the body.
async fn tell(method: Method, uri: Uri, headers: HeaderMap, body: Body) -> String {
    let of = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
    format!(
        "{method} {uri} host={} relayed={} proto={} for={} {}",
        of("x-forwarded-host"),
        of("x-relayed"),
        of("x-forwarded-proto"),
        of("x-forwarded-for"),
        body.len()
    )
}

async fn agent() -> Setup {
    let peers = Peers::new(browser::settings());
    let target = app(Router::new().route("/{*rest}", any(tell))).await;
    Setup::of(target, Options { peers, ..Options::default() }, None).await
}

fn offer(sdp: &str, rest: Value) -> Request<Bytes> {
    let mut body = json!({"v": 1, "sdp": sdp});
    if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
        body.extend(rest);
    }
    Request::post("/_relay/webrtc")
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))
        .unwrap()
}

/// The agent's own paths are answered in one piece.
async fn ask(session: &Session<'_>, request: Request<Bytes>) -> Result<crate::signed::Answer, Failure> {
    session.browser.sign(session.id, request).send_buffered(session.browser).await
}

async fn upgrade(session: &Session<'_>) -> Connected {
    let mut window = Window::new().await;
    let answered = ask(session, offer(&window.offer().await, json!({}))).await.unwrap();
    let answered: Value = serde_json::from_slice(&answered.body).unwrap();
    assert_eq!(answered["v"], 1);
    let answer = Answer {
        peer_id: answered["peer_id"].as_str().unwrap().parse().unwrap(),
        sdp: answered["sdp"].as_str().unwrap().to_owned(),
    };
    window.accept(&answer).await;
    window.open().await;
    Connected::new(window, answer)
}

/// The bytes of an exchange.
fn exchange(session: &Session<'_>, number: u64, method: Method, target: &str, body: &[u8]) -> Bytes {
    let prelude = Prelude { session_id: session.id, number };
    let mut protect = SignedProtect::new(
        BrowserSigningKey::from_seed(&session.browser.key.reveal_seed()),
        prelude.binding(),
        Direction::ToAgent,
    );
    let head =
        RequestHead { method, target: target.parse().unwrap(), headers: HeaderMap::new(), websocket: false };
    let mut bytes = BytesMut::from(&prelude.to_bytes()[..]);
    let mut add = |kind, payload: Bytes| protect.protect(kind, payload).unwrap().write(&mut bytes);
    add(Kind::Head, head.encode().unwrap());
    for piece in body.chunks(32 * 1024) {
        add(Kind::Data, Bytes::copy_from_slice(piece));
    }
    add(Kind::End, Bytes::new());
    bytes.freeze()
}

async fn send(peer: &Connected, bytes: &[u8]) -> Stream {
    let mut stream = peer.handle.open().await.unwrap();
    let _ = stream.write_all(bytes).await;
    stream
}

/// Reads a whole answer, which has to verify.
async fn answer(session: &Session<'_>, number: u64, stream: &mut Stream) -> io::Result<(StatusCode, String)> {
    let prelude = Prelude { session_id: session.id, number };
    let mut decoder =
        Decoder::new(SignedOpen::new(session.browser.agent, prelude.binding(), Direction::ToBrowser));
    let (mut status, mut body) = (None, Vec::new());
    loop {
        while let Some(record) = decoder.next_record().unwrap() {
            match record.kind {
                Kind::Head => status = Some(Head::decode(&record.payload).unwrap().status),
                Kind::Data => body.extend_from_slice(&record.payload),
                Kind::End => return Ok((status.unwrap(), String::from_utf8(body).unwrap())),
                other => panic!("{other:?}"),
            }
        }
        let mut piece = vec![0; 32 * 1024];
        let count = timeout(SOON, stream.read(&mut piece)).await.expect("no answer")?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(count);
        decoder.push(piece.into());
    }
}

/// The code of the error that an answer is broken off with, `None` for a reset.
async fn answer_or_error(session: &Session<'_>, number: u64, stream: &mut Stream) -> Option<String> {
    let prelude = Prelude { session_id: session.id, number };
    let mut decoder =
        Decoder::new(SignedOpen::new(session.browser.agent, prelude.binding(), Direction::ToBrowser));
    let mut all = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut all)).await.expect("neither answered nor reset");
    decoder.push(all.into());
    match decoder.next_record().unwrap() {
        Some(record) if record.kind == Kind::Error => {
            let problem: Value = serde_json::from_slice(&record.payload).unwrap();
            Some(problem["code"].as_str().unwrap().to_owned())
        }
        Some(record) => panic!("{:?}", record.kind),
        None => {
            assert!(read.is_err(), "it ended with nothing");
            None
        }
    }
}

/// Whether a stream was reset before a byte came.
async fn is_reset(stream: &mut Stream) -> bool {
    timeout(SOON, stream.read_u8())
        .await
        .expect("neither answered nor reset")
        .is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_reach_the_local_server_past_the_relay() {
    let setup = agent().await;
    let browser = setup.browser().await;
    let session = browser.session().await.unwrap();
    let peer = upgrade(&session).await;
    let mut stream = send(&peer, &exchange(&session, 0, Method::GET, "/a?b=c", b"")).await;
    let (status, told) = answer(&session, 0, &mut stream).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(told, "GET /a?b=c host=relay.example relayed=1 proto=https for=none 0");
    let mut stream = send(&peer, &exchange(&session, 1, Method::POST, "/up", &[7; 300_000])).await;
    let (_, told) = answer(&session, 1, &mut stream).await.unwrap();
    assert!(told.starts_with("POST /up ") && told.ends_with(" 300000"), "{told}");
    // The agent's own paths are there too.
    let mut stream = send(&peer, &exchange(&session, 2, Method::GET, "/_relay/browsers", b"")).await;
    let (status, told) = answer(&session, 2, &mut stream).await.unwrap();
    assert!(status == StatusCode::OK && told.contains(&browser.client_id.to_string()));
}

/// An offer may come over a peer as well, inside an exchange.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_window_is_let_in_by_the_first_ones_peer() {
    let setup = agent().await;
    let browser = setup.browser().await;
    let session = browser.session().await.unwrap();
    let peer = upgrade(&session).await;
    let mut window = Window::new().await;
    let body = json!({"v": 1, "sdp": window.offer().await, "ice_servers": []}).to_string();
    let bytes = exchange(&session, 0, Method::POST, "/_relay/webrtc", body.as_bytes());
    let mut stream = send(&peer, &bytes).await;
    let (status, told) = answer(&session, 0, &mut stream).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{told}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let answered = Answer {
        peer_id: told["peer_id"].as_str().unwrap().parse().unwrap(),
        sdp: told["sdp"].as_str().unwrap().to_owned(),
    };
    window.accept(&answered).await;
    window.open().await;
    let second = Connected::new(window, answered);
    let mut stream = send(&second, &exchange(&session, 1, Method::GET, "/x", b"")).await;
    assert_eq!(answer(&session, 1, &mut stream).await.unwrap().0, StatusCode::OK);
    // The first goes on.
    let mut stream = send(&peer, &exchange(&session, 2, Method::GET, "/x", b"")).await;
    assert_eq!(answer(&session, 2, &mut stream).await.unwrap().0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_answered_is_reset_without_a_byte() {
    let setup = agent().await;
    let (browser, other) = (setup.browser().await, setup.browser().await);
    let session = browser.session().await.unwrap();
    let second = browser.session().await.unwrap();
    let foreign = other.session().await.unwrap();
    let peer = upgrade(&session).await;
    let good = exchange(&session, 0, Method::GET, "/x", b"");
    let mut stream = send(&peer, &good).await;
    answer(&session, 0, &mut stream).await.unwrap();
    let mut bent = exchange(&session, 1, Method::GET, "/x", b"").to_vec();
    bent[40] ^= 1;
    let unknown = Prelude { session_id: Uuid::from_u128(5), number: 0 };
    for (what, bytes) in [
        ("another browser's session", exchange(&foreign, 0, Method::GET, "/x", b"").to_vec()),
        ("a number that was used", good.to_vec()),
        ("a record that does not open", bent),
        ("no session", unknown.to_bytes().iter().chain(&good[24..]).copied().collect()),
        ("nothing that can be read", vec![0xff; 500]),
    ] {
        let mut stream = send(&peer, &bytes).await;
        assert!(is_reset(&mut stream).await, "{what}");
    }
    // Another session of the same browser may use it.
    let mut stream = send(&peer, &exchange(&second, 0, Method::GET, "/x", b"")).await;
    answer(&second, 0, &mut stream).await.unwrap();
    // What was refused used no number.
    let mut stream = send(&peer, &exchange(&session, 1, Method::GET, "/x", b"")).await;
    answer(&session, 1, &mut stream).await.unwrap();
}

#[tokio::test]
async fn revoking_the_browser_ends_its_peers_at_once() {
    let setup = agent().await;
    let (browser, other) = (setup.browser().await, setup.browser().await);
    let (session, others) = (browser.session().await.unwrap(), other.session().await.unwrap());
    let (peer, stays) = (upgrade(&session).await, upgrade(&others).await);
    // Begun, and never ended.
    let bytes = exchange(&session, 0, Method::POST, "/x", b"some");
    let mut stream = send(&peer, &bytes[..bytes.len() - 10]).await;
    timeout(SOON, stream.established()).await.unwrap().unwrap();
    setup.pairing.browsers().revoke(browser.client_id).unwrap();
    // Nothing of what it asked for: a reset, or the word that the session has ended and then nothing.
    let told = answer_or_error(&session, 0, &mut stream).await;
    assert!(told.is_none_or(|code| code == Code::SigningSessionEnded.as_str()), "an answer");
    timeout(SOON, peer.handle.closed()).await.expect("the channel stays open");
    let mut stream = send(&stays, &exchange(&others, 0, Method::GET, "/x", b"")).await;
    answer(&others, 0, &mut stream).await.unwrap();
}

/// Who ends its own peer, or is revoked, over that very peer, gets to know that it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_a_peer_is_answered_over_it() {
    let setup = agent().await;
    for revokes in [false, true] {
        let browser = setup.browser().await;
        let session = browser.session().await.unwrap();
        let peer = upgrade(&session).await;
        let target = if revokes {
            format!("/_relay/browsers/{}", browser.client_id)
        } else {
            format!("/_relay/webrtc/{}", peer.answer.peer_id)
        };
        let mut stream = send(&peer, &exchange(&session, 0, Method::DELETE, &target, b"")).await;
        let (status, _) = answer(&session, 0, &mut stream).await.unwrap();
        assert_eq!(status, StatusCode::NO_CONTENT, "{target}");
        // Its end too, and not a reset.
        assert_eq!(timeout(SOON, stream.read_to_end(&mut Vec::new())).await.unwrap().unwrap(), 0);
        timeout(SOON, peer.handle.closed()).await.expect("the channel stays open");
    }
}

#[tokio::test]
async fn too_many_offers_are_refused() {
    let setup = agent().await;
    let (browser, other) = (setup.browser().await, setup.browser().await);
    let (session, foreign) = (browser.session().await.unwrap(), other.session().await.unwrap());
    for _ in 0..16 {
        let refused = ask(&session, offer("v=0", json!({}))).await.err();
        assert_eq!(refused, Some(Failure::Agent(Code::BadRequest)));
    }
    let refused = async || ask(&session, offer("v=0", json!({}))).await.err();
    // One more may come every two seconds, and a busy machine takes its time.
    let limited =
        timeout(SOON, async { while refused().await != Some(Failure::Agent(Code::RateLimited)) {} });
    limited.await.expect("there is no limit");
    assert_eq!(ask(&foreign, offer("v=0", json!({}))).await.err(), Some(Failure::Agent(Code::BadRequest)));
}

#[tokio::test]
async fn a_peer_is_ended_by_its_browser_alone() {
    let setup = agent().await;
    let (browser, other) = (setup.browser().await, setup.browser().await);
    let (session, foreign) = (browser.session().await.unwrap(), other.session().await.unwrap());
    let peer = upgrade(&session).await;
    let end =
        || Request::delete(format!("/_relay/webrtc/{}", peer.answer.peer_id)).body(Bytes::new()).unwrap();
    assert_eq!(ask(&foreign, end()).await.err(), Some(Failure::Agent(Code::NotFound)));
    assert_eq!(ask(&session, end()).await.unwrap().status, StatusCode::NO_CONTENT);
    timeout(SOON, peer.handle.closed()).await.expect("the channel stays open");
    assert_eq!(ask(&session, end()).await.err(), Some(Failure::Agent(Code::NotFound)));
}

#[tokio::test]
async fn offers_that_cannot_be_answered_are_refused_in_words() {
    let setup = agent().await;
    let browser = setup.browser().await;
    let session = browser.session().await.unwrap();
    let sdp = Window::new().await.offer().await;
    let long = format!("{sdp}a={}\r\n", "x".repeat(MAX_SDP));
    let gone = Uuid::from_u128(7);
    let many = json!([{"urls": ["stun:a"]}, {"urls": []}, {"urls": []}, {"urls": []}, {"urls": []}]);
    for (what, request, expected) in [
        ("a newer version", offer(&sdp, json!({"v": 2})), Code::AgentOutdated),
        ("no SDP", offer("hello", json!({})), Code::BadRequest),
        ("a long one", offer(&long, json!({})), Code::BadRequest),
        ("a peer that is gone", offer(&sdp, json!({"peer_id": gone})), Code::NotFound),
        ("too many servers", offer(&sdp, json!({"ice_servers": many})), Code::BadRequest),
        ("a web server", offer(&sdp, json!({"ice_servers": [{"urls": ["http://a"]}]})), Code::BadRequest),
        ("a bad port", offer(&sdp, json!({"ice_servers": [{"urls": ["stun:a:99999"]}]})), Code::BadRequest),
        ("bad brackets", offer(&sdp, json!({"ice_servers": [{"urls": ["stun:[::1"]}]})), Code::BadRequest),
        ("no JSON", Request::post("/_relay/webrtc").body(Bytes::from("{")).unwrap(), Code::BadRequest),
    ] {
        assert_eq!(ask(&session, request).await.err(), Some(Failure::Agent(expected)), "{what}");
    }
}

#[tokio::test]
async fn an_agent_without_peers_says_so() {
    let target = app(Router::new().route("/{*rest}", any(tell))).await;
    for (peers, has) in [(None, false), (Peers::new(browser::settings()), true)] {
        let setup = Setup::of(target.clone(), Options { peers, ..Options::default() }, None).await;
        let hello = setup.pair.get("/_relay/hello").await.1;
        assert_eq!(hello.contains("\"webrtc\""), has, "{hello}");
        let browser = setup.browser().await;
        let session = browser.session().await.unwrap();
        let sdp = Window::new().await.offer().await;
        let asked = ask(&session, offer(&sdp, json!({}))).await;
        assert_eq!(asked.err(), (!has).then_some(Failure::Agent(Code::NotFound)));
        let unsigned = setup.pair.get("/_relay/webrtc").await.0;
        assert_eq!(unsigned, 405);
    }
}
