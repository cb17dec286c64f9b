//! What protection costs: a paired browser in Rust that signs each request (PROTOCOL.md section 4) or seals it
//! (section 5), beside one that does neither, through the same relay and agent. All use the same client library
//! and one code path, so what differs is the protection. The browser's part is in these figures, and its CPU is
//! told by itself.
//!
//! A column is a [`Protection`]; another path, such as a direct one, is another column.

use crate::{
    load::Measured,
    process::{Process, own_cpu_seconds, part},
    stats::Latency,
};
use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Request;
use relay_protocol::{
    keys::{AgentDhPublicKey, AgentVerifyingKey, BrowserDhKey, BrowserSigningKey},
    pairing::Psk,
    record::{Decoder, Direction, Kind, Opener, Order},
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
    client::{self, Body, Connection, next_data},
    records::{FromAgent, Socket},
    sealed, signed,
    signed::{Browser, Failure},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use uuid::Uuid;

/// Bytes of a WebSocket message.
const MESSAGE: usize = 64;

/// Bytes of the answer whose first piece is waited for.
const LARGE: u64 = 4 << 20;

/// Bytes of one upload: a signed request has the digest of its whole body in front, so the body is held.
pub const UPLOAD: u64 = 16 << 20;

/// What protects the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protection {
    /// Nothing does.
    Unsigned,
    /// Signatures.
    Signed,
    /// A sealed session.
    Sealed,
}

impl Protection {
    /// The columns, in their order.
    pub const ALL: [Self; 3] = [Self::Unsigned, Self::Signed, Self::Sealed];

    /// Its name, on the command line and in the tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signed => "signed",
            Self::Sealed => "sealed",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Small requests over keep-alive connections.
    Load,
    /// The first piece of a large answer's body.
    FirstByte,
    /// Messages echoed one after the other on one WebSocket; requests are messages.
    Socket,
    /// One large answer.
    Down,
    /// Large requests one after the other.
    Up,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is measured.
    #[arg(value_enum)]
    what: What,
    /// What protects it.
    #[arg(value_enum)]
    protection: Protection,
    /// A file that `compare` wrote.
    #[arg(long)]
    browser: PathBuf,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Seconds that are measured, after one that is not.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Mebibytes of a large body.
    #[arg(long, default_value_t = 256)]
    mib: u64,
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
    let browser = Browser::pair(addr, &base.path, host, code).await.map_err(told)?;
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

fn told(failure: Failure) -> anyhow::Error {
    anyhow!("{failure:?}")
}

/// A browser with a session, if it needs one.
enum Client<'a> {
    Unsigned(&'a Browser),
    Signed(signed::Session<'a>),
    Sealed(sealed::Session<'a>),
}

impl<'a> Client<'a> {
    async fn begin(browser: &'a Browser, protection: Protection) -> anyhow::Result<Self> {
        Ok(match protection {
            Protection::Unsigned => Self::Unsigned(browser),
            Protection::Signed => Self::Signed(browser.session().await.map_err(told)?),
            Protection::Sealed => Self::Sealed(browser.sealed().await.map_err(told)?),
        })
    }

    fn browser(&self) -> &'a Browser {
        match self {
            Self::Unsigned(browser) => browser,
            Self::Signed(session) => session.browser,
            Self::Sealed(session) => session.browser,
        }
    }

    /// A request as it goes to the relay, and what opens its answer.
    fn protect(&self, mut request: Request<Bytes>) -> anyhow::Result<(Request<Body>, Option<FromAgent>)> {
        let browser = self.browser();
        Ok(match self {
            Self::Unsigned(_) => {
                *request.uri_mut() = format!("{}{}", browser.prefix, request.uri()).parse()?;
                (request.map(|body| if body.is_empty() { client::empty() } else { client::full(body) }), None)
            }
            Self::Signed(session) => {
                let signed = session.sign(request);
                let binding = session.binding(&signed.signature);
                let opener = Opener::signed(browser.agent, binding, Direction::ToBrowser);
                (signed.outer(browser), Some(opener))
            }
            Self::Sealed(session) => {
                let whole = session.seal(&request);
                let opener = session.opener(&whole.prelude);
                (session.outer(client::full(whole.bytes)), Some(opener))
            }
        })
    }

    /// Sends a request and reads its answer up to so many bytes of the body; tells how many came.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Bytes>,
        enough: u64,
    ) -> anyhow::Result<u64> {
        let (outer, opener) = self.protect(request)?;
        let response = connection.send(outer).await?;
        ensure!(response.status() == 200, "status {}", response.status());
        let (mut records, mut order, mut length) = (opener.map(Decoder::new), Order::answer(), 0);
        let mut body = response.into_body();
        while length < enough
            && let Some(data) = next_data(&mut body).await
        {
            let data = data?;
            let Some(decoder) = &mut records else {
                length += data.len() as u64;
                continue;
            };
            decoder.push(data);
            while let Some(record) = decoder.next_record()? {
                order.next(record.kind)?;
                match record.kind {
                    Kind::Data => length += record.payload.len() as u64,
                    Kind::Error => anyhow::bail!("{:?}", record.payload),
                    _ => {}
                }
            }
        }
        if records.is_some() && length < enough {
            order.finish()?;
        }
        Ok(length)
    }

    async fn socket(&self) -> anyhow::Result<Echo> {
        Ok(match self {
            Self::Unsigned(browser) => {
                let path = format!("{}/ws", browser.prefix);
                Echo::Unsigned(Box::new(client::websocket(browser.addr, &path, &[]).await?.0))
            }
            Self::Signed(session) => {
                Echo::Records(Box::new(session.websocket("/ws", None).await.map_err(told)?))
            }
            Self::Sealed(session) => {
                Echo::Records(Box::new(session.websocket("/ws", None).await.map_err(told)?))
            }
        })
    }
}

/// A WebSocket that sends back what it gets.
enum Echo {
    Unsigned(Box<WebSocketStream<tokio::net::TcpStream>>),
    Records(Box<Socket>),
}

impl Echo {
    async fn echo(&mut self, message: Bytes) -> anyhow::Result<Bytes> {
        Ok(match self {
            Self::Unsigned(socket) => {
                socket.send(Message::Binary(message)).await?;
                socket.next().await.context("the WebSocket ended")??.into_data()
            }
            Self::Records(socket) => {
                socket.send(Kind::Binary, message).await.map_err(told)?;
                socket.next().await.map_err(told)?.payload
            }
        })
    }
}

/// What came of one measurement, and what the client itself used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Rate and latency; of a large body, million bytes per second.
    pub measured: Measured,
    /// CPU seconds of the client, session and warm-up included.
    pub client_cpu: f64,
}

