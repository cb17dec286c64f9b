//! What protects a record: one pair of traits, and its signed form.

use super::{HEADER_LEN, Kind, RecordError};
use crate::keys::{Sign, SignatureBytes, Verify};
use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The bytes of the signed protection.
pub const SIGNED_LEN: usize = 64;

const LABEL: &[u8] = b"relay-record/1";

/// Which way a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the browser to the agent.
    ToAgent = 0,
    /// From the agent to the browser.
    ToBrowser = 1,
}

/// What binds records to one exchange of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The signing session.
    pub session_id: Uuid,
    /// SHA-256 of the request's 64 signature bytes.
    pub request_hash: [u8; 32],
}

/// The bytes after the payload; at most [`SIGNED_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    bytes: [u8; SIGNED_LEN],
    len: usize,
}

impl From<SignatureBytes> for Protection {
    fn from(bytes: SignatureBytes) -> Self {
        Self { bytes, len: SIGNED_LEN }
    }
}

impl From<[u8; 16]> for Protection {
    fn from(tag: [u8; 16]) -> Self {
        let mut bytes = [0; SIGNED_LEN];
        bytes.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
        Self { bytes, len: 16 }
    }
}

impl AsRef<[u8]> for Protection {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A record as it is sent, in three pieces, so that the payload is not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Length and type.
    pub header: [u8; HEADER_LEN],
    /// The payload, as it is protected.
    pub payload: Bytes,
    /// The protection.
    pub protection: Protection,
}

impl Frame {
    pub(super) fn new(kind: Kind, payload: Bytes, protection: Protection) -> Result<Self, RecordError> {
        let length = u32::try_from(payload.len()).map_err(|_| RecordError::BadLength)?;
        let [a, b, c, d] = length.to_be_bytes();
        Ok(Self { header: [a, b, c, d, kind as u8], payload, protection })
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        HEADER_LEN + self.payload.len() + self.protection.as_ref().len()
    }

    /// Never: there is always a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends the whole record to a buffer. This copies.
    pub fn write(&self, to: &mut BytesMut) {
        to.reserve(self.len());
        to.put_slice(&self.header);
        to.put_slice(&self.payload);
        to.put_slice(self.protection.as_ref());
    }

    /// The whole record as one piece: a WebSocket message. This copies.
    pub fn to_bytes(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(self.len());
        self.write(&mut buffer);
        buffer.freeze()
    }
}

/// Protects the records of one direction, in their order.
pub trait Protect {
    /// The bytes that it adds to each record.
    fn overhead(&self) -> usize;

    /// Protects the next record. A length that the kind does not allow is an error and counts as nothing.
    fn protect(&mut self, kind: Kind, payload: Bytes) -> Result<Frame, RecordError>;
}

/// What came out of a record.
pub type Opened = Bytes;

/// Opens the records of one direction, in their order.
pub trait Open {
    /// The bytes that each record has after its payload.
    fn overhead(&self) -> usize;

    /// Verifies the next record and gives its payload. After an error the stream is over.
    fn open(&mut self, kind: Kind, payload: Bytes, protection: &[u8]) -> Result<Opened, RecordError>;
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

/// The signed form: an Ed25519 signature for each record.
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
        if !kind.lengths().contains(&payload.len()) {
            return Err(RecordError::BadLength);
        }
        let signature = self.key.sign(&self.counter.text(kind, &payload)?);
        Frame::new(kind, payload, signature.into())
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

    fn open(&mut self, kind: Kind, payload: Bytes, protection: &[u8]) -> Result<Opened, RecordError> {
        let signature: &SignatureBytes = protection.try_into().map_err(|_| RecordError::Unprotected)?;
        let text = self.counter.text(kind, &payload)?;
        self.key.verify(&text, signature).map_err(|_| RecordError::Unprotected)?;
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::AgentSigningKey;

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

    #[test]
    fn a_shorter_protection_is_a_form_of_the_same_layer() {
        let frame = Frame::new(Kind::Data, Bytes::from_static(b"sealed"), [9; 16].into()).unwrap();
        assert_eq!(frame.len(), HEADER_LEN + 6 + 16);
        assert_eq!(&frame.to_bytes()[HEADER_LEN + 6..], &[9; 16]);
    }
}
