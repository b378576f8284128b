//! Typed messages and what carries them.

use std::any::{Any, type_name};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::LocalBoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::oneshot;

use super::actor::Handling;
use super::mailbox::CloseReason;
use super::route::Origin;
use super::{Work, WorkContext};
use crate::fence::Fenced;
use crate::id::ActorPath;
use crate::payload::{self, PayloadGuards};
use crate::trace::{Cause, Span, What};
use crate::wire::{self, CodecError};

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
    ///
    /// Handlers do not nest: while one waits, for whatever, no other message of its Work is handled. A handler that asks a Work whose
    /// handler asks back waits until the deadline, and is told so by [`AskError::Timeout`].
    fn handle(&mut self, message: M, cx: &mut WorkContext<Self>) -> impl Future<Output = Self::Reply>;
}

/// A message of any type for a `W`.
pub(crate) type Envelope<W> = Box<dyn Deliver<W>>;

pub(crate) trait Deliver<W>: AnyEnvelope {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()>
    where
        W: Work;
}

/// A message of any type for a Work of any type, as whoever carries it sees it.
pub(crate) trait AnyEnvelope: Send {
    /// The name of the message's type.
    fn name(&self) -> &'static str;

    /// Appends the message encoded.
    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError>;

    /// Whether an answer is waited for.
    fn is_question(&self) -> bool;

    /// Whether its asker waits for an answer no more. No handler is to begin it then.
    fn is_abandoned(&self) -> bool {
        false
    }

    /// What its sender was doing.
    fn cause(&self) -> Cause;

    /// Tells the sender what came of it; whether it is lost without anybody being told.
    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool;

    /// The message itself, of the type that the sender knows.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;

    /// The same as an [`Envelope`] for the type of Work that it is for.
    fn into_envelope(self: Box<Self>) -> Box<dyn Any>;

    /// The session that it came by, when it came from another process.
    fn session(&self) -> Option<u64> {
        None
    }
}

/// What came of a message.
pub(crate) enum Outcome<'a> {
    /// The handler's answer, encoded, and what keeps the payloads in it alive.
    Answered(&'a [u8], PayloadGuards),
    /// No handler saw it.
    Refused(CloseReason),
    /// The handler began and did not end.
    Failed,
    /// The handler ended, and its answer could not be sent, for this reason.
    ReplyNotSent(String),
    /// The node that had it is lost; a handler may have seen it.
    NodeLost,
    /// The Work's process cannot take it, for this reason; no handler saw it.
    Unreadable(String),
    /// The Work is not here any more: a message from another process goes back there. No handler saw it.
    Moved,
}

/// Where an answer that leaves this process goes. Dropped unused, it says that the handler failed.
pub(crate) trait Reply: Send {
    fn send(self: Box<Self>, outcome: Outcome<'_>);

    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;
}

pub(crate) struct TellEnvelope<W, M> {
    message: Fenced<M>,
    cause: Cause,
    /// Where it came from, when that is another process.
    origin: Option<Arc<dyn Origin>>,
    work: PhantomData<fn(W)>,
}

impl<W: Handle<M>, M: Message> TellEnvelope<W, M> {
    pub(crate) fn new(message: M) -> Box<Self> {
        let message = Fenced::new(message);
        Box::new(Self { message, cause: Cause::current(), origin: None, work: PhantomData })
    }

    /// One that has come from another process, or has come back from there when it has no `origin`.
    pub(super) fn arrived(message: M, cause: Cause, origin: Option<Arc<dyn Origin>>) -> Box<Self> {
        Box::new(Self { message: Fenced::new(message), cause, origin, work: PhantomData })
    }

    pub(crate) fn into_message(self) -> M {
        self.message.into_inner()
    }
}

impl<W: Handle<M>, M: Message> AnyEnvelope for TellEnvelope<W, M> {
    fn name(&self) -> &'static str {
        type_name::<M>()
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        wire::encode_into(&*self.message, out)
    }

    fn is_question(&self) -> bool {
        false
    }

    fn cause(&self) -> Cause {
        self.cause.clone()
    }

    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool {
        match (outcome, &self.origin) {
            (Outcome::Answered(..), _) => false,
            (Outcome::Moved, Some(origin)) => {
                origin.give_back(&mut |out| self.write(out), self.cause.clone());
                false
            }
            _ => true,
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn into_envelope(self: Box<Self>) -> Box<dyn Any> {
        let envelope: Envelope<W> = self;
        Box::new(envelope)
    }

    fn session(&self) -> Option<u64> {
        self.origin.as_ref().map(|origin| origin.session())
    }
}

impl<W: Handle<M>, M: Message> Deliver<W> for TellEnvelope<W, M> {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let _handling = Handling::begin();
            let Self { message, cause, origin, .. } = *self;
            drop(origin);
            let span = span::<M>(cx.path(), &cause);
            span.around(work.handle(message.into_inner(), cx)).await;
        })
    }
}

