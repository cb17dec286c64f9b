use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// Frames as good daemons, clients and workers send them.
fn good() -> Vec<(Kind, Value)> {
    let envelope = |profile: &str| {
        json!({"type": "e2ee", "version": 2, "profile": profile, "sessionId": "s1", "epoch": 1, "seq": 7,
               "iv": "aXY", "tag": "dGFn", "ciphertext": "Y2lwaGVy"})
    };
    let init3 = json!({"type": "relay_key_exchange_init", "version": 3, "profile": "noise-ik", "requestId": "r1",
        "clientEphemeralPublicKey": "ZQ", "encryptedClientStatic": "cw"});
    let init2 = json!({"type": "relay_key_exchange_init", "version": 2, "profile": "noise-ik", "requestId": "r1",
        "clientPublicKey": "cA", "clientNonce": "bg", "clientProof": "cA"});
    let psk2 = |mut frame: Value| {
        frame["profile"] = json!("noise-ikpsk2");
        frame["pairingPeerId"] = json!("peer");
        frame
    };
    vec![
        (Kind::Envelope, envelope("noise-ik")),
        (Kind::Envelope, envelope("noise-ikpsk2")),
        (Kind::KeyInit, psk2(init3.clone())),
        (Kind::KeyInit, init3),
        (Kind::KeyInit, psk2(init2.clone())),
        (Kind::KeyInit, init2),
        (
            Kind::KeyResponse,
            json!({"type": "relay_key_exchange_response", "version": 3, "profile": "noise-ik", "requestId": "r1",
                "daemonPublicKey": "ZA", "daemonEphemeralPublicKey": "ZQ", "encryptedMetadata": "bQ",
                "sessionId": "s1", "epoch": 1, "proof": "cA"}),
        ),
        (
            Kind::KeyResponse,
            json!({"type": "relay_key_exchange_response", "version": 2, "profile": "noise-ikpsk2",
                "requestId": "r1", "daemonNonce": "bg", "sessionId": "s1", "epoch": 1, "proof": "cA"}),
        ),
        (Kind::KeyUpdate, json!({"type": "relay_key_update_required", "sessionId": "s1", "nextEpoch": 2})),
        (
            Kind::PairingRequest,
            json!({"type": "relay_pairing_offer_request", "requestId": "r1", "clientChannelPublicKey": "aw"}),
        ),
        (
            Kind::PairingRequest,
            json!({"type": "relay_pairing_redeem_request", "requestId": "r1", "offerId": "o", "encIv": "aQ",
                "encTag": "dA", "encCiphertext": "Yw"}),
        ),
        (
            Kind::PairingResponse,
            json!({"type": "relay_pairing_offer_response", "requestId": "r1", "ok": true,
                "daemonChannelPublicKey": "aw", "encIv": "aQ", "encTag": "dA", "encCiphertext": "Yw"}),
        ),
        (
            Kind::PairingResponse,
            json!({"type": "relay_pairing_offer_response", "requestId": "r1", "ok": false, "errorCode": "NO"}),
        ),
        (
            Kind::PairingResponse,
            json!({"type": "relay_pairing_redeem_response", "requestId": "r1", "ok": true}),
        ),
        (
            Kind::PairingResponse,
            json!({"type": "relay_pairing_redeem_response", "requestId": "r1", "ok": false, "errorCode": "NO"}),
        ),
        (
            Kind::Subscription,
            json!({"type": "viewport.session_events.subscribe/v1", "channel": "agent-session:a"}),
        ),
        (
            Kind::Subscription,
            json!({"schema": "viewport.session_events.unsubscribe/v1", "channel": "agent-session:a.B_c:d-1"}),
        ),
        (
            Kind::SessionEvent,
            json!({"schema": "viewport.session_event_relay_frame/v1", "channel": "agent-session:a", "event": {"x": [1]}}),
        ),
        (
            Kind::TransportRequest,
            json!({"type": "relay_transport_request", "requestId": "r1", "path": "/jobs"}),
        ),
        (
            Kind::TransportResponse,
            json!({"type": "relay_transport_response", "requestId": "r1", "status": 200}),
        ),
    ]
}

