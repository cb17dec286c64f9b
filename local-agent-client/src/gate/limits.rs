//! How often the agent does something for people it does not know. Pure: the time comes in.

/// A bucket of tokens: `burst` at once, and one more every `seconds`.
#[derive(Debug)]
pub struct Bucket {
    burst: i64,
    seconds: i64,
    /// When the bucket was full, as far as what was taken since then tells.
    full_at: i64,
}

impl Bucket {
    /// A full bucket.
    pub const fn new(burst: i64, seconds: i64) -> Self {
        Self { burst, seconds, full_at: i64::MIN }
    }

    /// Takes a token at `now`.
    ///
    /// # Errors
    /// When there is none: the seconds until there is.
    pub fn take(&mut self, now: i64) -> Result<(), i64> {
        // A clock that was set back must not lock anybody out for longer than an empty bucket does.
        self.full_at = self.full_at.clamp(now, now.saturating_add(self.burst * self.seconds));
        let after = self.full_at.saturating_add(self.seconds);
        let over = after.saturating_sub(now.saturating_add(self.burst * self.seconds));
        if over > 0 {
            return Err(over);
        }
        self.full_at = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_again_and_no_fuller() {
        let mut bucket = Bucket::new(3, 10);
        for (now, expected) in [
            (100, Ok(())),
            (100, Ok(())),
            (100, Ok(())),
            (100, Err(10)),
            (109, Err(1)),
            (110, Ok(())),
            (110, Err(10)),
            // Full again, and not fuller than full.
            (1000, Ok(())),
            (1000, Ok(())),
            (1000, Ok(())),
            (1000, Err(10)),
            // The clock was set back.
            (500, Err(10)),
            (510, Ok(())),
        ] {
            assert_eq!(bucket.take(now), expected, "at {now}");
        }
    }
}
