//! The thread of a journal, and the queue of transactions before it.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::crash_loop::CrashNotes;
use super::group::Group;
use super::sqlite::SqliteStore;
use super::store::Store;
use super::values::{NewValue, ValueChanges, ValueKey, Values};
use super::{
    Change, Extent, HistoryFilter, HistoryPart, JournalError, JournalSettings, Live, Moment, Recorded,
    Recovered, Transaction,
};
use crate::wire;

/// Interval at which a commit is tried again while the disk is full.
const RETRY: Duration = Duration::from_secs(5);

/// The time after which a long reading of the past lets commits go on, before it continues.
const TURN: Duration = Duration::from_millis(10);

/// Number of small values whose deletion waits for the next transaction.
const DELETED: usize = 1024;

/// An open journal.
///
/// Dropping it commits what is waiting, if that is possible, and leaves the end recorded as not clean. A journal to which
/// nothing was appended, because the App was refused, is left as clean as it was.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    values: Arc<Values>,
    /// The last position when it was opened, if the end before was clean.
    clean_at: Option<u64>,
    thread: Option<JoinHandle<Result<(), JournalError>>>,
}

/// The condition of a journal.
#[derive(Debug, Clone, Default)]
pub(crate) enum Condition {
    #[default]
    Working,
    /// The disk is full. Nothing becomes durable until there is room; no transaction is lost.
    Full { since: SystemTime, message: String },
    /// Nothing becomes durable any more. The program must end and be started again, which reads the journal from disk.
    Failed(JournalError),
}

/// Numbers about a journal since it was opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    /// The last position that is durable.
    pub(crate) position: u64,
    pub(crate) commits: u64,
    pub(crate) transactions: u64,
    /// The largest number of transactions in a commit.
    pub(crate) largest_group: u64,
    /// Bytes written to the WAL, which is copied into the file later.
    pub(crate) written: u64,
    /// The sum, the maximum and the last of the times that commits took.
    pub(crate) commit_time: Duration,
    pub(crate) slowest_commit: Duration,
    pub(crate) last_commit: Duration,
}

/// A reading of the journal on its thread: called for one part after the other, until it returns true. It is not called
/// again after an error.
type Reading = Box<dyn FnMut(Result<&mut dyn Store, JournalError>) -> bool + Send>;

struct Shared {
    queue: Mutex<Queue>,
    /// Notified when the thread has something to do.
    ready: Condvar,
    durable: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Values that are to be deleted before the first of `waiting` is committed, or with it.
    deleted: Vec<ValueKey>,
    /// True if `deleted` are to be deleted without waiting for a transaction.
    is_deletion_urgent: bool,
    /// Sizes of the transactions that are waiting, with the values that are to be written to files, in bytes.
    waiting_bytes: u64,
    /// Sizes of the transactions that are being committed, without files.
    committing_bytes: u64,
    last: u64,
    readings: VecDeque<Reading>,
    /// True if the last turn was that of a reading, so that a commit has the next one.
    has_read: bool,
    /// Set when the journal is to end: whether the end is clean.
    closing: Option<bool>,
    has_progressed: bool,
    is_told_to_retry: bool,
    condition: Condition,
    figures: Figures,
}

/// A transaction that waits to be committed.
struct Waiting {
    transaction: Transaction,
    /// Size of its rows, in bytes.
    size: u64,
    /// The values that become durable with it.
    values: Vec<Arc<NewValue>>,
    /// Values that are to be deleted with it.
    deleted: Vec<ValueKey>,
    /// False while values are being brought from other processes.
    is_ready: bool,
}

impl Waiting {
    /// Returns true if the commit writes files for it, which may take long.
    fn has_files(&self) -> bool {
        self.values.iter().any(|value| !value.is_small())
    }

    /// Returns the size in bytes of the rows and of the files.
    fn whole_size(&self) -> u64 {
        self.size + files(&self.values)
    }
}

