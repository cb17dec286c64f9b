//! Everything that is put between client and origin.

use crate::{
    client::{self, Target},
    process::{Process, free_address, output, until},
};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use tokio::process::Command;

/// Somebody who forwards.
#[derive(Debug)]
pub struct Contestant {
    /// The name in the tables.
    pub name: &'static str,
    /// Where the origin's paths are reached through it.
    pub base: Target,
    /// Its processes, the one at the client's side first.
    pub processes: Vec<Process>,
}

/// Nobody: the origin itself.
pub fn direct(origin: SocketAddr) -> anyhow::Result<Contestant> {
    Ok(Contestant { name: "direct", base: Target::parse(&format!("http://{origin}"))?, processes: vec![] })
}

/// Two nginx in a row, as a relay and an agent would stand, with keep-alive everywhere.
pub async fn nginx(program: &Path, dir: &Path, origin: SocketAddr) -> anyhow::Result<Contestant> {
    let (near, far) = (free_address()?, free_address()?);
    let mut processes = Vec::new();
    for (name, listen, upstream) in
        [("nginx (agent's place)", far, origin), ("nginx (relay's place)", near, far)]
    {
        let prefix = dir.join(format!("nginx-{}", listen.port()));
        fs::create_dir_all(&prefix)?;
        let config = prefix.join("nginx.conf");
        fs::write(&config, nginx_config(&prefix, listen, upstream)?)?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&prefix).arg("-c").arg(&config);
        processes.insert(0, Process::start(name, &mut command, &prefix.join("log"))?);
    }
    ready(Contestant { name: "nginx→nginx", base: Target::parse(&format!("http://{near}"))?, processes })
        .await
}

fn nginx_config(prefix: &Path, listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<String> {
    // Workers of a nginx that root starts would be somebody else, without access to `prefix`.
    let user = if fs::metadata("/proc/self")?.uid() == 0 { "user root;" } else { "" };
    let prefix = prefix.display();
    Ok(format!(
        "{user} daemon off; worker_processes auto; pid {prefix}/pid; error_log {prefix}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 0;
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
  upstream next {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {listen} backlog=4096;
    location / {{
      proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_buffering off; proxy_request_buffering off; proxy_buffer_size 64k; proxy_buffers 8 64k; client_body_buffer_size 64k;
    }}
  }}
}}
"
    ))
}

/// rathole with its WebSocket transport, which forwards bytes and knows nothing of HTTP.
pub async fn rathole(program: &Path, dir: &Path, origin: SocketAddr) -> anyhow::Result<Contestant> {
    let (control, public) = (free_address()?, free_address()?);
    let transport = "transport]\ntype = \"websocket\"\n";
    let server = format!(
        "[server]\nbind_addr = \"{control}\"\ndefault_token = \"bench\"\n[server.{transport}[server.transport.websocket]\ntls = false\n\
         [server.services.origin]\nbind_addr = \"{public}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n[client.{transport}[client.transport.websocket]\ntls = false\n\
         [client.services.origin]\nlocal_addr = \"{origin}\"\n"
    );
    let mut processes = Vec::new();
    for (name, side, config) in
        [("rathole server", "--server", server), ("rathole client", "--client", client)]
    {
        let file = dir.join(format!("rathole{side}.toml"));
        fs::write(&file, config)?;
        let mut command = Command::new(program);
        command.arg(side).arg(&file).env("RUST_LOG", "warn");
        processes.push(Process::start(name, &mut command, &dir.join(format!("rathole{side}.log")))?);
    }
    ready(Contestant { name: "rathole", base: Target::parse(&format!("http://{public}"))?, processes }).await
}

/// A relay of ours with a state of its own.
#[derive(Debug)]
pub struct Relay {
    /// The program.
    pub process: Process,
    /// Its base.
    pub base: Target,
    /// A token for its one user, in a file.
    pub token_file: PathBuf,
    token: String,
}

/// A command that nothing of the caller's environment redirects.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["RELAY_", "VK_", "VIBEKANBAN_"].iter().any(|prefix| text.starts_with(prefix))
            || ["DATABASE_URL", "SERVER_DATABASE_URL", "LOCAL_URL", "HOST", "PORT"].contains(&&*text)
        {
            command.env_remove(name);
        }
    }
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1").env("RUST_LOG", "warn");
    command
}

