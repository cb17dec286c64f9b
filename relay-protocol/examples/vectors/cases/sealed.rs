//! Handshakes of sealed sessions, and the keys that come from them.

use super::{HOST, SESSION, hex};
use relay_protocol::{
    exchange::Prelude,
    keys::{AgentDhKey, BrowserDhKey},
    pairing::Psk,
    record::Direction,
    sealed::{Initiator, Profile, Responder, SessionKeys, Start},
};
use serde_json::{Value, json};
use uuid::Uuid;

pub const CLIENT: Uuid = Uuid::from_u128(0x5b2f_7f04_9c1d_4e6a_8f35_1d2c_3b4a_5968);
const BROWSER: [u8; 32] = [0x41; 32];
const AGENT: [u8; 32] = [0x42; 32];
const PSK: [u8; 32] = [0x43; 32];
const BROWSER_EPHEMERAL: [u8; 32] = [0x44; 32];
const AGENT_EPHEMERAL: [u8; 32] = [0x45; 32];

/// Who takes part; each case alters some of it.
#[derive(Clone, Copy)]
struct Parties {
    profile: Profile,
    browser: [u8; 32],
    agent: [u8; 32],
    psk: [u8; 32],
    host: Uuid,
    client: Uuid,
}

impl Parties {
    fn new(profile: Profile) -> Self {
        Self { profile, browser: BROWSER, agent: AGENT, psk: PSK, host: HOST, client: CLIENT }
    }

    fn start(&self) -> (Initiator, [u8; 96]) {
        let start = Start {
            profile: self.profile,
            key: &BrowserDhKey::from_bytes(&self.browser),
            agent: &AgentDhKey::from_bytes(&self.agent).public_key(),
            psk: &Psk::from_bytes(&self.psk),
            host_id: self.host,
            client_id: self.client,
        };
        Initiator::start_for_vectors(&start, &BROWSER_EPHEMERAL).unwrap()
    }

    fn respond(&self, message: &[u8]) -> ([u8; 48], SessionKeys) {
        let responder = Responder {
            profile: self.profile,
            key: &AgentDhKey::from_bytes(&self.agent),
            browser: &BrowserDhKey::from_bytes(&self.browser).public_key(),
            psk: &Psk::from_bytes(&self.psk),
            host_id: self.host,
            client_id: self.client,
        };
        responder.respond_for_vectors(message, &AGENT_EPHEMERAL).unwrap()
    }
}

/// The keys of the golden handshake that browsers make.
pub fn session_keys() -> SessionKeys {
    let parties = Parties::new(Profile::NoiseIkPsk2);
    parties.respond(&parties.start().1).1
}

fn flipped<const N: usize>(message: &[u8; N], at: usize) -> Vec<u8> {
    let mut bytes = message.to_vec();
    bytes[at] ^= 1;
    bytes
}

fn handshake(profile: Profile) -> Value {
    let parties = Parties::new(profile);
    let (initiator, first) = parties.start();
    let (second, keys) = parties.respond(&first);
    let same = initiator.finish(&second).unwrap();
    assert_eq!(same.handshake_hash(), keys.handshake_hash());
    let case = |name: &str, message: &[u8], expect: &str| json!({"name": name, "message_hex": hex(message), "expect": expect});
    let failed = "handshake_failed";
    let first_of = |edit: &dyn Fn(&mut Parties)| {
        let mut other = parties;
        edit(&mut other);
        other.start().1
    };
    let second_of = |edit: &dyn Fn(&mut Parties)| {
        let mut other = parties;
        edit(&mut other);
        other.respond(&other.start().1).0
    };
    let other = Uuid::from_u128(9);
    let mut zero = first;
    zero[..32].fill(0);
    let mut zero_answer = second;
    zero_answer[..32].fill(0);
    let psk_matters = if profile == Profile::NoiseIkPsk2 { failed } else { "ok" };
    json!({
        "profile": profile.as_str(), "protocol_name": profile.protocol_name(),
        "first_message_hex": hex(first), "second_message_hex": hex(second),
        "handshake_hash_hex": hex(keys.handshake_hash()),
        "key_to_agent_hex": hex(keys.reveal_split(Direction::ToAgent)),
        "key_to_browser_hex": hex(keys.reveal_split(Direction::ToBrowser)),
        "agent_receives": [
            case("the first message", &first, "ok"),
            case("by a browser with another psk: the answer shows it", &first_of(&|p| p.psk = [1; 32]), "ok"),
            case("by a browser with another key", &first_of(&|p| p.browser = [1; 32]), failed),
            case("for another agent's key", &first_of(&|p| p.agent = [1; 32]), failed),
            case("for another host", &first_of(&|p| p.host = other), failed),
            case("of another client id", &first_of(&|p| p.client = other), failed),
            case("of the other profile", &first_of(&|p| {
                p.profile = if profile == Profile::NoiseIk { Profile::NoiseIkPsk2 } else { Profile::NoiseIk };
            }), failed),
            case("ephemeral key altered", &flipped(&first, 0), failed),
            case("static key altered", &flipped(&first, 40), failed),
            case("tag altered", &flipped(&first, 95), failed),
            case("an ephemeral key of small order", &zero, failed),
            case("a byte short", &first[..95], failed),
            case("a byte more", &[&first[..], &[0]].concat(), failed),
            case("empty", &[], failed),
            case("the second message", &second, failed),
        ],
        "browser_receives": [
            case("the second message", &second, "ok"),
            case("by an agent with another psk", &second_of(&|p| p.psk = [1; 32]), psk_matters),
            case("by another agent", &second_of(&|p| p.agent = [1; 32]), failed),
            case("for another browser", &second_of(&|p| p.browser = [1; 32]), failed),
            case("for another host", &second_of(&|p| p.host = other), failed),
            case("ephemeral key altered", &flipped(&second, 0), failed),
            case("tag altered", &flipped(&second, 47), failed),
            case("an ephemeral key of small order", &zero_answer, failed),
            case("a byte short", &second[..47], failed),
            case("a byte more", &[&second[..], &[0]].concat(), failed),
            case("empty", &[], failed),
            case("the first message", &first, failed),
        ],
    })
}

