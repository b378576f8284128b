//! Views of a mailbox for the search for cycles of asks.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;

use super::super::Work;
use super::super::cycles::AskId;
use super::super::cycles::task_waker::TaskWaker;
use super::super::envelope::{AnyEnvelope, BoxedEnvelope};
use super::Mailbox;

impl<W: Work> Mailbox<W> {
    /// Returns true if all references to the waker of the Work are those that this mailbox keeps for its receiver, and
    /// `own` others, and it was not used since the last poll began.
    pub(in crate::work) fn keeps_all_wakers(&self, task: &Arc<TaskWaker>, own: usize) -> bool {
        let inner = self.inner.lock();
        let is_kept = |waker: &Option<Waker>| waker.as_ref().is_some_and(|waker| task.is(waker));
        let kept = [&inner.receiver, &inner.listener].into_iter().filter(|waker| is_kept(waker)).count();
        // Counted under the lock: a waker that is taken out and not dropped yet counts as one of somebody else.
        let is_alone = Arc::strong_count(task) == own + kept;
        // A waker that another thread uses up is counted, or has left its mark before it was dropped.
        fence(Ordering::Acquire);
        is_alone && !task.is_woken()
    }

    /// Returns true if this ask waits for this incarnation, which receives here.
    pub(in crate::work) fn has_question(&self, ask: AskId, incarnation: u64) -> bool {
        let inner = self.inner.lock();
        if !inner.queue.is_here() || inner.incarnation != incarnation {
            return false;
        }
        let is_it = |envelope: &BoxedEnvelope<W>| AnyEnvelope::ask(&**envelope) == Some(ask);
        inner.queue.has(is_it) || self.batch.lock().messages.iter().any(is_it)
    }
}
