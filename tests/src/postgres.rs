//! A PostgreSQL server of the test's own, from the programs that Debian installs, and the web app
//! that owns tables in it.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    SOON,
    process::{Process, command, run},
};

/// How often another port is tried when somebody else took the one that was free.
const PORT_TRIES: usize = 5;

/// A running server. It ends with the test.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    // Before the directory, so that the server has ended when that is removed.
    process: Process,
    dir: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub async fn start() -> Self {
        let programs = programs();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        if let Some(user) = server_user() {
            std::os::unix::fs::chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .expect("root may give a directory away");
        }
        let mut initdb = as_server_user(command(programs.join("initdb")));
        initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "-D"]).arg(&data);
        let out = run(initdb).await;
        assert!(out.status.success(), "initdb: {out:?}");

        for _ in 0..PORT_TRIES {
            let port = free_port();
            if let Some(process) = serve(&dir, port).await {
                return Self { port, process, dir };
            }
        }
        panic!("no port stayed free for PostgreSQL");
    }

    /// `kill -9` of the server; its own children follow it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its fast shutdown: connections are ended, nothing is lost.
    pub async fn stop(&mut self) {
        self.process.signal(Signal::SIGINT);
        self.process.wait(SOON).await;
    }

    /// It comes back on the same port with the same data.
    pub async fn restart(&mut self) {
        self.process.kill();
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            // Until its orphans have noticed and gone, the server refuses its own data.
            if let Some(process) = serve(&self.dir, self.port).await {
                self.process = process;
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "PostgreSQL does not come back");
            tokio::time::sleep(crate::POLL).await;
        }
    }

    /// The URL of a database for a role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// A new and empty database, and its URL for the superuser.
    pub async fn database(&self, name: &str) -> String {
        self.execute("postgres", &format!("CREATE DATABASE {name}")).await;
        self.url_as("postgres", name)
    }

    /// A connection as superuser.
    pub async fn connect(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.url_as("postgres", database)).await.expect("the server accepts")
    }

    /// Runs statements as superuser.
    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await;
        connection
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())))
            .await
            .unwrap_or_else(|e| panic!("{e}\n{sql}"));
    }

    /// One text of one row.
    pub async fn text(&self, database: &str, sql: &str) -> String {
        let mut connection = self.connect(database).await;
        sqlx::query_scalar::<_, Option<String>>(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut connection)
            .await
            .unwrap_or_else(|e| panic!("{e}\n{sql}"))
            .unwrap_or_default()
    }
}

/// `None`: it did not begin to serve, because the port was taken or its predecessor is not quite gone.
async fn serve(dir: &TempDir, port: u16) -> Option<Process> {
    let mut server = as_server_user(command(programs().join("postgres")));
    server.arg("-D").arg(dir.path().join("data")).arg("-p").arg(port.to_string());
    server.args(["-h", "127.0.0.1", "-F", "-c", "max_connections=100", "-c"]);
    server.arg(format!("unix_socket_directories={}", dir.path().display()));
    let mut process = Process::start("postgres", server);
    let ready = |line: &str| {
        let refused = line.contains("could not create any TCP/IP sockets")
            || line.contains("pre-existing shared memory block")
            || line.contains("lock file");
        (refused || line.contains("ready to accept connections")).then_some(!refused)
    };
    process.line("ready to accept connections", SOON, ready).await.then_some(process)
}

/// The server refuses to run as root; the package has made it a user.
fn server_user() -> Option<User> {
    Uid::effective().is_root().then(|| {
        User::from_name("postgres").ok().flatten().unwrap_or_else(|| panic!("no user `postgres`: {HINT}"))
    })
}

fn as_server_user(mut command: Command) -> Command {
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
}

const HINT: &str = "the system tests need PostgreSQL's programs; on Debian: apt-get install postgresql";

fn programs() -> PathBuf {
    let newest = std::fs::read_dir("/usr/lib/postgresql").ok().and_then(|versions| {
        let bins = versions.flatten().map(|v| v.path().join("bin")).filter(|b| b.join("postgres").exists());
        bins.max_by_key(|b| version(b))
    });
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|p| p.join("postgres").exists() && p.join("initdb").exists())
    };
    newest.or_else(on_path).unwrap_or_else(|| panic!("{HINT}"))
}

fn version(bin: &Path) -> u32 {
    let name = bin.parent().and_then(Path::file_name).and_then(|n| n.to_str());
    name.and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// A port that nobody listens on, for programs that have to be told one.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

/// The web app's tables, with the columns of the contract and some that only the app knows, and its
/// own migration history.
pub const WEB_APP: &str = r#"
CREATE TABLE public._sqlx_migrations (
    version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
    success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL);
INSERT INTO public._sqlx_migrations VALUES (20250101000000, 'the app', now(), true, '\x00', 1);
CREATE TABLE users (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), email TEXT NOT NULL UNIQUE, first_name TEXT, last_name TEXT,
    username TEXT, created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE TABLE organizations (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), name TEXT NOT NULL);
CREATE TABLE organization_member_metadata (
    organization_id UUID NOT NULL REFERENCES organizations(id) ON DELETE CASCADE,
    user_id UUID NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    role TEXT NOT NULL DEFAULT 'member', PRIMARY KEY (organization_id, user_id));
CREATE TABLE auth_sessions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id UUID NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(), last_used_at TIMESTAMPTZ, revoked_at TIMESTAMPTZ,
    refresh_token_id UUID);
CREATE TABLE hosts (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_user_id UUID NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    shared_with_organization_id UUID REFERENCES organizations(id) ON DELETE SET NULL,
    machine_id TEXT NOT NULL, name TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'offline' CHECK (status IN ('offline', 'online')),
    last_seen_at TIMESTAMPTZ, agent_version TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (owner_user_id, machine_id));
CREATE TABLE relay_browser_sessions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    host_id UUID NOT NULL REFERENCES hosts(id) ON DELETE CASCADE,
    user_id UUID NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    auth_session_id UUID NOT NULL REFERENCES auth_sessions(id) ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(), last_used_at TIMESTAMPTZ, revoked_at TIMESTAMPTZ);
"#;

/// A user of the web app who has signed in: the user's id and the auth session's.
pub async fn web_user(postgres: &Postgres, database: &str, email: &str) -> (Uuid, Uuid) {
    let mut connection = postgres.connect(database).await;
    let user = sqlx::query_scalar("INSERT INTO users (email) VALUES ($1) RETURNING id")
        .bind(email)
        .fetch_one(&mut connection)
        .await
        .expect("a user");
    let session = sqlx::query_scalar("INSERT INTO auth_sessions (user_id) VALUES ($1) RETURNING id")
        .bind(user)
        .fetch_one(&mut connection)
        .await
        .expect("an auth session");
    (user, session)
}
