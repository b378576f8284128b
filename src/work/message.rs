//! Messages between Works, their handlers, and the errors of their senders.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::batch::Batch;
use super::deferred::Deferred;
use super::mailbox::CloseReason;
use super::streamed::Streamed;
use super::unsent::Unsent;
use super::{Work, WorkContext};
use crate::id::ActorPath;
use crate::wire::CodecError;

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

/// The reply of a handler: any [`Message`], a [`Deferred`] one, or a [`Streamed`] one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the reply of a handler",
    label = "not a reply",
    note = "a reply is a message, which derives `Serialize` and `Deserialize`, or `Deferred<…>` or `Streamed<…>` of one"
)]
pub trait IntoReply: 'static {
    /// The value that an `ask` yields; for a stream, `Streamed<T>`.
    type Value: ReplyValue;

    /// Returns the value, unless it is sent later.
    #[doc(hidden)]
    fn into_value(self) -> Option<<Self::Value as ReplyValue>::Item>;
}

impl<T: Message> IntoReply for T {
    type Value = T;

    fn into_value(self) -> Option<T> {
        Some(self)
    }
}

impl<T: Message> IntoReply for Deferred<T> {
    type Value = T;

    fn into_value(self) -> Option<T> {
        None
    }
}

impl<T: Message> IntoReply for Streamed<T> {
    type Value = Self;

    fn into_value(self) -> Option<T> {
        None
    }
}

/// The value of a reply: a [`Message`], or [`Streamed<T>`](Streamed) for a stream of them.
pub trait ReplyValue: 'static {
    /// The type of the value, or of the items of the stream.
    type Item: Message;

    /// True for a stream.
    #[doc(hidden)]
    const IS_STREAM: bool;

    /// Returns the value of a reply that is no stream.
    #[doc(hidden)]
    fn of_item(item: Self::Item) -> Option<Self>
    where
        Self: Sized;
}

impl<T: Message> ReplyValue for T {
    type Item = T;
    const IS_STREAM: bool = false;

    fn of_item(item: T) -> Option<T> {
        Some(item)
    }
}

impl<T: Message> ReplyValue for Streamed<T> {
    type Item = T;
    const IS_STREAM: bool = true;

    fn of_item(_: T) -> Option<Self> {
        None
    }
}

/// A reply that an `ask` yields: any but a [`Streamed`] one.
#[diagnostic::on_unimplemented(
    message = "the reply `{Self}` is a stream, which an `ask` does not read",
    label = "read it by `stream` in place of `ask`"
)]
pub trait SingleReply: IntoReply {}

impl<T: Message> SingleReply for T {}

impl<T: Message> SingleReply for Deferred<T> {}

/// The value that an `ask` of `W` with an `M` yields: the reply of the handler, or the value that it sends later. For a
/// handler that replies with a stream of `T`s it is `Streamed<T>`.
pub type ReplyOf<W, M> = <<M as HandledBy<W>>::Reply as IntoReply>::Value;

/// The value that an `ask` of `W` with an `M` yields, or that is an item of the stream.
pub(super) type ItemOf<W, M> = <ReplyOf<W, M> as ReplyValue>::Item;

/// An error that says the status of its response over HTTP, in place of 422. It counts for messages that are declared with
/// [`Messages::accept_with_status`](crate::Messages::accept_with_status).
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::{HttpStatus, Messages};
/// #[derive(Debug, Serialize, Deserialize)]
/// enum PredictError {
///     NotLoaded,
///     TooLong { limit: usize },
/// }
///
/// impl HttpStatus for PredictError {
///     fn http_status(&self) -> u16 {
///         match self {
///             Self::NotLoaded => 503,
///             Self::TooLong { .. } => 413,
///         }
///     }
/// }
///
/// # #[derive(Serialize, Deserialize)]
/// # struct Predict(String);
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Server;
/// impl Work for Server {
///     type Input = ();
///
///     fn messages(messages: &mut Messages<Self>) {
///         messages.accept_with_status::<Predict>();
///     }
/// }
///
/// impl Handle<Predict> for Server {
///     type Reply = std::result::Result<f64, PredictError>;
///
///     async fn handle(&mut self, Predict(text): Predict, _cx: &mut WorkContext<Self>) -> Self::Reply {
///         if text.len() > 100 { Err(PredictError::TooLong { limit: 100 }) } else { Ok(text.len() as f64) }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say the status of its response over HTTP",
    label = "no HTTP status",
    note = "write `impl HttpStatus for {Self}`, or declare the message with `accept`: then an `Err` has status 422"
)]
pub trait HttpStatus {
    /// Returns the status, from 400 to 599. Any other is sent as 500 and logged.
    fn http_status(&self) -> u16;
}

