//! Addresses, by which Works send messages to each other.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::oneshot;

use super::Work;
use super::any_mailbox::AnyMailbox;
use super::ask::{Ask, LeadsAway, Opening};
use super::cycles::AskId;
use super::end::{End, EndKind};
use super::envelope::{AnyEnvelope, AskFailure, Envelope, ReplyTo, ServedBy};
use super::executing::{is_running, is_served};
use super::found::{Found, similar};
use super::mailbox::{CloseReason, Mailbox, Refused, typed};
use super::message::{
    AskError, Handle, HandledBy, ItemOf, Message, ReplyOf, ReplyValue, SendError, SingleReply,
};
use super::route::Locator;
use super::streamed::Streamed;
use super::streamed_reply::StreamedReply;
use super::unsent::Unsent;
use super::watch::Watch;
use super::work_type::WorkType;
use crate::fence::Fenced;
use crate::id::{ActorPath, AppId, FlowId};
use crate::runtime::{self, Runtime};

/// The address of a Work: cloneable, comparable and serialisable, so that it can be part of inputs, states and
/// messages.
///
/// An address refers to the Work and not to one incarnation: it stays valid when the Work is restarted, moved, or
/// stopped and started again. Messages of one sender arrive in the order in which they were sent.
///
/// Serialising the address of a Work that has not joined an App fails, and so does deserialising an address as one of
/// another type of Work.
///
/// ```
/// # use flowright::prelude::*;
/// # #[derive(Serialize, Deserialize)]
/// # struct Predict(f64);
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Server;
/// # impl Work for Server {
/// #     type Input = ();
/// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
/// # }
/// # impl Handle<Predict> for Server {
/// #     type Reply = f64;
/// #     async fn handle(&mut self, m: Predict, _: &mut WorkContext<Self>) -> f64 { m.0 }
/// # }
/// #[derive(Default, Serialize, Deserialize)]
/// struct Client;
///
/// impl Work for Client {
///     type Input = WorkAddr<Server>;
///
///     async fn run(&mut self, server: Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
///         let prediction = server.ask(Predict(1.0)).await?;
///         println!("{prediction}");
///         Ok(())
///     }
/// }
/// ```
pub struct WorkAddr<W: Work> {
    app: AppId,
    path: ActorPath,
    mailbox: Option<Arc<Mailbox<W>>>,
}

impl<W: Work> WorkAddr<W> {
    pub(crate) fn new(app: AppId, path: ActorPath, mailbox: Arc<Mailbox<W>>) -> Self {
        Self { app, path, mailbox: Some(mailbox) }
    }

    /// Returns the address of a Work that has not joined an App. Sending to it fails.
    pub(crate) fn nowhere() -> Self {
        Self { app: AppId::NONE, path: ActorPath::root(), mailbox: None }
    }

    pub(super) fn app(&self) -> AppId {
        self.app
    }

    pub(super) fn mailbox(&self) -> Option<&Arc<Mailbox<W>>> {
        self.mailbox.as_ref()
    }

    /// Registers the mailbox for deserialised addresses.
    pub(super) fn remember(&self) {
        if let Some(mailbox) = &self.mailbox
            && let Some(directory) = Directory::named(self.app)
        {
            directory.remember_again(&self.path, mailbox);
        }
    }

    /// Returns the path of the Work.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// Returns the number of messages that wait in the Work's mailbox in this process, plus those in flight from here
    /// if the Work lives in another process.
    ///
    /// The other process confirms the messages of one type together, once a quarter of the capacity of the mailbox has left
    /// it (of 64, if the capacity is smaller). Until then they count as in flight: of each type, fewer than that quarter may
    /// be counted although the mailbox is empty.
    pub fn waiting(&self) -> usize {
        self.mailbox.as_ref().map_or(0, |mailbox| mailbox.depth())
    }

