//! How long to wait before the next try: longer each time, never exactly as long as the neighbours.

use std::time::Duration;

use rand::Rng;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The longest. What comes back is noticed within this time.
const LONGEST: Duration = Duration::from_secs(3);

/// Counts the tries since the last success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// It worked.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    /// The wait after one more failure: between a half and the whole of what is due.
    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let due = FIRST.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        due.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn it_grows_to_a_bound_and_begins_anew() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        for try_ in 0..100u32 {
            let wait = backoff.next(&mut rng);
            let due = FIRST.saturating_mul(1 << try_.min(16)).min(LONGEST);
            assert!(wait >= due / 2 && wait <= due, "{try_}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= FIRST);
    }
}
