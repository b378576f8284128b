//! The deadlines of the driver: at most one for each Work and Flow, served by a single timer.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::id::{FlowId, WorkId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    Work(WorkId),
    Flow(FlowId),
    ShutDown,
    /// The App has run for so long that it is in no crash loop.
    #[cfg(feature = "journal")]
    Progress,
}

#[derive(Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Duration, Timer)>,
    deadlines: HashMap<Timer, Duration>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, deadline: Option<Duration>) {
        let earlier = match deadline {
            Some(deadline) => self.deadlines.insert(timer, deadline),
            None => self.deadlines.remove(&timer),
        };
        if earlier == deadline {
            return;
        }
        if let Some(earlier) = earlier {
            self.by_time.remove(&(earlier, timer));
        }
        if let Some(deadline) = deadline {
            self.by_time.insert((deadline, timer));
        }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(deadline, _)| *deadline)
    }

    /// Removes and returns a timer whose deadline has passed.
    pub(super) fn due(&mut self, now: Duration) -> Option<Timer> {
        let (deadline, timer) = *self.by_time.first()?;
        if deadline > now {
            return None;
        }
        self.by_time.pop_first();
        self.deadlines.remove(&timer);
        Some(timer)
    }
}