    /// Sends a message without a reply. Waits while the mailbox is full, and returns when the mailbox has accepted the
    /// message or the message is on its way to the process of the Work.
    ///
    /// A Work that sends to itself waits for room only while it serves its mailbox: in `run`, within or beside
    /// [`WorkContext::serve`](crate::WorkContext::serve) and the like.
    ///
    /// # Cancel safety
    /// A future that is dropped before it completes does not send the message.
    ///
    /// # Errors
    /// [`SendError`] with the message, but never [`SendError::Full`]. [`SendError::ToItself`] is returned where waiting
    /// would never end.
    pub async fn tell<M: HandledBy<W>>(&self, message: M) -> Result<(), SendError<M>> {
        self.send(message, false).await
    }

    async fn send<M: Message>(&self, message: M, is_first: bool) -> Result<(), SendError<M>>
    where
        W: Handle<M>,
    {
        let Some(mailbox) = &self.mailbox else { return Err(self.unknown(message)) };
        let message_of = |envelope| open::<Envelope<W, M>>(envelope).into_message();
        // Most messages find room. Only one that has to wait may wait for the caller itself.
        let envelope = Envelope::<W, M>::new(message, ReplyTo::Nobody(None));
        let envelope = if is_first { envelope.first() } else { envelope };
        let envelope = match mailbox.try_send(envelope) {
            Ok(()) => return Ok(()),
            Err(Refused::Full(envelope)) => envelope,
            Err(refused) => return Err(self.not_sent(refused, message_of)),
        };
        if is_running(self.app, &self.path) && !is_served(self.app, &self.path).await {
            return Err(self.to_itself(message_of(envelope)));
        }
        let sent = mailbox.send(typed(envelope)).await;
        sent.map(drop).map_err(|refused| self.not_sent(refused, message_of))
    }

    /// Sends a message without a reply if the mailbox has room, and never waits.
    ///
    /// # Errors
    /// [`SendError`] with the message; [`SendError::Full`] if there is no room.
    pub fn try_tell<M: HandledBy<W>>(&self, message: M) -> Result<(), SendError<M>> {
        let Some(mailbox) = &self.mailbox else { return Err(self.unknown(message)) };
        let refused = mailbox.try_send(Envelope::<W, M>::new(message, ReplyTo::Nobody(None)));
        refused.map_err(|refused| {
            self.not_sent(refused, |envelope| open::<Envelope<W, M>>(envelope).into_message())
        })
    }

    /// Sends a message without a reply, as [`tell`](Self::tell) does, that is handled before all others that wait: for
    /// cancellation, health checks and the like.
    ///
    /// It overtakes all messages in the mailbox of the Work, and those that wait for room in it or for credit on the way to
    /// another process, except for messages that were sent in this way too: those keep their order. A handler that has begun,
    /// also of a batch, goes on first; so do messages that are already on the wire. It needs room in the mailbox as any other
    /// message. While there are always more of these messages, the others wait.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Cancel(u64);
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Server;
    /// # impl Work for Server { type Input = (); }
    /// # impl Handle<Cancel> for Server {
    /// #     type Reply = ();
    /// #     async fn handle(&mut self, _: Cancel, _: &mut WorkContext<Self>) {}
    /// # }
    /// # async fn f(server: WorkAddr<Server>) -> Result<()> {
    /// server.tell_first(Cancel(7)).await?; // although thousands of requests wait
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// A future that is dropped before it completes does not send the message.
    ///
    /// # Errors
    /// The errors of [`tell`](Self::tell).
    pub async fn tell_first<M: HandledBy<W>>(&self, message: M) -> Result<(), SendError<M>> {
        self.send(message, true).await
    }

    /// Sends a message and waits for the reply, for at most [`DEFAULT_ASK_TIMEOUT`](crate::DEFAULT_ASK_TIMEOUT) or the
    /// time that is set by [`timeout`](Ask::timeout).
    ///
    /// # Cancel safety
    /// If the future is dropped, or the timeout passes, the message is withdrawn from wherever it waits, unless a handler
    /// has begun it.
    ///
    /// # Errors
    /// [`AskError`], which tells whether a handler may have seen the message.
    pub fn ask<M: HandledBy<W, Reply: SingleReply>>(
        &self,
        message: M,
    ) -> Ask<'_, impl Future<Output = Result<ReplyOf<W, M>, AskError<M>>> + use<'_, W, M>> {
        let ask = AskId::next();
        let exchange = self.exchange(message, ask);
        let exchange = async move {
            let reply = ReplyOf::<W, M>::of_item(exchange.await?);
            Ok(reply.unwrap_or_else(|| unreachable!("a single reply is no stream")))
        };
        Ask::new(ask, &self.path, Some(self), exchange)
    }

