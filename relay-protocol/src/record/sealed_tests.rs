use super::*;
use crate::record::{Decoder, Order, open_message};
use bytes::BytesMut;
use std::sync::atomic::{AtomicI64, Ordering};
use uuid::Uuid;

const PRELUDE: Prelude = Prelude { session_id: Uuid::from_u128(7), number: 3 };

fn keys() -> SessionKeys {
    SessionKeys::from_split(&[1; 32], &[2; 32], &[3; 32])
}

fn protect(clock: Clock) -> SealedProtect {
    SealedProtect::new(&keys(), &PRELUDE, Direction::ToBrowser, clock)
}

fn still() -> Clock {
    Arc::new(|| 0)
}

fn open() -> SealedOpen {
    SealedOpen::new(&keys(), &PRELUDE, Direction::ToBrowser)
}

fn seal(protect: &mut SealedProtect) -> Bytes {
    protect.protect(Kind::Data, Bytes::from_static(b"payload")).unwrap().to_bytes()
}

fn marked(record: &[u8]) -> bool {
    record[4] & 0x80 != 0
}

#[test]
fn an_hour_changes_the_key_and_a_clock_that_is_set_does_too() {
    let time = Arc::new(AtomicI64::new(1000));
    let clock = Arc::clone(&time);
    let mut protect = protect(Arc::new(move || clock.load(Ordering::Relaxed)));
    let mut open = open();
    let steps = [
        (1000, false),
        (4599, false),
        (4600, true),
        (4600, false),
        (8199, false),
        (8200, true),
        (0, true),
        (3599, false),
        (-3600, true),
        (i64::MAX, true),
        (i64::MIN, true),
        (i64::MIN, false),
    ];
    for (now, expected) in steps {
        time.store(now, Ordering::Relaxed);
        let record = seal(&mut protect);
        assert_eq!(marked(&record), expected, "{now}");
        assert_eq!(open_message(&mut open, record).unwrap().payload, "payload");
    }
    assert_eq!((protect.epochs.epoch, open.0.epoch), (6, 6));
}

#[test]
fn a_key_is_for_so_many_records_at_both_ends() {
    let (mut sender, mut receiver) = (protect(still()), open());
    for end in [&mut sender.epochs, &mut receiver.0] {
        end.used = EPOCH_RECORDS - 1;
    }
    let last = seal(&mut sender);
    assert!(!marked(&last));
    assert!(open_message(&mut receiver, last).is_ok());
    let first = seal(&mut sender);
    assert!(marked(&first), "the next key");
    assert_eq!((sender.epochs.epoch, sender.epochs.used), (1, 1));
    assert!(open_message(&mut receiver, first).is_ok());
    // A sender that does not go on, although the record is right.
    let (mut stubborn, mut receiver) = (protect(still()), open());
    receiver.0.used = EPOCH_RECORDS;
    assert_eq!(open_message(&mut receiver, seal(&mut stubborn)), Err(RecordError::TooMany));
}

#[test]
fn counters_that_are_used_up_seal_nothing_more() {
    let mut sender = protect(still());
    sender.epochs.sequence = u64::MAX;
    assert_eq!(sender.protect(Kind::End, Bytes::new()).err(), Some(RecordError::TooMany));
    assert_eq!(sender.protect(Kind::End, Bytes::new()).err(), Some(RecordError::TooMany));
    let mut sender = protect(still());
    (sender.epochs.epoch, sender.epochs.used) = (u32::MAX, EPOCH_RECORDS);
    assert_eq!(sender.protect(Kind::End, Bytes::new()).err(), Some(RecordError::TooMany));
}

#[test]
fn lengths_that_a_kind_does_not_allow_are_not_sealed() {
    for kind in Kind::ALL {
        let (least, most) = (*kind.lengths().start(), *kind.lengths().end());
        let mut protect = protect(still());
        let mut send =
            |len: usize| protect.protect(kind, Bytes::from(vec![b'x'; len])).map(|frame| frame.len());
        assert_eq!(send(most + 1), Err(RecordError::BadLength), "{kind:?}");
        assert_eq!(send(most), Ok(HEADER_LEN + most + SEALED_LEN), "{kind:?}");
        assert_eq!(send(least), Ok(HEADER_LEN + least + SEALED_LEN), "{kind:?}");
        assert_eq!(protect.epochs.sequence, 2, "what was refused is not counted");
    }
}

