//! Every check of a signed request, in its order, and that nothing gets past it.

use crate::{
    client::{self, Reply, empty, full},
    common::{app, local, soon},
    setup::Setup,
    signed::{Failure, Session, Signed},
};
use axum::{Router, extract::Request as AxumRequest, routing::any};
use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use local_agent_client::Trust;
use relay_protocol::{
    keys::{BrowserSigningKey, b64},
    problem::{Code, Problem},
    signature::{
        digest::{CONTENT_DIGEST, ContentDigest},
        request::{Parts, Stamp, sign},
    },
};
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Says what came in: request line, headers in order, the body.
pub fn mirror() -> Router {
    Router::new().fallback(any(|request: AxumRequest| async move {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let mut text = format!("{} {}\n", parts.method, parts.uri);
        for (name, value) in &parts.headers {
            text += &format!("{name}: {}\n", value.to_str().unwrap());
        }
        text + &format!("body: {}", String::from_utf8_lossy(&body))
    }))
}

fn post(target: &str, body: &'static str) -> Request<Bytes> {
    Request::post(target).header("x-app", "1").header("x-other", "2").body(Bytes::from(body)).unwrap()
}

async fn failure(session: &Session<'_>, signed: &Signed) -> Failure {
    soon(session.send(signed)).await.unwrap_err()
}