    /// Sends a message to a handler that replies with a [stream](Streamed), and waits until it has opened the stream, for
    /// at most [`DEFAULT_ASK_TIMEOUT`](crate::DEFAULT_ASK_TIMEOUT) or the time that is set by [`timeout`](Ask::timeout).
    /// Reading the stream has no timeout.
    ///
    /// The sender waits once [`DEFAULT_STREAM_WINDOW`](crate::DEFAULT_STREAM_WINDOW) items, or as many as are set by
    /// [`window`](Ask::window), are on their way or wait to be read. It holds up no other message of its Work or node.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::{Messages, Streamed};
    /// # use flowright::testing::TestApp;
    /// use futures::TryStreamExt;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Generate {
    ///     prompt: String,
    /// }
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Model;
    ///
    /// impl Work for Model {
    ///     type Input = ();
    ///
    ///     fn messages(messages: &mut Messages<Self>) {
    ///         messages.accept::<Generate>();
    ///     }
    /// }
    ///
    /// impl Handle<Generate> for Model {
    ///     type Reply = Streamed<String>;
    ///
    ///     async fn handle(&mut self, m: Generate, cx: &mut WorkContext<Self>) -> Streamed<String> {
    ///         let tokens: Vec<String> = m.prompt.split(' ').map(str::to_owned).collect();
    ///         cx.stream_of(futures::stream::iter(tokens))
    ///     }
    /// }
    ///
    /// # let app = TestApp::start_app(App::of_work(Model::default));
    /// # app.wait_for_stage("work", Stage::Running);
    /// # let model = app.work::<Model>("work");
    /// # app.block_on(async {
    /// let mut tokens = model.stream(Generate { prompt: "to be or not".to_owned() }).await?;
    /// let mut text = Vec::new();
    /// while let Some(token) = tokens.try_next().await? {
    ///     text.push(token);
    /// }
    /// assert_eq!(text, ["to", "be", "or", "not"]);
    /// # Ok::<_, Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Cancel safety
    /// If the future is dropped, or the timeout passes, the message is withdrawn from wherever it waits, unless a handler
    /// has begun it; the sender of a stream that was opened meanwhile is told that nobody reads it.
    ///
    /// # Errors
    /// [`AskError`], which tells whether a handler may have seen the message. What happens later is a
    /// [`StreamError`](crate::StreamError) among the items.
    pub fn stream<M: HandledBy<W, Reply = Streamed<T>>, T: Message>(
        &self,
        message: M,
    ) -> Ask<'_, Opening<impl Future<Output = Result<StreamedReply<T>, AskError<M>>> + use<'_, W, M, T>>>
    {
        let ask = AskId::next();
        let opening = Opening::new(|window| self.open_stream(message, window, None, ask));
        Ask::new(ask, &self.path, Some(self), opening)
    }

    /// Sends a message and waits until it is handled. Returns false if it was not, because the incarnation ends.
    pub(super) async fn notify<M: Message>(&self, message: M) -> bool
    where
        W: Handle<M>,
    {
        match self.exchange(message, AskId::NONE).await {
            Ok(reply) => {
                // The `Drop` of a reply is code of the user.
                drop(Fenced::new(reply));
                true
            }
            Err(error) => Fenced::new(error).is_handled(),
        }
    }

    /// Sends a message and waits for the reply without a limit.
    pub(super) async fn exchange<M: Message>(
        &self,
        message: M,
        ask: AskId,
    ) -> Result<ItemOf<W, M>, AskError<M>>
    where
        W: Handle<M>,
    {
        self.request(message, None, |reply| ReplyTo::Caller(reply, ask)).await.map(Fenced::into_inner)
    }

    /// As [`exchange`](Self::exchange). Notes which version has handled the message, if this is the address of a service.
    pub(super) async fn exchange_noting<M: Message>(
        &self,
        message: M,
        served_by: Option<Arc<ServedBy>>,
    ) -> Result<ItemOf<W, M>, AskError<M>>
    where
        W: Handle<M>,
    {
        let reply_to = |reply| ReplyTo::Caller(reply, AskId::NONE);
        self.request(message, served_by, reply_to).await.map(Fenced::into_inner)
    }

