//! Tests of the journal against a model: the live data as maps, after each position.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

use proptest::prelude::*;

use super::group::Group;
use super::sqlite::{FILE, FORMAT, SqliteStore};
use super::store::Store;
use super::values::ValueChanges;
use super::*;
use crate::state::Tracker;

const WAL: &str = "journal.db-wal";
const LOCK: &str = "journal.lock";

/// A directory that is deleted on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("flowright-journal-{:016x}", crate::id::unique()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Copies the files of a journal, which is not being written to: what a kill leaves.
    fn copy(of: &Path) -> Self {
        let copy = Self::new();
        Files::read(of).write(&copy.0);
        copy
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The contents of the files of a journal.
#[derive(Clone)]
struct Files {
    db: Vec<u8>,
    wal: Vec<u8>,
    lock: Vec<u8>,
}

impl Files {
    fn read(directory: &Path) -> Self {
        let read = |name| fs::read(directory.join(name)).unwrap_or_default();
        Self { db: read(FILE), wal: read(WAL), lock: read(LOCK) }
    }

    fn write(&self, directory: &Path) {
        fs::write(directory.join(FILE), &self.db).unwrap();
        fs::write(directory.join(WAL), &self.wal).unwrap();
        fs::write(directory.join(LOCK), &self.lock).unwrap();
    }

    fn place(&self) -> Scratch {
        let scratch = Scratch::new();
        self.write(&scratch.0);
        scratch
    }
}

/// The live data as they must be.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    rows: BTreeMap<(ActorPath, Table, Vec<u8>), Vec<u8>>,
    states: BTreeMap<ActorPath, Value>,
}

impl Model {
    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Put { path, table, key, value } => {
                self.rows.insert((path, table, key), value);
            }
            Change::Delete { path, table, key } => {
                self.rows.remove(&(path, table, key));
            }
            Change::State { path, state } => {
                self.states.insert(path, state);
            }
            Change::Patch { path, patch } => self.states.get_mut(&path).unwrap().apply(patch).unwrap(),
            Change::Left { path } => {
                self.rows.retain(|(other, ..), _| *other != path);
                self.states.remove(&path);
            }
        }
    }

    fn of(live: Live) -> Self {
        let mut model = Self::default();
        for (path, actor) in live.actors {
            for (table, rows) in actor.rows {
                assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "{rows:?}");
                for (key, value) in rows {
                    model.rows.insert((path.clone(), table, key.to_vec()), value.to_vec());
                }
            }
            if let Some(state) = actor.state {
                model.states.insert(path, state);
            }
        }
        model
    }
}

const PATHS: [&str; 4] = ["", "a", "a.b", "c"];

/// Published states of actors: their trackers, and the states as maps.
#[derive(Default)]
struct Publishers(BTreeMap<ActorPath, (Tracker, BTreeMap<String, u64>)>);

/// A change before it is known what the state of an actor is.
#[derive(Debug, Clone)]
enum Op {
    Put(usize, usize, u8, Vec<u8>),
    Delete(usize, usize, u8),
    Publish(usize, u8, Option<u64>),
    Left(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let path = 0..PATHS.len();
    prop_oneof![
        4 => (path.clone(), 0..Table::ALL.len(), 0..4_u8, prop::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(path, table, key, value)| Op::Put(path, table, key, value)),
        2 => (path.clone(), 0..Table::ALL.len(), 0..4_u8).prop_map(|(path, table, key)| Op::Delete(path, table, key)),
        6 => (path.clone(), 0..6_u8, any::<Option<u64>>()).prop_map(|(path, key, to)| Op::Publish(path, key, to)),
        1 => path.prop_map(Op::Left),
    ]
}

impl Publishers {
    fn change(&mut self, op: Op) -> Option<Change> {
        let path = |index: usize| ActorPath::from(PATHS[index]);
        Some(match op {
            Op::Put(at, table, key, value) => {
                Change::Put { path: path(at), table: Table::ALL[table], key: vec![key; 3], value }
            }
            Op::Delete(at, table, key) => {
                Change::Delete { path: path(at), table: Table::ALL[table], key: vec![key; 3] }
            }
            Op::Left(at) => {
                self.0.remove(&path(at));
                Change::Left { path: path(at) }
            }
            Op::Publish(at, key, to) => {
                let path = path(at);
                let (tracker, state) =
                    self.0.entry(path.clone()).or_insert_with(|| (Tracker::new(1 << 20), BTreeMap::new()));
                match to {
                    Some(to) => state.insert(key.to_string(), to),
                    None => state.remove(&key.to_string()),
                };
                match tracker.update(state).unwrap()? {
                    Patch::Set(state) => Change::State { path, state },
                    patch => Change::Patch { path, patch },
                }
            }
        })
    }
}

/// Returns reactions that are not those of another position.
fn reactions(position: u64) -> Vec<Reaction> {
    let reaction = |number: u64| Reaction {
        flow: PATHS[(position + number) as usize % PATHS.len()].into(),
        at: Duration::from_nanos(position * 999_983 + number),
        number,
        end: match (position + number) % 5 {
            0 => Some(ReactionEnd::Failed(format!("failed at {position}"))),
            1 => Some(ReactionEnd::Stops(String::new())),
            _ => None,
        },
    };
    (1..=position % 3 + 1).map(reaction).collect()
}

fn transaction(changes: Vec<Change>, position: u64) -> Transaction {
    let at = Duration::from_millis(position);
    Transaction {
        at,
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + at,
        changes,
        reacted: None,
    }
}

pub(super) fn settings(history_bytes: u64) -> JournalSettings {
    JournalSettings { history_bytes, history_age: Duration::from_secs(1 << 30), ..JournalSettings::default() }
}

pub(super) fn open(directory: &Path, history_bytes: u64) -> Result<(SqliteStore, Recovered), JournalError> {
    let (mut store, recovered) = SqliteStore::open(directory, settings(history_bytes), "test")?;
    store.limit_fold(6);
    Ok((store, recovered))
}

/// A journal with its model after each position.
struct Checked {
    store: SqliteStore,
    publishers: Publishers,
    history_bytes: u64,
    /// The model after each group, by position.
    models: BTreeMap<u64, Model>,
    /// The reactions of each transaction, by position, with the model that the Flows saw.
    reacted: BTreeMap<u64, (Vec<Reaction>, Model)>,
}

impl Checked {
    fn new(directory: &Path, history_bytes: u64) -> Self {
        let (store, _) = open(directory, history_bytes).unwrap();
        let models = BTreeMap::from([(0, Model::default())]);
        Self { store, publishers: Publishers::default(), history_bytes, models, reacted: BTreeMap::new() }
    }

