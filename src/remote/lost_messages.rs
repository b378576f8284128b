//! Messages that are lost in the runtime, without an error at their senders.

use crate::id::ActorPath;
use crate::work::{AnyEnvelope, CloseReason, DeadLetterReason, Lost, NoReply, Outcome, report_dead_letters};

/// Reports a message for the Work at `path` that no handler will see and whose sender gets no error.
pub(in crate::remote) fn lose(path: &ActorPath, reason: DeadLetterReason, why: &str, lost: Lost<'_>) {
    report_dead_letters(path, reason, why, [lost]);
}

/// Refuses a returned message because this process has no address of its Work any more.
pub(in crate::remote) fn refuse_without_address(path: &ActorPath, envelope: Box<dyn AnyEnvelope>) {
    let lost = envelope.lost();
    if envelope.settle(Outcome::Unanswered(NoReply::Refused(CloseReason::NotStarted))) {
        let why = "no address of the Work is left in this process";
        lose(path, DeadLetterReason::NoAddress, why, lost);
    }
}
