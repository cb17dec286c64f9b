//! The program `local-agent-client`: runs the agent, and controls one that runs.

mod cli;
mod commands;
mod service_manager;

use clap::Parser;
use cli::{BrowsersAction, Cli, Command, Env, LogFormat, Where};
use commands::INTERRUPTED;
use local_agent_client::platform;
use std::{io::Write, path::PathBuf, process::ExitCode};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Bodies come and go in buffers of many sizes from several threads; it saves a tenth of the CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged unless RUST_LOG says otherwise.
const LOG: &str = "info";
/// What is not logged unless RUST_LOG names it: the engine of peers (its crates begin like this) tells of every
/// datagram that it cannot read, and anybody may send those.
const QUIET: &str = "webrtc=off,rtc=off";

fn main() -> ExitCode {
    let env = Env(|name: &str| std::env::var_os(name));
    let dir = |at: &Where| -> anyhow::Result<PathBuf> { env.state_dir(at.state_dir.as_deref()) };
    let done = match Cli::parse().command {
        Command::Run(args) => run(&env, &args),
        Command::Status(args) => dir(&args.at).and_then(|dir| commands::status::run(&dir, args.json)),
        Command::Pair(args) => dir(&args.at).and_then(|dir| commands::pair::run(&dir, &args)),
        Command::Browsers(args) => {
            let (BrowsersAction::List { at, .. }
            | BrowsersAction::Rename { at, .. }
            | BrowsersAction::Revoke { at, .. }) = &args.action;
            dir(at).and_then(|dir| commands::browsers::run(&dir, &args.action))
        }
        Command::Page(args) => dir(&args.at).and_then(|dir| commands::page::run(&dir, &args)),
        Command::Login(args) => dir(&args.at).and_then(|dir| {
            let (name, ca) = (env.name(args.name.as_ref())?, env.ca(args.ca.as_ref()));
            commands::login::login(&dir, &args.url, name, ca)
        }),
        Command::Logout(args) => {
            dir(&args.at).and_then(|dir| commands::login::logout(&dir, env.ca(args.ca.as_ref())))
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
        let telling = service_manager::keep_told(agent.status(), shutdown.clone());
        let _telling = AbortOnDropHandle::new(tokio::spawn(telling));
        let running = agent.run(shutdown.clone());
        let signals = async {
            interrupts.next().await;
            tracing::info!("ending once what is under way is finished; a second signal ends at once");
            shutdown.cancel();
            interrupts.next().await;
            std::process::exit(INTERRUPTED.into());
        };
        tokio::select! {
            () = running => Ok(ExitCode::SUCCESS),
            () = signals => Ok(ExitCode::FAILURE),
        }
    })
}

/// What is logged, by what RUST_LOG says.
fn filter(wanted: Option<String>) -> EnvFilter {
    let quietly = |wanted: &str| EnvFilter::try_new(format!("{QUIET},{wanted}")).ok();
    // The filter's parser panics on some texts beyond ASCII.
    let wanted = wanted.filter(|text| text.is_ascii() && !text.is_empty());
    wanted.and_then(|text| quietly(&text)).or_else(|| quietly(LOG)).unwrap_or_default()
}

fn log(format: LogFormat) {
    let filter = filter(std::env::var("RUST_LOG").ok());
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => {
            registry.with(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::filter;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tracing::{Event, Level, Subscriber, subscriber::with_default};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt},
        registry,
    };

    /// The targets of what was logged.
    #[derive(Clone, Default)]
    struct Logged(Arc<Mutex<Vec<&'static str>>>);

    impl<S: Subscriber> Layer<S> for Logged {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().push(event.metadata().target());
        }
    }

    fn logged(wanted: Option<&str>) -> Vec<&'static str> {
        let lines = Logged::default();
        let subscriber = registry().with(filter(wanted.map(str::to_owned))).with(lines.clone());
        with_default(subscriber, || {
            // The modules that they log from.
            tracing::event!(target: "webrtc::peer_connection", Level::ERROR, "");
            tracing::event!(target: "rtc::peer_connection", Level::ERROR, "");
            tracing::event!(target: "rtc_ice::agent", Level::ERROR, "");
            tracing::event!(target: "rtc_sctp::association", Level::ERROR, "");
            tracing::event!(target: "rtc_dtls::conn", Level::ERROR, "");
            tracing::event!(target: "rtc_turn::client", Level::ERROR, "");
            tracing::event!(target: "rtc_mdns", Level::ERROR, "");
            tracing::event!(target: "local_agent_client::peer", Level::INFO, "");
            tracing::event!(target: "local_agent_client::peer", Level::DEBUG, "");
        });
        lines.0.lock().clone()
    }

    #[test]
    fn the_engine_of_peers_is_silent_unless_it_is_named() {
        const OURS: &str = "local_agent_client::peer";
        for (wanted, expected) in [
            (None, vec![OURS]),
            (Some(""), vec![OURS]),
            (Some("not=a=filter"), vec![OURS]),
            (Some("\u{e4}"), vec![OURS]),
            (Some("debug"), vec![OURS, OURS]),
            (Some("warn"), vec![]),
            (Some("off,rtc_ice=warn"), vec!["rtc_ice::agent"]),
            (Some("off,webrtc=info"), vec!["webrtc::peer_connection"]),
        ] {
            assert_eq!(logged(wanted), expected, "{wanted:?}");
        }
    }
}
