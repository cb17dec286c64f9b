//! What is counted here.

use std::time::Duration;

use parking_lot::Mutex;

use ::metrics::{Counter, Gauge};

use crate::telemetry::metrics::Metric;

const UP: Metric = Metric::gauge(
    "relay_backplane_up",
    "",
    "1 while everything that keeps the relays' common knowledge answers",
);
const PUBLISHED: Metric =
    Metric::counter("relay_backplane_published_total", "", "Frames that were passed on to other relays");
const UNPUBLISHED: Metric = Metric::counter(
    "relay_backplane_unpublished_total",
    "reason=away|queue_full|too_large|too_many|too_old|nobody",
    "Frames that were to be passed on and were not; nobody: no relay listened; too_many: a pair sent too many \
     to all relays",
);
const RECEIVED: Metric = Metric::counter(
    "relay_backplane_received_total",
    "",
    "Frames of other relays that were verified and taken",
);
const REFUSED: Metric = Metric::counter(
    "relay_backplane_refused_total",
    "reason=malformed|too_large|own|not_ours|signature|stale|replayed|out_of_order|too_many|queue_full",
    "Frames from the bus that were not taken",
);
const PRESENCE: Metric = Metric::counter(
    "relay_backplane_presence_writes_total",
    "result=ok|lost|failed",
    "Writes of who is here; lost: another relay holds it by right",
);
const QUESTIONS: Metric = Metric::counter(
    "relay_backplane_questions_total",
    "about=daemon|host|relays result=found|none|unavailable",
    "Questions where something is, those answered from memory included",
);
const SECONDS: Metric = Metric::histogram(
    "relay_backplane_call_seconds",
    "operation=publish|pull|presence|question",
    "How long calls took, those without an answer included",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[UP, PUBLISHED, UNPUBLISHED, RECEIVED, REFUSED, PRESENCE, QUESTIONS, SECONDS];

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
    up: Gauge,
    /// Of what keeps it, how many do not answer: daemons and hosts may be in different places.
    away: Mutex<u32>,
    pub(super) published: Counter,
    pub(super) received: Counter,
    pub(super) presence_ok: Counter,
    pub(super) presence_lost: Counter,
    pub(super) presence_failed: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            up: UP.level(),
            away: Mutex::default(),
            published: PUBLISHED.count(),
            received: RECEIVED.count(),
            presence_ok: PRESENCE.count_of("result", "ok"),
            presence_lost: PRESENCE.count_of("result", "lost"),
            presence_failed: PRESENCE.count_of("result", "failed"),
        }
    }

    /// One place answered or did not, after it did not or did before.
    pub(super) fn away(&self, before: bool, now: bool) {
        let mut away = self.away.lock();
        *away = away.saturating_sub(u32::from(before)).saturating_add(u32::from(now));
        self.up.set(if *away == 0 { 1.0 } else { 0.0 });
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
        UNPUBLISHED.count_of("reason", reason).increment(frames);
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
        REFUSED.count_of("reason", reason).increment(1);
    }

    pub(super) fn asked(&self, about: &'static str, result: &'static str) {
        ::metrics::counter!(QUESTIONS.name, "about" => about, "result" => result).increment(1);
    }

    pub(super) fn took(&self, operation: &'static str, time: Duration) {
        ::metrics::histogram!(SECONDS.name, "operation" => operation).record(time.as_secs_f64());
    }
}
