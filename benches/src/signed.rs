//! What signing costs: a paired browser in Rust beside one that signs nothing, through the same relay and
//! agent. Both use the same client library, so what differs is the protection. The browser's part, one
//! signature for each request and a verification for each record, is in these figures.

use crate::{
    load::Measured,
    process::{Process, part},
    stats::Latency,
};
use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use relay_protocol::{
    keys::{AgentDhPublicKey, AgentVerifyingKey, BrowserDhKey, BrowserSigningKey},
    pairing::Psk,
    record::{Decoder, Direction, Kind, Order, SignedOpen},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use system_tests::{
    client::{self, Connection, next_data},
    signed::{Browser, Session},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

/// Bytes of a WebSocket message.
const MESSAGE: usize = 64;

/// Bytes of the answer whose first piece is waited for.
const LARGE: u64 = 4 << 20;

/// What is measured.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum What {
    /// Small requests over keep-alive connections.
    Load,
    /// The first piece of a large answer's body.
    FirstByte,
    /// Messages echoed one after the other on one WebSocket; requests are messages.
    Socket,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is measured.
    #[arg(value_enum)]
    what: What,
    /// A file that `compare` wrote.
    #[arg(long)]
    browser: PathBuf,
    /// Signs nothing.
    #[arg(long)]
    plain: bool,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Seconds that are measured, after one that is not.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// A paired browser in a file.
#[derive(Serialize, Deserialize)]
struct Paired {
    addr: SocketAddr,
    prefix: String,
    host: Uuid,
    client_id: Uuid,
    seed: [u8; 32],
    agent: AgentVerifyingKey,
    dh: [u8; 32],
    agent_dh: AgentDhPublicKey,
    psk: [u8; 32],
}

/// Pairs a browser with the agent of this state folder and keeps it in a file.
pub async fn pair(
    agent: &Path,
    state: &Path,
    base: &crate::client::Target,
    file: &Path,
) -> anyhow::Result<()> {
    let mut command = Command::new(agent);
    command.args(["pair", "--json", "--state-dir"]).arg(state);
    let mut pair = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(pair.stdout.take().context("no output")?).lines();
    let line: Value = serde_json::from_str(&lines.next_line().await?.context("`pair` said nothing")?)?;
    let code = line.pointer("/code").and_then(Value::as_str).context("no code")?;
    let addr: SocketAddr = base.authority.parse()?;
    let host = base.path.split('/').nth(4).context("no host in the path")?.parse()?;
    let browser = Browser::pair(addr, &base.path, host, code).await.map_err(|e| anyhow!("{e:?}"))?;
    ensure!(pair.wait().await?.success(), "`pair` does not know of it");
    let paired = Paired {
        addr,
        prefix: browser.prefix.clone(),
        host,
        client_id: browser.client_id,
        seed: *browser.key.reveal_seed(),
        agent: browser.agent,
        dh: *browser.dh.reveal_bytes(),
        agent_dh: browser.agent_dh,
        psk: *browser.psk.reveal_bytes(),
    };
    std::fs::write(file, serde_json::to_vec(&paired)?)?;
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Browser> {
    let paired: Paired = serde_json::from_slice(&std::fs::read(file)?)?;
    Ok(Browser {
        addr: paired.addr,
        prefix: paired.prefix,
        host: paired.host,
        client_id: paired.client_id,
        key: BrowserSigningKey::from_seed(&paired.seed),
        agent: paired.agent,
        dh: BrowserDhKey::from_bytes(&paired.dh),
        agent_dh: paired.agent_dh,
        psk: Psk::from_bytes(&paired.psk),
        offset: Default::default(),
    })
}

/// Measures one thing.
pub async fn run(args: &Args) -> anyhow::Result<Measured> {
    let browser = read(&args.browser)?;
    let session = browser.session().await.map_err(|e| anyhow!("{e:?}"))?;
    let from = Instant::now() + Duration::from_secs(1);
    let duration = Duration::try_from_secs_f64(args.seconds)?;
    let window = Window { from, until: from + duration };
    let one = async || match args.what {
        What::Load => requests(&session, args.plain, "/small", window).await,
        What::FirstByte => first_bytes(&session, args.plain, window).await,
        What::Socket => messages(&session, args.plain, window).await,
    };
    let all = futures_util::future::try_join_all((0..args.connections).map(|_| one())).await?;
    let all_requests = all.iter().map(|(_, all)| all).sum();
    let nanos: Vec<u64> = all.into_iter().flat_map(|(nanos, _)| nanos).collect();
    let requests = nanos.len() as u64;
    let per_second = requests as f64 / duration.as_secs_f64();
    Ok(Measured { per_second, requests, all_requests, latency: Latency::of(nanos) })
}

#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

/// How long each took within the window, and how many there were in all.
#[derive(Default)]
struct Times {
    nanos: Vec<u64>,
    all: u64,
}

impl Times {
    fn note(&mut self, began: Instant, window: Window) {
        self.all += 1;
        if began >= window.from {
            self.nanos.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

async fn requests(
    session: &Session<'_>,
    plain: bool,
    target: &str,
    window: Window,
) -> anyhow::Result<(Vec<u64>, u64)> {
    let mut connection = Connection::open(session.browser.addr).await?;
    let mut times = Times::default();
    loop {
        let began = Instant::now();
        if began >= window.until {
            return Ok((times.nanos, times.all));
        }
        let length = exchange(&mut connection, session, plain, target, usize::MAX).await?;
        ensure!(length == crate::origin::SMALL, "an answer of {length} bytes");
        times.note(began, window);
    }
}

/// Each on a connection of its own, which is broken off: the rest of the answer is not wanted.
async fn first_bytes(session: &Session<'_>, plain: bool, window: Window) -> anyhow::Result<(Vec<u64>, u64)> {
    let target = format!("/bytes/{LARGE}");
    let mut times = Times::default();
    while Instant::now() < window.until {
        let mut connection = Connection::open(session.browser.addr).await?;
        let began = Instant::now();
        exchange(&mut connection, session, plain, &target, 1).await?;
        times.note(began, window);
        connection.abort();
    }
    Ok((times.nanos, times.all))
}

/// Sends a request and reads its body up to so many bytes; tells how many came.
async fn exchange(
    connection: &mut Connection,
    session: &Session<'_>,
    plain: bool,
    target: &str,
    enough: usize,
) -> anyhow::Result<usize> {
    let browser = session.browser;
    let request = Request::get(target).body(Bytes::new())?;
    if plain {
        let mut outer = request.map(|_| client::empty());
        *outer.uri_mut() = format!("{}{target}", browser.prefix).parse()?;
        let response = connection.send(outer).await?;
        return plain_body(response, enough).await;
    }
    let signed = session.sign(request);
    let response = connection.send(signed.outer(browser)).await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let open = SignedOpen::new(browser.agent, session.binding(&signed.signature), Direction::ToBrowser);
    let (mut decoder, mut order, mut length) = (Decoder::new(open), Order::answer(), 0);
    let mut body = response.into_body();
    while let Some(data) = next_data(&mut body).await {
        decoder.push(data?);
        while let Some(record) = decoder.next_record()? {
            order.next(record.kind)?;
            if record.kind == Kind::Data {
                length += record.payload.len();
            }
        }
        if length >= enough {
            return Ok(length);
        }
    }
    order.finish()?;
    Ok(length)
}

async fn plain_body(response: Response<Incoming>, enough: usize) -> anyhow::Result<usize> {
    ensure!(response.status() == 200, "status {}", response.status());
    let (mut body, mut length) = (response.into_body(), 0);
    while let Some(data) = next_data(&mut body).await {
        length += data?.len();
        if length >= enough {
            break;
        }
    }
    Ok(length)
}

async fn messages(session: &Session<'_>, plain: bool, window: Window) -> anyhow::Result<(Vec<u64>, u64)> {
    let message = Bytes::from(vec![b'm'; MESSAGE]);
    let mut times = Times::default();
    if plain {
        let path = format!("{}/ws", session.browser.prefix);
        let (mut socket, _) = client::websocket(session.browser.addr, &path, &[]).await?;
        while Instant::now() < window.until {
            let began = Instant::now();
            socket.send(Message::Binary(message.clone())).await?;
            let echoed = socket.next().await.context("the WebSocket ended")??;
            ensure!(echoed.into_data() == message, "another message came back");
            times.note(began, window);
        }
    } else {
        let mut socket = session.websocket("/ws", None).await.map_err(|e| anyhow!("{e:?}"))?;
        while Instant::now() < window.until {
            let began = Instant::now();
            socket.send(Kind::Binary, message.clone()).await.map_err(|e| anyhow!("{e:?}"))?;
            let echoed = socket.next().await.map_err(|e| anyhow!("{e:?}"))?;
            ensure!(echoed.payload == message, "another message came back");
            times.note(began, window);
        }
    }
    Ok((times.nanos, times.all))
}

/// Unsigned and signed.
#[derive(Debug, Clone)]
pub struct Pair<T> {
    /// Nothing is signed.
    pub plain: T,
    /// Everything is.
    pub signed: T,
}

/// All of one round.
#[derive(Debug, Clone)]
pub struct Round {
    /// One connection.
    pub one: Pair<Measured>,
    /// [`crate::compare::MANY`] connections.
    pub many: Pair<Measured>,
    /// CPU seconds per 100,000 requests of `many`, relay and agent.
    pub cpu: Pair<Vec<(&'static str, f64)>>,
    /// The first piece of a large body.
    pub first_byte: Pair<Measured>,
    /// One WebSocket.
    pub socket: Pair<Measured>,
}

/// Measures one round.
pub async fn round(
    browser: &Path,
    processes: &[Process],
    seconds: f64,
    many: usize,
) -> anyhow::Result<Round> {
    let file = browser.display().to_string();
    let measure = async |what: &str, plain: bool, connections: usize| -> anyhow::Result<Measured> {
        let mut args = vec!["signed".to_owned(), what.to_owned(), "--browser".to_owned(), file.clone()];
        args.extend(["--connections".to_owned(), connections.to_string()]);
        args.extend(["--seconds".to_owned(), seconds.to_string()]);
        args.extend(plain.then(|| "--plain".to_owned()));
        part(&args).await.with_context(|| args.join(" "))
    };
    let both = async |what: &str, connections: usize| -> anyhow::Result<Pair<Measured>> {
        let plain = measure(what, true, connections).await?;
        Ok(Pair { plain, signed: measure(what, false, connections).await? })
    };
    let used = || -> Vec<f64> { processes.iter().map(Process::cpu_seconds).collect() };
    let per = |before: &[f64], after: &[f64], measured: &Measured| {
        let both = processes.iter().zip(before.iter().zip(after));
        both.map(|(process, (before, after))| {
            (process.name, (after - before) / measured.all_requests as f64 * 1e5)
        })
        .collect::<Vec<_>>()
    };
    let one = both("load", 1).await?;
    let start = used();
    let plain = measure("load", true, many).await?;
    let between = used();
    let signed = measure("load", false, many).await?;
    let end = used();
    let cpu = Pair { plain: per(&start, &between, &plain), signed: per(&between, &end, &signed) };
    Ok(Round {
        one,
        many: Pair { plain, signed },
        cpu,
        first_byte: both("first-byte", 1).await?,
        socket: both("socket", 1).await?,
    })
}
