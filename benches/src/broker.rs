//! Frames through `/ws`: on one relay, and from one relay to another over Redis; and how long the way is gone after the
//! daemon's relay was killed. A client sends a sealed frame, the daemon sends it back: a round trip is two frames.
//!
//! Platform, daemon and client live in this process, the relays and Redis in their own.

use crate::stats::{Latency, median};
use anyhow::Context as _;
use serde_json::json;
use std::{
    collections::VecDeque,
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};
use system_tests::{
    broker::{Dial, Event, Socket, frames},
    platform::Platform,
    redis::Redis,
    relay::{Relay, RelayOptions},
};
use tokio::task::JoinHandle;

/// Frames under way at once where the rate is measured.
const WINDOW: usize = 64;
/// Bytes of what a frame seals.
const SEALED: usize = 1024;
/// How often the client tries after the relay was killed.
const TRY: Duration = Duration::from_millis(5);
/// How long a round may take before it counts as failed.
const ROUND: Duration = Duration::from_secs(60);

const WORKSPACE: &str = "bench";
const TARGET: &str = "target";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds, of which the medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// One way in one round.
struct Measured {
    /// One frame at a time.
    alone: Latency,
    /// Frames per second with [`WINDOW`] under way.
    rate: f64,
    /// Their latency.
    busy: Latency,
}

/// Measures, and prints the table in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let platform = Platform::start().await;
    let redis = Redis::start().await;
    let duration = Duration::try_from_secs_f64(args.seconds)?;
    let (mut one, mut two, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let relay = start(&platform, None).await;
        one.push(measure(&platform, relay.addr, relay.addr, duration).await?);
        drop(relay);
        let (a, b) = (start(&platform, Some(&redis)).await, start(&platform, Some(&redis)).await);
        two.push(measure(&platform, a.addr, b.addr, duration).await?);
        drop(a);
        gone.push(killed(&platform, &redis, b).await?.as_secs_f64() * 1e3);
    }
    let mut out = String::from(
        "\n## The frame broker\n\nA frame of 1 KiB from a client to the daemon and back, through `/ws`; medians of the rounds. A round trip is two frames.\n\n\
         | way | round trip alone, p50 / p99 ms | frames/s, 64 under way | round trip then, p50 / p99 ms |\n| --- | --- | --- | --- |\n",
    );
    for (name, rounds) in [("one relay", &one), ("two relays, over Redis", &two)] {
        let of = |figure: fn(&Measured) -> f64| median(rounds.iter().map(figure));
        let _ = writeln!(
            out,
            "| {name} | {:.3} / {:.3} | {:.0} | {:.3} / {:.3} |",
            of(|m| m.alone.p50),
            of(|m| m.alone.p99),
            of(|m| m.rate),
            of(|m| m.busy.p50),
            of(|m| m.busy.p99),
        );
    }
    let _ = writeln!(
        out,
        "\nFrom `kill -9` of the daemon's relay, with the daemon dialling a third one at once, until a client's frame is answered again over the \
         second: {:.0} ms (median; longest {:.0} ms).",
        median(gone.iter().copied()),
        gone.iter().copied().fold(0.0, f64::max),
    );
    Ok(out)
}

async fn start(platform: &Platform, redis: Option<&Redis>) -> Relay {
    let mut options = platform.relay(RelayOptions::default()).env("RUST_LOG", "warn,relay_server=info");
    for name in
        ["RUNTIME_RATE_PER_MINUTE", "RUNTIME_RATE_PER_MINUTE_WORKSPACE", "DAEMON_RUNTIME_RATE_PER_MINUTE"]
    {
        options = options.env(&format!("RELAY_{name}"), 100_000_000);
    }
    if let Some(redis) = redis {
        options = options
            .env("RELAY_BACKPLANE_MODE", "redis")
            .env("RELAY_BACKPLANE_URL", redis.url())
            .env("RELAY_BUS_HMAC_KEY", "a key that only these relays have".replace(' ', "-"));
    }
    Relay::start(options).await
}

