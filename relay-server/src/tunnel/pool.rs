//! Warm HTTP/1.1 connections over the streams of one tunnel.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use relay_protocol::tunnel::{Handle, OpenError};
use tokio::time::Instant;

use super::metrics::Streams;
use crate::pool::{Connection, MaxHead, Opening, Warm};

/// The largest response head that a local server may send.
pub const MAX_HEAD: MaxHead = MaxHead { bytes: 256 * 1024, headers: 256 };

/// The pool of one tunnel.
pub struct Pool {
    handle: Handle,
    warm: Warm,
    metrics: Streams,
}

impl Pool {
    /// An empty pool whose connections are closed after this time without use.
    pub fn new(handle: Handle, max_idle_time: Duration) -> Self {
        Self { handle, warm: Warm::new(max_idle_time), metrics: Streams::new() }
    }

    /// A warm connection, if there is one.
    pub fn reuse(&self) -> Option<Connection> {
        let found = self.warm.reuse();
        if found.is_some() {
            self.metrics.reused.increment(1);
        }
        found
    }

    /// A connection over a fresh stream.
    ///
    /// # Errors
    /// Those of [`Handle::open`].
    pub async fn open(&self) -> Result<Connection, OpenError> {
        let stream = self.handle.open().await.inspect_err(|error| {
            match error {
                OpenError::TooMany => &self.metrics.too_many,
                OpenError::Ended => &self.metrics.ended,
            }
            .increment(1);
        })?;
        let opening: Opening = Box::pin(stream.established());
        let counted = TokioIo::new(self.metrics.count(stream));
        self.warm.begin(counted, Some(opening), MAX_HEAD).await.map_err(|_| OpenError::Ended)
    }

    /// A warm connection had closed before anything was sent on it.
    pub fn was_stale(&self) {
        self.metrics.stale.increment(1);
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
