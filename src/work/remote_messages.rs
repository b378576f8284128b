//! Messages from other processes, decoded for their Work.
//!
//! A message from another process consists of bytes and the name of a type. A Work declares by [`Work::messages`] which
//! types it accepts; messages between Works of one process are not encoded and need no declaration.

use std::any::type_name;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::Work;
use super::address::WorkAddr;
use super::batch::Batch;
use super::envelope::{AnyEnvelope, BoxedEnvelope, Envelope, NoReply, Outcome, Reply, ReplyTo};
use super::json::{JsonQuestion, question, question_with_status};
use super::mailbox::{Mailbox, Refused};
use super::message::{Handle, Message, ReplyOf, ReplyValue, ReplyWithStatus};
use super::recipient::{AnyReceiver, receiver};
use super::route::Origin;
use super::stamp::Stamp;
use super::watch::{WATCH, Watch};
use crate::fence;
use crate::wire::{self, CodecError};

/// The types of messages that a Work accepts from other processes and as JSON, declared in [`Work::messages`].
pub struct Messages<W: Work> {
    wanted: Option<(String, Arc<Mailbox<W>>)>,
    found: Option<Arc<dyn RemoteMessages>>,
    names: Vec<&'static str>,
    /// The bounds of the batches of each type.
    bounds: Vec<fn(&W) -> Option<Batch>>,
    asked: Option<String>,
    question: Option<JsonQuestion<W>>,
    /// The type of messages for which a receiver is wanted.
    received: Option<String>,
    receiver: Option<MakeReceiver<W>>,
}

type MakeReceiver<W> = fn(WorkAddr<W>) -> AnyReceiver;

impl<W: Work> Messages<W> {
    /// Accepts messages of type `M`. Over HTTP, a reply that is `Err` has status 422.
    pub fn accept<M: Message>(&mut self) -> &mut Self
    where
        W: Handle<M>,
    {
        self.accept_as::<M>(question::<W, M>)
    }

    /// Accepts messages of type `M`. Over HTTP, a reply that is `Err` has the status that the error says by
    /// [`HttpStatus`](crate::HttpStatus), wherever the Work runs.
    pub fn accept_with_status<M: Message>(&mut self) -> &mut Self
    where
        W: Handle<M>,
        ReplyOf<W, M>: ReplyWithStatus + ReplyValue<Item = ReplyOf<W, M>>,
    {
        self.accept_as::<M>(question_with_status::<W, M>)
    }

    fn accept_as<M: Message>(&mut self, question: JsonQuestion<W>) -> &mut Self
    where
        W: Handle<M>,
    {
        let name = type_name::<M>();
        self.names.push(name);
        self.bounds.push(<W as Handle<M>>::batch_bounds);
        if let Some((_, mailbox)) = self.wanted.take_if(|(wanted, _)| wanted == name) {
            let (envelope, come_back) = (envelope::<W, M> as Open<W>, come_back::<W, M> as OpenAgain);
            self.found = Some(Arc::new(RemoteMessagesOf { mailbox, envelope, come_back }));
        }
        if self.asked.take_if(|asked| asked == name).is_some() {
            self.question = Some(question);
        }
        if self.received.take_if(|received| received == name).is_some() {
            self.receiver = Some(receiver::<W, M>);
        }
        self
    }

    /// Calls [`Work::messages`]; a panic in it is logged and leaves the types declared so far.
    fn collect(mut self) -> Self {
        if let Err(panic) = fence::call(|| W::messages(&mut self)) {
            log::error!("`messages` of Work `{}` panicked: {panic}", type_name::<W>());
        }
        self
    }

    fn empty() -> Self {
        Self {
            wanted: None,
            found: None,
            names: Vec::new(),
            bounds: Vec::new(),
            asked: None,
            question: None,
            received: None,
            receiver: None,
        }
    }

    /// Returns the function that asks with a message of this type name as JSON.
    pub(super) fn question(name: &str) -> Option<JsonQuestion<W>> {
        Self { asked: Some(name.to_owned()), ..Self::empty() }.collect().question
    }

    /// Returns the function that makes a receiver of messages of this type name.
    pub(super) fn receiver(name: &str) -> Option<MakeReceiver<W>> {
        Self { received: Some(name.to_owned()), ..Self::empty() }.collect().receiver
    }

    pub(super) fn find(mailbox: Arc<Mailbox<W>>, name: &str) -> Option<Arc<dyn RemoteMessages>> {
        if name == WATCH {
            return Some(Arc::new(RemoteWatches { mailbox }));
        }
        Self { wanted: Some((name.to_owned(), mailbox)), ..Self::empty() }.collect().found
    }

    /// Returns the largest number of messages that a Work in this state takes in one batch.
    pub(crate) fn largest_batch(work: &W) -> usize {
        let bounds = Self::empty().collect().bounds;
        let largest =
            fence::call(|| bounds.iter().filter_map(|bounds| bounds(work)).map(Batch::messages).max());
        largest.ok().flatten().unwrap_or(1)
    }

    /// Returns the names of all accepted types.
    pub(crate) fn names() -> Vec<&'static str> {
        Self::empty().collect().names
    }
}

/// The way into one mailbox for messages of one type from other processes.
pub(crate) trait RemoteMessages: Send + Sync {
    /// Delivers a message to this incarnation of the Work or, without an incarnation, sends it on to where the Work
    /// lives.
    fn receive(&self, arrived: Arrived<'_>, incarnation: Option<u64>) -> Received;

    /// Decodes a tell that this process had sent to another process, which has given it back.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes cannot be decoded as the message.
    fn come_back(&self, body: &[u8], stamp: Stamp) -> Result<Box<dyn AnyEnvelope>, CodecError>;
}

/// A message that has arrived from another process, encoded.
pub(crate) struct Arrived<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) stamp: Stamp,
    /// Return channel for the reply, if the message is an ask.
    pub(crate) reply: Option<Box<dyn Reply>>,
    pub(crate) origin: Arc<dyn Origin>,
}

