//! Ending an incarnation by force.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;

/// Ends an incarnation by force, the next time that it awaits.
#[derive(Default)]
pub(crate) struct Abort {
    raised: AtomicBool,
    waker: AtomicWaker,
    /// Forwards the request to the process of the incarnation, if that is another.
    away: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Abort {
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(away) = self.away.get() {
            away();
        }
    }

    /// Sets the callback that forwards the request to another process.
    pub(crate) fn tell(&self, tell: impl Fn() + Send + Sync + 'static) {
        // Set once: an incarnation lives in one process.
        let _ = self.away.set(Box::new(tell));
    }

    /// Registers the waker of the incarnation, which [`raise`](Self::raise) wakes.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }
}
