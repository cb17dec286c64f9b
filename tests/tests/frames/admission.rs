//! Who is let in: queries, token sources, and the problems that refuse before the upgrade.

use http::Method;
use relay_protocol::problem::Code;
use serde_json::json;
use system_tests::broker::{Dial, Source};
use system_tests::client::{empty, fetch, get, request};
use system_tests::platform::{Call, Platform};
use system_tests::{Relay, RelayOptions};

use super::{TARGET, WORKSPACE, World, claims};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_each_place_opens_and_the_platform_is_asked_what_the_contract_says() {
    let world = World::with(RelayOptions::default().env("RELAY_MODE", "dev")).await;
    for source in [Source::Bearer, Source::Protocol, Source::Query] {
        let dial = world.client_dial(json!({})).by(source);
        let socket = dial.connect(world.addr()).await;
        let (_, token) = dial.token.as_ref().unwrap();
        let selected = (source == Source::Protocol).then(|| format!("auth.{token}"));
        assert_eq!(socket.protocol, selected, "{source:?}");
        let asked = world.platform.asked(Call::Validate).pop().unwrap();
        let expected = json!({
            "relayToken": token, "role": "client", "workspaceId": WORKSPACE, "runtimeTargetId": TARGET,
        });
        assert_eq!(asked.body, expected, "{source:?}");
        assert!(!world.relay.log().contains(token.as_str()), "a token is in the log");
    }
    // Another sub-protocol is preferred to the token's own.
    let dial = world.client_dial(json!({})).by(Source::Protocol).protocol("viewport.relay");
    assert_eq!(dial.connect(world.addr()).await.protocol.as_deref(), Some("viewport.relay"));
    let dial = world.client_dial(json!({})).protocol("viewport.relay").protocol("other");
    assert_eq!(dial.connect(world.addr()).await.protocol.as_deref(), Some("viewport.relay"));
    // The header comes first: a bad token there is not made good by another place.
    let good = world.platform.grant(claims("client", Some(TARGET), json!({})));
    let dial =
        Dial::new("client", WORKSPACE, Some(TARGET), "not-a-good-token").protocol(&format!("auth.{good}"));
    assert_eq!(dial.refused(world.addr()).await, Code::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_is_for_development_alone() {
    let world = World::start().await;
    let dial = world.client_dial(json!({})).by(Source::Query);
    assert_eq!(dial.refused(world.addr()).await, Code::Unauthorized);
    assert_eq!(world.platform.asked(Call::Validate).len(), 0, "the platform was asked");
    dial.by(Source::Protocol).connect(world.addr()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_is_refused_and_nobody_is_asked() {
    let world = World::start().await;
    let mut none = world.client_dial(json!({}));
    none.token = None;
    assert_eq!(none.refused(world.addr()).await, Code::Unauthorized);
    for token in ["short", "123456789", &"x".repeat(4097), "with space"] {
        let dial = Dial::new("client", WORKSPACE, Some(TARGET), token);
        assert_eq!(dial.refused(world.addr()).await, Code::Unauthorized, "{token:.20}");
    }
    let twice = world.client_dial(json!({})).header("authorization", "Bearer another-token");
    assert_eq!(twice.refused(world.addr()).await, Code::Unauthorized);
    assert_eq!(world.platform.asked(Call::Validate).len(), 0, "the platform was asked");
    // Exactly as long as it may be.
    for length in [10, 4096] {
        let token = "x".repeat(length);
        world.platform.vouch(&token, claims("client", Some(TARGET), json!({})));
        Dial::new("client", WORKSPACE, Some(TARGET), &token).connect(world.addr()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_say_who_and_where_is_refused_and_nobody_is_asked() {
    let world = World::start().await;
    let long = "w".repeat(129);
    let good = world.client_dial(json!({}));
    for (remove, add) in [
        ("role", vec![]),
        ("role", vec![("role", "admin")]),
        ("role", vec![("role", "daemon")]),
        ("", vec![("role", "client")]),
        ("workspaceId", vec![]),
        ("workspaceId", vec![("workspaceId", "")]),
        ("workspaceId", vec![("workspaceId", "a/b")]),
        ("workspaceId", vec![("workspaceId", "a b")]),
        ("workspaceId", vec![("workspaceId", "\u{fc}")]),
        ("workspaceId", vec![("workspaceId", "a\0")]),
        ("workspaceId", vec![("workspaceId", &*long)]),
        ("", vec![("workspaceId", WORKSPACE)]),
        ("runtimeTargetId", vec![("runtimeTargetId", "")]),
        ("runtimeTargetId", vec![("runtimeTargetId", "../x")]),
        ("", vec![("runtimeTargetId", TARGET)]),
    ] {
        let mut dial = good.clone();
        dial.query.retain(|(name, _)| name != remove);
        dial.query.extend(add.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        assert_eq!(dial.refused(world.addr()).await, Code::BadRequest, "{:?}", dial.query);
    }
    assert_eq!(world.platform.asked(Call::Validate).len(), 0, "the platform was asked");
    // Parameters that nobody knows harm nobody.
    let mut dial = good;
    dial.query.push(("utm".to_owned(), "1".to_owned()));
    dial.connect(world.addr()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_upgrade_there_is_nothing_but_a_problem() {
    let world = World::start().await;
    let path = format!("/ws?role=client&workspaceId={WORKSPACE}");
    let reply = fetch(world.addr(), get(&path)).await;
    reply.is_problem(Code::UpgradeRequired);
    assert_eq!(reply.header("upgrade"), Some("websocket"));
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::PATCH] {
        let reply = fetch(world.addr(), request(method.clone(), &path, empty())).await;
        assert_eq!(reply.status, 405, "{method}");
        assert_eq!(reply.header("allow"), Some("GET"), "{method}");
    }
    for path in ["/ws/", "/wss", "/ws/x", "//ws"] {
        assert_eq!(fetch(world.addr(), get(path)).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_admitted_where_nobody_can_judge_tokens() {
    let relay = Relay::start(RelayOptions::default().env("RELAY_MODE", "dev")).await;
    for source in [Source::Bearer, Source::Protocol, Source::Query] {
        let dial = Dial::new("client", WORKSPACE, Some(TARGET), "some-token-or-other").by(source);
        assert_eq!(dial.refused(relay.addr).await, Code::Unauthorized);
    }
    assert!(relay.log().contains("RELAY_VALIDATE_URL"), "the log does not say what to set");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_is_found_below_its_base_too() {
    let platform = Platform::start().await;
    let options = RelayOptions::default()
        .env("SERVER_URL", platform.url())
        .env("RELAY_INTERNAL_KEY", system_tests::platform::INTERNAL_KEY);
    let relay = Relay::start(options).await;
    let token = platform.grant(claims("client", Some(TARGET), json!({})));
    Dial::new("client", WORKSPACE, Some(TARGET), &token).connect(relay.addr).await;
    assert_eq!(platform.asked(Call::Validate).len(), 1);
}
