//! Cron schedules of one Flow (pure): the time is a parameter.
//!
//! # Guarantees
//! - Each occurrence after the first call is true in exactly one reaction. If a reaction is late or returns before it
//!   asks, the occurrence stays due until a reaction asks for it.
//! - Calls with the same zone and expression in one reaction agree.
//! - Occurrences missed for more than a minute count as one, and so do those that the wall clock has jumped over
//!   because it was set forward or the machine slept.
//! - A wall clock that is set back is followed at once. If it is set back by less than half of the time to the next
//!   occurrence, past occurrences are not repeated.

mod expression;
mod row;

use std::collections::HashMap;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use self::expression::Expression;
pub(crate) use self::row::ScheduleRow;
use super::ledger::Moment;

/// Delay after which a missed occurrence absorbs the later missed ones.
const MISSED: SignedDuration = SignedDuration::from_mins(1);

/// Difference of the wall clock and the monotonic clock from which the wall clock counts as set, not as read late.
const STEP: SignedDuration = SignedDuration::from_secs(1);

/// Error returned for an invalid schedule: an expression that is malformed or never occurs, or an unknown time zone.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct ScheduleError(#[from] Problem);

#[derive(Debug, Error)]
enum Problem {
    #[error(
        "`{expression}` is not a schedule: {error}; write a cron expression of 5 fields, or of 6 with seconds first \
         (`*/10 * * * * *`), or one of midnight, hourly, daily, weekly, monthly, yearly, annually"
    )]
    Malformed { expression: String, error: croner::errors::CronError },
    #[error(
        "`{expression}` never occurs: no date matches its day of the month, month and day of the week (or year); correct them"
    )]
    Never { expression: String },
    #[error(
        "`{zone}` is not a time zone: write a name of the IANA time zone database, such as `Europe/Berlin` or `UTC`{hint}"
    )]
    UnknownZone { zone: String, hint: String },
    #[error(
        "the environment variable `TZ` is `{zone}`, which is not a time zone: set it to a name of the IANA time zone \
         database, such as `Europe/Berlin` or `UTC`, or unset it for the time zone of the machine{hint}; \
         or use `cx.schedule_in` with a name"
    )]
    UnknownTz { zone: String, hint: String },
    #[error(
        "the time zone of the machine cannot be read from /etc/localtime: correct that link, or set the environment \
         variable `TZ` to a name of the IANA time zone database, such as `Europe/Berlin` or `UTC`"
    )]
    UnreadableLocal,
}

#[derive(Default)]
pub(crate) struct Schedules {
    /// By expression; an expression rarely occurs with several time zones.
    items: HashMap<String, Vec<Schedule>>,
    /// Time of the last update of all schedules.
    seen: Option<Moment>,
}

impl Schedules {
    /// Returns true if an occurrence of `expression` belongs to the reaction number `reaction`, in `zone` or else in
    /// the zone of the machine.
    pub(crate) fn check(
        &mut self,
        zone: Option<&str>,
        expression: &str,
        now: Moment,
        reaction: u64,
    ) -> Result<bool, ScheduleError> {
        self.look(now);
        if let Some(schedules) = self.items.get_mut(expression)
            && let Some(schedule) =
                schedules.iter_mut().find(|schedule| schedule.zone_name.as_deref() == zone)
        {
            return Ok(schedule.take(expression, timestamp(now.wall), reaction));
        }
        let parsed = Expression::parse(expression)
            .map_err(|error| Problem::Malformed { expression: expression.to_owned(), error })?;
        if !parsed.matches_ever() {
            return Err(Problem::Never { expression: expression.to_owned() }.into());
        }
        let time_zone = zone.map_or_else(local_zone, named_zone)?;
        let schedule = Schedule::new(parsed, time_zone, zone.map(str::to_owned), timestamp(now.wall));
        if schedule.next.is_none() {
            log::warn!("schedule `{expression}` never occurs again: all years that it names are over");
        }
        self.items.entry(expression.to_owned()).or_default().push(schedule);
        Ok(false)
    }

    /// Returns the time of the next reaction that the schedules need.
    pub(crate) fn next_wake(&self) -> Option<SystemTime> {
        self.items.values().flatten().filter_map(Schedule::wake).min().map(SystemTime::from)
    }

