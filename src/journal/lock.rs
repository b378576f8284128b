//! The lock of a journal's directory, and the note of the last durable position beside it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::JournalError;

/// Name of the file that carries the lock.
pub(super) const NAME: &str = "journal.lock";

/// Length of the first line of the file, which has the note.
const LINE: usize = 64;

/// Exclusive lock on a journal, by `flock`: the kernel drops it when its holder ends, and a stopped holder keeps it.
///
/// The file also has the last position that was durable. It is written after each commit and never synced, so that it
/// is never ahead of the journal: a journal that ends before it has lost a durable commit, for instance by a flipped
/// bit in the WAL, which SQLite takes for the end of the log.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
    path: PathBuf,
    noted: Option<Note>,
}

/// A position that was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) position: u64,
    /// False if the commits were written without a sync, so that a loss of power may have lost them.
    pub(super) is_synced: bool,
}

impl Note {
    fn line(self) -> [u8; LINE] {
        let kind = if self.is_synced { "disk" } else { "process" };
        let text = format!("position {:020} {kind:8}", self.position);
        let digest = blake3::hash(text.as_bytes()).to_hex();
        let text = format!("{text} {}", &digest[..16]);
        let mut line = [b' '; LINE];
        line[..text.len()].copy_from_slice(text.as_bytes());
        line[LINE - 1] = b'\n';
        line
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line.get(..LINE)?).ok()?;
        let mut words = text.split_ascii_whitespace().skip(1);
        let note = Self { position: words.next()?.parse().ok()?, is_synced: words.next()? == "disk" };
        (note.line() == *line.get(..LINE)?).then_some(note)
    }
}

impl DirectoryLock {
    /// Takes the lock of the directory, which must exist.
    pub(super) fn take(directory: &Path) -> Result<Self, JournalError> {
        let path = directory.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(|error| JournalError::io(&path, "open", error))?;
        let mut content = Vec::new();
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let read = Read::by_ref(&mut file).take(4096).read_to_end(&mut content);
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = content.get(LINE..).map(String::from_utf8_lossy).unwrap_or_default();
                let holder = match holder.lines().next() {
                    Some(line) if !line.trim().is_empty() => crate::printable::one_line(line).into_owned(),
                    _ => "another process".to_owned(),
                };
                return Err(JournalError::Held { directory: directory.to_owned(), holder });
            }
            Err(error) => return Err(JournalError::io(&path, "lock", error.into())),
        }
        read.map_err(|error| JournalError::io(&path, "read", error))?;
        let noted = Note::parse(&content);
        let lock = Self { file, path, noted };
        lock.name_holder(&content).map_err(|error| JournalError::io(&lock.path, "write", error))?;
        Ok(lock)
    }

    fn name_holder(&self, content: &[u8]) -> std::io::Result<()> {
        if content.len() < LINE {
            self.file.write_all_at(&[b' '; LINE - 1], 0)?;
            self.file.write_all_at(b"\n", LINE as u64 - 1)?;
        }
        let host = rustix::system::uname();
        let holder = format!("process {} on {}\n", std::process::id(), host.nodename().to_string_lossy());
        self.file.set_len(LINE as u64)?;
        self.file.write_all_at(holder.as_bytes(), LINE as u64)
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the position that was noted last.
    pub(super) fn noted(&self) -> Option<Note> {
        self.noted
    }

    /// Notes a position that is durable. The note only serves to find damage, so that errors are of no consequence.
    pub(super) fn note(&self, note: Note) {
        let _ = self.file.write_all_at(&note.line(), 0);
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file would not do: a child process that has not executed its program yet has it open as well.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}
