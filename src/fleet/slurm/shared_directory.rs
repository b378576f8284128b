//! The directory on a file system that the head shares with the machines of its jobs.
//!
//! - `programs/HASH`: copies of the program, named by its BLAKE3 hash, mode 0700
//! - `tokens/TAG`: the token of the App, mode 0600
//! - `output/NAME.out`: the output of each job
//!
//! The three directories have mode 0700 and belong to the user of the head. Files that were not used for a month are
//! removed.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::atomic_file::StagedPath;

/// Time after which a file that was not used is removed.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most that is read of the end of an output, in bytes.
const MOST_OUTPUT: u64 = 64 << 10;

const PROGRAMS: &str = "programs";
const TOKENS: &str = "tokens";
const OUTPUT: &str = "output";

#[derive(Debug, Clone)]
pub(super) struct SharedDirectory {
    path: PathBuf,
}

/// A copy of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProgramCopy {
    pub(super) path: PathBuf,
    size: u64,
}

impl ProgramCopy {
    /// Returns true if the copy is still there.
    pub(super) fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() == self.size)
    }
}

impl SharedDirectory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the file for the output of the job with this name.
    pub(super) fn output_path(&self, job_name: &str) -> PathBuf {
        self.path.join(OUTPUT).join(format!("{job_name}.out"))
    }

    /// Creates the directories, and removes files that were not used for a month.
    ///
    /// # Errors
    /// A description of the problem.
    pub(super) fn create(&self) -> Result<(), String> {
        for name in [PROGRAMS, TOKENS, OUTPUT] {
            let directory = self.path.join(name);
            let wrong =
                |error: io::Error| format!("cannot use the directory {}: {error}", directory.display());
            DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(wrong)?;
            let metadata = fs::metadata(&directory).map_err(wrong)?;
            if metadata.uid() != rustix::process::geteuid().as_raw() {
                return Err(format!(
                    "the directory {} belongs to another user: choose another one with `directory`",
                    directory.display()
                ));
            }
            if metadata.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(&directory, Permissions::from_mode(0o700)).map_err(wrong)?;
            }
            remove_unused(&directory, SystemTime::now());
        }
        Ok(())
    }

    /// Copies a program, unless there is a copy already.
    ///
    /// # Errors
    /// A description of the problem.
    pub(super) fn copy_program(&self, program: &Path) -> Result<ProgramCopy, String> {
        let copy = || {
            let mut from = File::open(program)?;
            let (hash, size) = hash_of(&mut from)?;
            let path = self.path.join(PROGRAMS).join(hash.to_hex().as_str());
            let there = File::open(&path).and_then(|mut file| hash_of(&mut file));
            let has_it = there.is_ok_and(|(there, _)| there == hash);
            match has_it {
                // Copies that are in use are not removed.
                true => File::open(&path)?.set_modified(SystemTime::now())?,
                false => {
                    from.seek(SeekFrom::Start(0))?;
                    let staged = StagedPath::of(&path)?;
                    let mut to =
                        OpenOptions::new().write(true).create_new(true).mode(0o700).open(staged.path())?;
                    io::copy(&mut from, &mut to)?;
                    to.set_permissions(Permissions::from_mode(0o700))?;
                    to.sync_all()?;
                    drop(to);
                    if hash_of(&mut File::open(staged.path())?)?.0 != hash {
                        return Err(io::Error::other("the program changed while it was copied"));
                    }
                    staged.commit(true)?;
                }
            }
            Ok(ProgramCopy { path, size })
        };
        copy().map_err(|error: io::Error| {
            let (program, to) = (program.display(), self.path.display());
            format!("cannot copy the program {program} to {to}: {error}")
        })
    }

    /// Writes the token of the App with this tag to its file, and returns the path of the file.
    ///
    /// # Errors
    /// A description of the problem.
    pub(super) fn write_token(&self, tag: &str, token: &str) -> Result<PathBuf, String> {
        let path = self.path.join(TOKENS).join(tag);
        let write = || {
            let staged = StagedPath::of(&path)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(staged.path())?;
            file.write_all(token.as_bytes())?;
            file.sync_all()?;
            staged.commit(true)
        };
        write()
            .map_err(|error: io::Error| format!("cannot write the token to {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Reads the last lines of the output of the job with this name; none if it has no output yet.
    ///
    /// # Errors
    /// A description of the problem.
    pub(super) fn last_output(&self, job_name: &str, lines: usize) -> Result<String, String> {
        let path = self.output_path(job_name);
        let read = || {
            let mut file = File::open(&path)?;
            let size = file.metadata()?.len();
            file.seek(SeekFrom::Start(size.saturating_sub(MOST_OUTPUT)))?;
            let mut bytes = Vec::new();
            file.take(MOST_OUTPUT).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match read() {
            Ok(text) => Ok(last_lines(&text, lines)),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }
}

/// Returns the last lines of a text.
fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|line| format!("{line}\n")).collect()
}

/// Returns the BLAKE3 hash and the size of a file.
fn hash_of(file: &mut File) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok((hasher.finalize(), hasher.count()))
}

/// Removes the files of a directory that were last written before [`KEPT`].
fn remove_unused(directory: &Path, now: SystemTime) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let is_unused =
            written.is_ok_and(|written| now.duration_since(written).is_ok_and(|unused| unused > KEPT));
        if is_unused {
            // Another head may have removed it.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed with everything in it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("flowright-slurm-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn shared(&self) -> SharedDirectory {
            let shared = SharedDirectory::new(self.0.join("shared"));
            shared.create().unwrap();
            shared
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// A program is copied once, under its hash, for the owner only; a damaged copy is replaced.
    #[test]
    fn program_is_copied_once() {
        let directory = Directory::new("program");
        let shared = directory.shared();
        let program = directory.0.join("app");
        fs::write(&program, "first").unwrap();
        let copy = shared.copy_program(&program).unwrap();
        assert_eq!(copy.path.file_name().unwrap().to_str(), Some(blake3::hash(b"first").to_hex().as_str()));
        assert_eq!((mode(&copy.path), mode(copy.path.parent().unwrap())), (0o700, 0o700));
        let inode = fs::metadata(&copy.path).unwrap().ino();
        assert_eq!(shared.copy_program(&program).unwrap(), copy);
        assert_eq!(fs::metadata(&copy.path).unwrap().ino(), inode);
        assert!(copy.is_there());

        fs::write(&copy.path, "fir").unwrap();
        assert!(!copy.is_there());
        assert_eq!(shared.copy_program(&program).unwrap(), copy);
        assert_eq!(fs::read(&copy.path).unwrap(), b"first");
        assert_eq!(fs::read_dir(copy.path.parent().unwrap()).unwrap().count(), 1);

        fs::write(&program, "second").unwrap();
        assert_ne!(shared.copy_program(&program).unwrap().path, copy.path);
        assert!(
            shared.copy_program(&directory.0.join("none")).unwrap_err().contains("cannot copy the program")
        );
    }

    /// Only the owner can read the token, also where a file with more rights was there.
    #[test]
    fn token_is_for_its_owner_only() {
        let directory = Directory::new("token");
        let shared = directory.shared();
        for token in ["one", "another"] {
            let path = shared.write_token("tag", token).unwrap();
            assert_eq!(crate::secret_file::read_secret(&path).unwrap(), token);
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
    }

    /// A directory that others may read is closed to them.
    #[test]
    fn directories_are_for_their_owner_only() {
        let directory = Directory::new("modes");
        let shared = directory.shared();
        let tokens = directory.0.join("shared/tokens");
        fs::set_permissions(&tokens, Permissions::from_mode(0o755)).unwrap();
        shared.create().unwrap();
        assert_eq!(mode(&tokens), 0o700);
    }

    /// The last lines of an output are read, however long it is.
    #[test]
    fn output_is_read_from_its_end() {
        let directory = Directory::new("output");
        let shared = directory.shared();
        assert_eq!(shared.last_output("job", 3), Ok(String::new()));
        fs::write(shared.output_path("job"), "a\nb\nc").unwrap();
        assert_eq!(shared.last_output("job", 2), Ok("b\nc\n".to_owned()));
        assert_eq!(shared.last_output("job", 9), Ok("a\nb\nc\n".to_owned()));
        let long = format!("{}last\n", "line\n".repeat(100_000));
        fs::write(shared.output_path("job"), long).unwrap();
        assert_eq!(shared.last_output("job", 2), Ok("line\nlast\n".to_owned()));
        fs::write(shared.output_path("job"), [0xff, b'\n']).unwrap();
        assert_eq!(shared.last_output("job", 2), Ok("\u{fffd}\n".to_owned()));
    }

    /// Files of jobs that ended long ago are removed, and those in use are not.
    #[test]
    fn unused_files_are_removed() {
        let directory = Directory::new("unused");
        let shared = directory.shared();
        let (old, new) = (shared.output_path("old"), shared.output_path("new"));
        for path in [&old, &new] {
            fs::write(path, "text").unwrap();
        }
        let long_ago = SystemTime::now() - KEPT - Duration::from_secs(60);
        File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        shared.create().unwrap();
        assert!(!old.exists() && new.exists());
    }
}
