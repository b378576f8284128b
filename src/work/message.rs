//! Typed messages and their envelopes.

use std::any::{Any, type_name};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sync_wrapper::SyncWrapper;
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

/// A message that Works can send and reply with: any serde value that is `Send` and `'static`.
///
/// Implemented for every such type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a message between Works",
    label = "not a message",
    note = "messages and replies may travel to other machines: derive `Serialize` and `Deserialize`, and use only `Send` and `'static` parts"
)]
pub trait Message: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Message for T {}

/// A handler for messages of type `M`.
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
    /// The reply to an `ask`; `()` if there is none.
    type Reply: Message;

    /// Handles one message and returns the reply. Never called while `run` or another handler of this Work executes: a
    /// busy `run` lets messages in where it takes turns, see [`WorkContext::turn`].
    ///
    /// Handlers do not nest: while one waits, no other message of its Work is handled. Two Works whose handlers ask
    /// each other therefore wait until a timeout passes; [`AskError::Timeout`] reports that.
    fn handle(&mut self, message: M, cx: &mut WorkContext<Self>) -> impl Future<Output = Self::Reply>;
}

/// A message of any type for a Work of type `W`.
pub(crate) type BoxedEnvelope<W> = Box<dyn Deliver<W>>;

pub(crate) trait Deliver<W>: AnyEnvelope {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()>
    where
        W: Work;
}

/// A message whose types of message and Work are erased, for code that queues and forwards it.
pub(crate) trait AnyEnvelope: Send {
    /// Returns the type name of the message.
    fn name(&self) -> &'static str;

    /// Appends the encoded message to `out`.
    ///
    /// # Errors
    /// [`CodecError`] if the message cannot be encoded.
    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError>;

    /// Returns true for an ask, false for a tell.
    fn is_question(&self) -> bool;

    /// Returns true if the caller of the ask has given up. No handler may begin such a message.
    fn is_abandoned(&self) -> bool {
        false
    }

    /// Returns the trace context of the sender.
    fn cause(&self) -> Cause;

    /// Notifies the sender of the outcome. Returns true if the message is lost without notice, as a `tell` is.
    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool;

    /// Returns the envelope itself, for a downcast to the type with which it was made.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;

    /// Returns the envelope as a [`BoxedEnvelope`] of its type of Work, for a downcast.
    fn into_typed(self: Box<Self>) -> Box<dyn Any>;

    /// Returns the session by which the message arrived, if it came from another process.
    fn session(&self) -> Option<u64> {
        None
    }
}

/// Outcome of a message.
pub(crate) enum Outcome<'a> {
    /// The encoded reply of the handler, with the guards that keep its payloads alive.
    Answered(&'a [u8], PayloadGuards),
    Unanswered(NoReply),
    /// The Work has left this process: a message from another process is given back to it. No handler saw the message.
    Moved,
}

/// Reason why a message gets no reply, also as it is told to another process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NoReply {
    /// The mailbox did not accept or keep the message; no handler saw it.
    Refused(CloseReason),
    /// The handler began and did not complete.
    Failed,
    /// The node that had the message is lost; a handler may have seen the message.
    NodeLost,
    /// The process of the Work could not accept or decode the message, for this reason; no handler saw it.
    Unreadable(String),
    /// The handler completed, but its reply could not be sent, for this reason.
    ReplyNotSent(String),
}

impl NoReply {
    /// Returns the error for the caller of an ask, which gets its message back if no handler saw it.
    pub(super) fn into_error<M>(self, path: &str, message: Fenced<M>) -> AskError<M> {
        let owned = path.to_owned();
        match self {
            Self::Refused(why) => AskError::NotHandled(SendError::closed(path, why, message.into_inner())),
            Self::Unreadable(why) => {
                let message = Unsent::new(message.into_inner());
                AskError::NotHandled(SendError::Unsendable { path: owned, why, message })
            }
            Self::Failed => AskError::Failed { path: owned },
            Self::NodeLost => AskError::NodeLost { path: owned },
            Self::ReplyNotSent(why) => AskError::ReplyNotSent { path: owned, why },
        }
    }
}