/// A transaction whose values are being brought. Dropping it commits the transaction without them.
pub(crate) struct Incomplete {
    shared: Arc<Shared>,
    position: u64,
}

impl Incomplete {
    /// Completes the transaction.
    pub(crate) fn complete(self, values: Vec<Arc<NewValue>>) {
        self.fill(values);
    }

    fn fill(&self, values: Vec<Arc<NewValue>>) {
        let mut queue = self.shared.queue.lock();
        let (small, files) = (small(&values), files(&values));
        let first = queue.last + 1 - queue.waiting.len() as u64;
        let index = self.position.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        // It is gone if the journal has failed.
        let Some(index) = index.filter(|index| *index < queue.waiting.len()) else { return };
        if queue.waiting[index].is_ready {
            return;
        }
        // A deletion that was asked for since is older than the claims that these values have.
        for later in queue.waiting.iter_mut().skip(index) {
            later.deleted.retain(|key| values.iter().all(|value| value.key != *key));
        }
        let waiting = &mut queue.waiting[index];
        (waiting.values, waiting.is_ready) = (values, true);
        waiting.size += small;
        queue.waiting_bytes += small + files;
        self.shared.ready.notify_one();
    }
}

impl Drop for Incomplete {
    fn drop(&mut self) {
        self.fill(Vec::new());
    }
}

impl Shared {
    /// Deletes values, after all that was appended before: with the next commit, or at once if that is urgent.
    fn delete_values(&self, keys: Vec<ValueKey>, is_urgent: bool) {
        let mut queue = self.queue.lock();
        let queue = &mut *queue;
        if matches!(queue.condition, Condition::Failed(_)) {
            return;
        }
        match queue.waiting.back_mut() {
            Some(last) => {
                last.deleted.extend(keys);
                // They make room.
                if matches!(queue.condition, Condition::Full { .. }) {
                    queue.is_deletion_urgent = true;
                    self.ready.notify_one();
                }
            }
            None => {
                queue.deleted.extend(keys);
                queue.is_deletion_urgent |= is_urgent || queue.deleted.len() > DELETED;
                if queue.is_deletion_urgent {
                    self.ready.notify_one();
                }
            }
        }
    }
}

impl Journal {
    /// Opens or creates the journal in a directory. `on_progress` is called on the thread of the journal after each commit
    /// and when the [`condition`](Self::condition) has changed.
    ///
    /// # Errors
    /// [`JournalError`]; the files are as they were then.
    pub(crate) fn open(
        directory: &Path,
        settings: JournalSettings,
        program: &str,
        on_progress: Box<dyn Fn() + Send>,
    ) -> Result<(Self, Recovered, CrashNotes), JournalError> {
        let recorded = settings.payloads;
        let (store, recovered) = SqliteStore::open(directory, settings, program)?;
        let notes = CrashNotes::begin(directory, &recovered, program);
        let mut journal = Self::start(Box::new(store), recorded, on_progress)
            .map_err(|error| JournalError::io(directory, "start the thread of the journal in", error))?;
        journal.clean_at = recovered.was_clean.then_some(recovered.last.position);
        Ok((journal, recovered, notes))
    }

