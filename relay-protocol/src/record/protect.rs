//! What protects a record: one pair of traits, and what goes in and out of them.

use super::{
    Kind, RecordError,
    header::{HEADER_LEN, Header},
    signed::SIGNED_LEN,
};
use crate::keys::SignatureBytes;
use bytes::{BufMut, Bytes, BytesMut};

/// Which way a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the browser to the agent.
    ToAgent = 0,
    /// From the agent to the browser.
    ToBrowser = 1,
}

/// The bytes after the payload; at most [`SIGNED_LEN`], which is the longest form's.
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
    pub(super) fn new(header: Header, payload: Bytes, protection: Protection) -> Self {
        Self { header: header.to_bytes(), payload, protection }
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

/// A payload as it came.
#[derive(Debug)]
pub enum Payload {
    /// Nobody else holds it: it can be decrypted where it is.
    Own(BytesMut),
    /// Somebody else may look at it.
    Shared(Bytes),
}

impl Payload {
    /// As it is, without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Own(bytes) => bytes.freeze(),
            Self::Shared(bytes) => bytes,
        }
    }

    /// To be altered; copied only when somebody else holds it.
    pub fn into_mut(self) -> BytesMut {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared)),
        }
    }
}

/// Opens the records of one direction, in their order.
pub trait Open {
    /// The bytes that each record has after its payload.
    fn overhead(&self) -> usize;

    /// Whether records of this form may go on to another epoch.
    fn epochs(&self) -> bool {
        false
    }

    /// Verifies the next record and gives its payload, whose length is the header's. After an error the
    /// stream is over.
    fn open(&mut self, header: Header, payload: Payload, protection: &[u8]) -> Result<Opened, RecordError>;
}
