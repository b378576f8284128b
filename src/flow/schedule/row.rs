//! Schedules as they are recorded, and restored in another process.
//!
//! # Guarantees
//! - An occurrence that was not returned as true is due after the restoration, once; those that the time without a
//!   process has skipped count as one with it.
//! - A recorded schedule whose expression or time zone this program cannot read is left out, with a warning.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Expression, Schedule, Schedules, local_zone, named_zone};

/// The recorded part of one schedule. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ScheduleRow {
    expression: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    last: Option<i64>,
    next: Option<i64>,
    #[serde(default)]
    due: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missed_until: Option<i64>,
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

impl Schedules {
    /// Returns what has to be recorded, in a fixed order.
    pub(crate) fn rows(&self) -> Vec<ScheduleRow> {
        let items =
            self.items.iter().flat_map(|(expression, all)| all.iter().map(move |one| (expression, one)));
        let mut rows: Vec<_> = items
            .map(|(expression, schedule)| ScheduleRow {
                expression: expression.clone(),
                zone: schedule.zone_name.clone(),
                last: schedule.last.map(Timestamp::as_millisecond),
                next: schedule.next.map(Timestamp::as_millisecond),
                due: schedule.due,
                missed_until: Some(schedule.missed_until)
                    .filter(|until| *until != Timestamp::MIN)
                    .map(Timestamp::as_millisecond),
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// Restores recorded schedules.
    pub(crate) fn restored(rows: Vec<ScheduleRow>) -> Self {
        let mut schedules = Self::default();
        for row in rows {
            let name = row.expression.clone();
            match row.schedule() {
                Ok(schedule) => schedules.items.entry(name).or_default().push(schedule),
                Err(why) => {
                    log::warn!("the schedule `{name}` is forgotten, because it cannot be read: {why}")
                }
            }
        }
        schedules
    }
}

impl ScheduleRow {
    /// Returns the expression, and the time of the last occurrence in milliseconds since 1970.
    pub(crate) fn occurrence(&self) -> (&str, Option<i64>) {
        (&self.expression, self.last)
    }

    /// Returns the name of the time zone, unless it is that of the machine.
    #[cfg(feature = "cli")]
    pub(crate) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    fn schedule(self) -> Result<Schedule, String> {
        let expression = Expression::parse(&self.expression).map_err(|error| error.to_string())?;
        let zone =
            self.zone.as_deref().map_or_else(local_zone, named_zone).map_err(|error| error.to_string())?;
        Ok(Schedule {
            last: self.last.map(time),
            next: self.next.map(time),
            due: self.due,
            missed_until: self.missed_until.map_or(Timestamp::MIN, time),
            ..Schedule::new(expression, zone, self.zone, Timestamp::MIN)
        })
    }
}
