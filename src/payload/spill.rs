//! Values on disk.
//!
//! # Guarantees
//! - A file has its name once all of it is written, so that half of one is never read.
//! - Each process has a directory of its own. It is removed with its last file; that of a process which was killed is
//!   removed by the next process that uses the same place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::FetchError;
use super::hex::PayloadId;
use super::keeper;
use super::reception::Chunks;

const PREFIX: &str = "flowright-payloads-";
const LOCK: &str = "lock";

/// The directory of this process; locked while it lives.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    pub(super) fn make(below: &Path) -> io::Result<Self> {
        fs::create_dir_all(below)?;
        remove_left_behind(below);
        let path = below.join(format!("{PREFIX}{:016x}", crate::id::unique()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }
}

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Whatever is left is removed by the next process.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories of processes that are gone.
fn remove_left_behind(below: &Path) {
    let Ok(entries) = fs::read_dir(below) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let left = File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if left && fs::remove_dir_all(&path).is_ok() {
            log::debug!("{} was left behind by a process that is gone; it was removed", path.display());
        }
    }
}

/// A value on disk; its file is removed with it.
#[derive(Debug)]
pub(crate) struct Spilled {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Spilled {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads what begins at `offset`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        keeper::disk_freed(self.length);
    }
}

impl Chunks for Arc<Spilled> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
        Spilled::read(self, offset, buffer)
            .map(|()| 0)
            .map_err(|error| FetchError::Lost(format!("{} cannot be read: {error}", self.path.display())))
    }

    fn distrust(&mut self, _: u64) -> Result<(), FetchError> {
        Err(FetchError::Corrupt(format!("{} was changed", self.path.display())))
    }
}

/// A file that is being written. Dropped before it is finished, it is removed.
pub(crate) struct SpillWriter {
    part: PathBuf,
    path: PathBuf,
    out: Option<BufWriter<File>>,
    /// What was reserved of the disk's budget.
    length: u64,
    written: u64,
}

impl SpillWriter {
    /// Begins the file of a value, for which there has to be room on disk.
    pub(crate) fn begin(id: PayloadId, length: u64) -> Result<Self, FetchError> {
        let directory = keeper::disk_reserve(length)?;
        // The same value may be written by two at once.
        let path = directory.join(format!("{id}-{:08x}", crate::id::unique() as u32));
        let part = path.with_extension("part");
        match File::options().write(true).read(true).create_new(true).open(&part) {
            Ok(file) => {
                let out = Some(BufWriter::with_capacity(1 << 20, file));
                Ok(Self { part, path, out, length, written: 0 })
            }
            Err(error) => {
                keeper::disk_freed(length);
                Err(FetchError::NoRoom(format!("{} cannot be written: {error}", part.display())))
            }
        }
    }

    /// Where it is written.
    pub(super) fn directory(&self) -> &Path {
        self.part.parent().unwrap_or(&self.part)
    }

    pub(crate) fn finish(mut self) -> Result<Spilled, FetchError> {
        let failed = |part: &Path, error: &dyn std::fmt::Display| {
            FetchError::NoRoom(format!("{} cannot be written: {error}", part.display()))
        };
        if self.written != self.length {
            return Err(FetchError::Corrupt(format!(
                "{} bytes were written where there should be {}",
                self.written, self.length
            )));
        }
        let out = self.out.take().expect("it is finished once");
        let file = out.into_inner().map_err(|error| failed(&self.part, error.error()))?;
        fs::rename(&self.part, &self.path).map_err(|error| failed(&self.part, &error))?;
        let length = std::mem::take(&mut self.length);
        Ok(Spilled { path: std::mem::take(&mut self.path), file, length })
    }
}

impl Write for SpillWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let out = self.out.as_mut().expect("nothing is written after the end");
        let written = out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for SpillWriter {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Some(out) = self.out.take() {
            // What was not written yet need not be.
            drop(out.into_parts());
        }
        let _ = fs::remove_file(&self.part);
        keeper::disk_freed(self.length);
    }
}
