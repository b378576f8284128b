//! Errors of a tree that cannot be restored from its record.

use thiserror::Error;

use super::own_fields::FieldError;
use super::work_state::WorkStateError;
use crate::id::ActorPath;

/// Error returned for one part of the tree that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum RestoreError {
    /// An own field of a Flow cannot be restored.
    #[error("flow `{path}` cannot be restored")]
    Flow { path: ActorPath, source: FieldError },
    /// The state of a Work cannot be restored.
    #[error("work `{path}` cannot be restored")]
    Work { path: ActorPath, source: WorkStateError },
    /// A field that holds children has another type than when it was recorded.
    #[error(
        "the children in `{field}` cannot be restored: {recorded} was recorded, and the program has {expected} there; give \
         the field another name, so that its recorded children are parked"
    )]
    Shape {
        /// Path of the field.
        field: String,
        recorded: &'static str,
        expected: &'static str,
    },
    /// An actor was a Work and is a Flow, or the reverse.
    #[error("`{path}` was recorded as {recorded} and is {expected} in the program: give it another name")]
    Kind { path: ActorPath, recorded: &'static str, expected: &'static str },
    /// A recorded key is no key of the map any more.
    #[error(
        "the map `{field}` cannot be restored: {key:?} was recorded as a key, and cannot be read as the type of its keys"
    )]
    Key {
        /// Path of the map.
        field: String,
        key: String,
    },
    /// A field names a child of which nothing is recorded.
    #[error(
        "nothing is recorded of `{path}`, which is recorded as a child: the record is damaged; see `journal check`"
    )]
    Unrecorded { path: ActorPath },
    /// A child is recorded in two fields.
    #[error("`{path}` is recorded as a child in two places: the record is damaged; see `journal check`")]
    Repeated { path: ActorPath },
    /// Code of the program panicked.
    #[error("code of flow `{path}` panicked while the flow was restored: {message}")]
    Panicked { path: ActorPath, message: String },
}

/// A recorded field that the program does not have any more. Its value is not restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemovedField {
    /// The Work or Flow.
    pub(crate) path: ActorPath,
    /// Serialised name of the field.
    pub(crate) field: String,
}

/// A field of the program that was not recorded under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewField {
    /// The Work or Flow.
    pub(crate) path: ActorPath,
    /// Serialised name of the field.
    pub(crate) field: String,
    /// The name under which the field was recorded; `None` if it was not, and has its default.
    pub(crate) recorded: Option<String>,
}

/// Differences between the record and the restored tree that are no errors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Restored {
    pub(crate) removed_fields: Vec<RemovedField>,
    pub(crate) new_fields: Vec<NewField>,
    /// The recorded Works and Flows that no field of the program holds, in the order of their paths.
    pub(crate) unused: Vec<ActorPath>,
}
