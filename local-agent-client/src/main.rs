//! The program `local-agent-client`: `run` and `status`.

mod cli;

use clap::Parser;
use cli::{Cli, Command, Env, LogFormat};
use local_agent_client::{Status, platform, state};
use std::{io::Write, path::Path, process::ExitCode};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Bodies come and go in buffers of many sizes from several threads; it saves a tenth of the CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell reports for a program that was interrupted.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let env = Env(|name: &str| std::env::var_os(name));
    let done = match Cli::parse().command {
        Command::Run(args) => run(&env, &args),
        Command::Status(args) => {
            env.state_dir(args.state_dir.as_deref()).and_then(|dir| status(&dir, args.json))
        }
    };
    done.unwrap_or_else(|error| {
        // Standard error may be closed; the exit code still tells.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run<F>(env: &Env<F>, args: &cli::Run) -> anyhow::Result<ExitCode>
where
    F: Fn(&str) -> Option<std::ffi::OsString>,
{
    log(args.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let agent = env.agent(args)?;
    runtime.block_on(async {
        let mut interrupts = platform::Interrupts::listen()?;
        let shutdown = CancellationToken::new();
        let running = agent.run(shutdown.clone());
        let signals = async {
            interrupts.next().await;
            tracing::info!("ending once what is under way is finished; a second signal ends at once");
            shutdown.cancel();
            interrupts.next().await;
            std::process::exit(INTERRUPTED);
        };
        tokio::select! {
            () = running => Ok(ExitCode::SUCCESS),
            () = signals => Ok(ExitCode::FAILURE),
        }
    })
}

fn log(format: LogFormat) {
    // The filter's parser panics on some texts beyond ASCII.
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| text.is_ascii() && !text.is_empty());
    let filter =
        wanted.and_then(|text| EnvFilter::try_new(text).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => {
            registry.with(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}

fn status(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status = state::read_status(dir)?;
    let mut out = std::io::stdout().lock();
    if json {
        let shown = match &status {
            Some(status) => serde_json::to_value(status).map(|mut value| {
                if let Some(object) = value.as_object_mut() {
                    object.insert("running".to_owned(), true.into());
                }
                value
            })?,
            None => serde_json::json!({ "running": false, "connected": false }),
        };
        writeln!(out, "{shown:#}")?;
    } else {
        match &status {
            Some(status) => write!(out, "{}", describe(status, local_agent_client::status::now()))?,
            None => writeln!(out, "no agent runs with the state folder {}", dir.display())?,
        }
    }
    let connected = status.is_some_and(|status| status.connected);
    Ok(if connected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The status for people.
fn describe(status: &Status, now: i64) -> String {
    let mut lines = Vec::new();
    match (status.connected, status.connected_since) {
        (true, Some(since)) => lines.push(format!("connected to {} for {}", status.relay, span(now - since))),
        (true, None) => lines.push(format!("connected to {}", status.relay)),
        (false, _) => match status.next_retry_at {
            Some(at) if at > now => {
                lines.push(format!("not connected to {}; next attempt in {}", status.relay, span(at - now)))
            }
            _ => lines.push(format!("not connected to {}; connecting", status.relay)),
        },
    }
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("  {name:<12} {value}"));
        }
    };
    line(
        "host",
        Some(
            status
                .host_id
                .as_ref()
                .map_or_else(|| status.name.clone(), |id| format!("{} ({id})", status.name)),
        ),
    );
    line("serves", Some(status.local.clone()));
    line("tunnel", status.form.clone());
    line("round trip", status.rtt_ms.map(|rtt| format!("{rtt} ms")));
    line("requests", Some(format!("{} ({} under way)", status.requests.total, status.requests.active)));
    line("bytes", Some(format!("{} in, {} out", status.requests.bytes_received, status.requests.bytes_sent)));
    line(
        "last error",
        status.last_error.as_ref().map(|error| format!("{} ago: {}", span(now - error.at), error.message)),
    );
    line(
        "process",
        Some(format!("{} (version {}), up {}", status.pid, status.version, span(now - status.started_at))),
    );
    lines.join("\n") + "\n"
}

fn span(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_readable() {
        for (seconds, expected) in [
            (-5, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
