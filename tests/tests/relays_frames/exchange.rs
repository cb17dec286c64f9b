//! The daemon is at one relay, and clients, workers and listeners at others: every frame gets where it would get
//! on one relay, and nowhere else.

use serde_json::{Value, json};
use system_tests::Relay;
use system_tests::broker::frames::{
    channel, e2ee, event, key_exchange_init, key_exchange_init_v2, key_exchange_response,
    key_exchange_response_v2, key_update_required, offer_request, offer_response, psk2, redeem_refusal,
    redeem_request, redeem_response, subscribe, transport_request, transport_response, unsubscribe,
};
use system_tests::broker::{Dial, Socket};

use crate::world::{TARGET, WORKSPACE, World};
use crate::{meet, on_each};

on_each!(
    keys_and_sealed_frames_go_to_their_owner_alone,
    pairing_and_workers_pass_between_relays,
    events_reach_every_listener_on_every_relay,
);

#[tokio::test(flavor = "multi_thread")]
async fn the_relays_own_database_is_enough() {
    keys_and_sealed_frames_go_to_their_owner_alone(World::own_postgres().await).await;
}

async fn keys_and_sealed_frames_go_to_their_owner_alone(world: World) {
    let [a, b, c] = world.three().await;
    let mut daemon = world.daemon(&a).await;
    let (mut one, mut two) = (world.client(&b).await, world.client(&c).await);
    let mut near = world.client(&a).await;
    meet(&mut daemon, &mut one, "met-1").await;
    meet(&mut daemon, &mut two, "met-2").await;
    meet(&mut daemon, &mut near, "met-3").await;

    // Key exchanges in both versions and profiles; each answer to whoever asked.
    let exchanges = [
        (key_exchange_init("r-1"), key_exchange_response("r-1", "s-1")),
        (psk2(key_exchange_init_v2("r-2")), psk2(key_exchange_response_v2("r-2", "s-2"))),
    ];
    for (client, (ask, answer)) in [&mut one, &mut two].into_iter().zip(&exchanges) {
        client.send(ask).await;
        daemon.expect(ask).await;
        daemon.send(answer).await;
        client.expect(answer).await;
        // Once: a second answer goes to nobody.
        daemon.send(answer).await;
    }
    for seq in 1..4 {
        for (client, session) in [(&mut one, "s-1"), (&mut two, "s-2")] {
            client.send(&e2ee(session, seq)).await;
            daemon.expect(&e2ee(session, seq)).await;
            daemon.send(&e2ee(session, 100 + seq)).await;
            client.expect(&e2ee(session, 100 + seq)).await;
            daemon.send(&key_update_required(session)).await;
            client.expect(&key_update_required(session)).await;
        }
    }

    // A session that was answered for can be used from the daemon's side first.
    one.send(&key_exchange_init("r-3")).await;
    daemon.expect(&key_exchange_init("r-3")).await;
    daemon.send(&key_exchange_response("r-3", "s-3")).await;
    daemon.send(&e2ee("s-3", 1)).await;
    one.expect(&key_exchange_response("r-3", "s-3")).await;
    one.expect(&e2ee("s-3", 1)).await;

    // An id that is outstanding for a client of one relay is no other client's.
    one.send(&key_exchange_init("same")).await;
    daemon.expect(&key_exchange_init("same")).await;
    two.send(&psk2(key_exchange_init("same"))).await;
    two.send(&e2ee("s-2", 7)).await;
    daemon.expect(&e2ee("s-2", 7)).await;
    near.send(&psk2(key_exchange_init("same"))).await;
    near.send(&e2ee("met-3", 7)).await;
    daemon.expect(&e2ee("met-3", 7)).await;
    daemon.send(&key_exchange_response("same", "s-4")).await;
    one.expect(&key_exchange_response("same", "s-4")).await;

    // What nobody asked for, and sessions that nobody owns, get nowhere; what follows arrives everywhere.
    for lost in [
        key_exchange_response("never-asked", "s-9"),
        e2ee("nobodys", 1),
        key_update_required("nobodys"),
        offer_response("r-1"),
    ] {
        daemon.send(&lost).await;
    }
    for (client, session) in [(&mut one, "s-1"), (&mut two, "s-2"), (&mut near, "met-3")] {
        daemon.send(&e2ee(session, 500)).await;
        client.expect(&e2ee(session, 500)).await;
    }
    for socket in [&mut one, &mut two, &mut near, &mut daemon] {
        socket.nothing_came();
    }
    // Another pair hears nothing of all that, and its ids are its own.
    let mut other_daemon = world.daemon_of(&c, "target-2", 0).await;
    let mut other = world.client_of(&b, "target-2").await;
    meet(&mut other_daemon, &mut other, "s-1").await;
    other_daemon.send(&e2ee("s-1", 7000)).await;
    other.expect(&e2ee("s-1", 7000)).await;
    daemon.send(&e2ee("s-1", 8000)).await;
    one.expect(&e2ee("s-1", 8000)).await;
    other.nothing_came();
}

