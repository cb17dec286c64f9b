//! Everything that the relay sees while an app is used, searched for what was said: in a sealed session nothing is
//! there, in a signed one everything is, which proves the search.
//!
//! Two men in the middle listen: one between browser and relay, one in the agent's tunnel, so that nothing of what
//! passes the relay in either direction is missed.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body as AxumBody,
    extract::{
        Request as AxumRequest, WebSocketUpgrade,
        ws::{CloseFrame, Message as AxumMessage},
    },
    response::{IntoResponse, Response},
    routing::{any, get},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, Method, Request, StatusCode};
use relay_protocol::{
    api::HostStatus,
    record::{Close, Kind},
};
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON,
    hostile::{Hostile, Listens, Seen, Way},
    records::Socket,
    sealed, signed,
    signed::{Answer, Browser, Failure},
    stack::{EMAIL, HOST},
};

use crate::Bytes;

/// What is said, in one direction or the other. All of it is unusual enough not to occur by chance.
const METHOD: &str = "PROPFIND";
const PATH: &str = "/quarterly-figures/plan-of-the-okapi";
const QUERY: &str = "account=wombat-9921&key=zebra%20crossing";
const HEADER: (&str, &str) = ("x-unheard-of-name", "value-of-the-narwhal");
const LOGIN: &str = "Bearer token-of-the-quokka";
const BODY: &str = "the body speaks of the axolotl";
const STATUS: &str = "\"status\":418";
const ANSWER_HEADER: (&str, &str) = ("x-answering-name", "value-of-the-pangolin");
const COOKIE: (&str, &str) = ("cookie-of-the-ibex", "login-of-the-ibex");
const ANSWER: &str = "the answer speaks of the manatee";
const EVENT: &str = "data: the event speaks of the capybara\n\n";
const SOCKET: &str = "/socket-of-the-platypus";
const MESSAGE: &str = "the message speaks of the tapir";
const REPLY: &str = "the reply speaks of the echidna";
const REASON: &str = "goodbye says the numbat";
const REFUSED: &str = "/there-is-no-dugong";
const REFUSAL: &str = "nobody has seen the dugong";
const LARGE: &str = "a large body repeats the cassowary. ";

const ALL: [&str; 20] = [
    METHOD,
    PATH,
    QUERY,
    HEADER.0,
    HEADER.1,
    LOGIN,
    BODY,
    STATUS,
    ANSWER_HEADER.0,
    ANSWER_HEADER.1,
    COOKIE.0,
    COOKIE.1,
    ANSWER,
    EVENT,
    SOCKET,
    MESSAGE,
    REPLY,
    REASON,
    REFUSED,
    LARGE,
];

/// The local server, and what it heard.
async fn server() -> (LocalServer, Arc<Mutex<Vec<String>>>) {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let hear = Arc::clone(&heard);
    let plan = move |request: AxumRequest| {
        let hear = Arc::clone(&hear);
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.expect("a whole body");
            let line = format!("{} {} {:?}", parts.method, parts.uri, parts.headers);
            hear.lock().expect("not poisoned").push(line + &String::from_utf8_lossy(&body));
            let mut headers = HeaderMap::new();
            headers.insert(ANSWER_HEADER.0, ANSWER_HEADER.1.parse().expect("a value"));
            let cookie = format!("{}={}; Path=/", COOKIE.0, COOKIE.1);
            headers.insert("set-cookie", cookie.parse().expect("a value"));
            (StatusCode::IM_A_TEAPOT, headers, ANSWER).into_response()
        }
    };
    let events = || async {
        let body = AxumBody::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(EVENT)]));
        Response::builder().header("content-type", "text/event-stream").body(body).expect("a response")
    };
    let socket = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(|mut socket| async move {
            if let Some(Ok(AxumMessage::Text(text))) = socket.recv().await {
                assert_eq!(text, MESSAGE);
                socket.send(AxumMessage::text(REPLY)).await.ok();
                let close = CloseFrame { code: 4000, reason: REASON.into() };
                socket.send(AxumMessage::Close(Some(close))).await.ok();
                socket.recv().await;
            }
        })
    };
    // What was sent comes back.
    let large = |body: Bytes| async { body };
    let router = Router::new()
        .route(PATH, any(plan))
        .route("/events", get(events))
        .route(SOCKET, get(socket))
        .route("/large", any(large))
        .fallback(|| async { (StatusCode::NOT_FOUND, REFUSAL) });
    (LocalServer::router(router).await, heard)
}

