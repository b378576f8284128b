//! Restart policies: whether and when a failed run is retried (pure, without a clock of its own).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Handling of a failure after the last restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnError {
    /// Fails the App at once with this error, and exit code 1.
    #[default]
    Raise,
    /// Records the failure in the status; the Flow's `react` decides.
    Capture,
}

/// Restart policy: how often a failed Work (or Flow) is restarted before its [`OnError`] applies.
///
/// A restart creates a new incarnation: it continues from the last published state, private fields start at their
/// defaults, `on_start` is called, and the failed run starts again. The back-off before a restart doubles with each
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
#[must_use = "a restart policy does nothing until it is given to a Work or Flow"]
pub struct Restart {
    max: u32,
    within: Duration,
    backoff: Range<Duration>,
}

impl Restart {
    /// Never restarts: the first failure counts. The default.
    pub fn never() -> Self {
        Self { max: 0, ..Self::on_failure() }
    }

    /// Restarts at most 5 times within 60 s, with a back-off of 100 ms at first and at most 10 s.
    pub fn on_failure() -> Self {
        Self {
            max: 5,
            within: Duration::from_secs(60),
            backoff: Duration::from_millis(100)..Duration::from_secs(10),
        }
    }

    /// Sets the largest number of restarts within the window.
    pub fn max(self, max: u32) -> Self {
        Self { max, ..self }
    }

    /// Sets the length of the window: older restarts do not count.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// Sets the first and the longest back-off before a restart. If the back-off is as long as the window, the window
    /// never fills, and restarts never end.
    pub fn backoff(self, backoff: Range<Duration>) -> Self {
        Self { backoff, ..self }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self::never()
    }
}

/// [`Restart`] as it is recorded. A setting that the record lacks is that of [`Restart::on_failure`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Restart", default = "Restart::on_failure")]
pub(super) struct RecordedRestart {
    max: u32,
    within: Duration,
    backoff: Range<Duration>,
}

/// Events within a sliding time window.
#[derive(Debug, Default)]
pub(super) struct Window {
    times: VecDeque<Duration>,
}

impl Window {
    /// Restores the times of the events, oldest first.
    pub(super) fn restored(times: &[Duration]) -> Self {
        Self { times: times.iter().copied().collect() }
    }

    /// Returns the times of the events in the window, oldest first.
    pub(super) fn times(&self) -> Vec<Duration> {
        self.times.iter().copied().collect()
    }

    /// Records an event at `now` and returns the number of earlier events in the window, or `None`, without recording
    /// it, if there were `max`.
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

/// Restart history of one child.
#[derive(Debug, Default)]
pub(crate) struct Restarts(Window);

impl Restarts {
    /// Restores the times of the restarts in the window, oldest first.
    pub(crate) fn restored(times: &[Duration]) -> Self {
        Self(Window::restored(times))
    }

    /// Returns the times of the restarts in the window, oldest first.
    pub(crate) fn times(&self) -> Vec<Duration> {
        self.0.times()
    }

    /// Records another restart and returns the back-off before it, or `None` if the limit is reached.
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
