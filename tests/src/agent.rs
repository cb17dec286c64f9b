//! `local-agent-client` as a process of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    POLL, SOON,
    process::{Process, bin, command, run},
};

/// How to run an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The relay's base URL.
    pub relay: String,
    /// The local server's URL.
    pub to: String,
    /// The bearer token.
    pub token: String,
    /// The host's name.
    pub name: String,
    /// More arguments.
    pub args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// `--trust`: `relay`, as most tests are about what the relay lets in, or `paired`.
    pub trust: &'static str,
}

impl AgentOptions {
    /// An agent of that name between a relay and a local server.
    pub fn new(relay: &str, to: &str, token: &str, name: &str) -> Self {
        Self {
            relay: relay.to_owned(),
            to: to.to_owned(),
            token: token.to_owned(),
            name: name.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            trust: "relay",
        }
    }

    /// Forwards only what paired browsers signed.
    pub fn paired(mut self) -> Self {
        self.trust = "paired";
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Adds a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    options: AgentOptions,
    dir: TempDir,
}

impl Agent {
    /// Starts one and waits until its status says that it is connected.
    pub async fn start(options: AgentOptions) -> Self {
        let mut agent = Self::spawn(options);
        agent.connected().await;
        agent
    }

    /// Starts one and waits for nothing.
    pub fn spawn(options: AgentOptions) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("token"), &options.token).expect("the token file");
        let process = Process::start("local-agent-client", run_command(&options, dir.path()));
        Self { process, options, dir }
    }

    /// Starts it again with the same state, after it was killed or has ended.
    pub fn respawn(&mut self) {
        self.process.kill();
        self.process = Process::start("local-agent-client", run_command(&self.options, self.dir.path()));
    }

    /// Starts it again with the same state, at another relay.
    pub fn move_to(&mut self, relay: &str) {
        self.options.relay = relay.to_owned();
        self.respawn();
    }

    /// Starts it again with the same state and another `--trust`.
    pub fn trust(&mut self, trust: &'static str) {
        self.options.trust = trust;
        self.respawn();
    }

    /// Replaces the token in the token file.
    pub fn write_token(&self, token: &str) {
        std::fs::write(self.dir.path().join("token"), token).expect("the token file");
    }

    /// The directory that holds its state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `local-agent-client COMMAND…` with this agent's state.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(bin("local-agent-client"));
        command.args(args).arg("--state-dir").arg(self.state_dir()).env("HOME", self.dir.path());
        command
    }

    /// Shows a pairing code: `pair`, which waits for a browser, and the six digits.
    pub async fn show_code(&self) -> (Process, String) {
        let mut pair = Process::start("pair", self.command(&["pair", "--json"]));
        let code = pair
            .line("a code", SOON, |line| {
                let line: Value = serde_json::from_str(line).ok()?;
                Some(line.get("code")?.as_str()?.to_owned())
            })
            .await;
        (pair, code)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// What `status --json` says, if it says anything.
    pub async fn status(&self) -> Option<Value> {
        let mut command = command(bin("local-agent-client"));
        command.args(["status", "--json", "--state-dir"]).arg(self.state_dir()).env("HOME", self.dir.path());
        let out = run(command).await;
        serde_json::from_str(&out.stdout).ok()
    }

    /// Whether `status --json` says that it is connected.
    pub async fn is_connected(&self) -> bool {
        self.status().await.is_some_and(|s| s.get("connected") == Some(&Value::Bool(true)))
    }

    /// Waits until `status --json` says that it is connected.
    pub async fn connected(&mut self) {
        self.status_becomes("connected", SOON, |s| s.get("connected") == Some(&Value::Bool(true))).await;
    }

    /// Waits until `status --json` satisfies the condition, and returns it.
    pub async fn status_becomes(
        &mut self,
        what: &str,
        within: Duration,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let status = self.status().await;
            if let Some(status) = status.as_ref().filter(|s| is(s)) {
                return status.clone();
            }
            if let Some(exit) = self.process.exited() {
                panic!("the agent ended with {exit} before: {what}\n{}", self.process.log());
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "the agent's status is not: {what}; it is {status:?}\n{}",
                self.process.log()
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

fn run_command(options: &AgentOptions, dir: &Path) -> Command {
    let mut command = command(bin("local-agent-client"));
    command
        .current_dir(dir)
        .env("HOME", dir)
        .env("RUST_LOG", "info,local_agent_client=debug")
        .arg("run")
        .args(["--relay", &options.relay, "--to", &options.to, "--name", &options.name])
        .args(["--trust", options.trust])
        .arg("--token-file")
        .arg(dir.join("token"))
        .arg("--state-dir")
        .arg(dir.join("state"))
        .args(&options.args)
        .envs(options.env.iter().map(|(k, v)| (k, v)));
    command
}
