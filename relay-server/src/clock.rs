//! Time in whole numbers. A clock that stands before 1970 says 1970, and what no number holds is the largest.
//!
//! What decides by the time takes it as a parameter; these are asked where the deciding begins.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix seconds.
pub fn unix_now() -> i64 {
    i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX)
}

/// Unix milliseconds.
pub fn unix_ms() -> u64 {
    millis(since_1970())
}

/// Unix milliseconds as what relays sign for the bus, PostgreSQL and the platform write them.
pub fn unix_ms_i64() -> i64 {
    i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX)
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_number_holds_is_the_largest() {
        for (duration, expected) in [
            (Duration::ZERO, 0),
            (Duration::from_micros(1999), 1),
            (Duration::from_millis(u64::MAX), u64::MAX),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(millis(duration), expected, "{duration:?}");
        }
    }
}
