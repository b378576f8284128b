//! Messages that a Work sends to itself later.
//!
//! # Guarantees
//! - A timer ends with the incarnation that set it, and its message is withdrawn from the mailbox unless a handler has begun
//!   it. The next incarnation sets its own.
//! - Of one timer at most one message is in the mailbox or in a handler, so that a slow Work does not gather ticks.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// Shortest period of a repeated message.
const SHORTEST: Duration = Duration::from_millis(1);

/// Number of timers that are kept without a look at those that have ended.
const FEW: usize = 8;

/// The future of a timer, which is dropped at once when the timer is cancelled.
type Slot = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

/// A message that a Work sends to itself later, made by [`WorkContext::notify_after`](crate::WorkContext::notify_after) and
/// [`notify_every`](crate::WorkContext::notify_every).
///
/// Dropping it changes nothing.
pub struct Timer {
    slot: Slot,
    task: AbortHandle,
}

impl Timer {
    /// Cancels the timer. A message of it that waits in the mailbox is withdrawn; a handler that has begun continues.
    pub fn cancel(&self) {
        empty(&self.slot);
        self.task.abort();
    }

    /// Returns true if the timer was cancelled, or its only message has been handled.
    pub fn is_over(&self) -> bool {
        self.slot.try_lock().is_some_and(|slot| slot.is_none())
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("is_over", &self.is_over()).finish()
    }
}

/// Drops the future of a timer, and withdraws its message.
fn empty(slot: &Slot) {
    // It is locked while the future clones the message, which is code of the user.
    let future = slot.try_lock().and_then(|mut slot| slot.take());
    drop(future);
}

/// The timers of one incarnation, which end when the value is dropped.
#[derive(Default)]
pub(super) struct Timers {
    tasks: JoinSet<()>,
    slots: Vec<Weak<Mutex<Option<BoxFuture<'static, ()>>>>>,
}

impl Timers {
    /// Carries `send` out after a delay.
    pub(super) fn after(
        &mut self,
        delay: Duration,
        send: impl Future<Output = ()> + Send + 'static,
    ) -> Timer {
        self.start(async move {
            sleep(delay).await;
            send.await;
        })
    }

    /// Calls `send` every period until it returns false. Ticks that fall into a call are skipped.
    pub(super) fn every<F>(&mut self, period: Duration, mut send: impl FnMut() -> F + Send + 'static) -> Timer
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let period = period.max(SHORTEST);
        let begin = Instant::now().checked_add(period);
        self.start(async move {
            // A period beyond the end of time never passes.
            let Some(mut next_tick) = begin else { return };
            loop {
                sleep_until(next_tick).await;
                if !send().await {
                    return;
                }
                let now = Instant::now();
                let since_tick = now.duration_since(next_tick).as_nanos() % period.as_nanos();
                let since_tick = Duration::from_nanos(u64::try_from(since_tick).unwrap_or(u64::MAX));
                let Some(after) = now.checked_add(period.saturating_sub(since_tick)) else { return };
                next_tick = after;
            }
        })
    }

    fn start(&mut self, timer: impl Future<Output = ()> + Send + 'static) -> Timer {
        // Those that have ended are not kept.
        while self.tasks.try_join_next().is_some() {}
        if self.slots.len() >= 2 * self.tasks.len().max(FEW) {
            self.slots.retain(|slot| slot.strong_count() > 0);
        }
        let slot: Slot = Arc::new(Mutex::new(Some(timer.boxed())));
        self.slots.push(Arc::downgrade(&slot));
        let polled = slot.clone();
        let task = self.tasks.spawn_local(poll_fn(move |cx| {
            let mut slot = polled.lock();
            let is_over = slot.as_mut().is_none_or(|future| future.as_mut().poll(cx).is_ready());
            if !is_over {
                return Poll::Pending;
            }
            *slot = None;
            Poll::Ready(())
        }));
        Timer { slot, task }
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        // Tasks that are aborted drop their futures later, when the next incarnation may have taken a message.
        self.slots.drain(..).filter_map(|slot| slot.upgrade()).for_each(|slot| empty(&slot));
    }
}
