use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "a key that the relays share";

fn key() -> Key {
    Key::new(SECRET.as_bytes()).unwrap()
}

fn frame() -> Envelope {
    Envelope {
        workspace_id: "ws-1".to_owned(),
        runtime_target_id: Some("rt:1".to_owned()),
        machine_id: Some("machine_1".to_owned()),
        source_relay_id: "relay-a".to_owned(),
        target_relay_id: Some("relay-b".to_owned()),
        direction: Direction::ClientToDaemon,
        payload: "{\"type\":\"e2ee\"}".to_owned(),
        issued_at_ms: 1_800_000_000_000,
        signature: String::new(),
    }
}

fn cases() -> Vec<(&'static str, Envelope)> {
    let bare = Envelope { runtime_target_id: None, machine_id: None, target_relay_id: None, ..frame() };
    vec![
        ("every field", frame()),
        ("nothing that may be absent", bare.clone()),
        (
            "to all relays",
            Envelope { direction: Direction::DaemonToClients, target_relay_id: None, ..frame() },
        ),
        (
            "a payload with line breaks",
            Envelope { payload: "{\n\"a\": \"\u{e9}\u{1f511}\"\n}".to_owned(), ..bare },
        ),
        ("an empty payload", Envelope { payload: String::new(), ..frame() }),
    ]
}

/// The vectors as they are committed.
fn vectors() -> Value {
    let cases: Vec<Value> = cases()
        .into_iter()
        .map(|(name, frame)| {
            let issued = frame.issued_at_ms.to_string();
            let signed = frame.lines(&issued).join("\n");
            json!({ "name": name, "frame": frame.clone().sign(&key()).unwrap(), "signed": signed })
        })
        .collect();
    let good = serde_json::to_value(frame().sign(&key()).unwrap()).unwrap();
    let with = |field: &str, value: Value| {
        let mut changed = good.clone();
        changed[field] = value;
        changed
    };
    let signature = good["signature"].as_str().unwrap();
    // The last character holds four bits of the signature and two that must be zero.
    let spare = format!("{}{}", &signature[..42], char::from(signature.as_bytes()[42] + 1));
    let refused = json!([
        { "name": "padding", "frame": with("signature", json!(format!("{signature}="))) },
        { "name": "spare bits", "frame": with("signature", json!(spare)) },
        { "name": "cut short", "frame": with("signature", json!(signature[..42])) },
        { "name": "no signature", "frame": with("signature", json!("")) },
        { "name": "another payload", "frame": with("payload", json!("{}")) },
        { "name": "another time", "frame": with("issuedAtMs", json!(1_800_000_000_001_i64)) },
        { "name": "another direction", "frame": with("direction", json!("daemon_to_clients")) },
        { "name": "for another relay", "frame": with("targetRelayId", json!("relay-c")) },
        { "name": "for all relays", "frame": with("targetRelayId", Value::Null) },
        moved_border(),
    ]);
    json!({ "key": SECRET, "frames": cases, "refused": refused })
}

/// A frame whose line breaks move the borders between the fields: the lines, and so the signature, are those of a
/// good frame with a payload that somebody chose well.
fn moved_border() -> Value {
    let good =
        Envelope { payload: "x\nrelay-z\n\nclient_to_daemon\n1800000000000\n{}".to_owned(), ..frame() };
    let moved = Envelope {
        machine_id: Some("machine_1\nrelay-a\nrelay-b\nclient_to_daemon\n1800000000000\nx".to_owned()),
        source_relay_id: "relay-z".to_owned(),
        target_relay_id: None,
        payload: "{}".to_owned(),
        signature: good.clone().sign(&key()).unwrap().signature,
        ..frame()
    };
    let issued = "1800000000000";
    assert_eq!(moved.lines(issued).join("\n"), good.lines(issued).join("\n"));
    json!({ "name": "line breaks in an id", "frame": moved })
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../relay-protocol/vectors/bus.json");

/// Set BUS_VECTORS_WRITE to write them anew.
#[test]
fn the_vectors_are_what_this_signs() {
    let text = format!("{}\n", serde_json::to_string_pretty(&vectors()).unwrap());
    if std::env::var_os("BUS_VECTORS_WRITE").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(FILE).unwrap(), text);
}

