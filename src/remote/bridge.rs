//! The bridge: the part of a process that talks to other processes. It owns the listeners and the sessions, and knows
//! how to reach other processes.
//!
//! The bridge lives on one thread, which pooled Works share, so that messages that arrive for them need no wake-up of
//! another thread. It shares their set of local tasks too: a task outside it that wakes a task of the set would have
//! the runtime poll for I/O events first, which costs a system call per message.

mod accept;
mod dial;
mod identity;
mod idle_connections;
mod peer_handler;
mod sessions;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::ThreadId;

use futures::FutureExt;
use tokio::sync::{Notify, Semaphore, watch};

use self::identity::{Identity, KnownHead};
use self::idle_connections::Idle;
pub(super) use self::idle_connections::SWEEP;
pub(super) use self::peer_handler::{Destination, PeerHandler, Services, Whereabouts};
use self::sessions::Sessions;
use super::link::{BadPeer, Link};
use super::protocol::{Hello, NodeCard, Program, Role, Source};
use super::session::SessionSettings;
use crate::id::{ActorPath, AppId};
use crate::payload::{PayloadId, Store};
use crate::runtime::Runtime;
use crate::transport::{Complaints, Endpoint, Limits, Security, TransportError};
use crate::work::logs::AppLog;
use crate::work::{AnyMailbox, Arguments, Directory, EncodedArguments, Found, Task};

/// Spawns a task on the local set of a bridge's thread, from any thread.
pub(crate) type Spawner = Arc<dyn Fn(Task) + Send + Sync>;

/// Number of large values that are served concurrently.
const SERVED_AT_ONCE: usize = 4;

pub(crate) struct Bridge {
    identity: Identity,
    security: Security,
    limits: Limits,
    settings: SessionSettings,
    spawner: Spawner,
    home: OnceLock<ThreadId>,
    services: &'static dyn Services,
    peer_handler: OnceLock<Weak<dyn PeerHandler>>,
    sessions: Sessions,
    ended: watch::Sender<bool>,
    /// Notified when the file of a socket was found to be missing.
    sockets: Notify,
    /// True once this process is about to end.
    is_leaving: AtomicBool,
    /// True if this process goes on without its head until that is started again.
    outlives_head: AtomicBool,
    /// Idle connections for pulling values.
    idle: Idle,
    /// Turns of the large values that are served.
    served: Semaphore,
    complaints: Complaints,
}

/// Settings of a process that takes part in an App.
#[derive(Clone)]
pub(crate) struct BridgeOptions {
    pub(crate) program: Program,
    pub(crate) security: Security,
    pub(crate) limits: Limits,
    pub(crate) settings: SessionSettings,
    /// The number of times that this head opened its journal; 0 without a journal, and in a process that joins a head.
    pub(crate) epoch: u64,
}

/// Error returned when another process cannot be reached or refuses the session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the session was refused: {0}")]
    Refused(String),
    /// Another node has the same name and is silent; the attempt may be repeated.
    #[error("the session was refused: {0}")]
    Taken(String),
    #[error("the peer has given up the session: {why}")]
    Lost {
        why: String,
        /// The epoch of the head that has refused, if it is one of the same App.
        epoch: u64,
    },
    /// The head is older than one that this process has seen, or has a copy of its journal; the attempt may be repeated.
    #[error("this head is not the latest one of the App: {0}")]
    Outdated(String),
    #[error("the exchange of greetings failed: {0}")]
    NotUnderstood(String),
}

impl Bridge {
    /// Creates a bridge that lives on the thread of `spawner`.
    pub(super) fn new(options: BridgeOptions, spawner: Spawner, services: &'static dyn Services) -> Self {
        let BridgeOptions { program, security, limits, settings, epoch } = options;
        let identity = Identity::new(program);
        identity.set_head(KnownHead { epoch, process: 0 });
        Self {
            identity,
            security,
            limits,
            settings,
            spawner,
            home: OnceLock::new(),
            services,
            peer_handler: OnceLock::new(),
            sessions: Sessions::default(),
            ended: watch::Sender::new(false),
            sockets: Notify::new(),
            is_leaving: AtomicBool::new(false),
            outlives_head: AtomicBool::new(false),
            idle: Idle::default(),
            served: Semaphore::new(SERVED_AT_ONCE),
            complaints: Complaints::default(),
        }
    }

    pub(super) fn set_peer_handler(&self, peer_handler: Weak<dyn PeerHandler>) {
        let _ = self.peer_handler.set(peer_handler);
    }

    /// Sets the identity of this process, once its addresses are known.
    pub(super) fn set_me(&self, me: NodeCard) {
        self.identity.set_me(me);
    }

    pub(super) fn me(&self) -> &NodeCard {
        self.identity.me()
    }

    /// Sets the runtime of the App, once it is known which App that is.
    pub(super) fn set_runtime(&self, runtime: Arc<Runtime>) {
        self.identity.set_runtime(runtime);
    }

    /// Returns the runtime of the App that this process takes part in.
    pub(super) fn runtime(&self) -> Option<&Arc<Runtime>> {
        self.identity.runtime()
    }

    /// Returns the values of the App in this process.
    pub(super) fn store(&self) -> Arc<Store> {
        match self.runtime() {
            Some(runtime) => Store::of(runtime),
            None => Store::new(Arc::default(), Weak::new()),
        }
    }

    /// Returns the log of the App in this process.
    pub(super) fn log(&self) -> Arc<AppLog> {
        self.runtime().map_or_else(Arc::default, |runtime| AppLog::of(runtime))
    }

    /// Returns the mailbox in this process to which an address of this path is bound.
    pub(super) fn find_address(&self, path: &ActorPath) -> Option<Arc<dyn AnyMailbox>> {
        Directory::of(self.runtime()?).find(path)
    }

