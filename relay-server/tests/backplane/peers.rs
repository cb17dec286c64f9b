//! A relay's end of the backplane, as the server starts it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use relay_server::backplane::{
    Backplane, BusFrame, Daemon, Direction, Event, Holder, Pair, Parcel, PublishError,
};
use relay_server::config::Config;
use relay_server::config::relays::Mode;
use relay_server::config::sources::Sources;
use relay_server::outbound::Client;
use relay_server::store::Store;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// What relays sign with in these tests.
pub const KEY: &str = "the-key-that-relays-share-in-tests";
/// How long anything that should happen may take on a slow and busy machine, a renewal included.
pub const SOON: Duration = Duration::from_secs(100);
/// The workspace of frames that only try the way.
const REACHING: &str = "reaching";
const POLL: Duration = Duration::from_millis(20);

pub struct Peer {
    pub backplane: Backplane,
    pub events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _data: tempfile::TempDir,
}

impl Peer {
    /// A relay of this name with these settings; the store is SQLite unless they say otherwise.
    pub async fn start(id: &str, settings: &[(String, String)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut env: HashMap<String, String> = settings.iter().cloned().collect();
        env.insert("RELAY_DATA_DIR".to_owned(), data.path().display().to_string());
        env.insert("RELAY_BUS_HMAC_KEY".to_owned(), KEY.to_owned());
        env.insert("RELAY_PUBLIC_WS_BASE_URL".to_owned(), format!("wss://{id}.example.com/"));
        env.insert("RELAY_INTERNAL_URL".to_owned(), format!("http://{id}.internal:8080/"));
        let config =
            Config::load(&Sources { flag: &|_| None, env: &|name| env.get(name).map(OsString::from) })
                .unwrap();
        let store = Store::open(&config.store_options()).await.unwrap();
        let client = match config.relays.mode {
            Mode::Platform(_) => Some(Client::new(&config.platform).unwrap()),
            _ => None,
        };
        let stop = CancellationToken::new();
        let (backplane, events, tasks) = Backplane::start(&config, id, &store, client, stop.clone()).unwrap();
        Self { backplane, events, stop, tasks, _data: data }
    }

    /// It ends in order.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    pub fn open(&self, pair: &Pair, generation: i64) -> Uuid {
        let connection = Uuid::new_v4();
        let machine = Some(Arc::from("machine-1"));
        self.backplane.daemon_opened(pair, Daemon { connection, machine, generation });
        connection
    }

    /// It was probed, and lives.
    pub fn confirm(&self, pair: &Pair, connection: Uuid) {
        let daemon = Daemon { connection, machine: Some(Arc::from("machine-1")), generation: 1 };
        self.backplane.daemon_confirmed(pair, daemon);
    }

    /// Nothing but frames happened so far.
    pub fn lost_nothing(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            assert!(matches!(event, Event::Frame(_)), "{event:?}");
        }
    }

    /// Waits until it is told that this relay (or none) holds the daemon.
    pub async fn finds(&self, pair: &Pair, relay: Option<&str>) -> Option<Holder> {
        let mut found = None;
        until(&format!("the daemon is at {relay:?}"), async || match self.backplane.daemon(pair).await {
            Ok(holder) => {
                found = holder;
                found.as_ref().map(|holder| &*holder.relay) == relay
            }
            Err(_) => false,
        })
        .await;
        found
    }

    pub async fn is_unavailable(&self, pair: &Pair) {
        until("it cannot be asked", async || self.backplane.daemon(pair).await.is_err()).await;
    }

    /// Sends frames until one arrives at `other`: the way is open. Those that come late are skipped by
    /// [`Self::frame`].
    pub async fn reaches(&self, other: &mut Peer, to: Option<&str>) {
        let pair = pair(REACHING);
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "no frame passes");
            let hello = format!("{{\"hello\":\"{}\"}}", Uuid::new_v4());
            let _ = self.send(&pair, to, &hello).await;
            let arrives = async {
                loop {
                    if let Event::Frame(frame) = other.event().await
                        && *frame.payload == *hello
                    {
                        break;
                    }
                }
            };
            if tokio::time::timeout(Duration::from_millis(300), arrives).await.is_ok() {
                return;
            }
        }
    }

    pub async fn send(&self, pair: &Pair, to: Option<&str>, payload: &str) -> Result<(), PublishError> {
        let to = to.map(Arc::from);
        let (to, direction, payload) = (to.as_ref(), Direction::ClientToDaemon, Arc::from(payload));
        self.backplane.publish(Parcel { pair, machine: None, to, direction, payload, sender: None }).await
    }

    pub async fn event(&mut self) -> Event {
        tokio::time::timeout(SOON, self.events.recv()).await.expect("something happens").unwrap()
    }

    /// The next frame.
    pub async fn frame(&mut self) -> BusFrame {
        loop {
            if let Event::Frame(frame) = self.event().await
                && &*frame.pair.workspace != REACHING
            {
                return frame;
            }
        }
    }

    /// The next frame of this pair.
    pub async fn frame_of(&mut self, pair: &Pair) -> BusFrame {
        loop {
            let frame = self.frame().await;
            if frame.pair == *pair {
                return frame;
            }
        }
    }

    /// Waits until it is told that it lost this daemon; whether to a higher generation.
    pub async fn loses(&mut self, lost: Uuid) -> bool {
        loop {
            if let Event::Superseded { connection, higher_generation, .. } = self.event().await {
                assert_eq!(connection, lost);
                return higher_generation;
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn pair(workspace: &str) -> Pair {
    Pair { workspace: Arc::from(workspace), target: Some(Arc::from("rt:1")) }
}

/// Looks at a condition until it holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// A frame of the contract, signed from its text alone: nothing of the relay's code.
pub fn signed(key: &str, source: &str, target: Option<&str>, issued_at_ms: i64, payload: &str) -> Value {
    let lines = [
        "ws",
        "rt:1",
        "",
        source,
        target.unwrap_or_default(),
        "daemon_to_clients",
        &issued_at_ms.to_string(),
        payload,
    ]
    .join("\n");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(lines.as_bytes());
    let mut frame = json!({
        "workspaceId": "ws", "runtimeTargetId": "rt:1", "sourceRelayId": source, "direction": "daemon_to_clients",
        "payload": payload, "issuedAtMs": issued_at_ms, "signature": URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()),
    });
    if let Some(target) = target {
        frame["targetRelayId"] = json!(target);
    }
    frame
}
