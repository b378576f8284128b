//! Errors of the outputs of runs.

use thiserror::Error;

use crate::wire::CodecError;

/// Error of [`WorkContext::output`](super::WorkContext::output), and of [`Run::output`](crate::Run::output) for a run that
/// has succeeded. Found in an [`Error`](crate::Error) with `downcast_ref`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutputError {
    /// No run is in progress. An output belongs to a run: hooks and handlers outside of one have none.
    #[error("an output is set outside of a run; call `output` in `run`")]
    NoRun,
    /// The output does not serialise.
    #[error("the output of the run cannot be serialised: {error}")]
    Unserializable {
        /// The error of the encoding.
        error: CodecError,
    },
    /// The output is too large.
    #[error(
        "the output of the run has {size} bytes, and at most {limit} are kept; return a payload instead (`cx.payload`)"
    )]
    TooLarge {
        /// The size of the encoded output in bytes.
        size: usize,
        /// The largest size in bytes.
        limit: usize,
    },
    /// The run has succeeded without an output.
    #[error("a run of work `{work}` has succeeded and has set no output; call `cx.output(…)` in its `run`")]
    Missing {
        /// The path of the Work.
        work: String,
    },
    /// The output is not a value of the wanted type.
    #[error("the output of a run of work `{work}` is no `{wanted}`: {error}")]
    Unreadable {
        /// The path of the Work.
        work: String,
        /// The name of the wanted type.
        wanted: &'static str,
        /// The error of the decoding.
        error: CodecError,
    },
}
