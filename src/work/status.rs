//! Status of runs and Works.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::returned_error::ReturnedError;

/// Stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Never asked for, or forgotten.
    #[default]
    NotStarted,
    /// Asked for; waits for its turn, for the start of its Work, or for a restart.
    Pending,
    /// Executing.
    Running,
    /// Ended successfully. The last state that the run published is visible no later than this stage.
    Succeeded,
    /// Ended with an error, a panic or a timeout.
    Failed,
    /// Ended because the run was asked to stop.
    Stopped,
}

impl Stage {
    /// Returns true for the stages `Succeeded`, `Failed` and `Stopped`, in which the run has ended.
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

/// Reason why a run failed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The user's code returned an error.
    UserError,
    /// The user's code panicked.
    Panic,
    /// The run exceeded its `timeout`.
    Timeout,
    /// A payload that the run needed is lost or corrupt.
    PayloadLost,
    /// The node on which the run executed is lost.
    NodeLost,
    /// The Work's own process has died.
    ProcessDied,
    /// The run was asked to stop.
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

/// Status of a run at one point of its life.
///
/// Statuses are ordered by [`seq`](Status::seq), which only grows within a Work, and not by their time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Stage of the run.
    pub stage: Stage,
    /// Reason, if the run failed or stopped.
    pub reason: Option<Reason>,
    /// The error with its whole chain of causes, if there is one.
    pub message: Option<String>,
    /// Wall-clock time at which the Flow's machine recorded the status; serialised as milliseconds since 1970.
    #[serde(with = "milliseconds")]
    pub time: SystemTime,
    /// Number of the attempt, from 1; 0 before the first attempt.
    pub attempt: u32,
    /// Sequence number of the status within its Work.
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

pub(crate) mod milliseconds {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        u64::deserialize(deserializer).map(|since| UNIX_EPOCH + Duration::from_millis(since))
    }
}

/// Reason and message of an end that was not asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// The error that the Work returned, if it returned one in this process.
    #[serde(skip)]
    pub(crate) error: Option<ReturnedError>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), error: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    /// An error that a Work returned stays in its process: the encoding of the failure is the same without it.
    #[test]
    fn error_of_a_failure_is_not_encoded() {
        let without = Failure::new(Reason::UserError, "no");
        let error = Some(ReturnedError::new("many".parse::<u16>().unwrap_err()));
        let with = Failure { error, ..without.clone() };
        let encoded = wire::encode(&with).unwrap();
        assert_eq!(encoded, wire::encode(&without).unwrap());
        assert_eq!(wire::decode::<Failure>(&encoded).unwrap(), without);
    }
}
