//! Exchanges over the relay, in both forms of a session: what arrives, and what does not.

use crate::{
    checks::mirror,
    client::{self, full},
    common::{app, local, soon},
    sealed::Session,
    setup::Setup,
    signed::{Browser, Failure},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use local_agent_client::gate::Options;
use relay_protocol::{
    exchange::{PRELUDE_LEN, Prelude},
    problem::Code,
    record::{Kind, MAX_HEAD},
};
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// A session of each form.
pub async fn both(browser: &Browser) -> [Session<'_>; 2] {
    [soon(browser.sealed()).await.unwrap(), soon(browser.exchanges()).await.unwrap()]
}

pub fn get(target: &str) -> Request<Bytes> {
    Request::get(target).body(Bytes::new()).unwrap()
}

fn post(target: &str, body: &'static str) -> Request<Bytes> {
    Request::post(target).header("x-app", "1").body(Bytes::from(body)).unwrap()
}

#[tokio::test]
async fn a_request_arrives_as_it_was_protected() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let mut request = post("/a//b%2Fc?x=%20&y", "hello");
        for (name, value) in [
            ("authorization", "Bearer app"),
            ("accept-encoding", "gzip, br"),
            ("host", "evil.example"),
            ("x-relay-client-id", "somebody else"),
            ("x-forwarded-for", "6.6.6.6"),
            ("cookie", "forged=1"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let whole = session.seal(&request);
        let mut outer = session.outer(full(whole.bytes.clone()));
        for (name, value) in [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-request-id", "r-1"),
            ("x-injected", "1"),
            ("cookie", "of-the-outer=1"),
        ] {
            outer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let response = soon(client::send(browser.addr, outer)).await.unwrap();
        let stream = crate::records::Stream::begin(response, session.opener(&whole.prelude));
        let answer = soon(async { stream.await.unwrap().collect().await }).await.unwrap();
        let text = answer.text();
        assert!(text.starts_with("POST /a//b%2Fc?x=%20&y\n"), "{text}");
        let client_id = format!("x-relay-client-id: {}", browser.client_id);
        for line in [
            "x-app: 1",
            "authorization: Bearer app",
            "accept-encoding: gzip",
            "x-forwarded-for: 10.0.0.1",
            "x-request-id: r-1",
            "x-relayed: 1",
            "body: hello",
            &client_id,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        for name in ["injected", "cookie", "evil.example", "6.6.6.6", "somebody else", "signature"] {
            assert!(!text.contains(name), "{name} in {text}");
        }
        // A bare question mark is the browser's own.
        assert!(soon(session.get("/p?")).await.unwrap().text().starts_with("GET /p?\n"));
        let nothing = soon(session.fetch(Request::head("/").body(Bytes::new()).unwrap())).await.unwrap();
        assert_eq!((nothing.status, nothing.body.len()), (StatusCode::OK, 0));
    }
    assert_eq!(setup.begun(), 6);
    assert_eq!(setup.gate.forwarder().stats().gate().counts().sealed_sessions, 1);
}

#[tokio::test]
async fn an_exchange_is_done_once() {
    let (target, accepted) = local(|mut socket| async move {
        crate::common::head(&mut socket).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await.unwrap();
    })
    .await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let mut done = 0;
    for session in both(&browser).await {
        let whole = session.seal(&post("/", "x"));
        // Twice at the same time: over two paths, say.
        let (one, two) = soon(async { tokio::join!(session.send(&whole), session.send(&whole)) }).await;
        let replayed = Failure::Agent(Code::Replayed);
        assert!([one.is_ok(), two.is_ok()].iter().filter(|ok| **ok).count() == 1);
        assert!(one.err().into_iter().chain(two.err()).all(|failure| failure == replayed));
        assert_eq!(soon(session.send(&whole)).await.unwrap_err(), replayed);
        // Other bytes under a number that was used.
        let mut again = session.exchange_at(whole.prelude);
        let mut bytes = again.begin(&get("/other")).to_vec();
        bytes.extend_from_slice(&again.record(Kind::End, ""));
        let other = crate::sealed::Whole { prelude: whole.prelude, bytes: bytes.into() };
        assert_eq!(soon(session.send(&other)).await.unwrap_err(), replayed);
        done += 1;
        assert_eq!(accepted.load(Ordering::SeqCst), done);
        // Numbers come in any order, and the window moves.
        for (number, taken) in
            [(1000, true), (999, true), (1000, false), (1000 + 65_536, true), (998, false), (1001, true)]
        {
            let mut exchange = session.exchange_at(Prelude { session_id: session.id, number });
            let mut bytes = exchange.begin(&get("/")).to_vec();
            bytes.extend_from_slice(&exchange.record(Kind::End, ""));
            let whole = crate::sealed::Whole { prelude: exchange.prelude, bytes: bytes.into() };
            let sent = soon(session.send(&whole)).await;
            assert_eq!(sent.map(|_| ()).err(), (!taken).then(|| replayed.clone()), "{number}");
            done += usize::from(taken);
        }
    }
    assert_eq!(accepted.load(Ordering::SeqCst), done);
}

#[tokio::test]
async fn whatever_is_altered_before_the_first_record_opened_is_refused_and_uses_nothing() {
    let (target, accepted) = local(|_| async {}).await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let stranger = setup.browser().await;
    let strangers = soon(stranger.sealed()).await.unwrap();
    for session in both(&browser).await {
        let whole = session.seal(&post("/", "hello"));
        let other = session.seal(&get("/"));
        let bytes = &whole.bytes;
        let altered = |at: usize, bit: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= bit;
            bytes
        };
        let with_prelude_of = |prelude: &Prelude| [&prelude.to_bytes()[..], &bytes[PRELUDE_LEN..]].concat();
        let unknown = Prelude { session_id: Uuid::nil(), number: 0 };
        let long = [&bytes[..PRELUDE_LEN], &(MAX_HEAD as u32 + 1).to_be_bytes(), &[1]].concat();
        let text = [&bytes[..PRELUDE_LEN], &(1_u32 << 22).to_be_bytes(), &[5]].concat();
        for (what, sent, code) in [
            ("session", with_prelude_of(&unknown), Code::SigningSessionExpired),
            ("another's session", with_prelude_of(&strangers.prelude()), Code::SignatureInvalid),
            ("another number", with_prelude_of(&other.prelude), Code::SignatureInvalid),
            ("number", altered(PRELUDE_LEN - 1, 1), Code::SignatureInvalid),
            ("payload", altered(PRELUDE_LEN + 7, 1), Code::SignatureInvalid),
            ("shorter", altered(PRELUDE_LEN + 3, 1), Code::SignatureInvalid),
            ("type", altered(PRELUDE_LEN + 4, 3), Code::BadRequest),
            ("a message", text, Code::BadRequest),
            ("too large", long, Code::BodyTooLarge),
            ("cut in HEAD", bytes[..PRELUDE_LEN + 20].to_vec(), Code::BadRequest),
            ("cut after the prelude", bytes[..PRELUDE_LEN].to_vec(), Code::BadRequest),
            ("no HEAD first", [&bytes[..PRELUDE_LEN], &bytes[bytes.len() - 21..]].concat(), Code::BadRequest),
        ] {
            let prelude = Prelude::from_bytes(sent.first_chunk().unwrap());
            let sent = crate::sealed::Whole { prelude, bytes: sent.into() };
            assert_eq!(soon(session.send(&sent)).await.unwrap_err(), Failure::Agent(code), "{what}");
        }
        // The refusal waits for what it refuses, within reason, and arrives.
        let upload = session.seal(&Request::post("/").body(Bytes::from(vec![1; 200_000])).unwrap());
        let prelude = Prelude { session_id: Uuid::nil(), ..upload.prelude };
        let long = [&prelude.to_bytes()[..], &upload.bytes[PRELUDE_LEN..]].concat();
        let long = crate::sealed::Whole { prelude, bytes: long.into() };
        let refused = soon(session.send(&long)).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::SigningSessionExpired));
        // Without a prelude there is nothing that a signature could bind to.
        let reply = soon(client::fetch(browser.addr, session.outer(full(bytes[..20].to_vec())))).await;
        reply.is_problem(Code::BadRequest);
        assert!(!reply.headers.contains_key("signature"));
        assert_eq!(setup.begun(), 0, "nothing was taken");
        assert_eq!(accepted.load(Ordering::SeqCst), 0);
    }
    // What was refused is still good, once: the number was not used.
    for session in both(&browser).await {
        let whole = session.seal(&get("/"));
        let mut wrong = whole.clone();
        wrong.bytes = wrong
            .bytes
            .iter()
            .enumerate()
            .map(|(at, byte)| if at == 40 { byte ^ 1 } else { *byte })
            .collect();
        assert_eq!(soon(session.send(&wrong)).await.unwrap_err(), Failure::Agent(Code::SignatureInvalid));
        assert_eq!(soon(session.send(&whole)).await.unwrap_err(), Failure::Agent(Code::LocalServerFailed));
        assert_eq!(soon(session.send(&whole)).await.unwrap_err(), Failure::Agent(Code::Replayed));
    }
}

