//! The ends of the allocations in which nodes run.

use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};

use super::super::lifetime::milliseconds;
use super::super::protocol::Control;
use super::super::scheduler::{Candidate, End};
use super::{Head, Node};
use crate::work::HostEvent;

/// The end of a node's allocation.
pub(super) struct Deadline {
    at: Instant,
    /// The moment in words, which are the same whenever it is named.
    when: String,
}

impl Deadline {
    /// Returns the deadline after this time; `None` if that is too far away to be expressed.
    pub(super) fn after(left: Duration) -> Option<Self> {
        Self::new(Instant::now().checked_add(left)?)
    }

    fn new(at: Instant) -> Option<Self> {
        let when = SystemTime::now().checked_add(at.saturating_duration_since(Instant::now()))?;
        let when = DateTime::<Utc>::from(when).format("%Y-%m-%d %H:%M:%S UTC").to_string();
        Some(Self { at, when })
    }

    /// Returns the time that is left.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }
}

impl Node {
    /// Describes the node for the scheduler.
    pub(super) fn candidate(&self, now: Instant) -> Candidate<'_> {
        Candidate {
            card: self.link.peer(),
            used: self.used,
            works: self.incarnations.len(),
            is_leaving: self.is_leaving,
            end: self.deadline.as_ref().map(|deadline| End {
                left: deadline.left(now),
                drain_before: self.drain_before,
                when: &deadline.when,
            }),
        }
    }
}

impl Head {
    /// Sets the end of a node's allocation, and tells the node, which begins to leave before it. Returns false if there is no
    /// such node.
    pub(crate) fn set_deadline(&self, name: &str, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let mut nodes = state.nodes.values_mut().filter(|node| !node.is_process);
        let Some(node) = nodes.find(|node| node.link.peer().name == name) else { return false };
        let now = Instant::now();
        node.deadline = deadline.and_then(Deadline::new);
        let ends_in_ms = node.deadline.as_ref().map(|deadline| milliseconds(deadline.left(now)));
        node.link.control(&Control::Lifetime { ends_in_ms });
        // Works may fit before a later end.
        state.events.extend([HostEvent::Room, HostEvent::NodesChanged]);
        drop(state);
        self.ready_queue.ring_again();
        true
    }
}
