//! SPAKE2, pairing, fingerprint, sealed code.

use super::{array, list, load, text, unhex};
use rand::{CryptoRng, RngCore};
use relay_protocol::{
    keys::{
        AgentDhKey, AgentSigningKey, AgentVerifyingKey, BrowserDhKey, BrowserSigningKey, BrowserVerifyingKey,
        b64,
    },
    pairing::{
        AgentClaims, AgentStart, BrowserClaims, BrowserStart, Code, Fingerprint, FinishMessage, KeySchedule,
        Psk, StartRequest, StartResponse, Transcript, open_code, seal_code,
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

/// Gives these bytes, once.
struct Given(Vec<u8>);

impl RngCore for Given {
    fn next_u32(&mut self) -> u32 {
        unreachable!("only bytes are asked for")
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("only bytes are asked for")
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        to.copy_from_slice(&self.0.drain(..to.len()).collect::<Vec<_>>());
    }
}

impl CryptoRng for Given {}

fn given(value: &Value) -> Given {
    Given(unhex(value))
}

fn uuid(value: &Value) -> Uuid {
    Uuid::try_parse(text(value)).unwrap()
}

fn claims() -> (Value, Uuid, BrowserClaims, AgentClaims) {
    let file = load("pairing.json");
    let host = uuid(&file["host_id"]);
    let browser = BrowserClaims::parse(text(&file["browser_claims_text"]).as_bytes(), host).unwrap();
    let agent = AgentClaims::parse(text(&file["agent_claims_text"]).as_bytes(), host).unwrap();
    (file, host, browser, agent)
}

#[test]
fn spake2_is_that_of_the_crate() {
    let file = load("spake2.json");
    let mut measured = false;
    for case in list(&file["exchanges"]) {
        measured |= text(&case["key_hex"]).starts_with("e35473d2");
        // The library takes no identities but its own.
        let Some(host) = text(&case["id_b"]).strip_prefix("relay-pairing/1 agent ") else { continue };
        let host = Uuid::try_parse(host).unwrap();
        let code = Code::parse(text(&case["password"])).unwrap();
        let (_, a) = BrowserStart::new(&code, host, &mut given(&case["random_a_hex"])).unwrap();
        let (_, b) = AgentStart::new(&code, host, &a, &mut given(&case["random_b_hex"])).unwrap();
        assert_eq!(a.to_vec(), unhex(&case["message_a_hex"]));
        assert_eq!(b.to_vec(), unhex(&case["message_b_hex"]));
    }
    assert!(measured);
}

#[test]
fn points_that_no_honest_peer_sends_are_refused() {
    let file = load("spake2.json");
    let (_, host, claims, _) = claims();
    let code = Code::parse("123456").unwrap();
    for case in list(&file["refused"]) {
        let message = unhex(&case["message_hex"]);
        let refused = if case["to"] == "agent" {
            AgentStart::new(&code, host, &message, &mut Given(vec![1; 64])).err()
        } else {
            let (start, _) = BrowserStart::new(&code, host, &mut Given(vec![1; 64])).unwrap();
            // A message of another length is no array: the JSON of the answer refuses it.
            let json = json!({"v": 1, "pairing_id": Uuid::nil(), "message": b64::encode(&message)});
            let Ok(answer) = serde_json::from_value::<StartResponse>(json) else {
                assert_ne!(message.len(), 33);
                continue;
            };
            start.prove(&answer, &claims).err()
        };
        assert_eq!(refused.map(|error| error.code().as_str()), Some(text(&file["code"])), "{case}");
    }
}

#[test]
fn a_pairing_is_the_same_in_every_value() {
    let (file, host, browser_claims, agent_claims) = claims();
    let code = Code::parse(text(&file["code"])).unwrap();
    let (browser, agent) = (&file["browser"], &file["agent"]);

    let (start, a) = BrowserStart::new(&code, host, &mut given(&browser["random_hex"])).unwrap();
    let (agent_start, b) = AgentStart::new(&code, host, &a, &mut given(&agent["random_hex"])).unwrap();
    assert_eq!((a.to_vec(), b.to_vec()), (unhex(&file["message_a_hex"]), unhex(&file["message_b_hex"])));
    let request: StartRequest = serde_json::from_value(file["start_request"].clone()).unwrap();
    assert_eq!(request.message, a);
    let answer: StartResponse = serde_json::from_value(file["start_response"].clone()).unwrap();
    assert_eq!(answer.message, b);

    let transcript = Transcript::new(host, &a, &b);
    assert_eq!(transcript.0, array(&file["transcript_hex"]));
    let keys = KeySchedule::derive(&transcript, &array(&file["spake2_key_hex"]));
    assert_eq!(*keys.browser.reveal_bytes(), array(&file["confirm_browser_hex"]));
    assert_eq!(*keys.agent.reveal_bytes(), array(&file["confirm_agent_hex"]));
    assert_eq!(*keys.psk.reveal_bytes(), array(&file["psk_hex"]));

    let (proving, finish) = start.prove(&answer, &browser_claims).unwrap();
    assert_eq!(serde_json::to_value(&finish).unwrap(), file["browser_finish"]);
    let proved = agent_start.finish(&finish).unwrap();
    assert_eq!(proved.browser, browser_claims);
    let finished = proved.answer(&agent_claims);
    assert_eq!(serde_json::to_value(&finished).unwrap(), file["agent_finish"]);
    let paired = proving.finish(&finished).unwrap();
    assert_eq!(paired.agent, agent_claims);
    assert_eq!(paired.psk.reveal_bytes(), proved.psk.reveal_bytes());
    assert_eq!(*paired.psk.reveal_bytes(), array(&file["psk_hex"]));

    let signing = BrowserSigningKey::from_seed(&array(&browser["ed25519_seed_hex"]));
    assert_eq!(signing.verifying_key(), browser_claims.ed25519);
    assert_eq!(*signing.verifying_key().as_bytes(), array(&browser["ed25519_public_hex"]));
    let signing = AgentSigningKey::from_seed(&array(&agent["ed25519_seed_hex"]));
    assert_eq!(signing.verifying_key(), agent_claims.ed25519);
    let ours = BrowserDhKey::from_bytes(&array(&browser["x25519_private_hex"]));
    assert_eq!(ours.public_key(), browser_claims.x25519);
    let theirs = AgentDhKey::from_bytes(&array(&agent["x25519_private_hex"]));
    assert_eq!(theirs.public_key(), agent_claims.x25519);
    let secret = ours.agree(&agent_claims.x25519).unwrap();
    assert_eq!(secret.as_bytes(), theirs.agree(&browser_claims.x25519).unwrap().as_bytes());
    let fingerprint = Fingerprint::new(&agent_claims.ed25519, &browser_claims.ed25519);
    assert_eq!(fingerprint.to_string(), text(&file["fingerprint"]));
}

fn altered(file: &Value, case: &Value) -> FinishMessage {
    FinishMessage {
        pairing_id: uuid(&file["pairing_id"]),
        claims: b64::decode(text(&case["claims"])).unwrap(),
        proof: b64::decode(text(&case["proof"])).unwrap(),
    }
}

#[test]
fn finishing_messages_that_are_wrong_are_refused_by_either_end() {
    let (file, host, browser_claims, _) = claims();
    let code = Code::parse(text(&file["code"])).unwrap();
    let start = || BrowserStart::new(&code, host, &mut given(&file["browser"]["random_hex"])).unwrap();
    for case in list(&file["bad_browser_finish"]) {
        let (_, a) = start();
        let (agent, _) = AgentStart::new(&code, host, &a, &mut given(&file["agent"]["random_hex"])).unwrap();
        let refused = agent.finish(&altered(&file, case)).unwrap_err();
        assert_eq!(refused.code().as_str(), text(&case["code"]), "{case}");
    }
    let answer: StartResponse = serde_json::from_value(file["start_response"].clone()).unwrap();
    for case in list(&file["bad_agent_finish"]) {
        let (proving, _) = start().0.prove(&answer, &browser_claims).unwrap();
        let refused = proving.finish(&altered(&file, case)).unwrap_err();
        assert_eq!(refused.code().as_str(), text(&case["code"]), "{case}");
    }
}

#[test]
fn fingerprints() {
    for case in list(&load("fingerprint.json")["cases"]) {
        let agent = AgentVerifyingKey::from_bytes(&array(&case["agent_ed25519_hex"])).unwrap();
        let browser = BrowserVerifyingKey::from_bytes(&array(&case["browser_ed25519_hex"])).unwrap();
        assert_eq!(Fingerprint::new(&agent, &browser).to_string(), text(&case["fingerprint"]));
    }
}

#[test]
fn a_sealed_code_opens_for_its_request_only() {
    let file = load("sealed_code.json");
    let psk = Psk::from_bytes(&array(&file["psk_hex"]));
    let signature = array(&file["request_signature_hex"]);
    let sealed = seal_code(&Code::parse(text(&file["code"])).unwrap(), &psk, &signature).unwrap();
    assert_eq!(b64::encode(&sealed), text(&file["sealed_code"]));
    assert_eq!(*open_code(&sealed, &psk, &signature).unwrap().reveal(), text(&file["code"]));
    for case in list(&file["refused"]) {
        let psk = Psk::from_bytes(&array(&case["psk_hex"]));
        let sealed = b64::decode(text(&case["sealed_code"])).unwrap();
        assert!(open_code(&sealed, &psk, &array(&case["request_signature_hex"])).is_err(), "{case}");
    }
}
