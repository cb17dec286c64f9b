//! Everything in one run. Each round measures every contestant in turn, so that what drifts on the
//! machine drifts for all of them; the tables hold the medians of the rounds.

use crate::{
    contestants::{self, Contestant, Relay},
    existing,
    idle::Memory,
    load::{Bulk, Measured},
    process::{Part, part},
    protected, report,
    stats::median,
};
use anyhow::{Context as _, ensure};
use std::{net::SocketAddr, path::PathBuf};

/// Connections of the busy measurement, as the targets name it.
pub const MANY: usize = 64;

/// Starts of the relay of which the median is told.
const STARTS: usize = 5;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Our relay.
    #[arg(long)]
    relay: PathBuf,
    /// Our agent.
    #[arg(long)]
    agent: PathBuf,
    /// nginx; left out of the tables when not given.
    #[arg(long)]
    nginx: Option<PathBuf>,
    /// rathole, built with its WebSocket transport; left out of the tables when not given.
    #[arg(long)]
    rathole: Option<PathBuf>,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement of small requests.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Mebibytes of each bulk transfer.
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Mebibytes of each bulk transfer of a paired browser.
    #[arg(long, default_value_t = 512)]
    protected_mib: u64,
    /// Idle tunnels to measure at.
    #[arg(long, default_value = "1000,10000")]
    idle: String,
    /// The commit, for the table.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// The day, for the table.
    #[arg(long, default_value = "unknown")]
    date: String,
    /// A file with remarks that is appended to the tables.
    #[arg(long)]
    notes: Option<PathBuf>,
    /// Where the tables go.
    #[arg(long)]
    out: PathBuf,
}

/// One contestant in one round.
#[derive(Debug, Clone)]
pub struct Round {
    /// One connection.
    pub one: Measured,
    /// [`MANY`] connections.
    pub many: Measured,
    /// CPU seconds per 100,000 requests with [`MANY`] connections, by process.
    pub cpu: Vec<(&'static str, f64)>,
    /// Million bytes per second.
    pub down: f64,
    /// Million bytes per second.
    pub up: f64,
    /// One connection, beside an endless download.
    pub beside_bulk: Measured,
    /// One connection, beside a download that nobody reads.
    pub beside_stalled: Measured,
}

/// One contestant in all rounds.
#[derive(Debug)]
pub struct Row {
    /// The contestant's name.
    pub name: &'static str,
    /// Its rounds.
    pub rounds: Vec<Round>,
}

impl Row {
    /// The median of one figure over the rounds.
    pub fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }
}

/// All that was measured.
#[derive(Debug)]
pub struct Results {
    /// One row for each contestant, direct first.
    pub rows: Vec<Row>,
    /// Our relay and agent under every protection.
    pub protected: Vec<protected::Round>,
    /// Idle tunnels.
    pub idle: Memory,
    /// Milliseconds to serving, with a fresh database and with an existing one.
    pub start_ms: (f64, f64),
}

