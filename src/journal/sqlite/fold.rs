//! Folding of the log into the table `live`.
//!
//! A commit writes one row to `history`, which is a log, and none to `live`. The rows that it changes wait in memory.
//! Later commits write the last value of each to `live`, in slices: a fuzzy checkpoint (Mohan et al., "ARIES", 1992). Rows
//! of runs that were requested and have ended meanwhile are not written at all.
//!
//! # Guarantees
//! - `live` has all changes up to the position in `fold`. Rows of it may be newer; the log has these changes as well.
//! - Since changes in the log set and delete whole rows, repeating the log from that position leads to the last live
//!   rows, whichever slices were committed.
//! - The log from that position is whole: each of its rows has the checksum of the one before it.
//! - The rows that wait, and the log that an opening repeats, are bounded: each commit folds more rows than it adds.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use rusqlite::params;

use super::rows::{FoldRow, HistoryRow, Rows, live_sum};
use super::{ROW, SqliteStore};
use crate::id::ActorPath;
use crate::journal::encoding::{Recorded, Recording};
use crate::journal::{JournalError, Live, Table, log_encoding};

/// The number of waiting rows at which folding begins. More rows fold into fewer writes, and take more memory.
const ROWS: usize = 64 * 1024;

/// The size of the log at which folding begins, in bytes.
const LOG: u64 = 16 << 20;

/// The number of rows that each commit folds beside twice those that it adds.
const SLICE: usize = 32;

/// A row of `live`: path, table and key.
type RowKey = (ActorPath, Table, Bytes);

/// The changes of the log after the position in `fold`.
#[derive(Debug)]
pub(super) struct Fold {
    row: FoldRow,
    folding: Option<Folding>,
    waiting: Waiting,
    /// The rows of runs that `live` or `folding` has: the deletion of any other row needs no folding.
    runs: RunRows,
    limit: usize,
}

/// Keys of rows of [`Table::Run`], by actor.
pub(super) type RunRows = HashMap<ActorPath, HashSet<Bytes>>;

/// Changes that wait to be folded, merged: of several changes of one row, the last.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    actors: HashMap<ActorPath, WaitingRows>,
    /// The number of rows and of actors that have left.
    count: usize,
    /// The size of the log that has these changes.
    bytes: u64,
    /// The last position of the log, and the checksum of its row.
    position: u64,
    chain: i64,
}

/// The changed rows of one actor.
#[derive(Debug, Clone, Default)]
struct WaitingRows {
    /// True if all rows that `live` has are deleted before `rows` is applied.
    has_left: bool,
    /// New values; `None` deletes the row.
    rows: HashMap<(Table, Bytes), Option<Bytes>, BuildHasherDefault<RowHasher>>,
}

/// Hashes keys of rows. These are hashes, and numbers and names of the runtime: they need no protection against chosen keys.
#[derive(Default)]
struct RowHasher(u64);

impl Hasher for RowHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing (Knuth).
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        // A table takes the low bits, on which the last number has the least effect.
        self.0.rotate_left(32)
    }
}

/// Changes that are being folded.
#[derive(Debug)]
struct Folding {
    left: Vec<ActorPath>,
    rows: VecDeque<(RowKey, Option<Bytes>)>,
    position: u64,
    chain: i64,
}

/// A slice that has been written but not committed.
#[derive(Debug)]
pub(super) struct Slice {
    row: FoldRow,
    rows: usize,
    is_last: bool,
}

impl Waiting {
    /// Reads the log from the position up to which it was folded.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if a row of it is damaged or missing.
    pub(super) fn read(rows: &Rows<'_>, fold: &FoldRow) -> Result<Self, JournalError> {
        let mut waiting = Self { position: fold.position, chain: fold.chain, ..Self::default() };
        rows.each_history(fold.position + 1, u64::MAX, false, |row| {
            waiting.follow(rows, &row)?;
            let recording = decode(rows, &row)?;
            waiting.apply(&recording, row.changes.len(), None);
            Ok(true)
        })?;
        Ok(waiting)
    }

