//! The tables of `journal.db`, and the opening of the file.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::journal::JournalError;

/// Name of the file in the directory of a journal.
pub(crate) const FILE: &str = "journal.db";

/// `application_id` of the file: "Flow" in ASCII.
const APPLICATION: i64 = 0x466C_6F77;

/// `user_version` of the file: the version of the tables and of all that is encoded in them.
pub(crate) const FORMAT: i64 = 3;

/// The oldest format that is read. An opening for writing makes it [`FORMAT`]: of what is in the file nothing changes, and
/// the rows that are written from then on are those of that format. Format 2 has the same tables, with names in the history
/// and in rows about runs.
const OLDEST: i64 = 2;

/// Size of a page in bytes. A commit writes each changed page to the WAL: small pages cost less for small rows.
pub(crate) const PAGE: u64 = 1024;

/// The tables and indexes, in the order of their names. Each row has a checksum of its columns in `sum`.
///
/// SQLite reads the whole row for each comparison in a table `WITHOUT ROWID`, so that these have short rows only.
pub(crate) const TABLES: [(&str, &str); 12] = [
    // One row: the position up to which the history is part of `live`, the checksum of its row, and that of `live`.
    (
        "fold",
        "CREATE TABLE fold (id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, chain INTEGER NOT NULL, \
         live_rows INTEGER NOT NULL, live_sum INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT",
    ),
    // One row for each group of transactions: the log. Each one has the checksum of the row before it in `chain`, and
    // that of all live states in `state_sum`.
    (
        "history",
        "CREATE TABLE history (position INTEGER PRIMARY KEY, first INTEGER NOT NULL, wall INTEGER NOT NULL, at INTEGER NOT NULL, \
         state_rows INTEGER NOT NULL, state_sum INTEGER NOT NULL, total INTEGER NOT NULL, chain INTEGER NOT NULL, \
         changes BLOB NOT NULL, sum INTEGER NOT NULL) STRICT",
    ),
    // All rows of `live` at some positions, in parts.
    (
        "image",
        "CREATE TABLE image (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, part INTEGER NOT NULL, last INTEGER NOT NULL, wall INTEGER NOT NULL, \
         at INTEGER NOT NULL, total INTEGER NOT NULL, state_rows INTEGER NOT NULL, state_sum INTEGER NOT NULL, \
         chain INTEGER NOT NULL, rows BLOB NOT NULL, sum INTEGER NOT NULL) STRICT",
    ),
    ("image_of", "CREATE UNIQUE INDEX image_of ON image (position, part)"),
    // Values of `live` that are long.
    ("large", "CREATE TABLE large (id INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT"),
    (
        "live",
        "CREATE TABLE live (path TEXT NOT NULL, tbl TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, \
         large INTEGER, sum INTEGER NOT NULL, PRIMARY KEY (path, tbl, key)) STRICT, WITHOUT ROWID",
    ),
    (
        "meta",
        "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), app BLOB NOT NULL, epoch INTEGER NOT NULL, \
         sum INTEGER NOT NULL) STRICT",
    ),
    (
        "starts",
        "CREATE TABLE starts (epoch INTEGER PRIMARY KEY, wall INTEGER NOT NULL, position INTEGER NOT NULL, \
         program TEXT NOT NULL, progressed INTEGER NOT NULL, clean INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT",
    ),
    // States: a row of kind `state` has a whole state, `patch` a change of the one before it, `left` no value.
    (
        "state",
        "CREATE TABLE state (id INTEGER PRIMARY KEY, path TEXT NOT NULL, position INTEGER NOT NULL, kind TEXT NOT NULL, \
         value BLOB NOT NULL, sum INTEGER NOT NULL) STRICT",
    ),
    ("state_of", "CREATE UNIQUE INDEX state_of ON state (path, position)"),
    // Values of payloads: `value` is NULL if the value is in a file. They are no part of the checksum of the live data,
    // since each is known by its hash.
    (
        "value",
        "CREATE TABLE value (id INTEGER PRIMARY KEY, hash BLOB NOT NULL, type TEXT NOT NULL, length INTEGER NOT NULL, \
         chunks BLOB NOT NULL, nested BLOB NOT NULL, value BLOB, sum INTEGER NOT NULL) STRICT",
    ),
    ("value_of", "CREATE UNIQUE INDEX value_of ON value (hash, type)"),
];

