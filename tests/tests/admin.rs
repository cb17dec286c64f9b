//! The operator's interface: who gets in, what it shows, and that it is not there when it is off.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use nix::sys::signal::Signal;
use relay_protocol::problem::Code;
use serde_json::Value;
use system_tests::{
    LocalServer, Relay, RelayOptions, Reply, SOON, Stack,
    client::{empty, fetch, get, try_fetch},
    eventually,
    local::app,
    raw::exchange,
    relay::{ADMIN_TOKEN, bearer},
    within,
};
use tokio::sync::Notify;

const PATHS: [&str; 3] = ["/state", "/logs", "/metrics"];
const APP: &str = "https://app.example.com";

/// A request as anybody may send it, and what comes back, without what differs from request to request.
async fn answer(relay: &Relay, method: &str, path: &str, headers: &str) -> (String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: r\r\nconnection: close\r\n{headers}\r\n");
    let (head, body) = exchange(relay.addr, request).await.expect("an answer");
    let id = head.header("x-request-id").expect("an id");
    let head = head.text();
    let lines = head.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    let body = String::from_utf8_lossy(&body.bytes).replace(&id, "ID");
    (lines.collect::<Vec<_>>().join("\r\n").replace(&id, "ID"), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn off_is_as_if_it_had_never_been_there() {
    // A token without the switch opens nothing either.
    let options =
        RelayOptions::default().env("RELAY_ADMIN_TOKEN", ADMIN_TOKEN).env("RELAY_ALLOWED_ORIGINS", APP);
    let relay = Relay::start(options).await;
    let bearer = format!("authorization: Bearer {ADMIN_TOKEN}\r\n");
    let own = format!("x-relay-admin-token: {ADMIN_TOKEN}\r\n");
    let preflight = format!("origin: {APP}\r\naccess-control-request-method: GET\r\n");
    for (method, headers) in [
        ("GET", ""),
        ("HEAD", ""),
        ("POST", ""),
        ("DELETE", &bearer),
        ("GET", &bearer),
        ("GET", &own),
        ("GET", &format!("{bearer}origin: {APP}\r\n")),
        ("OPTIONS", &preflight),
    ] {
        // As long as the others: nothing else may tell them apart.
        let unknown = answer(&relay, method, "/nobody", headers).await;
        assert!(
            unknown.0.starts_with(if method == "OPTIONS" { "HTTP/1.1 204" } else { "HTTP/1.1 404" }),
            "{unknown:?}"
        );
        for path in PATHS {
            assert_eq!(answer(&relay, method, path, headers).await, unknown, "{method} {path} {headers}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_the_token_gets_in_and_nobody_else() {
    let relay = Relay::start(RelayOptions::default().admin()).await;
    let user = relay.user_with_token("a@example.com").await;
    for path in PATHS {
        relay.admin(path).await;
        let own = Request::get(path).header("x-relay-admin-token", ADMIN_TOKEN).body(empty()).unwrap();
        assert_eq!(fetch(relay.addr, own).await.status, StatusCode::OK, "{path}");
        fetch(relay.addr, get(path)).await.is_problem(Code::Unauthorized);
        let refused = relay.api(Method::GET, path, &user).await;
        refused.is_problem(Code::Unauthorized);
        assert_eq!(refused.header("cache-control"), Some("no-store"));
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            let refused = relay.api(method.clone(), path, ADMIN_TOKEN).await;
            refused.is_problem(Code::MethodNotAllowed);
            assert_eq!(refused.header("allow"), Some("GET,HEAD"), "{method} {path}");
        }
        let head = relay.api(Method::HEAD, path, ADMIN_TOKEN).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        // In the query it is no token, and what is nearly a path is none.
        fetch(relay.addr, get(&format!("{path}?token={ADMIN_TOKEN}"))).await.is_problem(Code::Unauthorized);
        relay.api(Method::GET, &format!("{path}/"), ADMIN_TOKEN).await.is_problem(Code::NotFound);
    }
    // The operator is nobody to the rest of the relay.
    relay.api(Method::GET, "/v1/relay/hosts", ADMIN_TOKEN).await.is_problem(Code::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_ends_soon_and_for_the_guesser_alone() {
    let relay = Relay::start(RelayOptions::default().admin().env("RELAY_TRUSTED_PROXIES", "127.0.0.1")).await;
    let ask = async |client: &str, token: &str| {
        let request = bearer(Method::GET, "/state", token).header("x-forwarded-for", client).body(empty());
        fetch(relay.addr, request.unwrap()).await
    };
    let mut codes = Vec::new();
    for n in 0..40 {
        codes.push(ask("203.0.113.1", &format!("guess-{n}")).await.problem().code);
    }
    assert_eq!(codes.first(), Some(&Code::Unauthorized));
    assert!(codes.iter().filter(|code| **code == Code::Unauthorized).count() < 20, "{codes:?}");
    let refused = ask("203.0.113.1", "guess").await;
    refused.is_problem(Code::RateLimited);
    assert!(refused.header("retry-after").is_some());
    // Whoever knows it is let in, with the guesser's address too.
    for client in ["203.0.113.1", "203.0.113.2"] {
        for _ in 0..50 {
            assert_eq!(ask(client, ADMIN_TOKEN).await.status, StatusCode::OK);
        }
    }
    assert!(relay.metrics().await.sum("relay_limits_refused_total", Some(("limit", "admin_guesses"))) > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_reads_it() {
    let relay = Relay::start(RelayOptions::default().admin().env("RELAY_ALLOWED_ORIGINS", APP)).await;
    let own = relay.url();
    for path in PATHS {
        for origin in [APP, own.as_str(), "null"] {
            let request =
                bearer(Method::GET, path, ADMIN_TOKEN).header("origin", origin).body(empty()).unwrap();
            let preflight = Request::options(path)
                .header("origin", origin)
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "authorization,x-relay-admin-token")
                .body(empty())
                .unwrap();
            let refused = fetch(relay.addr, preflight).await;
            refused.is_problem(Code::OriginNotAllowed);
            for reply in [fetch(relay.addr, request).await, refused] {
                let opened: Vec<_> = reply
                    .headers
                    .keys()
                    .filter(|name| name.as_str().starts_with("access-control-"))
                    .collect();
                assert!(opened.is_empty(), "{path} {origin}: {reply:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_counts_what_is_open() {
    let local = LocalServer::router(app()).await;
    let options = RelayOptions::default().admin().env("RELAY_ID", "relay-a");
    let Stack { agent, relay, token, way } = Stack::with(&local.url(), options, |a| a).await;
    assert_eq!(way.get("/hello").await.text(), "hello");
    let reply = relay.admin("/state").await;
    let text = reply.text();
    let state: Value = reply.json();
    assert_eq!(
        (&state["relayId"], &state["mode"], &state["draining"]),
        (&"relay-a".into(), &"single".into(), &false.into())
    );
    assert!(state["uptimeMs"].is_u64());
    for (name, count) in [
        ("hosts", 1),
        ("tunnels", 1),
        ("streams", 1),
        ("sessions", 1),
        ("workspaceCount", 0),
        ("daemonConnected", 0),
        ("clientCount", 0),
    ] {
        assert_eq!(state[name], count, "{name}: {state}");
    }
    assert_eq!(state["workspaces"], Value::Array(Vec::new()));
    for secret in [token.as_str(), ADMIN_TOKEN, &way.session.to_string()] {
        assert!(!text.contains(secret), "{text}");
    }
    drop(agent);
    eventually("the tunnel is gone", SOON, || async {
        let state: Value = relay.admin("/state").await.json();
        ["hosts", "tunnels", "streams"].iter().all(|name| state[name] == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_are_kept_and_hold_no_secret() {
    let local = LocalServer::router(app()).await;
    let options = RelayOptions::default().admin().env("RELAY_ADMIN_LOG_LINES", 50).env("RUST_LOG", "info");
    let stack = Stack::with(&local.url(), options, |a| a).await;
    // A private address that sends this is warned of, once.
    let forwarded = Request::get("/health").header("x-forwarded-for", "203.0.113.1").body(empty()).unwrap();
    assert_eq!(fetch(stack.addr(), forwarded).await.status, StatusCode::OK);
    for n in 0..200 {
        assert_eq!(stack.get(&format!("/hello?n={n}&token=secret-in-a-query")).await.text(), "hello");
    }
    let lines = |reply: Reply| -> (Vec<Value>, u64) {
        let json: Value = reply.json();
        (json["lines"].as_array().expect("lines").clone(), json["dropped"].as_u64().expect("a count"))
    };
    let reply = stack.relay.admin("/logs").await;
    let text = reply.text();
    let (kept, dropped) = lines(reply);
    assert_eq!(kept.len(), 50);
    assert!(dropped >= 150, "{dropped}");
    assert!(
        kept.is_sorted_by_key(|line| line["at"].as_str().expect("a time").to_owned()),
        "the newest is last"
    );
    let last = kept.iter().rev().find(|line| line["fields"]["status"] == 200).expect("an access line");
    assert_eq!((&last["level"], &last["target"]), (&"info".into(), &"relay::access".into()));
    let (few, _) = lines(stack.relay.admin("/logs?limit=3").await);
    assert_eq!(few.len(), 3);
    let bad = stack.relay.api(Method::GET, "/logs?limit=x", ADMIN_TOKEN).await;
    bad.is_problem(Code::BadRequest);

    let reply = stack.relay.admin("/logs?summary=1").await;
    let summary_text = reply.text();
    let summary: Value = reply.json();
    assert!(summary["levels"]["info"].as_u64().expect("a count") > 200, "{summary}");
    assert!(summary["levels"].get("debug").is_none(), "the filter holds here too");
    assert!(summary["targets"]["relay::access"]["info"].as_u64().expect("a count") > 200, "{summary}");
    let problems = summary["problems"].as_array().expect("problems");
    assert!(
        problems
            .iter()
            .any(|line| line["level"] == "warn"
                && line["message"].to_string().contains("RELAY_TRUSTED_PROXIES")),
        "lines since then do not push it out: {summary}"
    );
    for secret in [stack.token.as_str(), ADMIN_TOKEN, "secret-in-a-query", &stack.session.to_string()] {
        assert!(!text.contains(secret) && !summary_text.contains(secret), "{secret} in the log");
    }
    // Standard error has the same lines in their usual form.
    assert!(stack.relay.log().contains("relay::access: method=GET path="), "{}", stack.relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_while_the_relay_drains() {
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let slow = axum::routing::get(move || async move {
        gate.notified().await;
        "done"
    });
    let local = LocalServer::router(app().route("/slow", slow)).await;
    let mut stack = Stack::with(&local.url(), RelayOptions::default().admin(), |a| a).await;
    let in_flight = tokio::spawn(try_fetch(stack.addr(), get(&stack.path("/slow"))));
    let under_way = Some(("route", "host"));
    eventually("the request is under way", SOON, || async {
        let seen = stack.relay.metrics().await;
        seen.sum("relay_http_requests_begun_total", under_way)
            > seen.sum("relay_http_requests_ended_total", under_way)
    })
    .await;
    assert_eq!(stack.relay.metrics().await.sum("relay_draining", None), 0.0);
    stack.relay.signal(Signal::SIGTERM);
    eventually("it says that it drains", SOON, || async {
        // A connection that was accepted just before the drain is closed unasked.
        let asked = bearer(Method::GET, "/state", ADMIN_TOKEN).body(empty()).unwrap();
        let reply = try_fetch(stack.addr(), asked).await;
        reply.is_ok_and(|reply| reply.json::<Value>()["draining"] == true)
    })
    .await;
    assert_eq!(stack.relay.metrics().await.sum("relay_draining", None), 1.0);
    assert!(stack.relay.admin("/logs").await.text().contains("draining"));
    fetch(stack.addr(), get("/state")).await.is_problem(Code::Unauthorized);
    fetch(stack.addr(), get("/nobody")).await.is_problem(Code::Draining);
    // Kept for it, should it not wait yet.
    go.notify_one();
    assert_eq!(within("the answer", SOON, in_flight).await.unwrap().unwrap().text(), "done");
    assert_eq!(stack.relay.process.wait(SOON).await.code(), Some(0));
}
