//! Replies that are sent after their handler has returned.
//!
//! # Guarantees
//! - The caller is told once: by [`ReplySender::send`], or when the sender is dropped.
//! - An ask without a deferred reply costs nothing for it: a caller is taken out of the record of the executing Work only
//!   when its handler defers the reply.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::task::Poll;

use super::caller::AnswerTo;
use super::executing::take_caller;
use crate::fence::Fenced;

/// The reply of a handler that answers later, made by [`WorkContext::defer`](crate::WorkContext::defer) together with
/// the [`ReplySender`] for it.
///
/// An `ask` yields the `T` that is sent, not the `Deferred<T>`.
#[must_use = "a handler returns it as its reply"]
pub struct Deferred<T>(PhantomData<fn(T)>);

impl<T> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}

/// The way to the caller of an `ask` whose reply was [deferred](crate::WorkContext::defer). It can be kept in a private
/// field of the Work, or moved to another task or thread.
///
/// Dropped without a reply, the caller gets [`AskError::Failed`](crate::AskError::Failed). That includes the end of the
/// incarnation that keeps it; one that was moved elsewhere can still send.
#[must_use = "the caller waits until a reply is sent, and gets an error if this is dropped"]
pub struct ReplySender<T: 'static> {
    /// `None` for a message without a caller.
    caller: Option<Box<dyn AnswerTo<T>>>,
}

impl<T: 'static> ReplySender<T> {
    /// Creates the way to a caller whose message no handler gets.
    pub(super) fn to(caller: Option<Box<dyn AnswerTo<T>>>) -> Self {
        Self { caller }
    }

    /// Sends the reply. That of a `tell`, or to a caller that has given up, is dropped.
    ///
    /// For a caller in another process the reply is encoded on the calling thread. If it cannot be sent there, the caller
    /// gets [`AskError::ReplyNotSent`](crate::AskError::ReplyNotSent), as for every other reply.
    pub fn send(mut self, reply: T) {
        // Dropping it is code of the user.
        let reply = Fenced::new(reply);
        if let Some(caller) = self.caller.take() {
            caller.answer(reply);
        }
    }

    /// Returns true while somebody waits for the reply, as [`WorkContext::caller_waits`](crate::WorkContext::caller_waits)
    /// does for the handler. For a `tell` it is always true.
    pub fn caller_waits(&self) -> bool {
        self.caller.as_ref().is_none_or(|caller| !caller.is_gone())
    }

    /// Waits until nobody waits for the reply any more. For a `tell` it waits forever.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn caller_gone(&mut self) {
        poll_fn(|cx| match &mut self.caller {
            Some(caller) => caller.poll_gone(cx),
            None => Poll::Pending,
        })
        .await;
    }
}

impl<T: 'static> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if let Some(caller) = self.caller.take() {
            caller.reply_dropped();
        }
    }
}

impl<T: 'static> fmt::Debug for ReplySender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplySender").field("caller_waits", &self.caller_waits()).finish()
    }
}

/// Defers the reply of the handler that is executing on this thread.
pub(super) fn defer<T: 'static>() -> (Deferred<T>, ReplySender<T>) {
    (Deferred(PhantomData), ReplySender { caller: take_caller() })
}
