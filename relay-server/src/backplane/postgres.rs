//! The common knowledge in PostgreSQL: the relay's own database or another one.
//!
//! | table | what it holds |
//! | --- | --- |
//! | `relay.workspace_relay_presences` | which relay holds which daemon; what counts is `record`, which is sealed |
//! | `relay.relay_bus_frames` | frames, for a minute; NOTIFY wakes who they are for, and polling those whom it missed |
//! | `relay.relays` | the relays and their addresses; with `relay.tunnels` it tells where hosts are |
//!
//! Frames are inserted by one at a time (an advisory lock), so that whoever has read up to a number has missed none
//! below it. A database that is away, or whose user may not have these tables, delays nothing: it is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::address::{self, MAX_RECORD, Record};
use super::backoff::Backoff;
use super::envelope::{Envelope, Key};
use super::health::{DEADLINE, Failure, Health};
use super::holding::{Judge, Verdict};
use super::inbox::Inbox;
use super::metrics::{Metrics, Unpublished};
use super::outbox::{Outbox, Sealer};
use super::presence::{Fact, Written};
use super::{Direction, Holder, Pair};
use crate::clock::unix_ms_i64;
use crate::store::postgres::{Lease, prepare};

/// Connections: questions, presence and frames are short, and wait for each other no longer than that.
const CONNECTIONS: u32 = 4;
/// A connection that rested longer is tried before it is used.
const TRUSTED_REST: Duration = Duration::from_secs(1);
/// How often new frames are looked for without having been told of.
const POLL: Duration = Duration::from_secs(1);
/// How often the connection that listens is tried.
const PROBE: Duration = Duration::from_secs(10);
/// How often what is over is removed.
const SWEEP: Duration = Duration::from_secs(20);
/// How often the tables are looked for that this user may not make.
const LOOK: Duration = Duration::from_secs(5);
/// How long connecting and migrating may take.
const PREPARE: Duration = Duration::from_secs(60);
/// Frames that are read at once.
const READ: i64 = 32;
/// Other relays with tunnels of one host that are told of.
const MOST_HOLDERS: i64 = 16;
/// A longer record of a daemon is none.
const LONGEST_RECORD: i32 = MAX_RECORD as i32;
/// How often what is there may change between looking and writing. Each time another relay wrote.
const SWAPS: usize = 4;
/// Keeps those who insert frames apart. Any number, as long as all relays use the same.
const BUS_LOCK: i64 = 0x7265_6c61_7962_7573;
/// The channel of all relays.
const WAKE_ALL: &str = "relay_bus_all";

/// What is lost with the server's last moments is written again soon, so nobody waits for its disk.
const SESSION_SETTINGS: &str = "set statement_timeout = '2s'; set idle_in_transaction_session_timeout = '5s'; \
     set synchronous_commit = off";

/// Which of the tables this user may use.
const USABLE: &str = "select count(*) = 3 from pg_catalog.pg_class c \
     join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
     where n.nspname = 'relay' and c.relname in ('relays', 'workspace_relay_presences', 'relay_bus_frames') \
         and has_schema_privilege(n.oid, 'usage') \
         and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') \
         and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete') \
         and (c.relname <> 'workspace_relay_presences' or exists (select from pg_catalog.pg_attribute a \
             where a.attrelid = c.oid and a.attname = 'record' and not a.attisdropped))";

/// What is written of a daemon, and the time in ms.
const LOOK_AT: &str = "select (extract(epoch from clock_timestamp()) * 1000)::bigint, \
     (select record from relay.workspace_relay_presences where workspace_id = $1 and runtime_target_id = $2 \
         and seen_at >= now() - interval '45 seconds' and octet_length(record) <= $3)";

/// Replaces what was found there; anything that would not have been found counts as nothing.
const CLAIM: &str = "insert into relay.workspace_relay_presences as held \
         (workspace_id, runtime_target_id, machine_id, relay_id, relay_ws_base_url, connection_id, generation, since, \
             seen_at, record) \
     values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() - make_interval(secs => $8), now(), $9) \
     on conflict (workspace_id, runtime_target_id) do update set machine_id = excluded.machine_id, \
         relay_id = excluded.relay_id, relay_ws_base_url = excluded.relay_ws_base_url, \
         connection_id = excluded.connection_id, generation = excluded.generation, seen_at = now(), \
         since = excluded.since, record = excluded.record \
     where held.seen_at < now() - interval '45 seconds' or held.record is null \
         or octet_length(held.record) > $11 or held.record = $10";