    /// Starts the thread that commits to a store.
    pub(super) fn start(
        store: Box<dyn Store>,
        recorded: Recorded,
        on_progress: Box<dyn Fn() + Send>,
    ) -> io::Result<Self> {
        let position = store.last().position;
        let figures = Figures { position, ..Figures::default() };
        let queue = Queue { last: position, figures, ..Queue::default() };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            ready: Condvar::new(),
            durable: AtomicU64::new(position),
        });
        let worker = Worker { shared: shared.clone(), on_progress };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || worker.run(store))?;
        let to_delete = Arc::downgrade(&shared);
        let delete = Box::new(move |keys, is_urgent| {
            if let Some(shared) = to_delete.upgrade() {
                shared.delete_values(keys, is_urgent);
            }
        });
        let values = Values::new(recorded, delete);
        Ok(Self { shared, values, clean_at: None, thread: Some(thread) })
    }

    /// Adds a transaction with the values to which it refers, and returns its position. Never blocks. After a failure, the
    /// position never becomes durable.
    pub(crate) fn append(&self, transaction: Transaction, values: Vec<Arc<NewValue>>) -> u64 {
        self.add(transaction, values, true)
    }

    /// Adds a transaction whose values are being brought, and returns its position. It is not committed, and none after it
    /// is, before it is complete.
    pub(crate) fn append_incomplete(&self, transaction: Transaction) -> (u64, Incomplete) {
        let position = self.add(transaction, Vec::new(), false);
        (position, Incomplete { shared: self.shared.clone(), position })
    }

    fn add(&self, transaction: Transaction, values: Vec<Arc<NewValue>>, is_ready: bool) -> u64 {
        let size = size(&transaction) + small(&values);
        let mut queue = self.shared.queue.lock();
        queue.last += 1;
        if !matches!(queue.condition, Condition::Failed(_)) {
            let waiting = Waiting { transaction, size, values, deleted: Vec::new(), is_ready };
            queue.waiting_bytes += waiting.whole_size();
            queue.waiting.push_back(waiting);
            self.shared.ready.notify_one();
        }
        queue.last
    }

    /// Returns the values that the journal has or is about to have.
    pub(crate) fn values(&self) -> &Arc<Values> {
        &self.values
    }

    /// Returns the last position that is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Returns a function that tells the last position that is durable, also on the thread of the journal.
    #[cfg(test)]
    pub(super) fn watch_durable(&self) -> impl Fn() -> u64 + Clone + Send + 'static {
        let shared = self.shared.clone();
        move || shared.durable.load(Ordering::Acquire)
    }

    /// Returns the approximate size of the transactions that are not durable yet, in bytes.
    ///
    /// Files count until their commit begins: a large value does not hold up the App while it is written, but values
    /// that are made faster than they are written, or while the disk is full, do.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        let queue = self.shared.queue.lock();
        queue.waiting_bytes + queue.committing_bytes
    }

    pub(crate) fn condition(&self) -> Condition {
        self.shared.queue.lock().condition.clone()
    }

    pub(crate) fn figures(&self) -> Figures {
        self.shared.queue.lock().figures
    }

    /// Tries to commit at once, if the disk was full.
    pub(crate) fn retry(&self) {
        self.shared.queue.lock().is_told_to_retry = true;
        self.shared.ready.notify_one();
    }

    /// Records that the App has progressed since its start, which is therefore not part of a crash loop.
    pub(crate) fn mark_progress(&self) {
        self.shared.queue.lock().has_progressed = true;
        self.shared.ready.notify_one();
    }

    /// Reads history, and passes it to `reply` on the thread of the journal. Commits wait meanwhile: set limits.
    pub(crate) fn history(
        &self,
        filter: HistoryFilter,
        reply: impl FnOnce(Result<HistoryPart, JournalError>) + Send + 'static,
    ) {
        self.read_once(move |store| store.history(&filter), reply);
    }

    /// Rebuilds the live data at a position, and passes them to `reply` on the thread of the journal. They are read in parts,
    /// between which commits go on.
    pub(crate) fn live_at(
        &self,
        position: u64,
        extent: Extent,
        reply: impl FnOnce(Result<(Moment, Live), JournalError>) + Send + 'static,
    ) {
        let (mut reply, mut reading) = (Some(reply), None);
        let mut part = move |store: &mut dyn Store| {
            let number = match reading {
                Some(number) => number,
                None => *reading.insert(store.begin_live_at(position, extent)?),
            };
            store.continue_live_at(number, Instant::now() + TURN)
        };
        self.read(Box::new(move |store| {
            let Some(read) = store.and_then(&mut part).transpose() else { return false };
            if let Some(reply) = reply.take() {
                reply(read);
            }
            true
        }));
    }

    /// Finds the last position at or before a time, and passes it to `reply` on the thread of the journal.
    pub(crate) fn position_at(
        &self,
        wall: SystemTime,
        reply: impl FnOnce(Result<Option<u64>, JournalError>) + Send + 'static,
    ) {
        self.read_once(move |store| store.position_at(wall), reply);
    }

    fn read_once<R>(
        &self,
        mut read: impl FnMut(&mut dyn Store) -> Result<R, JournalError> + Send + 'static,
        reply: impl FnOnce(Result<R, JournalError>) + Send + 'static,
    ) {
        let mut reply = Some(reply);
        self.read(Box::new(move |store| {
            if let Some(reply) = reply.take() {
                reply(store.and_then(&mut read));
            }
            true
        }));
    }

    fn read(&self, mut reading: Reading) {
        let mut queue = self.shared.queue.lock();
        if let Condition::Failed(error) = &queue.condition {
            let error = error.clone();
            drop(queue);
            reading(Err(error));
        } else {
            queue.readings.push_back(reading);
            self.shared.ready.notify_one();
        }
    }

    /// Commits what is waiting, records whether the end was clean, and ends the thread.
    ///
    /// # Errors
    /// [`JournalError`] if not all could be committed; [`durable`](Self::durable) was the last position then.
    pub(crate) fn close(mut self, is_clean: bool) -> Result<(), JournalError> {
        self.end(is_clean)
    }

    fn end(&mut self, is_clean: bool) -> Result<(), JournalError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.values.keep_from_now();
        self.shared.queue.lock().closing = Some(is_clean);
        self.shared.ready.notify_one();
        thread.join().unwrap_or(Err(JournalError::Closed))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let last = self.shared.queue.lock().last;
        let _ = self.end(self.clean_at == Some(last));
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("durable", &self.durable()).finish_non_exhaustive()
    }
}

