//! PostgreSQL: alone, or beside a web app whose tables in `public` we share.
//!
//! Nothing in `public` is ever created or altered here, and the web app's migration history there is
//! not even read: ours is `relay._sqlx_migrations`. Each of the five tables of the contract is the
//! web app's when it exists and ours otherwise. Either side may start first, so where the tables are
//! is looked up again every few seconds and whenever a statement misses one. Statements name the
//! schema outright: a search path would be frozen into prepared plans, and rows would go on into
//! tables that nobody reads any more.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres};
use tokio::time::timeout;

use super::db::{Arg, Record, STATEMENT_DEADLINE, Step, too_slow};
use super::error::{Failure, OpenError, StoreError};
pub(super) use super::tables::Tables;
use super::tables::{CATALOG, CONTRACT_TABLES, own_tables};
use super::template::render;

/// How long connecting, and waiting for another relay or the web app that migrates the same database,
/// may take at start.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);
/// A connection that rested longer is tried before it is used: the server may have restarted.
const TRUSTED_REST: Duration = Duration::from_secs(1);

/// Per connection: the server gives up on what we no longer wait for, and a relay that was stopped in
/// the middle of a transaction does not keep rows locked.
const SESSION_SETTINGS: &str =
    "set statement_timeout = '5s'; set idle_in_transaction_session_timeout = '10s'";

/// Whether the schema exists, and whether the database user may make schemas and make tables in it. One
/// whose history is somebody else's to write is not ours to upgrade.
const PRIVILEGES: &str = "select n.oid is not null, has_database_privilege(current_database(), 'create'), \
     coalesce(has_schema_privilege(n.oid, 'usage') and has_schema_privilege(n.oid, 'create'), false) \
         and coalesce(has_table_privilege(h.oid, 'select') and has_table_privilege(h.oid, 'insert'), true) \
     from (select 1) one left join pg_catalog.pg_namespace n on n.nspname = 'relay' \
     left join pg_catalog.pg_class h on h.relnamespace = n.oid and h.relname = '_sqlx_migrations'";

pub(super) struct Database {
    pool: PgPool,
    recheck: Duration,
    known: Mutex<Known>,
}

/// Where the tables were found, and when to look again.
struct Known {
    tables: Tables,
    due: Instant,
}

/// A connection that goes back to the pool only when its work was done. One that was abandoned in the
/// middle, or did not answer, is closed: it would hold a place in the pool until TCP gives up.
pub(crate) struct Lease {
    pub(crate) connection: PoolConnection<Postgres>,
    pub(crate) done: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.done {
            self.connection.close_on_drop();
        }
    }
}

