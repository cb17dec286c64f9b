//! What holds for every exchange: what is sent arrives however it is cut, and nothing else does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{collection::vec, prelude::*, sample::Index};
use relay_protocol::{
    exchange::{MAX_METHOD, Prelude, RequestHead, decode_query},
    keys::{AgentSigningKey, AgentVerifyingKey},
    record::{Decoder, Direction, Kind, Opener, Protect, Protector, Record, RecordError},
    sealed::{HandshakeError, SessionKeys},
};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use uuid::Uuid;

/// Which form, keys, exchange and direction a stream is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Of {
    sealed: bool,
    key: u8,
    session: u8,
    number: u64,
    direction: Direction,
}

impl Of {
    fn prelude(self) -> Prelude {
        Prelude { session_id: Uuid::from_u128(self.session.into()), number: self.number }
    }

    fn keys(self) -> SessionKeys {
        SessionKeys::from_split(&[self.key; 32], &[self.key; 32], &[self.key; 32])
    }

    fn signing(self) -> AgentSigningKey {
        AgentSigningKey::from_seed(&[self.key; 32])
    }

    fn open(self) -> Opener<AgentVerifyingKey> {
        if self.sealed {
            return Opener::sealed(&self.keys(), &self.prelude(), self.direction);
        }
        Opener::signed(self.signing().verifying_key(), self.prelude().binding(), self.direction)
    }

    /// Each record; before those that are marked an hour goes by.
    fn protect(self, payloads: &[(Vec<u8>, bool)]) -> Vec<Vec<u8>> {
        let time = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&time);
        let clock = Arc::new(move || clock.load(Ordering::Relaxed));
        let mut protect = if self.sealed {
            Protector::sealed(&self.keys(), &self.prelude(), self.direction, clock)
        } else {
            Protector::signed(self.signing(), self.prelude().binding(), self.direction)
        };
        let record = |(payload, later): &(Vec<u8>, bool)| {
            time.fetch_add(if *later { 3600 } else { 0 }, Ordering::Relaxed);
            protect.protect(Kind::Data, payload.clone().into()).unwrap().to_bytes().to_vec()
        };
        payloads.iter().map(record).collect()
    }
}

fn decode(of: Of, stream: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Result<(), RecordError>) {
    let mut decoder = Decoder::new(of.open());
    let (mut rest, mut read) = (stream, Vec::new());
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, more) = rest.split_at((*cut).min(rest.len()));
        rest = more;
        decoder.push(Bytes::copy_from_slice(piece));
        while let Ok(Some(Record { payload, .. })) = decoder.next_record() {
            read.push(payload.to_vec());
        }
    }
    (read, decoder.finish())
}

fn of() -> impl Strategy<Value = Of> {
    let direction = prop_oneof![Just(Direction::ToAgent), Just(Direction::ToBrowser)];
    (any::<bool>(), 1_u8..3, 0_u8..2, 0_u64..2, direction)
        .prop_map(|(sealed, key, session, number, direction)| Of { sealed, key, session, number, direction })
}

fn payloads() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
    vec((vec(any::<u8>(), 1..200), prop::bool::weighted(0.2)), 1..8)
}

fn bytes_of(payloads: &[(Vec<u8>, bool)]) -> Vec<Vec<u8>> {
    payloads.iter().map(|(payload, _)| payload.clone()).collect()
}

