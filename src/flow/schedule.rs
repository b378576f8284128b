//! Cron schedules of one Flow: pure; the time is given, and so is the zone of the machine.
//!
//! # Guarantees
//! - Each occurrence after the first call is true in exactly one reaction, also when reactions are late or left
//!   `react` before they asked: it stays due until it is asked for.
//! - Calls with the same zone and expression in one reaction agree.
//! - Occurrences missed for more than a minute count as one, and so do those that the wall clock has jumped over because
//!   it was set forward or the machine slept.
//! - A wall clock that is set back is followed at once. If it is set back by less than half of the time to the next
//!   occurrence, what has occurred is not repeated.

mod expression;

use std::collections::HashMap;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use self::expression::Expression;
use super::ledger::Moment;

/// The time after which an occurrence that nobody asked for hides those after it.
const MISSED: SignedDuration = SignedDuration::from_mins(1);

/// The difference between the wall clock and the steady one from which the wall clock was set, rather than read a
/// little late.
const STEP: SignedDuration = SignedDuration::from_secs(1);

/// A schedule that cannot be: its expression says no times, or its time zone is unknown.
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
    /// By expression; few have one in several time zones.
    items: HashMap<String, Vec<Schedule>>,
    /// When the clocks were last looked at.
    seen: Option<Moment>,
}

impl Schedules {
    /// Whether an occurrence of `expression` in `zone`, or else in the zone of the machine, falls to the reaction
    /// number `reaction`.
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

    /// When the Flow should react for a schedule.
    pub(crate) fn next_wake(&self) -> Option<SystemTime> {
        self.items.values().flatten().filter_map(Schedule::wake).min().map(SystemTime::from)
    }

    /// Whether a reaction is due for a schedule now; each occurrence asks for one.
    pub(crate) fn wake(&mut self, now: Moment) -> bool {
        self.look(now);
        // What cannot be read any more was read before.
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

    /// Takes notice of the time, and of a wall clock that was set since this was last done.
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

/// One expression in one zone.
#[derive(Debug)]
struct Schedule {
    expression: Expression,
    zone: TimeZone,
    /// The name by which the Flow has asked for the zone, unless it is that of the machine.
    zone_name: Option<String>,
    /// The last occurrence that was true.
    last: Option<Timestamp>,
    /// The occurrence that has not been true yet.
    next: Option<Timestamp>,
    /// Whether the clock has reached `next`. It stays so when the clock is set back.
    due: bool,
    /// Whether the Flow was asked to react for `next`.
    asked: bool,
    /// Occurrences up to here count as one with `next`.
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

    /// When the Flow should be asked to react, unless it was for this occurrence: at once for one that is due.
    fn wake(&self) -> Option<Timestamp> {
        self.next.filter(|_| !self.asked).map(|next| if self.due { Timestamp::MIN } else { next })
    }

    /// Takes notice of the time. It would be `expected` if the wall clock had not been set.
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

    /// Goes by the clock of another zone from now on.
    fn move_to(&mut self, zone: &TimeZone, now: Timestamp) {
        if self.zone != *zone {
            self.zone = zone.clone();
            if !self.due {
                self.next = self.expression.following(zone, self.last.map_or(now, |last| last.max(now)));
                self.asked = false;
            }
        }
    }

    /// Whether an occurrence is true in this reaction.
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

    /// The occurrence that comes after `last`, by a clock that shows `now` and may have been set back meanwhile.
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

/// The wall clock; one beyond the year 9999 stands still.
fn timestamp(wall: SystemTime) -> Timestamp {
    let limit = if wall < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(wall).unwrap_or(limit)
}

fn named_zone(name: &str) -> Result<TimeZone, Problem> {
    TimeZone::get(name).map_err(|_| Problem::UnknownZone { zone: name.to_owned(), hint: similar(name) })
}

/// The zone of `TZ`, or else of the machine, or UTC where neither is set, as everywhere. It is remembered for some
/// minutes.
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

/// A hint at the known zone whose name is most similar.
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
