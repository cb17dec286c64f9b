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
//! in order, and publishing puts into bounded queues, one for each pair. When the other side is away, the questions say so
//! ([`Unavailable`]) and everything heals by itself.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `start` | all of it put together from the configuration |
//! | `envelope`, `replay` | a frame's signature; which frames are news (pure) |
//! | `inbox`, `outbox`, `queue`, `lanes` | what comes and what goes, bounded |
//! | `presence`, `writer` | what is true here; the one task that writes it |
//! | `asked`, `health`, `backoff` | answers that are remembered for a moment; deadlines and pauses |
//! | `link` | the three other sides by one name |
//! | `redis`, `postgres`, `platform` | the three other sides |
//! | `address`, `holding` | a relay's addresses and which relay holds a daemon, sealed; whose right is the better (pure) |
//! | `metrics` | what is counted |

mod address;
mod asked;
mod backoff;
mod envelope;
mod health;
mod holding;
mod inbox;
mod lanes;
mod link;
pub mod metrics;
mod outbox;
mod platform;
mod postgres;
mod presence;
mod queue;
mod redis;
mod replay;
mod start;
mod writer;

use std::sync::Arc;

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use self::asked::{Answer, Asked, Daemons};
pub use self::envelope::{MAX_ID, is_id};
use self::link::Links;
use self::metrics::{Metrics, Unpublished};
use self::outbox::{Outbox, Outgoing};
use self::presence::Presence;
pub use self::start::StartError;

/// What frames are routed by: a pair, never one joined string. Ids were checked at admission.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The workspace.
    pub workspace: Arc<str>,
    /// The runtime target, where there is one.
    pub target: Option<Arc<str>>,
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Another relay holds this daemon now: ours is no longer asked by others. Nobody proved that the other one
    /// lives: one of the same generation is to be probed here, and if it answers [`Backplane::daemon_confirmed`] says
    /// so. Told again of a connection that was confirmed before: another was confirmed first, and stays.
    Superseded {
        /// Whose daemon.
        pair: Pair,
        /// The connection here that lost it.
        connection: Uuid,
        /// The other one has a higher generation, as that relay has sealed; never so at the platform, which knows
        /// no generations.
        higher_generation: bool,
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

/// Whoever sent a frame, for the case that it is lost after it was queued.
pub trait Sender: Send + Sync {
    /// A frame of theirs did not get to the other relay, or nobody there was listening. Does not wait.
    fn lost(&self);
}

/// A frame that is to be passed on.
pub struct Parcel<'a> {
    /// Whose daemon's or clients'.
    pub pair: &'a Pair,
    /// The sender's machine, where it is known.
    pub machine: Option<&'a Arc<str>>,
    /// One relay, or all of them.
    pub to: Option<&'a Arc<str>>,
    /// Which way.
    pub direction: Direction,
    /// The frame's text.
    pub payload: Arc<str>,
    /// Who is told when it is lost.
    pub sender: Option<&'a Arc<dyn Sender>>,
}

/// Why a frame was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The backplane is away, or slower than what comes, or the pair sends more than its share.
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
    Several(Arc<Several>),
}

/// What a relay among several has.
struct Several {
    presence: Arc<Presence>,
    links: Arc<Links>,
    outbox: Arc<Outbox>,
    daemons: Arc<Daemons>,
    hosts: Asked<Uuid, Vec<Holder>>,
    relays: Asked<(), Vec<Holder>>,
    metrics: Arc<Metrics>,
    /// A payload at most.
    max_payload: usize,
    /// The same as it is written in JSON.
    max_payload_json: usize,
}

