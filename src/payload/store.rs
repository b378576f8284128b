//! Registry of the values of this process, and the guards and leases that keep them alive.
//!
//! The registry holds weak references only. Reachability decides what is alive: every owner of a *serialised*
//! reference (a published state, a waiting input) serialises inside [`collect`] and keeps the resulting
//! [`PayloadGuards`]. A process that refers to a value in another process holds a [`Lease`] there.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::hex::{Hex, PayloadId};
use super::remote_source::RemoteSource;
use crate::id::AppId;

/// A claim on a value in another process. That process keeps the value until the lease is released.
pub(crate) trait Lease: Send + Sync {
    /// Returns the number of the session that the lease belongs to.
    fn session(&self) -> u64;

    /// Counts one more arrival of the reference.
    fn again(&self);

    /// Returns whether a replica may stay here after the last reference in this process is gone. If so, the other end
    /// says when to discard it.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Releases the lease, because nothing in this process refers to the value any more. `copy_stays` says whether a
    /// replica stays, which is possible only if [`keeps_copies`](Self::keeps_copies).
    fn release(&self, copy_stays: bool);
}

/// Session number of leases that keep no value alive elsewhere. By these, the head and a process with a replica tell
/// each other that the replica is not needed any more. No real session has this number.
pub(crate) const COPIES: u64 = 0;

/// A strong reference to a value. Dropping the last guard of a value frees it, or retains it as a replica if a lease
/// asks for that.
pub(crate) struct PayloadGuard {
    id: PayloadId,
    /// The App whose Work created the value in this process; `None` if the value came from another process.
    maker: Option<AppId>,
    entry: Arc<Entry>,
    leases: Mutex<Vec<Arc<dyn Lease>>>,
    replicas: OnceLock<Replicas>,
}

/// The number of processes that should have a replica of a value, and the identity of its content.
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

    pub(crate) fn maker(&self) -> Option<AppId> {
        self.maker
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(crate) fn is_tied(&self, session: u64) -> bool {
        self.leases.lock().iter().any(|lease| lease.session() == session)
    }

    /// Adds an arrival of the reference to the lease of this session, which `make` creates if there is none yet.
    pub(crate) fn lease(&self, session: u64, make: impl FnOnce() -> Arc<dyn Lease>) {
        let mut leases = self.leases.lock();
        match leases.iter().find(|lease| lease.session() == session) {
            Some(lease) => lease.again(),
            None => leases.push(make()),
        }
    }

    /// Releases all leases except those of `sessions` and of [`COPIES`].
    pub(crate) fn release_all_but(&self, sessions: &[u64]) {
        let mut leases = self.leases.lock();
        let (remaining, released) = std::mem::take(&mut *leases)
            .into_iter()
            .partition(|lease| lease.session() == COPIES || sessions.contains(&lease.session()));
        *leases = remaining;
        drop(leases);
        let released: Vec<Arc<dyn Lease>> = released;
        for lease in released {
            lease.release(false);
        }
    }

    /// Releases the lease of this session, if there is one.
    pub(crate) fn release_lease(&self, session: u64) {
        let mut leases = self.leases.lock();
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

    /// Sets the number of replicas. Only the first call has an effect.
    pub(crate) fn set_replicas(&self, replicas: Replicas) {
        let _ = self.replicas.set(replicas);
    }
}

impl Drop for PayloadGuard {
    fn drop(&mut self) {
        let leases = std::mem::take(self.leases.get_mut());
        let copy_stays = self.entry.is_here() && leases.iter().any(|lease| lease.keeps_copies());
        let _replaced = {
            let mut holds = holds();
            // A new guard may have been registered since the last reference to this one was dropped.
            if holds.get(&self.id).is_some_and(|hold| std::ptr::eq(hold.as_ptr(), self)) {
                holds.remove(&self.id);
            }
            // Retain before the release: the peer may answer the release at once with a request to discard the
            // replica.
            if copy_stays { retain(self.id, self.entry.clone()) } else { None }
        };
        for lease in leases {
            lease.release(copy_stays);
        }
    }
}

fn holds() -> MutexGuard<'static, HashMap<PayloadId, Weak<PayloadGuard>>> {
    static HOLDS: OnceLock<Mutex<HashMap<PayloadId, Weak<PayloadGuard>>>> = OnceLock::new();
    HOLDS.get_or_init(Mutex::default).lock()
}

