//! Record streams and their payloads.

use super::{array, headers, list, load, text, unhex};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use relay_protocol::{
    keys::{AgentSigningKey, AgentVerifyingKey, BrowserSigningKey, Sign, Verify},
    record::{
        Binding, Close, Decoder, Direction, Head, Kind, Open, Order, Phase, Protect, RecordError, SignedOpen,
        SignedProtect, decode_trailers, encode_trailers, open_message, signed_text,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

fn binding(file: &Value) -> Binding {
    let request_hash: [u8; 32] = Sha256::digest(unhex(&file["request_signature_hex"])).into();
    assert_eq!(request_hash, array(&file["request_hash_hex"]));
    Binding { session_id: Uuid::try_parse(text(&file["session_id"])).unwrap(), request_hash }
}

fn each_record(file: &Value, cases: &Value, key: impl Sign, verify: impl Verify, direction: Direction) {
    let mut protect = SignedProtect::new(key, binding(file), direction);
    let mut open = SignedOpen::new(verify, binding(file), direction);
    for case in list(cases) {
        let kind = Kind::from_u8(u8::try_from(case["type"].as_u64().unwrap()).unwrap()).unwrap();
        let payload = Bytes::from(unhex(&case["payload_hex"]));
        let signed =
            signed_text(&binding(file), direction, case["sequence"].as_u64().unwrap(), kind, &payload);
        assert_eq!(signed, unhex(&case["signed_text_hex"]));
        let frame = protect.protect(kind, payload.clone()).unwrap();
        assert_eq!(frame.protection.as_ref(), unhex(&case["protection_hex"]));
        assert_eq!(frame.to_bytes(), unhex(&case["record_hex"]));
        let record = open_message(&mut open, frame.to_bytes()).unwrap();
        assert_eq!((record.kind, record.payload), (kind, payload));
    }
}

#[test]
fn records_of_both_directions() {
    let file = load("record_signed.json");
    let agent = AgentSigningKey::from_seed(&array(&file["agent_seed_hex"]));
    let browser = BrowserSigningKey::from_seed(&array(&file["browser_seed_hex"]));
    each_record(&file, &file["answer"], &agent, agent.verifying_key(), Direction::ToBrowser);
    each_record(&file, &file["to_agent"], &browser, browser.verifying_key(), Direction::ToAgent);
}

/// What a browser says of an answer's stream that comes in pieces.
pub fn read(stream: &[u8], piece: usize, open: impl Open) -> &'static str {
    let mut decoder = Decoder::new(open);
    let mut order = Order::answer();
    let mut last = None;
    let mut run = || -> Result<(), RecordError> {
        for piece in stream.chunks(piece) {
            decoder.push(Bytes::copy_from_slice(piece));
            if order.phase() == Phase::Ended {
                return Err(RecordError::OutOfOrder);
            }
            while let Some(record) = decoder.next_record()? {
                order.next(record.kind)?;
                last = Some(record.kind);
            }
        }
        match decoder.finish() {
            Err(_) if order.phase() == Phase::Ended => Err(RecordError::OutOfOrder),
            finished => finished.and_then(|()| order.finish()),
        }
    };
    match run() {
        Ok(()) if last == Some(Kind::Error) => "error_record",
        Ok(()) => "ok",
        Err(RecordError::Truncated) => "truncated",
        Err(RecordError::Unprotected) => "unprotected",
        Err(RecordError::OutOfOrder) => "out_of_order",
        Err(RecordError::UnknownType) => "unknown_type",
        Err(RecordError::BadLength) => "bad_length",
        Err(RecordError::BadPayload) => "bad_payload",
        Err(RecordError::TooMany) => "too_many",
    }
}

#[test]
fn streams_however_they_are_cut() {
    let file = load("record_signed.json");
    let key = AgentVerifyingKey::from_bytes(&array(&file["agent_public_hex"])).unwrap();
    for case in list(&file["streams"]) {
        let stream = unhex(&case["stream_hex"]);
        for piece in [1, 7, 64, 4096] {
            let open = SignedOpen::new(key, binding(&file), Direction::ToBrowser);
            assert_eq!(read(&stream, piece, open), text(&case["expect"]), "{case}");
        }
    }
}

#[test]
fn payloads() {
    let file = load("record_payload.json");
    for case in list(&file["head"]) {
        let head = Head::decode(text(&case["json"]).as_bytes()).unwrap();
        assert_eq!(head.status.as_u16(), case["status"].as_u64().unwrap() as u16);
        let mut expected = HeaderMap::new();
        for field in case["headers_hex"].as_array().unwrap() {
            expected.append(
                HeaderName::try_from(text(&field[0])).unwrap(),
                HeaderValue::from_bytes(&unhex(&field[1])).unwrap(),
            );
        }
        assert_eq!(head.headers, expected);
        assert_eq!(Head::decode(&head.encode().unwrap()), Ok(head));
    }
    for case in list(&file["bad_head"]) {
        assert_eq!(Head::decode(&unhex(&case["payload_hex"])), Err(RecordError::BadPayload), "{case}");
    }
    for case in list(&file["end"]) {
        let trailers = decode_trailers(text(&case["payload"]).as_bytes()).unwrap();
        assert_eq!(trailers, headers(&case["trailers"]));
        assert_eq!(encode_trailers(&trailers), text(&case["payload"]));
    }
    for case in list(&file["bad_end"]) {
        assert!(decode_trailers(&unhex(&case["payload_hex"])).is_err(), "{case}");
    }
    for case in list(&file["close"]) {
        let payload = unhex(&case["payload_hex"]);
        let close = Close::decode(&payload).unwrap();
        assert_eq!(json!(close.as_ref().map(|close| close.code)), case["code"]);
        assert_eq!(json!(close.as_ref().map(|close| &close.reason)), case["reason"]);
        assert_eq!(Close::encode(close.as_ref()), payload);
    }
    for case in list(&file["bad_close"]) {
        assert!(Close::decode(&unhex(&case["payload_hex"])).is_err(), "{case}");
    }
}
