//! What is counted of requests between relays.

use ::metrics::{Counter, Histogram, counter, histogram};

use super::envelope::Fault;
use crate::telemetry::metrics::{Kind, Metric};

const SENT: &str = "relay_forward_requests_total";
const REDIRECTS: &str = "relay_forward_redirects_total";
const ARRIVED: &str = "relay_forward_arrivals_total";
const REFUSED: &str = "relay_forward_arrivals_refused_total";
const UPGRADES_OPENED: &str = "relay_forward_upgrades_opened_total";
const UPGRADES_CLOSED: &str = "relay_forward_upgrades_closed_total";
const HEAD: &str = "relay_forward_head_seconds";

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric {
        name: SENT,
        kind: Kind::Counter,
        labels: "outcome=answered|moved|draining|refused|unreachable|unavailable",
        help: "Tries to pass a request on to the relay that holds its host, by how they went; unavailable: the relays' \
               common knowledge did not answer",
    },
    Metric {
        name: REDIRECTS,
        kind: Kind::Counter,
        labels: "",
        help: "Requests that were sent (307) to the relay that holds their host",
    },
    Metric {
        name: ARRIVED,
        kind: Kind::Counter,
        labels: "",
        help: "Requests that other relays passed on to this one",
    },
    Metric {
        name: REFUSED,
        kind: Kind::Counter,
        labels: "reason=unwanted|malformed|forged|misdirected|stale|replayed|crowded",
        help: "Requests that claim to be passed on by another relay, and were refused",
    },
    Metric {
        name: UPGRADES_OPENED,
        kind: Kind::Counter,
        labels: "",
        help: "WebSockets and other upgrades that were passed on",
    },
    Metric { name: UPGRADES_CLOSED, kind: Kind::Counter, labels: "", help: "Those of them that have ended" },
    Metric {
        name: HEAD,
        kind: Kind::Histogram,
        labels: "",
        help: "Time from passing a request on to the head of its answer, in seconds",
    },
];

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
    /// Upgraded connections that began.
    pub upgrades_opened: Counter,
    /// Upgraded connections that ended.
    pub upgrades_closed: Counter,
    /// Seconds to the head of an answer.
    pub head: Histogram,
}

impl Sent {
    /// To be made when the recorder is there.
    pub fn new() -> Self {
        let outcome = |outcome: &'static str| counter!(SENT, "outcome" => outcome);
        Self {
            answered: outcome("answered"),
            moved: outcome("moved"),
            draining: outcome("draining"),
            refused: outcome("refused"),
            unreachable: outcome("unreachable"),
            unavailable: outcome("unavailable"),
            redirects: counter!(REDIRECTS),
            upgrades_opened: counter!(UPGRADES_OPENED),
            upgrades_closed: counter!(UPGRADES_CLOSED),
            head: histogram!(HEAD),
        }
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
        Self { taken: counter!(ARRIVED) }
    }

    /// One that was not. Rare enough to look its counter up.
    pub fn refused(&self, fault: Fault) {
        counter!(REFUSED, "reason" => fault.as_str()).increment(1);
    }
}

impl Default for Arrived {
    fn default() -> Self {
        Self::new()
    }
}

/// An upgraded connection that was passed on. Counts its end when dropped.
pub struct Upgraded(Counter);

impl Upgraded {
    /// Counts its beginning.
    pub fn begin(sent: &Sent) -> Self {
        sent.upgrades_opened.increment(1);
        Self(sent.upgrades_closed.clone())
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.0.increment(1);
    }
}
