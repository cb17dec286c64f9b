//! Every metric of the relay's own table, after real traffic: it is there, of its kind, with its labels, it has
//! moved, and what opened has closed.

use http::{Method, Request};
use relay_protocol::problem::Code;
use system_tests::{
    LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{Connection, Reply, empty, fetch, full, get, request, websocket},
    eventually,
    local::app,
    metrics::{Exposition, table},
    raw::RawConn,
    relay::bearer,
    within,
};

/// Components whose metrics the traffic below moves; those of others have tests of their own.
const HERE: [&str; 11] = [
    "process_",
    "relay_build_",
    "relay_log_",
    "relay_http_",
    "relay_limits_",
    "relay_auth_",
    "relay_store_",
    "relay_tunnel_",
    "relay_proxy_",
    "relay_admin_",
    "relay_draining",
];
/// What it does not move: these take a race, a tunnel that is full, the end of the relay, or a provider.
const STILL: [&str; 6] = [
    "relay_tunnel_pool_stale_total",
    "relay_tunnel_streams_refused_total",
    "relay_draining",
    "relay_auth_provider_fetches_total",
    "relay_auth_provider_tokens_total",
    "relay_auth_sign_ins_total",
];
/// What a relay that is alone does not tell: zero would say that something is down.
const NOT_ALONE: &str = "relay_backplane_up";

fn is_here(name: &str) -> bool {
    HERE.iter().any(|prefix| name.starts_with(prefix))
}

