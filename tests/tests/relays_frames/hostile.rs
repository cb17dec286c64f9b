//! Frames that somebody else puts on the bus: never delivered, never repeated, and the relay lives.

use serde_json::{Value, json};
use system_tests::broker::frames::{
    channel, e2ee, event, key_exchange_init, key_exchange_response, offer_request, offer_response, subscribe,
    transport_request,
};
use system_tests::{POLL, Relay};

use crate::world::{Back, KEY, WORKSPACE, World, bus_frame, healthy, now_ms, signed};
use crate::{meet, on_each};

on_each!(nothing_is_believed_without_a_signature, nothing_counts_twice, rubbish_on_the_bus_stops_nothing);

const TO_DAEMON: &str = "client_to_daemon";
const TO_CLIENTS: &str = "daemon_to_clients";

async fn nothing_is_believed_without_a_signature(world: World) {
    let small = |id: &str| world.options(id).env("RELAY_MAX_FRAME_BYTES", "16384");
    let (a, b) = tokio::join!(Relay::start(small("a")), Relay::start(small("b")));
    let (mut daemon, mut client) = (world.daemon(&b).await, world.client(&b).await);
    let mut far = world.client(&a).await;
    meet(&mut daemon, &mut client, "owned").await;
    meet(&mut daemon, &mut far, "far").await;
    client.send(&key_exchange_init("asked")).await;
    daemon.expect(&key_exchange_init("asked")).await;

    let now = now_ms();
    let frame = |payload: &Value| bus_frame("x", Some("b"), TO_DAEMON, now, payload);
    let to_clients = |payload: &Value| bus_frame("x", Some("b"), TO_CLIENTS, now, payload);
    let good = |payload: &Value| signed(frame(payload), KEY);
    let altered = |field: &str, value: Value| {
        let mut frame = good(&e2ee("bad", 1));
        frame[field] = value;
        frame
    };
    let at = |issued: i64| signed(bus_frame("x", Some("b"), TO_DAEMON, issued, &e2ee("bad", 2)), KEY);
    let mut oversized = e2ee("bad", 3);
    oversized["ciphertext"] = json!("x".repeat(16 * 1024));
    let padded = format!("{}=", good(&e2ee("bad", 1))["signature"].as_str().expect("a text"));
    let frames = [
        // Not signed, signed by somebody else, signed and then changed.
        frame(&e2ee("bad", 4)),
        to_clients(&e2ee("owned", 5)),
        signed(frame(&e2ee("bad", 6)), "another key of the same length, no good"),
        altered("payload", json!(e2ee("bad", 7).to_string())),
        altered("workspaceId", json!("workspace-1\ntarget-1")),
        altered("runtimeTargetId", json!("target-2")),
        altered("machineId", json!("machine-2")),
        altered("sourceRelayId", json!("a")),
        altered("targetRelayId", Value::Null),
        altered("direction", json!(TO_CLIENTS)),
        altered("issuedAtMs", json!(now + 1)),
        altered("signature", json!("")),
        altered("signature", json!(padded)),
        // Signed well, and stale, from the future, from ourselves, or for somebody else.
        at(now - 16_000),
        at(now + 60_000),
        at(-1),
        at(i64::MAX),
        signed(bus_frame("b", Some("b"), TO_DAEMON, now, &e2ee("bad", 8)), KEY),
        // Only what may pass at all, in this direction, and where it was asked for.
        good(&oversized),
        good(&json!({"type": "something-else"})),
        good(&json!([e2ee("bad", 9)])),
        good(&subscribe(&channel("one"), "r")),
        good(&transport_request("w", "/jobs/x")),
        good(&key_exchange_response("asked", "bad")),
        good(&offer_response("asked")),
        good(&event(&channel("one"), 1)),
        good(&key_exchange_init("asked")),
        good(&e2ee("owned", 10)),
        signed(to_clients(&key_exchange_init("other")), KEY),
        signed(to_clients(&offer_request("other")), KEY),
        signed(to_clients(&e2ee("nobodys", 11)), KEY),
    ];
    let frames: Vec<Value> = frames.into_iter().filter(|frame| world.takes(frame)).collect();
    world.inject(&frames).await;
    // What another relay signs well does arrive: it stood behind all of that.
    world.inject(&[good(&e2ee("marker", 1))]).await;
    daemon.expect(&e2ee("marker", 1)).await;
    daemon.send(&key_exchange_response("asked", "s")).await;
    client.expect(&key_exchange_response("asked", "s")).await;
    daemon.send(&e2ee("far", 12)).await;
    far.expect(&e2ee("far", 12)).await;
    for socket in [&mut daemon, &mut client, &mut far] {
        socket.nothing_came();
    }
    healthy(&b).await;
}

impl World {
    /// A column of numbers takes nothing else.
    fn takes(&self, frame: &Value) -> bool {
        match self.back {
            Back::Postgres(_) | Back::OwnPostgres(_) => frame["issuedAtMs"].is_i64(),
            _ => true,
        }
    }
}

