//! The live sessions of a process.
//!
//! # Guarantees
//! - There is at most one session that this process began with each peer.
//! - A session that is over does not remove the one that has replaced it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::super::link::Link;
use crate::transport::Connection;

/// A session that another process began, by the number of the process and that of the session.
pub(super) type Key = (u64, u64);

/// The live sessions, by the process at the other end.
#[derive(Default)]
pub(super) struct Sessions(Mutex<SessionTable>);

#[derive(Default)]
struct SessionTable {
    accepted: HashMap<Key, Accepted>,
    /// Sessions with peers that this process began.
    peers: HashMap<u64, Arc<Link>>,
}

/// A session that another process began.
#[derive(Clone)]
pub(super) struct Accepted {
    pub(super) link: Arc<Link>,
    /// Takes its next connections, each with the number of the last message that had arrived at the peer.
    pub(super) connections: mpsc::Sender<(Connection, u64)>,
}

impl Sessions {
    pub(super) fn accepted(&self, key: Key) -> Option<Accepted> {
        self.0.lock().accepted.get(&key).cloned()
    }

    pub(super) fn all_accepted(&self) -> Vec<Arc<Link>> {
        self.0.lock().accepted.values().map(|accepted| accepted.link.clone()).collect()
    }

    pub(super) fn accept(&self, key: Key, accepted: Accepted) {
        self.0.lock().accepted.insert(key, accepted);
    }

    pub(super) fn forget_accepted(&self, key: Key) {
        self.0.lock().accepted.remove(&key);
    }

    /// Returns the session that this process began with a peer.
    pub(super) fn peer(&self, process: u64) -> Option<Arc<Link>> {
        self.0.lock().peers.get(&process).cloned()
    }

    /// Returns the live session that this process began with a peer. If there is none, keeps the one that `make` returns,
    /// and returns it with `true`.
    pub(super) fn peer_or_new(&self, process: u64, make: impl FnOnce() -> Arc<Link>) -> (Arc<Link>, bool) {
        let mut state = self.0.lock();
        if let Some(link) = state.peers.get(&process).filter(|link| !link.is_over()) {
            return (link.clone(), false);
        }
        let link = make();
        state.peers.insert(process, link.clone());
        (link, true)
    }

    /// Forgets a session that this process began, unless another has replaced it.
    pub(super) fn forget_peer(&self, process: u64, link: &Arc<Link>) {
        let mut state = self.0.lock();
        if state.peers.get(&process).is_some_and(|known| Arc::ptr_eq(known, link)) {
            state.peers.remove(&process);
        }
    }

    /// Returns the sessions that are not over.
    pub(super) fn live(&self) -> Vec<Arc<Link>> {
        let state = self.0.lock();
        let accepted = state.accepted.values().map(|accepted| &accepted.link);
        accepted.chain(state.peers.values()).filter(|link| !link.is_over()).cloned().collect()
    }

    /// Forgets all sessions, and returns them.
    pub(super) fn take_all(&self) -> Vec<Arc<Link>> {
        let state = std::mem::take(&mut *self.0.lock());
        let accepted = state.accepted.into_values().map(|accepted| accepted.link);
        accepted.chain(state.peers.into_values()).collect()
    }
}
