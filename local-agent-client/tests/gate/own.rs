//! The agent's own paths.

use crate::{
    checks::mirror,
    client::{self, Reply, empty, full},
    common::{app, soon},
    setup::{HOST, Setup},
    signed::{Answer, Browser, Failure, Session},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use local_agent_client::Trust;
use relay_protocol::{keys::b64, pairing::open_code, problem::Code};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use uuid::Uuid;

async fn plain(setup: &Setup, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
    let body = body.into();
    let request = Request::builder().method(method).uri(path);
    let body = if body.is_empty() { empty() } else { full(body) };
    soon(client::fetch(setup.addr, request.body(body).unwrap())).await
}

/// A signed request of a session, answered in one piece.
async fn signed(session: &Session<'_>, method: &str, path: &str, body: Value) -> Result<Answer, Failure> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).body(body).unwrap();
    soon(session.browser.sign(session.id, request).send_buffered(session.browser)).await
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn hello_says_who_is_there() {
    for (trust, name) in [(Trust::Paired, "paired"), (Trust::Relay, "relay")] {
        let setup = Setup::with(app(mirror()).await, trust).await;
        let reply = plain(&setup, Method::GET, "/_relay/hello", "").await;
        assert_eq!((reply.status.as_u16(), reply.header("cache-control")), (200, Some("no-store")));
        let hello: Value = reply.json();
        assert_eq!((&hello["v"], &hello["trust"]), (&json!(1), &json!(name)));
        assert_eq!(hello["host_id"], json!(HOST));
        assert_eq!(hello["features"], json!(["records", "websocket", "exchange", "sealed"]));
        assert_eq!(hello["agent"]["name"], "local-agent-client");
        assert!(hello.get("require").is_none());
    }
}

#[tokio::test]
async fn unknown_paths_methods_and_bodies_are_refused() {
    let setup = Setup::new(app(mirror()).await).await;
    for path in ["/_relay", "/_relay/", "/_relay/keys", "/_relay/browsers/x", "//_relay/hello"] {
        plain(&setup, Method::GET, path, "").await.is_problem(Code::NotFound);
    }
    let reply = plain(&setup, Method::GET, "/_relay/session", "").await;
    reply.is_problem(Code::MethodNotAllowed);
    assert_eq!(reply.header("allow"), Some("POST"));
    for path in ["/_relay/session", "/_relay/pairing/code"] {
        plain(&setup, Method::POST, path, "{}").await.is_problem(Code::SignatureMissing);
    }
    plain(&setup, Method::GET, "/_relay/browsers", "").await.is_problem(Code::SignatureMissing);
    for body in ["", "x", "[]", "{\"v\":1}", "{\"v\":1,\"message\":\"*\"}"] {
        plain(&setup, Method::POST, "/_relay/pairing/start", body).await.is_problem(Code::BadRequest);
    }
    let long = format!("{{\"v\":1,\"features\":[],\"message\":\"{}\"}}", "A".repeat(70_000));
    plain(&setup, Method::POST, "/_relay/pairing/start", long.clone()).await.is_problem(Code::BodyTooLarge);
    let later = json!({"v": 2, "message": "QQ"}).to_string();
    plain(&setup, Method::POST, "/_relay/pairing/start", later).await.is_problem(Code::AgentOutdated);
    let earlier = json!({"v": 0, "message": "QQ"}).to_string();
    plain(&setup, Method::POST, "/_relay/pairing/start", earlier).await.is_problem(Code::BrowserOutdated);
    let fine = json!({"v": 1, "message": "QQ"}).to_string();
    plain(&setup, Method::POST, "/_relay/pairing/start", fine).await.is_problem(Code::PairingNotOpen);
    // A body that does not end.
    let stalled = crate::client::channel();
    let request = Request::post("/_relay/pairing/start")
        .header(header::CONTENT_LENGTH, 70_000)
        .body(stalled.1)
        .unwrap();
    soon(client::fetch(setup.addr, request)).await.is_problem(Code::BodyTooLarge);
}

#[tokio::test]
async fn strangers_are_slowed_down() {
    let setup = Setup::new(app(mirror()).await).await;
    let body = || json!({"v": 1, "message": "QQ"}).to_string();
    let mut open = 0;
    let limited = loop {
        let reply = plain(&setup, Method::POST, "/_relay/pairing/start", body()).await;
        if reply.status == 429 {
            break reply;
        }
        open += 1;
    };
    limited.is_problem(Code::RateLimited);
    assert!((8..=40).contains(&open), "{open}");
    assert!(limited.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    // It passes; and who is paired is not concerned.
    setup.ahead.store(60, Ordering::SeqCst);
    plain(&setup, Method::POST, "/_relay/pairing/start", body()).await.is_problem(Code::PairingNotOpen);
}

#[tokio::test]
async fn a_session_is_for_this_host_and_this_version() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let ask = async |body: Value| {
        let request = Request::post("/_relay/session").body(Bytes::from(body.to_string())).unwrap();
        soon(browser.sign(browser.client_id, request).send_buffered(&browser)).await
    };
    let answer = ask(json!({"v": 1, "host_id": HOST, "features": ["websocket", "teleport"]})).await.unwrap();
    let made = parsed(&answer);
    assert_eq!(made["features"], json!(["websocket"]));
    assert_eq!(made["expires_at"].as_i64(), made["agent_time"].as_i64().map(|time| time + 3600));
    let refused = async |body| ask(body).await.unwrap_err();
    assert_eq!(refused(json!({"v": 1, "host_id": Uuid::nil()})).await, Failure::Agent(Code::BadRequest));
    assert_eq!(refused(json!({"v": 2, "host_id": HOST})).await, Failure::Agent(Code::AgentOutdated));
    assert_eq!(refused(json!({"v": 0, "host_id": HOST})).await, Failure::Agent(Code::BrowserOutdated));
    assert_eq!(refused(json!("no")).await, Failure::Agent(Code::BadRequest));
    // A stranger's key under a known id, and an unknown id.
    let request = || Request::post("/_relay/session").body(Bytes::from("{}")).unwrap();
    let stranger = browser.sign(Uuid::new_v4(), request());
    let refused = soon(stranger.send_buffered(&browser)).await.unwrap_err();
    assert_eq!(refused, Failure::Agent(Code::NotPaired));
    // The request for a session is done once as well.
    let body = json!({"v": 1, "host_id": HOST}).to_string();
    let once =
        browser.sign(browser.client_id, Request::post("/_relay/session").body(Bytes::from(body)).unwrap());
    soon(once.send_buffered(&browser)).await.unwrap();
    assert_eq!(soon(once.send_buffered(&browser)).await.unwrap_err(), Failure::Agent(Code::Replayed));
    // Another body than the signed one.
    let mut other = browser
        .sign(browser.client_id, Request::post("/_relay/session").body(Bytes::from("{\"v\":1}")).unwrap());
    *other.request.body_mut() = Bytes::from("{\"v\":2}");
    assert_eq!(soon(other.send_buffered(&browser)).await.unwrap_err(), Failure::Agent(Code::DigestMismatch));
}

#[tokio::test]
async fn one_session_too_many_ends_the_oldest_and_more_are_slowed_down() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let mut sessions = Vec::new();
    for n in 0..17 {
        setup.ahead.store(n, Ordering::SeqCst);
        sessions.push(soon(browser.session()).await.unwrap());
    }
    assert_eq!(soon(sessions[0].get("/")).await.unwrap_err(), Failure::Agent(Code::SigningSessionExpired));
    for session in &sessions[1..] {
        soon(session.get("/")).await.unwrap();
    }
    let mut more = 0;
    let limited = loop {
        match soon(browser.session()).await {
            Ok(_) => more += 1,
            Err(failure) => break failure,
        }
    };
    assert_eq!(limited, Failure::Agent(Code::RateLimited));
    assert!(more < 40, "{more}");
}

#[tokio::test]
async fn browsers_are_listed_renamed_and_revoked() {
    let setup = Setup::new(app(mirror()).await).await;
    let (one, two) = (setup.browser().await, setup.browser().await);
    let session = soon(one.session()).await.unwrap();
    let other = soon(two.session()).await.unwrap();
    let list = async || parsed(&signed(&session, "GET", "/_relay/browsers", Value::Null).await.unwrap());
    let listed = list().await;
    let entries = listed["browsers"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    let of =
        |browser: &Browser| entries.iter().find(|entry| entry["id"] == json!(browser.client_id)).unwrap();
    assert_eq!((&of(&one)["current"], &of(&two)["current"]), (&json!(true), &json!(false)));
    assert_eq!(of(&one)["fingerprint"], json!(one.fingerprint().to_string()));
    assert_eq!(of(&two)["os"], "Linux");

    let path = format!("/_relay/browsers/{}", two.client_id);
    let renamed = signed(&session, "PATCH", &path, json!({"name": "Kitchen"})).await.unwrap();
    assert_eq!((&parsed(&renamed)["name"], &parsed(&renamed)["current"]), (&json!("Kitchen"), &json!(false)));
    for name in ["", "a\nb", &"x".repeat(101)] {
        let refused = signed(&session, "PATCH", &path, json!({"name": name})).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::BadRequest), "{name:?}");
    }
    let unknown = format!("/_relay/browsers/{}", Uuid::nil());
    for (method, body) in [("PATCH", json!({"name": "x"})), ("DELETE", Value::Null)] {
        let refused = signed(&session, method, &unknown, body).await.unwrap_err();
        assert_eq!(refused, Failure::Agent(Code::NotFound));
    }
    assert!(soon(other.get("/")).await.is_ok());
    let revoked = signed(&session, "DELETE", &path, Value::Null).await.unwrap();
    assert_eq!((revoked.status.as_u16(), revoked.body.len()), (204, 0));
    assert_eq!(soon(other.get("/")).await.unwrap_err(), Failure::Agent(Code::SigningSessionExpired));
    assert_eq!(soon(two.session()).await.err().unwrap(), Failure::Agent(Code::NotPaired));
    assert_eq!(list().await["browsers"].as_array().unwrap().len(), 1);
    // Itself, last: the answer still comes, signed.
    let path = format!("/_relay/browsers/{}", one.client_id);
    assert_eq!(signed(&session, "DELETE", &path, Value::Null).await.unwrap().status, 204);
    let after = signed(&session, "GET", "/_relay/browsers", Value::Null).await.unwrap_err();
    assert_eq!(after, Failure::Agent(Code::SigningSessionExpired));
}

