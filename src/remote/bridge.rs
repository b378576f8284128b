//! What one process is to the others: its listener, its sessions, and how it finds other processes.
//!
//! All of it lives on one thread, which light Works share: what arrives for them then costs no wake-up of another. It
//! shares their set of local tasks as well: a task of the runtime's own that wakes one of those has the runtime look for
//! events first, which is a system call for each message.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use super::inbox::Inbox;
use super::link::{BadPeer, End, Link};
use super::protocol::{Control, Hello, NodeCard, Program, Refusal, Role, Welcome};
use super::pulls::Idle;
use super::references::Source;
use super::session::SessionSettings;
use crate::id::{AppId, unique};
use crate::payload::{Hold, Holds, PayloadId};
use crate::transport::{
    Connection, Endpoint, Limits, Listener, Security, TransportError, Turn, Unproved, dial,
};
use crate::wire::{self, Frame};
use crate::work::Task;

/// The waits between attempts to reach a process again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Puts a task among the local ones of the thread that a bridge lives on, from any thread.
pub(crate) type Spawner = Arc<dyn Fn(Task) + Send + Sync>;

/// What this process does about its sessions: the head, or a node.
pub(super) trait Site: Send + Sync {
    /// Whether a process that dials may begin a session, else why not.
    fn admit(&self, hello: &Hello) -> Result<(), String>;
    fn joined(&self, link: &Arc<Link>, role: Role);
    /// What comes along with `carried` refers to it.
    fn control(&self, link: &Arc<Link>, control: Control, carried: Holds) -> Result<(), String>;
    fn disconnected(&self, link: &Arc<Link>, role: Role, why: &str);
    fn connected_again(&self, link: &Arc<Link>, role: Role);
    fn lost(&self, link: &Arc<Link>, role: Role, why: &str);

    // ---- values ----

