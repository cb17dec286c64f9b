//! Records from bytes, however they were cut on the way.

use super::{HEADER_LEN, Kind, Record, RecordError, protect::Open};
use bytes::{Buf, Bytes, BytesMut};

/// The length and the kind that a header announces, within the limits.
fn parse_header(header: [u8; HEADER_LEN]) -> Result<(Kind, usize), RecordError> {
    let [a, b, c, d, kind] = header;
    let kind = Kind::from_u8(kind).ok_or(RecordError::UnknownType)?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| RecordError::BadLength)?;
    if kind.lengths().contains(&length) { Ok((kind, length)) } else { Err(RecordError::BadLength) }
}

/// Decodes one direction of a stream. It holds what came of one record and not yet all of it, so at most
/// what the largest kind allows, and refuses a length before it waits for so many bytes.
#[derive(Debug)]
pub struct Decoder<O> {
    open: O,
    buffer: BytesMut,
    failed: Option<RecordError>,
}

impl<O: Open> Decoder<O> {
    /// A decoder at the first record.
    pub fn new(open: O) -> Self {
        Self { open, buffer: BytesMut::new(), failed: None }
    }

    /// Takes a piece of the stream. Take every [`Decoder::next_record`] out before the next piece.
    pub fn push(&mut self, piece: Bytes) {
        if self.buffer.is_empty() {
            // Not copied when nobody else holds it.
            self.buffer = piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
        } else {
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// The next whole record; `None` when more bytes are needed. After an error it is that error for ever.
    pub fn next_record(&mut self) -> Result<Option<Record>, RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.decode();
        self.failed = result.as_ref().err().copied();
        result
    }

    fn decode(&mut self) -> Result<Option<Record>, RecordError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (kind, length) = parse_header(*header)?;
        let overhead = self.open.overhead();
        if self.buffer.len() < HEADER_LEN + length + overhead {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let payload = self.buffer.split_to(length).freeze();
        let protection = self.buffer.split_to(overhead);
        let payload = self.open.open(kind, payload, &protection)?;
        Ok(Some(Record { kind, payload }))
    }

    /// The end of the stream: an error when a record is incomplete. Whether it was the right end is
    /// [`super::Order`]'s to say.
    pub fn finish(&self) -> Result<(), RecordError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.buffer.is_empty() => Ok(()),
            None => Err(RecordError::Truncated),
        }
    }
}

/// Opens a WebSocket message, which is exactly one record. The payload is not copied.
pub fn open_message(open: &mut impl Open, mut message: Bytes) -> Result<Record, RecordError> {
    let header = message.first_chunk::<HEADER_LEN>().ok_or(RecordError::Truncated)?;
    let (kind, length) = parse_header(*header)?;
    if message.len() != HEADER_LEN + length + open.overhead() {
        return Err(RecordError::BadLength);
    }
    message.advance(HEADER_LEN);
    let payload = message.split_to(length);
    let payload = open.open(kind, payload, &message)?;
    Ok(Record { kind, payload })
}
