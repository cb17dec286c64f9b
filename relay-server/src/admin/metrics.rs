//! What is counted of the operator's interface, and what is looked up when `/metrics` is asked.

use ::metrics::{Counter, Gauge};

use super::state::State;
use crate::telemetry::metrics::Metric;

const REQUESTS: Metric = Metric::counter(
    "relay_admin_requests_total",
    "answer=ok|unauthorized|rate_limited|method",
    "Requests for /state, /logs and /metrics",
);
const DRAINING: Metric = Metric::gauge("relay_draining", "", "1 from the beginning of the drain");
const TUNNELS: Metric = Metric::gauge("relay_tunnel_open", "", "Tunnels that are open");
const HOSTS: Metric = Metric::gauge("relay_tunnel_hosts_online", "", "Hosts with a tunnel at this relay");
const STREAMS: Metric =
    Metric::gauge("relay_tunnel_streams_open", "", "Streams that are open in all tunnels, idle ones too");
const SESSIONS: Metric = Metric::gauge("relay_auth_sessions_in_memory", "", "Browser sessions in memory");
const CONNECTIONS: Metric =
    Metric::gauge("relay_store_connections", "state=busy|idle", "Connections to the database");

/// What is told here.
pub const METRICS: &[Metric] = &[REQUESTS, DRAINING, TUNNELS, HOSTS, STREAMS, SESSIONS, CONNECTIONS];

/// The handles.
pub(super) struct Metrics {
    pub(super) ok: Counter,
    pub(super) unauthorized: Counter,
    pub(super) rate_limited: Counter,
    pub(super) method: Counter,
    draining: Gauge,
    tunnels: Gauge,
    hosts: Gauge,
    streams: Gauge,
    sessions: Gauge,
    busy: Gauge,
    idle: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let answer = |answer| REQUESTS.count_of("answer", answer);
        Self {
            ok: answer("ok"),
            unauthorized: answer("unauthorized"),
            rate_limited: answer("rate_limited"),
            method: answer("method"),
            draining: DRAINING.level(),
            tunnels: TUNNELS.level(),
            hosts: HOSTS.level(),
            streams: STREAMS.level(),
            sessions: SESSIONS.level(),
            busy: ::metrics::gauge!(CONNECTIONS.name, "state" => "busy"),
            idle: ::metrics::gauge!(CONNECTIONS.name, "state" => "idle"),
        }
    }

    /// Puts the gauges to what is true now.
    pub(super) fn look(&self, state: &State, (connections, idle): (u32, usize)) {
        self.draining.set(f64::from(u8::from(state.draining)));
        for (gauge, count) in [
            (&self.tunnels, state.tunnels),
            (&self.hosts, state.hosts),
            (&self.streams, state.streams),
            (&self.sessions, state.sessions),
            (&self.idle, idle),
            (&self.busy, (connections as usize).saturating_sub(idle)),
        ] {
            gauge.set(count as f64);
        }
    }
}
