//! The subscription of one incarnation of a Work to a topic.
//!
//! Messages wait in the backlog of the subscription and not in the mailbox of the Work. The mailbox has a *call* for it while
//! messages wait, which takes its turn as a message does; a handler then gets the first message of the backlog.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::BytesMut;
use futures::future::{LocalBoxFuture, ready};
use parking_lot::Mutex;

use super::super::context::WorkContext;
use super::super::dead_letters::{CALL, DeadLetterReason, Lost, SenderId, report};
use super::super::end::End;
use super::super::envelope::{AnyEnvelope, BoxedEnvelope, Deliver, Envelope, Outcome, ReplyTo};
use super::super::mailbox::Mailbox;
use super::super::message::{Handle, HandledBy, Message};
use super::super::stamp::Stamp;
use super::super::stream_ends::OfIncarnation;
use super::backlog::{Added, Backlog, Waiting};
use super::error::TopicError;
use super::statistics::SubscriberReport;
use super::topic::{Subscribes, Topic, TopicHere};
use crate::fence::Fenced;
use crate::id::ActorPath;
use crate::trace::Cause;
use crate::wire::CodecError;

/// The subscription of a Work to a [`Topic`], made by [`WorkContext::subscribe`](crate::WorkContext::subscribe).
///
/// It ends with the incarnation that has subscribed. Dropping this value changes nothing.
pub struct Subscription {
    of: Weak<dyn Ends>,
}

impl Subscription {
    /// Ends the subscription. Messages that wait are dropped; a handler that has begun continues.
    pub fn cancel(&self) {
        if let Some(subscriber) = self.of.upgrade() {
            subscriber.end(false);
        }
    }

    /// Returns true if the subscription was cancelled, or its incarnation has ended.
    pub fn is_over(&self) -> bool {
        self.of.upgrade().is_none_or(|subscriber| subscriber.is_over())
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("is_over", &self.is_over()).finish()
    }
}

/// A subscriber, for its handle.
trait Ends: Send + Sync {
    /// Ends the subscription. If `is_lost`, the messages that wait are dead letters.
    fn end(&self, is_lost: bool);

    fn is_over(&self) -> bool;
}

/// A message in a backlog.
struct Item<M> {
    message: Fenced<M>,
    stamp: Stamp,
}

struct Subscriber<W: Handle<M>, M: Message + Clone> {
    topic: Arc<TopicHere<M>>,
    mailbox: Arc<Mailbox<W>>,
    incarnation: u64,
    path: ActorPath,
    backlog: Backlog,
    waiting: Mutex<Waiting<Item<M>>>,
    delivered: AtomicU64,
    dropped: AtomicU64,
    me: Weak<Self>,
}

impl<W: Handle<M>, M: Message + Clone> Subscriber<W, M> {
    /// Puts a call into the mailbox of the Work. The subscription is over if the incarnation does not receive any more.
    fn call(&self) {
        let call = Box::new(Call { of: self.me.upgrade() });
        if let Err(call) = self.mailbox.post_here(call, self.incarnation) {
            // It ends the subscription.
            drop(call);
        }
    }

    fn count_dropped(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        self.topic.counted.dropped(count as u64);
    }
}

impl<W: Handle<M>, M: Message + Clone> Subscribes<M> for Subscriber<W, M> {
    fn offer(&self, message: Fenced<M>, stamp: &Stamp) {
        let item = Item { message, stamp: stamp.clone() };
        let added = self.waiting.lock().add(item);
        let Ok(Added { calls, dropped }) = added else { return };
        if calls {
            self.call();
        }
        if dropped.is_some() {
            self.count_dropped(1);
        }
    }

