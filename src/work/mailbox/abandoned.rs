//! Abandoned asks: those whose caller has given up or ended, or whose caller's process is lost.
//!
//! An abandoned ask is dropped from the mailbox in which it waits, and withdrawn from another process to which it was
//! sent. A handler that has begun is not interrupted; it can see that its caller has gone, see
//! [`WorkContext::caller_waits`](crate::WorkContext::caller_waits).

use std::task::Waker;

use super::super::Work;
use super::super::dead_letters::report_abandoned;
use super::super::envelope::{AnyEnvelope, BoxedEnvelope};
use super::super::route::SharedRoute;
use super::Mailbox;

impl<W: Work> Mailbox<W> {
    /// Drops waiting asks whose caller has given up, and withdraws those in flight to another process.
    pub(crate) fn drop_abandoned(&self) {
        let mut inner = self.inner.lock();
        if inner.queue.is_here() {
            self.unpop(&mut inner);
        }
        let dropped = inner.queue.take_waiting(|envelope| AnyEnvelope::is_abandoned(&**envelope));
        let watches = Self::drop_abandoned_watches(&mut inner);
        let routes: Vec<_> = inner.queue.routes().map(|SharedRoute(route)| route.clone()).collect();
        let woken = if dropped.is_empty() { Vec::new() } else { inner.grant(self.capacity()) };
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
        report_abandoned(&self.path(), dropped.iter().map(|envelope| AnyEnvelope::lost(&**envelope)));
        // Outside of the lock, because `Drop` of a message is a user's code.
        drop(dropped);
        drop(watches);
        routes.iter().for_each(|route| route.withdraw_abandoned());
    }

    /// Drops an ask taken out of the mailbox if its caller has given up; returns any other message.
    pub(super) fn unless_abandoned(&self, envelope: BoxedEnvelope<W>) -> Option<BoxedEnvelope<W>> {
        if !AnyEnvelope::is_abandoned(&*envelope) {
            return Some(envelope);
        }
        report_abandoned(&self.path(), [AnyEnvelope::lost(&*envelope)]);
        None
    }
}