    fn last(&self) -> (u64, &Model) {
        self.models.last_key_value().map(|(position, model)| (*position, model)).unwrap()
    }

    fn append(&mut self, group: Vec<Vec<Op>>) -> Result<(), JournalError> {
        let (last, model) = self.last();
        let mut model = model.clone();
        let mut transactions = Vec::new();
        for (ops, position) in group.into_iter().zip(last + 1..) {
            let changes: Vec<_> = ops.into_iter().filter_map(|op| self.publishers.change(op)).collect();
            let mut transaction = transaction(changes, position);
            // At any border, or without reactions.
            let seen = position as usize % (transaction.changes.len() + 2);
            for (index, change) in transaction.changes.iter().enumerate() {
                if index == seen {
                    self.reacted.insert(position, (reactions(position), model.clone()));
                }
                model.apply(change);
            }
            if seen == transaction.changes.len() {
                self.reacted.insert(position, (reactions(position), model.clone()));
            }
            let reactions = self.reacted.get(&position).map(|(reactions, _)| reactions.clone());
            transaction.reacted = reactions.map(|reactions| Reacted { seen, reactions });
            transactions.push(transaction);
        }
        let group = Group::merge(last + 1, transactions)?;
        self.models.insert(group.last, model);
        self.store.append(&group, &mut |_| ())
    }

