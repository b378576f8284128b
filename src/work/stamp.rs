//! What travels with a message besides its body.

use super::dead_letters::SenderId;
use crate::trace::Cause;

/// The sender of a message, its trace context, and whether the message goes before others.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    /// The trace context of the sender.
    pub(crate) cause: Cause,
    /// The number of the sender in this process.
    pub(crate) sender: SenderId,
    /// True for a message that goes before others in the mailbox.
    pub(crate) is_first: bool,
}
