//! The frame broker over several real relays: two and three processes that share Redis, PostgreSQL (their own
//! database or another one) or a platform.

#[path = "relays_frames/exchange.rs"]
mod exchange;
#[path = "relays_frames/hostile.rs"]
mod hostile;
#[path = "relays_frames/moves.rs"]
mod moves;
#[path = "relays_frames/outages.rs"]
mod outages;
#[path = "relays_frames/platform.rs"]
mod platform;
#[path = "relays_frames/statuses.rs"]
mod statuses;
#[path = "relays_frames/volume.rs"]
mod volume;
#[path = "relays_frames/world.rs"]
mod world;

use serde_json::{Value, json};
use system_tests::POLL;
use system_tests::broker::Socket;
use system_tests::broker::frames::e2ee;

/// The same test on each kind of common knowledge.
macro_rules! on_each {
    ($($name:ident),* $(,)?) => {
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(crate::world::World::redis().await).await })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(crate::world::World::postgres().await).await })*
        }
        mod on_the_platform {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(crate::world::World::platform().await).await })*
        }
    };
}
use on_each;

/// How often somebody tries before the other end counts as out of reach.
const TRIES: u64 = 300;

/// Both reach each other, from now on: a frame of the client's arrives, and one of the daemon's. The session is the
/// client's then. Gives what the client was sent meanwhile; what the daemon was sent is forgotten.
async fn meet(daemon: &mut Socket, client: &mut Socket, session: &str) -> Vec<Value> {
    // A client's frames wait for its daemon nowhere: until its relay knows of it they are lost.
    let is_ours = |frame: &Value| frame["sessionId"] == json!(session);
    let mut seq = 0;
    loop {
        seq += 1;
        assert!(seq < TRIES, "a client's frames do not reach the daemon");
        client.send(&e2ee(session, seq)).await;
        if daemon.frame_within(POLL * 10).await.is_some_and(|frame| is_ours(&frame)) {
            break;
        }
    }
    let last = e2ee(session, 999_999);
    client.send(&last).await;
    daemon.until(|frame| *frame == last).await;
    let last = e2ee(session, 1_000_001);
    daemon.send(&last).await;
    let mut meanwhile = Vec::new();
    loop {
        let frame = client.frame().await;
        if frame == last {
            return meanwhile;
        }
        meanwhile.push(frame);
    }
}

/// This side sends frames of the session until it is told this.
async fn until_told(socket: &mut Socket, session: &str, code: &str) -> Value {
    for seq in 1..TRIES {
        socket.send(&e2ee(session, seq)).await;
        match socket.frame_within(POLL * 10).await {
            Some(frame) if frame["code"] == json!(code) => return frame,
            _ => {}
        }
    }
    panic!("it is not told {code}");
}
