//! The other sides, by what is asked of them. Daemons and the bus are where RELAY_BACKPLANE_MODE says; hosts and
//! relays are in Redis, or in the database that the hosts themselves are in.

use std::sync::Arc;

use uuid::Uuid;

use super::health::{Failure, Health};
use super::platform::Platform;
use super::postgres::Tables;
use super::presence::{Job, Subject, Written};
use super::redis::Redis;
use super::{Holder, Pair};

/// One of them.
#[derive(Clone)]
pub(super) enum Link {
    Redis(Arc<Redis>),
    Tables(Arc<Tables>),
    Platform(Arc<Platform>),
}

/// All that this relay has.
pub(super) struct Links {
    /// Daemons, and the bus.
    pub(super) daemons: Link,
    /// Hosts and relays; `None`: nobody keeps them.
    pub(super) directory: Option<Link>,
}

impl Link {
    pub(super) fn health(&self) -> &Health {
        match self {
            Link::Redis(redis) => &redis.health,
            Link::Tables(tables) => &tables.health,
            Link::Platform(platform) => &platform.health,
        }
    }

    async fn daemon(&self, pair: &Pair) -> Result<Option<Holder>, Failure> {
        match self {
            Link::Redis(redis) => redis.daemon(pair).await,
            Link::Tables(tables) => tables.daemon(pair).await,
            Link::Platform(platform) => platform.daemon(pair).await,
        }
    }

    async fn write_daemon(&self, pair: &Pair, job: &Job) -> Result<Written, Failure> {
        let told = &job.told;
        match (self, &job.now) {
            (Link::Redis(redis), Some(fact)) => redis.claim(pair, fact).await,
            (Link::Redis(redis), None) => redis.release(pair, told).await,
            (Link::Tables(tables), Some(fact)) => tables.claim(pair, fact).await,
            (Link::Tables(tables), None) => tables.release(pair, told).await,
            (Link::Platform(platform), Some(fact)) => platform.claim(pair, fact, job.contests).await,
            (Link::Platform(platform), None) => platform.release(pair, told).await,
        }
    }
}

impl Links {
    /// Writes what is so.
    pub(super) async fn write(&self, job: &Job) -> Result<Written, Failure> {
        let work = async {
            match (&job.subject, &self.directory) {
                (Subject::Daemon(pair), _) => self.daemons.write_daemon(pair, job).await,
                (Subject::Host(host), Some(Link::Redis(redis))) => {
                    redis.host(*host, job.now.as_ref(), &job.told).await
                }
                (Subject::Relay, Some(Link::Redis(redis))) => redis.relay(job.now.as_ref(), &job.told).await,
                (Subject::Relay, Some(Link::Tables(tables))) => {
                    tables.relay(job.now.is_some()).await?;
                    match &self.daemons {
                        // The daemons are in another database, and the addresses of their relays beside them.
                        Link::Tables(others) if !Arc::ptr_eq(others, tables) => {
                            others.relay(job.now.is_some()).await
                        }
                        _ => Ok(Written::Held),
                    }
                }
                // The tables of the tunnels are written by who keeps the tunnels; the platform keeps neither.
                (Subject::Host(_) | Subject::Relay, _) => Ok(Written::Held),
            }
        };
        let link = match (&job.subject, &self.directory) {
            (Subject::Daemon(_), _) => &self.daemons,
            (_, Some(directory)) => directory,
            (_, None) => return Ok(Written::Held),
        };
        link.health().ask("presence", work).await
    }

    /// Which other relay holds a daemon.
    pub(super) async fn daemon(&self, pair: &Pair) -> Result<Option<Holder>, Failure> {
        self.daemons.health().ask("question", self.daemons.daemon(pair)).await
    }

    /// Which other relays hold tunnels of a host, the newest first.
    pub(super) async fn host(&self, host: Uuid) -> Result<Vec<Holder>, Failure> {
        match &self.directory {
            Some(Link::Redis(redis)) => redis.health.ask("question", redis.holders(host)).await,
            Some(Link::Tables(tables)) => tables.health.ask("question", tables.holders(host)).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Which other relays live.
    pub(super) async fn others(&self) -> Result<Vec<Holder>, Failure> {
        match &self.directory {
            Some(Link::Redis(redis)) => redis.health.ask("question", redis.others()).await,
            Some(Link::Tables(tables)) => tables.health.ask("question", tables.others()).await,
            _ => Ok(Vec::new()),
        }
    }

    /// When one of them has come back.
    pub(super) async fn returned(&self) {
        match &self.directory {
            Some(directory) => tokio::select! {
                () = self.daemons.health().returned.notified() => {}
                () = directory.health().returned.notified() => {}
            },
            None => self.daemons.health().returned.notified().await,
        }
    }
}
