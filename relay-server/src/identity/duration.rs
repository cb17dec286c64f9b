//! Durations as people write them: `30m`, `12h`, `365d`.

use std::time::Duration;

/// The shortest and the longest life of a token. Ten years outlive every machine that it is made for.
const MIN: Duration = Duration::from_secs(60);
const MAX: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Why a text is not a duration that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number and a unit.
    #[error("write a whole number and m, h or d, such as 30m, 12h or 365d")]
    Form,
    /// Outside what makes sense for a token.
    #[error("choose between 1m and 3650d")]
    Range,
}

/// Reads a whole number of minutes (`m`), hours (`h`) or days (`d`), from 1 minute to 3650 days.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let (number, seconds) = [("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)]
        .into_iter()
        .find_map(|(unit, seconds)| text.strip_suffix(unit).map(|number| (number, seconds)))
        .ok_or(DurationError::Form)?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DurationError::Form);
    }
    let duration = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
        .map(Duration::from_secs)
        .ok_or(DurationError::Range)?;
    if (MIN..=MAX).contains(&duration) { Ok(duration) } else { Err(DurationError::Range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        const DAY: u64 = 24 * 60 * 60;
        let cases = [
            ("1m", Ok(60)),
            ("30m", Ok(1800)),
            ("12h", Ok(12 * 3600)),
            ("365d", Ok(365 * DAY)),
            ("3650d", Ok(3650 * DAY)),
            ("0m", Err(DurationError::Range)),
            ("0d", Err(DurationError::Range)),
            ("3651d", Err(DurationError::Range)),
            ("87601h", Err(DurationError::Range)),
            ("18446744073709551615d", Err(DurationError::Range)),
            ("99999999999999999999d", Err(DurationError::Range)),
            ("", Err(DurationError::Form)),
            ("d", Err(DurationError::Form)),
            ("365", Err(DurationError::Form)),
            ("10s", Err(DurationError::Form)),
            ("+1d", Err(DurationError::Form)),
            ("-1d", Err(DurationError::Form)),
            ("1.5h", Err(DurationError::Form)),
            ("1 d", Err(DurationError::Form)),
            ("1D", Err(DurationError::Form)),
            ("\u{0661}d", Err(DurationError::Form)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected.map(Duration::from_secs), "{text:?}");
        }
    }
}
