//! Dead letters, as the hook of an App sees them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::ActorPath;

/// A message that no handler saw and whose sender was not told so, as [`App::on_dead_letter`](crate::App::on_dead_letter)
/// gets it.
///
/// A message that is returned to its sender by an error is none. `docs/guarantees.md` in the repository has the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Path of the Work or service to which the message was sent.
    pub to: ActorPath,
    /// Name of the Rust type of the message.
    pub message: String,
    /// The sender of the message.
    pub sender: DeadLetterSender,
    /// The reason why no handler saw it.
    pub reason: DeadLetterReason,
    /// Cause as text, such as the error of decoding the message.
    pub why: String,
    /// Name of the node that lost the message, or `head` for the machine of the App.
    #[serde(default)]
    pub node: String,
    /// Number of messages with this destination, type, sender and reason. It exceeds 1 if more of them were lost before the
    /// hook was called.
    pub count: u64,
}

/// The sender of a [`DeadLetter`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadLetterSender {
    /// The Work at this path.
    Work(ActorPath),
    /// Code outside of any Work: a Flow, a client of the HTTP API, or a program with a [`Control`](crate::Control).
    Outside,
    /// A Work whose path is not known any more: more than 16,384 other Works have sent their first message since.
    Unknown,
}

impl fmt::Display for DeadLetterSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(path) => write!(f, "work `{path}`"),
            Self::Outside => f.write_str("outside"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The reason why no handler saw the message of a [`DeadLetter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// The Work or service was stopped while the message waited or was on its way.
    Stopped,
    /// The Work has failed for good while the message waited or was on its way.
    Failed,
    /// There is no such Work any more: it has left the tree, or another one has replaced it.
    Unknown,
    /// The node or process that had the message, or to which it was to be given back, is lost. It cannot be known whether a
    /// handler saw the message just before.
    NodeLost,
    /// The message could not be encoded for the process of the Work or decoded there, or the Work does not accept its type
    /// from other processes.
    Unsendable,
    /// The message waited in a process in which no address of the Work was left.
    NoAddress,
    /// The incarnation ended while it gathered the message for a batch, or while the message waited in the backlog of its
    /// subscription to a topic.
    Interrupted,
    /// The message was a question whose caller had given up before a handler began.
    Abandoned,
}

impl DeadLetterReason {
    /// All reasons, in the order of their declaration.
    pub(crate) const ALL: [Self; 8] = [
        Self::Stopped,
        Self::Failed,
        Self::Unknown,
        Self::NodeLost,
        Self::Unsendable,
        Self::NoAddress,
        Self::Interrupted,
        Self::Abandoned,
    ];

    /// Returns the name of the reason, as in `/metrics`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::NodeLost => "node_lost",
            Self::Unsendable => "unsendable",
            Self::NoAddress => "no_address",
            Self::Interrupted => "interrupted",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a reason is the same in metrics and in serialised letters, and each reason has a place of its own.
    #[test]
    fn reasons_have_one_name_everywhere() {
        for (place, reason) in DeadLetterReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
