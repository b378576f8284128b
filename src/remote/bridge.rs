//! What one process is to the others: its listener, its sessions, and how it finds other processes.
//!
//! All of it lives on one thread, which light Works share: what arrives for them then costs no wake-up of another. It
//! shares their set of local tasks as well: a task of the runtime's own that wakes one of those has the runtime look for
//! events first, which is a system call for each message.

mod accept;
mod dial;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::ThreadId;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc, watch};

use super::inbox::{Destination, Target};
use super::link::{BadPeer, Link};
use super::protocol::{Control, Hello, NodeCard, Program, Refusal, Role};
use super::references::Source;
use super::session::SessionSettings;
use super::transfers::Idle;
use crate::id::{ActorPath, AppId};
use crate::payload::{PayloadGuard, PayloadGuards, PayloadId};
use crate::transport::{Complaints, Connection, Endpoint, Limits, Security, TransportError};
use crate::work::Task;

/// Puts a task among the local ones of the thread that a bridge lives on, from any thread.
pub(crate) type Spawner = Arc<dyn Fn(Task) + Send + Sync>;

/// What this process does about its sessions: the head, or a node.
pub(super) trait PeerHandler: Send + Sync {
    /// Whether a process that dials may begin a session, else why not.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;
    fn joined(&self, link: &Arc<Link>, role: Role);
    /// What comes along with `carried` refers to it.
    fn control(&self, link: &Arc<Link>, control: Control, carried: PayloadGuards) -> Result<(), String>;
    fn disconnected(&self, link: &Arc<Link>, role: Role, why: &str);
    fn connected_again(&self, link: &Arc<Link>, role: Role);
    fn lost(&self, link: &Arc<Link>, role: Role, why: &str);

    /// Where messages go that have come for the Work at `path`.
    fn destination(&self, path: &ActorPath, target: Target) -> Destination;

    // ---- values ----

    /// The head, where this is not it.
    fn head(&self) -> Option<&Arc<Link>>;
    /// The session with this process, if there is one.
    fn link_to(&self, process: u64) -> Option<Arc<Link>>;
    /// A reference has come from another process.
    fn reference(&self, hold: &Arc<PayloadGuard>);
    /// A value that was made elsewhere is in this process now.
    fn pulled(&self, id: PayloadId);
    /// Who has a value; `None` when the head cannot be asked.
    fn whereabouts(&self, id: PayloadId) -> BoxFuture<'static, Option<Whereabouts>>;
}

/// Who has a value; or how it was lost.
pub(super) struct Whereabouts {
    pub(super) sources: Vec<Source>,
    pub(super) lost: Option<String>,
}

pub(crate) struct Bridge {
    app: OnceLock<AppId>,
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
    /// Notified where the file of a socket was found to be missing.
    sockets: Notify,
    /// Whether this process is about to end.
    is_leaving: AtomicBool,
    /// Connections that values were pulled on.
    idle: Idle,
    complaints: Complaints,
}

#[derive(Default)]
struct Sessions {
    /// Those that others began, by their process and number.
    accepted: HashMap<(u64, u64), Accepted>,
    /// Those with peers that this process began, by process.
    peers: HashMap<u64, Arc<Link>>,
}

struct Accepted {
    link: Arc<Link>,
    connections: mpsc::Sender<(Connection, u64)>,
}

/// How a process takes part in an App.
#[derive(Clone)]
pub(crate) struct BridgeOptions {
    pub(crate) program: Program,
    pub(crate) security: Security,
    pub(crate) limits: Limits,
    pub(crate) settings: SessionSettings,
}

/// A process could not be reached, or did not want to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("it was refused there: {0}")]
    Refused(String),
    /// It may try again: another node has its name, and is silent.
    #[error("it was refused there: {0}")]
    Taken(String),
    #[error("the session was given up there: {0}")]
    Lost(String),
    #[error("what came from there cannot be understood: {0}")]
    NotUnderstood(String),
}