#[tokio::test]
async fn a_signed_request_arrives_as_it_was_signed() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut signed = session.sign(post("/a//b%2Fc?x=%20&y", "hello"));
    let headers = signed.request.headers_mut();
    for (name, value) in [
        ("cookie", "a=1"),
        ("accept", "text/plain"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-request-id", "r-1"),
        // Not covered and not on the list: the relay put them there.
        ("x-injected", "1"),
        ("authorization", "Bearer x"),
        ("x-http-method-override", "DELETE"),
        ("x-relay-client-id", "somebody else"),
        ("x_relay_client_id", "somebody else"),
        // Would name a covered header away.
        ("connection", "x-other"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let answer = soon(session.send(&signed)).await.unwrap();
    let text = answer.text();
    assert!(text.starts_with("POST /a//b%2Fc?x=%20&y\n"), "{text}");
    let client_id = format!("x-relay-client-id: {}", browser.client_id);
    for line in [
        "x-app: 1",
        "x-other: 2",
        "cookie: a=1",
        "accept: text/plain",
        "x-forwarded-for: 10.0.0.1",
        "x-request-id: r-1",
        "x-relayed: 1",
        "body: hello",
        &client_id,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    for name in ["x-injected", "authorization", "override", "signature", "x-relay-records", "somebody else"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
    assert_eq!(setup.gate.forwarder().stats().gate().counts().signed, 2);
    assert_eq!(setup.gate.forwarder().stats().gate().counts().sessions, 1);
}

#[tokio::test]
async fn whatever_is_altered_never_reaches_the_local_server() {
    let (target, accepted) = local(|_| async {}).await;
    let setup = Setup::new(target).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    type Alter = fn(&mut Request<Bytes>);
    let cases: &[(&str, Code, Alter)] = &[
        ("method", Code::SignatureInvalid, |r| *r.method_mut() = Method::PUT),
        ("path", Code::SignatureInvalid, |r| *r.uri_mut() = "/b?q=1".parse().unwrap()),
        ("query", Code::SignatureInvalid, |r| *r.uri_mut() = "/a?q=2".parse().unwrap()),
        ("query gone", Code::SignatureInvalid, |r| *r.uri_mut() = "/a".parse().unwrap()),
        ("covered header changed", Code::SignatureInvalid, |r| {
            r.headers_mut().insert("x-app", HeaderValue::from_static("2"));
        }),
        ("covered header gone", Code::SignatureInvalid, |r| {
            r.headers_mut().remove("x-app");
        }),
        ("covered header added to", Code::SignatureInvalid, |r| {
            r.headers_mut().append("x-app", HeaderValue::from_static("2"));
        }),
        ("digest", Code::SignatureInvalid, |r| {
            let digest = ContentDigest::field_sha256(b"other");
            r.headers_mut().insert(CONTENT_DIGEST, digest);
            *r.body_mut() = Bytes::from("other");
        }),
        ("signature", Code::SignatureInvalid, |r| {
            let made = format!("relay=:{}:", base64(&[7; 64]));
            r.headers_mut().insert("signature", made.parse().unwrap());
        }),
        ("unknown parameter", Code::BadRequest, |r| {
            let input = r.headers()["signature-input"].to_str().unwrap().to_owned() + ";tag=\"x\"";
            r.headers_mut().insert("signature-input", input.parse().unwrap());
        }),
        ("other created", Code::SignatureInvalid, |r| {
            let input = r.headers()["signature-input"].to_str().unwrap().replace("created=1", "created=2");
            r.headers_mut().insert("signature-input", input.parse().unwrap());
        }),
    ];
    for (what, code, alter) in cases {
        let mut signed = session.sign(post("/a?q=1", "hello"));
        alter(&mut signed.request);
        if *what == "signature" {
            signed.signature = [7; 64];
        }
        let reply = soon(client::fetch(setup.addr, signed.outer(&browser))).await;
        assert_eq!(reply.problem().code, *code, "{what}");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
    assert_eq!(setup.refused("signature_invalid"), 10);
    // None of it was remembered: what was signed is still good.
    assert_eq!(setup.gate.forwarder().stats().gate().counts().signed, 1);
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// Signs by hand, to leave out what must be covered.
fn by_hand(
    session: &Session<'_>,
    key: &BrowserSigningKey,
    request: Request<Bytes>,
    cover: &[&str],
) -> Signed {
    let (parts, body) = request.into_parts();
    let cover: Vec<_> = cover.iter().map(|name| name.parse().unwrap()).collect();
    let view = Parts {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
        has_body: false,
    };
    let nonce = b64::encode(rand::random::<[u8; 16]>());
    let stamp = Stamp { created: session.browser.now(), key_id: &session.id.to_string(), nonce: &nonce };
    let made = sign(&view, &cover, stamp, key).unwrap();
    Signed::new(parts, body, made)
}

#[tokio::test]
async fn what_has_to_be_covered_and_who_signs() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let with_digest = || {
        let digest = ContentDigest::field_sha256(b"hello");
        let mut request = post("/", "hello");
        request.headers_mut().insert(CONTENT_DIGEST, digest);
        request
    };
    // A body whose digest is not covered, and one without.
    for request in [with_digest(), post("/", "hello")] {
        let signed = by_hand(&session, &browser.key, request, &["x-app"]);
        assert_eq!(failure(&session, &signed).await, Failure::Agent(Code::Uncovered));
    }
    // Not asked for records, so one piece; and what is not covered stays here.
    let signed = by_hand(&session, &browser.key, with_digest(), &["content-digest", "x-app"]);
    let answer = soon(signed.send_buffered(&browser)).await.unwrap();
    assert!(answer.text().contains("x-app: 1") && !answer.text().contains("x-other"), "{}", answer.text());
    // Another key; an unknown session; a client id where a session's is needed.
    let another = BrowserSigningKey::from_seed(&[9; 32]);
    let signed = by_hand(&session, &another, post("/", ""), &[]);
    assert_eq!(failure(&session, &signed).await, Failure::Agent(Code::SignatureInvalid));
    for key_id in [Uuid::new_v4(), browser.client_id] {
        let signed = browser.sign(key_id, post("/", ""));
        let refused = soon(signed.send_buffered(&browser)).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::SigningSessionExpired));
    }
}

#[tokio::test]
async fn a_request_is_done_at_most_once() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let signed = session.sign(post("/", "once"));
    assert!(soon(session.send(&signed)).await.is_ok());
    for _ in 0..2 {
        assert_eq!(failure(&session, &signed).await, Failure::Agent(Code::Replayed));
    }
    // Another session of the same browser does not know it, and its key id is part of what is signed.
    assert!(soon(session.get("/")).await.is_ok());
    assert_eq!(setup.gate.forwarder().stats().counts().total, 7, "pairing, session and four requests");
}

#[tokio::test]
async fn the_agents_clock_decides_and_says_what_it_is() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let own = browser.offset.load(Ordering::SeqCst);
    for off in [-3600, 3600] {
        browser.offset.store(own + off, Ordering::SeqCst);
        let signed = session.sign(post("/", "x"));
        let request = signed.outer(&browser);
        let reply = soon(client::fetch(setup.addr, request)).await;
        let problem: Problem = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(problem.code, Code::ClockSkew);
        assert!((problem.agent_time.unwrap() - local_agent_client::status::now()).abs() < 30);
        signed.verify(&browser, reply).expect("it counts only when it is signed");
    }
    browser.offset.store(own, Ordering::SeqCst);
    assert!(soon(session.get("/")).await.is_ok());
}

#[tokio::test]
async fn sessions_end_with_time_and_with_the_browser() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    setup.ahead.store(3601, Ordering::SeqCst);
    browser.offset.fetch_add(3601, Ordering::SeqCst);
    assert_eq!(soon(session.get("/")).await.unwrap_err(), Failure::Agent(Code::SigningSessionExpired));
    let session = soon(browser.session()).await.unwrap();
    assert!(soon(session.get("/")).await.is_ok());
    setup.pairing.browsers().revoke(browser.client_id).unwrap();
    assert_eq!(soon(session.get("/")).await.unwrap_err(), Failure::Agent(Code::SigningSessionExpired));
    assert_eq!(soon(browser.session()).await.err().unwrap(), Failure::Agent(Code::NotPaired));
}

