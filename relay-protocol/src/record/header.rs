//! The five bytes before a payload: its length and what it is.

use super::{Kind, RecordError};

/// The bytes before the payload.
pub const HEADER_LEN: usize = 5;

/// The bit of `type` by which a sender says that it has gone on to the next key (PROTOCOL.md section 5.2).
pub const NEXT_EPOCH: u8 = 0x80;

/// A header that is within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// The length of its payload.
    pub length: usize,
    /// Whether its sender goes on to the next epoch with it. Never in the signed form.
    pub next_epoch: bool,
}

impl Header {
    /// The header of a payload.
    ///
    /// # Errors
    /// [`RecordError::BadLength`] when the kind does not allow so many bytes, or so few.
    pub fn new(kind: Kind, length: usize) -> Result<Self, RecordError> {
        if kind.lengths().contains(&length) {
            Ok(Self { kind, length, next_epoch: false })
        } else {
            Err(RecordError::BadLength)
        }
    }

    /// Reads a header; `epochs` says whether the form knows them.
    pub(super) fn parse(bytes: [u8; HEADER_LEN], epochs: bool) -> Result<Self, RecordError> {
        let [a, b, c, d, kind] = bytes;
        let next_epoch = epochs && kind & NEXT_EPOCH != 0;
        let kind = if next_epoch { kind & !NEXT_EPOCH } else { kind };
        let kind = Kind::from_u8(kind).ok_or(RecordError::UnknownType)?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| RecordError::BadLength)?;
        Ok(Self { next_epoch, ..Self::new(kind, length)? })
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        // No kind allows more than 4 MiB.
        let [a, b, c, d] = (self.length as u32).to_be_bytes();
        [a, b, c, d, self.kind as u8 | if self.next_epoch { NEXT_EPOCH } else { 0 }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_is_read_only_where_there_are_epochs() {
        for kind in Kind::ALL {
            let length = *kind.lengths().start();
            let header = Header { next_epoch: true, ..Header::new(kind, length).unwrap() };
            assert_eq!(header.to_bytes()[4], kind as u8 | 0x80);
            assert_eq!(Header::parse(header.to_bytes(), true), Ok(header));
            assert_eq!(Header::parse(header.to_bytes(), false), Err(RecordError::UnknownType));
            let header = Header { next_epoch: false, ..header };
            assert_eq!(Header::parse(header.to_bytes(), true), Ok(header));
            assert_eq!(Header::parse(header.to_bytes(), false), Ok(header));
        }
        for kind in [0, 10, 0x7f, 0x80, 0x8a, 0xff] {
            assert_eq!(Header::parse([0, 0, 0, 2, kind], true), Err(RecordError::UnknownType), "{kind}");
        }
        assert_eq!(Header::parse([0xff, 0xff, 0xff, 0xff, 0x81], true), Err(RecordError::BadLength));
    }
}
