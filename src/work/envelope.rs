//! Envelopes: messages on their way, with the trace context of the sender and the destination of the reply.
//!
//! # Guarantees
//! - The caller of an ask is notified once: by the reply of the handler, or by the reason why there is none. An
//!   envelope that is dropped counts as a handler that failed.
//! - A message of the user is dropped behind a fence: its `Drop` may panic.

use std::any::{Any, TypeId, type_name};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::batch::Batch;
use super::caller::{AnswerTo, Caller, StreamCaller};
use super::cycles::AskId;
use super::dead_letters::{DeadLetterReason, Lost, SenderId, report, report_abandoned};
use super::executing::{Handling, current_run, current_sender};
use super::mailbox::CloseReason;
use super::message::{AskError, Handle, IntoReply, ItemOf, Message, ReplyOf, ReplyValue, SendError};
use super::route::Origin;
use super::stamp::Stamp;
use super::stream_ends::{ItemSink, StreamSink, StreamSource};
use super::stream_queue::{EncodingSink, Incoming, StreamQueue};
use super::streamed::Streamed;
use super::unsent::Unsent;
use super::{Work, WorkContext};
use crate::fence::Fenced;
use crate::id::ActorPath;
use crate::payload::{self, PayloadGuards};
use crate::trace::{Cause, Span, What};
use crate::wire::{self, CodecError};

/// A message of any type for a Work of type `W`.
pub(crate) type BoxedEnvelope<W> = Box<dyn Deliver<W>>;

pub(crate) trait Deliver<W>: AnyEnvelope {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()>
    where
        W: Work;
}

/// A message whose types of message and Work are erased, for code that queues and forwards it.
pub(crate) trait AnyEnvelope: Send {
    /// Returns the type of the message.
    fn message_type(&self) -> TypeId;

    /// Returns the type name of the message.
    fn name(&self) -> &'static str;

    /// Returns the message, for a downcast to its type.
    fn message(&self) -> &dyn Any;

    /// Appends the encoded message to `out`.
    ///
    /// # Errors
    /// [`CodecError`] if the message cannot be encoded.
    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError>;

    /// Returns true for an ask, false for a tell.
    fn is_question(&self) -> bool;

    /// Returns the id of an ask that a Work may await.
    fn ask(&self) -> Option<AskId> {
        None
    }

    /// Returns the window of the reader, in items, if the message is a question whose reply is to be a stream.
    fn window(&self) -> Option<u32> {
        None
    }

    /// Opens the stream of a question that was sent to another process. `source` leads to its sender. Returns `None` if
    /// nobody wants to read it.
    fn open_stream(self: Box<Self>, source: Arc<dyn StreamSource>) -> Option<Arc<dyn StreamSink>> {
        drop(source);
        None
    }

    /// Returns true if the handler replies with a stream.
    fn has_stream(&self) -> bool {
        false
    }

    /// Notes that the handler in another process has returned, and that the reply follows later. Returns what is to be
    /// dropped therefore.
    fn deferred(&mut self) -> Option<Box<dyn Send>> {
        None
    }

    /// Notes the version of a service to which the message was handed.
    fn served_by(&self, _version: u64) {}

    /// Returns true if the caller of the ask has given up. No handler may begin such a message.
    fn is_abandoned(&self) -> bool {
        false
    }

    /// Returns the trace context of the sender.
    fn cause(&self) -> Cause;

    /// Returns the number of the sender in this process.
    fn sender(&self) -> SenderId;

    /// Returns true for a message that goes before others in the mailbox.
    fn is_first(&self) -> bool {
        false
    }

    /// Returns what is to be reported of the message if it is lost.
    fn lost(&self) -> Lost<'static> {
        Lost::new(self.name(), self.sender())
    }

    /// Notifies the sender of the outcome. Returns true if no handler has seen the message and its sender is not told so, as
    /// for a `tell`.
    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool;

    /// Returns the envelope itself, for a downcast to the type with which it was made.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;

    /// Returns the envelope as a [`BoxedEnvelope`] of its type of Work, for a downcast.
    fn into_typed(self: Box<Self>) -> Box<dyn Any>;

    /// Returns a message that a balancer has handed to a replica as what the balancer has made, for a downcast.
    fn into_routed(self: Box<Self>) -> Option<Box<dyn Any>> {
        None
    }

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
    /// The Work has dropped the deferred reply without sending it.
    ReplyDropped,
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
            Self::Failed => AskError::failed(path),
            Self::ReplyDropped => AskError::reply_dropped(path),
            Self::NodeLost => AskError::NodeLost { path: owned },
            Self::ReplyNotSent(why) => AskError::ReplyNotSent { path: owned, why },
        }
    }
}

