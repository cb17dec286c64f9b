//! Log lines: to standard error, as text or JSON, filtered by `RUST_LOG`. Standard output belongs
//! to what commands answer.

pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat};

/// Begins logging as the configuration says.
///
/// # Errors
/// When something else in this process logs already.
pub fn init(config: &Config) -> Result<(), TryInitError> {
    // The filter was checked with the configuration.
    let filter = EnvFilter::new(&config.log);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
    }
}
