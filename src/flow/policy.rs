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

/// Part of a Work that an App with a journal records; see [`WorkRef::journal`](super::WorkRef::journal). Without a journal
/// it has no effect.
///
/// Whatever is recorded, a child stays a child: after the head was started again, it is where it was in the tree, with its
/// settings, also if it joined while the App ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Journaled {
    /// The published states and the runs. After the head was started again, the Work goes on from its last durable state,
    /// and no run that has succeeded runs again.
    #[default]
    All,
    /// The runs, with their inputs, outcomes and steps, but not the published states: after the head was started again, the
    /// Work starts from the state that it was constructed with. For states that are large or change all the time, and
    /// that a run computes again.
    ///
    /// - A run that has succeeded does not run again, although its effect on the state is lost:
    ///   [`Run::finished`](crate::Run::finished) then returns the Work with its constructed state. Do not make inputs of
    ///   other runs from such a state.
    /// - A run under way starts again, from the constructed state. If its node or process has outlived the head, it goes
    ///   on, and its state arrives from there.
    /// - Commands, answers and events wait for the record of the runs, as with `All`. An observer may have seen a state
    ///   that the next life of the App does not have.
    /// - Steps (`cx.step`, `cx.once`) are recorded. [`cx.commit`](crate::WorkContext::commit) does not make the state
    ///   durable: it ensures that the next incarnation begins with it as long as the head lives, as in an App without a
    ///   journal.
    /// - Values of payloads in the state are not recorded, whether or not they were made durable; those in inputs and
    ///   steps are.
    RunsOnly,
    /// Neither: after the head was started again, the Work is as if it had never run, with the state that it was constructed
    /// with. For Works whose runs are to be repeated in each life of the App, or are too many to be recorded.
    ///
    /// - Inputs that the Flow requests again run again, also those that have succeeded. Waiting runs, failures, restarts and
    ///   an operator's stop are forgotten.
    /// - Steps, `cx.once` and `cx.commit` are not refused, and promise what they do in an App without a journal.
    /// - An incarnation whose node or process has outlived the head is ended when it returns to the next head. Until then it
    ///   may run beside the one that this head launches.
    /// - Values of payloads in the state, in inputs and in steps are not recorded.
    Off,
}

/// [`Journaled`] as it is recorded.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Journaled", rename_all = "snake_case")]
enum RecordedJournaled {
    All,
    RunsOnly,
    Off,
}

/// [`Overlap`] as it is recorded.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Overlap", rename_all = "snake_case")]
pub(super) enum RecordedOverlap {
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
    #[serde(with = "RecordedJournaled")]
    pub(crate) journaled: Journaled,
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
            journaled: Journaled::All,
        }
    }
}
