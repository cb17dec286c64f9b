//! How long to wait before the next attempt to connect. Pure: time and chance come in as values.
//!
//! Loss and refusal are different things. A lost or unreachable relay is tried again soon, with a
//! jittered exponential back-off, so that a relay that restarts is not met by all its agents in
//! the same second. A relay that refused the token will refuse it again, so those attempts are far
//! apart; the token file is watched meanwhile.

use std::time::Duration;

/// The first wait is drawn from half of this to this.
const FIRST: Duration = Duration::from_secs(1);
/// Waits never exceed this, so that a relay that comes back is found within half a minute.
const MOST: Duration = Duration::from_secs(30);
/// A tunnel that lived this long was a good one: the next loss starts from [`FIRST`] again. A shorter
/// life leaves the back-off where it was, or a relay that accepts and drops would be hammered.
const STABLE: Duration = Duration::from_secs(60);
/// The least wait after the relay refused who we are or what we run.
const REFUSED_LEAST: Duration = Duration::from_secs(30);
/// `Retry-After` is believed up to here; a relay that says a day is asked again in an hour.
const RETRY_AFTER_MOST: Duration = Duration::from_secs(3600);

/// Why there is something to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A tunnel ended after it had lived this long.
    Lost {
        /// How long it was up.
        lived: Duration,
    },
    /// The relay could not be reached, or did not answer as a relay does.
    Unreachable,
    /// The relay refused the token, the host or the version.
    Refused,
    /// The relay is busy or draining, and may have said when to come again.
    Busy {
        /// The value of `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// The state of the back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: FIRST }
    }
}

impl Backoff {
    /// The wait after `cause`. `chance` is uniform in 0.0 to 1.0; the wait is between half of the
    /// present ceiling and all of it.
    pub fn next(&mut self, cause: Cause, chance: f64) -> Duration {
        if let Cause::Lost { lived } = cause
            && lived >= STABLE
        {
            self.ceiling = FIRST;
        }
        let jittered = jitter(self.ceiling, chance);
        self.ceiling = (self.ceiling * 2).min(MOST);
        match cause {
            Cause::Lost { .. } | Cause::Unreachable => jittered,
            // From 30 s to 60 s.
            Cause::Refused => jitter(REFUSED_LEAST * 2, chance),
            // Never sooner than told, and up to a tenth later so that not all come at once.
            Cause::Busy { retry_after } => match retry_after {
                Some(told) => {
                    let told = told.min(RETRY_AFTER_MOST);
                    (told + told.mul_f64(chance.clamp(0.0, 1.0) / 10.0)).max(jittered)
                }
                None => jittered,
            },
        }
    }

    /// Starts over: something happened (the machine woke up) that makes the history worthless.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn jitter(ceiling: Duration, chance: f64) -> Duration {
    ceiling.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

/// When to connect anew after a drain notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// While the drained tunnel serves on.
    pub wait: Duration,
    /// Should it end before that.
    pub least: Duration,
}

impl Backoff {
    /// The waits after a drain notice of `seconds`, which came when the tunnel had lived for `lived`. Never
    /// less than after a loss, or a relay that accepts and drains would be hammered.
    pub fn renewal(&mut self, lived: Duration, seconds: u32, chance: f64) -> Renewal {
        let least = self.next(Cause::Lost { lived }, chance);
        Renewal { wait: within(seconds, chance).max(least), least }
    }
}

/// The moment within a drain notice's seconds at which to connect anew.
fn within(seconds: u32, chance: f64) -> Duration {
    // A notice of a day is a mistake: the old tunnel would be gone long before.
    Duration::from_secs(u64::from(seconds.min(3600))).mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(f64) -> Duration = Duration::from_secs_f64;

    #[test]
    fn waits_double_from_half_a_second_to_half_a_minute() {
        for (chance, expected) in [
            (0.0, [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]),
            (1.0, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]),
            (0.5, [0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5]),
        ] {
            let mut backoff = Backoff::default();
            for wait in expected {
                assert_eq!(backoff.next(Cause::Unreachable, chance), S(wait));
            }
        }
    }

    #[test]
    fn only_a_stable_connection_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.next(Cause::Unreachable, 0.0);
        }
        assert_eq!(backoff.next(Cause::Lost { lived: S(59.9) }, 0.0), S(8.0));
        assert_eq!(backoff.next(Cause::Lost { lived: S(60.0) }, 0.0), S(0.5));
        assert_eq!(backoff.next(Cause::Lost { lived: S(0.1) }, 0.0), S(1.0));
        backoff.reset();
        assert_eq!(backoff.next(Cause::Lost { lived: S(0.1) }, 0.0), S(0.5));
    }

    #[test]
    fn a_refusal_waits_at_least_thirty_seconds() {
        for chance in [0.0, 0.3, 1.0] {
            let wait = Backoff::default().next(Cause::Refused, chance);
            assert!((S(30.0)..=S(60.0)).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let busy = |told| Cause::Busy { retry_after: told };
        for (told, chance, expected) in [
            (None, 0.0, 0.5),
            (Some(S(0.0)), 0.0, 0.5),
            (Some(S(7.0)), 0.0, 7.0),
            (Some(S(10.0)), 1.0, 11.0),
            (Some(S(86_400.0)), 0.0, 3600.0),
        ] {
            assert_eq!(Backoff::default().next(busy(told), chance), S(expected), "{told:?}");
        }
    }

    #[test]
    fn a_drain_notice_never_means_less_than_a_loss() {
        let mut backoff = Backoff::default();
        for (lived, seconds, wait, least) in [
            (0.1, 0, 0.75, 0.75),
            (0.1, 10, 5.0, 1.5),
            (0.1, 2, 3.0, 3.0),
            (60.0, 10, 5.0, 0.75),
            (60.0, 0, 0.75, 0.75),
        ] {
            let renewal = backoff.renewal(S(lived), seconds, 0.5);
            assert_eq!(renewal, Renewal { wait: S(wait), least: S(least) }, "{lived} {seconds}");
        }
    }

    #[test]
    fn a_drain_moment_lies_within_the_notice() {
        assert_eq!(within(10, 0.0), S(0.0));
        assert_eq!(within(10, 0.25), S(2.5));
        assert_eq!(within(u32::MAX, 1.0), S(3600.0));
    }
}
