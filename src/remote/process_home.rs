//! The part of a journal's directory for processes of Works that outlive their head: their records and their output, the
//! token, and the socket to which they return.
//!
//! # Guarantees
//! - Only this user can enter the directory, and one head at a time uses it: the one that holds the lock of the journal.
//! - The path of the socket stays the same over heads, and is short enough, wherever the journal is.
//! - A record leads to a process only in the directory and on the machine that it was written for. A copy of a journal
//!   knows no processes.
//! - Nothing is left after a head that has ended in good order.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process_id::ProcessId;
use super::socket_directory::{self, HOME, SOCKET, SOCKETS, leaves_room, token_file};
use crate::id::ActorPath;
use crate::transport::Token;

/// Name of the directory below that of the journal.
#[cfg(any(feature = "journal", test))]
const NAME: &str = "processes";

/// The streams of a process, by the extensions of their files.
pub(super) const STREAMS: [&str; 2] = ["out", "err"];

/// Extensions of the files with what a process has printed without a head: the older half, and the newer one.
const KEPT: [&str; 2] = ["before", "kept"];

/// Extension of records.
const RECORD: &str = "json";

/// A directory for processes of Works that outlive their head.
#[derive(Debug, Clone)]
pub(crate) struct ProcessHome {
    directory: PathBuf,
}

/// A process that an earlier head has started for a Work.
#[derive(Debug, Clone)]
pub(crate) struct KeptProcess {
    pub(super) name: String,
    pub(crate) path: ActorPath,
    /// The process that the head has started, which is the leader of its group.
    pub(super) process: ProcessId,
    /// The devices of the head's machine that it was assigned.
    pub(crate) gpus: Vec<u32>,
}

impl KeptProcess {
    /// Returns true unless the process has provably ended.
    #[cfg(feature = "journal")]
    pub(crate) fn is_alive(&self) -> bool {
        !self.process.has_ended()
    }
}

/// Content of the file that records a process.
#[derive(Serialize, Deserialize)]
struct Record {
    path: ActorPath,
    process: ProcessId,
    gpus: Vec<u32>,
    /// Identity of the directory that the record was written to.
    directory: (u64, u64),
}

impl ProcessHome {
    /// Returns the directory below that of a journal, which this process has locked; `None` where the system does not tell
    /// processes apart. Nothing is created.
    #[cfg(any(feature = "journal", test))]
    pub(crate) fn below(journal: &Path) -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        ProcessId::own()?;
        let journal = fs::canonicalize(journal).ok()?;
        Some(Self { directory: journal.join(NAME) })
    }

    /// Returns the path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    /// Returns the token that an earlier head has written.
    pub(crate) fn token(&self) -> Option<Token> {
        Token::read(&token_file(&self.directory.join(SOCKET))).ok()
    }

    /// Returns the processes that an earlier head has started, also those that have ended since.
    pub(crate) fn kept(&self) -> Vec<KeptProcess> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let here = identity(&self.directory);
        let mut kept = Vec::new();
        for file in entries.flatten().map(|entry| entry.path()) {
            let name = file.file_stem().and_then(|name| name.to_str());
            let Some(name) = name.filter(|_| file.extension().is_some_and(|extension| extension == RECORD))
            else {
                continue;
            };
            match read(&file) {
                Ok(Record { path, process, gpus, directory })
                    if Some(directory) == here && process.is_of_this_machine() =>
                {
                    kept.push(KeptProcess { name: name.to_owned(), path, process, gpus });
                }
                Ok(_) => self.forget(name),
                Err(error) => log::warn!("{} cannot be read: {error}", file.display()),
            }
        }
        kept
    }

    /// Creates the directory and the token in it. Returns the path for the socket of the head, at which no file is.
    ///
    /// # Errors
    /// With the path that could not be created.
    pub(super) async fn make(&self, token: Option<&Token>) -> Result<PathBuf, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        private(&self.directory).map_err(at(&self.directory))?;
        let file = token_file(&self.directory.join(SOCKET));
        // The token may have been configured anew.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err((file, error)),
            _ => {}
        }
        if let Some(token) = token {
            token.write_new(&file).map_err(at(&file))?;
        }
        let socket = self.sockets().await?.join(SOCKET);
        match fs::remove_file(&socket) {
            // Left by an earlier head, which has ended, since this one holds the lock.
            Ok(()) => Ok(socket),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(socket),
            Err(error) => Err((socket, error)),
        }
    }

    /// Returns the directory for sockets: this one, or another one that is linked here, if this path is too long.
    async fn sockets(&self) -> Result<PathBuf, (PathBuf, io::Error)> {
        if leaves_room(&self.directory) {
            return Ok(self.directory.clone());
        }
        let link = self.directory.join(SOCKETS);
        if let Ok(known) = fs::read_link(&link)
            && socket_directory::make_again(&known).is_ok()
        {
            match fs::read_link(known.join(HOME)) {
                Ok(home) if home == self.directory => return Ok(known),
                // It was removed meanwhile, as at a start of the machine.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    symlink(&self.directory, known.join(HOME)).map_err(|error| (known.clone(), error))?;
                    return Ok(known);
                }
                _ => {}
            }
        }
        let socket = socket_directory::make().await?;
        let directory = socket.parent().unwrap_or(Path::new("/")).to_owned();
        let _ = fs::remove_file(&link);
        symlink(&self.directory, directory.join(HOME)).map_err(|error| (directory.clone(), error))?;
        symlink(&directory, &link).map_err(|error| (link, error))?;
        Ok(directory)
    }

    /// Records a process that was started, so that the next head finds it.
    pub(super) fn record(&self, process: &KeptProcess) -> io::Result<()> {
        let directory = identity(&self.directory).ok_or(ErrorKind::NotFound)?;
        let KeptProcess { name, path, process, gpus } = process;
        let record = Record { path: path.clone(), process: process.clone(), gpus: gpus.clone(), directory };
        let file = self.file(name, RECORD);
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec(&record)?)?;
        fs::rename(new, file)
    }

    /// Removes all files of a process that has ended.
    pub(super) fn forget(&self, name: &str) {
        // Some of them may not exist. The record goes last.
        for stream in STREAMS {
            let _ = fs::remove_file(self.file(name, stream));
            for part in KEPT {
                let _ = fs::remove_file(self.file(name, &format!("{stream}.{part}")));
            }
        }
        let _ = fs::remove_file(self.file(name, RECORD));
    }

    /// Removes the directory, and that of the sockets.
    pub(super) fn remove(&self) {
        // On failure the next head uses or removes the rest.
        if let Ok(sockets) = fs::read_link(self.directory.join(SOCKETS)) {
            let _ = fs::remove_dir_all(sockets);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }

    /// Creates the FIFO that a process writes a stream to, and opens both ends. The writer reads as well, so that a write
    /// does not fail when the head is gone.
    #[cfg(target_os = "linux")]
    pub(super) fn make_fifo(&self, name: &str, stream: &str) -> io::Result<(File, File)> {
        let path = self.file(name, stream);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600))?;
        let reader = self.open_fifo(name, stream)?;
        Ok((OpenOptions::new().read(true).write(true).open(path)?, reader))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn make_fifo(&self, _: &str, _: &str) -> io::Result<(File, File)> {
        Err(ErrorKind::Unsupported.into())
    }

    /// Opens the FIFO of a stream for reading that does not block.
    pub(super) fn open_fifo(&self, name: &str, stream: &str) -> io::Result<File> {
        open_fifo(&self.directory, name, stream)
    }

    /// Takes what a process has printed to a stream while it had no head.
    pub(super) fn take_kept(&self, name: &str, stream: &str) -> Vec<u8> {
        let mut all = Vec::new();
        for path in kept_files(&self.directory, name, stream) {
            all.extend(fs::read(&path).unwrap_or_default());
            let _ = fs::remove_file(path);
        }
        all
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        file(&self.directory, name, extension)
    }
}

