//! Session events: who may listen to what, and that a daemon's events reach all who do.

use serde_json::{Value, json};
use system_tests::broker::Socket;
use system_tests::broker::frames::{channel, e2ee, event, subscribe, unsubscribe};

use super::{TARGET, World};

async fn listener(world: &World, target: Option<&str>, channels: &[String]) -> Socket {
    let more = json!({"scope": "session-events", "sessionChannels": channels});
    world.dial("client", target, more).connect(world.addr()).await
}

async fn answered(socket: &mut Socket, frame: &Value, verb: &str) -> Value {
    socket.send(frame).await;
    let answer = socket.until(|answer| answer.get("event").is_none()).await;
    let key = if frame.get("schema").is_some() { "schema" } else { "type" };
    assert_eq!(answer[key], json!(format!("viewport.session_events.{verb}/v1")), "{answer}");
    assert_eq!(answer["channel"], frame["channel"]);
    assert_eq!(answer.get("requestId"), frame.get("requestId"));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_all_who_listen_to_their_channel_and_nobody_else() {
    let world = World::start().await;
    let (mut daemon, mut runtime) = world.pair().await;
    let (a, b) = (channel("a"), channel("b"));
    let both = [a.clone(), b.clone()];
    let mut first = listener(&world, Some(TARGET), &both).await;
    let mut second = listener(&world, Some(TARGET), &both).await;
    // One that listens to the whole workspace, whichever runtime target it is.
    let mut third = listener(&world, None, &both).await;
    let mut deaf = listener(&world, Some(TARGET), &both).await;
    answered(&mut first, &subscribe(&a, "1"), "subscribed").await;
    answered(&mut first, &subscribe(&a, "2"), "subscribed").await;
    answered(&mut second, &subscribe(&a, "3"), "subscribed").await;
    answered(&mut second, &subscribe(&b, "4"), "subscribed").await;
    let mut by_type = subscribe(&b, "5");
    by_type["type"] = by_type.as_object_mut().unwrap().remove("schema").unwrap();
    by_type.as_object_mut().unwrap().remove("requestId");
    answered(&mut third, &by_type, "subscribed").await;
    let more = json!({"sessionChannels": [a.clone()]});
    let mut client = world.client_with(more).await;
    answered(&mut client, &subscribe(&a, "6"), "subscribed").await;

    daemon.send(&event(&a, 1)).await;
    daemon.send(&event(&b, 2)).await;
    daemon.send(&event(&channel("c"), 3)).await;
    first.expect(&event(&a, 1)).await;
    second.expect(&event(&a, 1)).await;
    second.expect(&event(&b, 2)).await;
    third.expect(&event(&b, 2)).await;
    client.expect(&event(&a, 1)).await;

    answered(&mut first, &unsubscribe(&a, "7"), "unsubscribed").await;
    answered(&mut first, &unsubscribe(&b, "8"), "unsubscribed").await;
    daemon.send(&event(&a, 4)).await;
    second.expect(&event(&a, 4)).await;
    daemon.send(&e2ee("met", 5)).await;
    runtime.expect(&e2ee("met", 5)).await;
    answered(&mut first, &subscribe(&b, "9"), "subscribed").await;
    answered(&mut deaf, &unsubscribe(&a, "10"), "unsubscribed").await;
    first.nothing_came();
    deaf.nothing_came();
    daemon.nothing_came();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_token_does_not_name_is_denied() {
    let world = World::start().await;
    let (mut daemon, _client) = world.pair().await;
    let a = channel("a");
    let mut socket = listener(&world, Some(TARGET), std::slice::from_ref(&a)).await;
    let denied = answered(&mut socket, &subscribe(&channel("b"), "1"), "subscribe_denied").await;
    assert_eq!(denied["code"], json!("CHANNEL_NOT_ALLOWED"));
    let mut nothing = listener(&world, Some(TARGET), &[]).await;
    answered(&mut nothing, &subscribe(&a, "2"), "subscribe_denied").await;
    // What is no channel is no frame.
    for name in ["a", "agent-session:", "agent-session:a b", "", &channel(&"x".repeat(256))] {
        socket.send(&subscribe(name, "3")).await;
    }
    answered(&mut socket, &subscribe(&a, "4"), "subscribed").await;
    daemon.send(&event(&channel("b"), 1)).await;
    daemon.send(&event(&a, 2)).await;
    socket.expect(&event(&a, 2)).await;
    nothing.nothing_came();
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_one_socket_are_bounded() {
    let world = World::start().await;
    let channels: Vec<_> = (0..100).map(|n| channel(&n.to_string())).collect();
    let mut socket = listener(&world, Some(TARGET), &channels).await;
    let mut denied = None;
    for (n, name) in channels.iter().enumerate() {
        socket.send(&subscribe(name, "r")).await;
        let answer = socket.frame().await;
        if answer["schema"] == json!("viewport.session_events.subscribe_denied/v1") {
            assert_eq!(answer["code"], json!("TOO_MANY_SUBSCRIPTIONS"));
            denied = Some(n);
            break;
        }
    }
    let held = denied.expect("there is a bound");
    answered(&mut socket, &unsubscribe(&channels[0], "u"), "unsubscribed").await;
    answered(&mut socket, &subscribe(&channels[held], "s"), "subscribed").await;
}
