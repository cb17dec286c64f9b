//! What goes to the bus: a bounded queue, and the signing where the order is fixed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::envelope::{Envelope, Key, is_id, is_machine, is_relay_id};
use super::inbox::now_ms;
use super::metrics::{Metrics, Unpublished};
use super::queue::Held;
use super::replay::{MAX_AT_ONCE, WINDOW_MS};
use super::{Direction, Pair};

/// Frames that may wait.
pub(super) const WAITING: usize = 4096;
/// Bytes of them.
pub(super) const WAITING_BYTES: usize = 16 << 20;
/// A frame that waited longer is of no use to anybody: whoever sent it has asked again.
const TOO_OLD: Duration = Duration::from_secs(5);
/// Frames that are passed on in one go.
const BATCH: usize = 64;
/// Bytes of them, more or less.
const BATCH_BYTES: usize = 1 << 20;

/// Frames with one time; receivers refuse more than [`MAX_AT_ONCE`](super::replay::MAX_AT_ONCE).
const MOST_AT_ONCE: usize = MAX_AT_ONCE / 2;
/// How far times may run ahead of the clock so that frames differ; receivers allow more.
const MOST_AHEAD_MS: i64 = WINDOW_MS / 3;

/// A frame on its way.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Outgoing {
    pub(super) pair: Pair,
    pub(super) machine: Option<Arc<str>>,
    pub(super) to: Option<Arc<str>>,
    pub(super) direction: Direction,
    pub(super) payload: Arc<str>,
    pub(super) queued: Instant,
}

impl Outgoing {
    /// Whether every part of it can be signed.
    pub(super) fn is_sound(&self) -> bool {
        is_id(&self.pair.workspace)
            && self.pair.target.as_deref().is_none_or(is_id)
            && self.to.as_deref().is_none_or(is_relay_id)
    }
}

/// Signs what is sent, in the order in which it is sent.
pub(super) struct Sealer {
    me: Arc<str>,
    key: Key,
    last_ms: i64,
    /// The signatures of `last_ms`.
    signed: HashSet<String>,
    metrics: Arc<Metrics>,
}

impl Sealer {
    pub(super) fn new(me: Arc<str>, key: Key, metrics: Arc<Metrics>) -> Self {
        Self { me, key, last_ms: 0, signed: HashSet::new(), metrics }
    }

    /// The frame as it travels; `None` (and counted) when it is too old.
    pub(super) fn seal(&mut self, frame: &Outgoing) -> Option<Envelope> {
        if frame.queued.elapsed() > TOO_OLD {
            self.metrics.unpublished(Unpublished::TooOld, 1);
            return None;
        }
        let now_ms = now_ms();
        let mut envelope = Envelope {
            workspace_id: frame.pair.workspace.to_string(),
            runtime_target_id: frame.pair.target.as_deref().map(str::to_owned),
            machine_id: frame.machine.as_deref().filter(|machine| is_machine(machine)).map(str::to_owned),
            source_relay_id: self.me.to_string(),
            target_relay_id: frame.to.as_deref().map(str::to_owned),
            direction: frame.direction,
            payload: frame.payload.to_string(),
            issued_at_ms: self.stamp(now_ms),
            signature: String::new(),
        }
        .sign(&self.key)?;
        // The same frame twice in one millisecond would be taken for a replay, and so many frames for an attack.
        let crowded = self.signed.len() >= MOST_AT_ONCE || self.signed.contains(&envelope.signature);
        if crowded && self.last_ms.saturating_sub(now_ms) < MOST_AHEAD_MS {
            self.stamp(self.last_ms.saturating_add(1));
            envelope.issued_at_ms = self.last_ms;
            envelope = envelope.sign(&self.key)?;
        }
        if self.signed.len() < MOST_AT_ONCE {
            self.signed.insert(envelope.signature.clone());
        }
        Some(envelope)
    }

    /// Never goes back, unless the clock was put back so far that nobody would believe the old time.
    fn stamp(&mut self, now_ms: i64) -> i64 {
        let ahead = self.last_ms.saturating_sub(now_ms);
        let stamp = if (1..=WINDOW_MS).contains(&ahead) { self.last_ms } else { now_ms };
        if stamp != self.last_ms {
            self.signed.clear();
        }
        self.last_ms = stamp;
        stamp
    }
}

/// What waits, up to a batch, in order; `None` at the end. Frames that follow at once go along.
pub(super) async fn batch(queue: &mut mpsc::Receiver<Held<Outgoing>>) -> Option<Vec<Held<Outgoing>>> {
    let first = queue.recv().await?;
    let mut bytes = first.item.payload.len();
    let mut batch = vec![first];
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.item.payload.len();
        batch.push(next);
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> Sealer {
        let key = Key::new(b"a key that the relays share").unwrap();
        Sealer::new("me".into(), key, Arc::new(Metrics::new()))
    }

    #[test]
    fn times_never_go_back_by_what_receivers_would_notice() {
        let mut sealer = sealer();
        let steps = [
            (1_000_000, 1_000_000),
            (999_999, 1_000_000),
            (985_000, 1_000_000),
            (984_999, 984_999),
            (985_500, 985_500),
        ];
        for (now, expected) in steps {
            assert_eq!(sealer.stamp(now), expected, "{now}");
        }
    }

    #[test]
    fn the_same_frame_many_times_is_never_a_replay() {
        use super::super::replay::Replay;
        let (mut sealer, key) = (sealer(), Key::new(b"a key that the relays share").unwrap());
        let mut replay = Replay::new(0);
        let frame = Outgoing {
            pair: Pair { workspace: "w".into(), target: None },
            machine: None,
            to: None,
            direction: Direction::DaemonToClients,
            payload: "{}".into(),
            queued: Instant::now(),
        };
        for number in 0..1000 {
            let sealed = sealer.seal(&frame).unwrap();
            let tag = sealed.verify(&key).unwrap();
            assert_eq!(replay.admit("me", sealed.issued_at_ms, tag, now_ms()), Ok(()), "{number}");
        }
        // More different ones in one millisecond than receivers take.
        for number in 0..3000 {
            let frame = Outgoing { payload: number.to_string().into(), ..frame.clone() };
            let sealed = sealer.seal(&frame).unwrap();
            let tag = sealed.verify(&key).unwrap();
            assert_eq!(replay.admit("me", sealed.issued_at_ms, tag, now_ms()), Ok(()), "{number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_waited_too_long_is_not_sent() {
        let mut sealer = sealer();
        let frame = Outgoing {
            pair: Pair { workspace: "w".into(), target: None },
            machine: Some("a\nb".into()),
            to: None,
            direction: Direction::DaemonToClients,
            payload: "{}".into(),
            queued: Instant::now(),
        };
        let sealed = sealer.seal(&frame).unwrap();
        assert_eq!(sealed.machine_id, None, "a machine that cannot be named on the bus goes unnamed");
        tokio::time::advance(TOO_OLD + Duration::from_millis(1)).await;
        assert!(sealer.seal(&frame).is_none());
    }
}
