//! Warm HTTP/1.1 connections over the streams of one tunnel.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use relay_protocol::tunnel::{Handle, OpenError};
use tokio::time::Instant;

use crate::pool::{Connection, MaxHead, Opening, Warm};

/// The largest response head that a local server may send.
pub const MAX_HEAD: MaxHead = MaxHead { bytes: 256 * 1024, headers: 256 };

/// The pool of one tunnel.
pub struct Pool {
    handle: Handle,
    warm: Warm,
}

impl Pool {
    /// An empty pool whose connections are closed after this time without use.
    pub fn new(handle: Handle, max_idle_time: Duration) -> Self {
        Self { handle, warm: Warm::new(max_idle_time) }
    }

    /// A warm connection, if there is one.
    pub fn reuse(&self) -> Option<Connection> {
        self.warm.reuse()
    }

    /// A connection over a fresh stream.
    ///
    /// # Errors
    /// Those of [`Handle::open`].
    pub async fn open(&self) -> Result<Connection, OpenError> {
        let stream = self.handle.open().await?;
        let opening: Opening = Box::pin(stream.established());
        self.warm.begin(TokioIo::new(stream), Some(opening), MAX_HEAD).await.map_err(|_| OpenError::Ended)
    }

    /// Closes what nobody has used for a while.
    pub fn sweep(&self, now: Instant) {
        self.warm.sweep(now);
    }

    /// Closes every idle connection: the tunnel is being given up.
    pub fn clear(&self) {
        self.warm.clear();
    }
}
