//! What a handshake gives, and the keys of records that come from it (PROTOCOL.md section 5.2).

use crate::{exchange::Prelude, record::Direction};
use hkdf::Hkdf;
use sha2::Sha256;
use std::{fmt, sync::Arc};
use zeroize::{Zeroize, Zeroizing};

const RECORD_LABEL: &[u8; 21] = b"relay-sealed/1 record";

/// A key could not be derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key could not be derived")]
pub struct KeyError;

/// The keys of a sealed session. Cheap to clone; wiped when the last clone is dropped; never prints.
#[derive(Clone)]
pub struct SessionKeys(Arc<Inner>);

struct Inner {
    /// k0, k1 of `Split()`: initiator to responder, responder to initiator.
    split: [[u8; 32]; 2],
    /// h.
    hash: [u8; 32],
    /// HKDF-Extract of each, once for all exchanges.
    extracted: [[u8; 32]; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.split.zeroize();
        self.hash.zeroize();
        self.extracted.zeroize();
    }
}

impl SessionKeys {
    /// The keys of a finished handshake: k0 (browser to agent), k1 (agent to browser) and its hash.
    pub fn from_split(to_agent: &[u8; 32], to_browser: &[u8; 32], hash: &[u8; 32]) -> Self {
        let extract = |key: &[u8; 32]| Zeroizing::new(Hkdf::<Sha256>::extract(Some(hash), key).0.into());
        let extracted: [Zeroizing<[u8; 32]>; 2] = [extract(to_agent), extract(to_browser)];
        let extracted = extracted.each_ref().map(|key| **key);
        Self(Arc::new(Inner { split: [*to_agent, *to_browser], hash: *hash, extracted }))
    }

    /// The key that `Split()` gave for a direction, for vectors.
    pub fn reveal_split(&self, direction: Direction) -> &[u8; 32] {
        let [to_agent, to_browser] = &self.0.split;
        match direction {
            Direction::ToAgent => to_agent,
            Direction::ToBrowser => to_browser,
        }
    }

    /// h, the hash of the whole handshake.
    pub fn handshake_hash(&self) -> &[u8; 32] {
        &self.0.hash
    }

    /// The AES-256 key of the records of one exchange, direction and epoch.
    ///
    /// # Errors
    /// Never, as far as HKDF goes: it fails only for an input that is shorter than a hash and for more than 255
    /// blocks. But no key that was not derived is ever given away as one.
    pub fn record_key(
        &self,
        prelude: &Prelude,
        direction: Direction,
        epoch: u32,
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let [to_agent, to_browser] = &self.0.extracted;
        let extracted = match direction {
            Direction::ToAgent => to_agent,
            Direction::ToBrowser => to_browser,
        };
        let mut key = Zeroizing::new([0; 32]);
        let info: [&[u8]; 4] = [RECORD_LABEL, &prelude.to_bytes(), &[direction as u8], &epoch.to_be_bytes()];
        let hkdf = Hkdf::<Sha256>::from_prk(extracted).map_err(|_| KeyError)?;
        hkdf.expand_multi_info(&info, &mut *key).map_err(|_| KeyError)?;
        Ok(key)
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(***)")
    }
}