    fn report(&self) -> SubscriberReport {
        SubscriberReport {
            path: self.path.clone(),
            bound: self.backlog.bound() as u64,
            overflow: self.backlog.overflow(),
            waiting: self.waiting.lock().len() as u64,
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

impl<W: Handle<M>, M: Message + Clone> Ends for Subscriber<W, M> {
    fn end(&self, is_lost: bool) {
        let Some(left) = self.waiting.lock().end() else { return };
        self.topic.remove(std::ptr::from_ref(self).cast());
        self.topic.topics().end_subscription();
        self.count_dropped(left.len());
        if is_lost {
            let lost = left.iter().map(|item| Lost::new(type_name::<M>(), item.stamp.sender));
            let why = format!("its subscription to topic `{}` has ended", self.topic.name());
            report(&self.path, DeadLetterReason::Interrupted, &why, lost);
        }
        // The call that waits is not needed any more.
        self.mailbox.drop_abandoned();
    }

    fn is_over(&self) -> bool {
        self.waiting.lock().is_over()
    }
}

impl<W: Handle<M>, M: Message + Clone> OfIncarnation for Subscriber<W, M> {
    fn incarnation_ended(&self, _: &End) {
        self.end(true);
    }
}

/// A call for a subscriber in the mailbox of its Work. Dropped unused, it ends the subscription.
struct Call<W: Handle<M>, M: Message + Clone> {
    of: Option<Arc<Subscriber<W, M>>>,
}

impl<W: Handle<M>, M: Message + Clone> Call<W, M> {
    /// Takes the first message of the backlog, for a handler that begins.
    fn take(&mut self) -> Option<Box<Envelope<W, M>>> {
        let of = self.of.take()?;
        let (item, calls) = of.waiting.lock().take();
        if calls {
            of.call();
        }
        let Item { message, stamp } = item?;
        of.delivered.fetch_add(1, Ordering::Relaxed);
        of.topic.counted.delivered();
        Some(Envelope::stamped(message.into_inner(), stamp, ReplyTo::Nobody(None)))
    }
}

impl<W: Handle<M>, M: Message + Clone> Drop for Call<W, M> {
    fn drop(&mut self) {
        if let Some(of) = self.of.take() {
            of.end(true);
        }
    }
}

impl<W: Handle<M>, M: Message + Clone> AnyEnvelope for Call<W, M> {
    fn message_type(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn name(&self) -> &'static str {
        CALL
    }

    fn message(&self) -> &dyn Any {
        self
    }

    fn write(&self, _: &mut BytesMut) -> Result<(), CodecError> {
        Err(CodecError::written::<M>(std::io::Error::other("a subscription stays with its incarnation")))
    }

    fn is_question(&self) -> bool {
        false
    }

    fn is_abandoned(&self) -> bool {
        self.of.as_ref().is_none_or(|of| of.is_over())
    }

    fn cause(&self) -> Cause {
        Cause::default()
    }

    fn sender(&self) -> SenderId {
        SenderId::OUTSIDE
    }

    fn settle(self: Box<Self>, _: Outcome<'_>) -> bool {
        false
    }

    /// Returns the first message of the backlog in an envelope.
    fn into_any(mut self: Box<Self>) -> Box<dyn Any> {
        match self.take() {
            Some(envelope) => envelope,
            None => Box::new(()),
        }
    }

    fn into_typed(self: Box<Self>) -> Box<dyn Any> {
        let envelope: BoxedEnvelope<W> = self;
        Box::new(envelope)
    }
}

impl<W: Handle<M>, M: Message + Clone> Deliver<W> for Call<W, M> {
    fn deliver<'a>(
        mut self: Box<Self>,
        work: &'a mut W,
        cx: &'a mut WorkContext<W>,
    ) -> LocalBoxFuture<'a, ()> {
        match self.take() {
            Some(envelope) => envelope.deliver(work, cx),
            None => Box::pin(ready(())),
        }
    }
}

/// Ends a subscription unless it is complete.
struct Incomplete<'a>(Option<&'a dyn Ends>);

impl Drop for Incomplete<'_> {
    fn drop(&mut self) {
        if let Some(subscriber) = self.0.take() {
            subscriber.end(false);
        }
    }
}

impl<W: super::super::Work> WorkContext<W> {
    /// Subscribes this Work to a topic: from now on its `impl Handle<M>` gets each message that is published, until this
    /// incarnation ends or [`Subscription::cancel`] is called. Subscribe in `on_start`, `run` or a handler. See [`Topic`] for
    /// an example.
    ///
    /// Messages wait in the `backlog` of the subscription, which has a bound and a policy of its own. In the mailbox they have
    /// one place in all, so that they take turns with the messages there. A Work that subscribes twice gets each message
    /// twice.
    ///
    /// Waits for the head if this Work runs in another process: messages that are published after this has returned
    /// reach the Work from wherever they are published.
    ///
    /// # Cancel safety
    /// The Work is not subscribed if the future is dropped before it is ready.
    ///
    /// # Errors
    /// [`TopicError`] if the topic has messages of another type, if the Works of this process have 65,536 subscriptions, or
    /// if the head cannot be asked.
    pub async fn subscribe<M: HandledBy<W> + Clone>(
        &mut self,
        topic: &Topic<M>,
        backlog: Backlog,
    ) -> Result<Subscription, TopicError> {
        let topic = topic.here()?;
        topic.topics().begin_subscription(topic.name())?;
        let receiver = self.receiver();
        let (mailbox, incarnation) = (receiver.mailbox().clone(), receiver.incarnation());
        let path = self.path().clone();
        let subscriber = Arc::new_cyclic(|me| Subscriber::<W, M> {
            topic: topic.clone(),
            mailbox,
            incarnation,
            path,
            backlog,
            waiting: Mutex::new(Waiting::new(backlog)),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            me: me.clone(),
        });
        let mut incomplete = Incomplete(Some(&*subscriber));
        let answer = topic.add(subscriber.clone())?;
        let of_incarnation: Arc<dyn OfIncarnation> = subscriber.clone();
        self.receiver().keep_with_incarnation(&of_incarnation);
        topic.confirmed(answer).await?;
        incomplete.0 = None;
        drop(incomplete);
        let subscriber: Arc<dyn Ends> = subscriber;
        Ok(Subscription { of: Arc::downgrade(&subscriber) })
    }
}
