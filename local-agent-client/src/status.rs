//! What the agent tells about itself: to the program that embeds it, and through a file to `status`.

use crate::{
    forward::{Counts, GateCounts, Stats},
    peer::Peers,
    relays::Place,
    trust::{FailedGuesses, Pairing},
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// How often peers are looked at.
const PEERS: Duration = Duration::from_secs(1);

/// An agent's state at one moment. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started_at: i64,
    /// The relay's URL.
    pub relay: String,
    /// The local server.
    pub local: String,
    /// The name under which people see this host.
    pub name: String,
    /// This machine's id.
    pub machine_id: String,
    /// Whether a tunnel is up, of whichever connection.
    pub connected: bool,
    /// Since when one always was.
    pub connected_since: Option<i64>,
    /// The id that the relay gave the host, once it is known.
    pub host_id: Option<String>,
    /// `plain` or `relay.tunnel.v1`, while connected: that of the first connection that is.
    pub form: Option<String>,
    /// The round-trip time of its last ping.
    pub rtt_ms: Option<f64>,
    /// Each of the connections.
    #[serde(default)]
    pub connections: Vec<ConnectionStatus>,
    /// What was forwarded.
    pub requests: Counts,
    /// What was signed, and what was refused.
    #[serde(default)]
    pub signed: GateCounts,
    /// The last thing that went wrong.
    pub last_error: Option<LastError>,
    /// When the next attempt to connect comes, while there is none under way: the soonest.
    pub next_retry_at: Option<i64>,
    /// Whose requests reach the local server: `paired` or `relay`.
    #[serde(default)]
    pub trust: String,
    /// What paired browsers have to use: `sealed`, or nothing in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<String>,
    /// How many browsers are paired.
    #[serde(default)]
    pub browsers: usize,
    /// Whether a pairing code is outstanding.
    #[serde(default)]
    pub code_outstanding: bool,
    /// Wrong pairing codes since the start.
    #[serde(default)]
    pub failed_guesses: FailedGuesses,
    /// Where the local page and the commands reach the agent, unless that is turned off.
    #[serde(default)]
    pub control: Option<String>,
    /// What went past the relay, unless peers are turned off.
    #[serde(default)]
    pub webrtc: Option<PeerCounts>,
    /// The peers that there are, oldest first.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
}

/// One of the agent's connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Whether its tunnel is up.
    pub connected: bool,
    /// Since when, whatever number of tunnels took over from each other.
    pub since: Option<i64>,
    /// The relay's URL, and the address of it where one was chosen: where it is, or was last.
    pub relay: Option<String>,
    /// The relay's id, where it tells one.
    pub relay_id: Option<String>,
    /// `plain` or `relay.tunnel.v1`, while connected.
    pub form: Option<String>,
    /// The round-trip time of the last ping.
    pub rtt_ms: Option<f64>,
    /// The last thing that went wrong with it.
    pub last_error: Option<LastError>,
    /// When the next attempt comes, while there is none under way.
    pub next_retry_at: Option<i64>,
}

impl ConnectionStatus {
    fn down(&mut self) {
        self.connected = false;
        self.since = None;
        self.form = None;
        self.rtt_ms = None;
        self.next_retry_at = None;
    }
}

/// What all peers together are and were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounts {
    /// Those that there are.
    pub open: usize,
    /// Those that were ever made.
    pub opened: u64,
    /// Payload bytes to browsers.
    pub bytes_sent: u64,
    /// Payload bytes from browsers.
    pub bytes_received: u64,
}

/// One peer: a browser that reaches the agent past the relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its id.
    pub id: String,
    /// The browser's id.
    pub browser: String,
    /// When it was asked for.
    pub since: i64,
    /// Whether its channel is open.
    pub open: bool,
    /// Exchanges under way.
    pub streams: usize,
    /// Payload bytes to the browser.
    pub bytes_sent: u64,
    /// Payload bytes from it.
    pub bytes_received: u64,
    /// The path that was found.
    pub path: Option<PeerPath>,
}

/// The path of a peer: ICE's selected pair. A candidate is `host`, `srflx` or `prflx` (behind a NAT, or a
/// browser that does not tell its address), or `relay` (a TURN server).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerPath {
    /// The agent's candidate.
    pub local: String,
    /// The browser's.
    pub remote: String,
    /// The round-trip time that ICE measured last.
    pub rtt_ms: Option<f64>,
}

impl PeerPath {
    /// `direct`, or `relayed` when a TURN server stands in between.
    pub fn as_str(&self) -> &'static str {
        if self.local == "relay" || self.remote == "relay" { "relayed" } else { "direct" }
    }
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: i64,
    /// What, and what to do about it.
    pub message: String,
}

