//! Exchanges: how they begin, their records in both forms, and their refusals.

use super::{
    array, headers, list, load,
    record::read,
    sealed::{id, number, session_keys},
    text, unhex,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use relay_protocol::{
    exchange::{Numbers, Prelude, RequestHead, decode_query, encode_query},
    keys::{AgentSigningKey, AgentVerifyingKey, BrowserSigningKey, Sign, Verify},
    record::{
        Decoder, Direction, Kind, NEXT_EPOCH, Open, Opener, Protect, Protector, RecordError, SealedOpen,
        SignedOpen, open_message, signed_text,
    },
    signature::{
        base::{self, Asked, Message},
        refusal::{self, Refusal},
    },
};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

#[test]
fn preludes_and_queries() {
    let file = load("exchange_prelude.json");
    for case in list(&file["preludes"]) {
        let prelude = Prelude { session_id: id(&case["session_id"]), number: number(&case["number"]) };
        assert_eq!(prelude.to_bytes(), array(&case["prelude_hex"]));
        assert_eq!(Prelude::from_bytes(&array(&case["prelude_hex"])), prelude);
        assert_eq!(prelude.to_b64(), text(&case["prelude_b64"]));
        assert_eq!(Prelude::from_b64(text(&case["prelude_b64"])), Ok(prelude));
        assert_eq!(prelude.hash(), array(&case["hash_hex"]));
    }
    for case in list(&file["queries"]) {
        let prelude = Prelude::from_bytes(&array(&case["prelude_hex"]));
        let head = unhex(&case["head_hex"]);
        assert_eq!(encode_query(&prelude, &head).unwrap(), text(&case["query"]));
        assert_eq!(decode_query(text(&case["query"])), Some((prelude, Bytes::from(head))));
    }
    for case in list(&file["bad_queries"]) {
        assert_eq!(decode_query(text(&case["query"])), None, "{}", case["name"]);
    }
}

#[test]
fn numbers() {
    for sequence in list(&load("exchange_numbers.json")["sequences"]) {
        let mut numbers = Numbers::with_limit(number(&sequence["limit"]));
        for step in list(&sequence["steps"]) {
            let verdict =
                numbers.take(number(&step["number"])).map_or_else(|error| error.code().as_str(), |()| "ok");
            assert_eq!(verdict, text(&step["expect"]), "{step}");
        }
    }
}

#[test]
fn heads_of_requests() {
    let file = load("request_head.json");
    for case in list(&file["good"]) {
        let head = RequestHead::decode(text(&case["json"]).as_bytes()).unwrap();
        assert_eq!(head.method.as_str(), text(&case["method"]));
        assert_eq!(head.target.as_str(), text(&case["target"]));
        assert_eq!(json!(head.websocket), case["websocket"]);
        let mut expected = HeaderMap::new();
        for field in case["headers_hex"].as_array().unwrap() {
            let value = HeaderValue::from_bytes(&unhex(&field[1])).unwrap();
            expected.append(HeaderName::try_from(text(&field[0])).unwrap(), value);
        }
        assert_eq!(head.headers, expected);
        assert_eq!(RequestHead::decode(&head.encode().unwrap()), Ok(head));
    }
    for case in list(&file["bad"]) {
        assert_eq!(RequestHead::decode(&unhex(&case["payload_hex"])), Err(RecordError::BadPayload), "{case}");
    }
}

/// Protects and opens each record as the file says it.
fn each_record(cases: &Value, mut protect: impl Protect, mut open: impl Open, hour: &dyn Fn()) {
    for case in list(cases) {
        let kind = Kind::from_u8(u8::try_from(case["type"].as_u64().unwrap()).unwrap()).unwrap();
        let next_epoch = case["next_epoch"].as_bool().unwrap_or_default();
        if next_epoch {
            hour();
        }
        let payload = Bytes::from(unhex(&case["payload_hex"]));
        let frame = protect.protect(kind, payload.clone()).unwrap();
        assert_eq!(frame.protection.as_ref(), unhex(&case["protection_hex"]));
        assert_eq!(frame.header[4] & NEXT_EPOCH != 0, next_epoch);
        assert_eq!(frame.to_bytes(), unhex(&case["record_hex"]));
        let record = open_message(&mut open, frame.to_bytes()).unwrap();
        assert_eq!((record.kind, record.payload), (kind, payload));
    }
}

#[test]
fn sealed_records() {
    let file = load("record_sealed.json");
    let keys = session_keys(&file);
    for case in list(&file["exchanges"]) {
        let prelude = Prelude { session_id: id(&file["session_id"]), number: number(&case["number"]) };
        assert_eq!(prelude.to_bytes(), array(&case["prelude_hex"]));
        for (name, direction) in [("to_agent", Direction::ToAgent), ("to_browser", Direction::ToBrowser)] {
            for record in list(&case[name]) {
                let epoch = u32::try_from(record["epoch"].as_u64().unwrap()).unwrap();
                assert_eq!(*keys.record_key(&prelude, direction, epoch).unwrap(), array(&record["key_hex"]));
            }
            let time = Arc::new(AtomicI64::new(0));
            let clock = Arc::clone(&time);
            let protect = Protector::<AgentSigningKey>::sealed(
                &keys,
                &prelude,
                direction,
                Arc::new(move || clock.load(Ordering::Relaxed)),
            );
            let open = Opener::<AgentVerifyingKey>::sealed(&keys, &prelude, direction);
            each_record(&case[name], protect, open, &|| {
                time.store(time.load(Ordering::Relaxed) + 3600, Ordering::Relaxed)
            });
        }
    }
    let prelude = Prelude::from_bytes(&array(&file["streams_prelude_hex"]));
    for case in list(&file["streams"]) {
        for piece in [1, 7, 64, 4096] {
            let open = SealedOpen::new(&keys, &prelude, Direction::ToBrowser);
            assert_eq!(read(&unhex(&case["stream_hex"]), piece, open), text(&case["expect"]), "{case}");
        }
    }
}

fn signed_direction(file: &Value, name: &str, key: impl Sign, verify: impl Verify, direction: Direction) {
    let prelude = Prelude::from_bytes(&array(&file["prelude_hex"]));
    let binding = prelude.binding();
    for case in list(&file[name]) {
        let kind = Kind::from_u8(u8::try_from(case["type"].as_u64().unwrap()).unwrap()).unwrap();
        let signed = signed_text(
            &binding,
            direction,
            case["sequence"].as_u64().unwrap(),
            kind,
            &unhex(&case["payload_hex"]),
        );
        assert_eq!(signed, unhex(&case["signed_text_hex"]));
    }
    let protect = Protector::signed(key, binding, direction);
    each_record(&file[name], protect, Opener::signed(verify, binding, direction), &|| {});
}

#[test]
fn signed_exchanges() {
    let file = load("exchange_signed.json");
    let agent = AgentSigningKey::from_seed(&array(&file["agent_seed_hex"]));
    let browser = BrowserSigningKey::from_seed(&array(&file["browser_seed_hex"]));
    let prelude = Prelude::from_bytes(&array(&file["prelude_hex"]));
    assert_eq!(prelude.hash(), array(&file["request_hash_hex"]));
    signed_direction(&file, "to_agent", &browser, browser.verifying_key(), Direction::ToAgent);
    signed_direction(&file, "to_browser", &agent, agent.verifying_key(), Direction::ToBrowser);
    let marked = unhex(&file["marked_stream_hex"]);
    let open = || SignedOpen::new(agent.verifying_key(), prelude.binding(), Direction::ToBrowser);
    assert_eq!(read(&marked, 7, open()), "unknown_type");
    let mut decoder = Decoder::new(open());
    decoder.push(Bytes::from(marked[..marked.len() - 64].to_vec()));
    while let Ok(Some(_)) = decoder.next_record() {}
    assert_eq!(decoder.next_record(), Err(RecordError::UnknownType), "before the protection has come");
}

#[test]
fn refusals() {
    let file = load("exchange_refusal.json");
    let key = AgentSigningKey::from_seed(&array(&file["seed_hex"]));
    assert_eq!(*key.verifying_key().as_bytes(), array(&file["public_hex"]));
    let (host_id, prelude) = (id(&file["host_id"]), Prelude::from_bytes(&array(&file["prelude_hex"])));
    assert_eq!(prelude.to_b64(), text(&file["prelude_b64"]));
    let status = |case: &Value| StatusCode::from_u16(case["status"].as_u64().unwrap() as u16).unwrap();
    for case in list(&file["signed"]) {
        let mut fields = headers(&case["unsigned_headers"]);
        let refusal = Refusal { status: status(case), headers: &fields, prelude: &prelude, host_id };
        let made = refusal::sign(&refusal, case["created"].as_i64().unwrap(), &key).unwrap();
        assert_eq!(made.signature, array(&case["signature_hex"]));
        let request = Asked::Unsigned { method: &http::Method::POST, path: "/_relay/exchange", query: None };
        let message = Message { status: Some(status(case)), request: Some(request), ..Message::new(&fields) };
        assert_eq!(base::build(&made.input, &message).unwrap(), text(&case["base"]).as_bytes());
        made.insert(&mut fields);
        assert_eq!(fields, headers(&case["headers"]));
    }
    for case in list(&file["received"]).iter().chain(list(&file["signed"])) {
        let fields = headers(&case["headers"]);
        let refusal = Refusal { status: status(case), headers: &fields, prelude: &prelude, host_id };
        let verdict = match refusal::verify(&refusal, &key.verifying_key()) {
            Ok(Some(_)) => "ok",
            Ok(None) => "unsigned",
            Err(error) => error.code().as_str(),
        };
        assert_eq!(verdict, text(&case["expect"]), "{case}");
        let elsewhere = Refusal { host_id: uuid::Uuid::nil(), ..refusal };
        assert!(!matches!(refusal::verify(&elsewhere, &key.verifying_key()), Ok(Some(_))), "{case}");
    }
    let fields = HeaderMap::new();
    let refusal = Refusal { status: StatusCode::BAD_REQUEST, headers: &fields, prelude: &prelude, host_id };
    assert!(refusal::sign(&refusal, 0, &key).is_err(), "without the header");
}
