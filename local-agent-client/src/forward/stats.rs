//! What the agent counts. Kept apart from the status, because counting must cost next to nothing.

use parking_lot::Mutex;
use relay_protocol::problem::Code;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// Counters of one agent over its life.
#[derive(Debug, Default)]
pub struct Stats {
    requests: AtomicU64,
    active: AtomicUsize,
    received: AtomicU64,
    sent: AtomicU64,
    error: Mutex<Option<String>>,
    /// What was signed and what was refused.
    pub(crate) gate: GateStats,
}

/// What the gate counts.
#[derive(Debug, Default)]
pub struct GateStats {
    signed: AtomicU64,
    exchanges: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    sessions: AtomicUsize,
    sealed: AtomicUsize,
    websockets: AtomicUsize,
}

/// What the gate has counted, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GateCounts {
    /// Requests whose signature was right.
    pub signed: u64,
    /// Exchanges whose first record opened, of signed and sealed sessions.
    #[serde(default)]
    pub exchanges: u64,
    /// Requests that the agent refused, by the code of the problem.
    pub refused: BTreeMap<String, u64>,
    /// Sessions that are open.
    pub sessions: usize,
    /// Those of them that are sealed.
    #[serde(default)]
    pub sealed_sessions: usize,
    /// Signed and sealed WebSockets that are open.
    pub websockets: usize,
}

impl GateStats {
    pub(crate) fn signed(&self) {
        self.signed.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self, code: Code) {
        *self.refused.lock().entry(code.as_str()).or_default() += 1;
    }

    pub(crate) fn exchange(&self) {
        self.exchanges.fetch_add(1, Relaxed);
    }

    pub(crate) fn sessions(&self, (open, sealed): (usize, usize)) {
        self.sessions.store(open, Relaxed);
        self.sealed.store(sealed, Relaxed);
    }

    /// The counters now.
    pub fn counts(&self) -> GateCounts {
        GateCounts {
            signed: self.signed.load(Relaxed),
            exchanges: self.exchanges.load(Relaxed),
            refused: self.refused.lock().iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            sessions: self.sessions.load(Relaxed),
            sealed_sessions: self.sealed.load(Relaxed),
            websockets: self.websockets.load(Relaxed),
        }
    }
}

/// Counts one signed or sealed WebSocket while it lives.
#[derive(Debug)]
pub struct OpenWebSocket(Arc<Stats>);

impl Drop for OpenWebSocket {
    fn drop(&mut self) {
        self.0.gate.websockets.fetch_sub(1, Relaxed);
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Requests that came, over the agent's life.
    pub total: u64,
    /// Requests and upgraded connections that are under way.
    pub active: usize,
    /// Body bytes from the relay to the local server.
    pub bytes_received: u64,
    /// Body bytes from the local server to the relay.
    pub bytes_sent: u64,
}

impl Stats {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        Counts {
            total: self.requests.load(Relaxed),
            active: self.active.load(Relaxed),
            bytes_received: self.received.load(Relaxed),
            bytes_sent: self.sent.load(Relaxed),
        }
    }

    /// What was signed and what was refused.
    pub fn gate(&self) -> &GateStats {
        &self.gate
    }

    pub(crate) fn websocket(self: &Arc<Self>) -> OpenWebSocket {
        self.gate.websockets.fetch_add(1, Relaxed);
        OpenWebSocket(self.clone())
    }

    /// Takes the last failure of the local server, if there was one since the last call.
    pub fn take_error(&self) -> Option<String> {
        self.error.lock().take()
    }

    pub(crate) fn received(&self, bytes: usize) {
        if bytes > 0 {
            self.received.fetch_add(bytes as u64, Relaxed);
        }
    }

    pub(crate) fn sent(&self, bytes: usize) {
        if bytes > 0 {
            self.sent.fetch_add(bytes as u64, Relaxed);
        }
    }

    pub(crate) fn failed(&self, what: String) {
        tracing::warn!("{what}");
        *self.error.lock() = Some(what);
    }
}

/// What one tunnel carries at the moment, so that a drained one knows when it is done.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicUsize,
    connections: AtomicUsize,
}

impl Load {
    /// Whether no request is under way. `streams` are the tunnel's open streams: those that are
    /// no HTTP connection any more were upgraded, and count as under way.
    pub fn is_idle(&self, streams: usize) -> bool {
        self.active.load(Relaxed) == 0 && streams <= self.connections.load(Relaxed)
    }

    pub(crate) fn connection(self: &Arc<Self>) -> Connection {
        self.connections.fetch_add(1, Relaxed);
        Connection(self.clone())
    }
}

/// Counts one HTTP connection while it lives.
#[derive(Debug)]
pub struct Connection(Arc<Load>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// Counts one request or upgraded connection while it lives.
#[derive(Debug)]
pub struct Active {
    stats: Arc<Stats>,
    load: Arc<Load>,
}

impl Active {
    pub(crate) fn new(stats: &Arc<Stats>, load: &Arc<Load>) -> Self {
        stats.requests.fetch_add(1, Relaxed);
        stats.active.fetch_add(1, Relaxed);
        load.active.fetch_add(1, Relaxed);
        Self { stats: stats.clone(), load: load.clone() }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.stats.active.fetch_sub(1, Relaxed);
        self.load.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_in_is_counted_out() {
        let (stats, load) = (Arc::new(Stats::default()), Arc::new(Load::default()));
        let (connection, active) = (load.connection(), Active::new(&stats, &load));
        stats.received(3);
        stats.sent(5);
        assert_eq!(stats.counts(), Counts { total: 1, active: 1, bytes_received: 3, bytes_sent: 5 });
        assert!(!load.is_idle(1));
        drop(active);
        assert!(load.is_idle(1), "an idle connection is no reason to stay");
        assert!(!load.is_idle(2), "an upgraded stream is one");
        drop(connection);
        assert!(!load.is_idle(1) && load.is_idle(0));
        assert_eq!(stats.counts().active, 0);
        stats.gate.signed();
        stats.gate.refused(Code::Replayed);
        stats.gate.refused(Code::Replayed);
        stats.gate.exchange();
        stats.gate.sessions((3, 2));
        let websocket = stats.websocket();
        let counts = stats.gate.counts();
        assert_eq!((counts.exchanges, counts.sealed_sessions), (1, 2));
        assert_eq!(
            (counts.signed, counts.refused["replayed"], counts.sessions, counts.websockets),
            (1, 2, 3, 1)
        );
        drop(websocket);
        assert_eq!(stats.gate.counts().websockets, 0);
        stats.failed("it fell over".to_owned());
        assert_eq!(stats.take_error().as_deref(), Some("it fell over"));
        assert_eq!(stats.take_error(), None);
    }
}
