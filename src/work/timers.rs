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

use super::address::WorkAddr;
use super::message::{AskError, Handle, Message};
use super::{Work, WorkContext};
use crate::fence::{self, Fenced};

/// Shortest period of a repeated message.
const SHORTEST: Duration = Duration::from_millis(1);

/// Number of timers that are kept without a look at those that have ended.
const FEW: usize = 8;

/// The future of a timer, which is dropped at once when the timer is cancelled.
type Slot = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

/// A message that a Work sends to itself later, made by [`WorkContext::notify_after`] and [`WorkContext::notify_every`].
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

/// Sends a message and waits until it is handled. Returns false if it was not: the incarnation ends.
async fn notify<W: Handle<M>, M: Message>(work: &WorkAddr<W>, message: M) -> bool {
    match work.exchange(message).await {
        Ok(reply) => {
            // The `Drop` of a reply is code of the user.
            drop(Fenced::new(reply));
            true
        }
        Err(error) => {
            let error = Fenced::new(error);
            !matches!(*error, AskError::NotHandled(_) | AskError::Failed { .. })
        }
    }
}

impl<W: Work> WorkContext<W> {
    /// Sends `message` to this Work itself after `delay`. It takes its turn in the mailbox as the messages of others do.
    ///
    /// The timer ends with this incarnation: set it in `on_start`, `run` or a handler. No journal records it. The message
    /// needs no entry in [`Work::messages`].
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Request(u32);
    /// #[derive(Serialize, Deserialize)]
    /// struct Expire;
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Cache {
    ///     answer: Option<u32>,
    /// }
    ///
    /// impl Work for Cache {
    ///     type Input = ();
    /// }
    ///
    /// impl Handle<Request> for Cache {
    ///     type Reply = ();
    ///
    ///     async fn handle(&mut self, request: Request, cx: &mut WorkContext<Self>) {
    ///         self.answer = Some(request.0);
    ///         cx.notify_after(Duration::from_secs(60), Expire);
    ///     }
    /// }
    ///
    /// impl Handle<Expire> for Cache {
    ///     type Reply = ();
    ///
    ///     async fn handle(&mut self, _: Expire, _cx: &mut WorkContext<Self>) {
    ///         self.answer = None;
    ///     }
    /// }
    /// ```
    pub fn notify_after<M: Message>(&mut self, delay: Duration, message: M) -> Timer
    where
        W: Handle<M>,
    {
        let (work, message) = (self.addr(), Fenced::new(message));
        self.timers().start(async move {
            sleep(delay).await;
            notify(&work, message.into_inner()).await;
        })
    }

    /// Sends a clone of `message` to this Work itself every `period`, at least 1 ms, for the first time after one period.
    ///
    /// At most one of these messages waits or is being handled. Ticks that fall into that time are skipped; the others stay
    /// multiples of the period. The timer ends as that of [`notify_after`](Self::notify_after) does.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Tick;
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Clock {
    ///     ticks: u64,
    /// }
    ///
    /// impl Work for Clock {
    ///     type Input = ();
    ///
    ///     async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
    ///         cx.notify_every(Duration::from_millis(5), Tick);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl Handle<Tick> for Clock {
    ///     type Reply = ();
    ///
    ///     async fn handle(&mut self, _: Tick, cx: &mut WorkContext<Self>) {
    ///         self.ticks += 1;
    ///         cx.publish(self);
    ///     }
    /// }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { clock: WorkRef<Clock> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
    /// #         if self.clock.ticks >= 3 {
    /// #             cx.stop("done");
    /// #         }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
    /// ```
    pub fn notify_every<M: Message + Clone>(&mut self, period: Duration, message: M) -> Timer
    where
        W: Handle<M>,
    {
        let (work, message, period) = (self.addr(), Fenced::new(message), period.max(SHORTEST));
        let begin = Instant::now().checked_add(period);
        self.timers().start(async move {
            // A period beyond the end of time never passes.
            let Some(begin) = begin else { return };
            let mut next_tick = begin;
            loop {
                sleep_until(next_tick).await;
                let next = match fence::call(|| M::clone(&message)) {
                    Ok(next) => next,
                    Err(panic) => {
                        log::error!(
                            "work `{}`: the timer ends: the `Clone` of its message panicked: {panic}",
                            work.path()
                        );
                        return;
                    }
                };
                if !notify(&work, next).await {
                    return;
                }
                let now = Instant::now();
                let since_tick = now.duration_since(next_tick).as_nanos() % period.as_nanos();
                let until_tick = period
                    .saturating_sub(Duration::from_nanos(u64::try_from(since_tick).unwrap_or(u64::MAX)));
                let Some(after) = now.checked_add(until_tick) else { return };
                next_tick = after;
            }
        })
    }
}
