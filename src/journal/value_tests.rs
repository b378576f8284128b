//! Tests of the values of payloads in a journal, against a model: the values as a map, after each group.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use proptest::prelude::*;

use super::sqlite::{SqliteStore, VALUES};
use super::store::Store as _;
use super::tests::{open, put, settings, wait};
use super::values::{Content, Nested, NewValue, ValueChanges};
use super::*;
use crate::payload::{Hex, Payload, SMALL, Store as PayloadStore, collect};

/// A directory that is deleted on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("flowright-values-{:016x}", crate::id::unique()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Copies a journal, which is not being written to: what a kill leaves.
    fn copy(of: &Path) -> Self {
        let copy = Self::new();
        copy_files(of, &copy.0);
        if of.join(VALUES).exists() {
            fs::create_dir(copy.0.join(VALUES)).unwrap();
            copy_files(&of.join(VALUES), &copy.0.join(VALUES));
        }
        copy
    }

    fn files(&self) -> usize {
        fs::read_dir(self.0.join(VALUES)).map_or(0, Iterator::count)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Returns a value, which is small or has a file.
fn value(number: u8, is_small: bool) -> Arc<NewValue> {
    let length = if is_small { 100 } else { SMALL as usize + 1 };
    NewValue::test(vec![number; length], Vec::new())
}

fn group(position: u64, values: ValueChanges) -> group::Group {
    let mut group = group::Group::merge(position, vec![put(1)]).unwrap();
    group.values = values;
    group
}

fn content(value: &StoredValue) -> Vec<u8> {
    value.verify().unwrap();
    match &value.content {
        Content::Bytes(bytes) => bytes.to_vec(),
        Content::File(path) => fs::read(path).unwrap(),
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Commit,
    /// The process is killed once the files are written.
    KillBeforeCommit,
    /// The process is killed once the rows are committed.
    KillBeforeRemoval,
    KillAfterwards,
}

fn step() -> impl Strategy<Value = (Vec<(u8, bool, bool)>, End)> {
    let changes = prop::collection::vec((0..6_u8, any::<bool>(), any::<bool>()), 1..4);
    let end = prop_oneof![
        6 => Just(End::Commit),
        1 => Just(End::KillBeforeCommit),
        1 => Just(End::KillBeforeRemoval),
        1 => Just(End::KillAfterwards),
    ];
    (changes, end)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    /// Values that are added and deleted at random, with kills at each point of a commit, are those of the model; and
    /// there is a file for each large one, and no other.
    #[test]
    fn values_under_random_kills_equal_model(steps in prop::collection::vec(step(), 1..16)) {
        let mut directory = Scratch::new();
        let (mut store, _) = open(&directory.0, 0).unwrap();
        let mut model: BTreeMap<ValueKey, Vec<u8>> = BTreeMap::new();
        let mut position = 0;
        for (changes, end) in steps {
            let mut after = model.clone();
            let mut values = ValueChanges::new();
            for (number, is_small, is_added) in changes {
                let value = value(number, is_small);
                let (key, length) = (value.key.clone(), value.length());
                if is_added {
                    after.insert(key.clone(), vec![number; length as usize]);
                } else {
                    after.remove(&key);
                }
                values.insert(key, is_added.then_some(value));
            }
            match end {
                End::Commit | End::KillAfterwards => {
                    position += 1;
                    store.append(&group(position, values), &mut |_| ()).unwrap();
                    model = after;
                }
                End::KillBeforeCommit => store.write_files(&values).unwrap(),
                End::KillBeforeRemoval => {
                    store.write_files(&values).unwrap();
                    store.transact(|store| store.write_values(&values)).unwrap();
                    model = after;
                }
            }
            if !matches!(end, End::Commit) {
                let copy = Scratch::copy(&directory.0);
                let (restarted, recovered) = open(&copy.0, 0).unwrap();
                let found = recovered.values.iter().map(|value| (value.key.clone(), content(value)));
                prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), model.clone());
                drop(std::mem::replace(&mut store, restarted));
                directory = copy;
            }
            let large = model.values().filter(|bytes| bytes.len() as u64 > SMALL).count();
            prop_assert_eq!(directory.files(), large);
        }
    }
}

