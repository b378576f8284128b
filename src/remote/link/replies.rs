//! Answers of the runtime to what a peer asks it: bounded for a peer that asks for more than it takes.

use std::collections::VecDeque;

/// Answers that the peer has not acknowledged.
#[derive(Default)]
pub(super) struct Replies {
    /// The number of each message and its length in bytes, the oldest first.
    waiting: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Replies {
    /// Notes an answer in message `number`.
    pub(super) fn push(&mut self, number: u64, bytes: usize) {
        self.waiting.push_back((number, bytes));
        self.bytes += bytes;
    }

    /// The bytes of those that were not acknowledged when the last acknowledged message was this one.
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

    /// What is acknowledged does not count any more.
    #[test]
    fn acknowledged_replies_are_forgotten() {
        let mut replies = Replies::default();
        for number in [2, 3, 7] {
            replies.push(number, 10);
        }
        assert_eq!([0, 2, 6, 7].map(|acknowledged| replies.unread(acknowledged)), [30, 20, 10, 0]);
    }
}
