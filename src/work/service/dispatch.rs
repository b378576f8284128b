//! The choice of the replica for each message of a service: the pure core of a balancer. No mailboxes, threads or clocks.
//!
//! # Guarantees
//! - A message is in one place: it waits here, was handed to one replica, or was given back to its sender.
//! - A message is handed only to a replica that is in rotation at that moment. A rotation replaces the one before as a
//!   whole, so that no message goes to a replica that has left.
//! - A replica has at most as many messages as its limit that were handed to it and not released.
//! - No message waits while a replica to which it may go has room.
//! - Messages that may go to the same replicas are handed over in the order in which they arrived, those that are sent
//!   first (`tell_first`) before the others; one that came back goes before all.
//! - Messages with the same key go to the same replica during one rotation, and a rotation moves only the keys of
//!   replicas that leave and those that a new replica takes over: rendezvous hashing (Thaler and Ravishankar, 1998).

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::work::mailbox::CloseReason;

/// Number of a replica, which is never used again.
pub(crate) type ReplicaId = u64;

/// A replica to which messages were handed.
#[derive(Debug)]
struct Replica {
    id: ReplicaId,
    /// False once it has left the rotation and is drained.
    is_in_rotation: bool,
    /// Largest number of messages that it has at a time.
    limit: usize,
    /// Number of messages that it has.
    taken: usize,
    /// Number of the handing over by which it got its last message.
    last: u64,
    /// The reason why its mailbox refuses messages, until the next rotation.
    closed: Option<CloseReason>,
}

impl Replica {
    fn has_room(&self) -> bool {
        self.is_in_rotation && self.closed.is_none() && self.taken < self.limit
    }
}

#[derive(Debug)]
struct Waiting<M> {
    key: Option<u64>,
    is_first: bool,
    message: M,
}

/// Result of offering a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered<M> {
    /// The message is to be sent to this replica.
    Hand(ReplicaId, M),
    /// No replica has room.
    Wait(M),
    Refused(M, CloseReason),
}

/// Result of a change after which messages may be handed over or refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handed<M> {
    pub(super) hand: Vec<(ReplicaId, M)>,
    pub(super) refuse: Vec<(M, CloseReason)>,
}

impl<M> Default for Handed<M> {
    fn default() -> Self {
        Self { hand: Vec::new(), refuse: Vec::new() }
    }
}

#[derive(Debug)]
pub(super) struct Dispatch<M> {
    replicas: Vec<Replica>,
    waiting: VecDeque<Waiting<M>>,
    /// True if the replicas with room take turns, whatever they have to do.
    in_turn: bool,
    handed: u64,
    closed: Option<CloseReason>,
}

impl<M> Dispatch<M> {
    pub(super) fn new(in_turn: bool) -> Self {
        Self { replicas: Vec::new(), waiting: VecDeque::new(), in_turn, handed: 0, closed: None }
    }

    /// Returns the number of waiting messages.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of messages that the replicas have.
    pub(super) fn taken(&self) -> usize {
        self.replicas.iter().map(|replica| replica.taken).sum()
    }

    /// Returns the number of messages that each replica has, if it has any.
    pub(super) fn handed(&self) -> Vec<(ReplicaId, usize)> {
        let busy = self.replicas.iter().filter(|replica| replica.taken > 0);
        busy.map(|replica| (replica.id, replica.taken)).collect()
    }

    /// Returns the number of messages that this replica has; zero for an unknown one.
    pub(super) fn taken_by(&self, id: ReplicaId) -> usize {
        self.replicas.iter().find(|replica| replica.id == id).map_or(0, |replica| replica.taken)
    }

    /// Offers a message, with its key if it has one.
    pub(super) fn offer(&mut self, message: M, key: Option<u64>) -> Offered<M> {
        if let Some(why) = self.refusal() {
            return Offered::Refused(message, why);
        }
        match self.choose(key) {
            Some(index) => Offered::Hand(self.hand(index), message),
            None => Offered::Wait(message),
        }
    }

    /// Has a message wait that [`offer`](Self::offer) has returned. One that is sent first waits before the others.
    pub(super) fn enqueue(&mut self, message: M, key: Option<u64>, is_first: bool) {
        let place = match is_first {
            true => self.waiting.iter().rposition(|waiting| waiting.is_first).map_or(0, |last| last + 1),
            false => self.waiting.len(),
        };
        self.waiting.insert(place, Waiting { key, is_first, message });
    }

    /// Replaces the rotation, in which each replica has a limit of messages, at least 1.
    pub(super) fn rotate(&mut self, rotation: &[(ReplicaId, usize)]) -> Handed<M> {
        for replica in &mut self.replicas {
            replica.is_in_rotation = false;
        }
        for (id, limit) in rotation {
            let limit = (*limit).max(1);
            match self.replicas.iter_mut().find(|replica| replica.id == *id) {
                Some(replica) => {
                    (replica.is_in_rotation, replica.limit, replica.closed) = (true, limit, None);
                }
                None => self.replicas.push(Replica {
                    id: *id,
                    is_in_rotation: true,
                    limit,
                    taken: 0,
                    last: 0,
                    closed: None,
                }),
            }
        }
        self.forget_idle();
        self.fill()
    }

