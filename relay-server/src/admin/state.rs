//! What is open at this relay now, as `/state` tells it.

use serde::Serialize;

use super::Admin;
use crate::clock::millis;
use crate::frames::{PairSnapshot, Snapshot};

/// Workspaces that are named; the totals count all of them.
const MAX_WORKSPACES: usize = 1000;

/// The answer of `/state`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    relay_id: String,
    mode: &'static str,
    version: &'static str,
    uptime_ms: u64,
    pub(super) draining: bool,
    /// The first ones, by name.
    workspaces: Vec<PairSnapshot>,
    /// How many there are.
    workspace_count: usize,
    /// Daemons that are connected.
    daemon_connected: usize,
    /// Clients that are connected.
    client_count: usize,
    /// Hosts with a tunnel.
    pub(super) hosts: usize,
    pub(super) tunnels: usize,
    /// Streams that are open in the tunnels, idle ones too.
    pub(super) streams: usize,
    /// Browser sessions in memory.
    pub(super) sessions: usize,
}

impl Admin {
    pub(super) fn state(&self) -> State {
        let tunnels = self.seen.registry.all();
        let mut hosts: Vec<_> = tunnels.iter().map(|tunnel| tunnel.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let broker = self.seen.broker.as_ref().map(|broker| broker.snapshot()).unwrap_or_default();
        let (daemon_connected, client_count) = (broker.daemons, broker.clients);
        let (workspaces, workspace_count) = listed(broker);
        State {
            relay_id: self.seen.relay_id.clone(),
            mode: self.mode,
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: millis(self.started.elapsed()),
            draining: self.seen.shutdown.is_draining(),
            workspaces,
            workspace_count,
            daemon_connected,
            client_count,
            hosts: hosts.len(),
            tunnels: tunnels.len(),
            streams: tunnels.iter().map(|tunnel| tunnel.handle.streams()).sum(),
            sessions: self.seen.sessions.in_memory(),
        }
    }
}

/// The first ones by name, and how many there are.
fn listed(broker: Snapshot) -> (Vec<PairSnapshot>, usize) {
    let mut pairs = broker.pairs;
    let count = pairs.len();
    pairs.sort_unstable_by(|a, b| {
        (&a.workspace_id, &a.runtime_target_id).cmp(&(&b.workspace_id, &b.runtime_target_id))
    });
    pairs.truncate(MAX_WORKSPACES);
    (pairs, count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_workspaces_are_counted_and_the_first_named() {
        let pair = |n: usize| PairSnapshot {
            workspace_id: format!("w{n:05}").into(),
            runtime_target_id: n.is_multiple_of(2).then(|| "t".into()),
            daemon_connected: n.is_multiple_of(3),
            client_count: 2,
            daemon_relay_id: None,
        };
        let all = Snapshot { pairs: (0..3000).rev().map(pair).collect(), daemons: 1000, clients: 6000 };
        let (named, count) = listed(all);
        assert_eq!((named.len(), count), (MAX_WORKSPACES, 3000));
        let json = serde_json::to_value(named.get(1).unwrap()).unwrap();
        let expected = serde_json::json!(
            {"workspaceId": "w00001", "runtimeTargetId": null, "daemonConnected": false, "clientCount": 2});
        assert_eq!(json, expected);
    }
}
