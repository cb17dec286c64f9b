//! Statements and transactions on whichever database it is, each with a deadline.

use std::time::Duration;

use sqlx::FromRow;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::error::StoreError;
use super::{postgres, sqlite};

/// How long one statement, or one transaction as a whole, may take. Everything asked here is answered
/// within milliseconds by a database that is well; a caller who waits is a browser that waits.
pub(super) const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);

/// A bound value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Id(Uuid),
    Ids(&'a [Uuid]),
    Int(i64),
    Text(&'a str),
    MaybeText(Option<&'a str>),
}

/// One statement of a transaction.
pub(super) struct Step<'a> {
    pub(super) template: &'static str,
    pub(super) args: &'a [Arg<'a>],
}

/// A row that both databases can give.
pub(super) trait Record:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}
impl<T> Record for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// The database that the store was opened on.
pub(super) enum Db {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
}

impl Db {
    /// Runs one statement and returns its rows.
    pub(super) async fn fetch<T: Record>(
        &self,
        template: &'static str,
        args: &[Arg<'_>],
    ) -> Result<Vec<T>, StoreError> {
        match self {
            Self::Sqlite(db) => db.fetch(template, args).await,
            Self::Postgres(db) => db.fetch(template, args).await,
        }
    }

    /// Runs one statement and returns how many rows it changed.
    pub(super) async fn execute(&self, template: &'static str, args: &[Arg<'_>]) -> Result<u64, StoreError> {
        let affected = self.transaction(&[Step { template, args }]).await?;
        Ok(affected.first().copied().unwrap_or(0))
    }

    /// Runs the statements in one transaction and returns how many rows each of them changed.
    pub(super) async fn transaction(&self, steps: &[Step<'_>]) -> Result<Vec<u64>, StoreError> {
        match self {
            Self::Sqlite(db) => db.transaction(steps).await,
            Self::Postgres(db) => db.transaction(steps).await,
        }
    }
}

/// The error of a deadline that passed.
pub(super) fn too_slow() -> StoreError {
    StoreError::Unavailable(format!("no answer within {} s", STATEMENT_DEADLINE.as_secs()))
}
