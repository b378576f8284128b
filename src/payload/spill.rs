//! Values spilled to disk.
//!
//! # Guarantees
//! - Spill files have no directory entry: no other process can open, replace or remove them, and none is left behind,
//!   however this process ends.
//! - Existing files in the directory are never opened, so that opening cannot block on a pipe or follow a symlink.
//! - The directory is created again if it was removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::FetchError;
use super::memory_budget::MemoryBudget;
use super::verified_reader::Chunks;

/// Opens a new file without a directory entry, creating the directory if it is missing.
fn create(directory: &Path) -> io::Result<File> {
    match unnamed(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            unnamed(directory)
        }
        created => created,
    }
}

#[cfg(target_os = "linux")]
fn unnamed(directory: &Path) -> io::Result<File> {
    // `O_EXCL` makes sure that the file cannot be linked into a directory later.
    let flags = libc::O_TMPFILE | libc::O_EXCL;
    let created = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(directory);
    match created.as_ref().map_err(io::Error::raw_os_error) {
        // Not every file system supports `O_TMPFILE`, and the errors of those that do not differ.
        Err(Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => unlinked(directory),
        _ => created,
    }
}

#[cfg(not(target_os = "linux"))]
fn unnamed(directory: &Path) -> io::Result<File> {
    unlinked(directory)
}

/// Creates a file and unlinks it at once.
fn unlinked(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".flowright-payload-{:016x}", crate::id::unique()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// A value on disk. Dropping it releases its share of the disk budget.
pub(crate) struct Spilled {
    place: OnDisk,
    length: u64,
}

enum OnDisk {
    Unnamed {
        budget: Arc<MemoryBudget>,
        directory: PathBuf,
        file: File,
    },
    /// A file that belongs to a journal, which counts towards no budget and is opened when it is read.
    #[cfg(feature = "journal")]
    Named {
        path: PathBuf,
        file: std::sync::OnceLock<File>,
    },
}

impl Spilled {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Returns a value that is the content of a file with a name, which others write and remove.
    #[cfg(feature = "journal")]
    pub(super) fn named(path: PathBuf, length: u64) -> Self {
        Self { place: OnDisk::Named { path, file: std::sync::OnceLock::new() }, length }
    }

    fn whereabouts(&self) -> String {
        match &self.place {
            OnDisk::Unnamed { directory, .. } => format!("in {}", directory.display()),
            #[cfg(feature = "journal")]
            OnDisk::Named { path, .. } => path.display().to_string(),
        }
    }

    /// Reads exactly `buffer.len()` bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.place {
            OnDisk::Unnamed { file, .. } => file.read_exact_at(buffer, offset),
            #[cfg(feature = "journal")]
            OnDisk::Named { path, file } => {
                // It stays open, so that a file that is removed meanwhile is read to its end.
                let file = match file.get() {
                    Some(file) => file,
                    None => {
                        let opened = File::open(path)?;
                        file.get_or_init(|| opened)
                    }
                };
                file.read_exact_at(buffer, offset)
            }
        }
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        match &self.place {
            OnDisk::Unnamed { budget, .. } => budget.disk_freed(self.length),
            #[cfg(feature = "journal")]
            OnDisk::Named { .. } => {}
        }
    }
}

impl Chunks for Arc<Spilled> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<u64, FetchError> {
        Spilled::read(self, offset, buffer).map(|()| 0).map_err(|error| {
            FetchError::Lost(format!("its file {} cannot be read: {error}", self.whereabouts()))
        })
    }

    fn distrust(&mut self, _: u64) -> Result<(), FetchError> {
        Err(FetchError::Corrupt(format!("its file {} does not match its hash", self.whereabouts())))
    }
}

/// A spill file that is being written. If it is dropped before [`finish`](Self::finish), its share of the disk budget
/// is released.
pub(crate) struct SpillWriter {
    budget: Arc<MemoryBudget>,
    directory: PathBuf,
    out: Option<BufWriter<File>>,
    /// Bytes reserved from the disk budget.
    length: u64,
    written: u64,
}

impl SpillWriter {
    /// Creates the file of a value of `length` bytes and reserves its disk space. Fails if the disk budget is
    /// exhausted or the directory cannot be used.
    pub(super) fn begin(budget: &Arc<MemoryBudget>, length: u64) -> Result<Self, FetchError> {
        let directory = budget.disk_reserve(length)?;
        let mut writer = Self { budget: budget.clone(), directory, out: None, length, written: 0 };
        let file = create(&writer.directory).map_err(|error| {
            FetchError::NoRoom(format!(
                "the directory {} for payloads cannot be used: {error}; choose another with --payload-dir",
                writer.directory.display()
            ))
        })?;
        writer.out = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(writer)
    }

    /// Returns the directory of the file.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the error for a failed write.
    pub(super) fn failed(&self, error: &io::Error) -> FetchError {
        FetchError::NoRoom(format!(
            "its file in {} cannot be written: {error}; make room there, or choose another directory with --payload-dir",
            self.directory.display()
        ))
    }

    pub(crate) fn finish(mut self) -> Result<Spilled, FetchError> {
        if self.written != self.length {
            return Err(FetchError::Corrupt(format!(
                "{} bytes were written instead of {}",
                self.written, self.length
            )));
        }
        let out = self.out.take().expect("a writer is finished once");
        let file = out.into_inner().map_err(|error| self.failed(error.error()))?;
        let length = std::mem::take(&mut self.length);
        let directory = std::mem::take(&mut self.directory);
        Ok(Spilled { place: OnDisk::Unnamed { budget: self.budget.clone(), directory, file }, length })
    }
}

impl Write for SpillWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let out = self.out.as_mut().expect("nothing is written after `finish`");
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
        if let Some(out) = self.out.take() {
            // Discards buffered bytes, which dropping the `BufWriter` would write to a file that is about to vanish.
            drop(out.into_parts());
        }
        self.budget.disk_freed(self.length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("flowright-test-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    /// A file can be written and read and has no directory entry; a missing directory is created, also for the second
    /// time.
    #[test]
    fn files_have_no_names_and_the_directory_is_made_again() {
        let directory = scratch("spill").join("below");
        for open in [create, unlinked] {
            fs::create_dir_all(&directory).unwrap();
            let mut file = open(&directory).unwrap();
            file.write_all(b"value").unwrap();
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
            fs::remove_dir_all(&directory).unwrap();
            let mut buffer = [0; 5];
            file.read_exact_at(&mut buffer, 0).unwrap();
            assert_eq!(&buffer, b"value");
            drop(create(&directory).unwrap());
        }
        fs::remove_dir_all(directory.parent().unwrap()).unwrap();
    }
}
