//! The store of an App's values in this process, and the guards and leases that keep them alive.
//!
//! The store holds weak references to values in use only. Reachability decides what is alive: every owner of a *serialised*
//! reference (a published state, a waiting input) serialises inside [`collect`] and keeps the resulting
//! [`PayloadGuards`]. A process that refers to a value in another process holds a [`Lease`] there.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Facilities};
use super::hex::{Hex, PayloadId};
use super::jobs::Jobs;
use super::memory_budget::{MemoryBudget, PayloadCounts, PayloadUsage};
use super::remote_source::RemoteSource;
use super::stored_blob::StoredBlob;
use crate::runtime::{self, Runtime};

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
    store: Weak<Store>,
    /// True if a Work created the value in this process, false if it came from another process.
    is_made_here: bool,
    entry: Arc<Entry>,
    leases: Mutex<Vec<Arc<dyn Lease>>>,
    replicas: OnceLock<Replicas>,
    /// True if the value is to survive its process, whatever its size.
    is_durable: AtomicBool,
    /// The claim on the recorded value, or the note that it is not recorded, once the journal has seen the reference.
    record: OnceLock<Box<dyn Any + Send + Sync>>,
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

    pub(crate) fn is_made_here(&self) -> bool {
        self.is_made_here
    }

    /// Requests the replicas of the value from the processes of its App.
    pub(super) fn replicate(self: &Arc<Self>) {
        let store = self.store.upgrade();
        let replicator = store.and_then(|store| store.replicator.lock().clone());
        if let Some(replicator) = replicator {
            replicator.replicate(self);
        }
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

    pub(crate) fn is_durable(&self) -> bool {
        self.is_durable.load(Ordering::Relaxed)
    }

    /// Has the journal record the value with the next reference to it, whatever its size.
    pub(crate) fn set_durable(&self) {
        self.is_durable.store(true, Ordering::Relaxed);
    }

    /// Returns true if the journal has recorded the value, is about to, or could not.
    #[cfg(feature = "journal")]
    pub(crate) fn has_record(&self) -> bool {
        self.record.get().is_some()
    }

    /// Ties a record of the value to the guard, which is dropped with it. Only the first call has an effect.
    #[cfg(feature = "journal")]
    pub(crate) fn set_record(&self, record: impl Any + Send + Sync) {
        let _ = self.record.set(Box::new(record));
    }
}

impl Drop for PayloadGuard {
    fn drop(&mut self) {
        let leases = std::mem::take(self.leases.get_mut());
        let store = self.store.upgrade();
        let copy_stays =
            store.is_some() && self.entry.is_here() && leases.iter().any(|lease| lease.keeps_copies());
        let _replaced = store.as_ref().and_then(|store| {
            let mut guards = store.guards.lock();
            // A new guard may have been registered since the last reference to this one was dropped.
            if guards.get(&self.id).is_some_and(|guard| std::ptr::eq(guard.as_ptr(), self)) {
                guards.remove(&self.id);
            }
            // Retain before the release: the peer may answer the release at once with a request to discard the
            // replica. A replica that this one replaces is dropped without a lock, since a value may refer to others.
            copy_stays.then(|| store.retained.lock().insert(self.id, self.entry.clone())).flatten()
        });
        for lease in leases {
            lease.release(copy_stays);
        }
    }
}

/// The values of an App in this process, as a part of its [`Runtime`].
pub(crate) struct Store {
    guards: Mutex<HashMap<PayloadId, Weak<PayloadGuard>>>,
    /// Replicas that nothing in this process refers to, retained for references in other processes.
    retained: Mutex<HashMap<PayloadId, Arc<Entry>>>,
    replicator: Mutex<Option<Arc<dyn Replicate>>>,
    facilities: Facilities,
    /// Number of uses of values that are not in this process.
    missing: AtomicU64,
}

/// Requests replicas of a value in other processes, if its App knows the value.
pub(crate) trait Replicate: Send + Sync {
    fn replicate(&self, hold: &Arc<PayloadGuard>);
}

impl Store {
    /// Creates the store of a runtime. Threads that load values belong to that runtime's App.
    pub(crate) fn new(budget: Arc<MemoryBudget>, runtime: Weak<Runtime>) -> Arc<Self> {
        Arc::new(Self {
            guards: Mutex::default(),
            retained: Mutex::default(),
            replicator: Mutex::default(),
            facilities: Facilities { budget, jobs: Jobs::new(runtime) },
            missing: AtomicU64::new(0),
        })
    }

    /// Returns the store of an App. That of a runtime without one is empty.
    pub(crate) fn of(runtime: &Runtime) -> Arc<Self> {
        runtime.part().unwrap_or_else(|| Self::new(Arc::default(), Weak::new()))
    }

    /// Returns the store of the App that this thread belongs to, or of the only App in this process.
    pub(super) fn here() -> Option<Arc<Self>> {
        runtime::current().ok()?.part()
    }

