//! What holds for every input: parsers never panic, what is written is read again, what is altered is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::{collection::vec, option, prelude::*};
use relay_protocol::{
    keys::{AgentSigningKey, BrowserSigningKey, b64},
    pairing::{AgentClaims, BrowserClaims, Code, is_text},
    record::{
        Binding, Close, Decoder, Direction, Head, Header, Kind, Open, Opened, Payload, Protect, RecordError,
        SIGNED_LEN, SignedOpen, SignedProtect, decode_error, decode_trailers, encode_trailers, open_message,
    },
    signature::{
        append_query,
        digest::ContentDigest,
        input::{parse_input, parse_signature},
        request::{Made, Parts, Signed, Stamp, sign, sign_upgrade},
        split_query,
    },
};
use uuid::Uuid;

/// Takes every protection, so that what is under test is the framing.
struct Unprotected;

impl Open for Unprotected {
    fn overhead(&self) -> usize {
        SIGNED_LEN
    }

    fn open(&mut self, _: Header, payload: Payload, _: &[u8]) -> Result<Opened, RecordError> {
        Ok(payload.into_bytes())
    }
}

fn binding() -> Binding {
    Binding { session_id: Uuid::from_u128(7), request_hash: [9; 32] }
}

fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let value = vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..=0xff, Just(b'\t')], 0..20);
    vec(("x-[a-z0-9]{1,8}", value), 0..8)
}

