//! Drives at the head, as other processes use them.
//!
//! # Guarantees
//! - Files go over connections of their own, in frames, one at a time: no message waits behind them.
//! - A connection that breaks is made again within the grace period. What was being read goes on where it was, if it is still the same
//!   file; what was being put is put from the beginning. What must not be done twice is not tried again once it was asked for.

mod head;
mod node;
mod protocol;

pub(super) use self::node::DrivesOfHead;
#[cfg(fuzzing)]
pub(super) use self::node::hear;
#[cfg(fuzzing)]
pub(super) use self::protocol::{DriveRequest, Part};