#[tokio::test]
async fn the_code_for_the_next_device_opens_for_its_browser_only() {
    let setup = Setup::new(app(mirror()).await).await;
    let (browser, another) = (setup.browser().await, setup.browser().await);
    let session = soon(browser.session()).await.unwrap();
    let request = Request::post("/_relay/pairing/code").body(Bytes::from_static(b"{\"v\":1}")).unwrap();
    let asked = browser.sign(session.id, request);
    let answer = parsed(&soon(asked.send_buffered(&browser)).await.unwrap());
    let sealed = b64::decode(answer["sealed_code"].as_str().unwrap()).unwrap();
    let code = open_code(&sealed, &browser.psk, &asked.signature).unwrap();
    assert!(open_code(&sealed, &another.psk, &asked.signature).is_err());
    assert!(open_code(&sealed, &browser.psk, &[1; 64]).is_err());
    let third = soon(Browser::pair(setup.addr, "", HOST, &code.reveal())).await.unwrap();
    assert!(soon(third.session()).await.is_ok());
    // Ten an hour: the owner's own have used some.
    let mut limited = None;
    for _ in 0..10 {
        limited = signed(&session, "POST", "/_relay/pairing/code", json!({"v": 1})).await.err();
    }
    assert_eq!(limited, Some(Failure::Agent(Code::RateLimited)));
}