/// Sends the reply to an ask from another process. Dropped unused, it reports that the handler failed.
pub(crate) trait Reply: Send {
    fn send(self: Box<Self>, outcome: Outcome<'_>);

    /// Returns the id of an ask that a Work may await.
    fn ask(&self) -> Option<AskId>;

    /// Returns the window of the reader, in items, if the caller awaits a stream.
    fn window(&self) -> Option<u32>;

    /// Notes that the handler is about to begin.
    fn begin(&self);

    /// Tells the other process that the handler has returned and replies later.
    fn defer(&self);

    /// Opens the stream. `source` gets the credit of the reader.
    fn open_stream(self: Box<Self>, source: Arc<dyn StreamSource>) -> Arc<dyn StreamSink>;

    /// Returns true if the caller has given up.
    fn is_abandoned(&self) -> bool;

    /// Polls for the moment at which the caller gives up. Wakes the last task that has polled.
    fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A message with the trace context of its sender and the destination of its reply.
pub(crate) struct Envelope<W: Handle<M>, M: Message> {
    message: Fenced<M>,
    stamp: Stamp,
    reply: ReplyTo<W, M>,
    served_by: Option<Arc<ServedBy>>,
}

/// The version of a service to which a message was handed last, for its sender.
#[derive(Debug, Default)]
pub(super) struct ServedBy(AtomicU64);

impl ServedBy {
    fn note(&self, version: u64) {
        self.0.store(version, Ordering::Release);
    }

    /// Returns the version, or `None` if the message was sent to no service.
    pub(super) fn version(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|version| *version > 0)
    }
}

/// Destination of the reply to a message.
pub(super) enum ReplyTo<W: Handle<M>, M: Message> {
    /// A tell has no reply. One from another process has an origin, which can take it back.
    Nobody(Option<Arc<dyn Origin>>),
    /// The caller of an ask in this process.
    Caller(oneshot::Sender<Answer<W, M>>, AskId),
    /// The caller in this process that reads a stream, with its window.
    Reader(oneshot::Sender<Opened<W, M>>, u32, AskId),
    /// The caller of an ask in another process. The origin is there until a handler begins the message.
    Peer(Box<dyn Reply>, Option<Arc<dyn Origin>>),
}

/// Failure of an ask, for its caller.
pub(super) enum AskFailure<M> {
    NoReply(NoReply, Fenced<M>),
    /// The reply arrived but could not be decoded.
    BadReply(CodecError),
    /// The Work in this process has dropped the deferred reply.
    ReplyDropped,
}

/// The reply to an ask, or the reason why there is none.
pub(super) type Answer<W, M> = Result<Fenced<ItemOf<W, M>>, AskFailure<M>>;

/// The stream that the reply to a message is, or the reason why there is none.
pub(super) type Opened<W, M> = Result<Incoming<ItemOf<W, M>>, AskFailure<M>>;

impl<W: Handle<M>, M: Message> Envelope<W, M> {
    /// Wraps a message of the code that is executing on this thread.
    pub(super) fn new(message: M, reply: ReplyTo<W, M>) -> Box<Self> {
        let stamp = Stamp { cause: Cause::current(), sender: current_sender(), is_first: false };
        Self::stamped(message, stamp, reply)
    }

    /// Wraps a message that arrived from another process.
    pub(super) fn stamped(message: M, stamp: Stamp, reply: ReplyTo<W, M>) -> Box<Self> {
        Box::new(Self { message: Fenced::new(message), stamp, reply, served_by: None })
    }

    /// Has the version noted that handles the message, if it is sent to a service.
    pub(super) fn note_version(mut self: Box<Self>, served_by: Option<Arc<ServedBy>>) -> Box<Self> {
        self.served_by = served_by;
        self
    }

    /// Has the message go before others in the mailbox.
    pub(super) fn first(mut self: Box<Self>) -> Box<Self> {
        self.stamp.is_first = true;
        self
    }

    /// Restores the types of an envelope whose message is known to be an `M`. Returns `None` for the call of a subscription
    /// that has ended meanwhile.
    pub(super) fn of_type(envelope: BoxedEnvelope<W>) -> Option<Box<Self>> {
        envelope.into_any().downcast().ok()
    }

    pub(super) fn into_message(self) -> M {
        self.message.into_inner()
    }

