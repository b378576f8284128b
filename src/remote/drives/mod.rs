//! The head's drives, as used by other processes.
//!
//! # Guarantees
//! - Files travel over connections of their own, in frames, one file at a time, so that no message waits behind them.
//! - A broken connection is dialed again within the grace period. A read resumes at its offset if the file is still the
//!   same version; a put starts over. An operation that is not idempotent is not repeated once it was requested.

mod head;
mod node;
mod protocol;

pub(super) use self::head::serve_drive;
pub(super) use self::node::DrivesOfHead;
#[cfg(fuzzing)]
pub(super) use self::node::hear;
#[cfg(fuzzing)]
pub(super) use self::protocol::{DriveRequest, Part};