async fn nothing_counts_twice(world: World) {
    let mut b = world.relay("b").await;
    let mut daemon = world.daemon(&b).await;
    let frame = |source: &str, to: Option<&str>, issued: i64, seq: u64| {
        // A session of its own: one that was used at a relay is not taken over at another for some seconds.
        signed(bus_frame(source, to, TO_DAEMON, issued, &e2ee(&format!("s-{source}"), seq)), KEY)
    };
    // Until the relay listens.
    let mut first = 0;
    loop {
        first += 1;
        world.inject(&[frame("early", Some("b"), now_ms(), first)]).await;
        if daemon.frame_within(POLL * 25).await.is_some() {
            break;
        }
        assert!(first < 100, "the relay hears nothing");
    }
    world.inject(&[frame("early", Some("b"), now_ms(), 999)]).await;
    daemon.until(|found| *found == e2ee("s-early", 999)).await;

    let now = now_ms();
    let (one, two) = (frame("x", Some("b"), now, 1001), frame("x", None, now, 1002));
    let later = frame("x", Some("b"), now + 5, 1003);
    world
        .inject(&[
            one.clone(),
            one.clone(),
            two.clone(),
            two.clone(),
            one.clone(),
            later.clone(),
            // Behind a later one of the same source nothing earlier counts; of another source it does.
            two.clone(),
            frame("x", Some("b"), now + 4, 1900),
            frame("y", Some("b"), now, 1004),
            later.clone(),
            frame("x", Some("b"), now + 5, 1005),
        ])
        .await;
    for (session, seq) in [("s-x", 1001), ("s-x", 1002), ("s-x", 1003), ("s-y", 1004), ("s-x", 1005)] {
        daemon.expect(&e2ee(session, seq)).await;
    }

    // A relay that restarted has forgotten what it had, and takes nothing of before all the same.
    b.restart().await;
    let mut daemon = world.daemon(&b).await;
    let mut client = world.client(&b).await;
    meet(&mut daemon, &mut client, "near").await;
    world.inject(&[one.clone(), two.clone(), later.clone()]).await;
    let mut seq = 2000;
    let newest = loop {
        seq += 1;
        world.inject(&[one.clone(), later.clone(), frame("z", Some("b"), now_ms(), seq)]).await;
        if let Some(found) = daemon.frame_within(POLL * 25).await {
            break found;
        }
        assert!(seq < 2100, "the relay hears nothing");
    };
    assert!(newest["seq"].as_u64().is_some_and(|seq| seq > 2000), "{newest}");
    world.inject(&[one, two, later, frame("z", Some("b"), now_ms(), 3000)]).await;
    let mut after = daemon.frame().await;
    while after["seq"].as_u64().is_some_and(|found| (2001..=seq).contains(&found)) {
        after = daemon.frame().await;
    }
    assert_eq!(after, e2ee("s-z", 3000));
    healthy(&b).await;
}

async fn rubbish_on_the_bus_stops_nothing(world: World) {
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (mut daemon, mut client) = (world.daemon(&b).await, world.client(&a).await);
    meet(&mut daemon, &mut client, "s").await;
    match &world.back {
        Back::Redis(redis) => {
            let rubbish: [&[u8]; 9] = [
                b"",
                b"{",
                b"null",
                b"[]",
                b"{}",
                b"\xff\xfe\x00\x01",
                b"\"text\"",
                &[b'['; 100_000],
                &[b' '; 9 << 20],
            ];
            for channel in ["relay:bus:relay:b", "relay:bus:all"] {
                let messages: Vec<_> =
                    rubbish.iter().map(|bytes| (channel.to_owned(), bytes.to_vec())).collect();
                redis.publish(&messages).await;
            }
            // Presence that nobody of us wrote leads nowhere, and the key's owner writes it anew.
            redis
                .cli(&[
                    "hset",
                    &format!("relay:daemon:11:{WORKSPACE}:forged"),
                    "record",
                    "{\"relay\":\"evil\"}",
                ])
                .await;
            redis.cli(&["set", &format!("relay:daemon:11:{WORKSPACE}:{}", "odd"), "no hash"]).await;
        }
        Back::Postgres(postgres) | Back::OwnPostgres(postgres) => {
            postgres
                .execute(
                    "bus",
                    "insert into relay.relay_bus_frames (workspace_id, source_relay_id, target_relay_id, direction, \
                     payload, issued_at_ms, signature) select repeat('w', 100000), 'x', 'b', 'sideways', \
                     repeat(' ', 4000000), -1, '' from generate_series(1, 20); \
                     insert into relay.workspace_relay_presences select 'workspace-1', 'forged', null, E'ev\\nil', \
                     'wss://evil.example', gen_random_uuid(), 9, now(), now(); \
                     select pg_notify('relay_bus_all', repeat('x', 7000)) from generate_series(1, 100)",
                )
                .await;
        }
        Back::Platform(platform, _) => {
            for _ in 0..200 {
                platform.inject(json!({"issuedAtMs": "now"}));
            }
            for rubbish in [
                json!({}),
                json!({"payload": 7, "issuedAtMs": "now", "sourceRelayId": ["x"]}),
                json!({"payload": "x".repeat(100_000), "workspaceId": "w".repeat(100_000)}),
                json!({"payload": "x".repeat(1 << 20)}),
                json!({"issuedAtMs": i64::MAX, "direction": "sideways"}),
            ] {
                platform.inject(rubbish);
            }
        }
    }
    meet(&mut daemon, &mut client, "s").await;
    for target in ["forged", "odd"] {
        let mut lost = world.client_of(&a, target).await;
        lost.send(&e2ee("s", 1)).await;
        // Nobody answers there, or the daemon comes and is found.
        let mut found = world.daemon_of(&b, target, 10).await;
        if target == "forged" || !matches!(world.back, Back::Redis(_)) {
            meet(&mut found, &mut lost, "s").await;
        }
    }
    healthy(&a).await;
    healthy(&b).await;
}
