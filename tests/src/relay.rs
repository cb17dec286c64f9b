//! `relay-server` as a process of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use http::{Method, Request, StatusCode};
use nix::sys::signal::Signal;
use relay_protocol::api::{CreatedSession, Host, HostStatus, Hosts, Session, Sessions};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    SOON,
    client::{self, Reply, empty, fetch, full},
    eventually,
    metrics::Exposition,
    process::{Output, Process, bin, command, run},
};

/// What opens the operator's interface in tests.
pub const ADMIN_TOKEN: &str = "operators-token-0123456789";

/// What differs from a relay with an SQLite database in a fresh directory.
#[derive(Debug, Clone, Default)]
pub struct RelayOptions {
    /// Where it listens; any port of this machine unless given.
    pub listen: Option<SocketAddr>,
    /// `postgres://…`, or SQLite in the data directory.
    pub database_url: Option<String>,
    /// More environment, last one wins.
    pub env: Vec<(String, String)>,
    /// More arguments after `serve`.
    pub args: Vec<String>,
}

impl RelayOptions {
    /// Adds one variable.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// With the portal and its cookie: no host's page opens then.
    pub fn portal(self) -> Self {
        self.env("RELAY_PORTAL", "1")
    }

    /// With the operator's interface, opened by [`ADMIN_TOKEN`].
    pub fn admin(self) -> Self {
        self.env("RELAY_ENABLE_ADMIN_HTTP", "1").env("RELAY_ADMIN_TOKEN", ADMIN_TOKEN)
    }

    /// Uses this database.
    pub fn database(mut self, url: &str) -> Self {
        self.database_url = Some(url.to_owned());
        self
    }
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The process.
    pub process: Process,
    options: RelayOptions,
    data: TempDir,
    earlier_log: String,
}

