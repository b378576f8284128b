//! The result of `react`.

use std::error::Error as StdError;

use crate::error::Error;

/// The result of [`Flow::react`](crate::Flow::react).
pub type Reaction = Result<(), Interrupt>;

/// Reason why `react` returned early. `?` converts any error into [`Interrupt::Failed`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Interrupt {
    /// A run that the Flow waits for has not finished; `react` is called again when it may have. Not a failure.
    Pending,
    /// The Flow has failed with this error.
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