/// Sends the reply to an ask from another process. Dropped unused, it reports that the handler failed.
pub(crate) trait Reply: Send {
    fn send(self: Box<Self>, outcome: Outcome<'_>);

    /// Returns true if the caller has given up.
    fn is_abandoned(&self) -> bool;
}

/// A message with the trace context of its sender and the destination of its reply.
pub(crate) struct Envelope<W: Handle<M>, M: Message> {
    message: Fenced<M>,
    cause: Cause,
    reply: ReplyTo<W, M>,
}

/// Destination of the reply to a message.
pub(super) enum ReplyTo<W: Handle<M>, M: Message> {
    /// A tell has no reply. One from another process has an origin, which can take it back.
    Nobody(Option<Arc<dyn Origin>>),
    /// The caller of an ask in this process.
    Caller(oneshot::Sender<Answer<W, M>>),
    /// The caller of an ask in another process.
    Peer(Box<dyn Reply>, Arc<dyn Origin>),
}

/// Failure of an ask, for its caller.
pub(super) enum AskFailure<M> {
    NoReply(NoReply, Fenced<M>),
    /// The reply arrived but could not be decoded.
    BadReply(CodecError),
}

/// The reply to an ask, or the reason why there is none.
pub(super) type Answer<W, M> = Result<Fenced<<W as Handle<M>>::Reply>, AskFailure<M>>;

impl<W: Handle<M>, M: Message> Envelope<W, M> {
    /// Wraps a message of the code that is executing on this thread.
    pub(super) fn new(message: M, reply: ReplyTo<W, M>) -> Box<Self> {
        Self::caused(message, Cause::current(), reply)
    }

    /// Wraps a message that arrived from another process, with the trace context of its sender.
    pub(super) fn caused(message: M, cause: Cause, reply: ReplyTo<W, M>) -> Box<Self> {
        Box::new(Self { message: Fenced::new(message), cause, reply })
    }

    pub(super) fn into_message(self) -> M {
        self.message.into_inner()
    }
}

impl<W: Handle<M>, M: Message> AnyEnvelope for Envelope<W, M> {
    fn name(&self) -> &'static str {
        type_name::<M>()
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        wire::encode_into(&*self.message, out)
    }

    fn is_question(&self) -> bool {
        !matches!(self.reply, ReplyTo::Nobody(_))
    }

    fn is_abandoned(&self) -> bool {
        match &self.reply {
            ReplyTo::Nobody(_) => false,
            ReplyTo::Caller(caller) => caller.is_closed(),
            ReplyTo::Peer(reply, _) => reply.is_abandoned(),
        }
    }

