//! The nonces that were used, for as long as `created` allows them: a request is done at most once.

use super::{SignatureError, TIME_WINDOW};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// The most nonces that are remembered at a time.
pub const MAX_NONCES: usize = 262_144;

/// How many seconds of `created` one generation holds. What the window allows at any moment lies in at
/// most three of them.
const GENERATION: i64 = TIME_WINDOW;

/// Sixteen bytes of a hash stand for a nonce: as good, and smaller than what was sent.
type Entry = [u8; 16];

/// The memory of one session (for `/_relay/session`: of one client).
///
/// Nonces are kept by their `created`, and a whole generation goes at once when the window has left it behind.
/// What has gone is refused for ever after, so that a clock that is set back opens nothing again.
#[derive(Debug)]
pub struct NonceMemory {
    generations: Vec<(i64, HashSet<Entry>)>,
    /// Generations up to this one have been forgotten.
    forgotten: i64,
    held: usize,
    limit: usize,
}

impl Default for NonceMemory {
    fn default() -> Self {
        Self::with_limit(MAX_NONCES)
    }
}

impl NonceMemory {
    /// An empty memory for [`MAX_NONCES`].
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty memory for fewer.
    pub fn with_limit(limit: usize) -> Self {
        Self { generations: Vec::new(), forgotten: i64::MIN, held: 0, limit }
    }

    /// How many nonces are remembered.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Uses a nonce. `now` and `created` are Unix seconds; call it only for a request that is verified.
    ///
    /// # Errors
    /// [`SignatureError::Replayed`] when it was used before; [`SignatureError::TooManyNonces`] when nothing
    /// more can be remembered; [`SignatureError::ClockSkew`] outside the window or where memory has gone.
    pub fn remember(&mut self, nonce: &str, created: i64, now: i64) -> Result<(), SignatureError> {
        if created.abs_diff(now) > TIME_WINDOW.unsigned_abs() {
            return Err(SignatureError::ClockSkew);
        }
        self.forget(now);
        let generation = created.div_euclid(GENERATION);
        if generation <= self.forgotten {
            return Err(SignatureError::ClockSkew);
        }
        let hash: [u8; 32] = Sha256::digest(nonce).into();
        let mut entry = Entry::default();
        entry.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        // The same nonce with another `created` is another signature over the same nonce: refused as well.
        if self.generations.iter().any(|(_, seen)| seen.contains(&entry)) {
            return Err(SignatureError::Replayed);
        }
        if self.held >= self.limit {
            return Err(SignatureError::TooManyNonces);
        }
        match self.generations.iter_mut().find(|(at, _)| *at == generation) {
            Some((_, seen)) => seen.insert(entry),
            None => {
                self.generations.push((generation, HashSet::from([entry])));
                true
            }
        };
        self.held += 1;
        Ok(())
    }

    /// Drops the generations of which nothing is allowed any more.
    fn forget(&mut self, now: i64) {
        let gone = now.saturating_sub(TIME_WINDOW).div_euclid(GENERATION).saturating_sub(1);
        if gone <= self.forgotten {
            return;
        }
        self.forgotten = gone;
        self.generations.retain(|(at, _)| *at > gone);
        self.held = self.generations.iter().map(|(_, seen)| seen.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_800_000_000;

    #[test]
    fn a_nonce_is_good_once_for_as_long_as_its_signature() {
        for created in [T - 60, T - 1, T, T + 1, T + 60] {
            let mut memory = NonceMemory::new();
            assert_eq!(memory.remember("n", created, T), Ok(()));
            for later in T..=created + TIME_WINDOW {
                assert_eq!(memory.remember("n", created, later), Err(SignatureError::Replayed), "{later}");
            }
            let gone = created + TIME_WINDOW + 1;
            assert_eq!(memory.remember("n", created, gone), Err(SignatureError::ClockSkew));
            assert_eq!(memory.remember("m", gone, gone), Ok(()));
        }
    }

    #[test]
    fn the_same_nonce_with_another_time_is_a_replay() {
        let mut memory = NonceMemory::new();
        assert_eq!(memory.remember("n", T, T), Ok(()));
        assert_eq!(memory.remember("n", T + 50, T), Err(SignatureError::Replayed));
    }

    #[test]
    fn a_full_memory_refuses_until_time_has_passed() {
        let mut memory = NonceMemory::with_limit(3);
        for nonce in ["a", "b", "c"] {
            assert_eq!(memory.remember(nonce, T, T), Ok(()));
        }
        assert_eq!(memory.remember("d", T, T), Err(SignatureError::TooManyNonces));
        assert_eq!(memory.remember("a", T, T), Err(SignatureError::Replayed), "full, and still sure");
        assert_eq!(memory.len(), 3);
        let later = T + 3 * TIME_WINDOW;
        assert_eq!(memory.remember("d", later, later), Ok(()));
        assert_eq!(memory.len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_opens_nothing_again() {
        let mut memory = NonceMemory::new();
        assert_eq!(memory.remember("n", T, T), Ok(()));
        let later = T + 1000;
        assert_eq!(memory.remember("m", later, later), Ok(()));
        assert!(!memory.is_empty());
        assert_eq!(memory.remember("n", T, T), Err(SignatureError::ClockSkew));
    }

    #[test]
    fn times_at_the_ends_of_the_numbers() {
        for now in [i64::MIN, -1, 0, i64::MAX] {
            let mut memory = NonceMemory::new();
            let _ = memory.remember("n", now, now);
            assert!(memory.remember("n", now, now).is_err());
        }
    }
}
