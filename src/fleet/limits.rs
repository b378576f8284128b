//! The limits of a group that the planner observes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::work::Resources;

/// The settings of a group, without those of its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Resources that a node of the group brings.
    pub(crate) brings: Resources,
    /// The labels of its nodes, that of the group included.
    pub(crate) labels: BTreeMap<String, String>,
    /// The number of nodes that are kept also when nothing needs them.
    pub(crate) least: usize,
    /// The largest number of allocations, whatever their stage.
    pub(crate) most: usize,
    /// The largest number of allocations that wait at the engine.
    pub(crate) backlog: usize,
    /// The time limit of an allocation; `None` for the engine's default.
    pub(crate) time: Option<Duration>,
    /// The time before the end of an allocation at which its node leaves.
    pub(crate) drain: Duration,
    /// The time after which an allocation that nothing needs is given up.
    pub(crate) idle: Duration,
    /// The time within which a node has to join once its allocation runs.
    pub(crate) join_within: Duration,
}
