//! Layer 1: files and directories that appear under their name only once they are complete.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Temporary sibling of the target path, hidden by a leading dot; deleted on drop unless committed.
pub(crate) struct StagedPath {
    path: PathBuf,
    into: PathBuf,
}

impl StagedPath {
    /// Creates the parent directories of `into` and chooses a temporary name; `into` must end with a file name.
    pub(crate) fn of(into: &Path) -> io::Result<Self> {
        let name = into.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let directory = match into.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory)?;
        let mut hidden = OsString::from(".");
        // The name of the target may have the maximum length already.
        hidden.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]));
        hidden.push(format!(".{:016x}", crate::id::unique()));
        Ok(Self { path: directory.join(hidden), into: into.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the staged file or directory to its target path.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the target exists and `overwrite` is false; other errors of the file system.
    pub(crate) fn commit(self, overwrite: bool) -> io::Result<()> {
        loop {
            let there = match fs::symlink_metadata(&self.into) {
                Ok(_) if !overwrite => return Err(ErrorKind::AlreadyExists.into()),
                Ok(there) => Some(there),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let placed = match there {
                None => put(&self.path, &self.into),
                Some(there) => self.replace(there.is_dir()),
            };
            match placed {
                Err(error) if is_taken(&error) && !overwrite => return Err(ErrorKind::AlreadyExists.into()),
                // Another process created or removed the target meanwhile. The last writer wins.
                Err(error) if is_taken(&error) || error.kind() == ErrorKind::NotFound => {
                    // `NotFound` may also be about the staged path itself: then there is nothing to retry.
                    fs::symlink_metadata(&self.path)?;
                }
                placed => return placed,
            }
        }
    }

    /// Replaces the existing target by the staged file or directory.
    fn replace(&self, is_directory: bool) -> io::Result<()> {
        if !is_directory && !fs::symlink_metadata(&self.path)?.is_dir() {
            return fs::rename(&self.path, &self.into);
        }
        // Atomic, so that the target always exists; the old one then has the staged name and is removed on drop.
        match exchange(&self.path, &self.into) {
            // Not every file system supports the exchange.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                self.replace_in_two_steps()
            }
            exchanged => exchanged,
        }
    }

    fn replace_in_two_steps(&self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push("-before");
        let aside = PathBuf::from(aside);
        fs::rename(&self.into, &aside)?;
        let placed = put(&self.path, &self.into);
        match &placed {
            // Another writer created the target meanwhile, so that the old one is obsolete.
            Err(error) if is_taken(error) => remove(&aside),
            Err(_) => {
                // Restores the old target, unless a newer one exists.
                if put(&aside, &self.into).is_err() {
                    remove(&aside);
                }
            }
            Ok(()) => remove(&aside),
        }
        placed
    }
}

#[cfg(target_os = "linux")]
fn exchange(path: &Path, into: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    Ok(renameat_with(CWD, path, CWD, into, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Moves `path` to the unused name `into`. Never replaces an existing file.
fn put(path: &Path, into: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        return fs::rename(path, into);
    }
    match fs::hard_link(path, into) {
        Ok(()) => fs::remove_file(path),
        Err(error) if is_taken(&error) => Err(error),
        // Not every file system supports hard links.
        Err(_) => fs::rename(path, into),
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory)
}

/// Removes the file or directory at `path`, including directories without write permission.
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("flowright-test-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Stages a directory with four files of the same text.
    fn make(text: &str, into: &Path) -> StagedPath {
        let staged = StagedPath::of(into).unwrap();
        fs::create_dir(staged.path()).unwrap();
        for name in 0..4 {
            fs::write(staged.path().join(name.to_string()), text).unwrap();
        }
        staged
    }

    /// Each of several concurrent replacements of a directory succeeds; one of them is there whole, and no temporary
    /// file remains.
    fn replace_at_once(name: &str, replace: impl Fn(StagedPath) -> io::Result<()> + Sync) {
        let place = scratch(name);
        let into = place.join("it");
        for round in 0..50 {
            let barrier = Barrier::new(4);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (barrier, into, replace) = (&barrier, &into, &replace);
                    scope.spawn(move || {
                        let staged = make(&format!("{round} {thread}"), into);
                        barrier.wait();
                        replace(staged).unwrap();
                    });
                }
            });
            let texts: Vec<_> =
                (0..4).map(|name| fs::read_to_string(into.join(name.to_string())).unwrap()).collect();
            assert!(texts.windows(2).all(|two| two[0] == two[1]), "{texts:?}");
            assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        }
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn the_last_of_several_that_replace_wins() {
        replace_at_once("replace", |staged| staged.commit(true));
    }

    /// The same on a file system without atomic exchange.
    #[test]
    fn the_last_of_several_that_replace_in_steps_wins() {
        replace_at_once("steps", |staged| {
            loop {
                let placed = match fs::symlink_metadata(&staged.into) {
                    Ok(_) => staged.replace_in_two_steps(),
                    Err(_) => put(&staged.path, &staged.into),
                };
                match placed {
                    Err(error) if is_taken(&error) || error.kind() == ErrorKind::NotFound => {}
                    placed => return placed,
                }
            }
        });
    }

    /// Files and directories replace each other with `overwrite`, and stay without it.
    #[test]
    fn files_and_directories_replace_each_other() {
        let place = scratch("kinds");
        let into = place.join("it");
        let file = |text: &str| {
            let staged = StagedPath::of(&into).unwrap();
            fs::write(staged.path(), text).unwrap();
            staged
        };
        file("a").commit(false).unwrap();
        assert_eq!(file("b").commit(false).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(make("b", &into).commit(false).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&into).unwrap(), "a");
        file("c").commit(true).unwrap();
        make("d", &into).commit(true).unwrap();
        assert_eq!(fs::read_to_string(into.join("3")).unwrap(), "d");
        make("e", &into).commit(true).unwrap();
        assert_eq!(file("f").commit(false).unwrap_err().kind(), ErrorKind::AlreadyExists);
        file("f").commit(true).unwrap();
        assert_eq!(fs::read_to_string(&into).unwrap(), "f");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        fs::remove_dir_all(place).unwrap();
    }
}
