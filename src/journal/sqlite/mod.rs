//! A journal in a SQLite file, `journal.db`, in WAL mode.
//!
//! Each value is written once: table `state` has the states and their patches, of now and of the past, and `history` has
//! all else that happened. Live states are the newest rows of `state`; older ones stay for as long as the history does.
//! Live rows are in table `live`, into which the history is folded from time to time.

mod fold;
mod images;
mod live_reading;
mod rows;
mod schema;
mod values;
mod wal;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, params};

use self::fold::{Fold, RunRows, Slice, Waiting};
pub(super) use self::fold::{decode, remove_rows_of};
use self::images::{Images, Pruning};
use self::live_reading::LiveReading;
pub(super) use self::rows::{
    FoldRow, HistoryRow, ImageMark, LiveRow, Meta, Rows, StateKind, StateRows, hex, live_sum, state_sum,
};
pub(super) use self::schema::{Access, FILE, FORMAT, PAGE, open as open_file};
#[cfg(test)]
pub(super) use self::values::DIRECTORY as VALUES;
use self::wal::Wal;
use super::encoding::{self, nanos, wall_nanos};
use super::group::{Group, StateChange};
use super::lock::{DirectoryLock, Note};
use super::store::Store;
use super::values::ValueChanges;
use super::{
    Change, Extent, HistoryEntry, HistoryFilter, HistoryPart, JournalError, JournalSettings, Live, Moment,
    RECENT, RecordedTransaction, Recovered, Start, Sync, Table, log_encoding,
};
use crate::id::ActorPath;
use crate::state::Patch;

/// Bytes of patches, relative to the state that they change, beyond which they are folded into a new whole state. A
/// larger number writes less and makes recovery read more.
const FOLD: u64 = 4;

/// Bytes that a row of `state` costs beside its value.
const ROW: u64 = 128;

/// Length of the path, key and value of a row of `live`, in bytes, beyond which the value is kept in `large`: what fits
/// into a quarter of a page with the rest of the row.
const SHORT: usize = 190;

/// Size of the WAL in bytes beyond which it is copied into the file. A larger one spares writes of pages that change often,
/// and costs as many zeros when the App starts (see [`wal`]).
const WAL: u64 = 8 << 20;

/// A journal in a file, opened for writing or reading.
pub(super) struct SqliteStore {
    connection: Connection,
    file: PathBuf,
    settings: JournalSettings,
    meta: Meta,
    head: HistoryRow,
    /// The checksum of the row of `head`.
    chain: i64,
    fold: Fold,
    states: HashMap<ActorPath, StateIndex>,
    images: Images,
    pruning: Option<Pruning>,
    /// Set where commits are synced, once the epoch is on disk.
    wal: Option<Wal>,
    /// The number of frames in the WAL.
    frames: u64,
    written: u64,
    lock: DirectoryLock,
    /// Rows of `value` that are damaged, which the next commit deletes.
    damaged_values: Vec<i64>,
    /// The values of the group that is being committed.
    written_values: values::Written,
    /// Readings of old live data, by their numbers.
    readings: HashMap<u64, LiveReading>,
    next_reading: u64,
}

/// Totals over the rows of a live state.
#[derive(Debug, Clone, Copy)]
struct StateIndex {
    /// The cost of the whole state, and of the patches after it, in bytes.
    whole: u64,
    patches: u64,
    rows: i64,
    sum: i64,
}

impl StateIndex {
    fn of(rows: &StateRows) -> Self {
        Self {
            whole: rows.size() + ROW,
            patches: rows.patches().map(|row| row.value.len() as u64 + ROW).sum(),
            rows: rows.count(),
            sum: rows.sum(),
        }
    }
}

/// A group that has been written but not committed.
struct Staged {
    head: HistoryRow,
    chain: i64,
    slice: Option<Slice>,
    states: Vec<(ActorPath, Option<StateIndex>)>,
}

