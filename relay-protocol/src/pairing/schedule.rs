//! What both ends derive from the SPAKE2 key, and the proofs by it (PROTOCOL.md section 3, steps 3 to 5).

use super::{PairingError, spake::Message};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::fmt;
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

/// The browser's identity in SPAKE2 and the transcript.
pub const BROWSER_IDENTITY: &str = "relay-pairing/1 browser";

/// The agent's identity: with the host's id, so that a code is good for one host.
pub fn agent_identity(host_id: Uuid) -> String {
    format!("relay-pairing/1 agent {host_id}")
}

/// An HMAC-SHA256 that proves knowledge of the code.
pub type Proof = [u8; 32];

/// T: the hash of all that both ends must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript(pub [u8; 32]);

impl Transcript {
    /// The hash over version, identities and messages, each preceded by its length as u16, big-endian.
    pub fn new(host_id: Uuid, message_a: &Message, message_b: &Message) -> Self {
        let agent = agent_identity(host_id);
        let parts: [&[u8]; 5] = [b"1", BROWSER_IDENTITY.as_bytes(), agent.as_bytes(), message_a, message_b];
        let mut hash = Sha256::new();
        for part in parts {
            // The longest is 59 bytes.
            hash.update((part.len() as u16).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

macro_rules! secret {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[doc = "Wiped when it is dropped; prints as stars and does not compare."]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key of these bytes.
            pub fn from_bytes(bytes: &[u8; 32]) -> Self {
                Self(*bytes)
            }

            /// Its bytes, to be stored where only the owner reads.
            pub fn reveal_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(***)"))
            }
        }
    };
}

secret!(BrowserConfirmKey, "The key by which the browser proves its claims.");
secret!(AgentConfirmKey, "The key by which the agent proves its claims.");
secret!(Psk, "The secret that a paired browser and its agent keep.");

impl Clone for Psk {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

/// The three keys of one exchange.
#[derive(Debug)]
pub struct KeySchedule {
    /// The browser proves by it.
    pub browser: BrowserConfirmKey,
    /// The agent proves by it.
    pub agent: AgentConfirmKey,
    /// What both keep.
    pub psk: Psk,
}

impl KeySchedule {
    /// HKDF-SHA256 with the transcript as salt and SPAKE2's key as input.
    pub fn derive(transcript: &Transcript, spake2_key: &[u8; 32]) -> Self {
        Self {
            browser: BrowserConfirmKey(*hkdf32(
                &transcript.0,
                spake2_key,
                b"relay-pairing/1 confirm browser",
            )),
            agent: AgentConfirmKey(*hkdf32(&transcript.0, spake2_key, b"relay-pairing/1 confirm agent")),
            psk: Psk(*hkdf32(&transcript.0, spake2_key, b"relay-pairing/1 psk")),
        }
    }
}

/// 32 bytes of HKDF-SHA256 (RFC 5869).
pub(super) fn hkdf32(salt: &[u8; 32], ikm: &[u8; 32], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    // Fails only for more than 255 blocks; this is one.
    let expanded = Hkdf::<Sha256>::new(Some(salt), ikm).expand(info, &mut *key);
    debug_assert!(expanded.is_ok());
    key
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of any length: there is always one.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(part);
    }
    Some(mac)
}

fn prove(key: &[u8; 32], parts: &[&[u8]]) -> Proof {
    mac(key, parts).map(|mac| mac.finalize().into_bytes().into()).unwrap_or_default()
}

/// In constant time.
fn verify(key: &[u8; 32], parts: &[&[u8]], proof: &[u8]) -> Result<(), PairingError> {
    let mac = mac(key, parts).ok_or(PairingError::WrongProof)?;
    mac.verify_slice(proof).map_err(|_| PairingError::WrongProof)
}

fn id_text(pairing_id: Uuid, buffer: &mut [u8; 36]) -> &[u8] {
    pairing_id.hyphenated().encode_lower(buffer).as_bytes()
}

impl BrowserConfirmKey {
    /// The proof of the browser's claims.
    pub fn prove(&self, pairing_id: Uuid, claims: &[u8]) -> Proof {
        prove(&self.0, &[id_text(pairing_id, &mut [0; 36]), claims])
    }

    /// Whether a proof is right, in constant time.
    pub fn verify(&self, pairing_id: Uuid, claims: &[u8], proof: &[u8]) -> Result<(), PairingError> {
        verify(&self.0, &[id_text(pairing_id, &mut [0; 36]), claims], proof)
    }
}

impl AgentConfirmKey {
    /// The proof of the agent's claims, which answer the browser's.
    pub fn prove(&self, pairing_id: Uuid, browser_claims: &[u8], claims: &[u8]) -> Proof {
        prove(&self.0, &[id_text(pairing_id, &mut [0; 36]), browser_claims, claims])
    }

    /// Whether a proof is right, in constant time.
    pub fn verify(
        &self,
        pairing_id: Uuid,
        browser_claims: &[u8],
        claims: &[u8],
        proof: &[u8],
    ) -> Result<(), PairingError> {
        verify(&self.0, &[id_text(pairing_id, &mut [0; 36]), browser_claims, claims], proof)
    }
}
