//! Whether and when to try again: pure, without a clock of its own.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What becomes of an error that no restart has cured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The App fails at once with that error, and exit code 1.
    #[default]
    Raise,
    /// The status says it, and `react` decides.
    Capture,
}

/// How often a Work (or a Flow) that failed is started again before its [`OnError`] decides.
///
/// A restart makes a new incarnation: it continues from the last published state, private fields start at their
/// defaults, `on_start` is called, and a run that failed starts again. The wait before it doubles with each
/// restart in the window.
///
/// ```
/// # use std::time::Duration;
/// # use flowright::Restart;
/// let restart = Restart::on_failure()
///     .max(5)
///     .within(Duration::from_secs(60))
///     .backoff(Duration::from_millis(100)..Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    max: u32,
    within: Duration,
    backoff: Range<Duration>,
}

impl Restart {
    /// No restart: the first failure counts. The default.
    pub fn never() -> Self {
        Self { max: 0, ..Self::on_failure() }
    }

    /// At most 5 restarts within 60 s, after 100 ms at first and never more than 10 s.
    pub fn on_failure() -> Self {
        Self {
            max: 5,
            within: Duration::from_secs(60),
            backoff: Duration::from_millis(100)..Duration::from_secs(10),
        }
    }

    /// At most `max` restarts within the window.
    pub fn max(self, max: u32) -> Self {
        Self { max, ..self }
    }

    /// The length of the window: restarts longer ago do not count.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// The shortest and the longest wait before a restart. Waits as long as the window keep it from ever being full.
    pub fn backoff(self, backoff: Range<Duration>) -> Self {
        Self { backoff, ..self }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self::never()
    }
}

/// Events within a sliding window of time.
#[derive(Debug, Default)]
pub(super) struct Window {
    times: VecDeque<Duration>,
}

impl Window {
    /// Counts an event at `now` unless `max` happened within the window; how many happened before it.
    pub(super) fn admit(&mut self, max: u32, within: Duration, now: Duration) -> Option<u32> {
        while self.times.front().is_some_and(|time| now.saturating_sub(*time) >= within) {
            self.times.pop_front();
        }
        let before = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        if before >= max {
            return None;
        }
        self.times.push_back(now);
        Some(before)
    }
}

/// The restarts of one child so far.
#[derive(Debug, Default)]
pub(crate) struct Restarts(Window);

impl Restarts {
    /// How long to wait before another restart, or `None` when there were enough.
    pub(crate) fn next(&mut self, policy: &Restart, now: Duration) -> Option<Duration> {
        let before = self.0.admit(policy.max, policy.within, now)?;
        let factor = 1_u32.checked_shl(before).unwrap_or(u32::MAX);
        Some(policy.backoff.start.saturating_mul(factor).min(policy.backoff.end.max(policy.backoff.start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let policy = Restart::on_failure().max(6).backoff(100 * MS..1000 * MS);
        let mut restarts = Restarts::default();
        let waits: Vec<_> = (0..7).map(|_| restarts.next(&policy, Duration::ZERO)).collect();
        let expected = [100, 200, 400, 800, 1000, 1000].map(|ms| Some(ms * MS));
        assert_eq!(waits[..6], expected);
        assert_eq!(waits[6], None);
    }

    #[test]
    fn restarts_longer_ago_than_the_window_do_not_count() {
        let policy = Restart::on_failure().max(1).within(10 * MS);
        let mut restarts = Restarts::default();
        assert!(restarts.next(&policy, Duration::ZERO).is_some());
        assert!(restarts.next(&policy, 9 * MS).is_none());
        assert!(restarts.next(&policy, 10 * MS).is_some());
    }

    #[test]
    fn never_is_never() {
        assert_eq!(Restarts::default().next(&Restart::never(), Duration::ZERO), None);
    }
}
