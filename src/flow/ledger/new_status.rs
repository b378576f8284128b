//! Statuses that the ledger records.

use super::{Moment, Waiting};
use crate::work::{Failure, Reason, RunKey, Stage, Status};

/// Status of the Work itself or, with [`of`](Self::of), of a run, before it has a time and a sequence number.
pub(super) struct NewStatus {
    key: Option<RunKey>,
    attempt: u32,
    stage: Stage,
    reason: Option<Reason>,
    message: Option<String>,
}

impl NewStatus {
    fn new(stage: Stage, reason: Option<Reason>, message: Option<String>) -> Self {
        Self { key: None, attempt: 0, stage, reason, message }
    }

    /// Creates the status `Pending`; the message tells why it waits, unless it only waits for its turn.
    pub(super) fn pending(message: Option<String>) -> Self {
        Self::new(Stage::Pending, None, message)
    }

    /// Creates the status `Pending` of a Work whose node is lost.
    pub(super) fn pending_after_node_loss(message: String) -> Self {
        Self::new(Stage::Pending, Some(Reason::NodeLost), Some(message))
    }

    pub(super) fn running() -> Self {
        Self::new(Stage::Running, None, None)
    }

    pub(super) fn succeeded() -> Self {
        Self::new(Stage::Succeeded, None, None)
    }

    pub(super) fn stopped() -> Self {
        Self::new(Stage::Stopped, Some(Reason::Stopped), None)
    }

    pub(super) fn failed(failure: Failure) -> Self {
        Self::new(Stage::Failed, Some(failure.reason), Some(failure.message))
    }

    /// Makes this the status of the current attempt at a run, and of its input unless that was forgotten.
    pub(super) fn of(self, run: &Waiting) -> Self {
        Self { key: run.status_key(), attempt: run.attempts, ..self }
    }

    /// Returns the status, and the input whose status it is.
    pub(super) fn recorded(self, seq: u64, now: Moment) -> (Option<RunKey>, Status) {
        let Self { key, attempt, stage, reason, message } = self;
        (key, Status { stage, reason, message, time: now.wall, attempt, seq })
    }
}
