//! The head: knows the nodes and the Works that they host, launches Works on them, and handles their loss.
//!
//! # Guarantees
//! - Every launch has an incarnation number. Messages from an incarnation that was given up are ignored, whatever its
//!   node still sends (fencing).
//! - An update of an incarnation is taken as a whole, also if it arrives in parts, and also the one with which a kept
//!   incarnation is taken over: the last state of a run is not recorded before its end.
//! - The loss of a node is reported to the driver once per incarnation that was lost with it.

mod deadline;
mod leaving;
mod site;
mod status;
mod watchers;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::deadline::Deadline;
use self::watchers::Watchers;
use super::bridge::{Bridge, BridgeOptions, PeerHandler, Spawner};
use super::departures::Departures;
use super::link::Link;
use super::presence::Presence;
use super::process::{CommandsToCome, ProcessCommand, Processes};
use super::process_home::{KeptProcess, ProcessHome};
use super::process_id::ProcessId;
use super::protocol::{Control, Location, NodeCard, Source};
use super::replication::{Copies, FromHere, Nodes};
use super::routing::{DirectRoute, Ends, Registry};
use super::scheduler::choose;
use super::services::ProcessServices;
use crate::id::{ActorPath, IdMap, unique};
use crate::payload::{PayloadGuards, PayloadId, never_wait_here};
use crate::recorder::Carried;
use crate::runtime::Runtime;
use crate::state::{Patch, Value};
use crate::trace::Cause;
use crate::transport::{Advertised, Endpoint, Listener, TransportError};
use crate::work::{
    Abort, Acknowledge, AnyMailbox, AskCycles, Claim, CloseReason, Command, Commands, DeadLetters, Demand,
    Failure, FreeGpus, Gpus, HostError, HostEvent, Incarnations, LaunchSpec, LoadReport, Outbox, Place,
    Placement, ReadyQueue, Reason, Report, Resources, Route, SharedRoute, TopicRoutes, Topics,
    WaitsElsewhere,
};

/// Time limit for telling the other processes that the App is over.
const FAREWELL: Duration = Duration::from_millis(500);

/// Settings of the head.
pub(crate) struct HeadOptions {
    pub(crate) bridge: BridgeOptions,
    /// The command that starts this program again, for Works with a process of their own.
    pub(crate) process: ProcessCommand,
    /// The directory for these processes, if they outlive the head.
    pub(crate) home: Option<ProcessHome>,
}

pub(crate) struct Head {
    me: Weak<Head>,
    bridge: Arc<Bridge>,
    ready_queue: Arc<ReadyQueue>,
    processes: Arc<Processes>,
    /// The copies of values in other processes.
    copies: Arc<Copies>,
    departures: Arc<Departures>,
    watchers: Watchers,
    /// The dead letters of all processes.
    dead_letters: Arc<DeadLetters>,
    state: Mutex<HeadState>,
    incarnations: Arc<Incarnations>,
    /// The search for cycles of asks.
    cycles: Arc<AskCycles>,
    topics: Arc<Topics>,
    endpoint: OnceLock<Endpoint>,
    /// The address that is announced to nodes, if it differs from `endpoint`.
    advertised: OnceLock<Endpoint>,
    /// Resolves when the listener is closed.
    listening: Mutex<Option<oneshot::Receiver<()>>>,
}

#[derive(Default)]
struct HeadState {
    nodes: BTreeMap<u64, Node>,
    incarnations: IdMap<u64, Away>,
    registry: Registry,
    /// Sessions that have no room for further locations.
    waiting_to_tell: HashSet<u64>,
    events: Vec<HostEvent>,
    /// Works whose nodes have not returned yet to this head, which was started again.
    awaited: HashSet<ActorPath>,
    /// True once the App is stopping, so that values need not outlive their processes any more.
    is_stopping: bool,
    /// True once all processes were told that the App is over, so that their end is expected.
    is_ending: bool,
}