/// The thread of a journal.
struct Worker {
    shared: Arc<Shared>,
    on_progress: Box<dyn Fn() + Send>,
}

/// The next task of the thread.
enum Task {
    Commit { first: u64, batch: Vec<Waiting>, deleted: Vec<ValueKey> },
    DeleteValues(Vec<ValueKey>),
    Read(Reading),
    MarkProgress,
    Maintain,
    Close(bool),
}

impl Worker {
    fn run(self, mut store: Box<dyn Store>) -> Result<(), JournalError> {
        let mut has_more = true;
        loop {
            let done = match self.next(has_more) {
                Task::Commit { first, batch, deleted } => {
                    has_more = true;
                    self.commit(&mut *store, first, batch, deleted)
                }
                Task::DeleteValues(keys) => {
                    has_more = true;
                    let mut changes: ValueChanges = keys.into_iter().map(|key| (key, None)).collect();
                    self.until_there_is_room(&mut *store, &mut changes, |store, changes| {
                        store.change_values(changes)
                    })
                }
                Task::Read(reading) => {
                    self.take_turn(reading, &mut *store);
                    Ok(())
                }
                Task::MarkProgress => {
                    let mut changes = ValueChanges::new();
                    self.until_there_is_room(&mut *store, &mut changes, |store, _| store.mark_progress())
                }
                Task::Maintain => match store.maintain() {
                    Ok(more) => {
                        has_more = more;
                        Ok(())
                    }
                    // Commits will tell, and maintain again.
                    Err(error) if error.is_full() => {
                        has_more = false;
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Task::Close(is_clean) => {
                    let closed = store.close(is_clean);
                    self.fail(JournalError::Closed);
                    return closed;
                }
            };
            if let Err(error) = done {
                self.fail(error.clone());
                drop(store);
                (self.on_progress)();
                return Err(error);
            }
        }
    }

    /// Waits for the next task.
    fn next(&self, has_more: bool) -> Task {
        let mut queue = self.shared.queue.lock();
        loop {
            queue.is_told_to_retry = false;
            let first = queue.last + 1 - queue.waiting.len() as u64;
            let ready = queue.waiting.iter().enumerate();
            // Those before a transaction with files do not wait for these.
            let ready =
                ready.take_while(|(at, next)| next.is_ready && (*at == 0 || !next.has_files())).count();
            let is_turn = ready == 0 || !std::mem::take(&mut queue.has_read);
            if is_turn && let Some(reading) = queue.readings.pop_front() {
                queue.has_read = true;
                return Task::Read(reading);
            }
            if ready > 0 {
                let batch: Vec<_> = queue.waiting.drain(..ready).collect();
                queue.committing_bytes = batch.iter().map(|waiting| waiting.size).sum();
                queue.waiting_bytes -= batch.iter().map(Waiting::whole_size).sum::<u64>();
                let deleted = std::mem::take(&mut queue.deleted);
                queue.is_deletion_urgent = false;
                return Task::Commit { first, batch, deleted };
            }
            if std::mem::take(&mut queue.has_progressed) {
                return Task::MarkProgress;
            }
            if let Some(is_clean) = queue.closing {
                return Task::Close(is_clean);
            }
            if std::mem::take(&mut queue.is_deletion_urgent) {
                return Task::DeleteValues(std::mem::take(&mut queue.deleted));
            }
            if has_more {
                return Task::Maintain;
            }
            self.shared.ready.wait(&mut queue);
        }
    }

    fn commit(
        &self,
        store: &mut dyn Store,
        first: u64,
        batch: Vec<Waiting>,
        deleted: Vec<ValueKey>,
    ) -> Result<(), JournalError> {
        let count = batch.len() as u64;
        let mut values: ValueChanges = deleted.into_iter().map(|key| (key, None)).collect();
        let mut transactions = Vec::with_capacity(batch.len());
        for Waiting { transaction, values: new, deleted, .. } in batch {
            values.extend(new.into_iter().map(|value| (value.key.clone(), Some(value))));
            values.extend(deleted.into_iter().map(|key| (key, None)));
            transactions.push(transaction);
        }
        let mut group = Group::merge(first, transactions)?;
        self.until_there_is_room(store, &mut values, |store, values| {
            let begin = Instant::now();
            std::mem::swap(&mut group.values, values);
            let mut is_durable = |written| self.is_durable(&group, count, begin.elapsed(), written);
            let appended = store.append(&group, &mut is_durable);
            std::mem::swap(&mut group.values, values);
            appended
        })
    }

    /// Announces a group of `count` transactions, whose commit has taken this time. `written` bytes were written since
    /// the opening.
    fn is_durable(&self, group: &Group, count: u64, took: Duration, written: u64) {
        self.shared.durable.store(group.last, Ordering::Release);
        {
            let mut queue = self.shared.queue.lock();
            queue.committing_bytes = 0;
            let figures = &mut queue.figures;
            figures.position = group.last;
            figures.commits += 1;
            figures.transactions += count;
            figures.largest_group = figures.largest_group.max(count);
            figures.written = written;
            figures.commit_time += took;
            figures.slowest_commit = figures.slowest_commit.max(took);
            figures.last_commit = took;
        }
        (self.on_progress)();
    }

    /// Has a reading read its next part.
    fn take_turn(&self, mut reading: Reading, store: &mut dyn Store) {
        if !reading(Ok(store)) {
            self.shared.queue.lock().readings.push_back(reading);
        }
    }

    /// Deletes values that nothing needs any more, because the disk is full: those of `values` and of the transactions
    /// that wait. Returns true if there was one.
    ///
    /// The record that dropped the last reference to such a value is durable: until then a guard had a claim on it. So no
    /// transaction before its deletion adds it, and one after that adds it again.
    fn delete_first(&self, store: &mut dyn Store, values: &mut ValueChanges) -> Result<bool, JournalError> {
        let mut deleted: ValueChanges =
            values.iter().filter(|(_, new)| new.is_none()).map(|(key, _)| (key.clone(), None)).collect();
        {
            let mut queue = self.shared.queue.lock();
            let queue = &mut *queue;
            queue.is_deletion_urgent = false;
            let waiting = queue.waiting.iter_mut().flat_map(|waiting| waiting.deleted.drain(..));
            let keys = queue.deleted.drain(..).chain(waiting);
            deleted.extend(keys.map(|key| (key, None)));
        }
        if deleted.is_empty() {
            return Ok(false);
        }
        match store.change_values(&deleted) {
            Ok(()) => {
                values.retain(|key, new| new.is_some() || !deleted.contains_key(key));
                Ok(true)
            }
            Err(error) => {
                // Before the first transaction that waits, so that one of these may add a value again.
                self.shared.queue.lock().deleted.extend(deleted.into_keys());
                if error.is_full() { Ok(false) } else { Err(error) }
            }
        }
    }

    /// Repeats `write`, which changes `values`, while the disk is full, unless the journal is to end. Readings go on
    /// meanwhile, and values that are no longer needed make room.
    fn until_there_is_room(
        &self,
        store: &mut dyn Store,
        values: &mut ValueChanges,
        mut write: impl FnMut(&mut dyn Store, &mut ValueChanges) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let mut was_full = false;
        loop {
            let error = match write(store, values) {
                Err(error) if error.is_full() => error,
                written => {
                    if was_full && written.is_ok() {
                        self.shared.queue.lock().condition = Condition::Working;
                        (self.on_progress)();
                    }
                    return written;
                }
            };
            if self.delete_first(store, values)? {
                continue;
            }
            let mut queue = self.shared.queue.lock();
            if !was_full {
                was_full = true;
                let message = crate::printable::chain(&error);
                queue.condition = Condition::Full { since: SystemTime::now(), message };
                drop(queue);
                (self.on_progress)();
                queue = self.shared.queue.lock();
            }
            let until = Instant::now() + RETRY;
            while !std::mem::take(&mut queue.is_told_to_retry) {
                if queue.closing.is_some() {
                    return Err(error);
                }
                // Values that were superseded before the disk was full are deleted as soon as that is known.
                if std::mem::take(&mut queue.is_deletion_urgent) {
                    break;
                }
                if let Some(reading) = queue.readings.pop_front() {
                    drop(queue);
                    self.take_turn(reading, store);
                    queue = self.shared.queue.lock();
                    continue;
                }
                if self.shared.ready.wait_until(&mut queue, until).timed_out() {
                    break;
                }
            }
        }
    }

    fn fail(&self, error: JournalError) {
        let mut queue = self.shared.queue.lock();
        queue.condition = Condition::Failed(error.clone());
        let waiting = std::mem::take(&mut queue.waiting);
        let readings = std::mem::take(&mut queue.readings);
        drop(queue);
        // Dropped without the lock, since the last claims on values may be dropped with them.
        drop(waiting);
        for mut reading in readings {
            reading(Err(error.clone()));
        }
    }
}

/// Returns the size of the values that become rows, in bytes.
fn small(values: &[Arc<NewValue>]) -> u64 {
    values.iter().filter(|value| value.is_small()).map(|value| value.length()).sum()
}

/// Returns the size of the values that become files, in bytes.
fn files(values: &[Arc<NewValue>]) -> u64 {
    values.iter().filter(|value| !value.is_small()).map(|value| value.length()).sum()
}

/// Returns the approximate size of a transaction when it is encoded, in bytes.
fn size(transaction: &Transaction) -> u64 {
    let sizes = transaction.changes.iter().map(|change| match change {
        Change::Put { key, value, .. } => key.len() + value.len(),
        Change::Delete { key, .. } => key.len(),
        Change::State { state, .. } => state.encoded_len(),
        Change::Patch { patch, .. } => wire::length(patch),
        Change::Left { .. } => 0,
    });
    sizes.map(|size| size as u64 + 64).sum()
}
