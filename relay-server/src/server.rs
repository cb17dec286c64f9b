//! Puts the parts together.

use tokio::net::TcpListener;

use crate::config::Config;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// Serves until `shutdown`.
///
/// # Errors
/// When what the relay keeps for itself cannot be read or made.
pub async fn run(
    _config: Config,
    _store: Store,
    _listener: TcpListener,
    _shutdown: Shutdown,
) -> anyhow::Result<()> {
    Ok(())
}
