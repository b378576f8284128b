//! Messages that wait for one subscriber of a topic, up to a bound. Pure.
//!
//! # Guarantees
//! - At most as many messages wait as the bound says. One for which there is no room is dropped, or makes room for itself,
//!   as the policy says; the others keep their order.
//! - While messages wait, one call for the subscriber is on its way, and never two.
//! - Nothing is taken in or handed out after the end.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Largest bound, in messages.
const MOST: usize = 1 << 20;

/// The number of messages that may wait for one subscriber of a [`Topic`](crate::Topic), and what becomes of a message for
/// which there is no room. Chosen by the subscriber, with [`WorkContext::subscribe`](crate::WorkContext::subscribe).
///
/// By default 64 messages, of which the oldest is dropped.
///
/// ```
/// use flowright::{Backlog, Overflow};
///
/// let newest_only = Backlog::of(1);
/// let the_first_ten = Backlog::of(10).on_overflow(Overflow::DropNewest);
/// # assert_ne!(newest_only, the_first_ten);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    bound: usize,
    overflow: Overflow,
}

/// Policy for a message that is published to a subscriber whose [`Backlog`] is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Overflow {
    /// The message that waits longest is dropped, so that the subscriber gets the latest ones.
    #[default]
    DropOldest,
    /// The message that was just published is dropped, so that the subscriber gets those that it has begun to fall behind on.
    DropNewest,
}

impl Overflow {
    /// Returns the name of the policy, as in the API.
    #[cfg(feature = "http")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
        }
    }
}

impl Backlog {
    /// Returns a backlog of up to this many messages, from 1 to 1,048,576, of which the oldest is dropped.
    #[must_use]
    pub const fn of(messages: usize) -> Self {
        let bound = match messages {
            0 => 1,
            MOST.. => MOST,
            messages => messages,
        };
        Self { bound, overflow: Overflow::DropOldest }
    }

    /// Sets what becomes of a message for which there is no room.
    #[must_use]
    pub const fn on_overflow(self, overflow: Overflow) -> Self {
        Self { overflow, ..self }
    }

    pub(super) fn bound(self) -> usize {
        self.bound
    }

    pub(super) fn overflow(self) -> Overflow {
        self.overflow
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Self::of(64)
    }
}

/// The messages that wait for one subscriber.
pub(super) struct Waiting<T> {
    backlog: Backlog,
    messages: VecDeque<T>,
    /// True while a call for the subscriber is on its way.
    is_called: bool,
    is_over: bool,
}

/// Result of a message that was added.
pub(super) struct Added<T> {
    /// True if the subscriber is to be called.
    pub(super) calls: bool,
    /// The message that is dropped, which may be the one that was added.
    pub(super) dropped: Option<T>,
}

impl<T> Waiting<T> {
    pub(super) fn new(backlog: Backlog) -> Self {
        Self { backlog, messages: VecDeque::new(), is_called: false, is_over: false }
    }

    /// Adds a message.
    ///
    /// # Errors
    /// The message, if the subscription is over.
    pub(super) fn add(&mut self, message: T) -> Result<Added<T>, T> {
        if self.is_over {
            return Err(message);
        }
        let is_full = self.messages.len() >= self.backlog.bound;
        let dropped = match self.backlog.overflow {
            Overflow::DropNewest if is_full => Some(message),
            Overflow::DropOldest | Overflow::DropNewest => {
                let dropped = if is_full { self.messages.pop_front() } else { None };
                self.messages.push_back(message);
                dropped
            }
        };
        Ok(Added { calls: !std::mem::replace(&mut self.is_called, true), dropped })
    }

    /// Takes the next message when the call has reached the subscriber. Returns true with it if the subscriber is to be
    /// called again.
    pub(super) fn take(&mut self) -> (Option<T>, bool) {
        let next = self.messages.pop_front();
        self.is_called = !self.messages.is_empty();
        (next, self.is_called)
    }

    /// Ends the subscription. Returns the messages that no handler has begun; `None` if it has ended before.
    pub(super) fn end(&mut self) -> Option<VecDeque<T>> {
        (!std::mem::replace(&mut self.is_over, true)).then(|| std::mem::take(&mut self.messages))
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the numbers below 5 and returns those that were dropped and those that are handed out.
    fn overflowing(backlog: Backlog) -> (Vec<u32>, Vec<u32>) {
        let mut waiting = Waiting::new(backlog);
        let added: Vec<_> = (0..5).map(|number| waiting.add(number).ok().unwrap()).collect();
        assert!(added[0].calls && added[1..].iter().all(|added| !added.calls), "one call is on its way");
        let dropped = added.into_iter().filter_map(|added| added.dropped).collect();
        let mut taken = Vec::new();
        loop {
            let (next, calls) = waiting.take();
            taken.extend(next);
            assert_eq!(calls, waiting.len() > 0);
            if !calls {
                return (dropped, taken);
            }
        }
    }

    /// The policy says which messages are dropped, and the rest keeps its order.
    #[test]
    fn policy_decides_which_messages_are_dropped() {
        assert_eq!(overflowing(Backlog::of(2)), (vec![0, 1, 2], vec![3, 4]));
        assert_eq!(
            overflowing(Backlog::of(2).on_overflow(Overflow::DropNewest)),
            (vec![2, 3, 4], vec![0, 1])
        );
        assert_eq!(overflowing(Backlog::of(0)), (vec![0, 1, 2, 3], vec![4]));
        assert_eq!(overflowing(Backlog::default()), (vec![], vec![0, 1, 2, 3, 4]));
        assert_eq!(Backlog::of(usize::MAX).bound(), MOST);
    }

    /// The end hands the rest out once, and gives later messages back.
    #[test]
    fn nothing_waits_after_the_end() {
        let mut waiting = Waiting::new(Backlog::of(3));
        assert!(waiting.add(1).is_ok_and(|added| added.calls));
        assert_eq!(waiting.end().map(Vec::from), Some(vec![1]));
        assert_eq!(waiting.add(2).err(), Some(2));
        assert!(waiting.end().is_none() && waiting.is_over());
        assert_eq!(waiting.take(), (None, false));
    }
}
