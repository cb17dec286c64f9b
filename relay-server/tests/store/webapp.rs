//! PostgreSQL that a web app shares: whichever of the two starts first, and while it goes on.

use std::sync::Arc;
use std::time::Duration;

use relay_protocol::api::HostStatus;
use relay_server::store::{Identity, Store, StoreError, StoreOptions};
use uuid::Uuid;

use crate::bench::{server, signed_in, unique, until};
use crate::postgres::Postgres;

/// What a web app makes, with plain statements that fail where a table is there already.
pub const TABLES: &str = "
    create table users (id uuid primary key, email text not null, first_name text, last_name text, username text,
        created_at timestamptz not null default now(), updated_at timestamptz not null default now());
    create table auth_sessions (id uuid primary key, user_id uuid not null references users (id) on delete cascade,
        created_at timestamptz not null default now(), last_used_at timestamptz, revoked_at timestamptz);
    create table organization_member_metadata (organization_id uuid not null,
        user_id uuid not null references users (id) on delete cascade, primary key (organization_id, user_id));
    create table hosts (id uuid primary key default gen_random_uuid(),
        owner_user_id uuid not null references users (id) on delete cascade, shared_with_organization_id uuid,
        machine_id text not null, name text not null,
        status text not null default 'offline' check (status in ('offline', 'online')), last_seen_at timestamptz,
        agent_version text, created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
        unique (owner_user_id, machine_id));
    create table relay_browser_sessions (id uuid primary key default gen_random_uuid(),
        host_id uuid not null references hosts (id) on delete cascade,
        user_id uuid not null references users (id) on delete cascade,
        auth_session_id uuid not null references auth_sessions (id) on delete cascade,
        created_at timestamptz not null default now(), last_used_at timestamptz, revoked_at timestamptz);
";

/// Its migration history, as its own library keeps it.
const HISTORY: &str = "
    create table _sqlx_migrations (version bigint primary key, description text not null,
        installed_on timestamptz not null default now(), success boolean not null, checksum bytea not null,
        execution_time bigint not null);
    insert into _sqlx_migrations values (1, 'store', now(), true, '\\x0102', 5), (20250101, 'more', now(), true, '\\x03', 6);
";

/// Everything that `public` is made of, and every row of the history there.
const FINGERPRINT: &str = "select md5(string_agg(line, chr(10) order by line)) from (
    select concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) as line
        from information_schema.columns where table_schema = 'public'
    union all select concat_ws(' ', tablename, indexdef) from pg_indexes where schemaname = 'public'
    union all select concat_ws(' ', conname, pg_get_constraintdef(c.oid)) from pg_constraint c
        join pg_namespace n on n.oid = c.connamespace where n.nspname = 'public'
    union all select m::text from public._sqlx_migrations m) everything";

/// Longer than any test: what happens then happens without the regular look.
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(50);

pub struct Shared {
    pub server: Arc<Postgres>,
    pub database: String,
}

