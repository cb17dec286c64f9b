//! stub
use super::{Hello, Options, Stream};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;

/// Why a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// This end closed it.
    Local,
    /// The peer closed the WebSocket with this code and reason (1005 where it gave none).
    Closed { /** close code */ code: u16, /** reason */ reason: String },
    /// The connection broke without a close.
    Lost(String),
    /// The peer was silent past the ping's deadline.
    Silent,
    /// The peer broke the protocol.
    Protocol(String),
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams are open as may be.
    #[error("every stream of the tunnel is in use")]
    TooMany,
    /// The tunnel has ended.
    #[error("the tunnel has ended")]
    Ended,
}

/// A handle on a tunnel: cheap to clone, usable from any task.
#[derive(Debug, Clone)]
pub struct Handle {}

impl Handle {
    /// Opens a stream. Answers as soon as the frame is queued; [`Stream::established`] tells when the peer took it.
    pub async fn open(&self) -> Result<Stream, OpenError> { unimplemented!() }
    /// Streams that are open now.
    pub fn streams(&self) -> usize { 0 }
    /// The peer's hello, once it has come (always `None` in the plain form).
    pub fn peer(&self) -> Option<Hello> { None }
    /// The round-trip time that the last ping measured.
    pub fn rtt(&self) -> Option<Duration> { None }
    /// Sends a drain notice when the peer knows the feature; false when it does not.
    pub fn drain(&self, _reconnect_within: u32) -> bool { false }
    /// Agent: completes when the peer has sent a drain notice, with its seconds.
    pub async fn drained(&self) -> u32 { unimplemented!() }
    /// Pings at once and ends the tunnel when nothing comes back within `deadline`.
    pub fn probe(&self, _deadline: Duration) {}
    /// Whether so many streams were opened that the tunnel should be renewed.
    pub fn wants_renewal(&self) -> bool { false }
    /// Closes the WebSocket with this code; streams are reset.
    pub fn close(&self, _code: u16, _reason: &str) {}
    /// Why the tunnel ended, once it has.
    pub fn ended(&self) -> Option<Ended> { None }
    /// Completes when the tunnel has ended.
    pub async fn closed(&self) -> Ended { unimplemented!() }
}

/// The streams that the peer opens, in order. Bounded: a stream that nobody takes is refused with a reset.
#[derive(Debug)]
pub struct Incoming {}

impl Incoming {
    /// The next stream, or `None` when the tunnel has ended.
    pub async fn next(&mut self) -> Option<Stream> { unimplemented!() }
}

/// Owns the WebSocket and moves everything. Run it in a task of its own: nothing happens otherwise.
#[derive(Debug)]
pub struct Driver<S> { _ws: WebSocketStream<S> }

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Driver<S> {
    /// Runs the tunnel to its end.
    pub async fn run(self) -> Ended { unimplemented!() }
}

/// Starts a tunnel on a WebSocket whose handshake is done.
pub fn start<S>(ws: WebSocketStream<S>, options: Options) -> (Handle, Incoming, Driver<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = options;
    (Handle {}, Incoming {}, Driver { _ws: ws })
}
