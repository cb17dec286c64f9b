//! Notices that the machine slept.
//!
//! While a laptop sleeps its connections die without a word, and its timers stand still, so after
//! waking nothing would happen until a ping's deadline. A tick each second compares how far the
//! wall clock and the monotonic clock went: a gap means sleep (or a stopped process). What follows
//! is cheap and harmless when the guess is wrong: a probe of the tunnel, or an attempt now
//! instead of later.

use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How often the clocks are compared.
pub const TICK: Duration = Duration::from_secs(1);
/// How far a clock may run ahead of the tick. More than a busy machine is late, less than people
/// notice after opening the lid.
const ALLOWED: Duration = Duration::from_secs(3);

/// Compares two clocks from tick to tick.
#[derive(Debug)]
pub struct JumpDetector {
    wall: SystemTime,
    mono: Duration,
}

impl JumpDetector {
    /// Starts from these readings.
    pub fn new(wall: SystemTime, mono: Duration) -> Self {
        Self { wall, mono }
    }

    /// Takes the next readings, [`TICK`] after the last ones; true when time was lost in between.
    /// The monotonic clock stands still during sleep on some systems and runs on others, so either
    /// clock may tell. A wall clock that was set back tells nothing.
    pub fn tick(&mut self, wall: SystemTime, mono: Duration) -> bool {
        let wall_went = wall.duration_since(self.wall).unwrap_or_default();
        let mono_went = mono.saturating_sub(self.mono);
        (self.wall, self.mono) = (wall, mono);
        wall_went > mono_went + ALLOWED || mono_went > TICK + ALLOWED
    }
}

/// Ticks for ever and counts jumps. Ends when nobody listens any more.
pub async fn watch(jumps: watch::Sender<u64>) {
    let start = tokio::time::Instant::now();
    let mut detector = JumpDetector::new(SystemTime::now(), Duration::ZERO);
    while !jumps.is_closed() {
        tokio::time::sleep(TICK).await;
        if detector.tick(SystemTime::now(), start.elapsed()) {
            tracing::info!("the clock jumped: this machine was asleep");
            jumps.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_told_from_ordinary_lateness() {
        // (wall advanced, monotonic advanced, jump), in milliseconds.
        for (wall, mono, jump) in [
            (1000, 1000, false),
            (1400, 1400, false),
            (3900, 1000, false),
            (4001, 1000, true),
            (3_600_000, 1000, true),
            // Where the monotonic clock runs on during sleep.
            (3_600_000, 3_600_000, true),
            // Late, but no more than a loaded machine is.
            (3900, 3900, false),
            // The wall clock was set back an hour.
            (-3_600_000, 1000, false),
        ] {
            let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            let mut detector = JumpDetector::new(start, Duration::from_secs(5));
            let shift = Duration::from_millis(i64::unsigned_abs(wall));
            let then = if wall < 0 { start - shift } else { start + shift };
            assert_eq!(
                detector.tick(then, Duration::from_secs(5) + Duration::from_millis(mono)),
                jump,
                "{wall} {mono}"
            );
            assert!(
                !detector.tick(then + TICK, Duration::from_secs(6) + Duration::from_millis(mono)),
                "and only once"
            );
        }
    }
}
