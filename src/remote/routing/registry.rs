//! The head's registry of locations: which process hosts each Work, and which sessions have subscribed to it. Pure.
//!
//! # Guarantees
//! - A session that has subscribed to a path is sent every change, unless a newer one comes first: locations conflate,
//!   so that at most one per path waits to be sent.
//! - A location with an incarnation number is never sent after one with a higher number.
//! - A path without subscribers that no node hosts is not kept.

use std::collections::{HashMap, HashSet, VecDeque};

use super::super::protocol::Location;
use crate::id::ActorPath;
use crate::work::CloseReason;

/// Limit on the number of paths that a session may subscribe to.
pub(in crate::remote) const MOST_SUBSCRIPTIONS: usize = 1 << 20;

#[derive(Default)]
pub(in crate::remote) struct Registry {
    entries: HashMap<ActorPath, Entry>,
    sessions: HashMap<u64, Subscriber>,
}

struct Entry {
    location: Location<u64>,
    subscribers: Vec<u64>,
}

#[derive(Default)]
struct Subscriber {
    paths: HashSet<ActorPath>,
    /// Paths whose location is still to be sent to this session, each at most once.
    untold: VecDeque<ActorPath>,
    is_untold: HashSet<ActorPath>,
}

impl Subscriber {
    fn tell(&mut self, path: &ActorPath) {
        if self.is_untold.insert(path.clone()) {
            self.untold.push_back(path.clone());
        }
    }
}

impl Registry {
    /// Returns the location of a Work, if the registry has an entry for it.
    pub(in crate::remote) fn location(&self, path: &ActorPath) -> Option<&Location<u64>> {
        self.entries.get(path).map(|entry| &entry.location)
    }

    /// Subscribes `session` to the Work at `path`. `current` returns the location to start from if the registry has no
    /// entry. Returns `false` when the session has reached the limit of subscriptions.
    #[must_use]
    pub(in crate::remote) fn subscribe(
        &mut self,
        session: u64,
        path: &ActorPath,
        current: impl FnOnce() -> Location<u64>,
    ) -> bool {
        let subscriber = self.sessions.entry(session).or_default();
        if subscriber.paths.len() >= MOST_SUBSCRIPTIONS && !subscriber.paths.contains(path) {
            return false;
        }
        subscriber.tell(path);
        if subscriber.paths.insert(path.clone()) {
            let entry = self.entries.entry(path.clone());
            let entry = entry.or_insert_with(|| Entry { location: current(), subscribers: Vec::new() });
            entry.subscribers.push(session);
        }
        true
    }

    pub(in crate::remote) fn unsubscribe(&mut self, session: u64, path: &ActorPath) {
        let Some(subscriber) = self.sessions.get_mut(&session) else { return };
        if subscriber.paths.remove(path) {
            subscriber.is_untold.remove(path);
            self.forget(session, path);
        }
    }

    fn forget(&mut self, session: u64, path: &ActorPath) {
        if let Some(entry) = self.entries.get_mut(path) {
            entry.subscribers.retain(|subscriber| *subscriber != session);
            self.tidy(path);
        }
    }

    fn tidy(&mut self, path: &ActorPath) {
        let is_idle =
            |entry: &Entry| entry.subscribers.is_empty() && !matches!(entry.location, Location::At { .. });
        if self.entries.get(path).is_some_and(is_idle) {
            self.entries.remove(path);
        }
    }

    /// Removes a session that is over, and its subscriptions.
    pub(in crate::remote) fn end_session(&mut self, session: u64) {
        let Some(subscriber) = self.sessions.remove(&session) else { return };
        for path in &subscriber.paths {
            self.forget(session, path);
        }
    }

