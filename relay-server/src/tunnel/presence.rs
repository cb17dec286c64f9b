//! Writes to the database which hosts are online.
//!
//! One task writes, in the order in which things happened, so that an end that is told late cannot
//! overtake the beginning that followed it. Whatever it could not write, because the database was away or
//! because too much happened at once, the regular refresh puts right: it tells all that is open. It may
//! tell of a tunnel whose end still waits in the queue; that end is then written after it, and if it found
//! no place in the queue, the next refresh no longer tells of the tunnel.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Registry;
use crate::store::{Store, StoreError};

/// How often every open tunnel is written anew; other relays believe a row for 45 s.
const REFRESH: Duration = Duration::from_secs(20);
/// Changes that may wait. More than that are left to the refresh.
const QUEUE: usize = 4096;

enum Change {
    Opened { connection: Uuid, host: Uuid },
    Closed { connection: Uuid, host: Uuid },
}

/// Where changes are told.
#[derive(Clone)]
pub struct Presence {
    changes: mpsc::Sender<Change>,
}

impl Presence {
    /// Starts to keep the database true. The task ends some writes after `stop`.
    pub fn start(
        store: Store,
        registry: Arc<Registry>,
        relay_id: String,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (changes, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(write(store, registry, relay_id, queue, stop));
        (Self { changes }, task)
    }

    /// A tunnel is open.
    pub fn opened(&self, connection: Uuid, host: Uuid) {
        let _ = self.changes.try_send(Change::Opened { connection, host });
    }

    /// A tunnel has ended.
    pub fn closed(&self, connection: Uuid, host: Uuid) {
        let _ = self.changes.try_send(Change::Closed { connection, host });
    }
}

async fn write(
    store: Store,
    registry: Arc<Registry>,
    relay_id: String,
    mut queue: mpsc::Receiver<Change>,
    stop: CancellationToken,
) {
    let mut refresh = tokio::time::interval_at(tokio::time::Instant::now() + REFRESH, REFRESH);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            // The refresh first: no backlog may keep it until other relays take this one for gone.
            biased;
            _ = refresh.tick() => {
                let open: Vec<_> = registry.all().iter().map(|t| (t.id, t.host)).collect();
                report(store.tunnels_are(&relay_id, &open).await);
                continue;
            }
            change = queue.recv() => match change {
                Some(change) => change,
                None => return,
            },
            () = stop.cancelled() => return,
        };
        report(match change {
            Change::Opened { connection, host } => store.tunnel_opened(&relay_id, connection, host).await,
            Change::Closed { connection, host } => store.tunnel_closed(&relay_id, connection, host).await,
        });
    }
}

fn report(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the hosts' status could not be written; it will be with the next refresh");
    }
}
