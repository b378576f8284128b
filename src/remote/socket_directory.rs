//! Directory of a head with the socket that the processes of its Works join, their own sockets, and their token.
//!
//! # Guarantees
//! - It belongs to one user, and only that user can enter it.
//! - It is removed at the end of the head; by the last of its processes where the head was killed; by the next head that
//!   needs such a directory where they were all killed.

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
const SOCKET: &str = "head.sock";

/// Looks at most at this many entries of the directory for temporary files.
const MOST_LOOKED_AT: usize = 10_000;

/// A directory without a socket may be one that another head is about to put its socket into.
const MAKING: Duration = Duration::from_secs(60);

/// How long a head may take to answer whether it is there.
const PATIENCE: Duration = Duration::from_millis(100);

/// Makes such a directory below the one for temporary files, and gives the place for the socket of the head.
pub(super) async fn make() -> Result<PathBuf, (PathBuf, io::Error)> {
    let below = std::env::temp_dir();
    sweep(&below).await;
    let directory = below.join(format!("{PREFIX}{:016x}", unique()));
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => Ok(directory.join(SOCKET)),
        Err(error) => Err((directory, error)),
    }
}

/// Where the processes of Works find the token: it is not in their environment, which programs that they start inherit.
pub(super) fn token_file(socket: &Path) -> PathBuf {
    socket.with_file_name("token")
}

/// Removes the directory of a head that is gone, unless another process still has its socket in it.
pub(crate) fn tidy_up(socket: &Path) {
    let connected = BlockingUnixStream::connect(socket);
    if connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        // Another of its processes may do the same.
        let _ = fs::remove_file(socket);
    }
    let Some(directory) = socket.parent().filter(|_| !socket.exists()) else { return };
    let mut names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    if names.all(|name| name == "token") {
        let _ = fs::remove_file(token_file(socket));
        let _ = fs::remove_dir(directory);
    }
}

/// Removes directories of this user's heads that were killed together with all their processes.
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
        // Not of what a link leads to.
        let Ok(metadata) = fs::symlink_metadata(&directory) else { continue };
        let is_ours = metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o777 == 0o700;
        if is_ours && is_abandoned(&directory, &metadata).await {
            log::debug!("{} was left behind by a head that was killed", directory.display());
            // Another head may do the same.
            let _ = fs::remove_dir_all(&directory);
        }
    }
}

/// Whether no head listens there any more, and none is about to.
async fn is_abandoned(directory: &Path, metadata: &fs::Metadata) -> bool {
    match timeout(PATIENCE, UnixStream::connect(directory.join(SOCKET))).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => true,
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            metadata.modified().is_ok_and(|made| made.elapsed().is_ok_and(|age| age > MAKING))
        }
        _ => false,
    }
}
