//! The demand of Works for nodes, and the room that nodes have.

use std::cmp::Ordering;
#[cfg(feature = "remote")]
use std::collections::BTreeMap;
use std::time::Duration;

use super::policy::{Resources, Selector};

/// Label of the nodes of a fleet, with the name of their group.
#[cfg(feature = "remote")]
pub(crate) const GROUP_LABEL: &str = "fleet";

/// The needs of a Work, as far as its node has to meet them. Works with equal demand wait for the same nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) selector: Selector,
    pub(crate) needs: Resources,
    /// The time for which the Work runs, as declared by its author; `None` if it is unknown.
    pub(crate) runs_for: Option<Duration>,
}

impl Ord for Demand {
    /// Orders the largest needs first, as first-fit decreasing wants them.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |demand: &Self| {
            let Resources { cpus, gpus, memory } = demand.needs;
            (gpus, cpus, memory, demand.runs_for)
        };
        key(other).cmp(&key(self)).then_with(|| self.selector.order(&other.selector))
    }
}

impl PartialOrd for Demand {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A node and its room for Works.
#[cfg(feature = "remote")]
#[derive(Debug, Clone)]
pub(crate) struct NodeRoom {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) resources: Resources,
    /// The sum of what its Works need.
    pub(crate) used: Resources,
    /// The number of its Works.
    pub(crate) works: usize,
    /// True if no more Works are placed there.
    pub(crate) is_leaving: bool,
    /// The time until its allocation ends, as it has told itself.
    pub(crate) ends_in: Option<Duration>,
}
