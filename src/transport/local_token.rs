//! The token of an App that was given none: a file on this machine that only its user can read.
//!
//! # Guarantees
//! - The file is in a directory that belongs to the user of the process and that no other user can enter. Directories
//!   and files of another owner, mode or type are refused; symlinks are not followed.
//! - The file appears with its content, and is removed when the listener closes. A file that a killed process has left
//!   behind is replaced by the next listener at the same address, or removed by a listener at another address.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::token::Token;

/// Directory below the user's directory for run-time files.
const DIRECTORY: &str = "flowright";
const EXTENSION: &str = "token";

/// Largest token file that is read, in bytes.
const LARGEST: u64 = 4096;

/// Limit on the files of other listeners that are checked when one is written.
const MOST_STALE: usize = 256;

/// The token file of a listener; removed on drop.
pub(super) struct TokenFile {
    path: PathBuf,
    /// Locked as long as the listener lives, which distinguishes the file from one that was left behind.
    locked: File,
}

impl TokenFile {
    /// Writes the token of the listener at `address`.
    ///
    /// # Errors
    /// The problem with each of the directories, if the file can be written to none of them.
    pub(super) fn write(address: SocketAddr, token: &Token) -> Result<Self, String> {
        let mut failures = Vec::new();
        for directory in directories() {
            match write_in(&directory, address, token) {
                Ok(file) => return Ok(file),
                Err(error) => failures.push(format!("{}: {error}", directory.display())),
            }
        }
        Err(failures.join("; "))
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        // Another listener may have the address by now, and a file of its own.
        let is_ours = match (self.locked.metadata(), std::fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        if is_ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Reads the token of the listener at `address`, which must have been written by a process of this user; `None` if
/// there is no file.
///
/// # Errors
/// The problem with an existing file or directory.
pub(super) fn find(address: SocketAddr) -> Result<Option<Token>, String> {
    for directory in directories() {
        match check_directory(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", directory.display())),
        }
        let path = file_of(&directory, address);
        match read(&path) {
            Ok(text) => {
                return Token::new(&text).map(Some).map_err(|error| format!("{}: {error}", path.display()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Ok(None)
}

/// Returns the paths at which the token of the listener at `address` is looked for, for messages.
pub(super) fn places(address: SocketAddr) -> String {
    let files = directories().into_iter().map(|directory| file_of(&directory, address).display().to_string());
    files.collect::<Vec<_>>().join(" or ")
}

/// Returns the directories for token files, the preferred one first. A head and a node of one user may have different
/// environments, so that all of them are searched.
fn directories() -> Vec<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.into_iter().chain([PathBuf::from(format!("/run/user/{user}"))]);
    let runtime = runtime.filter(|directory| directory.is_absolute() && owner_of(directory) == Some(user));
    let mut directories: Vec<_> = runtime.map(|directory| directory.join(DIRECTORY)).collect();
    for temporary in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        directories.push(temporary.join(format!("{DIRECTORY}-{user}")));
    }
    let mut seen = Vec::new();
    directories.retain(|directory| {
        !seen.contains(directory) && {
            seen.push(directory.clone());
            true
        }
    });
    directories
}

fn owner_of(directory: &Path) -> Option<u32> {
    std::fs::metadata(directory).ok().filter(std::fs::Metadata::is_dir).map(|metadata| metadata.uid())
}

fn file_of(directory: &Path, address: SocketAddr) -> PathBuf {
    directory.join(format!("{address}.{EXTENSION}"))
}

fn write_in(directory: &Path, address: SocketAddr, token: &Token) -> io::Result<TokenFile> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => check_directory(directory)?,
    }
    remove_stale(directory);
    let staged = directory.join(format!(".{:016x}", crate::id::unique()));
    let path = file_of(directory, address);
    let written = write_staged(&staged, token).and_then(|locked| {
        std::fs::rename(&staged, &path)?;
        Ok(TokenFile { path, locked })
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    written
}

fn write_staged(path: &Path, token: &Token) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // Locked before the rename, so that no other process takes the file for one that was left behind.
    file.lock()?;
    token.write_to(&mut file)?;
    Ok(file)
}

/// Removes the files of killed listeners, which are no longer locked.
fn remove_stale(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().take(MOST_STALE) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let Ok(file) = open(&path) else { continue };
        match file.try_lock() {
            Ok(()) => drop(std::fs::remove_file(&path)),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// Reads a file that belongs to this user and that no other user can read.
fn read(path: &Path) -> io::Result<String> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    check_private(&metadata, "file")?;
    if metadata.len() > LARGEST {
        return Err(io::Error::other("it is too large for a token"));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a regular file; neither follows a symlink nor waits for the other end of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

fn check_directory(directory: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(directory)?;
    if !metadata.is_dir() {
        return Err(io::Error::other("it is not a directory; remove it"));
    }
    check_private(&metadata, "directory")
}

fn check_private(metadata: &std::fs::Metadata, what: &str) -> io::Result<()> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let why = format!("the {what} belongs to another user (uid {})", metadata.uid());
        return Err(io::Error::other(why));
    }
    if metadata.mode() & 0o077 != 0 {
        let (mode, wanted) = (metadata.mode() & 0o777, if what == "file" { 600 } else { 700 });
        return Err(io::Error::other(format!(
            "other users have access to the {what} (its mode is {mode:o}): `chmod {wanted}` it, after a look at who has \
             put it there"
        )));
    }
    Ok(())
}

impl Token {
    /// Creates a secret of 256 random bits.
    pub(crate) fn random() -> Self {
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::new(&text).expect("64 digits are enough")
    }

    /// Writes the token to a new file that only this user can read.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub(crate) fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        self.write_to(&mut file)
    }

    fn write_to(&self, file: &mut File) -> io::Result<()> {
        file.write_all(self.bytes())?;
        file.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory of a test; removed on drop.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let path =
                std::env::temp_dir().join(format!("flowright-local-token-{:016x}", crate::id::unique()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn private(&self) -> PathBuf {
            self.0.join("flowright")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn address() -> SocketAddr {
        "127.0.0.1:7502".parse().unwrap()
    }

    /// No other user can read the file, and it is removed with the listener.
    #[test]
    fn token_file_is_private_and_removed_on_drop() {
        let scratch = Scratch::new();
        let file = write_in(&scratch.private(), address(), &Token::random()).unwrap();
        let path = file_of(&scratch.private(), address());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&scratch.private()), mode(&path)), (0o700, 0o600));
        assert_eq!(read(&path).unwrap().trim().len(), 64);
        drop(file);
        assert!(!path.exists());
    }

    /// The file of a later listener at the same address stays when the earlier one ends late.
    #[test]
    fn earlier_listener_leaves_the_file_of_a_later_one() {
        let scratch = Scratch::new();
        let path = file_of(&scratch.private(), address());
        let earlier = write_in(&scratch.private(), address(), &Token::random()).unwrap();
        let first = read(&path).unwrap();
        let later = write_in(&scratch.private(), address(), &Token::random()).unwrap();
        assert_ne!(read(&path).unwrap(), first);
        drop(earlier);
        assert!(path.exists());
        drop(later);
        assert!(!path.exists());
    }

    /// A killed process leaves its file, and the next listener at any address removes it; a file in use stays.
    #[test]
    fn stale_files_are_removed_and_live_ones_kept() {
        let scratch = Scratch::new();
        let live = write_in(&scratch.private(), address(), &Token::random()).unwrap();
        let stale = file_of(&scratch.private(), "127.0.0.1:7503".parse().unwrap());
        Token::random().write_new(&stale).unwrap();
        let _other = write_in(&scratch.private(), "[::1]:7504".parse().unwrap(), &Token::random()).unwrap();
        assert!(!stale.exists() && live.path.exists());
    }

    /// Directories and files that others could have created or can read are refused, with the reason.
    #[test]
    fn foreign_modes_and_types_are_refused() {
        let scratch = Scratch::new();
        let private = scratch.private();
        let write = || write_in(&private, address(), &Token::random()).map(|_| ()).unwrap_err().to_string();
        symlink("/tmp", &private).unwrap();
        assert!(write().contains("not a directory"));
        std::fs::remove_file(&private).unwrap();
        std::fs::create_dir(&private).unwrap();
        std::fs::set_permissions(&private, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(write().contains("chmod 700"), "{}", write());
        std::fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();

        let path = file_of(&private, address());
        Token::random().write_new(&scratch.0.join("elsewhere")).unwrap();
        symlink(scratch.0.join("elsewhere"), &path).unwrap();
        read(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let fifo = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0);
        fifo.unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("regular"));
        std::fs::remove_file(&path).unwrap();
        Token::random().write_new(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("chmod 600"));
    }
}
