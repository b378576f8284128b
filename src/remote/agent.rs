//! A node's side: hosts Works for a head.
//!
//! # Guarantees
//! - What a Work publishes and reports goes to the head in order; states conflate for as long as there is no room.
//! - When the session with the head is lost, all Works end at once, before anything else is done: the head has given
//!   them up by then, or will.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::bridge::{Bridge, BridgeOptions, DialError, Site, Spawner};
use super::link::Link;
use super::logs::send_logs;
use super::protocol::{Control, Hello, NodeCard, Role};
use super::session::SessionSettings;
use super::ways::DistantWay;
use crate::id::{ActorPath, IdMap, WorkId, unique};
use crate::payload::Holds;
use crate::transport::{Endpoint, Listener, TransportError};
use crate::work::{
    Abort, AnyMailbox, Command, Doorbell, Express, Failure, Host, Ingredients, Input, LocalHost, News,
    Outbox, Placement, Reason, Report, Resources, Route, Router, RunOrder, WorkKind, forget_addresses,
    remember_address, set_router,
};

/// The longest wait before a head that is not there is dialed again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The types of Work that there are, by name.
pub(crate) type Kinds = std::collections::BTreeMap<&'static str, &'static WorkKind>;

/// How a process takes part in an App as a node.
pub(crate) struct NodeOptions {
    pub(crate) bridge: BridgeOptions,
    /// Where it lives.
    pub(crate) spawner: Spawner,
    pub(crate) kinds: Kinds,
    /// Where the head is.
    pub(crate) join: Endpoint,
    pub(crate) name: String,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) resources: Resources,
    /// Where other nodes reach this one; by default at the address from which it reaches the head.
    pub(crate) listen: Option<Endpoint>,
    /// Threads that pooled Works share.
    pub(crate) pool: usize,
}

/// A process could not take part as a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the head at {head} does not take this node: {why}")]
    Refused { head: Endpoint, why: String },
}

/// Why a node is done.
pub(crate) enum Farewell {
    /// The head has said that the App is over, or that this node is not needed any more.
    Over(String),
    /// It was asked to leave.
    Left,
}

struct Agent {
    bridge: Arc<Bridge>,
    head: Arc<Link>,
    kinds: Kinds,
    doorbell: Arc<Doorbell>,
    state: Mutex<State>,
}

