//! Values that this process pulls, and those that others pull from it.
//!
//! # Guarantees
//! - Values go over connections of their own, so that no message waits behind them, and straight from a process that has
//!   them.
//! - What breaks is resumed from where it was, at the same source or another; a source that has not got the value, or sends
//!   something else, is asked no more.
//! - A value is here no sooner than the values that it refers to are held for this process.
//! - A pull that nobody waits for any more ends.
//! - Few large values are served at once, the others in the order in which they were asked for.

mod ask;
mod large;
mod nested;
mod serve;
mod small;
mod sources;

#[cfg(fuzzing)]
pub(super) use self::ask::ask;
#[cfg(fuzzing)]
pub(super) use self::ask::{PullRequest, PullResponse};
pub(super) use self::large::open;
pub(super) use self::nested::{NestedQuestions, tell_nested};
pub(super) use self::small::{Idle, small};
