//! Who may write now: interactive before bulk, and a backlog that stays small.
//!
//! yamux itself holds a writer back only by its stream's window, so a hundred streams may queue a
//! hundred windows in front of one small request. Here every stream writes in slices, and the slices
//! that no socket has taken yet are the *backlog*. Below [`SOFT`] anyone may add a slice. Above it only
//! a stream that has lately written little may, up to [`HARD`]; the others wait in line.
//!
//! An *epoch* ends whenever the backlog is handed to the socket as one message. A stream's burst, the
//! bytes that it wrote lately, halves with every epoch in which it did not wait.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

/// What one write adds at the most: a small request waits for one slice of each other stream.
pub(super) const SLICE: usize = 32 * 1024;
/// The backlog up to which everybody may write. Two sockets' worth of `TCP_NOTSENT_LOWAT`; smaller
/// costs throughput on fast links, larger costs latency on slow ones.
const SOFT: usize = 128 * 1024;
/// The backlog that nothing may exceed.
const HARD: usize = 1 << 20;
/// A stream with a burst from here on counts as bulk.
const BULK: usize = SLICE;

/// What one stream wrote lately.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Burst {
    bytes: usize,
    epoch: u64,
}

impl Burst {
    /// The bytes that count at this epoch.
    fn at(self, epoch: u64) -> usize {
        self.bytes
            .checked_shr(u32::try_from(epoch.saturating_sub(self.epoch)).unwrap_or(u32::MAX))
            .unwrap_or(0)
    }

    fn add(&mut self, epoch: u64, bytes: usize) {
        *self = Burst { bytes: self.at(epoch).saturating_add(bytes), epoch };
    }

    /// Waiting in line is no rest: the burst keeps its size.
    fn hold(&mut self, epoch: u64) {
        self.epoch = epoch;
    }
}

/// The decision: how many bytes a stream with this burst may add to this backlog. 0 means wait.
fn allowance(backlog: usize, burst: usize) -> usize {
    match backlog {
        b if b < SOFT => SLICE,
        b if b < HARD && burst < BULK => SLICE / 2,
        _ => 0,
    }
}

/// The backlog of one tunnel, and the line of those who wait for it. `W` is a waiting stream.
#[derive(Debug)]
pub(super) struct Gate<W> {
    /// Written by streams, not yet seen in the outbound buffer by the driver.
    pending: AtomicUsize,
    /// In the outbound buffer or in the message that the socket is taking. Set by the driver alone.
    queued: AtomicUsize,
    epoch: AtomicU64,
    /// Writes since the last message went out.
    writes: AtomicUsize,
    line: Mutex<VecDeque<Arc<W>>>,
}

impl<W> Gate<W> {
    pub(super) fn new() -> Self {
        Self {
            pending: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            writes: AtomicUsize::new(0),
            line: Mutex::default(),
        }
    }

    /// Bytes that no socket has taken yet.
    pub(super) fn backlog(&self) -> usize {
        self.pending.load(Relaxed).saturating_add(self.queued.load(Relaxed))
    }

    /// How many bytes this stream may write now; 0 means that it has to wait in line.
    pub(super) fn allowance(&self, burst: &mut Burst, waiting: bool) -> usize {
        let epoch = self.epoch.load(Relaxed);
        if waiting {
            burst.hold(epoch);
        }
        allowance(self.backlog(), burst.at(epoch))
    }

    /// Puts a stream at the end of the line.
    pub(super) fn wait(&self, who: Arc<W>) {
        self.line.lock().push_back(who);
    }

    /// Counts what a stream is about to write. Before, because what is counted only after the session
    /// has taken it would stay counted when the driver has gone to sleep.
    pub(super) fn announce(&self, bytes: usize) {
        self.writes.fetch_add(1, Relaxed);
        self.pending.fetch_add(bytes, SeqCst);
    }

    /// What was announced came to this: the rest is taken back.
    pub(super) fn wrote(&self, burst: &mut Burst, announced: usize, bytes: usize) {
        burst.add(self.epoch.load(Relaxed), bytes);
        if announced > bytes {
            // The driver may have settled it already.
            let less = |pending: usize| Some(pending.saturating_sub(announced - bytes));
            let _ = self.pending.fetch_update(SeqCst, SeqCst, less);
        }
    }

