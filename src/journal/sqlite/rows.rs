//! The rows of `journal.db`: reading them with their checksums.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, params};

use crate::id::ActorPath;
use crate::journal::encoding::{self, Kind, checksum, fast_checksum};
use crate::journal::{JournalError, Moment, Start, Table, log_encoding};
use crate::state::{Patch, Value};

/// A connection with the path of its file, for errors.
pub(crate) struct Rows<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) file: &'a Path,
}

/// The identity of the App, and the number of openings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) app: [u8; 16],
    pub(crate) epoch: u64,
}

impl Meta {
    pub(crate) fn sum(&self) -> i64 {
        checksum(Kind::Meta, &[&self.app, &self.epoch.to_le_bytes()])
    }
}

/// The row of `fold`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FoldRow {
    /// The last position whose changes, and those of all before it, are part of `live`. Rows of `live` may be newer.
    pub(crate) position: u64,
    /// The checksum of the row of `history` at that position.
    pub(crate) chain: i64,
    /// The number of rows of `live`.
    pub(crate) live_rows: i64,
    /// The sum of their checksums, modulo 2^64.
    pub(crate) live_sum: i64,
}

impl FoldRow {
    pub(crate) fn sum(&self) -> i64 {
        let numbers = [self.position as i64, self.chain, self.live_rows, self.live_sum];
        checksum(Kind::Fold, &[&numbers.map(i64::to_le_bytes).concat()])
    }
}

/// A row of `live`.
#[derive(Debug, Clone)]
pub(crate) struct LiveRow {
    pub(crate) table: Table,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) sum: i64,
}

/// A row of `history`.
#[derive(Debug, Clone, Default)]
pub(crate) struct HistoryRow {
    pub(crate) position: u64,
    pub(crate) first: u64,
    pub(crate) wall: i64,
    pub(crate) at: i64,
    /// The number of rows of `state` that the live states consist of, with their patches.
    pub(crate) state_rows: i64,
    /// The sum of the checksums of these rows, modulo 2^64.
    pub(crate) state_sum: i64,
    /// The number of bytes of history up to here.
    pub(crate) total: i64,
    /// The checksum of the row before this one, so that none can be missing between two.
    pub(crate) chain: i64,
    pub(crate) changes: Bytes,
}

impl HistoryRow {
    pub(crate) fn sum(&self) -> i64 {
        let numbers = [
            self.position as i64,
            self.first as i64,
            self.wall,
            self.at,
            self.state_rows,
            self.state_sum,
            self.total,
            self.chain,
        ];
        let numbers = numbers.map(i64::to_le_bytes).concat();
        checksum(Kind::History, &[&numbers, &self.changes])
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            position: self.position,
            at: encoding::duration_from(self.at),
            wall: encoding::wall_from(self.wall),
        }
    }
}

/// The header of an image.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ImageMark {
    pub(crate) position: u64,
    pub(crate) wall: i64,
    pub(crate) at: i64,
    pub(crate) total: i64,
    /// The columns of the same names of the row of `history`.
    pub(crate) state_rows: i64,
    pub(crate) state_sum: i64,
    /// The checksum of that row.
    pub(crate) chain: i64,
}

impl ImageMark {
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            position: self.position,
            at: encoding::duration_from(self.at),
            wall: encoding::wall_from(self.wall),
        }
    }

    pub(crate) fn sum(&self, part: i64, last: bool, rows: &[u8]) -> i64 {
        let numbers = [
            self.position as i64,
            part,
            i64::from(last),
            self.wall,
            self.at,
            self.total,
            self.state_rows,
            self.state_sum,
            self.chain,
        ];
        checksum(Kind::Image, &[&numbers.map(i64::to_le_bytes).concat(), rows])
    }
}

/// The kind of a row of `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateKind {
    State,
    Patch,
    Left,
}

impl StateKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Patch => "patch",
            Self::Left => "left",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        [Self::State, Self::Patch, Self::Left].into_iter().find(|kind| kind.name().as_bytes() == name)
    }
}