const RELEASE: &str = "delete from relay.workspace_relay_presences \
     where workspace_id = $1 and runtime_target_id = $2 and record = $3";

const HOLDERS: &str = "select r.id, r.public_ws, r.internal, r.seal from relay.relays r \
     join relay.tunnels t on t.relay_id = r.id \
     where t.host_id = $1 and r.id <> $2 and t.seen_at >= now() - interval '45 seconds' \
         and r.seen_at >= now() - interval '45 seconds' \
     group by r.id, r.public_ws, r.internal, r.seal order by max(t.connected_at) desc limit $3";

const OTHERS: &str = "select id, public_ws, internal, seal from relay.relays \
     where id <> $1 and seen_at >= now() - interval '45 seconds' order by id limit 256";

const ANNOUNCE: &str = "insert into relay.relays (id, public_ws, internal, seal, seen_at) values ($1, $2, $3, $4, now()) \
     on conflict (id) do update set public_ws = excluded.public_ws, internal = excluded.internal, \
         seal = excluded.seal, seen_at = now()";

const PUBLISH: &str = "with turn as materialized (select pg_advisory_xact_lock($10)), \
     added as (insert into relay.relay_bus_frames (workspace_id, runtime_target_id, machine_id, source_relay_id, \
             target_relay_id, direction, payload, issued_at_ms, signature) \
         select f.workspace_id, f.runtime_target_id, f.machine_id, f.source_relay_id, f.target_relay_id, \
             f.direction, f.payload, f.issued_at_ms, f.signature \
         from turn, unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
             $8::bigint[], $9::text[]) with ordinality as f (workspace_id, runtime_target_id, machine_id, \
             source_relay_id, target_relay_id, direction, payload, issued_at_ms, signature, place) \
         order by f.place) \
     select pg_notify(channel, '') from unnest($11::text[]) as w (channel)";

const NEWEST: &str = "select coalesce(max(id), 0) from relay.relay_bus_frames";

/// A payload beyond the bound stays where it is.
const FRAMES: &str = "select id, workspace_id, runtime_target_id, machine_id, source_relay_id, target_relay_id, \
         direction, case when octet_length(payload) <= $5 then payload end, issued_at_ms, signature \
     from relay.relay_bus_frames \
     where id > $1 and id <= $2 and created_at > now() - interval '15 seconds' and source_relay_id <> $3 \
         and (target_relay_id is null or target_relay_id = $3) order by id limit $4";

/// What is over, by table.
const OVER: [&str; 3] = [
    "delete from relay.relay_bus_frames where created_at < now() - interval '60 seconds'",
    "delete from relay.workspace_relay_presences where seen_at < now() - interval '60 seconds'",
    "delete from relay.relays where seen_at < now() - interval '60 seconds'",
];

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
type RelayRow = (String, Option<String>, Option<String>, Option<String>);

/// The database, as this relay uses it.
pub(super) struct Tables {
    pub(super) health: Health,
    options: PgConnectOptions,
    pool: PgPool,
    me: Holder,
    /// What records are sealed with.
    records: Key,
    max_payload: usize,
    ready: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Tables {
    pub(super) fn new(
        url: &str,
        me: Holder,
        records: Key,
        max_payload: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| error.to_string())?;
        let options = options.application_name("relay-server backplane").disable_statement_logging();
        let pool = pool(options.clone(), CONNECTIONS);
        Ok(Self {
            health: Health::new("PostgreSQL", metrics.clone()),
            options,
            pool,
            me,
            records,
            max_payload,
            ready: AtomicBool::new(false),
            metrics,
        })
    }