impl Relay {
    /// Starts one and waits until it is healthy.
    pub async fn start(options: RelayOptions) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = options.listen.unwrap_or(any);
        let (process, addr) = launch(&options, data.path(), listen).await;
        let relay = Self { addr, process, options, data, earlier_log: String::new() };
        relay.healthy().await;
        relay
    }

    async fn healthy(&self) {
        eventually("the relay is healthy", SOON, || async {
            client::try_fetch(self.addr, client::get("/health"))
                .await
                .is_ok_and(|r| r.status == StatusCode::OK)
        })
        .await;
    }

    /// Starts it again on the same port and data, after it was killed or has ended.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.earlier_log = self.log();
        let (process, addr) = launch(&self.options, self.data.path(), self.addr).await;
        self.process = process;
        self.addr = addr;
        self.healthy().await;
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// Everything that it has logged, in all of its lives.
    pub fn log(&self) -> String {
        format!("{}{}", self.earlier_log, self.process.log())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Runs `relay-server ARGS…` with the same settings.
    pub async fn cli(&self, args: &[&str]) -> Output {
        let mut command = base_command(&self.options, self.data.path());
        command.args(args);
        run(command).await
    }

    /// The same with this text as its standard input.
    pub async fn cli_with_input(&self, args: &[&str], input: &str) -> Output {
        let path = self.data.path().join("input");
        std::fs::write(&path, input).expect("a file");
        let mut command = base_command(&self.options, self.data.path());
        command.args(args).stdin(std::fs::File::open(&path).expect("a file"));
        let out = run(command).await;
        std::fs::remove_file(&path).expect("a file");
        out
    }

    /// Adds a user and gives them this password.
    pub async fn user_with_password(&self, email: &str, password: &str) {
        self.add_user(email).await;
        let out = self.cli_with_input(&["user", "password", email], password).await;
        assert!(out.status.success(), "{out:?}");
    }

    async fn cli_ok(&self, args: &[&str]) -> String {
        let out = self.cli(args).await;
        assert!(out.status.success(), "relay-server {args:?}: {out:?}");
        out.stdout
    }

    /// Adds a user.
    pub async fn add_user(&self, email: &str) {
        self.cli_ok(&["user", "add", email]).await;
    }

    /// Makes a token for a user: the line on standard output, and nothing else is on it.
    pub async fn token(&self, email: &str) -> String {
        let out = self.cli_ok(&["token", "create", "--user", email]).await;
        let token = out.strip_suffix('\n').unwrap_or(&out);
        assert!(!token.contains(char::is_whitespace), "standard output holds more than the token: {out:?}");
        token.to_owned()
    }

    /// Adds a user and makes a token.
    pub async fn user_with_token(&self, email: &str) -> String {
        self.add_user(email).await;
        self.token(email).await
    }

    /// Calls the relay's own interface with a token.
    pub async fn api(&self, method: Method, path: &str, token: &str) -> Reply {
        fetch(self.addr, bearer(method, path, token).body(empty()).expect("a request")).await
    }

    /// The same with a JSON body.
    pub async fn api_json(&self, method: Method, path: &str, token: &str, body: serde_json::Value) -> Reply {
        let request = bearer(method, path, token)
            .header("content-type", "application/json")
            .body(full(body.to_string()))
            .expect("a request");
        fetch(self.addr, request).await
    }

    /// Asks the operator's interface.
    pub async fn admin(&self, path: &str) -> Reply {
        let reply = self.api(Method::GET, path, ADMIN_TOKEN).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        reply
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> Exposition {
        let reply = self.admin("/metrics").await;
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Exposition::parse(&reply.text()).unwrap_or_else(|what| panic!("{what}\n{}", reply.text()))
    }

    /// The caller's hosts.
    pub async fn hosts(&self, token: &str) -> Vec<Host> {
        let reply = self.api(Method::GET, "/v1/relay/hosts", token).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        reply.json::<Hosts>().hosts
    }

    /// The one host of that machine id or name, if it is known.
    pub async fn find_host(&self, token: &str, name: &str) -> Option<Host> {
        self.hosts(token).await.into_iter().find(|h| h.name == name || h.machine_id == name)
    }

    /// Waits until that host has this status.
    pub async fn await_host(&self, token: &str, name: &str, status: HostStatus) -> Host {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let host = self.find_host(token, name).await;
            match host {
                Some(host) if host.status == status => return host,
                _ => assert!(
                    tokio::time::Instant::now() < deadline,
                    "{name} does not become {status:?}: {host:?}"
                ),
            }
            tokio::time::sleep(crate::POLL).await;
        }
    }

    /// Makes a browser session for a host.
    pub async fn create_session(&self, token: &str, host: Uuid) -> Uuid {
        let reply = self.api(Method::POST, &format!("/v1/relay/create/{host}"), token).await;
        assert!(reply.status.is_success(), "{reply:?}");
        reply.json::<CreatedSession>().session_id
    }

    /// The caller's live sessions.
    pub async fn sessions(&self, token: &str) -> Vec<Session> {
        let reply = self.api(Method::GET, "/v1/relay/sessions", token).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        reply.json::<Sessions>().sessions
    }
}

/// A request with a bearer token.
pub fn bearer(method: Method, path: &str, token: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"))
}

fn base_command(options: &RelayOptions, data: &Path) -> Command {
    let mut command = command(bin("relay-server"));
    // Pages of hosts open only where no portal is; see RelayOptions::portal.
    command.env("RELAY_PORTAL", "0");
    command.current_dir(data).env("RELAY_DATA_DIR", data).env("RUST_LOG", "info,relay_server=debug");
    if let Some(url) = &options.database_url {
        command.env("SERVER_DATABASE_URL", url);
    }
    command.envs(options.env.iter().map(|(k, v)| (k, v)));
    command
}

/// A relay that may refuse to start: for tests of its settings.
pub fn spawn(options: &RelayOptions, data: &Path, listen: SocketAddr) -> Process {
    let mut command = base_command(options, data);
    command.env("RELAY_LISTEN_ADDR", listen.to_string()).arg("serve").args(&options.args);
    Process::start("relay-server", command)
}

async fn launch(options: &RelayOptions, data: &Path, listen: SocketAddr) -> (Process, SocketAddr) {
    let mut process = spawn(options, data, listen);
    let addr = process.line("listening addr=…", Duration::from_secs(60), listening).await;
    (process, addr)
}

/// Reads `… listening … addr=127.0.0.1:PORT`, with or without colours around it.
fn listening(line: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    let (_, rest) = line.split_once("addr=")?;
    rest.split_whitespace().next()?.trim_matches('"').parse().ok()
}
