//! Record streams and payloads: an answer and no panic, lengths within the limits of their types, the same
//! records however the stream is cut; nothing opens that nobody protected.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use relay_protocol::{
    keys::AgentSigningKey,
    record::{
        Binding, Close, Decoder, Direction, Head, Header, Open, Opened, Payload, Record, RecordError,
        SignedOpen, decode_error, decode_trailers, encode_trailers, open_message,
    },
};

/// A protection of one byte that is always right, so that the framing behind it is reached.
struct Given;

impl Open for Given {
    fn overhead(&self) -> usize {
        1
    }

    fn open(&mut self, _: Header, payload: Payload, _: &[u8]) -> Result<Opened, RecordError> {
        Ok(payload.into_bytes())
    }
}

fuzz_target!(|data: &[u8]| {
    let (whole, ended) = decode(data, data.len().max(1));
    assert_eq!(decode(data, 1), (whole.clone(), ended));
    for Record { kind, payload } in &whole {
        assert!(kind.lengths().contains(&payload.len()));
        payloads(payload);
    }
    payloads(data);
    let key = AgentSigningKey::from_seed(&[7; 32]).verifying_key();
    let binding = Binding { session_id: Default::default(), request_hash: [0; 32] };
    let mut open = SignedOpen::new(key, binding, Direction::ToBrowser);
    assert!(open_message(&mut open, Bytes::copy_from_slice(data)).is_err());
});

fn decode(stream: &[u8], piece: usize) -> (Vec<Record>, Result<(), RecordError>) {
    let mut decoder = Decoder::new(Given);
    let mut records = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Ok(Some(record)) = decoder.next_record() {
            records.push(record);
        }
    }
    (records, decoder.finish())
}

fn payloads(payload: &[u8]) {
    if let Ok(head) = Head::decode(payload) {
        assert_eq!(Head::decode(&head.encode().unwrap_or_default()).as_ref(), Ok(&head));
    }
    if let Ok(trailers) = decode_trailers(payload) {
        assert_eq!(decode_trailers(&encode_trailers(&trailers)), Ok(trailers));
    }
    if let Ok(close) = Close::decode(payload) {
        assert_eq!(Close::encode(close.as_ref()), payload);
    }
    let _ = decode_error(payload);
}
