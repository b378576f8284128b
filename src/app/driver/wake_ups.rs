//! The reasons for which the driver wakes: updates of Works, deadlines, and a wall clock that was set.
//!
//! # Guarantees
//! - The driver sleeps until one of them occurs: nothing is polled at intervals.
//! - One timer serves all deadlines; it is set once per cycle, by [`WakeUps::arm`].

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use futures::{Stream, stream};
use tokio::time::Sleep;

use super::super::clock::{Clock, ClockWatch};
use super::timers::{Timer, Timers};
use crate::flow::Moment;
use crate::id::WorkId;
use crate::work::ReadyQueue;

/// An event that wakes the driver.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// These Works have updates.
    Updates(Vec<WorkId>),
    /// A deadline may have expired.
    Deadline,
    /// The wall clock was set.
    ClockSet,
}

/// The clock of the driver, its deadlines, and the events that wake it.
pub(super) struct WakeUps {
    clock: Clock,
    timers: Timers,
    ready_queue: Arc<ReadyQueue>,
    alarm: Rc<RefCell<Alarm>>,
}

/// The part that the stream of events shares.
#[derive(Default)]
struct Alarm {
    /// The single timer. `None` once its expiry has been handled, which `Sleep::is_elapsed` does not tell.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Detects changes of the wall clock; started by the first schedule.
    clock_watch: ClockWatch,
}

impl WakeUps {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, timers: Timers::default(), ready_queue: Arc::default(), alarm: Rc::default() }
    }

    /// Continues the clock of an App that was last seen at `last`.
    #[cfg(feature = "journal")]
    pub(super) fn continue_from(&mut self, last: Moment) {
        self.clock.continue_from(last);
    }

    /// Has the clock stand still at this moment.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(super) fn hold_at(&mut self, now: Moment) {
        self.clock = Clock::held_at(now);
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Returns the queue of Works with updates, which wakes the driver.
    pub(super) fn ready_queue(&self) -> &Arc<ReadyQueue> {
        &self.ready_queue
    }

    /// Sets the deadline of `timer`, or removes it.
    pub(super) fn set(&mut self, timer: Timer, deadline: Option<Duration>) {
        self.timers.set(timer, deadline);
    }

    /// Removes and returns a timer whose deadline has passed.
    pub(super) fn due(&mut self, now: Moment) -> Option<Timer> {
        self.timers.due(now.at)
    }

    /// Returns the deadline at which to look whether the wall clock has reached `time`. From now on the driver is woken
    /// when the wall clock is set.
    pub(super) fn deadline_of(&self, time: SystemTime, now: Moment) -> Duration {
        self.alarm.borrow_mut().clock_watch.begin(&self.clock);
        self.clock.look_at(time, now)
    }

    /// Sets the single timer to the earliest deadline.
    pub(super) fn arm(&mut self) {
        let sleep = &mut self.alarm.borrow_mut().sleep;
        match (self.timers.next().and_then(|at| self.clock.instant(at)), &mut *sleep) {
            (None, sleep) => *sleep = None,
            (Some(deadline), Some(sleep)) if sleep.deadline() == deadline => {}
            (Some(deadline), Some(sleep)) => sleep.as_mut().reset(deadline),
            (Some(deadline), none) => *none = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }

    /// Returns the events that wake the driver.
    pub(super) fn events(&self) -> impl Stream<Item = Wake> + 'static {
        let (ready_queue, alarm) = (self.ready_queue.clone(), self.alarm.clone());
        stream::poll_fn(move |cx| {
            if let Poll::Ready(rung) = ready_queue.poll(cx) {
                return Poll::Ready(Some(Wake::Updates(rung)));
            }
            let Alarm { sleep, clock_watch } = &mut *alarm.borrow_mut();
            if sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
                *sleep = None;
                return Poll::Ready(Some(Wake::Deadline));
            }
            clock_watch.poll(cx).map(|()| Some(Wake::ClockSet))
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::super::super::clock::WallClock;
    use super::*;
    use crate::id::FlowId;

    const S: Duration = Duration::from_secs(1);

    /// The driver is woken at the earliest deadline, once, and each timer is due once.
    #[tokio::test(start_paused = true)]
    async fn earliest_deadline_wakes_once() {
        let mut wake_ups = WakeUps::new(Clock::new(true, None));
        let mut events = wake_ups.events();
        for (id, seconds) in [(1, 5), (2, 3), (3, 4)] {
            wake_ups.set(Timer::Flow(FlowId(id)), Some(seconds * S));
        }
        wake_ups.set(Timer::Flow(FlowId(3)), None);
        wake_ups.arm();
        let began = wake_ups.now().at;
        assert_eq!(events.next().await, Some(Wake::Deadline));
        let now = wake_ups.now();
        assert_eq!((now.at - began).as_secs(), 3);
        assert_eq!(wake_ups.due(now), Some(Timer::Flow(FlowId(2))));
        assert_eq!(wake_ups.due(now), None);
        assert!(events.next().now_or_never().is_none(), "the next deadline is armed by the next cycle");
        wake_ups.arm();
        assert_eq!(events.next().await, Some(Wake::Deadline));
        assert_eq!((wake_ups.now().at - began).as_secs(), 5);
    }

    /// Updates come before a deadline that has expired as well.
    #[tokio::test(start_paused = true)]
    async fn updates_come_before_an_expired_deadline() {
        let mut wake_ups = WakeUps::new(Clock::new(true, None));
        let mut events = wake_ups.events();
        wake_ups.set(Timer::ShutDown, Some(Duration::ZERO));
        wake_ups.arm();
        wake_ups.ready_queue().ring_again();
        assert_eq!(events.next().await, Some(Wake::Updates(Vec::new())));
        assert_eq!(events.next().await, Some(Wake::Deadline));
    }

    /// A wall clock that is set wakes the driver once it has a wall-clock deadline, and not before.
    #[tokio::test(start_paused = true)]
    async fn wall_clock_wakes_only_those_with_a_schedule() {
        let wall = WallClock::starting_at(SystemTime::UNIX_EPOCH);
        let wake_ups = WakeUps::new(Clock::new(true, Some(wall.clone())));
        let mut events = wake_ups.events();
        wall.set_forward(S);
        assert!(events.next().now_or_never().is_none());
        let now = wake_ups.now();
        assert_eq!(wake_ups.deadline_of(now.wall + 2 * S, now), now.at + 2 * S);
        wall.set_forward(S);
        assert_eq!(events.next().await, Some(Wake::ClockSet));
    }
}
