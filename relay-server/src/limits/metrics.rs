//! What is counted of limits: who ran into which.

use ::metrics::Counter;

use crate::telemetry::metrics::Metric;

const REFUSED: Metric = Metric::counter(
    "relay_limits_refused_total",
    "limit=api_rate|upgrade_rate|ws_attempt_rate|bad_token_rate|look_up_rate|connections_per_ip|admin_guesses",
    "Requests that one address had too many of",
);

/// What is counted here.
pub const METRICS: &[Metric] = &[REFUSED];

/// The handle of one limit, by its name in the table.
pub fn refused(limit: &'static str) -> Counter {
    REFUSED.count_of("limit", limit)
}
