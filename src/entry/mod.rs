//! Layer 7: an App as a program: signals, the log, exit codes, PID 1 of a container. The command line of the feature
//! `cli` is above this; without that feature `App::main` is here.
//!
//! # Guarantees
//! - The App ends in good order at the first Ctrl-C, SIGTERM or SIGHUP, and the process at once at the second.
//! - A failure is printed when it happens, and the exit code tells of it: 1, or 2 for wrong usage.

mod init;
mod log_lines;
#[cfg(not(feature = "cli"))]
mod main;
mod output;
mod run;
#[cfg(feature = "http")]
mod serve;
mod signals;

pub(crate) use self::init::run_as_init;
pub(crate) use self::log_lines::{LogLines, init_log};
pub(crate) use self::output::{WRONG_USAGE, exit_code, report, say};
pub(crate) use self::run::run;
#[cfg(feature = "http")]
pub(crate) use self::serve::serve;
pub(crate) use self::signals::{ONE_SIGNAL, Signals, catch, unblock};
