//! Folding of the log into the table `live`.
//!
//! A commit writes one row to `history`, which is a log, and none to `live`. The rows that it changes wait in memory.
//! Later commits write the last value of each to `live`, in slices: a fuzzy checkpoint (Mohan et al., "ARIES", 1992).
//!
//! # Guarantees
//! - `live` has all changes up to the position in `fold`. Rows of it may be newer; the log has these changes as well.
//! - Since changes in the log set and delete whole rows, repeating the log from that position leads to the last live
//!   rows, whichever slices were committed.
//! - The log from that position is whole: each of its rows has the checksum of the one before it.
//! - The rows that wait, and the log that an opening repeats, are bounded: each commit folds more rows than it adds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rusqlite::params;

use super::rows::{FoldRow, HistoryRow, Rows, live_sum};
use super::{ROW, SqliteStore};
use crate::id::ActorPath;
use crate::journal::encoding::{self, Recorded, Recording};
use crate::journal::{JournalError, Live, Table};

/// The number of waiting rows at which folding begins. More rows fold into fewer writes, and take more memory.
const ROWS: usize = 8 * 1024;

/// The size of the log at which folding begins, in bytes.
const LOG: u64 = 4 << 20;

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
    limit: usize,
}

/// Changes that wait to be folded, merged: of several changes of one row, the last.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    /// Actors whose rows are deleted before `rows` is applied.
    left: BTreeSet<ActorPath>,
    /// New values of rows; `None` deletes the row.
    rows: BTreeMap<RowKey, Option<Bytes>>,
    /// The size of the log that has these changes.
    bytes: u64,
    /// The last position of the log, and the checksum of its row.
    position: u64,
    chain: i64,
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
            waiting.apply(&recording, row.changes.len());
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

    pub(super) fn apply(&mut self, recording: &Recording, bytes: usize) {
        self.bytes += bytes as u64 + ROW;
        for change in recording.iter().flat_map(|(_, _, changes)| changes) {
            match change {
                Recorded::Put(path, table, key, value) => {
                    self.rows.insert((path.clone(), *table, key.clone()), Some(value.clone()));
                }
                Recorded::Delete(path, table, key) => {
                    self.rows.insert((path.clone(), *table, key.clone()), None);
                }
                Recorded::State(_) => {}
                Recorded::Left(path) => {
                    remove_rows_of(&mut self.rows, path);
                    self.left.insert(path.clone());
                }
            }
        }
    }

    /// Returns the last position of the log, and the checksum of its row.
    pub(super) fn end(&self) -> (u64, i64) {
        (self.position, self.chain)
    }

    /// Returns true if a row of `live` is not the last of its key.
    pub(super) fn overrides(&self, path: &ActorPath, table: Table, key: &[u8]) -> bool {
        !self.rows.is_empty() && self.rows.contains_key(&(path.clone(), table, Bytes::copy_from_slice(key)))
            || self.left.contains(path)
    }

    /// Adds the rows to live data that have those of `live` that are not overridden.
    pub(super) fn add_to(self, live: &mut Live) {
        let mut unsorted = BTreeSet::new();
        for ((path, table, key), value) in self.rows {
            let Some(value) = value else { continue };
            live.put(&path, table, key.into(), value.into());
            unsorted.insert((path, table));
        }
        for (path, table) in unsorted {
            if let Some(rows) = live.actors.get_mut(&path).and_then(|actor| actor.rows.get_mut(&table)) {
                // Two sorted runs, which a stable sort merges.
                rows.sort_by(|a, b| a.0.cmp(&b.0));
            }
        }
    }
}

/// Decodes the changes of a row of the log.
pub(crate) fn decode(rows: &Rows<'_>, row: &HistoryRow) -> Result<Recording, JournalError> {
    encoding::decode(&row.changes).map_err(|error| {
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

impl Fold {
    pub(super) fn new(row: FoldRow, waiting: Waiting) -> Self {
        let mut fold = Self { row, folding: None, waiting, limit: ROWS };
        fold.begin_if_due();
        fold
    }

    pub(super) fn row(&self) -> &FoldRow {
        &self.row
    }

    /// Has folding begin at this number of waiting rows.
    #[cfg(test)]
    pub(super) fn limit(&mut self, rows: usize) {
        self.limit = rows;
    }

    /// Adds a group, which has been committed with `row`, whose checksum is `chain`.
    pub(super) fn add(&mut self, recording: &Recording, row: &HistoryRow, chain: i64) {
        self.waiting.apply(recording, row.changes.len());
        (self.waiting.position, self.waiting.chain) = (row.position, chain);
        self.begin_if_due();
    }

    fn begin_if_due(&mut self) {
        let count = self.waiting.rows.len() + self.waiting.left.len();
        if self.folding.is_none() && (count >= self.limit || self.waiting.bytes >= LOG) {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let (position, chain) = self.waiting.end();
        let Waiting { left, rows, .. } =
            std::mem::replace(&mut self.waiting, Waiting { position, chain, ..Waiting::default() });
        let (left, rows) = (left.into_iter().collect(), rows.into_iter().collect());
        self.folding = Some(Folding { left, rows, position, chain });
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
