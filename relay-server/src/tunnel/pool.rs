//! Idle HTTP/1.1 connections over the streams of one tunnel.
//!
//! A handshake per request would cost a stream, two tasks and a connection to the local server; a warm
//! connection costs none of it. The last one used is used first, so that the others can grow old and go.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use relay_protocol::tunnel::{Handle, OpenError};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::metrics::{Counted, Streams};

/// Idle connections that one tunnel keeps: more are wanted only for bursts.
const MAX_IDLE: usize = 64;
/// The largest response head that a local server may send.
const MAX_HEAD: usize = 256 * 1024;
/// Headers in one response at the most.
const MAX_HEADERS: usize = 256;

/// A connection's sender and its task. Dropped, the task is aborted: hyper would first flush what the
/// peer may never take, so that the stream could outlive its use for ever. Aborting resets the stream.
struct Live {
    sender: SendRequest<Body>,
    task: AbortHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Idle {
    live: Live,
    since: Instant,
}

/// The pool of one tunnel.
pub struct Pool {
    handle: Handle,
    idle: Arc<Mutex<Vec<Idle>>>,
    max_idle_time: Duration,
    metrics: Streams,
}

/// A connection that was taken out. It goes back by [`Connection::give_back`]; dropped, its stream is reset.
pub struct Connection {
    live: Live,
    /// Completes when the agent has acknowledged the stream; `None` for one that was used before.
    pub opening: Option<Opening>,
    idle: Arc<Mutex<Vec<Idle>>>,
}

/// The wait for a fresh stream to be acknowledged.
pub type Opening = std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

impl Pool {
    /// An empty pool whose connections are closed after this time without use.
    pub fn new(handle: Handle, max_idle_time: Duration) -> Self {
        Self { handle, idle: Arc::default(), max_idle_time, metrics: Streams::new() }
    }

    /// A warm connection, if there is one.
    pub fn reuse(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let mut not_ready = Vec::new();
        let found = loop {
            match idle.pop() {
                Some(candidate) if candidate.live.sender.is_closed() => {}
                Some(candidate) if candidate.live.sender.is_ready() => break Some(candidate.live),
                // Its last response is just being wound up.
                Some(candidate) => not_ready.push(candidate),
                None => break None,
            }
        };
        idle.extend(not_ready.into_iter().rev());
        drop(idle);
        if found.is_some() {
            self.metrics.reused.increment(1);
        }
        found.map(|live| Connection { live, opening: None, idle: self.idle.clone() })
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
        let live = handshake(self.metrics.count(stream)).await.map_err(|_| OpenError::Ended)?;
        Ok(Connection { live, opening: Some(opening), idle: self.idle.clone() })
    }

    /// A warm connection had closed before anything was sent on it.
    pub fn was_stale(&self) {
        self.metrics.stale.increment(1);
    }

    /// Closes what nobody has used for a while. The oldest stand first.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.lock();
        let keep_from = idle
            .iter()
            .position(|i| {
                now.saturating_duration_since(i.since) < self.max_idle_time && !i.live.sender.is_closed()
            })
            .unwrap_or(idle.len());
        let gone: Vec<Idle> = idle.drain(..keep_from).collect();
        if idle.is_empty() {
            *idle = Vec::new();
        }
        drop(idle);
        drop(gone);
    }

    /// Closes every idle connection: the tunnel is being given up.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.idle.lock());
        drop(gone);
    }
}

async fn handshake(stream: Counted) -> hyper::Result<Live> {
    let (sender, connection) = Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await?;
    let task = tokio::spawn(connection.with_upgrades()).abort_handle();
    Ok(Live { sender, task })
}

impl Connection {
    /// Sends the request.
    pub fn sender(&mut self) -> &mut SendRequest<Body> {
        &mut self.live.sender
    }

    /// Ends the connection from outside: its stream is reset.
    pub fn abort_handle(&self) -> AbortHandle {
        self.live.task.clone()
    }

    /// Puts the connection back once its response has been read to the end.
    pub fn give_back(self) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { live: self.live, since: Instant::now() });
        }
    }
}
