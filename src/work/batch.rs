//! Bounds of batches.

use std::time::Duration;

/// Bounds of the batches that a [`HandleBatch`](crate::HandleBatch) gets: the number of messages, and the time to wait for them.
///
/// By default up to 32 messages that gather within 5 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub(super) messages: usize,
    pub(super) within: Duration,
}

impl Batch {
    /// Returns bounds of up to this many messages, at least 1, that gather within 5 ms.
    #[must_use]
    pub const fn of(messages: usize) -> Self {
        Self { messages: if messages == 0 { 1 } else { messages }, within: Duration::from_millis(5) }
    }

    pub(super) fn messages(self) -> usize {
        self.messages
    }

    /// Sets the longest time to wait for more messages after the first one. With [`Duration::ZERO`], a batch has those
    /// that already wait in the mailbox.
    #[must_use]
    pub const fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::of(32)
    }
}
