//! Errors of steps.

use thiserror::Error;

use crate::wire::CodecError;

/// Error of [`WorkContext::step`](super::WorkContext::step) and [`WorkContext::once`](super::WorkContext::once), beside
/// the errors of the action itself, which are returned as they are. Found in an [`Error`](crate::Error) with
/// `downcast_ref`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StepError {
    /// No run is in progress. Steps belong to a run: they are not available in hooks and handlers outside of one.
    #[error("step `{name}` is outside of a run; call it in `run`, which owns what is remembered")]
    NoRun {
        /// The name of the step.
        name: String,
    },
    /// The name of the step is too long.
    #[error(
        "the name of a step has {length} bytes, and at most {limit} are allowed; pass details as its arguments"
    )]
    NameTooLong {
        /// The length of the name in bytes.
        length: usize,
        /// The largest length in bytes.
        limit: usize,
    },
    /// The arguments do not serialise.
    #[error("the arguments of step `{name}` cannot identify it: {error}")]
    Args {
        /// The name of the step.
        name: String,
        /// The error of the encoding.
        error: CodecError,
    },
    /// The value does not serialise, or what is remembered cannot be read as the wanted type, because the type has
    /// changed since, or because its `Serialize` and `Deserialize` do not match.
    #[error("the value of step `{name}` cannot be remembered: {error}")]
    Value {
        /// The name of the step.
        name: String,
        /// The error of the encoding.
        error: CodecError,
    },
    /// The value is too large. The action was carried out, and its value is not remembered.
    #[error(
        "the value of step `{name}` has {size} bytes, and at most {limit} are remembered; return a payload instead \
         (`cx.payload`)"
    )]
    TooLarge {
        /// The name of the step.
        name: String,
        /// The size of the encoded value in bytes.
        size: usize,
        /// The largest size in bytes.
        limit: usize,
    },
    /// The run remembers too much already. If there are too many steps, the action was not begun.
    #[error(
        "the run of step `{name}` remembers {limit} already, which is the limit; put several into one step, or divide \
         the run"
    )]
    TooMany {
        /// The name of the step.
        name: String,
        /// The limit that is reached.
        limit: String,
    },
    /// The step was called within its own action, for whose end it would wait.
    #[error(
        "step `{name}` is called within itself and would wait for its own end; give the inner one another name"
    )]
    Nested {
        /// The name of the step.
        name: String,
    },
    /// An attempt before has intended the action and has not recorded its outcome, and the action is not to be repeated
    /// ([`InDoubt::Fail`](crate::InDoubt::Fail)).
    #[error(
        "it is in doubt whether `{name}` was carried out: an attempt before has intended it with the key `{key}` and \
         has no outcome; look the key up where the action has its effect"
    )]
    InDoubt {
        /// The name of the action.
        name: String,
        /// The idempotency key that the action was given.
        key: String,
    },
}