/// Where an app is used.
enum Session<'a> {
    Signed(signed::Session<'a>),
    Sealed(sealed::Session<'a>),
}

impl Session<'_> {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        match self {
            Self::Signed(session) => session.fetch(request).await,
            Self::Sealed(session) => session.fetch(request).await,
        }
    }

    async fn websocket(&self, target: &str) -> Result<Socket, Failure> {
        match self {
            Self::Signed(session) => session.websocket(target, None).await,
            Self::Sealed(session) => session.websocket(target, None).await,
        }
    }

    /// Uses the app: everything that [`ALL`] names crosses in one direction or the other.
    async fn run(&self) {
        let target = format!("{PATH}?{QUERY}");
        let mut request = Request::builder()
            .method(Method::from_bytes(METHOD.as_bytes()).expect("a method"))
            .uri(&target)
            .header(HEADER.0, HEADER.1)
            .header("authorization", LOGIN);
        for round in 0..2 {
            // In a signed session the browser brings the cookie back, in a sealed one the agent keeps it.
            if let (1, Self::Signed(_), Some(headers)) = (round, self, request.headers_mut()) {
                let cookie = format!("{}={}", COOKIE.0, COOKIE.1);
                headers.insert("cookie", cookie.parse().expect("a value"));
            }
            let mut sent = Request::builder().method(METHOD).uri(&target);
            sent.headers_mut().expect("headers").clone_from(request.headers_ref().expect("headers"));
            let answer = self.fetch(sent.body(Bytes::from_static(BODY.as_bytes())).expect("a request")).await;
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (StatusCode::IM_A_TEAPOT, ANSWER));
            assert_eq!(answer.headers[ANSWER_HEADER.0], ANSWER_HEADER.1);
        }
        let get = |target: &str| Request::get(target).body(Bytes::new()).expect("a request");
        assert_eq!(self.fetch(get("/events")).await.expect("an answer").text(), EVENT);
        assert_eq!(self.fetch(get(REFUSED)).await.expect("an answer").text(), REFUSAL);
        let upload = Request::put("/large").body(Bytes::from(LARGE.repeat(5000))).expect("a request");
        assert_eq!(self.fetch(upload).await.expect("an answer").text(), LARGE.repeat(5000));
        let mut socket = self.websocket(SOCKET).await.expect("a socket");
        socket.send(Kind::Text, MESSAGE).await.expect("sent");
        assert_eq!(socket.next().await.expect("a reply").payload, REPLY);
        let close = socket.next().await.expect("a close");
        let close = Close::decode(&close.payload).expect("a close").expect("a code");
        assert_eq!(close.reason, REASON);
    }
}

/// A text as it might be written: as it is, in hex, and in base64 at each of the three places where it may begin.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut forms = vec![
        bytes.to_vec(),
        system_tests::hex(bytes).into_bytes(),
        system_tests::hex(bytes).to_uppercase().into_bytes(),
        bytes.iter().rev().copied().collect(),
    ];
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(bytes);
        for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            // The characters at both ends depend on what stands beside.
            let whole = encoded.as_bytes();
            let from = before.div_ceil(3) * 4;
            let until = whole.len() - if padded.len().is_multiple_of(3) { 0 } else { 2 };
            forms.push(whole[from..until].to_vec());
        }
    }
    assert!(forms.iter().all(|form| form.len() >= 4), "{text}");
    forms
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

/// Which of the texts were seen, in any form.
fn found(all: &[Seen]) -> Vec<&'static str> {
    let both = |seen: &Seen| [seen.joined(Way::In), seen.joined(Way::Out)];
    let texts: Vec<Vec<u8>> = all.iter().flat_map(both).collect();
    let seen = |text: &str| forms(text).iter().any(|form| texts.iter().any(|all| holds(all, form)));
    ALL.into_iter().filter(|text| seen(text)).collect()
}

/// Uses the app in a session of this form; gives what the relay saw and said.
async fn capture(is_sealed: bool) -> (Vec<&'static str>, String) {
    let (local, heard) = server().await;
    let relay = Relay::start(RelayOptions::default().env("RUST_LOG", "trace")).await;
    let token = relay.user_with_token(EMAIL).await;
    let tunnel = Hostile::start(relay.addr, Listens).await;
    let base = format!("http://{}", tunnel.addr);
    let agent = Agent::spawn(AgentOptions::new(&base, &local.url(), &token, HOST).paired());
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let id = relay.create_session(&token, host).await;
    let front = Hostile::start(relay.addr, Listens).await;
    let (mut pair, code) = agent.show_code().await;
    let prefix = format!("/v1/relay/h/{host}/s/{id}");
    let browser = Browser::pair(front.addr, &prefix, host, &code).await.expect("it pairs");
    assert!(pair.wait(SOON).await.success(), "{}", pair.log());
    let session = if is_sealed {
        Session::Sealed(browser.sealed().await.expect("a session"))
    } else {
        Session::Signed(browser.session().await.expect("a session"))
    };
    session.run().await;
    // It did happen: the local server heard every word, and the cookie came back.
    let heard = heard.lock().expect("not poisoned").clone();
    assert_eq!(heard.len(), 2);
    for text in [METHOD, PATH, QUERY, HEADER.0, HEADER.1, LOGIN, BODY, COOKIE.0, COOKIE.1] {
        assert!(heard[1].contains(text), "{text} is not in {heard:?}");
    }
    // And the men in the middle were there.
    for seen in [&front.seen, &tunnel.seen] {
        assert!(seen.contains(b"/_relay/session"), "they listen");
    }
    (found(&[front.seen.clone(), tunnel.seen.clone()]), relay.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_signed_session_the_relay_sees_everything() {
    let (seen, _) = capture(false).await;
    assert_eq!(seen, ALL, "the search finds what is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_sealed_session_the_relay_sees_nothing() {
    let (seen, log) = capture(true).await;
    assert!(seen.is_empty(), "{seen:?}");
    for text in ALL {
        assert!(!log.contains(text), "{text} is in the relay's log");
    }
}