#[test]
fn the_vectors_are_verified_and_refused() {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let key = Key::new(file["key"].as_str().unwrap().as_bytes()).unwrap();
    for case in file["frames"].as_array().unwrap() {
        let frame: Envelope = serde_json::from_value(case["frame"].clone()).unwrap();
        assert!(frame.verify(&key).is_some(), "{}", case["name"]);
    }
    for case in file["refused"].as_array().unwrap() {
        let frame: Envelope = serde_json::from_value(case["frame"].clone()).unwrap();
        assert!(frame.verify(&key).is_none(), "{}", case["name"]);
    }
}

#[test]
fn absent_may_be_written_as_null_or_empty() {
    let signed = Envelope { runtime_target_id: None, machine_id: None, target_relay_id: None, ..frame() }
        .sign(&key())
        .unwrap();
    for absent in [Value::Null, json!("")] {
        let mut text = serde_json::to_value(&signed).unwrap();
        for field in ["runtimeTargetId", "machineId", "targetRelayId"] {
            text[field] = absent.clone();
        }
        let read: Envelope = serde_json::from_value(text).unwrap();
        assert!(read.verify(&key()).is_some(), "{absent}");
    }
}

#[test]
fn nothing_is_signed_that_could_be_read_in_two_ways() {
    let bad = [
        Envelope { workspace_id: String::new(), ..frame() },
        Envelope { workspace_id: "a\nb".to_owned(), ..frame() },
        Envelope { workspace_id: "a b".to_owned(), ..frame() },
        Envelope { workspace_id: "a".repeat(MAX_ID + 1), ..frame() },
        Envelope { runtime_target_id: Some("a\n".to_owned()), ..frame() },
        Envelope { machine_id: Some("a\nb".to_owned()), ..frame() },
        Envelope { source_relay_id: "a:b".to_owned(), ..frame() },
        Envelope { source_relay_id: String::new(), ..frame() },
        Envelope { target_relay_id: Some("\n".to_owned()), ..frame() },
        Envelope { issued_at_ms: -1, ..frame() },
    ];
    for frame in bad {
        assert!(frame.clone().sign(&key()).is_none(), "{frame:?}");
    }
}

#[test]
fn the_length_in_json_is_known_beforehand() {
    for text in ["", "a", "\"\\\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}", "\u{e9}\u{1f511}\u{2028}"] {
        assert_eq!(json_length(text), serde_json::to_string(text).unwrap().len(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn whatever_is_signed_is_verified_and_any_change_refused(
        workspace in "[A-Za-z0-9._:-]{1,128}",
        target in proptest::option::of("[A-Za-z0-9._:-]{1,128}"),
        machine in proptest::option::of("[a-z]{1,20}"),
        payload in ".{0,200}",
        to_clients in any::<bool>(),
        issued in 0i64..i64::MAX,
        bit in 0usize..256,
    ) {
        let frame = Envelope {
            workspace_id: workspace, runtime_target_id: target, machine_id: machine, payload,
            direction: if to_clients { Direction::DaemonToClients } else { Direction::ClientToDaemon },
            issued_at_ms: issued, ..frame()
        };
        let signed = frame.sign(&key()).unwrap();
        let travelled: Envelope = serde_json::from_slice(&serde_json::to_vec(&signed).unwrap()).unwrap();
        prop_assert!(travelled.verify(&key()).is_some());
        prop_assert!(travelled.verify(&Key::new(b"another key").unwrap()).is_none());
        let mut tag = tag_of(&signed.signature).unwrap();
        tag[bit / 8] ^= 1 << (bit % 8);
        let changed = [
            Envelope { signature: tag_text(&tag), ..signed.clone() },
            Envelope { payload: format!("{} ", signed.payload), ..signed.clone() },
            Envelope { workspace_id: format!("{}x", signed.workspace_id), ..signed },
        ];
        for frame in changed {
            let believed = frame.verify(&key()).is_some();
            prop_assert!(!believed);
        }
    }

    #[test]
    fn no_text_is_two_signatures(text in "[A-Za-z0-9_=+/-]{40,46}") {
        if let Some(tag) = tag_of(&text) {
            prop_assert_eq!(tag_text(&tag), text);
        }
    }
}
