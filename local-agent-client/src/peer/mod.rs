//! Peers: data channels from browsers to this agent, past the relay (PROTOCOL.md section 6).
//!
//! ```text
//!   an offer, inside a protected exchange ─► Peers ─► Actor (one task for each peer)
//!                                                      ├─ Engine: RTCPeerConnection, sockets, its own tasks
//!                                                      ├─ tunnel::Driver over the data channel
//!                                                      └─ one task for each stream: one exchange
//! ```
//!
//! The offer is believed because the exchange that brought it is protected; the fingerprint in it is what
//! keeps others off the channel, and what arrives on a stream is checked like anything that comes over the
//! relay. A paired browser may still ask for too much, so everything here is bounded: peers of a browser and
//! of the agent, streams of a peer, what may wait in either direction. A peer ends with its session, and
//! whatever belongs to it ends with its actor.
//!
//! [`table`], [`sdp`], [`ice`] and most of [`addresses`] are pure. Without the cargo feature `webrtc` there
//! are no peers.

pub mod addresses;
pub mod ice;
pub mod sdp;
pub mod table;

#[cfg(feature = "webrtc")]
mod actor;
#[cfg(feature = "webrtc")]
pub mod channel;
#[cfg(feature = "webrtc")]
mod engine;
#[cfg(feature = "webrtc")]
mod peers;
#[cfg(not(feature = "webrtc"))]
#[path = "none.rs"]
mod peers;
#[cfg(feature = "webrtc")]
mod runtime;

pub use peers::Peers;
pub use table::Owner;

use addresses::PortRange;
use ice::{IceError, IceServer};
use relay_protocol::tunnel::Stream;
use sdp::SdpError;
use std::{any::Any, net::IpAddr, pin::Pin, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What an agent lists that takes peers.
pub const FEATURE: &str = "webrtc";

/// How long a peer lives without a stream (PROTOCOL.md section 6.1).
const IDLE: Duration = Duration::from_secs(300);

/// How peers are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// UDP ports to use; otherwise the system chooses.
    pub ports: Option<PortRange>,
    /// Local addresses to use; otherwise every one that others can reach.
    pub addresses: Vec<IpAddr>,
    /// Whether the relay is on this machine, so that browsers on it are to be reached by loopback.
    pub relay_is_local: bool,
    /// How long a peer lives without a stream. Until its channel is open it has 30 s at the most.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ports: None, addresses: Vec::new(), relay_is_local: false, idle: IDLE }
    }
}

/// Serves one stream to its end. The id is the browser's.
pub type StreamHandler = Arc<dyn Fn(Stream, Uuid) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Who asks, and what ends it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The browser and its session.
    pub owner: Owner,
    /// The session's end, which the browser's brings about too.
    pub ended: CancellationToken,
    /// What is held as long as the peer lives.
    pub keeps: Arc<dyn Any + Send + Sync>,
}

/// What a browser offers.
#[derive(Debug)]
pub struct Offer {
    /// Complete, candidates included.
    pub sdp: String,
    /// The servers that the browser uses.
    pub ice_servers: Vec<IceServer>,
    /// The peer whose ICE is to start anew; otherwise a new one is made.
    pub peer_id: Option<Uuid>,
}

/// What the agent answers.
#[derive(Debug)]
pub struct Answer {
    /// The peer.
    pub peer_id: Uuid,
    /// Complete, candidates included.
    pub sdp: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The offer is not one.
    #[error(transparent)]
    Sdp(#[from] SdpError),
    /// Its servers are not.
    #[error(transparent)]
    Ice(#[from] IceError),
    /// The engine does not take it.
    #[error("the SDP cannot be answered")]
    Refused,
    /// There is no such peer, or it is not the caller's.
    #[error("there is no such peer")]
    NotFound,
    /// As many as there may be.
    #[error("this agent has as many peers as it may have")]
    Full,
    /// One restart at a time.
    #[error("this peer is being restarted already")]
    Busy,
    /// Newer offers of the same browser took its place before it was answered.
    #[error("newer offers of this browser took the place of this one")]
    Displaced,
    /// Other peers use every port.
    #[error("every UDP port of --webrtc-ports {0} is in use; the agent needs a wider range")]
    Ports(PortRange),
    /// The session ended meanwhile.
    #[error("the session has ended")]
    Ended,
    /// No socket could be bound, or the engine failed.
    #[error("no peer could be made: {0}")]
    Failed(String),
}
