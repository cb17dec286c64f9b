//! How much one address may have: a rate of events, and a number of things open at once.
//!
//! Both are kept per [`RateKey`] and nothing is shared between keys, so that nobody can use up what
//! another needs. [`Tries`] are for guesses, where the key names also what is guessed at. All forget an address that has gone, so that many addresses do not fill memory.

pub mod metrics;
mod tries;

pub use tries::{GuessKey, Tries};

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use crate::http::client_addr::RateKey;

/// After so many checks the addresses whose budget is full again are dropped. Between two sweeps
/// at most this many can come, a few hundred KiB.
const SWEEP_EVERY: u32 = 4096;

/// Events per minute and address. A whole minute's budget may be spent at once.
pub struct Rate<C: Clock = DefaultClock> {
    limiter: RateLimiter<RateKey, DashMapStateStore<RateKey>, C, NoOpMiddleware<C::Instant>>,
    checks: AtomicU32,
}

impl Rate {
    /// So many per minute.
    pub fn per_minute(count: u32) -> Self {
        Self::with_clock(count, DefaultClock::default())
    }
}

impl<C: Clock> Rate<C> {
    /// As [`Rate::per_minute`], with the time from this clock.
    pub fn with_clock(count: u32, clock: C) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        Self {
            limiter: RateLimiter::new(quota, DashMapStateStore::default(), clock),
            checks: AtomicU32::new(0),
        }
    }

    /// Spends one event of the address, if it has one left.
    pub fn check(&self, key: RateKey) -> bool {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(&key).is_ok()
    }

    /// Addresses that are remembered.
    pub fn remembered(&self) -> usize {
        self.limiter.len()
    }
}

/// Below this the table of [`Open`] is not worth shrinking.
const SHRINK_ABOVE: usize = 1024;

/// Counts what addresses, or others whom keys name, have open at once.
#[derive(Clone)]
pub struct Open<K = RateKey> {
    limit: usize,
    counts: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Copy> Open<K> {
    /// At most so many per address.
    pub fn new(limit: usize) -> Self {
        Self { limit, counts: Arc::default() }
    }

    /// Counts one more until the guard is dropped, if the address may have one more.
    pub fn enter(&self, key: K) -> Option<AddrGuard<K>> {
        let mut counts = self.counts.lock();
        let count = counts.entry(key).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(AddrGuard { key, open: self.clone() })
    }

    /// Addresses that have something open.
    pub fn addresses(&self) -> usize {
        self.counts.lock().len()
    }
}

/// One open thing of an address. Dropping it gives it back.
#[must_use = "the count ends with the guard"]
pub struct AddrGuard<K: Eq + Hash + Copy = RateKey> {
    key: K,
    open: Open<K>,
}

impl<K: Eq + Hash + Copy> Drop for AddrGuard<K> {
    fn drop(&mut self) {
        let mut counts = self.open.counts.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
                if counts.capacity() > SHRINK_ABOVE && counts.capacity() / 8 > counts.len() {
                    counts.shrink_to_fit();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    fn key(n: u32) -> RateKey {
        RateKey::of(IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    #[test]
    fn a_budget_is_spent_refills_evenly_and_is_nobody_elses() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::with_clock(3, clock.clone());
        assert_eq!([1, 1, 1, 1].map(|n| rate.check(key(n))), [true, true, true, false]);
        assert!(rate.check(key(2)));
        clock.advance(Duration::from_secs(20));
        assert_eq!([1, 1].map(|n| rate.check(key(n))), [true, false]);
        clock.advance(Duration::from_secs(60));
        assert_eq!([1, 1, 1, 1].map(|n| rate.check(key(n))), [true, true, true, false]);
    }

    #[test]
    fn addresses_that_have_gone_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::with_clock(60, clock.clone());
        for n in 0..SWEEP_EVERY * 3 {
            assert!(rate.check(key(n)));
            clock.advance(Duration::from_millis(10));
        }
        // A minute's budget less one event is full again after a second, or a hundred addresses.
        assert!(rate.remembered() <= SWEEP_EVERY as usize + 200, "{}", rate.remembered());
    }

    #[test]
    fn what_is_open_is_counted_until_it_closes() {
        let open = Open::new(2);
        let (first, second) = (open.enter(key(1)).unwrap(), open.enter(key(1)).unwrap());
        assert!(open.enter(key(1)).is_none());
        let other = open.enter(key(2)).unwrap();
        drop(first);
        assert!(open.enter(key(1)).is_some());
        drop((second, other));
        assert_eq!(open.addresses(), 0);
    }

    #[test]
    fn the_table_shrinks_when_a_crowd_has_left() {
        let open = Open::new(1);
        let guards: Vec<_> = (0..100_000).map(|n| open.enter(key(n)).unwrap()).collect();
        assert_eq!(open.addresses(), 100_000);
        drop(guards);
        assert_eq!(open.addresses(), 0);
        assert!(open.counts.lock().capacity() <= 8 * SHRINK_ABOVE);
    }
}
