//! The common knowledge in Redis or Valkey.
//!
//! | key or channel, after the prefix | what it is |
//! | --- | --- |
//! | `daemon:<n>:<workspace>[:<target>]` | a text: who holds the daemon, sealed; `n` is the length of the workspace's id, which may hold colons itself |
//! | `host:<uuid>` | a hash: the relays with tunnels of the host, a field for each process |
//! | `relays` | a hash: the relays that live, likewise |
//! | `bus:all`, `bus:relay:<id>` | channels: frames for every relay, and for one |
//!
//! Every key has a time to live. Frames are published and forgotten: a relay that does not listen at that moment
//! misses them, as it would miss them without a bus.

mod connection;
mod scripts;
mod url;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSub;
use redis::{AsyncCommands as _, Pipeline, RedisResult};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use self::connection::SetupError;
use self::connection::{Connections, Lease};
use self::scripts::Scripts;
use super::address;
use super::asked::Daemons;
use super::backoff::Backoff;
use super::envelope::{Key, is_relay_id};
use super::health::{DEADLINE, Failure, Health};
use super::holding::{Judge, Verdict};
use super::inbox::Inbox;
use super::metrics::{Metrics, Unpublished};
use super::outbox::{Outbox, Sealer};
use super::presence::{Fact, VOID, Written};
use super::{Holder, Pair};
use crate::clock::{millis, unix_ms_i64};

/// How often the connection that listens is asked for a sign of life. A server that froze says nothing otherwise.
const PROBE: Duration = Duration::from_secs(5);

/// How often what is there may change between looking and writing. Each time another relay wrote.
const SWAPS: usize = 4;

/// Redis, as this relay uses it.
pub(super) struct Redis {
    pub(super) health: Health,
    connections: Connections,
    scripts: Scripts,
    prefix: String,
    me: Holder,
    /// What records are sealed with.
    records: Key,
    metrics: Arc<Metrics>,
}

impl Redis {
    pub(super) fn new(
        url: &str,
        ca: Option<PathBuf>,
        prefix: &str,
        me: Holder,
        records: Key,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SetupError> {
        let place = url::parse(url).map_err(SetupError::Url)?;
        Ok(Self {
            health: Health::new("Redis", metrics.clone()),
            connections: Connections::new(place, ca)?,
            scripts: Scripts::new(),
            prefix: prefix.to_owned(),
            me,
            records,
            metrics,
        })
    }

    /// Holds a daemon.
    pub(super) async fn claim(&self, pair: &Pair, fact: &Fact) -> Result<Written, Failure> {
        for _ in 0..SWAPS {
            let (kept_ms, there) = self.look(pair).await?;
            match self.judge().claim(&there, pair, fact, kept_ms) {
                Verdict::Leave(written) => return Ok(written),
                Verdict::Write(text) if self.swap(pair, &there, &text).await? => return Ok(Written::Held),
                Verdict::Write(_) => {}
            }
        }
        Err(Failure::Refused("others write the same all the time".to_owned()))
    }

    /// Lets go a daemon, if it is still ours.
    pub(super) async fn release(&self, pair: &Pair, told: &[Uuid]) -> Result<Written, Failure> {
        for _ in 0..SWAPS {
            let (_, there) = self.look(pair).await?;
            if !self.judge().is_ours(&there, pair, told) || self.swap(pair, &there, "").await? {
                return Ok(Written::Held);
            }
        }
        Err(Failure::Refused("others write the same all the time".to_owned()))
    }

    /// Which other relay holds a daemon.
    pub(super) async fn daemon(&self, pair: &Pair) -> Result<Option<Holder>, Failure> {
        let (_, there) = self.look(pair).await?;
        let holder = self.judge().read(&there, pair).map(|held| held.holder);
        Ok(holder.filter(|holder| holder.relay != self.me.relay))
    }

    fn judge(&self) -> Judge<'_> {
        Judge { me: &self.me, key: &self.records, now_ms: unix_ms_i64() }
    }

    async fn look(&self, pair: &Pair) -> Result<(i64, Vec<u8>), Failure> {
        let mut lease = self.connections.lease().await?;
        let call = self.scripts.look.key(self.daemon_key(pair));
        let result: RedisResult<(i64, Vec<u8>)> = call.invoke_async(&mut lease.connection).await;
        self.checked(&lease, result).await
    }

