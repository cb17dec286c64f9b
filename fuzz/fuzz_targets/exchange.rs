//! An exchange as it comes from a stranger: prelude, records, HEAD of a request. An answer and no panic, the
//! same however it is cut; nothing opens that nobody sealed or signed, and what was sealed opens until the
//! first byte that was altered.
//!
//! The bytes are read three times: as they are, as the bytes of a URL, and as changes to a right exchange.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use relay_protocol::{
    exchange::{Numbers, PRELUDE_LEN, Prelude, RequestHead, decode_query, encode_query},
    keys::{BrowserSigningKey, BrowserVerifyingKey},
    record::{Decoder, Direction, Kind, Opener, Order, Protect, Protector, Record},
    sealed::SessionKeys,
};
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    stranger(data);
    if let Some((prelude, head)) = std::str::from_utf8(data).ok().and_then(decode_query) {
        assert_eq!(encode_query(&prelude, &head).as_deref().map(str::as_bytes), Some(data));
    }
    head(data);
    altered(data);
    numbers(data);
});

fn keys() -> SessionKeys {
    SessionKeys::from_split(&[1; 32], &[2; 32], &[3; 32])
}

fn openers(prelude: &Prelude) -> [Opener<BrowserVerifyingKey>; 2] {
    let key = BrowserSigningKey::from_seed(&[7; 32]).verifying_key();
    [
        Opener::sealed(&keys(), prelude, Direction::ToAgent),
        Opener::signed(key, prelude.binding(), Direction::ToAgent),
    ]
}

fn decode(open: Opener<BrowserVerifyingKey>, stream: &[u8], piece: usize) -> Vec<Record> {
    let mut decoder = Decoder::new(open);
    let mut records = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Ok(Some(record)) = decoder.next_record() {
            records.push(record);
        }
    }
    records
}

/// Whoever has no keys gets nothing opened.
fn stranger(data: &[u8]) {
    let Some((prelude, records)) = data.split_first_chunk::<PRELUDE_LEN>() else { return };
    let prelude = Prelude::from_bytes(prelude);
    assert_eq!(Prelude::from_b64(&prelude.to_b64()), Ok(prelude));
    for open in openers(&prelude) {
        assert!(decode(open, records, records.len().max(1)).is_empty());
    }
}

fn head(data: &[u8]) {
    let Ok(head) = RequestHead::decode(data) else { return };
    assert!(head.target.as_str().starts_with('/') && !head.target.as_str().contains(['#', ' ', '\r', '\n']));
    if let Ok(payload) = head.encode() {
        assert_eq!(RequestHead::decode(&payload), Ok(head));
    }
}

/// The first two bytes say where in a right exchange the others are put.
fn altered(data: &[u8]) {
    let Some(([a, b], with)) = data.split_first_chunk::<2>() else { return };
    let prelude = Prelude { session_id: Default::default(), number: 9 };
    let mut protect =
        Protector::<BrowserSigningKey>::sealed(&keys(), &prelude, Direction::ToAgent, Arc::new(|| 0));
    let sent = [(Kind::Head, &b"{}"[..]), (Kind::Data, b"body"), (Kind::End, b"")];
    let right: Vec<u8> = sent
        .iter()
        .flat_map(|(kind, payload)| protect.protect(*kind, Bytes::from_static(payload)).unwrap().to_bytes())
        .collect();
    let at = usize::from(u16::from_be_bytes([*a, *b])) % right.len();
    let mut stream = right.clone();
    stream.splice(at..at, with.iter().copied());
    let [sealed, _] = openers(&prelude);
    let [bytewise, _] = openers(&prelude);
    let records = decode(sealed, &stream, stream.len());
    assert_eq!(decode(bytewise, &stream, 1), records);
    let mut order = Order::request();
    for (record, (kind, payload)) in records.iter().zip(sent) {
        assert_eq!((record.kind, &record.payload[..]), (kind, payload));
        assert!(order.next(record.kind).is_ok());
    }
    assert!(records.len() <= sent.len());
    if stream == right {
        assert!(order.finish().is_ok());
    }
}

/// No number is let through twice.
fn numbers(data: &[u8]) {
    let (mut numbers, mut seen) = (Numbers::sealed(), std::collections::HashSet::new());
    for number in data.chunks_exact(3) {
        let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        if numbers.take(number).is_ok() {
            assert!(seen.insert(number));
        }
        assert!(numbers.take(number).is_err());
    }
}
