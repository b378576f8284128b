//! Accounting of the replies to requests of a peer, which bounds them for a peer that requests more than it
//! acknowledges.

use std::collections::VecDeque;

/// Replies that the peer has not acknowledged.
#[derive(Default)]
pub(super) struct Replies {
    /// The number of each message and its length in bytes, the oldest first.
    waiting: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Replies {
    /// Records a reply that was sent as message `number`.
    pub(super) fn push(&mut self, number: u64, bytes: usize) {
        self.waiting.push_back((number, bytes));
        self.bytes += bytes;
    }

    /// Returns the bytes of the replies after message `acknowledged`, the last one that the peer has acknowledged.
    pub(super) fn unread(&mut self, acknowledged: u64) -> usize {
        while let Some((_, bytes)) = self.waiting.front().filter(|(number, _)| *number <= acknowledged) {
            self.bytes -= bytes;
            self.waiting.pop_front();
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acknowledged replies are no longer counted.
    #[test]
    fn acknowledged_replies_are_forgotten() {
        let mut replies = Replies::default();
        for number in [2, 3, 7] {
            replies.push(number, 10);
        }
        assert_eq!([0, 2, 6, 7].map(|acknowledged| replies.unread(acknowledged)), [30, 20, 10, 0]);
    }
}