    /// Goes on to the next row of the log.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if it is not the one that follows.
    fn follow(&mut self, rows: &Rows<'_>, row: &HistoryRow) -> Result<(), JournalError> {
        let (next, chain) = (self.position + 1, self.chain);
        (self.position, self.chain) = (row.position, row.sum());
        if row.first == next && row.chain == chain {
            return Ok(());
        }
        Err(rows.damaged(format!("the history from position {next} to {} is missing", row.first)))
    }

    /// Adds the changes of a group. `runs` has the rows of runs that are not only here, if that is known.
    fn apply(&mut self, recording: &Recording, bytes: usize, runs: Option<&RunRows>) {
        self.bytes += bytes as u64 + ROW;
        let changes = recording.iter().flat_map(|(_, _, changes)| changes);
        let mut last: Option<(&ActorPath, &mut WaitingRows)> = None;
        for change in changes {
            let (Recorded::Put(path, ..) | Recorded::Delete(path, ..) | Recorded::Left(path)) = change else {
                continue;
            };
            // Most changes are of the actor of the one before.
            let actor = match last.take() {
                Some((of, actor)) if of == path => actor,
                _ => actor(&mut self.actors, path),
            };
            match change {
                Recorded::Put(_, table, key, value) => {
                    let replaced = actor.rows.insert((*table, key.clone()), Some(value.clone()));
                    self.count += usize::from(replaced.is_none());
                }
                Recorded::Delete(_, table, key) => {
                    let is_only_here = actor.has_left
                        || *table == Table::Run
                            && runs
                                .is_some_and(|runs| !runs.get(path).is_some_and(|keys| keys.contains(key)));
                    let row = (*table, key.clone());
                    if is_only_here {
                        self.count -= usize::from(actor.rows.remove(&row).is_some());
                    } else {
                        self.count += usize::from(actor.rows.insert(row, None).is_none());
                    }
                }
                Recorded::State(_) | Recorded::Reacted(_) | Recorded::Left(_) => {
                    self.count -= actor.rows.len();
                    self.count += usize::from(!std::mem::replace(&mut actor.has_left, true));
                    actor.rows = HashMap::default();
                }
            }
            last = Some((path, actor));
        }
    }

    /// Returns the last position of the log, and the checksum of its row.
    pub(super) fn end(&self) -> (u64, i64) {
        (self.position, self.chain)
    }

    /// Returns true if a row of `live` is not the last of its key.
    pub(super) fn overrides(&self, path: &ActorPath, table: Table, key: &Bytes) -> bool {
        let actor = self.actors.get(path);
        actor.is_some_and(|actor| actor.has_left || actor.rows.contains_key(&(table, key.clone())))
    }

    /// Adds the rows to live data that have those of `live` that are not overridden.
    pub(super) fn add_to(self, live: &mut Live) {
        for (path, actor) in self.actors {
            let mut rows: Vec<_> =
                actor.rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            let tables: BTreeSet<_> = rows.iter().map(|((table, _), _)| *table).collect();
            for ((table, key), value) in rows {
                live.put(&path, table, key, value);
            }
            let Some(actor) = live.actors.get_mut(&path) else { continue };
            for table in tables {
                // Two sorted runs, which a stable sort merges.
                actor.rows.entry(table).or_default().sort_by(|a, b| a.0.cmp(&b.0));
            }
        }
    }
}

/// Returns the changed rows of an actor.
fn actor<'a>(actors: &'a mut HashMap<ActorPath, WaitingRows>, path: &ActorPath) -> &'a mut WaitingRows {
    if !actors.contains_key(path) {
        actors.insert(path.clone(), WaitingRows::default());
    }
    actors.get_mut(path).expect("it was inserted")
}

/// Decodes the changes of a row of the log.
pub(crate) fn decode(rows: &Rows<'_>, row: &HistoryRow) -> Result<Recording, JournalError> {
    log_encoding::decode(&row.changes).map_err(|error| {
        rows.damaged(format!("the history at position {} cannot be decoded: {error}", row.position))
    })
}

