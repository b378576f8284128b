//! Addresses of anything that handles one type of message.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Work;
use super::address::{Directory, WorkAddr};
use super::ask::{Ask, LeadsAway, Opening};
use super::cycles::AskId;
use super::message::{AskError, Handle, Message, ReplyOf, ReplyValue, SendError};
use super::streamed::Streamed;
use super::streamed_reply::StreamedReply;
use super::work_type::WorkType;
use crate::fence::Fenced;
use crate::id::{ActorPath, AppId};

/// The address of any Work that handles messages of type `M`, whatever the type of the Work: cloneable, comparable and
/// serialisable as a [`WorkAddr`] is.
///
/// `WorkAddr::into` makes a `Recipient<M>`, of which an `ask` yields `()` once the message is handled, and drops the reply:
/// a stream once it is opened. [`WorkAddr::recipient`] makes a `Recipient<M, R>`, of which it yields the reply; a
/// `Recipient<M, Streamed<T>>` has [`stream`](Recipient::stream) in place of `ask`.
///
/// A recipient that is deserialised finds its handler by the name of the message. The Work therefore has to accept `M` in
/// [`Work::messages`] if its recipients are part of inputs, states or messages.
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::{Messages, Recipient};
/// /// A message that several types of Works handle.
/// #[derive(Clone, Serialize, Deserialize)]
/// struct NewCheckpoint(String);
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Server {
///     checkpoint: String,
/// }
///
/// impl Work for Server {
///     type Input = ();
///
///     fn messages(messages: &mut Messages<Self>) {
///         messages.accept::<NewCheckpoint>();
///     }
/// }
///
/// impl Handle<NewCheckpoint> for Server {
///     type Reply = usize;
///
///     async fn handle(&mut self, NewCheckpoint(name): NewCheckpoint, _cx: &mut WorkContext<Self>) -> usize {
///         self.checkpoint = name;
///         self.checkpoint.len()
///     }
/// }
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Train;
///
/// impl Work for Train {
///     /// The Works that want to know of checkpoints.
///     type Input = Vec<Recipient<NewCheckpoint>>;
///
///     async fn run(&mut self, subscribers: Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
///         for subscriber in &subscribers {
///             subscriber.tell(NewCheckpoint("epoch-1".to_owned())).await?;
///         }
///         Ok(())
///     }
/// }
///
/// #[derive(Default, Serialize, Children)]
/// struct Root {
///     server: WorkRef<Server>,
///     train: WorkRef<Train>,
/// }
///
/// impl Flow for Root {
///     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
///         self.train.run(vec![self.server.addr().into()]).finished()?;
///         cx.stop("done");
///         Ok(())
///     }
/// }
/// # flowright::testing::TestApp::start(Root::default).wait_for_exit().result.unwrap();
/// ```
pub struct Recipient<M: Message, R: ReplyValue = ()> {
    app: AppId,
    path: ActorPath,
    to: Option<Arc<dyn Receives<M>>>,
    reply: PhantomData<fn() -> R>,
}

/// A reply whose type is known to the recipient only.
type AnyReply = Fenced<Box<dyn Any + Send>>;

/// A Work of any type that handles messages of type `M`.
trait Receives<M: Message>: LeadsAway {
    /// Returns the type of the Work.
    fn work_type(&self) -> &'static WorkType;

    /// Returns the type of the reply, and its name.
    fn reply_type(&self) -> (TypeId, &'static str);

    /// Registers the mailbox for deserialised addresses.
    fn remember(&self);

    fn waiting(&self) -> usize;

    fn try_tell(&self, message: M) -> Result<(), SendError<M>>;

    fn tell(&self, message: M) -> BoxFuture<'_, Result<(), SendError<M>>>;

    fn tell_first(&self, message: M) -> BoxFuture<'_, Result<(), SendError<M>>>;

    /// Sends a message and waits for the reply without a limit: for a stream, until it is opened. The window of a stream is
    /// read when the future is polled first.
    fn exchange(
        &self,
        message: M,
        window: Arc<AtomicU32>,
        ask: AskId,
    ) -> BoxFuture<'_, Result<AnyReply, AskError<M>>>;
}

impl<W: Handle<M>, M: Message> Receives<M> for WorkAddr<W> {
    fn work_type(&self) -> &'static WorkType {
        WorkType::of::<W>()
    }

    fn reply_type(&self) -> (TypeId, &'static str) {
        (TypeId::of::<ReplyOf<W, M>>(), type_name::<ReplyOf<W, M>>())
    }

    fn remember(&self) {
        self.remember();
    }

    fn waiting(&self) -> usize {
        self.waiting()
    }

    fn try_tell(&self, message: M) -> Result<(), SendError<M>> {
        self.try_tell(message)
    }

    fn tell(&self, message: M) -> BoxFuture<'_, Result<(), SendError<M>>> {
        self.tell(message).boxed()
    }

    fn tell_first(&self, message: M) -> BoxFuture<'_, Result<(), SendError<M>>> {
        self.tell_first(message).boxed()
    }

    fn exchange(
        &self,
        message: M,
        window: Arc<AtomicU32>,
        ask: AskId,
    ) -> BoxFuture<'_, Result<AnyReply, AskError<M>>> {
        if <ReplyOf<W, M> as ReplyValue>::IS_STREAM {
            let opening = self.open_stream(message, window, None, ask);
            return async move { opening.await.map(|stream| -> AnyReply { Fenced::new(Box::new(stream)) }) }
                .boxed();
        }
        let exchange = self.exchange(message, ask);
        async move { exchange.await.map(|reply| -> AnyReply { Fenced::new(Box::new(reply)) }) }.boxed()
    }
}