    async fn swap(&self, pair: &Pair, there: &[u8], text: &str) -> Result<bool, Failure> {
        let mut lease = self.connections.lease().await?;
        let mut call = self.scripts.swap.key(self.daemon_key(pair));
        call.arg(there).arg(text).arg(millis(VOID));
        let result: RedisResult<bool> = call.invoke_async(&mut lease.connection).await;
        self.checked(&lease, result).await
    }

    /// A host has tunnels here, or has them no longer.
    pub(super) async fn host(
        &self,
        host: Uuid,
        now: Option<&Fact>,
        told: &[Uuid],
    ) -> Result<Written, Failure> {
        self.member(self.host_key(host), &address::of_host(host), now, told).await
    }

    /// This relay lives, or no longer.
    pub(super) async fn relay(&self, now: Option<&Fact>, told: &[Uuid]) -> Result<Written, Failure> {
        self.member(self.relays_key(), address::RELAY, now, told).await
    }

    /// Which other relays have tunnels of a host, the newest first.
    pub(super) async fn holders(&self, host: Uuid) -> Result<Vec<Holder>, Failure> {
        self.roster(self.host_key(host), &address::of_host(host)).await
    }

    /// Which other relays live.
    pub(super) async fn others(&self) -> Result<Vec<Holder>, Failure> {
        self.roster(self.relays_key(), address::RELAY).await
    }

    async fn member(
        &self,
        key: String,
        about: &str,
        now: Option<&Fact>,
        told: &[Uuid],
    ) -> Result<Written, Failure> {
        let mut lease = self.connections.lease().await?;
        let result: RedisResult<i64> = match now {
            Some(fact) => {
                let mut call = self.scripts.enlist.key(key);
                call.arg(fact.connection.to_string())
                    .arg(millis(fact.since.elapsed()))
                    .arg(millis(VOID))
                    .arg(address::write(&self.me, about, unix_ms_i64(), &self.records));
                call.invoke_async(&mut lease.connection).await
            }
            None if told.is_empty() => return Ok(Written::Held),
            None => {
                let members: Vec<String> = told.iter().map(Uuid::to_string).collect();
                lease.connection.hdel(key, members).await
            }
        };
        self.checked(&lease, result).await.map(|_| Written::Held)
    }

    async fn roster(&self, key: String, about: &str) -> Result<Vec<Holder>, Failure> {
        let mut lease = self.connections.lease().await?;
        // Bytes: what is no text says nothing of the server's health.
        let result: RedisResult<Vec<Vec<u8>>> =
            self.scripts.roster.key(key).invoke_async(&mut lease.connection).await;
        let mut members = self.checked(&lease, result).await?;
        members.sort_unstable_by(|left, right| right.cmp(left));
        let mut holders: Vec<Holder> = Vec::new();
        for member in members {
            let record = member.split_at_checked(SINCE_DIGITS).map(|(_, record)| record);
            if let Some(holder) =
                record.and_then(|record| address::read(record, about, unix_ms_i64(), &self.records))
                && holder.relay != self.me.relay
                && holders.iter().all(|known| known.relay != holder.relay)
            {
                holders.push(holder);
            }
        }
        Ok(holders)
    }

