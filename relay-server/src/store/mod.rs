//! What the relay remembers: users and tokens (when it runs alone), hosts, browser sessions, and which
//! hosts are online.
//!
//! One behaviour on two databases: SQLite in the data folder, or PostgreSQL, alone or shared with a
//! web app (contract: sidecar). Statements are written once ([`template`]) and every decision about
//! access or liveness is part of the statement that acts on it, so that nothing is granted by a read
//! that went stale. An error is never an answer: callers refuse when the store fails.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `identity`, `hosts`, `sessions`, `presence` | the operations |
//! | `sign_in`, `devices` | passwords, links and sessions of people; devices that ask to be let in |
//! | `identities` | whom a provider knows, and the auth sessions that begin with its word |
//! | `alone` | presence where PostgreSQL gives us no table for it |
//! | `db`, `template` | running statements with a deadline; the words that differ between databases |
//! | `sqlite`, `postgres`, `tables` | the two databases; where PostgreSQL's tables are found |
//! | `error` | what can go wrong |

mod alone;
mod db;
mod devices;
mod error;
mod hosts;
mod identities;
mod identity;
pub mod metrics;
pub(crate) mod postgres;
mod presence;
mod sessions;
mod sign_in;
mod sqlite;
mod tables;
mod template;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;
use zeroize::Zeroizing;

use self::db::Db;
pub use self::devices::{Admission, DeviceLogin, DevicePoll, DeviceRow, NewDevice};
pub use self::error::{OpenError, StoreError};
pub use self::hosts::HostRow;
pub use self::identities::{Adopted, Grounds, Person};
pub use self::identity::{TokenRow, User};
pub use self::sessions::BrowserSession;
pub use self::sign_in::{Account, AuthSessionRow, NewSignIn, SignInKind};
/// How long a one-time link is good.
pub const LOGIN_LINK: Duration = Duration::from_secs(template::LOGIN_LINK_SECONDS);
/// How long a device waits to be let in.
pub const DEVICE_LOGIN: Duration = Duration::from_secs(template::DEVICE_LOGIN_SECONDS);
/// How long it waits between two questions.
pub const DEVICE_POLL: Duration = Duration::from_secs(template::DEVICE_POLL_SECONDS);

/// How long a caller waits for a free connection to the database.
pub const DEFAULT_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections to the database. No request on the warm path needs one; ten carry thousands of
/// connects and sign-ins per second.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 10;
/// How often a shared PostgreSQL database is asked where the tables are.
pub const DEFAULT_RECHECK: Duration = Duration::from_secs(5);

/// Which database, from its URL.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL URL, which may hold a password.
    Postgres(Zeroizing<String>),
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(***)"),
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = OpenError;

    /// `postgresql://…`, `postgres://…`, `sqlite:PATH` or `sqlite://PATH` (parameters after `?` are
    /// dropped). The text itself, which may hold a password, is in no error.
    fn from_str(text: &str) -> Result<Self, OpenError> {
        if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            return Ok(Self::Postgres(Zeroizing::new(text.to_owned())));
        }
        let Some(rest) = text.strip_prefix("sqlite:") else {
            return Err(OpenError::Url(
                "it begins with none of postgresql://, postgres://, sqlite:".to_owned(),
            ));
        };
        let path = rest.strip_prefix("//").unwrap_or(rest).split('?').next().unwrap_or_default();
        if path.is_empty() || path == ":memory:" {
            return Err(OpenError::Url("sqlite: needs the path of a file".to_owned()));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

/// How to open the store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Which database.
    pub url: DatabaseUrl,
    /// At most so many connections at once.
    pub max_connections: u32,
    /// How long a caller waits for one of them.
    pub acquire_timeout: Duration,
}

impl StoreOptions {
    /// The defaults for this database.
    pub fn new(url: DatabaseUrl) -> Self {
        Self { url, max_connections: DEFAULT_MAX_CONNECTIONS, acquire_timeout: DEFAULT_ACQUIRE_TIMEOUT }
    }
}

/// Whose the users and tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Ours: `relay-server user` and `relay-server token` manage them.
    Own,
    /// The web app's, in its tables.
    WebApp,
}

