//! Each passed-on request counts once, in memory of a fixed size.
//!
//! A relay numbers what it passes on, and numbers arrive nearly in order: they are taken right before a request
//! is sent. So instead of every nonce, one window of bits per life of a relay is kept (as IPsec does, RFC 4303
//! section 3.4.3): what lies below the window is too old to be known, and counts as used.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::envelope::{Fault, Nonce};

/// Numbers that one life's window spans: a relay has fewer requests on their way at once. 8 KiB each.
const WINDOW: u64 = 65_536;
const WORD: u64 = 64;
/// Lives that are remembered: relays that pass requests on, and those that they were before a restart.
const MAX_LIVES: usize = 64;

struct Window {
    /// The highest number so far.
    highest: u64,
    bits: Box<[u64]>,
    /// When the latest was signed, at most; what is older than the relay takes can't come again.
    last: u64,
}

impl Window {
    fn new() -> Self {
        Self { highest: 0, bits: vec![0; (WINDOW / WORD) as usize].into(), last: 0 }
    }

    fn place(count: u64) -> (usize, u64) {
        let at = count % WINDOW;
        ((at / WORD) as usize, 1 << (at % WORD))
    }

    /// Notes the number. False when it was noted before, or is too far behind to tell.
    fn note(&mut self, count: u64) -> bool {
        if self.highest.saturating_sub(count) >= WINDOW {
            return false;
        }
        if count > self.highest {
            if count - self.highest >= WINDOW {
                self.bits.fill(0);
            } else {
                for skipped in self.highest + 1..=count {
                    let (word, bit) = Self::place(skipped);
                    if let Some(word) = self.bits.get_mut(word) {
                        *word &= !bit;
                    }
                }
            }
            self.highest = count;
        }
        let (word, bit) = Self::place(count);
        let Some(word) = self.bits.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// What was passed on to this relay of late.
#[derive(Default)]
pub struct Seen {
    lives: Mutex<HashMap<(Arc<str>, u64), Window>>,
}

impl Seen {
    /// Notes a request whose header is genuine and fresh, signed `at`. A life whose requests were all signed
    /// before `forgettable` may be forgotten: none of them would be taken again.
    ///
    /// # Errors
    /// [`Fault::Replayed`] and [`Fault::Crowded`].
    pub fn note(&self, from: &Arc<str>, nonce: Nonce, at: u64, forgettable: u64) -> Result<(), Fault> {
        let mut lives = self.lives.lock();
        let life = (from.clone(), nonce.life);
        if !lives.contains_key(&life) && lives.len() >= MAX_LIVES {
            lives.retain(|_, window| window.last >= forgettable);
            if lives.len() >= MAX_LIVES {
                return Err(Fault::Crowded);
            }
        }
        let window = lives.entry(life).or_insert_with(Window::new);
        window.last = window.last.max(at);
        if window.note(nonce.count) { Ok(()) } else { Err(Fault::Replayed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn nonce(life: u64, count: u64) -> Nonce {
        Nonce { life, count }
    }

    proptest! {
        #[test]
        fn nothing_counts_twice_and_nothing_recent_is_lost(counts in prop::collection::vec(0u64..200_000, 1..200)) {
            let (mut window, mut before, mut highest) = (Window::new(), HashSet::new(), 0);
            for count in counts {
                let expected = count + WINDOW > highest && before.insert(count);
                prop_assert_eq!(window.note(count), expected, "{} after {}", count, highest);
                highest = highest.max(count);
            }
        }
    }

    #[test]
    fn the_last_number_is_no_way_out() {
        let mut window = Window::new();
        assert!(window.note(u64::MAX) && !window.note(u64::MAX));
        assert!(window.note(u64::MAX - 1) && !window.note(0));
    }

    #[test]
    fn lives_are_apart_and_bounded() {
        let (seen, a, b): (_, Arc<str>, Arc<str>) = (Seen::default(), "a".into(), "b".into());
        assert_eq!(seen.note(&a, nonce(1, 7), 100, 0), Ok(()));
        assert_eq!(seen.note(&a, nonce(1, 7), 100, 0), Err(Fault::Replayed));
        assert_eq!(seen.note(&a, nonce(2, 7), 100, 0), Ok(()));
        assert_eq!(seen.note(&b, nonce(1, 7), 100, 0), Ok(()));
        for life in 3..MAX_LIVES as u64 {
            assert_eq!(seen.note(&a, nonce(life, 7), 200, 0), Ok(()));
        }
        assert_eq!(seen.note(&b, nonce(2, 7), 300, 100), Err(Fault::Crowded));
        assert_eq!(seen.note(&a, nonce(1, 8), 300, 100), Ok(()), "who is known goes on");
        assert_eq!(seen.note(&b, nonce(2, 7), 300, 101), Ok(()), "who has gone makes room");
        assert_eq!(seen.note(&a, nonce(1, 7), 300, 101), Err(Fault::Replayed), "who has not is remembered");
        assert!(seen.lives.lock().len() <= MAX_LIVES);
    }
}
