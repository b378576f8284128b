//! How `react` ends.

use std::error::Error as StdError;

use crate::error::Error;

/// What `react` returns.
pub type Reaction = Result<(), Interrupt>;

/// Why `react` was left early. `?` makes one from any error.
#[derive(Debug)]
pub enum Interrupt {
    /// Something that was waited for is not done yet; `react` is called again when it may be. Not an error.
    Pending,
    /// The Flow has failed.
    Failed(Error),
}

impl<E: StdError + Send + Sync + 'static> From<E> for Interrupt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Error> for Interrupt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