#[test]
fn a_payload_that_nobody_else_holds_stays_where_it_is() {
    let payload = Bytes::from(vec![1; 1000]);
    let at = payload.as_ptr();
    let frame = protect(still()).protect(Kind::Data, payload).unwrap();
    assert_eq!(frame.payload.as_ptr(), at);
    let message = frame.to_bytes();
    let at = message[HEADER_LEN..].as_ptr();
    assert_eq!(open_message(&mut open(), message).unwrap().payload.as_ptr(), at);
    let stream = frame.to_bytes();
    let at = stream[HEADER_LEN..].as_ptr();
    let mut decoder = Decoder::new(open());
    decoder.push(stream);
    assert_eq!(decoder.next_record().unwrap().unwrap().payload.as_ptr(), at);
}

#[test]
fn a_payload_that_somebody_holds_stays_as_it_is() {
    let payload = Bytes::from(vec![1; 1000]);
    let frame = protect(still()).protect(Kind::Data, payload.clone()).unwrap();
    assert_eq!(payload, vec![1; 1000]);
    let message = frame.to_bytes();
    let kept = message.clone();
    assert_eq!(open_message(&mut open(), message).unwrap().payload, payload);
    assert_eq!(kept, frame.to_bytes());
    let mut decoder = Decoder::new(open());
    decoder.push(kept.clone());
    assert_eq!(decoder.next_record().unwrap().unwrap().payload, payload);
    assert_eq!(kept, frame.to_bytes());
}

#[test]
fn what_is_sealed_shows_nothing() {
    let secret = b"GET /secret/path cookie=value";
    let mut stream = BytesMut::new();
    let mut protect = protect(still());
    for _ in 0..2 {
        protect.protect(Kind::Data, Bytes::from_static(secret)).unwrap().write(&mut stream);
    }
    for part in [&secret[..], b"secret", b"cookie"] {
        assert!(!stream.windows(part.len()).any(|window| window == part));
    }
    let (one, two) = stream.split_at(stream.len() / 2);
    assert_ne!(one[HEADER_LEN..], two[HEADER_LEN..]);
    let shown = format!("{protect:?} {:?}", open());
    assert_eq!(shown, "SealedProtect(Epochs(0, record 2)) SealedOpen(Epochs(0, record 0))");
}

#[test]
fn what_may_not_come_is_refused_by_its_header() {
    // (how far it is, the header of the record that is announced, whether more is waited for)
    let cases = [
        (0, Kind::Head, crate::record::MAX_HEAD, true),
        (0, Kind::Text, crate::record::MAX_MESSAGE, false),
        (0, Kind::Error, 2, false),
        (1, Kind::Text, crate::record::MAX_MESSAGE, false),
        (1, Kind::Binary, crate::record::MAX_MESSAGE, false),
        (1, Kind::Head, crate::record::MAX_HEAD, false),
        (1, Kind::Data, crate::record::MAX_DATA, true),
        (1, Kind::End, crate::record::MAX_DATA, true),
        (2, Kind::Data, 1, false),
        (2, Kind::End, 0, false),
    ];
    for (taken, kind, length, waits) in cases {
        let (mut protect, mut decoder, mut order) =
            (protect(still()), Decoder::new(open()), Order::request());
        for kind in [Kind::Head, Kind::End].into_iter().take(taken) {
            decoder.push(protect.protect(kind, Bytes::from_static(b"{}")).unwrap().to_bytes());
            assert_eq!(decoder.next_in(&mut order).unwrap().unwrap().kind, kind);
        }
        decoder.push(Bytes::copy_from_slice(&Header::new(kind, length).unwrap().to_bytes()));
        let expected = if waits { Ok(None) } else { Err(RecordError::OutOfOrder) };
        assert_eq!(decoder.next_in(&mut order), expected, "{kind:?} after {taken}");
    }
}
