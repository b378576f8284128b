//! The values of this process, and what keeps them alive.
//!
//! The store itself holds weak references only. What is alive is decided by reachability: every place that keeps
//! a *serialised* reference (a published state, a waiting input) serialises inside [`collect`] and keeps the
//! [`PayloadGuards`] that come with it. A process that refers to a value of another one is *tied* to it: see [`Lease`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::hex::{Hex, PayloadId};
use super::memory_budget;
use super::remote_source::RemoteSource;

/// What says to another process that something here refers to a value, until it is released.
pub(crate) trait Lease: Send + Sync {
    /// The number of the session that it is part of.
    fn session(&self) -> u64;

    /// The reference came once more.
    fn again(&self);

    /// Whether a copy may stay when nothing here refers to the value any more: the other end says when it is to be
    /// discarded.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Nothing here refers to the value any more, and whether a copy stays, if it may.
    fn release(&self, copy_stays: bool);
}

/// The session of ties that keep no value alive elsewhere: those by which the head and a process that has a copy
/// let each other know when it is not wanted any more. No session has this number.
pub(crate) const COPIES: u64 = 0;

/// What keeps one value alive; dropping the last one of a value lets go of it.
pub(crate) struct PayloadGuard {
    id: PayloadId,
    entry: Arc<Entry>,
    leases: Mutex<Vec<Arc<dyn Lease>>>,
    replicas: OnceLock<Replicas>,
}

/// How many processes are to have a value, and which it is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Replicas {
    pub(crate) count: u32,
    pub(crate) hash: Hex<32>,
    pub(crate) length: u64,
}

impl PayloadGuard {
    pub(crate) fn id(&self) -> PayloadId {
        self.id
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    fn leases(&self) -> MutexGuard<'_, Vec<Arc<dyn Lease>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_tied(&self, session: u64) -> bool {
        self.leases().iter().any(|lease| lease.session() == session)
    }

    /// Ties it once more to this session, by a tie that `make` makes if there is none yet.
    pub(crate) fn lease(&self, session: u64, make: impl FnOnce() -> Arc<dyn Lease>) {
        let mut leases = self.leases();
        match leases.iter().find(|lease| lease.session() == session) {
            Some(lease) => lease.again(),
            None => leases.push(make()),
        }
    }

    /// Releases all other ties than those to these sessions and that of the copies.
    pub(crate) fn untie_all_but(&self, sessions: &[u64]) {
        let mut leases = self.leases();
        let (blob, released) = std::mem::take(&mut *leases)
            .into_iter()
            .partition(|lease| lease.session() == COPIES || sessions.contains(&lease.session()));
        *leases = blob;
        drop(leases);
        let released: Vec<Arc<dyn Lease>> = released;
        for lease in released {
            lease.release(false);
        }
    }

    /// Releases the tie to this session, if there is one.
    pub(crate) fn untie(&self, session: u64) {
        let mut leases = self.leases();
        let at = leases.iter().position(|lease| lease.session() == session);
        let released = at.map(|at| leases.swap_remove(at));
        drop(leases);
        if let Some(lease) = released {
            lease.release(false);
        }
    }

    pub(crate) fn replicas(&self) -> Option<Replicas> {
        self.replicas.get().copied()
    }

    /// Says how many processes are to have it; once.
    pub(crate) fn set_replicas(&self, replicas: Replicas) {
        let _ = self.replicas.set(replicas);
    }
}

impl Drop for PayloadGuard {
    fn drop(&mut self) {
        let leases = std::mem::take(self.leases.get_mut().unwrap_or_else(PoisonError::into_inner));
        let copy_stays = self.entry.is_here() && leases.iter().any(|lease| lease.keeps_copies());
        let _replaced = {
            let mut holds = holds();
            // Another may have taken the place already.
            if holds.get(&self.id).is_some_and(|hold| std::ptr::eq(hold.as_ptr(), self)) {
                holds.remove(&self.id);
            }
            // Before it is released: what discards it may come at once.
            if copy_stays { memory_budget::retain(self.id, self.entry.clone()) } else { None }
        };
        for lease in leases {
            lease.release(copy_stays);
        }
    }
}

fn holds() -> MutexGuard<'static, HashMap<PayloadId, Weak<PayloadGuard>>> {
    static HOLDS: OnceLock<Mutex<HashMap<PayloadId, Weak<PayloadGuard>>>> = OnceLock::new();
    HOLDS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn insert(
    holds: &mut HashMap<PayloadId, Weak<PayloadGuard>>,
    id: PayloadId,
    entry: Arc<Entry>,
) -> Arc<PayloadGuard> {
    let hold = Arc::new(PayloadGuard { id, entry, leases: Mutex::default(), replicas: OnceLock::new() });
    holds.insert(id, Arc::downgrade(&hold));
    hold
}

