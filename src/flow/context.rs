//! What a Flow can do besides commanding its children.

use std::time::{Duration, SystemTime};

use super::error::FlowError;
use super::schedule::Schedules;
use super::scope;
use crate::error::Error;
use crate::id::ActorPath;

/// What `react` does with the App: schedule, wake up later, end it.
pub struct FlowContext {
    path: ActorPath,
    reaction: u64,
    now: SystemTime,
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
    pub(crate) fn new(path: ActorPath, now: SystemTime) -> Self {
        Self { path, reaction: 0, now, schedules: Schedules::default(), wake_in: None, ending: None }
    }

    pub(crate) fn begin(&mut self, now: SystemTime) {
        self.reaction += 1;
        self.now = now;
        self.wake_in = None;
    }

    /// True in exactly one reaction per occurrence of a cron expression, in local time; the first call starts the
    /// schedule and is false. The Flow is made to react when an occurrence comes.
    ///
    /// 5 fields, or 6 with seconds first; or `midnight`, `hourly`, `daily`, `weekly`, `monthly`, `yearly`, `annually`.
    /// An occurrence that a reaction did not ask for stays due. Occurrences missed for more than a minute count as
    /// one. An expression that is none fails the Flow.
    pub fn schedule(&mut self, expression: &str) -> bool {
        self.schedules.check(expression, self.now.into(), self.reaction).unwrap_or_else(|source| {
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
