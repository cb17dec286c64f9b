//! What is counted of admissions and sockets.

use std::time::Duration;

use ::metrics::{Counter, Histogram};

use super::Role;
use crate::telemetry::metrics::Metric;

const ADMISSIONS: Metric = Metric::counter(
    "relay_frames_admissions_total",
    "result=accepted|violation|bad_request|no_token|no_upgrade|rate_limited|too_many|bad_token|unavailable",
    "Upgrades of /ws that were asked for; `violation` is accepted to be told and closed, `unavailable` could \
     not be checked because keys or platform were away or are not configured",
);
const VALIDATE: Metric = Metric::histogram(
    "relay_frames_validate_seconds",
    "",
    "How long the platform took to say whether a token is good, whatever it said",
);
const OPENED: Metric = Metric::counter(
    "relay_frames_sockets_opened_total",
    "role=daemon|client|worker",
    "Sockets of /ws that were opened",
);
const CLOSED: Metric = Metric::counter(
    "relay_frames_sockets_closed_total",
    "role=daemon|client|worker",
    "Sockets of /ws that have ended, for whatever reason",
);
const ENDS: Metric = Metric::counter(
    "relay_frames_socket_ends_total",
    "reason=peer|lost|silent|idle|too_large|malformed|policy|drain",
    "Why sockets of /ws ended: the other side closed, the connection broke, no pong came, nothing was said for \
     too long, a message was too large or no WebSocket, a rule was broken, the relay drains",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[ADMISSIONS, VALIDATE, OPENED, CLOSED, ENDS];

/// What became of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It takes part.
    Accepted,
    /// Its token is good and does not allow what is asked.
    Violation,
    /// The query is malformed.
    BadRequest,
    /// There is no token.
    NoToken,
    /// It is no upgrade.
    NoUpgrade,
    /// The address has used up its upgrades.
    RateLimited,
    /// The address, or everybody, has as many sockets as may be.
    TooMany,
    /// The token is not good.
    BadToken,
    /// Whether it is could not be found out.
    Unavailable,
}

impl Outcome {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Accepted, "accepted"),
        (Self::Violation, "violation"),
        (Self::BadRequest, "bad_request"),
        (Self::NoToken, "no_token"),
        (Self::NoUpgrade, "no_upgrade"),
        (Self::RateLimited, "rate_limited"),
        (Self::TooMany, "too_many"),
        (Self::BadToken, "bad_token"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// Why a socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The other side closed it.
    Peer,
    /// The connection broke.
    Lost,
    /// No sign of life came.
    Silent,
    /// Nothing was said for too long.
    Idle,
    /// A message was too large.
    TooLarge,
    /// What came is no WebSocket.
    Malformed,
    /// A rule was broken.
    Policy,
    /// The relay drains.
    Drain,
}

impl Reason {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Peer, "peer"),
        (Self::Lost, "lost"),
        (Self::Silent, "silent"),
        (Self::Idle, "idle"),
        (Self::TooLarge, "too_large"),
        (Self::Malformed, "malformed"),
        (Self::Policy, "policy"),
        (Self::Drain, "drain"),
    ];
}

/// The handles.
pub struct Sockets {
    admissions: Vec<(Outcome, Counter)>,
    ends: Vec<(Reason, Counter)>,
    opened: [Counter; 3],
    closed: [Counter; 3],
    validate: Histogram,
}

impl Default for Sockets {
    fn default() -> Self {
        let admissions = |(outcome, result)| (outcome, ADMISSIONS.count_of("result", result));
        let ends = |(reason, name)| (reason, ENDS.count_of("reason", name));
        let roles = ["daemon", "client", "worker"];
        Self {
            admissions: Outcome::ALL.into_iter().map(admissions).collect(),
            ends: Reason::ALL.into_iter().map(ends).collect(),
            opened: roles.map(|role| OPENED.count_of("role", role)),
            closed: roles.map(|role| CLOSED.count_of("role", role)),
            validate: VALIDATE.spread(),
        }
    }
}

impl Sockets {
    /// Counts an upgrade.
    pub fn asked(&self, outcome: Outcome) {
        if let Some((_, counter)) = self.admissions.iter().find(|(of, _)| *of == outcome) {
            counter.increment(1);
        }
    }

    /// Counts a call of the platform.
    pub fn validated(&self, took: Duration) {
        self.validate.record(took);
    }

    /// Counts a socket until [`Self::closed`].
    pub fn opened(&self, role: Role) {
        of(&self.opened, role).increment(1);
    }

    /// Counts its end.
    pub fn closed(&self, role: Role, reason: Reason) {
        of(&self.closed, role).increment(1);
        if let Some((_, counter)) = self.ends.iter().find(|(of, _)| *of == reason) {
            counter.increment(1);
        }
    }
}

fn of([daemon, client, worker]: &[Counter; 3], role: Role) -> &Counter {
    match role {
        Role::Daemon => daemon,
        Role::Client => client,
        Role::Worker => worker,
    }
}
