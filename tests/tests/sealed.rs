//! Exchanges of PROTOCOL.md section 5 through a real relay, a real agent and a real local server: everything
//! that apps do, in sealed sessions and in the signed form.

#[path = "sealed/cookies.rs"]
mod cookies;
#[path = "sealed/lives.rs"]
mod lives;
#[path = "sealed/uploads.rs"]
mod uploads;

use std::sync::{Arc, Mutex};

use axum::{Router, body::Body as AxumBody, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use nix::sys::signal::Signal;
use relay_protocol::{
    keys::b64,
    pairing::open_code_with_salt,
    problem::Code,
    record::{Close, Kind},
    sealed::Profile,
};
use serde_json::Value;
use system_tests::{
    LocalServer, RelayOptions, SOON, Stack, eventually, local, noise,
    sealed::Session,
    sha256,
    signed::{Browser, Failure},
    within,
};
use tokio::sync::mpsc;

/// Starts the agent again, with the same state, and waits until it answers.
async fn restart(stack: &mut Stack) {
    stack.agent.signal(Signal::SIGTERM);
    assert!(stack.agent.process.wait(SOON).await.success());
    stack.agent.respawn();
    eventually("the agent is back", SOON, || async { stack.get("/_relay/hello").await.status.is_success() })
        .await;
}

fn request(method: &str, target: &str, body: &'static str) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(target);
    request.body(Bytes::from_static(body.as_bytes())).expect("a request")
}

/// A session of every form that takes exchanges.
async fn every_form(browser: &Browser) -> [(&'static str, Session<'_>); 3] {
    [
        ("noise-ikpsk2", browser.sealed().await.expect("a sealed session")),
        ("noise-ik", browser.sealed_by(Profile::NoiseIk).await.expect("a sealed session")),
        ("signed", browser.exchanges().await.expect("a signed session")),
    ]
}

/// An answer that the test writes piece by piece.
fn written() -> (mpsc::Sender<Bytes>, Router) {
    let (pieces, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let stream = move || async move {
        let mut receiver = receiver.lock().unwrap().take().expect("one request");
        AxumBody::from_stream(futures_util::stream::poll_fn(move |cx| {
            receiver.poll_recv(cx).map(|piece| piece.map(Ok::<_, std::io::Error>))
        }))
    };
    (pieces, local::app().route("/written", get(stream)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_arrives_as_it_was_sent() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let target = "/echo?a=%2F&b=//..;c";
    for (form, session) in every_form(&browser).await {
        for (method, body) in [
            ("GET", ""),
            ("POST", "posted"),
            ("PUT", "put"),
            ("PATCH", "patched"),
            ("DELETE", ""),
            ("DELETE", "with a body"),
            ("OPTIONS", ""),
            ("PROPFIND", "<propfind/>"),
            ("POST", ""),
        ] {
            let answer = session.fetch(request(method, target, body)).await;
            let answer = answer.unwrap_or_else(|error| panic!("{form} {method}: {error:?}"));
            let echoed: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(
                (&echoed["method"], &echoed["target"], &echoed["body"]),
                (&method.into(), &target.into(), &body.into()),
                "{form}"
            );
            assert_eq!(answer.headers["content-type"], "application/json", "{form} {method}");
        }
        let head = session.fetch(request("HEAD", "/hello", "")).await.expect(form);
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0), "{form}");
        let missing = session.get("/nothing-here").await.expect(form);
        assert_eq!(missing.status, StatusCode::NOT_FOUND, "{form}: the local server's own answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_headers_the_local_server_gets_the_browsers_and_the_agents() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    for (form, session) in every_form(&browser).await {
        let mut request = request("POST", "/echo", "x");
        for (name, value) in [
            ("x-own", "kept"),
            ("authorization", "Bearer of-the-app"),
            ("accept-encoding", "br, gzip, zstd"),
            ("referer", "https://app.example/page"),
            ("content-type", "text/plain"),
            ("host", "evil.example"),
            ("content-length", "999"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("cookie", "forged=1"),
            ("expect", "100-continue"),
            ("forwarded", "for=evil"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-relayed", "0"),
            ("x-relay-client-id", "somebody"),
            ("x-relay-anything", "1"),
            ("signature", "relay=:AA==:"),
            ("signature-input", "relay=()"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = session.fetch(request).await.expect(form);
        let echoed: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let headers: Vec<(String, String)> = serde_json::from_value(echoed["headers"].clone()).unwrap();
        let all = |name: &str| -> Vec<&str> {
            headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(all("x-own"), ["kept"], "{form}");
        assert_eq!(all("authorization"), ["Bearer of-the-app"], "{form}");
        assert_eq!(all("content-type"), ["text/plain"], "{form}");
        assert_eq!(all("host"), [server.addr.to_string()], "{form}");
        assert_eq!(all("x-relayed"), ["1"], "{form}");
        assert_eq!(all("x-relay-client-id"), [browser.client_id.to_string()], "{form}");
        assert_eq!(all("x-forwarded-for"), ["127.0.0.1"], "{form}: the relay's");
        assert_eq!(all("x-forwarded-prefix").len(), 1, "{form}");
        assert_eq!(all("accept-encoding"), ["gzip"], "{form}: what scripts can decode");
        for name in [
            "cookie",
            "expect",
            "forwarded",
            "x-hop",
            "x-real-ip",
            "x-relay-anything",
            "signature",
            "signature-input",
        ] {
            assert!(all(name).is_empty(), "{form} {name}: {headers:?}");
        }
        assert!(!echoed.to_string().contains(&stack.session.to_string()), "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_both_ways() {
    const SIZE: usize = 8 << 20;
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    for (form, session) in every_form(&browser).await {
        let body = noise(1, SIZE);
        let request = Request::put("/digest").body(body.clone()).unwrap();
        let answer = session.fetch(request).await.expect(form);
        assert_eq!(answer.text(), format!("{SIZE} {}", sha256(&body)), "{form}");
        let big = session.get(&format!("/big/{SIZE}")).await.expect(form);
        assert_eq!(format!("{SIZE} {}", sha256(&big.body)), local::big_digest(SIZE as u64).await, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_exchanges_at_once_keep_apart() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let session = browser.sealed().await.expect("a sealed session");
    let all = (0..100).map(|n| {
        let session = &session;
        async move {
            let target = format!("/echo?n={n}");
            let request = Request::post(&target).body(noise(n, 3000)).unwrap();
            let answer = session.fetch(request).await.expect("an answer");
            let echoed: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(echoed["target"], target.as_str());
        }
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_here_before_the_next_one_is_written() {
    for sealed in [true, false] {
        let (events, router) = written();
        let server = LocalServer::router(router).await;
        let stack = Stack::paired(&server.url()).await;
        let browser = stack.browser().await;
        let session =
            if sealed { browser.sealed().await } else { browser.exchanges().await }.expect("a session");
        let whole = session.seal(&request("GET", "/written", ""));
        let mut stream = within("the head", SOON, session.open(&whole)).await.expect("a head");
        for n in 0..10 {
            let event = Bytes::from(format!("data: {n}\n\n"));
            events.send(event.clone()).await.expect("taken");
            assert_eq!(within("an event", SOON, stream.next()).await.expect("a record").payload, event);
        }
        drop(events);
        assert_eq!(within("the end", SOON, stream.next()).await.expect("a record").kind, Kind::End);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_echo_answer_and_close() {
    let router = local::app().route("/refused", get(|| async { (StatusCode::FORBIDDEN, "no sockets here") }));
    let server = LocalServer::router(router).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    for (form, session) in every_form(&browser).await {
        let mut socket = within("the head", SOON, session.websocket("/ws?room=1", None)).await.expect(form);
        assert_eq!(socket.head.status, StatusCode::SWITCHING_PROTOCOLS, "{form}");
        for (kind, message) in [
            (Kind::Text, Bytes::from_static("grüß dich".as_bytes())),
            (Kind::Binary, noise(3, 1 << 20)),
            (Kind::Text, Bytes::new()),
            (Kind::Binary, noise(4, 4 << 20)),
        ] {
            socket.send(kind, message.clone()).await.expect(form);
            let echoed = within("the echo", SOON, socket.next()).await.expect(form);
            assert_eq!((echoed.kind, echoed.payload), (kind, message), "{form}");
        }
        socket.send(Kind::Ping, "are you there").await.expect(form);
        let pong = within("a pong", SOON, socket.next()).await.expect(form);
        assert_eq!((pong.kind, &pong.payload[..]), (Kind::Pong, &b"are you there"[..]), "{form}");
        // The local server closes with a code of its own.
        socket.send(Kind::Text, "close 4321 enough").await.expect(form);
        let close = within("the close", SOON, socket.next()).await.expect(form);
        let close = Close::decode(&close.payload).expect(form).expect("a code");
        assert_eq!((close.code, close.reason.as_str()), (4321, "enough"), "{form}");

        let socket = session.websocket("/ws", None).await.expect(form);
        within("the close", SOON, socket.close()).await.expect(form);

        let mut refused = within("the head", SOON, session.websocket("/refused", None)).await.expect(form);
        assert_eq!(refused.head.status, StatusCode::FORBIDDEN, "{form}");
        assert_eq!(within("the end", SOON, refused.next()).await.expect(form).kind, Kind::End, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_paths_answer_inside() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    for (form, session) in every_form(&browser).await {
        let list = session.get("/_relay/browsers").await.expect(form);
        let list: Value = serde_json::from_slice(&list.body).expect("JSON");
        assert_eq!(list["browsers"][0]["id"], browser.client_id.to_string(), "{form}: {list}");
        let renamed = format!("/_relay/browsers/{}", browser.client_id);
        let request = request("PATCH", &renamed, r#"{"name":"renamed inside"}"#);
        let renamed = session.fetch(request).await.expect(form);
        assert!(renamed.text().contains("renamed inside"), "{form}");
        // What stands outside is not in here, and nothing of it is forwarded.
        for (method, target) in [
            (Method::POST, "/_relay/session"),
            (Method::POST, "/_relay/exchange"),
            (Method::POST, "/_relay/pairing/start"),
            (Method::GET, "/_relay/hello"),
            (Method::GET, "/_relay/nothing"),
            (Method::GET, "/%5frelay/hello"),
            (Method::GET, "/a/../_relay/browsers"),
        ] {
            let told = session.fetch(request_to(method, target)).await.err();
            assert_eq!(told, Some(Failure::Agent(Code::NotFound)), "{form} {target}");
        }
    }
}

fn request_to(method: Method, target: &str) -> Request<Bytes> {
    Request::builder().method(method).uri(target).body(Bytes::from_static(b"{}")).expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_for_the_next_device_opens_with_the_exchanges_salt() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let first = stack.browser().await;
    let session = first.sealed().await.expect("a session");
    let whole = session.seal(&request("POST", "/_relay/pairing/code", r#"{"v":1}"#));
    let answer = session.send(&whole).await.expect("a code");
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let sealed = b64::decode(answer["sealed_code"].as_str().expect("a text")).expect("b64");
    let code = open_code_with_salt(&sealed, &first.psk, &whole.prelude.hash()).expect("it opens");
    let code = code.reveal().to_string();
    let second = Browser::pair(stack.addr(), &stack.prefix(), stack.host, &code).await.expect("it pairs");
    assert_eq!(
        second.sealed().await.expect("a session").get("/hello").await.expect("an answer").text(),
        "hello"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_exchange_is_refused_in_words() {
    let server = LocalServer::router(local::app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let session = browser.sealed().await.expect("a session");
    let whole = session.seal(&request("GET", "/hello", ""));
    let outer = |query: &str, bytes: Bytes| {
        let mut outer = session.outer(system_tests::client::full(bytes));
        *outer.uri_mut() = format!("{}{query}", outer.uri()).parse().unwrap();
        outer
    };
    let short = whole.bytes.slice(..23);
    // Nothing, less than a prelude, and a query.
    for request in [outer("", Bytes::new()), outer("", short), outer("?a=1", whole.bytes.clone())] {
        system_tests::fetch(stack.addr(), request).await.is_problem(Code::BadRequest);
    }
    // The prelude alone can be read, so that its refusal is signed.
    let alone = system_tests::sealed::Whole { bytes: whole.bytes.slice(..24), ..whole.clone() };
    assert_eq!(session.send(&alone).await.err(), Some(Failure::Agent(Code::BadRequest)));
    // A HEAD that cannot be: said in a record, because the browser is known by then.
    let mut exchange = session.exchange();
    let record = exchange.record(Kind::Head, "{\"method\":\"GET\"}");
    let bytes = [&exchange.prelude.to_bytes()[..], &record].concat().into();
    let told = session.send(&system_tests::sealed::Whole { prelude: exchange.prelude, bytes }).await.err();
    assert_eq!(told, Some(Failure::Agent(Code::BadRequest)));
    // Nothing of this used the number of the whole one.
    assert_eq!(session.send(&whole).await.expect("an answer").text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_and_rich_heads_arrive() {
    let router = local::app().route(
        "/rich",
        get(|| async {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("location", "/made?x=1"),
                ("vary", "accept"),
                ("strict-transport-security", "max-age=1"),
                ("clear-site-data", "\"*\""),
                ("x-app", "1"),
            ] {
                headers.insert(name, value.parse().expect("a value"));
            }
            headers.append("x-app", "2".parse().unwrap());
            (StatusCode::FOUND, headers, "rich")
        }),
    );
    let server = LocalServer::router(router).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    for (form, session) in every_form(&browser).await {
        let answer = session.get("/rich").await.expect(form);
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::FOUND, "rich"), "{form}");
        assert_eq!(answer.headers["location"], "/made?x=1", "{form}");
        assert_eq!(answer.headers.get_all("x-app").iter().count(), 2, "{form}");
        for name in ["strict-transport-security", "clear-site-data"] {
            assert!(!answer.headers.contains_key(name) && !answer.outer.contains_key(name), "{form} {name}");
        }
        assert!(!answer.outer.contains_key("x-app") && !answer.outer.contains_key("location"), "{form}");
    }
}
