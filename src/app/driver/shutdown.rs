//! The order and the times in which Works are asked to stop (pure).
//!
//! Works are asked in reverse order of their start. A slow Work delays the next for a short time only, every Work is
//! asked within half of the grace period, and all of them together have the whole grace period.

use std::time::Duration;

use super::super::error::AppError;
use crate::id::WorkId;

/// The longest time for which a Work that is slow to stop delays the one that was started before it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The share of the reserve that one slow Work may use.
const RESERVE_PARTS: u32 = 10;

/// The division of the time in which Works are asked to stop, one after the other.
///
/// Half of the grace period is for asking. Half of that is divided evenly between the Works that are left, so that no
/// number of slow Works takes the time of the quick ones; the other half is a reserve, of which each slow Work may use
/// a tenth.
#[derive(Debug)]
struct Turns {
    /// Every Work has been asked by then.
    until: Duration,
    reserve: Duration,
    began: Duration,
    share: Duration,
}

impl Turns {
    fn new(grace: Duration, now: Duration) -> Self {
        let time = grace / 2;
        Self { until: now.saturating_add(time), reserve: time / 2, began: now, share: Duration::ZERO }
    }

    /// Begins the turn of one of `left` Works. Returns the time at which the next one is asked at the latest.
    fn next(&mut self, left: usize, now: Duration) -> Duration {
        let over = now.saturating_sub(self.began).saturating_sub(self.share);
        self.reserve = self.reserve.saturating_sub(over);
        let rest = self.until.saturating_sub(now);
        let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        self.share = rest.saturating_sub(self.reserve) / left;
        self.began = now;
        let turn = self.share.saturating_add(self.reserve / RESERVE_PARTS).min(PATIENCE).min(rest);
        now.saturating_add(turn)
    }
}

/// A shutdown in progress.
pub(super) struct Shutdown {
    result: Result<(), AppError>,
    /// Works that have not been asked to stop yet; the next one is the last.
    left: Vec<WorkId>,
    asked: Option<WorkId>,
    turns: Turns,
    next_at: Duration,
    end_at: Duration,
}

impl Shutdown {
    /// Begins to stop the Works of an App, which are given in the order of their start.
    pub(super) fn new(
        result: Result<(), AppError>,
        works: Vec<WorkId>,
        grace: Duration,
        now: Duration,
    ) -> Self {
        Self {
            result,
            left: works,
            asked: None,
            turns: Turns::new(grace, now),
            next_at: now,
            end_at: now.saturating_add(grace),
        }
    }

    /// Returns the next Work to ask, if it is its turn: `is_down` tells whether the Work that was asked last has
    /// stopped.
    pub(super) fn next(&mut self, now: Duration, is_down: impl FnOnce(WorkId) -> bool) -> Option<WorkId> {
        if now < self.next_at && self.asked.is_some_and(|id| !is_down(id)) {
            return None;
        }
        let count = self.left.len();
        let id = self.left.pop()?;
        self.asked = Some(id);
        self.next_at = self.turns.next(count, now);
        Some(id)
    }

    /// Returns true when the grace period is over.
    pub(super) fn is_expired(&self, now: Duration) -> bool {
        now >= self.end_at
    }

    /// Returns the time of the next turn or of the end of the grace period.
    pub(super) fn next_deadline(&self) -> Duration {
        if self.left.is_empty() { self.end_at } else { self.next_at.min(self.end_at) }
    }

    /// Returns the error with which the App stops, if it has failed.
    pub(super) fn error(&self) -> Option<&AppError> {
        self.result.as_ref().err()
    }

    /// Returns `true` when the App ends: `all_down` tells whether all its Works have stopped.
    pub(super) fn is_done(&self, all_down: bool, now: Duration) -> bool {
        self.left.is_empty() && all_down || self.is_expired(now)
    }

    /// Returns the result of the App.
    pub(super) fn into_result(self) -> Result<(), AppError> {
        self.result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Simulates Works that need these times to stop. Returns the time at which each was asked.
    fn asked(grace: Duration, needs: &[Duration]) -> Vec<Duration> {
        let start = 7 * MS;
        let (mut turns, mut now) = (Turns::new(grace, start), start);
        let ask = |(place, need): (usize, &Duration)| {
            let at = now - start;
            now = turns.next(needs.len() - place, now).min(now.saturating_add(*need));
            at
        };
        needs.iter().enumerate().map(ask).collect()
    }

    /// Any number of Works, however slow, are asked within half of the grace period.
    #[test]
    fn slow_works_are_all_asked_in_half_the_grace() {
        for grace in [Duration::ZERO, MS, 100 * MS, 10_000 * MS, 60_000 * MS] {
            for count in [1, 2, 20, 30, 1_000, 20_000] {
                let last = asked(grace, &vec![Duration::MAX; count]).pop().unwrap();
                assert!(last <= grace / 2, "the last of {count} is asked after {last:?} of {grace:?}");
            }
        }
    }

    /// Quick Works get the time they need, however many slow ones are among the others.
    #[test]
    fn quick_works_are_waited_for_among_slow_ones() {
        for slow_each in [2, 3, 10] {
            let needs: Vec<_> =
                (0..200).map(|n| if n % slow_each == 0 { 60_000 * MS } else { 5 * MS }).collect();
            let times = asked(10_000 * MS, &needs);
            for (place, need) in needs.iter().enumerate().take(199).filter(|(_, need)| **need == 5 * MS) {
                assert!(times[place + 1] - times[place] >= *need, "number {place} of one in {slow_each}");
            }
        }
    }

    /// With enough time, a slow Work delays the next by the whole [`PATIENCE`].
    #[test]
    fn few_slow_works_are_waited_for_as_long_as_may_be() {
        let all = [Duration::MAX; 3];
        assert_eq!(asked(10_000 * MS, &all), [Duration::ZERO, PATIENCE, 2 * PATIENCE]);
        assert_eq!(asked(Duration::MAX, &all), [Duration::ZERO, PATIENCE, 2 * PATIENCE]);
    }
}
