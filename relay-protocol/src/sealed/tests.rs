use super::*;
use crate::{
    exchange::Prelude,
    keys::{AgentDhKey, BrowserDhKey},
    pairing::Psk,
    record::Direction,
};
use rand::{SeedableRng, rngs::StdRng};
use uuid::Uuid;

const HOST: Uuid = Uuid::from_u128(1);
const CLIENT: Uuid = Uuid::from_u128(2);

struct Ends {
    agent: AgentDhKey,
    browser: BrowserDhKey,
    psk: Psk,
}

fn ends(seed: u64) -> Ends {
    let mut rng = StdRng::seed_from_u64(seed);
    let (agent, browser) = (AgentDhKey::generate(&mut rng), BrowserDhKey::generate(&mut rng));
    Ends { agent, browser, psk: Psk::from_bytes(&[seed as u8; 32]) }
}

fn start(ends: &Ends, profile: Profile) -> (Initiator, [u8; FIRST_LEN]) {
    let Ends { agent, browser, psk } = ends;
    let agent = agent.public_key();
    let start = Start { profile, key: browser, agent: &agent, psk, host_id: HOST, client_id: CLIENT };
    Initiator::start(&start).unwrap()
}

fn respond(
    ends: &Ends,
    profile: Profile,
    first: &[u8],
) -> Result<([u8; SECOND_LEN], SessionKeys), HandshakeError> {
    let Ends { agent, browser, psk } = ends;
    let browser = browser.public_key();
    Responder { profile, key: agent, browser: &browser, psk, host_id: HOST, client_id: CLIENT }.respond(first)
}

fn key(keys: &SessionKeys) -> [u8; 32] {
    *keys.record_key(&Prelude { session_id: HOST, number: 0 }, Direction::ToAgent, 0).unwrap()
}

#[test]
fn both_ends_have_the_same_keys_and_no_two_handshakes_have() {
    let ends = ends(1);
    for profile in Profile::ALL {
        let (initiator, first) = start(&ends, profile);
        let (second, agent) = respond(&ends, profile, &first).unwrap();
        let browser = initiator.finish(&second).unwrap();
        assert_eq!(agent.handshake_hash(), browser.handshake_hash());
        for direction in [Direction::ToAgent, Direction::ToBrowser] {
            assert_eq!(agent.reveal_split(direction), browser.reveal_split(direction));
        }
        assert_eq!(key(&agent), key(&browser));
        // A relay that brings the first message again gets an answer, and keys that nobody else has.
        let (again, other) = respond(&ends, profile, &first).unwrap();
        assert_ne!(second, again);
        assert_ne!(key(&agent), key(&other));
        let (later, _) = start(&ends, profile);
        assert_eq!(later.finish(&second).err(), Some(HandshakeError::NotOpened), "of another handshake");
    }
}

#[test]
fn any_flipped_bit_shows() {
    let ends = ends(2);
    for profile in Profile::ALL {
        let (_, first) = start(&ends, profile);
        for at in 0..FIRST_LEN {
            let mut altered = first;
            altered[at] ^= 1 << (at % 8);
            assert_eq!(respond(&ends, profile, &altered).err(), Some(HandshakeError::NotOpened), "{at}");
        }
        for at in 0..SECOND_LEN {
            let (initiator, first) = start(&ends, profile);
            let (mut second, _) = respond(&ends, profile, &first).unwrap();
            second[at] ^= 1 << (at % 8);
            assert_eq!(initiator.finish(&second).err(), Some(HandshakeError::NotOpened), "{at}");
        }
    }
}

#[test]
fn only_the_paired_key_is_answered() {
    let paired = ends(3);
    // Somebody else who knows the agent's public key and even the psk.
    let stranger = Ends { browser: ends(4).browser, agent: ends(3).agent, psk: paired.psk.clone() };
    for profile in Profile::ALL {
        let (_, first) = start(&stranger, profile);
        assert_eq!(respond(&paired, profile, &first).err(), Some(HandshakeError::OtherKey));
    }
}

#[test]
fn an_agent_with_another_psk_is_noticed() {
    let paired = ends(5);
    let other = Ends { psk: Psk::from_bytes(&[0; 32]), ..ends(5) };
    let (initiator, first) = start(&paired, Profile::NoiseIkPsk2);
    let (second, _) = respond(&other, Profile::NoiseIkPsk2, &first).unwrap();
    assert_eq!(initiator.finish(&second).err(), Some(HandshakeError::NotOpened));
}

#[test]
fn other_lengths_are_refused_before_anything_is_done() {
    let ends = ends(6);
    for length in [0, 1, 31, 32, FIRST_LEN - 1, FIRST_LEN + 1, 70_000] {
        let refused = respond(&ends, Profile::NoiseIkPsk2, &vec![9; length]);
        assert_eq!(refused.err(), Some(HandshakeError::Length), "{length}");
        let (initiator, _) = start(&ends, Profile::NoiseIkPsk2);
        assert_eq!(initiator.finish(&vec![9; length]).err(), Some(HandshakeError::Length), "{length}");
    }
}

#[test]
fn record_keys_differ_in_all_that_they_are_for() {
    let keys = SessionKeys::from_split(&[1; 32], &[1; 32], &[3; 32]);
    let mut seen = std::collections::HashSet::new();
    for session_id in [HOST, CLIENT] {
        for number in [0, 1, u64::MAX] {
            for direction in [Direction::ToAgent, Direction::ToBrowser] {
                for epoch in [0, 1, u32::MAX] {
                    let prelude = Prelude { session_id, number };
                    // Even though k0 and k1 are alike here.
                    assert!(seen.insert(*keys.record_key(&prelude, direction, epoch).unwrap()));
                }
            }
        }
    }
}

#[test]
fn secrets_do_not_print() {
    let keys = SessionKeys::from_split(&[1; 32], &[2; 32], &[3; 32]);
    let ends = ends(7);
    let (initiator, _) = start(&ends, Profile::NoiseIk);
    assert_eq!(format!("{keys:?} {initiator:?}"), "SessionKeys(***) Initiator(***)");
}

#[test]
fn the_member_of_the_session_messages() {
    let message = NoiseMessage { profile: Profile::NoiseIkPsk2, message: vec![1, 2, 3] };
    let json = serde_json::json!({"profile": "noise-ikpsk2", "message": "AQID"});
    assert_eq!(serde_json::to_value(&message).unwrap(), json);
    assert_eq!(serde_json::from_value::<NoiseMessage>(json).unwrap(), message);
    for bad in [
        r#"{"profile":"noise-xx","message":"AQID"}"#,
        r#"{"profile":"noise-ik","message":"AQI="}"#,
        r#"{"profile":"noise-ik"}"#,
    ] {
        assert!(serde_json::from_str::<NoiseMessage>(bad).is_err(), "{bad}");
    }
    for profile in Profile::ALL {
        assert_eq!(Profile::parse(profile.as_str()), Some(profile));
        assert_eq!(serde_json::to_value(profile).unwrap(), profile.as_str());
    }
}
