//! Layer 0: the error type of users' code. It is the one of `anyhow`, under the names by which this crate exports it.

pub use anyhow::{Context, Error, Result, anyhow, bail, ensure};

/// Returns the first error of type `E` in the chain of an error, or a context of that type. Unlike
/// [`Error::downcast_ref`], it finds errors that are sources of others. Executes users' code (`source`).
pub(crate) fn find<E: std::error::Error + Send + Sync + 'static>(error: &Error) -> Option<&E> {
    error.downcast_ref().or_else(|| error.chain().find_map(|error| error.downcast_ref()))
}