impl SqliteStore {
    /// Opens or creates the journal in a directory for writing, with a new epoch.
    pub(super) fn open(
        directory: &Path,
        settings: JournalSettings,
        program: &str,
    ) -> Result<(Self, Recovered), JournalError> {
        let create = |error| JournalError::io(directory, "create", error);
        std::fs::create_dir_all(directory).map_err(create)?;
        let lock = DirectoryLock::take(directory)?;
        let opened = schema::open(directory, Access::Write)?;
        let (connection, file, is_new) = (opened.connection, opened.file, opened.is_new);
        schema::use_wal(&connection, &file)?;
        if is_new {
            if let Some(note) = lock.noted().filter(|note| note.position > 0) {
                let (note, durable) = (lock.path().to_owned(), note.position);
                return Err(JournalError::Shortened { file, note, found: 0, durable });
            }
            initialise(&connection, &file, random_identity(directory)?, 0, 0)?;
            let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| JournalError::io(directory, "sync", error))?;
        }
        let (mut store, live) = Self::load(connection, file, settings, lock)?;
        let values = store.load_values()?;
        let starts = store.begin(program)?;
        let recovered = Recovered {
            live,
            values,
            last: store.head.moment(),
            epoch: store.meta.epoch,
            app: store.meta.app,
            was_clean: starts.last().is_none_or(|start| start.is_clean),
            starts,
        };
        Ok((store, recovered))
    }

    /// Creates a journal that continues another one, without its history.
    pub(super) fn create(
        directory: &Path,
        app: Option<[u8; 16]>,
        epoch: u64,
        position: u64,
        program: &str,
    ) -> Result<Self, JournalError> {
        std::fs::create_dir_all(directory).map_err(|error| JournalError::io(directory, "create", error))?;
        let app = app.map_or_else(|| random_identity(directory), Ok)?;
        let lock = DirectoryLock::take(directory)?;
        let opened = schema::open(directory, Access::Write)?;
        schema::use_wal(&opened.connection, &opened.file)?;
        initialise(&opened.connection, &opened.file, app, epoch, position)?;
        let settings = JournalSettings { history_bytes: 0, ..JournalSettings::default() };
        let mut store = Self::load(opened.connection, opened.file, settings, lock)?.0;
        store.begin(program)?;
        Ok(store)
    }

    /// Opens the journal in a directory without changing it.
    pub(super) fn open_to_read(directory: &Path) -> Result<Self, JournalError> {
        if !directory.join(FILE).exists() {
            return Err(JournalError::Missing { directory: directory.to_owned() });
        }
        let lock = DirectoryLock::take(directory)?;
        let opened = schema::open(directory, Access::Read)?;
        Ok(Self::load(opened.connection, opened.file, JournalSettings::default(), lock)?.0)
    }

    fn load(
        connection: Connection,
        file: PathBuf,
        settings: JournalSettings,
        lock: DirectoryLock,
    ) -> Result<(Self, Live), JournalError> {
        let rows = Rows { connection: &connection, file: &file };
        // One transaction for all statements saves a lock for each.
        let failed = |error| JournalError::sqlite(&file, "read", error);
        let reading = connection.unchecked_transaction().map_err(failed)?;
        let meta = rows.meta()?;
        let head = rows.head()?;
        if let Some(note) = lock.noted().filter(|note| note.is_synced && note.position > head.position) {
            let (note, durable) = (lock.path().to_owned(), note.position);
            return Err(JournalError::Shortened { file, note, found: head.position, durable });
        }
        let images = Images::new(rows.images()?);
        let mut states = HashMap::new();
        let fold = rows.fold()?;
        let waiting = Waiting::read(&rows, &fold)?;
        let mut runs = RunRows::new();
        let live = read_live(&rows, &head, &fold, waiting.clone(), &mut states, &mut runs)?;
        reading.commit().map_err(failed)?;
        let store = Self {
            connection,
            file,
            settings,
            meta,
            chain: head.sum(),
            head: HistoryRow { changes: Bytes::new(), ..head },
            fold: Fold::new(fold, waiting, runs),
            states,
            images,
            pruning: None,
            wal: None,
            frames: 0,
            written: 0,
            lock,
            damaged_values: Vec::new(),
            written_values: values::Written::default(),
            readings: HashMap::new(),
            next_reading: 0,
        };
        Ok((store, live))
    }

    /// Takes the next epoch, and returns the openings before it.
    fn begin(&mut self, program: &str) -> Result<Vec<Start>, JournalError> {
        let mut starts = self.rows().starts()?;
        starts.drain(..starts.len().saturating_sub(RECENT));
        let meta = Meta { app: self.meta.app, epoch: self.meta.epoch + 1 };
        let start = Start {
            epoch: meta.epoch,
            wall: SystemTime::now(),
            position: self.head.position,
            program: program.to_owned(),
            has_progressed: false,
            is_clean: false,
        };
        self.transact(|store| {
            schema::set_format(&store.connection).map_err(|error| store.writing(error))?;
            store.execute(
                "UPDATE meta SET epoch = ?1, sum = ?2 WHERE id = 1",
                params![meta.epoch as i64, meta.sum()],
            )?;
            let oldest = starts.first().map_or(0, |start| start.epoch as i64);
            store.execute("DELETE FROM starts WHERE epoch < ?1", [oldest])?;
            store.put_start(&start)
        })?;
        self.meta = meta;
        self.adopt_history()?;
        if self.settings.sync == Sync::Disk {
            self.wal = Some(Wal::open(&self.file)?);
        }
        // SQLite syncs at checkpoints only then.
        self.connection.pragma_update(None, "synchronous", "NORMAL").map_err(|error| self.writing(error))?;
        self.count_frames()?;
        Ok(starts)
    }

    fn put_start(&self, start: &Start) -> Result<(), JournalError> {
        let Start { epoch, wall, position, program, has_progressed, is_clean } = start;
        let (epoch, wall, position) = (*epoch as i64, wall_nanos(*wall), *position as i64);
        let sum = rows::start_sum(start);
        self.execute(
            "INSERT OR REPLACE INTO starts (epoch, wall, position, program, progressed, clean, sum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![epoch, wall, position, program, has_progressed, is_clean, sum],
        )?;
        Ok(())
    }

    /// Changes the entry of this opening.
    fn update_start(&mut self, change: impl FnOnce(&mut Start)) -> Result<(), JournalError> {
        let starts = self.rows().starts()?;
        let start = starts.into_iter().rev().find(|start| start.epoch == self.meta.epoch);
        let mut start = start.ok_or_else(|| self.rows().damaged("the entry of this start is missing"))?;
        change(&mut start);
        self.transact(|store| store.put_start(&start))
    }

    pub(super) fn rows(&self) -> Rows<'_> {
        Rows { connection: &self.connection, file: &self.file }
    }

    /// Limits the size of the file, as a full disk does; `None` lifts the limit.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: Option<u64>) {
        let pages = pages.map_or(i64::from(u32::MAX - 1), |pages| pages as i64);
        self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    }

    /// Has folding begin at this number of waiting rows.
    #[cfg(test)]
    pub(super) fn limit_fold(&mut self, rows: usize) {
        self.fold.limit(rows);
    }

    fn writing(&self, error: rusqlite::Error) -> JournalError {
        JournalError::sqlite(&self.file, "write", error)
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, JournalError> {
        let executed =
            self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values));
        executed.map_err(|error| self.writing(error))
    }

    /// Runs `write` in a transaction, and commits it.
    pub(super) fn transact<R>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<R, JournalError>,
    ) -> Result<R, JournalError> {
        let result = self.execute("BEGIN IMMEDIATE", []).and_then(|_| write(self)).and_then(|result| {
            self.execute("COMMIT", [])?;
            self.wal.as_ref().map_or(Ok(()), Wal::sync)?;
            Ok(result)
        });
        let result = result.and_then(|result| {
            self.count_frames()?;
            Ok(result)
        });
        if let Err(error) = &result {
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            if !error.is_full() {
                // What a failed sync has left in memory is unknown: it must not get into the file.
                let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            }
        }
        result
    }

    /// Counts the frames that the WAL has since the last checkpoint.
    fn count_frames(&mut self) -> Result<(), JournalError> {
        let counted = self.connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::NOOP);
        let (frames, _) = counted.map_err(|error| self.writing(error))?;
        let frames = u64::try_from(frames).unwrap_or(0);
        let added = if frames >= self.frames { frames - self.frames } else { frames };
        self.written += added * (PAGE + 24);
        self.frames = frames;
        Ok(())
    }

    fn checkpoint(&mut self, mode: CheckpointMode) -> Result<(), JournalError> {
        let done = self.connection.wal_checkpoint_v2(None::<&str>, mode);
        done.map(drop).map_err(|error| self.writing(error))
    }

    fn write_group(&mut self, group: &Group) -> Result<Staged, JournalError> {
        let mut head = HistoryRow {
            position: group.last,
            first: group.first,
            wall: wall_nanos(group.wall),
            at: nanos(group.at),
            state_rows: self.head.state_rows,
            state_sum: self.head.state_sum,
            total: 0,
            chain: self.chain,
            changes: Bytes::new(),
        };
        let mut add = |rows: i64, sum: i64| {
            head.state_rows += rows;
            head.state_sum = head.state_sum.wrapping_add(sum);
        };
        let mut states = Vec::with_capacity(group.states.len());
        let mut bytes = group.encoded.len() as u64 + ROW;
        for (path, change) in &group.states {
            let before = self.states.get(path).copied();
            let after = self.write_state(group.last, path, change, before, &mut bytes)?;
            if let Some(before) = before {
                add(-before.rows, before.sum.wrapping_neg());
            }
            if let Some(after) = after {
                add(after.rows, after.sum);
            }
            states.push((path.clone(), after));
        }
        head.total = self.head.total.saturating_add_unsigned(bytes);
        head.changes.clone_from(&group.encoded);
        let chain = head.sum();
        self.put_history(&head, chain)?;
        let slice = self.fold_beside(group.row_changes())?;
        Ok(Staged { head, chain, slice, states })
    }

    fn put_live(
        &self,
        path: &str,
        table: &str,
        key: &[u8],
        value: &[u8],
        sum: i64,
    ) -> Result<(), JournalError> {
        let large = if path.len() + key.len() + value.len() > SHORT && value.len() > SHORT / 4 {
            self.execute("INSERT INTO large (value) VALUES (?1)", [value])?;
            Some(self.connection.last_insert_rowid())
        } else {
            None
        };
        let value = if large.is_some() { &[] } else { value };
        self.execute(
            "INSERT INTO live (path, tbl, key, value, large, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET value = excluded.value, large = excluded.large, sum = excluded.sum",
            params![path, table, key, value, large, sum],
        )?;
        Ok(())
    }

    fn write_state(
        &self,
        position: u64,
        path: &ActorPath,
        change: &StateChange,
        before: Option<StateIndex>,
        bytes: &mut u64,
    ) -> Result<Option<StateIndex>, JournalError> {
        let invalid = |what: String| JournalError::Invalid { position, what };
        let (kind, value) = match (change, before) {
            (StateChange::Set(state) | StateChange::Patch(Patch::Set(state)), _) => {
                (StateKind::State, encoding::encode(state))
            }
            (StateChange::Left, _) => (StateKind::Left, Ok(Vec::new())),
            (StateChange::Patch(_), None) => {
                return Err(invalid(format!("{path} has no state to change")));
            }
            (StateChange::Patch(patch), Some(before)) => match encoding::encode(patch) {
                Ok(value) if before.patches + value.len() as u64 + ROW > FOLD * before.whole => {
                    let mut state = self.state(path)?;
                    state
                        .apply(patch.clone())
                        .map_err(|error| invalid(format!("the patch of {path} does not fit: {error}")))?;
                    (StateKind::State, encoding::encode(&state))
                }
                value => (StateKind::Patch, value),
            },
        };
        let value = value.map_err(|error| invalid(format!("the state of {path}: {error}")))?;
        let has_history = self.settings.has_history();
        if kind != StateKind::Patch && !has_history {
            self.execute(
                "DELETE FROM state WHERE path = ?1 AND position < ?2",
                params![path.as_str(), position as i64],
            )?;
        }
        if kind == StateKind::Left && (before.is_none() || !has_history) {
            return Ok(None);
        }
        let sum = state_sum(path.as_str(), position, kind, &value);
        self.execute(
            "INSERT INTO state (path, position, kind, value, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![path.as_str(), position as i64, kind.name(), &value[..], sum],
        )?;
        let cost = value.len() as u64 + ROW;
        *bytes += cost;
        Ok(match (kind, before) {
            (StateKind::Left, _) => None,
            (StateKind::Patch, Some(before)) => Some(StateIndex {
                patches: before.patches + cost,
                rows: before.rows + 1,
                sum: before.sum.wrapping_add(sum),
                ..before
            }),
            _ => Some(StateIndex { whole: cost, patches: 0, rows: 1, sum }),
        })
    }

    fn state(&self, path: &ActorPath) -> Result<crate::state::Value, JournalError> {
        let rows = self.rows();
        let missing = || rows.damaged(format!("the state of {path} is missing"));
        let state = rows.state_rows(path, None)?.ok_or_else(missing)?;
        state
            .decode()
            .map_err(|error| rows.damaged(format!("the state of {path} cannot be decoded: {error}")))
    }

    fn put_history(&self, row: &HistoryRow, sum: i64) -> Result<(), JournalError> {
        put_history(&self.connection, row, sum).map_err(|error| self.writing(error))
    }

    /// Reads one group of the history with its states, unless these are to be left out. `bytes` counts those of states.
    fn entry(
        &self,
        row: &HistoryRow,
        filter: &HistoryFilter,
        bytes: &mut u64,
    ) -> Result<HistoryEntry, JournalError> {
        use encoding::Recorded;

        let (rows, path) = (self.rows(), filter.path.as_ref());
        let damaged = |error| {
            rows.damaged(format!("the history at position {} cannot be decoded: {error}", row.position))
        };
        let recording = log_encoding::decode(&row.changes).map_err(damaged)?;
        // Where the state of an actor changed last in the group; none if it left after that.
        let mut last: HashMap<ActorPath, Option<(usize, usize)>> = HashMap::new();
        for (index, (_, _, changes)) in recording.iter().enumerate() {
            for (ordinal, change) in changes.iter().enumerate() {
                match change {
                    Recorded::State(path) => last.insert(path.clone(), Some((index, ordinal))),
                    Recorded::Left(path) => last.insert(path.clone(), None),
                    Recorded::Put(..) | Recorded::Delete(..) | Recorded::Reacted(_) => None,
                };
            }
        }
        let mut transactions = Vec::with_capacity(recording.len());
        for ((index, (at, wall, recorded)), position) in recording.into_iter().enumerate().zip(row.first..) {
            let at = encoding::duration_from(at);
            let (mut changes, mut merged) = (Vec::new(), Vec::new());
            let border = recorded.iter().position(|change| matches!(change, Recorded::Reacted(_)));
            let (mut reacted, mut merged_seen) = (None, 0);
            for (ordinal, change) in recorded.into_iter().enumerate() {
                let of = match &change {
                    Recorded::Put(of, ..)
                    | Recorded::Delete(of, ..)
                    | Recorded::State(of)
                    | Recorded::Left(of) => Some(of),
                    Recorded::Reacted(_) => None,
                };
                if of.is_some_and(|of| path.is_some_and(|path| path != of)) {
                    continue;
                }
                match change {
                    Recorded::Put(path, table, key, value) => {
                        changes.push(Change::Put { path, table, key: key.into(), value: value.into() });
                    }
                    Recorded::Delete(path, table, key) => {
                        changes.push(Change::Delete { path, table, key: key.into() });
                    }
                    Recorded::Left(path) => changes.push(Change::Left { path }),
                    Recorded::Reacted(reactions) => {
                        reacted = Some(encoding::reacted(reactions, at, changes.len()));
                        merged_seen = merged.len();
                    }
                    Recorded::State(_) if filter.rows_only => {}
                    Recorded::State(path) => match last.get(&path) {
                        Some(Some(at)) if *at == (index, ordinal) => {
                            let state = rows.state_at(&path, row.position)?.ok_or_else(|| {
                                rows.damaged(format!(
                                    "the state of {path} at position {} is missing",
                                    row.position
                                ))
                            })?;
                            *bytes += state.value.len() as u64;
                            changes.push(decode_change(path, &state).map_err(damaged)?);
                        }
                        // Reactions have changed it once more.
                        Some(Some((later, last)))
                            if *later == index
                                && !border.is_some_and(|border| (ordinal..*last).contains(&border)) => {}
                        _ => merged.push(path),
                    },
                }
            }
            if path.is_none() || !changes.is_empty() || !merged.is_empty() {
                let wall = encoding::wall_from(wall);
                transactions.push(RecordedTransaction {
                    position,
                    at,
                    wall,
                    changes,
                    merged,
                    reacted,
                    merged_seen,
                });
            }
        }
        Ok(HistoryEntry { first: row.first, transactions })
    }
}