    fn cause(&self) -> Cause {
        self.cause.clone()
    }

    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool {
        let Self { message, cause, reply } = *self;
        match reply {
            ReplyTo::Nobody(origin) => match (outcome, origin) {
                (Outcome::Answered(..), _) => false,
                (Outcome::Moved, Some(origin)) => {
                    origin.give_back(&mut |out| wire::encode_into(&*message, out), cause);
                    false
                }
                _ => true,
            },
            ReplyTo::Caller(caller) => {
                let answer = match outcome {
                    Outcome::Answered(bytes, _holds) => {
                        wire::decode(bytes).map(Fenced::new).map_err(AskFailure::BadReply)
                    }
                    Outcome::Unanswered(why) => Err(AskFailure::NoReply(why, message)),
                    // The mailbox that gets an ask back sends it again itself, so this outcome does not occur.
                    Outcome::Moved => {
                        Err(AskFailure::NoReply(NoReply::Refused(CloseReason::NotStarted), message))
                    }
                };
                // The caller may have given up, which does not concern the handler.
                let _ = caller.send(answer);
                false
            }
            ReplyTo::Peer(reply, _) => {
                reply.send(outcome);
                false
            }
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn into_typed(self: Box<Self>) -> Box<dyn Any> {
        let envelope: BoxedEnvelope<W> = self;
        Box::new(envelope)
    }

    fn session(&self) -> Option<u64> {
        match &self.reply {
            ReplyTo::Nobody(origin) => origin.as_ref().map(|origin| origin.session()),
            ReplyTo::Caller(_) => None,
            ReplyTo::Peer(_, origin) => Some(origin.session()),
        }
    }
}

impl<W: Handle<M>, M: Message> Deliver<W> for Envelope<W, M> {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let _handling = Handling::begin();
            let Self { message, cause, reply } = *self;
            // A message that was part of a trace gets a span; others do without.
            let what = What::Message { name: type_name::<M>() };
            let span = Span::start_if_caused(what, cx.path().as_str(), &cause);
            // The origin is dropped before the handler begins: a channel counts as drained once all its origins are gone.
            let reply = match reply {
                ReplyTo::Nobody(origin) => {
                    drop(origin);
                    None
                }
                ReplyTo::Caller(caller) => Some(Ok(caller)),
                ReplyTo::Peer(peer, origin) => {
                    drop(origin);
                    Some(Err(peer))
                }
            };
            let answer = Fenced::new(span.around(work.handle(message.into_inner(), cx)).await);
            match reply {
                // The caller may have given up.
                Some(Ok(caller)) => drop(caller.send(Ok(answer))),
                Some(Err(peer)) => send_encoded(peer, &*answer, cx.path()),
                None => {}
            }
        })
    }
}

/// Sends a reply to the caller in another process, or the reason why it cannot be encoded.
fn send_encoded<R: Message>(peer: Box<dyn Reply>, answer: &R, path: &ActorPath) {
    wire::with_buffer(|buffer| {
        let (encoded, holds) = payload::collect(|| wire::encode_into(answer, buffer));
        peer.send(match encoded {
            Ok(()) => Outcome::Answered(buffer, holds),
            Err(error) => {
                log::error!("work `{path}`: the answer to a message cannot be sent: {error}");
                Outcome::Unanswered(NoReply::ReplyNotSent(error.to_string()))
            }
        });
    });
}

/// A message inside a [`SendError`]. It gives access to the message by value alone, so that it is [`Sync`] whatever the
/// message is, and `?` converts the error into [`Error`](crate::Error).
pub struct Unsent<M>(SyncWrapper<M>);

impl<M> Unsent<M> {
    pub(crate) fn new(message: M) -> Self {
        Self(SyncWrapper::new(message))
    }

    /// Returns the message.
    pub fn into_inner(self) -> M {
        self.0.into_inner()
    }
}

impl<M> fmt::Debug for Unsent<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsent<{}>", type_name::<M>())
    }
}

