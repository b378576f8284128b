//! The result of `react`.

use std::error::Error as StdError;
use std::fmt;

use crate::error::{self, Error};
use crate::fence;

/// The result of [`Flow::react`](crate::Flow::react). An error fails the Flow, except for [`Pending`].
pub type Reaction = crate::error::Result<()>;

/// Error returned while a run that the Flow waits for has not finished. Passed on by `?`, it ends the reaction early
/// and is not a failure, even with context or inside an error of the user that has it as its source or is transparent
/// to it: `react` is called again when the run may have finished.
///
/// With `RUST_BACKTRACE=1` each conversion into an [`Error`] captures a backtrace, which takes about 20 µs instead of
/// 0.1 µs; with `RUST_LIB_BACKTRACE=0` beside it, only panics have backtraces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending;

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a run that the Flow waits for has not finished")
    }
}

impl StdError for Pending {
    /// Returns `Awaited`, which remains in the chain of an error that is transparent to this one.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&Awaited)
    }
}

/// The source of [`Pending`]. A transparent error forwards `source` to the inner error and so omits the inner error
/// itself from its chain; a transparent [`Pending`] is recognised by this type instead.
#[derive(Debug, thiserror::Error)]
#[error("the Flow reacts again when it may have")]
struct Awaited;

/// Returns true if an error is a [`Pending`] that was passed on.
pub(crate) fn is_pending(error: &Error) -> bool {
    let is_passed_on = || error::find::<Pending>(error).is_some() || error::find::<Awaited>(error).is_some();
    // `source` is a user's code.
    fence::call(is_passed_on).unwrap_or(false)
}