/// Measures one thing.
pub async fn run(args: &Args) -> anyhow::Result<Outcome> {
    let browser = read(&args.browser)?;
    let client = Client::begin(&browser, args.protection).await?;
    let from = Instant::now() + Duration::from_secs(1);
    let duration = Duration::try_from_secs_f64(args.seconds)?;
    let window = Window { from, until: from + duration };
    let bytes = args.mib << 20;
    let measured = match args.what {
        What::Down => {
            let began = Instant::now();
            let mut connection = Connection::open(browser.addr).await?;
            let request = Request::get(format!("/bytes/{bytes}")).body(Bytes::new())?;
            let length = client.exchange(&mut connection, request, u64::MAX).await?;
            ensure!(length == bytes, "an answer of {length} bytes");
            transfer(bytes, 1, began)
        }
        What::Up => {
            let body = Bytes::from(vec![b'u'; usize::try_from(UPLOAD)?]);
            let count = bytes.div_ceil(UPLOAD);
            let began = Instant::now();
            let mut connection = Connection::open(browser.addr).await?;
            for _ in 0..count {
                let request = Request::post("/upload").body(body.clone())?;
                client.exchange(&mut connection, request, u64::MAX).await?;
            }
            transfer(count * UPLOAD, count, began)
        }
        What::Load | What::FirstByte | What::Socket => {
            let one = async || match args.what {
                What::FirstByte => first_bytes(&client, window).await,
                What::Socket => messages(&client, window).await,
                _ => requests(&client, window).await,
            };
            let all = futures_util::future::try_join_all((0..args.connections).map(|_| one())).await?;
            let all_requests = all.iter().map(|times| times.all).sum();
            let nanos: Vec<u64> = all.into_iter().flat_map(|times| times.nanos).collect();
            let requests = nanos.len() as u64;
            let per_second = requests as f64 / duration.as_secs_f64();
            Measured { per_second, requests, all_requests, latency: Latency::of(nanos) }
        }
    };
    Ok(Outcome { measured, client_cpu: own_cpu_seconds()? })
}

