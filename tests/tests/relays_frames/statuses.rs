//! What clients are told when the daemon is elsewhere or nowhere.

use serde_json::{Value, json};
use system_tests::broker::frames::{e2ee, key_exchange_init};
use system_tests::{POLL, Relay};

use crate::world::World;
use crate::{meet, on_each};

on_each!(no_relay_has_the_daemon, the_daemon_goes_and_comes, clients_are_sent_to_allowed_relays_alone);

async fn no_relay_has_the_daemon(world: World) {
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let mut asked = None;
    for frame in [e2ee("s", 1), key_exchange_init("r")] {
        let mut client = world.client(&b).await;
        client.send(&frame).await;
        let told = loop {
            match client.frame_within(POLL * 10).await {
                // Until the relay has reached what it shares with others it cannot know.
                Some(told) if told["code"] != json!("BACKPLANE_UNAVAILABLE") => break told,
                _ => client.send(&frame).await,
            }
        };
        assert_eq!(
            (&told["type"], &told["code"], &told["retryable"]),
            (&json!("relay_status"), &json!("DAEMON_UNAVAILABLE"), &json!(true))
        );
        asked = Some(client);
    }
    // A request that reached nobody may be made again.
    let mut client = asked.expect("the last one");
    let mut daemon = world.daemon(&a).await;
    meet(&mut daemon, &mut client, "s").await;
    client.send(&key_exchange_init("r")).await;
    daemon.expect(&key_exchange_init("r")).await;
}

async fn the_daemon_goes_and_comes(world: World) {
    let [a, b, c] = world.three().await;
    let mut client = world.client(&b).await;
    for relay in [&a, &c, &b, &a] {
        let mut daemon = world.daemon(relay).await;
        meet(&mut daemon, &mut client, "s").await;
        daemon.leave().await;
        crate::until_told(&mut client, "s", "DAEMON_UNAVAILABLE").await;
    }
}

/// A client of `relay` whose daemon is at another one, after both have met: where it was sent.
async fn redirects(
    world: &World,
    relay: &Relay,
    target: &str,
    daemon: &mut system_tests::broker::Socket,
) -> Vec<Value> {
    let mut client = world.client_of(relay, target).await;
    // A session of its own at each relay: one that was just used at another one is not taken over.
    let session = &format!("{target}-{}", relay.addr.port());
    let mut told = meet(daemon, &mut client, session).await;
    // Frames go on over the bus, and it is not told again.
    for seq in 1..5 {
        client.send(&e2ee(session, seq)).await;
        daemon.expect(&e2ee(session, seq)).await;
        daemon.send(&e2ee(session, 10 + seq)).await;
        loop {
            let frame = client.frame().await;
            if frame == e2ee(session, 10 + seq) {
                break;
            }
            told.push(frame);
        }
    }
    told.retain(|frame| frame["code"] == json!("RELAY_REDIRECT"));
    told
}

async fn clients_are_sent_to_allowed_relays_alone(world: World) {
    let public = |id: &str, url: &str| world.options(id).env("RELAY_PUBLIC_WS_BASE_URL", url);
    let near = |id: &str, mode: &str| {
        public(id, "wss://own.example/near")
            .env("RELAY_CLIENT_REDIRECT_ENABLED", "1")
            .env("RELAY_REDIRECT_ALLOWED_HOSTS", "allowed.example,.below.example")
            .env("RELAY_MODE", mode)
    };
    let far = [
        ("allowed", "wss://allowed.example:8443/relay", true, true),
        ("below", "wss://r2.eu.below.example", true, true),
        ("own", "wss://own.example/far", true, true),
        ("same", "wss://own.example/near", false, false),
        ("foreign", "wss://foreign.example", false, false),
        ("suffix", "wss://notallowed.example", false, false),
        ("plain", "ws://allowed.example/plain", false, true),
    ];
    let (prod, dev, without) = tokio::join!(
        Relay::start(near("prod", "prod")),
        Relay::start(near("dev", "dev")),
        Relay::start(near("without", "dev").env("RELAY_CLIENT_REDIRECT_ENABLED", "0")),
    );
    for (name, url, in_prod, in_dev) in far {
        let relay = Relay::start(public(name, url)).await;
        let mut daemon = world.daemon_of(&relay, name, 0).await;
        for (near, sent) in [(&prod, in_prod), (&dev, in_dev), (&without, false)] {
            let told = redirects(&world, near, name, &mut daemon).await;
            let places: Vec<_> = told.iter().map(|frame| frame["relayWsBaseUrl"].as_str()).collect();
            let expected = if sent { vec![Some(url)] } else { vec![] };
            assert_eq!(places, expected, "{name}: {url}");
            for frame in told {
                assert_eq!(frame["runtimeTargetId"], json!(name), "{frame}");
            }
        }
    }
}
