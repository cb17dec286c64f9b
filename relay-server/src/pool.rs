//! Warm HTTP/1.1 connections, over whatever carries them: a tunnel's streams, or TCP to another relay.
//!
//! A handshake per request would cost a stream or a TCP connection, and two tasks; a warm connection costs none
//! of it. The last one used is used first, so that the others can grow old and go.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Idle connections that are kept for one way: more are wanted only for bursts.
const MAX_IDLE: usize = 64;

/// The largest head of a response that is taken.
#[derive(Debug, Clone, Copy)]
pub struct MaxHead {
    /// Bytes of it.
    pub bytes: usize,
    /// Headers in it.
    pub headers: usize,
}

/// A connection's sender and its task. Dropped, the task is aborted: hyper would first flush what the
/// peer may never take, so that the connection could outlive its use for ever. Aborting resets it.
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

/// The idle connections of one way.
pub struct Warm {
    idle: Arc<Mutex<Vec<Idle>>>,
    max_idle_time: Duration,
}

/// The wait for a fresh stream to be acknowledged.
pub type Opening = std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

/// A connection that was taken out. It goes back by [`Connection::give_back`]; dropped, it is reset.
pub struct Connection {
    live: Live,
    /// Completes when the other side has acknowledged a fresh stream; `None` where nothing is to be waited for.
    pub opening: Option<Opening>,
    idle: Arc<Mutex<Vec<Idle>>>,
}

impl Warm {
    /// None yet; they are closed after this time without use.
    pub fn new(max_idle_time: Duration) -> Self {
        Self { idle: Arc::default(), max_idle_time }
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
        found.map(|live| Connection { live, opening: None, idle: self.idle.clone() })
    }

    /// Speaks HTTP/1.1 over something fresh.
    ///
    /// # Errors
    /// Those of hyper's handshake, which sends nothing yet.
    pub async fn begin<T>(&self, io: T, opening: Option<Opening>, max: MaxHead) -> hyper::Result<Connection>
    where
        T: Read + Write + Unpin + Send + 'static,
    {
        let (sender, connection) =
            Builder::new().max_buf_size(max.bytes).max_headers(max.headers).handshake(io).await?;
        let task = tokio::spawn(connection.with_upgrades()).abort_handle();
        Ok(Connection { live: Live { sender, task }, opening, idle: self.idle.clone() })
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

    /// Closes every idle connection: the way is being given up.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.idle.lock());
        drop(gone);
    }

    /// Whether none is idle.
    pub fn is_empty(&self) -> bool {
        self.idle.lock().is_empty()
    }
}

impl Connection {
    /// Sends the request.
    pub fn sender(&mut self) -> &mut SendRequest<Body> {
        &mut self.live.sender
    }

    /// Ends the connection from outside: it is reset.
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
