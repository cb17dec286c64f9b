//! Which verified frames are news: fresh, in order, and not had before. Pure; the time is a parameter.
//!
//! As the times of one source never go back, only the signatures of its newest millisecond have to be
//! remembered: whatever is older is refused by its time alone. A source whose newest frame has become stale is
//! forgotten altogether, because all that it ever sent is stale with it.

use std::collections::{HashMap, HashSet};

use super::envelope::Tag;
use super::metrics::Refused;

/// How far a frame's time may be from ours, either way.
pub(super) const WINDOW_MS: i64 = 15_000;
/// Sources that are remembered. There are as many as relays; each has the key.
const MAX_SOURCES: usize = 1024;
/// Frames of one source in one millisecond. A relay spreads more over the next ones.
pub(super) const MAX_AT_ONCE: usize = 1024;

/// What was seen.
pub(super) struct Replay {
    /// What was issued before this process was there may have been taken by its predecessor.
    begun_ms: i64,
    sources: HashMap<String, Source>,
}

struct Source {
    newest_ms: i64,
    /// Those of `newest_ms`.
    tags: HashSet<Tag>,
}

impl Replay {
    /// Frames count from this time on.
    pub(super) fn new(begun_ms: i64) -> Self {
        Self { begun_ms, sources: HashMap::new() }
    }

    /// Whether to take a frame whose signature is good. If so it is remembered.
    pub(super) fn admit(
        &mut self,
        source: &str,
        issued_at_ms: i64,
        tag: Tag,
        now_ms: i64,
    ) -> Result<(), Refused> {
        if issued_at_ms.abs_diff(now_ms) > WINDOW_MS.unsigned_abs() || issued_at_ms < self.begun_ms {
            return Err(Refused::Stale);
        }
        if let Some(known) = self.sources.get_mut(source) {
            return known.admit(issued_at_ms, tag);
        }
        if self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, source| source.newest_ms.abs_diff(now_ms) <= WINDOW_MS.unsigned_abs());
        }
        if self.sources.len() >= MAX_SOURCES {
            return Err(Refused::TooMany);
        }
        self.sources
            .insert(source.to_owned(), Source { newest_ms: issued_at_ms, tags: HashSet::from([tag]) });
        Ok(())
    }
}

impl Source {
    fn admit(&mut self, issued_at_ms: i64, tag: Tag) -> Result<(), Refused> {
        if issued_at_ms < self.newest_ms {
            return Err(Refused::OutOfOrder);
        }
        if issued_at_ms > self.newest_ms {
            self.newest_ms = issued_at_ms;
            self.tags.clear();
        }
        if self.tags.contains(&tag) {
            return Err(Refused::Replayed);
        }
        if self.tags.len() >= MAX_AT_ONCE {
            return Err(Refused::TooMany);
        }
        self.tags.insert(tag);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000_000;

    fn tag(number: u64) -> Tag {
        let mut tag = [0; 32];
        tag[..8].copy_from_slice(&number.to_le_bytes());
        tag
    }

    #[test]
    fn fresh_once_and_in_order() {
        let mut replay = Replay::new(0);
        let steps = [
            ("a", NOW, 1, Ok(())),
            ("a", NOW, 1, Err(Refused::Replayed)),
            ("a", NOW, 2, Ok(())),
            ("b", NOW - 5, 1, Ok(())),
            ("a", NOW - 1, 3, Err(Refused::OutOfOrder)),
            ("a", NOW + 1, 4, Ok(())),
            ("a", NOW, 1, Err(Refused::OutOfOrder)),
            ("a", NOW + WINDOW_MS, 5, Ok(())),
            ("a", NOW + WINDOW_MS + 1, 6, Err(Refused::Stale)),
            ("c", NOW - WINDOW_MS, 7, Ok(())),
            ("d", NOW - WINDOW_MS - 1, 8, Err(Refused::Stale)),
            ("e", i64::MIN, 9, Err(Refused::Stale)),
            ("e", i64::MAX, 9, Err(Refused::Stale)),
        ];
        for (step, (source, issued, number, expected)) in steps.into_iter().enumerate() {
            assert_eq!(replay.admit(source, issued, tag(number), NOW), expected, "step {step}");
        }
    }

    #[test]
    fn what_a_predecessor_may_have_taken_is_not_taken_again() {
        let mut replay = Replay::new(NOW);
        assert_eq!(replay.admit("a", NOW - 1, tag(1), NOW + 3), Err(Refused::Stale));
        assert_eq!(replay.admit("a", NOW, tag(1), NOW + 3), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_freed() {
        let mut replay = Replay::new(0);
        for number in 0..MAX_AT_ONCE as u64 {
            assert_eq!(replay.admit("a", NOW, tag(number), NOW), Ok(()));
        }
        assert_eq!(replay.admit("a", NOW, tag(u64::MAX), NOW), Err(Refused::TooMany));
        assert_eq!(replay.admit("a", NOW + 1, tag(u64::MAX), NOW), Ok(()));
        for number in 1..MAX_SOURCES {
            assert_eq!(replay.admit(&number.to_string(), NOW, tag(0), NOW), Ok(()));
        }
        assert_eq!(replay.admit("one more", NOW, tag(0), NOW), Err(Refused::TooMany));
        let later = NOW + WINDOW_MS + 2;
        assert_eq!(replay.admit("one more", later, tag(0), later), Ok(()));
        assert_eq!(replay.sources.len(), 1);
    }

    proptest! {
        /// Whatever comes in whatever order: nothing twice, nothing stale, and times per source never go back.
        #[test]
        fn nothing_twice_nothing_stale_nothing_back(
            frames in proptest::collection::vec((0u8..3, -20_000i64..20_000, 0u64..4, 0i64..3_000), 0..200)
        ) {
            let mut replay = Replay::new(0);
            let mut now = NOW;
            let mut taken: HashMap<u8, Vec<(i64, u64)>> = HashMap::new();
            for (source, offset, number, passes) in frames {
                now += passes;
                let issued = NOW + offset;
                let before = taken.entry(source).or_default();
                // A signature covers the time.
                let mark = tag(number ^ (issued.unsigned_abs() << 8));
                let result = replay.admit(&source.to_string(), issued, mark, now);
                let newest = before.iter().map(|(time, _)| *time).max();
                let expected = if (issued - now).abs() > WINDOW_MS {
                    Err(Refused::Stale)
                } else if newest.is_some_and(|newest| issued < newest) {
                    Err(Refused::OutOfOrder)
                } else if before.contains(&(issued, number)) {
                    Err(Refused::Replayed)
                } else {
                    Ok(())
                };
                prop_assert_eq!(result, expected);
                if result.is_ok() {
                    before.push((issued, number));
                }
            }
        }
    }
}
