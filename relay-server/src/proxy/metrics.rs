//! What is counted of requests to hosts.

use std::time::Duration;

use ::metrics::{Counter, Histogram};
use http::{Method, StatusCode};

use crate::telemetry::metrics::{ByCode, Metric, Opened, Pair};

const REQUESTS: Metric = Metric::counter(
    "relay_proxy_requests_total",
    "method=read|write status=1xx|2xx|3xx|4xx|5xx",
    "Requests to hosts that got an answer, by whether the method may change something, and the answer's class",
);
const REFUSED: Metric = Metric::counter(
    "relay_proxy_refused_total",
    "code=…",
    "Requests to hosts that the relay answered with a problem of its own",
);
const TO_HEAD: Metric = Metric::histogram(
    "relay_proxy_response_head_seconds",
    "",
    "From the request's head to the head of its answer",
);
const BODY: Metric = Metric::counter(
    "relay_proxy_body_bytes_total",
    "direction=up|down",
    "Bytes of bodies, towards the local server and towards the browser",
);
const UPGRADES_OPENED: Metric =
    Metric::counter("relay_proxy_upgrades_opened_total", "", "WebSockets and other upgraded connections");
const UPGRADES_CLOSED: Metric =
    Metric::counter("relay_proxy_upgrades_closed_total", "", "Those that have ended");

/// What is counted here.
pub const METRICS: &[Metric] = &[REQUESTS, REFUSED, TO_HEAD, BODY, UPGRADES_OPENED, UPGRADES_CLOSED];

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The handles.
pub struct Metrics {
    read: [Counter; CLASSES.len()],
    write: [Counter; CLASSES.len()],
    /// Refusals.
    pub(super) refused: ByCode,
    to_head: Histogram,
    pub(super) up: Counter,
    pub(super) down: Counter,
    upgrades: Pair,
}

impl Metrics {
    /// Made with the proxy.
    pub fn new() -> Self {
        let of = |method: &'static str| {
            CLASSES.map(|class| ::metrics::counter!(REQUESTS.name, "method" => method, "status" => class))
        };
        Self {
            read: of("read"),
            write: of("write"),
            refused: ByCode::new(REFUSED),
            to_head: TO_HEAD.spread(),
            up: BODY.count_of("direction", "up"),
            down: BODY.count_of("direction", "down"),
            upgrades: Pair::new(&UPGRADES_OPENED, &UPGRADES_CLOSED),
        }
    }

    pub(super) fn answered(&self, reads: bool, status: StatusCode, took: Duration) {
        let classes = if reads { &self.read } else { &self.write };
        if let Some(counter) = classes.get(usize::from(status.as_u16() / 100).saturating_sub(1)) {
            counter.increment(1);
        }
        self.to_head.record(took);
    }

    pub(super) fn upgrade(&self) -> Opened {
        self.upgrades.open()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the method changes nothing (RFC 9110 section 9.2.1).
pub(super) fn reads(method: &Method) -> bool {
    method.is_safe()
}