fn parse(frame: &Value) -> Result<Kind, Unfit> {
    Frame::parse(&frame.to_string()).map(|frame| frame.kind())
}

fn with(mut frame: Value, key: &str, value: Value) -> Value {
    frame[key] = value;
    frame
}

fn first(kind: Kind) -> Value {
    good().into_iter().find(|(k, _)| *k == kind).unwrap().1
}

/// The contract a second time, slowly, on a tree. It may be laxer than the parser only in what a tree no longer
/// shows: keys that came twice.
fn allowed(frame: &Map<String, Value>) -> bool {
    let text = |key: &str| frame.get(key).and_then(Value::as_str);
    let all = |keys: &[&str]| keys.iter().all(|key| text(key).is_some_and(|text| !text.is_empty()));
    let count = |key: &str| {
        frame.get(key).and_then(Value::as_u64).is_some_and(|n| (1..=9_007_199_254_740_991).contains(&n))
    };
    let version = frame.get("version").and_then(Value::as_u64);
    let profile = matches!(text("profile"), Some("noise-ik" | "noise-ikpsk2"));
    let peer = text("profile") == Some("noise-ik") || all(&["pairingPeerId"]);
    let id = |key: &str| text(key).is_some_and(|id| !id.is_empty() && id.len() <= 256);
    let channel = text("channel").is_some_and(is_channel);
    let ok = frame.get("ok").and_then(Value::as_bool);
    let sealed = all(&["encIv", "encTag", "encCiphertext"]);
    if ["type", "schema"].iter().any(|key| frame.get(*key).is_some_and(|value| !value.is_string())) {
        return false;
    }
    let by_type = match text("type").unwrap_or_default() {
        "e2ee" => Some(
            version == Some(2)
                && profile
                && id("sessionId")
                && count("epoch")
                && count("seq")
                && all(&["iv", "tag", "ciphertext"]),
        ),
        "relay_key_exchange_init" => Some(
            profile
                && peer
                && id("requestId")
                && match version {
                    Some(3) => all(&["clientEphemeralPublicKey", "encryptedClientStatic"]),
                    Some(2) => all(&["clientPublicKey", "clientNonce", "clientProof"]),
                    _ => false,
                },
        ),
        "relay_key_exchange_response" => Some(
            profile
                && id("requestId")
                && id("sessionId")
                && count("epoch")
                && all(&["proof"])
                && match version {
                    Some(3) => all(&["daemonPublicKey", "daemonEphemeralPublicKey", "encryptedMetadata"]),
                    Some(2) => all(&["daemonNonce"]),
                    _ => false,
                },
        ),
        "relay_key_update_required" => Some(id("sessionId") && count("nextEpoch")),
        "relay_pairing_offer_request" => Some(
            id("requestId")
                && all(&["clientChannelPublicKey"])
                && frame
                    .get("ttlSeconds")
                    .is_none_or(|ttl| ttl.as_u64().is_some_and(|ttl| (30..=3600).contains(&ttl))),
        ),
        "relay_pairing_redeem_request" => Some(id("requestId") && all(&["offerId"]) && sealed),
        "relay_pairing_offer_response" => Some(
            id("requestId")
                && (ok == Some(false) && all(&["errorCode"])
                    || ok == Some(true) && all(&["daemonChannelPublicKey"]) && sealed),
        ),
        "relay_pairing_redeem_response" => {
            Some(id("requestId") && (ok == Some(true) || ok == Some(false) && all(&["errorCode"])))
        }
        "relay_transport_request" => {
            Some(id("requestId") && text("path").is_some_and(|path| (1..=8192).contains(&path.len())))
        }
        "relay_transport_response" => {
            let status = frame.get("status").and_then(Value::as_u64);
            Some(id("requestId") && status.is_some_and(|n| n <= 9_007_199_254_740_991))
        }
        "viewport.session_events.subscribe/v1" | "viewport.session_events.unsubscribe/v1" => {
            Some(channel && (!frame.contains_key("requestId") || id("requestId")))
        }
        _ => None,
    };
    let by_schema = match text("schema").unwrap_or_default() {
        "viewport.session_events.subscribe/v1" | "viewport.session_events.unsubscribe/v1" => {
            Some(channel && (!frame.contains_key("requestId") || id("requestId")))
        }
        "viewport.session_event_relay_frame/v1" => {
            Some(channel && frame.get("event").is_some_and(Value::is_object))
        }
        _ => None,
    };
    match (by_type, by_schema) {
        (Some(fits), None) | (None, Some(fits)) => fits,
        (Some(fits), Some(_)) => fits && text("type") == text("schema"),
        (None, None) => false,
    }
}

