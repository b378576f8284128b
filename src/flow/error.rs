//! Errors of a Flow and of its children.

use thiserror::Error;

use super::schedule::ScheduleError;
use crate::state::StateError;
use crate::wire::CodecError;
use crate::work::{Reason, ReturnedError};

/// Error with which a Flow fails.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// A Work failed after its last restart, and its [`OnError`](crate::OnError) is `Raise`.
    #[error("work `{path}` failed ({reason}): {message}")]
    Work {
        /// Path of the Work.
        path: String,
        /// Reason of the failure.
        reason: Reason,
        /// The error with its whole chain of causes.
        message: String,
        /// The error that the Work returned, if it returned one in the process of the App.
        error: Option<ReturnedError>,
    },
    /// A child Flow failed.
    #[error("flow `{path}` failed")]
    Flow {
        /// Path of the child.
        path: String,
        /// Failure of the child.
        #[source]
        source: Box<FlowError>,
    },
    /// `react` returned an error.
    #[error("`react` of flow `{path}` returned an error: {message}")]
    React {
        /// Path of the Flow.
        path: String,
        /// The error with its whole chain of causes.
        message: String,
        /// The error that was returned.
        error: ReturnedError,
    },
    /// The Flow's code panicked.
    #[error("`{code}` of flow `{path}` panicked: {message}")]
    Panicked {
        /// Path of the Flow.
        path: String,
        /// The code: `react`, `strategy`, `Drop`, or the search for children.
        code: &'static str,
        /// Message of the panic.
        message: String,
    },
    /// [`FlowContext::fail`](crate::FlowContext::fail) was called.
    #[error("{message}")]
    Deliberate {
        /// The error with its whole chain of causes.
        message: String,
        /// The error that was given to `fail`.
        error: ReturnedError,
    },
    /// The restarts of the Flow's children exceeded the limit of its strategy.
    #[error(
        "flow `{path}`: more than {max} restarts of its children within {within:?}, the last of work `{last}`; \
         the limit is that of its `strategy`"
    )]
    TooManyRestarts {
        /// Path of the Flow.
        path: String,
        /// The largest number of restarts within the window.
        max: u32,
        /// Length of the window.
        within: std::time::Duration,
        /// Path of the child whose restart exceeded the limit.
        last: String,
    },
    /// A Work was used before it had joined the App's tree.
    #[error(
        "a `WorkRef<{type_name}>` was used that is not part of the App yet: keep it in a field of the Flow that \
         `#[derive(Children)]` finds (a `WorkRef`, or an `Option`, `Vec`, `HashMap` or `BTreeMap` of them); \
         what `react` adds can be used from the next reaction on"
    )]
    Unattached {
        /// Type of the Work.
        type_name: &'static str,
    },
    /// A Flow commanded a Work that belongs to another Flow.
    #[error(
        "flow `{flow}` cannot {verb} work `{work}`, which belongs to flow `{owner}`: only its own Flow commands \
         a Work; set a field of that Flow and let its `react` do it, or send the Work a message"
    )]
    Foreign {
        /// Path of the Flow that gave the command.
        flow: String,
        /// The command.
        verb: &'static str,
        /// Path of the Work.
        work: String,
        /// Path of the Flow that owns the Work.
        owner: String,
    },
    /// The input of a run cannot be serialised.
    #[error("the input of a run of work `{path}` cannot be serialised")]
    Input {
        /// Path of the Work.
        path: String,
        /// Error of the encoder.
        #[source]
        source: CodecError,
    },
    /// The initial state of a Work cannot be serialised or is too large.
    #[error("the initial state of work `{path}` cannot be used")]
    InitialState {
        /// Path of the Work.
        path: String,
        /// Error of the state.
        #[source]
        source: StateError,
    },
    /// The published state of a Work cannot be decoded as its type.
    #[error("the state of work `{path}` cannot be decoded")]
    Unreadable {
        /// Path of the Work.
        path: String,
        /// Error of the decoder.
        #[source]
        source: StateError,
    },
    /// The Flow's own state cannot be serialised.
    #[error("the state of flow `{path}` cannot be serialised")]
    OwnState {
        /// Path of the Flow.
        path: String,
        /// Error of the encoder.
        #[source]
        source: StateError,
    },
    /// Two children have the same path.
    #[error(
        "two children are called `{path}`: a child keeps the name it was given first, also when it is moved; remove one"
    )]
    DuplicateName {
        /// The path.
        path: String,
    },
    /// The key of a map cannot be part of a path.
    #[error(
        "the map `{group}` has a child under the key {key:?}: a key must not be empty or have a `.` in it"
    )]
    BadKey {
        /// Path of the map.
        group: String,
        /// The key.
        key: String,
    },
    /// A schedule expression is invalid, never occurs, or has an unknown time zone.
    #[error("a schedule of flow `{path}` cannot be used")]
    Schedule {
        /// Path of the Flow.
        path: String,
        /// Error of the schedule.
        #[source]
        source: ScheduleError,
    },
    /// A Work could not be started.
    #[error("{0}")]
    Host(String),
}

impl FlowError {
    /// Returns the error that users' code returned in this process, here or in a child Flow.
    pub(crate) fn returned(&self) -> Option<&ReturnedError> {
        match self {
            Self::Work { error, .. } => error.as_ref(),
            Self::React { error, .. } | Self::Deliberate { error, .. } => Some(error),
            Self::Flow { source, .. } => source.returned(),
            _ => None,
        }
    }
}
