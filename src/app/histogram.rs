//! How long something took, counted.

use std::time::Duration;

/// The upper ends of the classes, in seconds; one more is for all that is longer.
pub(crate) const BOUNDS: [f64; 10] = [1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0];

/// Counts in classes, and the sum.
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

    /// How many were no longer than each of the [`BOUNDS`], and how many there were.
    pub(crate) fn cumulated(&self) -> ([u64; BOUNDS.len()], u64) {
        let mut below = [0; BOUNDS.len()];
        let mut so_far = 0;
        for (class, count) in below.iter_mut().zip(self.counts) {
            so_far += count;
            *class = so_far;
        }
        (below, so_far + self.counts[BOUNDS.len()])
    }

    /// In seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_and_in_all_classes_above() {
        let mut histogram = Histogram::default();
        for micros in [1, 50, 1_000, 200_000, 5_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let (below, all) = histogram.cumulated();
        assert_eq!((below, all), ([1, 1, 2, 3, 3, 3, 3, 3, 4, 4], 5));
        assert!((histogram.sum() - 5.201_051).abs() < 1e-9);
    }
}
