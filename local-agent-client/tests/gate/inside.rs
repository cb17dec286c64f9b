//! The agent's own paths inside exchanges.

use crate::{
    checks::mirror,
    common::{app, soon},
    exchanges::both,
    sealed::Session,
    setup::Setup,
    signed::{Answer, Browser, Failure},
};
use bytes::Bytes;
use http::Request;
use relay_protocol::{keys::b64, pairing::open_code_with_salt, problem::Code};
use serde_json::{Value, json};

async fn ask(session: &Session<'_>, method: &str, path: &str, body: Value) -> Result<Answer, Failure> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    soon(session.fetch(Request::builder().method(method).uri(path).body(body).unwrap())).await
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn browsers_are_listed_renamed_and_revoked() {
    let setup = Setup::new(app(mirror()).await).await;
    for form in 0..2 {
        let (one, two) = (setup.browser().await, setup.browser().await);
        let session = &both(&one).await[form];
        let other = &both(&two).await[form];
        let listed = parsed(&ask(session, "GET", "/_relay/browsers", Value::Null).await.unwrap());
        let current = |entry: &&Value| entry["current"] == json!(true);
        let own = listed["browsers"].as_array().unwrap().iter().find(current).unwrap();
        assert_eq!(own["id"], json!(one.client_id));
        let path = format!("/_relay/browsers/{}", two.client_id);
        let renamed = ask(session, "PATCH", &path, json!({"name": "Kitchen"})).await.unwrap();
        assert_eq!(
            (&parsed(&renamed)["name"], &renamed.headers["cache-control"]),
            (&json!("Kitchen"), &"no-store".parse().unwrap())
        );
        for (method, path, body, code) in [
            ("PATCH", path.as_str(), json!({"name": ""}), Code::BadRequest),
            ("PATCH", &path, json!("x".repeat(70_000)), Code::BodyTooLarge),
            ("PUT", &path, Value::Null, Code::MethodNotAllowed),
            ("GET", "/_relay/hello", Value::Null, Code::NotFound),
            ("POST", "/_relay/pairing/start", json!({"v": 1, "message": "QQ"}), Code::NotFound),
            ("POST", "/_relay/session", json!({}), Code::NotFound),
            ("POST", "/_relay/exchange", Value::Null, Code::NotFound),
            ("GET", "/_relay/nothing", Value::Null, Code::NotFound),
            ("GET", "/x/..%2f_relay/browsers", Value::Null, Code::NotFound),
            ("GET", "/_Relay/browsers", Value::Null, Code::NotFound),
        ] {
            let refused = ask(session, method, path, body).await.unwrap_err();
            assert_eq!(refused, Failure::Agent(code), "{method} {path}");
        }
        assert!(soon(other.get("/")).await.is_ok());
        let revoked = ask(session, "DELETE", &path, Value::Null).await.unwrap();
        assert_eq!((revoked.status.as_u16(), revoked.body.len()), (204, 0));
        assert_eq!(soon(other.get("/")).await.unwrap_err(), Failure::Agent(Code::SigningSessionExpired));
        // Itself, last: the answer still comes.
        let path = format!("/_relay/browsers/{}", one.client_id);
        assert_eq!(ask(session, "DELETE", &path, Value::Null).await.unwrap().status, 204);
        assert_eq!(soon(session.get("/")).await.unwrap_err(), Failure::Agent(Code::SigningSessionExpired));
    }
}

#[tokio::test]
async fn the_code_for_the_next_device_is_bound_to_the_exchange() {
    let setup = Setup::new(app(mirror()).await).await;
    let (browser, another) = (setup.browser().await, setup.browser().await);
    for session in both(&browser).await {
        let request = Request::post("/_relay/pairing/code").body(Bytes::from_static(b"{\"v\":1}")).unwrap();
        let whole = session.seal(&request);
        let answer = parsed(&soon(session.send(&whole)).await.unwrap());
        let sealed = b64::decode(answer["sealed_code"].as_str().unwrap()).unwrap();
        let salt = whole.prelude.hash();
        let code = open_code_with_salt(&sealed, &browser.psk, &salt).unwrap();
        assert!(open_code_with_salt(&sealed, &another.psk, &salt).is_err());
        assert!(open_code_with_salt(&sealed, &browser.psk, &session.prelude().hash()).is_err());
        let code = code.reveal();
        let next = soon(Browser::pair(setup.addr, "", browser.host, &code)).await.unwrap();
        assert!(soon(next.sealed()).await.is_ok());
    }
}