fn map(fields: &[(String, Vec<u8>)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn key() -> BrowserSigningKey {
    BrowserSigningKey::from_seed(&[1; 32])
}

fn signed(path: &str, query: Option<&str>, headers: &HeaderMap) -> Made {
    let parts = Parts { method: &Method::GET, path, query, headers, has_body: false };
    let cover: Vec<HeaderName> = headers.keys().cloned().collect();
    let stamp = Stamp { created: 5, key_id: "key", nonce: "AAAAAAAAAAAAAAAAAAAAAA" };
    sign(&parts, &cover, stamp, &key()).unwrap()
}

/// Text like a structured field, and then anything.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("relay="),
        Just("("),
        Just(")"),
        Just("\"@method\""),
        Just("\"@path\""),
        Just("\"x-a\""),
        Just(" "),
        Just(";req"),
        Just(";key=\"relay\""),
        Just(";created=1"),
        Just(";nonce=\"n\""),
        Just(", "),
        Just("a=?1"),
        Just(":AAAA:"),
        Just("sha-256="),
        Just("\\"),
        Just("\""),
    ];
    prop_oneof![vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes()), vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn parsers_of_fields_never_panic(field in field()) {
        if let Ok(Some(input)) = parse_input(&field, "relay") {
            // What was understood is written in the one form that reads the same.
            let again = format!("relay={}", input.as_str());
            prop_assert_eq!(parse_input(again.as_bytes(), "relay").unwrap().unwrap(), input);
        }
        let _ = parse_signature(&field, "relay");
        if let Ok(digest) = ContentDigest::parse(&field) {
            prop_assert_eq!(digest.verifier().finish().is_ok(), digest == ContentDigest::parse(ContentDigest::field_sha256(b"").as_bytes()).unwrap());
        }
    }

    #[test]
    fn a_signed_request_is_verified_and_an_altered_one_is_not(
        path in "/[a-z0-9%./]{0,20}", query in option::of("[a-z0-9=&%]{0,20}"), fields in fields(), other in "/[a-z]{1,5}",
    ) {
        let headers = map(&fields);
        let made = signed(&path, query.as_deref(), &headers);
        let mut carrying = headers.clone();
        made.insert(&mut carrying);
        let read = Signed::from_headers(&carrying).unwrap().unwrap();
        let check = |path: &str, query: Option<&str>, headers: &HeaderMap| {
            let parts = Parts { method: &Method::GET, path, query, headers, has_body: false };
            read.cover(&parts).unwrap().verify(&parts, &key().verifying_key()).is_ok()
        };
        prop_assert!(check(&path, query.as_deref(), &carrying));
        prop_assert!(path == other || !check(&other, query.as_deref(), &carrying));
        let more = format!("{}x", query.as_deref().unwrap_or_default());
        prop_assert!(!check(&path, Some(&more), &carrying));
        for name in headers.keys() {
            let mut altered = carrying.clone();
            altered.append(name, HeaderValue::from_static("z"));
            prop_assert!(!check(&path, query.as_deref(), &altered));
            altered.remove(name);
            prop_assert!(!check(&path, query.as_deref(), &altered));
        }
    }

    #[test]
    fn a_query_gives_back_what_it_carried(query in option::of("[a-z0-9=&%]{0,20}")) {
        let headers = HeaderMap::new();
        let parts = Parts { method: &Method::GET, path: "/", query: query.as_deref(), headers: &headers, has_body: false };
        let stamp = Stamp { created: 5, key_id: "key", nonce: "AAAAAAAAAAAAAAAAAAAAAA" };
        let made = sign_upgrade(&parts, stamp, &key()).unwrap();
        let text = append_query(query.as_deref(), &made);
        let (rest, read) = split_query(&text).unwrap();
        prop_assert_eq!(rest, query.as_deref());
        prop_assert_eq!(*read.unwrap().signature(), made.signature);
        prop_assert_eq!(split_query(query.as_deref().unwrap_or("a")).unwrap().1, None);
    }

    #[test]
    fn queries_never_panic(query in "(relay-signature-input=|relay-signature=|&|%2|%28|[a-z(;\"ä]){0,30}") {
        if let Ok((rest, None)) = split_query(&query) {
            prop_assert_eq!(rest, Some(query.as_str()));
        }
    }

    #[test]
    fn records_survive_any_cut(payloads in vec(vec(any::<u8>(), 1..200), 1..8), cuts in vec(1_usize..300, 1..20)) {
        let key = AgentSigningKey::from_seed(&[2; 32]);
        let mut protect = SignedProtect::new(&key, binding(), Direction::ToBrowser);
        let mut stream = BytesMut::new();
        for payload in &payloads {
            protect.protect(Kind::Data, payload.clone().into()).unwrap().write(&mut stream);
        }
        let mut stream = stream.freeze();
        let mut decoder = Decoder::new(SignedOpen::new(key.verifying_key(), binding(), Direction::ToBrowser));
        let mut read = Vec::new();
        for cut in cuts.iter().cycle() {
            if stream.is_empty() {
                break;
            }
            decoder.push(stream.split_to((*cut).min(stream.len())));
            while let Some(record) = decoder.next_record().unwrap() {
                read.push(record.payload.to_vec());
            }
        }
        prop_assert_eq!(decoder.finish(), Ok(()));
        prop_assert_eq!(read, payloads);
    }

    #[test]
    fn an_altered_byte_of_a_record_shows(payload in vec(any::<u8>(), 1..100), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let key = AgentSigningKey::from_seed(&[2; 32]);
        let mut protect = SignedProtect::new(&key, binding(), Direction::ToBrowser);
        let mut message = protect.protect(Kind::Data, payload.into()).unwrap().to_bytes().to_vec();
        let at = at.index(message.len());
        message[at] ^= 1_u8 << bit;
        let mut open = SignedOpen::new(key.verifying_key(), binding(), Direction::ToBrowser);
        prop_assert!(open_message(&mut open, message.into()).is_err());
    }

    #[test]
    fn the_decoder_never_panics(pieces in vec(vec(any::<u8>(), 0..100), 0..10)) {
        let mut decoder = Decoder::new(Unprotected);
        for piece in pieces {
            decoder.push(piece.into());
            while let Ok(Some(record)) = decoder.next_record() {
                prop_assert!(record.kind.lengths().contains(&record.payload.len()));
            }
        }
        let _ = decoder.finish();
    }

    #[test]
    fn heads_and_trailers_are_read_again(fields in fields(), status in 100_u16..1000) {
        let head = Head { status: StatusCode::from_u16(status).unwrap(), headers: map(&fields) };
        prop_assert_eq!(Head::decode(&head.encode().unwrap()).unwrap(), head.clone());
        prop_assert_eq!(decode_trailers(&encode_trailers(&head.headers)).unwrap(), head.headers);
    }

    #[test]
    fn payloads_never_panic(payload in vec(any::<u8>(), 0..200)) {
        let _ = (Head::decode(&payload), decode_trailers(&payload), decode_error(&payload));
        if let Ok(close) = Close::decode(&payload) {
            prop_assert_eq!(Close::encode(close.as_ref()), payload);
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters(code in 3000_u16..5000, reason in "[aä€😀]{0,80}") {
        let payload = Close::encode(Some(&Close { code, reason: reason.clone() }));
        let read = Close::decode(&payload).unwrap().unwrap();
        prop_assert!(reason.starts_with(&read.reason) && payload.len() <= 125);
        prop_assert!(read.reason == reason || read.reason.len() > 119);
    }

    #[test]
    fn claims_and_codes_never_panic(bytes in vec(any::<u8>(), 0..200), text in ".{0,120}") {
        let host = Uuid::nil();
        prop_assert!(BrowserClaims::parse(&bytes, host).is_err() && AgentClaims::parse(&bytes, host).is_err());
        let _ = (Code::parse(&text), b64::decode(&text));
        prop_assert_eq!(is_text(&text), text.chars().count() <= 100 && !text.chars().any(char::is_control));
    }
}
