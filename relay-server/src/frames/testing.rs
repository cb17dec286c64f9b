//! What the tests of the broker are made of.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Admitted, Attached, Broker, Close, Command, Pair, Pending, Profile, Role, Scope, outbox};
use crate::config::frames::Frames;
use crate::http::client_addr::RateKey;

/// The defaults.
pub fn limits() -> Frames {
    Frames {
        dev: false,
        jwks_url: None,
        jwks_issuer: None,
        jwks_audience: None,
        validate_url: None,
        max_frame_bytes: 1 << 20,
        max_pending_bytes: 4 << 20,
        max_clients_per_workspace: 100,
        max_total_connections: 2000,
        kex_init_rate_per_minute: 60,
        pairing_rate_per_minute: 30,
        runtime_rate_per_minute: 240,
        runtime_rate_per_minute_workspace: 1200,
        daemon_runtime_rate_per_minute: 2400,
        ping_interval: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(300),
        worker_path_prefix: None,
    }
}

/// A pair with a target.
pub fn pair(workspace: &str, target: &str) -> Pair {
    Pair { workspace: workspace.into(), target: Some(target.into()) }
}

/// Somebody of the pair (w, t), without anything that its role does not need.
pub fn who(role: Role) -> Admitted {
    Admitted {
        pair: pair("w", "t"),
        role,
        scope: (role == Role::Client).then_some(Scope::Runtime),
        profile: None,
        client_id: None,
        user_id: None,
        machine: Some("m".into()),
        channels: Vec::new(),
        generation: 0,
        address: RateKey::of([203, 0, 113, 1].into()),
    }
}

/// A client with this scope.
pub fn client(scope: Scope) -> Admitted {
    Admitted { scope: Some(scope), ..who(Role::Client) }
}

/// A client that the platform knows by this name.
pub fn named(name: &str) -> Admitted {
    Admitted { client_id: Some(name.into()), ..who(Role::Client) }
}

/// The same somebody as seen from another address.
pub fn at(address: u8, who: Admitted) -> Admitted {
    Admitted { address: RateKey::of([203, 0, 113, address].into()), ..who }
}

/// Somebody of whom a profile is expected.
pub fn expecting(role: Role, profile: Profile) -> Admitted {
    Admitted { profile: Some(profile), ..who(role) }
}

/// A daemon of this generation.
pub fn daemon(generation: i64) -> Admitted {
    Admitted { generation, ..who(Role::Daemon) }
}

/// A client that may listen to these channels.
pub fn listener(scope: Scope, channels: &[&str]) -> Admitted {
    Admitted { channels: channels.iter().map(|name| Arc::from(*name)).collect(), ..client(scope) }
}

/// A socket of a test: takes part, and keeps what it is sent.
pub struct Socket {
    /// Its part in the broker.
    pub attached: Attached,
    /// What waits for it.
    pub pending: Pending,
}

impl Socket {
    /// Attaches, which has to succeed.
    pub async fn attach(broker: &Arc<Broker>, who: Admitted) -> Self {
        Self::try_attach(broker, who).await.unwrap()
    }

    /// Attaches.
    pub async fn try_attach(broker: &Arc<Broker>, who: Admitted) -> Result<Self, Close> {
        let (out, pending) = outbox(4 << 20);
        Ok(Self { attached: broker.attach(who, out).await?, pending })
    }

    /// Sends a frame.
    pub async fn send(&self, frame: &Value) {
        self.try_send(frame).await.unwrap();
    }

    /// Sends a frame, and hears whether it is to be closed.
    pub async fn try_send(&self, frame: &Value) -> Result<(), Close> {
        self.attached.frame(frame.to_string().into()).await
    }

    /// What was put into its queue since the last call.
    pub fn commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.pending.poll_take(&mut cx, &mut commands);
        commands
    }

    /// The frames among them.
    pub fn frames(&mut self) -> Vec<Value> {
        let texts = self.commands().into_iter().filter_map(|command| match command {
            Command::Text(text) => Some(serde_json::from_str(&text).unwrap()),
            _ => None,
        });
        texts.collect()
    }

    /// The codes of the statuses among them; there must be nothing else.
    pub fn statuses(&mut self) -> Vec<String> {
        self.frames()
            .iter()
            .map(|frame| {
                assert_eq!(frame["type"], "relay_status", "{frame}");
                frame["code"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    /// Why it is closed, if it is.
    pub fn close(&mut self) -> Option<Close> {
        self.commands().into_iter().find_map(|command| match command {
            Command::Close(close) => Some(close),
            _ => None,
        })
    }
}

/// A sealed frame of this session.
pub fn envelope(session: &str, seq: u64) -> Value {
    json!({"type": "e2ee", "version": 2, "profile": "noise-ik", "sessionId": session, "epoch": 1, "seq": seq,
           "iv": "aXY", "tag": "dGFn", "ciphertext": "Y2lwaGVy", "also": {"this": [1, null]}})
}

/// The beginning of a key exchange.
pub fn key_init(request: &str) -> Value {
    json!({"type": "relay_key_exchange_init", "version": 3, "profile": "noise-ik", "requestId": request,
           "clientEphemeralPublicKey": "ZQ", "encryptedClientStatic": "cw"})
}

/// Its answer, which gives a session.
pub fn key_response(request: &str, session: &str) -> Value {
    json!({"type": "relay_key_exchange_response", "version": 3, "profile": "noise-ik", "requestId": request,
           "daemonPublicKey": "ZA", "daemonEphemeralPublicKey": "ZQ", "encryptedMetadata": "bQ",
           "sessionId": session, "epoch": 1, "proof": "cA"})
}

/// New keys are wanted in a session.
pub fn key_update(session: &str) -> Value {
    json!({"type": "relay_key_update_required", "sessionId": session, "nextEpoch": 2})
}

/// A client asks for an offer.
pub fn offer_request(request: &str) -> Value {
    json!({"type": "relay_pairing_offer_request", "requestId": request, "clientChannelPublicKey": "aw"})
}

/// It gets one.
pub fn offer_response(request: &str) -> Value {
    json!({"type": "relay_pairing_offer_response", "requestId": request, "ok": true,
           "daemonChannelPublicKey": "aw", "encIv": "aQ", "encTag": "dA", "encCiphertext": "Yw"})
}

/// A client redeems an offer.
pub fn redeem_request(request: &str) -> Value {
    json!({"type": "relay_pairing_redeem_request", "requestId": request, "offerId": "o", "encIv": "aQ",
           "encTag": "dA", "encCiphertext": "Yw"})
}

/// It may not.
pub fn redeem_response(request: &str) -> Value {
    json!({"type": "relay_pairing_redeem_response", "requestId": request, "ok": false, "errorCode": "NO"})
}

/// A client asks for a channel (`subscribe`), or no longer (`unsubscribe`).
pub fn subscription(verb: &str, channel: &str) -> Value {
    json!({"schema": format!("viewport.session_events.{verb}/v1"), "channel": channel, "requestId": "q"})
}

/// Something happened on a channel.
pub fn event(channel: &str) -> Value {
    json!({"schema": "viewport.session_event_relay_frame/v1", "channel": channel, "event": {"n": 1}})
}

/// A worker's request.
pub fn transport_request(request: &str, path: &str) -> Value {
    json!({"type": "relay_transport_request", "requestId": request, "method": "GET", "path": path})
}

/// Its answer.
pub fn transport_response(request: &str) -> Value {
    json!({"type": "relay_transport_response", "requestId": request, "status": 200, "body": "x"})
}