/// Returns the change that a row of `state` records.
fn decode_change(path: ActorPath, row: &rows::StateRow) -> Result<Change, String> {
    Ok(match row.kind {
        StateKind::State => Change::State { path, state: encoding::decode(&row.value)? },
        StateKind::Patch => Change::Patch { path, patch: encoding::decode(&row.value)? },
        StateKind::Left => Change::Left { path },
    })
}

fn put_history(connection: &Connection, row: &HistoryRow, sum: i64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO history (position, first, wall, at, state_rows, state_sum, total, chain, changes, sum) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    statement.execute(params![
        row.position as i64,
        row.first as i64,
        row.wall,
        row.at,
        row.state_rows,
        row.state_sum,
        row.total,
        row.chain,
        &row.changes[..],
        sum
    ])?;
    Ok(())
}

/// Creates the tables with the first rows: an empty journal of an App with this identity.
fn initialise(
    connection: &Connection,
    file: &Path,
    app: [u8; 16],
    epoch: u64,
    position: u64,
) -> Result<(), JournalError> {
    let write = || -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        schema::create(connection)?;
        let meta = Meta { app, epoch };
        connection.execute(
            "INSERT INTO meta (id, app, epoch, sum) VALUES (1, ?1, ?2, ?3)",
            params![&meta.app[..], meta.epoch as i64, meta.sum()],
        )?;
        let wall = wall_nanos(SystemTime::now());
        let first = HistoryRow { position, first: position, wall, ..HistoryRow::default() };
        put_history(connection, &first, first.sum())?;
        let fold = FoldRow { position, chain: first.sum(), ..FoldRow::default() };
        connection.execute(
            "INSERT INTO fold (id, position, chain, live_rows, live_sum, sum) VALUES (1, ?1, ?2, 0, 0, ?3)",
            params![position as i64, fold.chain, fold.sum()],
        )?;
        connection.execute_batch("COMMIT")
    };
    write().map_err(|error| JournalError::sqlite(file, "write", error))
}

