//! Memory and disk budgets of the values of an App in this process, and LRU eviction to disk.
//!
//! # Guarantees
//! - Values in memory take no more than the memory budget, measured by their encoded length; the least recently used
//!   ones are spilled to disk. A value whose allocation is in use is never spilled. Values of at most 64 KiB that
//!   arrive from other processes may exceed the budget until others have been spilled.
//! - Spill files take no more than the disk budget.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::error::FetchError;
use crate::machine;

/// Limits for the values of an App in a process. `None` means the default.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreSettings {
    /// Memory budget in bytes; by default a quarter of the memory available to this process.
    pub(crate) memory: Option<u64>,
    /// Disk budget in bytes; unlimited by default.
    pub(crate) disk: Option<u64>,
    /// Directory of spill files; by default the system's temporary directory.
    pub(crate) directory: Option<PathBuf>,
}

/// A value that the memory budget counts while it is in memory, and can have spilled to disk.
pub(super) trait Spillable: Send + Sync {
    /// Returns the position in the LRU order.
    fn used(&self) -> &AtomicU64;

    /// Spills the value to disk, unless its allocation is in use.
    fn spill(&self) -> SpillOutcome;
}

pub(super) enum SpillOutcome {
    /// The value no longer takes memory.
    Done,
    InUse,
    Failed(FetchError),
}

/// The memory and disk that values take, and their limits. A node that joins an App again keeps its budget, since values
/// of the session before may still be in use.
#[derive(Default)]
pub(crate) struct MemoryBudget {
    state: Mutex<State>,
    hits: AtomicU64,
    pulls: AtomicU64,
    spills: AtomicU64,
}

#[derive(Default)]
struct State {
    settings: StoreSettings,
    memory: u64,
    disk: u64,
    /// The values in memory, least recently used first.
    order: BTreeMap<u64, Weak<dyn Spillable>>,
    next: u64,
}

/// Counters of an App in this process: values read from memory (`hits`), pulled from another process (`pulls`) and spilled to
/// disk (`spills`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PayloadCounts {
    pub(crate) hits: u64,
    pub(crate) pulls: u64,
    pub(crate) spills: u64,
}

/// Memory and disk used by the values of payloads, in bytes of their encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct PayloadUsage {
    /// Bytes in memory.
    pub memory: u64,
    /// Bytes on disk.
    pub disk: u64,
}

impl StoreSettings {
    /// Returns the memory budget in bytes; by default a quarter of the memory available to this process, or 1 GiB if
    /// the system does not report it.
    fn memory(&mut self) -> u64 {
        *self.memory.get_or_insert_with(|| machine::memory().map_or(1 << 30, |memory| memory / 4))
    }
}

impl MemoryBudget {
    pub(crate) fn new(settings: StoreSettings) -> Arc<Self> {
        let state = Mutex::new(State { settings, ..State::default() });
        Arc::new(Self { state, ..Self::default() })
    }

    pub(super) fn usage(&self) -> PayloadUsage {
        let state = self.state.lock();
        PayloadUsage { memory: state.memory, disk: state.disk }
    }

    pub(super) fn counts(&self) -> PayloadCounts {
        let [hits, pulls, spills] =
            [&self.hits, &self.pulls, &self.spills].map(|count| count.load(Ordering::Relaxed));
        PayloadCounts { hits, pulls, spills }
    }

    pub(super) fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_pull(&self) {
        self.pulls.fetch_add(1, Ordering::Relaxed);
    }

    /// Reserves memory for a value, spilling the least recently used values to disk until there is room.
    pub(super) fn reserve(&self, length: u64) -> Result<(), FetchError> {
        let mut tried = 0;
        let mut obstacle = None;
        loop {
            let mut state = self.state.lock();
            let budget = state.settings.memory();
            if state.memory.saturating_add(length) <= budget {
                state.memory += length;
                return Ok(());
            }
            let found =
                (length <= budget && tried < state.order.len()).then(|| state.order.pop_first()).flatten();
            let Some((_, victim)) = found else {
                let in_use = state.memory;
                drop(state);
                let why = match obstacle {
                    Some(obstacle) => format!("no other value could be spilled to disk: {obstacle}"),
                    None if length > budget => "it alone exceeds that budget".to_owned(),
                    None => format!("values in use take {in_use} bytes"),
                };
                return Err(FetchError::NoRoom(format!(
                    "it has {length} bytes, and the memory budget of payloads is {budget} bytes; {why}; \
                     raise it with --payload-memory"
                )));
            };
            drop(state);
            let Some(victim) = victim.upgrade() else { continue };
            match victim.spill() {
                SpillOutcome::Done => {
                    self.spills.fetch_add(1, Ordering::Relaxed);
                }
                SpillOutcome::InUse => {
                    tried += 1;
                    self.put_last(victim.used(), Arc::downgrade(&victim));
                }
                SpillOutcome::Failed(error) => {
                    tried += 1;
                    obstacle = Some(error);
                    self.put_last(victim.used(), Arc::downgrade(&victim));
                }
            }
        }
    }

    /// Spills values if the budget is exceeded. Values in use cannot be spilled; the budget then stays exceeded until
    /// they are released.
    pub(super) fn settle(&self) {
        let _ = self.reserve(0);
    }

    pub(super) fn is_exceeded(&self) -> bool {
        let mut state = self.state.lock();
        state.memory > state.settings.memory()
    }

    /// Reserves memory without checking the budget.
    pub(super) fn take(&self, length: u64) {
        self.state.lock().memory += length;
    }

    pub(super) fn freed(&self, length: u64) {
        let mut state = self.state.lock();
        state.memory = state.memory.saturating_sub(length);
    }

    /// Marks a value in memory as the most recently used one.
    pub(super) fn enlist<S: Spillable + 'static>(&self, value: &Arc<S>) {
        let weak: Weak<S> = Arc::downgrade(value);
        self.put_last(value.used(), weak);
    }

    fn put_last(&self, used: &AtomicU64, value: Weak<dyn Spillable>) {
        let mut state = self.state.lock();
        state.next += 1;
        let next = state.next;
        let before = used.swap(next, Ordering::Relaxed);
        state.order.remove(&before);
        state.order.insert(next, value);
    }

    /// Removes a value from the LRU order, because it is no longer in memory.
    pub(super) fn delist(&self, used: u64) {
        self.state.lock().order.remove(&used);
    }

    /// Reserves disk space and returns the directory for the file.
    pub(super) fn disk_reserve(&self, length: u64) -> Result<PathBuf, FetchError> {
        let mut state = self.state.lock();
        let budget = state.settings.disk.unwrap_or(u64::MAX);
        if state.disk.saturating_add(length) > budget {
            return Err(FetchError::NoRoom(format!(
                "it has {length} bytes, and {} of the {budget} bytes in the disk budget of payloads are taken; \
                 raise it with --payload-disk",
                state.disk
            )));
        }
        state.disk += length;
        Ok(state.settings.directory.clone().unwrap_or_else(std::env::temp_dir))
    }

    pub(super) fn disk_freed(&self, length: u64) {
        let mut state = self.state.lock();
        state.disk = state.disk.saturating_sub(length);
    }
}