/// "Every address of this machine" is said by processes of the head's machine, of which nodes know an address.
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
    /// One that lives on the thread of `spawner`.
    pub(super) fn new(options: BridgeOptions, spawner: Spawner) -> Self {
        let BridgeOptions { program, security, limits, settings } = options;
        Self {
            app: OnceLock::new(),
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
            complaints: Complaints::default(),
        }
    }

    pub(super) fn set_peer_handler(&self, peer_handler: Weak<dyn PeerHandler>) {
        let _ = self.peer_handler.set(peer_handler);
    }

    /// Who this process is, once it is known where it can be reached.
    pub(super) fn set_me(&self, me: NodeCard) {
        let _ = self.me.set(me);
    }

    pub(super) fn me(&self) -> &NodeCard {
        self.me.get().expect("set before any session begins")
    }

    pub(super) fn set_app(&self, app: AppId) {
        let _ = self.app.set(app);
    }

    /// The App that this process takes part in.
    pub(super) fn app(&self) -> AppId {
        self.app.get().copied().unwrap_or(AppId::NONE)
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

    /// Has the thread of the bridge do this too.
    pub(super) fn spawn<F: Future<Output = ()> + 'static>(&self, task: impl FnOnce() -> F + Send + 'static) {
        (self.spawner)(Box::new(|| task().boxed_local()));
    }

    /// The file of a socket is missing: it is made again soon.
    pub(super) fn look_after_sockets(&self) {
        self.sockets.notify_one();
    }

    /// The thread that it lives on is this one.
    pub(super) fn settle_here(&self) {
        let _ = self.home.set(std::thread::current().id());
    }

    /// Whether the calling thread is the one that it lives on.
    pub(super) fn is_home(&self) -> bool {
        self.home.get() == Some(&std::thread::current().id())
    }

    /// Sessions with other nodes that begin from now on are told that this process is about to end.
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

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions that others began and that live.
    pub(super) fn accepted(&self) -> Vec<Arc<Link>> {
        self.sessions().accepted.values().map(|accepted| accepted.link.clone()).collect()
    }

    /// The sessions that live, without those with the head.
    pub(super) fn peers(&self) -> Vec<Arc<Link>> {
        let sessions = self.sessions();
        let accepted = sessions.accepted.values().map(|accepted| &accepted.link);
        accepted.chain(sessions.peers.values()).filter(|link| !link.is_over()).cloned().collect()
    }

    pub(super) fn idle(&self) -> &Idle {
        &self.idle
    }

    /// The head's number, where this is not it.
    pub(super) fn head_id(&self) -> Option<u64> {
        Some(self.peer_handler().ok()?.head()?.peer().id)
    }

    /// The numbers of the sessions with these processes, as far as there are some.
    pub(super) fn sessions_with(&self, processes: [Option<u64>; 2]) -> Vec<u64> {
        let Ok(peer_handler) = self.peer_handler() else { return Vec::new() };
        let links = processes.into_iter().flatten().filter_map(|process| {
            peer_handler.link_to(process).or_else(|| self.sessions().peers.get(&process).cloned())
        });
        // One that is about to end keeps nothing alive for long.
        links.filter(|link| !link.is_leaving()).map(|link| link.number()).collect()
    }

    /// The session with a process that has a value, begun if there is none.
    pub(super) fn link_to(self: &Arc<Self>, source: &Source) -> Option<Arc<Link>> {
        let peer_handler = self.peer_handler().ok()?;
        if let Some(link) = peer_handler.link_to(source.id) {
            return Some(link);
        }
        // The head dials nobody.
        peer_handler.head()?;
        (!source.endpoints.is_empty()).then(|| self.peer(&source.card()))
    }

    /// Where a process that has a value is reached.
    pub(super) fn endpoints_of(&self, source: &Source) -> Vec<Endpoint> {
        match self.join.get() {
            Some(join) if Some(source.id) == self.head_id() => vec![join.clone()],
            Some(Endpoint::Tcp(join)) => {
                source.endpoints.iter().map(|endpoint| on_the_machine_of(join, endpoint)).collect()
            }
            _ => source.endpoints.clone(),
        }
    }

    /// Where the head is reached from here.
    pub(super) fn set_join(&self, join: Endpoint) {
        let _ = self.join.set(join);
    }

    /// Where the head is reached from here; `None` at the head.
    pub(super) fn head_endpoint(&self) -> Option<Endpoint> {
        self.join.get().cloned()
    }

    pub(super) async fn whereabouts(&self, id: PayloadId) -> Option<Whereabouts> {
        let peer_handler = self.peer_handler().ok()?;
        tokio::time::timeout(self.settings.grace, peer_handler.whereabouts(id)).await.ok()?
    }

    /// Ends every session, and takes no more connections.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.idle.clear();
        let sessions = std::mem::take(&mut *self.sessions());
        let accepted = sessions.accepted.into_values().map(|accepted| accepted.link);
        accepted.chain(sessions.peers.into_values()).for_each(|link| link.end());
    }
}
