//! What is open at this relay now, as `/state` tells it.

use serde::Serialize;

use super::Admin;

/// Workspaces that are named; the totals count all of them.
const MAX_WORKSPACES: usize = 1000;

/// One workspace and runtime target at the frame broker.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workspace {
    pub(super) workspace_id: String,
    pub(super) runtime_target_id: Option<String>,
    pub(super) daemon_connected: bool,
    pub(super) client_count: usize,
}

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
    workspaces: Vec<Workspace>,
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
        let (workspaces, totals) = listed(self.workspaces());
        State {
            relay_id: self.seen.relay_id.clone(),
            mode: self.mode,
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            draining: self.seen.shutdown.is_draining(),
            workspaces,
            workspace_count: totals.workspaces,
            daemon_connected: totals.daemons,
            client_count: totals.clients,
            hosts: hosts.len(),
            tunnels: tunnels.len(),
            streams: tunnels.iter().map(|tunnel| tunnel.handle.streams()).sum(),
            sessions: self.seen.sessions.in_memory(),
        }
    }

    fn workspaces(&self) -> Vec<Workspace> {
        Vec::new()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Totals {
    workspaces: usize,
    daemons: usize,
    clients: usize,
}

/// The first ones by name, and the totals of all.
fn listed(mut all: Vec<Workspace>) -> (Vec<Workspace>, Totals) {
    let totals = Totals {
        workspaces: all.len(),
        daemons: all.iter().filter(|one| one.daemon_connected).count(),
        clients: all.iter().map(|one| one.client_count).sum(),
    };
    all.sort_unstable_by(|a, b| {
        (&a.workspace_id, &a.runtime_target_id).cmp(&(&b.workspace_id, &b.runtime_target_id))
    });
    all.truncate(MAX_WORKSPACES);
    (all, totals)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_workspaces_are_counted_and_the_first_named() {
        let one = |n: usize| Workspace {
            workspace_id: format!("w{n:05}"),
            runtime_target_id: (n % 2 == 0).then(|| "t".to_owned()),
            daemon_connected: n.is_multiple_of(3),
            client_count: 2,
        };
        let (named, totals) = listed((0..3000).rev().map(one).collect());
        assert_eq!(totals, Totals { workspaces: 3000, daemons: 1000, clients: 6000 });
        assert_eq!((named.len(), named.first().unwrap().workspace_id.as_str()), (MAX_WORKSPACES, "w00000"));
        let json = serde_json::to_value(&named[1]).unwrap();
        let expected = serde_json::json!(
            {"workspaceId": "w00001", "runtimeTargetId": null, "daemonConnected": false, "clientCount": 2});
        assert_eq!(json, expected);
    }
}