fn random_identity(directory: &Path) -> Result<[u8; 16], JournalError> {
    use std::io::Read as _;

    let mut identity = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut identity));
    read.map_err(|error| JournalError::io(directory, "make an identity for", error))?;
    Ok(identity)
}

/// Reads the live data, and checks them as a whole. Fills `index`, and `runs` with the rows of runs that `live` has.
fn read_live(
    rows: &Rows<'_>,
    head: &HistoryRow,
    fold: &FoldRow,
    waiting: Waiting,
    index: &mut HashMap<ActorPath, StateIndex>,
    runs: &mut RunRows,
) -> Result<Live, JournalError> {
    if waiting.end().0 != head.position {
        return Err(rows.damaged(format!("the history before position {} is missing", head.position)));
    }
    let mut live = Live::default();
    let differs = |recorded: i64, found: i64, what: &str| {
        rows.damaged(format!(
            "{recorded} {what} are recorded, and {found} were found, which are not the same"
        ))
    };
    let (mut count, mut sum) = (0_i64, 0_i64);
    rows.each_live(false, |path, row| {
        let row = row.map_err(|what| rows.damaged(what))?;
        count += 1;
        sum = sum.wrapping_add(row.sum);
        if row.table == Table::Run {
            runs.entry(path.clone()).or_default().insert(Bytes::copy_from_slice(&row.key));
        }
        if !waiting.overrides(path, row.table, &row.key) {
            live.put(path, row.table, row.key, row.value);
        }
        Ok(())
    })?;
    if (count, sum) != (fold.live_rows, fold.live_sum) {
        return Err(differs(fold.live_rows, count, "rows of live data"));
    }
    waiting.add_to(&mut live);
    (count, sum) = (0, 0);
    let mut after = None;
    while let Some(path) = rows.next_path(after.as_ref())? {
        if let Some(found) = rows.state_rows(&path, None)? {
            let entry = StateIndex::of(&found);
            count += entry.rows;
            sum = sum.wrapping_add(entry.sum);
            let state = found
                .decode()
                .map_err(|error| rows.damaged(format!("the state of {path} cannot be decoded: {error}")))?;
            live.actors.entry(path.clone()).or_default().state = Some(state);
            index.insert(path.clone(), entry);
        }
        after = Some(path);
    }
    if (count, sum) != (head.state_rows, head.state_sum) {
        return Err(differs(head.state_rows, count, "rows of live states"));
    }
    Ok(live)
}