impl Database {
    /// Connects, makes or upgrades the schema `relay` where the user may, and finds the tables.
    pub(super) async fn open(
        url: &str,
        max_connections: u32,
        acquire_timeout: Duration,
        recheck: Duration,
    ) -> Result<Self, OpenError> {
        let options: PgConnectOptions =
            url.parse().map_err(|error: sqlx::Error| OpenError::Url(error.to_string()))?;
        let options = options.application_name("relay-server").disable_statement_logging();
        timeout(OPEN_DEADLINE, prepare(&options))
            .await
            .map_err(|_| OpenError::Connect(format!("no success within {} s", OPEN_DEADLINE.as_secs())))??;
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for < TRUSTED_REST || connection.ping().await.is_ok()) })
            })
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(SESSION_SETTINGS).await.map(drop) })
            })
            .connect_lazy_with(options);
        let known = Known { tables: Tables::default(), due: Instant::now() };
        let database = Self { pool, recheck, known: Mutex::new(known) };
        database.find_tables().await.map_err(|error| OpenError::Connect(error.to_string()))?;
        Ok(database)
    }

    /// Where the tables are, as far as is known now.
    pub(super) fn tables(&self) -> Tables {
        self.known.lock().tables
    }

    /// Looks where the tables are now.
    pub(super) async fn find_tables(&self) -> Result<Tables, StoreError> {
        let mut lease = self.lease(false).await.map_err(Failure::into_error)?;
        let query = sqlx::query_as::<Postgres, (String, String)>(CATALOG)
            .bind(CONTRACT_TABLES.as_slice())
            .bind(own_tables().collect::<Vec<_>>());
        let rows = timeout(STATEMENT_DEADLINE, query.fetch_all(&mut *lease.connection))
            .await
            .map_err(|_| too_slow())?
            .map_err(|error| Failure::from(error).into_error())?;
        lease.done = true;
        let tables = Tables::from_catalog(&rows);
        let mut known = self.known.lock();
        known.due = Instant::now() + self.recheck;
        if known.tables != tables {
            tracing::info!(?tables, "the database's tables were found");
            known.tables = tables;
        }
        Ok(tables)
    }

    /// The tables for a statement that begins now, looked up anew when that is due.
    async fn current(&self) -> Result<Tables, StoreError> {
        {
            let mut known = self.known.lock();
            let now = Instant::now();
            if now < known.due {
                return Ok(known.tables);
            }
            // One caller looks; the others go on with what is known.
            known.due = now + self.recheck;
        }
        self.find_tables().await
    }

    /// All connections, and those that nobody uses.
    pub(super) fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    pub(super) async fn fetch<T: Record>(
        &self,
        template: &'static str,
        args: &[Arg<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let tables = self.current().await?;
        match self.fetch_once(&tables, template, args, false).await {
            Err(Failure::Again(_)) => {
                let tables = self.find_tables().await?;
                self.fetch_once(&tables, template, args, true).await.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    }

    pub(super) async fn transaction(&self, steps: &[Step<'_>]) -> Result<Vec<u64>, StoreError> {
        let tables = self.current().await?;
        match self.transaction_once(&tables, steps, false).await {
            Err(Failure::Again(_)) => {
                let tables = self.find_tables().await?;
                self.transaction_once(&tables, steps, true).await.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    }

    /// `again` is the second try, which starts without what the connection had prepared: those plans
    /// may be why the first one failed.
    async fn fetch_once<T: Record>(
        &self,
        tables: &Tables,
        template: &'static str,
        args: &[Arg<'_>],
        again: bool,
    ) -> Result<Vec<T>, Failure> {
        let sql = render(template, |name, argument| tables.expand(name, argument))?;
        let query = sqlx::query_as_with::<Postgres, T, _>(AssertSqlSafe(sql), bind(args)?);
        let mut lease = self.lease(again).await?;
        let rows = timeout(STATEMENT_DEADLINE, query.fetch_all(&mut *lease.connection))
            .await
            .map_err(|_| too_slow())??;
        lease.done = true;
        Ok(rows)
    }

    async fn transaction_once(
        &self,
        tables: &Tables,
        steps: &[Step<'_>],
        again: bool,
    ) -> Result<Vec<u64>, Failure> {
        let mut lease = self.lease(again).await?;
        let work = run(&mut lease.connection, tables, steps);
        let affected = timeout(STATEMENT_DEADLINE, work).await.map_err(|_| too_slow())??;
        lease.done = true;
        Ok(affected)
    }

    async fn lease(&self, again: bool) -> Result<Lease, Failure> {
        let mut lease = Lease { connection: self.pool.acquire().await?, done: false };
        if again {
            timeout(STATEMENT_DEADLINE, lease.connection.clear_cached_statements())
                .await
                .map_err(|_| too_slow())??;
        }
        Ok(lease)
    }
}

async fn run(
    connection: &mut PgConnection,
    tables: &Tables,
    steps: &[Step<'_>],
) -> Result<Vec<u64>, Failure> {
    // A single statement is a transaction by itself, in one round trip.
    if let [step] = steps {
        return Ok(vec![execute(connection, tables, step).await?]);
    }
    let mut transaction = connection.begin().await?;
    let mut affected = Vec::with_capacity(steps.len());
    for step in steps {
        affected.push(execute(&mut transaction, tables, step).await?);
    }
    transaction.commit().await?;
    Ok(affected)
}

async fn execute(connection: &mut PgConnection, tables: &Tables, step: &Step<'_>) -> Result<u64, Failure> {
    let sql = render(step.template, |name, argument| tables.expand(name, argument))?;
    let query = sqlx::query_with::<Postgres, _>(AssertSqlSafe(sql), bind(step.args)?);
    Ok(query.execute(connection).await?.rows_affected())
}

/// Makes and upgrades what is ours, as far as the database user may. On a connection of its own,
/// which is closed whatever happens and so gives back the lock that keeps two relays apart.
pub(crate) async fn prepare(options: &PgConnectOptions) -> Result<(), OpenError> {
    let connect = |error: sqlx::Error| OpenError::Connect(error.to_string());
    let mut connection = options.connect().await.map_err(connect)?;
    let (exists, may_create_schema, may_create_in_it): (bool, bool, bool) =
        sqlx::query_as(PRIVILEGES).fetch_one(&mut connection).await.map_err(connect)?;
    if may_create_in_it || (!exists && may_create_schema) {
        let mut migrator = sqlx::migrate!("../migrations/postgres");
        migrator.dangerous_set_table_name("relay._sqlx_migrations");
        // Migrations only add; an older relay still works beside a newer one.
        migrator.set_ignore_missing(true).set_locking(true);
        if !exists {
            migrator.create_schema("relay");
        }
        migrator
            .run_direct(None, &mut connection, false)
            .await
            .map_err(|error| OpenError::Migrate(error.to_string()))?;
    }
    connection.close().await.map_err(connect)
}

fn bind(args: &[Arg<'_>]) -> Result<PgArguments, StoreError> {
    let mut bound = PgArguments::default();
    for arg in args {
        match *arg {
            Arg::Id(id) => Arguments::add(&mut bound, id),
            Arg::Ids(ids) => Arguments::add(&mut bound, ids),
            Arg::Int(number) => Arguments::add(&mut bound, number),
            Arg::Text(text) => Arguments::add(&mut bound, text),
            Arg::MaybeText(text) => Arguments::add(&mut bound, text),
        }
        .map_err(|error| StoreError::Corrupt(error.to_string()))?;
    }
    Ok(bound)
}
