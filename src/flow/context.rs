//! The context of a reaction.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::FlowError;
use super::ledger::Moment;
use super::schedule::Schedules;
use super::scope;
use crate::error::Error;
use crate::id::{ActorPath, FlowId};
use crate::work::ReadyQueue;

/// The context of [`Flow::react`](crate::Flow::react): schedules, wakes the Flow later, and ends the App.
///
/// ```
/// # use flowright::prelude::*;
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Backup;
/// # impl Work for Backup {
/// #     type Input = u64;
/// #     async fn run(&mut self, _: u64, _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
/// # }
/// #[derive(Default, Serialize, Children)]
/// struct Nightly {
///     backup: WorkRef<Backup>,
///     nights: u64,
/// }
///
/// impl Flow for Nightly {
///     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
///         if cx.schedule("30 2 * * *") {
///             self.nights += 1;
///         }
///         if self.nights > 0 {
///             self.backup.run(self.nights); // one run for each night
///         }
///         if self.nights == 365 {
///             cx.stop("a year is over");
///         }
///         Ok(())
///     }
/// }
/// # let app = flowright::testing::TestApp::start(Nightly::default);
/// # app.stop().result.unwrap();
/// ```
pub struct FlowContext {
    path: ActorPath,
    reaction: u64,
    now: Moment,
    /// Absent before the first reaction.
    waker: Option<FlowWaker>,
    pub(crate) schedules: Schedules,
    pub(crate) wake_in: Option<Duration>,
    pub(crate) ending: Option<Ending>,
}

/// Has a Flow react once more, from any thread.
#[derive(Clone)]
pub(crate) struct FlowWaker {
    ready_queue: Arc<ReadyQueue>,
    flow: FlowId,
}

impl FlowWaker {
    pub(crate) fn new(ready_queue: Arc<ReadyQueue>, flow: FlowId) -> Self {
        Self { ready_queue, flow }
    }

    pub(super) fn wake(&self) {
        self.ready_queue.ring_flow(self.flow);
    }
}

/// Request of a Flow to end the App.
#[derive(Debug)]
pub(crate) enum Ending {
    Stop(String),
    Fail(Error),
}

impl FlowContext {
    pub(crate) fn new(path: ActorPath, wall: SystemTime) -> Self {
        let now = Moment { at: Duration::ZERO, wall };
        Self {
            path,
            reaction: 0,
            now,
            waker: None,
            schedules: Schedules::default(),
            wake_in: None,
            ending: None,
        }
    }

    /// Creates the context of a Flow whose schedules are restored.
    pub(crate) fn restored(path: ActorPath, wall: SystemTime, schedules: Schedules) -> Self {
        Self { schedules, ..Self::new(path, wall) }
    }

    /// Gives the next reaction this number.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(crate) fn continue_with(&mut self, reaction: u64) {
        self.reaction = reaction.saturating_sub(1);
    }

    pub(crate) fn begin(&mut self, now: Moment, waker: FlowWaker) {
        self.waker = Some(waker);
        self.reaction += 1;
        self.now = now;
        self.wake_in = None;
    }

    /// Returns true in exactly one reaction per occurrence of a cron expression, in the local time of the machine. The
    /// first call starts the schedule and returns false. Each occurrence causes a reaction of the Flow.
    ///
    /// An expression has 5 fields, or 6 with seconds first; or it is one of `midnight`, `hourly`, `daily`, `weekly`,
    /// `monthly`, `yearly`, `annually`. The local time zone is that of `TZ`, or else of `/etc/localtime`, or else UTC.
    ///
    /// # Daylight saving time
    /// An expression that matches in every hour (`*/10 * * * *`, `hourly`, `* * * * * *`) is an interval: it occurs
    /// whenever the clock shows a matching time, also in an hour that is repeated; a skipped hour takes no time. Any
    /// other expression (`30 2 * * *`, `0 */2 * * *`) has fixed times, which occur once each: a repeated time when it
    /// is first shown, a skipped time at the first moment after the gap. Times that one gap skips are one occurrence.
    ///
    /// # Late reactions and clock changes
    /// An occurrence stays due until a reaction calls this method. Occurrences missed for more than a minute count as
    /// one, and so do those that the clock has jumped over because it was set forward or the machine slept. A clock
    /// that is set back is followed: occurrences are repeated when the clock shows their times again, unless the clock
    /// was set back by less than half of the time between the last occurrence and the next. On Linux the system reports
    /// that its clock was set; on other systems this is detected within a minute, and a change of the time zone within
    /// some minutes.
    ///
    /// # Errors
    /// The Flow fails with [`FlowError::Schedule`] for an expression that is invalid or never occurs (`0 0 30 2 *`),
    /// and for an unknown `TZ`.
    #[must_use = "an occurrence is reported once"]
    pub fn schedule(&mut self, expression: &str) -> bool {
        self.check(None, expression)
    }

    /// Works like [`schedule`](Self::schedule), with the clock of a time zone of the IANA database, such as
    /// `Europe/Berlin` or `UTC`, wherever the App runs. The zones are those of the machine, or else those built into
    /// the program.
    ///
    /// # Errors
    /// The Flow fails with [`FlowError::Schedule`] for an expression that is invalid or never occurs, and for an
    /// unknown zone.
    #[must_use = "an occurrence is reported once"]
    pub fn schedule_in(&mut self, zone: &str, expression: &str) -> bool {
        self.check(Some(zone), expression)
    }

    fn check(&mut self, zone: Option<&str>, expression: &str) -> bool {
        self.schedules.check(zone, expression, self.now, self.reaction).unwrap_or_else(|source| {
            scope::problem(FlowError::Schedule { path: self.path.to_string(), source });
            false
        })
    }

    /// Makes the Flow react again after `delay` at the latest. The request lasts until the next reaction, which has to
    /// call this method again if it still needs to be woken. Of several calls in one reaction the shortest delay
    /// counts. `Duration::MAX` never wakes.
    pub fn wake_in(&mut self, delay: Duration) {
        self.wake_in = Some(self.wake_in.map_or(delay, |earlier| earlier.min(delay)));
    }

    /// Ends the App gracefully, with exit code 0, after this reaction. `why` is logged.
    pub fn stop(&mut self, why: impl Into<String>) {
        self.ending.get_or_insert(Ending::Stop(why.into()));
    }

    /// Ends the App as failed, with exit code 1, after this reaction.
    pub fn fail(&mut self, error: impl Into<Error>) {
        self.ending = Some(Ending::Fail(error.into()));
    }

    /// Returns what has the Flow react once more, from any thread.
    pub(super) fn waker(&self) -> Option<FlowWaker> {
        self.waker.clone()
    }

    /// Returns the time of this reaction.
    pub(super) fn moment(&self) -> Moment {
        self.now
    }

    /// Returns the Flow's path from the root of the App.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// Returns the number of this reaction of the Flow, from 1.
    pub fn reaction(&self) -> u64 {
        self.reaction
    }
}