    /// The head, where this is not it.
    fn head(&self) -> Option<&Arc<Link>>;
    /// The session with this process, if there is one.
    fn link_to(&self, process: u64) -> Option<Arc<Link>>;
    /// A reference has come from another process.
    fn reference(&self, hold: &Arc<Hold>);
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
    site: OnceLock<Weak<dyn Site>>,
    sessions: Mutex<Sessions>,
    ended: watch::Sender<bool>,
    /// Connections that values were pulled on.
    idle: Idle,
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
            site: OnceLock::new(),
            sessions: Mutex::default(),
            ended: watch::Sender::new(false),
            idle: Idle::default(),
        }
    }

    pub(super) fn set_site(&self, site: Weak<dyn Site>) {
        let _ = self.site.set(site);
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

    /// The thread that it lives on is this one.
    pub(super) fn settle_here(&self) {
        let _ = self.home.set(std::thread::current().id());
    }

    /// Whether the calling thread is the one that it lives on.
    pub(super) fn is_home(&self) -> bool {
        self.home.get() == Some(&std::thread::current().id())
    }

    pub(super) fn site(&self) -> Result<Arc<dyn Site>, BadPeer> {
        let site = self.site.get().and_then(Weak::upgrade);
        site.ok_or_else(|| BadPeer::Other("this process is leaving".to_owned()))
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions that others began and that live.
    pub(super) fn accepted(&self) -> Vec<Arc<Link>> {
        self.sessions().accepted.values().map(|accepted| accepted.link.clone()).collect()
    }

    pub(super) fn idle(&self) -> &Idle {
        &self.idle
    }

    /// The head's number, where this is not it.
    pub(super) fn head_id(&self) -> Option<u64> {
        Some(self.site().ok()?.head()?.peer().id)
    }

    /// The numbers of the sessions with these processes, as far as there are some.
    pub(super) fn sessions_with(&self, processes: [Option<u64>; 2]) -> Vec<u64> {
        let Ok(site) = self.site() else { return Vec::new() };
        let links = processes.into_iter().flatten().filter_map(|process| {
            site.link_to(process).or_else(|| self.sessions().peers.get(&process).cloned())
        });
        links.map(|link| link.number()).collect()
    }

    /// The session with a process that has a value, begun if there is none.
    pub(super) fn link_to(self: &Arc<Self>, source: &Source) -> Option<Arc<Link>> {
        let site = self.site().ok()?;
        if let Some(link) = site.link_to(source.id) {
            return Some(link);
        }
        // The head dials nobody.
        site.head()?;
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
        let site = self.site().ok()?;
        tokio::time::timeout(self.settings.grace, site.whereabouts(id)).await.ok()?
    }

    /// Ends every session, and takes no more connections.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.idle.clear();
        let sessions = std::mem::take(&mut *self.sessions());
        let accepted = sessions.accepted.into_values().map(|accepted| accepted.link);
        accepted.chain(sessions.peers.into_values()).for_each(|link| link.end());
    }

    // ---- those who dial ----

    /// Takes connections until the bridge ends; nothing listens there any more when this is done.
    pub(super) async fn listen(self: Arc<Self>, mut listener: Listener) {
        let mut ended = self.ended.subscribe();
        let mut greetings = Unproved::new(self.limits.handshakes);
        loop {
            let connection = tokio::select! {
                connection = listener.accept() => Some(connection),
                _ = ended.wait_for(|ended| *ended) => None,
            };
            let Some(connection) = connection else { return listener.close().await };
            let bridge = self.clone();
            greetings.begin(|turn| spawn_local(bridge.take_in(connection, turn)).abort_handle());
        }
    }

    /// Has a connection greet, and does what it is for.
    pub(super) async fn take_in(self: Arc<Self>, connection: Connection, turn: Turn) {
        let peer = connection.peer().to_owned();
        let limit = self.limits.handshake;
        let greeted = tokio::time::timeout(limit, self.greet(connection)).await;
        drop(turn);
        match greeted {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((Role::Drive, connection)))) => {
                if let Err(error) = self.serve_drive(connection).await {
                    log::debug!("the connection on which {peer} used a drive broke: {error}");
                }
            }
            Ok(Ok(Some((_, connection)))) => {
                if let Err(error) = self.serve_pulls(connection).await {
                    log::debug!("the connection on which {peer} pulled values broke: {error}");
                }
            }
            Ok(Err(DialError::Transport(error))) if error.is_gone() => {
                log::debug!("a connection from {peer} was not used: {error}");
            }
            Ok(Err(error)) => log::warn!("a connection from {peer} was refused: {error}"),
            Err(_) => log::warn!("a connection from {peer} was closed: it said nothing within {limit:?}"),
        }
    }

    /// Gives the connection back where there is no session on it.
    async fn greet(
        self: &Arc<Self>,
        mut connection: Connection,
    ) -> Result<Option<(Role, Connection)>, DialError> {
        let hello = match connection.read_frame().await {
            Ok(Some(Frame::Hello(body))) => {
                wire::decode::<Hello>(body).map_err(|error| format!("its greeting cannot be read: {error}"))
            }
            Ok(Some(_)) => Err("it did not begin with a greeting".to_owned()),
            Ok(None) => return Ok(None),
            Err(error @ TransportError::Foreign { .. }) => Err(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let found = hello.map_err(|reason| Refusal { reason, lost: false }).and_then(|hello| {
            match self.stranger(&hello) {
                Some(refusal) => return Err(refusal),
                None if hello.role == Role::Puller => Ok(None),
                None if hello.role == Role::Drive && self.head_id().is_none() => Ok(None),
                None if hello.role == Role::Drive => {
                    let reason = "drives are at the head, which this is not".to_owned();
                    Err(Refusal { reason, lost: false })
                }
                None => self.session_for(&hello).map(Some),
            }
            .map(|session| (hello, session))
        });
        let (hello, session) = match found {
            Ok(found) => found,
            Err(refusal) => {
                let body =
                    wire::encode(&refusal).map_err(|error| DialError::NotUnderstood(error.to_string()))?;
                connection.dismiss(&Frame::Bye(&body)).await?;
                return Err(DialError::Refused(refusal.reason));
            }
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let welcome = Welcome {
            app: self.app(),
            node: self.me().clone(),
            received: session.as_ref().map_or(0, |(link, _)| link.received()),
            heartbeat_ms: millis(self.settings.heartbeat),
            grace_ms: millis(self.settings.grace),
        };
        let body = wire::encode(&welcome).map_err(|error| DialError::NotUnderstood(error.to_string()))?;
        connection.write_frame(&Frame::Hello(&body)).await?;
        let Some((_, connections)) = session else { return Ok(Some((hello.role, connection))) };
        // The session may have ended meanwhile; then the connection is closed.
        let _ = connections.send((connection, hello.received)).await;
        Ok(None)
    }

    /// Why the dialer is not of this App, if it is not.
    fn stranger(&self, hello: &Hello) -> Option<Refusal> {
        if let Some(difference) = self.program.difference(&hello.program) {
            let reason = format!(
                "the two are not the same program, seen from here: {difference}; \
                 run the same build on all machines"
            );
            return Some(Refusal { reason, lost: false });
        }
        let another = hello.app.is_some_and(|app| app != self.app());
        another.then(|| Refusal { reason: "this is another run of the App".to_owned(), lost: true })
    }

    /// The session that goes on, or begins, with this greeting.
    #[expect(clippy::type_complexity, reason = "used in one place")]
    fn session_for(
        self: &Arc<Self>,
        hello: &Hello,
    ) -> Result<(Arc<Link>, mpsc::Sender<(Connection, u64)>), Refusal> {
        let refused = |reason| Refusal { reason, lost: false };
        let key = (hello.node.id, hello.session);
        if let Some(accepted) = self.sessions().accepted.get(&key) {
            return Ok((accepted.link.clone(), accepted.connections.clone()));
        }
        if !hello.fresh {
            let reason =
                "it was silent for longer than the grace period, so that its Works were given up".to_owned();
            return Err(Refusal { reason, lost: true });
        }
        let site = self.site().map_err(|error| refused(error.to_string()))?;
        site.admit(hello).map_err(refused)?;
        let link = Arc::new(Link::new(hello.node.clone(), self, self.settings));
        let (connections, arriving) = mpsc::channel(1);
        let accepted = Accepted { link: link.clone(), connections: connections.clone() };
        self.sessions().accepted.insert(key, accepted);
        spawn_local(self.clone().attend(link.clone(), arriving, hello.role, key));
        Ok((link, connections))
    }

    /// Lives as long as a session that another process began.
    async fn attend(
        self: Arc<Self>,
        link: Arc<Link>,
        mut arriving: mpsc::Receiver<(Connection, u64)>,
        role: Role,
        key: (u64, u64),
    ) {
        let mut inbox = Inbox::new(self.clone(), link.clone());
        let mut next = None;
        let mut begun = false;
        let why = loop {
            let connection = match next.take() {
                Some(connection) => Some(connection),
                None => tokio::select! {
                    connection = arriving.recv() => connection,
                    () = link.lost() => None,
                },
            };
            let Some((connection, received)) = connection else {
                break "nothing was heard from it for the grace period".to_owned();
            };
            let Ok(site) = self.site() else { break "this process leaves".to_owned() };
            if std::mem::replace(&mut begun, true) {
                site.connected_again(&link, role);
            } else {
                site.joined(&link, role);
            }
            let end = tokio::select! {
                end = link.converse(connection, received, &mut inbox) => Some(end),
                // The peer has given up the connection before this process has noticed anything.
                connection = arriving.recv() => { next = connection; None }
            };
            link.disconnect();
            match end {
                None => {}
                Some(End::Over(why)) => break why,
                Some(End::Broken(why)) => site.disconnected(&link, role, &why),
            }
        };
        self.sessions().accepted.remove(&key);
        let why = link.given_up().unwrap_or(why);
        link.end();
        if let Ok(site) = self.site() {
            site.lost(&link, role, &why);
        }
    }

    // ---- those who are dialed ----

    /// Reaches another process and begins, or goes on with, a session.
    pub(super) async fn call(
        &self,
        endpoints: &[Endpoint],
        hello: &Hello,
    ) -> Result<(Connection, Welcome), DialError> {
        let mut failure = DialError::NotUnderstood("it has said nowhere where it can be reached".to_owned());
        for endpoint in endpoints {
            match self.call_at(endpoint, hello).await {
                Ok(welcome) => return Ok(welcome),
                Err(error @ DialError::Transport(_)) => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    async fn call_at(&self, endpoint: &Endpoint, hello: &Hello) -> Result<(Connection, Welcome), DialError> {
        let not_understood = |error: &dyn std::fmt::Display| DialError::NotUnderstood(error.to_string());
        let mut connection = dial(endpoint, &self.security, &self.limits).await?;
        let exchange = async {
            let body = wire::encode(hello).map_err(|error| not_understood(&error))?;
            connection.write_frame(&Frame::Hello(&body)).await?;
            match connection.read_frame().await? {
                Some(Frame::Hello(body)) => {
                    wire::decode::<Welcome>(body).map_err(|error| not_understood(&error))
                }
                Some(Frame::Bye(body)) => {
                    let refusal: Refusal = wire::decode(body).map_err(|error| not_understood(&error))?;
                    Err(match refusal.lost {
                        true => DialError::Lost(refusal.reason),
                        false => DialError::Refused(refusal.reason),
                    })
                }
                Some(_) => Err(not_understood(&"it did not answer with a greeting")),
                // It has too much to do, perhaps: that is no refusal.
                None => Err(TransportError::Broken {
                    peer: endpoint.to_string(),
                    source: std::io::Error::new(
                        std::io::ErrorKind::UnexpectedEof,
                        "it closed the connection instead of answering the greeting",
                    ),
                }
                .into()),
            }
        };
        let welcome = match tokio::time::timeout(self.limits.handshake, exchange).await {
            Ok(welcome) => welcome?,
            Err(_) => return Err(TransportError::Slow { peer: endpoint.to_string() }.into()),
        };
        Ok((connection, welcome))
    }

    pub(super) fn hello(&self, role: Role, app: Option<AppId>, session: u64) -> Hello {
        Hello {
            role,
            program: self.program.clone(),
            node: self.me().clone(),
            app,
            session,
            fresh: true,
            received: 0,
        }
    }

    /// Lives as long as a session that this process began; gives why it ended.
    pub(super) async fn pursue(
        self: Arc<Self>,
        link: Arc<Link>,
        endpoints: Vec<Endpoint>,
        hello: Hello,
        first: Option<(Connection, u64)>,
    ) -> String {
        let role = hello.role;
        let is_near = endpoints.iter().all(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
        let mut inbox = Inbox::new(self.clone(), link.clone());
        let mut next = first;
        let mut fresh = next.is_none();
        let mut again = false;
        let why = 'session: loop {
            let mut pause = FIRST_PAUSE;
            let (connection, received) = loop {
                if let Some(next) = next.take() {
                    break next;
                }
                let hello = Hello { fresh, received: link.received(), ..hello.clone() };
                let attempt = tokio::select! {
                    attempt = self.call(&endpoints, &hello) => attempt,
                    () = link.lost() => break 'session "it could not be reached within the grace period".to_owned(),
                };
                match attempt {
                    Ok((connection, welcome)) => break (connection, welcome.received),
                    // On this machine the system knows.
                    Err(DialError::Transport(error)) if is_near && error.is_refused_connection() => {
                        break 'session "its process is gone".to_owned();
                    }
                    Err(DialError::Transport(error)) => log::debug!("{error}"),
                    Err(error) => break 'session error.to_string(),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            };
            fresh = false;
            if let Ok(site) = self.site() {
                if std::mem::replace(&mut again, true) {
                    site.connected_again(&link, role);
                } else {
                    site.joined(&link, role);
                }
            }
            let end = link.converse(connection, received, &mut inbox).await;
            link.disconnect();
            match end {
                End::Over(why) => break why,
                End::Broken(why) => {
                    if let Ok(site) = self.site() {
                        site.disconnected(&link, role, &why);
                    }
                }
            }
        };
        link.end();
        why
    }

    /// The session with another node, begun when it is first needed.
    pub(super) fn peer(self: &Arc<Self>, card: &NodeCard) -> Arc<Link> {
        let mut sessions = self.sessions();
        if let Some(link) = sessions.peers.get(&card.id).filter(|link| !link.is_over()) {
            return link.clone();
        }
        let link = Arc::new(Link::new(card.clone(), self, self.settings));
        sessions.peers.insert(card.id, link.clone());
        drop(sessions);
        let (bridge, peer) = (self.clone(), link.clone());
        let hello = self.hello(Role::Peer, Some(self.app()), unique());
        self.spawn(async move || {
            let (id, endpoints) = (peer.peer().id, peer.peer().endpoints.clone());
            let why = bridge.clone().pursue(peer.clone(), endpoints, hello, None).await;
            log::debug!("the session with node `{}` is over: {why}", peer.peer().name);
            let mut sessions = bridge.sessions();
            if sessions.peers.get(&id).is_some_and(|link| Arc::ptr_eq(link, &peer)) {
                sessions.peers.remove(&id);
            }
        });
        link
    }
}
