//! Layer 1: spans of OpenTelemetry, which follow a change from the Work that published it by way of the Flows that reacted
//! to the runs that they asked for, wherever those are.
//!
//! All of it is nothing without the feature `traces`: a [`Cause`] then has no size and no [`Span`] is ever made.

#[cfg(feature = "traces")]
mod export;
#[cfg(not(feature = "traces"))]
mod off;
#[cfg(feature = "traces")]
mod on;

#[cfg(feature = "traces")]
pub(crate) use self::export::export;
#[cfg(not(feature = "traces"))]
pub(crate) use self::off::{Cause, Span, export};
#[cfg(feature = "traces")]
pub(crate) use self::on::{Cause, Span};

/// What a span is of.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "traces"), allow(dead_code, reason = "nobody asks"))]
pub(crate) enum What {
    /// A run of a Work, and which try of it.
    Run { run: u64, attempt: u32 },
    /// A state that a Work has published.
    Publish,
    /// A reaction of a Flow.
    React,
    /// A message that is handled, and its type.
    Message { name: &'static str },
}