    /// Sends a message and waits, without a limit, until a stream is opened. Reads the window when it is polled first.
    pub(super) async fn open_stream<M: Message>(
        &self,
        message: M,
        window: Arc<AtomicU32>,
        served_by: Option<Arc<ServedBy>>,
        ask: AskId,
    ) -> Result<StreamedReply<ItemOf<W, M>>, AskError<M>>
    where
        W: Handle<M>,
    {
        let window = window.load(Ordering::Relaxed);
        let reply_to = |reader| ReplyTo::Reader(reader, window, ask);
        let incoming = self.request(message, served_by, reply_to).await?;
        Ok(StreamedReply::new(self.path.clone(), incoming))
    }

    /// Sends a message and waits, without a limit, for what `reply_to` gets.
    async fn request<M: Message, R>(
        &self,
        message: M,
        served_by: Option<Arc<ServedBy>>,
        reply_to: impl FnOnce(oneshot::Sender<Result<R, AskFailure<M>>>) -> ReplyTo<W, M>,
    ) -> Result<R, AskError<M>>
    where
        W: Handle<M>,
    {
        let Some(mailbox) = &self.mailbox else { return Err(AskError::NotHandled(self.unknown(message))) };
        if !is_served(self.app, &self.path).await {
            return Err(AskError::NotHandled(self.to_itself(message)));
        }
        // Declared before the receiver of the reply, which is therefore dropped first and marks the ask as abandoned.
        let mut question = AskInFlight { mailbox, is_open: false };
        let (reply, answer) = oneshot::channel();
        let envelope = Envelope::<W, M>::new(message, reply_to(reply)).note_version(served_by);
        let sent = mailbox.send(envelope).await;
        sent.map_err(|refused| {
            let message = |envelope| open::<Envelope<W, M>>(envelope).into_message();
            AskError::NotHandled(self.not_sent(refused, message))
        })?;
        question.is_open = true;
        let answer = answer.await;
        question.is_open = false;
        match answer {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(AskFailure::NoReply(why, message))) => Err(why.into_error(self.path.as_str(), message)),
            Ok(Err(AskFailure::BadReply(error))) => {
                Err(AskError::BadReply { path: self.path.to_string(), error })
            }
            Ok(Err(AskFailure::ReplyDropped)) => Err(AskError::reply_dropped(self.path.as_str())),
            Err(_) => Err(AskError::failed(self.path.as_str())),
        }
    }

    /// Waits until the incarnation of the Work that runs now ends, and returns how it ended. Any number of watchers may
    /// wait; a Work that nobody watches costs nothing.
    ///
    /// The watch begins when the future is polled first. A Work that is being started or moved is watched from its start;
    /// one that is not running counts as ended. A restart ends the incarnation: watch again for the next one. A Flow sees
    /// the ends of its own Works without a watch, and decides what happens then.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::EndKind;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Server;
    /// # impl Work for Server { type Input = (); }
    /// # async fn release(_: &str) {}
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Locks;
    ///
    /// impl Work for Locks {
    ///     type Input = WorkAddr<Server>;
    ///
    ///     async fn run(&mut self, owner: WorkAddr<Server>, cx: &mut WorkContext<Self>) -> Result<()> {
    ///         let end = cx.serve(self, owner.watch()).await?;
    ///         if end.kind != EndKind::Stopped {
    ///             log::warn!("the owner `{}` is gone: {end}", owner.path());
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// The watch ends when the future is dropped.
    pub async fn watch(&self) -> End {
        let Some(mailbox) = &self.mailbox else { return End::of(EndKind::NotRunning) };
        // Declared before the receiver of the end, as in `exchange`.
        let mut question = AskInFlight { mailbox, is_open: false };
        let (watch, end) = Watch::new();
        match mailbox.watch(watch).await {
            Ok(()) => {}
            Err(Refused::Closed(_, why)) => return End::closed(why),
            Err(Refused::Full(_) | Refused::Moved(_) | Refused::Unsendable(..)) => {
                return End::of(EndKind::NotRunning);
            }
        }
        question.is_open = true;
        let end = end.await;
        question.is_open = false;
        end.unwrap_or_else(|_| End::of(EndKind::Killed))
    }

    fn not_sent<M>(
        &self,
        refused: Refused<Box<dyn AnyEnvelope>>,
        message: impl FnOnce(Box<dyn AnyEnvelope>) -> M,
    ) -> SendError<M> {
        let path = self.path.to_string();
        match refused {
            Refused::Full(envelope) => {
                let capacity = self.mailbox.as_ref().map_or(0, |mailbox| mailbox.capacity());
                SendError::Full { path, capacity, message: Unsent::new(message(envelope)) }
            }
            Refused::Closed(envelope, why) => SendError::closed(&path, why, message(envelope)),
            Refused::Moved(envelope) => SendError::closed(&path, CloseReason::NotStarted, message(envelope)),
            Refused::Unsendable(envelope, why) => {
                SendError::Unsendable { path, why, message: Unsent::new(message(envelope)) }
            }
        }
    }

    fn to_itself<M>(&self, message: M) -> SendError<M> {
        SendError::ToItself { path: self.path.to_string(), message: Unsent::new(message) }
    }

    fn unknown<M>(&self, message: M) -> SendError<M> {
        SendError::unknown(&self.path, message)
    }
}

