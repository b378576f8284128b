//! Those who have begun and not proved themselves yet: how many there may be, and who has to go.
//!
//! # Guarantees
//! - There are no more than the limit. For one more the one that began first is given up: whoever is honest is quick, so
//!   that those who wait for nothing cannot keep others out.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

pub(crate) struct PendingHandshakes {
    limit: usize,
    /// The oldest first; some may be done.
    begun: VecDeque<Begun>,
}

struct Begun {
    task: AbortHandle,
    turn: Weak<()>,
}

/// Is held until its holder has proved itself.
pub(crate) struct Turn {
    _held: Arc<()>,
}

impl PendingHandshakes {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, begun: VecDeque::new() }
    }

    /// Begins with another; whether one was given up for it.
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