async fn pairing_and_workers_pass_between_relays(world: World) {
    let prefixed = |id: &str| world.options(id).env("RELAY_WORKER_PATH_PREFIX", "/jobs");
    let (a, b) = tokio::join!(Relay::start(prefixed("a")), Relay::start(prefixed("b")));
    let mut daemon = world.daemon(&a).await;
    let mut runtime = world.client(&b).await;
    meet(&mut daemon, &mut runtime, "met").await;

    let mut pairing = world.client_with(&b, json!({"scope": "pairing"})).await;
    for (ask, answer) in [
        (offer_request("o-1"), offer_response("o-1")),
        (redeem_request("o-2"), redeem_refusal("o-2")),
        (redeem_request("o-3"), redeem_response("o-3")),
    ] {
        pairing.send(&ask).await;
        daemon.expect(&ask).await;
        daemon.send(&answer).await;
        pairing.expect(&answer).await;
    }
    // An answer of another kind answers nothing.
    pairing.send(&redeem_request("o-4")).await;
    daemon.expect(&redeem_request("o-4")).await;
    daemon.send(&key_exchange_response("o-4", "s-1")).await;
    daemon.send(&offer_response("o-4")).await;
    daemon.send(&redeem_response("o-4")).await;
    pairing.expect(&redeem_response("o-4")).await;

    let mut worker = world.dial("worker", TARGET, json!({})).connect(b.addr).await;
    worker.send(&transport_request("w-0", "/other")).await;
    let refused = worker.frame().await;
    assert_eq!((&refused["requestId"], &refused["status"]), (&json!("w-0"), &json!(403)), "{refused}");
    worker.send(&transport_request("w-1", "/jobs/x/../../other")).await;
    assert_eq!(worker.frame().await["code"], json!("WORKER_TRANSPORT_DISABLED"));
    worker.send(&e2ee("s-1", 1)).await;
    worker.send(&transport_request("w-2", "/jobs/x")).await;
    daemon.expect(&transport_request("w-2", "/jobs/x")).await;
    daemon.send(&transport_response("w-2")).await;
    worker.expect(&transport_response("w-2")).await;
    for socket in [&mut worker, &mut pairing, &mut runtime, &mut daemon] {
        socket.nothing_came();
    }
}

/// A listener of these channels.
async fn listener(world: &World, relay: &Relay, target: Option<&str>, channels: &[String]) -> Socket {
    let mut claims = json!({
        "workspaceId": WORKSPACE, "role": "client", "scope": "session-events", "sessionChannels": channels,
    });
    if let Some(target) = target {
        claims["runtimeTargetId"] = json!(target);
    }
    Dial::new("client", WORKSPACE, target, &world.tokens.grant(claims)).connect(relay.addr).await
}

async fn subscribed(socket: &mut Socket, channel: &str) {
    socket.send(&subscribe(channel, "sub")).await;
    let answer = socket.frame().await;
    assert_eq!(answer["schema"], json!("viewport.session_events.subscribed/v1"), "{answer}");
}

async fn events_reach_every_listener_on_every_relay(world: World) {
    let [a, b, c] = world.three().await;
    let mut daemon = world.daemon(&a).await;
    let (mut far, mut farther) = (world.client(&b).await, world.client(&c).await);
    meet(&mut daemon, &mut far, "met-1").await;
    meet(&mut daemon, &mut farther, "met-2").await;
    let names = [channel("one"), channel("two")];
    let mut listeners = Vec::new();
    for relay in [&a, &b, &c] {
        let mut listener = listener(&world, relay, Some(TARGET), &names).await;
        subscribed(&mut listener, &names[0]).await;
        listeners.push(listener);
    }
    // One that listens to the whole workspace, one of another pair, and one that only may listen.
    let mut around = listener(&world, &c, None, &names).await;
    subscribed(&mut around, &names[0]).await;
    let mut other = listener(&world, &b, Some("target-2"), &names).await;
    subscribed(&mut other, &names[0]).await;
    let mut silent = listener(&world, &b, Some(TARGET), &names).await;
    silent.send(&subscribe(&channel("three"), "no")).await;
    assert_eq!(silent.frame().await["code"], json!("CHANNEL_NOT_ALLOWED"));

    for number in 0..20 {
        daemon.send(&event(&names[1], number)).await;
        daemon.send(&event(&names[0], number)).await;
    }
    for listener in listeners.iter_mut().chain([&mut around]) {
        for number in 0..20 {
            listener.expect(&event(&names[0], number)).await;
        }
    }

    // Only whoever still listens hears more.
    listeners[1].send(&unsubscribe(&names[0], "enough")).await;
    let left: Value = listeners[1].frame().await;
    assert_eq!(left["schema"], json!("viewport.session_events.unsubscribed/v1"));
    subscribed(&mut listeners[1], &names[1]).await;
    daemon.send(&event(&names[0], 100)).await;
    daemon.send(&event(&names[1], 101)).await;
    listeners[1].expect(&event(&names[1], 101)).await;
    listeners[0].expect(&event(&names[0], 100)).await;
    listeners[2].expect(&event(&names[0], 100)).await;
    around.expect(&event(&names[0], 100)).await;
    // They came by the same ways, later.
    daemon.send(&e2ee("met-1", 1)).await;
    far.expect(&e2ee("met-1", 1)).await;
    daemon.send(&e2ee("met-2", 1)).await;
    farther.expect(&e2ee("met-2", 1)).await;
    for socket in listeners.iter_mut().chain([&mut around, &mut other, &mut silent]) {
        socket.nothing_came();
    }
}