impl Direction {
    /// As the contract writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::ClientToDaemon => "client_to_daemon",
            Direction::DaemonToClients => "daemon_to_clients",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Direction::ClientToDaemon, Direction::DaemonToClients]
            .into_iter()
            .find(|direction| direction.as_str() == text)
    }
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

    fn several(&self) -> Option<&Several> {
        match &self.kind {
            Kind::Single => None,
            Kind::Several(several) => Some(several),
        }
    }

    /// A daemon is connected here. Written soon, in order, and renewed until [`Self::daemon_closed`].
    pub fn daemon_opened(&self, pair: &Pair, daemon: Daemon) {
        if let Some(several) = self.several() {
            several.presence.daemon_opened(pair, daemon);
        }
    }

    /// That daemon was probed after [`Event::Superseded`], and lives: it is written anew, and goes before all of its
    /// generation that were never probed, but not before one that was, is held by another relay, and is renewed. Of
    /// two that live the first one so stays, and for the other one [`Event::Superseded`] comes once more. The platform
    /// cannot tell who was first: there the entry is written over the other's, every 10 s at most, and the event does
    /// not come again. Does nothing when that connection is not the one here any more.
    pub fn daemon_confirmed(&self, pair: &Pair, daemon: Daemon) {
        if let Some(several) = self.several() {
            several.presence.daemon_confirmed(pair, daemon.connection);
        }
    }

    /// That connection of the daemon has ended.
    pub fn daemon_closed(&self, pair: &Pair, connection: Uuid) {
        if let Some(several) = self.several() {
            several.presence.daemon_closed(pair, connection);
        }
    }

    /// Which other relay holds the daemon; `None` when no other does. Remembered for a second at most.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn daemon(&self, pair: &Pair) -> Result<Option<Holder>, Unavailable> {
        let Some(several) = self.several() else { return Ok(None) };
        // Boxed, as below: these futures are large, and callers are layers deep.
        let answer = several.daemons.ask(pair, false, || several.links.daemon(pair).boxed()).await;
        several.counted("daemon", answer)
    }

    /// The relay that was said to hold this daemon does not: it is asked anew.
    pub fn forget_daemon(&self, pair: &Pair) {
        if let Some(several) = self.several() {
            several.daemons.forget(pair);
        }
    }

    /// Passes a frame on: to one relay, or (`None`) to all of them. Returns as soon as it is queued; when the pair's
    /// queue is full and the other side takes frames, it waits two seconds at most for room. Frames of one pair and
    /// direction arrive in the order in which they were queued. What is lost after that is told to its sender.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, parcel: Parcel<'_>) -> Result<(), PublishError> {
        let several = self.several().ok_or(PublishError::Unavailable)?;
        let frame = Outgoing {
            pair: parcel.pair.clone(),
            machine: parcel.machine.cloned(),
            to: parcel.to.cloned(),
            direction: parcel.direction,
            payload: parcel.payload,
            sender: parcel.sender.cloned(),
            queued: Instant::now(),
        };
        several.publish(frame).await
    }

    /// A tunnel of this host is open here.
    pub fn host_opened(&self, host: Uuid, connection: Uuid) {
        if let Some(several) = self.several() {
            several.presence.host_opened(host, connection);
        }
    }

    /// That tunnel has ended.
    pub fn host_closed(&self, host: Uuid, connection: Uuid) {
        if let Some(several) = self.several() {
            several.presence.host_closed(host, connection);
        }
    }

    /// Which other relays hold tunnels of this host, the best first; empty when none does. Remembered for a
    /// second at most, unless `fresh`.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn host(&self, host: Uuid, fresh: bool) -> Result<Vec<Holder>, Unavailable> {
        let Some(several) = self.several() else { return Ok(Vec::new()) };
        let answer = several.hosts.ask(&host, fresh, || several.links.host(host).boxed()).await;
        several.counted("host", answer)
    }

    /// The other relays that live now, for agents that look for a second one.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn others(&self) -> Result<Vec<Holder>, Unavailable> {
        let Some(several) = self.several() else { return Ok(Vec::new()) };
        let answer = several.relays.ask(&(), false, || several.links.others().boxed()).await;
        several.counted("relays", answer)
    }
}

impl Several {
    async fn publish(&self, frame: Outgoing) -> Result<(), PublishError> {
        let bytes = frame.payload.len();
        if bytes > self.max_payload || envelope::json_length(&frame.payload) > self.max_payload_json {
            self.metrics.unpublished(Unpublished::TooLarge, 1);
            return Err(PublishError::TooLarge);
        }
        // Nothing that was admitted is unsound; PostgreSQL takes no NUL, and JSON has none.
        let sound = frame.is_sound() && !frame.payload.contains('\0');
        let health = self.links.daemons.health();
        let put =
            if sound { self.outbox.put(frame, || health.paused()).await } else { Err(Unpublished::Away) };
        put.map_err(|reason| {
            self.metrics.unpublished(reason, 1);
            PublishError::Unavailable
        })
    }

    fn counted<A: Answer>(
        &self,
        about: &'static str,
        answer: Result<A, Unavailable>,
    ) -> Result<A, Unavailable> {
        let result = match &answer {
            Ok(answer) if answer.found() => "found",
            Ok(_) => "none",
            Err(Unavailable) => "unavailable",
        };
        self.metrics.asked(about, result);
        answer
    }
}
