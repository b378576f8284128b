//! Nodes that leave, by their own decision or because the head sends them away.
//!
//! # Guarantees
//! - From the moment at which the head knows that a node leaves, nothing more is launched there, also nothing whose node
//!   was chosen before.
//! - The Works of a node that leaves stop at their next turn and continue elsewhere. A node that was sent away while it was
//!   out of reach is told so when it is connected again.
//! - A node learns that nothing runs on it any more once: after the last of its Works, and after the Works that it has kept
//!   for this head, which was started again, have been taken over and have stopped as well.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::super::link::Link;
use super::super::protocol::Control;
use super::{Head, HeadState, Node};
use crate::printable::one_line;
use crate::work::HostEvent;

impl Node {
    /// Returns true if nothing runs on this node any more, and nothing will, because it leaves.
    pub(super) fn is_left(&self) -> bool {
        let is_known = self.is_process || self.has_claimed;
        self.is_leaving && is_known && self.incarnations.is_empty()
    }
}

impl Head {
    /// Sends a node away: its Works stop and continue elsewhere, the values that would be lost are moved, and its process
    /// ends. Returns false if there is no such node. Does nothing more if the node is about to leave already.
    pub(crate) fn drain(&self, name: &str, why: &str) -> bool {
        self.send_away(name, why, false)
    }

    /// Sends a node away as [`drain`](Self::drain) does, unless it has Works. Returns false if it stays.
    pub(crate) fn drain_if_idle(&self, name: &str, why: &str) -> bool {
        self.send_away(name, why, true)
    }

    fn send_away(&self, name: &str, why: &str, if_idle: bool) -> bool {
        let state = self.state.lock();
        let mut nodes = state.nodes.values().filter(|node| !node.is_process);
        let Some(node) = nodes.find(|node| node.link.peer().name == name) else { return false };
        if node.is_leaving {
            return true;
        }
        if if_idle && !node.incarnations.is_empty() {
            return false;
        }
        let link = node.link.clone();
        log::info!(
            "node `{name}` is sent away ({}); its Works stop there and continue elsewhere",
            one_line(why)
        );
        link.control(&Control::Drain { why: why.to_owned() });
        self.vacate(state, &link);
        true
    }

    /// Stops the Works of a node that has announced that it leaves, unless the head has sent it away.
    pub(super) fn leaves(&self, link: &Arc<Link>) {
        let state = self.state.lock();
        let node = state.nodes.get(&link.peer().id).filter(|node| Arc::ptr_eq(&node.link, link));
        if node.is_none_or(|node| node.is_leaving) {
            return;
        }
        log::info!(
            "node `{}` is about to leave; its Works stop there and continue elsewhere",
            link.peer().name
        );
        self.vacate(state, link);
    }

    /// Has nothing more launched on a node, and has its Works stop.
    fn vacate(&self, mut state: MutexGuard<'_, HeadState>, link: &Arc<Link>) {
        let HeadState { nodes, incarnations, events, is_stopping, .. } = &mut *state;
        let Some(node) = nodes.get_mut(&link.peer().id) else { return };
        node.is_leaving = true;
        if node.is_left() && !*is_stopping {
            link.control(&Control::MayLeave);
        }
        let left = node.incarnations.iter().filter_map(|number| incarnations.get(number));
        events.extend(left.map(|away| HostEvent::NodeLeaves { outbox: away.outbox.clone() }));
        events.push(HostEvent::NodesChanged);
        drop(state);
        self.ready_queue.ring_again();
    }

    /// Moves the values that would be lost with a leaving process, once the other processes have released theirs.
    pub(super) fn handed_over(&self, link: &Arc<Link>) {
        {
            let mut state = self.state.lock();
            let node = state.nodes.get_mut(&link.peer().id).filter(|node| Arc::ptr_eq(&node.link, link));
            let Some(node) = node.filter(|node| node.is_leaving && !node.is_handed_over) else { return };
            node.is_handed_over = true;
        }
        self.departures.begin(link);
    }
}
