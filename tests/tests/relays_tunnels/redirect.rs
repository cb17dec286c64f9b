//! Browsers that are sent to the relay that has the tunnel, where the operator allows it.

use http::StatusCode;
use system_tests::{
    AgentOptions, LocalServer, RelayOptions,
    client::{self, fetch, full, websocket},
    fleet::{Across, Fleet},
    local::app,
};

fn redirecting(options: RelayOptions) -> RelayOptions {
    options
        .env("RELAY_CLIENT_REDIRECT_ENABLED", 1)
        .env("RELAY_REDIRECT_ALLOWED_HOSTS", "127.0.0.1")
        .env("RELAY_MODE", "dev")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_follow_is_sent_there_and_who_cannot_is_served() {
    let local = LocalServer::router(app()).await;
    let fleet = Fleet::start().await.with(redirecting);
    let across = Across::with(fleet, &local.url(), |agent: AgentOptions| agent).await;
    let path = across.path("/echo?a=%20b");
    let location = format!("http://{}{path}", across.far.addr);
    for request in [client::get(&path), across.request("POST", "/echo?a=%20b").body(full("x")).unwrap()] {
        let reply = across.fetch(request).await;
        assert_eq!(reply.status, StatusCode::TEMPORARY_REDIRECT, "{reply:?}");
        assert_eq!(reply.header("location"), Some(location.as_str()));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    assert_eq!(fetch(across.far.addr, client::get(&path)).await.status, StatusCode::OK);

    let by_page = across.request("GET", "/hello").header("sec-fetch-mode", "cors").body(client::empty());
    assert_eq!(across.fetch(by_page.unwrap()).await.text(), "hello");
    let signed = across.request("GET", "/hello").header("signature", "a=:AA==:").body(client::empty());
    assert_eq!(across.fetch(signed.unwrap()).await.text(), "hello");
    websocket(across.near.addr, &across.path("/ws"), &[]).await.expect("a WebSocket is passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_where_the_operator_does_not_allow_it() {
    let local = LocalServer::router(app()).await;
    // In prod only to addresses with TLS, and only to those that are listed.
    for (mode, hosts, public) in
        [("prod", "127.0.0.1", "ws://127.0.0.1:9"), ("dev", "relay.example", "ws://other.example")]
    {
        let fleet = Fleet::start().await.with(|options| {
            redirecting(options).env("RELAY_MODE", mode).env("RELAY_REDIRECT_ALLOWED_HOSTS", hosts)
        });
        let near = fleet.relay("near").await;
        let options = fleet.options("far", system_tests::fleet::address());
        let far = system_tests::Relay::start(options.env("RELAY_PUBLIC_WS_BASE_URL", public)).await;
        let across = Across::between(fleet, near, far, &local.url(), |agent| agent).await;
        let reply = across.get("/hello").await;
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "hello"), "{mode} {hosts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_told_which_relay_this_is_and_which_others_there_are() {
    let local = LocalServer::router(app()).await;
    let across = Across::start(&local.url()).await;
    let third = across.fleet.relay("third").await;
    let machines = std::sync::atomic::AtomicUsize::new(0);
    let bearer = format!("Bearer {}", across.token);
    system_tests::eventually("each tells of the others", system_tests::SOON, || async {
        let machine = machines.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let connect = format!("/v1/relay/connect?machine_id=m-{machine}&name=third");
        let (_ws, response) =
            websocket(across.near.addr, &connect, &[("authorization", &bearer)]).await.unwrap();
        assert_eq!(response.headers()["x-relay-id"], "near");
        let Some(others) = response.headers().get("x-relay-others") else { return false };
        let mut others: Vec<&str> = others.to_str().unwrap().split(", ").collect();
        others.sort_unstable();
        let mut expected = [across.far.url(), third.url()];
        expected.sort_unstable();
        others == expected
    })
    .await;
}
