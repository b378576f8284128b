//! The running program: starting another process of it, and the identity of its build.
//!
//! # Guarantees
//! - The started program is the one that runs now, even if its file was replaced, moved or removed since.
//! - The new process has the same `argv[0]` and process name.

#[cfg(any(feature = "remote", feature = "http"))]
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
#[cfg(any(feature = "remote", feature = "http", feature = "journal"))]
use std::sync::OnceLock;

/// Link to the executable of the process that opens it, by inode and not by path.
#[cfg(target_os = "linux")]
const ITSELF: &str = "/proc/self/exe";

/// Returns a command that starts this program again, without arguments.
pub(crate) fn this_program() -> io::Result<Command> {
    let mut command = Command::new(path()?);
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    Ok(command)
}

/// Returns a path of the executable that runs now.
#[cfg(target_os = "linux")]
pub(crate) fn path() -> io::Result<PathBuf> {
    // Without `/proc` there is no reliable path either.
    std::fs::metadata(ITSELF).map(|_| ITSELF.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn path() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Sets the process name to that of the program if it is `exe`, the name of the link by which the process was started.
#[cfg(target_os = "linux")]
pub(crate) fn restore_name() {
    const NAME: &str = "/proc/self/comm";

    let program = std::env::args_os().next().map(PathBuf::from);
    let name = program.as_deref().and_then(std::path::Path::file_name);
    if let (Some(name), Ok("exe\n")) = (name, std::fs::read_to_string(NAME).as_deref()) {
        // The name is only for display.
        let _ = std::fs::write(NAME, name.as_encoded_bytes());
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn restore_name() {}

/// Returns the version of the program, or the identity of its build if it has none: `build ` and a part of the hash of
/// its binary.
#[cfg(any(feature = "remote", feature = "http"))]
pub(crate) fn version_or_build(version: Option<&str>) -> String {
    static BUILD: OnceLock<String> = OnceLock::new();
    let build = || {
        let hash = path().and_then(|path| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(path)?)?;
            Ok(hasher.finalize())
        });
        match hash {
            Ok(hash) => format!("{BUILD_PREFIX}{}", &hash.to_hex()[..16]),
            Err(error) => {
                log::warn!("the binary of this program cannot be read, so its build is unknown: {error}");
                format!("{BUILD_PREFIX}unknown")
            }
        }
    };
    version.map_or_else(|| BUILD.get_or_init(build).clone(), str::to_owned)
}

/// The beginning of a version that identifies a build.
#[cfg(any(feature = "remote", feature = "http"))]
pub(crate) const BUILD_PREFIX: &str = "build ";

/// Returns a number that differs between two builds of the program: a hash of the number, the size and the times of the
/// file of its executable. It may also differ for a copy of the file. `None` if the file cannot be found.
#[cfg(feature = "journal")]
pub(crate) fn build_mark() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;

    static MARK: OnceLock<Option<u64>> = OnceLock::new();
    let mark = || {
        let file = path().and_then(std::fs::metadata).ok()?;
        let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&file.ino().to_le_bytes()).update(&file.len().to_le_bytes());
        for time in times {
            hasher.update(&time.to_le_bytes());
        }
        hasher.finalize().as_bytes().first_chunk().map(|first| u64::from_le_bytes(*first))
    };
    *MARK.get_or_init(mark)
}
