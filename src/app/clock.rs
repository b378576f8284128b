//! The driver's clocks.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local};
use tokio::time::Instant;

use crate::flow::Moment;

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
        let wall = if self.paused { self.wall_start + at } else { SystemTime::now() };
        Moment { at, wall }
    }

    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }
}

pub(super) fn local(now: Moment) -> DateTime<Local> {
    now.wall.into()
}

/// When `time` will be, on the clock for deadlines.
pub(super) fn deadline_at(time: DateTime<Local>, now: Moment) -> Duration {
    now.at + (time - local(now)).to_std().unwrap_or_default()
}
