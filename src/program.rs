//! This program, to be started again.
//!
//! # Guarantees
//! - What is started is the very program that runs, also where its file was replaced, moved or removed since.
//! - It is shown by the same name (`argv[0]`, and the name of the process).

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Leads to the program of whichever process opens it, by its inode and not by its path.
#[cfg(target_os = "linux")]
const ITSELF: &str = "/proc/self/exe";

/// A command that starts this program again, without arguments.
pub(crate) fn this_program() -> io::Result<Command> {
    let mut command = Command::new(path()?);
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    Ok(command)
}

#[cfg(target_os = "linux")]
fn path() -> io::Result<PathBuf> {
    // Without `/proc` the other way fails as well.
    std::fs::metadata(ITSELF).map(|_| ITSELF.into())
}

#[cfg(not(target_os = "linux"))]
fn path() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Gives this process the name of its program, where it has that of the link by which it was started.
#[cfg(all(feature = "cli", target_os = "linux"))]
pub(crate) fn restore_name() {
    const NAME: &str = "/proc/self/comm";

    let program = std::env::args_os().next().map(PathBuf::from);
    let name = program.as_deref().and_then(std::path::Path::file_name);
    if let (Some(name), Ok("exe\n")) = (name, std::fs::read_to_string(NAME).as_deref()) {
        // Only what tools show depends on it.
        let _ = std::fs::write(NAME, name.as_encoded_bytes());
    }
}

#[cfg(all(feature = "cli", not(target_os = "linux")))]
pub(crate) fn restore_name() {}
