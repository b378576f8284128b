//! The observers of an App: those that follow its version, and the one that waits for a snapshot.
//!
//! # Guarantees
//! - The version grows by one with each publication that follows a change, and by nothing else.
//! - A waiting observer gets the snapshot of the first version after the one that it knows.
//! - An observer that only waits for the end of the App is not woken by changes.

use tokio::sync::{oneshot, watch};

/// The published version of an App, and its observers, which are sent snapshots of type `S`.
pub(super) struct Observers<S> {
    version: watch::Sender<u64>,
    /// Closed on drop, which notifies those that wait for the end of the App only.
    alive: watch::Sender<()>,
    /// True if something has changed since the last publication.
    is_changed: bool,
    /// A waiting observer, which is sent a snapshot with the next change. A separate call would cost two more wake-ups.
    waiting: Option<oneshot::Sender<S>>,
}

impl<S> Observers<S> {
    pub(super) fn new() -> Self {
        Self {
            version: watch::Sender::new(0),
            alive: watch::Sender::new(()),
            is_changed: false,
            waiting: None,
        }
    }

    pub(super) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Returns a receiver of each new version, which closes when the App ends.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Returns a receiver that closes when the App ends, and never changes.
    pub(super) fn alive(&self) -> watch::Receiver<()> {
        self.alive.subscribe()
    }

    /// Records a change, which the next publication shows.
    pub(super) fn change(&mut self) {
        self.is_changed = true;
    }

    /// Keeps `observer` until the version differs from `version`, in place of an earlier one. Returns the observer if
    /// the version differs already: it is to be sent a snapshot now.
    pub(super) fn wait(&mut self, version: u64, observer: oneshot::Sender<S>) -> Option<oneshot::Sender<S>> {
        if self.version() != version {
            return Some(observer);
        }
        self.waiting = Some(observer);
        None
    }

    /// Publishes a new version if something has changed. Returns the observer that waits for its snapshot.
    pub(super) fn publish(&mut self) -> Option<oneshot::Sender<S>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        self.version.send_modify(|version| *version += 1);
        self.waiting.take().filter(|observer| !observer.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version grows with changes only, however many there were.
    #[test]
    fn version_after_several_changes_grows_by_one() {
        let mut observers = Observers::<u32>::new();
        let mut changes = observers.changes();
        assert!(observers.publish().is_none());
        assert!(!changes.has_changed().unwrap());
        observers.change();
        observers.change();
        observers.publish();
        observers.publish();
        assert_eq!(*changes.borrow_and_update(), 1);
    }

    /// An observer waits for a version other than the one that it knows, and gets none twice.
    #[test]
    fn observer_of_the_current_version_waits_for_the_next() {
        let mut observers = Observers::new();
        let (observer, mut snapshot) = oneshot::channel();
        assert!(observers.wait(0, observer).is_none());
        assert!(observers.publish().is_none(), "nothing has changed");
        observers.change();
        observers.publish().expect("it waits").send(7).unwrap();
        assert_eq!(snapshot.try_recv(), Ok(7));
        observers.change();
        assert!(observers.publish().is_none());
        let (observer, _snapshot) = oneshot::channel::<u32>();
        assert!(observers.wait(0, observer).is_some(), "version 2 is there already");
    }

    /// No snapshot is taken for an observer that has stopped waiting.
    #[test]
    fn observer_that_is_gone_is_not_served() {
        let mut observers = Observers::<u32>::new();
        let (observer, snapshot) = oneshot::channel();
        observers.wait(0, observer);
        drop(snapshot);
        observers.change();
        assert!(observers.publish().is_none());
    }

    /// The end of the App closes both receivers, and changes wake only one of them.
    #[test]
    fn receiver_of_the_end_ignores_changes() {
        let mut observers = Observers::<u32>::new();
        let (changes, alive) = (observers.changes(), observers.alive());
        observers.change();
        observers.publish();
        assert!(changes.has_changed().unwrap() && !alive.has_changed().unwrap());
        drop(observers);
        assert!(alive.has_changed().is_err());
    }
}
