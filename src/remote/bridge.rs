//! The bridge: the part of a process that talks to other processes. It owns the listeners and the sessions, and knows
//! how to reach other processes.
//!
//! The bridge lives on one thread, which pooled Works share, so that messages that arrive for them need no wake-up of
//! another thread. It shares their set of local tasks too: a task outside it that wakes a task of the set would have
//! the runtime poll for I/O events first, which costs a system call per message.

mod accept;
mod dial;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::ThreadId;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::inbox::{Destination, Target};
use super::link::{BadPeer, Link};
use super::protocol::{Control, Hello, NodeCard, Program, Refusal, Role};
use super::references::Source;
use super::session::SessionSettings;
use super::transfers::{Idle, SERVED_AT_ONCE};
use crate::id::{ActorPath, AppId};
use crate::payload::{PayloadGuard, PayloadGuards, PayloadId, Store};
use crate::runtime::Runtime;
use crate::transport::{Complaints, Connection, Endpoint, Limits, Security, TransportError};
use crate::work::logs::AppLog;
use crate::work::{AnyMailbox, Directory, Task};

/// Spawns a task on the local set of a bridge's thread, from any thread.
pub(crate) type Spawner = Arc<dyn Fn(Task) + Send + Sync>;

/// The role-specific behaviour of a process towards its sessions, implemented by the head and by the agent of a node.
pub(super) trait PeerHandler: Send + Sync {
    /// Decides whether a process that dials may begin a session; returns the refusal if not.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;
    fn joined(&self, link: &Arc<Link>, role: Role);
    /// Handles a control message. `carried` holds the values that the message refers to.
    fn control(&self, link: &Arc<Link>, control: Control, carried: PayloadGuards) -> Result<(), String>;
    fn disconnected(&self, link: &Arc<Link>, role: Role, why: &str);
    fn connected_again(&self, link: &Arc<Link>, role: Role);
    fn lost(&self, link: &Arc<Link>, role: Role, why: &str);

    /// Resolves the destination of messages that have arrived for the Work at `path`.
    fn destination(&self, path: &ActorPath, target: Target) -> Destination;

    // ---- values ----

    /// Returns the session with the head, or `None` in the head itself.
    fn head(&self) -> Option<&Arc<Link>>;
    /// Returns the session with a process, if there is one.
    fn link_to(&self, process: u64) -> Option<Arc<Link>>;
    /// Handles a reference that has arrived from another process.
    fn reference(&self, hold: &Arc<PayloadGuard>);
    /// Handles the arrival of a value that was made in another process.
    fn pulled(&self, id: PayloadId);
    /// Finds the processes that have a value, and those of `among` that are gone. Resolves to `None` when the head cannot
    /// be asked.
    fn whereabouts(&self, id: PayloadId, among: Vec<u64>) -> BoxFuture<'static, Option<Whereabouts>>;
}

/// The processes that have a value, or the reason for its loss.
#[derive(Debug, Clone, Default)]
pub(super) struct Whereabouts {
    /// The processes that the head knows to have the value. A process whose reference has not passed through the head
    /// may have it as well.
    pub(super) sources: Vec<Source>,
    /// Processes in question that are no longer part of the App.
    pub(super) gone: Vec<u64>,
    pub(super) lost: Option<String>,
}

pub(crate) struct Bridge {
    runtime: OnceLock<Arc<Runtime>>,
    program: Program,
    me: OnceLock<NodeCard>,
    join: OnceLock<Endpoint>,
    security: Security,
    limits: Limits,
    settings: SessionSettings,
    spawner: Spawner,
    home: OnceLock<ThreadId>,
    peer_handler: OnceLock<Weak<dyn PeerHandler>>,
    sessions: Mutex<Sessions>,
    ended: watch::Sender<bool>,
    /// Notified when the file of a socket was found to be missing.
    sockets: Notify,
    /// True once this process is about to end.
    is_leaving: AtomicBool,
    /// Idle connections for pulling values.
    idle: Idle,
    /// Turns of the large values that are served.
    served: Semaphore,
    complaints: Complaints,
}

#[derive(Default)]
struct Sessions {
    /// Sessions that other processes began, by process and session number.
    accepted: HashMap<(u64, u64), Accepted>,
    /// Sessions with peers that this process began, by process.
    peers: HashMap<u64, Arc<Link>>,
}

struct Accepted {
    link: Arc<Link>,
    connections: mpsc::Sender<(Connection, u64)>,
}

/// Settings of a process that takes part in an App.
#[derive(Clone)]
pub(crate) struct BridgeOptions {
    pub(crate) program: Program,
    pub(crate) security: Security,
    pub(crate) limits: Limits,
    pub(crate) settings: SessionSettings,
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
    #[error("the peer has given up the session: {0}")]
    Lost(String),
    #[error("the exchange of greetings failed: {0}")]
    NotUnderstood(String),
}

