//! The values of this process, and what keeps them alive.
//!
//! The store itself holds weak references only. What is alive is decided by reachability: every place that keeps
//! a *serialised* reference (a published state, a waiting input) serialises inside [`collect`] and keeps the
//! [`Holds`] that come with it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A stored value; dropping the last handle frees it and takes it out of the store.
pub(super) struct Entry {
    id: u128,
    pub(super) value: Arc<dyn Any + Send + Sync>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        entries().lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

fn entries() -> &'static Mutex<HashMap<u128, Weak<Entry>>> {
    static ENTRIES: OnceLock<Mutex<HashMap<u128, Weak<Entry>>>> = OnceLock::new();
    ENTRIES.get_or_init(Mutex::default)
}

pub(super) fn insert(id: u128, value: Arc<dyn Any + Send + Sync>) -> Arc<Entry> {
    let entry = Arc::new(Entry { id, value });
    entries().lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::downgrade(&entry));
    entry
}

pub(super) fn find(id: u128) -> Option<Arc<Entry>> {
    entries().lock().unwrap_or_else(PoisonError::into_inner).get(&id)?.upgrade()
}

/// Keeps the values behind serialised references alive.
#[derive(Clone, Default)]
pub(crate) struct Holds(Option<Arc<[Arc<Entry>]>>);

impl Holds {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

thread_local! {
    static COLLECTED: RefCell<Option<Vec<Arc<Entry>>>> = const { RefCell::new(None) };
    static BY_CONTENT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `serialise` and gives what keeps alive every value whose reference it wrote.
pub(crate) fn collect<R>(serialise: impl FnOnce() -> R) -> (R, Holds) {
    struct Restore(Option<Vec<Arc<Entry>>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            COLLECTED.set(self.0.take());
        }
    }

    let _restore = Restore(COLLECTED.replace(Some(Vec::new())));
    let result = serialise();
    let found = COLLECTED.take().unwrap_or_default();
    (result, Holds((!found.is_empty()).then(|| found.into())))
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

pub(super) fn note(entry: &Arc<Entry>) {
    COLLECTED.with_borrow_mut(|collected| {
        if let Some(collected) = collected {
            collected.push(entry.clone());
        }
    });
}
