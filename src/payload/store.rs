//! The values of this process, and what keeps them alive.
//!
//! The store itself holds weak references only. What is alive is decided by reachability: every place that keeps
//! a *serialised* reference (a published state, a waiting input) serialises inside [`collect`] and keeps the
//! [`Holds`] that come with it. A process that refers to a value of another one is *tied* to it: see [`Tie`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::elsewhere::Elsewhere;
use super::entry::Entry;
use super::hex::{Hex, PayloadId};
use super::keeper;

/// What says to another process that something here refers to a value, until it is released.
pub(crate) trait Tie: Send + Sync {
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
pub(crate) struct Hold {
    id: PayloadId,
    entry: Arc<Entry>,
    ties: Mutex<Vec<Arc<dyn Tie>>>,
    replicas: OnceLock<Replicas>,
}

/// How many processes are to have a value, and which it is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Replicas {
    pub(crate) count: u32,
    pub(crate) hash: Hex<32>,
    pub(crate) length: u64,
}

impl Hold {
    pub(crate) fn id(&self) -> PayloadId {
        self.id
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    fn ties(&self) -> MutexGuard<'_, Vec<Arc<dyn Tie>>> {
        self.ties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_tied(&self, session: u64) -> bool {
        self.ties().iter().any(|tie| tie.session() == session)
    }

    /// Ties it once more to this session, by a tie that `make` makes if there is none yet.
    pub(crate) fn tie(&self, session: u64, make: impl FnOnce() -> Arc<dyn Tie>) {
        let mut ties = self.ties();
        match ties.iter().find(|tie| tie.session() == session) {
            Some(tie) => tie.again(),
            None => ties.push(make()),
        }
    }

    /// Releases all other ties than those to these sessions and that of the copies.
    pub(crate) fn untie_all_but(&self, sessions: &[u64]) {
        let mut ties = self.ties();
        let (kept, released) = std::mem::take(&mut *ties)
            .into_iter()
            .partition(|tie| tie.session() == COPIES || sessions.contains(&tie.session()));
        *ties = kept;
        drop(ties);
        let released: Vec<Arc<dyn Tie>> = released;
        for tie in released {
            tie.release(false);
        }
    }

    /// Releases the tie to this session, if there is one.
    pub(crate) fn untie(&self, session: u64) {
        let mut ties = self.ties();
        let at = ties.iter().position(|tie| tie.session() == session);
        let released = at.map(|at| ties.swap_remove(at));
        drop(ties);
        if let Some(tie) = released {
            tie.release(false);
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

impl Drop for Hold {
    fn drop(&mut self) {
        let ties = std::mem::take(self.ties.get_mut().unwrap_or_else(PoisonError::into_inner));
        let copy_stays = self.entry.is_here() && ties.iter().any(|tie| tie.keeps_copies());
        let _replaced = {
            let mut holds = holds();
            // Another may have taken the place already.
            if holds.get(&self.id).is_some_and(|hold| std::ptr::eq(hold.as_ptr(), self)) {
                holds.remove(&self.id);
            }
            // Before it is released: what discards it may come at once.
            if copy_stays { keeper::park(self.id, self.entry.clone()) } else { None }
        };
        for tie in ties {
            tie.release(copy_stays);
        }
    }
}

fn holds() -> MutexGuard<'static, HashMap<PayloadId, Weak<Hold>>> {
    static HOLDS: OnceLock<Mutex<HashMap<PayloadId, Weak<Hold>>>> = OnceLock::new();
    HOLDS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn insert(holds: &mut HashMap<PayloadId, Weak<Hold>>, id: PayloadId, entry: Arc<Entry>) -> Arc<Hold> {
    let hold = Arc::new(Hold { id, entry, ties: Mutex::default(), replicas: OnceLock::new() });
    holds.insert(id, Arc::downgrade(&hold));
    hold
}

/// A value that was made here.
pub(super) fn made(id: PayloadId, entry: Arc<Entry>) -> Arc<Hold> {
    insert(&mut holds(), id, entry)
}

pub(crate) fn find(id: PayloadId) -> Option<Arc<Hold>> {
    holds().get(&id)?.upgrade()
}

/// The values that something in this process refers to.
pub(crate) fn all() -> Vec<Arc<Hold>> {
    holds().values().filter_map(Weak::upgrade).collect()
}

/// A reference has come from another process: what holds the value, here or there.
pub(crate) fn arrived(id: PayloadId, elsewhere: impl FnOnce() -> Arc<dyn Elsewhere>) -> Arc<Hold> {
    let mut holds = holds();
    if let Some(hold) = holds.get(&id).and_then(Weak::upgrade) {
        drop(holds);
        // What was made here is nowhere else.
        if hold.entry.elsewhere().is_some() {
            hold.entry.set_elsewhere(elsewhere());
        }
        return hold;
    }
    let entry = keeper::unpark(id).unwrap_or_else(Entry::away);
    entry.set_elsewhere(elsewhere());
    insert(&mut holds, id, entry)
}

/// A copy that nothing here refers to is not wanted any more.
pub(crate) fn discard(id: PayloadId) {
    drop(keeper::unpark(id));
}

/// Discards all copies that nothing here refers to, and forgets where values of other processes were: the session with
/// the head that this came from is over. A reference that comes in the next session begins anew, and does not wait for
/// a load of the last one.
pub(crate) fn discard_all() {
    let live: Vec<_> = holds().values().filter_map(Weak::upgrade).collect();
    let from_elsewhere: Vec<_> = live.iter().filter(|hold| hold.entry.elsewhere().is_some()).collect();
    {
        let mut holds = holds();
        for hold in from_elsewhere {
            holds.remove(&hold.id);
        }
    }
    // Dropping a hold takes the lock.
    drop(live);
    drop(keeper::unpark_all());
}

/// A value for those who pull it: one that something here refers to, or a copy that was kept.
pub(crate) fn entry_of(id: PayloadId) -> Option<Arc<Entry>> {
    match find(id) {
        Some(hold) => Some(hold.entry.clone()),
        None => keeper::parked(id),
    }
}

/// Keeps the values behind serialised references alive.
#[derive(Clone, Default)]
pub(crate) struct Holds(Option<Arc<[Arc<Hold>]>>);

impl Holds {
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Hold>> {
        self.0.iter().flat_map(|holds| holds.iter())
    }
}

impl FromIterator<Arc<Hold>> for Holds {
    fn from_iter<I: IntoIterator<Item = Arc<Hold>>>(holds: I) -> Self {
        let holds: Vec<_> = holds.into_iter().collect();
        Self((!holds.is_empty()).then(|| holds.into()))
    }
}

thread_local! {
    static COLLECTED: RefCell<Option<Vec<Arc<Hold>>>> = const { RefCell::new(None) };
    static BY_CONTENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `serialise` and gives what keeps alive every value whose reference it wrote.
pub(crate) fn collect<R>(serialise: impl FnOnce() -> R) -> (R, Holds) {
    struct Restore(Option<Vec<Arc<Hold>>>);
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

pub(super) fn note(hold: &Arc<Hold>) {
    COLLECTED.with_borrow_mut(|collected| {
        if let Some(collected) = collected {
            collected.push(hold.clone());
        }
    });
}
