//! The directory of a head with the socket that the processes of its Works join, the sockets of these processes, and
//! the token.
//!
//! # Guarantees
//! - The directory belongs to one user, and only that user can enter it.
//! - Its path is short enough for sockets, wherever the directory for temporary files is.
//! - If it or its content is removed while the head runs, as tools that clean up temporary files do, it is created
//!   again.
//! - It is removed at the end of the head; if the head was killed, by the last of its processes; if they were all
//!   killed, by the next head that needs such a directory.
//! - The directory of a head with a journal, whose processes wait for the next head, is left to the heads of the journal.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::id::unique;

const PREFIX: &str = "flowright-";
pub(super) const SOCKET: &str = "head.sock";

/// Name of the link to the directory of the journal for whose processes the sockets are.
pub(super) const HOME: &str = "home";

/// Name of the link in that directory to the directory of the sockets.
pub(super) const SOCKETS: &str = "sockets";

/// Limit on the entries of the directory for temporary files that are examined.
const MOST_LOOKED_AT: usize = 10_000;

/// Age up to which a directory without a socket may belong to a head that is about to create its socket.
const MAKING: Duration = Duration::from_secs(60);

/// Time limit for connecting to the socket of another head.
const PATIENCE: Duration = Duration::from_millis(100);

/// Longest path of a socket, in bytes.
const LONGEST: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// Number of bytes that the socket of a process adds to the path of the parent directory.
const ADDED: usize = "/flowright-0123456789abcdef/process-0123456789abcdef.sock".len();

/// Number of bytes that the socket of a process adds to the path of its directory.
const ADDED_BELOW: usize = "/process-0123456789abcdef.sock".len();

/// Returns true if sockets can be below this directory: their paths are short enough, and are text.
pub(super) fn leaves_room(directory: &Path) -> bool {
    directory.to_str().is_some_and(|path| path.len() + ADDED_BELOW <= LONGEST)
}

/// Returns the possible parent directories in order of preference; only those whose paths leave room for sockets.
fn places() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let others = runtime.into_iter().chain([PathBuf::from("/tmp"), PathBuf::from("/var/tmp")]);
    let mut places: Vec<_> = std::iter::once(std::env::temp_dir()).chain(others).collect();
    places.retain(|place| place.as_os_str().len() + ADDED <= LONGEST);
    places
}

/// Creates such a directory below the one for temporary files, or below another one if that path is too long. Returns
/// the path for the socket of the head.
pub(super) async fn make() -> Result<PathBuf, (PathBuf, io::Error)> {
    let mut failure = None;
    for below in places() {
        sweep(&below).await;
        let directory = below.join(format!("{PREFIX}{:016x}", unique()));
        match make_again(&directory) {
            Ok(()) => return Ok(directory.join(SOCKET)),
            Err(error) => failure = failure.or(Some((directory, error))),
        }
    }
    Err(failure.unwrap_or_else(|| {
        let why = format!("its path is longer than {} bytes; set TMPDIR to a shorter one", LONGEST - ADDED);
        (std::env::temp_dir(), io::Error::new(ErrorKind::InvalidFilename, why))
    }))
}

/// Creates the directory of a head unless it exists.
///
/// # Errors
/// When it cannot be created, or when the existing entry is not a directory that only this user can enter: another user
/// may know its name.
pub(super) fn make_again(directory: &Path) -> io::Result<()> {
    if let Some(below) = directory.parent().filter(|below| !below.exists()) {
        fs::create_dir_all(below)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(directory)?;
            let is_ours = metadata.is_dir()
                && metadata.uid() == rustix::process::geteuid().as_raw()
                && metadata.mode() & 0o777 == 0o700;
            if is_ours { Ok(()) } else { Err(error) }
        }
        made => made,
    }
}

/// Returns `true` if a socket is in the directory of a head.
pub(super) fn is_inside(socket: &Path) -> bool {
    let name = socket.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PREFIX))
}

/// Returns the path of the token for the processes of Works. It is not in their environment, which programs that they
/// start inherit.
pub(super) fn token_file(socket: &Path) -> PathBuf {
    socket.with_file_name("token")
}

/// Removes the directory of a head that is gone, unless another process still has its socket in it.
pub(crate) fn tidy_up(socket: &Path) {
    let connected = BlockingUnixStream::connect(socket);
    if connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        // Another process of the head may have removed it at the same time.
        let _ = fs::remove_file(socket);
    }
    let Some(directory) = socket.parent().filter(|_| !socket.exists()) else { return };
    let files = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let files: Vec<_> = files.collect();
    // Marks of begun questions, which only the head has read.
    let is_mark = |file: &Path| file.extension().is_some_and(|extension| extension == "begun");
    if files.iter().all(|file| is_mark(file) || *file == token_file(socket)) {
        files.iter().for_each(|file| drop(fs::remove_file(file)));
        let _ = fs::remove_dir(directory);
    }
}

/// Removes the directories of this user's heads that were killed together with all their processes.
async fn sweep(below: &Path) {
    let Ok(user) = fs::metadata("/proc/self").map(|process| process.uid()) else { return };
    let Ok(entries) = fs::read_dir(below) else { return };
    for entry in entries.flatten().take(MOST_LOOKED_AT) {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if !number.is_some_and(|number| number.len() == 16 && number.bytes().all(|c| c.is_ascii_hexdigit())) {
            continue;
        }
        let directory = entry.path();
        // Does not follow links.
        let Ok(metadata) = fs::symlink_metadata(&directory) else { continue };
        let is_ours = metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o777 == 0o700;
        let is_ours = is_ours && !belongs_to_a_journal(&directory);
        if is_ours && is_abandoned(&directory, &metadata).await {
            log::debug!("{} was left behind by a head that was killed", directory.display());
            // Another head may remove it at the same time.
            let _ = fs::remove_dir_all(&directory);
        }
    }
}

/// Returns true if the directory is for processes that wait for the next head of a journal.
fn belongs_to_a_journal(directory: &Path) -> bool {
    let home = fs::read_link(directory.join(HOME));
    home.and_then(|home| fs::read_link(home.join(SOCKETS))).is_ok_and(|sockets| sockets == directory)
}

/// Returns `true` if no head listens there, and none is about to.
async fn is_abandoned(directory: &Path, metadata: &fs::Metadata) -> bool {
    match timeout(PATIENCE, UnixStream::connect(directory.join(SOCKET))).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => true,
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            metadata.modified().is_ok_and(|made| made.elapsed().is_ok_and(|age| age > MAKING))
        }
        _ => false,
    }
}
