//! Tools of the command line for a journal that no App holds: check, repair, drop, look back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::Connection;

use super::encoding::Recorded;
use super::group::Group;
use super::lock::DirectoryLock;
use super::sqlite::{Access, FILE, FoldRow, LiveRow, Rows, SqliteStore, decode, open_file, remove_rows_of};
use super::store::Store as _;
use super::values::{StoredValue, reachable};
use super::{
    Change, HistoryFilter, HistoryPart, JournalError, JournalSettings, Live, LiveActor, Moment, Start, Table,
    Transaction,
};
use crate::id::ActorPath;

/// Largest number of problems that are listed.
const LISTED: usize = 1000;

/// The result of a check.
#[derive(Debug, Clone, Default)]
pub(crate) struct Check {
    pub(crate) format: i64,
    pub(crate) app: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) position: u64,
    pub(crate) wall: Option<SystemTime>,
    /// The numbers of live rows, of live states, and of groups in the history.
    pub(crate) rows: u64,
    pub(crate) states: u64,
    pub(crate) groups: u64,
    pub(crate) images: u64,
    /// The number of values of payloads, and their total size in bytes.
    pub(crate) values: u64,
    pub(crate) value_bytes: u64,
    /// The sizes of the file and of its WAL in bytes.
    pub(crate) file_bytes: u64,
    pub(crate) wal_bytes: u64,
    /// Descriptions of what is damaged; none if the journal is sound.
    pub(crate) problems: Vec<String>,
}

impl Check {
    fn note(&mut self, problem: impl Into<String>) {
        if self.problems.len() < LISTED {
            self.problems.push(problem.into());
        }
    }

    fn keep<T>(&mut self, result: Result<T, JournalError>) -> Option<T> {
        result.map_err(|error| self.note(describe(&error))).ok()
    }
}

/// Returns what is damaged, without the advice.
fn describe(error: &JournalError) -> String {
    match error {
        JournalError::Damaged { what, source: Some(source), .. } => format!("{what}: {source}"),
        JournalError::Damaged { what, source: None, .. } => what.clone(),
        error => crate::printable::chain(error),
    }
}

/// Reads all that a journal has, and verifies it, without changing the journal.
///
/// # Errors
/// [`JournalError`] if the file cannot be opened as a journal. Damage inside of it is part of the result.
pub(crate) fn check(directory: &Path) -> Result<Check, JournalError> {
    if !directory.join(FILE).exists() {
        return Err(JournalError::Missing { directory: directory.to_owned() });
    }
    let lock = DirectoryLock::take(directory)?;
    let opened = open_file(directory, Access::Read)?;
    let rows = Rows { connection: &opened.connection, file: &opened.file };
    let mut check = Check { format: opened.format, ..Check::default() };
    let length = |file: &Path| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    check.file_bytes = length(&opened.file);
    check.wal_bytes = length(&directory.join(format!("{FILE}-wal")));
    let found = integrity(&opened.connection);
    for problem in check.keep(found.map_err(|error| rows.sqlite(error))).unwrap_or_default() {
        check.note(problem);
    }
    if let Some(meta) = check.keep(rows.meta()) {
        (check.app, check.epoch) = (meta.app, meta.epoch);
    }
    let _ = check.keep(rows.starts());
    if let Some(head) = check.keep(rows.head()) {
        check.position = head.position;
        check.wall = Some(head.moment().wall);
    }
    if let Some(note) = lock.noted().filter(|note| note.is_synced && note.position > check.position) {
        check.note(format!("the positions {} to {} are missing", check.position + 1, note.position));
    }
    let mut problems = Vec::new();
    let scanned = rows.each_live(false, |_, row| {
        problems.extend(row.err());
        Ok(())
    });
    problems.into_iter().for_each(|problem| check.note(problem));
    check.keep(scanned);
    let mut after = None;
    while let Some(Some(path)) = check.keep(rows.next_path(after.as_ref())) {
        if let Some(Some(state)) = check.keep(rows.state_rows(&path, None)) {
            check.states += 1;
            if let Err(error) = state.decode() {
                check.note(format!("the state of {path} cannot be decoded: {error}"));
            }
        }
        after = Some(path);
    }
    for value in check_values(&rows, &mut check) {
        check.values += 1;
        check.value_bytes += value.hashes.length();
    }
    let is_sound = check.problems.is_empty();
    drop(opened);
    drop(lock);
    if is_sound && let Some(mut store) = check.keep(SqliteStore::open_to_read(directory)) {
        // The sums agree. The log that is not folded, and the rest of the history, remain.
        if let Some((_, live)) = check.keep(store.live(None)) {
            let rows = live.actors.values().flat_map(|actor| actor.rows.values());
            check.rows = rows.map(|rows| rows.len() as u64).sum();
        }
        let mut groups = 0;
        let read = store.history(&HistoryFilter::default()).map(|part| groups = part.entries.len() as u64);
        check.groups = groups;
        check.keep(read);
        let images = store.rows().images();
        for mark in check.keep(images).unwrap_or_default() {
            let read = store.rows().each_of_image(mark.position, |_, _, _, _| ());
            if check.keep(read).is_some() {
                check.images += 1;
            }
        }
    }
    Ok(check)
}

