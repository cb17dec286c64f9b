//! SQLite: one file in the data folder, for a relay that runs alone.
//!
//! The command line and the server open the same file at the same time, so every write takes its
//! lock at the start (`begin immediate`) and waits for it, rather than failing half-way.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool};
use tokio::time::timeout;
use uuid::Uuid;

use super::db::{Arg, Record, STATEMENT_DEADLINE, Step, too_slow};
use super::error::{Failure, OpenError, StoreError};
use super::template::{render, seconds, unknown};

/// How long opening waits for another process that is just making or upgrading the same file.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How often it looks: switching to WAL does not wait for locks by itself.
const OPEN_RETRY: Duration = Duration::from_millis(50);

pub(super) struct Database {
    pool: SqlitePool,
}

impl Database {
    /// Opens the file, which is made (mode 0600, its folder 0700) when it is not there, and applies
    /// the migrations.
    pub(super) async fn open(
        path: &Path,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, OpenError> {
        let failed = |reason: String| OpenError::File { path: path.to_owned(), reason };
        create(path).map_err(|error| failed(error.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(STATEMENT_DEADLINE)
            .disable_statement_logging();
        let give_up = Instant::now() + OPEN_DEADLINE;
        loop {
            match migrate(&options).await {
                Ok(()) => break,
                Err(error) if is_busy(&error) && Instant::now() < give_up => {
                    tokio::time::sleep(OPEN_RETRY).await
                }
                Err(sqlx::Error::Migrate(error)) => return Err(OpenError::Migrate(error.to_string())),
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        let pool = SqlitePoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(acquire_timeout)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self { pool })
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
        let sql = render(template, expand)?;
        let query = sqlx::query_as_with::<Sqlite, T, _>(AssertSqlSafe(sql), bind(args)?);
        let mut connection = self.pool.acquire().await.map_err(final_error)?;
        timeout(STATEMENT_DEADLINE, query.fetch_all(&mut *connection))
            .await
            .map_err(|_| too_slow())?
            .map_err(final_error)
    }

    pub(super) async fn transaction(&self, steps: &[Step<'_>]) -> Result<Vec<u64>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(final_error)?;
        timeout(STATEMENT_DEADLINE, run(&mut connection, steps)).await.map_err(|_| too_slow())?
    }
}

async fn run(connection: &mut SqliteConnection, steps: &[Step<'_>]) -> Result<Vec<u64>, StoreError> {
    let mut transaction = connection.begin_with("begin immediate").await.map_err(final_error)?;
    let mut affected = Vec::with_capacity(steps.len());
    for step in steps {
        let sql = render(step.template, expand)?;
        let query = sqlx::query_with::<Sqlite, _>(AssertSqlSafe(sql), bind(step.args)?);
        affected.push(query.execute(&mut *transaction).await.map_err(final_error)?.rows_affected());
    }
    transaction.commit().await.map_err(final_error)?;
    Ok(affected)
}

fn final_error(error: sqlx::Error) -> StoreError {
    Failure::from(error).into_error()
}

/// Makes the folder and the file, so that they never exist with wider rights. What is there already
/// keeps the rights that a person gave it.
fn create(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Applies the migrations under one write lock: two processes that start on an empty file at once
/// must not both make the tables.
async fn migrate(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    let mut transaction = connection.begin_with("begin immediate").await?;
    let mut migrator = sqlx::migrate!("../migrations/sqlite");
    // Migrations only add; an older relay still works on a newer file.
    migrator.set_ignore_missing(true);
    migrator.run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    connection.close().await
}

/// SQLITE_BUSY or SQLITE_LOCKED, also with their extended codes: the low byte tells.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// What the words of a template mean here.
pub(super) fn expand(name: &str, argument: &str) -> Result<String, StoreError> {
    Ok(match name {
        "users"
        | "auth_sessions"
        | "organization_member_metadata"
        | "hosts"
        | "relay_browser_sessions"
        | "tunnels"
        | "tokens"
        | "credentials"
        | "sign_ins"
        | "login_links"
        | "device_logins"
        | "refresh_tokens"
        | "identities"
        | "provider_sessions" => name.to_owned(),
        "own" => expand(argument, "")?,
        "now" => "unixepoch()".to_owned(),
        "ago" => format!("(unixepoch() - {})", seconds(argument)?),
        "from_now" => format!("(unixepoch() + {})", seconds(argument)?),
        "unix" | "time" => argument.to_owned(),
        "in" => format!("in (select unhex(value) from json_each({argument}))"),
        "zip" => {
            let (left, right) = argument.split_once(',').ok_or_else(|| unknown(name))?;
            format!(
                "(select unhex(l.value) as connection_id, unhex(r.value) as host_id \
                 from json_each({left}) l join json_each({right}) r on r.key = l.key) as z"
            )
        }
        // A write transaction locks the whole database from its start.
        "lock" => String::new(),
        other => return Err(unknown(other)),
    })
}

fn bind(args: &[Arg<'_>]) -> Result<SqliteArguments, StoreError> {
    let mut bound = SqliteArguments::default();
    for arg in args {
        match *arg {
            Arg::Id(id) => Arguments::add(&mut bound, id),
            Arg::Ids(ids) => Arguments::add(&mut bound, json(ids)),
            Arg::Int(number) => Arguments::add(&mut bound, number),
            Arg::Text(text) => Arguments::add(&mut bound, text),
            Arg::MaybeText(text) => Arguments::add(&mut bound, text),
        }
        .map_err(|error| StoreError::Corrupt(error.to_string()))?;
    }
    Ok(bound)
}

/// A list of ids as JSON, each as 32 hexadecimal digits, for `json_each` and `unhex`.
fn json(ids: &[Uuid]) -> String {
    let mut text = String::with_capacity(2 + ids.len() * 35);
    text.push('[');
    for (index, id) in ids.iter().enumerate() {
        text.push_str(if index == 0 { "\"" } else { ",\"" });
        text.push_str(id.simple().encode_lower(&mut Uuid::encode_buffer()));
        text.push('"');
    }
    text.push(']');
    text
}