    /// Compares what can be read at each position with the models.
    fn check_history(&mut self) {
        let mut readable = 0;
        for (position, model) in &self.models {
            match self.store.live(Some(*position)) {
                Ok((moment, live)) => {
                    assert_eq!(moment.position, *position);
                    assert_eq!(Model::of(live), *model, "at {position}");
                    readable += 1;
                }
                Err(JournalError::NoPosition { oldest, .. }) => {
                    assert!(*position < oldest, "{position} {oldest}")
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(readable > 0);
    }

    /// Applies the recorded changes after the oldest image to it.
    fn check_changes(&mut self, from: u64) {
        let mut model = self.models[&from].clone();
        let filter = HistoryFilter { from: Some(from + 1), ..HistoryFilter::default() };
        let mut next = from + 1;
        for entry in self.store.history(&filter).unwrap().entries {
            assert_eq!(entry.first, next);
            // Actors whose states are recorded later in the group.
            let mut unknown = BTreeSet::new();
            for transaction in entry.transactions {
                assert_eq!(transaction.position, next);
                let RecordedTransaction { changes, merged, reacted, merged_seen, .. } = transaction;
                let expected = self.reacted.get(&next);
                assert_eq!(reacted.as_ref().map(|reacted| &reacted.reactions), expected.map(|(all, _)| all));
                next += 1;
                let (seen, made) = changes.split_at(reacted.map_or(0, |reacted| reacted.seen));
                let mut apply = |changes: &[Change], merged: &[ActorPath]| {
                    for change in changes {
                        if let Change::State { path, .. }
                        | Change::Patch { path, .. }
                        | Change::Left { path } = change
                        {
                            unknown.remove(path);
                        }
                        model.apply(change);
                    }
                    unknown.extend(merged.iter().cloned());
                    let mut known = model.clone();
                    known.states.retain(|path, _| !unknown.contains(path));
                    (known, unknown.clone())
                };
                let (found, unknown) = apply(seen, &merged[..merged_seen]);
                if let Some((_, seen)) = expected {
                    let mut seen = seen.clone();
                    seen.states.retain(|path, _| !unknown.contains(path));
                    assert_eq!(found, seen, "before the reactions at {}", next - 1);
                }
                apply(made, &merged[merged_seen..]);
            }
            assert_eq!(model, self.models[&(next - 1)]);
        }
        assert_eq!(next, self.last().0 + 1);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<Op>>),
    Maintain,
    /// The process is killed, and another one opens the journal.
    Kill,
    /// The journal is closed, and opened again.
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(prop::collection::vec(op(), 0..6), 1..4).prop_map(Step::Append),
        2 => Just(Step::Maintain),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Random transactions in random groups, with kills and ends between them, leave the live data of the model at each
    /// position that is kept; with history, with one that is pruned, and without.
    #[test]
    fn store_under_random_steps_equals_model(
        steps in prop::collection::vec(step(), 1..40),
        history_bytes in prop_oneof![Just(0), Just(4096), Just(1 << 30)],
    ) {
        let mut directory = Scratch::new();
        let mut checked = Checked::new(&directory.0, history_bytes);
        let mut epoch = 1;
        for step in steps.into_iter().chain([Step::Kill]) {
            match step {
                Step::Append(group) => checked.append(group).unwrap(),
                Step::Maintain => while checked.store.maintain().unwrap() {},
                kill_or_close => {
                    let is_clean = matches!(kill_or_close, Step::Close);
                    if !is_clean {
                        // Dropping the store would write to the files.
                        directory = Scratch::copy(&directory.0);
                    }
                    let empty = Scratch::new();
                    let (other, _) = open(&empty.0, 0).unwrap();
                    let store = std::mem::replace(&mut checked.store, other);
                    Box::new(store).close(is_clean).unwrap();
                    let (store, recovered) = open(&directory.0, history_bytes).unwrap();
                    checked.store = store;
                    epoch += 1;
                    let (position, model) = checked.last();
                    prop_assert_eq!(recovered.epoch, epoch);
                    prop_assert_eq!(recovered.was_clean, is_clean);
                    prop_assert_eq!(recovered.last.position, position);
                    prop_assert_eq!(&Model::of(recovered.live), model);
                }
            }
        }
        if history_bytes > 0 {
            checked.check_history();
        }
        if history_bytes > 4096 {
            checked.check_changes(0);
        }
        while checked.store.maintain().unwrap() {}
        let (moment, live) = checked.store.live(None).unwrap();
        let (position, model) = checked.last();
        prop_assert_eq!(moment.position, position);
        prop_assert_eq!(&Model::of(live), model);
    }
}

/// Transactions for tests that do not need random ones.
fn steps(count: u64, seed: u64) -> Vec<Vec<Vec<Op>>> {
    let mut random = seed;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    (0..count)
        .map(|n| {
            let path = next(4) as usize;
            let value = vec![n as u8; next(700) as usize];
            let mut ops = vec![
                Op::Put(path, next(8) as usize, next(4) as u8, value),
                Op::Publish(next(4) as usize, next(6) as u8, Some(n)),
            ];
            if next(8) == 0 {
                ops.push(Op::Left(next(4) as usize));
            }
            vec![ops]
        })
        .collect()
}

/// A group is recorded whole or not at all, wherever a loss of power cuts or tears the unsynced end of the WAL; and what
/// was durable before stays. The same holds when power is lost again during the recovery.
#[test]
fn lost_power_within_commit_leaves_prefix() {
    let directory = Scratch::new();
    let mut checked = Checked::new(&directory.0, 1 << 30);
    let mut crashes = 0;
    for (n, group) in steps(24, 7).into_iter().enumerate() {
        // The first commits lengthen the WAL, the others are written into the zeros ahead of them.
        if n == 12 {
            checked.store.maintain().unwrap();
        }
        let before = Files::read(&directory.0);
        let (durable, earlier) = (checked.last().0, checked.last().1.clone());
        checked.append(group).unwrap();
        let after = Files::read(&directory.0);
        assert_eq!(before.db, after.db, "a commit writes to the WAL only");
        if n % 3 != 0 {
            continue;
        }
        for torn in torn(&before.wal, &after.wal, n as u64) {
            let image = Files { db: before.db.clone(), wal: torn, lock: before.lock.clone() };
            let again = image.place();
            let (store, recovered) = open(&again.0, 1 << 30).unwrap();
            let position = recovered.last.position;
            assert!(position == durable || position == durable + 1, "{position} {durable}");
            let expected = if position == durable { &earlier } else { checked.last().1 };
            assert_eq!(Model::of(recovered.live), *expected);
            crashes += 1;
            if crashes % 16 != 0 {
                continue;
            }
            // The recovery writes the epoch, and power is lost during that.
            let recovering = Files::read(&again.0);
            drop(store);
            for torn in torn_few(&image.wal, &recovering.wal, crashes) {
                let third = Files { wal: torn, ..recovering.clone() }.place();
                let (_, recovered) = open(&third.0, 1 << 30).unwrap();
                assert_eq!(recovered.last.position, position);
                assert_eq!(Model::of(recovered.live), *expected);
            }
        }
    }
    assert!(crashes > 200, "{crashes}");
}

/// Returns what a file may be that was `before` and is being overwritten by `after`, of which any sectors may be written.
fn torn(before: &[u8], after: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let mut states = Vec::new();
    let common = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    // Zeros may be written ahead of the commits.
    let content = after.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).max(common);
    // Cut at each possible length, in steps that are no multiple of anything.
    for end in (common..=content).step_by(97).chain([content, after.len()]) {
        let mut cut = after[..end].to_vec();
        if before.len() > end {
            cut.extend_from_slice(&before[end..]);
        }
        states.push(cut);
    }
    states.extend(torn_few(before, after, seed));
    states
}

fn torn_few(before: &[u8], after: &[u8], seed: u64) -> Vec<Vec<u8>> {
    const SECTOR: usize = 512;
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..12)
        .map(|_| {
            let length = before.len().max(after.len());
            let mut mixed = vec![0; length];
            for (at, sector) in mixed.chunks_mut(SECTOR).enumerate() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let source = if random & 1 == 0 { before } else { after };
                let begin = (at * SECTOR).min(source.len());
                let end = (begin + sector.len()).min(source.len());
                sector[..end - begin].copy_from_slice(&source[begin..end]);
            }
            mixed
        })
        .collect()
}

/// Lost power during a checkpoint, which may have written any sectors of the file, loses nothing.
#[test]
fn lost_power_within_checkpoint_loses_nothing() {
    let directory = Scratch::new();
    let mut checked = Checked::new(&directory.0, 1 << 30);
    for group in steps(40, 11) {
        checked.append(group).unwrap();
    }
    let before = Files::read(&directory.0);
    assert!(!before.wal.is_empty());
    // The end of a connection copies the WAL into the file.
    let Checked { store, models, .. } = checked;
    drop(store);
    let after = Files::read(&directory.0);
    assert!(after.wal.is_empty() && after.db != before.db);
    let model = models.last_key_value().unwrap().1;
    for db in torn(&before.db, &after.db, 5).into_iter().step_by(7) {
        // The header is one sector, which is old or new.
        let torn = Files { db, ..before.clone() }.place();
        let (_, recovered) = open(&torn.0, 1 << 30).unwrap();
        assert_eq!(recovered.last.position, 40);
        assert_eq!(Model::of(recovered.live), *model);
    }
}

/// A WAL that ends before a durable position, at any length, is refused; without the note of that position, what is
/// left of it is a prefix.
#[test]
fn wal_cut_before_durable_position_is_refused() {
    let directory = Scratch::new();
    let mut checked = Checked::new(&directory.0, 1 << 30);
    for group in steps(12, 3) {
        checked.append(group).unwrap();
    }
    let files = Files::read(&directory.0);
    let mut positions = Vec::new();
    for end in (0..files.wal.len() - 1).step_by(577) {
        let mut cut = Files { wal: files.wal[..end].to_vec(), ..files.clone() };
        match open(&cut.place().0, 1 << 30) {
            Err(JournalError::Shortened { durable: 12, found, .. }) => assert!(found < 12),
            // Before the tables were created.
            other => assert!(matches!(&other, Err(JournalError::Shortened { .. })), "{:?}", other.err()),
        }
        cut.lock.clear();
        let cut = cut.place();
        let (_, recovered) = open(&cut.0, 1 << 30).unwrap();
        assert_eq!(Model::of(recovered.live), checked.models[&recovered.last.position]);
        positions.push(recovered.last.position);
    }
    assert!(positions.is_sorted() && positions.last() >= Some(&11), "{positions:?}");
}

/// A flipped bit anywhere in the files is detected, or has no influence on what is read.
#[test]
fn flipped_bits_are_never_read_as_data() {
    for is_clean in [true, false] {
        let directory = Scratch::new();
        let mut checked = Checked::new(&directory.0, 1 << 30);
        for group in steps(30, 23) {
            checked.append(group).unwrap();
        }
        let unclean = Files::read(&directory.0);
        let Checked { store, models, .. } = checked;
        Box::new(store).close(true).unwrap();
        let files = if is_clean { Files::read(&directory.0) } else { unclean };
        let (mut detected, mut harmless) = (0, 0);
        let length = files.db.len() + files.wal.len();
        for at in (0..length).step_by(length / 400 + 1) {
            let mut flipped = files.clone();
            let bit = 1 << (at / 3 % 8);
            match at.checked_sub(files.db.len()) {
                None => flipped.db[at] ^= bit,
                Some(at) => flipped.wal[at] ^= bit,
            }
            let flipped = flipped.place();
            if at % 10 == 0 {
                check_repair(&flipped.0, &models);
            }
            match SqliteStore::open_to_read(&flipped.0).and_then(|mut store| Ok((store.live(None)?, store))) {
                Err(_) => detected += 1,
                Ok(((last, live), mut store)) => {
                    assert_eq!(last.position, 30, "flipped {at}");
                    assert!(Model::of(live) == models[&30], "flipped {at}");
                    for (position, model) in models.iter().skip(at % 5).step_by(5) {
                        if let Ok((moment, live)) = store.live(Some(*position)) {
                            assert_eq!(moment.position, *position);
                            assert!(Model::of(live) == *model, "flipped {at}: state at {position}");
                        }
                    }
                    let read = store.history(&HistoryFilter::default());
                    let count = |entry: &HistoryEntry| entry.transactions.len();
                    assert!(read.is_err() || read.unwrap().entries.iter().map(count).sum::<usize>() == 30);
                    harmless += 1;
                }
            }
        }
        // The others are in the history, of which not every position is read, or in no row.
        assert!(detected > 50, "{detected} detected, {harmless} harmless");
    }
}

/// Checks and repairs a damaged journal: what is saved was once recorded, and is the last unless it is listed as lost.
fn check_repair(directory: &Path, models: &BTreeMap<u64, Model>) {
    let before = Files::read(directory);
    let checked = check(directory);
    let into = Scratch::new();
    let repaired = repair(directory, &into.0);
    let after = Files::read(directory);
    assert!(before.db == after.db && before.wal == after.wal, "a check changed the files");
    let Ok(repaired) = repaired else { return };
    let (_, recovered) = open(&into.0, 0).unwrap();
    assert_eq!(recovered.last.position, repaired.position);
    let last = models.last_key_value().unwrap().1;
    let saved = Model::of(recovered.live);
    if repaired.lost.is_empty() {
        assert!(saved == *last, "something was lost silently");
        assert!(recovered.last.position > 30);
    } else {
        assert!(!checked.unwrap().problems.is_empty(), "{:?}", repaired.lost);
    }
    for (row, value) in &saved.rows {
        assert!(models.values().any(|model| model.rows.get(row) == Some(value)), "{row:?}");
    }
    for (path, state) in &saved.states {
        assert!(models.values().any(|model| model.states.get(path) == Some(state)), "{path}");
    }
}

/// A check of a sound journal finds no problem, counts what there is, and leaves the files as they are.
#[test]
fn check_of_sound_journal_changes_nothing() {
    let directory = Scratch::new();
    let mut checked = Checked::new(&directory.0, 1 << 30);
    for group in steps(20, 5) {
        checked.append(group).unwrap();
    }
    let copy = Scratch::copy(&directory.0);
    let before = Files::read(&copy.0);
    let found = check(&copy.0).unwrap();
    let model = checked.last().1;
    assert_eq!(found.problems, Vec::<String>::new());
    assert_eq!((found.format, found.epoch, found.position), (FORMAT, 1, 20));
    assert_eq!((found.rows, found.states), (model.rows.len() as u64, model.states.len() as u64));
    assert_eq!((found.groups, found.images), (20, 1));
    assert!(found.file_bytes == before.db.len() as u64 && found.wal_bytes == before.wal.len() as u64);
    for position in 0..=20 {
        let (moment, live) = Reader::open(&copy.0).unwrap().live_at(Some(position)).unwrap();
        assert_eq!(moment.position, position);
        assert!(Model::of(live) == checked.models[&position]);
    }
    let filter = HistoryFilter { path: Some(ActorPath::from("a")), ..HistoryFilter::default() };
    let entries = Reader::open(&copy.0).unwrap().history(&filter).unwrap().entries;
    assert!(!entries.is_empty() && entries.len() < 20);
    let after = Files::read(&copy.0);
    assert!(before.db == after.db && before.wal == after.wal);
}

/// Dropping a path deletes its actor and those below it, and nothing else.
#[test]
fn drop_path_deletes_actors_below_it() {
    let directory = Scratch::new();
    let (mut store, _) = open(&directory.0, 1 << 30).unwrap();
    let paths = ["", "a", "a.b", "ab", "c"].map(ActorPath::from);
    let changes = paths.iter().flat_map(|path| {
        let state = Value::of(&7_u8).unwrap();
        let (key, value) = (vec![1], vec![2; 400]);
        [
            Change::State { path: path.clone(), state },
            Change::Put { path: path.clone(), table: Table::Given, key, value },
        ]
    });
    let group = Group::merge(1, vec![transaction(changes.collect(), 1)]).unwrap();
    store.append(&group, &mut |_| ()).unwrap();
    Box::new(store).close(true).unwrap();
    assert_eq!(drop_path(&directory.0, &ActorPath::from("a"), |_| Ok(Vec::new())).unwrap(), paths[1..3]);
    assert_eq!(drop_path(&directory.0, &ActorPath::from("a"), |_| Ok(Vec::new())).unwrap(), []);
    let (_, live) = Reader::open(&directory.0).unwrap().live_at(None).unwrap();
    let left: Vec<_> = live.actors.into_keys().collect();
    assert_eq!(left, [paths[0].clone(), paths[3].clone(), paths[4].clone()]);
    assert_eq!(check(&directory.0).unwrap().problems, Vec::<String>::new());
}

/// A process that is killed while it commits leaves all that it reported as durable.
#[test]
fn killed_process_leaves_all_durable_positions() {
    const CHILD: &str = "FLOWRIGHT_TEST_JOURNAL_CHILD";
    const NAME: &str = "journal::tests::killed_process_leaves_all_durable_positions";
    if let Some(directory) = std::env::var_os(CHILD) {
        let (called, progress) = mpsc::channel();
        let on_progress = Box::new(move || called.send(()).unwrap_or_default());
        let sync = if cfg!(target_os = "linux") { Sync::Process } else { Sync::Disk };
        let settings = JournalSettings { sync, ..settings(1 << 20) };
        let (journal, recovered, _) =
            Journal::open(Path::new(&directory), settings, "child", on_progress).unwrap();
        for position in recovered.last.position + 1.. {
            let change = Change::Put {
                path: ActorPath::from("a"),
                table: Table::Run,
                key: (position % 16).to_be_bytes().to_vec(),
                value: position.to_be_bytes().repeat(1 + position as usize % 200),
            };
            journal.append(transaction(vec![change], position), Vec::new());
            while position - journal.durable() > position % 8 {
                progress.recv().unwrap();
            }
            println!("durable {}", journal.durable());
        }
    }
    let directory = Scratch::new();
    let mut last = 0;
    for kill_after in [1, 60, 500, 7, 130] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(CHILD, &directory.0)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut lines = std::io::BufRead::lines(output).map_while(Result::ok);
        let mut durable = || lines.find_map(|line| line.split_once("durable ")?.1.trim().parse::<u64>().ok());
        for _ in 0..kill_after {
            last = durable().expect("the child runs until it is killed");
        }
        child.kill().unwrap();
        while let Some(position) = durable() {
            last = position;
        }
        child.wait().unwrap();
        let copy = Scratch::copy(&directory.0);
        assert_eq!(check(&copy.0).unwrap().problems, Vec::<String>::new());
        let (_, recovered) = open(&copy.0, 1 << 20).unwrap();
        let found = recovered.last.position;
        assert!(found >= last, "{found} {last}");
        assert!(!recovered.was_clean);
        // The first child may have been killed before its first commit.
        let actor = recovered.live.actors.get(&ActorPath::from("a"));
        assert_eq!(actor.is_some(), found > 0);
        for (key, value) in actor.iter().flat_map(|actor| &actor.rows[&Table::Run]) {
            // The last position that is the key modulo 16.
            let key = u64::from_be_bytes(key[..].try_into().unwrap());
            let position = found - (found + 16 - key) % 16;
            assert_eq!(value[..8], position.to_be_bytes());
            assert_eq!(value.len(), 8 * (1 + position as usize % 200));
        }
    }
    assert!(last > 600);
}

