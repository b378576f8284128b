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
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, spawn_local};

use super::bridge::{Bridge, BridgeOptions, DialError, Site, Spawner, Whereabouts};
use super::drives::DrivesOfHead;
use super::link::Link;
use super::logs::send_logs;
use super::protocol::{Control, Hello, NodeCard, Role};
use super::session::SessionSettings;
use super::vitals::{self, Vitals};
use super::ways::DistantWay;
use crate::drive::register;
use crate::id::{ActorPath, IdMap, WorkId, unique};
use crate::payload::{self, Hex, Hold, Holds, PayloadId, Want};
use crate::trace::Cause;
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

pub(super) struct Agent {
    bridge: Arc<Bridge>,
    head: Arc<Link>,
    kinds: Kinds,
    is_process: bool,
    doorbell: Arc<Doorbell>,
    state: Mutex<State>,
}

struct State {
    host: LocalHost,
    incarnations: IdMap<u64, Hosted>,
    mailboxes: HashMap<ActorPath, (Arc<dyn AnyMailbox>, &'static str)>,
    ways: HashMap<ActorPath, Arc<DistantWay>>,
    over: Option<String>,
    /// When the head was told how this process is, and how long its answer to that took.
    told: Option<Instant>,
    round_trip: Option<Duration>,
    /// Those who want to know where a value is.
    looking: HashMap<PayloadId, Vec<oneshot::Sender<Whereabouts>>>,
}

struct Hosted {
    /// What the state that was sent last refers to.
    refers: Arc<Mutex<Vec<PayloadId>>>,
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
        let Session { bridge, head, endpoint, hello, connection, received, listening } = session;
        let agent = Arc::new(Agent::new(&options, bridge.clone(), head.clone()));
        let site: Arc<dyn Site> = agent.clone();
        bridge.set_site(Arc::downgrade(&site));
        let router: Arc<dyn Router> = agent.clone();
        set_router(bridge.app(), Some(Arc::downgrade(&router)));
        let drives = register(bridge.app(), Arc::new(DrivesOfHead(Arc::downgrade(&bridge))));
        let news = spawn_local(agent.clone().send_news());
        let logs = spawn_local(send_logs(head.clone()));
        let vitals = spawn_local(agent.clone().send_vitals());
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
        vitals.abort();
        agent.end();
        bridge.end();
        payload::discard_all();
        // At the same address, perhaps, the next session listens.
        futures::future::join_all(listening).await;
        set_router(bridge.app(), None);
        drop(drives);
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
    listening: Vec<JoinHandle<()>>,
}

/// Joins the head as soon as it is there.
async fn join(options: &NodeOptions, first: bool) -> Result<Session, NodeError> {
    let bridge = Arc::new(Bridge::new(options.bridge.clone(), options.spawner.clone()));
    bridge.settle_here();
    let mut listeners = Vec::new();
    for endpoint in endpoints(options) {
        let options = &options.bridge;
        listeners.push(Listener::bind(&endpoint, options.security.clone(), options.limits).await?);
    }
    bridge.set_me(NodeCard {
        id: unique(),
        name: options.name.clone(),
        labels: options.labels.clone(),
        resources: options.resources,
        endpoints: listeners.iter().map(Listener::endpoint).collect(),
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
    let listening = listeners.into_iter().map(|listener| spawn_local(bridge.clone().listen(listener)));
    let listening = listening.collect();
    let settings = SessionSettings {
        heartbeat: Duration::from_millis(welcome.heartbeat_ms.max(1)),
        grace: Duration::from_millis(welcome.grace_ms.max(1)),
        ..options.bridge.settings
    };
    let head = Arc::new(Link::new(welcome.node, &bridge, settings));
    bridge.set_join(options.join.clone());
    let hello = Hello { app: Some(welcome.app), fresh: false, ..hello };
    let endpoint = options.join.clone();
    Ok(Session { bridge, head, endpoint, hello, connection, received: welcome.received, listening })
}

/// Where others reach this process.
fn endpoints(options: &NodeOptions) -> Vec<Endpoint> {
    match &options.join {
        // A process of the head's machine, which others there reach as it reaches the head.
        Endpoint::Unix(head) => {
            let mut endpoints = vec![Endpoint::Unix(head.with_file_name(format!("{}.sock", options.name)))];
            endpoints.extend(options.listen.clone());
            endpoints
        }
        Endpoint::Tcp(_) => {
            options.listen.clone().or_else(|| reachable_from(&options.join)).into_iter().collect()
        }
    }
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
    pub(super) fn new(options: &NodeOptions, bridge: Arc<Bridge>, head: Arc<Link>) -> Self {
        let mut host = LocalHost::new(options.pool);
        host.share_current();
        let state = State {
            host,
            incarnations: IdMap::default(),
            mailboxes: HashMap::new(),
            ways: HashMap::new(),
            over: None,
            told: None,
            round_trip: None,
            looking: HashMap::new(),
        };
        let kinds = options.kinds.clone();
        let is_process = matches!(options.join, Endpoint::Unix(_));
        Self { bridge, head, kinds, is_process, doorbell: Arc::default(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn send_news(self: Arc<Self>) {
        loop {
            let rung = poll_fn(|cx| self.doorbell.poll(cx)).await;
            for WorkId(incarnation) in rung {
                if !self.head.room().await {
                    return;
                }
                let hosted = {
                    let state = self.lock();
                    let hosted = state.incarnations.get(&incarnation);
                    hosted.map(|hosted| (hosted.outbox.clone(), hosted.refers.clone()))
                };
                let Some((outbox, refers)) = hosted else { continue };
                // Those that are taken at once meanwhile must not get there first.
                let (over, holds) = outbox.hand_over(|news| {
                    let over = is_end(&news.reports);
                    let News { patch, holds, reports, cause: trace, .. } = news;
                    // The head keeps what it was told to keep.
                    let said = holds.as_ref().filter(|holds| differ(&mut lock(&refers), holds));
                    let refers = said.is_some();
                    let said = said.cloned().unwrap_or_default();
                    self.head
                        .control_with(&said, &Control::News { incarnation, patch, refers, reports, trace });
                    (over, holds)
                });
                // Values may be freed by this.
                drop(holds);
                if over && let Some(hosted) = self.lock().incarnations.remove(&incarnation) {
                    log::log!(self.level(), "work `{}` is over here", hosted.path);
                }
            }
        }
    }

    /// Tells the head how this process is, now and then.
    async fn send_vitals(self: Arc<Self>) {
        while self.head.room().await {
            let round_trip = {
                let mut state = self.lock();
                state.told = Some(Instant::now());
                state.round_trip
            };
            let round_trip_us = round_trip.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            self.head.control(&Control::Vitals { vitals: Vitals::here(), round_trip_us });
            tokio::time::sleep(vitals::EVERY).await;
        }
    }

    fn launch(&self, launch: Launch, holds: Holds) -> Result<(), String> {
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
            refers: Arc::new(Mutex::new(holds.iter().map(|hold| hold.id()).collect())),
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
            holds,
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
                let cause = order.cause.clone();
                if mailbox.run(order) {
                    cause.within(|| outbox.report(Report::RunStarted { run }));
                }
            }
            command => mailbox.command(command),
        }
    }

    /// Pulls the bytes of a value, which are then kept until the head says that they are not wanted.
    fn keep(&self, id: PayloadId, hash: Hex<32>, length: u64, carried: Holds) {
        let head = self.head.clone();
        tokio::spawn(async move {
            let Some(hold) = carried.iter().find(|hold| hold.id() == id) else { return };
            let what = format!("a copy of payload {id}");
            let want = Want { id, hash: hash.0, length, type_name: "", what };
            // Once it is here the head is told, as of any pull.
            if let Err(error) = hold.entry().load_bytes(want).await {
                head.control(&Control::Copied { id, failed: Some(error.to_string()) });
            }
        });
    }

    fn kill(&self, incarnation: u64) {
        if let Some(hosted) = self.lock().incarnations.remove(&incarnation) {
            hosted.abort.raise();
        }
    }

    /// Ends all Works.
    pub(super) fn end(&self) {
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of what is referred to now; whether that is something else than before.
fn differ(before: &mut Vec<PayloadId>, holds: &Holds) -> bool {
    let now: Vec<_> = holds.iter().map(|hold| hold.id()).collect();
    let was = std::mem::replace(before, now);
    was != *before
}

impl Express for Link {
    fn take(&self, WorkId(incarnation): WorkId, news: &mut News) -> bool {
        // More than telling it has to be done about an end.
        // So it has to be about what a state refers to.
        if is_end(&news.reports) || news.holds.is_some() || !self.is_free() {
            return false;
        }
        let (patch, reports) = (news.patch.take(), std::mem::take(&mut news.reports));
        let trace = std::mem::take(&mut news.cause);
        self.control(&Control::News { incarnation, patch, refers: false, reports, trace });
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
            Role::Node | Role::Watcher | Role::Puller | Role::Drive => {
                Err("this is a node and not the head; join the head".to_owned())
            }
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

    fn control(&self, link: &Arc<Link>, control: Control, carried: Holds) -> Result<(), String> {
        if !Arc::ptr_eq(link, &self.head) {
            return Err(format!("only the head says {}", control.name()));
        }
        match control {
            Control::Launch { incarnation, path, work, pooled, state, max_state_bytes, mailbox } => {
                let launch = Launch { incarnation, path, work, pooled, state, max_state_bytes, mailbox };
                if let Err(message) = self.launch(launch, carried) {
                    self.lock().incarnations.remove(&incarnation);
                    let failure = Failure { reason: Reason::UserError, message };
                    let reports = vec![Report::Died { failure }];
                    let trace = Cause::default();
                    let news = Control::News { incarnation, patch: None, refers: false, reports, trace };
                    self.head.control(&news);
                }
            }
            Control::Run { incarnation, run, attempt, input, trace: cause } => {
                let input = Input::arrived(input, carried);
                self.command(
                    incarnation,
                    Command::Run(RunOrder { run, attempt, input, announced: false, cause }),
                );
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
            Control::There { id, sources, lost } => {
                for asker in self.lock().looking.remove(&id).unwrap_or_default() {
                    let _ = asker.send(Whereabouts { sources: sources.clone(), lost: lost.clone() });
                }
            }
            Control::Keep { id, hash, length } => self.keep(id, hash, length, carried),
            Control::Discard { id } => payload::discard(id),
            Control::Heard => {
                let mut state = self.lock();
                if let Some(told) = state.told.take() {
                    state.round_trip = Some(told.elapsed());
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

    fn disconnected(&self, _: &Arc<Link>, role: Role, why: &str) {
        if role != Role::Node || self.lock().over.is_some() {
            return;
        }
        let level = if self.is_process() { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "the connection to the head broke ({why}); trying to reach it again");
    }

    fn connected_again(&self, _: &Arc<Link>, role: Role) {
        if role == Role::Node {
            log::log!(self.level(), "connected to the head again; nothing was lost");
        }
    }

    fn lost(&self, _: &Arc<Link>, _: Role, _: &str) {}

    fn head(&self) -> Option<&Arc<Link>> {
        Some(&self.head)
    }

    fn link_to(&self, process: u64) -> Option<Arc<Link>> {
        (process == self.head.peer().id).then(|| self.head.clone())
    }

    fn reference(&self, _: &Arc<Hold>) {}

    fn pulled(&self, id: PayloadId) {
        self.head.control(&Control::Copied { id, failed: None });
    }

    fn whereabouts(&self, id: PayloadId) -> BoxFuture<'static, Option<Whereabouts>> {
        let (asker, answer) = oneshot::channel();
        let first = {
            let mut state = self.lock();
            let askers = state.looking.entry(id).or_default();
            askers.push(asker);
            askers.len() == 1
        };
        if first {
            self.head.control(&Control::Where { id });
        }
        answer.map(Result::ok).boxed()
    }
}

impl Agent {
    /// For what the head says as well where this is one of its own processes.
    fn level(&self) -> log::Level {
        if self.is_process() { log::Level::Debug } else { log::Level::Info }
    }

    /// Whether this is the process of one Work, which lives no longer than its head.
    fn is_process(&self) -> bool {
        self.is_process
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
