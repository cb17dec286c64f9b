//! Log lines and metrics. Lines go to standard error, as text or JSON, filtered by `RUST_LOG`; standard output
//! belongs to what commands answer. For the operator's interface, and only with it, the last lines are kept
//! ([`logs`]) and what happens is counted ([`metrics`]).

pub mod logs;
pub mod metrics;
pub mod process;
pub mod seldom;

use std::io::IsTerminal;
use std::sync::Arc;

use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{Config, LogFormat};
use logs::Ring;

/// Why telemetry could not begin: something else in this process has it already.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something logs.
    #[error(transparent)]
    Log(#[from] TryInitError),
    /// Something counts.
    #[error(transparent)]
    Metrics(#[from] BuildError),
}

/// What the operator's interface shows of this process.
#[derive(Clone)]
pub struct Shown {
    /// The last log lines.
    pub logs: Arc<Ring>,
    /// What was counted.
    pub metrics: PrometheusHandle,
}

/// Begins logging as the configuration says; to be called before any part that counts is made. With the
/// operator's interface off nothing is kept and nothing counted.
///
/// # Errors
/// [`InitError`].
pub fn init(config: &Config) -> Result<Option<Shown>, InitError> {
    let shown = match config.admin.token {
        Some(_) => {
            let metrics = metrics::recorder()?;
            Some(Shown { logs: Arc::new(Ring::new(config.admin.log_lines)), metrics })
        }
        None => None,
    };
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        LogFormat::Text => {
            fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed()
        }
    };
    let kept = shown.as_ref().map(|shown| logs::Keep(shown.logs.clone()));
    // The filter was checked with the configuration. Last, it holds for the layers before it alike.
    let filter = EnvFilter::new(&config.log);
    tracing_subscriber::registry().with(lines).with(kept).with(filter).try_init()?;
    Ok(shown)
}
