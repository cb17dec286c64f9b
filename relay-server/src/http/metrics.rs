//! What is counted of connections and requests.

use ::metrics::Counter;
use http::StatusCode;
use relay_protocol::RELAY_PREFIX;

use super::front::HEALTH_PATH;
use super::sign_in;
use crate::admin;
use crate::frames;
use crate::proxy::path;
use crate::telemetry::metrics::{Metric, Opened, Pair};
use crate::tunnel::connect;

const OPENED: Metric =
    Metric::counter("relay_http_connections_opened_total", "", "TCP connections that were let in");
const CLOSED: Metric =
    Metric::counter("relay_http_connections_closed_total", "", "Those that have closed, upgraded ones too");
const REFUSED: Metric = Metric::counter(
    "relay_http_connections_refused_total",
    "reason=address|relay",
    "TCP connections beyond the limit of their address, or of the relay",
);
const BEGUN: Metric = Metric::counter(
    "relay_http_requests_begun_total",
    "route=host|connect|frames|api|sign_in|health|admin|other",
    "Requests whose head was read, by the part of the relay that they are for",
);
const ENDED: Metric = Metric::counter(
    "relay_http_requests_ended_total",
    "route=host|connect|frames|api|sign_in|health|admin|other",
    "Those whose answer has left or broken off",
);
const RESPONSES: Metric = Metric::counter(
    "relay_http_responses_total",
    "status=1xx|2xx|3xx|4xx|5xx",
    "Heads of answers, by the class of their status",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[OPENED, CLOSED, REFUSED, BEGUN, ENDED, RESPONSES];

/// The part of the relay that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Host,
    Connect,
    Frames,
    Api,
    SignIn,
    Health,
    Admin,
    Other,
}

impl Route {
    /// In the order in which they are declared.
    const NAMES: [&str; 8] = ["host", "connect", "frames", "api", "sign_in", "health", "admin", "other"];

    pub(super) fn of(path: &str) -> Self {
        // The first is by far the most frequent.
        if path.starts_with(path::PREFIX) {
            return Route::Host;
        }
        match path {
            connect::PATH => Route::Connect,
            frames::serve::PATH => Route::Frames,
            HEALTH_PATH => Route::Health,
            _ if admin::is_path(path) => Route::Admin,
            _ if path.starts_with(sign_in::PREFIX) => Route::SignIn,
            _ if path.strip_prefix(RELAY_PREFIX).is_some_and(|rest| rest.starts_with('/')) => Route::Api,
            _ => Route::Other,
        }
    }
}

/// The handles of accepted connections and their requests.
pub(super) struct Metrics {
    connections: Pair,
    pub(super) refused_address: Counter,
    pub(super) refused_relay: Counter,
    begun: [Counter; Route::NAMES.len()],
    ended: [Counter; Route::NAMES.len()],
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            connections: Pair::new(&OPENED, &CLOSED),
            refused_address: REFUSED.count_of("reason", "address"),
            refused_relay: REFUSED.count_of("reason", "relay"),
            begun: Route::NAMES.map(|name| BEGUN.count_of("route", name)),
            ended: Route::NAMES.map(|name| ENDED.count_of("route", name)),
        }
    }

    pub(super) fn connection(&self) -> Opened {
        self.connections.open()
    }

    pub(super) fn begun(&self, route: Route) {
        if let Some(counter) = self.begun.get(route as usize) {
            counter.increment(1);
        }
    }

    pub(super) fn ended(&self, route: Route) {
        if let Some(counter) = self.ended.get(route as usize) {
            counter.increment(1);
        }
    }
}

/// The handles of answers.
pub(super) struct Responses([Counter; 5]);

impl Responses {
    pub(super) fn new() -> Self {
        Self(["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| RESPONSES.count_of("status", class)))
    }

    pub(super) fn count(&self, status: StatusCode) {
        if let Some(counter) = self.0.get(usize::from(status.as_u16() / 100).saturating_sub(1)) {
            counter.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_belongs_to_one_part() {
        for (path, route) in [
            ("/v1/relay/h/x/s/y/", Route::Host),
            ("/v1/relay/connect", Route::Connect),
            ("/v1/relay/connect/", Route::Api),
            ("/ws", Route::Frames),
            ("/ws/", Route::Other),
            ("/v1/relay/hosts", Route::Api),
            ("/v1/relayhosts", Route::Other),
            ("/v1/auth/login", Route::SignIn),
            ("/health", Route::Health),
            ("/metrics", Route::Admin),
            ("/", Route::Other),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
        for (route, name) in [(Route::Host, "host"), (Route::SignIn, "sign_in"), (Route::Other, "other")] {
            assert_eq!(Route::NAMES.get(route as usize), Some(&name));
        }
    }
}
