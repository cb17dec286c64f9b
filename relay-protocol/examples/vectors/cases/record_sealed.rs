//! Exchanges as records, in both forms of protection.

use super::{AGENT_SEED, BROWSER_SEED, HOST, SESSION, agent_key, browser_key, hex, sealed::session_keys};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use relay_protocol::{
    exchange::{Prelude, RequestHead},
    keys::Sign,
    problem::{Code, Problem},
    record::{
        Close, Direction, Frame, Head, Kind, Protect, SealedProtect, SignedProtect, encode_error, signed_text,
    },
    sealed::SessionKeys,
};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

/// A record to be sent, and whether its sender's hour was over before it.
type Sent = (Kind, Bytes, bool);

fn prelude(number: u64) -> Prelude {
    Prelude { session_id: SESSION, number }
}

fn data(text: &'static str) -> Sent {
    (Kind::Data, Bytes::from_static(text.as_bytes()), false)
}

fn end() -> Sent {
    (Kind::End, Bytes::new(), false)
}

fn request(method: Method, target: &str, websocket: bool) -> Sent {
    let headers = HeaderMap::from_iter([(http::header::ACCEPT, http::HeaderValue::from_static("*/*"))]);
    let head = RequestHead { method, target: target.parse().unwrap(), headers, websocket };
    (Kind::Head, head.encode().unwrap(), false)
}

fn answer(status: StatusCode) -> Sent {
    let headers = HeaderMap::from_iter([(http::header::VARY, http::HeaderValue::from_static("accept"))]);
    (Kind::Head, Head { status, headers }.encode().unwrap(), false)
}

fn error() -> Sent {
    (Kind::Error, encode_error(&Problem::new(Code::LocalServerFailed, "It broke off.")), false)
}

fn close() -> Sent {
    (Kind::Close, Close::encode(Some(&Close { code: 1000, reason: "done".to_owned() })), false)
}

/// Seals records in order.
fn frames(keys: &SessionKeys, prelude: &Prelude, direction: Direction, records: &[Sent]) -> Vec<Frame> {
    let time = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&time);
    let mut protect =
        SealedProtect::new(keys, prelude, direction, Arc::new(move || clock.load(Ordering::Relaxed)));
    let seal = |(kind, payload, later): &Sent| {
        time.fetch_add(if *later { 3600 } else { 0 }, Ordering::Relaxed);
        protect.protect(*kind, payload.clone()).unwrap()
    };
    records.iter().map(seal).collect()
}

/// The same, each with its parts.
fn sealed(prelude: &Prelude, direction: Direction, records: &[Sent]) -> Vec<Value> {
    let keys = session_keys();
    let mut epoch = 0;
    let case = |(sequence, (frame, (kind, payload, later))): (usize, (Frame, &Sent))| {
        epoch += u32::from(*later);
        json!({
            "sequence": sequence, "epoch": epoch, "type": *kind as u8, "next_epoch": later, "payload_hex": hex(payload),
            "key_hex": hex(*keys.record_key(prelude, direction, epoch).unwrap()),
            "nonce_hex": format!("00000000{sequence:016x}"), "header_hex": hex(frame.header),
            "protection_hex": hex(frame.protection), "record_hex": hex(frame.to_bytes()),
        })
    };
    let frames = frames(&keys, prelude, direction, records);
    frames.into_iter().zip(records).enumerate().map(case).collect()
}

fn exchange(name: &str, number: u64, browser: &[Sent], agent: &[Sent]) -> Value {
    let prelude = prelude(number);
    json!({
        "name": name, "number": number.to_string(), "prelude_hex": hex(prelude.to_bytes()),
        "to_agent": sealed(&prelude, Direction::ToAgent, browser),
        "to_browser": sealed(&prelude, Direction::ToBrowser, agent),
    })
}

fn later((kind, payload, _): Sent) -> Sent {
    (kind, payload, true)
}

fn join(frames: &[&Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.to_bytes()).collect()
}

