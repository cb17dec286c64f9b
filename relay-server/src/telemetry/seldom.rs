//! Lines that would come with every request, said now and then: others decide how many requests there are, and what
//! is said too often hides the rest of the log.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often one thing is said.
const EVERY: Duration = Duration::from_secs(60);
/// Things that are remembered. While so many were said of late, others are not.
const MAX_THINGS: usize = 256;

/// Knows what was said of late.
pub struct Seldom<K> {
    said: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Default for Seldom<K> {
    fn default() -> Self {
        Self { said: Mutex::default() }
    }
}

impl<K: Eq + Hash> Seldom<K> {
    /// Whether to say it, which then counts as said.
    pub fn is_due(&self, thing: K) -> bool {
        self.is_due_at(thing, Instant::now())
    }

    fn is_due_at(&self, thing: K, now: Instant) -> bool {
        let late = |at: &Instant| now.saturating_duration_since(*at) < EVERY;
        let mut said = self.said.lock();
        if said.get(&thing).is_some_and(late) {
            return false;
        }
        if said.len() >= MAX_THINGS {
            said.retain(|_, at| late(at));
            if said.len() >= MAX_THINGS {
                return false;
            }
        }
        said.insert(thing, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute_and_thing() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        for (thing, after, due) in [
            ("a", 0, true),
            ("a", 0, false),
            ("b", 1, true),
            ("a", 59, false),
            ("a", 60, true),
            ("b", 60, false),
        ] {
            assert_eq!(seldom.is_due_at(thing, now + Duration::from_secs(after)), due, "{thing} {after}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        let due = (0..1000).filter(|thing| seldom.is_due_at(*thing, now)).count();
        assert_eq!((due, seldom.said.lock().len()), (MAX_THINGS, MAX_THINGS));
        assert!(seldom.is_due_at(1000, now + EVERY));
        assert_eq!(seldom.said.lock().len(), 1);
    }
}
