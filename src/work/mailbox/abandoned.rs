//! Questions whose asker waits no more: it has given up, is gone, or its process is.
//!
//! Such a question is dropped from the mailbox in which it waits. One that another process has is withdrawn there. A handler that has
//! begun goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use super::super::Work;
use super::super::message::{AnyEnvelope, Envelope};
use super::super::route::SharedRoute;
use super::{Mailbox, Place};

static ABANDONED: AtomicU64 = AtomicU64::new(0);

/// The number of questions that were dropped in this process before a handler had begun, since nobody waited for the answer.
pub(crate) fn questions_abandoned() -> u64 {
    ABANDONED.load(Ordering::Relaxed)
}

/// Counts questions that are dropped.
pub(crate) fn count_abandoned(questions: usize) {
    ABANDONED.fetch_add(questions as u64, Ordering::Relaxed);
}

impl<W: Work> Mailbox<W> {
    /// Drops the questions whose askers have gone, and withdraws those that another process has.
    pub(crate) fn drop_abandoned(&self) {
        let mut inner = self.lock();
        if inner.queue.is_here() {
            self.unpop(&mut inner);
        }
        let dropped = inner.queue.take_waiting(|envelope| AnyEnvelope::is_abandoned(&**envelope));
        let route = match inner.queue.place() {
            Place::At(SharedRoute(route)) => Some(route.clone()),
            _ => None,
        };
        let woken = if dropped.is_empty() { Vec::new() } else { inner.grant(self.capacity()) };
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
        count_abandoned(dropped.len());
        // Not under the lock: its `Drop` is code of a user's.
        drop(dropped);
        if let Some(route) = route {
            route.withdraw_abandoned();
        }
    }
}

/// Drops a question that was taken out of the mailbox and whose asker has gone; gives back any other message.
pub(super) fn unless_abandoned<W>(envelope: Envelope<W>) -> Option<Envelope<W>> {
    if !AnyEnvelope::is_abandoned(&*envelope) {
        return Some(envelope);
    }
    count_abandoned(1);
    None
}
