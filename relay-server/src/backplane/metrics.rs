//! What is counted here.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge, histogram};

use crate::telemetry::metrics::{Kind, Metric};

const UP: &str = "relay_backplane_up";
const PUBLISHED: &str = "relay_backplane_published_total";
const UNPUBLISHED: &str = "relay_backplane_unpublished_total";
const RECEIVED: &str = "relay_backplane_received_total";
const REFUSED: &str = "relay_backplane_refused_total";
const PRESENCE: &str = "relay_backplane_presence_writes_total";
const QUESTIONS: &str = "relay_backplane_questions_total";
const SECONDS: &str = "relay_backplane_call_seconds";

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric {
        name: UP,
        kind: Kind::Gauge,
        labels: "",
        help: "1 while what keeps the relays' common knowledge answers",
    },
    Metric {
        name: PUBLISHED,
        kind: Kind::Counter,
        labels: "",
        help: "Frames that were passed on to other relays",
    },
    Metric {
        name: UNPUBLISHED,
        kind: Kind::Counter,
        labels: "reason=away|queue_full|too_large|too_many|too_old|nobody",
        help: "Frames that were to be passed on and were not; nobody: no relay listened; too_many: a pair sent too many to all relays",
    },
    Metric {
        name: RECEIVED,
        kind: Kind::Counter,
        labels: "",
        help: "Frames of other relays that were verified and taken",
    },
    Metric {
        name: REFUSED,
        kind: Kind::Counter,
        labels: "reason=malformed|too_large|own|not_ours|signature|stale|replayed|out_of_order|too_many|queue_full",
        help: "Frames from the bus that were not taken",
    },
    Metric {
        name: PRESENCE,
        kind: Kind::Counter,
        labels: "result=ok|lost|failed",
        help: "Writes of who is here; lost: another relay holds it by right",
    },
    Metric {
        name: QUESTIONS,
        kind: Kind::Counter,
        labels: "about=daemon|host|relays result=found|none|unavailable",
        help: "Questions where something is, those answered from memory included",
    },
    Metric {
        name: SECONDS,
        kind: Kind::Histogram,
        labels: "operation=publish|pull|presence|question",
        help: "How long calls took, those without an answer included",
    },
];

/// Why a frame was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpublished {
    Away,
    QueueFull,
    TooLarge,
    TooMany,
    TooOld,
    Nobody,
}

/// Why a frame from the bus was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Malformed,
    TooLarge,
    Own,
    NotOurs,
    Signature,
    Stale,
    Replayed,
    OutOfOrder,
    TooMany,
    QueueFull,
}

/// The handles.
pub(super) struct Metrics {
    pub(super) up: Gauge,
    pub(super) published: Counter,
    pub(super) received: Counter,
    pub(super) presence_ok: Counter,
    pub(super) presence_lost: Counter,
    pub(super) presence_failed: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            up: gauge!(UP),
            published: counter!(PUBLISHED),
            received: counter!(RECEIVED),
            presence_ok: counter!(PRESENCE, "result" => "ok"),
            presence_lost: counter!(PRESENCE, "result" => "lost"),
            presence_failed: counter!(PRESENCE, "result" => "failed"),
        }
    }

    pub(super) fn unpublished(&self, reason: Unpublished, frames: u64) {
        let reason = match reason {
            Unpublished::Away => "away",
            Unpublished::QueueFull => "queue_full",
            Unpublished::TooLarge => "too_large",
            Unpublished::TooMany => "too_many",
            Unpublished::TooOld => "too_old",
            Unpublished::Nobody => "nobody",
        };
        counter!(UNPUBLISHED, "reason" => reason).increment(frames);
    }

    pub(super) fn refused(&self, reason: Refused) {
        let reason = match reason {
            Refused::Malformed => "malformed",
            Refused::TooLarge => "too_large",
            Refused::Own => "own",
            Refused::NotOurs => "not_ours",
            Refused::Signature => "signature",
            Refused::Stale => "stale",
            Refused::Replayed => "replayed",
            Refused::OutOfOrder => "out_of_order",
            Refused::TooMany => "too_many",
            Refused::QueueFull => "queue_full",
        };
        counter!(REFUSED, "reason" => reason).increment(1);
    }

    pub(super) fn asked(&self, about: &'static str, result: &'static str) {
        counter!(QUESTIONS, "about" => about, "result" => result).increment(1);
    }

    pub(super) fn took(&self, operation: &'static str, time: Duration) {
        histogram!(SECONDS, "operation" => operation).record(time.as_secs_f64());
    }
}