proptest! {
    #[test]
    fn records_survive_any_cut(of in of(), payloads in payloads(), cuts in vec(1_usize..300, 1..20)) {
        let stream = of.protect(&payloads).concat();
        prop_assert_eq!(decode(of, &stream, &cuts), (bytes_of(&payloads), Ok(())));
    }

    #[test]
    fn a_stream_that_stops_anywhere_gives_what_was_whole(of in of(), payloads in payloads(), at in any::<Index>()) {
        let records = of.protect(&payloads);
        let stream = records.concat();
        let at = at.index(stream.len());
        let (read, ended) = decode(of, &stream[..at], &[64]);
        prop_assert_eq!(&read[..], &bytes_of(&payloads)[..read.len()]);
        let whole: usize = records.iter().take(read.len()).map(Vec::len).sum();
        prop_assert_eq!(ended.is_ok(), whole == at);
    }

    #[test]
    fn any_flipped_bit_shows(of in of(), payloads in payloads(), at in any::<Index>(), bit in 0_u32..8) {
        let mut stream = of.protect(&payloads).concat();
        let at = at.index(stream.len());
        stream[at] ^= 1_u8 << bit;
        let (read, ended) = decode(of, &stream, &[64]);
        prop_assert!(ended.is_err() && read.len() < payloads.len());
        prop_assert_eq!(&read[..], &bytes_of(&payloads)[..read.len()]);
    }

    #[test]
    fn records_that_are_swapped_dropped_or_repeated_show(of in of(), payloads in payloads(), a in any::<Index>(), b in any::<Index>()) {
        let records = of.protect(&payloads);
        let (a, b) = (a.index(records.len()), b.index(records.len()));
        let mut swapped = records.clone();
        swapped.swap(a, b);
        let mut dropped = records.clone();
        dropped.remove(a);
        let mut repeated = records.clone();
        repeated.insert(b, records[a].clone());
        // What is the same bytes in the same place is no change; what lacks the end is Order's to tell.
        let changes = [(swapped, a == b), (dropped, a == records.len() - 1), (repeated, false)];
        for (stream, harmless) in changes {
            let (read, ended) = decode(of, &stream.concat(), &[64]);
            prop_assert_eq!(ended.is_ok(), harmless);
            prop_assert_eq!(&read[..], &bytes_of(&payloads)[..read.len()]);
        }
    }

    #[test]
    fn nothing_opens_as_what_it_is_not(one in of(), other in of(), payloads in payloads()) {
        let (read, ended) = decode(other, &one.protect(&payloads).concat(), &[4096]);
        if one == other {
            prop_assert_eq!(ended, Ok(()));
        } else {
            // What is shorter in the other form may wait for more, and never opens.
            prop_assert!(read.is_empty() && ended.is_err());
        }
    }

    #[test]
    fn a_record_of_another_stream_does_not_fit_in(one in of(), other in of(), payloads in payloads(), at in any::<Index>()) {
        prop_assume!(one != other);
        let at = at.index(payloads.len());
        let mut records = one.protect(&payloads);
        records[at] = other.protect(&payloads).swap_remove(at);
        let (read, ended) = decode(one, &records.concat(), &[4096]);
        prop_assert!(ended.is_err());
        prop_assert_eq!(&read[..], &bytes_of(&payloads)[..at]);
    }

    #[test]
    fn a_record_of_another_epoch_does_not_fit_in(payloads in vec((vec(any::<u8>(), 1..20), any::<bool>()), 2..8), at in any::<Index>(), earlier in any::<Index>()) {
        let of = Of { sealed: true, key: 1, session: 0, number: 0, direction: Direction::ToAgent };
        let at = 1 + at.index(payloads.len() - 1);
        // The same payload in the same place with the same header, of an epoch more or fewer.
        let mut others = payloads.clone();
        let earlier = earlier.index(at);
        others[earlier].1 = !others[earlier].1;
        let mut records = of.protect(&payloads);
        let other = of.protect(&others).swap_remove(at);
        prop_assert_eq!(&other[..5], &records[at][..5]);
        records[at] = other;
        let (read, ended) = decode(of, &records.concat(), &[4096]);
        prop_assert_eq!((read.len(), ended), (at, Err(RecordError::Unprotected)));
    }

    #[test]
    fn noise_opens_as_nothing(stream in vec(any::<u8>(), 0..300), of in of()) {
        let (read, _) = decode(of, &stream, &[7]);
        prop_assert!(read.is_empty());
    }

    #[test]
    fn heads_of_requests_are_read_again(
        method in "[A-Z]{1,10}", target in "/[!-~]{0,30}", fields in vec(("x-[a-z0-9]{1,8}", vec(0x20_u8..=0x7e, 0..20)), 0..8), websocket in any::<bool>(),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let Ok(parsed) = target.parse::<http::uri::PathAndQuery>() else { return Ok(()) };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let head = RequestHead { method: method.clone(), target: parsed, headers, websocket };
        let allowed = (!websocket || method == Method::GET) && method != Method::CONNECT && method != Method::TRACE;
        match head.encode() {
            Ok(payload) => {
                prop_assert!(allowed);
                prop_assert_eq!(RequestHead::decode(&payload), Ok(head));
            }
            Err(_) => prop_assert!(!allowed),
        }
    }

    #[test]
    fn heads_never_panic_and_are_strict(bytes in vec(any::<u8>(), 0..200), method in ".{0,20}", target in ".{0,40}") {
        let _ = (RequestHead::decode(&bytes), decode_query(&String::from_utf8_lossy(&bytes)));
        let json = serde_json::json!({"method": method, "target": target, "headers": []});
        if let Ok(head) = RequestHead::decode(json.to_string().as_bytes()) {
            prop_assert_eq!(head.target.as_str(), &target);
            prop_assert_eq!(head.method.as_str(), &method);
            prop_assert!(method.len() <= MAX_METHOD && target.starts_with('/'));
            prop_assert!(!target.contains(['#', ' ']) && target.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn handshakes_never_panic(message in vec(any::<u8>(), 0..200)) {
        use relay_protocol::{keys::{AgentDhKey, BrowserDhKey}, pairing::Psk, sealed::{Profile, Responder}};
        let browser = BrowserDhKey::from_bytes(&[1; 32]).public_key();
        let (key, psk, id) = (AgentDhKey::from_bytes(&[2; 32]), Psk::from_bytes(&[3; 32]), Uuid::nil());
        for profile in Profile::ALL {
            let responder = Responder { profile, key: &key, browser: &browser, psk: &psk, host_id: id, client_id: id };
            let expected = if message.len() == 96 { HandshakeError::NotOpened } else { HandshakeError::Length };
            prop_assert_eq!(responder.respond(&message).err(), Some(expected));
        }
    }
}
