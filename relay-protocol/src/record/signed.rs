//! The signed form: an Ed25519 signature for each record.

use super::{
    Kind, RecordError,
    header::Header,
    protect::{Direction, Frame, Open, Opened, Payload, Protect},
};
use crate::keys::{Sign, SignatureBytes, Verify};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The bytes of the signed protection.
pub const SIGNED_LEN: usize = 64;

const LABEL: &[u8] = b"relay-record/1";

/// What binds records to one exchange of one session: [`crate::exchange::Prelude::binding`] for those of
/// section 5, whose hash stands in place of the one of a request's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The signing session.
    pub session_id: Uuid,
    /// SHA-256 of the request's 64 signature bytes.
    pub request_hash: [u8; 32],
}

/// The text that is signed for one record, 124 bytes.
pub fn signed_text(
    binding: &Binding,
    direction: Direction,
    sequence: u64,
    kind: Kind,
    payload: &[u8],
) -> Vec<u8> {
    let mut text = Vec::with_capacity(128);
    text.extend_from_slice(LABEL);
    text.extend_from_slice(binding.session_id.hyphenated().encode_lower(&mut [0; 36]).as_bytes());
    text.extend_from_slice(&binding.request_hash);
    text.push(direction as u8);
    text.extend_from_slice(&sequence.to_be_bytes());
    text.push(kind as u8);
    text.extend_from_slice(&Sha256::digest(payload));
    text
}

/// Counts the records of one direction.
#[derive(Debug, Clone, Copy)]
struct Counter {
    binding: Binding,
    direction: Direction,
    next: u64,
}

impl Counter {
    fn text(&mut self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, RecordError> {
        let sequence = self.next;
        self.next = sequence.checked_add(1).ok_or(RecordError::TooMany)?;
        Ok(signed_text(&self.binding, self.direction, sequence, kind, payload))
    }
}

/// Signs.
#[derive(Debug)]
pub struct SignedProtect<K> {
    key: K,
    counter: Counter,
}

impl<K: Sign> SignedProtect<K> {
    /// Begins a direction at sequence 0.
    pub fn new(key: K, binding: Binding, direction: Direction) -> Self {
        Self { key, counter: Counter { binding, direction, next: 0 } }
    }
}

impl<K: Sign> Protect for SignedProtect<K> {
    fn overhead(&self) -> usize {
        SIGNED_LEN
    }

    fn protect(&mut self, kind: Kind, payload: Bytes) -> Result<Frame, RecordError> {
        let header = Header::new(kind, payload.len())?;
        let signature = self.key.sign(&self.counter.text(kind, &payload)?);
        Ok(Frame::new(header, payload, signature.into()))
    }
}

/// Verifies the signed form.
#[derive(Debug)]
pub struct SignedOpen<K> {
    key: K,
    counter: Counter,
}

impl<K: Verify> SignedOpen<K> {
    /// Begins a direction at sequence 0.
    pub fn new(key: K, binding: Binding, direction: Direction) -> Self {
        Self { key, counter: Counter { binding, direction, next: 0 } }
    }
}

impl<K: Verify> Open for SignedOpen<K> {
    fn overhead(&self) -> usize {
        SIGNED_LEN
    }

    fn open(&mut self, header: Header, payload: Payload, protection: &[u8]) -> Result<Opened, RecordError> {
        let signature: &SignatureBytes = protection.try_into().map_err(|_| RecordError::Unprotected)?;
        let payload = payload.into_bytes();
        let text = self.counter.text(header.kind, &payload)?;
        self.key.verify(&text, signature).map_err(|_| RecordError::Unprotected)?;
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys::AgentSigningKey, record::HEADER_LEN};

    fn protect() -> SignedProtect<AgentSigningKey> {
        let binding = Binding { session_id: Uuid::nil(), request_hash: [0; 32] };
        SignedProtect::new(AgentSigningKey::from_seed(&[1; 32]), binding, Direction::ToBrowser)
    }

    #[test]
    fn lengths_that_a_kind_does_not_allow_are_not_sent() {
        for kind in Kind::ALL {
            let (least, most) = (*kind.lengths().start(), *kind.lengths().end());
            let mut protect = protect();
            let mut send =
                |len: usize| protect.protect(kind, Bytes::from(vec![b'x'; len])).map(|frame| frame.len());
            assert_eq!(send(most + 1), Err(RecordError::BadLength), "{kind:?}");
            assert_eq!(send(most), Ok(HEADER_LEN + most + SIGNED_LEN), "{kind:?}");
            assert_eq!(send(least), Ok(HEADER_LEN + least + SIGNED_LEN), "{kind:?}");
            if least > 0 {
                assert_eq!(send(least - 1), Err(RecordError::BadLength), "{kind:?}");
            }
            assert_eq!(Kind::from_u8(kind as u8), Some(kind));
            assert_eq!(protect.counter.next, 2, "what was refused is not counted");
        }
    }

    #[test]
    fn the_payload_is_not_copied() {
        let payload = Bytes::from(vec![1; 1000]);
        let frame = protect().protect(Kind::Data, payload.clone()).unwrap();
        assert_eq!(frame.payload.as_ptr(), payload.as_ptr());
        let mut open =
            SignedOpen::new(protect().key.verifying_key(), protect().counter.binding, Direction::ToBrowser);
        let message = frame.to_bytes();
        let record = crate::record::open_message(&mut open, message.clone()).unwrap();
        assert_eq!(record.payload.as_ptr(), message[HEADER_LEN..].as_ptr());
    }

    #[test]
    fn a_counter_that_is_used_up_sends_nothing_more() {
        let mut protect = protect();
        protect.counter.next = u64::MAX;
        assert_eq!(protect.protect(Kind::End, Bytes::new()).err(), Some(RecordError::TooMany));
        assert_eq!(protect.protect(Kind::End, Bytes::new()).err(), Some(RecordError::TooMany));
    }
}
