//! What the relays have in common is killed in the middle of traffic, or starts after them: local frames go on
//! without a loss, remote ones are told, and everything heals by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use system_tests::broker::Socket;
use system_tests::broker::frames::e2ee;
use system_tests::{SOON, eventually};
use tokio::task::JoinHandle;

use crate::world::{Back, World, healthy};
use crate::{meet, on_each, until_told};

on_each!(it_is_killed_in_the_middle_and_comes_back, it_starts_after_the_relays);

/// A daemon and a client that talk without a pause, and miss nothing.
struct Talk {
    count: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    task: JoinHandle<(Socket, Socket)>,
}

impl Talk {
    fn begin(mut daemon: Socket, mut client: Socket, session: &'static str) -> Self {
        let (count, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (count.clone(), over.clone());
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let seq = counted.fetch_add(1, Ordering::Relaxed) + 1;
                client.send(&e2ee(session, seq)).await;
                daemon.expect(&e2ee(session, seq)).await;
                daemon.send(&e2ee(session, seq)).await;
                client.expect(&e2ee(session, seq)).await;
            }
            (daemon, client)
        });
        Self { count, over, task }
    }

    /// It goes on.
    async fn goes_on(&self) {
        let now = self.count.load(Ordering::Relaxed);
        eventually("local frames go on", SOON, || async { self.count.load(Ordering::Relaxed) > now + 20 })
            .await;
    }

    async fn end(self) -> (Socket, Socket) {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("no frame was lost")
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Outage {
    Killed,
    Stopped,
    Frozen,
}

async fn it_is_killed_in_the_middle_and_comes_back(world: World) {
    goes_away_and_comes_back(world, &[Outage::Killed, Outage::Killed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_freezes_and_goes_on() {
    goes_away_and_comes_back(World::redis().await, &[Outage::Frozen]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_stopped_in_order_and_comes_back() {
    goes_away_and_comes_back(World::postgres().await, &[Outage::Stopped]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relays_own_database_is_killed_and_comes_back() {
    goes_away_and_comes_back(World::own_postgres().await, &[Outage::Killed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_freezes_and_goes_on() {
    goes_away_and_comes_back(World::platform().await, &[Outage::Frozen]).await;
}

impl World {
    async fn goes_away(&mut self, outage: Outage) {
        match (outage, &mut self.back) {
            (Outage::Killed, _) => self.kill(),
            (Outage::Stopped, Back::Postgres(postgres)) => postgres.stop().await,
            (Outage::Frozen, Back::Redis(redis)) => redis.freeze(),
            (Outage::Frozen, Back::Platform(_, link)) => link.freeze(),
            _ => panic!("not this one"),
        }
    }

    async fn comes_back(&mut self, outage: Outage) {
        match (outage, &mut self.back) {
            (Outage::Frozen, Back::Redis(redis)) => redis.thaw(),
            (Outage::Frozen, Back::Platform(_, link)) => link.thaw(),
            _ => self.restart().await,
        }
    }
}

async fn goes_away_and_comes_back(mut world: World, outages: &[Outage]) {
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (local, beside) = (world.daemon_of(&a, "local", 0).await, world.client_of(&a, "local").await);
    let (mut local, mut beside) = (local, beside);
    meet(&mut local, &mut beside, "local").await;
    let mut talk = Talk::begin(local, beside, "local");
    let (mut daemon, mut client) = (world.daemon(&a).await, world.client(&b).await);
    let mut near = world.client(&a).await;
    meet(&mut daemon, &mut client, "far").await;
    meet(&mut daemon, &mut near, "near").await;
    for outage in outages {
        world.goes_away(*outage).await;
        talk.goes_on().await;
        // A link that freezes lets new connections pass; what hung is given up, and that was all.
        let lasts = !(*outage == Outage::Frozen && world.is_platform());
        if lasts {
            let told = until_told(&mut client, "far", "BACKPLANE_UNAVAILABLE").await;
            assert_eq!(told["retryable"], serde_json::json!(true));
            until_told(&mut daemon, "far", "BACKPLANE_UNAVAILABLE").await;
        }
        // The same daemon serves who is at its relay.
        for seq in 1..20 {
            near.send(&e2ee("near", seq)).await;
            daemon.until(|frame| *frame == e2ee("near", seq)).await;
            daemon.send(&e2ee("near", seq)).await;
            near.expect(&e2ee("near", seq)).await;
        }
        healthy(&a).await;
        talk.goes_on().await;
        // One that comes in the meantime is found afterwards.
        let mut newcomer = world.daemon_of(&b, "newcomer", 0).await;
        world.comes_back(*outage).await;
        meet(&mut daemon, &mut client, "far").await;
        let mut its_client = world.client_of(&a, "newcomer").await;
        meet(&mut newcomer, &mut its_client, "s").await;
        talk.goes_on().await;
        let (local, beside) = talk.end().await;
        talk = Talk::begin(local, beside, "local");
        newcomer.leave().await;
    }
    talk.end().await;
}

async fn it_starts_after_the_relays(mut world: World) {
    world.kill();
    let (a, b) = tokio::join!(world.relay("a"), world.relay("b"));
    let (mut daemon, mut client) = (world.daemon(&a).await, world.client(&b).await);
    let mut near = world.client(&a).await;
    meet(&mut daemon, &mut near, "near").await;
    until_told(&mut client, "far", "BACKPLANE_UNAVAILABLE").await;
    world.restart().await;
    meet(&mut daemon, &mut client, "far").await;
    for seq in 1..20 {
        client.send(&e2ee("far", seq)).await;
        daemon.until(|frame| *frame == e2ee("far", seq)).await;
        near.send(&e2ee("near", seq)).await;
        daemon.until(|frame| *frame == e2ee("near", seq)).await;
    }
}