/// Returns the values of payloads that are undamaged.
fn check_values(rows: &Rows<'_>, check: &mut Check) -> Vec<StoredValue> {
    let (mut values, mut problems) = (Vec::new(), Vec::new());
    let scanned = rows.each_value(|_, value| match value {
        Ok(value) => match value.verify() {
            Ok(()) => values.push(value),
            Err(what) => problems.push(format!("the value {} of a payload: {what}", value.key.hash)),
        },
        Err(problem) => problems.push(problem),
    });
    problems.into_iter().for_each(|problem| check.note(problem));
    check.keep(scanned);
    values
}

/// Returns what SQLite finds wrong in the file.
fn integrity(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// The result of a repair.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repaired {
    /// The position from which the new journal continues.
    pub(crate) position: u64,
    /// The numbers of rows and states that were saved.
    pub(crate) rows: u64,
    pub(crate) states: u64,
    /// Descriptions of what was lost.
    pub(crate) lost: Vec<String>,
}

/// Writes what can be read of a damaged journal to a new one in the directory `into`, and leaves the damaged one as it is.
///
/// The history is not saved. A state of which some changes are damaged is saved as it was before these.
///
/// # Errors
/// [`JournalError`] if the file is so damaged that SQLite does not open it, or `into` has a journal already.
pub(crate) fn repair(directory: &Path, into: &Path) -> Result<Repaired, JournalError> {
    if into.join(FILE).exists() {
        let error = std::io::ErrorKind::AlreadyExists.into();
        return Err(JournalError::io(&into.join(FILE), "create", error));
    }
    if !directory.join(FILE).exists() {
        return Err(JournalError::Missing { directory: directory.to_owned() });
    }
    let lock = DirectoryLock::take(directory)?;
    let opened = open_file(directory, Access::Read)?;
    let rows = Rows { connection: &opened.connection, file: &opened.file };
    let mut check = Check::default();
    let meta = check.keep(rows.meta());
    if meta.is_none() {
        check.note("the identity of the App; the new journal has another");
    }
    let head = check.keep(rows.head());
    let noted = lock.noted().map_or(0, |note| note.position);
    let mut position = head.as_ref().map_or(0, |head| head.position).max(noted);
    if head.as_ref().is_some_and(|head| noted > head.position) {
        check.note(format!(
            "the positions after {}, up to {noted}",
            head.as_ref().map_or(0, |head| head.position)
        ));
    }

    let mut changes = Vec::new();
    let mut saved = save_rows(&rows, &mut check);
    let fold = check.keep(rows.fold());
    if let Some(fold) = &fold {
        let missing = fold.live_rows - saved.len() as i64;
        if missing > 0 && check.problems.is_empty() {
            check.note(format!("{missing} rows that nothing names any more"));
        }
    }
    save_log(&rows, fold.as_ref(), &mut check, &mut saved);
    let saved_rows = saved.len() as u64;
    for ((path, table, key), value) in saved {
        changes.push(Change::Put { path, table, key: key.into(), value: value.into() });
    }
    let states = save_states(&rows, &mut check, &mut position);
    let saved_states = states.len() as u64;
    changes.extend(states);
    if let Some(head) = &head {
        let missing = head.state_rows - check.states as i64;
        if missing > 0 && check.problems.is_empty() {
            check.note(format!("{missing} rows of states that nothing names any more"));
        }
    }
    let values = check_values(&rows, &mut check);
    let moment = head.as_ref().map(super::sqlite::HistoryRow::moment);
    let transaction = Transaction {
        at: moment.map_or_else(Default::default, |moment| moment.at),
        wall: moment.map_or_else(SystemTime::now, |moment| moment.wall),
        changes,
        reacted: None,
    };
    let mut store = SqliteStore::create(
        into,
        meta.map(|meta| meta.app),
        meta.map_or(0, |meta| meta.epoch),
        position,
        "journal repair",
    )?;
    store.copy_values(&values)?;
    let group = Group::merge(position + 1, vec![transaction])?;
    store.append(&group, &mut |_| ())?;
    Box::new(store).close(true)?;
    Ok(Repaired { position: position + 1, rows: saved_rows, states: saved_states, lost: check.problems })
}

/// Rows by path, table and key.
type SavedRows = BTreeMap<(ActorPath, Table, Bytes), Bytes>;