/// A reply of type `Result` whose error says its status.
#[diagnostic::on_unimplemented(
    message = "the reply `{Self}` is not a `Result`, so that no error can say the status of a response",
    label = "not a `Result`",
    note = "declare the message with `accept`"
)]
pub trait ReplyWithStatus: Message {
    /// Returns the status that the error says; `None` for `Ok`.
    #[doc(hidden)]
    fn status(&self) -> Option<u16>;
}

impl<T, E: HttpStatus> ReplyWithStatus for Result<T, E>
where
    Self: Message,
{
    fn status(&self) -> Option<u16> {
        self.as_ref().err().map(HttpStatus::http_status)
    }
}

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
    /// The reply to an `ask`; `()` if there is none. With [`Deferred<T>`](Deferred) the handler replies with a `T` later,
    /// see [`WorkContext::defer`]; with [`Streamed<T>`](Streamed) it replies with a stream of `T`s, see
    /// [`WorkContext::stream`].
    type Reply: IntoReply;

    /// Handles one message and returns the reply. Never called while `run` or another handler of this Work executes: a
    /// busy `run` lets messages in where it takes turns, see [`WorkContext::turn`].
    ///
    /// Handlers do not nest: while one waits, no other message of its Work is handled. Two Works whose handlers ask each
    /// other therefore wait for ever; one of the asks fails with [`AskError::Deadlock`], or with [`AskError::Timeout`] if
    /// its Work awaits something else beside it.
    fn handle(&mut self, message: M, cx: &mut WorkContext<Self>) -> impl Future<Output = Self::Reply>;

    /// Returns the bounds of the next batch, if messages are handled in batches.
    #[doc(hidden)]
    fn batch_bounds(&self) -> Option<Batch> {
        None
    }

    /// Handles the messages of a batch, and returns their replies in the same order.
    #[doc(hidden)]
    fn handle_all(
        &mut self,
        batch: Vec<M>,
        cx: &mut WorkContext<Self>,
    ) -> impl Future<Output = Vec<Self::Reply>> {
        async move {
            let mut replies = Vec::with_capacity(batch.len());
            for message in batch {
                replies.push(self.handle(message, cx).await);
            }
            replies
        }
    }
}

/// A message that a Work of type `W` handles. Implemented for every `M` for which `W` has a [`Handle<M>`], and never by
/// hand.
///
/// Methods that send a message are bounded by it in place of `W: Handle<M>`, which it implies: a bound on the message
/// says nothing before the type of the message is known, so that a compile error about a missing handler names both types.
pub trait HandledBy<W: Work>:
    Message + Names<W, Named: Handle<Self, Reply = <Self as HandledBy<W>>::Reply>>
{
    /// The reply of the handler, [`Handle::Reply`].
    type Reply: IntoReply;
}

impl<W: Handle<M>, M: Message> HandledBy<W> for M {
    type Reply = <W as Handle<M>>::Reply;
}

/// A type that names `T` by an associated type. A bound on an associated type of a supertrait is known wherever the trait
/// is, which a `where` clause of a trait about another type is not: so [`HandledBy<W>`] implies a bound on `W`.
#[doc(hidden)]
pub trait Names<T>: NamesOne<T, Named = T> {}

/// Has the associated type of [`Names`], which itself says what that type is.
#[doc(hidden)]
pub trait NamesOne<T> {
    type Named;
}

impl<S, T> Names<T> for S {}

impl<S, T> NamesOne<T> for S {
    type Named = T;
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
    #[must_use = "the message was not sent"]
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

