//! The `relay-server` program: command line, logging, signals; everything else is the library.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use relay_server::cli::{Action, Cli, print_metrics, print_settings};
use relay_server::config::Config;
use relay_server::identity::{self, IdentityCommand, Tools};
use relay_server::shutdown::{Shutdown, on_signals};
use relay_server::store::Store;
use relay_server::{server, service_manager, telemetry};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for a configuration that does not hold, as for a command line that does not.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Action::Settings { markdown } = cli.action {
        let _ = std::io::stdout().write_all(print_settings(markdown).as_bytes());
        return ExitCode::SUCCESS;
    }
    if let Action::Metrics { markdown } = cli.action {
        let _ = std::io::stdout().write_all(print_metrics(markdown).as_bytes());
        return ExitCode::SUCCESS;
    }
    let config = match cli.config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("relay-server: {error}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    if matches!(cli.action, Action::Serve) {
        return_memory_soon();
    }
    match run(cli.action, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// mimalloc gives memory back a second after it was freed, and only when something is allocated then: after
/// a crowd has left, an idle relay would keep what the crowd had. Its options are read from the environment
/// before `main`, so the program starts itself once more, in the same process, with the option set.
#[cfg(unix)]
fn return_memory_soon() {
    use std::os::unix::process::CommandExt;
    const OPTION: &str = "MIMALLOC_PURGE_DELAY";
    // At 0 every second request would pay for a system call.
    const PURGE_MS: &str = "50";
    let mut args = std::env::args_os();
    let (Some(name), Ok(program), None) = (args.next(), std::env::current_exe(), std::env::var_os(OPTION))
    else {
        return;
    };
    // Comes back only when it fails, and then the relay serves as it is.
    let _error = std::process::Command::new(program).arg0(name).args(args).env(OPTION, PURGE_MS).exec();
}

/// Other systems keep mimalloc's default.
#[cfg(not(unix))]
fn return_memory_soon() {}

fn run(action: Action, config: Config) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    runtime.block_on(async {
        match action {
            Action::Identity(command) => manage(command, config).await,
            Action::Serve | Action::Settings { .. } | Action::Metrics { .. } => serve(config).await,
        }
    })
}

async fn open(config: &Config) -> anyhow::Result<Store> {
    config.make_folder_of_database()?;
    Store::open(&config.store_options()).await.context("opening the database")
}

async fn manage(command: IdentityCommand, config: Config) -> anyhow::Result<()> {
    let store = open(&config).await?;
    let secret = config.load_jwt_secret()?;
    let tools = Tools {
        secret: &secret,
        base: &config.link_base(),
        input: &mut std::io::stdin().lock(),
        terminal: std::io::stdin().is_terminal(),
    };
    identity::run(command, &store, tools, &mut std::io::stdout().lock()).await?;
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before any part that counts is made.
    let shown = telemetry::init(&config).context("starting the log")?;
    let shutdown = Shutdown::default();
    let signals = tokio::spawn(on_signals(shutdown.clone()));
    let telling = tokio::spawn(service_manager::keep_told(shutdown.clone()));
    let store = open(&config).await?;
    for notice in store.notices() {
        tracing::warn!("{notice}");
    }
    let address = config.listen.to_string();
    let listener = TcpListener::bind((config.listen.host.as_str(), config.listen.port))
        .await
        .with_context(|| format!("listening on {address}"))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "listening addr={}", listener.local_addr()?);
    let result = server::run(config, store, listener, shutdown, shown).await;
    signals.abort();
    telling.abort();
    result.context("serving")
}
