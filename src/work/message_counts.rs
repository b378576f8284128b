//! Numbers of messages of an App that no handler saw, and of its open streams, in this process.
//!
//! Losses are rare and happen where a message is dropped, often on the thread of its sender. They count for the App that
//! this thread belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::{self, Runtime};

/// Numbers of dropped messages and of open streams, as a part of the [`Runtime`] of an App.
#[derive(Default)]
pub(crate) struct MessageCounts {
    lost: AtomicU64,
    abandoned: AtomicU64,
    deadlocks: AtomicU64,
    streams: AtomicU64,
}

impl MessageCounts {
    /// Returns the counts of an App. Those of a runtime without them are zero.
    pub(super) fn of(runtime: &Runtime) -> Arc<Self> {
        runtime.part().unwrap_or_default()
    }

    /// Returns the number of messages that no handler saw and whose senders were not notified.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns the number of asks dropped as abandoned before a handler had begun.
    pub(super) fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Returns the number of asks that have failed because Works waited for each other.
    pub(super) fn deadlocks(&self) -> u64 {
        self.deadlocks.load(Ordering::Relaxed)
    }

    /// Returns the number of streamed replies that Works of this process are sending.
    pub(super) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }
}

/// A streamed reply that is counted as open while this exists.
pub(super) struct OpenStream(Arc<MessageCounts>);

impl OpenStream {
    pub(super) fn of(runtime: &Runtime) -> Self {
        let counts = MessageCounts::of(runtime);
        counts.streams.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn count(of: impl FnOnce(&MessageCounts) -> &AtomicU64, count: usize) {
    if count > 0
        && let Ok(runtime) = runtime::current()
    {
        of(&MessageCounts::of(&runtime)).fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Counts messages that no handler saw and whose senders were not notified.
pub(super) fn count_lost_messages(messages: usize) {
    count(|counts| &counts.lost, messages);
}

/// Counts an ask that has failed because Works waited for each other.
pub(super) fn count_deadlock() {
    count(|counts| &counts.deadlocks, 1);
}

/// Counts asks dropped as abandoned.
pub(super) fn count_abandoned(questions: usize) {
    count(|counts| &counts.abandoned, questions);
}