/// Seconds since 1970.
pub fn now() -> i64 {
    unix(SystemTime::now())
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Writes what the status tells of one connection, and of all of them together. A tunnel that was replaced does not
/// write any more.
#[derive(Debug)]
pub struct Reporter {
    status: watch::Sender<Status>,
    index: usize,
    current: Option<u64>,
    /// Where the next tunnel will be.
    place: (Option<String>, Option<String>),
}

impl Reporter {
    /// Reports the only connection into `status`.
    pub fn new(status: watch::Sender<Status>) -> Self {
        Self::of(status, 0)
    }

    /// Reports connection number `index` into `status`.
    pub fn of(status: watch::Sender<Status>, index: usize) -> Self {
        Self { status, index, current: None, place: (None, None) }
    }

    /// Changes what is told of the connection; what is told of all of them follows.
    fn change(&self, change: impl FnOnce(&mut ConnectionStatus, &mut Status)) {
        self.status.send_modify(|status| {
            let mut ours = status.connections.get(self.index).cloned().unwrap_or_default();
            change(&mut ours, status);
            if status.connections.len() <= self.index {
                status.connections.resize_with(self.index + 1, ConnectionStatus::default);
            }
            if let Some(place) = status.connections.get_mut(self.index) {
                *place = ours;
            }
            summarize(status);
        });
    }

    /// The next tunnel that comes up is one to this place.
    pub fn at(&mut self, place: &Place, relay_id: Option<&str>) {
        self.place = (Some(place.to_string()), relay_id.map(str::to_owned));
    }

    /// Tunnel number `tunnel` is up.
    pub fn connected(&mut self, tunnel: u64, form: &str, host_id: Option<String>) {
        let was = self.current.replace(tunnel).is_some();
        self.change(|ours, status| {
            // A tunnel that takes over from a drained one continues the same connection.
            if !was || ours.since.is_none() {
                ours.since = Some(now());
            }
            ours.connected = true;
            (ours.relay, ours.relay_id) = self.place.clone();
            ours.form = Some(form.to_owned());
            ours.rtt_ms = None;
            ours.next_retry_at = None;
            if host_id.is_some() {
                status.host_id = host_id;
            }
        });
    }

    /// Tunnel number `tunnel` has ended.
    pub fn lost(&mut self, tunnel: u64, why: String) {
        if self.current == Some(tunnel) {
            self.current = None;
            self.change(|ours, status| {
                ours.down();
                went_wrong(ours, status, why);
            });
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, why: String) {
        self.change(|ours, status| went_wrong(ours, status, why));
    }

    /// The next attempt comes after `wait`; `None` when it is under way.
    pub fn waits(&mut self, wait: Option<Duration>) {
        let at = wait.map(|wait| unix(SystemTime::now() + wait));
        self.change(|ours, _| ours.next_retry_at = at);
    }

    /// The connection ends with the agent.
    pub fn ended(&mut self) {
        self.current = None;
        self.change(|ours, _| ours.down());
    }

    /// Takes over what is counted elsewhere. Wakes nobody when nothing changed.
    pub fn refresh(&mut self, stats: &Stats, rtt: Option<Duration>) {
        let (counts, signed, error) = (stats.counts(), stats.gate().counts(), stats.take_error());
        let rtt = rtt.map(|rtt| (rtt.as_secs_f64() * 1e5).round() / 100.0);
        self.status.send_if_modified(|status| {
            let mut changed = status.requests != counts || status.signed != signed;
            status.requests = counts;
            status.signed = signed;
            if let Some(ours) = status.connections.get_mut(self.index)
                && ours.connected
                && rtt.is_some()
                && ours.rtt_ms != rtt
            {
                ours.rtt_ms = rtt;
                summarize(status);
                changed = true;
            }
            changed |= error.is_some();
            if let Some(message) = error {
                status.last_error = Some(LastError { at: now(), message });
            }
            changed
        });
    }
}

fn went_wrong(ours: &mut ConnectionStatus, status: &mut Status, message: String) {
    let error = Some(LastError { at: now(), message });
    ours.last_error.clone_from(&error);
    status.last_error = error;
}

/// What the connections come to together.
fn summarize(status: &mut Status) {
    let first = status.connections.iter().find(|connection| connection.connected);
    status.form = first.and_then(|connection| connection.form.clone());
    status.rtt_ms = first.and_then(|connection| connection.rtt_ms);
    status.connected = first.is_some();
    status.connected_since = match (first, status.connected_since) {
        (None, _) => None,
        // One always was, if not always this one.
        (Some(_), Some(since)) => Some(since),
        (Some(first), None) => first.since,
    };
    status.next_retry_at = status.connections.iter().filter_map(|connection| connection.next_retry_at).min();
}

/// Keeps what the status tells of pairing as it is, until nobody changes it any more.
pub async fn follow(pairing: &Pairing, status: &watch::Sender<Status>) {
    let (mut view, mut browsers) = (pairing.view(), pairing.browsers().changes());
    loop {
        {
            browsers.mark_unchanged();
            let (view, count) = (view.borrow_and_update(), pairing.browsers().count());
            status.send_modify(|status| {
                status.browsers = count;
                status.code_outstanding = view.outstanding.is_some();
                status.failed_guesses = view.failed;
            });
        }
        let changed = tokio::select! {
            changed = view.changed() => changed,
            changed = browsers.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Keeps what the status tells of peers as it is, for as long as the agent runs: they live without a tunnel.
pub async fn follow_peers(peers: Option<&Peers>, status: &watch::Sender<Status>) {
    let Some(peers) = peers else { return std::future::pending().await };
    let mut look = tokio::time::interval(PEERS);
    loop {
        look.tick().await;
        let (counts, all) = peers.status();
        status.send_if_modified(|status| {
            let changed = status.webrtc != Some(counts) || status.peers != all;
            status.webrtc = Some(counts);
            status.peers = all;
            changed
        });
    }
}

#[cfg(test)]
pub(crate) fn blank() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 1,
        started_at: 0,
        relay: "https://relay.example".into(),
        local: "http://127.0.0.1:1".into(),
        name: "box".into(),
        machine_id: "m".into(),
        connected: false,
        connected_since: None,
        host_id: None,
        form: None,
        rtt_ms: None,
        connections: Vec::new(),
        requests: Counts::default(),
        signed: GateCounts::default(),
        last_error: None,
        next_retry_at: None,
        trust: "paired".into(),
        require: None,
        browsers: 0,
        code_outstanding: false,
        failed_guesses: FailedGuesses::default(),
        control: None,
        webrtc: None,
        peers: Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_replaced_tunnel_does_not_hide_its_successor() {
        let (sender, status) = watch::channel(blank());
        let mut reporter = Reporter::new(sender);
        reporter.connected(1, "plain", Some("h".into()));
        reporter.connected(2, "relay.tunnel.v1", None);
        reporter.lost(1, "drained".into());
        assert!(status.borrow().connected && status.borrow().last_error.is_none());
        assert_eq!(status.borrow().host_id.as_deref(), Some("h"));
        reporter.lost(2, "gone".into());
        reporter.waits(Some(Duration::from_secs(5)));
        let now = status.borrow().clone();
        assert!(
            !now.connected
                && now.connected_since.is_none()
                && now.form.is_none()
                && now.next_retry_at.is_some()
        );
        assert_eq!(now.last_error.as_ref().map(|error| error.message.as_str()), Some("gone"));
    }

    #[test]
    fn several_connections_are_told_apart_and_together() {
        let (sender, status) = watch::channel(blank());
        let [mut one, mut two] = [0, 1].map(|index| Reporter::of(sender.clone(), index));
        let place = |url: &str| Place::from(url.parse::<crate::RelayUrl>().unwrap());
        one.at(&place("https://a.example"), Some("A"));
        two.at(&place("https://b.example"), None);
        two.waits(Some(Duration::from_secs(5)));
        assert!(status.borrow().next_retry_at.is_some() && !status.borrow().connected);
        two.connected(1, "plain", Some("h".into()));
        one.connected(1, "relay.tunnel.v1", None);
        let now = status.borrow().clone();
        assert_eq!((now.form.as_deref(), now.next_retry_at), (Some("relay.tunnel.v1"), None));
        let told: Vec<_> =
            now.connections.iter().map(|c| (c.relay.as_deref(), c.relay_id.as_deref())).collect();
        assert_eq!(told, [(Some("https://a.example"), Some("A")), (Some("https://b.example"), None)]);
        one.lost(1, "gone".into());
        let now = status.borrow().clone();
        assert!(now.connected && now.connected_since.is_some());
        assert!(!now.connections[0].connected && now.connections[0].last_error.is_some());
        assert!(now.connections[1].connected && now.connections[1].last_error.is_none());
        assert_eq!((now.form.as_deref(), now.last_error.unwrap().message.as_str()), (Some("plain"), "gone"));
        two.lost(1, "gone too".into());
        let now = status.borrow().clone();
        assert!(!now.connected && now.connected_since.is_none() && now.form.is_none());
    }

    #[test]
    fn nobody_is_woken_for_nothing() {
        let (sender, mut status) = watch::channel(blank());
        let mut reporter = Reporter::new(sender);
        reporter.connected(1, "plain", None);
        status.mark_unchanged();
        let stats = Stats::default();
        reporter.refresh(&stats, None);
        assert!(!status.has_changed().unwrap());
        stats.received(1);
        reporter.refresh(&stats, Some(Duration::from_micros(1234)));
        assert!(status.has_changed().unwrap());
        assert_eq!(status.borrow().rtt_ms, Some(1.23));
    }
}
