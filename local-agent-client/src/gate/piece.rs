//! A piece of an answer on its way to the relay: bytes as they are, or one record around them.
//!
//! A record is put around the local server's bytes without copying them.

use bytes::{Buf, Bytes};
use relay_protocol::record::Frame;
use std::io::IoSlice;

/// What goes out at once.
#[derive(Debug)]
pub enum Piece {
    /// As it is.
    Plain(Bytes),
    /// In a record.
    Record(Box<Record>),
}

/// A record that is written part by part.
#[derive(Debug)]
pub struct Record {
    frame: Frame,
    /// What of the header and the protection is written; the payload tells for itself.
    header_done: usize,
    protection_done: usize,
}

impl Record {
    fn parts(&self) -> [&[u8]; 3] {
        [
            self.frame.header.get(self.header_done..).unwrap_or_default(),
            &self.frame.payload,
            self.frame.protection.as_ref().get(self.protection_done..).unwrap_or_default(),
        ]
    }

    fn advance(&mut self, count: usize) {
        let [header, payload, _] = self.parts().map(<[u8]>::len);
        let of_header = count.min(header);
        let of_payload = (count - of_header).min(payload);
        self.header_done += of_header;
        self.frame.payload.advance(of_payload);
        self.protection_done += count - of_header - of_payload;
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.remaining(),
            Self::Record(record) => record.parts().iter().map(|part| part.len()).sum(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes.chunk(),
            Self::Record(record) => {
                record.parts().into_iter().find(|part| !part.is_empty()).unwrap_or_default()
            }
        }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Plain(bytes) => bytes.chunks_vectored(into),
            Self::Record(record) => {
                let parts = record.parts().into_iter().filter(|part| !part.is_empty());
                into.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
            }
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Plain(bytes) => bytes.advance(count),
            Self::Record(record) => record.advance(count),
        }
    }
}

impl From<Frame> for Piece {
    fn from(frame: Frame) -> Self {
        Self::Record(Box::new(Record { frame, header_done: 0, protection_done: 0 }))
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self::Plain(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_the_same_however_it_is_written() {
        let protection = [2; 64].into();
        let record =
            || Piece::from(Frame { header: [1; 5], payload: Bytes::from_static(b"payload"), protection });
        let mut whole = record();
        let expected = whole.copy_to_bytes(whole.remaining());
        assert_eq!(expected.len(), 5 + 7 + 64);
        for step in 1..=expected.len() {
            let (mut piece, mut got) = (record(), Vec::new());
            while piece.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = piece.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                assert_eq!(seen.len(), piece.remaining());
                assert!(seen.starts_with(piece.chunk()) && !piece.chunk().is_empty());
                let step = step.min(piece.remaining());
                got.extend_from_slice(&seen[..step]);
                piece.advance(step);
            }
            assert!(got == expected, "in steps of {step}");
        }
    }
}
