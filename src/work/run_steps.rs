//! The steps of the run in progress, and the futures that wait for them.
//!
//! # Guarantees
//! - One action of a step is in progress at a time; another call of the same step waits for its end.
//! - Every future that waits in a Work is woken by a command to the Work, whichever of them takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Wake, Waker};

use parking_lot::Mutex;

use super::steps::{KnownStep, StepId, StepOutcome, Steps, StepsFull};
use crate::work::steps::MAX_STEPS;

/// The steps of the run in progress, and the barriers of the incarnation.
#[derive(Default)]
pub(super) struct RunSteps {
    waiters: Arc<Waiters>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    known: Steps,
    /// The output of this attempt.
    output: Option<KnownStep>,
    /// Barriers behind the steps of this attempt, which are durable when their barrier is.
    barriers: BTreeMap<StepId, u64>,
    /// Steps whose action is in progress.
    claimed: BTreeSet<StepId>,
    /// Steps whose action is being polled, outermost first.
    polled: Vec<StepId>,
    /// Number of the last barrier.
    last: u64,
    /// Number of the last barrier before which everything is durable.
    durable: u64,
}

/// Result of looking for a step.
pub(super) enum Found<'a> {
    Known {
        outcome: StepOutcome,
        /// Barrier behind which the outcome is durable.
        barrier: u64,
        claim: Claim<'a>,
    },
    New(Claim<'a>),
    /// The action of the step is in progress.
    Claimed,
    /// The action of the step is what calls.
    Nested,
    /// The run has too many steps.
    Full(StepsFull),
}

impl RunSteps {
    /// Replaces the steps by those that are known of a run.
    pub(super) fn begin(&self, known: Steps) {
        let mut table = self.table.lock();
        table.known = known;
        let before = table.output.take();
        table.barriers.clear();
        table.claimed.clear();
        drop(table);
        // Its guards, without the lock.
        drop(before);
    }

    /// Replaces the output of this attempt.
    pub(super) fn set_output(&self, output: KnownStep) {
        let before = self.table.lock().output.replace(output);
        drop(before);
    }

    pub(super) fn take_output(&self) -> Option<KnownStep> {
        self.table.lock().output.take()
    }

    /// Looks for a step, and claims it unless its action is in progress.
    pub(super) fn find(&self, id: StepId) -> Found<'_> {
        let mut table = self.table.lock();
        if table.polled.contains(&id) {
            return Found::Nested;
        }
        if table.claimed.contains(&id) {
            return Found::Claimed;
        }
        let found = table.known.get(id).map(|step| step.outcome.clone());
        if found.is_none() && table.known.len() + table.claimed.len() >= MAX_STEPS {
            return Found::Full(StepsFull::Number);
        }
        table.claimed.insert(id);
        let barrier = table.barriers.get(&id).copied().unwrap_or_default();
        drop(table);
        let claim = Claim { steps: self, id };
        match found {
            Some(outcome) => Found::Known { outcome, barrier, claim },
            None => Found::New(claim),
        }
    }

    /// Remembers a step of this attempt, and returns the number of the barrier behind it.
    ///
    /// # Errors
    /// [`StepsFull`] if the run remembers too much already.
    pub(super) fn remember(&self, step: KnownStep) -> Result<u64, StepsFull> {
        let mut table = self.table.lock();
        let id = step.id;
        table.known.insert(step)?;
        table.last += 1;
        let barrier = table.last;
        table.barriers.insert(id, barrier);
        Ok(barrier)
    }

    /// Returns the number of a new barrier.
    pub(super) fn next_barrier(&self) -> u64 {
        let mut table = self.table.lock();
        table.last += 1;
        table.last
    }

    /// Records that everything before a barrier is durable.
    pub(super) fn durable(&self, barrier: u64) {
        let mut table = self.table.lock();
        table.durable = table.durable.max(barrier);
        drop(table);
        self.waiters.wake_all();
    }

    pub(super) fn is_durable(&self, barrier: u64) -> bool {
        self.table.lock().durable >= barrier
    }

    /// Calls code of the action of a step.
    pub(super) fn polling<R>(&self, id: StepId, poll: impl FnOnce() -> R) -> R {
        struct Polled<'a>(&'a RunSteps);

        impl Drop for Polled<'_> {
            fn drop(&mut self) {
                self.0.table.lock().polled.pop();
            }
        }

        self.table.lock().polled.push(id);
        let _polled = Polled(self);
        poll()
    }

    /// Adds a future that waits.
    pub(super) fn wait(&self) -> Waiter<'_> {
        let mut slots = self.waiters.0.lock();
        let number = slots.next;
        slots.next += 1;
        slots.wakers.insert(number, None);
        Waiter { steps: self, number }
    }

    /// Wakes all futures that wait.
    pub(super) fn wake_all(&self) {
        self.waiters.wake_all();
    }
}

/// The right to carry out the action of a step; given back on drop.
pub(super) struct Claim<'a> {
    steps: &'a RunSteps,
    id: StepId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.steps.table.lock().claimed.remove(&self.id);
        self.steps.waiters.wake_all();
    }
}

/// A future of the Work that waits.
pub(super) struct Waiter<'a> {
    steps: &'a RunSteps,
    number: u64,
}

impl Waiter<'_> {
    /// Registers the waker of the future, and returns one that wakes all futures that wait: commands are taken by any of
    /// them, and the mailbox keeps one waker only.
    pub(super) fn register(&self, waker: &Waker) -> Waker {
        let mut slots = self.steps.waiters.0.lock();
        if let Some(slot) = slots.wakers.get_mut(&self.number) {
            match slot {
                Some(before) => before.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        Waker::from(self.steps.waiters.clone())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.steps.waiters.0.lock().wakers.remove(&self.number);
    }
}

/// The wakers of the futures of a Work that wait.
#[derive(Default)]
struct Waiters(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    wakers: BTreeMap<u64, Option<Waker>>,
    next: u64,
}

impl Waiters {
    fn wake_all(&self) {
        let woken: Vec<_> = self.0.lock().wakers.values().flatten().cloned().collect();
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}
