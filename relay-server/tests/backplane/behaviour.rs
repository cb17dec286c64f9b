//! What holds whatever the relays have in common.

use relay_server::backplane::{Direction, Pair, PublishError};
use serde_json::json;
use uuid::Uuid;

use crate::peers::{KEY, Peer, now_ms, pair, signed};
use crate::world::World;

macro_rules! on_each {
    ($($name:ident),* $(,)?) => {
        mod on_redis { $(#[tokio::test] async fn $name() { super::$name(super::World::redis().await).await })* }
        mod on_postgres { $(#[tokio::test] async fn $name() { super::$name(super::World::postgres().await).await })* }
        mod on_the_platform { $(#[tokio::test] async fn $name() { super::$name(super::World::platform().await).await })* }
    };
}

on_each!(
    frames_arrive_in_order_where_they_are_for,
    a_daemon_is_found_and_no_late_end_erases_its_successor,
    the_bus_is_not_believed
);

async fn frames_arrive_in_order_where_they_are_for(world: World) {
    let (a, mut b, mut c) = (world.peer("a").await, world.peer("b").await, world.peer("c").await);
    a.reaches(&mut b, Some("b")).await;
    a.reaches(&mut c, None).await;
    let frames = pair("frames");
    for number in 0..60 {
        let to = (number % 10 != 0).then_some("b");
        a.send(&frames, to, &format!("{{\"n\":{number},\"text\":\"\u{e9}\\n\\\"\"}}")).await.unwrap();
    }
    for number in 0..60 {
        let frame = b.frame_of(&frames).await;
        assert_eq!(*frame.payload, *format!("{{\"n\":{number},\"text\":\"\u{e9}\\n\\\"\"}}"));
        assert_eq!((&*frame.source, frame.direction), ("a", Direction::ClientToDaemon));
        assert_eq!(frame.targeted, number % 10 != 0, "{number}");
        if number % 10 == 0 {
            assert_eq!(
                c.frame_of(&frames).await.payload,
                frame.payload,
                "and none of those for b in between"
            );
        }
    }
    let long = "x".repeat(2 << 20);
    assert_eq!(a.send(&frames, None, &long).await, Err(PublishError::TooLarge));
}

async fn a_daemon_is_found_and_no_late_end_erases_its_successor(world: World) {
    let (a, mut b, c) = (world.peer("a").await, world.peer("b").await, world.peer("c").await);
    let daemon = pair("daemon");
    let old = a.open(&daemon, 1);
    let holder = b.finds(&daemon, Some("a")).await.unwrap();
    assert_eq!(holder.public_ws.unwrap().as_str(), "wss://a.example.com/");
    assert_eq!(a.backplane.daemon(&daemon).await.unwrap(), None, "another relay");
    assert_eq!(b.backplane.daemon(&pair("nobody")).await.unwrap(), None);

    // It reconnects to b while a still believes in the old connection, whose end is told late.
    let new = open_anew(&world, &mut b, &daemon).await;
    c.finds(&daemon, Some("b")).await;
    a.backplane.daemon_closed(&daemon, old);
    // What a writes is in order: when this is there, the end was told.
    let after = pair("after");
    a.open(&after, 1);
    c.finds(&after, Some("a")).await;
    c.finds(&daemon, Some("b")).await;

    // Neither does the end of a connection that is not the one, on its own relay.
    b.backplane.daemon_closed(&daemon, Uuid::new_v4());
    open_anew(&world, &mut b, &after).await;
    c.finds(&after, Some("b")).await;
    c.finds(&daemon, Some("b")).await;
    b.backplane.daemon_closed(&daemon, new);
    c.finds(&daemon, None).await;

    // A relay that ends in order takes its entries along.
    b.end().await;
    c.finds(&after, None).await;
}

/// A daemon that another relay holds connects here. The platform cannot tell who is the newer one: there it is found
/// alive first.
async fn open_anew(world: &World, here: &mut Peer, daemon: &Pair) -> Uuid {
    let connection = here.open(daemon, 1);
    if let World::Platform(..) = world {
        assert!(!here.loses(connection).await, "the platform knows no generations");
        here.confirm(daemon, connection);
    }
    connection
}

/// Whoever can write to the bus but does not have the key gets nothing through, and nothing twice.
async fn the_bus_is_not_believed(world: World) {
    let (a, mut b) = (world.peer("a").await, world.peer("b").await);
    a.reaches(&mut b, Some("b")).await;
    let now = now_ms() + 500;
    let good = |issued, payload: &str| signed(KEY, "x", Some("b"), issued, payload);
    let forged = |payload: &str| signed("another key of the same length....", "x", Some("b"), now, payload);
    let altered = |field: &str, value: serde_json::Value| {
        let mut frame = good(now, "altered");
        frame[field] = value;
        frame
    };
    let signature = good(now, "altered")["signature"].as_str().unwrap().to_owned();
    let oversized = "x".repeat((1 << 20) + 1);
    let steps = [
        forged("forged"),
        altered("payload", json!("not what was signed")),
        altered("sourceRelayId", json!("y")),
        altered("direction", json!("client_to_daemon")),
        altered("direction", json!("sideways")),
        altered("workspaceId", json!("ws\nrt:1")),
        altered("signature", json!(format!("{signature}="))),
        altered("issuedAtMs", json!(now + 1)),
        good(now - 60_000, "stale"),
        good(now + 60_000, "from the future"),
        signed(KEY, "b", Some("b"), now, "our own"),
        signed(KEY, "x", Some("c"), now, "somebody else's"),
        good(now, &oversized),
        good(now, "1"),
        good(now, "1"),
        good(now, "2"),
        good(now - 1, "out of order"),
        signed(KEY, "y", None, now - 1, "3"),
        good(now + 1, "4"),
        good(now, "2"),
        good(now + 1, "5"),
    ];
    for frame in &steps {
        // The platform takes no frame of that size, nor does a command line.
        if frame["payload"].as_str().unwrap().len() < 100_000 {
            world.inject(frame).await;
        }
    }
    for expected in ["1", "2", "3", "4", "5"] {
        assert_eq!(&*b.frame().await.payload, expected);
    }
    a.reaches(&mut b, Some("b")).await;
}
