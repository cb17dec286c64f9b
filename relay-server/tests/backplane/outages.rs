//! The other side goes away in the middle and comes back.

use relay_server::backplane::Unavailable;
use system_tests::platform::{Call, Fault, Platform};

use crate::peers::{Peer, pair, until};
use crate::world::{World, at_platform, set};

/// Nothing waits for it, everything says so, and all of it is back by itself.
async fn goes_away_and_comes_back(mut world: World) {
    let (mut a, mut b) = (world.peer("a").await, world.peer("b").await);
    let daemon = pair("daemon");
    let connection = a.open(&daemon, 1);
    b.finds(&daemon, Some("a")).await;
    b.reaches(&mut a, Some("a")).await;

    world.kill();
    b.is_unavailable(&daemon).await;
    until("frames are refused at once", async || b.send(&daemon, Some("a"), "{}").await.is_err()).await;
    // What changes meanwhile is written later.
    let other = pair("other");
    b.open(&other, 1);

    world.restart().await;
    b.finds(&daemon, Some("a")).await;
    a.finds(&other, Some("b")).await;
    b.reaches(&mut a, Some("a")).await;
    a.reaches(&mut b, None).await;
    a.backplane.daemon_closed(&daemon, connection);
    b.finds(&daemon, None).await;
}

#[tokio::test]
async fn redis_goes_away_and_comes_back() {
    goes_away_and_comes_back(World::redis().await).await;
}

#[tokio::test]
async fn postgres_goes_away_and_comes_back() {
    goes_away_and_comes_back(World::postgres().await).await;
}

#[tokio::test]
async fn the_platform_goes_away_and_comes_back() {
    goes_away_and_comes_back(World::platform().await).await;
}

/// A relay starts before the other side does.
async fn comes_later(mut world: World) {
    world.kill();
    let (mut a, mut b) = (world.peer("a").await, world.peer("b").await);
    let daemon = pair("daemon");
    assert_eq!(b.backplane.daemon(&daemon).await, Err(Unavailable));
    a.open(&daemon, 1);
    world.restart().await;
    b.finds(&daemon, Some("a")).await;
    b.reaches(&mut a, Some("a")).await;
    a.reaches(&mut b, None).await;
}

#[tokio::test]
async fn redis_comes_later() {
    comes_later(World::redis().await).await;
}

#[tokio::test]
async fn postgres_comes_later() {
    comes_later(World::postgres().await).await;
}

#[tokio::test]
async fn the_platform_comes_later() {
    comes_later(World::platform().await).await;
}

/// While the other side was away two relays held the same daemon: the higher generation wins, and the loser hears.
#[tokio::test]
async fn what_two_relays_hold_after_an_outage_is_settled() {
    for mut world in [World::redis().await, World::postgres().await] {
        let (mut a, b, c) = (world.peer("a").await, world.peer("b").await, world.peer("c").await);
        let daemon = pair("daemon");
        let old = a.open(&daemon, 1);
        c.finds(&daemon, Some("a")).await;
        world.kill();
        c.is_unavailable(&daemon).await;
        b.open(&daemon, 2);
        world.restart().await;
        assert!(a.loses(old).await, "to a higher generation");
        c.finds(&daemon, Some("b")).await;
    }
}

/// Two daemons that both live: the first one that is found alive stays, and the other one hears it twice.
#[tokio::test]
async fn of_two_that_live_the_first_one_stays() {
    for world in [World::redis().await, World::postgres().await] {
        let (mut a, mut b, c) = (world.peer("a").await, world.peer("b").await, world.peer("c").await);
        let daemon = pair("daemon");
        let first = a.open(&daemon, 1);
        c.finds(&daemon, Some("a")).await;
        let second = b.open(&daemon, 1);
        c.finds(&daemon, Some("b")).await;
        assert!(!a.loses(first).await);
        a.confirm(&daemon, first);
        c.finds(&daemon, Some("a")).await;
        assert!(!b.loses(second).await);
        b.confirm(&daemon, second);
        assert!(!b.loses(second).await, "although it lives");
        let third = b.open(&daemon, 1);
        assert!(!b.loses(third).await, "at once");
        c.finds(&daemon, Some("a")).await;
        a.lost_nothing();
        // When the first one ends the way is free.
        a.backplane.daemon_closed(&daemon, first);
        c.finds(&daemon, Some("b")).await;
    }
}

/// Whatever the platform answers, the next question is asked, and a good answer is taken.
#[tokio::test]
async fn no_bad_answer_of_the_platform_stops_the_next_call() {
    let platform = Platform::start().await;
    let mut settings = at_platform(&platform.url());
    settings.push(set("RELAY_LOG", "off"));
    let (a, mut b) = (Peer::start("a", &settings).await, Peer::start("b", &settings).await);
    a.reaches(&mut b, Some("b")).await;
    let faults =
        [Fault::BreakOff, Fault::Trickle, Fault::Hang, Fault::Garbage, Fault::NotOk, Fault::Status(500)];
    for fault in faults {
        platform.fault(Call::Pull, fault);
        platform.await_asked(Call::Pull, platform.asked(Call::Pull).len() + 5).await;
        platform.heal();
        a.reaches(&mut b, Some("b")).await;
    }
}
