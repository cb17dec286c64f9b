//! One store on one of the databases, with a way behind its back to age and to plant rows.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use relay_server::store::{Store, StoreOptions, User};
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};
use uuid::Uuid;

use crate::postgres::Postgres;

/// The server that the tests running at this moment share; the last of them ends it.
pub fn server() -> Arc<Postgres> {
    static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    running.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Postgres::start());
        *running = Arc::downgrade(&started);
        started
    })
}

/// A database name that no other test has.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(Arc<Postgres>, String),
}

/// A database of its own for one test, and a store on it.
pub struct Bench {
    pub store: Store,
    place: Place,
}

impl Bench {
    pub async fn sqlite() -> Self {
        Self::on(Place::Sqlite(tempfile::tempdir().unwrap())).await
    }

    pub async fn postgres() -> Self {
        let server = server();
        let database = unique("alone");
        server.createdb(&database);
        Self::on(Place::Postgres(server, database)).await
    }

    async fn on(place: Place) -> Self {
        let store = Store::open(&place.options()).await.unwrap();
        Self { store, place }
    }

    pub fn options(&self) -> StoreOptions {
        self.place.options()
    }

    /// Another store on the same database, as a second relay has it.
    pub async fn another(&self) -> Store {
        Store::open(&self.options()).await.unwrap()
    }

    /// Runs SQL behind the store's back, on the relay's own tables.
    pub async fn sql(&self, sql: &str) {
        match &self.place {
            Place::Sqlite(_) => {
                self.sqlite_connection().await.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
            }
            Place::Postgres(server, database) => {
                server.psql(database, &format!("set search_path = relay; {sql}"));
            }
        }
    }

    /// Makes a time of every row of a table older.
    pub async fn age(&self, table: &str, column: &str, seconds: u64) {
        let older = match self.place {
            Place::Sqlite(_) => format!("{column} - {seconds}"),
            Place::Postgres(..) => format!("{column} - interval '{seconds} seconds'"),
        };
        self.sql(&format!("update {table} set {column} = {older}")).await;
    }

    /// Makes a time of every row of a table later.
    pub async fn postpone(&self, table: &str, column: &str, seconds: u64) {
        let later = match self.place {
            Place::Sqlite(_) => format!("{column} + {seconds}"),
            Place::Postgres(..) => format!("{column} + interval '{seconds} seconds'"),
        };
        self.sql(&format!("update {table} set {column} = {later}")).await;
    }

    /// An id as SQL writes it.
    pub fn id(&self, id: Uuid) -> String {
        match self.place {
            Place::Sqlite(_) => format!("x'{}'", id.simple()),
            Place::Postgres(..) => format!("'{id}'"),
        }
    }

    /// A new id as SQL makes it, another one for each row.
    pub fn new_id(&self) -> &'static str {
        match self.place {
            Place::Sqlite(_) => "randomblob(16)",
            Place::Postgres(..) => "gen_random_uuid()",
        }
    }

    /// Adds somebody to an organization.
    pub async fn join(&self, organization: Uuid, user: Uuid) {
        let (organization, user) = (self.id(organization), self.id(user));
        self.sql(&format!("insert into organization_member_metadata (organization_id, user_id) values ({organization}, {user})")).await;
    }

    /// Shares a host with an organization.
    pub async fn share(&self, host: Uuid, organization: Uuid) {
        let (host, organization) = (self.id(host), self.id(organization));
        self.sql(&format!("update hosts set shared_with_organization_id = {organization} where id = {host}"))
            .await;
    }

    /// A connection that keeps every writer out of the hosts until it is dropped.
    pub async fn block_hosts(&self) -> Blocker {
        match &self.place {
            Place::Sqlite(_) => {
                let mut connection = self.sqlite_connection().await;
                connection.execute("begin immediate").await.unwrap();
                Blocker::Sqlite(connection)
            }
            Place::Postgres(..) => {
                let mut connection = self.connection().await;
                connection.execute("begin; lock table relay.hosts in access exclusive mode").await.unwrap();
                Blocker::Postgres(connection)
            }
        }
    }

    /// On PostgreSQL: a connection of one's own to the database.
    pub async fn connection(&self) -> sqlx::PgConnection {
        let Place::Postgres(server, database) = &self.place else { panic!("not PostgreSQL") };
        sqlx::PgConnection::connect(&server.url(database)).await.unwrap()
    }

    /// On PostgreSQL: waits until somebody waits for a lock.
    pub async fn somebody_waits(&self) {
        let Place::Postgres(server, database) = &self.place else { panic!("not PostgreSQL") };
        let waiting = format!(
            "select count(*) from pg_stat_activity where datname = '{database}' and wait_event_type = 'Lock'"
        );
        until("somebody waits for a lock", async || server.psql("postgres", &waiting) != "0").await;
    }

    async fn sqlite_connection(&self) -> SqliteConnection {
        let Place::Sqlite(folder) = &self.place else { panic!("not SQLite") };
        SqliteConnection::connect(folder.path().join("data/relay.db").to_str().unwrap()).await.unwrap()
    }
}

pub enum Blocker {
    Sqlite(SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl Blocker {
    pub async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

impl Place {
    fn options(&self) -> StoreOptions {
        let url = match self {
            Self::Sqlite(folder) => format!("sqlite:{}", folder.path().join("data/relay.db").display()),
            Self::Postgres(server, database) => server.url(database),
        };
        StoreOptions::new(url.parse().unwrap())
    }
}

/// A user of that name.
pub async fn user(store: &Store, name: &str) -> User {
    store.add_user(&format!("{name}@example.org")).await.unwrap()
}

/// A user with a token: the user's id and the auth session's.
pub async fn signed_in(store: &Store, name: &str) -> (Uuid, Uuid) {
    let user = user(store, name).await;
    let token = store.create_token(&user.email, "test", i64::from(i32::MAX)).await.unwrap();
    (user.id, token.id)
}

/// Asks until the answer is yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !ask().await {
        assert!(Instant::now() < give_up, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes one test of each function for each database.
#[macro_export]
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::bench::Bench::sqlite().await).await; })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::bench::Bench::postgres().await).await; })+
        }
    };
}