/// Leads to what the sender was doing, where that was part of a trace; no other message begins a span.
fn span<M>(path: &ActorPath, cause: &Cause) -> Span {
    Span::start_if_caused(What::Message { name: type_name::<M>() }, path.as_str(), cause)
}

/// Why there is no answer, as the asker is told.
pub(crate) enum NoAnswer<M> {
    Refused(Fenced<M>, CloseReason),
    NodeLost,
    Unreadable(Fenced<M>, String),
    /// The handler ended, and its answer could not be sent, for this reason.
    ReplyNotSent(String),
    /// The answer came and is no such answer.
    BadReply(CodecError),
}

/// The answer to a question, or why there is none, on its way to the asker.
pub(crate) type Answer<W, M> = Result<Fenced<<W as Handle<M>>::Reply>, NoAnswer<M>>;

pub(crate) struct AskEnvelope<W: Handle<M>, M: Message> {
    message: Fenced<M>,
    cause: Cause,
    reply: oneshot::Sender<Answer<W, M>>,
}

impl<W: Handle<M>, M: Message> AskEnvelope<W, M> {
    pub(crate) fn new(message: M, reply: oneshot::Sender<Answer<W, M>>) -> Box<Self> {
        Box::new(Self { message: Fenced::new(message), cause: Cause::current(), reply })
    }

    pub(crate) fn into_message(self) -> M {
        self.message.into_inner()
    }
}

impl<W: Handle<M>, M: Message> AnyEnvelope for AskEnvelope<W, M> {
    fn name(&self) -> &'static str {
        type_name::<M>()
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        wire::encode_into(&*self.message, out)
    }

    fn is_question(&self) -> bool {
        true
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn cause(&self) -> Cause {
        self.cause.clone()
    }

    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool {
        let Self { message, reply, .. } = *self;
        let answer = match outcome {
            Outcome::Answered(bytes, _holds) => {
                wire::decode(bytes).map(Fenced::new).map_err(NoAnswer::BadReply)
            }
            Outcome::Refused(why) => Err(NoAnswer::Refused(message, why)),
            // One that comes back is sent again by whoever has it, and never settled with this.
            Outcome::Moved => Err(NoAnswer::Refused(message, CloseReason::NotStarted)),
            Outcome::NodeLost => Err(NoAnswer::NodeLost),
            Outcome::Unreadable(why) => Err(NoAnswer::Unreadable(message, why)),
            Outcome::ReplyNotSent(why) => Err(NoAnswer::ReplyNotSent(why)),
            // The asker takes silence for that.
            Outcome::Failed => return false,
        };
        // The asker may have given up; that is no matter of the handler's.
        let _ = reply.send(answer);
        false
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn into_envelope(self: Box<Self>) -> Box<dyn Any> {
        let envelope: Envelope<W> = self;
        Box::new(envelope)
    }
}

impl<W: Handle<M>, M: Message> Deliver<W> for AskEnvelope<W, M> {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let _handling = Handling::begin();
            let Self { message, cause, reply } = *self;
            let span = span::<M>(cx.path(), &cause);
            let answer = span.around(work.handle(message.into_inner(), cx)).await;
            // The asker may have given up.
            let _ = reply.send(Ok(Fenced::new(answer)));
        })
    }
}

/// A question from another process.
pub(super) struct RemoteAskEnvelope<W, M> {
    message: Fenced<M>,
    cause: Cause,
    reply: Box<dyn Reply>,
    origin: Arc<dyn Origin>,
    work: PhantomData<fn(W)>,
}

impl<W: Handle<M>, M: Message> RemoteAskEnvelope<W, M> {
    pub(super) fn arrived(
        message: M,
        cause: Cause,
        reply: Box<dyn Reply>,
        origin: Arc<dyn Origin>,
    ) -> Box<Self> {
        Box::new(Self { message: Fenced::new(message), cause, reply, origin, work: PhantomData })
    }
}