/// Reads the rows from both ends, since SQLite cannot go on after a damaged page.
fn save_rows(rows: &Rows<'_>, check: &mut Check) -> SavedRows {
    let mut saved = BTreeMap::new();
    let mut lost = BTreeSet::new();
    let mut last = None;
    for is_descending in [false, true] {
        let mut end = None;
        let scanned = rows.each_live(is_descending, |path, row| {
            match row {
                Ok(LiveRow { table, key, value, .. }) => {
                    end = Some(format!("{} {} of {path}", table.name(), super::sqlite::hex(&key)));
                    saved.insert((path.clone(), table, key), value);
                }
                Err(problem) => {
                    lost.insert(problem);
                }
            }
            Ok(())
        });
        if scanned.is_ok() {
            break;
        }
        match last.take() {
            None => last = Some(end.unwrap_or_else(|| "the first row".into())),
            Some(begin) => {
                let end = end.unwrap_or_else(|| "the last row".into());
                check.note(format!("rows between {begin} and {end}"));
            }
        }
    }
    lost.into_iter().for_each(|problem| check.note(problem));
    saved
}

/// Applies the changes of the log that are not folded, from both ends, since SQLite cannot go on after a damaged page. If
/// it is not known which these are, applies all: a change sets or deletes a whole row.
fn save_log(rows: &Rows<'_>, fold: Option<&FoldRow>, check: &mut Check, saved: &mut SavedRows) {
    let begin = fold.map_or(0, |fold| fold.position + 1);
    let mut log = BTreeMap::new();
    let mut failures = Vec::new();
    for is_descending in [false, true] {
        let read = rows.each_history(begin, u64::MAX, is_descending, |row| {
            match decode(rows, &row) {
                Ok(recording) => drop(log.insert(row.position, (row.first, recording))),
                Err(error) => failures.push(describe(&error)),
            }
            Ok(true)
        });
        match read {
            Ok(()) => break,
            Err(error) => failures.push(describe(&error)),
        }
    }
    failures.into_iter().collect::<BTreeSet<_>>().into_iter().for_each(|failure| check.note(failure));
    let mut next = fold.map(|fold| fold.position + 1);
    for (position, (first, recording)) in log {
        if next.is_some_and(|next| next != first) {
            check.note(format!("changes of rows from position {} to {first}", next.unwrap_or(first)));
        }
        next = Some(position + 1);
        for change in recording.into_iter().flat_map(|(_, _, changes)| changes) {
            match change {
                Recorded::Put(path, table, key, value) => drop(saved.insert((path, table, key), value)),
                Recorded::Delete(path, table, key) => drop(saved.remove(&(path, table, key))),
                Recorded::State(_) | Recorded::Reacted(_) => {}
                Recorded::Left(path) => remove_rows_of(saved, &path),
            }
        }
    }
}

fn save_states(rows: &Rows<'_>, check: &mut Check, position: &mut u64) -> Vec<Change> {
    let mut saved = Vec::new();
    let mut after = None;
    loop {
        let path = match rows.next_path(after.as_ref()) {
            Ok(Some(path)) => path,
            Ok(None) => break,
            Err(error) => {
                let last = after.as_ref().map_or_else(|| "the root".into(), ToString::to_string);
                check.note(format!("states of actors whose paths follow {last}: {}", describe(&error)));
                break;
            }
        };
        // The newest state before the damage, if there is any.
        let mut before = None;
        for _ in 0..LISTED {
            let read = rows.state_rows(&path, before).and_then(|found| match found {
                None => Ok(None),
                Some(found) => {
                    check.states = check.states.saturating_add_signed(found.count());
                    found.decode().map(|state| Some((state, found.newest()))).map_err(|error| {
                        rows.damaged(format!("the state of {path} cannot be decoded: {error}"))
                    })
                }
            });
            match read {
                Ok(Some((state, at))) => {
                    *position = (*position).max(at);
                    if before.is_some() {
                        check.note(format!("changes of the state of {path} after position {at}"));
                    }
                    saved.push(Change::State { path: path.clone(), state });
                    break;
                }
                Ok(None) => {
                    if before.is_some() {
                        check.note(format!("the state of {path}"));
                    }
                    break;
                }
                Err(error) => {
                    check.note(describe(&error));
                    match rows.position_before(&path, before) {
                        Some(earlier) => before = Some(earlier),
                        None => {
                            check.note(format!("the state of {path}"));
                            break;
                        }
                    }
                }
            }
        }
        after = Some(path);
    }
    saved
}

