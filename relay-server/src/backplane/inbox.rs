//! What comes from the bus. Everything was written by anybody who can reach it: it counts only when it is for us,
//! signed, fresh, in order and new. Whatever is refused is counted and never answered.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::envelope::{Envelope, Key, MAX_ENVELOPE};
use super::metrics::{Metrics, Refused};
use super::queue::{self, Held};
use super::replay::Replay;
use super::{BusFrame, Event, Pair};
use crate::clock::unix_ms_i64;

/// What may wait for the broker: it routes in memory, so more than a moment's traffic is an attack or a defect.
const WAITING: usize = 4096;
/// Bytes of it.
const WAITING_BYTES: usize = 32 << 20;
/// In JSON a byte becomes six at most (`\u001f`).
const LONGEST_ESCAPE: usize = 6;

/// Checks frames and passes on the good ones.
pub(super) struct Inbox {
    me: Arc<str>,
    key: Key,
    max_payload: usize,
    replay: Mutex<Replay>,
    events: queue::Sender<Event>,
    metrics: Arc<Metrics>,
}

impl Inbox {
    /// Also what is to be run so that events arrive.
    pub(super) fn new(
        me: Arc<str>,
        key: Key,
        max_payload: usize,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::Receiver<Held<Event>>) {
        let (events, waiting) = queue::bounded(WAITING, WAITING_BYTES.max(2 * max_payload));
        let replay = Mutex::new(Replay::new(unix_ms_i64()));
        (Self { me, key, max_payload, replay, events, metrics }, waiting)
    }

    /// Takes a frame as text. Too long a one is not even read.
    pub(super) fn take_text(&self, text: &[u8]) {
        if text.len() > self.max_payload.saturating_mul(LONGEST_ESCAPE).saturating_add(MAX_ENVELOPE) {
            return self.metrics.refused(Refused::TooLarge);
        }
        match serde_json::from_slice(text) {
            Ok(envelope) => self.take(envelope),
            Err(_) => self.metrics.refused(Refused::Malformed),
        }
    }

    /// Takes a frame.
    pub(super) fn take(&self, envelope: Envelope) {
        match self.admit(envelope, unix_ms_i64()) {
            Ok(frame) => {
                let bytes = frame.payload.len();
                match self.events.put(Event::Frame(frame), bytes) {
                    Ok(()) => self.metrics.received.increment(1),
                    Err(queue::Full) => self.metrics.refused(Refused::QueueFull),
                }
            }
            Err(reason) => self.metrics.refused(reason),
        }
    }

    /// Something that could not be read.
    pub(super) fn malformed(&self) {
        self.metrics.refused(Refused::Malformed);
    }

    /// Tells of something else; `false` when there is no room now.
    pub(super) fn tell(&self, event: Event) -> bool {
        self.events.put(event, 0).is_ok()
    }

    fn admit(&self, envelope: Envelope, now_ms: i64) -> Result<BusFrame, Refused> {
        let target = envelope.target_relay_id.as_deref().filter(|id| !id.is_empty());
        if envelope.source_relay_id == *self.me {
            return Err(Refused::Own);
        }
        if target.is_some_and(|target| *target != *self.me) {
            return Err(Refused::NotOurs);
        }
        if envelope.payload.len() > self.max_payload {
            return Err(Refused::TooLarge);
        }
        let tag = envelope.verify(&self.key).ok_or(Refused::Signature)?;
        self.replay.lock().admit(&envelope.source_relay_id, envelope.issued_at_ms, tag, now_ms)?;
        let targeted = target.is_some();
        let present = |id: Option<String>| id.filter(|id| !id.is_empty()).map(Arc::from);
        Ok(BusFrame {
            pair: Pair {
                workspace: envelope.workspace_id.into(),
                target: present(envelope.runtime_target_id),
            },
            machine: present(envelope.machine_id),
            source: envelope.source_relay_id.into(),
            targeted,
            direction: envelope.direction,
            payload: envelope.payload.into(),
        })
    }
}

/// Hands over what waits, until `stop` or until nobody listens.
pub(super) async fn hand_over(
    mut waiting: mpsc::Receiver<Held<Event>>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    loop {
        let held = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            held = waiting.recv() => match held { Some(held) => held, None => return },
        };
        tokio::select! {
            () = stop.cancelled() => return,
            // Nobody listens (any more): what comes is taken out all the same.
            _ = events.send(held.item) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direction;
    use super::*;

    const MAX: usize = 64;

    fn key() -> Key {
        Key::new(b"a key that the relays share").unwrap()
    }

    fn frame(now: i64) -> Envelope {
        Envelope {
            workspace_id: "w".to_owned(),
            runtime_target_id: Some("t".to_owned()),
            machine_id: None,
            source_relay_id: "other".to_owned(),
            target_relay_id: Some("me".to_owned()),
            direction: Direction::ClientToDaemon,
            payload: "{}".to_owned(),
            issued_at_ms: now,
            signature: String::new(),
        }
    }

    #[test]
    fn only_what_is_good_in_every_way_is_taken() {
        let (inbox, _waiting) = Inbox::new("me".into(), key(), MAX, Arc::new(Metrics::new()));
        let now = unix_ms_i64() + 1000;
        let signed = |frame: Envelope| frame.sign(&key()).unwrap();
        let cases: [(&str, Envelope, Result<bool, Refused>); 10] = [
            ("forged", Envelope { signature: "A".repeat(43), ..frame(now) }, Err(Refused::Signature)),
            ("ours", signed(Envelope { source_relay_id: "me".to_owned(), ..frame(now) }), Err(Refused::Own)),
            (
                "another's",
                signed(Envelope { target_relay_id: Some("you".to_owned()), ..frame(now) }),
                Err(Refused::NotOurs),
            ),
            ("long", signed(Envelope { payload: "x".repeat(MAX + 1), ..frame(now) }), Err(Refused::TooLarge)),
            ("stale", signed(frame(now - 15_001)), Err(Refused::Stale)),
            ("ahead", signed(frame(now + 15_001)), Err(Refused::Stale)),
            ("good", signed(frame(now)), Ok(true)),
            ("again", signed(frame(now)), Err(Refused::Replayed)),
            ("earlier", signed(frame(now - 1)), Err(Refused::OutOfOrder)),
            ("for all", signed(Envelope { target_relay_id: None, ..frame(now) }), Ok(false)),
        ];
        for (name, frame, expected) in cases {
            assert_eq!(inbox.admit(frame, now).map(|frame| frame.targeted), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_flood_is_bounded_and_what_was_taken_arrives() {
        let (inbox, waiting) = Inbox::new("me".into(), key(), MAX, Arc::new(Metrics::new()));
        let pair = Pair { workspace: "w".into(), target: None };
        let superseded = || Event::Superseded {
            pair: pair.clone(),
            connection: uuid::Uuid::nil(),
            higher_generation: false,
        };
        let told = |_| inbox.tell(superseded());
        assert_eq!((0..2 * WAITING).filter(|n| told(*n)).count(), WAITING);
        let (events, mut receiver) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let task = tokio::spawn(hand_over(waiting, events, stop.clone()));
        for _ in 0..WAITING {
            receiver.recv().await.unwrap();
        }
        stop.cancel();
        task.await.unwrap();
    }
}
