//! The head's side: which nodes there are, what runs on them, and what becomes of it when they are lost.
//!
//! # Guarantees
//! - Every launch has a number. What comes from an incarnation that was given up, whatever its node still says, is
//!   ignored.
//! - What is lost with a node is told to the driver once for each incarnation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::bridge::{Bridge, BridgeOptions, Site, Spawner, Whereabouts};
use super::copies::{Copies, FromHere};
use super::link::Link;
use super::nodes::{Candidate, choose};
use super::process::{ProcessCommand, Processes, Starting};
use super::protocol::{Control, Hello, NodeCard, Role};
use super::session::Traffic;
use super::vitals::{NodeLoad, Vitals};
use super::ways::{Way, WayToCome};
use crate::id::{ActorPath, AppId, IdMap, unique};
use crate::payload::{Hold, Holds, PayloadId, PayloadUsage, never_wait_here, set_replicator};
use crate::state::Value;
use crate::transport::{Endpoint, Limits, Listener, Security, TransportError};
use crate::work::logs::{FROM_AFAR, Said, keep};
use crate::work::{
    Closed, Doorbell, Failure, HostError, HostEvent, Ingredients, Outbox, Placement, Reason, Report,
    Resources, find_address, remember_address,
};

/// How long a node that is told of the end may take to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// The longest wait before a node out of reach is looked for again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How an App takes other processes in.
pub(crate) struct HeadOptions {
    pub(crate) bridge: BridgeOptions,
    /// How the program is started again, for a Work with a process of its own.
    pub(crate) process: ProcessCommand,
}

pub(crate) struct Head {
    me: Weak<Head>,
    pub(super) bridge: Arc<Bridge>,
    doorbell: Arc<Doorbell>,
    pub(super) processes: Processes,
    pub(super) copies: Copies,
    state: Mutex<State>,
    endpoint: OnceLock<Endpoint>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    incarnations: IdMap<u64, Away>,
    places: HashMap<ActorPath, u64>,
    events: Vec<HostEvent>,
    watchers: Vec<Arc<Link>>,
    next_incarnation: u64,
    /// Whether all others were told that the App is over, so that they are expected to go.
    is_ending: bool,
}

struct Node {
    link: Arc<Link>,
    used: Resources,
    incarnations: HashSet<u64>,
    /// Whether it is the process of one Work.
    is_process: bool,
    /// Whether Works are sent there; those that are on it stay while it is not.
    is_reachable: bool,
    /// What it has told of itself last.
    vitals: Option<Vitals>,
    round_trip: Option<Duration>,
}

/// An incarnation in another process.
struct Away {
    outbox: Arc<Outbox>,
    node: u64,
    path: ActorPath,
    needs: Resources,
}

/// A node, as it is shown.
#[derive(Debug, Clone, serde::Serialize)]
pub struct NodeStatus {
    /// Whether there is a connection to it now.
    pub is_connected: bool,
    /// What it has been given by `--label`.
    pub labels: BTreeMap<String, String>,
    /// What it has.
    pub resources: Resources,
    /// What the Works on it need.
    pub used: Resources,
    /// The paths of the Works on it.
    pub works: Vec<String>,
    /// How loaded its process is; `None` until it has said so, or where its system does not.
    pub load: Option<NodeLoad>,
    /// What the values of payloads take there; `None` until it has said so.
    pub payloads: Option<PayloadUsage>,
    /// How long ago something was heard of it, in seconds.
    pub heartbeat_age: f64,
    /// How long a message from it and the answer took, in seconds; `None` until there was one.
    pub round_trip: Option<f64>,
    #[serde(skip)]
    pub(crate) vitals: Option<Vitals>,
    #[serde(skip)]
    pub(crate) traffic: Traffic,
}