    /// What streams have announced and the driver has not settled. Read before the session is found dry.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(SeqCst)
    }

    /// The session was dry after `pending` was read: those bytes stand in the outbound buffer, or their
    /// writer is about to wake the driver.
    pub(super) fn settle(&self, pending: usize) {
        let less = |now: usize| Some(now.saturating_sub(pending));
        let _ = self.pending.fetch_update(SeqCst, SeqCst, less);
    }

    /// The driver's exact knowledge of what the socket has not taken.
    pub(super) fn set_queued(&self, bytes: usize) {
        self.queued.store(bytes, Relaxed);
    }

    /// A message with the whole backlog went to the socket. Returns how many writes it carried.
    pub(super) fn next_epoch(&self) -> usize {
        self.epoch.fetch_add(1, Relaxed);
        self.writes.swap(0, Relaxed)
    }

    /// Takes from the line those who may write now: as many as there is room for, and everybody once
    /// the backlog is empty, so that nobody waits for one who was let in and did not write.
    pub(super) fn admit(&self, admitted: &mut Vec<Arc<W>>) {
        let backlog = self.backlog();
        if backlog >= SOFT {
            return;
        }
        let mut line = self.line.lock();
        let room = if backlog == 0 { line.len() } else { (SOFT - backlog) / SLICE + 1 };
        let count = room.min(line.len());
        admitted.extend(line.drain(..count));
        if line.is_empty() && line.capacity() > 64 {
            *line = VecDeque::new();
        }
    }

    /// Whether somebody waits who could be let in.
    pub(super) fn has_room_for_waiting(&self) -> bool {
        self.backlog() < SOFT && !self.line.lock().is_empty()
    }

    /// Takes everybody from the line: the tunnel has ended.
    pub(super) fn dismiss(&self) -> VecDeque<Arc<W>> {
        std::mem::take(&mut *self.line.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interactive_streams_pass_a_backlog_that_stops_bulk() {
        for (backlog, burst, expected) in [
            (0, 0, SLICE),
            (SOFT - 1, usize::MAX, SLICE),
            (SOFT, 0, SLICE / 2),
            (SOFT, BULK - 1, SLICE / 2),
            (SOFT, BULK, 0),
            (HARD - 1, 0, SLICE / 2),
            (HARD, 0, 0),
            (usize::MAX, 0, 0),
        ] {
            assert_eq!(allowance(backlog, burst), expected, "backlog {backlog} burst {burst}");
        }
    }

    #[test]
    fn a_burst_halves_with_every_epoch_unless_its_stream_waits() {
        let mut burst = Burst::default();
        burst.add(0, 64 * 1024);
        assert_eq!(burst.at(0), 64 * 1024);
        assert_eq!(burst.at(1), 32 * 1024);
        assert_eq!(burst.at(17), 0);
        assert_eq!(burst.at(u64::MAX), 0);
        burst.hold(40);
        assert_eq!(burst.at(40), 64 * 1024);
    }

    #[test]
    fn the_line_is_served_in_order_and_emptied_when_there_is_no_backlog() {
        let gate = Gate::<u32>::new();
        let mut burst = Burst::default();
        gate.announce(SOFT + 5);
        gate.wrote(&mut burst, SOFT + 5, SOFT);
        assert_eq!(gate.backlog(), SOFT);
        for who in 0..10 {
            gate.wait(Arc::new(who));
        }
        let mut admitted = Vec::new();
        gate.admit(&mut admitted);
        assert!(admitted.is_empty(), "no room yet");
        gate.settle(SOFT);
        gate.set_queued(SOFT - SLICE);
        gate.admit(&mut admitted);
        assert_eq!(admitted.iter().map(|w| **w).collect::<Vec<_>>(), [0, 1]);
        gate.set_queued(0);
        gate.admit(&mut admitted);
        assert_eq!(admitted.len(), 10);
    }
}
