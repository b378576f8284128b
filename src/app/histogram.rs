//! A histogram of durations.

use std::time::Duration;

/// The upper bounds of the buckets, in seconds. One more bucket is unbounded.
const BOUNDS: [f64; 10] = [1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0];

/// The counts of the buckets, and the sum of all durations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(crate) fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let class = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[class] += 1;
        self.sum += seconds;
    }

    /// Returns the upper bound and the count of each bucket.
    pub(crate) fn classes(&self) -> [(f64, u64); BOUNDS.len() + 1] {
        std::array::from_fn(|class| (BOUNDS.get(class).copied().unwrap_or(f64::INFINITY), self.counts[class]))
    }

    /// Returns the number of durations.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum in seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_in_the_first_class_that_is_not_below_it() {
        let mut histogram = Histogram::default();
        for micros in [1, 50, 1_000, 200_000, 5_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let filled = histogram.classes().into_iter().filter(|(_, count)| *count > 0);
        let ends = [1e-6, 1e-4, 1e-3, 0.5, f64::INFINITY];
        assert_eq!(filled.collect::<Vec<_>>(), ends.map(|end| (end, 1)));
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 5.201_051).abs() < 1e-9);
    }
}
