//! Memory and disk budgets of the values in this process, and LRU eviction to disk.
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

/// Limits for the values in a process. `None` means the default, or the setting made earlier.
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

struct MemoryBudget {
    settings: StoreSettings,
    memory: u64,
    disk: u64,
    /// The values in memory, least recently used first.
    order: BTreeMap<u64, Weak<dyn Spillable>>,
    next: u64,
}

static BUDGET: Mutex<MemoryBudget> = Mutex::new(MemoryBudget {
    settings: StoreSettings { memory: None, disk: None, directory: None },
    memory: 0,
    disk: 0,
    order: BTreeMap::new(),
    next: 0,
});

/// Replaces the limits that `settings` sets; the others stay as they are.
pub(crate) fn configure(settings: StoreSettings) {
    let mut memory_budget = BUDGET.lock();
    let before = std::mem::take(&mut memory_budget.settings);
    memory_budget.settings = StoreSettings {
        memory: settings.memory.or(before.memory),
        disk: settings.disk.or(before.disk),
        directory: settings.directory.or(before.directory),
    };
}

static HITS: AtomicU64 = AtomicU64::new(0);
static PULLS: AtomicU64 = AtomicU64::new(0);
static SPILLS: AtomicU64 = AtomicU64::new(0);

/// Counters of this process: values read from memory (`hits`), pulled from another process (`pulls`) and spilled to
/// disk (`spills`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PayloadCounts {
    pub(crate) hits: u64,
    pub(crate) pulls: u64,
    pub(crate) spills: u64,
}

impl PayloadCounts {
    pub(crate) fn here() -> Self {
        let [hits, pulls, spills] = [&HITS, &PULLS, &SPILLS].map(|count| count.load(Ordering::Relaxed));
        Self { hits, pulls, spills }
    }
}

pub(super) fn count_hit() {
    HITS.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn count_pull() {
    PULLS.fetch_add(1, Ordering::Relaxed);
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

impl PayloadUsage {
    /// Returns the usage of this process.
    ///
    /// ```
    /// let usage = flowright::PayloadUsage::here();
    /// assert_eq!((usage.memory, usage.disk), (0, 0));
    /// ```
    pub fn here() -> Self {
        let memory_budget = BUDGET.lock();
        Self { memory: memory_budget.memory, disk: memory_budget.disk }
    }
}

impl StoreSettings {
    /// Returns the memory budget in bytes; by default a quarter of the memory available to this process, or 1 GiB if
    /// the system does not report it.
    fn memory(&mut self) -> u64 {
        *self.memory.get_or_insert_with(|| machine::memory().map_or(1 << 30, |memory| memory / 4))
    }
}

/// Reserves memory for a value, spilling the least recently used values to disk until there is room.
pub(super) fn reserve(length: u64) -> Result<(), FetchError> {
    let mut tried = 0;
    let mut obstacle = None;
    loop {
        let mut memory_budget = BUDGET.lock();
        let budget = memory_budget.settings.memory();
        if memory_budget.memory.saturating_add(length) <= budget {
            memory_budget.memory += length;
            return Ok(());
        }
        let found = (length <= budget && tried < memory_budget.order.len())
            .then(|| memory_budget.order.pop_first())
            .flatten();
        let Some((_, victim)) = found else {
            let in_use = memory_budget.memory;
            drop(memory_budget);
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
        drop(memory_budget);
        let Some(victim) = victim.upgrade() else { continue };
        match victim.spill() {
            SpillOutcome::Done => {
                SPILLS.fetch_add(1, Ordering::Relaxed);
            }
            SpillOutcome::InUse => {
                tried += 1;
                put_last(victim.used(), Arc::downgrade(&victim));
            }
            SpillOutcome::Failed(error) => {
                tried += 1;
                obstacle = Some(error);
                put_last(victim.used(), Arc::downgrade(&victim));
            }
        }
    }
}

/// Spills values on another thread if the budget is exceeded, for callers that cannot block.
pub(super) fn settle_later() {
    let mut memory_budget = BUDGET.lock();
    if memory_budget.memory > memory_budget.settings.memory() {
        drop(memory_budget);
        super::jobs::run(|| {
            // Values in use cannot be spilled; the budget stays exceeded until they are released.
            let _ = reserve(0);
        });
    }
}

/// Reserves memory without checking the budget.
pub(super) fn take(length: u64) {
    BUDGET.lock().memory += length;
}

pub(super) fn freed(length: u64) {
    let mut memory_budget = BUDGET.lock();
    memory_budget.memory = memory_budget.memory.saturating_sub(length);
}

/// Marks a value in memory as the most recently used one.
pub(super) fn enlist<S: Spillable + 'static>(value: &Arc<S>) {
    let weak: Weak<S> = Arc::downgrade(value);
    put_last(value.used(), weak);
}

fn put_last(used: &AtomicU64, value: Weak<dyn Spillable>) {
    let mut memory_budget = BUDGET.lock();
    memory_budget.next += 1;
    let next = memory_budget.next;
    let before = used.swap(next, Ordering::Relaxed);
    memory_budget.order.remove(&before);
    memory_budget.order.insert(next, value);
}

/// Removes a value from the LRU order, because it is no longer in memory.
pub(super) fn delist(used: u64) {
    BUDGET.lock().order.remove(&used);
}

/// Reserves disk space and returns the directory for the file.
pub(super) fn disk_reserve(length: u64) -> Result<PathBuf, FetchError> {
    let mut memory_budget = BUDGET.lock();
    let budget = memory_budget.settings.disk.unwrap_or(u64::MAX);
    if memory_budget.disk.saturating_add(length) > budget {
        return Err(FetchError::NoRoom(format!(
            "it has {length} bytes, and {} of the {budget} bytes in the disk budget of payloads are taken; \
             raise it with --payload-disk",
            memory_budget.disk
        )));
    }
    memory_budget.disk += length;
    Ok(memory_budget.settings.directory.clone().unwrap_or_else(std::env::temp_dir))
}

pub(super) fn disk_freed(length: u64) {
    let mut memory_budget = BUDGET.lock();
    memory_budget.disk = memory_budget.disk.saturating_sub(length);
}