async fn raw(setup: &Setup, accept: &str) -> Reply {
    let request = Request::get("/x").header("accept", accept).body(empty()).unwrap();
    soon(client::fetch(setup.addr, request)).await
}

#[tokio::test]
async fn what_is_not_signed_is_refused_or_forwarded_as_trust_says() {
    let (target, accepted) = local(|_| async {}).await;
    let paired = Setup::new(target).await;
    let reply = raw(&paired, "*/*").await;
    assert_eq!(reply.status, 401);
    reply.is_problem(Code::SignatureMissing);
    assert!(!reply.headers.contains_key("signature"));
    let page = raw(&paired, "text/html").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (401, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(page.text().contains("portal"), "{}", page.text());
    // Something that cannot be read is not nothing.
    let garbled = Request::post("/").header("signature", "relay=x").body(full("x")).unwrap();
    soon(client::fetch(paired.addr, garbled)).await.is_problem(Code::BadRequest);
    assert_eq!((accepted.load(Ordering::SeqCst), paired.refused("signature_missing")), (0, 2));

    let relay = Setup::with(app(mirror()).await, Trust::Relay).await;
    let request =
        Request::get("/x").header("x-relay-client-id", "me").header("x-app", "1").body(empty()).unwrap();
    let text = soon(client::fetch(relay.addr, request)).await.text();
    assert!(text.contains("x-app: 1") && !text.contains("client-id"), "{text}");
    let garbled = Request::post("/").header("signature", "relay=x").body(full("x")).unwrap();
    soon(client::fetch(relay.addr, garbled)).await.is_problem(Code::BadRequest);
    let browser = relay.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut signed = session.sign(post("/", "x"));
    *signed.request.method_mut() = Method::PUT;
    // The refusal is bound to what came, which is not what the browser sent.
    soon(client::fetch(relay.addr, signed.outer(&browser))).await.is_problem(Code::SignatureInvalid);
    assert!(matches!(failure(&session, &signed).await, Failure::Tampered(_)));
    assert!(soon(session.get("/")).await.unwrap().text().contains("x-relay-client-id: "));
}
