//! The daemon has gone from where its clients' relay believes it to be.

use system_tests::broker::frames::{e2ee, key_exchange_init};

use crate::world::World;
use crate::{meet, on_each, until_told};

on_each!(no_frame_is_lost_without_a_word);

async fn no_frame_is_lost_without_a_word(world: World) {
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let mut daemon = world.daemon(&b).await;
    let (mut near, mut far) = (world.client(&b).await, world.client(&a).await);
    // These two were told nothing yet: the same is told once a second alone.
    let (mut speaks, mut asks) = (world.client(&a).await, world.client(&a).await);
    meet(&mut daemon, &mut near, "near").await;
    meet(&mut daemon, &mut far, "far").await;
    daemon.leave().await;
    until_told(&mut near, "near", "DAEMON_UNAVAILABLE").await;
    // Its relay knows. The other one may still send there what comes now.
    speaks.send(&e2ee("s", 1)).await;
    asks.send(&key_exchange_init("r")).await;
    speaks.status("DAEMON_UNAVAILABLE").await;
    asks.status("DAEMON_UNAVAILABLE").await;
    // What nobody got may be asked again, by anybody, as soon as there is a daemon.
    let mut daemon = world.daemon(&a).await;
    meet(&mut daemon, &mut speaks, "s").await;
    speaks.send(&key_exchange_init("r")).await;
    daemon.expect(&key_exchange_init("r")).await;
}
