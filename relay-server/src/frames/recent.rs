//! A map that forgets: what was not used for a while, and when it is full something old.
//!
//! Its keys were chosen by others, so the hasher is a keyed one and the number of entries has an end. Each entry is
//! somebody's ([`Party`]). When there are too many, the oldest goes of whoever has most: so nobody pushes out more
//! than their own as long as others have fewer, however much they say.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;

use super::Name;
use crate::http::client_addr::RateKey;

/// Clients that another relay counts as: which of its clients spoke it does not say, and there may be many.
const CLIENTS_OF_A_RELAY: usize = 8;

/// Whose an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    /// A client that the platform named, on whatever socket.
    Client(Name),
    /// All of an address that have no name.
    Address(RateKey),
    /// Another relay, for all of its clients.
    Relay(Arc<str>),
}

impl Party {
    /// So many entries of its, compared with those of others.
    fn weigh(&self, entries: usize) -> usize {
        match self {
            Self::Client(_) | Self::Address(_) => entries * CLIENTS_OF_A_RELAY,
            Self::Relay(_) => entries,
        }
    }
}

struct Entry<V> {
    end: Instant,
    party: Party,
    value: V,
}

/// Entries by text, the one that was used longest ago first.
pub struct Recent<V> {
    entries: LinkedHashMap<Arc<str>, Entry<V>, RandomState>,
    /// How many each has of them.
    counts: HashMap<Party, usize>,
    max: usize,
    life: Duration,
}

impl<V> Recent<V> {
    /// At most so many, each for so long.
    pub fn new(max: usize, life: Duration) -> Self {
        let entries = LinkedHashMap::with_hasher(RandomState::new());
        Self { entries, counts: HashMap::new(), max, life }
    }

    /// The entry of this key, unless its time is over.
    pub fn get(&mut self, key: &str, now: Instant) -> Option<&mut V> {
        self.entries.get_mut(key).filter(|entry| entry.end > now).map(|entry| &mut entry.value)
    }

    /// As [`Self::get`], and its time begins anew.
    pub fn renew(&mut self, key: &str, now: Instant) -> Option<&mut V> {
        match self.entries.raw_entry_mut().from_key(key) {
            RawEntryMut::Occupied(mut entry) if entry.get().end > now => {
                // To the back, so that the order is that of use and of ends.
                entry.to_back();
                let entry = entry.into_mut();
                entry.end = now + self.life;
                Some(&mut entry.value)
            }
            _ => None,
        }
    }

    /// The entry of this key is this one's from now on.
    pub fn belongs(&mut self, key: &str, party: &Party) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.party != *party) else { return };
        let before = std::mem::replace(&mut entry.party, party.clone());
        self.less(&before);
        self.more(party.clone());
    }

    /// Puts an entry in, in place of one with the same key, or of an old one if there are too many.
    pub fn put(&mut self, key: &str, party: Party, value: V, now: Instant) {
        while self.entries.front().is_some_and(|(_, entry)| entry.end <= now)
            && let Some((_, over)) = self.entries.pop_front()
        {
            self.less(&over.party);
        }
        if let Some(before) = self.entries.remove(key) {
            self.less(&before.party);
        } else if self.entries.len() >= self.max {
            self.make_room(&party);
        }
        self.more(party.clone());
        self.entries.insert(key.into(), Entry { end: now + self.life, party, value });
    }

    /// Takes an entry out, unless its time is over. Also whose it was.
    pub fn take(&mut self, key: &str, now: Instant) -> Option<(V, Party)> {
        let entry = self.entries.remove(key)?;
        self.less(&entry.party);
        (entry.end > now).then_some((entry.value, entry.party))
    }

    /// The oldest goes of whoever has most. With the one that comes, `newcomer` has one more; if others have as many,
    /// it bears it.
    fn make_room(&mut self, newcomer: &Party) {
        let own = newcomer.weigh(self.counts.get(newcomer).map_or(1, |count| count + 1));
        let most = self.counts.iter().max_by_key(|(party, count)| party.weigh(**count));
        let bears = match most {
            Some((party, count)) if party.weigh(*count) > own => party,
            _ => newcomer,
        };
        let oldest = self.entries.iter().find(|(_, entry)| entry.party == *bears);
        let oldest = oldest.or_else(|| self.entries.front()).map(|(key, _)| key.clone());
        if let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) {
            self.less(&entry.party);
        }
    }

    fn more(&mut self, party: Party) {
        *self.counts.entry(party).or_default() += 1;
    }

    fn less(&mut self, party: &Party) {
        if let Some(count) = self.counts.get_mut(party) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(party);
            }
        }
    }

    /// Entries that are held, those included whose time is over.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
