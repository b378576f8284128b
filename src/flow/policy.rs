//! Policies of a Work's runs, set by its owner.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::restart::{OnError, RecordedRestart, Restart};

/// Policy for a new input that arrives while another run is in progress or waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overlap {
    /// The new run waits in a FIFO queue. If the queue is full the input is not accepted, and the next reaction asks
    /// again.
    #[default]
    Queue,
    /// The new run replaces all waiting runs: only the latest waits.
    Latest,
    /// The run in progress is stopped, waiting runs are dropped, and the new run starts.
    Restart,
}

/// Policy for a Work whose node is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnNodeLost {
    /// Not counted as a failure: the Work waits for a node that fits and continues there from its last published state.
    /// A run in progress starts again; a run that had succeeded does not.
    #[default]
    Wait,
    /// The Work fails with [`Reason::NodeLost`](crate::Reason::NodeLost); its [`Restart`](crate::Restart) and
    /// [`OnError`](crate::OnError) apply.
    Fail,
}

/// Limit of the run outcomes that a Work remembers, by number or by age. Converted from a number or a [`Duration`]; see
/// [`WorkRef::remember`](super::WorkRef::remember). By default all outcomes are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remember {
    pub(crate) count: Option<usize>,
    pub(crate) age: Option<Duration>,
}

impl Remember {
    pub(crate) fn is_everything(self) -> bool {
        self.count.is_none() && self.age.is_none()
    }

    /// Combines both limits; `other` takes precedence.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { count: other.count.or(self.count), age: other.age.or(self.age) }
    }
}

impl From<usize> for Remember {
    fn from(count: usize) -> Self {
        Self { count: Some(count), age: None }
    }
}

impl From<Duration> for Remember {
    fn from(age: Duration) -> Self {
        Self { count: None, age: Some(age) }
    }
}

/// [`Overlap`] as it is recorded.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Overlap", rename_all = "snake_case")]
enum RecordedOverlap {
    Queue,
    Latest,
    Restart,
}

/// [`OnNodeLost`] as it is recorded.
#[derive(Serialize, Deserialize)]
#[serde(remote = "OnNodeLost", rename_all = "snake_case")]
enum RecordedOnNodeLost {
    Wait,
    Fail,
}

/// [`Remember`] as it is recorded.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Remember")]
struct RecordedRemember {
    #[serde(default)]
    count: Option<usize>,
    #[serde(default)]
    age: Option<Duration>,
}

/// Policies set on a [`WorkRef`](super::WorkRef).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Policy {
    pub(crate) cache_calls: bool,
    #[serde(with = "RecordedOverlap")]
    pub(crate) overlap: Overlap,
    pub(crate) queue: usize,
    #[serde(with = "RecordedRemember")]
    pub(crate) remember: Remember,
    pub(crate) timeout: Option<Duration>,
    #[serde(with = "RecordedRestart")]
    pub(crate) restart: Restart,
    pub(crate) on_error: OnError,
    #[serde(with = "RecordedOnNodeLost")]
    pub(crate) on_node_lost: OnNodeLost,
    /// Longest time from the request to stop until the Work is ended by force.
    pub(crate) grace: Duration,
    /// True if the App is not ready while the Work is pending; `None` if not set.
    pub(crate) counts_for_readiness: Option<bool>,
}

impl Policy {
    /// Returns the default policy, one instance for all Works.
    pub(crate) fn shared() -> Arc<Self> {
        static DEFAULT: LazyLock<Arc<Policy>> = LazyLock::new(Arc::default);
        DEFAULT.clone()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            cache_calls: true,
            overlap: Overlap::Queue,
            queue: 1024,
            remember: Remember::default(),
            timeout: None,
            restart: Restart::never(),
            on_error: OnError::Raise,
            on_node_lost: OnNodeLost::Wait,
            grace: Duration::from_secs(10),
            counts_for_readiness: None,
        }
    }
}
