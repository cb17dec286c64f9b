//! A real PostgreSQL server of the test's own: a throw-away data folder, a Unix socket in it, no TCP.
//!
//! It needs the programs of Debian's `postgresql`, and nothing of a server that may already run here.
//! PostgreSQL refuses to run as root; then it runs as the user `postgres` that the package made.

#![allow(dead_code)]

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A running server. Dropping it ends it and removes its data.
pub struct Postgres {
    server: Child,
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl Postgres {
    /// Makes a cluster, starts it and waits until it answers.
    pub fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("relay-pg").tempdir_in("/tmp").unwrap();
        // The server's user must be able to write here when it is not ours.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let data = folder.path().join("data");
        let made = as_server_user(&programs.join("initdb"))
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let log = File::create(folder.path().join("log")).unwrap();
        let server = as_server_user(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "synchronous_commit=off"])
            .args(["-c", "full_page_writes=off", "-c", "max_connections=200"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut postgres = Self { server, programs, folder };
        postgres.wait();
        postgres
    }

    fn wait(&mut self) {
        let give_up = Instant::now() + START_DEADLINE;
        loop {
            let answers = Command::new(self.programs.join("pg_isready"))
                .arg("-q")
                .arg("-h")
                .arg(self.folder.path())
                .status()
                .unwrap();
            if answers.success() {
                return;
            }
            let ended = self.server.try_wait().unwrap();
            if ended.is_some() || Instant::now() > give_up {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("PostgreSQL did not start ({ended:?}):\n{log}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// The URL of a database, as the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The URL of a database as this role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!(
            "postgres://{role}@localhost/{database}?host={}&sslmode=disable",
            self.folder.path().display()
        )
    }

    /// Makes an empty database.
    pub fn createdb(&self, database: &str) {
        self.psql("postgres", &format!("create database \"{database}\""));
    }

    /// Runs SQL as the superuser and returns what it printed, without headings.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(self.programs.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-d",
                database,
                "-c",
                sql,
            ])
            .arg("-h")
            .arg(self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "psql: {}\n{sql}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The first line of postmaster.pid is the server's own id, also where a wrapper started it. A
        // fast shutdown (SIGINT) ends its children too.
        let pid = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid"));
        match pid.ok().and_then(|text| text.lines().next().map(str::to_owned)) {
            Some(pid) => drop(Command::new("kill").args(["-INT", &pid]).status()),
            None => drop(self.server.kill()),
        }
        let _ = self.server.wait();
    }
}

/// The folder with the programs of the newest PostgreSQL that is installed.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, path)| path.join("initdb").exists() && path.join("postgres").exists())
        .collect();
    found.sort();
    match found.pop() {
        Some((_, path)) => path,
        None => panic!(
            "these tests need a PostgreSQL server: install Debian's `postgresql` (apt install postgresql)"
        ),
    }
}

/// A command that runs as somebody whom PostgreSQL accepts.
fn as_server_user(program: &Path) -> Command {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}