impl Live {
    /// Adds a row to those of its table of the actor, as the last.
    fn put(&mut self, path: &ActorPath, table: Table, key: Bytes, value: Bytes) {
        // Rows come ordered by path, so that the last actor is the one, unless this is its first row.
        if let Some(mut last) = self.actors.last_entry()
            && last.key() == path
        {
            last.get_mut().rows.entry(table).or_default().push((key, value));
            return;
        }
        self.actors.entry(path.clone()).or_default().rows.entry(table).or_default().push((key, value));
    }
}

impl Store for SqliteStore {
    fn append(&mut self, group: &Group, is_durable: &mut dyn FnMut(u64)) -> Result<(), JournalError> {
        self.write_files(&group.values)?;
        let (staged, removed) = self.transact(|store| {
            let staged = store.write_group(group)?;
            Ok((staged, store.write_values(&group.values)?))
        })?;
        self.values_are_committed(&group.values, removed);
        is_durable(self.written);
        self.fold.advance(staged.slice);
        self.fold.add(&group.recording, &staged.head, staged.chain);
        self.chain = staged.chain;
        self.head = HistoryRow { changes: Bytes::new(), ..staged.head };
        for (path, index) in staged.states {
            match index {
                Some(index) => self.states.insert(path, index),
                None => self.states.remove(&path),
            };
        }
        let is_synced = self.settings.sync == Sync::Disk;
        self.lock.note(Note { position: self.head.position, is_synced });
        Ok(())
    }

