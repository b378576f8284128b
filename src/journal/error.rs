//! Errors of the journal.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;
use thiserror::Error;

/// Error of a journal. Texts leave the source out, which [`std::error::Error::source`] returns.
#[derive(Debug, Clone, Error)]
pub(crate) enum JournalError {
    /// Another process holds the journal.
    #[error(
        "the journal {} is held by {holder}; stop that process, or use another directory",
        directory.display()
    )]
    Held { directory: PathBuf, holder: String },
    /// The journal was written by a newer version of Flowright.
    #[error(
        "{} has format {found}, and this program knows formats up to {known}; run a program built with the newer Flowright",
        file.display()
    )]
    NewerFormat { file: PathBuf, found: i64, known: i64 },
    /// The file belongs to another program.
    #[error("{} is not a journal of Flowright; use another directory", file.display())]
    NotAJournal { file: PathBuf },
    /// There is no journal to read.
    #[error("there is no journal in {}; give the directory of an App that ran with `--journal`", directory.display())]
    Missing { directory: PathBuf },
    /// The content of the file is not what was written.
    #[error(
        "{} is damaged: {what}; restore a copy, or run `journal repair` to save what can be read",
        file.display()
    )]
    Damaged { file: PathBuf, what: String, source: Option<Arc<rusqlite::Error>> },
    /// The file ends before a position that was durable.
    #[error(
        "{} ends at position {found}, but position {durable} was durable: the end of it, or of its `-wal` file, is damaged or was \
         replaced; restore both files, or delete {} to continue from position {found}",
        file.display(),
        note.display()
    )]
    Shortened { file: PathBuf, note: PathBuf, found: u64, durable: u64 },
    /// The disk is full.
    #[error("the disk of {} is full; make room, and the journal continues", file.display())]
    Full { file: PathBuf, source: Arc<rusqlite::Error> },
    /// The disk of a file beside the journal is full.
    #[error("there is no room for {}; make room, and the journal continues", file.display())]
    NoRoom { file: PathBuf, source: Arc<io::Error> },
    /// A file or directory cannot be accessed.
    #[error("cannot {action} {}; check its permissions and its file system", file.display())]
    Io { file: PathBuf, action: &'static str, source: Arc<io::Error> },
    /// SQLite reported an error that is none of the above, such as a failed write or sync.
    #[error("cannot {action} {}; check the disk, and start again", file.display())]
    Sqlite { file: PathBuf, action: &'static str, source: Arc<rusqlite::Error> },
    /// A change that does not fit the live data, or that cannot be encoded.
    #[error("the changes at position {position} cannot be recorded: {what}")]
    Invalid { position: u64, what: String },
    /// A position that the journal does not have.
    #[error("position {position} is not in the journal, which has the positions {oldest} to {newest}")]
    NoPosition { position: u64, oldest: u64, newest: u64 },
    /// The journal has been closed.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    /// Returns true if the journal needs a newer program: the process ends with exit code 78 (`EX_CONFIG`).
    pub(crate) fn is_newer_format(&self) -> bool {
        matches!(self, Self::NewerFormat { .. })
    }

    /// Returns true if the operation may succeed when there is room on the disk.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoRoom { .. })
    }

    /// Returns the error for one that SQLite reported when it was to do `action` with `file`.
    pub(super) fn sqlite(file: &std::path::Path, action: &'static str, error: rusqlite::Error) -> Self {
        let (file, source) = (file.to_owned(), Arc::new(error));
        match &*source {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull => Self::Full { file, source },
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Self::Damaged { file, what: "SQLite cannot read it".into(), source: Some(source) }
                }
                _ => Self::Sqlite { file, action, source },
            },
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::Utf8Error(..) => Self::Damaged {
                file,
                what: "a column has a value of another type".into(),
                source: Some(source),
            },
            _ => Self::Sqlite { file, action, source },
        }
    }

    pub(super) fn io(file: &std::path::Path, action: &'static str, error: io::Error) -> Self {
        let (file, source) = (file.to_owned(), Arc::new(error));
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoRoom { file, source },
            _ => Self::Io { file, action, source },
        }
    }

    pub(super) fn damaged(file: &std::path::Path, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), what: what.into(), source: None }
    }
}
