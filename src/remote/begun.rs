//! The mark of the last question that a Work with a process of its own has begun, which outlives the process.
//!
//! A process that is killed can tell nothing any more. It writes the number of each question of its head into a small file
//! before the handler begins; the content of a file that was written stays when the process is killed. Once the process
//! has ended, its head knows which questions no handler has begun, and need not fail them: they go to another replica of a
//! service, or back to their askers.
//!
//! # Guarantees
//! - A question that a handler has begun never counts as one that was not begun, however the process ends.
//! - While the process may live, or if the file cannot be written or read, all questions count as begun.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Returns the path of the mark of a process that joins at this socket under this name.
fn path(socket: &Path, name: &str) -> PathBuf {
    socket.with_file_name(format!("{name}.begun"))
}

/// The mark of a process, in the process itself.
pub(super) struct BegunWriter {
    file: File,
    last: AtomicU64,
}

impl BegunWriter {
    /// Opens the mark that the head has made.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn open(socket: &Path, name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path(socket, name))?;
        Ok(Self { file, last: AtomicU64::new(0) })
    }

    /// Marks a question as begun, before its handler begins. Questions begin in the order of their numbers, but for those
    /// that were numbered at the same moment.
    pub(super) fn begin(&self, question: u64) {
        if self.last.fetch_max(question, Ordering::AcqRel) >= question {
            return;
        }
        if self.file.write_all_at(&question.to_le_bytes(), 0).is_err() && self.file.set_len(0).is_err() {
            log::error!("the mark of the last question that was begun can neither be written nor removed");
        }
    }
}

/// The mark of a process, at its head. The file is removed on drop.
pub(super) struct BegunMark {
    file: File,
    path: PathBuf,
    is_final: AtomicBool,
}

impl BegunMark {
    /// Makes the mark of a process that is to join at this socket under this name.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn create(socket: &Path, name: &str) -> io::Result<Self> {
        let path = path(socket, name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let mark = Self { file, path, is_final: AtomicBool::new(false) };
        // What is there can be overwritten also when the disk is full.
        mark.file.write_all_at(&[0; 8], 0)?;
        Ok(mark)
    }

    /// Notes that the process has ended, and begins no question any more.
    pub(super) fn close(&self) {
        self.is_final.store(true, Ordering::Release);
    }

    /// Returns the number of the last question that was begun, or 0 for none. `None` if that is not known.
    pub(super) fn last(&self) -> Option<u64> {
        if !self.is_final.load(Ordering::Acquire) {
            return None;
        }
        let mut number = [0; 8];
        self.file.read_exact_at(&mut number, 0).ok()?;
        Some(u64::from_le_bytes(number))
    }
}

impl Drop for BegunMark {
    fn drop(&mut self) {
        // It may have been removed together with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mark is known once its process has ended, and never goes back.
    #[test]
    fn mark_is_known_after_the_end_of_its_process() {
        let directory = std::env::temp_dir().join(format!("flowright-begun-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("head.sock");
        let mark = BegunMark::create(&socket, "process-1").unwrap();
        let writer = BegunWriter::open(&socket, "process-1").unwrap();
        assert!(BegunWriter::open(&socket, "process-2").is_err());
        for question in [3, 5, 4] {
            writer.begin(question);
        }
        assert_eq!(mark.last(), None);
        mark.close();
        assert_eq!(mark.last(), Some(5));
        // A mark that cannot be read says nothing.
        writer.file.set_len(0).unwrap();
        assert_eq!(mark.last(), None);
        drop(mark);
        assert!(std::fs::read_dir(&directory).unwrap().next().is_none());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
