//! A map that forgets: what was not used for a while, and when it is full the oldest.
//!
//! Its keys were chosen by others, so the hasher is a keyed one and the number of entries has an end.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;

/// Entries by text, the one that was used longest ago first.
pub struct Recent<V> {
    entries: LinkedHashMap<Arc<str>, (Instant, V), RandomState>,
    max: usize,
    life: Duration,
}

impl<V> Recent<V> {
    /// At most so many, each for so long.
    pub fn new(max: usize, life: Duration) -> Self {
        Self { entries: LinkedHashMap::with_hasher(RandomState::new()), max, life }
    }

    /// The entry of this key, unless its time is over.
    pub fn get(&mut self, key: &str, now: Instant) -> Option<&mut V> {
        self.entries.get_mut(key).filter(|(end, _)| *end > now).map(|(_, value)| value)
    }

    /// As [`Self::get`], and its time begins anew.
    pub fn renew(&mut self, key: &str, now: Instant) -> Option<&mut V> {
        match self.entries.raw_entry_mut().from_key(key) {
            RawEntryMut::Occupied(mut entry) if entry.get().0 > now => {
                // To the back, so that the order is that of use and of ends.
                entry.to_back();
                let (end, value) = entry.into_mut();
                *end = now + self.life;
                Some(value)
            }
            _ => None,
        }
    }

    /// Puts an entry in, in place of one with the same key, and of the oldest if there are too many.
    pub fn put(&mut self, key: &str, value: V, now: Instant) {
        while self.entries.front().is_some_and(|(_, (end, _))| *end <= now) {
            self.entries.pop_front();
        }
        match self.entries.to_back(key) {
            Some(entry) => *entry = (now + self.life, value),
            None => {
                if self.entries.len() >= self.max {
                    self.entries.pop_front();
                }
                self.entries.insert(key.into(), (now + self.life, value));
            }
        }
    }

    /// Takes an entry out, unless its time is over.
    pub fn take(&mut self, key: &str, now: Instant) -> Option<V> {
        self.entries.remove(key).filter(|(end, _)| *end > now).map(|(_, value)| value)
    }

    /// Entries that are held, those included whose time is over.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