/// A value that is damaged, or whose file is, is not restored and does not keep the App from starting; a check names it.
#[test]
fn damaged_values_are_named_and_left_out() {
    let directory = Scratch::new();
    let (mut store, _) = open(&directory.0, 0).unwrap();
    let all = [value(1, true), value(2, false), value(3, false), value(4, false)];
    let values: ValueChanges = all.iter().map(|value| (value.key.clone(), Some(value.clone()))).collect();
    store.append(&group(1, values), &mut |_| ()).unwrap();
    Box::new(store).close(true).unwrap();
    assert!(check(&directory.0).unwrap().problems.is_empty());
    let file = |value: &NewValue| {
        let name = value.key.hash.to_string();
        let files = fs::read_dir(directory.0.join(VALUES)).unwrap().map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| path.to_string_lossy().contains(&name)).unwrap()
    };
    fs::remove_file(file(&all[1])).unwrap();
    fs::write(file(&all[2]), b"short").unwrap();
    fs::write(file(&all[3]), vec![5; SMALL as usize + 1]).unwrap();
    let problems = check(&directory.0).unwrap().problems;
    assert_eq!(problems.len(), 3, "{problems:?}");
    for value in &all[1..] {
        assert!(problems.iter().any(|problem| problem.contains(&value.key.hash.to_string())), "{problems:?}");
    }
    let (_, recovered) = open(&directory.0, 0).unwrap();
    let found: BTreeSet<_> = recovered.values.iter().map(|value| value.key.clone()).collect();
    // That a file has other bytes of the same length is found when it is read.
    assert_eq!(found, BTreeSet::from([all[0].key.clone(), all[3].key.clone()]));
}

/// A fork has the values that its states and runs refer to, with those to which these refer, and no others; a repair
/// saves all that are sound.
#[test]
fn fork_and_repair_carry_values_along() {
    let directory = Scratch::new();
    let (mut store, _) = open(&directory.0, 1 << 20).unwrap();
    let (inner, other) = (value(1, false), value(2, false));
    let nested = Nested { id: Hex([7; 16]), key: inner.key.clone() };
    let outer = NewValue::test(vec![3; 10], vec![nested]);
    let values = [&inner, &other, &outer].map(|value| (value.key.clone(), Some(value.clone())));
    let mut row = vec![0xc4, 32];
    row.extend(outer.key.hash.0);
    let change = Change::Put { path: ActorPath::from("a"), table: Table::Run, key: vec![1], value: row };
    let transaction = Transaction {
        at: Duration::ZERO,
        wall: SystemTime::UNIX_EPOCH,
        changes: vec![change],
        reacted: None,
    };
    let mut group = group::Group::merge(1, vec![transaction]).unwrap();
    group.values = values.into_iter().collect();
    store.append(&group, &mut |_| ()).unwrap();
    Box::new(store).close(true).unwrap();
    let keys = |directory: &Scratch| -> BTreeSet<ValueKey> {
        let (_, recovered) = open(&directory.0, 0).unwrap();
        recovered.values.iter().inspect(|value| drop(content(value))).map(|value| value.key.clone()).collect()
    };
    let (forked, repaired) = (Scratch::new(), Scratch::new());
    fork(&directory.0, 1, &forked.0).unwrap();
    assert_eq!(keys(&forked), BTreeSet::from([inner.key.clone(), outer.key.clone()]));
    assert_eq!(forked.files(), 1);
    assert!(repair(&directory.0, &repaired.0).unwrap().lost.is_empty());
    assert_eq!(keys(&repaired), BTreeSet::from([inner.key.clone(), outer.key.clone(), other.key.clone()]));
}