/// A second opening is refused, and names the process and the host of the first.
#[test]
fn journal_held_by_another_names_holder() {
    let directory = Scratch::new();
    let (first, _) = open(&directory.0, 0).unwrap();
    let Err(error) = open(&directory.0, 0) else { panic!("opened twice") };
    let text = error.to_string();
    assert!(text.contains(&format!("process {} on ", std::process::id())), "{text}");
    assert!(matches!(check(&directory.0), Err(JournalError::Held { .. })));
    drop(first);
    open(&directory.0, 0).unwrap();
}

/// A file of a newer format, of another program, or of no program at all is refused, and stays as it is.
#[test]
fn foreign_files_are_refused_unchanged() {
    let directory = Scratch::new();
    let (store, _) = open(&directory.0, 0).unwrap();
    Box::new(store).close(true).unwrap();
    let files = Files::read(&directory.0);
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = files.clone();
        change(&mut changed.db);
        let place = changed.place();
        let Err(error) = open(&place.0, 0) else { panic!("opened") };
        assert!(Files::read(&place.0).db == changed.db);
        error
    };
    let newer = refused(&|db| db[60..64].copy_from_slice(&9_u32.to_be_bytes()));
    assert!(newer.is_newer_format(), "{newer}");
    let known = format!("up to {FORMAT}");
    assert!(newer.to_string().contains("format 9") && newer.to_string().contains(&known), "{newer}");
    let foreign = refused(&|db| db[68..72].copy_from_slice(&7_u32.to_be_bytes()));
    assert!(matches!(foreign, JournalError::NotAJournal { .. }), "{foreign}");
    let text = refused(&|db| *db = b"This is a letter. ".repeat(100));
    assert!(matches!(text, JournalError::Damaged { .. }), "{text}");
    let missing = check(&directory.0.join("none"));
    assert!(matches!(missing, Err(JournalError::Missing { .. })), "{missing:?}");
    let nowhere = SqliteStore::open(Path::new("/proc/flowright/journal"), settings(0), "test").map(|_| ());
    assert!(nowhere.unwrap_err().to_string().contains("cannot create /proc/flowright/journal"));
}