/// A value that was made here.
pub(super) fn made(id: PayloadId, entry: Arc<Entry>) -> Arc<PayloadGuard> {
    insert(&mut holds(), id, entry)
}

pub(crate) fn find(id: PayloadId) -> Option<Arc<PayloadGuard>> {
    holds().get(&id)?.upgrade()
}

/// The values that something in this process refers to.
pub(crate) fn all() -> Vec<Arc<PayloadGuard>> {
    holds().values().filter_map(Weak::upgrade).collect()
}

/// A reference has come from another process: what holds the value, here or there.
pub(crate) fn arrived(
    id: PayloadId,
    remote_source: impl FnOnce() -> Arc<dyn RemoteSource>,
) -> Arc<PayloadGuard> {
    let mut holds = holds();
    if let Some(hold) = holds.get(&id).and_then(Weak::upgrade) {
        drop(holds);
        // What was made here is nowhere else.
        if hold.entry.remote_source().is_some() {
            hold.entry.set_remote_source(remote_source());
        }
        return hold;
    }
    let entry = memory_budget::unpark(id).unwrap_or_else(Entry::away);
    entry.set_remote_source(remote_source());
    insert(&mut holds, id, entry)
}

/// A copy that nothing here refers to is not wanted any more.
pub(crate) fn discard(id: PayloadId) {
    drop(memory_budget::unpark(id));
}

/// Discards all copies that nothing here refers to, and forgets where values of other processes were: the session with
/// the head that this came from is over. A reference that comes in the next session begins anew, and does not wait for
/// a load of the last one.
pub(crate) fn discard_all() {
    let live: Vec<_> = holds().values().filter_map(Weak::upgrade).collect();
    let from_elsewhere: Vec<_> = live.iter().filter(|hold| hold.entry.remote_source().is_some()).collect();
    {
        let mut holds = holds();
        for hold in from_elsewhere {
            holds.remove(&hold.id);
        }
    }
    // Dropping a hold takes the lock.
    drop(live);
    drop(memory_budget::unpark_all());
}

/// A value for those who pull it: one that something here refers to, or a copy that was kept.
pub(crate) fn entry_of(id: PayloadId) -> Option<Arc<Entry>> {
    match find(id) {
        Some(hold) => Some(hold.entry.clone()),
        None => memory_budget::parked(id),
    }
}

/// Keeps the values behind serialised references alive.
#[derive(Clone, Default)]
pub(crate) struct PayloadGuards(Option<Arc<[Arc<PayloadGuard>]>>);

impl PayloadGuards {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The same, with each value once.
    pub(crate) fn distinct(self) -> Self {
        let Some(holds) = &self.0 else { return self };
        let mut seen = HashSet::new();
        let distinct: Vec<_> = holds.iter().filter(|hold| seen.insert(hold.id())).cloned().collect();
        if distinct.len() == holds.len() { self } else { Self(Some(distinct.into())) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PayloadGuard>> {
        self.0.iter().flat_map(|holds| holds.iter())
    }
}

impl FromIterator<Arc<PayloadGuard>> for PayloadGuards {
    fn from_iter<I: IntoIterator<Item = Arc<PayloadGuard>>>(holds: I) -> Self {
        let holds: Vec<_> = holds.into_iter().collect();
        Self((!holds.is_empty()).then(|| holds.into()))
    }
}

thread_local! {
    static COLLECTED: RefCell<Option<Vec<Arc<PayloadGuard>>>> = const { RefCell::new(None) };
    static BY_CONTENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `serialise` and gives what keeps alive every value whose reference it wrote.
pub(crate) fn collect<R>(serialise: impl FnOnce() -> R) -> (R, PayloadGuards) {
    struct Restore(Option<Vec<Arc<PayloadGuard>>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            COLLECTED.set(self.0.take());
        }
    }

    let _restore = Restore(COLLECTED.replace(Some(Vec::new())));
    let result = serialise();
    let found = COLLECTED.take().unwrap_or_default();
    (result, found.into_iter().collect())
}

/// Runs `serialise` with references written as their content alone, for identities.
pub(crate) fn by_content<R>(serialise: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            BY_CONTENT.set(self.0);
        }
    }

    let _restore = Restore(BY_CONTENT.replace(true));
    serialise()
}

pub(super) fn is_by_content() -> bool {
    BY_CONTENT.get()
}

pub(super) fn note(hold: &Arc<PayloadGuard>) {
    COLLECTED.with_borrow_mut(|collected| {
        if let Some(collected) = collected {
            collected.push(hold.clone());
        }
    });
}
