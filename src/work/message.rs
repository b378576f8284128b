//! Typed messages and what carries them.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::oneshot;

use super::mailbox::Closed;
use super::{Work, WorkContext};

/// What can be sent to a Work, and answered by it: any serde value that may change threads.
///
/// Implemented for every such type; there is nothing to write.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a message between Works",
    label = "not a message",
    note = "messages and replies may travel to other machines: derive `Serialize` and `Deserialize`, and use only `Send` and `'static` parts"
)]
pub trait Message: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Message for T {}

/// How a Work answers messages of type `M`.
///
/// ```
/// # use flowright::prelude::*;
/// #[derive(Serialize, Deserialize)]
/// struct Predict(f64);
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Server {
///     scale: f64,
/// }
///
/// impl Work for Server {
///     type Input = ();
///
///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
///         cx.serve_forever(self).await?;
///         Ok(())
///     }
/// }
///
/// impl Handle<Predict> for Server {
///     type Reply = f64;
///
///     async fn handle(&mut self, Predict(x): Predict, _cx: &mut WorkContext<Self>) -> f64 {
///         self.scale * x
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler for the message `{M}`",
    label = "this Work does not handle it",
    note = "write `impl Handle<{M}> for {Self} {{ type Reply = …; async fn handle(…) -> … }}`"
)]
pub trait Handle<M: Message>: Work {
    /// What the sender of an `ask` gets; `()` when there is nothing to say.
    type Reply: Message;

    /// Answers one message. Never at the same time as `run` or another handler of this Work: a busy `run` lets
    /// messages in at the points it chooses, see [`WorkContext::turn`].
    fn handle(&mut self, message: M, cx: &mut WorkContext<Self>) -> impl Future<Output = Self::Reply>;
}

/// A message of any type for a `W`.
pub(crate) type Envelope<W> = Box<dyn Deliver<W>>;

pub(crate) trait Deliver<W>: Send {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()>
    where
        W: Work;

    /// Ends the message undelivered; whether it is lost without anybody being told.
    fn refuse(self: Box<Self>, why: Closed) -> bool;

    /// The message itself, of the type that the sender knows.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

pub(crate) struct Told<M>(pub(crate) M);

impl<W: Handle<M>, M: Message> Deliver<W> for Told<M> {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            work.handle(self.0, cx).await;
        })
    }

    fn refuse(self: Box<Self>, _: Closed) -> bool {
        true
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

pub(crate) struct Asked<M, R> {
    pub(crate) message: M,
    pub(crate) reply: oneshot::Sender<Result<R, (M, Closed)>>,
}

impl<W: Handle<M>, M: Message> Deliver<W> for Asked<M, W::Reply> {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let Self { message, reply } = *self;
            // The asker may have given up; that is no matter of the handler's.
            let _ = reply.send(Ok(work.handle(message, cx).await));
        })
    }

    fn refuse(self: Box<Self>, why: Closed) -> bool {
        let _ = self.reply.send(Err((self.message, why)));
        false
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// A message was not sent. It comes back inside.
#[derive(Error)]
#[non_exhaustive]
pub enum SendError<M> {
    /// The mailbox is full. Trying again later is safe.
    #[error(
        "the mailbox of work `{path}` is full ({capacity} messages wait); wait for room with `tell(…).await`, \
         let the Work take turns more often, or give it a larger `.mailbox(…)`"
    )]
    Full {
        /// The Work.
        path: String,
        /// How many messages its mailbox holds.
        capacity: usize,
        /// What was not sent.
        message: M,
    },
    /// The Work is not running. Trying again is safe once it is started.
    #[error("work `{path}` {why}; messages reach it once it runs again")]
    Stopped {
        /// The Work.
        path: String,
        /// In what way it is not running.
        why: &'static str,
        /// What was not sent.
        message: M,
    },
    /// The address leads nowhere.
    #[error("work `{path}` is not of an App in this process, or is no longer part of it")]
    Unknown {
        /// The path in the address.
        path: String,
        /// What was not sent.
        message: M,
    },
}

impl<M> SendError<M> {
    /// The message that was not sent.
    pub fn into_message(self) -> M {
        match self {
            Self::Full { message, .. } | Self::Stopped { message, .. } | Self::Unknown { message, .. } => {
                message
            }
        }
    }

    pub(crate) fn closed(path: &str, why: Closed, message: M) -> Self {
        let why = match why {
            Closed::NotStarted => "has not started",
            Closed::Stopped => "was stopped",
            Closed::Failed => "has failed",
        };
        Self::Stopped { path: path.to_owned(), why, message }
    }
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({self})")
    }
}

/// A question was not answered.
#[derive(Error)]
#[non_exhaustive]
pub enum AskError<M> {
    /// It was not sent, or was still waiting when the Work stopped: no handler saw it, so that asking again is safe.
    #[error(transparent)]
    NotHandled(SendError<M>),
    /// No answer came in time. A handler may have seen the message, or may yet.
    #[error(
        "work `{path}` did not answer within {after:?}; it may be busy: let its `run` take turns, or ask with a longer deadline"
    )]
    Timeout {
        /// The Work.
        path: String,
        /// How long was waited.
        after: Duration,
    },
    /// The handler began and did not end: it panicked, or its Work was ended by force.
    #[error("work `{path}` failed while it handled the message")]
    Failed {
        /// The Work.
        path: String,
    },
}

impl<M> fmt::Debug for AskError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AskError({self})")
    }
}