/// A full file refuses a group without a trace, and takes it when there is room.
#[test]
fn full_file_takes_group_when_there_is_room() {
    let directory = Scratch::new();
    let mut checked = Checked::new(&directory.0, 1 << 30);
    checked.append(vec![vec![Op::Put(1, 0, 1, vec![1; 10])]]).unwrap();
    checked.store.limit_pages(Some(1));
    let before = checked.last().1.clone();
    let large =
        Change::Put { path: ActorPath::from("a"), table: Table::Run, key: vec![9], value: vec![7; 100_000] };
    let group = Group::merge(2, vec![transaction(vec![large.clone()], 2)]).unwrap();
    for _ in 0..3 {
        let error = checked.store.append(&group, &mut |_| ()).unwrap_err();
        assert!(error.is_full(), "{error:?}");
        assert_eq!(Model::of(checked.store.live(None).unwrap().1), before);
    }
    checked.store.limit_pages(None);
    checked.store.append(&group, &mut |_| ()).unwrap();
    let mut after = before;
    after.apply(&large);
    assert_eq!(Model::of(checked.store.live(None).unwrap().1), after);
    let (_, recovered) = open(&Scratch::copy(&directory.0).0, 1 << 30).unwrap();
    assert_eq!(Model::of(recovered.live), after);
}

