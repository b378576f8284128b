//! How Works reach each other.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::oneshot;

use super::Work;
use super::any_mailbox::AnyMailbox;
use super::kind::WorkKind;
use super::mailbox::{Mailbox, Refused, Went};
use super::message::{AskError, Asked, Handle, Letter, Message, NoAnswer, SendError, Told};
use super::route::Route;
use crate::id::{ActorPath, AppId};
use crate::trace::Cause;

/// How long an [`ask`](WorkAddr::ask) waits unless it says otherwise.
pub const DEFAULT_ASK_DEADLINE: Duration = Duration::from_secs(30);

/// The address of a Work: cloneable, serialisable, an input like any other.
///
/// It belongs to the Work and not to one life of it: it stays good when the Work is restarted, or stopped and
/// started again. Messages of one sender arrive in the order in which they were sent.
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

    /// The address of a Work that is not part of an App yet. It cannot be sent anywhere.
    pub(crate) fn nowhere() -> Self {
        Self { app: AppId::NONE, path: ActorPath::root(), mailbox: None }
    }

    /// The path of the Work.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// How many messages wait in its mailbox.
    pub fn waiting(&self) -> usize {
        self.mailbox.as_ref().map_or(0, |mailbox| mailbox.depth())
    }

    /// Sends a message and waits only for room in the mailbox.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the message is not sent.
    ///
    /// # Errors
    /// [`SendError::Stopped`] and [`SendError::Unknown`], with the message.
    pub async fn tell<M: Message>(&self, message: M) -> Result<(), SendError<M>>
    where
        W: Handle<M>,
    {
        let Some(mailbox) = &self.mailbox else { return Err(self.unknown(message)) };
        let sent = mailbox.send(Box::new(Told { message, cause: Cause::current() })).await;
        sent.map(drop).map_err(|refused| self.not_sent(refused, |letter| open::<Told<M>>(letter).message))
    }

    /// Sends a message if there is room for it now.
    ///
    /// # Errors
    /// [`SendError`], with the message.
    pub fn try_tell<M: Message>(&self, message: M) -> Result<(), SendError<M>>
    where
        W: Handle<M>,
    {
        let Some(mailbox) = &self.mailbox else { return Err(self.unknown(message)) };
        let refused = mailbox.try_send(Box::new(Told { message, cause: Cause::current() }));
        refused.map_err(|refused| self.not_sent(refused, |letter| open::<Told<M>>(letter).message))
    }

    /// Sends a message and waits for the answer, at most [`DEFAULT_ASK_DEADLINE`].
    ///
    /// # Errors
    /// [`AskError`], which says whether a handler may have seen the message.
    pub async fn ask<M: Message>(&self, message: M) -> Result<W::Reply, AskError<M>>
    where
        W: Handle<M>,
    {
        self.ask_within(DEFAULT_ASK_DEADLINE, message).await
    }

    /// The same with a deadline, which includes the wait for room.
    ///
    /// # Errors
    /// [`AskError`], which says whether a handler may have seen the message.
    pub async fn ask_within<M: Message>(
        &self,
        deadline: Duration,
        message: M,
    ) -> Result<W::Reply, AskError<M>>
    where
        W: Handle<M>,
    {
        let Some(mailbox) = &self.mailbox else { return Err(AskError::NotHandled(self.unknown(message))) };
        let is_away = AtomicBool::new(false);
        let exchange = async {
            let (reply, answer) = oneshot::channel();
            let went = mailbox
                .send(Box::new(Asked { message, cause: Cause::current(), reply }))
                .await
                .map_err(|refused| {
                    let message = |letter| open::<Asked<M, W::Reply>>(letter).message;
                    AskError::NotHandled(self.not_sent(refused, message))
                })?;
            is_away.store(went == Went::Away, Ordering::Relaxed);
            let path = || self.path.to_string();
            match answer.await {
                Ok(Ok(reply)) => Ok(reply),
                Ok(Err(NoAnswer::Refused(message, why))) => {
                    Err(AskError::NotHandled(SendError::closed(self.path.as_str(), why, message)))
                }
                Ok(Err(NoAnswer::Unreadable(message, why))) => {
                    Err(AskError::NotHandled(SendError::Unsendable { path: path(), why, message }))
                }
                Ok(Err(NoAnswer::NodeLost)) => Err(AskError::NodeLost { path: path() }),
                Ok(Err(NoAnswer::BadReply(source))) => Err(AskError::BadReply { path: path(), source }),
                Err(_) => Err(AskError::Failed { path: path() }),
            }
        };
        match within(deadline, &is_away, exchange).await {
            Some(result) => result,
            None => Err(AskError::Timeout { path: self.path.to_string(), after: deadline }),
        }
    }

    fn not_sent<M>(
        &self,
        refused: Refused<Box<dyn Letter>>,
        message: impl FnOnce(Box<dyn Letter>) -> M,
    ) -> SendError<M> {
        let path = self.path.to_string();
        match refused {
            Refused::Full(letter) => {
                let capacity = self.mailbox.as_ref().map_or(0, |mailbox| mailbox.capacity());
                SendError::Full { path, capacity, message: message(letter) }
            }
            Refused::Closed(letter, why) => SendError::closed(&path, why, message(letter)),
            Refused::Unsendable(letter, why) => SendError::Unsendable { path, why, message: message(letter) },
        }
    }

    fn unknown<M>(&self, message: M) -> SendError<M> {
        SendError::Unknown { path: self.path.to_string(), message }
    }
}

