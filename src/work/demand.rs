//! The demand of a Work for a node.

use std::cmp::Ordering;
use std::time::Duration;

use super::policy::{Resources, Selector};

/// What a Work needs of a node. Works with equal demand wait for the same nodes.
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
