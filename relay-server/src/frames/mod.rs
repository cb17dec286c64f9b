//! The frame broker at `/ws` (contract: frames): daemons, clients and workers of a platform exchange JSON frames
//! whose content is sealed between them.
//!
//! ```text
//!  socket ──text──► Attached::frame ─► frame (what is it?) ─► policy (may it?) ─► pair (to whom?) ─► Outbox ──► socket
//!  other relay ──BusFrame──► Broker::run_bus ─────┘                                    └──► Backplane ──► other relay
//! ```
//!
//! Everybody here holds a token that the platform vouches for, and lies all the same: frames are bounded, checked
//! against the list of what may pass, and routed as they came. What is sealed is never looked into.

pub mod admission;
mod attached;
mod broker;
mod bus;
pub mod claims;
mod fields;
pub mod frame;
mod limits;
pub mod metrics;
pub mod metrics_ws;
mod onward;
mod outbox;
mod pair;
mod policy;
mod recent;
mod requests;
pub mod serve;
mod sessions;
mod socket;
pub mod status;
mod subscriptions;
#[cfg(test)]
mod testing;
pub mod transport;
mod undelivered;
pub mod validate;

use std::sync::Arc;

pub use attached::Attached;
pub use broker::{Broker, PairSnapshot, Snapshot};
pub use outbox::{Command, Ending, Outbox, Pending, outbox};
use recent::Party;

pub use crate::backplane::Pair;
use crate::http::client_addr::RateKey;

/// What a socket is, as its claims say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// `workspace-daemon`: the one that serves a pair.
    Daemon,
    /// `client`: a browser.
    Client,
    /// `worker`: admitted, and hardly allowed anything.
    Worker,
}

/// As queries, claims and the platform call it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Daemon => "workspace-daemon",
        Role::Client => "client",
        Role::Worker => "worker",
    }
}

/// What a client's token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `runtime`: talk to the daemon.
    Runtime,
    /// `pairing`: become one that may.
    Pairing,
    /// `session-events`: listen.
    SessionEvents,
}

/// Which Noise pattern the ends use. The order is that of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// `noise-ik`.
    NoiseIk,
    /// `noise-ikpsk2`: with a secret from pairing mixed in.
    NoiseIkPsk2,
}

/// By what a client is known again on another socket, as far as the platform says. The client's id alone is not
/// enough: it may be one that browsers choose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    user: Option<Arc<str>>,
    client: Option<Arc<str>>,
}

/// A socket whose token was found good, and what that token says.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// What it is routed by.
    pub pair: Pair,
    /// What it is.
    pub role: Role,
    /// What a client's token is for; always there for a client.
    pub scope: Option<Scope>,
    /// The only profile that it may use, where the platform expects one.
    pub profile: Option<Profile>,
    /// The client's name, which outlives its sockets.
    pub client_id: Option<Arc<str>>,
    /// The user's name.
    pub user_id: Option<Arc<str>>,
    /// The daemon's machine, where it is known.
    pub machine: Option<Arc<str>>,
    /// Whence it came: who has no name is counted by it.
    pub address: RateKey,
    /// Channels that it may listen to.
    pub channels: Vec<Arc<str>>,
    /// A daemon's generation; 0 without one.
    pub generation: i64,
}

impl Admitted {
    /// Its name, if the platform says anything of it.
    pub fn name(&self) -> Option<Name> {
        let name = Name { user: self.user_id.clone(), client: self.client_id.clone() };
        (name.user.is_some() || name.client.is_some()).then_some(name)
    }

    /// Whose it is what this socket asks and owns, where that is bounded.
    pub(in crate::frames) fn party(&self) -> Party {
        self.name().map_or(Party::Address(self.address), Party::Client)
    }
}

/// Why a socket is closed. What the other side reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({code})")]
pub struct Close {
    /// The WebSocket close code.
    pub code: u16,
    /// A short fixed text.
    pub reason: &'static str,
}

/// Refused by policy.
pub const POLICY: u16 = 4008;
/// Longer than frames may be.
pub const TOO_LARGE: u16 = 1009;
/// The relay ends.
pub const GOING_AWAY: u16 = 1001;

impl Close {
    /// Refused by policy, for this reason.
    pub const fn policy(reason: &'static str) -> Self {
        Self { code: POLICY, reason }
    }
}