/// Waits for `future` at most until the deadline.
///
/// Setting a timer costs as much as the whole exchange with a Work on the same thread, which has answered by the
/// next time this task is polled. So the first wait sets none, but asks to be polled again behind the others; unless the
/// answer comes from another process.
async fn within<F: Future>(deadline: Duration, is_away: &AtomicBool, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    let early = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if polls == 0 && !is_away.load(Ordering::Relaxed) => {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Ready(None),
    })
    .await;
    match early {
        Some(output) => Some(output),
        None => tokio::time::timeout(deadline, future).await.ok(),
    }
}

/// What the sender put into an envelope, which is of the type that it was made with.
fn open<E: 'static>(letter: Box<dyn Letter>) -> E {
    *letter.into_any().downcast::<E>().unwrap_or_else(|_| unreachable!("an envelope keeps its type"))
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

/// The mailboxes whose addresses were serialised, so that what arrives can be opened again.
type Directory = Mutex<HashMap<(AppId, ActorPath), Weak<dyn AnyMailbox>>>;

fn directory() -> &'static Directory {
    static DIRECTORY: OnceLock<Directory> = OnceLock::new();
    DIRECTORY.get_or_init(Mutex::default)
}

/// Makes an address that arrives lead to this mailbox.
pub(crate) fn remember_address(app: AppId, path: &ActorPath, mailbox: &Arc<dyn AnyMailbox>) {
    directory()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert((app, path.clone()), Arc::downgrade(mailbox));
}

/// The mailbox in this process that an address of this path leads to.
pub(crate) fn find_address(app: AppId, path: &ActorPath) -> Option<Arc<dyn AnyMailbox>> {
    directory().lock().unwrap_or_else(PoisonError::into_inner).get(&(app, path.clone()))?.upgrade()
}

/// Finds the way to the Works of an App that do not live in this process.
pub(crate) trait Router: Send + Sync {
    fn route(&self, path: &ActorPath, kind: &'static WorkKind) -> Arc<dyn Route>;
}

fn routers() -> &'static Mutex<HashMap<AppId, Weak<dyn Router>>> {
    static ROUTERS: OnceLock<Mutex<HashMap<AppId, Weak<dyn Router>>>> = OnceLock::new();
    ROUTERS.get_or_init(Mutex::default)
}

/// Has addresses of `app` that arrive, and are of no Work here, lead where `router` says.
pub(crate) fn set_router(app: AppId, router: Option<Weak<dyn Router>>) {
    let mut routers = routers().lock().unwrap_or_else(PoisonError::into_inner);
    match router {
        Some(router) => drop(routers.insert(app, router)),
        None => drop(routers.remove(&app)),
    }
}

/// Forgets the addresses of an App that has ended, or of one Work of it.
pub(crate) fn forget_addresses(app: AppId, path: Option<&ActorPath>) {
    let mut directory = directory().lock().unwrap_or_else(PoisonError::into_inner);
    match path {
        Some(path) => drop(directory.remove(&(app, path.clone()))),
        None => directory.retain(|(owner, _), _| *owner != app),
    }
}

impl<W: Work> Serialize for WorkAddr<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.path.is_root() {
            return Err(serde::ser::Error::custom(
                "it has the address of a Work that is not part of the App yet; use it from the next reaction on",
            ));
        }
        if let Some(mailbox) = &self.mailbox {
            let mailbox: Arc<dyn AnyMailbox> = mailbox.clone();
            remember_address(self.app, &self.path, &mailbox);
        }
        (self.app, &self.path).serialize(serializer)
    }
}

impl<'de, W: Work> Deserialize<'de> for WorkAddr<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (app, path) = <(AppId, ActorPath)>::deserialize(deserializer)?;
        let found = find_address(app, &path);
        let mailbox = match found {
            Some(mailbox) => Some(mailbox.into_any().downcast::<Mailbox<W>>().map_err(|_| {
                serde::de::Error::custom(format!(
                    "work `{path}` is not a `{}`; an address can only be read as the type of Work it is of",
                    std::any::type_name::<W>()
                ))
            })?),
            None => {
                let router = routers().lock().unwrap_or_else(PoisonError::into_inner).get(&app).cloned();
                let route =
                    router.and_then(|router| Some(router.upgrade()?.route(&path, WorkKind::of::<W>())));
                route.map(|route| {
                    let mailbox = Arc::new(Mailbox::<W>::elsewhere(route));
                    let any: Arc<dyn AnyMailbox> = mailbox.clone();
                    remember_address(app, &path, &any);
                    mailbox
                })
            }
        };
        Ok(Self { app, path, mailbox })
    }
}