/// Error returned when a message could not be delivered. Carries the message back to the caller.
#[derive(Error)]
#[non_exhaustive]
pub enum SendError<M> {
    /// The mailbox is full. Retrying later is safe.
    #[error(
        "the mailbox of work `{path}` is full ({capacity} messages wait); wait for room with `tell(…).await`, \
         let the Work take turns more often, or give it a larger `.mailbox(…)`"
    )]
    Full {
        /// Path of the Work.
        path: String,
        /// Capacity of the mailbox, in messages.
        capacity: usize,
        /// The message that was not sent.
        message: Unsent<M>,
    },
    /// The Work is not running. Retrying is safe once the Work has started.
    #[error("work `{path}` {why}; messages reach it once it runs again")]
    Stopped {
        /// Path of the Work.
        path: String,
        /// State of the Work, as a phrase such as "was stopped".
        why: &'static str,
        /// The message that was not sent.
        message: Unsent<M>,
    },
    /// The Work sends to itself from a handler, from `on_stop`, or from a `run` that does not serve its mailbox
    /// meanwhile, so that it would wait forever for room in its own mailbox or for its own reply.
    #[error(
        "work `{path}` waits for itself: it takes no messages out of its mailbox while this handler, hook or run waits; \
         call what the handler does, use `try_tell`, or wait within `cx.serve(self, …)` in `run`"
    )]
    ToItself {
        /// Path of the Work.
        path: String,
        /// The message that was not sent.
        message: Unsent<M>,
    },
    /// The address refers to no Work: the Work has not joined an App yet, has left it, or belongs to an App in which
    /// this process takes no part.
    #[error(
        "there is no work `{path}` in the Apps of this process: it has not joined one yet, or has left it"
    )]
    Unknown {
        /// The path in the address.
        path: String,
        /// The message that was not sent.
        message: Unsent<M>,
    },
    /// The node or process of the Work is lost. Retrying is safe once the Work runs on another node.
    #[error("the node that hosted work `{path}` is lost; messages reach the Work once it runs on another")]
    NodeLost {
        /// Path of the Work.
        path: String,
        /// The message that was not sent.
        message: Unsent<M>,
    },
    /// The message cannot be sent to the process of the Work. Retrying does not help.
    #[error("the message cannot be sent to work `{path}`, which runs in another process: {why}")]
    Unsendable {
        /// Path of the Work.
        path: String,
        /// Cause and remedy, as text.
        why: String,
        /// The message that was not sent.
        message: Unsent<M>,
    },
}

impl<M> SendError<M> {
    /// Returns the message that was not sent.
    pub fn into_message(self) -> M {
        match self {
            Self::Full { message, .. }
            | Self::Stopped { message, .. }
            | Self::Unknown { message, .. }
            | Self::ToItself { message, .. }
            | Self::NodeLost { message, .. }
            | Self::Unsendable { message, .. } => message.into_inner(),
        }
    }

    pub(crate) fn closed(path: &str, why: CloseReason, message: M) -> Self {
        let (path, message) = (path.to_owned(), Unsent::new(message));
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

/// Error returned when an ask has no reply.
#[derive(Error)]
#[non_exhaustive]
pub enum AskError<M> {
    /// The message was not sent, or was still waiting when the Work stopped: no handler saw it, and asking again is
    /// safe.
    #[error(transparent)]
    NotHandled(SendError<M>),
    /// The reply did not arrive within the timeout. A handler may have seen the message.
    #[error(
        "work `{path}` did not answer within {after:?}; it may be busy: let its `run` take turns, or ask with a longer timeout{}",
        Asker(asker, path)
    )]
    Timeout {
        /// Path of the Work.
        path: String,
        /// The timeout.
        after: Duration,
        /// Path of the Work whose handler has asked, if a handler did. That Work handles no other message while it
        /// waits, so that two Works whose handlers ask each other are in a deadlock until one timeout passes.
        asker: Option<String>,
    },
    /// The handler began and did not complete: it panicked, or its incarnation was ended by force.
    #[error("work `{path}` failed while it handled the message")]
    Failed {
        /// Path of the Work.
        path: String,
    },
    /// The node or process of the Work was lost before the reply arrived. A handler may have seen the message.
    #[error("the node that hosted work `{path}` was lost before the answer came")]
    NodeLost {
        /// Path of the Work.
        path: String,
    },
    /// The handler completed, but its reply could not be sent to this process: the reply is too large, or its
    /// `Serialize` fails. Asking again handles the message a second time.
    #[error("work `{path}` has handled the message, and its answer could not be sent: {why}")]
    ReplyNotSent {
        /// Path of the Work.
        path: String,
        /// Cause and remedy, as text.
        why: String,
    },
    /// The reply arrived from another process but could not be decoded. The message was handled.
    #[error("the answer of work `{path}` cannot be read: {error}")]
    BadReply {
        /// Path of the Work.
        path: String,
        /// The error of decoding the reply.
        error: CodecError,
    },
}

/// Suffix of [`AskError::Timeout`] that explains a possible deadlock of two handlers.
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