/// Deletes the rows and states of an actor and of all actors below it, and returns their paths. `beside` returns changes
/// that are made together with that, or a description of what makes them impossible.
///
/// # Errors
/// [`JournalError`]; nothing is deleted then.
pub(crate) fn drop_path(
    directory: &Path,
    path: &ActorPath,
    beside: impl FnOnce(&Live) -> Result<Vec<Change>, String>,
) -> Result<Vec<ActorPath>, JournalError> {
    if !directory.join(FILE).exists() {
        return Err(JournalError::Missing { directory: directory.to_owned() });
    }
    let settings = JournalSettings::default();
    let (mut store, recovered) = SqliteStore::open(directory, settings, "journal drop")?;
    let below = format!("{}.", path.as_str());
    let actors = recovered.live.actors.keys();
    let paths: Vec<ActorPath> = actors
        .filter(|other| path.is_root() || *other == path || other.as_str().starts_with(&below))
        .cloned()
        .collect();
    if !paths.is_empty() {
        let position = recovered.last.position + 1;
        let mut changes: Vec<_> = paths.iter().map(|path| Change::Left { path: path.clone() }).collect();
        changes.extend(beside(&recovered.live).map_err(|what| JournalError::Invalid { position, what })?);
        let transaction =
            Transaction { at: recovered.last.at, wall: SystemTime::now(), changes, reacted: None };
        store.append(&Group::merge(recovered.last.position + 1, vec![transaction])?, &mut |_| ())?;
    }
    Box::new(store).close(true)?;
    Ok(paths)
}

/// Copies the live data at a position to a new journal in the directory `into`, which is that of another App.
///
/// The history is not copied. Values of payloads are, if they are still there. Returns the moment of the live data and the position from which the new journal continues.
///
/// # Errors
/// [`JournalError`] if the journal does not have the position, or `into` has a journal already.
pub(crate) fn fork(directory: &Path, position: u64, into: &Path) -> Result<(Moment, u64), JournalError> {
    if into.join(FILE).exists() {
        let error = std::io::ErrorKind::AlreadyExists.into();
        return Err(JournalError::io(&into.join(FILE), "create", error));
    }
    let mut reader = Reader::open(directory)?;
    let (moment, live) = reader.live_at(Some(position))?;
    let mut values = Vec::new();
    reader.store.rows().each_value(|_, value| match value {
        Ok(value) => values.push(value),
        Err(problem) => log::warn!("{problem}; it is not copied"),
    })?;
    let values = reachable(values, &live);
    let mut changes = Vec::new();
    for (path, LiveActor { state, rows }) in live.actors {
        changes.extend(state.map(|state| Change::State { path: path.clone(), state }));
        for (table, rows) in rows {
            let put = |(key, value): (Bytes, Bytes)| Change::Put {
                path: path.clone(),
                table,
                key: key.into(),
                value: value.into(),
            };
            changes.extend(rows.into_iter().map(put));
        }
    }
    let mut store = SqliteStore::create(into, None, 0, moment.position, "journal fork")?;
    store.copy_values(&values)?;
    let transaction = Transaction { at: moment.at, wall: moment.wall, changes, reacted: None };
    store.append(&Group::merge(moment.position + 1, vec![transaction])?, &mut |_| ())?;
    Box::new(store).close(true)?;
    Ok((moment, moment.position + 1))
}

/// A journal that no App holds, opened to look back, without changing it.
pub(crate) struct Reader {
    store: SqliteStore,
}

impl Reader {
    /// Opens the journal in a directory, and reads its live data.
    ///
    /// # Errors
    /// [`JournalError`] if there is no journal, an App holds it, or it is damaged.
    pub(crate) fn open(directory: &Path) -> Result<Self, JournalError> {
        Ok(Self { store: SqliteStore::open_to_read(directory)? })
    }

    pub(crate) fn history(&mut self, filter: &HistoryFilter) -> Result<HistoryPart, JournalError> {
        self.store.history(filter)
    }

    /// Rebuilds the live data at a position, or the last if `None`.
    pub(crate) fn live_at(&mut self, position: Option<u64>) -> Result<(Moment, Live), JournalError> {
        self.store.live(position)
    }

    /// Returns the last position at or before a time.
    pub(crate) fn position_at(&mut self, wall: SystemTime) -> Result<Option<u64>, JournalError> {
        self.store.position_at(wall)
    }

    /// Returns the identity of the App.
    pub(crate) fn app(&self) -> Result<[u8; 16], JournalError> {
        Ok(self.store.rows().meta()?.app)
    }

    /// Returns the values of payloads that are undamaged.
    pub(crate) fn values(&self) -> Result<Vec<StoredValue>, JournalError> {
        let mut values = Vec::new();
        self.store.rows().each_value(|_, value| match value {
            Ok(value) => values.push(value),
            Err(problem) => log::warn!("{problem}; reading a payload with this value fails"),
        })?;
        Ok(values)
    }

    /// Returns the last openings by an App or a tool, oldest first.
    pub(crate) fn starts(&self) -> Result<Vec<Start>, JournalError> {
        self.store.rows().starts()
    }
}
