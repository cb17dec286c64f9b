//! What is particular to the platform.

use serde_json::json;
use system_tests::platform::{Call, Platform};

use crate::peers::{KEY, Peer, now_ms, pair, signed};
use crate::world::at_platform;

/// Many large frames are more than an answer may hold, and one alone is: what fits arrives, what does not is left
/// behind.
#[tokio::test]
async fn answers_that_are_too_long_are_asked_for_in_parts() {
    let platform = Platform::start().await;
    let mut b = Peer::start("b", &at_platform(&platform.url())).await;
    let a = Peer::start("a", &at_platform(&platform.url())).await;
    a.reaches(&mut b, Some("b")).await;
    let now = now_ms() + 500;
    let large =
        |number: i64| signed(KEY, "x", Some("b"), now + number, &format!("{number}{}", "x".repeat(100_000)));
    for number in 0..8 {
        platform.inject(large(number));
    }
    platform.inject(signed(KEY, "x", Some("b"), now + 8, &"y".repeat(400_000)));
    for number in 0..8 {
        assert!(b.frame().await.payload.starts_with(&number.to_string()));
    }
    a.reaches(&mut b, Some("b")).await;
}

#[tokio::test]
async fn frames_that_are_none_spoil_no_others() {
    let platform = Platform::start().await;
    let mut b = Peer::start("b", &at_platform(&platform.url())).await;
    let a = Peer::start("a", &at_platform(&platform.url())).await;
    a.reaches(&mut b, Some("b")).await;
    let now = now_ms() + 500;
    for bad in
        [json!({}), json!({ "payload": 7 }), json!({ "workspaceId": ["ws"], "nested": { "deep": [] } })]
    {
        platform.inject(bad);
    }
    platform.inject(signed(KEY, "x", Some("b"), now, "good"));
    assert_eq!(&*b.frame().await.payload, "good");
}

/// A renewal does not take back what another relay holds by now.
#[tokio::test]
async fn a_daemon_that_moved_is_not_taken_back() {
    let platform = Platform::start().await;
    let settings = at_platform(&platform.url());
    let (mut a, mut b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    let c = Peer::start("c", &settings).await;
    let daemon = pair("daemon");
    let old = a.open(&daemon, 1);
    c.finds(&daemon, Some("a")).await;
    let new = b.open(&daemon, 2);
    assert!(!b.loses(new).await, "nothing is written over what was not looked at");
    b.confirm(&daemon, new);
    c.finds(&daemon, Some("b")).await;
    assert!(!a.loses(old).await, "the platform knows no generations");
    // What was lost is not given up a second time.
    a.backplane.daemon_closed(&daemon, old);
    let after = pair("after");
    a.open(&after, 1);
    c.finds(&after, Some("a")).await;
    c.finds(&daemon, Some("b")).await;
}

#[tokio::test]
async fn a_crowd_asks_once() {
    let platform = Platform::start().await;
    let settings = at_platform(&platform.url());
    let (a, b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    let daemon = pair("daemon");
    a.open(&daemon, 1);
    b.finds(&daemon, Some("a")).await;
    let before = platform.asked(Call::Resolve).len();
    let crowd = (0..500).map(|_| b.backplane.daemon(&daemon));
    let answers = futures_util::future::join_all(crowd).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().is_some()));
    assert!(
        platform.asked(Call::Resolve).len() - before < 10,
        "{}",
        platform.asked(Call::Resolve).len() - before
    );
}