impl Shared {
    pub fn new() -> Self {
        let (server, database) = (server(), unique("shared"));
        server.createdb(&database);
        Self { server, database }
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    pub async fn open_as(&self, role: &str, recheck: Duration) -> Store {
        let options = StoreOptions::new(self.server.url_as(role, &self.database).parse().unwrap());
        Store::open_with_recheck(&options, recheck).await.unwrap()
    }

    async fn open(&self, recheck: Duration) -> Store {
        self.open_as("postgres", recheck).await
    }

    /// A user with a sign-in, as the web app makes them.
    pub fn web_user(&self, name: &str) -> (Uuid, Uuid) {
        let (user, session) = (Uuid::new_v4(), Uuid::new_v4());
        self.sql(&format!(
            "insert into public.users (id, email) values ('{user}', '{name}@example.org'); \
             insert into public.auth_sessions (id, user_id) values ('{session}', '{user}')"
        ));
        (user, session)
    }
}

fn is_conflict<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

/// Everything that a relay does in a web app's tables.
pub async fn the_relay_works(shared: &Shared, store: &Store) {
    let name = unique("user");
    let (user, session) = shared.web_user(&name);
    assert_eq!(store.identity(), Identity::WebApp);
    assert!(store.users().await.unwrap().iter().any(|u| u.id == user), "its users can be listed");
    assert!(is_conflict(store.add_user("x@example.org").await));
    assert!(is_conflict(store.create_token(&format!("{name}@example.org"), "x", 1).await));
    assert!(is_conflict(store.revoke_token(session).await));
    assert!(is_conflict(store.tokens().await));
    assert!(!store.signs_in(), "people sign in at the web app");
    let email = format!("{name}@example.org");
    assert!(is_conflict(store.reset_password(&email, "x").await));
    assert!(is_conflict(store.add_login_link(&email, "x").await));

    assert!(store.auth_session_live(session, user).await.unwrap());
    let noted = format!("select last_used_at is not null from public.auth_sessions where id = '{session}'");
    assert_eq!(shared.sql(&noted), "t");

    let host = store.upsert_host(user, "machine", "Laptop", Some("1")).await.unwrap();
    assert_eq!(store.upsert_host(user, "machine", "Other", None).await.unwrap(), host);
    assert_eq!(shared.sql(&format!("select name from public.hosts where id = '{host}'")), "Laptop");
    let browser = store.create_browser_session(host, user, session).await.unwrap();
    assert_eq!(store.live_browser_sessions(&[browser.id]).await.unwrap().len(), 1);
    shared.sql(&format!("update public.auth_sessions set revoked_at = now() where id = '{session}'"));
    assert_eq!(store.live_browser_sessions(&[browser.id]).await.unwrap(), vec![]);
    assert!(!store.auth_session_live(session, user).await.unwrap());

    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    store.tunnel_opened("a", old, host).await.unwrap();
    store.tunnel_opened("a", new, host).await.unwrap();
    store.tunnel_closed("a", old, host).await.unwrap();
    let status = || shared.sql(&format!("select status from public.hosts where id = '{host}'"));
    assert_eq!(status(), "online");
    store.tunnels_alive("a", &[(new, host)]).await.unwrap();
    assert_eq!(status(), "online");
    store.tunnel_closed("a", new, host).await.unwrap();
    assert_eq!(status(), "offline");
    assert_eq!(store.hosts(user).await.unwrap()[0].status, HostStatus::Offline);
    assert!(store.delete_host(host, user).await.unwrap());
    assert_eq!(
        shared.sql(&format!("select count(*) from public.relay_browser_sessions where host_id = '{host}'")),
        "0"
    );
}

#[tokio::test]
async fn the_web_app_first() {
    let shared = Shared::new();
    shared.sql(TABLES);
    shared.sql(HISTORY);
    let before = shared.sql(FINGERPRINT);
    for _ in 0..2 {
        let store = shared.open(NEVER).await;
        the_relay_works(&shared, &store).await;
        assert_eq!(store.notices().len(), 1, "{:?}", store.notices());
    }
    assert_eq!(shared.sql(FINGERPRINT), before, "public is as the web app made it");
    let ours = "select string_agg(table_name, ' ' order by table_name) from information_schema.tables where table_schema = 'relay'";
    assert_eq!(
        shared.sql(ours),
        "_sqlx_migrations auth_sessions credentials device_logins hosts login_links organization_member_metadata \
         refresh_tokens relay_browser_sessions relay_bus_frames relays sign_ins tokens tunnels users \
         workspace_relay_presences"
    );
    assert_eq!(shared.sql("select count(*) from relay.hosts"), "0");
}

#[tokio::test]
async fn the_web_app_later() {
    let shared = Shared::new();
    let store = shared.open(SOON).await;
    assert_eq!(store.identity(), Identity::Own);
    let (ann, session) = signed_in(&store, "ann").await;
    let host = store.upsert_host(ann, "machine", "Laptop", None).await.unwrap();
    let connection = Uuid::new_v4();
    store.tunnel_opened("a", connection, host).await.unwrap();
    // Often enough that every connection has its plans prepared.
    for _ in 0..50 {
        assert!(store.host_access(host, ann).await.unwrap().is_some());
        assert!(store.auth_session_live(session, ann).await.unwrap());
    }

    shared.sql(TABLES);
    shared.sql(HISTORY);
    let before = shared.sql(FINGERPRINT);
    until("the web app's tables are used", async || {
        store.ping().await.unwrap();
        store.identity() == Identity::WebApp
    })
    .await;
    assert!(!store.auth_session_live(session, ann).await.unwrap(), "our own tokens are void now");
    assert_eq!(store.host_access(host, ann).await.unwrap(), None);
    store.tunnels_alive("a", &[(connection, host)]).await.unwrap();
    store.tunnel_closed("a", connection, host).await.unwrap();
    the_relay_works(&shared, &store).await;
    let second_start = shared.open(NEVER).await;
    the_relay_works(&shared, &second_start).await;
    assert_eq!(shared.sql(FINGERPRINT), before);
    assert_eq!(shared.sql("select count(*) from relay.users"), "1", "and ours are left as they were");
}

#[tokio::test]
async fn nothing_is_added_beside_a_web_app_that_came_a_moment_ago() {
    let shared = Shared::new();
    let store = shared.open(NEVER).await;
    signed_in(&store, "ann").await;
    shared.sql(TABLES);
    assert!(is_conflict(store.add_user("bob@example.org").await));
    assert_eq!(shared.sql("select count(*) from public.users"), "0");
}

#[tokio::test]
async fn the_web_app_migrates_while_the_relay_runs() {
    let shared = Shared::new();
    shared.sql(TABLES);
    let store = shared.open(NEVER).await;
    the_relay_works(&shared, &store).await;
    let (user, _) = shared.web_user("ann");
    let host = store.upsert_host(user, "m", "Laptop", None).await.unwrap();
    for _ in 0..20 {
        assert_eq!(store.hosts(user).await.unwrap().len(), 1);
    }
    // Another type for a column that prepared statements return.
    shared.sql("alter table public.hosts alter column name type varchar(300), add column note text");
    for _ in 0..20 {
        assert_eq!(store.hosts(user).await.unwrap()[0].name, "Laptop");
    }
    // Made anew, as some migrations do.
    shared.sql(
        "begin; alter table public.relay_browser_sessions drop constraint relay_browser_sessions_host_id_fkey; \
         create table public.hosts_new (like public.hosts including all); \
         insert into public.hosts_new select * from public.hosts; \
         drop table public.hosts; alter table public.hosts_new rename to hosts; commit",
    );
    assert_eq!(store.upsert_host(user, "m", "Other", Some("2")).await.unwrap(), host);
    assert_eq!(store.hosts(user).await.unwrap()[0].agent_version.as_deref(), Some("2"));
    the_relay_works(&shared, &store).await;

    // A whole reset: the tables go and come back empty.
    let tables = "public.relay_browser_sessions, public.hosts, public.organization_member_metadata, \
                  public.auth_sessions, public.users";
    shared.sql(&format!("drop table {tables} cascade"));
    assert_eq!(store.host(host).await.unwrap(), None);
    shared.sql(TABLES);
    let soon = shared.open(SOON).await;
    the_relay_works(&shared, &soon).await;
    assert!(is_conflict(store.add_user("x@example.org").await), "which also looks anew");
    the_relay_works(&shared, &store).await;
}

#[tokio::test]
async fn connections_that_the_server_cut_are_replaced() {
    let shared = Shared::new();
    shared.sql(TABLES);
    let store = shared.open(NEVER).await;
    store.ping().await.unwrap();
    let database = &shared.database;
    shared.server.psql(
        "postgres",
        &format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"),
    );
    until("the store answers again", async || store.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_told_at_once_and_without_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let url =
        format!("postgres://relay:hunter2@localhost/x?host={}&sslmode=disable", folder.path().display());
    let error = Store::open(&StoreOptions::new(url.parse().unwrap())).await.map(drop).unwrap_err();
    assert!(matches!(error, relay_server::store::OpenError::Connect(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