/// Replaces an unspecified address by the head's host. Only processes of the head's machine announce unspecified
/// addresses, and nodes know an address of that machine.
fn on_the_machine_of(head: &str, endpoint: &Endpoint) -> Endpoint {
    if let Endpoint::Tcp(address) = endpoint
        && let Some((host, _)) = head.rsplit_once(':')
        && let Some(port) = address.strip_prefix("0.0.0.0:").or_else(|| address.strip_prefix("[::]:"))
    {
        return Endpoint::Tcp(format!("{host}:{port}"));
    }
    endpoint.clone()
}

impl Bridge {
    /// Creates a bridge that lives on the thread of `spawner`.
    pub(super) fn new(options: BridgeOptions, spawner: Spawner) -> Self {
        let BridgeOptions { program, security, limits, settings } = options;
        Self {
            runtime: OnceLock::new(),
            program,
            me: OnceLock::new(),
            join: OnceLock::new(),
            security,
            limits,
            settings,
            spawner,
            home: OnceLock::new(),
            peer_handler: OnceLock::new(),
            sessions: Mutex::default(),
            ended: watch::Sender::new(false),
            sockets: Notify::new(),
            is_leaving: AtomicBool::new(false),
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
        let _ = self.me.set(me);
    }

    pub(super) fn me(&self) -> &NodeCard {
        self.me.get().expect("set before any session begins")
    }

    /// Sets the runtime of the App, once it is known which App that is.
    pub(super) fn set_runtime(&self, runtime: Arc<Runtime>) {
        let _ = self.runtime.set(runtime);
    }

    /// Returns the runtime of the App that this process takes part in.
    pub(super) fn runtime(&self) -> Option<&Arc<Runtime>> {
        self.runtime.get()
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

    /// Returns the App that this process takes part in.
    pub(super) fn app(&self) -> AppId {
        self.runtime().map_or(AppId::NONE, |runtime| runtime.app())
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

    pub(super) fn peer_handler(&self) -> Result<Arc<dyn PeerHandler>, BadPeer> {
        let peer_handler = self.peer_handler.get().and_then(Weak::upgrade);
        peer_handler.ok_or_else(|| BadPeer::Other("this process is leaving".to_owned()))
    }

    /// Returns the live sessions that other processes began.
    pub(super) fn accepted(&self) -> Vec<Arc<Link>> {
        self.sessions.lock().accepted.values().map(|accepted| accepted.link.clone()).collect()
    }

    /// Returns the live sessions, except the one that this process began with the head.
    pub(super) fn peers(&self) -> Vec<Arc<Link>> {
        let sessions = self.sessions.lock();
        let accepted = sessions.accepted.values().map(|accepted| &accepted.link);
        accepted.chain(sessions.peers.values()).filter(|link| !link.is_over()).cloned().collect()
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
        let links = processes.into_iter().flatten().filter_map(|process| {
            peer_handler.link_to(process).or_else(|| self.sessions.lock().peers.get(&process).cloned())
        });
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
        peer_handler.head()?;
        (!source.endpoints.is_empty()).then(|| self.peer(&source.card()))
    }

    /// Returns the endpoints at which a process that has a value can be reached.
    pub(super) fn endpoints_of(&self, source: &Source) -> Vec<Endpoint> {
        match self.join.get() {
            Some(join) if Some(source.id) == self.head_id() => vec![join.clone()],
            Some(Endpoint::Tcp(join)) => {
                source.endpoints.iter().map(|endpoint| on_the_machine_of(join, endpoint)).collect()
            }
            _ => source.endpoints.clone(),
        }
    }

    /// Sets the endpoint at which this process reaches the head.
    pub(super) fn set_join(&self, join: Endpoint) {
        let _ = self.join.set(join);
    }

    /// Returns the endpoint at which this process reaches the head; `None` in the head itself.
    pub(super) fn head_endpoint(&self) -> Option<Endpoint> {
        self.join.get().cloned()
    }

    pub(super) async fn whereabouts(&self, id: PayloadId, among: Vec<u64>) -> Option<Whereabouts> {
        let peer_handler = self.peer_handler().ok()?;
        tokio::time::timeout(self.settings.grace, peer_handler.whereabouts(id, among)).await.ok()?
    }

    /// Ends all sessions and stops accepting connections.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.idle.clear();
        let sessions = std::mem::take(&mut *self.sessions.lock());
        let accepted = sessions.accepted.into_values().map(|accepted| accepted.link);
        accepted.chain(sessions.peers.into_values()).for_each(|link| link.end());
    }
}
