//! Errors that users' code returned.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::{self, Error};
use crate::fence::Fenced;

/// An error that a Work or Flow returned. A panic in its `Drop` is caught and logged.
#[derive(Clone)]
pub struct ReturnedError(Arc<Fenced<Error>>);

impl ReturnedError {
    pub(crate) fn new(error: impl Into<Error>) -> Self {
        Self(Arc::new(Fenced::new(error.into())))
    }

    /// Returns the first error of type `E` among the error, its contexts and its sources.
    pub fn downcast_ref<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        error::find(self)
    }
}

impl Deref for ReturnedError {
    type Target = Error;

    fn deref(&self) -> &Error {
        &self.0
    }
}

impl fmt::Debug for ReturnedError {
    /// Executes no code of the error, whose `Debug` may panic.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReturnedError")
    }
}

/// Equal if they are the same value.
impl PartialEq for ReturnedError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ReturnedError {}
