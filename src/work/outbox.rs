//! What a Work tells its Flow.
//!
//! # Guarantees
//! - State conflates: what was published since the last look is one patch. An older value never follows a newer
//!   one, and the last one always arrives.
//! - Reports do not conflate, and stay in order.
//! - State published before a report is seen no later than the report: both are taken in one look.
//! - Each incarnation has an outbox of its own. What is written into the outbox of an incarnation that was given
//!   up is never read.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Serialize};

use super::status::Failure;
use crate::id::WorkId;
use crate::payload::PayloadGuards;
use crate::state::Patch;
use crate::trace::Cause;
use crate::wire;

/// Something that happened to an incarnation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    RunStarted {
        run: u64,
    },
    RunSucceeded {
        run: u64,
    },
    RunFailed {
        run: u64,
        failure: Failure,
    },
    /// The run left early because it was asked to.
    RunStopped {
        run: u64,
    },
    /// The incarnation is over because it was asked to stop; a failing `on_stop` is told here.
    Stopped {
        failure: Option<Failure>,
    },
    /// The incarnation is over because it broke: a panic, or a failing hook.
    Died {
        failure: Failure,
    },
}

pub(crate) struct Outbox {
    id: WorkId,
    content: Mutex<Content>,
    ready_queue: Arc<ReadyQueue>,
    express: Option<Arc<dyn FastPath>>,
}

/// Takes news away on the thread that brings them, which spares whoever waits at the ready_queue a wake-up.
pub(crate) trait FastPath: Send + Sync {
    /// Takes them if it can now and if it is worth it. Whether it has.
    fn take(&self, id: WorkId, update: &mut Update) -> bool;
}

#[derive(Default)]
struct Content {
    update: Update,
    rung: bool,
}

/// Everything since the last look.
#[derive(Default)]
pub(crate) struct Update {
    pub(crate) patch: Option<Patch>,
    /// What the state refers to, when that changed.
    pub(crate) holds: Option<PayloadGuards>,
    pub(crate) reports: Vec<Report>,
    /// What has led to the last of it.
    pub(crate) cause: Cause,
    /// Encoded length of the patches that came from another process: they make the state larger by that at most.
    pub(crate) foreign_bytes: usize,
    /// How many states were published, and how many of them no one will see since a newer one came first.
    pub(crate) published: u32,
    pub(crate) conflated: u32,
}

impl Outbox {
    pub(crate) fn new(id: WorkId, ready_queue: Arc<ReadyQueue>) -> Self {
        Self { id, content: Mutex::default(), ready_queue, express: None }
    }

    /// One whose news `express` may take before anybody is told of them.
    pub(crate) fn with_express(self, express: Arc<dyn FastPath>) -> Self {
        Self { express: Some(express), ..self }
    }

    /// The Work that it is of.
    pub(crate) fn id(&self) -> WorkId {
        self.id
    }

    pub(crate) fn publish(&self, patch: Patch, holds: Option<PayloadGuards>) {
        self.write(|update| {
            update.published += 1;
            update.conflated += u32::from(update.patch.is_some());
            match &mut update.patch {
                Some(earlier) => earlier.then(patch),
                none => *none = Some(patch),
            }
            if holds.is_some() {
                update.holds = holds;
            }
            update.cause = Cause::current();
        });
    }

    /// Both at once, as they came from another process.
    pub(crate) fn update(
        &self,
        patch: Option<Patch>,
        holds: Option<PayloadGuards>,
        reports: Vec<Report>,
        cause: Cause,
    ) {
        let length = patch.as_ref().map_or(0, wire::length);
        self.write(|update| {
            update.foreign_bytes = update.foreign_bytes.saturating_add(length);
            if patch.is_some() {
                update.published += 1;
                update.conflated += u32::from(update.patch.is_some());
            }
            match (&mut update.patch, patch) {
                (_, None) => {}
                (Some(earlier), Some(patch)) => earlier.then(patch),
                (none, patch) => *none = patch,
            }
            if holds.is_some() {
                update.holds = holds;
            }
            update.reports.extend(reports);
            update.cause = cause;
        });
    }

    pub(crate) fn report(&self, report: Report) {
        self.write(|update| {
            update.reports.push(report);
            // A state of the same run that comes with it says more.
            if update.cause.is_none() {
                update.cause = Cause::current();
            }
        });
    }

    fn write(&self, change: impl FnOnce(&mut Update)) {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut content.update);
        if content.rung || self.express.as_ref().is_some_and(|way| way.take(self.id, &mut content.update)) {
            return;
        }
        content.rung = true;
        drop(content);
        self.ready_queue.ring(self.id);
    }

    /// Whether there are reports of which `is_it` holds.
    pub(crate) fn has(&self, is_it: impl FnOnce(&[Report]) -> bool) -> bool {
        is_it(&self.content.lock().unwrap_or_else(PoisonError::into_inner).update.reports)
    }

    pub(crate) fn take(&self) -> Update {
        self.hand_over(|update| update)
    }

    /// Gives the news to `to`, and none that come later to anybody before that is done with them.
    pub(crate) fn hand_over<R>(&self, to: impl FnOnce(Update) -> R) -> R {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.rung = false;
        to(std::mem::take(&mut content.update))
    }
}

/// Tells the driver which outboxes to look into.
#[derive(Default)]
pub(crate) struct ReadyQueue {
    state: Mutex<ReadyState>,
}

#[derive(Default)]
struct ReadyState {
    rung: Vec<WorkId>,
    again: bool,
    waker: Option<Waker>,
}

impl ReadyQueue {
    fn ring(&self, id: WorkId) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rung.push(id);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Makes the next look find something, if only that there is more to do.
    pub(crate) fn ring_again(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.again = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Vec<WorkId>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.rung.is_empty() && !std::mem::take(&mut state.again) {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut state.rung))
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
