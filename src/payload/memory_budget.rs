//! How much room the values of this process take, and which have to make room for others.
//!
//! # Guarantees
//! - Values in memory take no more than the budget, by their encoded length; those that were not used for longest go to
//!   disk. One that somebody has a hand on stays.
//! - Files take no more than the disk's budget.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::entry::{Entry, SpillOutcome};
use super::error::FetchError;
use super::hex::PayloadId;
use crate::machine;

/// What the values of a process may take.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreSettings {
    /// In memory, in bytes.
    pub(crate) memory: Option<u64>,
    /// On disk, in bytes.
    pub(crate) disk: Option<u64>,
    /// Where on disk.
    pub(crate) directory: Option<PathBuf>,
}

struct MemoryBudget {
    settings: StoreSettings,
    memory: u64,
    disk: u64,
    /// What is in memory, the one that was not used for longest first.
    order: BTreeMap<u64, Weak<Entry>>,
    next: u64,
    /// Copies that nothing here refers to, and something elsewhere does.
    parked: Option<HashMap<PayloadId, Arc<Entry>>>,
}

static KEEPER: Mutex<MemoryBudget> = Mutex::new(MemoryBudget {
    settings: StoreSettings { memory: None, disk: None, directory: None },
    memory: 0,
    disk: 0,
    order: BTreeMap::new(),
    next: 0,
    parked: None,
});

fn lock() -> MutexGuard<'static, MemoryBudget> {
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Uses these from now on, where they say something.
pub(crate) fn configure(settings: StoreSettings) {
    let mut memory_budget = lock();
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

/// How often values of payloads were read in this process that were in memory, were pulled from another one, and were put on
/// disk to make room.
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

/// What the values of payloads take, in bytes of their encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PayloadUsage {
    /// In memory.
    pub memory: u64,
    /// On disk.
    pub disk: u64,
}

impl PayloadUsage {
    /// What they take in this process.
    ///
    /// ```
    /// let usage = flowright::PayloadUsage::here();
    /// assert_eq!((usage.memory, usage.disk), (0, 0));
    /// ```
    pub fn here() -> Self {
        let memory_budget = lock();
        Self { memory: memory_budget.memory, disk: memory_budget.disk }
    }
}

impl StoreSettings {
    /// A quarter of the memory that there is for this process, unless it was said otherwise.
    fn memory(&mut self) -> u64 {
        *self.memory.get_or_insert_with(|| machine::memory().map_or(1 << 30, |memory| memory / 4))
    }
}

/// Takes room in memory for a value, for which others may have to go to disk.
pub(super) fn reserve(length: u64) -> Result<(), FetchError> {
    let mut tried = 0;
    let mut obstacle = None;
    loop {
        let mut memory_budget = lock();
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
                Some(obstacle) => format!("no other could be put on disk instead: {obstacle}"),
                None if length > budget => "it alone is more than that".to_owned(),
                None => format!("{in_use} bytes are taken by values that are in use"),
            };
            return Err(FetchError::NoRoom(format!(
                "it has {length} bytes, and payloads may take {budget} bytes of memory; {why}; \
                 give more with --payload-memory"
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
                enlist(&victim);
            }
            SpillOutcome::Failed(error) => {
                tried += 1;
                obstacle = Some(error);
                enlist(&victim);
            }
        }
    }
}

/// Makes room again if more is taken than may be, for those who have no time to wait for it.
pub(super) fn settle_later() {
    let mut memory_budget = lock();
    if memory_budget.memory > memory_budget.settings.memory() {
        drop(memory_budget);
        super::jobs::run(|| {
            // What cannot be made smaller stays.
            let _ = reserve(0);
        });
    }
}

/// Takes room whether there is any.
pub(super) fn take(length: u64) {
    lock().memory += length;
}

pub(super) fn freed(length: u64) {
    let mut memory_budget = lock();
    memory_budget.memory = memory_budget.memory.saturating_sub(length);
}

/// It is in memory, and was used just now.
pub(super) fn enlist(entry: &Arc<Entry>) {
    let mut memory_budget = lock();
    memory_budget.next += 1;
    let next = memory_budget.next;
    let before = entry.used.swap(next, std::sync::atomic::Ordering::Relaxed);
    memory_budget.order.remove(&before);
    memory_budget.order.insert(next, Arc::downgrade(entry));
}

/// It is not in memory any more.
pub(super) fn delist(used: u64) {
    lock().order.remove(&used);
}

/// Takes room on disk; gives the directory where it is.
pub(super) fn disk_reserve(length: u64) -> Result<PathBuf, FetchError> {
    let mut memory_budget = lock();
    let budget = memory_budget.settings.disk.unwrap_or(u64::MAX);
    if memory_budget.disk.saturating_add(length) > budget {
        return Err(FetchError::NoRoom(format!(
            "it has {length} bytes, and of the {budget} bytes that payloads may take on disk {} are taken; \
             give more with --payload-disk",
            memory_budget.disk
        )));
    }
    memory_budget.disk += length;
    Ok(memory_budget.settings.directory.clone().unwrap_or_else(std::env::temp_dir))
}

pub(super) fn disk_freed(length: u64) {
    let mut memory_budget = lock();
    memory_budget.disk = memory_budget.disk.saturating_sub(length);
}

/// Keeps a copy until [`unpark`]. Gives the one that it takes the place of, to be dropped where no lock is held: values
/// may refer to values.
pub(super) fn retain(id: PayloadId, entry: Arc<Entry>) -> Option<Arc<Entry>> {
    lock().parked.get_or_insert_default().insert(id, entry)
}

pub(super) fn unpark(id: PayloadId) -> Option<Arc<Entry>> {
    lock().parked.as_mut()?.remove(&id)
}

pub(super) fn unpark_all() -> Option<HashMap<PayloadId, Arc<Entry>>> {
    lock().parked.take()
}

pub(super) fn parked(id: PayloadId) -> Option<Arc<Entry>> {
    lock().parked.as_ref()?.get(&id).cloned()
}
