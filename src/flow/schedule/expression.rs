//! Cron expressions and their occurrences in a time zone (pure).
//!
//! An expression is matched against civil times, that is, the times that a wall clock shows. Where the clocks of the
//! zone change, two rules select the instants:
//!
//! - An *interval*, whose expression matches in every hour of the day (`*/10 * * * *`, `hourly`, `* * * * * *`), occurs
//!   at each instant at which the clock shows a matching time. It continues through an hour that is repeated, and a
//!   skipped hour takes no time.
//! - *Fixed times*, which are all other expressions (`30 2 * * *`, `0 */2 * * *`), occur once each: a repeated time
//!   when it is first shown, a skipped time at the first moment after the gap. Times that one gap skips are one
//!   occurrence.

use std::str::FromStr;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::CronParser;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Twice the largest possible difference of civil times between two zones, or within a zone before and after a change.
const TWO_DAYS: SignedDuration = SignedDuration::from_hours(48);

#[derive(Debug)]
pub(super) struct Expression {
    cron: Cron,
    /// True for an interval, false for fixed times.
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

    /// Returns true if the expression matches any time of any year; `0 0 30 2 *` does not.
    pub(super) fn matches_ever(&self) -> bool {
        self.cron.find_next_occurrence(&DateTime::constant(1, 1, 1, 0, 0, 0, 0), true).is_ok()
    }

    /// Returns the first occurrence after an instant.
    pub(super) fn following(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        if self.interval { self.following_match(zone, after) } else { self.following_fixed(zone, after) }
    }

    /// Returns the first instant at which a clock in the zone shows a matching time. Between two changes of the clock,
    /// civil times and instants differ by a constant offset.
    fn following_match(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        let mut inclusive = false;
        loop {
            let offset = zone.to_offset(from);
            let civil = self.cron.find_next_occurrence(&offset.to_datetime(from), inclusive).ok()?;
            let found = offset.to_timestamp(civil).ok()?;
            let change = zone.following(from).next().map(|change| change.timestamp());
            let Some(change) = change.filter(|change| *change <= found) else { return Some(found) };
            // Another offset may give an earlier instant, but not by days: earlier changes of the clock do not matter.
            from = found.checked_sub(TWO_DAYS).map_or(change, |before| before.max(change));
            inclusive = true;
        }
    }

    /// Returns the first instant of a matching time after `after`. Later civil times have no earlier instants, so the
    /// search begins at the civil time of `after`.
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

/// Returns the instant at which a clock first shows `civil` or, if `civil` is skipped, the end of the gap.
fn first_instant(zone: &TimeZone, civil: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(civil).ok()
        }
        AmbiguousOffset::Gap { before, .. } => {
            // As long after the change as `civil` is after the beginning of the gap.
            let inside = before.to_timestamp(civil).ok()?.checked_add(SignedDuration::from_secs(1)).ok()?;
            zone.preceding(inside).next().map(|change| change.timestamp())
        }
    }
}

#[cfg(test)]
#[path = "expression_tests.rs"]
mod tests;