/// The handler of a recipient whose type of Work is not known, for [`Recipient`]'s `Deserialize`: an
/// `Arc<dyn Receives<M>>`.
pub(super) type AnyReceiver = Box<dyn Any>;

/// Returns a receiver of messages of type `M`.
pub(super) fn receiver<W: Handle<M>, M: Message>(work: WorkAddr<W>) -> AnyReceiver {
    let receiver: Arc<dyn Receives<M>> = Arc::new(work);
    Box::new(receiver)
}

impl<W: Work> WorkAddr<W> {
    /// Returns the address without the type of the Work, for messages of type `M`. An `ask` of it yields the reply.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::Recipient;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Predict(f64);
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Server;
    /// # impl Work for Server { type Input = (); }
    /// # impl Handle<Predict> for Server {
    /// #     type Reply = f64;
    /// #     async fn handle(&mut self, m: Predict, _: &mut WorkContext<Self>) -> f64 { m.0 }
    /// # }
    /// async fn twice(model: Recipient<Predict, f64>) -> Result<f64> {
    ///     Ok(model.ask(Predict(1.0)).await? + model.ask(Predict(2.0)).await?)
    /// }
    ///
    /// # fn f(server: WorkAddr<Server>) {
    /// let _ = twice(server.recipient());
    /// # }
    /// ```
    pub fn recipient<M: Message>(&self) -> Recipient<M, ReplyOf<W, M>>
    where
        W: Handle<M>,
    {
        Recipient::new(self.clone())
    }
}

impl<W: Handle<M>, M: Message> From<WorkAddr<W>> for Recipient<M> {
    fn from(work: WorkAddr<W>) -> Self {
        Self::new(work)
    }
}

impl<M: Message, R: ReplyValue> Recipient<M, R> {
    fn new<W: Handle<M>>(work: WorkAddr<W>) -> Self {
        let (app, path) = (work.app(), work.path().clone());
        let is_known = work.mailbox().is_some();
        let to = is_known.then(|| -> Arc<dyn Receives<M>> { Arc::new(work) });
        Self { app, path, to, reply: PhantomData }
    }

    /// Returns the path of the Work.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// Returns the number of messages that wait, as [`WorkAddr::waiting`] does.
    pub fn waiting(&self) -> usize {
        self.to.as_ref().map_or(0, |to| to.waiting())
    }

    /// Sends a message without a reply, as [`WorkAddr::tell`] does. Costs one allocation more.
    ///
    /// # Cancel safety
    /// A future that is dropped before it completes does not send the message.
    ///
    /// # Errors
    /// The errors of [`WorkAddr::tell`].
    pub async fn tell(&self, message: M) -> Result<(), SendError<M>> {
        match &self.to {
            Some(to) => to.tell(message).await,
            None => Err(SendError::unknown(&self.path, message)),
        }
    }

    /// Sends a message without a reply that is handled before all others that wait, as [`WorkAddr::tell_first`] does. Costs
    /// one allocation more.
    ///
    /// # Cancel safety
    /// A future that is dropped before it completes does not send the message.
    ///
    /// # Errors
    /// The errors of [`WorkAddr::tell`].
    pub async fn tell_first(&self, message: M) -> Result<(), SendError<M>> {
        match &self.to {
            Some(to) => to.tell_first(message).await,
            None => Err(SendError::unknown(&self.path, message)),
        }
    }

    /// Sends a message without a reply if the mailbox has room, as [`WorkAddr::try_tell`] does.
    ///
    /// # Errors
    /// The errors of [`WorkAddr::try_tell`].
    pub fn try_tell(&self, message: M) -> Result<(), SendError<M>> {
        match &self.to {
            Some(to) => to.try_tell(message),
            None => Err(SendError::unknown(&self.path, message)),
        }
    }
}

impl<M: Message, R: Message> Recipient<M, R> {
    /// Sends a message and waits for the reply, as [`WorkAddr::ask`] does. Costs two allocations more.
    ///
    /// # Cancel safety
    /// If the future is dropped, or the timeout passes, the message is withdrawn from wherever it waits, unless a handler
    /// has begun it.
    ///
    /// # Errors
    /// The errors of [`WorkAddr::ask`].
    pub fn ask(&self, message: M) -> Ask<'_, impl Future<Output = Result<R, AskError<M>>> + use<'_, M, R>> {
        let ask = AskId::next();
        let exchange = async move {
            let Some(to) = &self.to else {
                return Err(AskError::NotHandled(SendError::unknown(&self.path, message)));
            };
            Ok(typed(to.exchange(message, Arc::new(AtomicU32::new(1)), ask).await?))
        };
        Ask::new(ask, &self.path, self.to.as_deref().map(|to| -> &dyn LeadsAway { to }), exchange)
    }
}