#[test]
fn every_frame_of_the_contract_is_known() {
    for (kind, frame) in good() {
        assert_eq!(parse(&frame), Ok(kind), "{frame}");
        assert!(allowed(frame.as_object().unwrap()), "{frame}");
    }
    for kind in Kind::ALL {
        assert!(good().iter().any(|(k, _)| *k == kind), "{kind:?}");
    }
}

#[test]
fn what_routing_needs_is_read() {
    let text = first(Kind::KeyResponse).to_string();
    assert_eq!(
        Frame::parse(&text),
        Ok(Frame::KeyResponse { profile: Profile::NoiseIk, request: "r1".into(), session: "s1".into() })
    );
    let text =
        r#"{"schema":"viewport.session_events.subscribe/v1","channel":"agent-session:a","requestId":"q"}"#;
    assert_eq!(
        Frame::parse(text),
        Ok(Frame::Subscription {
            verb: Verb::Subscribe,
            key: NameKey::Schema,
            request: Some("q".into()),
            channel: "agent-session:a".into()
        })
    );
    let text = r#"{"type":"relay_transport_request","requestId":"r\u0031","path":"\/a"}"#;
    assert_eq!(Frame::parse(text), Ok(Frame::TransportRequest { request: "r1".into(), path: "/a".into() }));
}

#[test]
fn texts_are_borrowed_unless_escaped() {
    let text = first(Kind::Envelope).to_string();
    let Ok(Frame::Envelope { session: Cow::Borrowed("s1"), .. }) = Frame::parse(&text) else {
        panic!("{text}")
    };
}

#[test]
fn every_field_is_needed_and_has_its_type() {
    let wrong = [json!(null), json!(""), json!([]), json!([1]), json!(-1), json!(0), json!(1.5), json!("5")];
    for (kind, frame) in good() {
        for key in frame.as_object().unwrap().keys() {
            let mut without = frame.clone();
            without.as_object_mut().unwrap().remove(key);
            if !(kind == Kind::KeyInit && key == "pairingPeerId" && frame["profile"] == "noise-ik") {
                assert!(parse(&without).is_err(), "{kind:?} without {key}");
                for value in &wrong {
                    let bad = with(frame.clone(), key, value.clone());
                    assert_eq!(parse(&bad).is_ok(), allowed(bad.as_object().unwrap()), "{bad}");
                }
                assert!(
                    parse(&with(frame.clone(), key, json!({"a": 1}))).is_err() || key == "event",
                    "{key}"
                );
            }
        }
    }
}

