//! The frame broker at `/ws` with a real relay, a stand-in platform, and daemons, clients and workers over real
//! sockets.

#[path = "frames/admission.rs"]
mod admission;
#[path = "frames/claims.rs"]
mod claims;
#[path = "frames/daemons.rs"]
mod daemons;
#[path = "frames/fragments.rs"]
mod fragments;
#[path = "frames/hostile.rs"]
mod hostile;
#[path = "frames/limits.rs"]
mod limits;
#[path = "frames/lives.rs"]
mod lives;
#[path = "frames/platform.rs"]
mod platform;
#[path = "frames/routing.rs"]
mod routing;
#[path = "frames/session_events.rs"]
mod session_events;
#[path = "frames/workers.rs"]
mod workers;

use std::net::SocketAddr;

use serde_json::{Value, json};
use system_tests::broker::{Dial, Socket};
use system_tests::platform::Platform;
use system_tests::{Relay, RelayOptions};

/// The workspace of most tests.
const WORKSPACE: &str = "workspace-1";
/// The runtime target of most tests.
const TARGET: &str = "target-1";

/// A relay and the platform that it asks.
struct World {
    platform: Platform,
    relay: Relay,
}

impl World {
    async fn start() -> Self {
        Self::with(RelayOptions::default()).await
    }

    async fn with(options: RelayOptions) -> Self {
        let platform = Platform::start().await;
        let relay = Relay::start(platform.relay(options)).await;
        Self { platform, relay }
    }

    fn addr(&self) -> SocketAddr {
        self.relay.addr
    }

    /// How somebody of this role connects, with these claims on top of the usual ones.
    fn dial(&self, role: &str, target: Option<&str>, more: Value) -> Dial {
        Dial::new(role, WORKSPACE, target, &self.platform.grant(claims(role, target, more)))
    }

    fn daemon_dial(&self, more: Value) -> Dial {
        self.dial("workspace-daemon", Some(TARGET), more)
    }

    fn client_dial(&self, more: Value) -> Dial {
        self.dial("client", Some(TARGET), more)
    }

    async fn daemon(&self) -> Socket {
        self.daemon_dial(json!({})).connect(self.addr()).await
    }

    async fn client(&self) -> Socket {
        self.client_with(json!({})).await
    }

    async fn client_with(&self, more: Value) -> Socket {
        self.client_dial(more).connect(self.addr()).await
    }

    /// A daemon and a client that have been seen to reach each other.
    async fn pair(&self) -> (Socket, Socket) {
        let (mut daemon, mut client) = (self.daemon().await, self.client().await);
        meet(&mut daemon, &mut client, "met").await;
        (daemon, client)
    }
}

/// The claims of a good token; null takes one away.
fn claims(role: &str, target: Option<&str>, more: Value) -> Value {
    let mut all = json!({"workspaceId": WORKSPACE, "role": role});
    if let Some(target) = target {
        all["runtimeTargetId"] = json!(target);
    }
    if role == "client" {
        all["scope"] = json!("runtime");
    }
    for (name, value) in more.as_object().expect("claims") {
        all[name] = value.clone();
    }
    all
}

/// Both are attached: a frame of the client's arrives, and one of the daemon's. The session is the client's then.
async fn meet(daemon: &mut Socket, client: &mut Socket, session: &str) {
    use system_tests::broker::frames::e2ee;
    // A client's frames wait for its daemon nowhere: while it is not attached yet they are lost.
    let mut seq = 1;
    client.send(&e2ee(session, seq)).await;
    while daemon.frame_within(system_tests::POLL * 5).await.is_none() {
        assert!(seq < 200, "a client's frames do not reach the daemon");
        seq += 1;
        client.send(&e2ee(session, seq)).await;
    }
    let last = e2ee(session, 999_999);
    client.send(&last).await;
    daemon.until(|frame| *frame == last).await;
    let last = e2ee(session, 1_000_001);
    daemon.send(&last).await;
    client.until(|frame| *frame == last).await;
}
