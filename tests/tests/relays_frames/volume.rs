//! Many frames, large frames, and more than anybody may send.

use serde_json::{Value, json};
use system_tests::broker::frames::e2ee;
use system_tests::{POLL, Relay};

use crate::world::{TARGET, World, bus_frame, healthy, now_ms, signed};
use crate::{TRIES, meet, on_each};

on_each!(
    a_thousand_frames_keep_their_order,
    frames_pass_up_to_what_the_bus_takes,
    a_flood_over_the_bus_leaves_the_relay_responsive,
    a_senders_limits_hold_across_relays,
);

async fn a_thousand_frames_keep_their_order(world: World) {
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (mut daemon, mut client) = (world.daemon(&a).await, world.client(&b).await);
    meet(&mut daemon, &mut client, "s").await;
    // Alike and at once, as events may be: each of them counts.
    for _ in 0..20 {
        client.send(&e2ee("s", 1)).await;
    }
    for _ in 0..20 {
        daemon.expect(&e2ee("s", 1)).await;
    }
    for (from, to) in [(true, false), (false, true)] {
        let (from, to) = if from && !to { (&mut client, &mut daemon) } else { (&mut daemon, &mut client) };
        for seq in 1..=1000 {
            from.send(&e2ee("s", seq)).await;
        }
        for seq in 1..=1000 {
            to.expect(&e2ee("s", seq)).await;
        }
    }
}

/// A frame whose text, as a string in JSON, has this many bytes.
fn long(session: &str, bytes: usize, in_json: bool) -> Value {
    let length = |frame: &Value| {
        let text = frame.to_string();
        if in_json { Value::String(text).to_string().len() } else { text.len() }
    };
    let mut frame = e2ee(session, 1);
    let short = length(&frame) - frame["ciphertext"].as_str().expect("a text").len();
    frame["ciphertext"] = json!("x".repeat(bytes - short));
    assert_eq!(length(&frame), bytes);
    frame
}

async fn frames_pass_up_to_what_the_bus_takes(world: World) {
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (mut daemon, mut client) = (world.daemon(&a).await, world.client(&b).await);
    meet(&mut daemon, &mut client, "s").await;
    // Redis and PostgreSQL take what a socket takes; the platform 256 KiB with all that is around a frame.
    let most = if world.is_platform() { 256 * 1024 - 2048 } else { 1 << 20 };
    let largest = long("s", most, world.is_platform());
    for _ in 0..3 {
        client.send(&largest).await;
    }
    client.send(&e2ee("s", 2)).await;
    for _ in 0..3 {
        daemon.expect(&largest).await;
    }
    daemon.expect(&e2ee("s", 2)).await;
    daemon.send(&largest).await;
    client.expect(&largest).await;

    let larger = long("s", most + 1, world.is_platform());
    if world.is_platform() {
        for (from, to) in [(true, 7), (false, 8)] {
            let (from, to, seq) =
                if from { (&mut client, &mut daemon, to) } else { (&mut daemon, &mut client, to) };
            from.send(&larger).await;
            let told = from.status("FRAME_TOO_LARGE_FOR_BUS").await;
            assert_eq!((&told["retryable"], &told["runtimeTargetId"]), (&json!(false), &json!(TARGET)));
            from.send(&e2ee("s", seq)).await;
            to.expect(&e2ee("s", seq)).await;
        }
    } else {
        client.send(&larger).await;
        assert_eq!(client.closed().await.0, 1009);
        let mut again = world.client(&b).await;
        meet(&mut daemon, &mut again, "s-2").await;
    }
}

async fn a_flood_over_the_bus_leaves_the_relay_responsive(world: World) {
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (mut daemon, mut client) = (world.daemon(&b).await, world.client(&b).await);
    let mut far = world.client(&a).await;
    meet(&mut daemon, &mut far, "far").await;
    meet(&mut daemon, &mut client, "near").await;
    let mut count = 0u64;
    for round in 0..4 {
        // Without a key, with another one, and (a relay that went mad) with the right one, by turns.
        let now = now_ms();
        let frames: Vec<Value> = (0..2000u64)
            .map(|n| {
                let payload = e2ee("flood", 1 + round * 2000 + n);
                let frame = bus_frame("x", Some("b"), "client_to_daemon", now, &payload);
                match n % 4 {
                    0 => signed(frame, crate::world::KEY),
                    1 => signed(frame, "another key of the same length, no good"),
                    _ => frame,
                }
            })
            .collect();
        world.inject(&frames).await;
        for _ in 0..10 {
            count += 1;
            healthy(&b).await;
            client.send(&e2ee("near", count)).await;
            daemon.until(|frame| frame["sessionId"] == json!("near")).await;
            daemon.send(&e2ee("near", count)).await;
            client.expect(&e2ee("near", count)).await;
        }
    }
    meet(&mut daemon, &mut far, "far").await;
    client.nothing_came();
    healthy(&a).await;
}

async fn a_senders_limits_hold_across_relays(world: World) {
    let limited = |id: &str| {
        let options = world.options(id).env("RELAY_RUNTIME_RATE_PER_MINUTE", "240");
        options.env("RELAY_DAEMON_RUNTIME_RATE_PER_MINUTE", "240")
    };
    let (a, b) = tokio::join!(Relay::start(limited("a")), Relay::start(limited("b")));
    let (mut daemon, mut greedy) = (world.daemon(&a).await, world.client(&b).await);
    let mut modest = world.client_with(&b, json!({"clientId": "modest"})).await;
    meet(&mut daemon, &mut greedy, "greedy").await;
    for seq in 1..=3000 {
        greedy.send(&e2ee("greedy", seq)).await;
    }
    greedy.until(|frame| frame["code"] == json!("RATE_LIMITED")).await;
    let mut passed = 0;
    for seq in 1.. {
        assert!(seq < TRIES, "the modest one does not get through");
        modest.send(&e2ee("modest", seq)).await;
        let mut through = false;
        while let Some(frame) = daemon.frame_within(POLL * 10).await {
            through |= frame["sessionId"] == json!("modest");
            passed += u64::from(frame["sessionId"] == json!("greedy"));
        }
        if through {
            break;
        }
    }
    assert!(passed < 3000, "{passed} frames passed");
    // The daemon's own limit holds too, and it hears of it.
    for seq in 1..=3000 {
        daemon.send(&e2ee("modest", seq)).await;
    }
    daemon.until(|frame| frame["code"] == json!("RATE_LIMITED")).await;
    modest.expect(&e2ee("modest", 1)).await;
}