#[tokio::test]
async fn an_agent_that_does_not_know_its_id_signs_nothing_and_forwards_nothing() {
    use local_agent_client::{
        gate::{Gate, Options},
        trust::Pairing,
    };
    use std::sync::Arc;
    let (target, accepted) = crate::common::local(|_| async {}).await;
    let pairing = Arc::new(Pairing::open("https://relay.example".to_owned(), None).unwrap());
    let gate = Gate::new(crate::common::forwarder(target), pairing, Options::default());
    let pair = crate::common::pair_of(gate).await;
    for (path, status) in [("/_relay/hello", 500), ("/", 401)] {
        assert_eq!(pair.get(path).await.0, status, "{path}");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn even_a_signature_that_cannot_be_used_is_answered_signed() {
    let setup = Setup::new(app(mirror()).await).await;
    let browser = setup.browser().await;
    let session = soon(browser.session()).await.unwrap();
    let mut request = session.sign(Request::get("/").body(Bytes::new()).unwrap());
    let input = request.request.headers()["signature-input"].to_str().unwrap().replace("ed25519", "rsa");
    request.request.headers_mut().insert("signature-input", HeaderValue::from_str(&input).unwrap());
    let reply = soon(client::fetch(setup.addr, request.outer(&browser))).await;
    reply.is_problem(Code::BadRequest);
    assert!(reply.headers.contains_key("signature"));
    // It is bound to the parameters that came, which are not those that the browser sent.
    assert!(matches!(soon(session.send(&request)).await.unwrap_err(), Failure::Tampered(_)));
}