/// Measures and writes the tables.
pub async fn run(args: Args) -> anyhow::Result<()> {
    ensure!(args.rounds > 0, "at least one round");
    let (relay, agent) = (existing(&args.relay)?, existing(&args.agent)?);
    let work = tempfile::tempdir()?;
    let dir = work.path();

    eprintln!("start time");
    let start_ms = start_times(&relay, dir).await?;

    eprintln!("idle tunnels");
    let host = Relay::start(&relay, &dir.join("idle")).await?;
    let (url, pid, token) = (
        format!("http://{}", host.base.authority),
        host.process.pid().to_string(),
        host.token_file.display().to_string(),
    );
    let idle =
        part(&["idle", "--relay", &url, "--token-file", &token, "--pid", &pid, "--counts", &args.idle])
            .await?;
    host.process.stop().await?;

    let mut origin = Part::start(&["origin"])?;
    let url: String = origin.next().await?;
    let address: SocketAddr = url.trim_start_matches("http://").parse()?;
    let mut all = vec![contestants::direct(address)?];
    if let Some(program) = &args.nginx {
        all.push(contestants::nginx(&existing(program)?, dir, address).await?);
    }
    if let Some(program) = &args.rathole {
        all.push(contestants::rathole(&existing(program)?, dir, address).await?);
    }
    all.push(contestants::ours(&relay, &agent, &dir.join("ours"), address).await?);

    let mut rows: Vec<Row> = all.iter().map(|c| Row { name: c.name, rounds: vec![] }).collect();
    for number in 1..=args.rounds {
        for (contestant, row) in all.iter_mut().zip(&mut rows) {
            eprintln!("round {number} of {}: {}", args.rounds, contestant.name);
            let measured = round(contestant, &args).await;
            row.rounds.push(measured.with_context(|| format!("measuring {}", contestant.name))?);
        }
    }
    let browser = dir.join("browser");
    let ours = all.last().context("nobody is measured")?;
    protected::pair(&agent, &contestants::agent_state(&dir.join("ours")), &ours.base, &browser).await?;
    let plan = protected::Plan {
        browser: &browser,
        processes: &ours.processes,
        seconds: args.seconds,
        many: MANY,
        // Whole uploads.
        mib: args.protected_mib.next_multiple_of(protected::UPLOAD >> 20),
    };
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}: unsigned, signed, sealed", args.rounds);
        rounds.push(plan.round().await.context("measuring protected requests")?);
    }
    for process in all.into_iter().flat_map(|contestant| contestant.processes) {
        process.stop().await?;
    }
    origin.stop().await?;

    let notes = args.notes.map(std::fs::read_to_string).transpose().context("reading the notes")?;
    let text = report::markdown(
        &Results { rows, protected: rounds, idle, start_ms },
        &report::About::here(args.commit, args.date),
        notes.as_deref(),
    );
    std::fs::write(&args.out, &text)?;
    println!("{text}");
    Ok(())
}

async fn start_times(relay: &std::path::Path, dir: &std::path::Path) -> anyhow::Result<(f64, f64)> {
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for number in 0..STARTS {
        let dir = dir.join(format!("start-{number}"));
        fresh.push(contestants::start_ms(relay, &dir).await?);
        again.push(contestants::start_ms(relay, &dir).await?);
    }
    Ok((median(fresh), median(again)))
}

async fn round(contestant: &mut Contestant, args: &Args) -> anyhow::Result<Round> {
    let base = format!("http://{}{}", contestant.base.authority, contestant.base.path.trim_end_matches('/'));
    let small = format!("{base}/small");
    let seconds = args.seconds.to_string();
    let load = async |connections: usize| -> anyhow::Result<Measured> {
        part(&["load", "--url", &small, "--connections", &connections.to_string(), "--seconds", &seconds])
            .await
    };
    let mib = args.mib.to_string();

    let one = load(1).await?;
    let before: Vec<f64> = contestant.processes.iter().map(|p| p.cpu_seconds()).collect();
    let many = load(MANY).await?;
    let cpu = contestant.processes.iter().zip(before).map(|(process, before)| {
        (process.name, (process.cpu_seconds() - before) / many.all_requests as f64 * 1e5)
    });
    let cpu = cpu.collect();
    let down: Bulk = part(&["bulk", "--url", &base, "--mib", &mib]).await?;
    let up: Bulk = part(&["bulk", "--url", &base, "--mib", &mib, "--up"]).await?;

    let bulk = Part::start(&["bulk", "--url", &base, "--mib", "65536", "--forever"])?;
    let beside_bulk = load(1).await?;
    bulk.stop().await?;

    let mut stalled = Part::start(&["stall", "--url", &base])?;
    stalled.next::<serde_json::Value>().await?;
    let beside_stalled = load(1).await?;
    stalled.stop().await?;

    for process in &mut contestant.processes {
        process.check()?;
    }
    Ok(Round { one, many, cpu, down: down.mb_per_s, up: up.mb_per_s, beside_bulk, beside_stalled })
}