    /// Notes that a replica is done with a message.
    pub(super) fn released(&mut self, id: ReplicaId) -> Handed<M> {
        self.take_back(id);
        self.fill()
    }

    /// Takes back a message that no handler has begun.
    pub(super) fn came_back(&mut self, id: ReplicaId, message: M, key: Option<u64>) -> Handed<M> {
        self.take_back(id);
        // Behind it, those that are sent first go before the others.
        self.waiting.push_front(Waiting { key, is_first: true, message });
        self.fill()
    }

    /// Takes back a message that the mailbox of a replica has refused for this reason. Until the next rotation the
    /// replica gets no message.
    pub(super) fn refused(
        &mut self,
        id: ReplicaId,
        why: CloseReason,
        message: M,
        key: Option<u64>,
    ) -> Handed<M> {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.id == id) {
            replica.closed = Some(why);
        }
        self.came_back(id, message, key)
    }

    /// Refuses the waiting messages and all others.
    pub(super) fn close(&mut self, why: CloseReason) -> Handed<M> {
        self.closed = Some(why);
        self.fill()
    }

    /// Removes the waiting messages for which `which` is true.
    pub(super) fn take_waiting(&mut self, which: impl Fn(&M) -> bool) -> Vec<M> {
        if !self.waiting.iter().any(|waiting| which(&waiting.message)) {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.waiting);
        let (taken, stays) = all.into_iter().partition::<VecDeque<_>, _>(|waiting| which(&waiting.message));
        self.waiting = stays;
        taken.into_iter().map(|waiting| waiting.message).collect()
    }

    fn take_back(&mut self, id: ReplicaId) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.id == id) {
            replica.taken = replica.taken.saturating_sub(1);
        }
        self.forget_idle();
    }

    fn forget_idle(&mut self) {
        self.replicas.retain(|replica| replica.is_in_rotation || replica.taken > 0);
    }

    /// Returns the reason why no message is accepted: the service is closed, or no replica in rotation is expected to run
    /// again.
    fn refusal(&self) -> Option<CloseReason> {
        if self.closed.is_some() {
            return self.closed;
        }
        let rotation = self.replicas.iter().filter(|replica| replica.is_in_rotation);
        let closed = rotation.map(|replica| replica.closed.filter(|why| !why.is_temporary()));
        closed.collect::<Option<Vec<_>>>()?.first().copied()
    }

    fn hand(&mut self, index: usize) -> ReplicaId {
        self.handed += 1;
        let replica = &mut self.replicas[index];
        replica.taken += 1;
        replica.last = self.handed;
        replica.id
    }

    /// Returns the index of the replica with room that gets the next message with this key.
    fn choose(&self, key: Option<u64>) -> Option<usize> {
        if let Some(key) = key {
            let owner = self.owner(key)?;
            return self.replicas[owner].has_room().then_some(owner);
        }
        let free = self.replicas.iter().enumerate().filter(|(_, replica)| replica.has_room());
        // Of those with as many messages, the one that has got none for the longest time.
        let rank = |replica: &Replica| (if self.in_turn { 0 } else { replica.taken }, replica.last);
        free.min_by_key(|(_, replica)| rank(replica)).map(|(index, _)| index)
    }

    /// Returns the index of the replica that gets the messages with this key.
    fn owner(&self, key: u64) -> Option<usize> {
        let rotation = self.replicas.iter().enumerate();
        let open = rotation.filter(|(_, replica)| replica.is_in_rotation && replica.closed.is_none());
        open.max_by_key(|(_, replica)| weight(key, replica.id)).map(|(index, _)| index)
    }

    /// Hands over the waiting messages for which there is room, or refuses all.
    fn fill(&mut self) -> Handed<M> {
        let mut handed = Handed::default();
        if self.waiting.is_empty() {
            return handed;
        }
        if let Some(why) = self.refusal() {
            handed.refuse.extend(self.waiting.drain(..).map(|waiting| (waiting.message, why)));
            return handed;
        }
        let mut next = 0;
        while next < self.waiting.len() && self.replicas.iter().any(Replica::has_room) {
            let key = self.waiting[next].key;
            match self.choose(key) {
                Some(index) => {
                    let id = self.hand(index);
                    handed.hand.extend(self.waiting.remove(next).map(|waiting| (id, waiting.message)));
                }
                // Without a key, the next one without a key has no room either; one with a key may have.
                None => next += 1,
            }
        }
        handed
    }
}

/// Returns the weight of a replica for a key; the messages with the key go to the replica with the largest.
fn weight(key: u64, id: ReplicaId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, id).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