    /// Makes the tables, or waits for whoever may.
    pub(super) async fn prepare(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut said = false;
        loop {
            let wait = match self.try_prepare().await {
                Ok(true) => {
                    self.ready.store(true, Ordering::Release);
                    self.health.answered();
                    self.health.returned.notify_one();
                    return;
                }
                Ok(false) => {
                    if !said {
                        tracing::warn!(
                            "the database user may not have the tables relays, workspace_relay_presences and relay_bus_frames \
                             in a schema `relay`: this relay knows of no other. To change that: create schema relay authorization \
                             <the relay's user>, or apply migrations/postgres"
                        );
                        said = true;
                    }
                    LOOK
                }
                Err(failure) => {
                    self.health.failed(&failure);
                    backoff.next(&mut rand::rng())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn try_prepare(&self) -> Result<bool, Failure> {
        let late = |_| Failure::Away(format!("no success within {} s", PREPARE.as_secs()));
        let work = async {
            prepare(&self.options).await.map_err(|error| Failure::Away(error.to_string()))?;
            let mut connection = self.options.connect().await.map_err(failure)?;
            let usable: bool =
                sqlx::query_scalar(USABLE).fetch_one(&mut connection).await.map_err(failure)?;
            connection.close().await.map_err(failure)?;
            Ok(usable)
        };
        tokio::time::timeout(PREPARE, work).await.map_err(late)?
    }

    async fn lease(&self) -> Result<Lease, Failure> {
        if !self.ready.load(Ordering::Acquire) {
            return Err(Failure::Away("its tables are not there yet".to_owned()));
        }
        Ok(Lease { connection: self.pool.acquire().await.map_err(failure)?, done: false })
    }

    /// Holds a daemon.
    pub(super) async fn claim(&self, pair: &Pair, fact: &Fact) -> Result<Written, Failure> {
        let mut lease = self.lease().await?;
        for _ in 0..SWAPS {
            let (kept_ms, there) = look(&mut lease, pair).await?;
            let found = there.as_deref().unwrap_or_default();
            let text = match self.judge().claim(found.as_bytes(), pair, fact, kept_ms) {
                Verdict::Leave(written) => {
                    lease.done = true;
                    return Ok(written);
                }
                Verdict::Write(text) => text,
            };
            let query = sqlx::query(CLAIM)
                .bind(&*pair.workspace)
                .bind(target(pair))
                .bind(fact.machine.as_deref())
                .bind(&*self.me.relay)
                .bind(self.me.public_ws.as_ref().map(url::Url::as_str))
                .bind(fact.connection)
                .bind(fact.generation)
                .bind(fact.since.elapsed().as_secs_f64())
                .bind(text)
                .bind(there)
                .bind(LONGEST_RECORD);
            if query.execute(&mut *lease.connection).await.map_err(failure)?.rows_affected() > 0 {
                lease.done = true;
                return Ok(Written::Held);
            }
        }
        lease.done = true;
        Err(Failure::Refused("others write the same all the time".to_owned()))
    }

    /// Lets go a daemon, if it is still ours.
    pub(super) async fn release(&self, pair: &Pair, told: &[Uuid]) -> Result<Written, Failure> {
        let mut lease = self.lease().await?;
        // Whoever writes in between holds it, or has let it go.
        if let (_, Some(there)) = look(&mut lease, pair).await?
            && self.judge().is_ours(there.as_bytes(), pair, told)
        {
            let query = sqlx::query(RELEASE).bind(&*pair.workspace).bind(target(pair)).bind(there);
            query.execute(&mut *lease.connection).await.map_err(failure)?;
        }
        lease.done = true;
        Ok(Written::Held)
    }

    /// Which other relay holds a daemon.
    pub(super) async fn daemon(&self, pair: &Pair) -> Result<Option<Holder>, Failure> {
        let mut lease = self.lease().await?;
        let (_, there) = look(&mut lease, pair).await?;
        lease.done = true;
        let held = there.and_then(|there| self.judge().read(there.as_bytes(), pair));
        Ok(held.map(|held| held.holder).filter(|holder| holder.relay != self.me.relay))
    }

    fn judge(&self) -> Judge<'_> {
        Judge { me: &self.me, key: &self.records, now_ms: unix_ms_i64() }
    }

    /// Which other relays have tunnels of a host, the newest first.
    pub(super) async fn holders(&self, host: Uuid) -> Result<Vec<Holder>, Failure> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(HOLDERS).bind(host).bind(&*self.me.relay).bind(MOST_HOLDERS);
        let rows: Vec<RelayRow> = query.fetch_all(&mut *lease.connection).await.map_err(failure)?;
        lease.done = true;
        Ok(rows.into_iter().filter_map(|row| self.holder(row)).collect())
    }

    /// Which other relays live.
    pub(super) async fn others(&self) -> Result<Vec<Holder>, Failure> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(OTHERS).bind(&*self.me.relay);
        let rows: Vec<RelayRow> = query.fetch_all(&mut *lease.connection).await.map_err(failure)?;
        lease.done = true;
        Ok(rows.into_iter().filter_map(|row| self.holder(row)).collect())
    }

    /// This relay lives, or no longer.
    pub(super) async fn relay(&self, here: bool) -> Result<Written, Failure> {
        let mut lease = self.lease().await?;
        let Record { relay, public_ws, internal, seal } =
            Record::seal(&self.me, address::RELAY, unix_ms_i64(), &self.records);
        let query = if here {
            sqlx::query(ANNOUNCE).bind(relay).bind(public_ws).bind(internal).bind(seal)
        } else {
            sqlx::query("delete from relay.relays where id = $1").bind(relay)
        };
        query.execute(&mut *lease.connection).await.map_err(failure)?;
        lease.done = true;
        Ok(Written::Held)
    }

    fn holder(&self, row: RelayRow) -> Option<Holder> {
        let (relay, public_ws, internal, seal) = row;
        Record { relay, public_ws: public_ws?, internal: internal?, seal: seal? }.open(
            address::RELAY,
            unix_ms_i64(),
            &self.records,
        )
    }

    /// Passes frames on, in order, until `stop`.
    pub(super) async fn publish(
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
            let frames: Vec<Envelope> = frames.iter().filter_map(|held| sealer.seal(held)).collect();
            if frames.is_empty() {
                continue;
            }
            let count = frames.len() as u64;
            match self.health.ask("publish", self.insert(frames)).await {
                Ok(()) => self.metrics.published.increment(count),
                Err(failure) => {
                    tracing::debug!(%failure, frames = count, "frames could not be passed on");
                    self.metrics.unpublished(Unpublished::Away, count);
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
    pub(super) async fn listen(self: Arc<Self>, inbox: Arc<Inbox>, stop: CancellationToken) {
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

    /// Removes what is over, until `stop`. Any relay does it for all.
    pub(super) async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            for statement in OVER {
                let work = async {
                    let mut lease = self.lease().await?;
                    sqlx::query(statement).execute(&mut *lease.connection).await.map_err(failure)?;
                    lease.done = true;
                    Ok::<_, Failure>(())
                };
                if let Ok(Err(failure)) = tokio::time::timeout(DEADLINE, work).await {
                    tracing::debug!(%failure, "what is over could not be removed; tried again");
                    break;
                }
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

/// What is written of a daemon, and the time there in ms.
async fn look(lease: &mut Lease, pair: &Pair) -> Result<(i64, Option<String>), Failure> {
    let query = sqlx::query_as(LOOK_AT).bind(&*pair.workspace).bind(target(pair)).bind(LONGEST_RECORD);
    query.fetch_one(&mut *lease.connection).await.map_err(failure)
}

/// From where to read on. Numbers that are all lower than those that were had already were counted anew, or those had
/// were removed because they are over. What is read twice is dropped, because it is no news.
fn begins(since: i64, newest: i64) -> i64 {
    if newest < since { 0 } else { since }
}

fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(DEADLINE)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move { Ok(meta.idle_for < TRUSTED_REST || connection.ping().await.is_ok()) })
        })
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SESSION_SETTINGS).await.map(drop) })
        })
        .connect_lazy_with(options)
}

/// An absent target is the empty text, which no target is.
fn target(pair: &Pair) -> &str {
    pair.target.as_deref().unwrap_or_default()
}

/// Channels have 63 bytes at most, so a relay's is named after a hash of its id.
fn wake_channel(relay: Option<&str>) -> String {
    use sha2::Digest as _;
    let Some(relay) = relay else { return WAKE_ALL.to_owned() };
    let digest = sha2::Sha256::digest(relay.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("relay_bus_{hex}")
}

fn late() -> Failure {
    Failure::Away(format!("no answer within {} s", DEADLINE.as_secs()))
}

fn failure(error: sqlx::Error) -> Failure {
    // data_exception and integrity_constraint_violation: the server is well, what it was given is not.
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    if code.len() == 5 && (code.starts_with("22") || code.starts_with("23")) {
        return Failure::Refused(error.to_string());
    }
    Failure::Away(error.to_string())
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