async fn flood(relay: &Relay, client: &str, count: usize, path: impl Fn() -> String) -> Vec<Code> {
    let mut connection = Connection::open(relay.addr).await.unwrap();
    let mut codes = Vec::new();
    for _ in 0..count {
        let request = Request::get(path()).header("x-forwarded-for", client).body(empty()).unwrap();
        let reply = Reply::collect(connection.send(request).await.unwrap()).await.unwrap();
        codes.push(reply.problem().code);
    }
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_moves_and_what_opened_closes() {
    let local = LocalServer::router(app()).await;
    let options = RelayOptions::default()
        .admin()
        .env("RELAY_TRUSTED_PROXIES", "127.0.0.1")
        .env("RELAY_UPGRADE_RATE_PER_MINUTE", 20)
        .env("RELAY_MAX_CONNECTIONS_PER_IP", 2)
        .env("RELAY_MAX_TCP_CONNECTIONS", 64);
    let Stack { agent, relay, token, way } = Stack::with(&local.url(), options, |a| a).await;
    let (host, path) = (way.host, |local: &str| way.path(local));

    // Hosts: reading, writing, not found, an upgrade, one too many of them.
    for _ in 0..3 {
        assert_eq!(fetch(relay.addr, get(&path("/hello"))).await.text(), "hello");
    }
    let upload = request(Method::POST, &path("/digest"), full(vec![7; 100_000]));
    assert!(fetch(relay.addr, upload).await.text().starts_with("100000 "));
    assert_eq!(fetch(relay.addr, get(&path("/nothing"))).await.status, 404);
    assert_eq!(fetch(relay.addr, get(&path("/big/300000"))).await.body.len(), 300_000);
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let (socket, _) =
            websocket(relay.addr, &path("/ws"), &[("x-forwarded-for", "203.0.113.1")]).await.unwrap();
        sockets.push(socket);
    }
    assert!(websocket(relay.addr, &path("/ws"), &[("x-forwarded-for", "203.0.113.1")]).await.is_err());
    // Tokens of every kind, and each address has a limit of its own.
    for wrong in ["forged", "a.b.c"] {
        relay.api(Method::GET, "/v1/relay/hosts", wrong).await.is_problem(Code::Unauthorized);
    }
    fetch(relay.addr, get("/v1/relay/hosts")).await.is_problem(Code::Unauthorized);
    let codes = flood(&relay, "203.0.113.2", 650, || "/nobody".to_owned()).await;
    assert!(codes.contains(&Code::RateLimited));
    let unknown = || format!("/v1/relay/h/{host}/s/{}/", uuid::Uuid::new_v4());
    let codes = flood(&relay, "203.0.113.3", 650, unknown).await;
    assert!(codes.contains(&Code::SessionExpired) && codes.contains(&Code::RateLimited));
    let connect = "/v1/relay/connect?machine_id=m&name=n";
    let codes = flood(&relay, "203.0.113.4", 25, || connect.to_owned()).await;
    assert!(codes.contains(&Code::Unauthorized) && codes.contains(&Code::RateLimited));
    for n in 0..25 {
        let authorized =
            bearer(Method::GET, connect, &token).header("x-forwarded-for", "203.0.113.5").body(empty());
        let code = fetch(relay.addr, authorized.unwrap()).await.problem().code;
        assert_eq!(code, if n < 20 { Code::UpgradeRequired } else { Code::RateLimited });
    }
    for _ in 0..12 {
        relay.api(Method::GET, "/state", "guess").await;
    }

    let scrape = async || {
        let asked = bearer(Method::GET, "/metrics", system_tests::relay::ADMIN_TOKEN)
            .header("x-forwarded-for", "203.0.113.9")
            .body(empty())
            .unwrap();
        let reply = fetch(relay.addr, asked).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        Exposition::parse(&reply.text()).unwrap_or_else(|what| panic!("{what}\n{}", reply.text()))
    };
    let during = scrape().await;
    let rows = table(&relay).await;
    assert!(rows.iter().any(|row| row.name == NOT_ALONE) && !during.0.contains_key(NOT_ALONE));
    for row in rows.iter().filter(|row| row.name != NOT_ALONE) {
        let family = during.0.get(&row.name).unwrap_or_else(|| panic!("{} is not told", row.name));
        assert_eq!(family.kind, row.kind, "{}", row.name);
        for (_, labels, _) in &family.samples {
            for (key, value) in labels.iter().filter(|(key, _)| *key != "le") {
                let known = row.labels.get(key).unwrap_or_else(|| panic!("{} has no label {key}", row.name));
                assert!(known.contains(value) || known == &["…"], "{}: {key}={value}", row.name);
            }
            assert!(row.labels.keys().all(|key| labels.contains_key(key)), "{}: {labels:?}", row.name);
        }
        if is_here(&row.name) && !STILL.contains(&row.name.as_str()) && !row.name.contains("_refused_") {
            let partner_of_open = row.name.contains("_closed_");
            assert!(partner_of_open || during.sum(&row.name, None) > 0.0, "{} has not moved", row.name);
        }
    }
    for name in during.0.keys() {
        assert!(rows.iter().any(|row| row.name == *name), "{name} is not in the table");
    }
    for limit in
        ["api_rate", "upgrade_rate", "bad_token_rate", "look_up_rate", "connections_per_ip", "admin_guesses"]
    {
        assert!(during.sum("relay_limits_refused_total", Some(("limit", limit))) > 0.0, "{limit}");
    }
    for (name, label, value, at_least) in [
        ("relay_proxy_body_bytes_total", "direction", "up", 100_000.0),
        ("relay_proxy_body_bytes_total", "direction", "down", 300_000.0),
        ("relay_tunnel_bytes_total", "direction", "to_agent", 100_000.0),
        ("relay_tunnel_bytes_total", "direction", "from_agent", 300_000.0),
        ("relay_proxy_requests_total", "method", "write", 1.0),
        ("relay_proxy_requests_total", "status", "1xx", 2.0),
        ("relay_proxy_requests_total", "status", "2xx", 5.0),
        ("relay_proxy_requests_total", "status", "4xx", 1.0),
        ("relay_proxy_refused_total", "code", "session_expired", 1.0),
        ("relay_tunnel_refused_total", "code", "unauthorized", 20.0),
        ("relay_auth_tokens_total", "result", "malformed", 1.0),
        ("relay_auth_tokens_total", "result", "missing", 1.0),
        ("relay_auth_tokens_total", "result", "ok", 20.0),
        ("relay_auth_session_look_ups_total", "result", "unknown", 500.0),
        ("relay_http_requests_begun_total", "route", "connect", 50.0),
    ] {
        let seen = during.sum(name, Some((label, value)));
        assert!(seen >= at_least, "{name}{{{label}={value}}} is {seen}");
    }
    assert_eq!(during.sum("relay_tunnel_open", None), 1.0);
    assert_eq!(
        during.sum("relay_proxy_upgrades_opened_total", None)
            - during.sum("relay_proxy_upgrades_closed_total", None),
        2.0
    );

    // More connections than there may be.
    let mut raw = Vec::new();
    for _ in 0..64 {
        raw.push(RawConn::connect(relay.addr).await);
    }
    let mut late = RawConn::connect(relay.addr).await;
    let head = within("a refusal", SOON, late.head()).await.expect("a refusal");
    assert_eq!(head.status(), 503);
    drop((raw, late));

    drop((agent, sockets));
    eventually("all that opened has closed", SOON, || async {
        let seen = scrape().await;
        // The question itself is open while it is answered.
        seen.open()
            == [
                ("relay_http_connections_opened_total".to_owned(), String::new(), 1.0),
                ("relay_http_requests_begun_total".to_owned(), "admin".to_owned(), 1.0),
            ]
    })
    .await;
    let after = scrape().await;
    assert!(after.sum("relay_http_connections_refused_total", Some(("reason", "relay"))) > 0.0);
    for name in ["relay_tunnel_open", "relay_tunnel_hosts_online", "relay_tunnel_streams_open"] {
        assert_eq!(after.sum(name, None), 0.0, "{name}");
    }
    for name in rows.iter().map(|row| &row.name).filter(|name| is_here(name) && name.contains("_refused_")) {
        assert!(STILL.contains(&name.as_str()) || after.sum(name, None) > 0.0, "{name} has not moved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_too_many_connections_is_counted() {
    let relay =
        Relay::start(RelayOptions::default().admin().env("RELAY_MAX_TCP_CONNECTIONS_PER_IP", 8)).await;
    let mut raw = Vec::new();
    for _ in 0..9 {
        raw.push(RawConn::connect(relay.addr).await);
    }
    let mut last = raw.pop().expect("nine");
    assert_eq!(within("a refusal", SOON, last.head()).await.expect("a refusal").status(), 429);
    drop((raw, last));
    eventually("there is room again", SOON, || async {
        let asked = bearer(Method::GET, "/metrics", system_tests::relay::ADMIN_TOKEN).body(empty()).unwrap();
        match system_tests::client::try_fetch(relay.addr, asked).await {
            Ok(reply) if reply.status == 200 => {
                let seen = Exposition::parse(&reply.text()).unwrap();
                assert!(seen.sum("relay_http_connections_refused_total", Some(("reason", "address"))) > 0.0);
                true
            }
            _ => false,
        }
    })
    .await;
}
