//! The sealed form: AES-256-GCM under keys of this exchange, direction and epoch (PROTOCOL.md section 5.2).
//!
//! The nonce is the number of the record, the associated data its header. A key is left after a number of
//! records or a time, whichever is first: its sender decides and says so by a bit of the header, which is
//! protected as well; its receiver follows, and only counts.

use super::{
    Kind, RecordError,
    header::{HEADER_LEN, Header},
    protect::{Direction, Frame, Open, Opened, Payload, Protect},
};
use crate::{exchange::Prelude, sealed::SessionKeys};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use std::{fmt, sync::Arc};

/// The bytes of the sealed protection: the tag.
pub const SEALED_LEN: usize = 16;

/// How many records one key is for.
pub const EPOCH_RECORDS: u32 = 1 << 20;

/// How long one key is for, in seconds.
pub const EPOCH_SECONDS: u64 = 3600;

/// Tells the time in Unix seconds. One that is set, either way, costs an early change of the key.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The keys of one direction of an exchange, one after the other, and the count of its records.
struct Epochs {
    keys: SessionKeys,
    prelude: Prelude,
    direction: Direction,
    epoch: u32,
    /// Of the epoch; made for the first record.
    key: Option<LessSafeKey>,
    /// Records under this key.
    used: u32,
    sequence: u64,
}

impl Epochs {
    fn new(keys: &SessionKeys, prelude: &Prelude, direction: Direction) -> Self {
        let (keys, prelude) = (keys.clone(), *prelude);
        Self { keys, prelude, direction, epoch: 0, key: None, used: 0, sequence: 0 }
    }

    /// Goes on to the next key.
    fn advance(&mut self) -> Result<(), RecordError> {
        self.epoch = self.epoch.checked_add(1).ok_or(RecordError::TooMany)?;
        (self.key, self.used) = (None, 0);
        Ok(())
    }

    /// Key and nonce of the next record. Both are counted as used, whatever becomes of the record.
    fn next(&mut self) -> Result<(&LessSafeKey, Nonce), RecordError> {
        if self.used >= EPOCH_RECORDS {
            return Err(RecordError::TooMany);
        }
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(RecordError::TooMany)?;
        self.used += 1;
        let mut nonce = [0; 12];
        nonce.iter_mut().skip(4).zip(sequence.to_be_bytes()).for_each(|(to, from)| *to = from);
        let key = match &mut self.key {
            Some(key) => key,
            empty => {
                let key = self.keys.record_key(&self.prelude, self.direction, self.epoch);
                let key = key.map_err(|_| RecordError::Unprotected)?;
                // 32 bytes always are a key.
                let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| RecordError::Unprotected)?;
                empty.insert(LessSafeKey::new(key))
            }
        };
        Ok((key, Nonce::assume_unique_for_key(nonce)))
    }
}

impl fmt::Debug for Epochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epochs({}, record {})", self.epoch, self.sequence)
    }
}

/// Seals. There must be one at most for a prelude and direction: two would use a nonce twice.
pub struct SealedProtect {
    epochs: Epochs,
    clock: Clock,
    /// When the key was taken into use.
    since: i64,
}

impl SealedProtect {
    /// Begins a direction at sequence 0 and epoch 0.
    pub fn new(keys: &SessionKeys, prelude: &Prelude, direction: Direction, clock: Clock) -> Self {
        let since = clock();
        Self { epochs: Epochs::new(keys, prelude, direction), clock, since }
    }
}

impl Protect for SealedProtect {
    fn overhead(&self) -> usize {
        SEALED_LEN
    }

    fn protect(&mut self, kind: Kind, payload: Bytes) -> Result<Frame, RecordError> {
        let mut header = Header::new(kind, payload.len())?;
        let now = (self.clock)();
        if self.epochs.used >= EPOCH_RECORDS || now.abs_diff(self.since) >= EPOCH_SECONDS {
            self.epochs.advance()?;
            self.since = now;
            header.next_epoch = true;
        }
        let (key, nonce) = self.epochs.next()?;
        let mut payload = Payload::Shared(payload).into_mut();
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(header.to_bytes()), &mut payload)
            .map_err(|_| RecordError::Unprotected)?;
        let tag: [u8; SEALED_LEN] = tag.as_ref().try_into().map_err(|_| RecordError::Unprotected)?;
        Ok(Frame::new(header, payload.freeze(), tag.into()))
    }
}

impl fmt::Debug for SealedProtect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealedProtect").field(&self.epochs).finish()
    }
}

/// Opens what is sealed.
#[derive(Debug)]
pub struct SealedOpen(Epochs);

impl SealedOpen {
    /// Begins a direction at sequence 0 and epoch 0.
    pub fn new(keys: &SessionKeys, prelude: &Prelude, direction: Direction) -> Self {
        Self(Epochs::new(keys, prelude, direction))
    }
}

impl Open for SealedOpen {
    fn overhead(&self) -> usize {
        SEALED_LEN
    }

    fn epochs(&self) -> bool {
        true
    }

    fn open(&mut self, header: Header, payload: Payload, protection: &[u8]) -> Result<Opened, RecordError> {
        if header.next_epoch {
            self.0.advance()?;
        }
        let aad: [u8; HEADER_LEN] = header.to_bytes();
        let (key, nonce) = self.0.next()?;
        let mut payload = payload.into_mut();
        key.open_in_place_separate_tag(nonce, Aad::from(aad), protection, &mut payload)
            .map_err(|_| RecordError::Unprotected)?;
        Ok(payload.freeze())
    }
}

#[cfg(test)]
#[path = "sealed_tests.rs"]
mod tests;
