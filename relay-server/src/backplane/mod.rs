//! What several relays know of each other: which of them holds which daemon or host, and the bus on which
//! frames pass between them (contract: frames, "Several relays").
//!
//! ```text
//!  frames::Broker ──publish──► Backplane ──signed──► platform │ PostgreSQL │ Redis ──► other relays
//!        ▲                         │
//!        └────── Event::Frame ◄────┘   (verified: signature, freshness, order, once)
//! ```
//!
//! What comes from the bus was written by anybody who can reach it: a frame counts only with a good signature.
//! Nothing here waits for the other side on the way of local traffic: presence is written by tasks of its own,
//! in order, and publishing puts into bounded queues. When the other side is away, the questions say so
//! ([`Unavailable`]) and everything heals by itself.

use std::sync::Arc;

use tokio::sync::mpsc;
use url::Url;
use uuid::Uuid;

/// What frames are routed by: a pair, never one joined string. Ids were checked at admission.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The workspace.
    pub workspace: Arc<str>,
    /// The runtime target, where there is one.
    pub target: Option<Arc<str>>,
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// `client_to_daemon`.
    ClientToDaemon,
    /// `daemon_to_clients`.
    DaemonToClients,
}

/// A frame that another relay passed on, verified.
#[derive(Debug, Clone)]
pub struct BusFrame {
    /// Whose.
    pub pair: Pair,
    /// The daemon's machine, where it is known.
    pub machine: Option<Arc<str>>,
    /// Who passed it on.
    pub source: Arc<str>,
    /// For us alone, or (`false`) for every relay.
    pub targeted: bool,
    /// Which way.
    pub direction: Direction,
    /// The frame as it came.
    pub payload: Arc<str>,
}

/// What the backplane tells.
#[derive(Debug)]
pub enum Event {
    /// A frame for daemons or clients here.
    Frame(BusFrame),
    /// Another relay holds this daemon now: ours, if it still lives, is no longer asked.
    Superseded {
        /// Whose daemon.
        pair: Pair,
        /// The connection here that lost it.
        connection: Uuid,
    },
}

/// Who holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The relay's id.
    pub relay: Arc<str>,
    /// Its public address, where clients are redirected to (RELAY_PUBLIC_WS_BASE_URL).
    pub public_ws: Option<Url>,
    /// Its address for other relays (RELAY_INTERNAL_URL).
    pub internal: Option<Url>,
}

/// What is told of a daemon that has connected here.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Its connection; whoever ends it names it, so that a late end erases no successor.
    pub connection: Uuid,
    /// Its machine, as its claims say.
    pub machine: Option<Arc<str>>,
    /// Its generation, as its claims say; the higher one wins between relays.
    pub generation: i64,
}

/// The common knowledge cannot be asked at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relays' common knowledge does not answer")]
pub struct Unavailable;

/// Why a frame was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The backplane is away, or slower than what comes.
    #[error("the way to the other relays is away or overfull")]
    Unavailable,
    /// The frame is larger than the bus takes.
    #[error("the frame is too large for the way to the other relays")]
    TooLarge,
}

/// The way to the other relays. Clones share it.
#[derive(Clone)]
pub struct Backplane {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Single,
}

impl Backplane {
    /// There are no other relays.
    pub fn single() -> (Self, mpsc::Receiver<Event>) {
        (Self { kind: Kind::Single }, mpsc::channel(1).1)
    }

    /// Whether there may be other relays at all.
    pub fn is_single(&self) -> bool {
        matches!(self.kind, Kind::Single)
    }

    /// A daemon is connected here. Written soon, in order, and renewed until [`Self::daemon_closed`].
    pub fn daemon_opened(&self, _pair: &Pair, _daemon: Daemon) {}

    /// That connection of the daemon has ended.
    pub fn daemon_closed(&self, _pair: &Pair, _connection: Uuid) {}

    /// Which other relay holds the daemon; `None` when no other does. Remembered for a second at most.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn daemon(&self, _pair: &Pair) -> Result<Option<Holder>, Unavailable> {
        Ok(None)
    }

    /// Passes a frame on: to one relay, or (`None`) to all of them. Returns at once; frames of one pair and
    /// direction arrive in the order in which they were given.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish(
        &self,
        _pair: &Pair,
        _machine: Option<&Arc<str>>,
        _to: Option<&Arc<str>>,
        _direction: Direction,
        _payload: Arc<str>,
    ) -> Result<(), PublishError> {
        Err(PublishError::Unavailable)
    }

    /// A tunnel of this host is open here.
    pub fn host_opened(&self, _host: Uuid, _connection: Uuid) {}

    /// That tunnel has ended.
    pub fn host_closed(&self, _host: Uuid, _connection: Uuid) {}

    /// Which other relays hold tunnels of this host, the best first; empty when none does. Remembered for a
    /// second at most, unless `fresh`.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn host(&self, _host: Uuid, _fresh: bool) -> Result<Vec<Holder>, Unavailable> {
        Ok(Vec::new())
    }

    /// The other relays that live now, for agents that look for a second one.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn others(&self) -> Result<Vec<Holder>, Unavailable> {
        Ok(Vec::new())
    }
}
