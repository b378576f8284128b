//! Errors of observable state, and what to do about them.

use std::fmt::{self, Display};

use super::Value;
use super::json::key_text;
use crate::fence::Panic;
use crate::wire::MAX_SOMES;

/// Error returned when a state could not be published, read back or patched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A `Serialize` implementation failed, or produced something a [`Value`] cannot hold.
    #[error(
        "the state cannot be serialised{}: {reason}. Fix or `#[serde(skip)]` that field; \
         nothing was published",
        Place(path)
    )]
    Unserialisable {
        /// Dotted path of the field that failed, such as `layers.3.weights`; empty for the state itself.
        path: String,
        /// The error of the `Serialize` implementation.
        reason: String,
    },

    /// The state is larger than the limit.
    #[error(
        "the state is too large to publish: it takes more than {limit} bytes{}. Observable \
         state is meant to be small; put it in a Payload, or `#[serde(skip)]` it",
        Largest(field)
    )]
    TooLarge {
        /// Size in bytes when the walk stopped, which is a lower bound of the state's size.
        size: usize,
        /// The limit in bytes.
        limit: usize,
        /// The largest top-level field so far, with its size up to where the walk stopped; `None` if the state has no
        /// fields.
        field: Option<(String, usize)>,
    },

    /// A value does not have the shape of the type it was read as.
    #[error(
        "the value cannot be read as `{type_name}`{}: {reason}. Check that writer and reader \
         use the same version of this type",
        Place(path.as_deref().unwrap_or_default())
    )]
    Unreadable {
        /// The requested Rust type.
        type_name: &'static str,
        /// Dotted path of the part that did not fit, if known.
        path: Option<String>,
        /// Why the part did not fit.
        reason: String,
    },

    /// A patch was applied to a value that it was not made for.
    #[error(
        "the patch does not fit the value{}: {reason}. An earlier patch is missing or was \
         applied twice; start again from the whole value",
        Place(path)
    )]
    Mismatch {
        /// Dotted path of the part that did not fit; empty for the whole value.
        path: String,
        /// Why the part did not fit.
        reason: String,
    },
}

struct Place<'a>(&'a str);

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            path => write!(f, " at `{path}`"),
        }
    }
}

struct Largest<'a>(&'a Option<(String, usize)>);

impl Display for Largest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((name, size)) => {
                write!(f, ", of which the field `{name}` takes at least {size} bytes")
            }
            None => Ok(()),
        }
    }
}

/// Maximum number of path steps in a message.
const SHOWN_STEPS: usize = 16;

/// An error that collects its path while it is passed up from the field in which it occurred.
///
/// Boxed so that the results passed around while walking a state stay small.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    cause: Cause,
    /// Path steps, innermost first.
    path: Vec<String>,
}

#[derive(Debug)]
enum Cause {
    Message(String),
    TooLarge { size: usize, limit: usize, field: Option<(String, usize)> },
}

impl Fault {
    #[cold]
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self::from_cause(Cause::Message(reason.into()))
    }

    #[cold]
    pub(super) fn too_large(size: usize, limit: usize) -> Self {
        Self::from_cause(Cause::TooLarge { size, limit, field: None })
    }

    #[cold]
    pub(super) fn too_many_somes() -> Self {
        Self::new(format!("more than {MAX_SOMES} `Some`s are nested in each other"))
    }

    pub(super) fn repeated(key: &Value) -> Self {
        Self::new(format!("the key `{}` appears twice", key_text(key)))
    }

    /// Returns the fault of user code, named `code`, that panicked.
    #[cold]
    pub(super) fn panicked(code: &str, panic: &Panic) -> Self {
        Self::new(format!("its `{code}` panicked: {panic}"))
    }

    #[cold]
    pub(super) fn deep_key() -> Self {
        Self::new("the key of a map is nested in more than 4 levels")
    }

    fn from_cause(cause: Cause) -> Self {
        Self(Box::new(Inner { cause, path: Vec::new() }))
    }

    pub(super) fn at(mut self, step: impl Into<String>) -> Self {
        self.0.path.push(step.into());
        self
    }

    pub(super) fn at_key(self, key: &Value) -> Self {
        self.at(key_text(key))
    }

    /// Sets the largest child of the container that this fault is passing through. The outermost container is the
    /// last to call this, so its child is the one reported.
    pub(super) fn with_largest(mut self, find: impl FnOnce() -> Option<(String, usize)>) -> Self {
        if let Cause::TooLarge { field, .. } = &mut self.0.cause {
            *field = find();
        }
        self
    }

    fn split(self) -> (Cause, String) {
        let Inner { cause, mut path } = *self.0;
        path.reverse();
        if path.len() > SHOWN_STEPS {
            // The first steps of such a deep path are enough to find the field.
            path.truncate(SHOWN_STEPS);
            path.push("…".to_owned());
        }
        (cause, path.join("."))
    }

    pub(super) fn unserialisable(self) -> StateError {
        match self.split() {
            (Cause::Message(reason), path) => StateError::Unserialisable { path, reason },
            (Cause::TooLarge { size, limit, field }, _) => StateError::TooLarge { size, limit, field },
        }
    }

    pub(super) fn unreadable<T>(self) -> StateError {
        let (cause, path) = self.split();
        StateError::Unreadable {
            type_name: std::any::type_name::<T>(),
            path: (!path.is_empty()).then_some(path),
            reason: cause.to_string(),
        }
    }

    pub(super) fn mismatch(self) -> StateError {
        let (cause, path) = self.split();
        StateError::Mismatch { path, reason: cause.to_string() }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Message(reason) => f.write_str(reason),
            Cause::TooLarge { size, limit, .. } => write!(f, "{size} bytes, limit {limit}"),
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.cause.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<T: Display>(msg: T) -> Self {
        Self::new(msg.to_string())
    }
}

impl serde::de::Error for Fault {
    fn custom<T: Display>(msg: T) -> Self {
        Self::new(msg.to_string())
    }
}