#[tokio::test]
async fn the_outer_request_has_one_form() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.sealed()).await.unwrap();
    let whole = session.seal(&get("/"));
    type Alter = fn(&mut Request<client::Body>);
    let cases: [(Code, Alter); 6] = [
        (Code::BadRequest, |r| *r.uri_mut() = "/_relay/exchange?a=1".parse().unwrap()),
        (Code::BadRequest, |r| drop(r.headers_mut().remove(header::CONTENT_TYPE))),
        (Code::BadRequest, |r| {
            r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }),
        (Code::UpgradeRequired, |r| *r.method_mut() = Method::GET),
        (Code::MethodNotAllowed, |r| *r.method_mut() = Method::PUT),
        (Code::NotFound, |r| *r.uri_mut() = "/_relay//exchange".parse().unwrap()),
    ];
    for (code, alter) in cases {
        let mut outer = session.outer(full(whole.bytes.clone()));
        alter(&mut outer);
        soon(client::fetch(browser.addr, outer)).await.is_problem(code);
    }
    assert!(soon(session.send(&whole)).await.is_ok());
}

#[tokio::test]
async fn what_comes_after_the_first_record_is_said_in_records() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let heads = [
            r#"{"method":"CONNECT","target":"/","headers":[]}"#,
            r#"{"method":"GET","target":"x","headers":[]}"#,
            r#"{"method":"GET","target":"/","headers":[["X-Upper","1"]]}"#,
            r#"{"method":"GET","target":"/","headers":[],"websocket":true}"#,
            "nonsense",
        ];
        for head in heads {
            let mut exchange = session.exchange();
            let record = exchange.record(Kind::Head, head);
            let bytes = [&exchange.prelude.to_bytes()[..], &record, &exchange.record(Kind::End, "")].concat();
            let whole = crate::sealed::Whole { prelude: exchange.prelude, bytes: bytes.into() };
            assert_eq!(
                soon(session.send(&whole)).await.unwrap_err(),
                Failure::Agent(Code::BadRequest),
                "{head}"
            );
            assert_eq!(
                soon(session.send(&whole)).await.unwrap_err(),
                Failure::Agent(Code::Replayed),
                "{head}"
            );
        }
    }
    let nobody = Setup::new("http://127.0.0.1:9".parse().unwrap()).await;
    let browser = nobody.browser().await;
    for session in both(&browser).await {
        let refused = soon(session.get("/")).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::LocalServerUnreachable));
    }
}