/// Replicas that nothing in this process refers to, retained for references in other processes.
fn retained() -> MutexGuard<'static, HashMap<PayloadId, Arc<Entry>>> {
    static RETAINED: OnceLock<Mutex<HashMap<PayloadId, Arc<Entry>>>> = OnceLock::new();
    RETAINED.get_or_init(Mutex::default).lock()
}

/// Retains a replica until [`take_retained`]. Returns the replica that it replaces; the caller must drop that without
/// holding a lock, since a value may refer to other values.
fn retain(id: PayloadId, entry: Arc<Entry>) -> Option<Arc<Entry>> {
    retained().insert(id, entry)
}

fn take_retained(id: PayloadId) -> Option<Arc<Entry>> {
    retained().remove(&id)
}

fn take_all_retained() -> HashMap<PayloadId, Arc<Entry>> {
    std::mem::take(&mut *retained())
}

fn retained_entry(id: PayloadId) -> Option<Arc<Entry>> {
    retained().get(&id).cloned()
}

fn insert(
    holds: &mut HashMap<PayloadId, Weak<PayloadGuard>>,
    id: PayloadId,
    maker: Option<AppId>,
    entry: Arc<Entry>,
) -> Arc<PayloadGuard> {
    let hold =
        Arc::new(PayloadGuard { id, maker, entry, leases: Mutex::default(), replicas: OnceLock::new() });
    holds.insert(id, Arc::downgrade(&hold));
    hold
}

/// Registers a value that was created in this process.
pub(super) fn made(id: PayloadId, app: AppId, entry: Arc<Entry>) -> Arc<PayloadGuard> {
    insert(&mut holds(), id, Some(app), entry)
}

pub(crate) fn find(id: PayloadId) -> Option<Arc<PayloadGuard>> {
    holds().get(&id)?.upgrade()
}

/// Returns a guard for each value that something in this process refers to.
pub(crate) fn all() -> Vec<Arc<PayloadGuard>> {
    holds().values().filter_map(Weak::upgrade).collect()
}

/// Registers a reference that arrived from another process, and returns the guard of its value. The value itself may
/// be here already, or only at `remote_source`.
pub(crate) fn arrived(
    id: PayloadId,
    remote_source: impl FnOnce() -> Arc<dyn RemoteSource>,
) -> Arc<PayloadGuard> {
    let mut holds = holds();
    if let Some(hold) = holds.get(&id).and_then(Weak::upgrade) {
        drop(holds);
        // A value that was created here has no remote source.
        if hold.entry.remote_source().is_some() {
            hold.entry.set_remote_source(remote_source());
        }
        return hold;
    }
    let entry = take_retained(id).unwrap_or_else(Entry::away);
    entry.set_remote_source(remote_source());
    insert(&mut holds, id, None, entry)
}

/// Discards a replica that nothing in this process refers to.
pub(crate) fn discard(id: PayloadId) {
    drop(take_retained(id));
}

/// Discards all replicas that nothing in this process refers to, and forgets the remote sources of values, because
/// the session with the head that they came from is over. A reference that arrives in the next session starts anew,
/// and does not join a load of the previous session.
pub(crate) fn discard_all() {
    let live: Vec<_> = holds().values().filter_map(Weak::upgrade).collect();
    let from_elsewhere: Vec<_> = live.iter().filter(|hold| hold.entry.remote_source().is_some()).collect();
    {
        let mut holds = holds();
        for hold in from_elsewhere {
            holds.remove(&hold.id);
        }
    }
    // Dropping a guard takes the lock.
    drop(live);
    drop(take_all_retained());
}

/// Returns a value for peers that pull it: one that something in this process refers to, or a retained replica.
pub(crate) fn entry_of(id: PayloadId) -> Option<Arc<Entry>> {
    match find(id) {
        Some(hold) => Some(hold.entry.clone()),
        None => retained_entry(id),
    }
}

/// Guards of the values behind serialised references.
#[derive(Clone, Default)]
pub(crate) struct PayloadGuards(Option<Arc<[Arc<PayloadGuard>]>>);

impl PayloadGuards {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Removes duplicates, so that each value has one guard.
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

/// Runs `serialise` and returns guards for every value whose reference it wrote.
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

/// Runs `serialise` with references written as hash and length only, so that equal content has equal encoding. Run
/// keys are computed this way.
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
