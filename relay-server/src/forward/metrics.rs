//! What is counted of requests between relays.

use ::metrics::{Counter, Histogram};

use super::envelope::Fault;
use crate::telemetry::metrics::{Metric, Opened, Pair};

const SENT: Metric = Metric::counter(
    "relay_forward_requests_total",
    "outcome=answered|moved|draining|refused|unreachable|unavailable",
    "Tries to pass a request on to the relay that holds its host, by how they went; unavailable: the relays' common \
     knowledge did not answer",
);
const REDIRECTS: Metric = Metric::counter(
    "relay_forward_redirects_total",
    "",
    "Requests that were sent (307) to the relay that holds their host",
);
const ARRIVED: Metric =
    Metric::counter("relay_forward_arrivals_total", "", "Requests that other relays passed on to this one");
const REFUSED: Metric = Metric::counter(
    "relay_forward_arrivals_refused_total",
    "reason=unwanted|malformed|forged|misdirected|stale|replayed|crowded",
    "Requests that claim to be passed on by another relay, and were refused",
);
const UPGRADES_OPENED: Metric = Metric::counter(
    "relay_forward_upgrades_opened_total",
    "",
    "WebSockets and other upgrades that were passed on",
);
const UPGRADES_CLOSED: Metric =
    Metric::counter("relay_forward_upgrades_closed_total", "", "Those of them that have ended");
const HEAD: Metric = Metric::histogram(
    "relay_forward_head_seconds",
    "",
    "Time from passing a request on to the head of its answer, in seconds",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[SENT, REDIRECTS, ARRIVED, REFUSED, UPGRADES_OPENED, UPGRADES_CLOSED, HEAD];

/// What is counted where requests leave.
pub struct Sent {
    /// The other relay answered.
    pub answered: Counter,
    /// It does not have the host.
    pub moved: Counter,
    /// It takes no more requests.
    pub draining: Counter,
    /// It does not believe this relay.
    pub refused: Counter,
    /// It could not be reached, broke off, or answered as no relay does.
    pub unreachable: Counter,
    /// Who has the host could not be asked.
    pub unavailable: Counter,
    /// Browsers that were sent there themselves.
    pub redirects: Counter,
    upgrades: Pair,
    /// Seconds to the head of an answer.
    pub head: Histogram,
}

impl Sent {
    /// To be made when the recorder is there.
    pub fn new() -> Self {
        let outcome = |outcome| SENT.count_of("outcome", outcome);
        Self {
            answered: outcome("answered"),
            moved: outcome("moved"),
            draining: outcome("draining"),
            refused: outcome("refused"),
            unreachable: outcome("unreachable"),
            unavailable: outcome("unavailable"),
            redirects: REDIRECTS.count(),
            upgrades: Pair::new(&UPGRADES_OPENED, &UPGRADES_CLOSED),
            head: HEAD.spread(),
        }
    }

    /// An upgraded connection that was passed on.
    pub fn upgrade(&self) -> Opened {
        self.upgrades.open()
    }
}

impl Default for Sent {
    fn default() -> Self {
        Self::new()
    }
}

/// What is counted where they arrive.
pub struct Arrived {
    /// Requests that were taken.
    pub taken: Counter,
}

impl Arrived {
    /// To be made when the recorder is there.
    pub fn new() -> Self {
        Self { taken: ARRIVED.count() }
    }

    /// One that was not. Rare enough to look its counter up.
    pub fn refused(&self, fault: Fault) {
        REFUSED.count_of("reason", fault.as_str()).increment(1);
    }
}

impl Default for Arrived {
    fn default() -> Self {
        Self::new()
    }
}