pub fn noise_handshake() -> Value {
    let public = |key: &[u8; 32]| hex(BrowserDhKey::from_bytes(key).public_key().as_bytes());
    json!({
        "description": "Handshakes of sealed sessions (section 5.1) with fixed ephemeral keys. `…_private_hex` are X25519 private keys of 32 bytes. For each profile: both messages, the handshake hash (h), and the keys of Split(): `key_to_agent_hex` is k0 (initiator to responder), `key_to_browser_hex` is k1. `agent_receives`: what the agent says of a first message. `browser_receives`: what the browser that sent `first_message_hex` says of a second one. ok or handshake_failed.",
        "host_id": HOST, "client_id": CLIENT, "prologue": format!("relay-sealed/1 {HOST} {CLIENT}"),
        "browser_static_private_hex": hex(BROWSER), "browser_static_public_hex": public(&BROWSER),
        "agent_static_private_hex": hex(AGENT), "agent_static_public_hex": public(&AGENT),
        "browser_ephemeral_private_hex": hex(BROWSER_EPHEMERAL), "browser_ephemeral_public_hex": public(&BROWSER_EPHEMERAL),
        "agent_ephemeral_private_hex": hex(AGENT_EPHEMERAL), "agent_ephemeral_public_hex": public(&AGENT_EPHEMERAL),
        "psk_hex": hex(PSK),
        "handshakes": Profile::ALL.map(handshake),
    })
}

pub fn record_key() -> Value {
    let keys = session_keys();
    let cases = [
        (SESSION, 0, Direction::ToAgent, 0),
        (SESSION, 0, Direction::ToBrowser, 0),
        (SESSION, 0, Direction::ToAgent, 1),
        (SESSION, 1, Direction::ToAgent, 0),
        (SESSION, 1, Direction::ToBrowser, 0),
        (HOST, 0, Direction::ToAgent, 0),
        (SESSION, 1 << 53, Direction::ToAgent, 0),
        (SESSION, u64::MAX, Direction::ToBrowser, u32::MAX),
    ];
    let cases = cases.map(|(session_id, number, direction, epoch)| {
        let prelude = Prelude { session_id, number };
        let mut info = b"relay-sealed/1 record".to_vec();
        info.extend_from_slice(&prelude.to_bytes());
        info.push(direction as u8);
        info.extend_from_slice(&u32::to_be_bytes(epoch));
        json!({
            "session_id": session_id, "number": number.to_string(), "direction": direction as u8, "epoch": epoch,
            "info_hex": hex(info), "key_hex": hex(*keys.record_key(&prelude, direction, epoch).unwrap()),
        })
    });
    json!({
        "description": "Keys of sealed records (section 5.2): HKDF-SHA256 with the handshake hash as salt, k of the direction as input and the info that is given. Direction 0 is browser to agent. `number` is a u64 as decimal text.",
        "handshake_hash_hex": hex(keys.handshake_hash()),
        "key_to_agent_hex": hex(keys.reveal_split(Direction::ToAgent)),
        "key_to_browser_hex": hex(keys.reveal_split(Direction::ToBrowser)),
        "cases": cases,
    })
}