fn journal(directory: &Scratch) -> (Journal, mpsc::Receiver<()>) {
    let (called, progress) = mpsc::channel();
    let on_progress = Box::new(move || called.send(()).unwrap_or_default());
    let (journal, ..) = Journal::open(&directory.0, settings(1 << 20), "1", on_progress).unwrap();
    (journal, progress)
}

fn stored(directory: &Scratch) -> Vec<Vec<u8>> {
    let (_, recovered) = open(&directory.0, 0).unwrap();
    recovered.values.iter().map(content).collect()
}

/// A transaction whose values are being brought is not committed, nor are those after it; those before it are.
#[test]
fn transaction_waits_for_its_values() {
    let directory = Scratch::new();
    let (journal, progress) = journal(&directory);
    journal.append(put(1), Vec::new());
    let (position, incomplete) = journal.append_incomplete(put(2));
    let last = journal.append(put(3), vec![value(1, true)]);
    assert_eq!((position, last), (2, 3));
    wait(&progress, || journal.durable() == 1);
    // The thread has had its turn after the others were appended.
    let (reply, replied) = mpsc::channel();
    journal.history(HistoryFilter::default(), move |result| reply.send(result.map(drop)).unwrap());
    replied.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(journal.durable(), 1);
    incomplete.complete(vec![value(2, false)]);
    wait(&progress, || journal.durable() == 3);
    // One that is given up is committed without values.
    let (_, incomplete) = journal.append_incomplete(put(4));
    drop(incomplete);
    wait(&progress, || journal.durable() == 4);
    journal.close(true).unwrap();
    let mut found: Vec<_> = stored(&directory).into_iter().map(|bytes| bytes[0]).collect();
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
}

/// A value is recorded once for all payloads that have it, stays until the last of them is dropped, and is then deleted;
/// a journal that ends deletes nothing.
#[test]
fn value_is_deleted_with_its_last_payload() {
    let directory = Scratch::new();
    let (journal, progress) = journal(&directory);
    journal.values().delete_from_now(Vec::new());
    let store = PayloadStore::for_tests();
    let payload = |byte: u8| {
        Payload::new(vec![byte; SMALL as usize + 1], &store, &ActorPath::from("maker")).unwrap().durable()
    };
    let guards = |payload: &Payload<Vec<u8>>| {
        let (_, guards) = collect(|| crate::wire::encode(payload));
        guards.iter().cloned().collect::<Vec<_>>()
    };
    let record = |payload: &Payload<Vec<u8>>| {
        let new = journal.values().here(guards(payload)).ok().expect("it is here");
        journal.append(put(1), new)
    };
    let (one, same, other) = (payload(1), payload(1), payload(2));
    record(&one);
    record(&same);
    let last = record(&other);
    wait(&progress, || journal.durable() == last);
    assert_eq!(directory.files(), 2);
    drop(one);
    let last = journal.append(put(2), Vec::new());
    wait(&progress, || journal.durable() == last);
    assert_eq!(directory.files(), 2, "another payload has the same value");
    drop(same);
    let last = journal.append(put(3), Vec::new());
    wait(&progress, || journal.durable() == last);
    assert_eq!(directory.files(), 1);
    // Made again after it was deleted.
    let again = payload(1);
    let last = record(&again);
    wait(&progress, || journal.durable() == last);
    assert_eq!(directory.files(), 2);
    journal.close(true).unwrap();
    drop((again, other));
    assert_eq!(stored(&directory).len(), 2);
}

