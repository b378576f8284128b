//! The end of an incarnation, as others are told of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Name of a watch among the types of messages, which no Rust type has.
pub(crate) const WATCH: &str = "(watch)";

/// The end of an incarnation of a Work, as [`WorkAddr::watch`](crate::WorkAddr::watch) tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct End {
    /// The way in which the incarnation ended.
    pub kind: EndKind,
    /// The failure as text, if there is one.
    pub message: Option<String>,
}

/// The way in which an incarnation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndKind {
    /// It was asked to stop, and has stopped.
    Stopped,
    /// A hook of it failed, or a state could not be published.
    Failed,
    /// It panicked.
    Panicked,
    /// It was ended by force: it exceeded a timeout, or did not stop within the grace period.
    Killed,
    /// Its node or process is lost, or cannot be reached any more.
    NodeLost,
    /// No incarnation was there to be watched.
    NotRunning,
}

impl End {
    pub(super) fn of(kind: EndKind) -> Self {
        Self { kind, message: None }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            EndKind::Stopped => "it has stopped",
            EndKind::Failed => "it has failed",
            EndKind::Panicked => "it has panicked",
            EndKind::Killed => "it was ended by force",
            EndKind::NodeLost => "its node is lost",
            EndKind::NotRunning => "it was not running",
        })?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}
