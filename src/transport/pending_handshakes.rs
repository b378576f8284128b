//! Pending handshakes: bounds their number and evicts the oldest.
//!
//! # Guarantees
//! - The number of pending handshakes is at most the limit. One more evicts the oldest: honest peers are quick, so that
//!   silent peers cannot keep them out.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

pub(crate) struct PendingHandshakes {
    limit: usize,
    /// The oldest first; some may be completed.
    begun: VecDeque<Begun>,
}

struct Begun {
    task: AbortHandle,
    turn: Weak<()>,
}

/// Held by a handshake until it is complete.
pub(crate) struct Turn {
    _held: Arc<()>,
}

impl PendingHandshakes {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, begun: VecDeque::new() }
    }

    /// Starts a handshake. Returns `true` if another one was evicted for it.
    pub(crate) fn begin(&mut self, start: impl FnOnce(Turn) -> AbortHandle) -> bool {
        if self.begun.len() >= self.limit {
            self.begun.retain(|begun| begun.turn.strong_count() > 0);
        }
        let is_full = self.begun.len() >= self.limit;
        if is_full && let Some(oldest) = self.begun.pop_front() {
            oldest.task.abort();
        }
        let held = Arc::new(());
        let turn = Arc::downgrade(&held);
        self.begun.push_back(Begun { task: start(Turn { _held: held }), turn });
        is_full
    }
}