/// A row of `state`.
#[derive(Debug, Clone)]
pub(crate) struct StateRow {
    pub(crate) position: u64,
    pub(crate) kind: StateKind,
    pub(crate) value: Vec<u8>,
    pub(crate) sum: i64,
}

/// The rows of `state` that make up a state: a whole state, and the patches after it.
#[derive(Debug, Clone)]
pub(crate) struct StateRows(Vec<StateRow>);

impl StateRows {
    /// Returns the number of bytes of the whole state.
    pub(crate) fn size(&self) -> u64 {
        self.0.first().map_or(0, |row| row.value.len() as u64)
    }

    pub(crate) fn patches(&self) -> impl Iterator<Item = &StateRow> {
        self.0.iter().skip(1)
    }

    pub(crate) fn count(&self) -> i64 {
        self.0.len() as i64
    }

    pub(crate) fn sum(&self) -> i64 {
        self.0.iter().fold(0, |sum, row| sum.wrapping_add(row.sum))
    }

    /// Returns the position of the last change.
    pub(crate) fn newest(&self) -> u64 {
        self.0.last().map_or(0, |row| row.position)
    }

    /// Decodes the state.
    pub(crate) fn decode(&self) -> Result<Value, String> {
        let (base, patches) = self.0.split_first().ok_or("there is no row")?;
        let mut state: Value = encoding::decode(&base.value)?;
        for row in patches {
            let patch: Patch = encoding::decode(&row.value)?;
            state.apply(patch).map_err(|error| error.to_string())?;
        }
        Ok(state)
    }
}

pub(crate) fn live_sum(path: &str, table: &[u8], key: &[u8], value: &[u8]) -> i64 {
    fast_checksum(Kind::Live, &[path.as_bytes(), table, key, value])
}

fn live_sum_of_format_2(path: &str, table: &[u8], key: &[u8], value: &[u8]) -> i64 {
    checksum(Kind::Live, &[path.as_bytes(), table, key, value])
}

/// Copies short byte strings into memory that they share: an allocation for each takes longer than the rest.
#[derive(Default)]
struct Arena(BytesMut);

impl Arena {
    /// Size of a shared piece of memory in bytes, which stays as long as one of the strings in it.
    const PIECE: usize = 16 << 10;

    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(Self::PIECE.max(bytes.len()));
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }
}

pub(crate) fn state_sum(path: &str, position: u64, kind: StateKind, value: &[u8]) -> i64 {
    checksum(Kind::State, &[path.as_bytes(), &position.to_le_bytes(), kind.name().as_bytes(), value])
}

pub(crate) fn start_sum(start: &Start) -> i64 {
    let numbers = [
        start.epoch as i64,
        encoding::wall_nanos(start.wall),
        start.position as i64,
        i64::from(start.has_progressed),
        i64::from(start.is_clean),
    ];
    checksum(Kind::Start, &[&numbers.map(i64::to_le_bytes).concat(), start.program.as_bytes()])
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number as u64)
}

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    Ok(row.get_ref(column)?.as_bytes()?)
}