#[test]
fn a_status_is_one_whole_number() {
    for (rest, good) in [
        (r#","status":200"#, true),
        (r#","status":0,"other":{"status":1}"#, true),
        ("", false),
        (r#","status":200.0"#, false),
        (r#","status":"200""#, false),
        (r#","status":-1"#, false),
        (r#","status":200,"status":200"#, false),
        (r#","status":200,"st\u0061tus":500"#, false),
    ] {
        let text = format!(r#"{{"type":"relay_transport_response","requestId":"r"{rest}}}"#);
        assert_eq!(Frame::parse(&text).is_ok(), good, "{text}");
    }
}

#[test]
fn values_at_their_limits() {
    let envelope = first(Kind::Envelope);
    let offer = first(Kind::PairingRequest);
    let psk2 = good().into_iter().find(|(_, f)| f.get("pairingPeerId").is_some()).unwrap().1;
    let event = first(Kind::SessionEvent);
    let channel = |rest: &str| json!(format!("agent-session:{rest}"));
    for (good, frame) in [
        (true, with(envelope.clone(), "seq", json!(MAX_SAFE))),
        (false, with(envelope.clone(), "seq", json!(MAX_SAFE + 1))),
        (false, with(envelope.clone(), "seq", json!(u64::MAX))),
        (false, with(envelope.clone(), "epoch", json!(0))),
        (false, with(envelope.clone(), "epoch", json!(1.0))),
        (false, with(envelope.clone(), "version", json!(3))),
        (false, with(envelope.clone(), "version", json!("2"))),
        (false, with(envelope.clone(), "profile", json!("noise-nn"))),
        (false, with(envelope.clone(), "profile", json!("NOISE-IK"))),
        (true, with(envelope.clone(), "sessionId", json!("x".repeat(MAX_ID)))),
        (false, with(envelope.clone(), "sessionId", json!("x".repeat(MAX_ID + 1)))),
        (true, with(envelope.clone(), "ciphertext", json!("x".repeat(1 << 20)))),
        (true, with(envelope.clone(), "anything", json!({"else": [null, 1e300, "\u{1f600}"]}))),
        (true, with(offer.clone(), "ttlSeconds", json!(30))),
        (true, with(offer.clone(), "ttlSeconds", json!(3600))),
        (false, with(offer.clone(), "ttlSeconds", json!(29))),
        (false, with(offer.clone(), "ttlSeconds", json!(3601))),
        (false, with(offer.clone(), "ttlSeconds", json!(null))),
        (false, with(offer.clone(), "ttlSeconds", json!(60.5))),
        (false, with(offer, "ttlSeconds", json!("60"))),
        (false, with(psk2, "pairingPeerId", json!(""))),
        (false, with(first(Kind::KeyInit), "version", json!(4))),
        (true, with(event.clone(), "channel", channel(&"x".repeat(MAX_CHANNEL - 14)))),
        (false, with(event.clone(), "channel", channel(&"x".repeat(MAX_CHANNEL - 13)))),
        (false, with(event.clone(), "channel", channel(""))),
        (false, with(event.clone(), "channel", channel("a/b"))),
        (false, with(event.clone(), "channel", json!("other:a"))),
        (true, with(event.clone(), "event", json!({}))),
        (false, with(event, "event", json!([]))),
        (false, json!({"type": "relay_status", "code": "DAEMON_UNAVAILABLE"})),
        (false, json!({"type": "E2EE"})),
        (false, json!({})),
    ] {
        assert_eq!(parse(&frame).is_ok(), good, "{}", &frame.to_string()[..200.min(frame.to_string().len())]);
    }
}

#[test]
fn a_frame_has_one_name() {
    let subscribe = "viewport.session_events.subscribe/v1";
    let channel = "agent-session:a";
    for (frame, kind) in [
        (with(first(Kind::Envelope), "schema", json!("anything/v1")), Ok(Kind::Envelope)),
        (with(first(Kind::SessionEvent), "type", json!("event")), Ok(Kind::SessionEvent)),
        (json!({"type": subscribe, "schema": subscribe, "channel": channel}), Ok(Kind::Subscription)),
        (with(first(Kind::Envelope), "schema", json!(subscribe)), Err(Unfit::Unknown)),
        (with(first(Kind::SessionEvent), "type", json!("e2ee")), Err(Unfit::Unknown)),
        (with(first(Kind::SessionEvent), "type", json!(null)), Err(Unfit::Unknown)),
        (with(first(Kind::Envelope), "schema", json!(1)), Err(Unfit::Unknown)),
        (json!({"schema": "e2ee"}), Err(Unfit::Unknown)),
        (
            json!({"type": "viewport.session_event_relay_frame/v1", "channel": channel, "event": {}}),
            Err(Unfit::Unknown),
        ),
    ] {
        assert_eq!(parse(&frame), kind, "{frame}");
    }
}

#[test]
fn what_parsers_may_read_differently_is_refused() {
    let base = first(Kind::Envelope).to_string();
    let head = &base[..base.len() - 1];
    let deep = |levels: usize| format!("{head},\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    for text in [
        format!("{head},\"seq\":8}}"),
        format!("{head},\"s\\u0065q\":8}}"),
        format!("{head},\"type\":\"e2ee\"}}"),
        format!("{head},\"x\":\"\\ud800\"}}"),
        format!("{head},\"x\":1e999}}"),
        format!("{head},\"x\":01}}"),
        format!("{head},\"x\":NaN}}"),
        format!("{head},}}"),
        format!("{head},'x':1}}"),
        format!("{base} {base}"),
        format!("{base}\0"),
        format!("\u{feff}{base}"),
        format!("[{base}]"),
        deep(200),
        deep(100_000),
        "{".repeat(100_000),
        "[".repeat(1_000_000),
        String::new(),
        "null".into(),
        "\"e2ee\"".into(),
    ] {
        assert_eq!(Frame::parse(&text), Err(Unfit::Json), "{}", text.chars().take(300).collect::<String>());
    }
    for text in [deep(100), format!(" \n{base}\t"), format!("{head},\"x\":1,\"x\":2}}")] {
        assert!(Frame::parse(&text).is_ok(), "{}", text.chars().take(300).collect::<String>());
    }
}

/// A good frame in which a few things were changed.
fn changed() -> impl Strategy<Value = String> {
    let keys: Vec<String> =
        good().iter().flat_map(|(_, frame)| frame.as_object().unwrap().keys().cloned()).collect();
    let values: Vec<Value> = good()
        .iter()
        .flat_map(|(_, frame)| frame.as_object().unwrap().values().cloned())
        .chain([
            json!(null),
            json!(""),
            json!(0),
            json!(1),
            json!(3),
            json!(-1),
            json!(2.0),
            json!(1e19),
            json!([]),
            json!({}),
            json!(true),
            json!(false),
            json!("\u{0}\"\\"),
            json!("x".repeat(257)),
            json!(9_007_199_254_740_992_u64),
        ])
        .collect();
    let change = (prop::option::weighted(0.7, prop::sample::select(values)), prop::sample::select(keys));
    (prop::sample::select(good()), prop::collection::vec(change, 0..4)).prop_map(
        |((_, mut frame), changes)| {
            let fields = frame.as_object_mut().unwrap();
            for (value, key) in changes {
                match value {
                    Some(value) => drop(fields.insert(key, value)),
                    None => drop(fields.remove(&key)),
                }
            }
            frame.to_string()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn changed_frames_are_judged_as_the_contract_says(text in changed()) {
        let tree: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(Frame::parse(&text).is_ok(), allowed(tree.as_object().unwrap()), "{}", text);
    }

    #[test]
    fn damaged_frames_are_never_a_wrong_yes(text in changed(), at in any::<prop::sample::Index>(), with in any::<char>(), how in 0..3) {
        let chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let damaged: String = match how {
            0 => chars[..at].iter().collect(),
            1 => chars[..at].iter().chain([&with]).chain(&chars[at + 1..]).collect(),
            _ => chars[..at].iter().chain([&with]).chain(&chars[at..]).collect(),
        };
        if Frame::parse(&damaged).is_ok() {
            let tree: Value = serde_json::from_str(&damaged).unwrap();
            prop_assert!(allowed(tree.as_object().unwrap()), "{}", damaged);
        }
    }

    #[test]
    fn any_text_gets_an_answer(text in any::<String>(), json in "[\\[\\]{}:,\"a-z0-9.\\\\-]{0,60}") {
        for text in [text, json] {
            if Frame::parse(&text).is_ok() {
                let tree: Value = serde_json::from_str(&text).unwrap();
                prop_assert!(allowed(tree.as_object().unwrap()));
            }
        }
    }
}
