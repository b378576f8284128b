//! What a Flow can do besides commanding its children.

use std::time::{Duration, SystemTime};

use super::error::FlowError;
use super::ledger::Moment;
use super::schedule::Schedules;
use super::scope;
use crate::error::Error;
use crate::id::ActorPath;

/// What `react` does with the App: schedule, wake up later, end it.
pub struct FlowContext {
    path: ActorPath,
    reaction: u64,
    now: Moment,
    pub(crate) schedules: Schedules,
    pub(crate) wake_in: Option<Duration>,
    pub(crate) ending: Option<Ending>,
}

/// A Flow's wish to end the App.
#[derive(Debug)]
pub(crate) enum Ending {
    Stop(String),
    Fail(Error),
}

impl FlowContext {
    pub(crate) fn new(path: ActorPath, wall: SystemTime) -> Self {
        let now = Moment { at: Duration::ZERO, wall };
        Self { path, reaction: 0, now, schedules: Schedules::default(), wake_in: None, ending: None }
    }

    pub(crate) fn begin(&mut self, now: Moment) {
        self.reaction += 1;
        self.now = now;
        self.wake_in = None;
    }

    /// True in exactly one reaction per occurrence of a cron expression, in the local time of the machine; the first call
    /// starts the schedule and is false. The Flow is made to react when an occurrence comes.
    ///
    /// 5 fields, or 6 with seconds first; or `midnight`, `hourly`, `daily`, `weekly`, `monthly`, `yearly`, `annually`.
    /// The local time is that of `TZ`, or else of `/etc/localtime`, or else UTC.
    ///
    /// # Daylight saving time
    /// An expression that matches in every hour (`*/10 * * * *`, `hourly`, `* * * * * *`) is an interval: it occurs
    /// whenever the clock shows a matching time, also in an hour that is repeated, and what is skipped takes no time.
    /// Any other expression (`30 2 * * *`, `0 */2 * * *`) is of fixed times, which occur once each: a repeated one the
    /// first time, a skipped one at the first moment after the gap. Times that are skipped together are one occurrence.
    ///
    /// # Late reactions and a clock that is set
    /// An occurrence that a reaction did not ask for stays due. Occurrences missed for more than a minute count as
    /// one, and so do those that the clock has jumped over because it was set forward or the machine slept. A
    /// clock that is set back is followed: what has occurred is repeated when the clock shows its time again, unless the clock
    /// was set back by less than half of the time between this occurrence and the next. Linux reports that its clock was
    /// set; elsewhere, and where the time zone changes, it is noticed within a minute or some minutes.
    ///
    /// # Errors
    /// An expression that is none or never occurs (`0 0 30 2 *`), and a `TZ` that is unknown, fail the Flow.
    pub fn schedule(&mut self, expression: &str) -> bool {
        self.check(None, expression)
    }

    /// The same as [`schedule`](Self::schedule) by the clocks of a time zone of the IANA database, such as `Europe/Berlin` or
    /// `UTC`, wherever the App runs. The zones of the machine are used, or else those that the program was built with.
    ///
    /// # Errors
    /// An expression that is none or never occurs, and an unknown zone, fail the Flow.
    pub fn schedule_in(&mut self, zone: &str, expression: &str) -> bool {
        self.check(Some(zone), expression)
    }

    fn check(&mut self, zone: Option<&str>, expression: &str) -> bool {
        self.schedules.check(zone, expression, self.now, self.reaction).unwrap_or_else(|source| {
            scope::problem(FlowError::Schedule { path: self.path.to_string(), source });
            false
        })
    }

    /// Makes the Flow react again after `delay`, if nothing makes it react before; a reaction that still wants to
    /// be woken says so again. Of several calls in one reaction the nearest counts. `Duration::MAX` is never.
    pub fn wake_in(&mut self, delay: Duration) {
        self.wake_in = Some(self.wake_in.map_or(delay, |earlier| earlier.min(delay)));
    }

    /// Ends the App in good order, with exit code 0, after this reaction. `why` is logged.
    pub fn stop(&mut self, why: impl Into<String>) {
        self.ending.get_or_insert(Ending::Stop(why.into()));
    }

    /// Ends the App as failed, with exit code 1, after this reaction.
    pub fn fail(&mut self, error: impl Into<Error>) {
        self.ending = Some(Ending::Fail(error.into()));
    }

    /// The Flow's path from the root of the App.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// Which reaction of this Flow it is, from 1.
    pub fn reaction(&self) -> u64 {
        self.reaction
    }
}
