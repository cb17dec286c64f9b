//! The common knowledge in PostgreSQL: the relay's own database or another one.
//!
//! | table | what it holds |
//! | --- | --- |
//! | `relay.workspace_relay_presences` | which relay holds which daemon; what counts is `record`, which is sealed |
//! | `relay.relay_bus_frames` | frames, for a minute; NOTIFY wakes who they are for, and polling those whom it missed |
//! | `relay.relays` | the relays and their addresses; with `relay.tunnels` it tells where hosts are |
//!
//! This file holds presence and questions, [`bus`] the frames, [`sql`] what is said to the database. A database that is
//! away, or whose user may not have these tables, delays nothing: it is tried again.

mod bus;
mod sql;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::sql::{ANNOUNCE, CLAIM, HOLDERS, LOOK_AT, OTHERS, OVER, RELEASE, SESSION_SETTINGS, USABLE};
use super::address::{self, MAX_RECORD, Record};
use super::backoff::Backoff;
use super::envelope::Key;
use super::health::{DEADLINE, Failure, Health};
use super::holding::{Judge, Verdict};
use super::metrics::Metrics;
use super::presence::{Fact, Written};
use super::{Holder, Pair};
use crate::clock::unix_ms_i64;
use crate::store::postgres::{Lease, prepare};

/// Connections: questions, presence and frames are short, and wait for each other no longer than that.
const CONNECTIONS: u32 = 4;
/// A connection that rested longer is tried before it is used.
const TRUSTED_REST: Duration = Duration::from_secs(1);
/// How often what is over is removed.
const SWEEP: Duration = Duration::from_secs(20);
/// How often the tables are looked for that this user may not make.
const LOOK: Duration = Duration::from_secs(5);
/// How long connecting and migrating may take.
const PREPARE: Duration = Duration::from_secs(60);
/// Other relays with tunnels of one host that are told of.
const MOST_HOLDERS: i64 = 16;
/// A longer record of a daemon is none.
const LONGEST_RECORD: i32 = MAX_RECORD as i32;
/// How often what is there may change between looking and writing. Each time another relay wrote.
const SWAPS: usize = 4;

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

/// What is written of a daemon, and the time there in ms.
async fn look(lease: &mut Lease, pair: &Pair) -> Result<(i64, Option<String>), Failure> {
    let query = sqlx::query_as(LOOK_AT).bind(&*pair.workspace).bind(target(pair)).bind(LONGEST_RECORD);
    query.fetch_one(&mut *lease.connection).await.map_err(failure)
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
