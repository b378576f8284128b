//! Transfers of values: pulls by this process, and serving the pulls of others.
//!
//! # Guarantees
//! - Values travel over connections of their own, so that no message waits behind them, and directly from a process
//!   that has them.
//! - A broken pull resumes at its offset, from the same source or another. A source that does not have the value, or
//!   sends something else, is not asked again.
//! - A value counts as present in a process only once the values that it refers to are held for that process.
//! - A pull for which no reader waits any more ends.
//! - A limited number of large values is served concurrently; further requests are served in order.

mod ask;
mod candidates;
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
pub(super) use self::nested::tell_nested;
pub(super) use self::serve::serve_pulls;
pub(super) use self::small::small;
