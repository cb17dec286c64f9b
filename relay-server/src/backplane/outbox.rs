//! What goes to the bus: bounded queues that take turns, one for each pair, and the signing where the order is fixed.
//!
//! Whoever finds its pair's queue full waits a moment for room, and reads nothing from its socket meanwhile: so a burst
//! is slowed down to what the bus takes instead of losing frames in the middle, and delays nobody of another pair.
//!
//! A frame for all relays costs each of them something. What a pair may send to all is limited besides, so that a daemon
//! that talks of sessions which nobody knows does not fill the bus.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::envelope::{Envelope, Key, is_id, is_machine, is_relay_id};
use super::health::DEADLINE;
use super::lanes::{Bounds, Full, Lanes};
use super::metrics::{Metrics, Unpublished};
use super::replay::WINDOW_MS;
use super::{Direction, Pair, Sender};
use crate::clock::unix_ms_i64;
use crate::limits::Tries;

/// Frames that may wait.
const WAITING: usize = 4096;
/// Bytes of them.
const WAITING_BYTES: usize = 16 << 20;
/// What one pair may have of either at most: one part in so many.
const SHARE: usize = 8;
/// How long a frame waits for room in the queue: as long as a call that hangs takes to be given up, after which the
/// queue empties.
const ROOM: Duration = DEADLINE;
/// How far the times that are given may run ahead of the clock, less than what receivers bear. Reached only by more
/// than a thousand frames per second, for that long.
const LEAD_MS: i64 = WINDOW_MS / 3;
/// A frame that waited longer is of no use to anybody: whoever sent it has asked again.
const TOO_OLD: Duration = Duration::from_secs(5);
/// Frames that are passed on in one go.
const BATCH: usize = 64;
/// Bytes of them, more or less.
const BATCH_BYTES: usize = 1 << 20;

/// A frame on its way.
pub(super) struct Outgoing {
    pub(super) pair: Pair,
    pub(super) machine: Option<Arc<str>>,
    pub(super) to: Option<Arc<str>>,
    pub(super) direction: Direction,
    pub(super) payload: Arc<str>,
    pub(super) sender: Option<Arc<dyn Sender>>,
    pub(super) queued: Instant,
}

impl Outgoing {
    /// Whether every part of it can be signed.
    pub(super) fn is_sound(&self) -> bool {
        is_id(&self.pair.workspace)
            && self.pair.target.as_deref().is_none_or(is_id)
            && self.to.as_deref().is_none_or(is_relay_id)
    }

    /// It did not arrive.
    pub(super) fn lost(&self) {
        if let Some(sender) = &self.sender {
            sender.lost();
        }
    }
}

/// What a pair may have of the other side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Frames for all relays at once.
    to_all: u32,
    /// How long it takes until it may send one more to all.
    each: Duration,
    /// Frames that may wait: no more than go out in [`TOO_OLD`] when the other side is slow.
    waiting: usize,
}

impl Allowance {
    /// At the platform each frame is a call of its own, one after the other: 20 per second may go to all.
    pub(super) const PLATFORM: Self = Self { to_all: 100, each: Duration::from_millis(50), waiting: 64 };
    /// Redis and PostgreSQL take many in one go: 200 per second may go to all, five times what a daemon may say.
    pub(super) const OTHERS: Self =
        Self { to_all: 1000, each: Duration::from_millis(5), waiting: WAITING / SHARE };
}

/// What waits for the bus.
pub(super) struct Outbox {
    lanes: Mutex<Lanes<Pair, Outgoing>>,
    /// Something was put in.
    news: Notify,
    /// Something was taken out.
    room: Notify,
    to_all: Tries<[u8; 16]>,
}

impl Outbox {
    /// A payload has `max_payload` bytes at most: of one there is room in every case.
    pub(super) fn new(max_payload: usize, allowance: Allowance) -> Self {
        let bytes = WAITING_BYTES.max(2 * max_payload);
        let lane_bytes = (bytes / SHARE).max(max_payload);
        let bounds = Bounds { count: WAITING, bytes, lane_count: allowance.waiting, lane_bytes };
        Self {
            lanes: Mutex::new(Lanes::new(bounds)),
            news: Notify::new(),
            room: Notify::new(),
            to_all: Tries::new(allowance.to_all, allowance.each),
        }
    }

    /// Puts it in, as soon as there is room; or says why not. `away` tells that nothing goes out at the moment: then
    /// nobody waits.
    pub(super) async fn put(&self, frame: Outgoing, away: impl Fn() -> bool) -> Result<(), Unpublished> {
        let (until, bytes) = (Instant::now() + ROOM, frame.payload.len());
        loop {
            // Made before looking: what is taken out after that wakes it.
            let room = self.room.notified();
            if away() {
                return Err(Unpublished::Away);
            }
            {
                let mut lanes = self.lanes.lock();
                if lanes.has_room(&frame.pair, bytes) {
                    return self.put_now(&mut lanes, frame);
                }
            }
            if timeout_at(until, room).await.is_err() {
                return Err(Unpublished::QueueFull);
            }
        }
    }