impl Head {
    /// One that lives on the thread of `spawner`.
    pub(crate) fn new(
        app: AppId,
        options: HeadOptions,
        doorbell: Arc<Doorbell>,
        spawner: Spawner,
    ) -> Arc<Self> {
        let HeadOptions { bridge: options, process } = options;
        let bridge = Arc::new(Bridge::new(options, spawner));
        let home = bridge.clone();
        bridge.spawn(move || async move {
            never_wait_here();
            home.settle_here();
        });
        bridge.set_app(app);
        bridge.set_me(NodeCard {
            id: unique(),
            name: "head".to_owned(),
            labels: BTreeMap::new(),
            resources: Resources::default(),
            endpoints: Vec::new(),
        });
        let head = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            bridge: bridge.clone(),
            doorbell,
            processes: Processes::new(process),
            copies: Copies::default(),
            state: Mutex::default(),
            endpoint: OnceLock::new(),
        });
        let site: Arc<dyn Site> = head.clone();
        bridge.set_site(Arc::downgrade(&site));
        set_replicator(app, Some(Arc::new(FromHere(Arc::downgrade(&head)))));
        head
    }

    /// Takes nodes in from now on.
    pub(crate) async fn listen(self: &Arc<Self>, endpoint: Endpoint) -> Result<Endpoint, TransportError> {
        let bridge = self.bridge.clone();
        let (ready, listening) = oneshot::channel();
        self.bridge.spawn(async move || {
            match Listener::bind(&endpoint, bridge.security().clone(), bridge.limits()).await {
                Ok(listener) => {
                    let _ = ready.send(Ok(listener.endpoint()));
                    bridge.listen(listener).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        let endpoint =
            listening.await.unwrap_or_else(|_| unreachable!("the bridge lives as long as the App"))?;
        let _ = self.endpoint.set(endpoint.clone());
        Ok(endpoint)
    }

    /// Where nodes join.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.get()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an incarnation in another process.
    pub(crate) fn launch(
        self: &Arc<Self>,
        placement: &Placement,
        needs: Resources,
        what: Ingredients,
    ) -> Result<(), HostError> {
        match placement {
            Placement::Node(selector) => {
                let chosen = {
                    let state = self.lock();
                    let candidates: Vec<_> = state
                        .nodes
                        .values()
                        .filter(|node| !node.is_process && node.is_reachable)
                        .map(|node| Candidate {
                            card: node.link.peer(),
                            used: node.used,
                            works: node.incarnations.len(),
                        })
                        .collect();
                    choose(&candidates, selector, needs)
                };
                let node = chosen.map_err(|why| HostError::Unplaced(self.with_address(why)))?;
                self.launch_on(node, needs, selector.is_pooled(), what, None)
            }
            Placement::Process => {
                self.processes.start(self, what);
                Ok(())
            }
            Placement::Thread | Placement::Pool => unreachable!("hosted by this process itself"),
        }
    }

    fn with_address(&self, why: String) -> String {
        match self.endpoint() {
            Some(endpoint) => why.replace("HOST:PORT", &endpoint.to_string()),
            None => format!("{why}; this App takes no nodes in: start it with `--listen ADDRESS:PORT`"),
        }
    }

    pub(super) fn launch_on(
        &self,
        node: u64,
        needs: Resources,
        pooled: bool,
        what: Ingredients,
        until_now: Option<&WayToCome>,
    ) -> Result<(), HostError> {
        let Ingredients { kind, app, path, state: value, holds, max_state_bytes, mailbox, outbox, abort } =
            what;
        let mut state = self.lock();
        state.next_incarnation += 1;
        let incarnation = state.next_incarnation;
        let Some(entry) = state.nodes.get_mut(&node) else {
            return Err(HostError::Unplaced("waits for a node: the one it was meant for is gone".to_owned()));
        };
        entry.used = entry.used.plus(needs);
        entry.incarnations.insert(incarnation);
        let link = entry.link.clone();
        state.places.insert(path.clone(), node);
        let away = Away { outbox: outbox.clone(), node, path: path.clone(), needs };
        state.incarnations.insert(incarnation, away);
        drop(state);
        remember_address(app, &path, &mailbox);
        let launch = Control::Launch {
            incarnation,
            path: path.clone(),
            work: kind.name().to_owned(),
            pooled,
            state: value,
            max_state_bytes: max_state_bytes as u64,
            mailbox: mailbox.capacity() as u64,
        };
        if let Err(why) = link.try_control(&holds, &launch) {
            self.forget(incarnation);
            return Err(HostError::NoProcess { path: path.to_string(), why });
        }
        let far = link.clone();
        abort.tell(move || far.control(&Control::Kill { incarnation }));
        let way = Arc::new(Way::new(link, path, kind, Some((incarnation, outbox))));
        if let Some(until_now) = until_now {
            until_now.lead_to(&way);
        }
        mailbox.divert(way);
        Ok(())
    }

    /// An incarnation is over: its place is free.
    fn forget(&self, incarnation: u64) -> Option<Away> {
        let mut state = self.lock();
        let away = state.incarnations.remove(&incarnation)?;
        if let Some(node) = state.nodes.get_mut(&away.node) {
            node.incarnations.remove(&incarnation);
            node.used = Resources {
                cpus: node.used.cpus.saturating_sub(away.needs.cpus),
                gpus: node.used.gpus.saturating_sub(away.needs.gpus),
                memory: node.used.memory.saturating_sub(away.needs.memory),
            };
            if node.is_process {
                node.link.control(&Control::End { why: "its Work is over".to_owned() });
            }
        }
        state.events.push(HostEvent::Room);
        Some(away)
    }

    pub(crate) fn take_events(&self) -> Vec<HostEvent> {
        std::mem::take(&mut self.lock().events)
    }

    /// The name under which a process is shown; those of single Works are on this machine.
    fn name_of(&self, link: &Arc<Link>) -> Arc<str> {
        let peer = link.peer();
        let is_process = self.lock().nodes.get(&peer.id).is_some_and(|node| node.is_process);
        Arc::from(if is_process { self.bridge.me().name.as_str() } else { peer.name.as_str() })
    }

    /// The name of the node that a Work is on; processes of single Works are on this machine.
    pub(crate) fn node_of(&self, path: &ActorPath) -> Option<Arc<str>> {
        let state = self.lock();
        let node = state.nodes.get(state.places.get(path)?)?;
        (!node.is_process).then(|| Arc::from(node.link.peer().name.as_str()))
    }

    /// The names of the nodes that have a value.
    pub(crate) fn holders(&self, id: PayloadId) -> Vec<String> {
        self.who_has(id).sources.into_iter().map(|source| source.name).collect()
    }

    /// The nodes, by name.
    pub(crate) fn status(&self) -> BTreeMap<String, NodeStatus> {
        let state = self.lock();
        let nodes = state.nodes.values().filter(|node| !node.is_process);
        nodes
            .map(|node| {
                let works = node.incarnations.iter().filter_map(|number| state.incarnations.get(number));
                let mut works: Vec<_> = works.map(|away| away.path.to_string()).collect();
                works.sort();
                let card = node.link.peer();
                let status = NodeStatus {
                    is_connected: node.link.is_connected(),
                    labels: card.labels.clone(),
                    resources: card.resources,
                    used: node.used,
                    works,
                    load: node.vitals.and_then(|vitals| vitals.load),
                    payloads: node.vitals.map(|vitals| vitals.payloads),
                    heartbeat_age: node.link.silent_for().as_secs_f64(),
                    round_trip: node.round_trip.map(|took| took.as_secs_f64()),
                    vitals: node.vitals,
                    traffic: node.link.traffic(),
                };
                (card.name.clone(), status)
            })
            .collect()
    }

    /// What the processes of single Works have told of themselves, which are on the machine of this one.
    pub(crate) fn vitals_of_processes(&self) -> Vec<Vitals> {
        let state = self.lock();
        state.nodes.values().filter(|node| node.is_process).filter_map(|node| node.vitals).collect()
    }

    /// Shows the App's state to those who watch it; one who is slow is shown a later one.
    pub(crate) async fn show(&self, version: u64, state: &Value) {
        let watchers = {
            let mut state = self.lock();
            state.watchers.retain(|link| !link.is_over());
            state.watchers.clone()
        };
        for link in watchers {
            if link.room().await {
                link.control(&Control::State { version, state: state.clone() });
            }
        }
    }

    pub(crate) fn has_watchers(&self) -> bool {
        !self.lock().watchers.is_empty()
    }

    /// Tells all other processes that the App is over.
    pub(crate) async fn end(&self, why: &str) {
        self.lock().is_ending = true;
        let links = self.bridge.accepted();
        for link in &links {
            link.control(&Control::End { why: why.to_owned() });
        }
        let farewell = futures::future::join_all(links.iter().map(|link| link.drained()));
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        self.bridge.end();
        set_replicator(self.bridge.app(), None);
        self.processes.end().await;
    }

    fn lost_node(&self, link: &Arc<Link>, why: &str) {
        let id = link.peer().id;
        let name = &link.peer().name;
        let mut state = self.lock();
        // Another session may have taken its place.
        if state.nodes.get(&id).is_none_or(|node| !Arc::ptr_eq(&node.link, link)) {
            return;
        }
        let Some(node) = state.nodes.remove(&id) else { return };
        drop(state);
        self.copies_lost(link, why);
        let mut state = self.lock();
        state.places.retain(|_, place| *place != id);
        let lost: Vec<_> =
            node.incarnations.iter().filter_map(|number| state.incarnations.remove(number)).collect();
        if node.is_process {
            drop(state);
            self.processes.lost(name, lost.into_iter().map(|away| away.outbox).next());
            return;
        }
        let mut paths: Vec<_> = lost.iter().map(|away| format!("`{}`", away.path)).collect();
        paths.sort();
        let what = match paths.len() {
            0 => "no Work ran on it".to_owned(),
            1 => format!("work {} ran on it", paths[0]),
            _ => format!("works {} ran on it", paths.join(", ")),
        };
        let labels: String =
            link.peer().labels.iter().map(|(key, value)| format!(" --label {key}={value}")).collect();
        let back = match self.endpoint() {
            Some(endpoint) => {
                format!("; to bring it back: `node --join {endpoint} --name {name}{labels}` on its machine")
            }
            None => String::new(),
        };
        log::warn!("node `{name}` is lost ({why}): {what}{back}");
        for away in lost {
            let why = format!("node `{name}` was lost ({why})");
            state.events.push(HostEvent::NodeLost { outbox: away.outbox, why });
        }
        state.events.push(HostEvent::Room);
        drop(state);
        self.doorbell.ring_again();
    }

    /// Looks whether a process whose connection broke still takes connections at all: one that does not will not come
    /// back, and need not be waited for.
    async fn probe(link: Arc<Link>, security: Security, limits: Limits) {
        let mut pause = Duration::from_millis(20);
        // Without an address nothing can be said.
        while !link.peer().endpoints.is_empty() && !link.is_connected() && !link.is_over() {
            let mut gone = true;
            for endpoint in &link.peer().endpoints {
                let dialed = crate::transport::dial(endpoint, &security, &limits).await;
                gone &= dialed.is_err_and(|error| error.is_refused_connection());
            }
            if gone && !link.is_connected() {
                return link.give_up("its process is gone");
            }
            // The system takes connections for a process for a moment longer than that lives.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Site for Head {
    fn admit(&self, hello: &Hello) -> Result<(), String> {
        match hello.role {
            Role::Peer | Role::Watcher | Role::Puller | Role::Drive => return Ok(()),
            Role::Node => {}
        }
        let name = &hello.node.name;
        if self.processes.expects(name) {
            return Ok(());
        }
        let same_name: Vec<_> = {
            let state = self.lock();
            let nodes = state.nodes.values().filter(|node| &node.link.peer().name == name);
            nodes.map(|node| node.link.clone()).collect()
        };
        if same_name.iter().any(|link| link.is_connected()) {
            return Err(format!(
                "there is a node `{name}` already; give this one another name with --name, or end the other first"
            ));
        }
        // It has been started again: what ran on the one before is lost.
        same_name.iter().for_each(|link| link.give_up("it was started again"));
        Ok(())
    }

    fn joined(&self, link: &Arc<Link>, role: Role) {
        match role {
            Role::Peer | Role::Puller | Role::Drive => return,
            Role::Watcher => {
                self.lock().watchers.push(link.clone());
                self.lock().events.push(HostEvent::Room);
                self.doorbell.ring_again();
                return;
            }
            Role::Node => {}
        }
        let card = link.peer();
        // By this number it was here in another session, of which nothing more is heard.
        let before = self.lock().nodes.get(&card.id).map(|node| node.link.clone());
        if let Some(before) = before {
            self.lost_node(&before, "it began anew");
        }
        let starting = self.processes.joined(&card.name);
        let node = Node {
            link: link.clone(),
            used: Resources::default(),
            incarnations: HashSet::new(),
            is_process: starting.is_some(),
            is_reachable: true,
            vitals: None,
            round_trip: None,
        };
        self.lock().nodes.insert(card.id, node);
        self.nodes_changed();
        if let Some(Starting { what, way }) = starting {
            let outbox = what.outbox.clone();
            if let Err(error) = self.launch_on(card.id, Resources::default(), false, what, Some(&way)) {
                let failure = Failure { reason: Reason::ProcessDied, message: error.to_string() };
                outbox.report(Report::Died { failure });
            }
            return;
        }
        log::info!("node `{}` has joined, with {}", card.name, card.resources);
        self.lock().events.push(HostEvent::Room);
        self.doorbell.ring_again();
    }

    fn control(&self, link: &Arc<Link>, control: Control, carried: Holds) -> Result<(), String> {
        match control {
            Control::News { incarnation, patch, refers, reports, trace } => {
                let outbox = match self.lock().incarnations.get(&incarnation) {
                    Some(away) if away.node == link.peer().id => away.outbox.clone(),
                    // It was given up; what it still says is not heard.
                    _ => return Ok(()),
                };
                let over = reports.iter().any(|r| matches!(r, Report::Stopped { .. } | Report::Died { .. }));
                outbox.news(patch, refers.then_some(carried), reports, trace);
                if over {
                    self.forget(incarnation);
                    self.doorbell.ring_again();
                }
            }
            Control::Locate { path } => {
                let place = self.locate(&path);
                link.control(&Control::Located { path, place });
            }
            Control::Where { id } => {
                let Whereabouts { sources, lost } = self.who_has(id);
                link.control(&Control::There { id, sources, lost });
            }
            Control::Copied { id, failed } => {
                if let Some(head) = self.me.upgrade() {
                    head.copied(link, id, failed);
                }
            }
            Control::Vitals { vitals, round_trip_us } => {
                if let Some(node) = self.lock().nodes.get_mut(&link.peer().id) {
                    node.vitals = Some(vitals);
                    node.round_trip = round_trip_us.map(Duration::from_micros);
                }
                link.control(&Control::Heard);
            }
            Control::Log { path, run, level, target, text } => {
                let name = &link.peer().name;
                if log::log_enabled!(target: &target, level) {
                    keep(Said {
                        level,
                        app: Some(self.bridge.app()),
                        work: path.clone(),
                        run,
                        node: Some(self.name_of(link)),
                        target: &target,
                        text: text.clone(),
                    });
                }
                match path {
                    Some(path) => log::log!(target: FROM_AFAR, level, "[{path} on {name}] {text}"),
                    None => log::log!(target: FROM_AFAR, level, "[{name}] {text}"),
                }
            }
            other => return Err(format!("a node does not say {}", other.name())),
        }
        Ok(())
    }

    fn disconnected(&self, link: &Arc<Link>, role: Role, why: &str) {
        if role != Role::Node {
            return;
        }
        let name = &link.peer().name;
        self.set_reachable(link, false);
        if self.processes.has(name) {
            // It may only hang. Where it has ended, what it said last has been read by now.
            if self.processes.is_gone(name) {
                link.end();
            }
            return;
        }
        if self.lock().is_ending {
            return;
        }
        log::warn!(
            "the connection to node `{name}` broke ({why}); it has {:?} to come back",
            self.bridge.settings().grace
        );
        tokio::spawn(Self::probe(link.clone(), self.bridge.security().clone(), self.bridge.limits()));
    }

    fn connected_again(&self, link: &Arc<Link>, role: Role) {
        if role == Role::Node {
            let name = &link.peer().name;
            let level = if self.processes.has(name) { log::Level::Debug } else { log::Level::Info };
            log::log!(level, "node `{name}` is connected again; nothing was lost");
            self.set_reachable(link, true);
            self.lock().events.push(HostEvent::Room);
            self.doorbell.ring_again();
        }
    }

    fn lost(&self, link: &Arc<Link>, role: Role, why: &str) {
        if role == Role::Node {
            self.lost_node(link, why);
        }
    }

    fn head(&self) -> Option<&Arc<Link>> {
        None
    }

    fn link_to(&self, process: u64) -> Option<Arc<Link>> {
        self.link_of(process)
    }

    fn reference(&self, hold: &Arc<Hold>) {
        if let Some(head) = self.me.upgrade() {
            head.see_to_copies(hold);
        }
    }

    fn pulled(&self, _: PayloadId) {}

    fn whereabouts(&self, id: PayloadId) -> BoxFuture<'static, Option<Whereabouts>> {
        futures::future::ready(Some(self.who_has(id))).boxed()
    }
}

impl Head {
    /// The session with a node, as long as that is not lost.
    pub(super) fn link_of(&self, node: u64) -> Option<Arc<Link>> {
        self.lock().nodes.get(&node).map(|node| node.link.clone())
    }

    /// The nodes that copies may be kept on, the least loaded first.
    pub(super) fn keepers(&self) -> Vec<Arc<Link>> {
        let state = self.lock();
        let mut nodes: Vec<_> =
            state.nodes.values().filter(|node| !node.is_process && node.is_reachable).collect();
        nodes.sort_by_key(|node| node.incarnations.len());
        nodes.into_iter().map(|node| node.link.clone()).collect()
    }

    /// The process of a Work has ended. Its session is over once what it said last was read.
    pub(super) fn process_gone(&self, name: &str) {
        let link = {
            let state = self.lock();
            let node = state.nodes.values().find(|node| node.is_process && node.link.peer().name == name);
            node.map(|node| node.link.clone())
        };
        if let Some(link) = link.filter(|link| !link.is_connected()) {
            link.end();
        }
    }

    fn set_reachable(&self, link: &Arc<Link>, is_reachable: bool) {
        if let Some(node) = self.lock().nodes.get_mut(&link.peer().id) {
            node.is_reachable = is_reachable;
        }
    }

    fn locate(&self, path: &ActorPath) -> Result<NodeCard, Closed> {
        let state = self.lock();
        match state.places.get(path).and_then(|node| state.nodes.get(node)) {
            // The process of a Work takes no connections: it is reached by way of this one.
            Some(node) if node.is_process => Ok(self.bridge.me().clone()),
            Some(node) => Ok(node.link.peer().clone()),
            None if find_address(self.bridge.app(), path).is_some() => Ok(self.bridge.me().clone()),
            None => Err(Closed::Unknown),
        }
    }
}