/// Guard of an ask in flight. Dropped before the reply, it withdraws the message from wherever it waits.
struct AskInFlight<'a, W: Work> {
    mailbox: &'a Mailbox<W>,
    is_open: bool,
}

impl<W: Work> Drop for AskInFlight<'_, W> {
    fn drop(&mut self) {
        if self.is_open {
            self.mailbox.drop_abandoned();
        }
    }
}

/// Downcasts an envelope to the type with which the sender made it.
fn open<E: 'static>(envelope: Box<dyn AnyEnvelope>) -> E {
    *envelope.into_any().downcast::<E>().unwrap_or_else(|_| unreachable!("an envelope keeps its type"))
}

impl<W: Work> LeadsAway for WorkAddr<W> {
    fn leads_away(&self) -> bool {
        self.mailbox.as_ref().is_some_and(|mailbox| mailbox.leads_away())
    }
}

impl<W: Work> Clone for WorkAddr<W> {
    fn clone(&self) -> Self {
        Self { app: self.app, path: self.path.clone(), mailbox: self.mailbox.clone() }
    }
}

impl<W: Work> PartialEq for WorkAddr<W> {
    fn eq(&self, other: &Self) -> bool {
        self.app == other.app && self.path == other.path
    }
}

impl<W: Work> Eq for WorkAddr<W> {}

impl<W: Work> fmt::Debug for WorkAddr<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkAddr({})", self.path)
    }
}

/// The mailboxes of an App in this process by path, to which deserialised addresses are bound.
#[derive(Default)]
pub(crate) struct Directory {
    mailboxes: Mutex<HashMap<ActorPath, Registered>>,
    /// The Flows of the App, in the process that has them.
    flows: Mutex<HashMap<ActorPath, (FlowId, &'static str)>>,
    router: Mutex<Option<Weak<dyn Router>>>,
}

/// A mailbox of the directory.
struct Registered {
    mailbox: Weak<dyn AnyMailbox>,
    /// False if there is only an address left, whose Work is no part of the App any more.
    is_part: bool,
}

impl Directory {
    /// Returns the directory of an App. That of a runtime without one is empty.
    pub(crate) fn of(runtime: &Runtime) -> Arc<Self> {
        runtime.part().unwrap_or_default()
    }

    /// Returns the directory of the App with this id, which an address names. On a thread of another App there is none:
    /// an address does not lead from one App to another.
    pub(super) fn named(app: AppId) -> Option<Arc<Self>> {
        runtime::of_app(app)?.part()
    }

    /// Registers a mailbox for deserialised addresses.
    pub(crate) fn remember(&self, path: &ActorPath, mailbox: &Arc<dyn AnyMailbox>) {
        mailbox.set_path(path);
        let registered = Registered { mailbox: Arc::downgrade(mailbox), is_part: true };
        self.mailboxes.lock().insert(path.clone(), registered);
    }

