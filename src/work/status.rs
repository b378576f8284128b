//! What became of a run, and of a Work.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Never asked for, or forgotten.
    #[default]
    NotStarted,
    /// Asked for; waits for its turn, for its Work to start, or for a restart.
    Pending,
    /// Under way.
    Running,
    /// Ended well. The last state it published is visible no later than this.
    Succeeded,
    /// Ended with an error, a panic or a timeout.
    Failed,
    /// Ended because it was asked to.
    Stopped,
}

impl Stage {
    /// Whether the run is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Stopped)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "not started",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        })
    }
}

/// Why a run failed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The user's code returned an error.
    UserError,
    /// The user's code panicked.
    Panic,
    /// It took longer than its `timeout`.
    Timeout,
    /// A payload that it needed is gone.
    PayloadLost,
    /// The node where it ran is lost.
    NodeLost,
    /// The process of its own in which it ran has died.
    ProcessDied,
    /// It was asked to stop.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserError => "error",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::PayloadLost => "payload lost",
            Self::NodeLost => "node lost",
            Self::ProcessDied => "process died",
            Self::Stopped => "stopped",
        })
    }
}

/// One step in the life of a run.
///
/// The order of statuses is that of [`seq`](Status::seq), which only grows within a Work; never that of the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where the run stands.
    pub stage: Stage,
    /// Why, when it failed or stopped.
    pub reason: Option<Reason>,
    /// The whole error chain, when there is one.
    pub message: Option<String>,
    /// The wall clock of the Flow's machine when it got to know; serialised as milliseconds since 1970.
    #[serde(with = "milliseconds")]
    pub time: SystemTime,
    /// Which try this is, from 1; 0 before the first.
    pub attempt: u32,
    /// The place of this status among those of its Work.
    pub seq: u64,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            stage: Stage::NotStarted,
            reason: None,
            message: None,
            time: SystemTime::UNIX_EPOCH,
            attempt: 0,
            seq: 0,
        }
    }
}

mod milliseconds {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        u64::deserialize(deserializer).map(|since| UNIX_EPOCH + Duration::from_millis(since))
    }
}

/// An end that was not asked for: what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}
