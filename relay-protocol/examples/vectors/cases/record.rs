//! Record streams in the signed form, and the payloads with a form of their own.

use super::{AGENT_SEED, BROWSER_SEED, SESSION, agent_key, browser_key, hex};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use relay_protocol::{
    keys::Sign,
    problem::{Code, Problem},
    record::{
        Binding, Close, Direction, Frame, Head, Kind, Protect, SignedProtect, encode_error, encode_trailers,
        signed_text,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const REQUEST_SIGNATURE: [u8; 64] = [0x5a; 64];

fn binding() -> Binding {
    Binding { session_id: SESSION, request_hash: Sha256::digest(REQUEST_SIGNATURE).into() }
}

fn headers(fields: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    map
}

fn head() -> Head {
    let fields: &[(&str, &[u8])] =
        &[("content-type", b"text/event-stream"), ("x-name", b"J\xfcrgen"), ("vary", b"a"), ("vary", b"b")];
    Head { status: StatusCode::OK, headers: headers(fields) }
}

/// Protects records in order; each as a case with its parts.
fn stream(key: impl Sign, direction: Direction, records: &[(Kind, Bytes)]) -> (Vec<Value>, Vec<Frame>) {
    let mut protect = SignedProtect::new(key, binding(), direction);
    let mut cases = Vec::new();
    let mut frames = Vec::new();
    for (sequence, (kind, payload)) in records.iter().enumerate() {
        let frame = protect.protect(*kind, payload.clone()).unwrap();
        let sequence = u64::try_from(sequence).unwrap();
        cases.push(json!({
            "sequence": sequence, "type": *kind as u8, "payload_hex": hex(payload),
            "signed_text_hex": hex(signed_text(&binding(), direction, sequence, *kind, payload)),
            "protection_hex": hex(frame.protection), "record_hex": hex(frame.to_bytes()),
        }));
        frames.push(frame);
    }
    (cases, frames)
}

fn join(frames: &[&Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.to_bytes()).collect()
}

pub fn record_signed() -> Value {
    let data = |text: &'static [u8]| (Kind::Data, Bytes::from_static(text));
    let answer = [
        (Kind::Head, head().encode().unwrap()),
        data(b"data: one\n\n"),
        data(b"data: two\n\n"),
        (Kind::End, encode_trailers(&headers(&[("x-sum", b"2")]))),
    ];
    let (answer_cases, f) = stream(agent_key(), Direction::ToBrowser, &answer);
    let (_, g) = stream(agent_key(), Direction::ToBrowser, &[data(b"x"), (Kind::End, Bytes::new())]);
    let (_, unknown) = stream(agent_key(), Direction::ToBrowser, &[(Kind::Ping, Bytes::new())]);
    let (_, backwards) = stream(agent_key(), Direction::ToAgent, &answer);
    let (_, others) = stream(browser_key(), Direction::ToBrowser, &answer);
    let (_, double) =
        stream(agent_key(), Direction::ToBrowser, &[answer[0].clone(), answer[3].clone(), answer[3].clone()]);
    let (_, failed) = stream(
        agent_key(),
        Direction::ToBrowser,
        &[
            answer[0].clone(),
            (Kind::Error, encode_error(&Problem::new(Code::LocalServerFailed, "It broke off."))),
        ],
    );
    let close = Close { code: 1000, reason: "done".to_owned() };
    let (to_agent, _) = stream(
        browser_key(),
        Direction::ToAgent,
        &[
            (Kind::Text, Bytes::from_static("grüße".as_bytes())),
            (Kind::Binary, Bytes::from_static(&[0, 255])),
            (Kind::Ping, Bytes::from_static(b"p")),
            (Kind::Pong, Bytes::new()),
            (Kind::Close, Close::encode(Some(&close))),
        ],
    );
    let whole = join(&[&f[0], &f[1], &f[2], &f[3]]);
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let header = |length: u32, kind: u8| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes
    };
    let case = |name: &str, stream: Vec<u8>, expect: &str| json!({"name": name, "stream_hex": hex(stream), "expect": expect});
    let first = f[0].len();
    json!({
        "description": "Record streams in the signed form (section 4.4). `answer` is from agent to browser, `to_agent` the browser's direction of a WebSocket: each record with the text that is signed. `streams`: whole answers and what a browser says of them: ok, error_record (a right ERROR record ended it), or unprotected, out_of_order, truncated, unknown_type, bad_length.",
        "session_id": SESSION, "request_signature_hex": hex(REQUEST_SIGNATURE),
        "request_hash_hex": hex(binding().request_hash),
        "agent_seed_hex": hex(AGENT_SEED), "browser_seed_hex": hex(BROWSER_SEED),
        "agent_public_hex": hex(agent_key().verifying_key().as_bytes()),
        "browser_public_hex": hex(browser_key().verifying_key().as_bytes()),
        "answer": answer_cases, "to_agent": to_agent,
        "streams": [
            case("whole", whole.clone(), "ok"),
            case("a problem after HEAD", join(&[&failed[0], &failed[1]]), "error_record"),
            case("empty", Vec::new(), "truncated"),
            case("without END", join(&[&f[0], &f[1], &f[2]]), "truncated"),
            case("cut in a payload", whole[..first + 9].to_vec(), "truncated"),
            case("cut in a header", whole[..first + 3].to_vec(), "truncated"),
            case("the last byte is gone", whole[..whole.len() - 1].to_vec(), "truncated"),
            case("a record left out", join(&[&f[0], &f[2], &f[3]]), "unprotected"),
            case("two records swapped", join(&[&f[0], &f[2], &f[1], &f[3]]), "unprotected"),
            case("a record repeated", join(&[&f[0], &f[1], &f[1], &f[2], &f[3]]), "unprotected"),
            case("a payload altered", flipped(first + 7), "unprotected"),
            case("a protection altered", flipped(first - 1), "unprotected"),
            case("a type altered: DATA to ERROR", {
                let mut bytes = whole.clone();
                bytes[first + 4] = 4;
                bytes
            }, "unprotected"),
            case("of the other direction", join(&[&backwards[0], &backwards[1], &backwards[2], &backwards[3]]), "unprotected"),
            case("signed by the browser's key", join(&[&others[0], &others[1], &others[2], &others[3]]), "unprotected"),
            case("DATA before HEAD", join(&[&g[0], &g[1]]), "out_of_order"),
            case("a WebSocket's record", join(&[&unknown[0]]), "out_of_order"),
            case("a record after END", join(&[&double[0], &double[1], &double[2]]), "out_of_order"),
            case("bytes after END", [whole.clone(), vec![0]].concat(), "out_of_order"),
            case("type 0", header(0, 0), "unknown_type"),
            case("type 10", header(0, 10), "unknown_type"),
            case("an empty DATA", [join(&[&f[0]]), header(0, 2), vec![0; 64]].concat(), "bad_length"),
            case("a DATA of 65537 bytes is announced", [join(&[&f[0]]), header(65_537, 2)].concat(), "bad_length"),
            case("a HEAD of 4 GiB is announced", header(u32::MAX, 1), "bad_length"),
            case("a CLOSE of 126 bytes is announced", header(126, 9), "bad_length"),
        ],
    })
}

pub fn record_payload() -> Value {
    let bad = |name: &str, payload: &[u8]| json!({"name": name, "payload_hex": hex(payload)});
    json!({
        "description": "Payloads of HEAD, END and CLOSE. Header values are given as hex of their bytes; JSON is compared parsed. `bad_…` are refused. A CLOSE names 1000 to 1003, 1007 to 1014 or 3000 to 4999.",
        "head": [
            {"json": String::from_utf8(head().encode().unwrap().to_vec()).unwrap(), "status": 200,
             "headers_hex": head().headers.iter().map(|(n, v)| (n.as_str().to_owned(), hex(v))).collect::<Vec<_>>()},
            {"json": "{\"status\":204,\"headers\":[],\"more\":1}", "status": 204, "headers_hex": []},
        ],
        "bad_head": [
            bad("not JSON", b"{]"),
            bad("no status", b"{\"headers\":[]}"),
            bad("a status below 100", b"{\"status\":99,\"headers\":[]}"),
            bad("a status above 999", b"{\"status\":1000,\"headers\":[]}"),
            bad("a name in upper case", b"{\"status\":200,\"headers\":[[\"X-A\",\"1\"]]}"),
            bad("a name with a space", b"{\"status\":200,\"headers\":[[\"x a\",\"1\"]]}"),
            bad("an empty name", b"{\"status\":200,\"headers\":[[\"\",\"1\"]]}"),
            bad("a value with a line break", b"{\"status\":200,\"headers\":[[\"x-a\",\"1\\r\\nx-b: 2\"]]}"),
            bad("a value with a code point above U+00FF", b"{\"status\":200,\"headers\":[[\"x-a\",\"\\u0100\"]]}"),
            bad("three parts", b"{\"status\":200,\"headers\":[[\"x-a\",\"1\",\"2\"]]}"),
        ],
        "end": [
            {"payload": "", "trailers": []},
            {"payload": "{\"trailers\":[[\"x-sum\",\"2\"]]}", "trailers": [["x-sum", "2"]]},
        ],
        "bad_end": [bad("not JSON", b"x"), bad("no trailers", b"{}")],
        "close": [
            {"payload_hex": "", "code": null, "reason": null},
            {"payload_hex": "03e8", "code": 1000, "reason": ""},
            {"payload_hex": hex(Close::encode(Some(&Close { code: 4001, reason: "tschüß".to_owned() }))), "code": 4001, "reason": "tschüß"},
        ],
        "bad_close": [
            bad("one byte", b"\x03"),
            bad("code 0", &[0, 0]),
            bad("code 1005", &1005_u16.to_be_bytes()),
            bad("code 1006", &1006_u16.to_be_bytes()),
            bad("code 2999", &2999_u16.to_be_bytes()),
            bad("code 5000", &5000_u16.to_be_bytes()),
            bad("not UTF-8", b"\x03\xe8\xff"),
            bad("a reason of 124 bytes", &[&[3, 0xe8][..], &[b'a'; 124]].concat()),
        ],
    })
}
