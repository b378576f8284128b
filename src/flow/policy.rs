//! What a Work's owner decides about its runs.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::restart::{OnError, Restart};

/// What a new input does while a run is under way or waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It waits its turn, in order. When the queue is full it is not accepted; a later reaction asks again.
    #[default]
    Queue,
    /// It waits, in place of any other that waits: only the newest.
    Latest,
    /// The run under way is stopped, those that wait are dropped, and it starts.
    Restart,
}

/// What becomes of a Work whose node is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnNodeLost {
    /// That is nobody's error: it waits for a node that fits, and continues there from its last published state. A
    /// run that was under way starts again, one that had succeeded does not.
    #[default]
    Wait,
    /// It is the failure of the Work, with [`Reason::NodeLost`](crate::Reason::NodeLost): its
    /// [`Restart`](crate::Restart) and [`OnError`](crate::OnError) decide.
    Fail,
}

/// Which outcomes of runs a Work remembers: as many as this, or those that are younger than this. Made from a number or from a
/// [`Duration`]; see [`WorkRef::remember`](super::WorkRef::remember). The default is all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remember {
    pub(crate) count: Option<usize>,
    pub(crate) age: Option<Duration>,
}

impl Remember {
    pub(crate) fn is_everything(self) -> bool {
        self.count.is_none() && self.age.is_none()
    }

    /// Both, where they do not say the same.
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

/// What a Work's owner asked for when it made the [`WorkRef`](super::WorkRef).
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) cache_calls: bool,
    pub(crate) overlap: Overlap,
    pub(crate) queue: usize,
    pub(crate) remember: Remember,
    pub(crate) timeout: Option<Duration>,
    pub(crate) restart: Restart,
    pub(crate) on_error: OnError,
    pub(crate) on_node_lost: OnNodeLost,
    /// How long a Work that was asked to stop may take before it is ended by force.
    pub(crate) grace: Duration,
    /// Whether the App is not ready while the Work is pending; `None` where nothing was said.
    pub(crate) counts_for_readiness: Option<bool>,
}

impl Policy {
    /// The default, of which there is one for all Works.
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
