//! The fingerprint of a pairing, that a person compares on both screens (PROTOCOL.md section 3, step 6).

use crate::keys::{AgentVerifyingKey, BrowserVerifyingKey};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;

/// Eight bytes of a hash over both keys. Shows as `3f2a 91bc 07de 55a1`, in JSON too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u16; 4]);

impl Fingerprint {
    /// The fingerprint of a pairing of these two.
    pub fn new(agent: &AgentVerifyingKey, browser: &BrowserVerifyingKey) -> Self {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(b"relay-pairing/1 fingerprint")
            .chain_update(agent.as_bytes())
            .chain_update(browser.as_bytes())
            .finalize()
            .into();
        let mut groups = [0; 4];
        for (group, pair) in groups.iter_mut().zip(hash.as_chunks::<2>().0) {
            *group = u16::from_be_bytes(*pair);
        }
        Self(groups)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "{a:04x} {b:04x} {c:04x} {d:04x}")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
