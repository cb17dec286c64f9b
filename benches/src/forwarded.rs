//! Requests to a host whose tunnel is at the relay that was asked, and at another one: what forwarding costs.
//!
//! Two relays share a PostgreSQL database, one agent is at one of them, and the same session is asked for at both by
//! turns. Client, origin, relays and agent are processes of their own.

use crate::{
    load::{Bulk, Measured},
    process::{Part, part},
    stats::median,
};
use std::fmt::Write as _;
use system_tests::fleet::{Across, Fleet};

/// Connections at once where the rate is measured.
const MANY: &str = "64";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds, of which the medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Mebibytes of each transfer.
    #[arg(long, default_value_t = 512)]
    mib: u64,
}

/// One way in one round.
struct Round {
    one: Measured,
    many: Measured,
    down: Bulk,
    up: Bulk,
}

/// Measures, and gives the table in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let mut origin = Part::start(&["origin"])?;
    let to: String = origin.next().await?;
    let fleet = Fleet::start().await.with(|mut relay| {
        relay = relay.env("RUST_LOG", "warn,relay_server=info").env("RELAY_API_RATE_PER_MINUTE", 1_000_000);
        for name in ["CONNECTIONS_PER_IP", "TCP_CONNECTIONS_PER_IP", "TCP_CONNECTIONS"] {
            relay = relay.env(&format!("RELAY_MAX_{name}"), 50_000);
        }
        relay
    });
    let all = Across::with(fleet, &to, |agent| agent).await;
    let ways = [("at the relay of the tunnel", all.far.addr), ("forwarded by another one", all.near.addr)];
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..args.rounds {
        for ((_, relay), rounds) in ways.iter().zip(&mut found) {
            rounds.push(round(&format!("http://{relay}{}", all.prefix()), args).await?);
        }
    }
    origin.stop().await?;

    let mut out = String::from(
        "\n## One relay and two\n\nThe tunnel is at the relay that is asked, or at another one that it forwards to; one PostgreSQL.\n\n\
         | requests are answered | req/s, 1 connection | p50 / p99 ms | req/s, 64 connections | p50 / p99 ms | down MB/s | up MB/s |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for ((name, _), rounds) in ways.iter().zip(&found) {
        let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
        let _ = writeln!(
            out,
            "| {name} | {:.0} | {:.3} / {:.3} | {:.0} | {:.3} / {:.3} | {:.0} | {:.0} |",
            of(|round| round.one.per_second),
            of(|round| round.one.latency.p50),
            of(|round| round.one.latency.p99),
            of(|round| round.many.per_second),
            of(|round| round.many.latency.p50),
            of(|round| round.many.latency.p99),
            of(|round| round.down.mb_per_s),
            of(|round| round.up.mb_per_s),
        );
    }
    Ok(out)
}

async fn round(base: &str, args: &Args) -> anyhow::Result<Round> {
    let (small, seconds, mib) = (format!("{base}/small"), args.seconds.to_string(), args.mib.to_string());
    let load = async |connections: &str| {
        part(&["load", "--url", &small, "--connections", connections, "--seconds", &seconds]).await
    };
    Ok(Round {
        one: load("1").await?,
        many: load(MANY).await?,
        down: part(&["bulk", "--url", base, "--mib", &mib]).await?,
        up: part(&["bulk", "--url", base, "--mib", &mib, "--up"]).await?,
    })
}
