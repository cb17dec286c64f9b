//! SPAKE2, the key schedule, proofs, claims, fingerprint, sealed code.

use super::{AGENT_SEED, BROWSER_SEED, Fixed, HOST, agent_key, browser_key, hex};
use relay_protocol::{
    keys::{AgentDhKey, BrowserDhKey, b64},
    pairing::{
        AgentClaims, AgentInfo, AgentStart, BROWSER_IDENTITY, BrowserClaims, BrowserStart, ClientInfo, Code,
        Fingerprint, KeySchedule, Psk, StartRequest, StartResponse, Transcript, agent_identity, seal_code,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use uuid::Uuid;

const PAIRING: Uuid = Uuid::from_u128(0x9b2d_3f10_52c4_4b6e_8a77_1f2e_3d4c_5b6a);
const CLIENT: Uuid = Uuid::from_u128(0x3c1a_7d52_8e0f_4f2b_b6d9_a1b2_c3d4_e5f6);
const CODE: &str = "042917";
const BROWSER_DH: [u8; 32] = [0x41; 32];
const AGENT_DH: [u8; 32] = [0x42; 32];

/// Messages A and B and the key, by the crate alone.
fn exchange(password: &str, id_a: &str, id_b: &str, random: (u8, u8)) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let password = Password::new(password);
    let (a, b) = (Identity::new(id_a.as_bytes()), Identity::new(id_b.as_bytes()));
    let (alice, message_a) = Spake2::<Ed25519Group>::start_a_with_rng(&password, &a, &b, Fixed(random.0));
    let (_, message_b) = Spake2::<Ed25519Group>::start_b_with_rng(&password, &a, &b, Fixed(random.1));
    let key = alice.finish(&message_b).unwrap();
    (message_a, message_b, key)
}

fn exchange_json(password: &str, id_a: &str, id_b: &str, random: (u8, u8)) -> Value {
    let (message_a, message_b, key) = exchange(password, id_a, id_b, random);
    json!({
        "password": password, "id_a": id_a, "id_b": id_b,
        "random_a_hex": hex([random.0; 64]), "random_b_hex": hex([random.1; 64]),
        "message_a_hex": hex(message_a), "message_b_hex": hex(message_b), "key_hex": hex(key),
    })
}

pub fn spake2() -> Value {
    let agent = agent_identity(HOST);
    // The eight points of small order, and encodings that are not the only one or none at all.
    let bad_points = [
        ("identity", "0100000000000000000000000000000000000000000000000000000000000000"),
        ("order 2", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        ("order 4", "0000000000000000000000000000000000000000000000000000000000000000"),
        ("order 4, other sign", "0000000000000000000000000000000000000000000000000000000000000080"),
        ("order 8", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        ("order 8, other sign", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
        ("order 8, other y", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        ("order 8, other y and sign", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
        ("identity, y above the prime", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        ("identity, sign of zero", "0100000000000000000000000000000000000000000000000000000000000080"),
        ("y above the prime", "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        ("no point", "0200000000000000000000000000000000000000000000000000000000000000"),
    ];
    let (message_a, message_b, _) = exchange("123456", BROWSER_IDENTITY, &agent, (0x11, 0x22));
    let mut refused: Vec<Value> = Vec::new();
    for (name, point) in bad_points {
        refused.push(json!({"name": name, "to": "agent", "message_hex": format!("41{point}")}));
        refused.push(json!({"name": name, "to": "browser", "message_hex": format!("42{point}")}));
    }
    let a = hex(&message_a);
    let b = hex(&message_b);
    refused.push(
        json!({"name": "the own side's letter", "to": "agent", "message_hex": format!("42{}", &a[2..])}),
    );
    refused.push(
        json!({"name": "the own side's letter", "to": "browser", "message_hex": format!("41{}", &b[2..])}),
    );
    refused.push(json!({"name": "symmetric", "to": "agent", "message_hex": format!("53{}", &a[2..])}));
    refused.push(json!({"name": "short", "to": "agent", "message_hex": a[..64]}));
    refused.push(json!({"name": "long", "to": "browser", "message_hex": format!("{b}00")}));
    refused.push(json!({"name": "empty", "to": "agent", "message_hex": ""}));
    json!({
        "description": "SPAKE2 over Ed25519 as the spake2 crate 0.4 does it. `exchanges`: both messages and the key from password, identities and the 64 random bytes of each side. `refused`: messages that the named end answers with `code`, and that are no guess.",
        "exchanges": [
            exchange_json("123456", "browser", "agent", (0x11, 0x22)),
            exchange_json("123456", BROWSER_IDENTITY, &agent, (0x11, 0x22)),
            exchange_json("000000", BROWSER_IDENTITY, &agent, (0x33, 0x44)),
            exchange_json("999999", BROWSER_IDENTITY, &agent, (0xfe, 0x01)),
        ],
        "code": "bad_request",
        "refused": refused,
    })
}

fn browser_claims() -> BrowserClaims {
    BrowserClaims {
        host_id: HOST,
        client: ClientInfo {
            id: CLIENT,
            name: "Änne’s phone 📱".to_owned(),
            browser: "Firefox 140".to_owned(),
            os: "Android 16".to_owned(),
            device: "phone".to_owned(),
        },
        ed25519: browser_key().verifying_key(),
        x25519: BrowserDhKey::from_bytes(&BROWSER_DH).public_key(),
    }
}

fn agent_claims() -> AgentClaims {
    AgentClaims {
        host_id: HOST,
        agent: AgentInfo {
            name: "local-agent-client".to_owned(),
            version: "0.1.0".to_owned(),
            features: vec!["records".to_owned(), "websocket".to_owned()],
        },
        ed25519: agent_key().verifying_key(),
        x25519: AgentDhKey::from_bytes(&AGENT_DH).public_key(),
        client_id: CLIENT,
    }
}

/// Claims that are proved rightly and yet refused: `edit` changes good ones.
fn bad_claims(good: &Value, own: &str) -> Vec<(&'static str, Vec<u8>)> {
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        edit(&mut claims);
        serde_json::to_vec(&claims).unwrap()
    };
    let zero = b64::encode([0; 32]);
    vec![
        ("empty", Vec::new()),
        ("not JSON", b"{".to_vec()),
        ("not UTF-8", b"{\"host_id\":\"\xff\"}".to_vec()),
        ("a key is missing", edited(&|c| drop(c.as_object_mut().unwrap().remove("x25519")))),
        ("another host", edited(&|c| c["host_id"] = json!(CLIENT))),
        ("no host id", edited(&|c| c["host_id"] = json!("host"))),
        ("a text of 101 characters", edited(&|c| c[own]["name"] = json!("ä".repeat(101)))),
        ("a control character", edited(&|c| c[own]["name"] = json!("a\u{1b}[2Jb"))),
        ("a control character of Latin-1", edited(&|c| c[own]["name"] = json!("a\u{85}b"))),
        ("an Ed25519 key of small order", edited(&|c| c["ed25519"] = json!(zero))),
        (
            "an Ed25519 key that is no point",
            edited(&|c| {
                let mut bytes = [0; 32];
                bytes[0] = 2;
                c["ed25519"] = json!(b64::encode(bytes));
            }),
        ),
        ("an Ed25519 key of 31 bytes", edited(&|c| c["ed25519"] = json!(b64::encode([7; 31])))),
        (
            "an Ed25519 key with padding",
            edited(&|c| {
                c["ed25519"] = json!(format!("{}=", c["ed25519"].as_str().unwrap()));
            }),
        ),
        ("an X25519 key that gives zero", edited(&|c| c["x25519"] = json!(zero))),
        (
            "an X25519 key of order 8",
            edited(&|c| {
                c["x25519"] = json!("4Ot6fDtBuK4WVuP68Z_EatoJjeucMrH9hmIFFl9JuAA");
            }),
        ),
        ("4097 bytes", edited(&|c| c["more"] = json!("x".repeat(4097 - good.to_string().len() - 10)))),
    ]
}

pub fn pairing() -> Value {
    let agent_id = agent_identity(HOST);
    let random = (0x51, 0x52);
    let code = Code::parse(CODE).unwrap();
    let (message_a, message_b, key) = exchange(CODE, BROWSER_IDENTITY, &agent_id, random);

    // Through the library; the test compares both ends.
    let (start, a) = BrowserStart::new(&code, HOST, &mut Fixed(random.0)).unwrap();
    let (agent, b) = AgentStart::new(&code, HOST, &a, &mut Fixed(random.1)).unwrap();
    assert_eq!((a.to_vec(), b.to_vec()), (message_a.clone(), message_b.clone()));
    let answer = StartResponse { v: 1, pairing_id: PAIRING, message: b };
    let (_, finish) = start.prove(&answer, &browser_claims()).unwrap();
    let proved = agent.finish(&finish).unwrap();
    let finished = proved.answer(&agent_claims());

    let mut t_input = Vec::new();
    for part in [b"1".as_slice(), BROWSER_IDENTITY.as_bytes(), agent_id.as_bytes(), &a, &b] {
        t_input.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        t_input.extend_from_slice(part);
    }
    let transcript = Transcript::new(HOST, &a, &b);
    assert_eq!(transcript.0, <[u8; 32]>::from(Sha256::digest(&t_input)));
    let keys = KeySchedule::derive(&transcript, key.as_slice().try_into().unwrap());

    let good: Value = serde_json::from_slice(&finish.claims).unwrap();
    let bad_browser: Vec<Value> = bad_claims(&good, "client")
        .into_iter()
        .map(|(name, claims)| {
            let proof = keys.browser.prove(PAIRING, &claims);
            json!({"name": name, "claims": b64::encode(claims), "proof": b64::encode(proof), "code": "bad_request"})
        })
        .collect();
    let good: Value = serde_json::from_slice(&finished.claims).unwrap();
    let bad_agent: Vec<Value> = bad_claims(&good, "agent")
        .into_iter()
        .map(|(name, claims)| {
            let proof = keys.agent.prove(PAIRING, &finish.claims, &claims);
            json!({"name": name, "claims": b64::encode(claims), "proof": b64::encode(proof), "code": "bad_request"})
        })
        .collect();
    let wrong_code = KeySchedule::derive(&transcript, &[0x66; 32]);
    let bad_browser = [vec![
            json!({"name": "the proof of another code", "claims": b64::encode(&finish.claims), "proof": b64::encode(wrong_code.browser.prove(PAIRING, &finish.claims)), "code": "pairing_failed"}),
            json!({"name": "the proof of another pairing id", "claims": b64::encode(&finish.claims), "proof": b64::encode(keys.browser.prove(CLIENT, &finish.claims)), "code": "pairing_failed"}),
            json!({"name": "the agent's key", "claims": b64::encode(&finish.claims), "proof": b64::encode(keys.agent.prove(PAIRING, &[], &finish.claims)), "code": "pairing_failed"}),
            json!({"name": "a short proof", "claims": b64::encode(&finish.claims), "proof": b64::encode(&finish.proof[..31]), "code": "pairing_failed"}),
            json!({"name": "no proof", "claims": b64::encode(&finish.claims), "proof": "", "code": "pairing_failed"}),
            json!({"name": "altered claims", "claims": b64::encode([finish.claims.as_slice(), b" "].concat()), "proof": b64::encode(&finish.proof), "code": "pairing_failed"}),
        ], bad_browser].concat();
    let bad_agent = [vec![
            json!({"name": "the proof of another code", "claims": b64::encode(&finished.claims), "proof": b64::encode(wrong_code.agent.prove(PAIRING, &finish.claims, &finished.claims)), "code": "pairing_failed"}),
            json!({"name": "a proof for other claims of the browser", "claims": b64::encode(&finished.claims), "proof": b64::encode(keys.agent.prove(PAIRING, b"{}", &finished.claims)), "code": "pairing_failed"}),
            json!({"name": "the browser's own message", "claims": b64::encode(&finish.claims), "proof": b64::encode(&finish.proof), "code": "pairing_failed"}),
            json!({"name": "altered claims", "claims": b64::encode([finished.claims.as_slice(), b" "].concat()), "proof": b64::encode(&finished.proof), "code": "pairing_failed"}),
        ], bad_agent].concat();
    json!({
        "description": "One whole pairing with every intermediate value. `bad_browser_finish`, `bad_agent_finish`: finish messages for the same exchange that the other end refuses with `code` (pairing_failed: the proof is wrong; bad_request: the proof is right, what it proves is not). Claims are compared as parsed JSON when the own library makes them, and taken byte for byte from here for the proofs.",
        "code": CODE, "host_id": HOST, "pairing_id": PAIRING,
        "browser": {
            "random_hex": hex([random.0; 64]), "ed25519_seed_hex": hex(BROWSER_SEED), "x25519_private_hex": hex(BROWSER_DH),
            "ed25519_public_hex": hex(browser_key().verifying_key().as_bytes()),
            "x25519_public_hex": hex(BrowserDhKey::from_bytes(&BROWSER_DH).public_key().as_bytes()),
            "identity": BROWSER_IDENTITY,
        },
        "agent": {
            "random_hex": hex([random.1; 64]), "ed25519_seed_hex": hex(AGENT_SEED), "x25519_private_hex": hex(AGENT_DH),
            "ed25519_public_hex": hex(agent_key().verifying_key().as_bytes()),
            "x25519_public_hex": hex(AgentDhKey::from_bytes(&AGENT_DH).public_key().as_bytes()),
            "identity": agent_id,
        },
        "start_request": StartRequest { v: 1, features: vec!["records".to_owned()], message: message_a.clone() },
        "start_response": answer,
        "message_a_hex": hex(message_a), "message_b_hex": hex(message_b), "spake2_key_hex": hex(&key),
        "transcript_input_hex": hex(&t_input), "transcript_hex": hex(transcript.0),
        "confirm_browser_hex": hex(keys.browser.reveal_bytes()),
        "confirm_agent_hex": hex(keys.agent.reveal_bytes()),
        "psk_hex": hex(keys.psk.reveal_bytes()),
        "browser_claims_text": String::from_utf8(finish.claims.clone()).unwrap(),
        "browser_finish": finish,
        "agent_claims_text": String::from_utf8(finished.claims.clone()).unwrap(),
        "agent_finish": finished,
        "fingerprint": Fingerprint::new(&agent_key().verifying_key(), &browser_key().verifying_key()),
        "bad_browser_finish": bad_browser,
        "bad_agent_finish": bad_agent,
    })
}

pub fn fingerprint() -> Value {
    let case = |agent: [u8; 32], browser: [u8; 32]| {
        let agent = relay_protocol::keys::AgentSigningKey::from_seed(&agent).verifying_key();
        let browser = relay_protocol::keys::BrowserSigningKey::from_seed(&browser).verifying_key();
        let input =
            [b"relay-pairing/1 fingerprint".as_slice(), agent.as_bytes(), browser.as_bytes()].concat();
        json!({
            "agent_ed25519_hex": hex(agent.as_bytes()), "browser_ed25519_hex": hex(browser.as_bytes()),
            "input_hex": hex(&input), "sha256_hex": hex(Sha256::digest(&input)),
            "fingerprint": Fingerprint::new(&agent, &browser),
        })
    };
    json!({
        "description": "The fingerprint of a pairing, from both public Ed25519 keys. Swapped keys give another one.",
        "cases": [case(AGENT_SEED, BROWSER_SEED), case(BROWSER_SEED, AGENT_SEED), case([1; 32], [2; 32])],
    })
}

pub fn sealed_code() -> Value {
    let psk = [0x61; 32];
    let signature = [0x71; 64];
    let salt = Sha256::digest(signature);
    let key = {
        let mut key = [0; 32];
        hkdf::Hkdf::<Sha256>::new(Some(&salt), &psk).expand(b"relay-pairing/1 code", &mut key).unwrap();
        key
    };
    let sealed = seal_code(&Code::parse(CODE).unwrap(), &Psk::from_bytes(&psk), &signature).unwrap();
    let mut altered = sealed.clone();
    altered[0] ^= 1;
    let case = |name: &str, psk: [u8; 32], signature: [u8; 64], sealed: &[u8]| json!({"name": name, "psk_hex": hex(psk), "request_signature_hex": hex(signature), "sealed_code": b64::encode(sealed)});
    json!({
        "description": "The sealed code of section 3.2: AES-256-GCM, 12 zero bytes as nonce, no associated data. `refused` must not open.",
        "code": CODE, "psk_hex": hex(psk), "request_signature_hex": hex(signature),
        "salt_hex": hex(salt), "key_hex": hex(key), "sealed_code": b64::encode(&sealed),
        "refused": [
            case("altered", psk, signature, &altered),
            case("another psk", [0x62; 32], signature, &sealed),
            case("another request", psk, [0x72; 64], &sealed),
            case("short", psk, signature, &sealed[..21]),
            case("empty", psk, signature, &[]),
        ],
    })
}