/// A store whose next appends fail.
struct Faulty {
    store: SqliteStore,
    faults: mpsc::Receiver<Option<JournalError>>,
    appended: mpsc::Sender<()>,
}

impl Store for Faulty {
    fn append(&mut self, group: &Group, is_durable: &mut dyn FnMut(u64)) -> Result<(), JournalError> {
        let fault = self.faults.recv().unwrap_or_default();
        let result = fault.map_or_else(|| self.store.append(group, is_durable), Err);
        let _ = self.appended.send(());
        result
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

    fn change_values(&mut self, changes: &ValueChanges) -> Result<(), JournalError> {
        self.store.change_values(changes)
    }

    fn mark_progress(&mut self) -> Result<(), JournalError> {
        self.store.mark_progress()
    }

    fn close(self: Box<Self>, is_clean: bool) -> Result<(), JournalError> {
        Box::new(self.store).close(is_clean)
    }
}

fn failure(code: i32) -> JournalError {
    let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
    JournalError::sqlite(Path::new("/somewhere/journal.db"), "write", error)
}

pub(super) fn put(key: u8) -> Transaction {
    let change =
        Change::Put { path: ActorPath::from("a"), table: Table::Run, key: vec![key], value: vec![key; 20] };
    transaction(vec![change], 1)
}

/// Waits until `is` holds, which is checked each time that the journal calls back.
pub(super) fn wait(progress: &mpsc::Receiver<()>, is: impl Fn() -> bool) {
    while !is() {
        progress.recv_timeout(Duration::from_secs(60)).expect("the journal calls back");
    }
}

/// While the disk is full, nothing becomes durable and nothing is lost; when there is room, all of it is committed.
#[test]
fn full_disk_delays_commits_until_there_is_room() {
    let directory = Scratch::new();
    let (fault, faults) = mpsc::channel();
    let (appended, attempts) = mpsc::channel();
    let (called, progress) = mpsc::channel();
    let (store, _) = open(&directory.0, 1 << 20).unwrap();
    let store = Box::new(Faulty { store, faults, appended });
    let on_progress = Box::new(move || called.send(()).unwrap_or_default());
    let journal = Journal::start(store, Recorded::Small, on_progress).unwrap();
    for _ in 0..3 {
        fault.send(Some(failure(rusqlite::ffi::SQLITE_FULL))).unwrap();
    }
    assert_eq!(journal.append(put(1), Vec::new()), 1);
    wait(&progress, || matches!(journal.condition(), Condition::Full { .. }));
    assert_eq!(journal.append(put(2), Vec::new()), 2);
    assert!(journal.backlog_bytes() > 40);
    for _ in 0..3 {
        attempts.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(journal.durable(), 0);
        assert!(matches!(journal.condition(), Condition::Full { .. }));
        journal.retry();
    }
    drop(fault);
    wait(&progress, || journal.durable() == 2 && matches!(journal.condition(), Condition::Working));
    wait(&progress, || journal.backlog_bytes() == 0);
    journal.close(true).unwrap();
    let (_, recovered) = open(&directory.0, 0).unwrap();
    assert!(recovered.was_clean);
    assert_eq!(recovered.live.actors[&ActorPath::from("a")].rows[&Table::Run].len(), 2);
}

/// After a failed sync nothing is written any more, and what was not durable is not recovered.
#[test]
fn failed_sync_is_never_tried_again() {
    let directory = Scratch::new();
    let (fault, faults) = mpsc::channel();
    let (appended, attempts) = mpsc::channel();
    let (called, progress) = mpsc::channel();
    let (store, _) = open(&directory.0, 1 << 20).unwrap();
    let store = Box::new(Faulty { store, faults, appended });
    let on_progress = Box::new(move || called.send(()).unwrap_or_default());
    let journal = Journal::start(store, Recorded::Small, on_progress).unwrap();
    fault.send(None).unwrap();
    journal.append(put(1), Vec::new());
    wait(&progress, || journal.durable() == 1);
    fault.send(Some(failure(rusqlite::ffi::SQLITE_IOERR_FSYNC))).unwrap();
    journal.append(put(2), Vec::new());
    wait(&progress, || matches!(journal.condition(), Condition::Failed(_)));
    journal.append(put(3), Vec::new());
    journal.retry();
    let (reply, replied) = mpsc::channel();
    journal.history(HistoryFilter::default(), move |result| reply.send(result.map(|_| ())).unwrap());
    assert!(matches!(replied.recv().unwrap(), Err(JournalError::Sqlite { .. })));
    assert_eq!(journal.durable(), 1);
    assert!(journal.close(true).is_err());
    drop(fault);
    assert_eq!(attempts.iter().count(), 2);
    let (_, recovered) = open(&directory.0, 0).unwrap();
    assert_eq!(recovered.last.position, 1);
    assert!(!recovered.was_clean);
}

/// The thread commits what has gathered as one group, in order, and what it reports as durable is recovered.
#[test]
fn journal_commits_gathered_transactions_in_groups() {
    let directory = Scratch::new();
    let (called, progress) = mpsc::channel();
    let on_progress = Box::new(move || called.send(()).unwrap_or_default());
    let (journal, recovered, _) =
        Journal::open(&directory.0, settings(1 << 20), "1.2.3", on_progress).unwrap();
    assert_eq!((recovered.epoch, recovered.last.position, recovered.was_clean), (1, 0, true));
    for key in 0..200 {
        assert_eq!(journal.append(put(key), Vec::new()), u64::from(key) + 1);
    }
    wait(&progress, || journal.durable() == 200);
    let figures = journal.figures();
    assert_eq!((figures.position, figures.transactions), (200, 200));
    assert!(figures.commits <= 200 && figures.written > 0 && figures.commit_time >= figures.slowest_commit);
    let (reply, replied) = mpsc::channel();
    let filter = HistoryFilter { to: Some(7), newest_first: true, ..HistoryFilter::default() };
    journal.history(filter, move |result| reply.send(result).unwrap());
    let entries = replied.recv_timeout(Duration::from_secs(60)).unwrap().unwrap().entries;
    let positions: Vec<_> =
        entries.iter().flat_map(|entry| &entry.transactions).map(|t| t.position).collect();
    assert_eq!(positions.len(), 7);
    journal.mark_progress();
    journal.close(true).unwrap();
    let (_, recovered) = open(&directory.0, 1 << 20).unwrap();
    assert_eq!((recovered.epoch, recovered.last.position, recovered.was_clean), (2, 200, true));
    let start = &recovered.starts[0];
    assert_eq!((start.epoch, start.program.as_str(), start.has_progressed), (1, "1.2.3", true));
}

/// Live data at a position that are read in parts are those of that position, whatever is appended between the parts, and
/// are refused once their image is pruned.
#[test]
fn live_data_read_in_parts_are_of_one_position() {
    let directory = Scratch::new();
    let (mut store, _) = open(&directory.0, 1 << 30).unwrap();
    let append = |store: &mut SqliteStore, position: u64| {
        let paths = ["a", "b", "c"].map(ActorPath::from);
        let changes = paths.iter().flat_map(|path| {
            let (key, value) = ((position % 7).to_be_bytes().to_vec(), vec![position as u8; 300]);
            let state = Value::of(&position).unwrap();
            [
                Change::State { path: path.clone(), state },
                Change::Put { path: path.clone(), table: Table::Run, key: key.clone(), value: value.clone() },
                Change::Put { path: path.clone(), table: Table::Given, key, value },
            ]
        });
        store
            .append(&Group::merge(position, vec![transaction(changes.collect(), 1)]).unwrap(), &mut |_| ())
            .unwrap();
    };
    (1..=20).for_each(|position| append(&mut store, position));
    store.write_image().unwrap();
    (21..=40).for_each(|position| append(&mut store, position));
    let past = Instant::now();
    let mut next = 41;
    for position in [5, 20, 27, 40] {
        let (moment, whole) = store.live(Some(position)).unwrap();
        for extent in [Extent::All, Extent::Tables(&[Table::Given])] {
            let reading = store.begin_live_at(position, extent).unwrap();
            let mut parts = 0;
            let (read_at, live) = loop {
                if let Some(read) = store.continue_live_at(reading, past).unwrap() {
                    break read;
                }
                parts += 1;
                append(&mut store, next);
                next += 1;
            };
            assert!(parts > 3, "{parts} parts");
            assert_eq!(read_at, moment);
            let mut expected = whole.clone();
            if extent != Extent::All {
                expected.actors.values_mut().for_each(|actor| drop(actor.rows.remove(&Table::Run)));
            }
            assert_eq!(live, expected);
        }
    }
    let reading = store.begin_live_at(5, Extent::All).unwrap();
    assert_eq!(store.continue_live_at(reading, past).unwrap(), None);
    store.forget_images_before(20);
    let refused = store.continue_live_at(reading, past);
    assert!(matches!(refused, Err(JournalError::NoPosition { position: 5, oldest: 20, .. })), "{refused:?}");
}

/// Commits go on between the parts of a long reading, and readings go on while the disk is full.
#[test]
fn readings_and_commits_take_turns() {
    let directory = Scratch::new();
    let (mut store, _) = open(&directory.0, 1 << 30).unwrap();
    let changes = |number: u32| {
        let path = ActorPath::from(format!("work.{number}").as_str());
        vec![Change::State { path, state: Value::of(&number).unwrap() }]
    };
    let all = (0..5000).map(|number| transaction(changes(number), 1)).collect();
    store.append(&Group::merge(1, all).unwrap(), &mut |_| ()).unwrap();
    let (fault, faults) = mpsc::channel();
    let (appended, attempts) = mpsc::channel();
    let (called, progress) = mpsc::channel();
    let store = Box::new(Faulty { store, faults, appended });
    let on_progress = Box::new(move || called.send(()).unwrap_or_default());
    let journal = Journal::start(store, Recorded::Small, on_progress).unwrap();
    let durable = journal.watch_durable();
    let (reply, read) = mpsc::channel();
    for _ in 0..3 {
        let (reply, durable) = (reply.clone(), durable.clone());
        let told = move |live: Result<(Moment, Live), JournalError>| {
            let (moment, live) = live.unwrap();
            reply.send((moment.position, live.actors.len(), durable())).unwrap();
        };
        journal.live_at(5000, Extent::All, told);
    }
    fault.send(None).unwrap();
    journal.append(put(1), Vec::new());
    for _ in 0..3 {
        let (position, actors, durable) = read.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((position, actors), (5000, 5000));
        assert_eq!(durable, 5001, "the commit did not wait for the end of a reading");
    }
    attempts.recv_timeout(Duration::from_secs(60)).unwrap();
    fault.send(Some(failure(rusqlite::ffi::SQLITE_FULL))).unwrap();
    journal.append(put(2), Vec::new());
    wait(&progress, || matches!(journal.condition(), Condition::Full { .. }));
    let told = move |live: Result<(Moment, Live), JournalError>| {
        reply.send((live.unwrap().0.position, 0, 0)).unwrap();
    };
    journal.live_at(5000, Extent::All, told);
    assert_eq!(read.recv_timeout(Duration::from_secs(60)).unwrap().0, 5000);
    assert!(matches!(journal.condition(), Condition::Full { .. }));
    drop(fault);
    journal.retry();
    journal.close(true).unwrap();
}

/// A part of the history that ends by its size says where the rest is, in both directions, with and without a path.
#[test]
fn history_read_in_parts_is_complete() {
    let directory = Scratch::new();
    let (mut store, _) = open(&directory.0, 1 << 30).unwrap();
    for position in 1..=30 {
        let path = ActorPath::from(["a", "b", "c"][position as usize % 3]);
        let state = Value::of(&vec![position; position as usize]).unwrap();
        let row = Change::Put { path: path.clone(), table: Table::Run, key: vec![1], value: vec![2] };
        let changes = vec![row, Change::State { path, state }];
        store.append(&Group::merge(position, vec![transaction(changes, 1)]).unwrap(), &mut |_| ()).unwrap();
    }
    for path in [None, Some(ActorPath::from("a"))] {
        for newest_first in [false, true] {
            let all = HistoryFilter { path: path.clone(), newest_first, ..HistoryFilter::default() };
            let whole = store.history(&all).unwrap();
            assert_eq!(whole.next, None);
            assert_eq!(whole.entries.len(), if path.is_some() { 10 } else { 30 });
            for (limit, bytes) in [(1, 0), (4, 0), (0, 100), (0, 1), (7, 150)] {
                let mut filter = HistoryFilter { limit, bytes, ..all.clone() };
                let (mut entries, mut parts) = (Vec::new(), 0);
                loop {
                    let part = store.history(&filter).unwrap();
                    entries.extend(part.entries);
                    parts += 1;
                    match part.next {
                        Some(next) if newest_first => filter.to = Some(next),
                        Some(next) => filter.from = Some(next),
                        None => break,
                    }
                }
                assert_eq!(entries, whole.entries, "{limit} groups, {bytes} bytes");
                assert!(parts > 1, "{limit} groups, {bytes} bytes");
            }
            let rows = store.history(&HistoryFilter { rows_only: true, ..all }).unwrap();
            let changes: Vec<_> = rows
                .entries
                .iter()
                .flat_map(|entry| &entry.transactions)
                .flat_map(|it| &it.changes)
                .collect();
            assert_eq!(changes.len(), whole.entries.len());
            assert!(changes.iter().all(|change| matches!(change, Change::Put { .. })));
        }
    }
}
