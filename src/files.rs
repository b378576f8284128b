//! Floor 1: files and directories that have their name once all of them is there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The place beside the one that is wanted, where nobody looks. What is there is removed when this is dropped.
pub(crate) struct Beside {
    path: PathBuf,
    into: PathBuf,
}

impl Beside {
    /// Makes the directories above `into`, which ends with a name.
    pub(crate) fn of(into: &Path) -> io::Result<Self> {
        let name = into.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let directory = match into.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory)?;
        let mut hidden = OsString::from(".");
        // A name may be as long as names can be.
        hidden.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]));
        hidden.push(format!(".{:016x}", crate::id::unique()));
        Ok(Self { path: directory.join(hidden), into: into.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives what is there its name.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is something by that name, which is not to be replaced.
    pub(crate) fn take_place(self, overwrite: bool) -> io::Result<()> {
        let there = match fs::symlink_metadata(&self.into) {
            Ok(_) if !overwrite => return Err(ErrorKind::AlreadyExists.into()),
            Ok(there) => there,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match put(&self.path, &self.into) {
                    Err(error) if is_taken(&error) => Err(ErrorKind::AlreadyExists.into()),
                    put => put,
                };
            }
            Err(error) => return Err(error),
        };
        let is_directory = fs::symlink_metadata(&self.path)?.is_dir();
        if !is_directory && !there.is_dir() {
            return fs::rename(&self.path, &self.into);
        }
        let mut aside = self.path.clone().into_os_string();
        aside.push("-before");
        let aside = PathBuf::from(aside);
        fs::rename(&self.into, &aside)?;
        if let Err(error) = fs::rename(&self.path, &self.into) {
            // Whatever that was, what was there is there again.
            let _ = fs::rename(&aside, &self.into);
            return Err(error);
        }
        remove(&aside);
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Gives a name to what has none yet; a file is never put in the place of another that way.
fn put(path: &Path, into: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        return fs::rename(path, into);
    }
    match fs::hard_link(path, into) {
        Ok(()) => fs::remove_file(path),
        Err(error) if is_taken(&error) => Err(error),
        // Not every file system has them.
        Err(_) => fs::rename(path, into),
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory)
}

/// Removes what is at `path`, also directories that may not be written to.
fn remove(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if !metadata.is_dir() {
        let _ = fs::remove_file(path);
        return;
    }
    if fs::remove_dir_all(path).is_err() {
        let mut directories = vec![path.to_owned()];
        while let Some(directory) = directories.pop() {
            let _ = fs::set_permissions(&directory, Permissions::from_mode(0o700));
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            let entries = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            directories.extend(entries.map(|entry| entry.path()));
        }
        let _ = fs::remove_dir_all(path);
    }
}
