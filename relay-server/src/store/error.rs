//! What can go wrong, as callers must tell it apart: away, not allowed so, not there yet, damaged.

use std::path::PathBuf;

/// Why a store operation did not happen. None of them ever means "no": callers refuse and say why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database is away, too slow or out of connections. Trying again later may work.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// The database answered, and what was asked contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// Tables that the operation needs are not there, or not for this database user. The relay works
    /// as soon as they are.
    #[error("{0}")]
    NotReady(String),
    /// What the database holds cannot be read.
    #[error("the database holds something that this relay cannot read: {0}")]
    Corrupt(String),
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database URL is not one.
    #[error("the database URL cannot be used: {0}")]
    Url(String),
    /// The folder or the file of the SQLite database cannot be made or opened.
    #[error("cannot open the database file {}: {reason}", .path.display())]
    File {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The database server cannot be reached or refuses us.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// Our own tables could not be made or brought up to date.
    #[error("cannot bring the database up to date: {0}")]
    Migrate(String),
}

/// What a failed statement asks for.
#[derive(Debug)]
pub(super) enum Failure {
    /// What the database knew of the tables is out of date (or it chose us to break a deadlock): look
    /// again where they are and try once more.
    Again(StoreError),
    /// Nothing will change by trying again at once.
    Final(StoreError),
}

impl Failure {
    /// The error for the caller, when there is no second try.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Again(error) | Self::Final(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Database(database) => {
                let code = database.code().unwrap_or_default();
                of_code(&code, database.message())
            }
            E::ColumnDecode { .. } | E::Decode(_) | E::ColumnNotFound(_) | E::TypeNotFound { .. } => {
                Self::Final(StoreError::Corrupt(error.to_string()))
            }
            _ => Self::Final(StoreError::Unavailable(error.to_string())),
        }
    }
}

/// The meaning of a SQLSTATE (five characters) or of an extended SQLite result code (a number).
fn of_code(code: &str, message: &str) -> Failure {
    let text = message.to_owned();
    match code {
        // undefined_table, invalid_schema_name: a table moved.
        "42P01" | "3F000" => Failure::Again(StoreError::NotReady(text)),
        // feature_not_supported ("cached plan must not change result type"),
        // invalid_sql_statement_name: a prepared statement is out of date.
        "0A000" | "26000" => Failure::Again(StoreError::Unavailable(text)),
        // serialization_failure, deadlock_detected.
        "40001" | "40P01" => Failure::Again(StoreError::Unavailable(text)),
        // insufficient_privilege, undefined_column: not what the contract promises, or not yet.
        "42501" | "42703" => Failure::Final(StoreError::NotReady(text)),
        // integrity_constraint_violation and its kinds; SQLITE_CONSTRAINT_UNIQUE, _PRIMARYKEY, ...
        code if code.len() == 5 && code.starts_with("23") => Failure::Final(StoreError::Conflict(text)),
        "19" | "275" | "787" | "1299" | "1555" | "2067" => Failure::Final(StoreError::Conflict(text)),
        // SQLITE_CORRUPT, SQLITE_NOTADB.
        "11" | "26" => Failure::Final(StoreError::Corrupt(text)),
        _ => Failure::Final(StoreError::Unavailable(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_callers_need() {
        let text = || "m".to_owned();
        let cases = [
            ("42P01", true, StoreError::NotReady(text())),
            ("0A000", true, StoreError::Unavailable(text())),
            ("40P01", true, StoreError::Unavailable(text())),
            ("42501", false, StoreError::NotReady(text())),
            ("23505", false, StoreError::Conflict(text())),
            ("23503", false, StoreError::Conflict(text())),
            ("2067", false, StoreError::Conflict(text())),
            ("11", false, StoreError::Corrupt(text())),
            ("5", false, StoreError::Unavailable(text())),
            ("57014", false, StoreError::Unavailable(text())),
            ("", false, StoreError::Unavailable(text())),
        ];
        for (code, again, error) in cases {
            let failure = of_code(code, "m");
            assert_eq!(matches!(failure, Failure::Again(_)), again, "{code}");
            assert_eq!(failure.into_error(), error, "{code}");
        }
    }
}
