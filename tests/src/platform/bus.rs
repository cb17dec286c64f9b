//! What the platform keeps for several relays: who holds which daemon, and the frames between them.
//!
//! It hands out every frame to everybody who pulls, and believes every relay: sorting out is the relays' duty.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a daemon's presence counts without being renewed.
const VOID_AFTER: Duration = Duration::from_secs(45);
/// The longest wait that a pull may ask for.
const MAX_WAIT_MS: u64 = 2000;
/// Frames that are kept.
const KEPT: usize = 10_000;

/// One daemon's entry.
#[derive(Debug, Clone)]
pub struct Presence {
    /// The workspace.
    pub workspace: String,
    /// The runtime target; empty where there is none.
    pub target: String,
    /// The whole of what was told.
    pub told: Value,
    renewed: Instant,
}

/// One frame on the bus, as it was published.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its id here.
    pub id: u64,
    /// The whole of it, with the id.
    pub frame: Value,
}

#[derive(Default)]
struct State {
    presences: HashMap<(String, String), Presence>,
    frames: Vec<Frame>,
    last_id: u64,
}

#[derive(Default)]
pub(super) struct Bus {
    state: Mutex<State>,
    published: Notify,
}

fn pair(body: &Value) -> (String, String) {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (text("workspaceId"), text("runtimeTargetId"))
}

impl Bus {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn presences(&self) -> Vec<Presence> {
        let state = self.state();
        state.presences.values().filter(|p| p.renewed.elapsed() < VOID_AFTER).cloned().collect()
    }

    pub(super) fn frames(&self) -> Vec<Frame> {
        self.state().frames.clone()
    }

    pub(super) fn forget(&self) {
        *self.state() = State::default();
    }

    pub(super) fn upsert(&self, body: &Value) -> Value {
        let key = pair(body);
        let mut state = self.state();
        if body["daemonConnected"] == json!(true) {
            let (workspace, target) = key.clone();
            let presence = Presence { workspace, target, told: body.clone(), renewed: Instant::now() };
            state.presences.insert(key, presence);
        } else if state.presences.get(&key).is_some_and(|p| p.told["relayId"] == body["relayId"]) {
            state.presences.remove(&key);
        }
        json!({"ok": true})
    }

    pub(super) fn resolve(&self, body: &Value) -> Value {
        let state = self.state();
        match state.presences.get(&pair(body)).filter(|p| p.renewed.elapsed() < VOID_AFTER) {
            Some(presence) => {
                let told = &presence.told;
                json!({
                    "ok": true, "relayId": told["relayId"], "relayWsBaseUrl": told["relayWsBaseUrl"],
                    "daemonConnected": true, "runtimeTargetId": told["runtimeTargetId"], "machineId": told["machineId"],
                })
            }
            None => json!({
                "ok": true, "relayId": null, "relayWsBaseUrl": null, "daemonConnected": false,
                "runtimeTargetId": body["runtimeTargetId"], "machineId": null,
            }),
        }
    }

    pub(super) fn publish(&self, body: &Value) -> Value {
        self.inject(body.clone());
        json!({"ok": true})
    }

    pub(super) fn inject(&self, mut frame: Value) {
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        frame["id"] = json!(id);
        state.frames.push(Frame { id, frame });
        if state.frames.len() > KEPT {
            state.frames.remove(0);
        }
        drop(state);
        self.published.notify_waiters();
    }

    pub(super) async fn pull(&self, body: &Value) -> Value {
        let since = body["sinceId"].as_u64().unwrap_or(0);
        let limit = body["limit"].as_u64().unwrap_or(100).min(1000) as usize;
        let wait = Duration::from_millis(body["waitMs"].as_u64().unwrap_or(0).min(MAX_WAIT_MS));
        let deadline = Instant::now() + wait;
        loop {
            let mut published = std::pin::pin!(self.published.notified());
            published.as_mut().enable();
            let frames: Vec<Value> = {
                let state = self.state();
                state.frames.iter().filter(|f| f.id > since).take(limit).map(|f| f.frame.clone()).collect()
            };
            if !frames.is_empty() || timeout_at(deadline, published).await.is_err() {
                return json!({"ok": true, "frames": frames});
            }
        }
    }
}