fn streams() -> Vec<Value> {
    let keys = session_keys();
    let to_browser = Direction::ToBrowser;
    let records = [answer(StatusCode::OK), data("one"), later(data("two")), data("three"), end()];
    let of = |keys: &SessionKeys, prelude: &Prelude, direction| frames(keys, prelude, direction, &records);
    let f = of(&keys, &prelude(3), to_browser);
    let whole = join(&f.iter().collect::<Vec<_>>());
    let all = |frames: Vec<Frame>| join(&frames.iter().collect::<Vec<_>>());
    let same_epoch =
        frames(&keys, &prelude(3), to_browser, &[records[0].clone(), data("one"), data("two"), end()]);
    let early = frames(&keys, &prelude(3), to_browser, &[records[0].clone(), later(data("one"))]);
    let at_once = frames(&keys, &prelude(3), to_browser, &[later(answer(StatusCode::OK)), end()]);
    let twice =
        frames(&keys, &prelude(3), to_browser, &[answer(StatusCode::OK), later(data("a")), later(end())]);
    let failed = frames(&keys, &prelude(3), to_browser, &[answer(StatusCode::OK), error()]);
    let other = SessionKeys::from_split(&[1; 32], &[2; 32], &[3; 32]);
    let edited = |at: usize, bit: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        bytes
    };
    let header = |length: u32, kind: u8| [&length.to_be_bytes()[..], &[kind]].concat();
    let case = |name: &str, stream: Vec<u8>, expect: &str| json!({"name": name, "stream_hex": hex(stream), "expect": expect});
    let (first, second) = (f[0].len(), f[0].len() + f[1].len());
    vec![
        case("whole, with a change of the key", whole.clone(), "ok"),
        case("the key is changed with the first record", all(at_once), "ok"),
        case("the key is changed twice", all(twice), "ok"),
        case("a problem after HEAD", all(failed), "error_record"),
        case("empty", Vec::new(), "truncated"),
        case("without END", join(&[&f[0], &f[1], &f[2], &f[3]]), "truncated"),
        case("cut in a payload", whole[..first + 6].to_vec(), "truncated"),
        case("cut in a header", whole[..first + 3].to_vec(), "truncated"),
        case("the last byte is gone", whole[..whole.len() - 1].to_vec(), "truncated"),
        case("a record left out", join(&[&f[0], &f[2], &f[3], &f[4]]), "unprotected"),
        case("two records swapped", join(&[&f[0], &f[1], &f[3], &f[2], &f[4]]), "unprotected"),
        case("a record repeated", join(&[&f[0], &f[1], &f[1], &f[2]]), "unprotected"),
        case("a payload altered", edited(first + 6, 1), "unprotected"),
        case("a protection altered", edited(first - 1, 1), "unprotected"),
        case("a type altered: DATA to ERROR", edited(first + 4, 6), "unprotected"),
        case("the bit of the epoch set", edited(first + 4, 0x80), "unprotected"),
        case("the bit of the epoch cleared", edited(second + 4, 0x80), "unprotected"),
        case("of the epoch before", join(&[&f[0], &f[1], &f[2], &same_epoch[3]]), "unprotected"),
        case("of an epoch too early", join(&[&f[0], &early[1], &f[2]]), "unprotected"),
        case("of another exchange", all(of(&keys, &prelude(4), to_browser)), "unprotected"),
        case(
            "of another session id",
            all(of(&keys, &Prelude { session_id: HOST, number: 3 }, to_browser)),
            "unprotected",
        ),
        case("of a session with other keys", all(of(&other, &prelude(3), to_browser)), "unprotected"),
        case("of the other direction", all(of(&keys, &prelude(3), Direction::ToAgent)), "unprotected"),
        case(
            "DATA before HEAD",
            all(frames(&keys, &prelude(3), to_browser, &[data("x"), end()])),
            "out_of_order",
        ),
        case("a WebSocket's record", all(frames(&keys, &prelude(3), to_browser, &[close()])), "out_of_order"),
        case("bytes after END", [whole.clone(), vec![0]].concat(), "out_of_order"),
        case("type 0", header(0, 0), "unknown_type"),
        case("type 0 with the bit", header(0, 0x80), "unknown_type"),
        case("type 10 with the bit", header(0, 0x8a), "unknown_type"),
        case("an empty DATA", [join(&[&f[0]]), header(0, 2), vec![0; 16]].concat(), "bad_length"),
        case(
            "a DATA of 65537 bytes is announced",
            [join(&[&f[0]]), header(65_537, 0x82)].concat(),
            "bad_length",
        ),
        case("a HEAD of 4 GiB is announced", header(u32::MAX, 1), "bad_length"),
    ]
}

