//! How sockets live and end: heartbeats, silence, the drain, the relay's death.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use serde_json::json;
use system_tests::broker::frames::{channel, e2ee, event, subscribe};
use system_tests::client::websocket;
use system_tests::{RelayOptions, SOON, within};
use tokio_tungstenite::tungstenite::Message;

use super::{TARGET, WORKSPACE, World, meet};

fn short() -> RelayOptions {
    RelayOptions::default()
        .env("RELAY_FRAME_PING_INTERVAL", "300ms")
        .env("RELAY_FRAME_PONG_TIMEOUT", "4s")
        .env("RELAY_FRAME_IDLE_TIMEOUT", "5s")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_no_ping_is_closed_and_who_does_stays() {
    let world = World::with(short()).await;
    let mut daemon = world.daemon().await;
    let (mut silent, mut client) = (world.client().await, world.client().await);
    meet(&mut daemon, &mut silent, "silent").await;
    silent.freeze();
    // It is over for the relay when its session is free.
    meet(&mut daemon, &mut client, "silent").await;
    silent.thaw();
    let close = silent.ended().await;
    assert!(close.is_none_or(|(code, _)| code == 4008), "another close");
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_come_and_pongs_are_answered() {
    let world = World::with(short()).await;
    let token = world.platform.grant(super::claims("workspace-daemon", Some(TARGET), json!({})));
    let path = format!("/ws?role=workspace-daemon&workspaceId={WORKSPACE}&runtimeTargetId={TARGET}");
    let bearer = format!("Bearer {token}");
    let (mut ws, response) = websocket(
        world.addr(),
        &path,
        &[
            ("authorization", &bearer),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ],
    )
    .await
    .expect("admitted");
    assert!(!response.headers().contains_key("sec-websocket-extensions"), "no extension is accepted");
    ws.send(Message::Ping("mine".into())).await.unwrap();
    let (mut pings, mut pong) = (0, false);
    let both = async {
        while pings < 3 || !pong {
            match ws.next().await.expect("it stays").expect("it stays") {
                Message::Ping(_) => pings += 1,
                Message::Pong(payload) => pong |= payload == "mine",
                other => panic!("{other:?}"),
            }
        }
    };
    within("three pings and a pong", SOON, both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_workers_that_say_nothing_are_closed_and_daemons_and_listeners_are_not() {
    let world = World::with(short()).await;
    let mut daemon = world.daemon().await;
    let name = channel("a");
    let more = json!({"scope": "session-events", "sessionChannels": [name.clone()]});
    let mut listener = world.client_with(more.clone()).await;
    listener.send(&subscribe(&name, "r")).await;
    listener.frame().await;
    let mut quiet = world.client_with(more).await;
    let mut worker = world.dial("worker", Some(TARGET), json!({})).connect(world.addr()).await;
    for socket in [&mut quiet, &mut worker] {
        let (code, reason) = socket.closed().await;
        assert_eq!((code, reason.as_str()), (1000, "idle for too long"));
    }
    daemon.send(&event(&name, 1)).await;
    listener.expect(&event(&name, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_keeps_a_client_too() {
    let world = World::with(short()).await;
    let (mut daemon, mut client) = world.pair().await;
    // More than twice the idle time, and the client only listens.
    for seq in 1..=24 {
        daemon.send(&e2ee("met", seq)).await;
        client.expect(&e2ee("met", seq)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_closes_with_1001_and_the_relay_ends_well() {
    let mut world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    let stuck = world.client().await;
    stuck.freeze();
    world.relay.signal(Signal::SIGTERM);
    for socket in [&mut daemon, &mut client] {
        assert_eq!(socket.closed().await.0, 1001);
    }
    // One that does not read keeps nobody.
    let status = world.relay.process.wait(SOON).await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_relay_was_killed_sessions_go_on_by_the_first_word() {
    let mut world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    world.relay.restart().await;
    daemon.ended().await;
    client.ended().await;
    let (mut daemon, mut client) = (world.daemon().await, world.client().await);
    meet(&mut daemon, &mut client, "met").await;
}