struct Node {
    link: Arc<Link>,
    used: Resources,
    gpus: FreeGpus,
    incarnations: HashSet<u64>,
    /// True for the process of a single Work.
    is_process: bool,
    /// True while Works can be launched there. Works that run there stay while it is false.
    is_reachable: bool,
    /// True once the node has described the incarnations that it has kept while it had no head.
    has_claimed: bool,
    /// True once the node is about to end, at its own request, because the head sends it away, or because its Work is over.
    /// Nothing more is launched there.
    is_leaving: bool,
    /// True once the head has begun to move the values that would be lost with the node.
    is_handed_over: bool,
    /// The last load report.
    load_report: Option<LoadReport>,
    /// The metrics recorded there; shared, since every snapshot of the App contains them.
    recorded: Arc<Carried>,
    round_trip: Option<Duration>,
    deadline: Option<Deadline>,
    /// The time before its deadline at which the node begins to leave.
    drain_before: Duration,
}

/// Error returned when an incarnation was not launched on a node.
#[derive(Debug, thiserror::Error)]
enum NotLaunched {
    /// The node takes no more Works, for this reason.
    #[error("{0}")]
    NoNode(String),
    #[error(transparent)]
    Error(HostError),
}

/// An incarnation in another process.
struct Away {
    outbox: Arc<Outbox>,
    node: u64,
    path: ActorPath,
    needs: Resources,
    /// Indices of the GPUs of the node that the incarnation has been assigned.
    gpus: Vec<u32>,
    /// The mailbox of the Work in this process, and the route from it.
    mailbox: Weak<dyn AnyMailbox>,
    route: Arc<DirectRoute>,
    /// Number of the reports that have arrived.
    reports: u64,
    /// The part of an update that has arrived, until its last part has.
    partial: Partial,
}

/// The parts of an update of an incarnation: a state, and the reports behind it.
#[derive(Default)]
struct Partial {
    patch: Option<Patch>,
    holds: Option<PayloadGuards>,
    reports: Vec<Report>,
    trace: Cause,
}

impl Partial {
    /// Adds the next part. Returns the guards of an earlier state, which the caller drops without a lock.
    #[must_use]
    fn add(&mut self, part: Self) -> Option<PayloadGuards> {
        match (&mut self.patch, part.patch) {
            (_, None) => {}
            (Some(earlier), Some(patch)) => earlier.then(patch),
            (none, patch) => *none = patch,
        }
        self.reports.extend(part.reports);
        if !part.trace.is_none() || self.trace.is_none() {
            self.trace = part.trace;
        }
        if part.holds.is_some() { std::mem::replace(&mut self.holds, part.holds) } else { None }
    }
}

/// Sends the commands for an incarnation to its process.
struct CommandsAway {
    link: Arc<Link>,
    incarnation: u64,
    outbox: Arc<Outbox>,
}

impl Commands for CommandsAway {
    fn command(&self, command: Command) {
        let incarnation = self.incarnation;
        match command {
            Command::Run(order) => {
                let (run, attempt, input) = (order.run, order.attempt, order.input.bytes.clone());
                for step in order.steps.iter() {
                    let known = Control::Known { incarnation, run, step: step.clone() };
                    if let Err(why) = self.link.try_control(&step.holds(), &known) {
                        let message = format!("a step cannot be sent to the process of the Work: {why}");
                        let failure = Failure::new(Reason::UserError, message);
                        self.outbox.report(Report::RunFailed { run, failure });
                        return;
                    }
                }
                let ordered = Control::Run { incarnation, run, attempt, input, trace: order.cause.clone() };
                if let Err(why) = self.link.try_control(order.input.holds(), &ordered) {
                    let message = format!("the input cannot be sent to the process of the Work: {why}");
                    let failure = Failure::new(Reason::UserError, message);
                    self.outbox.report(Report::RunFailed { run, failure });
                }
            }
            Command::Cancel { run } => self.link.control(&Control::Cancel { incarnation, run }),
            Command::Stop => self.link.control(&Control::Stop { incarnation }),
            Command::Durable { barrier } => self.link.control(&Control::Durable { incarnation, barrier }),
        }
    }
}

/// Returns true if one of the reports is the end of the incarnation.
fn is_over(reports: &[Report]) -> bool {
    reports.iter().any(|report| matches!(report, Report::Stopped { .. } | Report::Died { .. }))
}

