//! Paired browsers across two relays: what they sign and seal passes as it is.

use http::Request;
use system_tests::{
    AgentOptions, LocalServer,
    fleet::{Across, Fleet},
    local::{app, big_digest},
    noise, sha256,
};

#[tokio::test(flavor = "multi_thread")]
async fn signed_and_sealed_sessions_pass() {
    const SIZE: usize = 2 << 20;
    let local = LocalServer::router(app()).await;
    // With redirects too: a paired browser takes none.
    let fleet = Fleet::start().await.with(|options| {
        options
            .env("RELAY_CLIENT_REDIRECT_ENABLED", 1)
            .env("RELAY_REDIRECT_ALLOWED_HOSTS", "relay.example")
            .env("RELAY_MODE", "dev")
    });
    let across = Across::with(fleet, &local.url(), AgentOptions::paired).await;
    let browser = across.browser().await;
    let signed = browser.session().await.expect("a signing session");
    assert_eq!(signed.get("/hello").await.expect("signed").text(), "hello");
    let body = noise(1, SIZE);
    let request = Request::put("/digest").body(body.clone()).unwrap();
    assert_eq!(signed.fetch(request).await.expect("signed").text(), format!("{SIZE} {}", sha256(&body)));
    let sealed = browser.sealed().await.expect("a sealed session");
    assert_eq!(sealed.get("/hello").await.expect("sealed").text(), "hello");
    let request = Request::put("/digest").body(body.clone()).unwrap();
    assert_eq!(sealed.fetch(request).await.expect("sealed").text(), format!("{SIZE} {}", sha256(&body)));
    let big = sealed.get(&format!("/big/{SIZE}")).await.expect("sealed");
    assert_eq!(format!("{SIZE} {}", sha256(&big.body)), big_digest(SIZE as u64).await);

    use relay_protocol::record::Kind;
    let mut socket = sealed.websocket("/ws", None).await.expect("a sealed WebSocket");
    socket.send(Kind::Text, "round").await.unwrap();
    let record = socket.next().await.expect("an echo");
    assert_eq!((record.kind, &record.payload[..]), (Kind::Text, &b"round"[..]));
}