struct State {
    host: LocalHost,
    incarnations: IdMap<u64, Hosted>,
    mailboxes: HashMap<ActorPath, (Arc<dyn AnyMailbox>, &'static str)>,
    ways: HashMap<ActorPath, Arc<DistantWay>>,
    over: Option<String>,
}

struct Hosted {
    path: ActorPath,
    mailbox: Arc<dyn AnyMailbox>,
    outbox: Arc<Outbox>,
    abort: Arc<Abort>,
}

/// Hosts Works until the App is over or `leave` is notified. Where the head is lost, it is waited for, and joined
/// anew.
pub(crate) async fn run_node(options: NodeOptions, leave: &Notify) -> Result<Farewell, NodeError> {
    let mut first = true;
    loop {
        let session = tokio::select! {
            session = join(&options, std::mem::take(&mut first)) => session?,
            () = leave.notified() => return Ok(Farewell::Left),
        };
        let Session { bridge, head, endpoint, hello, connection, received } = session;
        let agent = Arc::new(Agent::new(&options, bridge.clone(), head.clone()));
        let site: Arc<dyn Site> = agent.clone();
        bridge.set_site(Arc::downgrade(&site));
        let router: Arc<dyn Router> = agent.clone();
        set_router(bridge.app(), Some(Arc::downgrade(&router)));
        let news = spawn_local(agent.clone().send_news());
        let logs = spawn_local(send_logs(head.clone()));
        let pursue = bridge.clone().pursue(head.clone(), vec![endpoint], hello, Some((connection, received)));
        let mut pursue = spawn_local(pursue);
        let (why, left) = tokio::select! {
            why = &mut pursue => (why.unwrap_or_else(|error| error.to_string()), false),
            () = leave.notified() => {
                head.leave("it was asked to leave");
                // The head may be out of reach.
                let _ = tokio::time::timeout(Duration::from_secs(1), &mut pursue).await;
                (String::new(), true)
            }
        };
        pursue.abort();
        news.abort();
        logs.abort();
        agent.end();
        bridge.end();
        set_router(bridge.app(), None);
        forget_addresses(bridge.app(), None);
        if left {
            return Ok(Farewell::Left);
        }
        if let Some(why) = agent.lock().over.take() {
            return Ok(Farewell::Over(why));
        }
        if matches!(options.join, Endpoint::Unix(_)) {
            return Ok(Farewell::Over(why));
        }
        log::warn!(
            "the head is lost ({why}): its Works here have been ended; waiting for a head at {}",
            options.join
        );
    }
}

struct Session {
    bridge: Arc<Bridge>,
    head: Arc<Link>,
    endpoint: Endpoint,
    hello: Hello,
    connection: crate::transport::Connection,
    received: u64,
}

/// Joins the head as soon as it is there.
async fn join(options: &NodeOptions, first: bool) -> Result<Session, NodeError> {
    let bridge = Arc::new(Bridge::new(options.bridge.clone(), options.spawner.clone()));
    let endpoint = options.listen.clone().or_else(|| reachable_from(&options.join));
    let listener = match &endpoint {
        Some(endpoint) => {
            let options = &options.bridge;
            Some(Listener::bind(endpoint, options.security.clone(), options.limits).await?)
        }
        None => None,
    };
    bridge.set_me(NodeCard {
        id: unique(),
        name: options.name.clone(),
        labels: options.labels.clone(),
        resources: options.resources,
        endpoints: listener.iter().map(Listener::endpoint).collect(),
    });
    let hello = bridge.hello(Role::Node, None, unique());
    let join = std::slice::from_ref(&options.join);
    let mut pause = Duration::from_millis(20);
    let mut silent = !first;
    let (connection, welcome) = loop {
        match bridge.call(join, &hello).await {
            Ok(called) => break called,
            Err(DialError::Transport(error @ TransportError::Refused { .. })) => return Err(error.into()),
            // The head was there before this process, and is gone.
            Err(DialError::Transport(error)) if matches!(options.join, Endpoint::Unix(_)) => {
                return Err(error.into());
            }
            Err(DialError::Transport(error)) => {
                if !std::mem::replace(&mut silent, true) {
                    log::info!("{error}; trying again until the head is there");
                }
            }
            Err(DialError::Refused(why)) => {
                return Err(NodeError::Refused { head: options.join.clone(), why });
            }
            // A session that has not begun cannot be lost; the head is another one than a moment ago.
            Err(DialError::Lost(why) | DialError::NotUnderstood(why)) => log::debug!("{why}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    bridge.set_app(welcome.app);
    if let Some(listener) = listener {
        // Ends with the runtime, or with the bridge's last session.
        spawn_local(bridge.clone().listen(listener));
    }
    let settings = SessionSettings {
        heartbeat: Duration::from_millis(welcome.heartbeat_ms.max(1)),
        grace: Duration::from_millis(welcome.grace_ms.max(1)),
        ..options.bridge.settings
    };
    let head = Arc::new(Link::new(welcome.node, settings));
    let hello = Hello { app: Some(welcome.app), fresh: false, ..hello };
    let endpoint = options.join.clone();
    Ok(Session { bridge, head, endpoint, hello, connection, received: welcome.received })
}

/// An address of this machine that the machine of `head` can reach, as far as that can be told from here.
fn reachable_from(head: &Endpoint) -> Option<Endpoint> {
    let Endpoint::Tcp(address) = head else { return None };
    // Connecting such a socket sends nothing; it only chooses the address that would be sent from.
    let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).ok()?;
    let socket = match socket.connect(address) {
        Ok(()) => socket,
        Err(_) => {
            let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.connect(address).ok()?;
            socket
        }
    };
    let ip = socket.local_addr().ok()?.ip().to_canonical();
    Some(Endpoint::Tcp(std::net::SocketAddr::new(ip, 0).to_string()))
}

impl Agent {
    fn new(options: &NodeOptions, bridge: Arc<Bridge>, head: Arc<Link>) -> Self {
        let mut host = LocalHost::new(options.pool);
        host.share_current();
        let state = State {
            host,
            incarnations: IdMap::default(),
            mailboxes: HashMap::new(),
            ways: HashMap::new(),
            over: None,
        };
        let kinds = options.kinds.clone();
        Self { bridge, head, kinds, doorbell: Arc::default(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_news(self: Arc<Self>) {
        loop {
            let rung = poll_fn(|cx| self.doorbell.poll(cx)).await;
            for WorkId(incarnation) in rung {
                if !self.head.room().await {
                    return;
                }
                let outbox = self.lock().incarnations.get(&incarnation).map(|hosted| hosted.outbox.clone());
                let Some(outbox) = outbox else { continue };
                // Those that are taken at once meanwhile must not get there first.
                let over = outbox.hand_over(|news| {
                    let over = is_end(&news.reports);
                    let (patch, reports) = (news.patch, news.reports);
                    self.head.control(&Control::News { incarnation, patch, reports });
                    over
                });
                if over && let Some(hosted) = self.lock().incarnations.remove(&incarnation) {
                    log::log!(self.level(), "work `{}` is over here", hosted.path);
                }
            }
        }
    }

    fn launch(&self, launch: Launch) -> Result<(), String> {
        let Launch { incarnation, path, work, pooled, state: value, max_state_bytes, mailbox: capacity } =
            launch;
        let kind = self.kinds.get(work.as_str()).ok_or_else(|| format!("there is no Work `{work}` here"))?;
        log::log!(self.level(), "work `{path}` runs here");
        let mut state = self.lock();
        // Messages that wait are for the Work, not for one life of it.
        let mailbox = match state.mailboxes.get(&path) {
            Some((mailbox, name)) if *name == kind.name() => mailbox.clone(),
            _ => {
                let mailbox = kind.mailbox(usize::try_from(capacity).unwrap_or(usize::MAX));
                state.mailboxes.insert(path.clone(), (mailbox.clone(), kind.name()));
                mailbox
            }
        };
        remember_address(self.bridge.app(), &path, &mailbox);
        let outbox = Outbox::new(WorkId(incarnation), self.doorbell.clone());
        let outbox = Arc::new(outbox.with_express(self.head.clone()));
        let abort = Arc::new(Abort::default());
        let hosted = Hosted {
            path: path.clone(),
            mailbox: mailbox.clone(),
            outbox: outbox.clone(),
            abort: abort.clone(),
        };
        state.incarnations.insert(incarnation, hosted);
        let what = Ingredients {
            kind,
            app: self.bridge.app(),
            path,
            state: value,
            max_state_bytes: usize::try_from(max_state_bytes).unwrap_or(usize::MAX),
            mailbox,
            outbox,
            abort,
        };
        let placement = if pooled { Placement::Pool } else { Placement::Thread };
        let launched = state.host.launch(&placement, Resources::default(), what);
        state.host.flush();
        launched.map_err(|error| error.to_string())
    }

    fn command(&self, incarnation: u64, command: Command) {
        let hosted = match self.lock().incarnations.get(&incarnation) {
            Some(hosted) => (hosted.mailbox.clone(), hosted.outbox.clone()),
            // One that is over has reported so; the head will know.
            None => return,
        };
        let (mailbox, outbox) = hosted;
        match command {
            Command::Run(order) => {
                let run = order.run;
                if mailbox.run(order) {
                    outbox.report(Report::RunStarted { run });
                }
            }
            command => mailbox.command(command),
        }
    }

    fn kill(&self, incarnation: u64) {
        if let Some(hosted) = self.lock().incarnations.remove(&incarnation) {
            hosted.abort.raise();
        }
    }

    /// Ends all Works.
    fn end(&self) {
        let mut state = self.lock();
        let incarnations = std::mem::take(&mut state.incarnations);
        let mailboxes = std::mem::take(&mut state.mailboxes);
        state.ways.clear();
        drop(state);
        for hosted in incarnations.into_values() {
            log::log!(self.level(), "work `{}` is ended: the head is gone, or this node leaves", hosted.path);
            hosted.abort.raise();
        }
        for (mailbox, _) in mailboxes.into_values() {
            mailbox.close(crate::work::Closed::NodeLost);
        }
    }
}

/// Whether they tell of the end of an incarnation.
fn is_end(reports: &[Report]) -> bool {
    reports.iter().any(|report| matches!(report, Report::Stopped { .. } | Report::Died { .. }))
}

/// The news of a Work on its way to the head.
impl Express for Link {
    fn take(&self, WorkId(incarnation): WorkId, news: &mut News) -> bool {
        // More than telling it has to be done about an end.
        if is_end(&news.reports) || !self.is_free() {
            return false;
        }
        let (patch, reports) = (news.patch.take(), std::mem::take(&mut news.reports));
        self.control(&Control::News { incarnation, patch, reports });
        true
    }
}

struct Launch {
    incarnation: u64,
    path: ActorPath,
    work: String,
    pooled: bool,
    state: crate::state::Value,
    max_state_bytes: u64,
    mailbox: u64,
}

impl Site for Agent {
    fn admit(&self, hello: &Hello) -> Result<(), String> {
        match hello.role {
            Role::Peer => Ok(()),
            Role::Node | Role::Watcher => Err("this is a node and not the head; join the head".to_owned()),
        }
    }

    fn joined(&self, link: &Arc<Link>, role: Role) {
        if role == Role::Node && self.is_process() {
            log::debug!("joined the App at the head, as the process of one Work");
        } else if role == Role::Node {
            log::info!("joined the App at the head, as node `{}`", self.bridge.me().name);
        } else {
            log::debug!("node `{}` sends messages here", link.peer().name);
        }
    }

    fn control(&self, link: &Arc<Link>, control: Control) -> Result<(), String> {
        if !Arc::ptr_eq(link, &self.head) {
            return Err(format!("only the head says {}", control.name()));
        }
        match control {
            Control::Launch { incarnation, path, work, pooled, state, max_state_bytes, mailbox } => {
                let launch = Launch { incarnation, path, work, pooled, state, max_state_bytes, mailbox };
                if let Err(message) = self.launch(launch) {
                    self.lock().incarnations.remove(&incarnation);
                    let failure = Failure { reason: Reason::UserError, message };
                    let reports = vec![Report::Died { failure }];
                    self.head.control(&Control::News { incarnation, patch: None, reports });
                }
            }
            Control::Run { incarnation, run, attempt, input } => {
                let input = Input::arrived(input, Holds::default());
                self.command(incarnation, Command::Run(RunOrder { run, attempt, input, announced: false }));
            }
            Control::Cancel { incarnation, run } => self.command(incarnation, Command::Cancel { run }),
            Control::Stop { incarnation } => self.command(incarnation, Command::Stop),
            Control::Kill { incarnation } => self.kill(incarnation),
            Control::Close { incarnation, why } => {
                let mailbox = self.lock().incarnations.get(&incarnation).map(|hosted| hosted.mailbox.clone());
                if let Some(mailbox) = mailbox {
                    let lost = mailbox.close(why);
                    if lost > 0 {
                        log::warn!("{lost} messages that waited for a Work which was stopped are lost");
                    }
                }
            }
            Control::Located { path, place } => {
                let way = self.lock().ways.get(&path).cloned();
                if let Some(way) = way {
                    way.located(place);
                }
            }
            Control::End { why } => {
                self.lock().over = Some(why);
                self.head.end();
            }
            other => return Err(format!("a head does not say {}", other.name())),
        }
        Ok(())
    }

    fn disconnected(&self, link: &Arc<Link>, role: Role, why: &str) {
        if role != Role::Node || self.lock().over.is_some() {
            return;
        }
        if self.is_process() {
            link.end();
            return;
        }
        log::warn!("the connection to the head broke ({why}); trying to reach it again");
    }

    fn connected_again(&self, _: &Arc<Link>, role: Role) {
        if role == Role::Node {
            log::info!("connected to the head again; nothing was lost");
        }
    }

    fn lost(&self, _: &Arc<Link>, _: Role, _: &str) {}
}

impl Agent {
    /// For what the head says as well where this is one of its own processes.
    fn level(&self) -> log::Level {
        if self.is_process() { log::Level::Debug } else { log::Level::Info }
    }

    /// Whether this is the process of one Work, which lives no longer than its head.
    fn is_process(&self) -> bool {
        self.bridge.me().endpoints.is_empty()
    }
}

impl Router for Agent {
    fn route(&self, path: &ActorPath, kind: &'static WorkKind) -> Arc<dyn Route> {
        let mut state = self.lock();
        let way = state.ways.entry(path.clone()).or_insert_with(|| {
            let (bridge, head) = (Arc::downgrade(&self.bridge), self.head.clone());
            Arc::new(DistantWay::new(bridge, head, path.clone(), kind))
        });
        way.clone()
    }
}