/// The relay's command with its state in `dir`. The limits per address are raised: here everybody
/// comes from one.
fn relay_command(program: &Path, dir: &Path) -> Command {
    let mut command = command(program);
    command.env("RELAY_DATA_DIR", dir.join("relay"));
    for name in
        ["RELAY_MAX_CONNECTIONS_PER_IP", "RELAY_MAX_TCP_CONNECTIONS_PER_IP", "RELAY_MAX_TCP_CONNECTIONS"]
    {
        command.env(name, "50000");
    }
    for name in ["RELAY_UPGRADE_RATE_PER_MINUTE", "RELAY_API_RATE_PER_MINUTE"] {
        command.env(name, "1000000");
    }
    command
}

impl Relay {
    /// Starts it and makes a user and a token.
    pub async fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let listen = free_address()?;
        let base = Target::parse(&format!("http://{listen}"))?;
        let mut command = relay_command(program, dir);
        command.env("RELAY_LISTEN_ADDR", listen.to_string());
        let process = Process::start("relay-server", &mut command, &dir.join("relay.log"))?;
        until("the relay", || healthy(&base)).await?;
        output(relay_command(program, dir).args(["user", "add", "bench@localhost"])).await?;
        let token =
            output(relay_command(program, dir).args(["token", "create", "--user", "bench@localhost"]))
                .await?;
        let token_file = dir.join("token");
        fs::write(&token_file, &token)?;
        Ok(Self { process, base, token_file, token })
    }

    async fn api(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        let headers = format!("authorization: Bearer {}\r\ncontent-length: 0\r\n", self.token);
        let (status, body) = client::call(&self.base.below(path), method, &headers).await?;
        ensure!(status == 200, "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    /// The base of a fresh session of the host, once one is online.
    async fn session(&self) -> anyhow::Result<Target> {
        let host = until("the agent", || async {
            let hosts = self.api("GET", "/v1/relay/hosts").await?;
            let hosts = hosts.pointer("/hosts").and_then(Value::as_array).context("no hosts")?;
            let online = hosts.iter().find(|host| host.pointer("/status") == Some(&Value::from("online")));
            let id = online.and_then(|host| host.pointer("/id")).and_then(Value::as_str);
            Ok(id.context("no host is online")?.to_owned())
        })
        .await?;
        let made = self.api("POST", &format!("/v1/relay/create/{host}")).await?;
        let session = made.pointer("/session_id").and_then(Value::as_str).context("no session")?;
        Ok(self.base.below(&format!("/v1/relay/h/{host}/s/{session}")))
    }
}

/// Whether a relay serves.
async fn healthy(base: &Target) -> anyhow::Result<()> {
    let (status, _) = client::call(&base.below("/health"), "GET", "").await?;
    ensure!(status == 200, "its health is {status}");
    Ok(())
}

/// Milliseconds from starting the relay until it answers, with the state in `dir`.
pub async fn start_ms(program: &Path, dir: &Path) -> anyhow::Result<f64> {
    fs::create_dir_all(dir)?;
    let listen = free_address()?;
    let base = Target::parse(&format!("http://{listen}"))?;
    let began = std::time::Instant::now();
    let mut command = relay_command(program, dir);
    command.env("RELAY_LISTEN_ADDR", listen.to_string());
    let process = Process::start("relay-server", &mut command, &dir.join("relay.log"))?;
    until("the relay", || healthy(&base)).await?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    process.stop().await?;
    Ok(ms)
}

/// Where our agent keeps its state.
pub fn agent_state(dir: &Path) -> PathBuf {
    dir.join("agent-state")
}

/// Our relay and our agent.
pub async fn ours(relay: &Path, agent: &Path, dir: &Path, origin: SocketAddr) -> anyhow::Result<Contestant> {
    let relay = Relay::start(relay, dir).await?;
    let mut command = command(agent);
    command.args(["run", "--trust", "relay", "--name", "bench"]);
    command
        .arg("--relay")
        .arg(format!("http://{}", relay.base.authority))
        .arg("--to")
        .arg(format!("http://{origin}"));
    command.arg("--token-file").arg(&relay.token_file).arg("--state-dir").arg(agent_state(dir));
    let agent = Process::start("local-agent-client", &mut command, &dir.join("agent.log"))?;
    let base = relay.session().await?;
    ready(Contestant { name: "ours", base, processes: vec![relay.process, agent] }).await
}

/// Once a request passes through.
async fn ready(mut contestant: Contestant) -> anyhow::Result<Contestant> {
    let target = contestant.base.below("/small");
    let waited = until(contestant.name, || async {
        let (status, _) = client::call(&target, "GET", "").await?;
        ensure!(status == 200, "status {status}");
        Ok(())
    })
    .await;
    for process in &mut contestant.processes {
        process.check()?;
    }
    waited.map(|()| contestant)
}
