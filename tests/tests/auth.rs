//! Tokens: which are good, what revoking one ends, and the commands that make them.

use std::time::Duration;

use http::Method;
use jsonwebtoken::Algorithm;
use relay_protocol::{api::HostStatus, problem::Code};
use serde_json::{Value, json};
use system_tests::{
    LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{fetch, get},
    eventually,
    local::app,
    stack::{EMAIL, HOST},
    tokens::{self, SECRET, now, sign},
};
use uuid::Uuid;

/// How long a revocation may take to be felt everywhere.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

async fn relay_with_secret() -> (Relay, String, Value) {
    let relay = Relay::start(RelayOptions::default().env("VIBEKANBAN_REMOTE_JWT_SECRET", SECRET)).await;
    let token = relay.user_with_token(EMAIL).await;
    let claims = tokens::read(&token);
    (relay, token, claims)
}

fn with(claims: &Value, key: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[key] = value;
    claims
}

fn without(claims: &Value, key: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(key);
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_those_of_the_contract_and_no_others() {
    let (relay, token, claims) = relay_with_secret().await;
    for key in ["sub", "session_id", "iat", "exp"] {
        assert!(claims.get(key).is_some(), "{key} is missing in {claims}");
    }
    assert_eq!(claims["aud"], "access");
    assert!(claims["exp"].as_i64().unwrap() > now());

    let hs = |claims: &Value| sign(SECRET, Algorithm::HS256, claims);
    let good = [
        ("its own", token.clone()),
        ("one made by the web app", hs(&claims)),
        ("audience in a list", hs(&with(&claims, "aud", json!(["access"])))),
        ("expired within the leeway", hs(&with(&claims, "exp", json!(now() - 30)))),
        ("claims that we do not know", hs(&with(&claims, "role", json!("admin")))),
    ];
    for (what, token) in good {
        let reply = relay.api(Method::GET, "/v1/relay/hosts", &token).await;
        assert!(reply.status.is_success(), "{what}: {reply:?}");
    }

    let other_secret = "bm90LXRoZS1zZWNyZXQtb2YtdGhlLXJlbGF5LWJ1dC1sb25nLWVub3VnaA==";
    let mut flipped = token.clone().into_bytes();
    let middle = token.find('.').unwrap() + 5;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let bad = [
        ("expired", hs(&with(&claims, "exp", json!(now() - 120)))),
        ("no expiry", hs(&without(&claims, "exp"))),
        ("expiry as text", hs(&with(&claims, "exp", json!("9999999999")))),
        ("another audience", hs(&with(&claims, "aud", json!("refresh")))),
        ("no audience", hs(&without(&claims, "aud"))),
        ("no subject", hs(&without(&claims, "sub"))),
        ("no session", hs(&without(&claims, "session_id"))),
        ("subject that is no uuid", hs(&with(&claims, "sub", json!("root")))),
        ("a session that does not exist", hs(&with(&claims, "session_id", json!(Uuid::new_v4())))),
        ("a session of somebody else", hs(&with(&claims, "sub", json!(Uuid::new_v4())))),
        ("HS384", sign(SECRET, Algorithm::HS384, &claims)),
        ("HS512", sign(SECRET, Algorithm::HS512, &claims)),
        ("another secret", sign(other_secret, Algorithm::HS256, &claims)),
        ("no algorithm", tokens::unsigned(&claims)),
        ("no signature", token.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("a changed claim", String::from_utf8(flipped).unwrap()),
        ("two tokens", format!("{token}, {token}")),
        ("very long", "a.".repeat(8000)),
    ];
    for (what, token) in bad {
        let reply = relay.api(Method::GET, "/v1/relay/hosts", &token).await;
        assert_eq!(reply.problem().code, Code::Unauthorized, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_tunnels_and_sessions_within_five_seconds() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    assert_eq!(stack.get("/hello").await.text(), "hello");
    let id = tokens::read(&stack.token)["session_id"].as_str().unwrap().to_owned();
    let out = stack.relay.cli(&["token", "revoke", &id]).await;
    assert!(out.status.success(), "{out:?}");
    // The command is another process than the relay: it is felt within the time that DESIGN.md names.
    eventually("the session is void", REVOKED_WITHIN, || async {
        stack.get("/hello").await.status == http::StatusCode::UNAUTHORIZED
    })
    .await;
    stack.get("/hello").await.is_problem(Code::SessionExpired);
    stack.relay.api(Method::GET, "/v1/relay/hosts", &stack.token).await.is_problem(Code::Unauthorized);
    // The agent is told apart from a loss, and says so.
    let status = stack
        .agent
        .status_becomes("refused", SOON, |s| {
            s["connected"] == json!(false)
                && s["last_error"]["message"].as_str().is_some_and(|e| !e.is_empty())
        })
        .await;
    let error = status["last_error"]["message"].as_str().unwrap().to_ascii_lowercase();
    assert!(error.contains("401") || error.contains("token"), "{status}");
    let fresh = stack.relay.token(EMAIL).await;
    stack.relay.await_host(&fresh, HOST, HostStatus::Offline).await;
    // The token file is read again at every connect.
    stack.agent.write_token(&fresh);
    stack.relay.await_host(&fresh, HOST, HostStatus::Online).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_may_go_while_the_other_stays() {
    let relay = Relay::start(RelayOptions::default()).await;
    relay.add_user(EMAIL).await;
    let (first, second) = (relay.token(EMAIL).await, relay.token(EMAIL).await);
    assert_ne!(first, second);
    let id = tokens::read(&first)["session_id"].as_str().unwrap().to_owned();
    assert!(relay.cli(&["token", "revoke", &id]).await.status.success());
    eventually("the first is refused", REVOKED_WITHIN, || async {
        relay.api(Method::GET, "/v1/relay/hosts", &first).await.status == http::StatusCode::UNAUTHORIZED
    })
    .await;
    assert!(relay.api(Method::GET, "/v1/relay/hosts", &second).await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_list_what_there_is_and_no_secret() {
    let relay = Relay::start(RelayOptions::default()).await;
    relay.add_user(EMAIL).await;
    let out = relay.cli(&["token", "create", "--user", EMAIL, "--name", "laptop", "--expires", "30d"]).await;
    assert!(out.status.success(), "{out:?}");
    let token = out.stdout.trim().to_owned();
    let claims = tokens::read(&token);
    let days = (claims["exp"].as_i64().unwrap() - now()) as f64 / 86_400.0;
    assert!((29.9..30.1).contains(&days), "{days}");

    let users = relay.cli(&["user", "list", "--json"]).await;
    let users: Value = serde_json::from_str(&users.stdout).unwrap_or_else(|e| panic!("{e}: {users:?}"));
    assert!(users.to_string().contains(EMAIL), "{users}");
    let listed = relay.cli(&["token", "list", "--json"]).await;
    let tokens: Value = serde_json::from_str(&listed.stdout).unwrap_or_else(|e| panic!("{e}: {listed:?}"));
    let text = tokens.to_string();
    assert!(text.contains("laptop") && text.contains(claims["session_id"].as_str().unwrap()), "{text}");
    for args in [&["user", "list"][..], &["token", "list"]] {
        let plain = relay.cli(args).await;
        assert!(plain.status.success() && plain.stdout.contains(EMAIL), "{args:?}: {plain:?}");
    }
    let signature = token.rsplit('.').next().unwrap();
    assert!(!listed.stdout.contains(signature), "the list holds the token itself");

    for (args, says) in [
        (&["token", "create", "--user", "nobody@example.com"][..], "nobody@example.com"),
        (
            &["token", "revoke", "00000000-0000-4000-8000-000000000000"],
            "00000000-0000-4000-8000-000000000000",
        ),
        (&["token", "revoke", "not-an-id"], "not-an-id"),
        (&["token", "create", "--user", EMAIL, "--expires", "soon"], "soon"),
        (&["user", "add", EMAIL], EMAIL),
        (&["user", "add", "no address"], "no address"),
    ] {
        let out = relay.cli(args).await;
        assert!(!out.status.success(), "{args:?} succeeds: {out:?}");
        assert!(out.stderr.contains(says), "{args:?} does not say what is wrong: {out:?}");
        assert!(out.stdout.is_empty(), "{args:?} prints an error where a token is expected: {out:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_hosts_outlive_a_restart() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    stack.relay.restart().await;
    stack.relay.await_host(&stack.token, HOST, HostStatus::Online).await;
    eventually("the session goes on", SOON, || async { stack.get("/hello").await.text() == "hello" }).await;
    assert_eq!(stack.relay.hosts(&stack.token).await.len(), 1, "a restart makes no second host");
    assert_eq!(fetch(stack.addr(), get("/health")).await.status, http::StatusCode::OK);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_relay_keeps_secret_is_readable_by_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let relay = Relay::start(RelayOptions::default()).await;
    let mut files = Vec::new();
    let mut folders = vec![relay.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() != "relay_id" {
                // The relay's name among others is no secret; everything else here is.
                files.push(entry.path());
            }
        }
    }
    assert!(!files.is_empty());
    for file in files {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", file.display());
    }
}
