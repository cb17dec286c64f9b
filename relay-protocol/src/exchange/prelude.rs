//! The first 24 bytes of an exchange: which session, and which of its exchanges.

use crate::{
    keys::b64::{self, NotB64},
    record::Binding,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The bytes of a prelude.
pub const PRELUDE_LEN: usize = 24;

const LABEL: &[u8] = b"relay-exchange/1";

/// What an exchange begins with. Nobody vouches for it before the first record has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prelude {
    /// The session.
    pub session_id: Uuid,
    /// The number of the exchange, from 0.
    pub number: u64,
}

impl Prelude {
    /// Reads it. Every 24 bytes are one.
    pub fn from_bytes(bytes: &[u8; PRELUDE_LEN]) -> Self {
        let (mut id, mut number) = ([0; 16], [0; 8]);
        id.iter_mut().chain(&mut number).zip(bytes).for_each(|(to, from)| *to = *from);
        Self { session_id: Uuid::from_bytes(id), number: u64::from_be_bytes(number) }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; PRELUDE_LEN] {
        let mut bytes = [0; PRELUDE_LEN];
        let parts = self.session_id.into_bytes().into_iter().chain(self.number.to_be_bytes());
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        bytes
    }

    /// As it stands in `relay-exchange`.
    pub fn to_b64(&self) -> String {
        b64::encode(self.to_bytes())
    }

    /// Reads that.
    pub fn from_b64(text: &str) -> Result<Self, NotB64> {
        Ok(Self::from_bytes(&b64::decode_array(text)?))
    }

    /// What stands for the exchange where section 4 has the hash of a request's signature.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::new().chain_update(LABEL).chain_update(self.to_bytes()).finalize().into()
    }

    /// What binds the records of a signed session's exchange.
    pub fn binding(&self) -> Binding {
        Binding { session_id: self.session_id, request_hash: self.hash() }
    }
}