    /// Returns the caller of the message, without allocating anything, once its handler begins.
    fn into_caller(mut self: Box<Self>) -> Option<Box<Self>> {
        match &mut self.reply {
            ReplyTo::Nobody(_) => return None,
            ReplyTo::Caller(..) | ReplyTo::Reader(..) => {}
            // A channel counts as drained once all its origins are gone.
            ReplyTo::Peer(peer, origin) => {
                peer.begin();
                drop(origin.take());
            }
        }
        Some(self)
    }

    /// Takes the message out for something that answers it in place of a handler.
    pub(super) fn begin(mut self: Box<Self>) -> (M, Option<Box<Self>>) {
        (self.message.take(), self.into_caller())
    }

    /// Begins the span of the handler, which has a lower level unless the sender was part of a trace.
    fn span(&self, cx: &WorkContext<W>) -> Span {
        let what = What::Message { name: type_name::<M>() };
        Span::start_if_caused(what, cx.path().as_str(), &self.stamp.cause)
    }

    /// Handles the message together with those of its type that follow.
    async fn deliver_batch(self: Box<Self>, bounds: Batch, work: &mut W, cx: &mut WorkContext<W>) {
        let handling = Handling::begin(None);
        let batch = gather(self, bounds, cx).await;
        let Some(first) = batch.first() else { return };
        let span = first.span(cx);
        let (messages, callers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|mut envelope| (envelope.message.take(), envelope.into_caller())).unzip();
        let replies = span.around(work.handle_all(messages, cx)).await;
        drop(handling);
        let (count, expected) = (replies.len(), callers.len());
        if count != expected {
            let (path, name) = (cx.path(), type_name::<M>());
            log::error!(
                "work `{path}`: its handler returned {count} replies to a batch of {expected} messages `{name}`, so that \
                 no caller gets one: return one for each message"
            );
            return;
        }
        for (reply, caller) in replies.into_iter().zip(callers) {
            if let (Some(reply), Some(caller)) = (reply.into_value(), caller) {
                caller.answer(Fenced::new(reply));
            }
        }
    }
}

impl<W: Handle<M>, M: Message> Caller for Envelope<W, M> {
    fn is_gone(&self) -> bool {
        self.is_abandoned()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.reply {
            ReplyTo::Nobody(_) => Poll::Pending,
            ReplyTo::Caller(caller, _) => caller.poll_closed(cx),
            ReplyTo::Reader(reader, ..) => reader.poll_closed(cx),
            ReplyTo::Peer(peer, _) => peer.poll_abandoned(cx),
        }
    }