    fn change_values(&mut self, changes: &ValueChanges) -> Result<(), JournalError> {
        self.write_files(changes)?;
        let removed = self.transact(|store| store.write_values(changes))?;
        self.values_are_committed(changes, removed);
        Ok(())
    }

    fn maintain(&mut self) -> Result<bool, JournalError> {
        let more = self.maintain_history()?;
        if self.frames * (PAGE + 24) > WAL {
            self.checkpoint(CheckpointMode::PASSIVE)?;
            self.frames = 0;
        }
        if let Some(wal) = &mut self.wal {
            wal.extend(self.frames * (PAGE + 24));
        }
        Ok(more)
    }

    fn last(&self) -> Moment {
        self.head.moment()
    }

    fn live(&mut self, position: Option<u64>) -> Result<(Moment, Live), JournalError> {
        match position {
            Some(position) if position != self.head.position => self.live_at(position),
            _ => {
                let (rows, fold) = (self.rows(), self.fold.row());
                let waiting = Waiting::read(&rows, fold)?;
                let (states, runs) = (&mut HashMap::new(), &mut RunRows::new());
                let live = read_live(&rows, &self.head, fold, waiting, states, runs)?;
                Ok((self.head.moment(), live))
            }
        }
    }

    fn begin_live_at(&mut self, position: u64, extent: Extent) -> Result<u64, JournalError> {
        let reading = if position == self.head.position && self.images.oldest().is_none() {
            let (moment, live) = self.live(None)?;
            LiveReading::done(moment, live)
        } else {
            self.reading_at(position, extent)?
        };
        let number = self.next_reading;
        self.next_reading += 1;
        self.readings.insert(number, reading);
        Ok(number)
    }

