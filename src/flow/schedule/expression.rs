//! Cron expressions, and their occurrences in a time zone: pure.
//!
//! An expression is matched against civil times, that is, against what a clock on the wall shows. Where the clocks of
//! the zone are changed, two rules say which instants those are:
//!
//! - An *interval*, whose expression matches in every hour of the day (`*/10 * * * *`, `hourly`, `* * * * * *`), occurs
//!   at each instant at which the clock shows a matching time. It goes on through an hour that is repeated, and what
//!   is skipped takes no time.
//! - *Fixed times*, which is every other expression (`30 2 * * *`, `0 */2 * * *`), occur once each: a time that is
//!   repeated when it is first shown, a time that is skipped at the first moment after the gap. Several times that one
//!   gap skips are one occurrence.

use std::str::FromStr;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::CronParser;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Twice as much as the civil times of two zones, or of one zone before and after a change, can differ.
const TWO_DAYS: SignedDuration = SignedDuration::from_hours(48);

#[derive(Debug)]
pub(super) struct Expression {
    cron: Cron,
    /// Whether it is an interval and not fixed times.
    interval: bool,
}

impl Expression {
    pub(super) fn parse(text: &str) -> Result<Self, CronError> {
        let named = match text.trim().trim_start_matches('@') {
            "midnight" | "daily" => Some("0 0 * * *"),
            "hourly" => Some("0 * * * *"),
            "weekly" => Some("0 0 * * 0"),
            "monthly" => Some("0 0 1 * *"),
            "yearly" | "annually" => Some("0 0 1 1 *"),
            _ => None,
        };
        let cron = match named {
            Some(expression) => Cron::from_str(expression)?,
            None => CronParser::new().parse(text)?,
        };
        let interval = (0..24).all(|hour| cron.pattern.hour_match(hour).is_ok_and(|matches| matches));
        Ok(Self { cron, interval })
    }

    /// Whether it matches any time of any year: `0 0 30 2 *` does not.
    pub(super) fn matches_ever(&self) -> bool {
        self.cron.find_next_occurrence(&DateTime::constant(1, 1, 1, 0, 0, 0, 0), true).is_ok()
    }

    /// The first occurrence after an instant.
    pub(super) fn following(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        if self.interval { self.following_match(zone, after) } else { self.following_fixed(zone, after) }
    }

    /// The first instant at which a clock in the zone shows a time that matches. Between two changes of the clock,
    /// civil times and instants differ by one offset.
    fn following_match(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        let mut inclusive = false;
        loop {
            let offset = zone.to_offset(from);
            let civil = self.cron.find_next_occurrence(&offset.to_datetime(from), inclusive).ok()?;
            let found = offset.to_timestamp(civil).ok()?;
            let change = zone.following(from).next().map(|change| change.timestamp());
            let Some(change) = change.filter(|change| *change <= found) else { return Some(found) };
            // With another offset it may be earlier, but not by days: changes of the clock long before do not matter.
            from = found.checked_sub(TWO_DAYS).map_or(change, |before| before.max(change));
            inclusive = true;
        }
    }

    /// The first instant that is that of a matching time. Later times have no earlier instants, so the times up to the
    /// one that is shown at `after` are over.
    fn following_fixed(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let mut civil = zone.to_datetime(after);
        loop {
            civil = self.cron.find_next_occurrence(&civil, false).ok()?;
            let found = first_instant(zone, civil)?;
            if found > after {
                return Some(found);
            }
        }
    }
}

/// The instant at which a clock first shows `civil` or, where it skips it, what comes next.
fn first_instant(zone: &TimeZone, civil: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(civil).ok()
        }
        AmbiguousOffset::Gap { before, .. } => {
            // As much after the change as `civil` is after the beginning of the gap.
            let inside = before.to_timestamp(civil).ok()?.checked_add(SignedDuration::from_secs(1)).ok()?;
            zone.preceding(inside).next().map(|change| change.timestamp())
        }
    }
}

#[cfg(test)]
#[path = "expression_tests.rs"]
mod tests;
