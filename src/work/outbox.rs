//! The queue of states and reports from one incarnation to its Flow.
//!
//! # Guarantees
//! - States conflate: the states published since the last read are one patch. An older value never follows a newer one,
//!   and the last value always arrives.
//! - Reports do not conflate, and keep their order.
//! - A state published before a report is visible no later than the report: one read takes both.
//! - Each incarnation has an outbox of its own. The outbox of an incarnation that was given up is not read any more.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::status::Failure;
use super::steps::KnownStep;
use crate::id::{FlowId, WorkId};
use crate::payload::PayloadGuards;
use crate::state::Patch;
use crate::trace::Cause;
use crate::wire;

/// Event in the life of an incarnation.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// The run ended early because it was asked to.
    RunStopped {
        run: u64,
    },
    /// The incarnation ended because it was asked to stop; `failure` is that of `on_stop`.
    Stopped {
        failure: Option<Failure>,
    },
    /// The incarnation ended because of a panic or a failed hook.
    Died {
        failure: Failure,
    },
    /// A step of a run was intended or done. Between processes it is a message of its own, which carries the payloads of
    /// its value.
    #[serde(skip)]
    Stepped {
        run: u64,
        step: KnownStep,
    },
    /// Requests [`Command::Durable`](super::Command::Durable) once everything before it is durable.
    Barrier {
        number: u64,
    },
}

pub(crate) struct Outbox {
    id: WorkId,
    content: Mutex<Content>,
    ready_queue: Arc<ReadyQueue>,
    express: Option<Arc<dyn FastPath>>,
}

/// Consumer that takes updates on the thread that writes them, which spares the driver a wake-up.
pub(crate) trait FastPath: Send + Sync {
    /// Takes the update if that is possible and worthwhile now. Returns true if it was taken.
    fn take(&self, id: WorkId, update: &mut Update) -> bool;
}

#[derive(Default)]
struct Content {
    /// Boxed while there is something to read, to keep idle Works small.
    update: Option<Box<Update>>,
    rung: bool,
}

/// All changes since the last read.
#[derive(Default)]
pub(crate) struct Update {
    pub(crate) patch: Option<Patch>,
    /// Guards of the payloads in the state, if they changed.
    pub(crate) holds: Option<PayloadGuards>,
    pub(crate) reports: Vec<Report>,
    /// Trace context of the last change.
    pub(crate) cause: Cause,
    /// Encoded length, in bytes, of the patches from another process: an upper bound for the growth of the state.
    pub(crate) foreign_bytes: usize,
    /// Number of published states; `conflated` of them were replaced by a newer one before they were read.
    pub(crate) published: u32,
    pub(crate) conflated: u32,
    /// Acknowledges the reports to the node that has sent them, to be called once they are durable.
    pub(crate) acknowledge: Option<Acknowledge>,
}

/// Acknowledgement of all reports of an incarnation up to one.
pub(crate) type Acknowledge = Box<dyn FnOnce() + Send>;

impl Update {
    fn publish(&mut self, patch: Patch, holds: Option<PayloadGuards>) {
        self.published += 1;
        self.conflated += u32::from(self.patch.is_some());
        match &mut self.patch {
            Some(earlier) => earlier.then(patch),
            none => *none = Some(patch),
        }
        if holds.is_some() {
            self.holds = holds;
        }
        self.cause = Cause::current();
    }
}

impl Outbox {
    pub(crate) fn new(id: WorkId, ready_queue: Arc<ReadyQueue>) -> Self {
        Self { id, content: Mutex::default(), ready_queue, express: None }
    }

    /// Returns the outbox with a fast path that may take updates before the driver is notified.
    pub(crate) fn with_express(self, express: Arc<dyn FastPath>) -> Self {
        Self { express: Some(express), ..self }
    }

    /// Returns the number of the Work.
    pub(crate) fn id(&self) -> WorkId {
        self.id
    }

    pub(crate) fn publish(&self, patch: Patch, holds: Option<PayloadGuards>) {
        self.write(|update| update.publish(patch, holds));
    }

    /// As [`publish`](Self::publish), with a report: one read takes both.
    pub(crate) fn publish_with(&self, patch: Patch, holds: Option<PayloadGuards>, report: Report) {
        self.write(|update| {
            update.publish(patch, holds);
            update.reports.push(report);
        });
    }

    /// Adds a patch and reports that arrived together from another process, and what acknowledges the reports.
    pub(crate) fn update(
        &self,
        patch: Option<Patch>,
        holds: Option<PayloadGuards>,
        reports: Vec<Report>,
        acknowledge: Option<Acknowledge>,
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
            if acknowledge.is_some() {
                update.acknowledge = acknowledge;
            }
            if !cause.is_none() || update.cause.is_none() {
                update.cause = cause;
            }
        });
    }

    pub(crate) fn report(&self, report: Report) {
        self.report_all([report]);
    }

    /// Adds reports that are read together.
    pub(crate) fn report_all(&self, reports: impl IntoIterator<Item = Report>) {
        self.write(|update| {
            update.reports.extend(reports);
            // The cause of a state of the same run is more specific.
            if update.cause.is_none() {
                update.cause = Cause::current();
            }
        });
    }

    fn write(&self, change: impl FnOnce(&mut Update)) {
        let mut content = self.content.lock();
        let Content { update, rung } = &mut *content;
        let pending = update.get_or_insert_default();
        change(pending);
        if *rung {
            return;
        }
        if self.express.as_ref().is_some_and(|way| way.take(self.id, pending)) {
            *update = None;
            return;
        }
        content.rung = true;
        drop(content);
        self.ready_queue.ring(self.id);
    }

    /// Returns the result of `is_it` for the reports that wait.
    pub(crate) fn has(&self, is_it: impl FnOnce(&[Report]) -> bool) -> bool {
        is_it(self.content.lock().update.as_ref().map_or(&[], |update| &update.reports))
    }

    pub(crate) fn take(&self) -> Update {
        self.hand_over(|update| update)
    }

    /// Passes the update to `to` under the lock, so that no later update is taken before `to` returns.
    pub(crate) fn hand_over<R>(&self, to: impl FnOnce(Update) -> R) -> R {
        let mut content = self.content.lock();
        content.rung = false;
        to(content.update.take().map(|update| *update).unwrap_or_default())
    }
}

/// Queue of the outboxes that have something for the driver.
#[derive(Default)]
pub(crate) struct ReadyQueue {
    state: Mutex<ReadyState>,
}

#[derive(Default)]
struct ReadyState {
    rung: Vec<WorkId>,
    /// Flows that are to react.
    flows: Vec<FlowId>,
    again: bool,
    waker: Option<Waker>,
}

impl ReadyQueue {
    fn ring(&self, id: WorkId) {
        let mut state = self.state.lock();
        state.rung.push(id);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Has a Flow react.
    pub(crate) fn ring_flow(&self, id: FlowId) {
        let mut state = self.state.lock();
        if !state.flows.contains(&id) {
            state.flows.push(id);
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the Flows that are to react.
    pub(crate) fn take_flows(&self) -> Vec<FlowId> {
        std::mem::take(&mut self.state.lock().flows)
    }

    /// Makes the next poll ready even if no outbox has anything, because the driver has more to do.
    pub(crate) fn ring_again(&self) {
        let mut state = self.state.lock();
        state.again = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Vec<WorkId>> {
        let mut state = self.state.lock();
        let again = std::mem::take(&mut state.again);
        if state.rung.is_empty() && state.flows.is_empty() && !again {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut state.rung))
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
