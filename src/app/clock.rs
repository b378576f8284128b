//! The driver's clocks.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local};
use tokio::time::Instant;

use crate::flow::Moment;

/// A deadline at or after this is never: a hundred years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

pub(super) struct Clock {
    start: Instant,
    wall_start: SystemTime,
    /// Whether the wall clock is that of the runtime, which a test may have paused.
    paused: bool,
}

impl Clock {
    pub(super) fn new(paused: bool) -> Self {
        Self { start: Instant::now(), wall_start: SystemTime::now(), paused }
    }

    pub(super) fn now(&self) -> Moment {
        let at = self.start.elapsed();
        let wall = self.wall_start.checked_add(at).filter(|_| self.paused).unwrap_or_else(SystemTime::now);
        Moment { at, wall }
    }

    /// The instant at which a deadline comes, or `None` when that is never.
    pub(super) fn instant(&self, at: Duration) -> Option<Instant> {
        if at < NEVER { self.start.checked_add(at) } else { None }
    }
}

pub(super) fn local(now: Moment) -> DateTime<Local> {
    now.wall.into()
}

/// When `time` will be, on the clock for deadlines.
pub(super) fn deadline_at(time: DateTime<Local>, now: Moment) -> Duration {
    now.at.saturating_add((time - local(now)).to_std().unwrap_or_default())
}
