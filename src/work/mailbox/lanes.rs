//! Waiting messages in two lanes: those that are sent first, and the others. Pure.

use std::collections::VecDeque;
use std::collections::vec_deque;

/// Properties of a message that its queue needs.
pub(crate) trait Item {
    /// Returns true for an ask, whose caller should learn at once that there will be no reply.
    fn is_question(&self) -> bool;

    /// Returns true for a message that goes before others.
    fn is_first(&self) -> bool;
}

/// Messages in the order in which they are taken: those that are sent first, then the others, each in their order.
#[derive(Debug)]
pub(super) struct Lanes<M> {
    /// Boxed where a message was sent first, to keep other mailboxes small.
    #[expect(clippy::box_collection, reason = "most mailboxes have none")]
    first: Option<Box<VecDeque<M>>>,
    others: VecDeque<M>,
}

impl<M> Default for Lanes<M> {
    fn default() -> Self {
        Self { first: None, others: VecDeque::new() }
    }
}

impl<M: Item> Lanes<M> {
    pub(super) fn len(&self) -> usize {
        self.first.as_ref().map_or(0, |first| first.len()) + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.others.is_empty() && !self.has_first()
    }

    /// Returns true if a message waits that is sent first.
    pub(super) fn has_first(&self) -> bool {
        self.first.as_ref().is_some_and(|first| !first.is_empty())
    }

    pub(super) fn front(&self) -> Option<&M> {
        self.first.as_ref().and_then(|first| first.front()).or_else(|| self.others.front())
    }

    fn lane(&mut self, message: &M) -> &mut VecDeque<M> {
        if message.is_first() { self.first.get_or_insert_default() } else { &mut self.others }
    }

    pub(super) fn push_back(&mut self, message: M) {
        self.lane(&message).push_back(message);
    }

    pub(super) fn push_front(&mut self, message: M) {
        self.lane(&message).push_front(message);
    }

    pub(super) fn pop_front(&mut self) -> Option<M> {
        self.first.as_mut().and_then(|first| first.pop_front()).or_else(|| self.others.pop_front())
    }

    /// Moves the next `count` messages that are not sent first to `batch`, or all if there are fewer.
    pub(super) fn pop_others_into(&mut self, batch: &mut VecDeque<M>, count: usize) {
        if batch.is_empty() && count >= self.others.len() {
            std::mem::swap(batch, &mut self.others);
        } else {
            batch.extend(self.others.drain(..count.min(self.others.len())));
        }
    }

    /// Returns the number of messages that are not sent first.
    pub(super) fn others(&self) -> usize {
        self.others.len()
    }

    /// Moves all messages of `later` behind those of their lane here.
    pub(super) fn append(&mut self, later: &mut Self) {
        if let Some(first) = later.first.as_mut().filter(|first| !first.is_empty()) {
            self.first.get_or_insert_default().append(first);
        }
        self.others.append(&mut later.others);
    }

    /// Moves all messages of `earlier` before those of their lane here.
    pub(super) fn prepend(&mut self, mut earlier: Self) {
        earlier.append(self);
        *self = earlier;
    }

    /// Returns true if `which` is true for a message.
    pub(super) fn has(&self, which: impl Fn(&M) -> bool) -> bool {
        self.first.iter().flat_map(|first| first.iter()).chain(&self.others).any(which)
    }

    /// Removes the messages for which `which` is true.
    pub(super) fn take(&mut self, which: impl Fn(&M) -> bool) -> Vec<M> {
        let mut taken = Vec::new();
        for lane in self.first.as_deref_mut().into_iter().chain([&mut self.others]) {
            if lane.iter().any(&which) {
                let (out, stays) = std::mem::take(lane).into_iter().partition::<VecDeque<_>, _>(&which);
                *lane = stays;
                taken.extend(out);
            }
        }
        taken
    }
}

impl<M> IntoIterator for Lanes<M> {
    type Item = M;
    type IntoIter = std::iter::Chain<vec_deque::IntoIter<M>, vec_deque::IntoIter<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.map(|first| *first).unwrap_or_default().into_iter().chain(self.others)
    }
}

impl<M: Item> FromIterator<M> for Lanes<M> {
    fn from_iter<I: IntoIterator<Item = M>>(messages: I) -> Self {
        let mut lanes = Self::default();
        messages.into_iter().for_each(|message| lanes.push_back(message));
        lanes
    }
}
