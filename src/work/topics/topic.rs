//! A topic in one process: publishing, and the subscribers of the process.

use std::any::{Any, type_name};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::Work;
use super::super::context::WorkContext;
use super::super::dead_letters::{DeadLetterReason, DeadLetters, Lost, SenderId, report};
use super::super::executing::current_sender;
use super::super::message::Message;
use super::super::stamp::Stamp;
use super::error::{TopicError, TopicRefusal, check_topic};
use super::registry::{Answer, AnyTopic, GONE, Published, Topics};
use super::statistics::{REPORTED_SUBSCRIBERS, SubscriberReport, TopicCounts, TopicReport};
use crate::fence::{self, Fenced};
use crate::id::AppId;
use crate::payload;
use crate::runtime::{self, Runtime};
use crate::trace::Cause;
use crate::wire;

/// A topic of an App: messages of type `M` that are published by name, for whoever subscribes. Cloneable and serialisable,
/// so that it can be part of inputs, states and messages.
///
/// [`WorkContext::topic`] and [`Control::topic`](crate::Control::topic) open it. A Work gets the messages by
/// [`WorkContext::subscribe`] and its `impl Handle<M>`, wherever it and the publisher run. They need no entry in
/// [`Work::messages`].
///
/// - Each message reaches a subscriber at most once, and messages of one publisher reach it in their order.
/// - [`publish`](Self::publish) never waits: a subscriber that falls behind loses messages, as its
///   [`Backlog`](crate::Backlog) says, and holds up nobody. Send a message where each must arrive.
/// - A message that is published after [`WorkContext::subscribe`] has returned reaches the subscriber, unless its backlog
///   or the session to its process is full, or a process is lost.
/// - Within a process messages are cloned and not encoded. For other processes a message is encoded once, and sent once to
///   each process with a subscriber, from another process than that of the head by way of the head. Make large parts a
///   [`Payload`](crate::Payload) or an `Arc`.
///
/// The topic has one type of messages in the whole App as long as any `Topic` or subscription of it exists.
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::{Backlog, Topic};
/// #[derive(Clone, Serialize, Deserialize)]
/// struct NewCheckpoint(u32);
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Server {
///     is_ready: bool,
///     checkpoint: u32,
/// }
///
/// impl Work for Server {
///     type Input = ();
///
///     async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
///         let checkpoints: Topic<NewCheckpoint> = cx.topic("checkpoints").await?;
///         cx.subscribe(&checkpoints, Backlog::of(1)).await?; // only the newest counts
///         self.is_ready = true;
///         Ok(())
///     }
/// }
///
/// impl Handle<NewCheckpoint> for Server {
///     type Reply = ();
///
///     async fn handle(&mut self, NewCheckpoint(number): NewCheckpoint, cx: &mut WorkContext<Self>) {
///         self.checkpoint = number;
///         cx.publish(self);
///     }
/// }
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Train;
///
/// impl Work for Train {
///     type Input = u32;
///
///     async fn run(&mut self, epochs: u32, cx: &mut WorkContext<Self>) -> Result<()> {
///         let checkpoints = cx.topic("checkpoints").await?;
///         for epoch in 1..=epochs {
///             checkpoints.publish(NewCheckpoint(epoch))?;
///         }
///         Ok(())
///     }
/// }
///
/// # #[derive(Default, Serialize, Children)]
/// # struct Root { server: WorkRef<Server>, train: WorkRef<Train> }
/// # impl Flow for Root {
/// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
/// #         if self.server.is_ready {
/// #             self.train.run(3).finished()?;
/// #         }
/// #         if self.server.checkpoint == 3 {
/// #             cx.stop("done");
/// #         }
/// #         Ok(())
/// #     }
/// # }
/// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
/// ```
pub struct Topic<M: Message + Clone> {
    app: AppId,
    name: Arc<str>,
    /// `None` if this process takes no part in the App.
    here: Option<Arc<TopicHere<M>>>,
}

/// A topic in this process.
pub(super) struct TopicHere<M: Message> {
    name: Arc<str>,
    topics: Arc<Topics>,
    /// Shared with those that hand out a message at the moment.
    subscribers: Mutex<Subscribers<M>>,
    pub(super) counted: Counted,
    refusal: OnceLock<TopicRefusal>,
}

type Subscribers<M> = Arc<Vec<Arc<dyn Subscribes<M>>>>;

/// Numbers of messages of a topic in this process.
#[derive(Default)]
pub(super) struct Counted {
    published: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

impl Counted {
    pub(super) fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> TopicCounts {
        TopicCounts {
            published: self.published.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// A subscriber in this process.
pub(super) trait Subscribes<M>: Send + Sync {
    /// Adds a message to its backlog. Never waits.
    fn offer(&self, message: Fenced<M>, stamp: &Stamp);

    fn report(&self) -> SubscriberReport;
}

impl<M: Message + Clone> Topic<M> {
    /// Opens a topic of an App, and waits for the head if this process is another one.
    pub(crate) async fn open(runtime: &Runtime, name: &str) -> Result<Self, TopicError> {
        let (topic, answer) = Self::open_here(runtime, name)?;
        if let Some(here) = &topic.here {
            here.confirmed(answer).await?;
        }
        Ok(topic)
    }

    fn open_here(runtime: &Runtime, name: &str) -> Result<(Self, Option<Answer>), TopicError> {
        check_topic(name)?;
        let topics = Topics::of(runtime);
        let (here, answer) = topics.open(name, type_name::<M>(), |name| {
            Arc::new(TopicHere {
                name,
                topics: topics.clone(),
                subscribers: Mutex::default(),
                counted: Counted::default(),
                refusal: OnceLock::new(),
            })
        })?;
        Ok((Self { app: runtime.app(), name: here.name.clone(), here: Some(here) }, answer))
    }

    /// Returns the name of the topic.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn here(&self) -> Result<&Arc<TopicHere<M>>, TopicError> {
        self.here.as_ref().ok_or_else(|| TopicError::Unreachable {
            topic: self.name.to_string(),
            why: "this process takes no part in its App".to_owned(),
        })
    }

    /// Publishes a message to all that subscribe at the moment, the publisher included. Never waits, and does not fail for
    /// a subscriber: one that has no room loses messages, as its [`Backlog`](crate::Backlog) says.
    ///
    /// Clones the message once for each subscriber in this process but the last.
    ///
    /// # Errors
    /// [`TopicError::Unsendable`] if the message cannot be encoded for other processes or is too large for them: the
    /// subscribers in this process get it. [`TopicError::OtherType`] and [`TopicError::Unreachable`] for a topic that was
    /// deserialised where it cannot be used.
    pub fn publish(&self, message: M) -> Result<(), TopicError> {
        self.here()?.publish(message)
    }
}

impl<M: Message> TopicHere<M> {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    fn error(&self, refusal: TopicRefusal) -> TopicError {
        refusal.into_error(&self.name, type_name::<M>())
    }

    /// Waits for the answer of the head to a declaration.
    pub(super) async fn confirmed(&self, answer: Option<Answer>) -> Result<(), TopicError> {
        let Some(answer) = answer else { return Ok(()) };
        match answer.await {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => Err(self.error(refusal)),
            Err(_) => Err(TopicError::Unreachable { topic: self.name.to_string(), why: GONE.to_owned() }),
        }
    }
}

impl<M: Message + Clone> TopicHere<M> {
    /// Adds a subscriber. Returns the answer of the head that is to be awaited.
    pub(super) fn add(&self, subscriber: Arc<dyn Subscribes<M>>) -> Result<Option<Answer>, TopicError> {
        Arc::make_mut(&mut *self.subscribers.lock()).push(subscriber);
        self.topics.declare(&self.name, self, true)
    }

    /// Removes a subscriber.
    pub(super) fn remove(&self, subscriber: *const ()) {
        let mut removed = Vec::new();
        {
            let mut subscribers = self.subscribers.lock();
            let is_it =
                |other: &mut Arc<dyn Subscribes<M>>| std::ptr::addr_eq(Arc::as_ptr(other), subscriber);
            removed.extend(Arc::make_mut(&mut *subscribers).extract_if(.., is_it));
        }
        // Nobody waits for the answer: until the head knows, it sends messages that are ignored here.
        let _ = self.topics.declare(&self.name, self, false);
        drop(removed);
    }

    fn publish(&self, message: M) -> Result<(), TopicError> {
        if let Some(refusal) = self.refusal.get() {
            return Err(self.error(refusal.clone()));
        }
        let message = Fenced::new(message);
        self.counted.published.fetch_add(1, Ordering::Relaxed);
        let stamp = Stamp { cause: Cause::current(), sender: current_sender(), is_first: false };
        let sent = self.topics.publish(&self.name, || {
            let (body, holds) = payload::collect(|| wire::encode(&*message));
            let published = body.map(|body| Published {
                topic: self.name.to_string(),
                message: type_name::<M>().to_owned(),
                body,
                sender: sender_path(stamp.sender),
                trace: stamp.cause.clone(),
            });
            (published, holds)
        });
        self.fan_out(message, &stamp);
        match sent {
            Ok(dropped) => {
                self.counted.dropped(dropped);
                Ok(())
            }
            Err(why) => Err(TopicError::Unsendable { topic: self.name.to_string(), why }),
        }
    }

    /// Hands a message to the subscribers of this process.
    fn fan_out(&self, message: Fenced<M>, stamp: &Stamp) {
        let subscribers = self.subscribers.lock().clone();
        let Some((last, others)) = subscribers.split_last() else { return };
        for subscriber in others {
            // It may be code of another Work that publishes.
            match fence::call(|| M::clone(&message)) {
                Ok(copy) => subscriber.offer(Fenced::new(copy), stamp),
                Err(panic) => {
                    self.counted.dropped(1);
                    let (name, message) = (&self.name, type_name::<M>());
                    log::error!("a message `{message}` to topic `{name}` panicked in its `Clone`: {panic}");
                }
            }
        }
        last.offer(message, stamp);
    }
}

/// Returns the path of the Work that has this number as a sender.
fn sender_path(sender: SenderId) -> Option<crate::id::ActorPath> {
    if !sender.is_work() {
        return None;
    }
    DeadLetters::of(&*runtime::current().ok()?).path_of(sender)
}

impl<M: Message + Clone> AnyTopic for TopicHere<M> {
    fn message(&self) -> &'static str {
        type_name::<M>()
    }

    fn has_subscribers(&self) -> bool {
        !self.subscribers.lock().is_empty()
    }

    fn receive(&self, published: &Published) {
        let letters = runtime::current().ok().map(|runtime| DeadLetters::of(&runtime));
        let sender = match (&published.sender, letters) {
            (None, _) => SenderId::OUTSIDE,
            (Some(_), None) => SenderId::UNKNOWN,
            (Some(path), Some(letters)) => letters.sender(path),
        };
        match wire::decode::<M>(&published.body) {
            Ok(message) => {
                let stamp = Stamp { cause: published.trace.clone(), sender, is_first: false };
                self.fan_out(Fenced::new(message), &stamp);
            }
            Err(error) => {
                let subscribers = self.subscribers.lock().clone();
                self.counted.dropped(subscribers.len() as u64);
                let why = format!("a message to topic `{}` cannot be read: {error}", self.name);
                for subscriber in &*subscribers {
                    let lost = [Lost::new(type_name::<M>(), sender)];
                    report(&subscriber.report().path, DeadLetterReason::Unsendable, &why, lost);
                }
            }
        }
    }

    fn refuse(&self, refusal: TopicRefusal) {
        if self.refusal.set(refusal.clone()).is_ok() {
            log::error!("{}", self.error(refusal));
        }
    }

    fn report(&self) -> TopicReport {
        let subscribers = self.subscribers.lock().clone();
        TopicReport {
            topic: self.name.to_string(),
            message: type_name::<M>().to_owned(),
            counts: self.counted.counts(),
            subscriber_count: subscribers.len() as u64,
            subscribers: subscribers.iter().take(REPORTED_SUBSCRIBERS).map(|each| each.report()).collect(),
        }
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<M: Message> Drop for TopicHere<M> {
    fn drop(&mut self) {
        self.topics.closed(&self.name, std::ptr::from_ref(self).cast(), self.counted.counts());
    }
}

impl<M: Message + Clone> Clone for Topic<M> {
    fn clone(&self) -> Self {
        Self { app: self.app, name: self.name.clone(), here: self.here.clone() }
    }
}

impl<M: Message + Clone> PartialEq for Topic<M> {
    fn eq(&self, other: &Self) -> bool {
        self.app == other.app && self.name == other.name
    }
}

impl<M: Message + Clone> Eq for Topic<M> {}

impl<M: Message + Clone> fmt::Debug for Topic<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.name)
    }
}

impl<M: Message + Clone> Serialize for Topic<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.app, &*self.name).serialize(serializer)
    }
}

impl<'de, M: Message + Clone> Deserialize<'de> for Topic<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (app, name) = <(AppId, String)>::deserialize(deserializer)?;
        match runtime::of_app(app) {
            Some(runtime) => {
                let opened = Self::open_here(&runtime, &name);
                // Whether the head agrees is known when the topic is used.
                opened.map(|(topic, _)| topic).map_err(serde::de::Error::custom)
            }
            None => {
                check_topic(&name).map_err(serde::de::Error::custom)?;
                Ok(Self { app, name: name.into(), here: None })
            }
        }
    }
}

impl<W: Work> WorkContext<W> {
    /// Opens the topic of this name, whose messages are of type `M` in the whole App. Asks the head if this Work runs in
    /// another process and is the first there to open it. Keep the [`Topic`] to publish many messages.
    ///
    /// A name has 1 to 200 characters: ASCII letters, digits, `.`, `_`, `-` and `:`. See [`Topic`] for an example.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`TopicError`] if the topic has messages of another type, which the error names, if the name is not one, if this
    /// process has 4,096 topics, or if the head cannot be asked.
    pub async fn topic<M: Message + Clone>(&self, name: &str) -> Result<Topic<M>, TopicError> {
        Topic::open(self.runtime(), name).await
    }
}
