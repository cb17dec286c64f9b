//! One daemon per pair: who gives way to whom.

use serde_json::json;
use system_tests::POLL;
use system_tests::broker::Event;
use system_tests::broker::frames::{e2ee, key_exchange_init, key_exchange_response};

use super::{World, meet};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_lives_stays() {
    let world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    for generation in [0, 1, 7] {
        let dial = world.daemon_dial(json!({"daemonIssueGeneration": generation}));
        let (_, reason) = dial.closed(world.addr(), 4008).await;
        assert_eq!(reason, "a daemon is connected", "{generation}");
    }
    client.send(&e2ee("met", 5)).await;
    daemon.expect(&e2ee("met", 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_answers_no_ping_gives_way_and_sessions_and_requests_stay() {
    let world = World::start().await;
    let (daemon, mut client) = world.pair().await;
    // As a process that was stopped: its connection is open, and nobody reads it.
    daemon.freeze();
    client.send(&key_exchange_init("asked-before")).await;
    let mut successor = world.daemon().await;
    meet(&mut successor, &mut client, "met").await;
    successor.send(&key_exchange_response("asked-before", "s")).await;
    client.expect(&key_exchange_response("asked-before", "s")).await;
    successor.send(&e2ee("met", 9)).await;
    client.expect(&e2ee("met", 9)).await;
    // It wakes up too late: what it says reaches nobody, and its end takes nobody along.
    let mut daemon = daemon;
    daemon.thaw();
    let close = daemon.ended().await;
    assert!(close.is_none_or(|(code, reason)| code == 4008 && reason.contains("replaced")), "another close");
    drop(daemon);
    successor.send(&e2ee("met", 10)).await;
    client.expect(&e2ee("met", 10)).await;
    client.send(&e2ee("met", 11)).await;
    successor.expect(&e2ee("met", 11)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_generation_is_refused_at_once_even_if_the_other_is_dead() {
    let world = World::start().await;
    let mut client = world.client().await;
    let mut daemon = world.daemon_dial(json!({"daemonIssueGeneration": 3})).connect(world.addr()).await;
    meet(&mut daemon, &mut client, "met").await;
    daemon.freeze();
    for generation in [json!(2), json!(-5), json!(null)] {
        let dial = world.daemon_dial(json!({"daemonIssueGeneration": generation}));
        let (_, reason) = dial.closed(world.addr(), 4008).await;
        assert!(reason.contains("generation"), "{generation}: {reason}");
    }
    // The same or a higher one takes over.
    for generation in [3, 9] {
        let mut next =
            world.daemon_dial(json!({"daemonIssueGeneration": generation})).connect(world.addr()).await;
        meet(&mut next, &mut client, "met").await;
        next.freeze();
        drop(std::mem::replace(&mut daemon, next));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_left_makes_room_at_once() {
    let world = World::start().await;
    let (daemon, mut client) = world.pair().await;
    daemon.leave().await;
    for _ in 0..5 {
        let mut next = world.daemon().await;
        meet(&mut next, &mut client, "met").await;
        next.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_come_at_once_for_a_dead_one_exactly_one_stays() {
    let world = World::start().await;
    let (daemon, mut client) = world.pair().await;
    daemon.freeze();
    let mut comers = Vec::new();
    for _ in 0..8 {
        comers.push(world.daemon().await);
    }
    let mut closed = 0;
    let mut left = Vec::new();
    for mut comer in comers {
        // Those that are refused hear so; the one that stays hears the client.
        let heard = loop {
            client.send(&e2ee("met", 5)).await;
            match comer.event_within(POLL * 10).await {
                Some(Event::Frame(_)) => break true,
                Some(Event::Closed(_)) => break false,
                None => {}
            }
        };
        if heard {
            left.push(comer);
        } else {
            closed += 1;
        }
    }
    assert_eq!((closed, left.len()), (7, 1));
    let mut stays = left.pop().unwrap();
    client.send(&e2ee("met", 1_000)).await;
    stays.until(|frame| *frame == e2ee("met", 1_000)).await;
}