    /// Returns the store of this thread, which belongs to an App of its own from the first call on.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Arc<Self> {
        let runtime = runtime::of_thread().unwrap_or_else(|| {
            let new = |runtime: &Weak<Runtime>| {
                Runtime::new(crate::id::AppId::next()).with(Self::new(Arc::default(), runtime.clone()))
            };
            let runtime = Arc::new_cyclic(new);
            runtime::belong(runtime.clone());
            runtime
        });
        Self::of(&runtime)
    }

    /// Returns the number of times that a value was read, or was part of an input or a state, that is lost or has to be
    /// loaded first.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(crate) fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    pub(super) fn facilities(&self) -> &Facilities {
        &self.facilities
    }

    pub(super) fn budget(&self) -> &Arc<MemoryBudget> {
        &self.facilities.budget
    }

    /// Returns the memory and disk that the values take.
    pub(crate) fn usage(&self) -> PayloadUsage {
        self.budget().usage()
    }

    pub(crate) fn counts(&self) -> PayloadCounts {
        self.budget().counts()
    }

    /// Sets or removes the replicator.
    pub(crate) fn set_replicator(&self, replicator: Option<Arc<dyn Replicate>>) {
        let before = std::mem::replace(&mut *self.replicator.lock(), replicator);
        drop(before);
    }

    /// Returns a new guard, which the caller registers.
    fn guard(self: &Arc<Self>, id: PayloadId, is_made_here: bool, entry: Arc<Entry>) -> Arc<PayloadGuard> {
        Arc::new(PayloadGuard {
            id,
            store: Arc::downgrade(self),
            is_made_here,
            entry,
            leases: Mutex::default(),
            replicas: OnceLock::new(),
            is_durable: AtomicBool::new(false),
            record: OnceLock::new(),
        })
    }

    /// Registers a value that was created in this process.
    pub(super) fn made(self: &Arc<Self>, id: PayloadId, entry: Arc<Entry>) -> Arc<PayloadGuard> {
        let guard = self.guard(id, true, entry);
        self.guards.lock().insert(id, Arc::downgrade(&guard));
        guard
    }

    /// Registers a value that was recorded by an earlier process, unless it is known already.
    #[cfg(feature = "journal")]
    pub(crate) fn restored(self: &Arc<Self>, id: PayloadId, blob: StoredBlob) -> Arc<PayloadGuard> {
        if let Some(guard) = self.find(id) {
            return guard;
        }
        self.made(id, Entry::restored(&self.facilities, blob))
    }

    pub(crate) fn find(&self, id: PayloadId) -> Option<Arc<PayloadGuard>> {
        self.guards.lock().get(&id)?.upgrade()
    }

    /// Returns a guard for each value that something in this process refers to.
    pub(crate) fn all(&self) -> Vec<Arc<PayloadGuard>> {
        self.guards.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Registers a reference that arrived from another process, and returns the guard of its value. The value itself may
    /// be here already, or only at `remote_source`.
    pub(crate) fn arrived(
        self: &Arc<Self>,
        id: PayloadId,
        remote_source: impl FnOnce() -> Arc<dyn RemoteSource>,
    ) -> Arc<PayloadGuard> {
        let mut guards = self.guards.lock();
        if let Some(guard) = guards.get(&id).and_then(Weak::upgrade) {
            drop(guards);
            // A value that was created here has no remote source.
            if guard.entry.remote_source().is_some() {
                guard.entry.set_remote_source(remote_source());
            }
            return guard;
        }
        let retained = self.retained.lock().remove(&id);
        let entry = retained.unwrap_or_else(|| Entry::away(&self.facilities));
        entry.set_remote_source(remote_source());
        let guard = self.guard(id, false, entry);
        guards.insert(id, Arc::downgrade(&guard));
        guard
    }

    /// Discards a replica that nothing in this process refers to.
    pub(crate) fn discard(&self, id: PayloadId) {
        let discarded = self.retained.lock().remove(&id);
        // Dropped without the lock, since a value may refer to other values.
        drop(discarded);
    }

    /// Discards all replicas that nothing in this process refers to, and forgets all values, because the session with
    /// the head is over: the next session has a store of its own.
    pub(crate) fn end(&self) {
        self.set_replicator(None);
        self.guards.lock().clear();
        let discarded = std::mem::take(&mut *self.retained.lock());
        drop(discarded);
    }

    /// Returns a value for peers that pull it: one that something in this process refers to, or a retained replica.
    pub(crate) fn entry_of(&self, id: PayloadId) -> Option<Arc<Entry>> {
        match self.find(id) {
            Some(guard) => Some(guard.entry.clone()),
            None => self.retained.lock().get(&id).cloned(),
        }
    }
}

impl PayloadUsage {
    /// Returns the usage of one App in this process: of the App that the calling thread belongs to, as in code of a Work
    /// or Flow, or else of the only App that runs in this process. Zero if there is none, or if it is not clear which
    /// one is meant.
    ///
    /// ```
    /// let usage = flowright::PayloadUsage::here();
    /// assert_eq!((usage.memory, usage.disk), (0, 0));
    /// ```
    pub fn here() -> Self {
        Store::here().map_or_else(Self::default, |store| store.usage())
    }
}

/// Guards of the values behind serialised references.
#[derive(Clone, Default)]
pub(crate) struct PayloadGuards(Option<Arc<[Arc<PayloadGuard>]>>);

impl PayloadGuards {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns true if both are clones of the same guards, or empty.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
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

/// Counts the use of a value that is lost or has to be loaded first.
pub(super) fn note_missing() {
    if let Some(store) = Store::here() {
        store.missing.fetch_add(1, Ordering::Relaxed);
    }
}
