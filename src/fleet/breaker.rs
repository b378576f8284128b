//! The breaker of a group, which keeps failing allocations from being requested again and again (pure).
//!
//! A *strike* is an allocation that failed by the fault of its settings or its program: it never joined, or its node died
//! within a minute. Strikes of allocations that were under way together count as one.
//!
//! # Guarantees
//! - After the first strike the next request may follow at once, after the second a minute later.
//! - After the third the group is paused: one allocation is tried after five minutes, and then one each fifteen minutes.
//! - A node that has lived for a minute clears the strikes.

use std::time::Duration;

/// Time for which a node has to live for its group to count as working.
pub(super) const PROVED: Duration = Duration::from_secs(60);

/// Pauses after the first, second, third and any further strike.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(60), Duration::from_secs(5 * 60), Duration::from_secs(15 * 60)];

/// Longest part of an output that explains a strike, in characters: each Work that waits shows it.
const LONGEST: usize = 1000;

/// Number of strikes at which a group is paused.
const LIMIT: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Breaker {
    strikes: u32,
    /// The time of the last strike.
    last: Option<Duration>,
    why: String,
}

impl Breaker {
    /// Records that an allocation which was requested at `requested` has failed. Returns false if it failed together with
    /// one that was recorded before.
    pub(super) fn strike(&mut self, requested: Duration, now: Duration, why: String) -> bool {
        if self.last.is_some_and(|last| requested < last) {
            return false;
        }
        self.strikes = self.strikes.saturating_add(1);
        self.last = Some(now);
        self.why = why;
        true
    }

    /// Records that the node of an allocation that was requested at `requested` has lived for long enough.
    pub(super) fn proved(&mut self, requested: Duration) {
        if self.last.is_some_and(|last| requested >= last) {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the time from which the next allocation may be requested.
    pub(super) fn opens_at(&self) -> Duration {
        match (self.last, self.strikes) {
            (Some(last), strikes @ 1..) => last + PAUSES[(strikes as usize - 1).min(PAUSES.len() - 1)],
            _ => Duration::ZERO,
        }
    }

    /// Returns how many allocations may be under way without having proved themselves; `None` for any number.
    pub(super) fn limit(&self) -> Option<usize> {
        (self.strikes > 0).then_some(1)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.strikes >= LIMIT
    }

    pub(super) fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Returns the words of the last strike.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Adds what is learnt about the last strike afterwards; of much text, the end.
    pub(super) fn explain(&mut self, words: &str) {
        if self.strikes > 0 {
            let skipped = words.chars().count().saturating_sub(LONGEST);
            let end: String = words.chars().skip(skipped).collect();
            self.why = format!("{}: {}{end}", self.why, if skipped > 0 { "…" } else { "" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// The pauses grow with each strike, and the group is paused at the third.
    #[test]
    fn strikes_lengthen_the_pause() {
        let mut breaker = Breaker::default();
        assert_eq!((breaker.opens_at(), breaker.limit()), (Duration::ZERO, None));
        let mut now = 10 * S;
        for (strike, pause) in [(1, 0), (2, 60), (3, 300), (4, 900), (5, 900)] {
            assert!(breaker.strike(now, now, format!("strike {strike}")));
            assert_eq!(breaker.opens_at(), now + pause * S);
            assert_eq!(breaker.is_paused(), strike >= 3);
            assert_eq!(breaker.limit(), Some(1));
            now = breaker.opens_at() + S;
        }
        breaker.proved(Duration::ZERO);
        assert_eq!(breaker.strikes(), 5, "a node from before the strikes proves nothing");
        breaker.proved(now);
        assert_eq!((breaker.opens_at(), breaker.strikes()), (Duration::ZERO, 0));
    }

    /// Allocations that were requested together are one strike.
    #[test]
    fn failures_of_one_wave_are_one_strike() {
        let mut breaker = Breaker::default();
        assert!(breaker.strike(S, 5 * S, "first".to_owned()));
        assert!(!breaker.strike(2 * S, 6 * S, "of the same wave".to_owned()));
        assert!(breaker.strike(7 * S, 9 * S, "second".to_owned()));
        assert_eq!(breaker.strikes(), 2);
    }
}
