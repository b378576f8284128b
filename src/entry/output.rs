//! Output of a program that runs Works, and its exit codes.

use std::io::{self, Write};

use crate::app::AppError;
use crate::printable::{chain, lines};
#[cfg(feature = "remote")]
use crate::transport::TransportError;

/// The exit code for wrong usage.
pub(crate) const WRONG_USAGE: u8 = 2;

/// The exit code for a journal that needs a newer program: `EX_CONFIG` of `sysexits.h`.
#[cfg(feature = "journal")]
const NEWER_FORMAT: u8 = 78;

/// Prints a line to stdout. A reader that has closed the pipe is no error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{}", lines(line));
}

/// Prints a failure to stderr. Called as soon as it happens, while Works may still have to be stopped.
pub(crate) fn report(error: &AppError) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "ERROR: {}", lines(&chain(error)));
}

/// Returns the exit code for an error: 2 for wrong usage, 78 for a journal that needs a newer program, 1 for other
/// failures.
pub(crate) fn exit_code(error: &AppError) -> u8 {
    match error {
        AppError::UnknownPlace { .. }
        | AppError::NoNodes { .. }
        | AppError::NoHttpToken { .. }
        | AppError::Http(_) => WRONG_USAGE,
        #[cfg(feature = "remote")]
        AppError::Advertise { .. } | AppError::Bridge(TransportError::TlsIncomplete { .. }) => WRONG_USAGE,
        #[cfg(feature = "journal")]
        AppError::Journal(failure) if failure.is_newer_format() => NEWER_FORMAT,
        _ => 1,
    }
}
