//! Percentiles and medians.

use serde::{Deserialize, Serialize};

/// What a set of latencies says, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are below it.
    pub p50: f64,
    /// 99 % are below it.
    pub p99: f64,
    /// 99.9 % are below it.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// From nanoseconds in any order. All of them are kept and sorted: exact, and a run of some
    /// seconds gives a few million at the most.
    pub fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |share: f64| {
            let rank = (nanos.len() as f64 * share).ceil() as usize;
            nanos.get(rank.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1e6)
        };
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// The middle one; of an even number the lower of the two in the middle. Zero of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let latency = Latency::of((1..=1000).rev().map(|n| n * 1_000_000).collect());
        assert_eq!(latency, Latency { p50: 500.0, p99: 990.0, p999: 999.0, max: 1000.0 });
        assert_eq!(Latency::of(vec![]), Latency::default());
        assert_eq!(Latency::of(vec![2_000_000]), Latency { p50: 2.0, p99: 2.0, p999: 2.0, max: 2.0 });
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.0);
        assert_eq!(median([]), 0.0);
    }
}