/// The purpose for which a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Creates the file if there is none.
    Write,
    /// Leaves the bytes of the file and of its WAL as they are.
    Read,
}

/// A file that has been opened, and whether it is new and empty.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) file: PathBuf,
    pub(crate) is_new: bool,
    /// The format of a file that is not new.
    pub(crate) format: i64,
}

/// Opens the file in a directory whose lock is held, and checks that it is a journal of a known format.
pub(crate) fn open(directory: &Path, access: Access) -> Result<Opened, JournalError> {
    let file = directory.join(FILE);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match access {
        Access::Write => flags |= OpenFlags::SQLITE_OPEN_CREATE,
        Access::Read if !file.exists() => {
            return Err(JournalError::Missing { directory: directory.to_owned() });
        }
        Access::Read => {}
    }
    let sqlite = |action| {
        let file = file.clone();
        move |error| JournalError::sqlite(&file, action, error)
    };
    let connection = Connection::open_with_flags(&file, flags).map_err(sqlite("open"))?;
    connection.set_prepared_statement_cache_capacity(64);
    let is_new = prepare(&connection, access).map_err(sqlite("open"))?;
    if is_new && access == Access::Read {
        return Err(JournalError::Missing { directory: directory.to_owned() });
    }
    let format = if is_new { FORMAT } else { check_format(&connection, &file)? };
    Ok(Opened { connection, file, is_new, format })
}

/// Sets the connection up. Returns true if the file is empty.
fn prepare(connection: &Connection, access: Access) -> rusqlite::Result<bool> {
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // Pages that do not fit are written to the WAL before the commit, and again with it.
    connection.pragma_update(None, "cache_size", -65_536)?;
    // Statements are prepared once, whatever values are bound to them.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    if access == Access::Read {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "query_only", true)?;
    }
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = application == 0 && tables == 0;
    if access == Access::Write {
        if is_new {
            connection.pragma_update(None, "page_size", PAGE as i64)?;
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    }
    Ok(is_new)
}

/// Returns the format of a file.
fn check_format(connection: &Connection, file: &Path) -> Result<i64, JournalError> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let sqlite = |error| JournalError::sqlite(file, "read", error);
    if pragma("application_id").map_err(sqlite)? != APPLICATION {
        return Err(JournalError::NotAJournal { file: file.to_owned() });
    }
    let found = pragma("user_version").map_err(sqlite)?;
    if found > FORMAT {
        return Err(JournalError::NewerFormat { file: file.to_owned(), found, known: FORMAT });
    }
    if found < OLDEST {
        return Err(JournalError::damaged(
            file,
            format!("its format is {found}, which no release has written"),
        ));
    }
    let mut statement =
        connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").map_err(sqlite)?;
    let tables =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)));
    let tables: Vec<_> = tables.map_err(sqlite)?.collect::<Result<_, _>>().map_err(sqlite)?;
    let is_known = tables.len() == TABLES.len()
        && tables
            .iter()
            .zip(TABLES)
            .all(|((name, sql), known)| name == known.0 && sql.as_deref() == Some(known.1));
    if is_known {
        Ok(found)
    } else {
        Err(JournalError::damaged(file, "its tables are not those of its format"))
    }
}

/// Sets the format of a file to that of this program, inside of a transaction.
pub(crate) fn set_format(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "user_version", FORMAT)
}

/// Creates the tables, inside of a transaction.
pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
    for (_, sql) in TABLES {
        connection.execute(sql, [])?;
    }
    connection.pragma_update(None, "application_id", APPLICATION)?;
    set_format(connection)
}

/// Switches the file to WAL, in which it then stays.
pub(crate) fn use_wal(connection: &Connection, file: &Path) -> Result<(), JournalError> {
    let mode = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
        .map_err(|error| JournalError::sqlite(file, "write", error))?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    Err(JournalError::io(file, "write a WAL beside", std::io::ErrorKind::Unsupported.into()))
}
