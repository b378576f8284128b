//! Layer 1: spans of `tracing`, which follow a change from the Work that published it, through the Flows that
//! reacted to it, to the runs that they requested, across processes.
//!
//! Without the feature `traces` all of this compiles to nothing: a [`Cause`] has no size, and no [`Span`] is created.

#[cfg(feature = "traces")]
mod export;
#[cfg(not(feature = "traces"))]
mod off;
#[cfg(feature = "traces")]
mod on;

#[cfg(feature = "traces")]
pub(crate) use self::export::export;
#[cfg(feature = "traces")]
pub use self::export::otlp_layer;
#[cfg(not(feature = "traces"))]
pub(crate) use self::off::{Cause, Span, export};
#[cfg(feature = "traces")]
pub(crate) use self::on::{Cause, Span};

/// The operation that a span represents.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "traces"), allow(dead_code, reason = "spans are not recorded without the feature"))]
pub(crate) enum What {
    /// A run of a Work, with the number of its attempt.
    Run { run: u64, attempt: u32 },
    /// A state published by a Work.
    Publish,
    /// A reaction of a Flow.
    React,
    /// The handling of a message, with its type.
    Message { name: &'static str },
}
