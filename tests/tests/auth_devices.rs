//! Devices that ask to be let in (RFC 8628), and refresh tokens.

use http::{Method, StatusCode};
use relay_protocol::{
    api::{AuthSessionKind, AuthSessions, DeviceCode, DeviceRequest, TokenError, TokenErrorCode, TokenGrant},
    problem::Code,
};
use serde_json::json;
use system_tests::{
    Relay, RelayOptions, Reply,
    sign_in::{Database, form, signed_in},
    stack::EMAIL,
    tokens,
};

const PASSWORD: &str = "a quiet horse, 42";
const CLIENT: &str = "local-agent-client";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

async fn ask(relay: &Relay, name: &str) -> DeviceCode {
    let reply = form(relay, "/v1/auth/device/code", &[("client_id", CLIENT), ("name", name)]).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.json()
}

async fn poll(relay: &Relay, code: &DeviceCode) -> Reply {
    let fields = [("grant_type", GRANT), ("device_code", &code.device_code.0), ("client_id", CLIENT)];
    form(relay, "/v1/auth/token", &fields).await
}

#[track_caller]
fn is_error(reply: &Reply, error: TokenErrorCode) {
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.json::<TokenError>().error, error, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_let_in_on_sqlite() {
    a_device_is_let_in(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_let_in_on_postgres() {
    a_device_is_let_in(Database::postgres().await).await;
}

async fn a_device_is_let_in(database: Database) {
    let relay = Relay::start(database.options()).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let mut ann = signed_in(&relay, EMAIL, PASSWORD).await;
    let code = ask(&relay, "Ann's laptop").await;
    assert_eq!((code.expires_in, code.interval), (600, 5));
    assert_eq!(code.verification_uri, format!("{}/device", relay.url()));
    assert_eq!(
        code.verification_uri_complete,
        format!("{}/device?user_code={}", relay.url(), code.user_code)
    );
    let (first, second) = code.user_code.split_once('-').unwrap();
    for half in [first, second] {
        assert!(half.len() == 4 && half.bytes().all(|b| b"BCDFGHJKLMNPQRSTVWXZ".contains(&b)), "{half}");
    }

    is_error(&poll(&relay, &code).await, TokenErrorCode::AuthorizationPending);
    // However slow this machine is: the next question is due in an hour.
    database.set_time(&relay, "device_logins", "next_poll_at", 3600).await;
    is_error(&poll(&relay, &code).await, TokenErrorCode::SlowDown);
    database.set_time(&relay, "device_logins", "next_poll_at", -1).await;
    is_error(&poll(&relay, &code).await, TokenErrorCode::AuthorizationPending);
    let stranger = [("grant_type", GRANT), ("device_code", &code.device_code.0), ("client_id", "another")];
    is_error(&form(&relay, "/v1/auth/token", &stranger).await, TokenErrorCode::InvalidGrant);

    let path = |typed: &str| format!("/v1/auth/device/{typed}");
    let typed = format!("%20{}%20{}", first.to_lowercase(), second.to_lowercase());
    relay.api(Method::GET, &path(&code.user_code), "x").await.is_problem(Code::Unauthorized);
    for path in [path(&code.user_code), path(&typed)] {
        let shown: DeviceRequest = ann.get(&relay, &path).await.json();
        assert_eq!((shown.name.as_str(), shown.address.as_str()), ("Ann's laptop", "127.0.0.1"));
        assert_eq!(
            (shown.user_code.as_str(), shown.expires_at - shown.created_at),
            (code.user_code.as_str(), 600)
        );
    }
    for bad in ["WDJB-MJHT", "code-x", "x"] {
        ann.get(&relay, &path(bad)).await.is_problem(Code::NotFound);
    }
    ann.post(&relay, &path(&code.user_code), json!({})).await.is_problem(Code::BadRequest);
    let forged = ann.send(&relay, Method::POST, &path(&code.user_code), Some(json!({"approve": true}))).await;
    forged.is_problem(Code::CsrfRefused);
    is_error(&poll_now(&relay, &database, &code).await, TokenErrorCode::AuthorizationPending);
    let yes = ann.post(&relay, &path(&typed), json!({"approve": true})).await;
    assert_eq!(yes.status, StatusCode::NO_CONTENT, "{yes:?}");
    ann.post(&relay, &path(&typed), json!({"approve": true})).await.is_problem(Code::NotFound);
    ann.get(&relay, &path(&typed)).await.is_problem(Code::NotFound);

    let granted = poll(&relay, &code).await;
    assert_eq!((granted.status, granted.header("cache-control")), (StatusCode::OK, Some("no-store")));
    let granted: TokenGrant = granted.json();
    assert_eq!((granted.token_type.as_str(), granted.expires_in), ("Bearer", 30 * 24 * 3600));
    is_error(&poll(&relay, &code).await, TokenErrorCode::InvalidGrant);
    let hosts = async |token: &str| relay.api(Method::GET, "/v1/relay/hosts", token).await;
    assert_eq!(hosts(&granted.access_token.0).await.status, StatusCode::OK);

    let refresh = async |client: &str, token: &str| {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", client)];
        form(&relay, "/v1/auth/token", &fields).await
    };
    let renewed: TokenGrant = refresh(CLIENT, &granted.refresh_token.0).await.json();
    assert_eq!(hosts(&renewed.access_token.0).await.status, StatusCode::OK);
    let session = |token: &str| tokens::read(token)["session_id"].as_str().unwrap().to_owned();
    assert_eq!(session(&renewed.access_token.0), session(&granted.access_token.0));
    is_error(&refresh("another", &renewed.refresh_token.0).await, TokenErrorCode::InvalidGrant);
    is_error(&refresh(CLIENT, &granted.access_token.0).await, TokenErrorCode::InvalidGrant);
    is_error(&refresh(CLIENT, &code.device_code.0).await, TokenErrorCode::InvalidGrant);

    let list = ann.get(&relay, "/v1/auth/sessions").await.json::<AuthSessions>().sessions;
    let device = list.iter().find(|s| s.kind == AuthSessionKind::Device).unwrap();
    assert_eq!((device.name.as_str(), device.current), ("Ann's laptop", false));
    assert_eq!(device.id.to_string(), session(&granted.access_token.0));
    let ended = ann.call(&relay, Method::DELETE, &format!("/v1/auth/sessions/{}", device.id), None).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    hosts(&renewed.access_token.0).await.is_problem(Code::Unauthorized);
    is_error(&refresh(CLIENT, &renewed.refresh_token.0).await, TokenErrorCode::InvalidGrant);

    refused_and_expired(&relay, &database).await;
    let (log, rows) = (relay.log(), database.dump(&relay).await);
    assert!(
        log.contains("a device asks to be let in") && log.contains("a device login was decided"),
        "{log}"
    );
    for secret in [&code.device_code, &granted.refresh_token, &granted.access_token, &renewed.access_token] {
        assert!(!log.contains(&secret.0) && !rows.contains(&secret.0), "{}", secret.0);
    }
    for shown in [&code.user_code, &code.user_code.replace('-', ""), &typed] {
        assert!(!log.contains(shown.as_str()), "the user code is in the log: {shown}");
    }
}

/// Asks at a moment when asking is due.
async fn poll_now(relay: &Relay, database: &Database, code: &DeviceCode) -> Reply {
    database.set_time(relay, "device_logins", "next_poll_at", -1).await;
    poll(relay, code).await
}

async fn refused_and_expired(relay: &Relay, database: &Database) {
    let mut ann = signed_in(relay, EMAIL, PASSWORD).await;
    let denied = ask(relay, "not mine").await;
    let path = format!("/v1/auth/device/{}", denied.user_code);
    assert_eq!(ann.post(relay, &path, json!({"approve": false})).await.status, StatusCode::NO_CONTENT);
    is_error(&poll(relay, &denied).await, TokenErrorCode::AccessDenied);
    ann.post(relay, &path, json!({"approve": true})).await.is_problem(Code::NotFound);

    let late = ask(relay, "late").await;
    database.set_time(relay, "device_logins", "expires_at", -1).await;
    is_error(&poll(relay, &late).await, TokenErrorCode::ExpiredToken);
    let path = format!("/v1/auth/device/{}", late.user_code);
    ann.get(relay, &path).await.is_problem(Code::NotFound);
    ann.post(relay, &path, json!({"approve": true})).await.is_problem(Code::NotFound);
    is_error(&poll(relay, &late).await, TokenErrorCode::ExpiredToken);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_told_as_the_standards_say() {
    let relay = Relay::start(RelayOptions::default().portal()).await;
    use TokenErrorCode::*;
    let unknown = "A".repeat(43);
    for (fields, error) in [
        (&[][..], InvalidRequest),
        (&[("client_id", CLIENT)], InvalidRequest),
        (&[("grant_type", GRANT), ("device_code", unknown.as_str())], InvalidRequest),
        (&[("grant_type", GRANT), ("client_id", CLIENT)], InvalidRequest),
        (&[("grant_type", GRANT), ("client_id", CLIENT), ("device_code", "")], InvalidRequest),
        (&[("grant_type", GRANT), ("client_id", CLIENT), ("client_id", CLIENT)], InvalidRequest),
        (&[("grant_type", "password"), ("client_id", CLIENT)], UnsupportedGrantType),
        (&[("grant_type", GRANT), ("client_id", "a b"), ("device_code", "x")], InvalidClient),
        (&[("grant_type", GRANT), ("client_id", CLIENT), ("device_code", "x")], InvalidGrant),
        (&[("grant_type", GRANT), ("client_id", CLIENT), ("device_code", unknown.as_str())], InvalidGrant),
        (
            &[("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", unknown.as_str())],
            InvalidGrant,
        ),
    ] {
        is_error(&form(&relay, "/v1/auth/token", fields).await, error);
    }
    let long = "x".repeat(101);
    for (fields, error) in [
        (&[][..], InvalidRequest),
        (&[("client_id", "a/b")], InvalidClient),
        (&[("client_id", CLIENT), ("name", "a\nb")], InvalidRequest),
        (&[("client_id", CLIENT), ("name", long.as_str())], InvalidRequest),
    ] {
        is_error(&form(&relay, "/v1/auth/device/code", fields).await, error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_asks_so_often_and_another_is_not_touched_by_it() {
    let options = RelayOptions::default()
        .portal()
        .env("RELAY_TRUSTED_PROXIES", "127.0.0.1")
        .env("RELAY_PUBLIC_URL", "https://relay.example/base/");
    let relay = Relay::start(options).await;
    let ask_from = async |address: &str| {
        let request = http::Request::post("/v1/auth/device/code")
            .header("x-forwarded-for", address)
            .body(system_tests::client::full("client_id=local-agent-client"))
            .unwrap();
        system_tests::fetch(relay.addr, request).await
    };
    let first: DeviceCode = ask_from("203.0.113.1").await.json();
    assert_eq!(first.verification_uri, "https://relay.example/base/device");
    let mut refused = None;
    for _ in 0..16 {
        let reply = ask_from("203.0.113.1").await;
        if reply.status != StatusCode::OK {
            refused = Some(reply);
        }
    }
    refused.expect("seventeen wait").is_problem(Code::RateLimited);
    assert_eq!(ask_from("203.0.113.2").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_codes_are_not_for_guessing() {
    let relay = Relay::start(RelayOptions::default().portal()).await;
    let (ann, bob) = (relay.user_with_token(EMAIL).await, relay.user_with_token("bob@example.com").await);
    let code = ask(&relay, "laptop").await;
    let mut limited = false;
    for n in 0..12 {
        let guess = format!("/v1/auth/device/WDJB-MJH{}", char::from(b"BCDFGHJKLMNP"[n]));
        limited |= relay.api(Method::GET, &guess, &bob).await.status == StatusCode::TOO_MANY_REQUESTS;
    }
    assert!(limited);
    let path = format!("/v1/auth/device/{}", code.user_code);
    assert_eq!(
        relay.api(Method::GET, &path, &ann).await.status,
        StatusCode::OK,
        "another person is not touched"
    );
}