/// Returns what tells a node that the reports of an incarnation up to number `reports` are durable.
fn acknowledgement(link: &Arc<Link>, incarnation: u64, reports: u64) -> Acknowledge {
    let link = link.clone();
    Box::new(move || link.control(&Control::Acknowledge { incarnation, reports }))
}

impl Head {
    /// Creates a head whose bridge lives on the thread of `spawner`.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        options: HeadOptions,
        ready_queue: Arc<ReadyQueue>,
        spawner: Spawner,
    ) -> Arc<Self> {
        let HeadOptions { bridge: options, process, home } = options;
        let bridge = Arc::new(Bridge::new(options, spawner, &ProcessServices));
        let settling = bridge.clone();
        bridge.spawn(move || async move {
            never_wait_here();
            settling.settle_here();
        });
        let incarnations = runtime.part().unwrap_or_default();
        let dead_letters = DeadLetters::of(&runtime);
        let cycles: Arc<AskCycles> = runtime.part().unwrap_or_default();
        let topics = Topics::of(&runtime);
        bridge.set_runtime(runtime);
        bridge.set_me(NodeCard {
            id: unique(),
            name: "head".to_owned(),
            labels: BTreeMap::new(),
            resources: Resources::default(),
            endpoints: Vec::new(),
            process: ProcessId::own(),
            ends_in_ms: None,
            drain_before_ms: 0,
        });
        let head = Arc::new_cyclic(|me: &Weak<Self>| {
            let copies = Copies::new(bridge.clone(), me.clone());
            Self {
                me: me.clone(),
                bridge: bridge.clone(),
                ready_queue,
                processes: Arc::new(Processes::new(process, home, bridge.clone())),
                departures: Departures::new(bridge.clone(), me.clone(), copies.clone()),
                copies,
                watchers: Watchers::new(bridge.clone()),
                dead_letters,
                state: Mutex::default(),
                incarnations,
                cycles,
                topics,
                endpoint: OnceLock::new(),
                advertised: OnceLock::new(),
                listening: Mutex::default(),
            }
        });
        let peer_handler: Arc<dyn PeerHandler> = head.clone();
        bridge.set_peer_handler(Arc::downgrade(&peer_handler));
        let waits_elsewhere: Arc<dyn WaitsElsewhere> = head.clone();
        head.cycles.coordinate(Arc::downgrade(&waits_elsewhere));
        let routes: Arc<dyn TopicRoutes> = head.clone();
        head.topics.set_routes(Arc::downgrade(&routes));
        bridge.store().set_replicator(Some(Arc::new(FromHere(Arc::downgrade(&head.copies)))));
        head
    }

    /// Starts to accept nodes at `endpoint`. Returns the endpoint that is listened at.
    pub(crate) async fn listen(
        self: &Arc<Self>,
        endpoint: Endpoint,
        advertised: Option<Advertised>,
    ) -> Result<Endpoint, TransportError> {
        let bridge = self.bridge.clone();
        let (ready, listening) = oneshot::channel();
        let (closing, closed) = oneshot::channel();
        *self.listening.lock() = Some(closed);
        self.bridge.spawn(async move || {
            match Listener::bind(&endpoint, bridge.security().clone(), bridge.limits()).await {
                Ok(listener) => {
                    let _ = ready.send(Ok(listener.endpoint()));
                    bridge.listen(listener).await;
                    drop(closing);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        let endpoint =
            listening.await.unwrap_or_else(|_| unreachable!("the bridge lives as long as the App"))?;
        if let Some(advertised) = advertised {
            let _ = self.advertised.set(advertised.of(&endpoint));
        }
        let _ = self.endpoint.set(endpoint.clone());
        Ok(endpoint)
    }

    /// Returns the endpoint at which nodes join.
    pub(crate) fn joining(&self) -> Option<&Endpoint> {
        self.advertised.get().or_else(|| self.endpoint.get())
    }

    /// Starts an incarnation in another process.
    pub(crate) fn launch(
        self: &Arc<Self>,
        placement: &Placement,
        needs: Resources,
        runs_for: Option<Duration>,
        what: LaunchSpec,
    ) -> Result<(), HostError> {
        match placement {
            Placement::Node(selector) => {
                let demand = Demand { selector: *selector, needs, runs_for };
                let unplaced = |why| HostError::Unplaced { why, demand: Some(demand) };
                let now = Instant::now();
                let chosen = {
                    let state = self.state.lock();
                    let candidates: Vec<_> = state
                        .nodes
                        .values()
                        .filter(|node| !node.is_process && node.is_reachable && node.has_claimed)
                        .map(|node| node.candidate(now))
                        .collect();
                    choose(&candidates, &demand)
                };
                let node = chosen.map_err(|why| unplaced(self.with_address(why)))?;
                self.launch_on(node, needs, selector.is_pooled(), what, None).map_err(|refused| match refused
                {
                    NotLaunched::NoNode(why) => unplaced(why),
                    NotLaunched::Error(error) => error,
                })
            }
            Placement::Process => {
                let me = self.me.clone();
                self.processes.start(what, self.endpoint.get().cloned(), move |name| {
                    if let Some(head) = me.upgrade() {
                        head.process_gone(name);
                    }
                });
                Ok(())
            }
            Placement::Thread | Placement::Pool => unreachable!("hosted by this process itself"),
        }
    }

    fn with_address(&self, why: String) -> String {
        match self.joining() {
            Some(endpoint) => why.replace("HOST:PORT", &endpoint.to_string()),
            None => format!("{why}; this App takes no nodes in: start it with `--listen ADDRESS:PORT`"),
        }
    }

    fn launch_on(
        &self,
        node: u64,
        needs: Resources,
        pooled: bool,
        what: LaunchSpec,
        until_now: Option<&CommandsToCome>,
    ) -> Result<(), NotLaunched> {
        let LaunchSpec {
            kind,
            path,
            state: value,
            holds,
            max_state_bytes,
            mailbox,
            outbox,
            abort,
            gpus,
            token,
        } = what;
        let incarnation = token.number();
        let mut state = self.state.lock();
        let Some(entry) = state.nodes.get_mut(&node) else {
            return Err(NotLaunched::NoNode("waits for a node: the one it was meant for is gone".to_owned()));
        };
        if entry.is_leaving && !entry.is_process {
            // It may have been sent away since it was chosen; another one may have room.
            state.events.push(HostEvent::Room);
            drop(state);
            self.ready_queue.ring_again();
            return Err(NotLaunched::NoNode("waits for a node: the one it was meant for leaves".to_owned()));
        }
        // Cannot fail: the resources of the node were checked.
        let taken = entry.gpus.take(needs.gpus).unwrap_or_default();
        let is_process = entry.is_process;
        let ends = Ends {
            mailbox: Arc::downgrade(&mailbox),
            path: path.clone(),
            kind,
            incarnation,
            is_relayed: false,
        };
        let (link, route) = self.enlist(entry, needs, ends);
        let away = Away {
            outbox: outbox.clone(),
            node,
            path: path.clone(),
            needs,
            gpus: taken.clone(),
            mailbox: Arc::downgrade(&mailbox),
            route: route.clone(),
            reports: 0,
            partial: Partial::default(),
        };
        state.incarnations.insert(incarnation, away);
        state.awaited.remove(&path);
        if !is_process {
            state.registry.set(&path, Location::At { node, incarnation });
        }
        drop(state);
        let launch = Control::Launch {
            incarnation,
            path: path.clone(),
            work: kind.name().to_owned(),
            pooled,
            state: value,
            max_state_bytes: max_state_bytes as u64,
            mailbox: mailbox.capacity() as u64,
            // A process sees only its own devices, numbered from zero.
            gpus: if is_process { (0..gpus.indices().len() as u32).collect() } else { taken },
            token,
        };
        if let Err(why) = link.try_control(&holds, &launch) {
            self.forget(incarnation);
            return Err(NotLaunched::Error(HostError::NoProcess { path: path.to_string(), why }));
        }
        let commands = self.command_over(&link, incarnation, outbox, &abort);
        if let Some(until_now) = until_now {
            until_now.go_to(&commands);
        }
        mailbox.launched_elsewhere(commands);
        mailbox.set_place(Place::At(SharedRoute(route)));
        self.tell_locations();
        Ok(())
    }

    /// Reserves the resources of a node for an incarnation. Returns the session with the node, and the route to the
    /// incarnation.
    fn enlist(&self, entry: &mut Node, needs: Resources, ends: Ends) -> (Arc<Link>, Arc<DirectRoute>) {
        entry.used = entry.used.plus(needs);
        entry.incarnations.insert(ends.incarnation);
        let link = entry.link.clone();
        let route = DirectRoute::over(Arc::downgrade(&self.bridge), ends, link.clone());
        (link, route)
    }

    /// Connects the commands for an incarnation, and what aborts it, to its process.
    fn command_over(
        &self,
        link: &Arc<Link>,
        incarnation: u64,
        outbox: Arc<Outbox>,
        abort: &Abort,
    ) -> Arc<dyn Commands> {
        let (far, me) = (link.clone(), self.me.clone());
        abort.tell(move || {
            far.control(&Control::Kill { incarnation });
            // Fences the incarnation: its messages are ignored from here on.
            if let Some(head) = me.upgrade() {
                head.forget(incarnation);
            }
        });
        Arc::new(CommandsAway { link: link.clone(), incarnation, outbox })
    }

    /// Takes over an incarnation that a node has kept while it had no head. Returns false if the node is lost. `patch`
    /// turns the state that the head has into the last one of the incarnation, and is applied with the reports that the
    /// head may not have.
    pub(crate) fn take_over(
        &self,
        claim: Claim,
        patch: Option<Patch>,
        needs: Resources,
        what: LaunchSpec,
    ) -> bool {
        let LaunchSpec { kind, mailbox, outbox, abort, .. } = what;
        let Claim { process: node, incarnation, path, acknowledged, holds, gpus, .. } = claim;
        let mut state = self.state.lock();
        let Some(entry) = state.nodes.get_mut(&node) else { return false };
        let is_process = entry.is_process;
        // The devices of the head's machine are those of the head.
        let needs = if is_process { Resources::default() } else { needs };
        let gpus = entry.gpus.take_these(&gpus);
        let ends = Ends {
            mailbox: Arc::downgrade(&mailbox),
            path: path.clone(),
            kind,
            incarnation,
            is_relayed: false,
        };
        let (link, route) = self.enlist(entry, needs, ends);
        if entry.is_leaving {
            state.events.push(HostEvent::NodeLeaves { outbox: outbox.clone() });
        }
        let away = Away {
            outbox: outbox.clone(),
            node,
            path: path.clone(),
            needs,
            gpus,
            mailbox: Arc::downgrade(&mailbox),
            route: route.clone(),
            reports: acknowledged,
            // The state may be the last one of a run whose end is not recorded: it counts with the reports that follow
            // when the incarnation is resumed.
            partial: Partial { patch, holds: Some(holds), ..Partial::default() },
        };
        state.incarnations.insert(incarnation, away);
        state.awaited.remove(&path);
        if !is_process {
            state.registry.set(&path, Location::At { node, incarnation });
        }
        drop(state);
        if is_process {
            if let Some(kill) = self.processes.killer(&link.peer().name) {
                abort.tell(move || kill.notify_one());
            }
            self.launched_here(&path);
        }
        mailbox.launched_elsewhere(self.command_over(&link, incarnation, outbox.clone(), &abort));
        mailbox.set_place(Place::At(SharedRoute(route)));
        link.control(&Control::Resume { incarnation });
        self.tell_locations();
        true
    }

    /// Waits for processes of single Works that an earlier head has started, with the devices that they have; those whose
    /// Works are not awaited are killed.
    ///
    /// # Errors
    /// When the socket cannot be created to which they return.
    pub(crate) async fn expect_back(&self, kept: Vec<(KeptProcess, Gpus)>) -> Result<(), TransportError> {
        let kept: Vec<_> = {
            let state = self.state.lock();
            let is_wanted = |process: &KeptProcess| state.awaited.contains(&process.path);
            kept.into_iter().map(|(process, gpus)| (is_wanted(&process), process, gpus)).collect()
        };
        let kept = kept.into_iter().map(|(is_wanted, process, gpus)| (process, gpus, is_wanted)).collect();
        let (me, it) = (self.me.clone(), self.me.clone());
        let on_end = move |name: &str| {
            if let Some(head) = me.upgrade() {
                head.process_gone(name);
            }
        };
        let not_kept = move |path| {
            if let Some(head) = it.upgrade() {
                head.state.lock().events.push(HostEvent::NotKept { path });
                head.ready_queue.ring_again();
            }
        };
        self.processes.expect_back(kept, on_end, not_kept).await
    }

    /// Records the Works whose nodes are to return, before the head listens.
    pub(crate) fn set_awaited(&self, paths: impl IntoIterator<Item = ActorPath>) {
        self.state.lock().awaited = paths.into_iter().collect();
    }

    /// Has a node end an incarnation that it has kept while it had no head.
    pub(crate) fn refuse(&self, process: u64, incarnation: u64) {
        let link = self.state.lock().nodes.get(&process).map(|node| node.link.clone());
        if let Some(link) = link {
            link.control(&Control::Kill { incarnation });
        }
    }

    /// Makes a node, whose kept incarnations have been taken over or refused, available for launches. A process of a single
    /// Work ends if that was refused.
    pub(crate) fn has_claimed(&self, process: u64) {
        let mut state = self.state.lock();
        let (mut returned, is_stopping) = (None, state.is_stopping);
        if let Some(node) = state.nodes.get_mut(&process) {
            node.has_claimed = true;
            if node.is_left() && !node.is_process && !is_stopping {
                node.link.control(&Control::MayLeave);
            }
            if node.is_process {
                let is_useless = node.incarnations.is_empty() && !node.is_leaving;
                node.is_leaving |= is_useless;
                returned = Some((node.link.clone(), is_useless));
            }
            state.events.push(HostEvent::Room);
        }
        drop(state);
        if let Some((link, is_useless)) = returned {
            self.processes.described(&link.peer().name);
            if is_useless {
                link.control(&Control::MayLeave);
            }
        }
        self.ready_queue.ring_again();
    }

    /// Returns true if a node has this number, and a Work with this placement and these needs can run there.
    pub(crate) fn fits(&self, process: u64, placement: &Placement) -> bool {
        let state = self.state.lock();
        state.nodes.get(&process).is_some_and(|node| {
            let Placement::Node(selector) = placement else {
                return node.is_process && *placement == Placement::Process;
            };
            if node.is_process {
                return false;
            }
            let card = node.link.peer();
            let labels = card.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            selector.fits(&card.name, labels)
        })
    }

    /// Removes an incarnation that is over, and releases its resources.
    fn forget(&self, incarnation: u64) -> Option<Arc<Outbox>> {
        let mut state = self.state.lock();
        let away = state.incarnations.remove(&incarnation)?;
        if let Some(node) = state.nodes.get_mut(&away.node) {
            node.incarnations.remove(&incarnation);
            node.gpus.give_back(&away.gpus);
            node.used = Resources {
                cpus: node.used.cpus.saturating_sub(away.needs.cpus),
                gpus: node.used.gpus.saturating_sub(away.needs.gpus),
                memory: node.used.memory.saturating_sub(away.needs.memory),
            };
        }
        // Sent once the messages that were not begun have been returned. While the App stops, the process stays for its
        // values.
        let last = if state.is_stopping { None } else { state.nodes.get_mut(&away.node) };
        let last = last.and_then(|node| {
            node.is_leaving |= node.is_process;
            node.is_left().then(|| node.link.clone())
        });
        state.registry.over(&away.path, incarnation);
        state.events.push(HostEvent::Room);
        drop(state);
        self.left(&away);
        if let Some(link) = last {
            let route = away.route.clone();
            away.route.when_drained(move || {
                drop(route);
                link.control(&Control::MayLeave);
            });
            Route::drain(away.route.clone());
        }
        self.tell_locations();
        self.ready_queue.ring_again();
        Some(away.outbox)
    }

    /// Has the mailbox of an incarnation that is over wait for the next one.
    fn left(&self, away: &Away) {
        if let Some(mailbox) = away.mailbox.upgrade() {
            let route = SharedRoute(away.route.clone());
            mailbox.left(&route);
        }
    }

    /// Announces that a Work of this process, or with a process of its own, has been launched; nodes reach it by way of
    /// the head.
    pub(crate) fn launched_here(&self, path: &ActorPath) {
        let me = self.bridge.me().id;
        let mut state = self.state.lock();
        state.awaited.remove(path);
        let is_news =
            |location: &Location<u64>| !matches!(location, Location::At { node, .. } if *node == me);
        // Announced only to subscribers, and not again after a restart, since the mailbox keeps the waiting messages.
        if state.registry.location(path).is_some_and(is_news) {
            let location = Location::At { node: me, incarnation: self.incarnations.next().number() };
            state.registry.set(path, location);
            drop(state);
            self.tell_locations();
        }
    }

    /// Announces that the Work at `path` takes no messages for the reason `why`.
    pub(crate) fn closed(&self, path: &ActorPath, why: CloseReason) {
        let node = {
            let mut state = self.state.lock();
            let incarnation = match state.registry.location(path) {
                Some(Location::At { incarnation, .. }) => Some(*incarnation),
                _ => None,
            };
            state.awaited.remove(path);
            state.registry.set(path, Location::Closed(why));
            let away = incarnation.and_then(|number| Some((number, state.incarnations.get(&number)?.node)));
            away.and_then(|(number, node)| Some((number, state.nodes.get(&node)?.link.clone())))
        };
        if let Some((incarnation, link)) = node {
            link.control(&Control::Close { incarnation, why });
        }
        self.tell_locations();
    }

    /// Sends the queued locations to their subscribers, as far as the sessions have room.
    fn tell_locations(&self) {
        let sessions = self.state.lock().registry.untold();
        if sessions.is_empty() {
            return;
        }
        let accepted = self.bridge.accepted();
        for session in sessions {
            match accepted.iter().find(|link| link.number() == session) {
                Some(link) => self.tell(link),
                None => self.state.lock().registry.end_session(session),
            }
        }
    }

    /// Sends the queued locations of one session. When the session has no room, the rest waits, and the locations of
    /// each Work conflate.
    fn tell(&self, link: &Arc<Link>) {
        let session = link.number();
        let mut state = self.state.lock();
        if state.waiting_to_tell.contains(&session) {
            return;
        }
        while link.has_room() {
            let Some((path, location)) = state.registry.next(session) else { return };
            let location = match location {
                Location::Pending => Location::Pending,
                Location::Closed(why) => Location::Closed(why),
                Location::At { node, incarnation } => {
                    let me = self.bridge.me();
                    let card = match state.nodes.get(&node) {
                        Some(node) => Some(node.link.peer()),
                        None => (node == me.id).then_some(me),
                    };
                    match card {
                        Some(card) => Location::At { node: Source::of(card), incarnation },
                        // The node is lost; the next location will follow.
                        None => Location::Pending,
                    }
                }
            };
            // Under the lock, so that no older location follows a launch.
            link.control(&Control::Located { path, location });
        }
        state.waiting_to_tell.insert(session);
        drop(state);
        let (me, link) = (self.me.clone(), link.clone());
        self.bridge.spawn(move || async move {
            let there_is_room = link.room().await;
            let Some(head) = me.upgrade() else { return };
            head.state.lock().waiting_to_tell.remove(&session);
            if there_is_room {
                head.tell(&link);
            }
        });
    }

    /// Subscribes a process to the location of the Work at `path`.
    fn locate(&self, link: &Arc<Link>, path: &ActorPath) -> Result<(), String> {
        if path.as_str().len() > ActorPath::LONGEST_FROM_AFAR {
            return Err("the peer subscribed to a path that is too long".to_owned());
        }
        {
            let mut state = self.state.lock();
            let is_awaited = state.awaited.contains(path);
            let subscribed = state.registry.subscribe(link.number(), path, || {
                let Some(mailbox) = self.bridge.find_address(path) else {
                    return Location::Closed(CloseReason::Unknown);
                };
                match mailbox.place() {
                    Place::Closed(why) => Location::Closed(why),
                    _ if is_awaited => Location::Pending,
                    // Includes Works with a process of their own, which are reached by way of the head.
                    _ => Location::At {
                        node: self.bridge.me().id,
                        incarnation: self.incarnations.next().number(),
                    },
                }
            });
            if !subscribed {
                return Err("the peer subscribed to too many Works".to_owned());
            }
        }
        self.tell(link);
        Ok(())
    }

    pub(crate) fn take_events(&self) -> Vec<HostEvent> {
        std::mem::take(&mut self.state.lock().events)
    }

    /// Returns the displayed name of a process. Processes of single Works count as this machine.
    fn name_of(&self, link: &Arc<Link>) -> Arc<str> {
        let peer = link.peer();
        let is_process = self.state.lock().nodes.get(&peer.id).is_some_and(|node| node.is_process);
        Arc::from(if is_process { self.bridge.me().name.as_str() } else { peer.name.as_str() })
    }

    /// Returns the name of the node that hosts a Work. Processes of single Works count as this machine.
    pub(crate) fn node_of(&self, path: &ActorPath) -> Option<Arc<str>> {
        let state = self.state.lock();
        let Location::At { node, .. } = state.registry.location(path)? else { return None };
        let node = state.nodes.get(node)?;
        (!node.is_process).then(|| Arc::from(node.link.peer().name.as_str()))
    }

    /// Returns the names of the nodes that have a value.
    pub(crate) fn holders(&self, id: PayloadId) -> Vec<String> {
        self.copies.who_has(id, &[]).sources.into_iter().map(|source| source.name).collect()
    }

    /// Sends the state of the App to its watchers.
    pub(crate) fn show(&self, version: u64, shown: Value) {
        self.watchers.show(version, shown);
    }

    pub(crate) fn has_watchers(&self) -> bool {
        !self.watchers.is_empty()
    }

    /// Records that the App begins to stop.
    pub(crate) fn stopping(&self) {
        self.state.lock().is_stopping = true;
    }

    /// Tells all other processes that the App is over.
    pub(crate) async fn end(&self, why: &str) {
        self.state.lock().is_ending = true;
        let links = self.bridge.accepted();
        for link in &links {
            link.control(&Control::End { why: why.to_owned() });
        }
        let farewell = futures::future::join_all(links.iter().map(|link| link.drained()));
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        self.bridge.end();
        let closed = self.listening.lock().take();
        if let Some(closed) = closed {
            // The port must be free, and the file of the token deleted, before the process ends.
            let _ = tokio::time::timeout(FAREWELL, closed).await;
        }
        self.bridge.store().set_replicator(None);
        self.processes.end().await;
    }

    /// Handles the end of the process of a Work. Its session ends once everything that it had sent was read.
    fn process_gone(&self, name: &str) {
        let link = {
            let state = self.state.lock();
            let node = state.nodes.values().find(|node| node.is_process && node.link.peer().name == name);
            node.map(|node| node.link.clone())
        };
        if let Some(link) = link.filter(|link| !link.is_connected()) {
            link.give_up("its process has ended");
        }
    }

    #[cfg(fuzzing)]
    pub(super) fn bridge(&self) -> &Arc<Bridge> {
        &self.bridge
    }

    fn set_reachable(&self, link: &Arc<Link>, is_reachable: bool) {
        if let Some(node) = self.state.lock().nodes.get_mut(&link.peer().id) {
            node.is_reachable = is_reachable;
        }
    }
}

impl Nodes for Head {
    fn link_of(&self, node: u64) -> Option<Arc<Link>> {
        self.state.lock().nodes.get(&node).map(|node| node.link.clone())
    }

    fn keepers(&self) -> Vec<Arc<Link>> {
        let state = self.state.lock();
        let mut nodes: Vec<_> = state
            .nodes
            .values()
            .filter(|node| !node.is_process && node.is_reachable && !node.is_leaving)
            .collect();
        nodes.sort_by_key(|node| node.incarnations.len());
        nodes.into_iter().map(|node| node.link.clone()).collect()
    }

    fn presence(&self, node: u64) -> Presence {
        match self.state.lock().nodes.get(&node) {
            Some(node) if node.is_leaving => Presence::Leaves,
            Some(_) => Presence::Stays,
            None => Presence::Gone,
        }
    }

    fn in_words(&self, link: &Link) -> String {
        let name = &link.peer().name;
        match self.processes.path_of(name) {
            Some(path) => format!("the process of work `{path}`"),
            None => format!("node `{name}`"),
        }
    }

    fn is_stopping(&self) -> bool {
        self.state.lock().is_stopping
    }
}