/// Result of a message that arrived.
pub(crate) enum Received {
    Taken,
    /// The mailbox is full. The future completes once the message is accepted, before any message that is received
    /// later; its result is true if the message was given back to its sender instead.
    Waits(BoxFuture<'static, bool>),
    /// The Work is not in this process; the message was given back to its sender.
    Moved,
    Unreadable(CodecError),
}

type Open<W> = fn(Arrived<'_>) -> Result<BoxedEnvelope<W>, CodecError>;
type OpenAgain = fn(&[u8], Stamp) -> Result<Box<dyn AnyEnvelope>, CodecError>;

struct RemoteMessagesOf<W: Work> {
    mailbox: Arc<Mailbox<W>>,
    envelope: Open<W>,
    come_back: OpenAgain,
}

/// The way into one mailbox for watches from other processes.
struct RemoteWatches<W: Work> {
    mailbox: Arc<Mailbox<W>>,
}

impl<W: Work> RemoteMessages for RemoteWatches<W> {
    fn receive(&self, arrived: Arrived<'_>, incarnation: Option<u64>) -> Received {
        // A watch has an answer. Without one, there is nobody who could be told.
        let Some(reply) = arrived.reply else { return Received::Taken };
        let watch = Watch::<W>::arrived(reply, arrived.origin);
        match (self.mailbox.keep_watch(watch, incarnation), incarnation) {
            (Ok(()), _) => Received::Taken,
            (Err(watch), Some(_)) => {
                self.mailbox.settle(Refused::Moved(watch));
                Received::Moved
            }
            (Err(watch), None) => {
                let mailbox = self.mailbox.clone();
                Received::Waits(Box::pin(async move {
                    mailbox.watch(watch).await.map_err(|refused| mailbox.settle(refused)).is_err()
                }))
            }
        }
    }

    fn come_back(&self, _: &[u8], _: Stamp) -> Result<Box<dyn AnyEnvelope>, CodecError> {
        Err(CodecError::written::<()>(io::Error::other("a watch is never told")))
    }
}

fn envelope<W: Handle<M>, M: Message>(arrived: Arrived<'_>) -> Result<BoxedEnvelope<W>, CodecError> {
    let Arrived { body, stamp, reply, origin } = arrived;
    let reply = match reply {
        Some(reply) if reply.window().is_some() != <ReplyOf<W, M> as ReplyValue>::IS_STREAM => {
            let why = "one end takes the reply for a stream, and the other does not".to_owned();
            reply.send(Outcome::Unanswered(NoReply::Unreadable(why.clone())));
            return Err(CodecError::written::<M>(io::Error::other(why)));
        }
        reply => reply,
    };
    match (wire::decode::<M>(body), reply) {
        (Ok(message), None) => Ok(Envelope::<W, M>::stamped(message, stamp, ReplyTo::Nobody(Some(origin)))),
        (Ok(message), Some(reply)) => {
            Ok(Envelope::<W, M>::stamped(message, stamp, ReplyTo::Peer(reply, Some(origin))))
        }
        (Err(error), reply) => {
            if let Some(reply) = reply {
                reply.send(Outcome::Unanswered(NoReply::Unreadable(error.to_string())));
            }
            Err(error)
        }
    }
}

fn come_back<W: Handle<M>, M: Message>(
    body: &[u8],
    stamp: Stamp,
) -> Result<Box<dyn AnyEnvelope>, CodecError> {
    let message = wire::decode::<M>(body)?;
    Ok(Envelope::<W, M>::stamped(message, stamp, ReplyTo::Nobody(None)))
}

impl<W: Work> RemoteMessages for RemoteMessagesOf<W> {
    fn receive(&self, arrived: Arrived<'_>, incarnation: Option<u64>) -> Received {
        let envelope = match (self.envelope)(arrived) {
            Ok(envelope) => envelope,
            Err(error) => return Received::Unreadable(error),
        };
        let mailbox = self.mailbox.clone();
        let refused = match incarnation {
            Some(incarnation) => match self.mailbox.receive(envelope, incarnation) {
                Ok(()) => return Received::Taken,
                Err(Refused::Full(envelope)) => {
                    return Received::Waits(Box::pin(async move {
                        let received = mailbox.receive_when_there_is_room(envelope, incarnation).await;
                        received.map_err(|refused| mailbox.settle(refused)).is_err()
                    }));
                }
                Err(
                    Refused::Closed(envelope, _)
                    | Refused::Moved(envelope)
                    | Refused::Unsendable(envelope, _),
                ) => Refused::Moved(envelope as Box<dyn AnyEnvelope>),
            },
            None => match self.mailbox.try_send(envelope) {
                Ok(()) => return Received::Taken,
                Err(Refused::Full(envelope)) => {
                    return Received::Waits(Box::pin(async move {
                        let sent = mailbox.send(super::mailbox::typed(envelope)).await;
                        sent.map_err(|refused| mailbox.settle(refused)).is_err()
                    }));
                }
                Err(refused) => refused,
            },
        };
        self.mailbox.settle(refused);
        Received::Moved
    }

    fn come_back(&self, body: &[u8], stamp: Stamp) -> Result<Box<dyn AnyEnvelope>, CodecError> {
        (self.come_back)(body, stamp)
    }
}