    /// Registers a mailbox unless the path belongs to another Work by now, whose mailbox must stay registered.
    fn remember_again<W: Work>(&self, path: &ActorPath, mailbox: &Arc<Mailbox<W>>) {
        let mut mailboxes = self.mailboxes.lock();
        if mailboxes.get(path).is_none_or(|known| known.mailbox.strong_count() == 0) {
            let mailbox: Arc<dyn AnyMailbox> = mailbox.clone();
            let registered = Registered { mailbox: Arc::downgrade(&mailbox), is_part: false };
            mailboxes.insert(path.clone(), registered);
        }
    }

    /// Returns the mailbox in this process to which an address of this path is bound.
    pub(crate) fn find(&self, path: &ActorPath) -> Option<Arc<dyn AnyMailbox>> {
        self.mailboxes.lock().get(path)?.mailbox.upgrade()
    }

    /// Returns the only mailbox in this process for a Work of this type at this path, and creates it by the App's router
    /// if there is none. An address that arrives and an incarnation that is launched at the same time thus share one
    /// mailbox. `None` if this process has no router for the App.
    ///
    /// # Errors
    /// The existing mailbox, if it is of another type of Work.
    pub(crate) fn mailbox_at(
        &self,
        path: &ActorPath,
        kind: &'static WorkType,
    ) -> Result<Option<Arc<dyn AnyMailbox>>, Arc<dyn AnyMailbox>> {
        let router = self.router.lock().as_ref().and_then(Weak::upgrade);
        let mut mailboxes = self.mailboxes.lock();
        if let Some(found) = mailboxes.get(path).and_then(|known| known.mailbox.upgrade()) {
            return if found.kind().name() == kind.name() { Ok(Some(found)) } else { Err(found) };
        }
        let Some(router) = router else { return Ok(None) };
        let (locator, bind) = router.locator(path, kind);
        let mailbox = kind.distant_mailbox(locator);
        mailbox.set_path(path);
        bind(&mailbox);
        let registered = Registered { mailbox: Arc::downgrade(&mailbox), is_part: true };
        mailboxes.insert(path.clone(), registered);
        Ok(Some(mailbox))
    }

    /// Returns the mailbox in this process for a Work of the type with this name, as [`mailbox_at`](Self::mailbox_at)
    /// does; `None` also if the program has no such type.
    ///
    /// # Errors
    /// The name of the type of the Work at this path, if it is another one.
    pub(super) fn mailbox_of(
        &self,
        path: &ActorPath,
        work: &str,
    ) -> Result<Option<Arc<dyn AnyMailbox>>, &'static str> {
        let other = |found: Arc<dyn AnyMailbox>| found.kind().name();
        let router = self.router.lock().as_ref().and_then(Weak::upgrade);
        if let Some(kind) = router.and_then(|router| router.work_type(work)) {
            return self.mailbox_at(path, kind).map_err(other);
        }
        let found = self.find(path);
        match found {
            Some(found) if found.kind().name() != work => Err(other(found)),
            found => Ok(found),
        }
    }

    /// Sets the router for deserialised addresses whose Work is not in this process.
    #[cfg(feature = "remote")]
    pub(crate) fn set_router(&self, router: Weak<dyn Router>) {
        *self.router.lock() = Some(router);
    }

    /// Unregisters all addresses and the router, because the App has ended here.
    pub(crate) fn end(&self) {
        *self.router.lock() = None;
        self.mailboxes.lock().clear();
        self.flows.lock().clear();
    }

    /// Unregisters the address of one Work, unless another Work has taken its path.
    pub(crate) fn forget(&self, path: &ActorPath, mailbox: &Arc<dyn AnyMailbox>) {
        let mut mailboxes = self.mailboxes.lock();
        let is_its_own = |known: &Registered| {
            std::ptr::addr_eq(known.mailbox.as_ptr(), Arc::as_ptr(mailbox))
                || known.mailbox.strong_count() == 0
        };
        if mailboxes.get(path).is_some_and(is_its_own) {
            mailboxes.remove(path);
        }
    }

