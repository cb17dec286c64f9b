//! Frames over the tables: inserted by one at a time (an advisory lock), so that whoever has read up to a number
//! has missed none below it; read when NOTIFY wakes the relay, and every second in case that was missed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::PgListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sql::{FRAMES, NEWEST, PUBLISH};
use super::{Tables, failure, late, pool};
use crate::backplane::Direction;
use crate::backplane::backoff::Backoff;
use crate::backplane::envelope::Envelope;
use crate::backplane::health::{DEADLINE, Failure};
use crate::backplane::inbox::Inbox;
use crate::backplane::metrics::Unpublished;
use crate::backplane::outbox::{Outbox, Outgoing, Sealer};

/// How often new frames are looked for without having been told of.
const POLL: Duration = Duration::from_secs(1);
/// How often the connection that listens is tried.
const PROBE: Duration = Duration::from_secs(10);
/// Frames that are read at once.
const READ: i64 = 32;
/// Keeps those who insert frames apart. Any number, as long as all relays use the same.
const BUS_LOCK: i64 = 0x7265_6c61_7962_7573;
/// The channel of all relays.
const WAKE_ALL: &str = "relay_bus_all";

type FrameRow = (
    i64,
    String,
    Option<String>,
    Option<String>,
    String,
    Option<String>,
    String,
    Option<String>,
    i64,
    String,
);