    async fn checked<T>(&self, lease: &Lease, result: RedisResult<T>) -> Result<T, Failure> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.connections.failed(lease, error).await),
        }
    }

    /// Passes frames on, in order, until `stop`.
    pub(super) async fn publish(
        self: Arc<Self>,
        mut sealer: Sealer,
        outbox: Arc<Outbox>,
        daemons: Arc<Daemons>,
        stop: CancellationToken,
    ) {
        loop {
            let frames = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                frames = outbox.batch() => frames,
            };
            let mut pipeline = Pipeline::with_capacity(frames.len());
            let mut sent = Vec::with_capacity(frames.len());
            for held in &frames {
                let Some(envelope) = sealer.seal(held) else { continue };
                let Ok(text) = serde_json::to_vec(&envelope) else { continue };
                pipeline.publish(self.channel(held.to.as_deref()), text);
                sent.push(held);
            }
            if sent.is_empty() {
                continue;
            }
            let count = sent.len() as u64;
            let work = async {
                let mut lease = self.connections.lease().await?;
                let result: RedisResult<Vec<u64>> = pipeline.query_async(&mut lease.connection).await;
                self.checked(&lease, result).await
            };
            match self.health.ask("publish", work).await {
                Ok(listeners) => {
                    // Who was to hear it is not there any more, whatever was said of where a daemon is.
                    for (frame, listeners) in sent.iter().zip(&listeners) {
                        if *listeners == 0 && frame.to.is_some() {
                            daemons.doubt(&frame.pair);
                            frame.lost();
                        }
                    }
                    let nobody = listeners.iter().filter(|listeners| **listeners == 0).count() as u64;
                    self.metrics.published.increment(count - nobody.min(count));
                    self.metrics.unpublished(Unpublished::Nobody, nobody);
                }
                Err(failure) => {
                    tracing::debug!(%failure, frames = count, "frames could not be passed on");
                    self.metrics.unpublished(Unpublished::Away, count);
                    sent.iter().for_each(|frame| frame.lost());
                }
            }
        }
    }

    /// Listens until `stop`, again and again.
    pub(super) async fn listen(self: Arc<Self>, inbox: Arc<Inbox>, stop: CancellationToken) {
        let channels = [self.channel(None), self.channel(Some(&self.me.relay))];
        let mut backoff = Backoff::default();
        loop {
            let failure = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                failure = self.hear(&channels, &inbox, &mut backoff) => failure,
            };
            self.health.failed(&failure);
            let wait = backoff.next(&mut rand::rng());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Listens as long as the connection lives.
    async fn hear(&self, channels: &[String], inbox: &Inbox, backoff: &mut Backoff) -> Failure {
        let listening: PubSub = match self.connections.listen(channels).await {
            Ok(listening) => listening,
            Err(failure) => return failure,
        };
        self.health.answered();
        let (mut sink, mut frames) = listening.split();
        let mut probe = tokio::time::interval_at(Instant::now() + PROBE, PROBE);
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                frame = frames.next() => match frame {
                    Some(frame) => inbox.take_text(frame.get_payload_bytes()),
                    None => {
                        // Whatever ended this one, the commands' may lead to the same server.
                        self.connections.forget().await;
                        return Failure::Away("the connection that listens has ended".to_owned());
                    }
                },
                _ = probe.tick() => {
                    // Frames are taken meanwhile: the library keeps without bound what is not.
                    let mut alive = std::pin::pin!(tokio::time::timeout(DEADLINE, sink.ping::<redis::Value>()));
                    let alive = loop {
                        tokio::select! {
                            alive = &mut alive => break alive,
                            Some(frame) = frames.next() => inbox.take_text(frame.get_payload_bytes()),
                        }
                    };
                    if !matches!(alive, Ok(Ok(_))) {
                        self.connections.forget().await;
                        return Failure::Away("the connection that listens does not answer".to_owned());
                    }
                    backoff.reset();
                }
            }
        }
    }

    fn daemon_key(&self, pair: &Pair) -> String {
        let Pair { workspace, target } = pair;
        let length = workspace.len();
        match target {
            Some(target) => format!("{}daemon:{length}:{workspace}:{target}", self.prefix),
            None => format!("{}daemon:{length}:{workspace}", self.prefix),
        }
    }

    fn host_key(&self, host: Uuid) -> String {
        format!("{}host:{host}", self.prefix)
    }

    fn relays_key(&self) -> String {
        format!("{}relays", self.prefix)
    }

    fn channel(&self, relay: Option<&str>) -> String {
        match relay.filter(|relay| is_relay_id(relay)) {
            Some(relay) => format!("{}bus:relay:{relay}", self.prefix),
            None => format!("{}bus:all", self.prefix),
        }
    }
}

/// What stands before a member's record.
const SINCE_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_two_pairs_have_one_key() {
        let key = Key::new(b"a key that the relays share").unwrap();
        let me = Holder { relay: "me".into(), public_ws: None, internal: None };
        let metrics = Arc::new(Metrics::new());
        let redis = Redis::new("redis://localhost", None, "p:", me, key, metrics).unwrap();
        let pair = |workspace: &str, target: Option<&str>| {
            redis.daemon_key(&Pair { workspace: workspace.into(), target: target.map(Into::into) })
        };
        let keys = [
            pair("a:b", None),
            pair("a", Some("b")),
            pair("a:b", Some("c")),
            pair("a", Some("b:c")),
            pair("1:a", None),
            pair("a", None),
            redis.relays_key(),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(key.starts_with("p:"));
            assert!(keys.iter().skip(index + 1).all(|other| other != key), "{key}");
        }
    }
}
