//! Numbers of the senders of messages, which are cheaper to carry than paths.

use std::collections::{HashMap, VecDeque};

use crate::id::{ActorPath, IdMap};

/// Number of senders that are known at a time.
pub(crate) const SENDERS: usize = 16_384;

/// Number of a sender in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SenderId(pub(crate) u32);

impl SenderId {
    /// Code outside of any Work.
    pub(crate) const OUTSIDE: Self = Self(0);
    /// A Work whose path is not known any more.
    pub(crate) const UNKNOWN: Self = Self(u32::MAX);

    /// Returns true for the number of a Work.
    pub(crate) fn is_work(self) -> bool {
        self != Self::OUTSIDE && self != Self::UNKNOWN
    }
}

/// A map that keeps its last entries, up to a number.
pub(crate) struct Recent<V> {
    entries: IdMap<u32, V>,
    order: VecDeque<u32>,
    capacity: usize,
}

impl<V> Recent<V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: IdMap::default(), order: VecDeque::new(), capacity }
    }

    pub(crate) fn get(&self, key: u32) -> Option<&V> {
        self.entries.get(&key)
    }

    /// Adds an entry. Returns the oldest one if it gives way.
    pub(crate) fn insert(&mut self, key: u32, value: V) -> Option<V> {
        if self.entries.insert(key, value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() <= self.capacity {
            return None;
        }
        self.entries.remove(&self.order.pop_front()?)
    }
}

/// The Works that have sent messages from this process or by way of it, the last [`SENDERS`] of them.
pub(super) struct Senders {
    paths: Recent<ActorPath>,
    numbers: HashMap<ActorPath, u32>,
    last: u32,
}

impl Default for Senders {
    fn default() -> Self {
        Self { paths: Recent::new(SENDERS), numbers: HashMap::new(), last: 0 }
    }
}

impl Senders {
    /// Returns the number of the Work at this path.
    pub(super) fn number(&mut self, path: &ActorPath) -> SenderId {
        if let Some(number) = self.numbers.get(path) {
            return SenderId(*number);
        }
        self.last = self.last.wrapping_add(1);
        if !SenderId(self.last).is_work() {
            self.last = 1;
        }
        self.numbers.insert(path.clone(), self.last);
        if let Some(forgotten) = self.paths.insert(self.last, path.clone()) {
            self.numbers.remove(&forgotten);
        }
        SenderId(self.last)
    }

    pub(super) fn path(&self, sender: SenderId) -> Option<&ActorPath> {
        self.paths.get(sender.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: usize) -> ActorPath {
        ActorPath::from(format!("work.{number}").as_str())
    }

    /// A Work keeps its number until more than the bound have sent since; then its number stands for no other Work.
    #[test]
    fn oldest_sender_is_forgotten() {
        let mut senders = Senders::default();
        let first = senders.number(&path(0));
        for other in 1..SENDERS {
            senders.number(&path(other));
            assert_eq!(senders.number(&path(0)), first);
        }
        assert_eq!(senders.path(first), Some(&path(0)));
        senders.number(&path(SENDERS));
        assert_eq!(senders.path(first), None);
        assert_ne!(senders.number(&path(0)), first);
        assert_eq!(senders.numbers.len(), SENDERS);
        assert_eq!((senders.path(SenderId::OUTSIDE), senders.path(SenderId::UNKNOWN)), (None, None));
    }
}
