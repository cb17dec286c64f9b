//! Signing in with a browser: password, one-time link, cookie, sessions; and everything that does not let in.

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use relay_protocol::{
    api::{AuthSessionKind, AuthSessions, HostStatus, Me, SignedIn},
    problem::Code,
};
use serde_json::{Value, json};
use system_tests::{
    Relay, RelayOptions, Reply, SOON,
    client::{self, fetch, full, get},
    eventually,
    plain_agent::{PlainAgent, PlainOptions},
    postgres::{Postgres, WEB_APP, web_user},
    sign_in::{Browser, Database, form, signed_in},
    stack::{EMAIL, HOST},
    tokens::{self, SECRET},
};
use uuid::Uuid;

const PASSWORD: &str = "a quiet horse, 42";
const CHANGED: &str = "another quiet horse";
const BOB: &str = "bob@example.com";

/// The same to whoever asks: all of it but the request's id.
fn told(reply: &Reply) -> (StatusCode, Value, Vec<String>) {
    let mut body: Value = reply.json();
    body.as_object_mut().unwrap().remove("request_id");
    let mut names: Vec<String> = reply.headers.keys().map(ToString::to_string).collect();
    names.sort();
    (reply.status, body, names)
}

fn attributes(set_cookie: &str) -> Vec<String> {
    set_cookie.split("; ").skip(1).map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_and_out_on_sqlite() {
    a_person_signs_in_and_out(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_and_out_on_postgres() {
    a_person_signs_in_and_out(Database::postgres().await).await;
}

async fn a_person_signs_in_and_out(database: Database) {
    let relay = Relay::start(database.options()).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let token = relay.token(EMAIL).await;
    let mut secrets = vec![PASSWORD.to_owned(), CHANGED.to_owned()];

    // Nobody learns whether there is such a person.
    let mut nobody = Browser::default();
    let wrong = nobody.login(&relay, EMAIL, "a quiet horse, 43").await;
    wrong.is_problem(Code::SignInFailed);
    let unknown = nobody.login(&relay, "nobody@example.com", PASSWORD).await;
    assert_eq!(told(&wrong), told(&unknown));
    relay.add_user(BOB).await;
    assert_eq!(told(&wrong), told(&nobody.login(&relay, BOB, PASSWORD).await), "one without a password");
    assert_eq!(nobody.cookie, None);

    let mut ann = Browser::default().with("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0");
    let reply = ann.login(&relay, &format!(" {} ", EMAIL.to_uppercase()), PASSWORD).await;
    assert_eq!(reply.json::<SignedIn>().user.email, EMAIL);
    let set = reply.header("set-cookie").unwrap();
    assert!(set.starts_with("relay_session="), "{set}");
    assert_eq!(attributes(set), ["Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=604800"]);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    secrets.push(ann.token());
    let me: Me = ann.get(&relay, "/v1/auth/me").await.json();
    assert_eq!((me.user.email.as_str(), me.user.has_password), (EMAIL, true));
    assert_eq!(me.session_id.to_string(), tokens::read(&ann.token())["session_id"].as_str().unwrap());
    assert!(me.expires_at > tokens::now());

    the_cookie_counts_for_the_portal_alone(&relay, &ann).await;

    // A new cookie for the same session; a token that was made to end is not renewed by being a cookie.
    let reply = ann.post(&relay, "/v1/auth/refresh", json!({})).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{reply:?}");
    secrets.push(ann.token());
    assert_eq!(ann.get(&relay, "/v1/auth/me").await.json::<Me>().session_id, me.session_id);
    relay.api(Method::POST, "/v1/auth/refresh", &ann.token()).await.is_problem(Code::Unauthorized);
    let mut planted = Browser { cookie: Some(format!("relay_session={token}")), ..Browser::default() };
    assert_eq!(planted.get(&relay, "/v1/auth/me").await.status, StatusCode::OK);
    planted.post(&relay, "/v1/auth/refresh", json!({})).await.is_problem(Code::Unauthorized);

    for (body, code) in [
        (json!({"new": CHANGED}), Code::BadRequest),
        (json!({"current": PASSWORD, "new": "too short"}), Code::BadRequest),
        (json!({"current": PASSWORD, "new": "x".repeat(201)}), Code::BadRequest),
        (json!({"current": CHANGED, "new": CHANGED}), Code::SignInFailed),
    ] {
        ann.post(&relay, "/v1/auth/password", body).await.is_problem(code);
    }
    let changed = ann.post(&relay, "/v1/auth/password", json!({"current": PASSWORD, "new": CHANGED})).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT, "{changed:?}");
    nobody.login(&relay, EMAIL, PASSWORD).await.is_problem(Code::SignInFailed);
    let mut second = signed_in(&relay, EMAIL, CHANGED).await;
    secrets.push(second.token());

    let list = ann.get(&relay, "/v1/auth/sessions").await.json::<AuthSessions>().sessions;
    let mut kinds: Vec<_> =
        list.iter().map(|s| (s.kind == AuthSessionKind::Token, s.name.as_str(), s.current)).collect();
    kinds.sort();
    let expected = [(false, "Browser", false), (false, "Firefox on Linux", true), (true, "token", false)];
    assert_eq!(kinds, expected);
    let second_id = second.get(&relay, "/v1/auth/me").await.json::<Me>().session_id;
    let bob = relay.token(BOB).await;
    let path = format!("/v1/auth/sessions/{second_id}");
    // A token ends no sign-in of a person, whoever's it is.
    relay.api(Method::DELETE, &path, &bob).await.is_problem(Code::Unauthorized);
    assert_eq!(ann.call(&relay, Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    ann.call(&relay, Method::DELETE, &path, None).await.is_problem(Code::NotFound);
    second.get(&relay, "/v1/auth/me").await.is_problem(Code::Unauthorized);

    let old = ann.clone();
    let reply = ann.post(&relay, "/v1/auth/logout", json!({})).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert_eq!(
        attributes(reply.header("set-cookie").unwrap()),
        ["Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=0"]
    );
    assert_eq!(ann.cookie, None);
    old.with("x-relay-csrf", "1")
        .send(&relay, Method::GET, "/v1/auth/me", None)
        .await
        .is_problem(Code::Unauthorized);

    secrets.extend(links(&relay, &database).await);
    let (log, rows) = (relay.log(), database.dump(&relay).await);
    assert!(
        log.contains("signed in") && log.contains("sign-in failed") && log.contains("password changed"),
        "{log}"
    );
    assert!(rows.contains("$argon2id$v=19$m=19456,t=2,p=1$") && rows.contains(EMAIL), "{rows}");
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "in the log: {secret}");
        assert!(!rows.contains(secret.as_str()), "in the database: {secret}");
    }
}

async fn the_cookie_counts_for_the_portal_alone(relay: &Relay, ann: &Browser) {
    let own = relay.url();
    let marked = ann.with("x-relay-csrf", "1");
    let id = Uuid::new_v4();
    for (method, path, when_good) in [
        (Method::GET, "/v1/relay/hosts".to_owned(), 200),
        (Method::GET, "/v1/relay/sessions".to_owned(), 200),
        (Method::GET, "/v1/auth/me".to_owned(), 200),
        (Method::GET, "/v1/auth/sessions".to_owned(), 200),
        (Method::POST, format!("/v1/relay/create/{id}"), 403),
        (Method::DELETE, format!("/v1/relay/hosts/{id}"), 404),
        (Method::DELETE, format!("/v1/relay/sessions/{id}"), 404),
        (Method::DELETE, format!("/v1/auth/sessions/{id}"), 404),
    ] {
        let send = async |browser: &Browser| browser.send(relay, method.clone(), &path, None).await;
        assert_eq!(send(&marked).await.status, when_good, "{method} {path}");
        assert_eq!(send(&marked.with("origin", &own)).await.status, when_good, "{method} {path}");
        for refused in [
            ann.clone(),
            ann.with("origin", &own),
            ann.with("x-relay-csrf", "0"),
            marked.with("origin", "https://evil.example"),
            marked.with("origin", "null"),
            marked.with("origin", &own).with("origin", &own),
        ] {
            assert_eq!(send(&refused).await.problem().code, Code::CsrfRefused, "{method} {path} {refused:?}");
        }
        // A bad token is not made good by a cookie.
        let both = marked.with("authorization", "Bearer x");
        assert_eq!(send(&both).await.problem().code, Code::Unauthorized, "{method} {path}");
    }
    for path in ["/v1/auth/refresh", "/v1/auth/logout", "/v1/auth/password"] {
        let reply = ann.send(relay, Method::POST, path, Some(json!({"new": CHANGED}))).await;
        assert_eq!(reply.problem().code, Code::CsrfRefused, "{path}");
    }
    // Nor does a foreign page sign anybody in.
    let foreign = Browser::default().with("origin", "https://evil.example");
    for path in ["/v1/auth/login", "/v1/auth/link"] {
        let body = json!({"email": EMAIL, "password": PASSWORD, "token": "x"});
        let reply = foreign.send(relay, Method::POST, path, Some(body)).await;
        reply.is_problem(Code::CsrfRefused);
        assert_eq!(reply.header("set-cookie"), None);
    }
    // Neither a tunnel nor a proxied path knows the cookie.
    let cookie = ann.cookie.as_deref().unwrap();
    let headers = [("cookie", cookie), ("x-relay-csrf", "1")];
    let connect = client::websocket(relay.addr, "/v1/relay/connect?machine_id=m&name=n", &headers).await;
    let tokio_tungstenite::tungstenite::Error::Http(refused) = connect.unwrap_err() else {
        panic!("no answer")
    };
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let proxied = format!("/v1/relay/h/{id}/s/{id}/");
    marked.send(relay, Method::GET, &proxied, None).await.is_problem(Code::SessionExpired);
    // Two cookies of the name are none.
    let twice = Browser { cookie: Some(format!("{cookie}; {cookie}")), ..marked };
    twice.send(relay, Method::GET, "/v1/auth/me", None).await.is_problem(Code::Unauthorized);
}

/// One-time links. Returns what must be nowhere.
async fn links(relay: &Relay, database: &Database) -> Vec<String> {
    let link = async |args: &[&str]| {
        let out = relay.cli(&[&["login", BOB], args].concat()).await;
        assert!(out.status.success(), "{out:?}");
        out.stdout.strip_suffix('\n').unwrap().to_owned()
    };
    let first = link(&["--url", &relay.url()]).await;
    let token = first.strip_prefix(&format!("{}/#/link/", relay.url())).unwrap_or_else(|| panic!("{first}"));
    let mut bob = Browser::default();
    let reply = bob.post(relay, "/v1/auth/link", json!({"token": token})).await;
    assert_eq!(reply.json::<SignedIn>().user.email, BOB);
    let me: Me = bob.get(relay, "/v1/auth/me").await.json();
    assert!(!me.user.has_password);
    let mut again = Browser::default();
    again.post(relay, "/v1/auth/link", json!({"token": token})).await.is_problem(Code::SignInFailed);
    let expired = link(&[]).await;
    database.set_time(relay, "login_links", "expires_at", -1).await;
    let (_, expired) = expired.rsplit_once('/').unwrap();
    for token in [expired, "", "x", &"A".repeat(43), &"A".repeat(5000)] {
        again.post(relay, "/v1/auth/link", json!({"token": token})).await.is_problem(Code::SignInFailed);
    }
    assert_eq!(again.cookie, None);
    // Whoever has no password sets one without.
    let set = bob.post(relay, "/v1/auth/password", json!({"new": "bob's quiet horse"})).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT, "{set:?}");
    signed_in(relay, BOB, "bob's quiet horse").await;
    vec![token.to_owned(), expired.to_owned(), bob.token(), "bob's quiet horse".to_owned()]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_small_and_well_formed() {
    let relay = Relay::start(RelayOptions::default().portal()).await;
    for path in ["/v1/auth/login", "/v1/auth/link", "/v1/auth/device/code", "/v1/auth/token"] {
        let large = client::request(Method::POST, path, full(vec![b' '; 9000]));
        fetch(relay.addr, large).await.is_problem(Code::BodyTooLarge);
        relay.api(Method::GET, path, "x").await.is_problem(Code::MethodNotAllowed);
    }
    for body in ["", "x", "[]", "{}", "{\"email\":1,\"password\":2}", "{\"email\":\"a@b\"}"] {
        let request = client::request(Method::POST, "/v1/auth/login", full(body));
        fetch(relay.addr, request).await.is_problem(Code::BadRequest);
    }
    let long = "x".repeat(3000);
    Browser::default().login(&relay, &long, &long).await.is_problem(Code::SignInFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up() {
    let relay = Relay::start(RelayOptions::default().portal().env("RELAY_HEADER_TIMEOUT", "300ms")).await;
    let (sender, body) = client::channel();
    sender.send(hyper::body::Frame::data("{".into())).await.unwrap();
    let reply = fetch(relay.addr, client::request(Method::POST, "/v1/auth/login", body)).await;
    reply.is_problem(Code::RequestTimeout);
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_waits_and_the_owner_elsewhere_does_not() {
    let relay =
        Relay::start(RelayOptions::default().portal().env("RELAY_TRUSTED_PROXIES", "127.0.0.1")).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    relay.user_with_password(BOB, PASSWORD).await;
    let from = |address: &str| Browser::default().with("x-forwarded-for", address);
    let (mut guesser, mut owner) = (from("203.0.113.1"), from("203.0.113.2"));
    // Signing in is no guess.
    for _ in 0..8 {
        assert_eq!(owner.login(&relay, EMAIL, PASSWORD).await.status, StatusCode::OK);
    }
    for n in 0..5 {
        guesser.login(&relay, EMAIL, &format!("guess number {n}")).await.is_problem(Code::SignInFailed);
    }
    let waits = guesser.login(&relay, EMAIL, PASSWORD).await;
    waits.is_problem(Code::RateLimited);
    assert_eq!(waits.header("retry-after"), Some("30"), "what the next try takes");
    assert_eq!(guesser.cookie, None, "even the right one has to wait");
    assert_eq!(
        owner.login(&relay, EMAIL, PASSWORD).await.status,
        StatusCode::OK,
        "the owner is not locked out"
    );
    assert_eq!(
        guesser.login(&relay, BOB, PASSWORD).await.status,
        StatusCode::OK,
        "nor anybody at that address"
    );
    // Guessing at many people, or links, is counted too.
    let mut limited = false;
    for n in 0..70 {
        let reply = guesser.post(&relay, "/v1/auth/link", json!({"token": format!("{n:043}")})).await;
        limited |= reply.status == StatusCode::TOO_MANY_REQUESTS;
    }
    assert!(limited);
    assert_eq!(owner.login(&relay, EMAIL, PASSWORD).await.status, StatusCode::OK);
    let log = relay.log();
    assert!(log.contains("too many wrong passwords") && log.contains("too many attempts"), "{log}");
    assert!(!log.contains("guess number"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_many_addresses_is_one_guesser() {
    let relay =
        Relay::start(RelayOptions::default().portal().env("RELAY_TRUSTED_PROXIES", "127.0.0.1")).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let from = |address: &str| Browser::default().with("x-forwarded-for", address);
    for n in 0..20 {
        let mut guesser = from(&format!("2001:db8:1:{n:x}::1"));
        guesser.login(&relay, EMAIL, &format!("guess number {n}")).await.is_problem(Code::SignInFailed);
    }
    let waits = from("2001:db8:1:ffff::1").login(&relay, EMAIL, PASSWORD).await;
    waits.is_problem(Code::RateLimited);
    assert_eq!(waits.header("retry-after"), Some("30"));
    assert_eq!(from("2001:db8:2::1").login(&relay, EMAIL, PASSWORD).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_neither_lets_in_others_nor_locks_out_the_person() {
    let relay = Relay::start(RelayOptions::default().portal()).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let token = relay.token(EMAIL).await;
    let mut ann = signed_in(&relay, EMAIL, PASSWORD).await;
    let anns = tokens::read(&ann.token())["session_id"].as_str().unwrap().to_owned();
    let fields = [("client_id", "local-agent-client"), ("name", "laptop")];
    let device: Value = form(&relay, "/v1/auth/device/code", &fields).await.json();
    let device = format!("/v1/auth/device/{}", device["user_code"].as_str().unwrap());
    for (method, path, body) in [
        (Method::POST, "/v1/auth/password".to_owned(), json!({"current": PASSWORD, "new": CHANGED})),
        (Method::POST, device.clone(), json!({"approve": true})),
        (Method::DELETE, format!("/v1/auth/sessions/{anns}"), json!({})),
    ] {
        let refused = relay.api_json(method, &path, &token, body).await;
        refused.is_problem(Code::Unauthorized);
        assert!(refused.text().contains("with a browser"), "{path}: {refused:?}");
    }
    // The person's own token does it, in the cookie or beside it, and any token ends itself.
    assert_eq!(ann.get(&relay, "/v1/auth/me").await.status, StatusCode::OK);
    let yes = relay.api_json(Method::POST, &device, &ann.token(), json!({"approve": true})).await;
    assert_eq!(yes.status, StatusCode::NO_CONTENT, "{yes:?}");
    let own = tokens::read(&token)["session_id"].as_str().unwrap().to_owned();
    let ended = relay.api(Method::DELETE, &format!("/v1/auth/sessions/{own}"), &token).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT, "{ended:?}");
    relay.api(Method::GET, "/v1/auth/me", &token).await.is_problem(Code::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_cookie_is_bound_to_it() {
    let relay =
        Relay::start(RelayOptions::default().portal().env("RELAY_TRUSTED_PROXIES", "127.0.0.1")).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let mut ann = Browser::default()
        .with("x-forwarded-proto", "https")
        .with("x-forwarded-host", "relay.example")
        .with("origin", "https://relay.example");
    let reply = ann.login(&relay, EMAIL, PASSWORD).await;
    let set = reply.header("set-cookie").unwrap();
    assert!(set.starts_with("__Host-relay_session="), "{set}");
    assert_eq!(attributes(set), ["Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=604800", "Secure"]);
    assert_eq!(ann.get(&relay, "/v1/auth/me").await.status, StatusCode::OK);
    // The same token as the other scheme's cookie is none, either way.
    let token = ann.token();
    let plain = Browser { cookie: Some(format!("relay_session={token}")), headers: ann.headers.clone() };
    plain
        .with("x-relay-csrf", "1")
        .send(&relay, Method::GET, "/v1/auth/me", None)
        .await
        .is_problem(Code::Unauthorized);
    let over_http = Browser { cookie: ann.cookie.clone(), headers: Vec::new() };
    over_http
        .with("x-relay-csrf", "1")
        .send(&relay, Method::GET, "/v1/auth/me", None)
        .await
        .is_problem(Code::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_a_session_ends_with_it_at_once() {
    let relay = Relay::start(RelayOptions::default().portal()).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let token = relay.token(EMAIL).await;
    let say = |_| async { http::Response::new(full("hello")) };
    let _agent = PlainAgent::connect(relay.addr, &token, PlainOptions::new(HOST), say).await.unwrap();
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let mut ann = signed_in(&relay, EMAIL, PASSWORD).await;
    let made = ann.post(&relay, &format!("/v1/relay/create/{host}"), json!({})).await;
    let session = made.json::<Value>()["session_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/relay/h/{host}/s/{session}/");
    assert_eq!(fetch(relay.addr, get(&path)).await.text(), "hello");
    let mut other = signed_in(&relay, EMAIL, PASSWORD).await;
    assert_eq!(ann.post(&relay, "/v1/auth/logout", json!({})).await.status, StatusCode::NO_CONTENT);
    // Not within five seconds, but now: the relay was told.
    fetch(relay.addr, get(&path)).await.is_problem(Code::SessionExpired);

    let id = tokens::read(&token)["session_id"].as_str().unwrap().to_owned();
    let ended = other.call(&relay, Method::DELETE, &format!("/v1/auth/sessions/{id}"), None).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    relay.api(Method::GET, "/v1/relay/hosts", &token).await.is_problem(Code::Unauthorized);
    eventually("the tunnel is gone", SOON, || async {
        let mut other = other.clone();
        other.get(&relay, "/v1/relay/hosts").await.text().contains("offline")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_web_app_has_the_users_nobody_signs_in_here() {
    let postgres = Postgres::start().await;
    let url = postgres.database("shared").await;
    postgres.execute("shared", WEB_APP).await;
    let (user, session) = web_user(&postgres, "shared", EMAIL).await;
    let token = tokens::good(user, session);
    let relay =
        Relay::start(RelayOptions::default().portal().database(&url).env("RELAY_JWT_SECRET", SECRET)).await;
    let unknown = told(&relay.api(Method::GET, "/v1/nothing", &token).await);
    for (method, path) in [
        (Method::POST, "/v1/auth/login"),
        (Method::GET, "/v1/auth/login"),
        (Method::POST, "/v1/auth/link"),
        (Method::GET, "/v1/auth/me"),
        (Method::POST, "/v1/auth/password"),
        (Method::POST, "/v1/auth/refresh"),
        (Method::POST, "/v1/auth/logout"),
        (Method::GET, "/v1/auth/sessions"),
        (Method::POST, "/v1/auth/device/code"),
        (Method::GET, "/v1/auth/device/WDJB-MJHT"),
        (Method::POST, "/v1/auth/token"),
        (Method::GET, "/"),
        (Method::GET, "/device"),
    ] {
        let reply = relay.api_json(method.clone(), path, &token, json!({})).await;
        assert_eq!(told(&reply), unknown, "{method} {path}");
    }
    // The app's token works, and as a cookie of ours it is nothing.
    assert!(relay.api(Method::GET, "/v1/relay/hosts", &token).await.status.is_success());
    let mut browser = Browser { cookie: Some(format!("relay_session={token}")), ..Browser::default() };
    browser.get(&relay, "/v1/relay/hosts").await.is_problem(Code::Unauthorized);
    let log = relay.log();
    assert!(log.contains("the portal are off"), "{log}");
    for args in [&["login", EMAIL][..], &["user", "password", EMAIL, "--generate"]] {
        let out = relay.cli(args).await;
        assert!(!out.status.success() && out.stdout.is_empty(), "{out:?}");
        assert!(out.stderr.contains("the web app's"), "{out:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_portal_and_its_cookie_have_an_origin_for_themselves() {
    const PORTAL: &str = "portal.example:8082";
    let options = RelayOptions::default()
        .portal()
        .env("RELAY_PORTAL_ORIGIN", format!("http://{PORTAL}"))
        .env("RELAY_PUBLIC_URL", "http://relay.example:8082");
    let relay = Relay::start(options).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let token = relay.token(EMAIL).await;
    let say = |_| async { http::Response::new(full("hello")) };
    let _agent = PlainAgent::connect(relay.addr, &token, PlainOptions::new(HOST), say).await.unwrap();
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;

    let portal = Browser::default().with("host", PORTAL);
    let elsewhere = Browser::default().with("host", "relay.example:8082");
    elsewhere.clone().login(&relay, EMAIL, PASSWORD).await.is_problem(Code::CsrfRefused);
    let mut ann = portal.with("origin", &format!("http://{PORTAL}"));
    assert_eq!(ann.login(&relay, EMAIL, PASSWORD).await.status, StatusCode::OK);
    assert_eq!(ann.get(&relay, "/v1/relay/hosts").await.status, StatusCode::OK);
    let mut strayed = Browser { cookie: ann.cookie.clone(), ..elsewhere.clone() };
    strayed.get(&relay, "/v1/relay/hosts").await.is_problem(Code::Unauthorized);

    let page = format!("/v1/relay/h/{host}/s/{session}/");
    let open = async |browser: &Browser, dest: &str| {
        let browser = browser.with("sec-fetch-dest", dest).with("sec-fetch-mode", "navigate");
        browser.send(&relay, Method::GET, &page, None).await
    };
    for dest in ["document", "iframe", "script", "serviceworker"] {
        open(&portal, dest).await.is_problem(Code::SharedOriginRefused);
        assert_eq!(open(&elsewhere, dest).await.text(), "hello", "{dest}");
    }
    // What the portal itself fetches passes, and is kept for no other use.
    let ask = async |browser: &Browser, headers: &[(&str, &str)]| {
        let browser =
            headers.iter().fold(browser.clone(), |browser, (name, value)| browser.with(name, value));
        browser.send(&relay, Method::GET, &page, None).await
    };
    let own = [("sec-fetch-site", "same-origin"), ("sec-fetch-dest", "empty")];
    let fetched = ask(&portal, &own).await;
    assert_eq!(fetched.text(), "hello");
    let varies =
        |reply: &Reply| reply.headers.get_all("vary").iter().any(|v| v == "Sec-Fetch-Dest, Sec-Fetch-Site");
    assert!(varies(&fetched), "{fetched:?}");
    let signed = ask(&portal, &[own[0], own[1], ("signature", "s=:eA==:")]).await;
    assert!(!varies(&signed), "{signed:?}");
    assert!(!varies(&open(&elsewhere, "image").await));
    // An image of another site's page could be opened from the cache as a page.
    for site in ["cross-site", "same-site", "none"] {
        for (dest, mode) in [("image", "no-cors"), ("empty", "cors")] {
            let headers = [("sec-fetch-site", site), ("sec-fetch-dest", dest), ("sec-fetch-mode", mode)];
            ask(&portal, &headers).await.is_problem(Code::SharedOriginRefused);
            assert_eq!(ask(&elsewhere, &headers).await.text(), "hello", "{site} {dest}");
        }
    }
    for path in ["/", "/device"] {
        elsewhere.send(&relay, Method::GET, path, None).await.is_problem(Code::NotFound);
    }
    let link = relay.cli(&["login", EMAIL]).await.stdout;
    assert!(link.starts_with(&format!("http://{PORTAL}/#/link/")), "{link}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hosts_page_opens_where_the_cookie_counts_whoever_made_the_session() {
    let page_of = async |relay: &Relay, token: &str| {
        let host = relay.await_host(token, HOST, HostStatus::Online).await.id;
        format!("/v1/relay/h/{host}/s/{}/", relay.create_session(token, host).await)
    };
    let say = |_| async { http::Response::new(full("hello")) };
    for portal in [true, false] {
        let options = RelayOptions::default();
        let relay = Relay::start(if portal { options.portal() } else { options }).await;
        relay.user_with_password(EMAIL, PASSWORD).await;
        // The page is of the host of whoever made the session: its owner, who need not be who opens it.
        let token = relay.user_with_token(BOB).await;
        let _agent = PlainAgent::connect(relay.addr, &token, PlainOptions::new(HOST), say).await.unwrap();
        let page = page_of(&relay, &token).await;
        let ask = async |headers: &[(&str, &str)]| {
            let plain = Browser::default();
            let browser = headers.iter().fold(plain, |browser, (name, value)| browser.with(name, value));
            browser.send(&relay, Method::GET, &page, None).await
        };
        for headers in [
            &[("sec-fetch-dest", "document"), ("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-dest", "iframe"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-dest", "script"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-dest", "serviceworker")],
            &[("sec-fetch-dest", "image"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            &[("accept", "text/html,*/*;q=0.8")],
        ] {
            let reply = ask(headers).await;
            if portal {
                reply.is_problem(Code::SharedOriginRefused);
                assert!(reply.text().contains("RELAY_PORTAL_ORIGIN"), "{reply:?}");
                assert!(reply.text().contains("RELAY_PORTAL=0"), "{reply:?}");
            } else {
                assert_eq!(reply.text(), "hello", "{headers:?}");
            }
        }
        // What the portal fetches, what an app of an allowed origin does, and programs go on.
        for headers in [
            &[][..],
            &[("sec-fetch-dest", "empty"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-dest", "empty"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")],
        ] {
            assert_eq!(ask(headers).await.text(), "hello", "{headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_portal_no_cookie_counts_and_tokens_do() {
    let relay = Relay::start(RelayOptions::default().env("RELAY_PORTAL", "0")).await;
    relay.user_with_password(EMAIL, PASSWORD).await;
    let token = relay.token(EMAIL).await;
    let unknown = told(&fetch(relay.addr, get("/v1/nothing")).await);
    for path in ["/v1/auth/login", "/v1/auth/link", "/v1/auth/refresh"] {
        let body = json!({"email": EMAIL, "password": PASSWORD, "token": "x"});
        let reply = relay.api_json(Method::POST, path, &token, body).await;
        let (status, body, _) = told(&reply);
        assert_eq!((status, &body), (unknown.0, &unknown.1), "{path}");
    }
    let mut planted = Browser { cookie: Some(format!("relay_session={token}")), ..Browser::default() };
    planted.get(&relay, "/v1/auth/me").await.is_problem(Code::Unauthorized);
    planted.get(&relay, "/v1/relay/hosts").await.is_problem(Code::Unauthorized);
    assert_eq!(relay.api(Method::GET, "/v1/auth/me", &token).await.status, StatusCode::OK);
    let fields = [("client_id", "local-agent-client"), ("name", "laptop")];
    assert_eq!(form(&relay, "/v1/auth/device/code", &fields).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_follows_the_url_that_the_relay_was_told() {
    for (name, value) in
        [("RELAY_PUBLIC_URL", "https://relay.example/"), ("RELAY_PORTAL_ORIGIN", "https://relay.example")]
    {
        // TLS ends at a proxy that nobody named: by itself the relay sees http.
        let relay = Relay::start(RelayOptions::default().portal().env(name, value)).await;
        relay.user_with_password(EMAIL, PASSWORD).await;
        let mut ann =
            Browser::default().with("host", "relay.example").with("origin", "https://relay.example");
        let reply = ann.login(&relay, EMAIL, PASSWORD).await;
        let set = reply.header("set-cookie").unwrap();
        assert!(set.starts_with("__Host-relay_session=") && set.ends_with("; Secure"), "{name}: {set}");
        assert_eq!(ann.get(&relay, "/v1/auth/me").await.status, StatusCode::OK, "{name}");
        let out = ann.post(&relay, "/v1/auth/logout", json!({})).await;
        assert!(out.header("set-cookie").unwrap().starts_with("__Host-relay_session=;"), "{name}: {out:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_portals_pages_are_guarded_or_not_there() {
    let off = Relay::start(RelayOptions::default().env("RELAY_PORTAL", "0")).await;
    let unknown = told(&fetch(off.addr, get("/v1/nothing")).await);
    for path in ["/", "/device", "/index.html", "/assets/x.js"] {
        assert_eq!(told(&fetch(off.addr, get(path)).await), unknown, "{path}");
        let posted = fetch(off.addr, client::request(Method::POST, path, full("x"))).await;
        assert_eq!(told(&posted), unknown, "{path}");
    }
    let relay = Relay::start(RelayOptions::default().portal()).await;
    let page = fetch(relay.addr, get("/")).await;
    if page.status == StatusCode::NOT_FOUND {
        // This build has no portal, and says how to get one.
        assert_eq!(told(&page), unknown);
        assert!(relay.log().contains("the portal is not in this build: run `npm"), "{}", relay.log());
        return;
    }
    assert_eq!(page.status, StatusCode::OK, "{page:?}");
    assert!(!relay.log().contains("not in this build"));
    let csp = page.header("content-security-policy").unwrap();
    let own = format!("connect-src 'self' ws://{};", relay.addr);
    for part in [
        "default-src 'none';",
        "script-src 'self';",
        "frame-ancestors 'none';",
        "require-trusted-types-for 'script'",
        &own,
    ] {
        assert!(csp.contains(part), "{part} in {csp}");
    }
    assert!(!csp.contains("unsafe"), "{csp}");
    for (name, value) in [
        ("cache-control", "no-cache"),
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    assert_eq!(fetch(relay.addr, get("/device?user_code=WDJB-MJHT")).await.body, page.body);
    let head = fetch(relay.addr, client::request(Method::HEAD, "/", client::empty())).await;
    assert!(head.body.is_empty() && head.status == StatusCode::OK);
    let html = page.text();
    let assets: Vec<&str> = html.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert!(!assets.is_empty(), "{html}");
    for path in assets {
        let response = client::send(relay.addr, get(path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()["cache-control"], "public, max-age=31536000, immutable", "{path}");
        assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty(), "{path}");
    }
    assert_eq!(told(&fetch(relay.addr, get("/assets/none.js")).await), unknown);
}
