//! What a Flow can do wrong, and what can go wrong below it.

use thiserror::Error;

use super::schedule::ScheduleError;
use crate::state::StateError;
use crate::wire::CodecError;
use crate::work::Reason;

/// A Flow failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// A Work failed for good, and its [`OnError`](crate::OnError) is `Raise`.
    #[error("work `{path}` failed ({reason}): {message}")]
    Work {
        /// The Work.
        path: String,
        /// In what way.
        reason: Reason,
        /// The whole error chain.
        message: String,
    },
    /// A child Flow failed.
    #[error("flow `{path}` failed")]
    Flow {
        /// The child.
        path: String,
        /// Its failure.
        #[source]
        source: Box<FlowError>,
    },
    /// `react` returned an error.
    #[error("`react` of flow `{path}` returned an error: {message}")]
    React {
        /// The Flow.
        path: String,
        /// The whole error chain.
        message: String,
    },
    /// Code of the Flow's panicked.
    #[error("`{code}` of flow `{path}` panicked: {message}")]
    Panicked {
        /// The Flow.
        path: String,
        /// The code: `react`, `strategy`, `Drop`, or the search for children.
        code: &'static str,
        /// What the panic said.
        message: String,
    },
    /// `cx.fail(…)` was called.
    #[error("{0}")]
    Deliberate(String),
    /// More restarts of children than the Flow's strategy bears.
    #[error(
        "flow `{path}`: more than {max} restarts of its children within {within:?}, the last of work `{last}`; \
         the limit is that of its `strategy`"
    )]
    TooManyRestarts {
        /// The Flow.
        path: String,
        /// The limit.
        max: u32,
        /// The window.
        within: std::time::Duration,
        /// The child whose restart was one too many.
        last: String,
    },
    /// A Work was used before it was part of the App's tree.
    #[error(
        "a `WorkRef<{type_name}>` was used that is not part of the App yet: keep it in a field of the Flow that \
         `#[derive(Children)]` finds (a `WorkRef`, or an `Option`, `Vec`, `HashMap` or `BTreeMap` of them); \
         what `react` adds can be used from the next reaction on"
    )]
    Unattached {
        /// The Work's type.
        type_name: &'static str,
    },
    /// A Flow used a Work that belongs to another Flow.
    #[error(
        "flow `{flow}` cannot {verb} work `{work}`, which belongs to flow `{owner}`: only its own Flow commands \
         a Work; set a field of that Flow and let its `react` do it, or send the Work a message"
    )]
    Foreign {
        /// The Flow that tried.
        flow: String,
        /// What it tried.
        verb: &'static str,
        /// The Work.
        work: String,
        /// The Flow that the Work belongs to.
        owner: String,
    },
    /// The input of a run does not serialise.
    #[error("the input of a run of work `{path}` cannot be sent")]
    Input {
        /// The Work.
        path: String,
        /// What the encoder said.
        #[source]
        source: CodecError,
    },
    /// The initial state of a Work does not serialise or is too large.
    #[error("the initial state of work `{path}` cannot be used")]
    InitialState {
        /// The Work.
        path: String,
        /// What is wrong with it.
        #[source]
        source: StateError,
    },
    /// What a Work published cannot be read back as its type.
    #[error("the state of work `{path}` cannot be read")]
    Unreadable {
        /// The Work.
        path: String,
        /// What is wrong with it.
        #[source]
        source: StateError,
    },
    /// The Flow's own state does not serialise.
    #[error("the state of flow `{path}` cannot be serialised")]
    OwnState {
        /// The Flow.
        path: String,
        /// What is wrong with it.
        #[source]
        source: StateError,
    },
    /// Two children would have one name.
    #[error(
        "two children are called `{path}`: a child keeps the name it was given first, also when it is moved; remove one"
    )]
    DuplicateName {
        /// The name.
        path: String,
    },
    /// A map's key cannot be part of a path.
    #[error(
        "the map `{group}` has a child under the key {key:?}: a key must not be empty or have a `.` in it"
    )]
    BadKey {
        /// The map.
        group: String,
        /// The key.
        key: String,
    },
    /// A schedule expression says no times.
    #[error("a schedule of flow `{path}` cannot be used")]
    Schedule {
        /// The Flow.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ScheduleError,
    },
    /// A Work could not be started.
    #[error("{0}")]
    Host(String),
}
