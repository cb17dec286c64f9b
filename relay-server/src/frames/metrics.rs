//! What the broker counts.

use std::time::Duration;

use ::metrics::{Counter, Histogram};

use super::Role;
use super::frame::Kind;
use super::status::Code;
use crate::telemetry::metrics::Metric;

const IN: Metric = Metric::counter(
    "relay_frames_in_total",
    "role=daemon|client|worker|bus kind=e2ee|key_init|key_response|key_update|pairing_request|pairing_response|\
     subscription|session_event|transport_request|transport_response",
    "Frames that came and are of a kind that may pass, by who sent them",
);
const OUT: Metric = Metric::counter(
    "relay_frames_out_total",
    "role=daemon|client|worker kind=e2ee|key_init|key_response|key_update|pairing_request|pairing_response|\
     subscription|session_event|transport_request|transport_response",
    "Frames that were put into a socket's queue, by who receives them",
);
const DROPPED: Metric = Metric::counter(
    "relay_frames_dropped_total",
    "reason=binary|json|unknown|field|not_allowed|rate|request_taken|not_owner|unrequested|no_owner|no_daemon|\
     slow_reader|profile|worker_transport|bus",
    "Frames that went nowhere",
);
const STATUSES: Metric = Metric::counter(
    "relay_frames_statuses_total",
    "code=RUNTIME_TARGET_REQUIRED|DAEMON_UNAVAILABLE|BACKPLANE_UNAVAILABLE|FRAME_TOO_LARGE_FOR_BUS|RATE_LIMITED|\
     RELAY_REDIRECT",
    "relay_status frames that were sent",
);
const OPENED: Metric = Metric::counter(
    "relay_frames_attached_total",
    "role=daemon|client|worker",
    "Sockets that began to take part",
);
const CLOSED: Metric = Metric::counter(
    "relay_frames_detached_total",
    "role=daemon|client|worker",
    "Sockets that took part and no longer do",
);
const REPLACED: Metric = Metric::counter(
    "relay_frames_daemons_replaced_total",
    "by=newcomer|relay",
    "Daemons that gave way to another, here or at another relay",
);
const BUS: Metric = Metric::counter(
    "relay_frames_bus_total",
    "way=in|out|refused",
    "Frames from other relays, to other relays, and those that could not be passed to them",
);
const ROUTING: Metric = Metric::histogram(
    "relay_frames_routing_seconds",
    "",
    "From a frame's arrival to the queues of its receivers",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[IN, OUT, DROPPED, STATUSES, OPENED, CLOSED, REPLACED, BUS, ROUTING];

/// Why a frame went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the label's values are called")]
pub enum Reason {
    Binary,
    Json,
    Unknown,
    Field,
    NotAllowed,
    Rate,
    RequestTaken,
    NotOwner,
    Unrequested,
    NoOwner,
    NoDaemon,
    SlowReader,
    Profile,
    WorkerTransport,
    Bus,
}

const REASONS: [(Reason, &str); 15] = [
    (Reason::Binary, "binary"),
    (Reason::Json, "json"),
    (Reason::Unknown, "unknown"),
    (Reason::Field, "field"),
    (Reason::NotAllowed, "not_allowed"),
    (Reason::Rate, "rate"),
    (Reason::RequestTaken, "request_taken"),
    (Reason::NotOwner, "not_owner"),
    (Reason::Unrequested, "unrequested"),
    (Reason::NoOwner, "no_owner"),
    (Reason::NoDaemon, "no_daemon"),
    (Reason::SlowReader, "slow_reader"),
    (Reason::Profile, "profile"),
    (Reason::WorkerTransport, "worker_transport"),
    (Reason::Bus, "bus"),
];

/// Who sent a frame: a socket, or another relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the label's values are called")]
pub enum Sender {
    Daemon,
    Client,
    Worker,
    Bus,
}

impl From<Role> for Sender {
    fn from(role: Role) -> Self {
        match role {
            Role::Daemon => Self::Daemon,
            Role::Client => Self::Client,
            Role::Worker => Self::Worker,
        }
    }
}

const SENDERS: [&str; 4] = ["daemon", "client", "worker", "bus"];

/// Which way over the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the label's values are called")]
pub enum Way {
    In,
    Out,
    Refused,
}

/// The handles, made once.
pub struct Metrics {
    frames_in: Vec<Counter>,
    frames_out: Vec<Counter>,
    dropped: Vec<Counter>,
    statuses: Vec<Counter>,
    opened: Vec<Counter>,
    closed: Vec<Counter>,
    replaced_by_newcomer: Counter,
    replaced_by_relay: Counter,
    bus: Vec<Counter>,
    routing: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let by_kind = |metric: Metric, roles: usize| {
            let of = |role| {
                Kind::ALL
                    .map(|kind| ::metrics::counter!(metric.name, "role" => role, "kind" => kind.as_str()))
            };
            SENDERS.into_iter().take(roles).flat_map(of).collect()
        };
        let by_role = |metric: Metric| {
            SENDERS.iter().take(3).map(|role| metric.count_of("role", role)).collect::<Vec<_>>()
        };
        Self {
            frames_in: by_kind(IN, SENDERS.len()),
            frames_out: by_kind(OUT, 3),
            dropped: REASONS.iter().map(|(_, reason)| DROPPED.count_of("reason", reason)).collect(),
            statuses: Code::ALL.iter().map(|code| STATUSES.count_of("code", code.as_str())).collect(),
            opened: by_role(OPENED),
            closed: by_role(CLOSED),
            replaced_by_newcomer: REPLACED.count_of("by", "newcomer"),
            replaced_by_relay: REPLACED.count_of("by", "relay"),
            bus: ["in", "out", "refused"].map(|way| BUS.count_of("way", way)).into(),
            routing: ROUTING.spread(),
        }
    }
}