impl<M: Message, T: Message> Recipient<M, Streamed<T>> {
    /// Sends a message and waits until its handler has opened the stream of its reply, as [`WorkAddr::stream`] does. Costs
    /// two allocations more.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::{Recipient, Streamed};
    /// # use futures::TryStreamExt;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Generate(String);
    /// async fn text(model: Recipient<Generate, Streamed<String>>) -> Result<String> {
    ///     let tokens = model.stream(Generate("once".to_owned())).await?;
    ///     Ok(tokens.try_collect().await?)
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// As for [`WorkAddr::stream`].
    ///
    /// # Errors
    /// The errors of [`WorkAddr::stream`].
    pub fn stream(
        &self,
        message: M,
    ) -> Ask<'_, Opening<impl Future<Output = Result<StreamedReply<T>, AskError<M>>> + use<'_, M, T>>> {
        let ask = AskId::next();
        let opening = Opening::new(|window| async move {
            let Some(to) = &self.to else {
                return Err(AskError::NotHandled(SendError::unknown(&self.path, message)));
            };
            let reply = to.exchange(message, window, ask).await?.into_inner().downcast();
            Ok(*reply.unwrap_or_else(|_| {
                unreachable!("the type of the reply is checked where a recipient is made")
            }))
        });
        Ask::new(ask, &self.path, self.to.as_deref().map(|to| -> &dyn LeadsAway { to }), opening)
    }
}

/// Returns the reply, or `()` in place of one of another type, which is dropped.
fn typed<R: Message>(reply: AnyReply) -> R {
    let reply = match reply.into_inner().downcast::<R>() {
        Ok(reply) => return *reply,
        Err(other) => Fenced::new(other),
    };
    drop(reply);
    let unit: Box<dyn Any> = Box::new(());
    *unit
        .downcast()
        .unwrap_or_else(|_| unreachable!("the type of the reply is checked where a recipient is made"))
}

impl<M: Message, R: ReplyValue> Clone for Recipient<M, R> {
    fn clone(&self) -> Self {
        Self { app: self.app, path: self.path.clone(), to: self.to.clone(), reply: PhantomData }
    }
}

impl<M: Message, R: ReplyValue> PartialEq for Recipient<M, R> {
    fn eq(&self, other: &Self) -> bool {
        self.app == other.app && self.path == other.path
    }
}

impl<M: Message, R: ReplyValue> Eq for Recipient<M, R> {}

impl<M: Message, R: ReplyValue> fmt::Debug for Recipient<M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.path)
    }
}

impl<M: Message, R: ReplyValue> Serialize for Recipient<M, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let work = match &self.to {
            _ if self.path.is_root() => {
                return Err(serde::ser::Error::custom(
                    "cannot serialise a `Recipient` before its Work has joined the App; use the address from the next \
                     reaction on",
                ));
            }
            Some(to) => {
                to.remember();
                Some(to.work_type().name())
            }
            None => None,
        };
        (self.app, &self.path, work).serialize(serializer)
    }
}

impl<'de, M: Message, R: ReplyValue> Deserialize<'de> for Recipient<M, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (app, path, work) = <(AppId, ActorPath, Option<String>)>::deserialize(deserializer)?;
        let found = match (Directory::named(app), &work) {
            (Some(directory), Some(work)) => directory.mailbox_of(&path, work).map_err(|other| {
                <D::Error as serde::de::Error>::custom(format!(
                    "work `{path}` is a `{other}` and not a `{work}`"
                ))
            })?,
            _ => None,
        };
        let Some(mailbox) = found else { return Ok(Self { app, path, to: None, reply: PhantomData }) };
        let message = type_name::<M>();
        let receiver = mailbox.clone().receiver(app, path.clone(), message);
        let receiver = receiver.and_then(|receiver| receiver.downcast::<Arc<dyn Receives<M>>>().ok());
        let Some(receiver) = receiver else {
            return Err(<D::Error as serde::de::Error>::custom(format!(
                "work `{path}` cannot be a recipient of `{message}`: call `messages.accept::<…>()` in \
                 `fn messages(messages: &mut Messages<Self>)` of the `impl Work` of `{}`",
                mailbox.kind().name()
            )));
        };
        let (reply, name) = receiver.reply_type();
        if TypeId::of::<R>() != TypeId::of::<()>() && reply != TypeId::of::<R>() {
            return Err(<D::Error as serde::de::Error>::custom(format!(
                "work `{path}` replies to `{message}` with a `{name}`, and not with a `{}`",
                type_name::<R>()
            )));
        }
        Ok(Self { app, path, to: Some(*receiver), reply: PhantomData })
    }
}
