//! A web app's users by tokens of its identity provider: the relay beside the web app, in its PostgreSQL database,
//! alone and as two of a kind (PROTOCOL.md section 1.2).
//!
//! The provider signs, the web app's tables say who somebody is: a good signature without a live row is nothing.

use std::time::Duration;

use http::{Method, StatusCode};
use relay_protocol::{api::HostStatus, problem::Code};
use serde_json::{Value, json};
use system_tests::{
    AgentOptions, LocalServer, Relay, RelayOptions, SOON,
    client::{self, empty, fetch, websocket},
    eventually,
    fleet::{Across, Fleet},
    local::app,
    oidc::AUDIENCE,
    platform::{Algorithm, Platform},
    postgres::{WEB_APP, web_user},
    relay::bearer,
    stack::{HOST, Way},
    tokens, within,
};
use uuid::Uuid;

/// How the provider calls itself. Nothing is fetched from there: its keys are where the relay was told.
const ISSUER: &str = "https://login.web-app.example";
/// The database of the fleet.
const DATABASE: &str = "fleet";
/// How long a revocation may take to be felt everywhere.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// A web app with its database and its identity provider.
struct WebApp {
    fleet: Fleet,
    provider: Platform,
}

impl WebApp {
    async fn start() -> Self {
        let provider = Platform::start().await;
        let beside = |options: RelayOptions| {
            options
                .admin()
                .env("RELAY_OIDC_ISSUER", ISSUER)
                .env("RELAY_OIDC_AUDIENCE", AUDIENCE)
                .env("RELAY_OIDC_JWKS_URL", provider.jwks_url())
                // Users are the web app's to make, whatever this says.
                .env("RELAY_OIDC_AUTO_CREATE", 1)
        };
        let fleet = Fleet::start().await.with(beside);
        fleet.postgres.execute(DATABASE, WEB_APP).await;
        Self { fleet, provider }
    }

    /// The claims of somebody who has signed in at the web app.
    async fn signs_in(&self, email: &str) -> Value {
        let (user, session) = web_user(&self.fleet.postgres, DATABASE, email).await;
        access(user, session)
    }

    fn token(&self, claims: &Value) -> String {
        self.provider.keys().sign(Algorithm::ES256, claims)
    }

    async fn count(&self, of: &str) -> String {
        self.fleet.postgres.text(DATABASE, &format!("select count(*)::text from {of}")).await
    }

    /// Nobody has come to be by a token.
    async fn has_users(&self, users: &str) {
        assert_eq!(self.count("public.users").await, users);
        for own in ["users", "auth_sessions", "identities", "provider_sessions"] {
            let table = format!("relay.{own}");
            let there = format!("select (to_regclass('{table}') is not null)::text");
            if self.fleet.postgres.text(DATABASE, &there).await == "true" {
                assert_eq!(self.count(&table).await, "0", "{table}");
            }
        }
    }
}

/// The claims of an access token that lives an hour.
fn access(user: Uuid, session: Uuid) -> Value {
    let mut claims = tokens::claims(user, session);
    claims["iss"] = json!(ISSUER);
    claims["aud"] = json!(AUDIENCE);
    claims
}