fn add(counters: &[Counter], at: usize, count: u64) {
    if let Some(counter) = counters.get(at) {
        counter.increment(count);
    }
}

impl Metrics {
    /// A frame came.
    pub fn frame_in(&self, from: Sender, kind: Kind) {
        add(&self.frames_in, from as usize * Kind::ALL.len() + kind as usize, 1);
    }

    /// So many sockets get a frame.
    pub fn frame_out(&self, to: Role, kind: Kind, count: u64) {
        add(&self.frames_out, Sender::from(to) as usize * Kind::ALL.len() + kind as usize, count);
    }

    /// A frame goes nowhere.
    pub fn dropped(&self, reason: Reason) {
        add(&self.dropped, reason as usize, 1);
    }

    /// A status was sent.
    pub fn status(&self, code: Code) {
        add(&self.statuses, code as usize, 1);
    }

    /// A socket takes part.
    pub fn opened(&self, role: Role) {
        add(&self.opened, Sender::from(role) as usize, 1);
    }

    /// It no longer does.
    pub fn closed(&self, role: Role) {
        add(&self.closed, Sender::from(role) as usize, 1);
    }

    /// A daemon gave way to one that came here.
    pub fn replaced(&self) {
        self.replaced_by_newcomer.increment(1);
    }

    /// A daemon gave way to one at another relay.
    pub fn superseded(&self) {
        self.replaced_by_relay.increment(1);
    }

    /// A frame on the bus.
    pub fn bus(&self, way: Way) {
        add(&self.bus, way as usize, 1);
    }

    /// A frame took so long.
    pub fn routed(&self, took: Duration) {
        self.routing.record(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_handles_is_that_of_the_enums() {
        for (at, (reason, _)) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        for (at, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at);
        }
        assert_eq!(
            [Sender::Daemon, Sender::Client, Sender::Worker, Sender::Bus].map(|s| s as usize),
            [0, 1, 2, 3]
        );
    }
}