fn file(home: &Path, name: &str, extension: &str) -> PathBuf {
    home.join(format!("{name}.{extension}"))
}

/// Opens the FIFO of a stream for reading that does not block.
pub(super) fn open_fifo(home: &Path, name: &str, stream: &str) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(file(home, name, stream))
}

/// Returns the files for what a process prints without a head: of the older half, and of the newer one.
pub(super) fn kept_files(home: &Path, name: &str, stream: &str) -> [PathBuf; 2] {
    KEPT.map(|part| file(home, name, &format!("{stream}.{part}")))
}

fn read(file: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

/// Returns the numbers of a directory and its file system, which a copy does not share.
fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Creates a directory that only this user can enter, or makes an existing one such.
fn private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::set_permissions(directory, Permissions::from_mode(0o700))
        }
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed at the end of a test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("fr-home-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn this_process(name: &str) -> KeptProcess {
        let process = ProcessId::own().unwrap();
        KeptProcess { name: name.to_owned(), path: ActorPath::from("a.b"), process, gpus: vec![2, 3] }
    }

    /// A record is found by the next head, and by no head that has a copy of the directory or another machine.
    #[tokio::test]
    async fn record_leads_to_a_process_only_in_its_own_place() {
        let below = Temporary::new("place");
        let home = ProcessHome::below(&below.0).unwrap();
        assert!(home.kept().is_empty());
        let token = Token::random();
        let socket = home.make(Some(&token)).await.unwrap();
        assert_eq!(socket, below.0.join("processes/head.sock"));
        home.record(&this_process("one")).unwrap();
        let again = ProcessHome::below(&below.0).unwrap();
        let kept = again.kept();
        assert_eq!((kept.len(), kept[0].path.as_str(), &*kept[0].gpus), (1, "a.b", &[2, 3][..]));
        assert!(again.token().is_some());
        // As after a start of the machine.
        let text = fs::read_to_string(home.file("one", RECORD)).unwrap();
        let own = serde_json::to_value(ProcessId::own().unwrap()).unwrap();
        let machine = own["machine"].as_str().unwrap();
        fs::write(home.file("two", RECORD), text.replace(machine, "another")).unwrap();
        assert_eq!(again.kept().len(), 1);
        assert!(!home.file("two", RECORD).exists());
        // A copy has another directory.
        let copy = Temporary::new("copy");
        let copied = ProcessHome::below(&copy.0).unwrap();
        private(copied.path()).unwrap();
        fs::copy(home.file("one", RECORD), copied.file("one", RECORD)).unwrap();
        assert!(copied.kept().is_empty());
        home.remove();
        assert!(!home.path().exists());
    }

    /// Whatever is in place of a record is no process, and keeps no head from starting.
    #[tokio::test]
    async fn damaged_record_is_no_process() {
        let below = Temporary::new("damaged");
        let home = ProcessHome::below(&below.0).unwrap();
        home.make(None).await.unwrap();
        for (name, text) in [("empty", ""), ("half", "{\"path\": \"a"), ("other", "[1, 2]")] {
            fs::write(home.file(name, RECORD), text).unwrap();
        }
        fs::create_dir(home.file("directory", RECORD)).unwrap();
        assert!(home.kept().is_empty() && home.token().is_none());
    }
}