impl Tables {
    /// Passes frames on, in order, until `stop`.
    pub(in crate::backplane) async fn publish(
        self: Arc<Self>,
        mut sealer: Sealer,
        outbox: Arc<Outbox>,
        stop: CancellationToken,
    ) {
        loop {
            let frames = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                frames = outbox.batch() => frames,
            };
            let sealed = frames.iter().filter_map(|held| Some((held, sealer.seal(held)?)));
            let (sent, envelopes): (Vec<&Outgoing>, Vec<Envelope>) = sealed.unzip();
            if sent.is_empty() {
                continue;
            }
            let count = sent.len() as u64;
            match self.health.ask("publish", self.insert(envelopes)).await {
                Ok(()) => self.metrics.published.increment(count),
                Err(failure) => {
                    tracing::debug!(%failure, frames = count, "frames could not be passed on");
                    self.metrics.unpublished(Unpublished::Away, count);
                    sent.iter().for_each(|frame| frame.lost());
                }
            }
        }
    }

    async fn insert(&self, frames: Vec<Envelope>) -> Result<(), Failure> {
        let mut wake: Vec<String> =
            frames.iter().map(|f| wake_channel(f.target_relay_id.as_deref())).collect();
        wake.sort_unstable();
        wake.dedup();
        let column = |field: fn(&Envelope) -> &String| -> Vec<String> {
            frames.iter().map(|frame| field(frame).clone()).collect()
        };
        let maybe = |field: fn(&Envelope) -> &Option<String>| -> Vec<Option<String>> {
            frames.iter().map(|frame| field(frame).clone()).collect()
        };
        let directions: Vec<String> = frames.iter().map(|f| f.direction.as_str().to_owned()).collect();
        let issued: Vec<i64> = frames.iter().map(|frame| frame.issued_at_ms).collect();
        let mut lease = self.lease().await?;
        let query = sqlx::query(PUBLISH)
            .bind(column(|f| &f.workspace_id))
            .bind(maybe(|f| &f.runtime_target_id))
            .bind(maybe(|f| &f.machine_id))
            .bind(column(|f| &f.source_relay_id))
            .bind(maybe(|f| &f.target_relay_id))
            .bind(directions)
            .bind(column(|f| &f.payload))
            .bind(issued)
            .bind(column(|f| &f.signature))
            .bind(BUS_LOCK)
            .bind(wake);
        query.execute(&mut *lease.connection).await.map_err(failure)?;
        lease.done = true;
        Ok(())
    }

    /// Reads frames until `stop`, and removes what is over.
    pub(in crate::backplane) async fn listen(self: Arc<Self>, inbox: Arc<Inbox>, stop: CancellationToken) {
        let mut reader = Reader { tables: self.clone(), inbox, since: 0 };
        let mut backoff = Backoff::default();
        loop {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = reader.hear(&mut backoff) => result,
            };
            if let Err(failure) = result {
                tracing::debug!(%failure, "the bus cannot be read; tried again");
            }
            let wait = backoff.next(&mut rand::rng());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Reads the bus.
struct Reader {
    tables: Arc<Tables>,
    inbox: Arc<Inbox>,
    /// The number up to which all was read.
    since: i64,
}

impl Reader {
    /// Reads as long as the connection that listens lives.
    async fn hear(&mut self, backoff: &mut Backoff) -> Result<(), Failure> {
        if !self.tables.ready.load(Ordering::Acquire) {
            return Err(Failure::Away("its tables are not there yet".to_owned()));
        }
        let channels = [wake_channel(None), wake_channel(Some(&self.tables.me.relay))];
        let connecting = async {
            let pool = pool(self.tables.options.clone(), 1);
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen_all(channels.iter().map(String::as_str)).await?;
            Ok(listener)
        };
        let listener = tokio::time::timeout(DEADLINE, connecting).await;
        let mut listener = listener.map_err(|_| late())?.map_err(failure)?;
        listener.eager_reconnect(false);
        // All that is fresh, also at first: others may have found us before we came here. And the numbers may have begun
        // anew meanwhile. What is read twice, or was issued before this process began, is dropped, because it is no news.
        self.since = 0;
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut probed = Instant::now();
        loop {
            tokio::select! {
                woken = listener.try_recv() => match woken.map_err(failure)? {
                    Some(_) => while listener.next_buffered().is_some() {},
                    None => return Err(Failure::Away("the connection that listens has ended".to_owned())),
                },
                _ = poll.tick() => {
                    if probed.elapsed() >= PROBE {
                        let alive = tokio::time::timeout(DEADLINE, listener.execute("select 1")).await;
                        alive.map_err(|_| late())?.map_err(failure)?;
                        probed = Instant::now();
                    }
                }
            }
            let tables = self.tables.clone();
            // A look that fails is repeated by the next poll.
            if tables.health.ask("pull", self.read()).await.is_ok() {
                backoff.reset();
            }
        }
    }

    /// Reads what is new.
    async fn read(&mut self) -> Result<(), Failure> {
        let tables = self.tables.clone();
        let mut lease = tables.lease().await?;
        let newest: i64 =
            sqlx::query_scalar(NEWEST).fetch_one(&mut *lease.connection).await.map_err(failure)?;
        let mut since = begins(self.since, newest);
        while since < newest {
            let query = sqlx::query_as(FRAMES)
                .bind(since)
                .bind(newest)
                .bind(&*tables.me.relay)
                .bind(READ)
                .bind(i64::try_from(tables.max_payload).unwrap_or(i64::MAX));
            let rows: Vec<FrameRow> = query.fetch_all(&mut *lease.connection).await.map_err(failure)?;
            let full = i64::try_from(rows.len()).unwrap_or(READ) >= READ;
            since = if full { rows.last().map_or(newest, |row| row.0) } else { newest };
            for row in rows {
                self.take(row);
            }
            self.since = since;
        }
        lease.done = true;
        Ok(())
    }

    fn take(&self, row: FrameRow) {
        let (_, workspace_id, runtime_target_id, machine_id, source_relay_id, target_relay_id, .., signature) =
            row;
        let (direction, payload, issued_at_ms) = (Direction::parse(&row.6), row.7, row.8);
        let (Some(direction), Some(payload)) = (direction, payload) else {
            return self.inbox.malformed();
        };
        self.inbox.take(Envelope {
            workspace_id,
            runtime_target_id,
            machine_id,
            source_relay_id,
            target_relay_id,
            direction,
            payload,
            issued_at_ms,
            signature,
        });
    }
}

/// From where to read on. Numbers that are all lower than those that were had already were counted anew, or those had
/// were removed because they are over. What is read twice is dropped, because it is no news.
fn begins(since: i64, newest: i64) -> i64 {
    if newest < since { 0 } else { since }
}

/// Channels have 63 bytes at most, so a relay's is named after a hash of its id.
fn wake_channel(relay: Option<&str>) -> String {
    use sha2::Digest as _;
    let Some(relay) = relay else { return WAKE_ALL.to_owned() };
    let digest = sha2::Sha256::digest(relay.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("relay_bus_{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_were_counted_anew_are_read() {
        for (since, newest, expected) in [(7, 7, 7), (7, 9, 7), (7, 3, 0), (7, 0, 0), (0, 0, 0)] {
            assert_eq!(begins(since, newest), expected, "{since} {newest}");
        }
    }
}