/// A value that encodes otherwise than when it was made is not recorded, and the transaction is.
#[test]
fn value_that_changed_is_not_recorded() {
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Unsteady(AtomicU64);

    let directory = Scratch::new();
    let (journal, progress) = journal(&directory);
    let store = PayloadStore::for_tests();
    let payload = Payload::new(Unsteady(AtomicU64::new(1)), &store, &ActorPath::from("maker")).unwrap();
    payload.blocking_value().unwrap().0.store(2, Ordering::Relaxed);
    let (_, guards) = collect(|| crate::wire::encode(&payload));
    let new = journal.values().here(guards.iter().cloned().collect()).ok().expect("it is here");
    assert_eq!(new.len(), 1);
    journal.append(put(1), new);
    wait(&progress, || journal.durable() == 1);
    journal.close(true).unwrap();
    assert!(stored(&directory).is_empty());
}

/// Payloads of one store, and the journal that records them.
struct Recording {
    journal: Journal,
    store: Arc<PayloadStore>,
}

impl Recording {
    fn new(journal: Journal) -> Self {
        journal.values().delete_from_now(Vec::new());
        Self { journal, store: PayloadStore::for_tests() }
    }

    /// Makes a payload with a file.
    fn payload(&self, byte: u8) -> Payload<Vec<u8>> {
        let value = vec![byte; SMALL as usize + 1];
        Payload::new(value, &self.store, &ActorPath::from("maker")).unwrap().durable()
    }

    fn new_values(&self, payload: &Payload<Vec<u8>>) -> Vec<Arc<NewValue>> {
        let (_, guards) = collect(|| crate::wire::encode(payload));
        self.journal.values().here(guards.iter().cloned().collect()).ok().expect("it is here")
    }

    /// Makes a payload, and records it.
    fn record(&self, byte: u8) -> Payload<Vec<u8>> {
        let payload = self.payload(byte);
        self.journal.append(put(byte), self.new_values(&payload));
        payload
    }
}

/// A value that is recorded again by a transaction whose values are still being brought is not deleted with the payload
/// that had it before.
#[test]
fn value_that_is_brought_again_is_not_deleted() {
    let directory = Scratch::new();
    let (journal, progress) = journal(&directory);
    let of = Recording::new(journal);
    let before = of.record(1);
    wait(&progress, || of.journal.durable() == 1);
    // The thread has let go of the value once it has its next turn.
    let (reply, replied) = mpsc::channel();
    of.journal.history(HistoryFilter::default(), move |result| reply.send(result.map(drop)).unwrap());
    replied.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    let (_, incomplete) = of.journal.append_incomplete(put(2));
    let (_, later) = of.journal.append_incomplete(put(3));
    drop(before);
    let again = of.payload(1);
    incomplete.complete(of.new_values(&again));
    drop(later);
    wait(&progress, || of.journal.durable() == 3);
    of.journal.close(true).unwrap();
    assert_eq!(stored(&directory).len(), 1, "the second payload has the value");
}

/// A store on a disk that has room for this many bytes of files.
struct Tight {
    store: SqliteStore,
    files: PathBuf,
    room: u64,
}

impl store::Store for Tight {
    fn append(&mut self, group: &group::Group, is_durable: &mut dyn FnMut(u64)) -> Result<(), JournalError> {
        let large = group.values.values().flatten().filter(|value| !value.is_small());
        let new: u64 = large.map(|value| value.length()).sum();
        let there = fs::read_dir(&self.files)
            .map_or(0, |files| files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>());
        if there + new > self.room {
            return Err(JournalError::io(&self.files, "write", std::io::ErrorKind::StorageFull.into()));
        }
        self.store.append(group, is_durable)
    }

    fn change_values(&mut self, changes: &ValueChanges) -> Result<(), JournalError> {
        self.store.change_values(changes)
    }

    fn maintain(&mut self) -> Result<bool, JournalError> {
        self.store.maintain()
    }

    fn last(&self) -> Moment {
        self.store.last()
    }

    fn live(&mut self, position: Option<u64>) -> Result<(Moment, Live), JournalError> {
        self.store.live(position)
    }

    fn begin_live_at(&mut self, position: u64, extent: Extent) -> Result<u64, JournalError> {
        self.store.begin_live_at(position, extent)
    }

