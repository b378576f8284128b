//! Cron schedules of one Flow: pure; the time is given.
//!
//! # Guarantees
//! - Each occurrence after the first call is true in exactly one reaction, also when reactions are late or left
//!   `react` before they asked: it stays due until it is asked for.
//! - Calls with the same expression in one reaction agree.
//! - Occurrences missed for more than a minute, as when the machine slept, count as one.

use std::collections::HashMap;
use std::str::FromStr;

use chrono::{DateTime, Local, TimeDelta};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use thiserror::Error;

/// A schedule expression that says no times.
#[derive(Debug, Error)]
#[error(
    "`{expression}` is no schedule: {source}; write a cron expression of 5 fields, or of 6 with seconds first \
     (`*/10 * * * * *`), or one of midnight, hourly, daily, weekly, monthly, yearly, annually"
)]
pub struct ScheduleError {
    expression: String,
    #[source]
    source: croner::errors::CronError,
}

#[derive(Default)]
pub(crate) struct Schedules {
    items: HashMap<String, Item>,
}

struct Item {
    cron: Cron,
    /// The occurrence that has not been true yet.
    next: Option<DateTime<Local>>,
    /// When the Flow should be asked to react, unless it already was for this occurrence.
    wake: Option<DateTime<Local>>,
    true_in: Option<u64>,
}

impl Schedules {
    /// Whether an occurrence of `expression` falls to the reaction number `reaction`.
    pub(crate) fn check(
        &mut self,
        expression: &str,
        now: DateTime<Local>,
        reaction: u64,
    ) -> Result<bool, ScheduleError> {
        let Some(item) = self.items.get_mut(expression) else {
            let cron = parse(expression)
                .map_err(|source| ScheduleError { expression: expression.to_owned(), source })?;
            let next = following(&cron, now);
            self.items.insert(expression.to_owned(), Item { cron, next, wake: next, true_in: None });
            return Ok(false);
        };
        if item.true_in == Some(reaction) {
            return Ok(true);
        }
        let Some(due) = item.next.filter(|next| *next <= now) else { return Ok(false) };
        item.true_in = Some(reaction);
        let from = if now - due > TimeDelta::minutes(1) {
            log::warn!(
                "schedule `{expression}`: the occurrences between {due} and {now} were missed and count as one"
            );
            now
        } else {
            due
        };
        item.next = following(&item.cron, from);
        item.wake = item.next;
        Ok(true)
    }

    /// When the Flow should react for a schedule.
    pub(crate) fn next_wake(&self) -> Option<DateTime<Local>> {
        self.items.values().filter_map(|item| item.wake).min()
    }

    /// Whether a reaction is due for a schedule now; each occurrence asks for one.
    pub(crate) fn wake(&mut self, now: DateTime<Local>) -> bool {
        let mut woken = false;
        for item in self.items.values_mut() {
            if item.wake.is_some_and(|wake| wake <= now) {
                item.wake = None;
                woken = true;
            }
        }
        woken
    }
}

fn parse(expression: &str) -> Result<Cron, croner::errors::CronError> {
    let named = match expression.trim_start_matches('@') {
        "midnight" | "daily" => Some("0 0 * * *"),
        "hourly" => Some("0 * * * *"),
        "weekly" => Some("0 0 * * 0"),
        "monthly" => Some("0 0 1 * *"),
        "yearly" | "annually" => Some("0 0 1 1 *"),
        _ => None,
    };
    match named {
        Some(expression) => Cron::from_str(expression),
        None => CronParser::builder().seconds(Seconds::Optional).build().parse(expression),
    }
}

fn following(cron: &Cron, after: DateTime<Local>) -> Option<DateTime<Local>> {
    cron.find_next_occurrence(&after, false).ok()
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> DateTime<Local> {
        Local.timestamp_opt(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn all_eight_spellings_are_schedules_of_their_own() {
        let mut schedules = Schedules::default();
        let spellings = [
            "midnight",
            "hourly",
            "daily",
            "weekly",
            "monthly",
            "yearly",
            "annually",
            "*/2 * * * * *",
            "@hourly",
        ];
        for spelling in spellings {
            assert!(!schedules.check(spelling, at(0), 1).unwrap(), "{spelling}");
        }
        assert_eq!(schedules.items.len(), spellings.len());
    }

    #[test]
    fn nonsense_is_refused_with_the_remedy() {
        let error = Schedules::default().check("every now and then", at(0), 1).unwrap_err().to_string();
        assert!(error.contains("every now and then") && error.contains("6 with seconds"), "{error}");
    }

    proptest! {
        #[test]
        fn each_occurrence_is_true_in_exactly_one_reaction(waits in proptest::collection::vec(0_i64..9, 1..80)) {
            let mut schedules = Schedules::default();
            let mut second = 0;
            let mut reaction = 0;
            schedules.check("*/3 * * * * *", at(0), reaction).unwrap();
            let mut seen = 0;
            for wait in waits {
                second += wait;
                while schedules.wake(at(second)) {
                    reaction += 1;
                    let first = schedules.check("*/3 * * * * *", at(second), reaction).unwrap();
                    prop_assert_eq!(schedules.check("*/3 * * * * *", at(second), reaction).unwrap(), first);
                    seen += i64::from(first);
                }
            }
            prop_assert_eq!(seen, second / 3);
        }

        #[test]
        fn what_was_not_asked_for_stays_due_without_asking_again(late in 3_i64..50) {
            let mut schedules = Schedules::default();
            schedules.check("*/3 * * * * *", at(0), 0).unwrap();
            prop_assert!(schedules.wake(at(late)));
            prop_assert!(!schedules.wake(at(late)));
            prop_assert!(schedules.check("*/3 * * * * *", at(late), 2).unwrap());
        }
    }
}