#[tokio::test]
async fn an_answer_says_nothing_beside_its_records() {
    const RICH: &str = "HTTP/1.1 201 Created\r\ncontent-length: 4\r\nlocation: /made\r\nset-cookie: a=1; Path=/\r\n\
        clear-site-data: \"*\"\r\naccess-control-allow-origin: *\r\nx-app: 1\r\n\r\nbody";
    let (target, _) = local(|mut socket| async move {
        crate::common::head(&mut socket).await;
        tokio::io::AsyncWriteExt::write_all(&mut socket, RICH.as_bytes()).await.unwrap();
    })
    .await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    for session in both(&browser).await {
        let answer = soon(session.get("/")).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"body"[..]));
        assert_eq!(
            (&answer.headers["location"], &answer.headers["x-app"]),
            (&"/made".parse().unwrap(), &"1".parse().unwrap())
        );
        for name in ["set-cookie", "clear-site-data", "access-control-allow-origin"] {
            assert!(!answer.headers.contains_key(name) && !answer.outer.contains_key(name), "{name}");
        }
        assert!(!answer.outer.contains_key("location") && !answer.outer.contains_key("x-app"));
    }
}

#[tokio::test]
async fn neither_host_nor_origin_are_what_the_relay_says() {
    for preserve_host in [false, true] {
        let forwarder = crate::common::forwarder_with(app(mirror()).await, preserve_host);
        let setup = Setup::over(forwarder, Options::default(), None).await;
        let browser = setup.browser().await;
        for session in both(&browser).await {
            for (origin, is_ours) in [("https://evil.example", false), ("https://relay.example", true)] {
                let request = Request::get("/").header("origin", origin).header("referer", origin);
                let whole = session.seal(&request.body(Bytes::new()).unwrap());
                let mut outer = session.outer(full(whole.bytes.clone()));
                for (name, value) in [("x-forwarded-proto", "https"), ("x-forwarded-host", "evil.example")] {
                    outer.headers_mut().insert(name, HeaderValue::from_static(value));
                }
                let response = soon(client::send(browser.addr, outer)).await.unwrap();
                let stream = crate::records::Stream::begin(response, session.opener(&whole.prelude));
                let text = soon(async { stream.await.unwrap().collect().await }).await.unwrap().text();
                let line = |name: &str| {
                    let prefix = format!("{name}: ");
                    text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
                };
                // As the relay told it: it speaks of itself.
                assert_eq!(line("x-forwarded-host"), "evil.example");
                let host = line("host");
                assert_eq!(host == "relay.example", preserve_host, "{host}");
                assert_ne!(host, "evil.example");
                let local = format!("http://{host}");
                let expected = if is_ours && !preserve_host { &local } else { origin };
                assert_eq!((line("origin").as_str(), line("referer").as_str()), (expected, expected));
            }
        }
    }
}