    fn ask(&self) -> Option<AskId> {
        AnyEnvelope::ask(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn awaits(&self) -> TypeId {
        match AnyEnvelope::window(self) {
            None => TypeId::of::<ItemOf<W, M>>(),
            Some(_) => TypeId::of::<Streamed<ItemOf<W, M>>>(),
        }
    }

    fn into_answer_to(self: Box<Self>) -> Box<dyn Any> {
        if AnyEnvelope::window(&*self).is_some() {
            let stream_caller: Box<dyn StreamCaller<ItemOf<W, M>>> = self;
            return Box::new(stream_caller);
        }
        if let ReplyTo::Peer(peer, _) = &self.reply {
            peer.defer();
        }
        let answer_to: Box<dyn AnswerTo<ItemOf<W, M>>> = self;
        Box::new(answer_to)
    }
}

impl<W: Handle<M>, M: Message> StreamCaller<ItemOf<W, M>> for Envelope<W, M> {
    fn window(&self) -> u32 {
        AnyEnvelope::window(self).unwrap_or_default()
    }

    fn open(self: Box<Self>, source: Arc<dyn StreamSource>) -> Arc<dyn ItemSink<ItemOf<W, M>>> {
        match self.reply {
            ReplyTo::Reader(reader, window, _) => open_reader(reader, window, source).0,
            ReplyTo::Peer(peer, _) => Arc::new(EncodingSink { to: peer.open_stream(source) }),
            // Nobody reads it.
            ReplyTo::Nobody(_) | ReplyTo::Caller(..) => {
                source.leave();
                StreamQueue::new(1)
            }
        }
    }
}

/// Hands the reading end of a stream to the caller in this process. Returns the way in for items, and whether the caller
/// still wants them. If not, `source` was told so.
fn open_reader<T, E>(
    reader: oneshot::Sender<Result<Incoming<T>, E>>,
    window: u32,
    source: Arc<dyn StreamSource>,
) -> (Arc<StreamQueue<T>>, bool) {
    let queue = StreamQueue::new(window);
    let incoming = Incoming::new(queue.clone(), source);
    // One that is not received tells its source that nobody reads it.
    let is_wanted = reader.send(Ok(incoming)).is_ok();
    (queue, is_wanted)
}

impl<W: Handle<M>, M: Message> AnswerTo<ItemOf<W, M>> for Envelope<W, M> {
    fn answer(self: Box<Self>, value: Fenced<ItemOf<W, M>>) {
        match self.reply {
            ReplyTo::Nobody(_) => {}
            // The caller may have given up.
            ReplyTo::Caller(caller, _) => drop(caller.send(Ok(value))),
            // It awaits a stream, for which the types do not let a handler answer with a value.
            ReplyTo::Reader(reader, ..) => drop(reader.send(Err(AskFailure::ReplyDropped))),
            ReplyTo::Peer(peer, _) => send_encoded(peer, &*value, type_name::<M>()),
        }
    }

    fn reply_dropped(self: Box<Self>) {
        match self.reply {
            ReplyTo::Nobody(_) => {}
            ReplyTo::Caller(caller, _) => drop(caller.send(Err(AskFailure::ReplyDropped))),
            ReplyTo::Reader(reader, ..) => drop(reader.send(Err(AskFailure::ReplyDropped))),
            ReplyTo::Peer(peer, _) => peer.send(Outcome::Unanswered(NoReply::ReplyDropped)),
        }
    }
}

impl<W: Handle<M>, M: Message> AnyEnvelope for Envelope<W, M> {
    fn message_type(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn name(&self) -> &'static str {
        type_name::<M>()
    }

    fn message(&self) -> &dyn Any {
        &*self.message
    }

    fn has_stream(&self) -> bool {
        <ReplyOf<W, M> as ReplyValue>::IS_STREAM
    }

    fn served_by(&self, version: u64) {
        if let Some(served_by) = &self.served_by {
            served_by.note(version);
        }
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        wire::encode_into(&*self.message, out)
    }

    fn is_question(&self) -> bool {
        !matches!(self.reply, ReplyTo::Nobody(_))
    }

    fn ask(&self) -> Option<AskId> {
        match &self.reply {
            ReplyTo::Nobody(_) => None,
            ReplyTo::Caller(_, ask) | ReplyTo::Reader(_, _, ask) => ask.known(),
            ReplyTo::Peer(reply, _) => reply.ask(),
        }
    }

    fn window(&self) -> Option<u32> {
        match &self.reply {
            ReplyTo::Nobody(_) | ReplyTo::Caller(..) => None,
            ReplyTo::Reader(_, window, _) => Some(*window),
            ReplyTo::Peer(reply, _) => reply.window(),
        }
    }

    fn open_stream(self: Box<Self>, source: Arc<dyn StreamSource>) -> Option<Arc<dyn StreamSink>> {
        match self.reply {
            ReplyTo::Nobody(_) | ReplyTo::Caller(..) => None,
            ReplyTo::Reader(reader, window, _) => {
                let (queue, is_wanted) = open_reader(reader, window, source);
                is_wanted.then_some(queue as Arc<dyn StreamSink>)
            }
            ReplyTo::Peer(reply, _) => Some(reply.open_stream(source)),
        }
    }

    fn is_abandoned(&self) -> bool {
        match &self.reply {
            ReplyTo::Nobody(_) => false,
            ReplyTo::Caller(caller, _) => caller.is_closed(),
            ReplyTo::Reader(reader, ..) => reader.is_closed(),
            ReplyTo::Peer(reply, _) => reply.is_abandoned(),
        }
    }

    fn cause(&self) -> Cause {
        self.stamp.cause.clone()
    }

    fn sender(&self) -> SenderId {
        self.stamp.sender
    }

    fn is_first(&self) -> bool {
        self.stamp.is_first
    }

    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool {
        let Self { message, stamp, reply, .. } = *self;
        match reply {
            ReplyTo::Nobody(origin) => match (outcome, origin) {
                (Outcome::Answered(..), _) => false,
                // A handler has begun it.
                (
                    Outcome::Unanswered(NoReply::Failed | NoReply::ReplyDropped | NoReply::ReplyNotSent(_)),
                    _,
                ) => false,
                (Outcome::Moved, Some(origin)) => {
                    origin.give_back(&mut |out| wire::encode_into(&*message, out), stamp.cause, stamp.sender);
                    false
                }
                _ => true,
            },
            ReplyTo::Caller(caller, _) => {
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
            ReplyTo::Reader(reader, ..) => {
                let why = match outcome {
                    Outcome::Unanswered(why) => why,
                    Outcome::Answered(..) => NoReply::ReplyNotSent("it is no stream".to_owned()),
                    Outcome::Moved => NoReply::Refused(CloseReason::NotStarted),
                };
                let _ = reader.send(Err(AskFailure::NoReply(why, message)));
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
            ReplyTo::Caller(..) | ReplyTo::Reader(..) => None,
            ReplyTo::Peer(_, origin) => origin.as_ref().map(|origin| origin.session()),
        }
    }
}

impl<W: Handle<M>, M: Message> Deliver<W> for Envelope<W, M> {
    fn deliver<'a>(
        mut self: Box<Self>,
        work: &'a mut W,
        cx: &'a mut WorkContext<W>,
    ) -> LocalBoxFuture<'a, ()> {
        if let Some(bounds) = work.batch_bounds() {
            return Box::pin(self.deliver_batch(bounds, work, cx));
        }
        let span = self.span(cx);
        let message = self.message.take();
        let caller = self.into_caller().map(|caller| -> Box<dyn Caller> { caller });
        let is_ask = caller.is_some();
        let handling = Handling::begin(caller);
        let handled = span.around(work.handle(message, cx)).map(Fenced::new);
        // Each future has only what it needs, since it is allocated for each message.
        if is_ask {
            Box::pin(handled.map(move |answer| {
                let reply = answer.into_inner().into_value().map(Fenced::new);
                let Some(caller) = handling.end() else { return };
                let envelope = caller.into_any().downcast::<Self>();
                let envelope = envelope.unwrap_or_else(|_| unreachable!("the caller of this handler"));
                match reply {
                    Some(reply) => envelope.answer(reply),
                    // It was made by the handler of another message.
                    None => envelope.reply_dropped(),
                }
            }))
        } else {
            Box::pin(handled.map(move |answer| {
                drop(answer);
                drop(handling);
            }))
        }
    }
}

/// Takes the messages out of the mailbox that are to be handled together with `first`, and returns all whose callers
/// still wait.
async fn gather<W: Handle<M>, M: Message>(
    first: Box<Envelope<W, M>>,
    bounds: Batch,
    cx: &mut WorkContext<W>,
) -> Vec<Box<Envelope<W, M>>> {
    let mut gathered = Gathered { batch: vec![first], path: cx.path().clone() };
    let batch = &mut gathered.batch;
    let message = TypeId::of::<M>();
    let mut time = pin!(None);
    while batch.len() < bounds.messages {
        let next = poll_fn(|task| {
            if let Poll::Ready(next) = cx.receiver().poll_same(message, task) {
                return Poll::Ready(next);
            }
            if bounds.within.is_zero() {
                return Poll::Ready(None);
            }
            if time.is_none() {
                time.set(Some(tokio::time::sleep(bounds.within)));
            }
            time.as_mut().as_pin_mut().map_or(Poll::Ready(None), |time| time.poll(task).map(|()| None))
        });
        let Some(next) = next.await else { break };
        batch.extend(Envelope::of_type(next));
    }
    let abandoned: Vec<_> = batch.extract_if(.., |envelope| envelope.is_abandoned()).collect();
    report_abandoned(cx.path(), abandoned.iter().map(|envelope| envelope.lost()));
    std::mem::take(&mut gathered.batch)
}

/// The messages of a batch whose handler has not begun.
struct Gathered<W: Handle<M>, M: Message> {
    batch: Vec<Box<Envelope<W, M>>>,
    path: ActorPath,
}

impl<W: Handle<M>, M: Message> Drop for Gathered<W, M> {
    /// Reports those that are lost because the incarnation ends.
    fn drop(&mut self) {
        let lost =
            self.batch.iter().filter(|envelope| !envelope.is_question()).map(|envelope| envelope.lost());
        report(
            &self.path,
            DeadLetterReason::Interrupted,
            "its incarnation ended while it gathered a batch",
            lost,
        );
    }
}

/// Sends a reply to the caller in another process, or the reason why it cannot be encoded.
fn send_encoded<R: Message>(peer: Box<dyn Reply>, answer: &R, message: &str) {
    wire::with_buffer(|buffer| {
        let (encoded, holds) = payload::collect(|| wire::encode_into(answer, buffer));
        peer.send(match encoded {
            Ok(()) => Outcome::Answered(buffer, holds),
            Err(error) => {
                // A deferred reply may be sent from a thread of the user.
                let work = current_run().map_or_else(String::new, |(path, _)| format!("work `{path}`: "));
                log::error!("{work}the answer to a message `{message}` cannot be sent: {error}");
                Outcome::Unanswered(NoReply::ReplyNotSent(error.to_string()))
            }
        });
    });
}
