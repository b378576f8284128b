//! Logging and counting of messages that are lost without an error at the sender.

use crate::id::ActorPath;
use crate::work::{AnyEnvelope, CloseReason, NoReply, Outcome, count_lost_messages};

/// Counts messages for the Work at `path` that were not handled and whose senders get no error.
pub(in crate::remote) fn count_lost(path: &ActorPath, count: usize, why: &str) {
    if count == 0 {
        return;
    }
    count_lost_messages(count);
    let (messages, are) = if count == 1 { ("message", "is") } else { ("messages", "are") };
    log::warn!("{count} {messages} for work `{path}` {are} lost: {why}");
}

/// Refuses a returned message because this process has no address of its Work any more.
pub(in crate::remote) fn refuse_without_address(path: &ActorPath, envelope: Box<dyn AnyEnvelope>) {
    if envelope.settle(Outcome::Unanswered(NoReply::Refused(CloseReason::NotStarted))) {
        count_lost(path, 1, "no address of the Work is left in this process");
    }
}
