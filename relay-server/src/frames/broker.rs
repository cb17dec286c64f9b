//! Every pair of this relay, and the ways into them: sockets that attach, frames from the bus.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use super::{Admitted, Close, Outbox, TOO_LARGE};
use crate::backplane::{self, Backplane};
use crate::config;

/// The broker.
pub struct Broker {
    max_frame_bytes: usize,
    _backplane: Backplane,
}

/// A socket that takes part. Dropping it ends that.
pub struct Attached {
    broker: Arc<Broker>,
    _who: Admitted,
    _out: Outbox,
}

/// What the operator sees of one pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairSnapshot {
    /// The workspace.
    pub workspace_id: Arc<str>,
    /// The runtime target.
    pub runtime_target_id: Option<Arc<str>>,
    /// Whether the daemon is connected here.
    pub daemon_connected: bool,
    /// Clients and workers that are connected here.
    pub client_count: usize,
    /// The relay that the daemon was last found at, when it is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon_relay_id: Option<Arc<str>>,
}

/// What the operator sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Every pair with anybody connected here.
    pub pairs: Vec<PairSnapshot>,
    /// Daemons that are connected here.
    pub daemons: usize,
    /// Clients and workers that are connected here.
    pub clients: usize,
}

impl Broker {
    /// A broker that nobody has attached to yet.
    pub fn new(
        limits: &config::frames::Frames,
        _relays: &config::relays::Relays,
        backplane: Backplane,
    ) -> Arc<Self> {
        Arc::new(Self { max_frame_bytes: limits.max_frame_bytes, _backplane: backplane })
    }

    /// Lets a socket take part, until what is returned is dropped. A daemon that finds another waits for as long
    /// as that one may take to answer a ping.
    ///
    /// # Errors
    /// Why the socket is to be closed.
    #[allow(clippy::unused_async, reason = "the interface first")]
    pub async fn attach(self: &Arc<Self>, who: Admitted, out: Outbox) -> Result<Attached, Close> {
        Ok(Attached { broker: self.clone(), _who: who, _out: out })
    }

    /// Everybody who is connected.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }

    /// Closes every socket.
    pub fn close_all(&self, _close: Close) {}

    /// Routes what other relays pass on, until told to stop.
    pub async fn run_bus(
        self: Arc<Self>,
        mut events: mpsc::Receiver<backplane::Event>,
        stop: CancellationToken,
    ) {
        while let Some(Some(_event)) = stop.run_until_cancelled(events.recv()).await {}
    }
}

impl Attached {
    /// A text message of this socket. The next one is to wait for it: so frames keep their order.
    ///
    /// # Errors
    /// Why the socket is to be closed.
    #[allow(clippy::unused_async, reason = "the interface first")]
    pub async fn frame(&self, text: Utf8Bytes) -> Result<(), Close> {
        if text.len() > self.broker.max_frame_bytes {
            return Err(Close { code: TOO_LARGE, reason: "the frame is too large" });
        }
        Ok(())
    }

    /// A message that is no text: dropped, and charged like a frame.
    ///
    /// # Errors
    /// Why the socket is to be closed.
    pub fn not_text(&self) -> Result<(), Close> {
        Ok(())
    }

    /// Whether it listens to a channel, and so is never idle.
    pub fn is_subscribed(&self) -> bool {
        false
    }
}
