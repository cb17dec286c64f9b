//! Access tokens of a real OpenID Connect provider: tunnels, the API and browser sessions.

use std::time::Duration;

use http::{Method, StatusCode};
use relay_protocol::{api::HostStatus, problem::Code};
use serde_json::{Value, json};
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON,
    client::{fetch, get},
    eventually,
    local::app,
    oidc::{AUDIENCE, Provider},
    stack::{EMAIL, HOST},
    tokens,
};

/// How long a revocation may take to be felt everywhere.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

fn lets_all_in() -> RelayOptions {
    RelayOptions::default().env("RELAY_OIDC_AUTO_CREATE", "1")
}

async fn hosts(relay: &Relay, token: &str) -> StatusCode {
    relay.api(Method::GET, "/v1/relay/hosts", token).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_and_a_browser_session_with_tokens_of_each_algorithm() {
    let provider = Provider::start().await;
    let local = LocalServer::router(app()).await;
    let relay = Relay::start(provider.takes_tokens(lets_all_in())).await;
    for alg in ["RS256", "ES256", "EdDSA"] {
        let token = provider.client_token(&format!("agent-{alg}"), AUDIENCE).await;
        let agent = Agent::start(AgentOptions::new(&relay.url(), &local.url(), &token, HOST)).await;
        let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
        let session = relay.create_session(&token, host).await;
        let path = |rest: &str| format!("/v1/relay/h/{host}/s/{session}{rest}");
        assert_eq!(fetch(relay.addr, get(&path("/hello"))).await.text(), "hello", "{alg}");

        // The token itself is for the relay, whatever its state; the local server's own tokens pass.
        let seen = async |authorization: &str| {
            let request = http::Request::get(path("/echo")).header("authorization", authorization);
            let reply = fetch(relay.addr, request.body(system_tests::client::empty()).unwrap()).await;
            reply.json::<Value>()["headers"].to_string()
        };
        let other = provider.client_token(&format!("agent-{alg}"), "https://other.example").await;
        assert!(!seen(&format!("Bearer {token}")).await.contains("authorization"));
        assert!(!seen(&format!("Bearer {token}AAAA")).await.contains("authorization"));
        assert!(seen(&format!("Bearer {other}")).await.contains(&other));

        // What hangs on the token ends with its session.
        let listed: Value = relay.api(Method::GET, "/v1/auth/sessions", &token).await.json();
        let one = &listed["sessions"][0];
        assert_eq!((&one["kind"], &one["current"]), (&json!("token"), &json!(true)), "{listed}");
        let end = format!("/v1/auth/sessions/{}", one["id"].as_str().unwrap());
        assert_eq!(relay.api(Method::DELETE, &end, &token).await.status, StatusCode::NO_CONTENT);
        eventually("the session is void", REVOKED_WITHIN, async || {
            fetch(relay.addr, get(&path("/hello"))).await.status == StatusCode::UNAUTHORIZED
        })
        .await;
        assert_eq!(
            hosts(&relay, &token).await,
            StatusCode::UNAUTHORIZED,
            "the same token begins nothing new"
        );
        drop(agent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_the_relay_and_an_access_token_or_it_is_nothing() {
    let provider = Provider::start().await;
    let foreign = Provider::start().await;
    let relay = Relay::start(provider.takes_tokens(lets_all_in())).await;
    let (access, id_token) = provider.person_tokens("ann").await;
    assert_eq!(hosts(&relay, &access).await, StatusCode::OK);
    let good = provider.client_token("agent-RS256", AUDIENCE).await;
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for (what, token) in [
        ("an ID token", id_token),
        ("for another audience", provider.client_token("agent-RS256", "https://other.example").await),
        ("of another issuer", foreign.client_token("agent-RS256", AUDIENCE).await),
        ("another's signature", format!("{signed}.{}", foreign_signature(&foreign).await)),
        ("no signature", format!("{signed}.")),
        ("no algorithm", tokens::unsigned(&tokens::read(&good))),
        ("our algorithm", tokens::sign(tokens::SECRET, jsonwebtoken::Algorithm::HS256, &tokens::read(&good))),
        ("two", format!("{good}, {good}")),
        ("cut", format!("{signed}.{}", &signature[..20])),
    ] {
        let reply = relay.api(Method::GET, "/v1/relay/hosts", &token).await;
        assert_eq!(reply.problem().code, Code::Unauthorized, "{what}");
    }
    // Where no audience is configured none is taken.
    let without = Relay::start(provider.signs_in(lets_all_in(), "portal")).await;
    assert_eq!(hosts(&without, &good).await, StatusCode::UNAUTHORIZED);
}

async fn foreign_signature(foreign: &Provider) -> String {
    foreign.client_token("agent-RS256", AUDIENCE).await.rsplit_once('.').unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_people_are_let_in_only_when_somebody_says_so() {
    let provider = Provider::start().await;
    let relay = Relay::start(provider.takes_tokens(RelayOptions::default())).await;
    let own = relay.user_with_token(EMAIL).await;
    let token = provider.client_token("agent-ES256", AUDIENCE).await;
    assert_eq!(hosts(&relay, &token).await, StatusCode::UNAUTHORIZED);
    let link = ["user", "link", EMAIL, "--issuer", &provider.issuer(), "--subject", "agent-ES256"];
    assert!(relay.cli(&link).await.status.success());
    assert_eq!(hosts(&relay, &token).await, StatusCode::OK);
    let me: Value = relay.api(Method::GET, "/v1/auth/me", &token).await.json();
    assert_eq!(me["user"]["email"], EMAIL);
    // A token of the provider is no person at a browser.
    let password = json!({"new": "a long enough password"});
    let reply = relay.api_json(Method::POST, "/v1/auth/password", &token, password).await;
    reply.is_problem(Code::Unauthorized);
    let unlink = ["user", "unlink", "--issuer", &provider.issuer(), "--subject", "agent-ES256"];
    assert!(relay.cli(&unlink).await.status.success());
    assert_eq!(hosts(&relay, &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(hosts(&relay, &own).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_session_that_was_ended_stays_ended() {
    let provider = Provider::start().await;
    let relay = Relay::start(provider.takes_tokens(lets_all_in())).await;
    let (first, _) = provider.person_tokens("ann").await;
    let (second, _) = provider.person_tokens("ann").await;
    assert_ne!(tokens::read(&first)["sid"], tokens::read(&second)["sid"]);
    let session = async |token: &str| -> Value {
        relay.api(Method::GET, "/v1/auth/me", token).await.json::<Value>()["session_id"].clone()
    };
    let one = session(&first).await;
    assert_eq!(session(&first).await, one, "one session at the provider is one here");
    assert_ne!(session(&second).await, one);
    assert_eq!(relay.api(Method::POST, "/v1/auth/logout", &first).await.status, StatusCode::NO_CONTENT);
    assert_eq!(hosts(&relay, &first).await, StatusCode::UNAUTHORIZED);
    assert_eq!(hosts(&relay, &second).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_and_the_provider_goes_and_comes_back() {
    let mut provider = Provider::start().await;
    // It is asked again and again until the new key is known.
    let often = lets_all_in().env("RELAY_API_RATE_PER_MINUTE", 1_000_000);
    let relay = Relay::start(provider.takes_tokens(often)).await;
    let early = provider.client_token("agent-EdDSA", AUDIENCE).await;
    let another = Provider::start().await.client_token("agent-EdDSA", AUDIENCE).await;
    provider.kill();
    // No start-up order: without the provider its tokens cannot be judged, with it they can.
    relay.api(Method::GET, "/v1/relay/hosts", &early).await.is_problem(Code::ProviderUnavailable);
    relay.api(Method::GET, "/v1/relay/hosts", &another).await.is_problem(Code::Unauthorized);
    provider.restart().await;
    let before = provider.client_token("agent-EdDSA", AUDIENCE).await;
    eventually("tokens are taken", SOON, async || hosts(&relay, &before).await == StatusCode::OK).await;
    // What is known goes on counting while the provider is away.
    provider.kill();
    assert_eq!(hosts(&relay, &before).await, StatusCode::OK);
    provider.restart().await;
    assert_eq!(hosts(&relay, &before).await, StatusCode::OK);
    // A new key is looked for at most once a minute.
    provider.rotate_gently().await;
    let after = provider.client_token("agent-EdDSA", AUDIENCE).await;
    eventually("the new key is known", 4 * SOON, async || hosts(&relay, &after).await == StatusCode::OK)
        .await;
    assert_eq!(hosts(&relay, &before).await, StatusCode::OK, "the old key is still published");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_make_no_sense_are_refused() {
    for (env, says) in [
        (vec![("RELAY_OIDC_ISSUER", "http://id.example")], "https"),
        (vec![("RELAY_OIDC_AUDIENCE", "x")], "RELAY_OIDC_ISSUER is not"),
        (
            vec![
                ("RELAY_OIDC_ISSUER", "https://id.example"),
                ("RELAY_OIDC_CLIENT_SECRET", "x-secret-of-sixteen"),
            ],
            "RELAY_OIDC_CLIENT_ID is not",
        ),
        (
            vec![
                ("RELAY_OIDC_ISSUER", "https://id.example"),
                ("RELAY_OIDC_JWKS_URL", "http://id.example/keys"),
            ],
            "https",
        ),
    ] {
        let mut options = RelayOptions::default();
        for (name, value) in &env {
            options = options.env(name, value);
        }
        let data = tempfile::tempdir().unwrap();
        let mut process = system_tests::relay::spawn(&options, data.path(), ([127, 0, 0, 1], 0).into());
        assert_eq!(process.wait(SOON).await.code(), Some(2), "{env:?}");
        assert!(process.log().contains(says), "{}", process.log());
    }
}
