//! Values inside errors, for their senders.

use std::any::type_name;
use std::fmt;

use sync_wrapper::SyncWrapper;

/// A message inside a [`SendError`](crate::SendError). It gives access to the message by value alone, so that it is [`Sync`] whatever the
/// message is, and `?` converts the error into [`Error`](crate::Error).
pub struct Unsent<M>(SyncWrapper<M>);

impl<M> Unsent<M> {
    pub(crate) fn new(message: M) -> Self {
        Self(SyncWrapper::new(message))
    }

    /// Returns the message.
    #[must_use = "the message was not sent"]
    pub fn into_inner(self) -> M {
        self.0.into_inner()
    }
}

impl<M> fmt::Debug for Unsent<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsent<{}>", type_name::<M>())
    }
}
