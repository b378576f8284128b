//! The clocks of the driver, and detection of changes of the wall clock.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, LocalBoxStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::flow::Moment;

/// Deadlines from here on never expire: a hundred years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The interval at which a wait for a wall-clock time looks at the clock and at the time zone again. A change of the
/// time zone is never notified, and a change of the clock not on every system.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Clock {
    start: Instant,
    /// The time since the start of the App at `start`, which is not zero for an App that is restored.
    before: Duration,
    wall: Wall,
}

enum Wall {
    System,
    /// Stands still, as the time since the start of the App does.
    #[cfg(all(feature = "cli", feature = "journal"))]
    Held(Moment),
    /// Advances with the clock of the runtime, which a test may have paused, from this time on.
    Runtime(SystemTime),
    Test(WallClock),
}

impl Clock {
    pub(super) fn new(paused: bool, wall: Option<WallClock>) -> Self {
        let wall = match wall {
            Some(clock) => Wall::Test(clock),
            None if paused => Wall::Runtime(SystemTime::now()),
            None => Wall::System,
        };
        Self { start: Instant::now(), before: Duration::ZERO, wall }
    }

    #[cfg(feature = "journal")]
    /// Continues the clock of an App that was last seen at `last`. The time without a process counts, as far as the wall
    /// clock tells it.
    pub(super) fn continue_from(&mut self, last: Moment) {
        let now = self.now();
        let missed = now.wall.duration_since(last.wall).unwrap_or_default();
        self.before = last.at.saturating_add(missed).saturating_sub(self.start.elapsed());
    }

    /// Creates a clock that stands still.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(super) fn held_at(now: Moment) -> Self {
        Self { start: Instant::now(), before: now.at, wall: Wall::Held(now) }
    }

    pub(super) fn now(&self) -> Moment {
        #[cfg(all(feature = "cli", feature = "journal"))]
        if let Wall::Held(now) = &self.wall {
            return *now;
        }
        let elapsed = self.start.elapsed();
        let at = self.before.saturating_add(elapsed);
        let wall = match &self.wall {
            Wall::System => None,
            Wall::Runtime(start) => start.checked_add(elapsed),
            Wall::Test(clock) => clock.after(elapsed),
            #[cfg(all(feature = "cli", feature = "journal"))]
            Wall::Held(now) => Some(now.wall),
        };
        Moment { at, wall: wall.unwrap_or_else(SystemTime::now) }
    }

    /// Returns the instant of a deadline; `None` when it never expires.
    pub(super) fn instant(&self, at: Duration) -> Option<Instant> {
        let ahead = at.saturating_sub(self.before);
        if ahead < NEVER { self.start.checked_add(ahead) } else { None }
    }

    /// Returns the deadline at which to look whether the wall clock has reached `time`.
    pub(super) fn look_at(&self, time: SystemTime, now: Moment) -> Duration {
        let wait = time.duration_since(now.wall).unwrap_or_default();
        let wait = if matches!(self.wall, Wall::System) { wait.min(LOOK_AGAIN) } else { wait };
        now.at.saturating_add(wait)
    }
}

/// Detects changes of the wall clock, once it has begun.
#[derive(Default)]
pub(super) struct ClockWatch {
    begun: bool,
    changes: Option<LocalBoxStream<'static, ()>>,
}

impl ClockWatch {
    pub(super) fn begin(&mut self, clock: &Clock) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.changes = match &clock.wall {
            Wall::System => system_changes(),
            Wall::Runtime(_) => None,
            Wall::Test(clock) => Some(clock.changes()),
            #[cfg(all(feature = "cli", feature = "journal"))]
            Wall::Held(_) => None,
        };
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(changes) = &mut self.changes else { return Poll::Pending };
        match changes.poll_next_unpin(cx) {
            Poll::Ready(Some(())) => Poll::Ready(()),
            Poll::Ready(None) => {
                self.changes = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Yields when the system clock is set or the machine resumes from suspend; `None` where the system does not notify.
#[cfg(target_os = "linux")]
fn system_changes() -> Option<LocalBoxStream<'static, ()>> {
    use rustix::io::Errno;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags).ok()?;
    // The timer never expires; it exists to be cancelled when the clock is set.
    let never = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
    let never = Itimerspec { it_interval: Timespec::default(), it_value: never };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(&timer, flags, &never).ok()?;
    #[allow(
        deprecated,
        reason = "its successor is unsafe; the descriptor is owned here and nothing replaces it"
    )]
    let timer = AsyncFd::with_interest(timer, Interest::READABLE).ok()?;
    let changes = stream::unfold(timer, |timer| async move {
        loop {
            let mut ready = timer.readable().await.ok()?;
            let read = rustix::io::read(&timer, &mut [0; 8]);
            ready.clear_ready();
            match read {
                Err(Errno::CANCELED) => break,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        Some(((), timer))
    });
    Some(changes.boxed_local())
}

#[cfg(not(target_os = "linux"))]
fn system_changes() -> Option<LocalBoxStream<'static, ()>> {
    None
}

/// A wall clock for an App under test: it starts at a date chosen by the test, advances with the clock of the App's
/// runtime, and can be set. Clones share one clock.
#[derive(Debug, Clone)]
pub struct WallClock {
    /// The time that the clock shows when the App starts; moved by setting the clock.
    start: watch::Sender<SystemTime>,
}

impl WallClock {
    /// Creates a clock that shows `time` when the App starts.
    pub fn starting_at(time: SystemTime) -> Self {
        Self { start: watch::Sender::new(time) }
    }

    /// Sets the clock forward, as a person or a time server does. Does nothing when the result would be out of range.
    pub fn set_forward(&self, step: Duration) {
        self.start.send_modify(|start| *start = start.checked_add(step).unwrap_or(*start));
    }

    /// Sets the clock back. Does nothing when the result would be out of range.
    pub fn set_back(&self, step: Duration) {
        self.start.send_modify(|start| *start = start.checked_sub(step).unwrap_or(*start));
    }

    /// Returns the time of the clock after the App has run for `at`; `None` when that is out of range.
    fn after(&self, at: Duration) -> Option<SystemTime> {
        self.start.borrow().checked_add(at)
    }

    fn changes(&self) -> LocalBoxStream<'static, ()> {
        let changes = stream::unfold(self.start.subscribe(), |mut start| async move {
            start.changed().await.ok()?;
            Some(((), start))
        });
        changes.boxed_local()
    }
}