/// Removes the rows of an actor from a map that is ordered by path.
pub(crate) fn remove_rows_of<V>(rows: &mut BTreeMap<RowKey, V>, path: &ActorPath) {
    let begin = (path.clone(), Table::App, Bytes::new());
    let of_path = rows.range(begin..).take_while(|((other, ..), _)| other == path);
    let keys: Vec<_> = of_path.map(|(key, _)| key.clone()).collect();
    for key in keys {
        rows.remove(&key);
    }
}

impl Folding {
    /// Returns true if a row of `live` is not the last of its key.
    fn overrides(&self, path: &ActorPath, table: Table, key: &Bytes) -> bool {
        let found = self.rows.binary_search_by(|((a, b, c), _)| (a, b, c).cmp(&(path, &table, key)));
        found.is_ok() || self.left.contains(path)
    }
}

impl Fold {
    /// Creates the changes after `row`, of which `live` has those rows of runs that are in `runs`.
    pub(super) fn new(row: FoldRow, waiting: Waiting, runs: RunRows) -> Self {
        let mut fold = Self { row, folding: None, waiting, runs, limit: ROWS };
        fold.begin_if_due();
        fold
    }

    pub(super) fn row(&self) -> &FoldRow {
        &self.row
    }

    /// Returns true if a row of `live` is not the last of its key.
    pub(super) fn overrides(&self, path: &ActorPath, table: Table, key: &Bytes) -> bool {
        let is_folding = self.folding.as_ref().is_some_and(|folding| folding.overrides(path, table, key));
        is_folding || self.waiting.overrides(path, table, key)
    }