    pub(super) fn unknown(path: &ActorPath, message: M) -> Self {
        Self::Unknown { path: path.to_string(), message: Unsent::new(message) }
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
    /// The reply can never arrive: the Works of a cycle wait for each other's replies, and handle no messages until then.
    /// Among the asks of the cycle this is the one whose timeout would have passed first. A handler may have seen the
    /// message.
    ///
    /// Found about 100 ms after the last ask of the cycle, wherever the Works run. Only asks count that are all that a
    /// handler, hook or `run` awaits: one within `select!`, within another timeout, in a task of its own, or beside
    /// [`WorkContext::serve`] can still be given up by its Work, and so can one whose reply is [deferred](Deferred).
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::AskError;
    /// #[derive(Serialize, Deserialize)]
    /// struct Ping(WorkAddr<Player>, u32);
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Player;
    ///
    /// impl Work for Player {
    ///     type Input = ();
    /// }
    ///
    /// impl Handle<Ping> for Player {
    ///     type Reply = String;
    ///
    ///     async fn handle(&mut self, Ping(other, times): Ping, cx: &mut WorkContext<Self>) -> String {
    ///         if times == 0 {
    ///             return "pong".to_owned();
    ///         }
    ///         match other.ask(Ping(cx.addr(), times - 1)).await {
    ///             Err(AskError::Deadlock { cycle, .. }) => cycle.join(" → "),
    ///             other => format!("{other:?}"),
    ///         }
    ///     }
    /// }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { left: WorkRef<Player>, right: WorkRef<Player> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// # let app = flowright::testing::TestApp::start(Root::default);
    /// # let (left, right) = (app.work::<Player>("left"), app.work::<Player>("right"));
    /// # app.wait_for_work("left", |left| left.is_up);
    /// # app.wait_for_work("right", |right| right.is_up);
    /// # app.block_on(async {
    /// // `left` asks `right`, which asks `left`, which is busy.
    /// assert_eq!(left.ask(Ping(right, 2)).await?, "left → right → left");
    /// # Ok::<_, Error>(())
    /// # }).unwrap();
    /// ```
    #[error(
        "work `{path}` cannot answer: {} wait for each other's answers, and handle no message until then; reply later with \
         `Deferred`, send by `tell`, or ask within `cx.serve(self, …)` in `run`",
        Cycle(cycle)
    )]
    Deadlock {
        /// Path of the Work that was asked.
        path: String,
        /// Paths of the Works, each of which waits for the next. The first one has asked, and is also the last.
        cycle: Vec<String>,
    },
    /// The handler began, and there is no reply: it panicked, its incarnation was ended by force, its process exited, or
    /// its [deferred reply](crate::WorkContext::defer) was dropped without being sent.
    #[error("work `{path}` {why}")]
    Failed {
        /// Path of the Work.
        path: String,
        /// Cause, as a phrase such as "failed while it handled the message".
        why: &'static str,
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

/// Cause of a missing reply whose handler has completed.
const REPLY_DROPPED: &str = "dropped the deferred reply to the message without sending it";

impl<M> AskError<M> {
    /// Returns the error for a handler that began and did not complete.
    pub(super) fn failed(path: &str) -> Self {
        Self::Failed { path: path.to_owned(), why: "failed while it handled the message" }
    }

    /// Returns the error for a deferred reply that was not sent.
    pub(super) fn reply_dropped(path: &str) -> Self {
        Self::Failed { path: path.to_owned(), why: REPLY_DROPPED }
    }

    /// Returns true if the handler has completed, whether or not there is a reply.
    pub(super) fn is_handled(&self) -> bool {
        match self {
            Self::NotHandled(_) => false,
            Self::Failed { why, .. } => *why == REPLY_DROPPED,
            Self::Timeout { .. }
            | Self::Deadlock { .. }
            | Self::NodeLost { .. }
            | Self::ReplyNotSent { .. }
            | Self::BadReply { .. } => true,
        }
    }
}

/// The Works of [`AskError::Deadlock`].
struct Cycle<'a>(&'a [String]);

impl fmt::Display for Cycle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let arrow = if index == 0 { "" } else { " → " };
            write!(f, "{arrow}`{path}`")?;
        }
        Ok(())
    }
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