impl Rows<'_> {
    pub(crate) fn sqlite(&self, error: rusqlite::Error) -> JournalError {
        JournalError::sqlite(self.file, "read", error)
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> JournalError {
        JournalError::damaged(self.file, what)
    }

    fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, JournalError> {
        self.connection.prepare_cached(sql).map_err(|error| self.sqlite(error))
    }

    pub(crate) fn meta(&self) -> Result<Meta, JournalError> {
        let mut statement = self.prepare("SELECT app, epoch, sum FROM meta WHERE id = 1")?;
        let read = statement
            .query_row([], |row| Ok((row.get::<_, [u8; 16]>(0)?, number(row, 1)?, row.get::<_, i64>(2)?)));
        let (app, epoch, sum) = read.map_err(|error| self.sqlite(error))?;
        let meta = Meta { app, epoch };
        if meta.sum() == sum { Ok(meta) } else { Err(self.damaged("the checksum of table meta is wrong")) }
    }

    pub(crate) fn fold(&self) -> Result<FoldRow, JournalError> {
        let mut statement =
            self.prepare("SELECT position, chain, live_rows, live_sum, sum FROM fold WHERE id = 1")?;
        let read = statement.query_row([], |row| {
            let (chain, live_rows, live_sum) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((FoldRow { position: number(row, 0)?, chain, live_rows, live_sum }, row.get::<_, i64>(4)?))
        });
        let (fold, sum) = read.map_err(|error| self.sqlite(error))?;
        if fold.sum() == sum { Ok(fold) } else { Err(self.damaged("the checksum of table fold is wrong")) }
    }

    /// Returns the last openings, oldest first.
    pub(crate) fn starts(&self) -> Result<Vec<Start>, JournalError> {
        let mut statement = self.prepare(
            "SELECT epoch, wall, position, program, progressed, clean, sum FROM starts ORDER BY epoch",
        )?;
        let read = statement.query_map([], |row| {
            let start = Start {
                epoch: number(row, 0)?,
                wall: encoding::wall_from(row.get(1)?),
                position: number(row, 2)?,
                program: row.get(3)?,
                has_progressed: row.get(4)?,
                is_clean: row.get(5)?,
            };
            Ok((start, row.get::<_, i64>(6)?))
        });
        let mut starts = Vec::new();
        for read in read.map_err(|error| self.sqlite(error))? {
            let (start, sum) = read.map_err(|error| self.sqlite(error))?;
            if start_sum(&start) != sum {
                return Err(self.damaged(format!("the checksum of start {} is wrong", start.epoch)));
            }
            starts.push(start);
        }
        Ok(starts)
    }

    /// Visits the rows of `live` in order, and the faults of those with a wrong checksum.
    ///
    /// # Errors
    /// [`JournalError`] of the file, after which there is no next row, or of `visit`.
    pub(crate) fn each_live(
        &self,
        is_descending: bool,
        mut visit: impl FnMut(&ActorPath, Result<LiveRow, String>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let mut statement = self.prepare(if is_descending {
            "SELECT path, tbl, key, value, sum, large FROM live ORDER BY path DESC, tbl DESC, key DESC"
        } else {
            "SELECT path, tbl, key, value, sum, large FROM live ORDER BY path, tbl, key"
        })?;
        let mut rows = statement.query([]).map_err(|error| self.sqlite(error))?;
        let (mut last, mut arena) = (ActorPath::root(), Arena::default());
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            self.live_row(row, &mut last, &mut arena, &mut visit)?;
        }
        Ok(())
    }

    fn live_row(
        &self,
        row: &Row<'_>,
        last: &mut ActorPath,
        arena: &mut Arena,
        visit: &mut impl FnMut(&ActorPath, Result<LiveRow, String>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let column = |at| bytes(row, at).map_err(|error| self.sqlite(error));
        let (path, table, key, value) = (column(0)?, column(1)?, column(2)?, column(3)?);
        let sum: i64 = row.get(4).map_err(|error| self.sqlite(error))?;
        let large = match row.get::<_, Option<i64>>(5).map_err(|error| self.sqlite(error))? {
            None => None,
            // A missing value has a wrong checksum, as an empty one.
            Some(id) => self.large(id)?,
        };
        let value = large.as_deref().unwrap_or(value);
        let Ok(path) = std::str::from_utf8(path) else {
            return visit(last, Err("a row of table live has a path that is no text".into()));
        };
        if last.as_str() != path {
            *last = ActorPath::from(path);
        }
        if live_sum(path, table, key, value) != sum && live_sum_of_format_2(path, table, key, value) != sum {
            let (table, key) = (String::from_utf8_lossy(table), crate::printable::brief(&hex(key), 80));
            return visit(last, Err(format!("the checksum of the row {table} {key} of {last} is wrong")));
        }
        let Some(table) = Table::named(table) else {
            let table = String::from_utf8_lossy(table);
            return visit(last, Err(format!("{last} has a row of an unknown table {table}")));
        };
        let (key, value) = (arena.copy(key), arena.copy(value));
        visit(last, Ok(LiveRow { table, key, value, sum }))
    }

    fn large(&self, id: i64) -> Result<Option<Vec<u8>>, JournalError> {
        let mut statement = self.prepare("SELECT value FROM large WHERE id = ?1")?;
        let value = statement.query_row([id], |row| row.get(0));
        value.optional().map_err(|error| self.sqlite(error))
    }

    /// Returns the checksum of a row of `live`, if there is one, and the number of its value in `large`.
    pub(crate) fn sum_of(
        &self,
        path: &ActorPath,
        table: Table,
        key: &[u8],
    ) -> Result<Option<(i64, Option<i64>)>, JournalError> {
        let mut statement =
            self.prepare("SELECT sum, large FROM live WHERE path = ?1 AND tbl = ?2 AND key = ?3")?;
        let sum = statement
            .query_row(params![path.as_str(), table.name(), key], |row| Ok((row.get(0)?, row.get(1)?)));
        sum.optional().map_err(|error| self.sqlite(error))
    }

    /// Returns the number and the sum of the checksums of the rows of an actor.
    pub(crate) fn sums_of(&self, path: &ActorPath) -> Result<(i64, i64), JournalError> {
        let mut statement = self.prepare("SELECT sum FROM live WHERE path = ?1")?;
        let mut rows = statement.query([path.as_str()]).map_err(|error| self.sqlite(error))?;
        let (mut count, mut sum) = (0, 0_i64);
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            count += 1;
            sum = sum.wrapping_add(row.get(0).map_err(|error| self.sqlite(error))?);
        }
        Ok((count, sum))
    }

    /// Returns the path in table `state` that follows `after`.
    pub(crate) fn next_path(&self, after: Option<&ActorPath>) -> Result<Option<ActorPath>, JournalError> {
        let mut statement = self.prepare(match after {
            None => "SELECT path FROM state ORDER BY path LIMIT 1",
            Some(_) => "SELECT path FROM state WHERE path > ?1 ORDER BY path LIMIT 1",
        })?;
        let read = |row: &Row<'_>| row.get::<_, String>(0).map(|path| ActorPath::from(&*path));
        let path = match after {
            None => statement.query_row([], read),
            Some(after) => statement.query_row([after.as_str()], read),
        };
        path.optional().map_err(|error| self.sqlite(error))
    }

    /// Returns the rows that make up the state of an actor at a position; `None` if it has none.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if a row is.
    pub(crate) fn state_rows(
        &self,
        path: &ActorPath,
        position: Option<u64>,
    ) -> Result<Option<StateRows>, JournalError> {
        let mut statement = self.prepare(
            "SELECT position, kind, value, sum FROM state WHERE path = ?1 AND position <= ?2 ORDER BY position DESC",
        )?;
        let position = position.map_or(i64::MAX, |position| position as i64);
        let mut rows =
            statement.query(params![path.as_str(), position]).map_err(|error| self.sqlite(error))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            let row = self.state_row(path, row)?;
            match row.kind {
                StateKind::Left => break,
                StateKind::Patch => found.push(row),
                StateKind::State => {
                    found.push(row);
                    found.reverse();
                    return Ok(Some(StateRows(found)));
                }
            }
        }
        match found.first() {
            None => Ok(None),
            Some(patch) => Err(self.damaged(format!(
                "the state that is before the change of {path} at position {} is missing",
                patch.position
            ))),
        }
    }

    fn state_row(&self, path: &ActorPath, row: &Row<'_>) -> Result<StateRow, JournalError> {
        let read = || -> rusqlite::Result<_> {
            Ok((number(row, 0)?, StateKind::named(bytes(row, 1)?), bytes(row, 2)?.to_vec(), row.get(3)?))
        };
        let (position, kind, value, sum) = read().map_err(|error| self.sqlite(error))?;
        match kind {
            Some(kind) if state_sum(path.as_str(), position, kind, &value) == sum => {
                Ok(StateRow { position, kind, value, sum })
            }
            _ => {
                Err(self
                    .damaged(format!("the checksum of the state of {path} at position {position} is wrong")))
            }
        }
    }

    /// Returns a position before the newest row of `state` that is at or before `position`; `None` if there is no row.
    pub(crate) fn position_before(&self, path: &ActorPath, position: Option<u64>) -> Option<u64> {
        let mut statement =
            self.prepare("SELECT max(position) FROM state WHERE path = ?1 AND position <= ?2").ok()?;
        let position = position.map_or(i64::MAX, |position| position as i64);
        let newest: Option<i64> =
            statement.query_row(params![path.as_str(), position], |row| row.get(0)).ok()?;
        u64::try_from(newest?).ok()?.checked_sub(1)
    }

    /// Returns the row of `state` at exactly this position.
    pub(crate) fn state_at(&self, path: &ActorPath, position: u64) -> Result<Option<StateRow>, JournalError> {
        let mut statement =
            self.prepare("SELECT position, kind, value, sum FROM state WHERE path = ?1 AND position = ?2")?;
        let mut rows =
            statement.query(params![path.as_str(), position as i64]).map_err(|error| self.sqlite(error))?;
        let row = rows.next().map_err(|error| self.sqlite(error))?;
        row.map(|row| self.state_row(path, row)).transpose()
    }

    /// Returns the last row of the history.
    pub(crate) fn head(&self) -> Result<HistoryRow, JournalError> {
        let mut head = None;
        self.each_history(0, u64::MAX, true, |row| {
            head = Some(row);
            Ok(false)
        })?;
        head.ok_or_else(|| self.damaged("table history is empty"))
    }

    /// Visits the rows of `history` whose positions are in a range, inclusive, until `visit` returns false.
    pub(crate) fn each_history(
        &self,
        from: u64,
        to: u64,
        is_descending: bool,
        mut visit: impl FnMut(HistoryRow) -> Result<bool, JournalError>,
    ) -> Result<(), JournalError> {
        let mut statement = self.prepare(if is_descending {
            "SELECT position, first, wall, at, state_rows, state_sum, total, chain, changes, sum FROM history \
             WHERE position BETWEEN ?1 AND ?2 ORDER BY position DESC"
        } else {
            "SELECT position, first, wall, at, state_rows, state_sum, total, chain, changes, sum FROM history \
             WHERE position BETWEEN ?1 AND ?2 ORDER BY position"
        })?;
        let bound = |position: u64| i64::try_from(position).unwrap_or(i64::MAX);
        let mut rows = statement.query([bound(from), bound(to)]).map_err(|error| self.sqlite(error))?;
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            let read = || -> rusqlite::Result<_> {
                let history = HistoryRow {
                    position: number(row, 0)?,
                    first: number(row, 1)?,
                    wall: row.get(2)?,
                    at: row.get(3)?,
                    state_rows: row.get(4)?,
                    state_sum: row.get(5)?,
                    total: row.get(6)?,
                    chain: row.get(7)?,
                    changes: Bytes::copy_from_slice(bytes(row, 8)?),
                };
                Ok((history, row.get::<_, i64>(9)?))
            };
            let (history, sum) = read().map_err(|error| self.sqlite(error))?;
            if history.sum() != sum {
                return Err(self.damaged(format!(
                    "the checksum of the history at position {} is wrong",
                    history.position
                )));
            }
            if !visit(history)? {
                break;
            }
        }
        Ok(())
    }

    /// Returns the last position of the last group at or before a time, in nanoseconds since the Unix epoch, that is not
    /// before the position `oldest`.
    pub(crate) fn position_at(&self, wall: i64, oldest: u64) -> Result<Option<u64>, JournalError> {
        let mut statement = self.prepare(
            "SELECT position FROM history WHERE position >= ?1 AND wall <= ?2 ORDER BY position DESC LIMIT 1",
        )?;
        let found = statement.query_row([oldest as i64, wall], |row| number(row, 0)).optional();
        found.map_err(|error| self.sqlite(error))
    }

    /// Returns the headers of the images, oldest first.
    pub(crate) fn images(&self) -> Result<Vec<ImageMark>, JournalError> {
        let mut statement = self.prepare(
            "SELECT wall, at, total, state_rows, state_sum, chain, position, last, rows, sum FROM image WHERE part = 0 \
             ORDER BY position",
        )?;
        let mut rows = statement.query([]).map_err(|error| self.sqlite(error))?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            let read = || -> rusqlite::Result<_> {
                let mark = image_mark(row, number(row, 6)?)?;
                let sum = mark.sum(0, row.get::<_, i64>(7)? != 0, bytes(row, 8)?);
                Ok((mark, sum == row.get::<_, i64>(9)?))
            };
            let (mark, is_sound) = read().map_err(|error| self.sqlite(error))?;
            if !is_sound {
                // Pruning goes by the headers.
                return Err(
                    self.damaged(format!("the checksum of the image at position {} is wrong", mark.position))
                );
            }
            marks.push(mark);
        }
        Ok(marks)
    }

    /// Visits the rows of an image.
    pub(crate) fn each_of_image(
        &self,
        position: u64,
        mut visit: impl FnMut(ActorPath, Table, Bytes, Bytes),
    ) -> Result<(), JournalError> {
        let mut part = 0;
        while !self.part_of_image(position, part, &mut visit)? {
            part += 1;
        }
        Ok(())
    }

    /// Visits the rows of a part of an image, and returns true if it is the last one.
    pub(crate) fn part_of_image(
        &self,
        position: u64,
        part: i64,
        mut visit: impl FnMut(ActorPath, Table, Bytes, Bytes),
    ) -> Result<bool, JournalError> {
        let mut statement = self.prepare(
            "SELECT wall, at, total, state_rows, state_sum, chain, last, rows, sum FROM image \
             WHERE position = ?1 AND part = ?2",
        )?;
        let mut rows = statement.query([position as i64, part]).map_err(|error| self.sqlite(error))?;
        let damaged = || {
            self.damaged(format!("the image at position {position} is incomplete or has a wrong checksum"))
        };
        let Some(row) = rows.next().map_err(|error| self.sqlite(error))? else { return Err(damaged()) };
        let read = || -> rusqlite::Result<_> {
            let mark = image_mark(row, position)?;
            let encoded = Bytes::copy_from_slice(bytes(row, 7)?);
            Ok((row.get::<_, i64>(6)? != 0, mark, encoded, row.get::<_, i64>(8)?))
        };
        let (is_last, mark, encoded, sum) = read().map_err(|error| self.sqlite(error))?;
        if mark.sum(part, is_last, &encoded) != sum {
            return Err(damaged());
        }
        let rows = log_encoding::decode_rows(&encoded).map_err(|error| {
            self.damaged(format!("the image at position {position} cannot be decoded: {error}"))
        })?;
        for (path, table, key, value) in rows {
            visit(path, table, key, value);
        }
        Ok(is_last)
    }
}

fn image_mark(row: &Row<'_>, position: u64) -> rusqlite::Result<ImageMark> {
    Ok(ImageMark {
        position,
        wall: row.get(0)?,
        at: row.get(1)?,
        total: row.get(2)?,
        state_rows: row.get(3)?,
        state_sum: row.get(4)?,
        chain: row.get(5)?,
    })
}

/// Returns the bytes in hexadecimal, or as text if they are printable ASCII.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    if !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
