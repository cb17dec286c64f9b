//! A platform that answers badly, in every way: the next call is made all the same, and clients are told.

use std::time::Duration;

use serde_json::{Value, json};
use system_tests::POLL;
use system_tests::broker::frames::e2ee;
use system_tests::platform::{Call, Fault, INTERNAL_KEY, Platform};

use crate::world::{Back, KEY, World, healthy, now_ms, signed};
use crate::{TRIES, meet, until_told};

fn of(world: &World) -> &Platform {
    match &world.back {
        Back::Platform(platform, _) => platform,
        _ => panic!("not the platform"),
    }
}

fn faults() -> Vec<Fault> {
    vec![
        Fault::Slow(Duration::from_secs(4)),
        Fault::Hang,
        Fault::BreakOff,
        Fault::Padded(300 * 1024),
        Fault::Garbage,
        Fault::Status(500),
        Fault::Status(404),
        Fault::NotOk,
        Fault::Trickle,
        Fault::Redirect("http://127.0.0.1:1/".to_owned()),
        Fault::Text(json!({"ok": true, "frames": "none"}).to_string()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bad_answer_to_a_pull_stops_the_next() {
    let world = World::platform().await;
    let platform = of(&world);
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (mut daemon, mut client) = (world.daemon(&a).await, world.client(&b).await);
    let mut near = world.client(&a).await;
    meet(&mut daemon, &mut client, "far").await;
    meet(&mut daemon, &mut near, "near").await;
    for (number, fault) in faults().into_iter().enumerate() {
        platform.fault(Call::Pull, fault.clone());
        let asked = platform.asked(Call::Pull).len();
        platform.await_asked(Call::Pull, asked + 4).await;
        near.send(&e2ee("near", number as u64 + 1)).await;
        daemon.until(|frame| *frame == e2ee("near", number as u64 + 1)).await;
        platform.heal();
        meet(&mut daemon, &mut client, "far").await;
    }
    for asked in platform.asked(Call::Pull) {
        assert_eq!(asked.headers["x-relay-internal-key"], INTERNAL_KEY);
        assert!(asked.body["waitMs"].as_u64().is_some_and(|wait| wait <= 2000), "{:?}", asked.body);
        assert!(asked.body["sinceId"].is_u64() && asked.body["limit"].is_u64(), "{:?}", asked.body);
    }
    healthy(&a).await;
    healthy(&b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_of_bad_answers_and_served_after_them() {
    let world = World::platform().await;
    let platform = of(&world);
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (mut daemon, mut client) = (world.daemon(&a).await, world.client(&b).await);
    meet(&mut daemon, &mut client, "far").await;
    for fault in faults() {
        // An answer that says "unknown" is one.
        if fault == Fault::Status(404) || matches!(fault, Fault::Text(_)) {
            continue;
        }
        platform.fault(Call::Resolve, fault.clone());
        until_told(&mut client, "far", "BACKPLANE_UNAVAILABLE").await;
        platform.heal();
        meet(&mut daemon, &mut client, "far").await;

        platform.fault(Call::Publish, fault.clone());
        let asked = platform.asked(Call::Publish).len();
        for seq in 1.. {
            client.send(&e2ee("far", seq)).await;
            client.frame_within(POLL * 10).await;
            if platform.asked(Call::Publish).len() > asked {
                break;
            }
            assert!(seq < TRIES, "{fault:?}: it is not tried");
        }
        platform.heal();
        meet(&mut daemon, &mut client, "far").await;
    }
    // A daemon that comes while nobody can be told of it is told of later.
    for fault in [Fault::Hang, Fault::Status(503), Fault::NotOk] {
        platform.fault(Call::Upsert, fault);
        let mut newcomer = world.daemon_of(&a, "newcomer", 0).await;
        let asked = platform.asked(Call::Upsert).len();
        platform.await_asked(Call::Upsert, asked + 1).await;
        platform.heal();
        let mut its_client = world.client_of(&b, "newcomer").await;
        meet(&mut newcomer, &mut its_client, "s").await;
        newcomer.leave().await;
    }
}

/// What the relays tell the platform is what the contract says.
#[tokio::test(flavor = "multi_thread")]
async fn the_platform_hears_what_the_contract_says() {
    let world = World::platform().await;
    let platform = of(&world);
    let public = |id: &str| world.options(id).env("RELAY_PUBLIC_WS_BASE_URL", format!("wss://{id}.example"));
    let (a, b) =
        tokio::join!(system_tests::Relay::start(public("a")), system_tests::Relay::start(public("b")));
    let (mut daemon, mut client) = (world.daemon(&a).await, world.client(&b).await);
    meet(&mut daemon, &mut client, "far").await;
    let told = platform.presences();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].told["relayId"], json!("a"));
    assert_eq!(told[0].told["machineId"], json!("machine-1"));
    assert!(told[0].told["relayWsBaseUrl"].as_str().is_some_and(|url| url.starts_with("wss://a.example")));
    let frames = platform.frames();
    assert!(!frames.is_empty());
    let mut last = (0, 0);
    for frame in frames {
        let frame: Value = frame.frame;
        assert_eq!(signed(frame.clone(), KEY)["signature"], frame["signature"], "{frame}");
        let issued = frame["issuedAtMs"].as_i64().expect("a time");
        assert!((now_ms() - issued).abs() < 600_000);
        let newest = if frame["sourceRelayId"] == json!("a") { &mut last.0 } else { &mut last.1 };
        assert!(issued >= *newest, "{frame}");
        *newest = issued;
        let expected = match frame["direction"].as_str() {
            Some("client_to_daemon") => ("b", "a"),
            Some("daemon_to_clients") => ("a", "b"),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (&frame["sourceRelayId"], &frame["targetRelayId"]),
            (&json!(expected.0), &json!(expected.1))
        );
    }
    daemon.leave().await;
    system_tests::eventually("the daemon is taken back", system_tests::SOON, || async {
        platform.presences().is_empty()
    })
    .await;
}