    fn put_now(&self, lanes: &mut Lanes<Pair, Outgoing>, mut frame: Outgoing) -> Result<(), Unpublished> {
        if frame.to.is_none() && !self.to_all.take(short(&frame.pair), Instant::now().into_std()) {
            return Err(Unpublished::TooMany);
        }
        frame.queued = Instant::now();
        let (pair, bytes) = (frame.pair.clone(), frame.payload.len());
        lanes.put(&pair, frame, bytes).map_err(|Full| Unpublished::QueueFull)?;
        self.news.notify_one();
        Ok(())
    }

    /// What waits, up to a batch; of each pair in order. Frames that follow at once go along.
    pub(super) async fn batch(&self) -> Vec<Outgoing> {
        loop {
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Vec<Outgoing> {
        let mut lanes = self.lanes.lock();
        let (mut batch, mut sum) = (Vec::new(), 0);
        while batch.len() < BATCH && sum < BATCH_BYTES {
            let Some((frame, bytes)) = lanes.take() else { break };
            sum += bytes;
            batch.push(frame);
        }
        drop(lanes);
        if !batch.is_empty() {
            self.room.notify_waiters();
        }
        batch
    }
}

/// A pair in few bytes. Ids hold no line breaks.
fn short(pair: &Pair) -> [u8; 16] {
    let text = format!("{}\n{}", pair.workspace, pair.target.as_deref().unwrap_or_default());
    let mut short = [0; 16];
    for (to, byte) in short.iter_mut().zip(Sha256::digest(text.as_bytes())) {
        *to = byte;
    }
    short
}

/// Signs what is sent, in the order in which it is sent.
pub(super) struct Sealer {
    me: Arc<str>,
    key: Key,
    last_ms: i64,
    metrics: Arc<Metrics>,
}

impl Sealer {
    pub(super) fn new(me: Arc<str>, key: Key, metrics: Arc<Metrics>) -> Self {
        Self { me, key, last_ms: 0, metrics }
    }

    /// The frame as it travels; `None` (and counted) when it is too old.
    pub(super) fn seal(&mut self, frame: &Outgoing) -> Option<Envelope> {
        if frame.queued.elapsed() > TOO_OLD {
            self.metrics.unpublished(Unpublished::TooOld, 1);
            frame.lost();
            return None;
        }
        let envelope = Envelope {
            workspace_id: frame.pair.workspace.to_string(),
            runtime_target_id: frame.pair.target.as_deref().map(str::to_owned),
            machine_id: frame.machine.as_deref().filter(|machine| is_machine(machine)).map(str::to_owned),
            source_relay_id: self.me.to_string(),
            target_relay_id: frame.to.as_deref().map(str::to_owned),
            direction: frame.direction,
            payload: frame.payload.to_string(),
            issued_at_ms: self.stamp(unix_ms_i64()),
            signature: String::new(),
        };
        envelope.sign(&self.key)
    }

    /// Always later than the one before, so that nobody on the way can change the order; unless the clock was put back
    /// so far that nobody would believe the old time, or so many are sent that the times would run away from it.
    fn stamp(&mut self, now_ms: i64) -> i64 {
        let ahead = self.last_ms.saturating_sub(now_ms);
        self.last_ms = match ahead {
            ..0 => now_ms,
            0..LEAD_MS => self.last_ms.saturating_add(1),
            LEAD_MS..=WINDOW_MS => self.last_ms,
            _ => now_ms,
        };
        self.last_ms
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn sealer() -> Sealer {
        let key = Key::new(b"a key that the relays share").unwrap();
        Sealer::new("me".into(), key, Arc::new(Metrics::new()))
    }

    fn frame(workspace: &str, to: Option<&str>, payload: &str) -> Outgoing {
        Outgoing {
            pair: Pair { workspace: workspace.into(), target: None },
            machine: Some("a\nb".into()),
            to: to.map(Into::into),
            direction: Direction::DaemonToClients,
            payload: payload.into(),
            sender: None,
            queued: Instant::now(),
        }
    }

    #[test]
    fn no_two_have_one_time_and_none_goes_back_by_what_receivers_would_notice() {
        let mut sealer = sealer();
        let steps = [
            (1_000_000, 1_000_000),
            (1_000_000, 1_000_001),
            (999_999, 1_000_002),
            (1_000_005, 1_000_005),
            (985_005, 1_000_005),
            (985_004, 985_004),
            (985_500, 985_500),
        ];
        for (now, expected) in steps {
            assert_eq!(sealer.stamp(now), expected, "{now}");
        }
        // More of them than there are milliseconds: still what receivers believe.
        for _ in 0..3 * WINDOW_MS {
            let before = sealer.last_ms;
            let stamp = sealer.stamp(985_500);
            assert!(stamp >= before && stamp <= 985_500 + LEAD_MS);
        }
    }

    /// Puts it in if that needs no waiting.
    fn put(outbox: &Outbox, frame: Outgoing) -> Option<Result<(), Unpublished>> {
        outbox.put(frame, || false).now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn one_daemon_neither_fills_the_queue_nor_has_all_the_turns() {
        let outbox = Outbox::new(1 << 20, Allowance::OTHERS);
        let taken = |frame| put(&outbox, frame) == Some(Ok(()));
        let loud = (0..WAITING).filter(|_| taken(frame("loud", Some("b"), "{}"))).count();
        assert_eq!(loud, WAITING / SHARE);
        assert_eq!(put(&outbox, frame("loud", Some("b"), "{}")), None);
        for number in 0..3 {
            assert!(taken(frame("quiet", Some("b"), &number.to_string())));
        }
        let batch = outbox.batch().await;
        assert_eq!(batch.len(), BATCH);
        let quiet: Vec<(usize, &str)> = batch
            .iter()
            .enumerate()
            .filter(|(_, frame)| &*frame.pair.workspace == "quiet")
            .map(|(place, frame)| (place, &*frame.payload))
            .collect();
        assert_eq!(quiet, [(1, "0"), (3, "1"), (5, "2")]);
        // The largest has room, and not much more of it.
        let large = "x".repeat(1 << 20);
        let many = (0..100).filter(|_| taken(frame("large", Some("b"), &large))).count();
        assert_eq!(many, WAITING_BYTES / SHARE / large.len());
        let huge = frame("w", None, &"x".repeat(64 << 20));
        assert_eq!(put(&Outbox::new(64 << 20, Allowance::OTHERS), huge), Some(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_the_queue_full_waits_for_room_and_keeps_its_order() {
        let outbox = Arc::new(Outbox::new(1 << 20, Allowance::OTHERS));
        let many = 3 * WAITING / SHARE;
        let sender = tokio::spawn({
            let outbox = outbox.clone();
            async move {
                for number in 0..many {
                    outbox.put(frame("loud", Some("b"), &number.to_string()), || false).await.unwrap();
                }
            }
        });
        let mut numbers = Vec::new();
        while numbers.len() < many {
            numbers.extend(outbox.batch().await.iter().map(|frame| frame.payload.parse::<usize>().unwrap()));
            tokio::time::advance(ROOM / 2).await;
        }
        sender.await.unwrap();
        assert!(numbers.into_iter().eq(0..many));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_room_has_an_end() {
        let outbox = Outbox::new(1 << 20, Allowance::OTHERS);
        while put(&outbox, frame("loud", Some("b"), "{}")).is_some() {}
        let began = Instant::now();
        let waits = outbox.put(frame("loud", Some("b"), "{}"), || false);
        assert_eq!(waits.await, Err(Unpublished::QueueFull));
        assert_eq!(began.elapsed(), ROOM);
        // Nor does anybody wait when nothing goes out, from the beginning or from now on.
        let waits = outbox.put(frame("loud", Some("b"), "{}"), || true);
        assert_eq!(waits.now_or_never(), Some(Err(Unpublished::Away)));
        let away = std::sync::atomic::AtomicBool::new(false);
        let waits =
            outbox.put(frame("loud", Some("b"), "{}"), || away.load(std::sync::atomic::Ordering::Relaxed));
        let goes_away = async {
            away.store(true, std::sync::atomic::Ordering::Relaxed);
            outbox.batch().await;
        };
        assert_eq!(tokio::join!(waits, goes_away).0, Err(Unpublished::Away));
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_to_all_is_limited_for_each_pair() {
        let outbox =
            Outbox::new(1 << 20, Allowance { to_all: 100, each: Duration::from_millis(50), waiting: 200 });
        let sent = |workspace: &str| {
            (0..1000).filter(|_| put(&outbox, frame(workspace, None, "{}")) == Some(Ok(()))).count()
        };
        assert_eq!(sent("loud"), 100);
        assert_eq!(put(&outbox, frame("loud", None, "{}")), Some(Err(Unpublished::TooMany)));
        assert_eq!(put(&outbox, frame("loud", Some("b"), "{}")), Some(Ok(())), "to one relay");
        assert_eq!(sent("other"), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sent("loud"), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_waited_too_long_is_not_sent() {
        let mut sealer = sealer();
        let frame = frame("w", None, "{}");
        let sealed = sealer.seal(&frame).unwrap();
        assert_eq!(sealed.machine_id, None, "a machine that cannot be named on the bus goes unnamed");
        tokio::time::advance(TOO_OLD + Duration::from_millis(1)).await;
        assert!(sealer.seal(&frame).is_none());
    }
}