    /// Returns true if a reaction is due now; each occurrence causes one.
    pub(crate) fn wake(&mut self, now: Moment) -> bool {
        self.look(now);
        // An unreadable zone was readable before: keep the old one.
        if self.all().any(|schedule| schedule.zone_name.is_none())
            && let Ok(zone) = local_zone()
        {
            let local_ones = self.all().filter(|schedule| schedule.zone_name.is_none());
            local_ones.for_each(|schedule| schedule.move_to(&zone, timestamp(now.wall)));
        }
        let mut woken = false;
        for schedule in self.all().filter(|schedule| schedule.due && !schedule.asked) {
            schedule.asked = true;
            woken = true;
        }
        woken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Updates all schedules to the time, and detects a wall clock that was set since the last update.
    fn look(&mut self, now: Moment) {
        let seen = self.seen.replace(now).unwrap_or(now);
        let passed = SignedDuration::try_from(now.at.saturating_sub(seen.at)).unwrap_or(SignedDuration::MAX);
        let expected = timestamp(seen.wall).checked_add(passed).unwrap_or(Timestamp::MAX);
        self.all().for_each(|schedule| schedule.look(expected, timestamp(now.wall)));
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Schedule> {
        self.items.values_mut().flatten()
    }
}

/// The schedule of an expression in a time zone.
#[derive(Debug)]
struct Schedule {
    expression: Expression,
    zone: TimeZone,
    /// Zone name given by the Flow; `None` for the zone of the machine.
    zone_name: Option<String>,
    /// The last occurrence that was returned as true.
    last: Option<Timestamp>,
    /// The next occurrence, which has not been returned as true yet.
    next: Option<Timestamp>,
    /// True once the clock has reached `next`, even if it is set back afterwards.
    due: bool,
    /// True once a reaction for `next` was requested.
    asked: bool,
    /// Occurrences until then count as one with `next`.
    missed_until: Timestamp,
    /// The reaction in which `last` was true.
    true_in: Option<u64>,
}

impl Schedule {
    fn new(expression: Expression, zone: TimeZone, zone_name: Option<String>, now: Timestamp) -> Self {
        let next = expression.following(&zone, now);
        Self {
            expression,
            zone,
            zone_name,
            last: None,
            next,
            due: false,
            asked: false,
            missed_until: Timestamp::MIN,
            true_in: None,
        }
    }

    /// Returns the time for which a reaction is needed, at once if `next` is due; `None` if a reaction was requested
    /// already.
    fn wake(&self) -> Option<Timestamp> {
        self.next.filter(|_| !self.asked).map(|next| if self.due { Timestamp::MIN } else { next })
    }

    /// Updates the schedule to the time. The wall clock would show `expected` if it had not been set.
    fn look(&mut self, expected: Timestamp, now: Timestamp) {
        self.due |= self.next.is_some_and(|next| next <= expected.max(now));
        let step = now.duration_since(expected);
        if step > STEP {
            self.missed_until = now;
        } else if step < -STEP {
            self.missed_until = Timestamp::MIN;
            if !self.due {
                self.next = match self.last {
                    Some(last) if now < last => self.resume(last, now),
                    _ => self.expression.following(&self.zone, now),
                };
            }
        }
    }

    /// Changes the zone of the schedule.
    fn move_to(&mut self, zone: &TimeZone, now: Timestamp) {
        if self.zone != *zone {
            self.zone = zone.clone();
            if !self.due {
                self.next = self.expression.following(zone, self.last.map_or(now, |last| last.max(now)));
                self.asked = false;
            }
        }
    }

    /// Returns true if an occurrence belongs to this reaction.
    fn take(&mut self, name: &str, now: Timestamp, reaction: u64) -> bool {
        if self.true_in == Some(reaction) {
            return true;
        }
        let Some(due) = self.next.filter(|_| self.due) else { return false };
        self.next = if now.duration_since(due) > MISSED || due <= self.missed_until {
            self.warn_of_missed(name, due, now);
            self.expression.following(&self.zone, now)
        } else {
            self.resume(due, now)
        };
        self.last = Some(due);
        self.due = self.next.is_some_and(|next| next <= now);
        self.asked = false;
        self.true_in = Some(reaction);
        true
    }

    /// Returns the occurrence after `last`, for a clock that shows `now` and may have been set back since `last`.
    fn resume(&self, last: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let next = self.expression.following(&self.zone, last);
        let interval = next.map_or(SignedDuration::MAX, |next| next.duration_since(last));
        let back = last.duration_since(now);
        if back.saturating_add(back) < interval { next } else { self.expression.following(&self.zone, now) }
    }

    fn warn_of_missed(&self, name: &str, due: Timestamp, now: Timestamp) {
        if self.expression.following(&self.zone, due).is_some_and(|next| next <= now) {
            let show = |time: Timestamp| time.to_zoned(self.zone.clone()).strftime("%F %T%:z").to_string();
            let (due, now) = (show(due), show(now));
            log::warn!(
                "schedule `{name}`: the occurrences between {due} and {now} were missed and count as one"
            );
        }
    }
}

/// Converts the wall clock; a time after the year 9999 is clamped.
fn timestamp(wall: SystemTime) -> Timestamp {
    let limit = if wall < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(wall).unwrap_or(limit)
}

fn named_zone(name: &str) -> Result<TimeZone, Problem> {
    TimeZone::get(name).map_err(|_| Problem::UnknownZone { zone: name.to_owned(), hint: similar(name) })
}

/// Returns the zone of `TZ`, or else of the machine, or UTC if neither is set, as is usual. `jiff` caches the zone for
/// some minutes.
fn local_zone() -> Result<TimeZone, Problem> {
    if let Ok(zone) = TimeZone::try_system() {
        return Ok(zone);
    }
    match std::env::var_os("TZ") {
        Some(zone) => {
            let zone = zone.to_string_lossy().into_owned();
            Err(Problem::UnknownTz { hint: similar(&zone), zone })
        }
        None if std::fs::symlink_metadata("/etc/localtime").is_ok() => Err(Problem::UnreadableLocal),
        None => Ok(TimeZone::UTC),
    }
}

/// Returns a hint at the known zone with the most similar name.
fn similar(name: &str) -> String {
    let likeness = |known: &str| strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase());
    let known = jiff::tz::db().available().map(|known| (likeness(known.as_str()), known));
    let best = known.max_by(|(one, _), (other, _)| one.total_cmp(other));
    match best {
        Some((likeness, known)) if likeness > 0.85 => format!(" (did you mean `{known}`?)"),
        _ => String::new(),
    }
}

#[cfg(test)]
#[path = "schedule/schedule_tests.rs"]
mod tests;