    /// Notes that the Work or service of a mailbox is no part of the App any more, although there may be addresses of it.
    pub(super) fn has_left(&self, path: &ActorPath, mailbox: &Arc<dyn AnyMailbox>) {
        if let Some(known) = self.mailboxes.lock().get_mut(path)
            && std::ptr::addr_eq(known.mailbox.as_ptr(), Arc::as_ptr(mailbox))
        {
            known.is_part = false;
        }
    }

    /// Registers a Flow of the App.
    pub(crate) fn remember_flow(&self, path: &ActorPath, id: FlowId, type_name: &'static str) {
        self.flows.lock().insert(path.clone(), (id, type_name));
    }

    /// Unregisters a Flow, unless another one has taken its path.
    pub(crate) fn forget_flow(&self, path: &ActorPath, id: FlowId) {
        let mut flows = self.flows.lock();
        if flows.get(path).is_some_and(|(known, _)| *known == id) {
            flows.remove(path);
        }
    }

    /// Looks for what is at this path of the App, in this process, which has all paths.
    pub(crate) fn look_up_here(&self, path: &ActorPath) -> Found {
        let is_part = |known: &Registered| known.is_part && known.mailbox.strong_count() > 0;
        let mailboxes = self.mailboxes.lock();
        let mailbox = mailboxes.get(path).filter(|known| is_part(known));
        if let Some(mailbox) = mailbox.and_then(|known| known.mailbox.upgrade()) {
            drop(mailboxes);
            return Found::Work(mailbox.kind().name().to_owned());
        }
        if let Some((_, type_name)) = self.flows.lock().get(path) {
            return Found::Flow((*type_name).to_owned());
        }
        let paths: Vec<_> =
            mailboxes.iter().filter(|(_, known)| is_part(known)).map(|(path, _)| path.clone()).collect();
        drop(mailboxes);
        Found::Nothing(similar(path.as_str(), paths.into_iter()))
    }

    /// Looks for what is at this path of the App. Asks the head if this process is not the head. `None` if the head cannot
    /// be asked.
    pub(super) async fn look_up(&self, path: &ActorPath) -> Option<Found> {
        let router = self.router.lock().clone();
        match router {
            None => Some(self.look_up_here(path)),
            Some(router) => {
                let found = router.upgrade()?.look_up(path.clone());
                found.await
            }
        }
    }
}

/// Finds Works of an App whose placement this process does not decide.
pub(crate) trait Router: Send + Sync {
    /// Returns a locator for the Work at `path`, and the callback that binds the locator to its mailbox.
    fn locator(&self, path: &ActorPath, kind: &'static WorkType) -> (Arc<dyn Locator>, Bind);

    /// Asks the head what is at this path. Resolves to `None` if the head cannot be asked.
    fn look_up(&self, path: ActorPath) -> BoxFuture<'static, Option<Found>>;

    /// Returns the type of Works of the program with this name.
    fn work_type(&self, name: &str) -> Option<&'static WorkType>;
}

/// Binds a locator to its mailbox.
pub(crate) type Bind = Box<dyn FnOnce(&Arc<dyn AnyMailbox>)>;

impl<W: Work> Serialize for WorkAddr<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.path.is_root() {
            return Err(serde::ser::Error::custom(
                "cannot serialise a `WorkAddr` before its Work has joined the App; use the address from the next reaction on",
            ));
        }
        self.remember();
        (self.app, &self.path).serialize(serializer)
    }
}

impl<'de, W: Work> Deserialize<'de> for WorkAddr<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (app, path) = <(AppId, ActorPath)>::deserialize(deserializer)?;
        let mismatch = || {
            serde::de::Error::custom(format!(
                "work `{path}` is not a `{}`; an address can only be read as the type of Work it is of",
                std::any::type_name::<W>()
            ))
        };
        let found = match Directory::named(app) {
            Some(directory) => directory.mailbox_at(&path, WorkType::of::<W>()).map_err(|_| mismatch())?,
            None => None,
        };
        let mailbox = match found {
            Some(mailbox) => Some(mailbox.into_any().downcast::<Mailbox<W>>().map_err(|_| mismatch())?),
            None => None,
        };
        Ok(Self { app, path, mailbox })
    }
}
