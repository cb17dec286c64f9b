//! Guesses at one thing from one address: few at once, and then slowly more.
//!
//! The key holds both the thing and the address. Per thing alone, anybody could lock the owner out; per
//! address alone, one address could go on guessing at many things for ever at the full rate. What turns out
//! to be no guess is given back, so that a person who knows the password never waits.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::http::client_addr::RateKey;

/// Keys at the most: some MiB. Beyond, the key that comes nearest to a full budget is forgotten.
const MAX_KEYS: usize = 65_536;

/// Something that is guessed at, and from where. The thing is hashed: its length is anybody's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuessKey([u8; 16], RateKey);

impl GuessKey {
    /// For a thing that this text names.
    pub fn of(thing: &str, from: RateKey) -> Self {
        let mut short = [0; 16];
        for (to, byte) in short.iter_mut().zip(Sha256::digest(thing.as_bytes())) {
            *to = byte;
        }
        Self(short, from)
    }
}

/// A budget of tries per key.
pub struct Tries<K = GuessKey> {
    /// What one try costs in time.
    each: Duration,
    /// What a full budget is worth.
    full: Duration,
    max_keys: usize,
    /// When each budget that is not full will be.
    full_at: Mutex<HashMap<K, Instant>>,
}

impl<K: Hash + Eq + Copy> Tries<K> {
    /// So many at once, and one more whenever `each` has passed.
    pub fn new(at_once: u32, each: Duration) -> Self {
        Self { each, full: each * at_once, max_keys: MAX_KEYS, full_at: Mutex::default() }
    }

    /// Spends one try, if there is one left.
    pub fn take(&self, key: K, now: Instant) -> bool {
        let mut full_at = self.full_at.lock();
        let then = full_at.get(&key).copied().unwrap_or(now).max(now) + self.each;
        if then - now > self.full {
            return false;
        }
        if full_at.len() >= self.max_keys && !full_at.contains_key(&key) {
            full_at.retain(|_, at| *at > now);
            let nearest = full_at.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            if let (true, Some(nearest)) = (full_at.len() >= self.max_keys, nearest) {
                full_at.remove(&nearest);
            }
        }
        full_at.insert(key, then);
        true
    }

    /// It was no guess: the try is given back.
    pub fn give_back(&self, key: K) {
        let mut full_at = self.full_at.lock();
        if let Some(at) = full_at.get_mut(&key) {
            *at = at.checked_sub(self.each).unwrap_or(*at);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tries(at_once: u32) -> Tries<u32> {
        Tries::new(at_once, Duration::from_secs(30))
    }

    #[test]
    fn a_budget_is_spent_refills_slowly_and_is_nobody_elses() {
        let (tries, now) = (tries(3), Instant::now());
        assert_eq!([1, 1, 1, 1].map(|key| tries.take(key, now)), [true, true, true, false]);
        assert!(tries.take(2, now));
        let later = now + Duration::from_secs(30);
        assert_eq!([1, 1].map(|key| tries.take(key, later)), [true, false]);
        let much_later = now + Duration::from_secs(3600);
        assert_eq!([1, 1, 1, 1].map(|key| tries.take(key, much_later)), [true, true, true, false]);
    }

    #[test]
    fn what_was_no_guess_costs_nothing() {
        let (tries, now) = (tries(2), Instant::now());
        for _ in 0..100 {
            assert!(tries.take(1, now));
            tries.give_back(1);
        }
        assert_eq!([1, 1, 1].map(|key| tries.take(key, now)), [true, true, false]);
        tries.give_back(7);
        assert_eq!([7, 7, 7].map(|key| tries.take(key, now)), [true, true, false], "never more than full");
    }

    #[test]
    fn many_keys_do_not_fill_memory_and_forget_whoever_guessed_least() {
        let mut tries = tries(3);
        tries.max_keys = 100;
        let now = Instant::now();
        assert_eq!([0, 0, 0, 0].map(|key| tries.take(key, now)), [true, true, true, false]);
        for key in 1..10_000 {
            assert!(tries.take(key, now));
        }
        assert_eq!(tries.full_at.lock().len(), 100);
        assert!(!tries.take(0, now), "whoever guessed most is still known");
        // A key that is not among the hundred; which of the equal ones are is left to the map's order.
        assert!(tries.take(10_000, now + Duration::from_secs(3600)));
        assert_eq!(tries.full_at.lock().len(), 1, "full budgets are no longer kept");
    }

    #[test]
    fn both_the_thing_and_the_address_count() {
        let from = |text: &str| RateKey::of(text.parse().unwrap());
        let key = GuessKey::of("a", from("203.0.113.1"));
        assert_eq!(key, GuessKey::of("a", from("203.0.113.1")));
        assert_ne!(key, GuessKey::of("b", from("203.0.113.1")));
        assert_ne!(key, GuessKey::of("a", from("203.0.113.2")));
    }
}
