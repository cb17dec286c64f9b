//! Either form behind one type: who serves signed and sealed sessions chooses once, and has one code path.

use super::{
    Kind, RecordError,
    header::Header,
    protect::{Direction, Frame, Open, Opened, Payload, Protect},
    sealed::{Clock, SealedOpen, SealedProtect},
    signed::{Binding, SignedOpen, SignedProtect},
};
use crate::{
    exchange::Prelude,
    keys::{Sign, Verify},
    sealed::SessionKeys,
};
use bytes::Bytes;

/// Protects in the form of its session.
#[derive(Debug)]
pub enum Protector<K> {
    /// By signatures.
    Signed(SignedProtect<K>),
    /// By sealing.
    Sealed(Box<SealedProtect>),
}

impl<K: Sign> Protector<K> {
    /// A signed session's.
    pub fn signed(key: K, binding: Binding, direction: Direction) -> Self {
        Self::Signed(SignedProtect::new(key, binding, direction))
    }

    /// A sealed session's.
    pub fn sealed(keys: &SessionKeys, prelude: &Prelude, direction: Direction, clock: Clock) -> Self {
        Self::Sealed(Box::new(SealedProtect::new(keys, prelude, direction, clock)))
    }
}

impl<K: Sign> Protect for Protector<K> {
    fn overhead(&self) -> usize {
        match self {
            Self::Signed(form) => form.overhead(),
            Self::Sealed(form) => form.overhead(),
        }
    }

    fn protect(&mut self, kind: Kind, payload: Bytes) -> Result<Frame, RecordError> {
        match self {
            Self::Signed(form) => form.protect(kind, payload),
            Self::Sealed(form) => form.protect(kind, payload),
        }
    }
}

/// Opens in the form of its session.
#[derive(Debug)]
pub enum Opener<K> {
    /// What is signed.
    Signed(SignedOpen<K>),
    /// What is sealed.
    Sealed(Box<SealedOpen>),
}

impl<K: Verify> Opener<K> {
    /// A signed session's.
    pub fn signed(key: K, binding: Binding, direction: Direction) -> Self {
        Self::Signed(SignedOpen::new(key, binding, direction))
    }

    /// A sealed session's.
    pub fn sealed(keys: &SessionKeys, prelude: &Prelude, direction: Direction) -> Self {
        Self::Sealed(Box::new(SealedOpen::new(keys, prelude, direction)))
    }
}

impl<K: Verify> Open for Opener<K> {
    fn overhead(&self) -> usize {
        match self {
            Self::Signed(form) => form.overhead(),
            Self::Sealed(form) => form.overhead(),
        }
    }

    fn epochs(&self) -> bool {
        match self {
            Self::Signed(form) => form.epochs(),
            Self::Sealed(form) => form.epochs(),
        }
    }

    fn open(&mut self, header: Header, payload: Payload, protection: &[u8]) -> Result<Opened, RecordError> {
        match self {
            Self::Signed(form) => form.open(header, payload, protection),
            Self::Sealed(form) => form.open(header, payload, protection),
        }
    }
}