/// A daemon that sends back every sealed frame and takes every key exchange.
async fn daemon(platform: &Platform, relay: SocketAddr) -> JoinHandle<Socket> {
    let token = platform.grant(json!({
        "role": "workspace-daemon", "workspaceId": WORKSPACE, "runtimeTargetId": TARGET, "e2eeProfile": "noise-ik",
    }));
    let mut socket = Dial::new("workspace-daemon", WORKSPACE, Some(TARGET), &token).connect(relay).await;
    tokio::spawn(async move {
        while let Event::Frame(text) = socket.event().await {
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(frame) if frame.get("type").is_some_and(|kind| kind == "relay_key_exchange_init") => {
                    let request = frame.get("requestId").and_then(|id| id.as_str()).unwrap_or_default();
                    socket.send(&frames::key_exchange_response(request, &session(request))).await;
                }
                _ => socket.send_text(text).await,
            }
        }
        socket
    })
}

fn session(request: &str) -> String {
    format!("session-of-{request}")
}

async fn client(platform: &Platform, relay: SocketAddr) -> Socket {
    let token = platform.grant(json!({
        "role": "client", "scope": "runtime", "workspaceId": WORKSPACE, "runtimeTargetId": TARGET, "e2eeProfile": "noise-ik",
    }));
    Dial::new("client", WORKSPACE, Some(TARGET), &token).connect(relay).await
}

fn frame(seq: u64) -> String {
    let mut frame = frames::e2ee(&session("1"), seq);
    if let Some(frame) = frame.as_object_mut() {
        frame.insert("ciphertext".to_owned(), json!("c".repeat(SEALED)));
    }
    frame.to_string()
}

async fn measure(
    platform: &Platform,
    daemons: SocketAddr,
    clients: SocketAddr,
    duration: Duration,
) -> anyhow::Result<Measured> {
    let daemon = daemon(platform, daemons).await;
    let mut client = client(platform, clients).await;
    client.send(&frames::key_exchange_init("1")).await;
    client.until(|frame| frame.get("type").is_some_and(|kind| kind == "relay_key_exchange_response")).await;
    let alone = round_trips(&mut client, 1, duration).await?;
    let busy = round_trips(&mut client, WINDOW, duration).await?;
    daemon.abort();
    Ok(Measured {
        rate: 2.0 * busy.len() as f64 / duration.as_secs_f64(),
        alone: Latency::of(alone),
        busy: Latency::of(busy),
    })
}

/// The nanoseconds of each round trip.
async fn round_trips(client: &mut Socket, window: usize, duration: Duration) -> anyhow::Result<Vec<u64>> {
    let (mut sent, mut took, mut seq) = (VecDeque::new(), Vec::new(), 0);
    let end = Instant::now() + duration;
    loop {
        while sent.len() < window && Instant::now() < end {
            seq += 1;
            sent.push_back(Instant::now());
            client.send_text(frame(seq)).await;
        }
        let Some(at) = sent.pop_front() else { return Ok(took) };
        let Event::Frame(_) = client.event().await else { anyhow::bail!("the socket was closed") };
        took.push(u64::try_from(at.elapsed().as_nanos()).context("too long")?);
    }
}

/// How long a client on `b` gets no answer after the daemon's relay was killed.
async fn killed(platform: &Platform, redis: &Redis, b: Relay) -> anyhow::Result<Duration> {
    let (mut a, c) = (start(platform, Some(redis)).await, start(platform, Some(redis)).await);
    let first = daemon(platform, a.addr).await;
    let mut client = client(platform, b.addr).await;
    let mut seq = answered(&mut client, 0).await?;
    let killed = Instant::now();
    a.process.kill();
    drop(first.await);
    let second = daemon(platform, c.addr).await;
    seq = answered(&mut client, seq).await?;
    let took = killed.elapsed();
    anyhow::ensure!(seq > 0, "nothing was sent");
    second.abort();
    Ok(took)
}

/// Sends frames until one is answered; statuses in between are no answers.
async fn answered(client: &mut Socket, mut seq: u64) -> anyhow::Result<u64> {
    let wait = async {
        loop {
            seq += 1;
            client.send_text(frame(seq)).await;
            let came = tokio::time::timeout(
                TRY,
                client.until(|frame| frame.get("seq").and_then(serde_json::Value::as_u64) == Some(seq)),
            );
            if came.await.is_ok() {
                return seq;
            }
        }
    };
    tokio::time::timeout(ROUND, wait).await.context("no answer came back")
}