fn transfer(bytes: u64, requests: u64, began: Instant) -> Measured {
    let per_second = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
    Measured { per_second, requests, all_requests: requests, latency: Latency::default() }
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

async fn requests(client: &Client<'_>, window: Window) -> anyhow::Result<Times> {
    let mut connection = Connection::open(client.browser().addr).await?;
    let mut times = Times::default();
    loop {
        let began = Instant::now();
        if began >= window.until {
            return Ok(times);
        }
        let request = Request::get("/small").body(Bytes::new())?;
        let length = client.exchange(&mut connection, request, u64::MAX).await?;
        ensure!(length == crate::origin::SMALL as u64, "an answer of {length} bytes");
        times.note(began, window);
    }
}

/// Each on a connection of its own, which is broken off: the rest of the answer is not wanted.
async fn first_bytes(client: &Client<'_>, window: Window) -> anyhow::Result<Times> {
    let mut times = Times::default();
    while Instant::now() < window.until {
        let mut connection = Connection::open(client.browser().addr).await?;
        let began = Instant::now();
        let request = Request::get(format!("/bytes/{LARGE}")).body(Bytes::new())?;
        client.exchange(&mut connection, request, 1).await?;
        times.note(began, window);
        connection.abort();
    }
    Ok(times)
}

async fn messages(client: &Client<'_>, window: Window) -> anyhow::Result<Times> {
    let message = Bytes::from(vec![b'm'; MESSAGE]);
    let mut times = Times::default();
    let mut socket = client.socket().await?;
    while Instant::now() < window.until {
        let began = Instant::now();
        ensure!(socket.echo(message.clone()).await? == message, "another message came back");
        times.note(began, window);
    }
    Ok(times)
}

/// One measurement with what each process used for it.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Rate and latency.
    pub measured: Measured,
    /// CPU seconds, by process; the client is the last.
    pub cpu: Vec<(&'static str, f64)>,
}

/// One column in one round.
#[derive(Debug, Clone)]
pub struct Figures {
    /// One connection.
    pub one: Figure,
    /// [`crate::compare::MANY`] connections; its CPU is for 100,000 requests.
    pub many: Figure,
    /// The first piece of a large body.
    pub first_byte: Figure,
    /// One WebSocket.
    pub socket: Figure,
    /// A large answer; its CPU is for a GiB.
    pub down: Figure,
    /// Large requests; likewise.
    pub up: Figure,
}

/// All columns of one round, in the order of [`Protection::ALL`].
pub type Round = Vec<Figures>;

/// What a round is measured with.
pub struct Plan<'a> {
    /// The paired browser's file.
    pub browser: &'a Path,
    /// Relay and agent.
    pub processes: &'a [Process],
    /// Seconds of each measurement of small requests.
    pub seconds: f64,
    /// Connections of the busy one.
    pub many: usize,
    /// Mebibytes of each large body.
    pub mib: u64,
}

impl Plan<'_> {
    /// Measures one round.
    pub async fn round(&self) -> anyhow::Result<Round> {
        let mut round = Vec::new();
        for protection in Protection::ALL {
            let measure =
                async |what: &str, connections: usize| self.measure(what, protection, connections).await;
            let per_requests = |figure: Figure| {
                let share = 1e5 / figure.measured.all_requests.max(1) as f64;
                figure.scaled(share)
            };
            let per_gib = |figure: Figure| figure.scaled(1024.0 / self.mib.max(1) as f64);
            round.push(Figures {
                one: measure("load", 1).await?,
                many: per_requests(measure("load", self.many).await?),
                first_byte: measure("first-byte", 1).await?,
                socket: measure("socket", 1).await?,
                down: per_gib(measure("down", 1).await?),
                up: per_gib(measure("up", 1).await?),
            });
        }
        Ok(round)
    }

    async fn measure(
        &self,
        what: &str,
        protection: Protection,
        connections: usize,
    ) -> anyhow::Result<Figure> {
        let args: Vec<String> = [
            "protected",
            what,
            protection.name(),
            "--browser",
            &self.browser.display().to_string(),
            "--connections",
            &connections.to_string(),
            "--seconds",
            &self.seconds.to_string(),
            "--mib",
            &self.mib.to_string(),
        ]
        .map(ToOwned::to_owned)
        .into();
        let used = || -> Vec<f64> { self.processes.iter().map(Process::cpu_seconds).collect() };
        let before = used();
        let outcome: Outcome = part(&args).await.with_context(|| args.join(" "))?;
        let each = self.processes.iter().zip(used()).zip(before);
        let mut cpu: Vec<_> = each.map(|((process, after), before)| (process.name, after - before)).collect();
        cpu.push(("client", outcome.client_cpu));
        Ok(Figure { measured: outcome.measured, cpu })
    }
}

impl Figure {
    fn scaled(self, by: f64) -> Self {
        Self { cpu: self.cpu.into_iter().map(|(name, seconds)| (name, seconds * by)).collect(), ..self }
    }
}