/// The store. Clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    /// The tunnels that are open in this process, connection to host, told by the calls of
    /// [`Store::tunnel_opened`], [`Store::tunnel_closed`] and [`Store::tunnels_are`].
    open: Mutex<HashMap<Uuid, Uuid>>,
    metrics: metrics::Metrics,
}

impl Store {
    /// Opens the database, makes it when that is possible, and brings our tables up to date. On
    /// PostgreSQL a user that may not create a schema is no error: see [`Store::notices`].
    pub async fn open(options: &StoreOptions) -> Result<Self, OpenError> {
        Self::open_with_recheck(options, DEFAULT_RECHECK).await
    }

    /// As [`Store::open`], with another interval for looking where a web app's tables are.
    pub async fn open_with_recheck(options: &StoreOptions, recheck: Duration) -> Result<Self, OpenError> {
        let (connections, wait) = (options.max_connections.max(1), options.acquire_timeout);
        let db = match &options.url {
            DatabaseUrl::Sqlite(path) => Db::Sqlite(sqlite::Database::open(path, connections, wait).await?),
            DatabaseUrl::Postgres(url) => {
                Db::Postgres(postgres::Database::open(url, connections, wait, recheck).await?)
            }
        };
        let metrics = metrics::Metrics::new();
        Ok(Self { inner: Arc::new(Inner { db, open: Mutex::new(HashMap::new()), metrics }) })
    }

    /// What is off as things stand, in sentences for the start-up log. Empty when nothing is.
    pub fn notices(&self) -> Vec<String> {
        match &self.inner.db {
            Db::Sqlite(_) => Vec::new(),
            Db::Postgres(db) => db.tables().notices(),
        }
    }

    /// Whose the users and tokens are, as of the last look (see [`DEFAULT_RECHECK`]).
    pub fn identity(&self) -> Identity {
        let own = match &self.inner.db {
            Db::Sqlite(_) => true,
            Db::Postgres(db) => db.tables().own_identity(),
        };
        if own { Identity::Own } else { Identity::WebApp }
    }

    /// Whether people can sign in here: the users are ours, and so is what signing in needs.
    pub fn signs_in(&self) -> bool {
        match &self.inner.db {
            Db::Sqlite(_) => true,
            Db::Postgres(db) => db.tables().signs_in(),
        }
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.db().fetch::<(i64,)>("select cast(1 as bigint)", &[]).await.map(drop)
    }

    /// The connections to the database: all of them, and those that nobody uses.
    pub fn connections(&self) -> (u32, usize) {
        match &self.inner.db {
            Db::Sqlite(db) => db.connections(),
            Db::Postgres(db) => db.connections(),
        }
    }

    fn db(&self) -> metrics::Counted<'_> {
        metrics::Counted { db: &self.inner.db, metrics: &self.inner.metrics }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_are_told_apart() {
        let sqlite = |path: &str| Some(DatabaseUrl::Sqlite(PathBuf::from(path)));
        let postgres = |url: &str| Some(DatabaseUrl::Postgres(Zeroizing::new(url.to_owned())));
        let cases = [
            ("sqlite:data/relay.db", sqlite("data/relay.db")),
            ("sqlite://data/relay.db", sqlite("data/relay.db")),
            ("sqlite:///var/lib/relay.db?mode=rwc", sqlite("/var/lib/relay.db")),
            ("postgres://u:p@h/d?sslmode=disable", postgres("postgres://u:p@h/d?sslmode=disable")),
            ("postgresql://h/d", postgres("postgresql://h/d")),
            ("mysql://u:hunter2@h/d", None),
            ("sqlite:", None),
            ("sqlite::memory:", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<DatabaseUrl>().ok(), expected, "{text}");
        }
    }

    #[test]
    fn no_password_is_ever_printed() {
        let url: DatabaseUrl = "postgres://u:hunter2@h/d".parse().unwrap();
        assert_eq!(format!("{:?}", StoreOptions::new(url)).matches("hunter2").count(), 0);
        let error = "mysql://u:hunter2@h/d".parse::<DatabaseUrl>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
