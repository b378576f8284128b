//! Where each Work is, and which sessions are told: pure. Kept by the head.
//!
//! # Guarantees
//! - A session that has asked for a path is told of every change, unless a newer one comes first: what waits to be told is
//!   one location for each path.
//! - A location with a number is never told after one with a higher number.
//! - What nobody asks for and no node hosts is not kept.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::id::ActorPath;
use crate::work::CloseReason;

/// The paths that a session may ask for.
pub(in crate::remote) const MOST_SUBSCRIPTIONS: usize = 1 << 20;

/// The place of a Work as the head tells it. `N` names a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Location<N> {
    /// Being started, restarted or moved.
    Pending,
    /// On this node, as this incarnation. The head's own Works, and those in processes of their own, are on the head.
    At {
        node: N,
        incarnation: u64,
    },
    Closed(CloseReason),
}

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
    /// Paths whose location it has not been told yet, each once.
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
    /// The location of a Work, where it is known.
    pub(in crate::remote) fn location(&self, path: &ActorPath) -> Option<&Location<u64>> {
        self.entries.get(path).map(|entry| &entry.location)
    }

    /// Tells `session` of the Work at `path` from now on. `current` is the location where nothing is known of it here. Gives
    /// `false` when the session has asked for too many.
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

    /// The session is over.
    pub(in crate::remote) fn end_session(&mut self, session: u64) {
        let Some(subscriber) = self.sessions.remove(&session) else { return };
        for path in &subscriber.paths {
            self.forget(session, path);
        }
    }

    /// The Work at `path` is somewhere else now.
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

    /// This incarnation is over. Another word on the Work will come.
    pub(in crate::remote) fn over(&mut self, path: &ActorPath, over: u64) {
        let is_it = |location: &Location<u64>| matches!(location, Location::At { incarnation, .. } if *incarnation == over);
        if self.location(path).is_some_and(is_it) {
            self.set(path, Location::Pending);
        }
    }

    /// The next thing to be told to `session`.
    pub(in crate::remote) fn next(&mut self, session: u64) -> Option<(ActorPath, Location<u64>)> {
        let subscriber = self.sessions.get_mut(&session)?;
        loop {
            let path = subscriber.untold.pop_front()?;
            // It may have been unsubscribed since.
            if subscriber.is_untold.remove(&path) {
                let location = self.entries.get(&path).map(|entry| entry.location.clone());
                return Some((path, location.unwrap_or(Location::Closed(CloseReason::Unknown))));
            }
        }
    }

    /// The sessions to which something is to be told.
    pub(in crate::remote) fn untold(&self) -> Vec<u64> {
        let untold = self.sessions.iter().filter(|(_, subscriber)| !subscriber.untold.is_empty());
        untold.map(|(session, _)| *session).collect()
    }

    /// Whether nothing is kept.
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

    /// Changes that were not told yet are told as the last of them.
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

    /// The end of an incarnation that was replaced says nothing about its successor.
    #[test]
    fn the_end_of_an_older_incarnation_changes_nothing() {
        let mut registry = Registry::default();
        registry.set(&path("a"), at(7, 2));
        registry.over(&path("a"), 1);
        assert_eq!(registry.location(&path("a")), Some(&at(7, 2)));
    }

    /// What was unsubscribed is not told, and nothing is kept of it.
    #[test]
    fn an_unsubscribed_path_is_forgotten() {
        let mut registry = Registry::default();
        assert!(registry.subscribe(1, &path("a"), || at(7, 1)));
        registry.unsubscribe(1, &path("a"));
        assert_eq!(registry.next(1), None);
        registry.over(&path("a"), 1);
        assert!(registry.is_empty());
    }

    /// A path that is asked for again before it was told is told once.
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
