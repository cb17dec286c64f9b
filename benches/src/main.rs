//! Measures the data path, ours beside others, in one run on one machine.
//!
//! `compare` is what `make bench` runs: it starts everything, measures in interleaved rounds and
//! writes the tables. The other subcommands are its parts. Each runs as a process of its own, so
//! that client, origin and contestants are told apart by the scheduler as they would be in life,
//! and each can be tried alone against any address.

mod broker;
mod client;
mod compare;
mod contestants;
mod forwarded;
mod idle;
mod load;
mod origin;
mod process;
mod protected;
mod report;
mod stats;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "Measures the data path, ours beside others")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The local server of every comparison: /small, /bytes/N, /upload.
    Origin {
        /// The address to listen on.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Small requests over keep-alive connections, each sent when the one before is answered.
    Load {
        /// What to GET.
        #[arg(long)]
        url: String,
        /// Connections at once.
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Seconds that are measured.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Seconds before them that are not.
        #[arg(long, default_value_t = 1.0)]
        warmup: f64,
    },
    /// One large body in one stream.
    Bulk {
        /// The base: /bytes/N or /upload is appended.
        #[arg(long)]
        url: String,
        /// Send instead of receive.
        #[arg(long)]
        up: bool,
        /// Mebibytes.
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// Again and again, until this process is ended.
        #[arg(long)]
        forever: bool,
    },
    /// Begins downloads and never reads them.
    Stall {
        /// The base: /bytes/N is appended.
        #[arg(long)]
        url: String,
        /// How many.
        #[arg(long, default_value_t = 1)]
        readers: usize,
    },
    /// A paired browser that signs or seals, beside one that does neither.
    Protected(protected::Args),
    /// Opens idle tunnels and prints the relay's memory at each count.
    Idle(idle::Args),
    /// Frames through `/ws`, on one relay and across two; prints a table. The programs are found in
    /// the folder that SYSTEM_TESTS_BIN_DIR names.
    Broker(broker::Args),
    /// Requests to a tunnel of the relay that is asked, and of another one; prints a table. The programs are found
    /// likewise.
    Forwarded(forwarded::Args),
    /// Everything, side by side, and the tables.
    Compare(compare::Args),
}

fn main() -> anyhow::Result<()> {
    let command = Args::parse().command;
    // The clients stay on one thread each: on a small machine a second one would only take a core
    // from what is measured.
    let mut runtime = match command {
        Command::Origin { .. } => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    runtime.enable_all().build().context("no runtime")?.block_on(run(command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Origin { listen } => origin::serve(listen).await,
        Command::Load { url, connections, seconds, warmup } => {
            let measured = load::Plan {
                target: client::Target::parse(&url)?,
                connections,
                warmup: Duration::try_from_secs_f64(warmup)?,
                duration: Duration::try_from_secs_f64(seconds)?,
            };
            print(&load::run(measured).await?)
        }
        Command::Bulk { url, up, mib, forever } => loop {
            let base = client::Target::parse(&url)?;
            let bytes = mib << 20;
            let seconds =
                if up { client::upload(&base, bytes).await } else { client::download(&base, bytes).await }?;
            let rate = bytes as f64 / seconds / 1e6;
            print(&load::Bulk { mb_per_s: rate })?;
            if !forever {
                return Ok(());
            }
        },
        Command::Stall { url, readers } => load::stall(&client::Target::parse(&url)?, readers).await,
        Command::Protected(args) => print(&protected::run(&args).await?),
        Command::Idle(args) => print(&idle::run(&args).await?),
        Command::Broker(args) => print_table(&broker::run(&args).await?),
        Command::Forwarded(args) => print_table(&forwarded::run(&args).await?),
        Command::Compare(args) => compare::run(args).await,
    }
}

/// One line of JSON, as `compare` reads it from its children.
fn print<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    out.flush()?;
    Ok(())
}

/// A table in Markdown.
fn print_table(table: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(std::io::stdout().write_all(table.as_bytes())?)
}

/// A path that must exist, made absolute.
fn existing(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("{} is not there", path.display()))
}
