//! Starting another process of this program.
//!
//! # Guarantees
//! - The started program is the one that runs now, even if its file was replaced, moved or removed since.
//! - The new process has the same `argv[0]` and process name.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

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

#[cfg(target_os = "linux")]
fn path() -> io::Result<PathBuf> {
    // Without `/proc` there is no reliable path either.
    std::fs::metadata(ITSELF).map(|_| ITSELF.into())
}

#[cfg(not(target_os = "linux"))]
fn path() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Sets the process name to that of the program if it is `exe`, the name of the link by which the process was started.
#[cfg(all(feature = "cli", target_os = "linux"))]
pub(crate) fn restore_name() {
    const NAME: &str = "/proc/self/comm";

    let program = std::env::args_os().next().map(PathBuf::from);
    let name = program.as_deref().and_then(std::path::Path::file_name);
    if let (Some(name), Ok("exe\n")) = (name, std::fs::read_to_string(NAME).as_deref()) {
        // The name is only for display.
        let _ = std::fs::write(NAME, name.as_encoded_bytes());
    }
}

#[cfg(all(feature = "cli", not(target_os = "linux")))]
pub(crate) fn restore_name() {}
