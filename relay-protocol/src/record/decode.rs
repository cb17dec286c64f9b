//! Records from bytes, however they were cut on the way.

use super::{
    Order, Record, RecordError,
    header::{HEADER_LEN, Header},
    protect::{Open, Payload},
};
use bytes::{Buf, Bytes, BytesMut};

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

    /// The next whole record, of whatever kind; `None` when more bytes are needed. After an error it is that error
    /// for ever.
    pub fn next_record(&mut self) -> Result<Option<Record>, RecordError> {
        self.decode_once(None)
    }

    /// The same in its order, which takes the record. A record that may not come is refused by its header, so that
    /// no more is held than what the largest kind allows that may come now.
    ///
    /// # Errors
    /// As [`Decoder::next_record`], and [`RecordError::OutOfOrder`].
    pub fn next_in(&mut self, order: &mut Order) -> Result<Option<Record>, RecordError> {
        self.decode_once(Some(order))
    }

    fn decode_once(&mut self, order: Option<&mut Order>) -> Result<Option<Record>, RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.decode(order);
        self.failed = result.as_ref().err().copied();
        result
    }

    fn decode(&mut self, order: Option<&mut Order>) -> Result<Option<Record>, RecordError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::parse(*header, self.open.epochs())?;
        if let Some(order) = &order {
            order.check(header.kind)?;
        }
        let overhead = self.open.overhead();
        if self.buffer.len() < HEADER_LEN + header.length + overhead {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let payload = Payload::Own(self.buffer.split_to(header.length));
        let protection = self.buffer.split_to(overhead);
        let payload = self.open.open(header, payload, &protection)?;
        if let Some(order) = order {
            order.next(header.kind)?;
        }
        Ok(Some(Record { kind: header.kind, payload }))
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

/// Opens a WebSocket message, which is exactly one record. The payload is copied only when it has to be
/// decrypted while somebody else holds it.
pub fn open_message(open: &mut impl Open, message: Bytes) -> Result<Record, RecordError> {
    let header = message.first_chunk::<HEADER_LEN>().ok_or(RecordError::Truncated)?;
    let header = Header::parse(*header, open.epochs())?;
    let end = HEADER_LEN + header.length;
    if message.len() != end + open.overhead() {
        return Err(RecordError::BadLength);
    }
    let payload = match message.try_into_mut() {
        Ok(mut own) => {
            let protection = own.split_off(end);
            own.advance(HEADER_LEN);
            open.open(header, Payload::Own(own), &protection)?
        }
        Err(shared) => {
            let protection = shared.slice(end..);
            open.open(header, Payload::Shared(shared.slice(HEADER_LEN..end)), &protection)?
        }
    };
    Ok(Record { kind: header.kind, payload })
}
