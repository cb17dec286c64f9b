//! Handshake messages of sealed sessions: an answer and no panic; what an honest peer did not make does not
//! open, whatever was altered in it.
//!
//! The first byte chooses the profile; the others are a message, and changes to the bytes of right ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_protocol::{
    keys::{AgentDhKey, BrowserDhKey},
    pairing::Psk,
    sealed::{Initiator, NoiseMessage, Profile, Responder, Start},
};
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let _ = serde_json::from_slice::<NoiseMessage>(data);
    let Some((choice, message)) = data.split_first() else { return };
    let profile = Profile::ALL[usize::from(choice % 2)];
    let (agent, browser) = (AgentDhKey::from_bytes(&[1; 32]), BrowserDhKey::from_bytes(&[2; 32]));
    let (agent_public, browser_public) = (agent.public_key(), browser.public_key());
    let (psk, host_id, client_id) = (Psk::from_bytes(&[3; 32]), Uuid::from_u128(4), Uuid::from_u128(5));
    let responder =
        Responder { profile, key: &agent, browser: &browser_public, psk: &psk, host_id, client_id };
    let start = Start { profile, key: &browser, agent: &agent_public, psk: &psk, host_id, client_id };
    let begin = || Initiator::start_for_vectors(&start, &[6; 32]).unwrap();
    let (initiator, first) = begin();
    let (second, keys) = responder.respond_for_vectors(&first, &[7; 32]).unwrap();
    let same = initiator.finish(&second).unwrap();
    assert_eq!(same.handshake_hash(), keys.handshake_hash());

    for bytes in [message.to_vec(), changed(&first, message)] {
        assert!(bytes == first || responder.respond(&bytes).is_err());
    }
    for bytes in [message.to_vec(), changed(&second, message)] {
        assert!(bytes == second || begin().0.finish(&bytes).is_err());
    }
});

fn changed(right: &[u8], by: &[u8]) -> Vec<u8> {
    let by = by.iter().chain(std::iter::repeat(&0));
    right.iter().zip(by).map(|(right, by)| right ^ by).collect()
}
