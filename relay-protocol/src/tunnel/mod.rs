//! A tunnel: one WebSocket, one yamux session inside it, many streams.
//!
//! ```text
//!   Stream (AsyncRead + AsyncWrite)  … one HTTP/1.1 connection each, opened by the relay
//!      │ slices, gated on the backlog                       ▲ pumped at once, bounded by the window
//!   Driver ─ tokio_yamux::Session ─ Link (corked byte stream) ─ Transport: WebSocket messages
//! ```
//!
//! The same runs between a browser and an agent over a WebRTC data channel (PROTOCOL.md section 6): there
//! the transport is another one, each stream is one exchange, and the browser opens them.
//!
//! The peer may be lying in every byte: a frame that yamux refuses, a control message that does not
//! parse, or silence past the ping's deadline ends the tunnel, and with it every stream by a reset,
//! never by a clean end of file.
//!
//! [`control`] is pure; [`transport`] carries messages; [`link`] turns them into bytes; [`mux`] owns the session; [`stream`] is
//! what callers hold. Clock and executor are tokio's, so tests run on paused time.

pub mod control;
mod gate;
mod link;
mod mux;
mod stream;
pub mod transport;

pub use control::{Control, Hello};
pub use mux::{Driver, Ended, Handle, Incoming, OpenError, start};
pub use stream::Stream;
pub use transport::Transport;

use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The sub-protocol that adds control messages. Without it the tunnel is in its plain form.
pub const SUBPROTOCOL: &str = "relay.tunnel.v1";

/// The largest WebSocket message that either end accepts. A peer in the plain form may put a whole
/// window into one message; ours stay far below it.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Read from the socket in one piece. tungstenite allocates and zeroes it for every idle connection.
const READ_BUFFER: usize = 16 * 1024;
/// What may wait to be written inside the WebSocket: our own batches stay far below it, so it is filled
/// only by answers to a peer that pings and does not read. That ends the tunnel.
const WRITE_BUFFER: usize = 2 * MAX_MESSAGE;

/// How the WebSocket of a tunnel has to be set up, at either end.
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Of a tunnel; yamux client: accepts streams.
    Agent,
    /// Of a tunnel; yamux server: opens streams.
    Relay,
    /// The agent's end of a data channel; yamux server: accepts streams.
    Peer,
    /// The browser's end of a data channel; yamux client: opens streams.
    Browser,
}

/// What the messages mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Every message, text ones too, carries bytes of the stream.
    Plain,
    /// Binary messages carry bytes, text messages are [`Control`]. This end's hello goes out first.
    V1(Hello),
}

/// How a tunnel behaves. Every number has its reason beside its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which end this is.
    pub role: Role,
    /// What messages mean.
    pub form: Form,
    /// Bytes that the peer may send on one stream before they are read. At least 256 KiB (yamux's
    /// own start); 1 MiB carries 14 MB/s at a round trip of 40 ms.
    pub window: u32,
    /// Streams that may be open at once; one more is refused.
    pub max_streams: usize,
    /// Streams that may be opened over the tunnel's life before [`Handle::wants_renewal`] says so.
    /// yamux has 2^31 ids for each end; half of them leave ample time to drain.
    pub max_opens: u64,
    /// How often the peer is pinged. With [`Options::ping_timeout`] a dead one is noticed within 25 s, and
    /// within 30 s over a data channel.
    pub ping_interval: Duration,
    /// How long a ping may go without any byte from the peer.
    pub ping_timeout: Duration,
}

impl Options {
    /// What the ends of a data channel (`Role::Peer`, `Role::Browser`) use.
    ///
    /// A stream's window is smaller than a tunnel's: a paired browser may leave 256 streams of 32 peers
    /// unread. 512 KiB carry 13 MB/s at 40 ms. A ping waits for longer than an ICE restart may take (15 s),
    /// so that streams live through one.
    pub fn data_channel(role: Role) -> Self {
        Self {
            window: 512 * 1024,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            ..Self::new(role, Form::Plain)
        }
    }

    /// The defaults for this role and form.
    pub fn new(role: Role, form: Form) -> Self {
        Self {
            role,
            form,
            window: 1 << 20,
            max_streams: 256,
            max_opens: 1 << 30,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(10),
        }
    }
}
