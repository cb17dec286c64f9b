//! The daemon comes to another relay while its old one still believes to have it, is stopped, or is dead.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use system_tests::SOON;
use system_tests::broker::Socket;
use system_tests::broker::frames::{e2ee, key_exchange_init, key_exchange_response};

use crate::world::{TARGET, World, healthy};
use crate::{meet, on_each};

on_each!(
    a_relay_that_was_stopped_erases_nobody,
    a_daemon_outlives_its_killed_relay,
    a_relay_that_ends_in_order_lets_its_daemon_go,
    the_last_of_many_moves_counts,
);

async fn closed_as_replaced(socket: &mut Socket) {
    let close = system_tests::within("the daemon is closed", SOON * 4, async {
        // A renewal is due every 20 s, and another one after a daemon was asked.
        loop {
            if let Some(event) = socket.event_within(SOON).await
                && let system_tests::broker::Event::Closed(close) = event
            {
                return close;
            }
        }
    })
    .await;
    assert_eq!(close.map(|(code, _)| code), Some(4008));
}

/// The old relay is stopped with two daemons. Both reconnect elsewhere; one of them hangs up at the old relay
/// meanwhile, the other's old socket is half dead. When the old relay goes on, neither its late delete nor its late
/// renewal erases anything, and the half-dead socket is closed.
async fn a_relay_that_was_stopped_erases_nobody(world: World) {
    let [a, b, c] = world.three().await;
    let mut old = world.daemon_of(&a, "half-dead", 0).await;
    let mut gone = world.daemon_of(&a, "hung-up", 0).await;
    let mut client = world.client_of(&c, "half-dead").await;
    let mut other = world.client_of(&c, "hung-up").await;
    meet(&mut old, &mut client, "s").await;
    meet(&mut gone, &mut other, "s").await;

    a.signal(Signal::SIGSTOP);
    drop(gone);
    let mut new = world.daemon_of(&b, "half-dead", 0).await;
    let mut back = world.daemon_of(&b, "hung-up", 0).await;
    meet(&mut new, &mut client, "s").await;
    meet(&mut back, &mut other, "s").await;

    // A live one would be asked, and stay.
    old.freeze();
    a.signal(Signal::SIGCONT);
    healthy(&a).await;
    // A third pair shows that what the old relay had to write was written.
    let mut later = world.daemon_of(&a, "later", 0).await;
    let mut its_client = world.client_of(&c, "later").await;
    meet(&mut later, &mut its_client, "s").await;
    for seq in 1..50 {
        client.send(&e2ee("s", seq)).await;
        new.expect(&e2ee("s", seq)).await;
        back.send(&e2ee("s", seq)).await;
        other.expect(&e2ee("s", seq)).await;
        tokio::time::sleep(system_tests::POLL).await;
    }
    // Clients at the old relay find it too.
    let mut late = world.client_of(&a, "half-dead").await;
    let mut latest = world.client_of(&a, "hung-up").await;
    meet(&mut new, &mut late, "late").await;
    meet(&mut back, &mut latest, "late").await;
    // So the half-dead one has been closed.
    old.thaw();
    closed_as_replaced(&mut old).await;
}

async fn a_daemon_outlives_its_killed_relay(world: World) {
    let [mut a, b, c] = world.three().await;
    let mut daemon = world.daemon(&a).await;
    let (mut near, mut far) = (world.client(&a).await, world.client(&b).await);
    meet(&mut daemon, &mut near, "near").await;
    meet(&mut daemon, &mut far, "far").await;
    far.send(&key_exchange_init("r")).await;
    daemon.expect(&key_exchange_init("r")).await;

    a.process.kill();
    assert_eq!(daemon.ended().await, None);
    assert_eq!(near.ended().await, None);
    // While nobody has the daemon, what a client sends does not stop its relay.
    for seq in 1..20 {
        far.send(&e2ee("far", seq)).await;
    }
    healthy(&b).await;
    let mut daemon = world.daemon(&c).await;
    meet(&mut daemon, &mut far, "far").await;
    let mut near = world.client(&b).await;
    meet(&mut daemon, &mut near, "near").await;
    // Nobody at the new relay has asked for that.
    daemon.send(&key_exchange_response("r", "stolen")).await;
    daemon.send(&e2ee("far", 77)).await;
    far.expect(&e2ee("far", 77)).await;
    // The old relay comes back and has nothing.
    a.restart().await;
    let mut late = world.client(&a).await;
    meet(&mut daemon, &mut late, "late").await;
}

async fn a_relay_that_ends_in_order_lets_its_daemon_go(world: World) {
    let [mut a, b, c] = world.three().await;
    let mut daemon = world.daemon(&a).await;
    let mut client = world.client(&b).await;
    meet(&mut daemon, &mut client, "s").await;
    a.signal(Signal::SIGTERM);
    assert_eq!(daemon.closed().await.0, 1001);
    a.process.wait(SOON).await;
    // Its entry goes with it; no one has to wait until it is void.
    crate::until_told(&mut client, "s", "DAEMON_UNAVAILABLE").await;
    let mut daemon = world.daemon(&c).await;
    meet(&mut daemon, &mut client, "s").await;
}

/// A daemon that moves, at whatever relay it was and is: its old socket is half dead each time.
async fn the_last_of_many_moves_counts(world: World) {
    let relays = world.three().await;
    let mut clients = Vec::new();
    for relay in &relays {
        clients.push(world.client(relay).await);
    }
    let mut before = Vec::new();
    for relay in &relays {
        let mut daemon = world.daemon(relay).await;
        for (at, client) in clients.iter_mut().enumerate() {
            meet(&mut daemon, client, &format!("s-{at}")).await;
        }
        daemon.freeze();
        before.push(daemon);
        // Whoever moves needs a moment to notice that it has to; which came last is not told by less than that.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut first = before.swap_remove(0);
    first.thaw();
    closed_as_replaced(&mut first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_generation_rules_on_redis() {
    the_higher_generation_rules(World::redis().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_generation_rules_on_postgres() {
    the_higher_generation_rules(World::postgres().await).await;
}

/// The platform's interface knows no generations: the daemon that it was told of last is the one there.
async fn the_higher_generation_rules(world: World) {
    let [a, b, c] = world.three().await;
    let mut five = world.daemon_of(&a, TARGET, 5).await;
    let mut client = world.client(&c).await;
    meet(&mut five, &mut client, "s").await;

    // A lower one finds out that it is not wanted, at its own relay and at another one.
    let lower = world.dial("workspace-daemon", TARGET, json!({"daemonIssueGeneration": 4}));
    lower.closed(a.addr, 4008).await;
    let mut four = world.daemon_of(&b, TARGET, 4).await;
    closed_as_replaced(&mut four).await;
    for seq in 1..10 {
        client.send(&e2ee("s", seq)).await;
        five.expect(&e2ee("s", seq)).await;
    }
    // A higher one takes over.
    let mut six = world.daemon_of(&b, TARGET, 6).await;
    meet(&mut six, &mut client, "s").await;
    closed_as_replaced(&mut five).await;
    // Of two of one generation that live the one that was there first stays.
    let mut second = world.daemon_of(&c, TARGET, 6).await;
    closed_as_replaced(&mut second).await;
    let mut far = world.client(&b).await;
    meet(&mut six, &mut client, "s").await;
    meet(&mut six, &mut far, "far").await;
    for relay in [&a, &b, &c] {
        healthy(relay).await;
    }
}
