//! The frame broker over several real relays: two and three processes that share Redis, PostgreSQL (their own
//! database or another one) or a platform.

#[path = "relays_frames/exchange.rs"]
mod exchange;
#[path = "relays_frames/gone.rs"]
mod gone;
#[path = "relays_frames/hostile.rs"]
mod hostile;
#[path = "relays_frames/metrics.rs"]
mod metrics;
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

/// Both reach each other, from now on, and nothing else is on its way. The session is the client's then. Gives what
/// the client was sent meanwhile that is not of this session; what the daemon was sent is forgotten.
async fn meet(daemon: &mut Socket, client: &mut Socket, session: &str) -> Vec<Value> {
    passes(client, daemon, session, 1_000_000).await;
    passes(daemon, client, session, 2_000_000).await
}

/// Frames wait for their receiver nowhere: until the relays know of each other they are lost. So marks are sent until
/// the newest arrives; as frames keep their order nothing comes after it.
async fn passes(from: &mut Socket, to: &mut Socket, session: &str, first: u64) -> Vec<Value> {
    let mut meanwhile = Vec::new();
    for seq in first..first + TRIES {
        let mark = e2ee(session, seq);
        from.send(&mark).await;
        while let Some(frame) = to.frame_within(POLL * 10).await {
            if frame == mark {
                return meanwhile;
            }
            meanwhile.extend(Some(frame).filter(|frame| frame["sessionId"] != json!(session)));
        }
    }
    panic!("frames of {session} do not pass");
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