impl<W: Handle<M>, M: Message> AnyEnvelope for RemoteAskEnvelope<W, M> {
    fn name(&self) -> &'static str {
        type_name::<M>()
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        wire::encode_into(&*self.message, out)
    }

    fn is_question(&self) -> bool {
        true
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    fn cause(&self) -> Cause {
        self.cause.clone()
    }

    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool {
        self.reply.send(outcome);
        false
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn into_envelope(self: Box<Self>) -> Box<dyn Any> {
        let envelope: Envelope<W> = self;
        Box::new(envelope)
    }

    fn session(&self) -> Option<u64> {
        Some(self.origin.session())
    }
}

impl<W: Handle<M>, M: Message> Deliver<W> for RemoteAskEnvelope<W, M> {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let _handling = Handling::begin();
            let Self { message, cause, reply, origin, .. } = *self;
            drop(origin);
            let span = span::<M>(cx.path(), &cause);
            let answer = Fenced::new(span.around(work.handle(message.into_inner(), cx)).await);
            wire::with_buffer(|buffer| {
                let (encoded, holds) = payload::collect(|| wire::encode_into(&*answer, buffer));
                reply.send(match encoded {
                    Ok(()) => Outcome::Answered(buffer, holds),
                    Err(error) => {
                        log::error!("work `{}`: the answer to a message cannot be sent: {error}", cx.path());
                        Outcome::ReplyNotSent(error.to_string())
                    }
                });
            });
        })
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
    /// The Work sends to itself from a handler, a hook or a `run` that takes no messages meanwhile, so that it would wait for
    /// itself: for room in its mailbox, or for its own answer.
    #[error(
        "work `{path}` waits for itself: it takes no messages out of its mailbox while this handler, hook or run waits; call what the          handler does, use `try_tell`, or wait within `cx.serve(self, …)` in `run`"
    )]
    ToItself {
        /// The Work.
        path: String,
        /// What was not sent.
        message: M,
    },
    /// The address leads nowhere.
    #[error("work `{path}` is not of an App that this process takes part in, or is no longer part of it")]
    Unknown {
        /// The path in the address.
        path: String,
        /// What was not sent.
        message: M,
    },
    /// The node or process where the Work lived is lost. Trying again is safe once the Work runs somewhere else.
    #[error("the node that hosted work `{path}` is lost; messages reach the Work once it runs on another")]
    NodeLost {
        /// The Work.
        path: String,
        /// What was not sent.
        message: M,
    },
    /// The message cannot be sent to the process where the Work lives. Trying again does not help.
    #[error("the message cannot be sent to work `{path}`, which runs in another process: {why}")]
    Unsendable {
        /// The Work.
        path: String,
        /// What stands in the way, and what to do.
        why: String,
        /// What was not sent.
        message: M,
    },
}

impl<M> SendError<M> {
    /// The message that was not sent.
    pub fn into_message(self) -> M {
        match self {
            Self::Full { message, .. }
            | Self::Stopped { message, .. }
            | Self::Unknown { message, .. }
            | Self::ToItself { message, .. }
            | Self::NodeLost { message, .. }
            | Self::Unsendable { message, .. } => message,
        }
    }

    pub(crate) fn closed(path: &str, why: CloseReason, message: M) -> Self {
        let path = path.to_owned();
        let why = match why {
            CloseReason::NotStarted => "has not started",
            CloseReason::Stopped => "was stopped",
            CloseReason::Failed => "has failed",
            CloseReason::Unplaced => "waits for a node to run on",
            CloseReason::Unknown => return Self::Unknown { path, message },
            CloseReason::NodeLost => return Self::NodeLost { path, message },
        };
        Self::Stopped { path, why, message }
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
    /// No answer came in time. A handler may have seen the message.
    #[error(
        "work `{path}` did not answer within {after:?}; it may be busy: let its `run` take turns, or ask with a longer deadline{}",
        Asker(asker, path)
    )]
    Timeout {
        /// The Work.
        path: String,
        /// How long was waited.
        after: Duration,
        /// The Work whose handler has asked: it handles nothing else while it waits, so that two Works whose handlers ask each
        /// other wait for each other until a deadline has passed.
        asker: Option<String>,
    },
    /// The handler began and did not end: it panicked, or its Work was ended by force.
    #[error("work `{path}` failed while it handled the message")]
    Failed {
        /// The Work.
        path: String,
    },
    /// The node or process where the Work lived was lost before the answer came. A handler may have seen the message.
    #[error("the node that hosted work `{path}` was lost before the answer came")]
    NodeLost {
        /// The Work.
        path: String,
    },
    /// The handler ended, and its answer could not be sent to this process: it is too large, or its `Serialize` fails. The
    /// message was handled; sending it again handles it again.
    #[error("work `{path}` has handled the message, and its answer could not be sent: {why}")]
    ReplyNotSent {
        /// The Work.
        path: String,
        /// What stands in the way, and what to do.
        why: String,
    },
    /// The answer came from another process and cannot be read. The message was handled.
    #[error("the answer of work `{path}` cannot be read: {error}")]
    BadReply {
        /// The Work.
        path: String,
        /// What is wrong with it.
        error: CodecError,
    },
}

/// What a handler that has waited in vain should know.
struct Asker<'a>(&'a Option<String>, &'a str);

impl fmt::Display for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Some(asker), asked) = self else { return Ok(()) };
        write!(
            f,
            "; the question came from a handler of work `{asker}`, which handles no other message until that has ended: if `{asked}` \
             waits for an answer of `{asker}`, this is a deadlock"
        )
    }
}

impl<M> fmt::Debug for AskError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AskError({self})")
    }
}