pub fn record_sealed() -> Value {
    let keys = session_keys();
    let text = (Kind::Text, Bytes::from_static("grüße".as_bytes()), false);
    let binary = (Kind::Binary, Bytes::from_static(&[0, 255]), false);
    let ping = (Kind::Ping, Bytes::from_static(b"p"), false);
    let pong = (Kind::Pong, Bytes::new(), false);
    json!({
        "description": "Exchanges of a sealed session (section 5.2), each record with its parts. The browser's bytes are the prelude and its records, the agent's its records. `header_hex` is also the associated data; `next_epoch` is the bit 0x80 in the type, `type` is without it. `number` is a u64 as decimal text. `streams`: whole answers of the exchange `streams_prelude_hex` and what a browser says of them: ok, error_record (a right ERROR record ended it), or unprotected, out_of_order, truncated, unknown_type, bad_length.",
        "session_id": SESSION, "handshake_hash_hex": hex(keys.handshake_hash()),
        "key_to_agent_hex": hex(keys.reveal_split(Direction::ToAgent)),
        "key_to_browser_hex": hex(keys.reveal_split(Direction::ToBrowser)),
        "exchanges": [
            exchange("a GET", 0, &[request(Method::GET, "/a?b", false), end()], &[answer(StatusCode::OK), data("hello"), end()]),
            exchange(
                "an upload, with a change of the key in both directions", 1,
                &[request(Method::PUT, "/up", false), data("one"), later(data("two")), data("three"), end()],
                &[later(answer(StatusCode::CREATED)), later(end())],
            ),
            exchange(
                "a WebSocket", 2,
                &[request(Method::GET, "/ws", true), text.clone(), ping, close()],
                &[answer(StatusCode::SWITCHING_PROTOCOLS), binary, pong, text, close()],
            ),
            exchange("broken off", u64::MAX, &[request(Method::POST, "/", false), error()], &[error()]),
        ],
        "streams_prelude_hex": hex(prelude(3).to_bytes()),
        "streams": streams(),
    })
}

fn signed(key: impl Sign, prelude: &Prelude, direction: Direction, records: &[Sent]) -> Vec<Value> {
    let binding = prelude.binding();
    let mut protect = SignedProtect::new(key, binding, direction);
    let case = |(sequence, (kind, payload, _)): (usize, &Sent)| {
        let frame = protect.protect(*kind, payload.clone()).unwrap();
        let sequence = u64::try_from(sequence).unwrap();
        json!({
            "sequence": sequence, "type": *kind as u8, "payload_hex": hex(payload),
            "signed_text_hex": hex(signed_text(&binding, direction, sequence, *kind, payload)),
            "protection_hex": hex(frame.protection), "record_hex": hex(frame.to_bytes()),
        })
    };
    records.iter().enumerate().map(case).collect()
}

pub fn exchange_signed() -> Value {
    let prelude = prelude(5);
    let browser = [request(Method::POST, "/a?b", false), data("in"), end()];
    let agent = [answer(StatusCode::OK), data("out"), end()];
    let to_browser = signed(agent_key(), &prelude, Direction::ToBrowser, &agent);
    let mut marked = agent_frames(&prelude, &agent);
    let at = marked.len() - 64 - 5 + 4;
    marked[at] |= 0x80;
    json!({
        "description": "An exchange of a signed session (section 5.2): records as in section 4.4, with the prelude's hash in place of the hash of a request's signature. `marked_stream_hex` is the agent's stream with the bit of the epoch set in the type of END: unknown_type in this form, even before the rest has come.",
        "session_id": SESSION, "number": prelude.number.to_string(), "prelude_hex": hex(prelude.to_bytes()),
        "request_hash_hex": hex(prelude.hash()),
        "agent_seed_hex": hex(AGENT_SEED), "browser_seed_hex": hex(BROWSER_SEED),
        "agent_public_hex": hex(agent_key().verifying_key().as_bytes()),
        "browser_public_hex": hex(browser_key().verifying_key().as_bytes()),
        "to_agent": signed(browser_key(), &prelude, Direction::ToAgent, &browser),
        "to_browser": to_browser,
        "marked_stream_hex": hex(marked),
    })
}

fn agent_frames(prelude: &Prelude, records: &[Sent]) -> Vec<u8> {
    let mut protect = SignedProtect::new(agent_key(), prelude.binding(), Direction::ToBrowser);
    records
        .iter()
        .flat_map(|(kind, payload, _)| protect.protect(*kind, payload.clone()).unwrap().to_bytes())
        .collect()
}
