//! The Flows that have a reason to react (pure).
//!
//! # Guarantees
//! - The deepest Flow is next, so that a Flow reacts after the Flows below it.
//! - A Flow that is queued several times before it reacts, reacts once.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::id::FlowId;

/// The Flows that have a reason to react, with their depth in the tree.
#[derive(Default)]
pub(super) struct ReactionQueue(BTreeSet<(Reverse<usize>, FlowId)>);

impl ReactionQueue {
    pub(super) fn insert(&mut self, flow: FlowId, depth: usize) {
        self.0.insert((Reverse(depth), flow));
    }

    pub(super) fn remove(&mut self, flow: FlowId, depth: usize) {
        self.0.remove(&(Reverse(depth), flow));
    }

    /// Removes and returns the next Flow.
    pub(super) fn pop(&mut self) -> Option<FlowId> {
        self.0.pop_first().map(|(_, flow)| flow)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deeper Flows come first, and those of one depth in the order in which they joined, each once.
    #[test]
    fn queue_gives_the_deepest_flow_first() {
        let mut queue = ReactionQueue::default();
        for (flow, depth) in [(1, 0), (4, 1), (2, 1), (3, 2), (2, 1), (5, 2)] {
            queue.insert(FlowId(flow), depth);
        }
        queue.remove(FlowId(5), 2);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [3, 2, 4, 1].map(FlowId));
        assert!(queue.is_empty());
    }
}