    fn continue_live_at(
        &mut self,
        reading: u64,
        deadline: Instant,
    ) -> Result<Option<(Moment, Live)>, JournalError> {
        self.store.continue_live_at(reading, deadline)
    }

    fn history(&mut self, filter: &HistoryFilter) -> Result<HistoryPart, JournalError> {
        self.store.history(filter)
    }

    fn position_at(&mut self, wall: SystemTime) -> Result<Option<u64>, JournalError> {
        self.store.position_at(wall)
    }

    fn mark_progress(&mut self) -> Result<(), JournalError> {
        self.store.mark_progress()
    }

    fn close(self: Box<Self>, is_clean: bool) -> Result<(), JournalError> {
        Box::new(self.store).close(is_clean)
    }
}

/// Values that nothing needs any more make room on a full disk for those that wait, also where they were dropped after
/// these were recorded; values that are still recorded do not.
#[test]
fn superseded_values_make_room_on_a_full_disk() {
    let directory = Scratch::new();
    let (called, progress) = mpsc::channel();
    let on_progress = Box::new(move || called.send(()).unwrap_or_default());
    let (store, _) = open(&directory.0, 1 << 20).unwrap();
    let store = Tight { store, files: directory.0.join(VALUES), room: 2 * (SMALL + 100) };
    let of = Recording::new(Journal::start(Box::new(store), Recorded::Small, on_progress).unwrap());
    let first = of.record(1);
    let second = of.record(2);
    wait(&progress, || of.journal.durable() == 2);
    // Deleted with the transaction that needs the room.
    let (_, incomplete) = of.journal.append_incomplete(put(3));
    drop(first);
    let third = of.payload(3);
    incomplete.complete(of.new_values(&third));
    wait(&progress, || of.journal.durable() == 3);
    // Deleted with a later one.
    let (_, incomplete) = of.journal.append_incomplete(put(4));
    let fifth = of.record(5);
    drop(second);
    let fourth = of.payload(4);
    incomplete.complete(of.new_values(&fourth));
    wait(&progress, || of.journal.durable() == 4);
    wait(&progress, || matches!(of.journal.condition(), Condition::Full { .. }));
    assert_eq!((of.journal.durable(), directory.files()), (4, 2), "nothing is deleted that is needed");
    // Dropped while the disk is full.
    drop(third);
    wait(&progress, || of.journal.durable() == 5 && matches!(of.journal.condition(), Condition::Working));
    of.journal.close(true).unwrap();
    drop((fourth, fifth));
    let mut found: Vec<_> = stored(&directory).into_iter().map(|bytes| bytes[10]).collect();
    found.sort_unstable();
    assert_eq!(found, [4, 5]);
}

/// When the file of a value cannot be written, its transaction is not recorded, and the journal fails.
#[test]
fn failed_file_keeps_its_transaction_out() {
    let directory = Scratch::new();
    let (journal, progress) = journal(&directory);
    fs::write(directory.0.join(VALUES), b"in the way").unwrap();
    journal.append(put(1), vec![value(1, false)]);
    wait(&progress, || matches!(journal.condition(), Condition::Failed(_)));
    assert_eq!(journal.durable(), 0);
    assert!(journal.close(true).is_err());
    fs::remove_file(directory.0.join(VALUES)).unwrap();
    let (_, recovered) = open(&directory.0, 0).unwrap();
    assert_eq!((recovered.last.position, recovered.values.len()), (0, 0));
}

/// A disk that is full is told from one that fails, also where a file is written.
#[test]
fn full_disk_of_a_file_is_no_failure() {
    for (kind, is_full) in [
        (std::io::ErrorKind::StorageFull, true),
        (std::io::ErrorKind::QuotaExceeded, true),
        (std::io::ErrorKind::Other, false),
    ] {
        assert_eq!(JournalError::io(Path::new("file"), "write", kind.into()).is_full(), is_full, "{kind:?}");
    }
}