    fn continue_live_at(
        &mut self,
        reading: u64,
        deadline: Instant,
    ) -> Result<Option<(Moment, Live)>, JournalError> {
        let Some(mut found) = self.readings.remove(&reading) else { return Err(JournalError::Closed) };
        if self.advance(&mut found, Some(deadline))? {
            return Ok(Some(found.finish()));
        }
        self.readings.insert(reading, found);
        Ok(None)
    }

    fn history(&mut self, filter: &HistoryFilter) -> Result<HistoryPart, JournalError> {
        let mut part = HistoryPart::default();
        // Pruning may have taken states, but not yet the rest, of what is before the oldest image.
        let oldest = self.images.oldest().unwrap_or(self.head.position) + 1;
        let from = filter.from.unwrap_or(0).max(oldest);
        let to = filter.to.unwrap_or(u64::MAX).min(self.head.position);
        if from > to {
            return Ok(part);
        }
        // The row of a group has the last of its positions.
        let mut end = self.head.position;
        self.rows().each_history(to, u64::MAX, false, |row| {
            end = row.position;
            Ok(false)
        })?;
        let mut next = if filter.newest_first { end } else { from };
        let (mut read, mut bytes) = (0, 0);
        let is_cut = |read: usize, bytes: u64| {
            filter.limit > 0 && read >= filter.limit || filter.bytes > 0 && bytes >= filter.bytes
        };
        self.rows().each_history(from, end, filter.newest_first, |row| {
            let is_next = if filter.newest_first {
                row.position == std::mem::replace(&mut next, row.first - 1)
            } else {
                // The first group may begin before the range.
                let expected = std::mem::replace(&mut next, row.position + 1);
                row.first == expected || (expected == from && row.first < from)
            };
            if !is_next {
                let what = format!("the history before or after position {} is missing", row.position);
                return Err(self.rows().damaged(what));
            }
            bytes += row.changes.len() as u64;
            let mut entry = self.entry(&row, filter, &mut bytes)?;
            entry.transactions.retain(|transaction| (from..=to).contains(&transaction.position));
            if !entry.transactions.is_empty() {
                part.entries.push(entry);
            }
            read += 1;
            Ok(!is_cut(read, bytes))
        })?;
        let is_whole = if filter.newest_first { next < from } else { next == end + 1 };
        if !is_whole {
            if !is_cut(read, bytes) {
                return Err(self.rows().damaged(format!("the history at position {next} is missing")));
            }
            part.next = Some(next);
        }
        Ok(part)
    }

    fn position_at(&mut self, wall: SystemTime) -> Result<Option<u64>, JournalError> {
        let oldest = self.images.oldest().unwrap_or(self.head.position);
        self.rows().position_at(wall_nanos(wall), oldest)
    }

    fn mark_progress(&mut self) -> Result<(), JournalError> {
        self.update_start(|start| start.has_progressed = true)
    }

    fn close(mut self: Box<Self>, is_clean: bool) -> Result<(), JournalError> {
        if is_clean {
            self.connection
                .pragma_update(None, "synchronous", "FULL")
                .map_err(|error| self.writing(error))?;
            self.fold_all()?;
            self.update_start(|start| start.is_clean = true)?;
            self.checkpoint(CheckpointMode::TRUNCATE)?;
        }
        let Self { connection, file, .. } = *self;
        connection.close().map_err(|(_, error)| JournalError::sqlite(&file, "close", error))
    }
}