    /// Looks for what is at this path of the App, in the head.
    pub(super) fn look_up(&self, path: &ActorPath) -> Found {
        match self.runtime() {
            Some(runtime) => Directory::of(runtime).look_up_here(path),
            None => Found::Nothing(Vec::new()),
        }
    }

    /// Returns the App that this process takes part in.
    pub(super) fn app(&self) -> AppId {
        self.identity.app()
    }

    pub(super) fn security(&self) -> &Security {
        &self.security
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn settings(&self) -> SessionSettings {
        self.settings
    }

    /// Spawns a task on the thread of the bridge.
    pub(super) fn spawn<F: Future<Output = ()> + 'static>(&self, task: impl FnOnce() -> F + Send + 'static) {
        (self.spawner)(Box::new(|| task().boxed_local()));
    }

    /// Has the missing file of a socket created again soon.
    pub(super) fn look_after_sockets(&self) {
        self.sockets.notify_one();
    }

    /// Declares the current thread to be the thread of the bridge.
    pub(super) fn settle_here(&self) {
        let _ = self.home.set(std::thread::current().id());
    }

    /// Returns `true` when called on the thread of the bridge.
    pub(super) fn is_home(&self) -> bool {
        self.home.get() == Some(&std::thread::current().id())
    }

    /// Marks this process as about to end, which is announced in sessions with other nodes that begin from now on.
    pub(super) fn set_leaving(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Sets whether this process goes on without its head until that is started again.
    pub(super) fn set_outlives_head(&self, outlives_head: bool) {
        self.outlives_head.store(outlives_head, Ordering::Release);
    }

    pub(super) fn outlives_head(&self) -> bool {
        self.outlives_head.load(Ordering::Acquire)
    }

    pub(super) fn peer_handler(&self) -> Result<Arc<dyn PeerHandler>, BadPeer> {
        let peer_handler = self.peer_handler.get().and_then(Weak::upgrade);
        peer_handler.ok_or_else(|| BadPeer::Other("this process is leaving".to_owned()))
    }

    /// Returns the live sessions that other processes began.
    pub(super) fn accepted(&self) -> Vec<Arc<Link>> {
        self.sessions.all_accepted()
    }

    /// Returns the live sessions, except the one that this process began with the head.
    pub(super) fn peers(&self) -> Vec<Arc<Link>> {
        self.sessions.live()
    }

    pub(super) fn served(&self) -> &Semaphore {
        &self.served
    }

    pub(super) fn idle(&self) -> &Idle {
        &self.idle
    }

    /// Returns the process number of the head, or `None` in the head itself.
    pub(super) fn head_id(&self) -> Option<u64> {
        Some(self.peer_handler().ok()?.head()?.peer().id)
    }

    /// Returns the numbers of the existing sessions with these processes.
    pub(super) fn sessions_with(&self, processes: [Option<u64>; 2]) -> Vec<u64> {
        let Ok(peer_handler) = self.peer_handler() else { return Vec::new() };
        let links = processes
            .into_iter()
            .flatten()
            .filter_map(|process| peer_handler.link_to(process).or_else(|| self.sessions.peer(process)));
        // A process that is about to end cannot keep a value alive.
        links.filter(|link| !link.is_leaving()).map(|link| link.number()).collect()
    }

    /// Returns the session with a process that has a value, and begins one if necessary.
    pub(super) fn link_to(self: &Arc<Self>, source: &Source) -> Option<Arc<Link>> {
        let peer_handler = self.peer_handler().ok()?;
        if let Some(link) = peer_handler.link_to(source.id) {
            return Some(link);
        }
        // The head does not dial.
        let _ = peer_handler.head()?;
        (!source.endpoints.is_empty()).then(|| self.peer(&source.card()))
    }

    /// Returns the endpoints at which a process that has a value can be reached.
    pub(super) fn endpoints_of(&self, source: &Source) -> Vec<Endpoint> {
        match self.identity.join() {
            Some(join) if Some(source.id) == self.head_id() => vec![join.clone()],
            _ => self.identity.reach(&source.endpoints),
        }
    }

    /// Returns the greeting with which this process begins a session.
    pub(super) fn hello(&self, role: Role, app: Option<AppId>, session: u64) -> Hello {
        self.identity.hello(role, app, session)
    }

    /// Records the head that this process has joined: its epoch and the number of its process.
    pub(super) fn set_head(&self, epoch: u64, process: u64) {
        self.identity.set_head(KnownHead { epoch, process });
    }

    /// Returns the highest epoch of the head that was seen; 0 if the head has no journal.
    pub(super) fn epoch(&self) -> u64 {
        self.identity.head().epoch
    }

    /// Returns the App's own arguments, which a node gets when it joins.
    pub(super) fn args(&self) -> Option<EncodedArguments> {
        self.runtime()?.part::<Arguments>()?.encoded()
    }

    /// Sets the endpoint at which this process reaches the head.
    pub(super) fn set_join(&self, join: Endpoint) {
        self.identity.set_join(join);
    }

    /// Returns the endpoint at which this process reaches the head; `None` in the head itself.
    pub(super) fn head_endpoint(&self) -> Option<Endpoint> {
        self.identity.join().cloned()
    }

    pub(super) async fn whereabouts(&self, id: PayloadId, among: Vec<u64>) -> Option<Whereabouts> {
        let peer_handler = self.peer_handler().ok()?;
        tokio::time::timeout(self.settings.grace, peer_handler.whereabouts(id, among)).await.ok()?
    }

    /// Ends all sessions and stops accepting connections.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.idle.clear();
        self.sessions.take_all().iter().for_each(|link| link.end());
    }
}
