//! The file of the WAL, beside SQLite's own handle to it.
//!
//! SQLite writes commits to the WAL, and [`Wal::sync`] makes them durable: as bundled, SQLite calls `fsync`, which also
//! writes times and sizes of the file; `fdatasync` writes what a reader needs. A commit that lengthens the file makes its
//! new size part of that, so [`Wal::extend`] writes zeros ahead of the commits. SQLite takes frames of zeros for the end
//! of the log, as it takes frames that are left from before a checkpoint.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::journal::JournalError;

/// Size of the zeros that are written at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// Room ahead of the commits at which more zeros are written, in bytes.
const MARGIN: u64 = 256 << 10;

/// The WAL of a file that is open for writing, and that SQLite does not delete meanwhile.
pub(super) struct Wal {
    file: File,
    path: PathBuf,
    /// The known length of the file in bytes; it may be longer.
    length: u64,
}

impl Wal {
    /// Opens the WAL of a file, which exists.
    pub(super) fn open(file: &Path) -> Result<Self, JournalError> {
        let mut path = file.to_owned().into_os_string();
        path.push("-wal");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|error| JournalError::io(&path, "open", error))?;
        Ok(Self { file, path, length: 0 })
    }

    /// Makes all commits durable.
    ///
    /// # Errors
    /// [`JournalError::Io`], also if the disk is full: the commits are in the WAL, and must not be repeated.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|error| JournalError::Io {
            file: self.path.clone(),
            action: "sync",
            source: Arc::new(error),
        })
    }

    /// Writes zeros ahead of the commits if they have come near to the end of the file. `used` is the length that they
    /// have, in bytes. Errors are left to the commits, which then lengthen the file.
    pub(super) fn extend(&mut self, used: u64) {
        if used + MARGIN <= self.length {
            return;
        }
        let Ok(metadata) = self.file.metadata() else { return };
        self.length = metadata.len();
        if used + MARGIN > self.length && self.file.write_all_at(&vec![0; CHUNK], self.length).is_ok() {
            self.length += CHUNK as u64;
        }
    }
}