    /// Visits the last values that rows have and that are not in `live` yet.
    pub(super) fn each_row<E>(
        &self,
        mut visit: impl FnMut(&ActorPath, Table, &Bytes, &Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        for ((path, table, key), value) in self.folding.iter().flat_map(|folding| &folding.rows) {
            if let Some(value) = value
                && !self.waiting.overrides(path, *table, key)
            {
                visit(path, *table, key, value)?;
            }
        }
        for (path, actor) in &self.waiting.actors {
            for ((table, key), value) in &actor.rows {
                if let Some(value) = value {
                    visit(path, *table, key, value)?;
                }
            }
        }
        Ok(())
    }

    /// Has folding begin at this number of waiting rows.
    #[cfg(test)]
    pub(super) fn limit(&mut self, rows: usize) {
        self.limit = rows;
    }

    /// Adds a group, which has been committed with `row`, whose checksum is `chain`.
    pub(super) fn add(&mut self, recording: &Recording, row: &HistoryRow, chain: i64) {
        self.waiting.apply(recording, row.changes.len(), Some(&self.runs));
        (self.waiting.position, self.waiting.chain) = (row.position, chain);
        self.begin_if_due();
    }

    fn begin_if_due(&mut self) {
        if self.folding.is_none() && (self.waiting.count >= self.limit || self.waiting.bytes >= LOG) {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let (position, chain) = self.waiting.end();
        let Waiting { actors, count, .. } =
            std::mem::replace(&mut self.waiting, Waiting { position, chain, ..Waiting::default() });
        let (mut left, mut rows) = (Vec::new(), Vec::with_capacity(count));
        for (path, actor) in actors {
            if actor.has_left {
                self.runs.remove(&path);
                left.push(path.clone());
            }
            for ((table, key), value) in actor.rows {
                if table == Table::Run {
                    self.note_run(&path, &key, value.is_some());
                }
                rows.push(((path.clone(), table, key), value));
            }
        }
        // In the order of `live`, so that a slice changes few of its pages.
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.folding = Some(Folding { left, rows: rows.into(), position, chain });
    }

    fn note_run(&mut self, path: &ActorPath, key: &Bytes, is_there: bool) {
        if is_there {
            self.runs.entry(path.clone()).or_default().insert(key.clone());
        } else if let Some(keys) = self.runs.get_mut(path) {
            keys.remove(key);
            if keys.is_empty() {
                self.runs.remove(path);
            }
        }
    }

    /// Goes on after a slice, which has been committed.
    pub(super) fn advance(&mut self, slice: Option<Slice>) {
        let (Some(Slice { row, rows, is_last }), Some(folding)) = (slice, &mut self.folding) else { return };
        self.row = row;
        folding.left.clear();
        folding.rows.drain(..rows);
        if is_last {
            self.folding = None;
            self.begin_if_due();
        }
    }
}

impl SqliteStore {
    /// Writes the next rows to `live`, beside a group that changes `added` rows.
    pub(super) fn fold_beside(&self, added: usize) -> Result<Option<Slice>, JournalError> {
        self.fold_slice(SLICE + 2 * added)
    }

    /// Folds the whole log.
    pub(super) fn fold_all(&mut self) -> Result<(), JournalError> {
        while self.fold.row.position < self.head.position {
            if self.fold.folding.is_none() {
                self.fold.begin();
            }
            let slice = self.transact(|store| store.fold_slice(usize::MAX))?;
            self.fold.advance(slice);
        }
        Ok(())
    }

    fn fold_slice(&self, limit: usize) -> Result<Option<Slice>, JournalError> {
        let Some(folding) = &self.fold.folding else { return Ok(None) };
        let mut row = self.fold.row;
        for path in &folding.left {
            self.remove_live(path, &mut row)?;
        }
        let rows = folding.rows.len().min(limit);
        for ((path, table, key), value) in folding.rows.iter().take(rows) {
            self.replace_live((path, *table, key), value.as_deref(), &mut row)?;
        }
        let is_last = rows == folding.rows.len();
        if is_last {
            (row.position, row.chain) = (folding.position, folding.chain);
        }
        self.execute(
            "UPDATE fold SET position = ?1, chain = ?2, live_rows = ?3, live_sum = ?4, sum = ?5 WHERE id = 1",
            params![row.position as i64, row.chain, row.live_rows, row.live_sum, row.sum()],
        )?;
        if is_last && !self.settings.has_history() {
            self.execute(
                "DELETE FROM history WHERE position <= ?1 AND position < (SELECT max(position) FROM history)",
                [row.position as i64],
            )?;
        }
        Ok(Some(Slice { row, rows, is_last }))
    }

    fn remove_live(&self, path: &ActorPath, row: &mut FoldRow) -> Result<(), JournalError> {
        let (rows, sum) = self.rows().sums_of(path)?;
        if rows > 0 {
            row.live_rows -= rows;
            row.live_sum = row.live_sum.wrapping_sub(sum);
            let path = path.as_str();
            self.execute("DELETE FROM large WHERE id IN (SELECT large FROM live WHERE path = ?1)", [path])?;
            self.execute("DELETE FROM live WHERE path = ?1", [path])?;
        }
        Ok(())
    }

    fn replace_live(
        &self,
        (path, table, key): (&ActorPath, Table, &[u8]),
        value: Option<&[u8]>,
        row: &mut FoldRow,
    ) -> Result<(), JournalError> {
        let before = self.rows().sum_of(path, table, key)?;
        if let Some((sum, large)) = before {
            row.live_rows -= 1;
            row.live_sum = row.live_sum.wrapping_sub(sum);
            if let Some(id) = large {
                self.execute("DELETE FROM large WHERE id = ?1", [id])?;
            }
        }
        let (path, table) = (path.as_str(), table.name());
        if let Some(value) = value {
            let sum = live_sum(path, table.as_bytes(), key, value);
            row.live_rows += 1;
            row.live_sum = row.live_sum.wrapping_add(sum);
            self.put_live(path, table, key, value, sum)?;
        } else if before.is_some() {
            self.execute(
                "DELETE FROM live WHERE path = ?1 AND tbl = ?2 AND key = ?3",
                params![path, table, key],
            )?;
        }
        Ok(())
    }
}