    /// Sets the location of the Work at `path` and queues it for all subscribers.
    pub(in crate::remote) fn set(&mut self, path: &ActorPath, location: Location<u64>) {
        match self.entries.get_mut(path) {
            Some(entry) if entry.location == location => return,
            Some(entry) => entry.location = location,
            None if matches!(location, Location::At { .. }) => {
                self.entries.insert(path.clone(), Entry { location, subscribers: Vec::new() });
            }
            None => return,
        }
        let subscribers = self.entries.get(path).map(|entry| entry.subscribers.clone());
        for session in subscribers.into_iter().flatten() {
            if let Some(subscriber) = self.sessions.get_mut(&session) {
                subscriber.tell(path);
            }
        }
        self.tidy(path);
    }

    /// Marks the Work as pending if incarnation `over` is still its location. The next location will follow.
    pub(in crate::remote) fn over(&mut self, path: &ActorPath, over: u64) {
        let is_it = |location: &Location<u64>| matches!(location, Location::At { incarnation, .. } if *incarnation == over);
        if self.location(path).is_some_and(is_it) {
            self.set(path, Location::Pending);
        }
    }

    /// Removes and returns the next location to send to `session`.
    pub(in crate::remote) fn next(&mut self, session: u64) -> Option<(ActorPath, Location<u64>)> {
        let subscriber = self.sessions.get_mut(&session)?;
        loop {
            let path = subscriber.untold.pop_front()?;
            // The path may have been unsubscribed since it was queued.
            if subscriber.is_untold.remove(&path) {
                let location = self.entries.get(&path).map(|entry| entry.location.clone());
                return Some((path, location.unwrap_or(Location::Closed(CloseReason::Unknown))));
            }
        }
    }

    /// Returns the sessions for which locations are queued.
    pub(in crate::remote) fn untold(&self) -> Vec<u64> {
        let untold = self.sessions.iter().filter(|(_, subscriber)| !subscriber.untold.is_empty());
        untold.map(|(session, _)| *session).collect()
    }

    /// Returns `true` when no subscription and no location is kept.
    #[cfg(test)]
    pub(in crate::remote) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.sessions.values().all(|subscriber| subscriber.paths.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> ActorPath {
        ActorPath::from(name)
    }

    fn at(node: u64, incarnation: u64) -> Location<u64> {
        Location::At { node, incarnation }
    }

    /// Changes that have not been sent yet conflate to the last of them.
    #[test]
    fn changes_before_the_first_look_are_told_as_one() {
        let mut registry = Registry::default();
        assert!(registry.subscribe(1, &path("a"), || Location::Closed(CloseReason::NotStarted)));
        registry.set(&path("a"), at(7, 1));
        registry.over(&path("a"), 1);
        registry.set(&path("a"), at(8, 2));
        assert_eq!(registry.next(1), Some((path("a"), at(8, 2))));
        assert_eq!(registry.next(1), None);
    }

    /// The end of an incarnation that was replaced does not change the location of its successor.
    #[test]
    fn the_end_of_an_older_incarnation_changes_nothing() {
        let mut registry = Registry::default();
        registry.set(&path("a"), at(7, 2));
        registry.over(&path("a"), 1);
        assert_eq!(registry.location(&path("a")), Some(&at(7, 2)));
    }

    /// A path that was unsubscribed is not sent, and no entry of it is kept.
    #[test]
    fn an_unsubscribed_path_is_forgotten() {
        let mut registry = Registry::default();
        assert!(registry.subscribe(1, &path("a"), || at(7, 1)));
        registry.unsubscribe(1, &path("a"));
        assert_eq!(registry.next(1), None);
        registry.over(&path("a"), 1);
        assert!(registry.is_empty());
    }

    /// A path that is subscribed to twice before its location is sent is sent once.
    #[test]
    fn a_path_asked_for_again_is_told_again() {
        let mut registry = Registry::default();
        assert!(registry.subscribe(1, &path("a"), || at(7, 1)));
        assert!(registry.subscribe(1, &path("a"), || unreachable!("it is known")));
        assert_eq!(registry.next(1), Some((path("a"), at(7, 1))));
        assert_eq!(registry.next(1), None);
        registry.end_session(1);
        registry.set(&path("a"), Location::Closed(CloseReason::Stopped));
        assert!(registry.is_empty());
    }
}
