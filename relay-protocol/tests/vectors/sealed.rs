//! Handshakes of sealed sessions, ours and the published ones, and the keys of records.

use super::{array, list, load, text, unhex};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use relay_protocol::{
    exchange::Prelude,
    keys::{AgentDhKey, BrowserDhKey},
    pairing::Psk,
    problem::Code,
    record::Direction,
    sealed::{Initiator, Profile, Responder, SessionKeys, Start},
};
use serde_json::Value;
use snow::{Builder, HandshakeState};
use uuid::Uuid;

pub fn id(value: &Value) -> Uuid {
    Uuid::try_parse(text(value)).unwrap()
}

pub fn number(value: &Value) -> u64 {
    text(value).parse().unwrap()
}

pub fn session_keys(file: &Value) -> SessionKeys {
    SessionKeys::from_split(
        &array(&file["key_to_agent_hex"]),
        &array(&file["key_to_browser_hex"]),
        &array(&file["handshake_hash_hex"]),
    )
}

fn same_keys(keys: &SessionKeys, case: &Value) {
    assert_eq!(*keys.handshake_hash(), array(&case["handshake_hash_hex"]));
    assert_eq!(*keys.reveal_split(Direction::ToAgent), array(&case["key_to_agent_hex"]));
    assert_eq!(*keys.reveal_split(Direction::ToBrowser), array(&case["key_to_browser_hex"]));
}

#[test]
fn handshakes() {
    let file = load("noise_handshake.json");
    let browser = BrowserDhKey::from_bytes(&array(&file["browser_static_private_hex"]));
    let agent = AgentDhKey::from_bytes(&array(&file["agent_static_private_hex"]));
    assert_eq!(*browser.public_key().as_bytes(), array(&file["browser_static_public_hex"]));
    assert_eq!(*agent.public_key().as_bytes(), array(&file["agent_static_public_hex"]));
    let psk = Psk::from_bytes(&array(&file["psk_hex"]));
    let (host_id, client_id) = (id(&file["host_id"]), id(&file["client_id"]));
    let agent_public = agent.public_key();
    assert_eq!(list(&file["handshakes"]).len(), Profile::ALL.len());
    for case in list(&file["handshakes"]) {
        let profile = Profile::parse(text(&case["profile"])).unwrap();
        assert_eq!(profile.protocol_name(), text(&case["protocol_name"]));
        let start = Start { profile, key: &browser, agent: &agent_public, psk: &psk, host_id, client_id };
        let ephemeral = array(&file["browser_ephemeral_private_hex"]);
        let begin = || {
            let (initiator, first) = Initiator::start_for_vectors(&start, &ephemeral).unwrap();
            assert_eq!(first[..], unhex(&case["first_message_hex"]));
            initiator
        };
        let browser_public = browser.public_key();
        let responder =
            Responder { profile, key: &agent, browser: &browser_public, psk: &psk, host_id, client_id };
        for received in list(&case["agent_receives"]) {
            let ephemeral = array(&file["agent_ephemeral_private_hex"]);
            let answer = responder.respond_for_vectors(&unhex(&received["message_hex"]), &ephemeral);
            match answer {
                Ok((second, keys)) => {
                    assert_eq!(text(&received["expect"]), "ok", "{received}");
                    if received["message_hex"] == case["first_message_hex"] {
                        assert_eq!(second[..], unhex(&case["second_message_hex"]));
                        same_keys(&keys, case);
                    }
                }
                Err(error) => assert_eq!(error.code().as_str(), text(&received["expect"]), "{received}"),
            }
        }
        for received in list(&case["browser_receives"]) {
            match begin().finish(&unhex(&received["message_hex"])) {
                Ok(keys) => {
                    assert_eq!(text(&received["expect"]), "ok", "{received}");
                    if received["message_hex"] == case["second_message_hex"] {
                        same_keys(&keys, case);
                    }
                }
                Err(error) => assert_eq!(error.code().as_str(), text(&received["expect"]), "{received}"),
            }
        }
    }
    assert_eq!(Profile::parse("noise-xx"), None);
    assert_eq!(Code::HandshakeFailed.as_str(), "handshake_failed");
}

#[test]
fn keys_of_records() {
    let file = load("record_key.json");
    let keys = session_keys(&file);
    for case in list(&file["cases"]) {
        let prelude = Prelude { session_id: id(&case["session_id"]), number: number(&case["number"]) };
        let direction = if case["direction"] == 0 { Direction::ToAgent } else { Direction::ToBrowser };
        let epoch = u32::try_from(case["epoch"].as_u64().unwrap()).unwrap();
        assert_eq!(*keys.record_key(&prelude, direction, epoch).unwrap(), array(&case["key_hex"]), "{case}");
    }
}

fn end(case: &Value, initiator: bool) -> HandshakeState {
    let get = |name: &str| {
        let end = if initiator { "init" } else { "resp" };
        case.get(format!("{end}_{name}"))
    };
    let bytes = |name: &str| unhex(get(name).unwrap());
    let (prologue, key, ephemeral) = (bytes("prologue"), bytes("static"), bytes("ephemeral"));
    let psks: Vec<[u8; 32]> = get("psks").unwrap().as_array().unwrap().iter().map(array).collect();
    let mut builder = Builder::new(text(&case["protocol_name"]).parse().unwrap())
        .prologue(&prologue)
        .unwrap()
        .local_private_key(&key)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&ephemeral);
    for psk in &psks {
        builder = builder.psk(2, psk).unwrap();
    }
    if !initiator {
        return builder.build_responder().unwrap();
    }
    builder.remote_public_key(&bytes("remote_static")).unwrap().build_initiator().unwrap()
}

#[test]
fn published_vectors_of_noise() {
    let file = load("noise-published.json");
    let mut names = Vec::new();
    for case in list(&file["vectors"]) {
        names.push(text(&case["protocol_name"]));
        assert!(text(&case["source"]).contains("https://"));
        let (mut initiator, mut responder) = (end(case, true), end(case, false));
        let (handshake, transport) = list(&case["messages"]).split_at(2);
        for (turn, message) in handshake.iter().enumerate() {
            let (from, to) =
                if turn == 0 { (&mut initiator, &mut responder) } else { (&mut responder, &mut initiator) };
            let (mut sent, mut read) = ([0; 512], [0; 512]);
            let length = from.write_message(&unhex(&message["payload"]), &mut sent).unwrap();
            assert_eq!(sent[..length], unhex(&message["ciphertext"]));
            let length = to.read_message(&sent[..length], &mut read).unwrap();
            assert_eq!(read[..length], unhex(&message["payload"]));
        }
        assert_eq!(initiator.get_handshake_hash(), responder.get_handshake_hash());
        if let Some(hash) = case.get("handshake_hash") {
            assert_eq!(initiator.get_handshake_hash(), unhex(hash));
        }
        // The keys of Split() and the form of the nonce are those that our records use, and by the same
        // library.
        let (to_responder, to_initiator) = initiator.dangerously_get_raw_split();
        assert_eq!(responder.dangerously_get_raw_split(), (to_responder, to_initiator));
        for (turn, message) in transport.iter().enumerate() {
            let key = if turn % 2 == 0 { to_responder } else { to_initiator };
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&u64::try_from(turn / 2).unwrap().to_be_bytes());
            let mut text = unhex(&message["payload"]);
            key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
                .unwrap();
            assert_eq!(text, unhex(&message["ciphertext"]));
        }
    }
    for profile in Profile::ALL {
        assert!(names.contains(&profile.protocol_name()));
    }
}
