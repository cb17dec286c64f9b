//! Idle tunnels: opened by this process as an agent would, and then left alone. What the relay holds
//! for them is read from the outside.

use crate::{
    client::Target,
    process::{rss_kib, settled_rss_kib},
};
use anyhow::{Context as _, ensure};
use relay_protocol::tunnel::{self, Form, Handle, Hello, Options, Role};
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf, sync::Arc};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::tungstenite::{
    client::IntoClientRequest as _, http::HeaderValue, protocol::WebSocketConfig,
};

/// Handshakes under way at once: enough to be quick, few enough for any accept queue.
const AT_ONCE: usize = 32;

/// Descriptors that either side needs beside one for each tunnel.
const OTHER_FILES: usize = 200;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The relay's base URL.
    #[arg(long)]
    relay: String,
    /// A file with a token.
    #[arg(long)]
    token_file: PathBuf,
    /// The relay's process id.
    #[arg(long)]
    pid: u32,
    /// How many tunnels to measure at, rising.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    counts: Vec<usize>,
}

/// The relay's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    /// With no tunnel, KiB.
    pub before_kib: u64,
    /// Tunnels, and KiB with them.
    pub with: Vec<(usize, u64)>,
    /// When all have left, KiB.
    pub after_kib: u64,
}

/// Opens, measures, leaves, measures.
pub async fn run(args: &Args) -> anyhow::Result<Memory> {
    let most = args.counts.iter().copied().max().unwrap_or(0);
    let limit = open_files()?;
    ensure!(
        limit >= most + OTHER_FILES,
        "{most} tunnels need `ulimit -n` of {} and it is {limit}",
        most + OTHER_FILES
    );
    let target = Target::parse(&args.relay)?;
    let authorization = format!("Bearer {}", fs::read_to_string(&args.token_file)?.trim());
    let authorization: Arc<HeaderValue> = Arc::new(authorization.parse()?);

    let before_kib = rss_kib(args.pid)?;
    let mut with = Vec::new();
    let mut tunnels: Vec<Handle> = Vec::new();
    let mut drivers = JoinSet::new();
    for count in &args.counts {
        let mut opening = JoinSet::new();
        let mut next = tunnels.len();
        while tunnels.len() < *count {
            while next < *count && opening.len() < AT_ONCE {
                opening.spawn(open(target.clone(), authorization.clone(), next));
                next += 1;
            }
            let socket = opening.join_next().await.context("nothing is opening")???;
            let hello = Hello::new("benches", env!("CARGO_PKG_VERSION"), None);
            let (handle, incoming, driver) =
                tunnel::start(socket, Options::new(Role::Agent, Form::V1(hello)));
            drivers.spawn(async move {
                // Held as long as the tunnel runs: nobody opens streams here.
                let _incoming = incoming;
                driver.run().await
            });
            tunnels.push(handle);
        }
        with.push((*count, settled_rss_kib(args.pid).await?));
        let ended = tunnels.iter().filter_map(Handle::ended).next();
        ensure!(ended.is_none(), "a tunnel ended by itself: {ended:?}");
    }
    for tunnel in &tunnels {
        tunnel.close(1000, "measured");
    }
    while drivers.join_next().await.is_some() {}
    Ok(Memory { before_kib, with, after_kib: settled_rss_kib(args.pid).await? })
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn open(target: Target, authorization: Arc<HeaderValue>, number: usize) -> anyhow::Result<Socket> {
    let authority = &target.authority;
    let query = format!("machine_id=bench-{number}&name=bench-{number}&agent_version=0");
    let mut request = format!("ws://{authority}/v1/relay/connect?{query}").into_client_request()?;
    request.headers_mut().insert("authorization", authorization.as_ref().clone());
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(tunnel::SUBPROTOCOL));
    let socket = TcpStream::connect(authority).await?;
    socket.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(4 << 10);
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, socket, Some(config))
        .await
        .with_context(|| format!("opening tunnel {number}"))?;
    Ok(socket)
}

/// How many files this process may have open.
fn open_files() -> anyhow::Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line =
        limits.lines().find(|line| line.starts_with("Max open files")).context("no limit of open files")?;
    Ok(line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX))
}
