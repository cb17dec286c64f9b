//! Every frame of the contract, good as it is; tests spoil them.

use serde_json::{Value, json};

/// `noise-ik`.
pub const IK: &str = "noise-ik";
/// `noise-ikpsk2`.
pub const PSK2: &str = "noise-ikpsk2";

/// The sealed envelope, both ways.
pub fn e2ee(session: &str, seq: u64) -> Value {
    json!({
        "type": "e2ee", "version": 2, "profile": IK, "sessionId": session, "epoch": 1, "seq": seq,
        "iv": "aXY", "tag": "dGFn", "ciphertext": "Y2lwaGVydGV4dA",
    })
}

/// Client: begins a key exchange, version 3.
pub fn key_exchange_init(request: &str) -> Value {
    json!({
        "type": "relay_key_exchange_init", "version": 3, "profile": IK, "requestId": request,
        "clientEphemeralPublicKey": "ZXBoZW1lcmFs", "encryptedClientStatic": "c3RhdGlj",
    })
}

/// Client: begins a key exchange, version 2.
pub fn key_exchange_init_v2(request: &str) -> Value {
    json!({
        "type": "relay_key_exchange_init", "version": 2, "profile": IK, "requestId": request,
        "clientPublicKey": "a2V5", "clientNonce": "bm9uY2U", "clientProof": "cHJvb2Y",
    })
}

/// The same exchange with the other profile, which names the peer of the pairing.
pub fn psk2(mut frame: Value) -> Value {
    frame["profile"] = json!(PSK2);
    if frame["type"] == json!("relay_key_exchange_init") {
        frame["pairingPeerId"] = json!("peer-1");
    }
    frame
}

/// Daemon: answers a key exchange, version 3.
pub fn key_exchange_response(request: &str, session: &str) -> Value {
    json!({
        "type": "relay_key_exchange_response", "version": 3, "profile": IK, "requestId": request,
        "daemonPublicKey": "a2V5", "daemonEphemeralPublicKey": "ZXBo", "encryptedMetadata": "bWV0YQ",
        "sessionId": session, "epoch": 1, "proof": "cHJvb2Y",
    })
}

/// Daemon: answers a key exchange, version 2.
pub fn key_exchange_response_v2(request: &str, session: &str) -> Value {
    json!({
        "type": "relay_key_exchange_response", "version": 2, "profile": IK, "requestId": request,
        "daemonNonce": "bm9uY2U", "sessionId": session, "epoch": 1, "proof": "cHJvb2Y",
    })
}

/// Daemon: the session needs new keys.
pub fn key_update_required(session: &str) -> Value {
    json!({"type": "relay_key_update_required", "sessionId": session, "nextEpoch": 2})
}

/// Client: asks for a pairing offer.
pub fn offer_request(request: &str) -> Value {
    json!({
        "type": "relay_pairing_offer_request", "requestId": request, "clientChannelPublicKey": "a2V5",
        "ttlSeconds": 300,
    })
}

/// Daemon: makes one.
pub fn offer_response(request: &str) -> Value {
    json!({
        "type": "relay_pairing_offer_response", "requestId": request, "ok": true, "daemonChannelPublicKey": "a2V5",
        "encIv": "aXY", "encTag": "dGFn", "encCiphertext": "Y2lwaGVy",
    })
}

/// Client: takes a pairing offer.
pub fn redeem_request(request: &str) -> Value {
    json!({
        "type": "relay_pairing_redeem_request", "requestId": request, "offerId": "offer-1",
        "encIv": "aXY", "encTag": "dGFn", "encCiphertext": "Y2lwaGVy",
    })
}

/// Daemon: refuses it.
pub fn redeem_refusal(request: &str) -> Value {
    json!({
        "type": "relay_pairing_redeem_response", "requestId": request, "ok": false, "errorCode": "OFFER_EXPIRED",
    })
}

/// Daemon: grants it.
pub fn redeem_response(request: &str) -> Value {
    json!({"type": "relay_pairing_redeem_response", "requestId": request, "ok": true})
}

/// A channel of session events.
pub fn channel(name: &str) -> String {
    format!("agent-session:{name}")
}

/// Client: wants a channel's events.
pub fn subscribe(channel: &str, request: &str) -> Value {
    json!({"schema": "viewport.session_events.subscribe/v1", "channel": channel, "requestId": request})
}

/// Client: wants them no more.
pub fn unsubscribe(channel: &str, request: &str) -> Value {
    json!({"schema": "viewport.session_events.unsubscribe/v1", "channel": channel, "requestId": request})
}

/// Daemon: an event of a channel.
pub fn event(channel: &str, number: u64) -> Value {
    json!({
        "schema": "viewport.session_event_relay_frame/v1", "channel": channel, "event": {"number": number},
    })
}

/// Worker: a transport request.
pub fn transport_request(request: &str, path: &str) -> Value {
    json!({"type": "relay_transport_request", "requestId": request, "method": "GET", "path": path})
}

/// Daemon: answers one.
pub fn transport_response(request: &str) -> Value {
    json!({"type": "relay_transport_response", "requestId": request, "status": 200, "body": "aGVsbG8"})
}