async fn hosts(relay: &Relay, token: &str) -> StatusCode {
    relay.api(Method::GET, "/v1/relay/hosts", token).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_token_opens_the_interface_a_tunnel_and_a_session_at_every_relay() {
    let app_of = WebApp::start().await;
    let ann = app_of.signs_in("ann@example.com").await;
    let token = app_of.token(&ann);
    let local = LocalServer::router(app()).await;
    let near = app_of.fleet.relay("near").await;
    let far = app_of.fleet.relay("far").await;
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let token = app_of.provider.keys().sign(algorithm, &ann);
        assert_eq!(hosts(&near, &token).await, StatusCode::OK, "{algorithm:?}");
    }
    let WebApp { fleet, provider } = app_of;
    let across = Across::of(fleet, near, far, &local.url(), token.clone(), |agent| agent).await;
    let app_of = WebApp { fleet: across.fleet, provider };
    let (near, far, way) = (&across.near, &across.far, across.way);
    let passed_on = async || far.metrics().await.sum("relay_forward_arrivals_total", None);
    let before = passed_on().await;
    assert_eq!(way.get("/hello").await.text(), "hello");
    assert!(passed_on().await > before);
    let (mut ws, _) = websocket(near.addr, &way.path("/ws"), &[]).await.expect("a WebSocket is passed on");
    // The same session at the relay that has the tunnel, and another that is made there, by a newer token.
    assert_eq!(Way { addr: far.addr, ..way }.get("/hello").await.text(), "hello");
    let newer = app_of.provider.keys().sign(Algorithm::EdDSA, &ann);
    let other = Way::make(far, &newer, way.host).await;
    assert_eq!(Way { addr: near.addr, ..other }.get("/hello").await.text(), "hello");

    // The token goes no further than the relays; the local server's own tokens pass.
    let seen = async |token: &str| {
        let request = way.request("GET", "/echo").header("authorization", format!("Bearer {token}"));
        way.fetch(request.body(empty()).unwrap()).await.json::<Value>()["headers"].to_string()
    };
    assert!(!seen(&token).await.contains("authorization"));
    let mut elsewhere = ann.clone();
    elsewhere["aud"] = json!("https://other.example");
    let elsewhere = app_of.token(&elsewhere);
    assert!(seen(&elsewhere).await.contains(&elsewhere));

    // All of it hangs on the web app's rows, and her own tokens of the web app are as good.
    let (user, session) = (ann["sub"].as_str().unwrap(), ann["session_id"].as_str().unwrap());
    let row = format!("public.hosts where owner_user_id = '{user}' and status = 'online'");
    assert_eq!(app_of.count(&row).await, "1");
    let row =
        format!("public.relay_browser_sessions where auth_session_id = '{session}' and user_id = '{user}'");
    assert_eq!(app_of.count(&row).await, "2");
    let own = tokens::good(user.parse().unwrap(), session.parse().unwrap());
    assert_eq!(hosts(far, &own).await, StatusCode::OK);
    app_of.has_users("1").await;

    // Whoever signs out at the web app has ended it all.
    let end = format!("update auth_sessions set revoked_at = now() where id = '{session}'");
    app_of.fleet.postgres.execute(DATABASE, &end).await;
    for at in [way, other, Way { addr: far.addr, ..way }, Way { addr: near.addr, ..other }] {
        eventually("the session is void", REVOKED_WITHIN, async || {
            at.get("/hello").await.status == StatusCode::UNAUTHORIZED
        })
        .await;
    }
    for relay in [near, far] {
        for token in [&token, &newer] {
            assert_eq!(hosts(relay, token).await, StatusCode::UNAUTHORIZED);
        }
    }
    eventually("the tunnel has ended", SOON, async || !across.agent.is_connected().await).await;
    use futures_util::StreamExt as _;
    let ended = within("the WebSocket's end", SOON, ws.next()).await;
    assert!(!matches!(ended, Some(Ok(message)) if message.is_text() || message.is_binary()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_nobody_to_the_web_app_is_nobody_to_the_relay() {
    let app_of = WebApp::start().await;
    let ann = app_of.signs_in("ann@example.com").await;
    let bob = app_of.signs_in("bob@example.com").await;
    let gone = app_of.signs_in("gone@example.com").await;
    let end = "update auth_sessions set revoked_at = now() where id = ";
    app_of
        .fleet
        .postgres
        .execute(DATABASE, &format!("{end}'{}'", gone["session_id"].as_str().unwrap()))
        .await;
    let relay = app_of.fleet.relay("alone").await;
    let altered = |name: &str, value: Value| {
        let mut claims = ann.clone();
        claims[name] = value;
        app_of.token(&claims)
    };
    let without = |name: &str| {
        let mut claims = ann.clone();
        claims.as_object_mut().unwrap().remove(name);
        app_of.token(&claims)
    };
    let another = Platform::start().await;
    let good = app_of.token(&ann);
    let (signed, _) = good.rsplit_once('.').unwrap();
    let (_, signature) =
        app_of.token(&bob).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(hosts(&relay, &good).await, StatusCode::OK);
    let local = LocalServer::router(app()).await;
    let agent = system_tests::Agent::start(AgentOptions::new(&relay.url(), &local.url(), &good, HOST)).await;
    let host = relay.await_host(&good, HOST, HostStatus::Online).await.id;

    for (what, token) in [
        ("somebody whom the web app does not know", app_of.token(&access(Uuid::new_v4(), Uuid::new_v4()))),
        ("her session, and somebody whom the web app does not know", altered("sub", json!(Uuid::new_v4()))),
        ("a name of the provider's", altered("sub", json!("ann"))),
        ("an address", altered("sub", json!("ann@example.com"))),
        ("nobody", without("sub")),
        ("a session that nobody began", altered("session_id", json!(Uuid::new_v4()))),
        ("another's session", altered("session_id", bob["session_id"].clone())),
        ("the provider's session alone", altered("session_id", json!("sid-1"))),
        ("no session", without("session_id")),
        ("a session that has ended", app_of.token(&gone)),
        ("another issuer", altered("iss", json!("https://login.other.example"))),
        ("an issuer that is longer", altered("iss", json!(format!("{ISSUER}/")))),
        ("no issuer", without("iss")),
        ("another audience", altered("aud", json!("https://other.example"))),
        ("the audience of the web app's own tokens", altered("aud", json!("access"))),
        ("no audience", without("aud")),
        ("an ID token", altered("nonce", json!("n"))),
        ("expired", altered("exp", json!(tokens::now() - 120))),
        ("without end", without("exp")),
        ("not yet", altered("nbf", json!(tokens::now() + 600))),
        ("another provider's key", another.keys().sign(Algorithm::ES256, &ann)),
        ("another token's signature", format!("{signed}.{signature}")),
        ("no algorithm", tokens::unsigned(&ann)),
        ("the web app's secret, as if it were the provider", {
            let mut claims = access(Uuid::new_v4(), Uuid::new_v4());
            claims["aud"] = json!("access");
            tokens::sign(tokens::SECRET, Algorithm::HS256, &claims)
        }),
    ] {
        for (method, path) in [
            (Method::GET, "/v1/relay/hosts".to_owned()),
            (Method::GET, "/v1/relay/connect?machine_id=m&name=n".to_owned()),
            (Method::POST, format!("/v1/relay/create/{host}")),
        ] {
            let reply = relay.api(method, &path, &token).await;
            assert_eq!(reply.problem().code, Code::Unauthorized, "{what}: {path}");
        }
    }
    // Bob is somebody, and not the host's owner.
    let bobs = app_of.token(&bob);
    relay
        .api(Method::POST, &format!("/v1/relay/create/{host}"), &bobs)
        .await
        .is_problem(Code::HostAccessDenied);
    let upgrade = bearer(Method::GET, "/v1/relay/connect?machine_id=m&name=n", &bobs).body(empty()).unwrap();
    fetch(relay.addr, upgrade).await.is_problem(Code::UpgradeRequired);
    let link = ["user", "link", "ann@example.com", "--issuer", ISSUER, "--subject", "ann"];
    assert!(!relay.cli(&link).await.status.success(), "the web app says who is who");
    app_of.has_users("3").await;
    assert!(agent.is_connected().await);
    let way = Way::make(&relay, &good, host).await;
    assert_eq!(way.fetch(client::get(&way.path("/hello"))).await.text(), "hello");
}
