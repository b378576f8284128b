//! The actor that runs the Flows of an App.
//!
//! All Flows of an App react on one thread, the deepest first, each never concurrently with itself. The driver sleeps
//! until a Work is in the [`ReadyQueue`], a deadline expires or a call arrives; it never polls.
//!
//! A cycle takes the updates of the ready Works, lets the Flows above them react, carries out the commands given in the
//! reactions, and publishes the new state to observers.

mod actions;
mod failures;
#[cfg(feature = "remote")]
mod listen;
mod payloads;
mod queries;
mod react;
mod shutdown;
mod timers;
mod tree;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use actix::{Actor, AsyncContext, Context, StreamHandler};
use futures::stream;
use tokio::sync::{oneshot, watch};
use tokio::time::Sleep;

pub(crate) use self::actions::{Action, NotDone};
pub(super) use self::payloads::{Referring, What};
use self::shutdown::Shutdown;
use self::timers::{Timer, Timers};
use self::tree::{Child, FlowLife, Tree};
use super::clock::{Clock, ClockWatch};
use super::config::Config;
use super::error::AppError;
use super::histogram::Histogram;
use super::hosts::Hosts;
use super::resources::{known_gpus, resources};
use super::snapshot::Snapshot;
use super::status::{AppStage, Exit};
use super::watchdog::Watchdog;
use crate::fence;
use crate::flow::{AnyFlow, FlowContext, Found, Ledger, Moment, Node, Position, Visitor, Walk};
use crate::id::{ActorPath, AppId, FlowId, WorkId};
use crate::trace::Cause;
use crate::work::{Failure, HostEvent, ReadyQueue, Reason, Report, Resources};

/// A callback for the failure that stops the App, called when the failure happens.
pub(crate) type OnFailure = Box<dyn FnOnce(&AppError) + Send>;

/// The number of reactions after which the driver yields to calls and signals: two Flows that undo each other's changes
/// must not block the App forever.
const REACTIONS_AT_ONCE: usize = 256;

/// The number of causes kept for one reaction.
const CAUSES: usize = 32;

pub(crate) struct Driver {
    /// The root; taken out while code below it is called.
    root: Option<Box<dyn AnyFlow>>,
    tree: Tree,
    config: Config,
    hosts: Hosts,
    clock: Clock,
    timers: Timers,
    ready_queue: Arc<ReadyQueue>,
    dirty: BTreeSet<(Reverse<usize>, FlowId)>,
    stale: Vec<WorkId>,
    /// Works that wait for a node.
    unplaced: BTreeSet<WorkId>,
    /// The single timer. `None` once its expiry has been handled, which `Sleep::is_elapsed` does not tell.
    sleep: Rc<RefCell<Option<Pin<Box<Sleep>>>>>,
    watchdog: Watchdog,
    /// Detects changes of the wall clock; started by the first schedule.
    clock_watch: Rc<RefCell<ClockWatch>>,
    stage: AppStage,
    shutdown: Option<Shutdown>,
    pub(super) on_failure: Option<OnFailure>,
    exit: Option<oneshot::Sender<Exit>>,
    reactions: u64,
    /// The durations of reactions, by type of Flow.
    reaction_times: BTreeMap<&'static str, Histogram>,
    /// The resources of this machine.
    resources: Resources,
    version: watch::Sender<u64>,
    /// Closed when the driver is dropped, which notifies those that wait for the end of the App only.
    alive: watch::Sender<()>,
    changed: bool,
    /// A waiting observer, which is sent a snapshot with the next change. A separate call would cost two more wake-ups.
    onlooker: Option<oneshot::Sender<Snapshot>>,
}

/// The events that wake the driver.
enum Wake {
    Updates(Vec<WorkId>),
    Deadline,
    ClockSet,
}

impl Driver {
    /// Attaches the whole tree without starting any Work.
    ///
    /// # Errors
    /// When the tree is invalid, or a configured placement names an unknown path.
    pub(super) fn new(
        app: AppId,
        root: Box<dyn AnyFlow>,
        config: Config,
        hosts: Hosts,
        watchdog: Watchdog,
        clock: Clock,
        exit: oneshot::Sender<Exit>,
    ) -> Result<Self, AppError> {
        let mut driver = Self {
            root: Some(root),
            tree: Tree::new(app),
            config,
            hosts,
            clock,
            timers: Timers::default(),
            ready_queue: Arc::default(),
            dirty: BTreeSet::new(),
            stale: Vec::new(),
            unplaced: BTreeSet::new(),
            sleep: Rc::default(),
            watchdog,
            clock_watch: Rc::default(),
            stage: AppStage::Starting,
            shutdown: None,
            on_failure: None,
            exit: Some(exit),
            reactions: 0,
            resources: resources(),
            reaction_times: BTreeMap::new(),
            version: watch::Sender::new(0),
            alive: watch::Sender::new(()),
            changed: false,
            onlooker: None,
        };
        if let Some(count) = known_gpus(driver.config.gpus) {
            driver.resources.gpus = count;
            driver.hosts.assign_gpus(count, &driver.ready_queue);
        }
        let fields = driver.walk_tree().map_err(AppError::Failed)?;
        driver.check_places(&fields)?;
        Ok(driver)
    }

    /// Checks that every configured placement is for a Work in the tree, or for a child that may join a list or map
    /// later.
    fn check_places(&self, fields: &[String]) -> Result<(), AppError> {
        let works = self.tree.works.values().map(|record| record.lock().path.to_string());
        let flows = self.tree.flows.values().map(|entry| entry.link.path.to_string());
        let children: HashSet<String> = works.chain(flows).collect();
        #[cfg(feature = "remote")]
        self.config.check_nodes()?;
        for path in self.config.place.keys() {
            let above = fields
                .iter()
                .filter(|field| path.strip_prefix(*field).is_some_and(|rest| rest.starts_with('.')));
            let known = fields.contains(path)
                || children.contains(path)
                || above.max_by_key(|field| field.len()).is_some_and(|field| !children.contains(field));
            if !known {
                return Err(AppError::UnknownPlace { path: path.clone(), known: fields.join(", ") });
            }
        }
        Ok(())
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Sends a snapshot to `onlooker` once the version differs from `version`, at once if it does already.
    pub(super) fn show_after(&mut self, version: u64, onlooker: oneshot::Sender<Snapshot>) {
        if self.version() == version {
            self.onlooker = Some(onlooker);
        } else {
            // The observer may have stopped waiting.
            let _ = onlooker.send(self.snapshot());
        }
    }

    pub(super) fn alive(&self) -> watch::Receiver<()> {
        self.alive.subscribe()
    }

    pub(super) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Starts all Works and lets every Flow react.
    pub(super) fn begin(&mut self) {
        if self.stage != AppStage::Starting {
            return;
        }
        self.stage = AppStage::Running;
        let now = self.clock.now();
        for id in self.tree.order.clone() {
            self.start(id, now);
        }
        let flows: Vec<_> = self.tree.flows.keys().copied().collect();
        flows.into_iter().for_each(|flow| self.mark(flow));
        self.settle();
    }

    pub(super) fn start(&mut self, id: WorkId, now: Moment) {
        self.with_work(id, |ledger| ledger.start(now));
    }

    // ---- cycle ----

    fn on_updates(&mut self, rung: Vec<WorkId>) {
        let now = self.clock.now();
        for id in rung {
            let Some(record) = self.tree.works.get(&id).cloned() else { continue };
            let (update, owner, became_stale, cause) = {
                let mut record = record.lock();
                let was_stale = record.stale;
                let update = record.take_update(now);
                let cause = std::mem::take(&mut record.cause);
                (update, record.owner, record.stale && !was_stale, cause)
            };
            if became_stale {
                self.stale.push(id);
            }
            match update {
                Ok(false) => continue,
                Ok(true) => {}
                // A process has sent a patch that does not apply, or a state that is too large. No Work of this process
                // can.
                Err(source) => {
                    let message = format!("its published state cannot be applied: {source}");
                    let failure = Failure::new(Reason::UserError, message);
                    let mut record = record.lock();
                    record.kill();
                    record.ledger.report(Report::Died { failure }, now);
                }
            }
            self.act(id);
            self.mark_up(owner);
            self.note_cause(owner, &cause);
        }
        self.on_host_events(now);
        self.settle();
    }

    fn on_host_events(&mut self, now: Moment) {
        let mut room = false;
        for event in self.hosts.events() {
            self.changed = true;
            match event {
                HostEvent::Room => room = true,
                HostEvent::NodeLost { .. } | HostEvent::NodeLeaves { .. } => {
                    let (outbox, lost) = match event {
                        HostEvent::NodeLost { outbox, why } => (outbox, Some(why)),
                        HostEvent::NodeLeaves { outbox } => (outbox, None),
                        HostEvent::Room => continue,
                    };
                    let id = outbox.id();
                    let record = self.tree.works.get(&id);
                    if record.is_some_and(|record| record.lock().speaks_through(&outbox)) {
                        self.update_work(id, |ledger| match lost {
                            Some(why) => ledger.node_lost(&why, now),
                            None => ledger.move_away(now),
                        });
                    }
                }
            }
        }
        if room {
            for id in std::mem::take(&mut self.unplaced) {
                self.update_work(id, |ledger| ledger.place(now));
            }
        }
    }

    fn on_deadline(&mut self) {
        let now = self.clock.now();
        while let Some(timer) = self.timers.due(now.at) {
            match timer {
                Timer::Work(id) => {
                    self.update_work(id, |ledger| ledger.on_time(now));
                }
                Timer::Flow(id) => self.flow_deadline(id, now),
                Timer::ShutDown => self.shutdown_deadline(),
            }
        }
        self.settle();
    }

    /// Reevaluates all schedules after the wall clock was set.
    fn on_clock_set(&mut self) {
        let now = self.clock.now();
        let with_schedules = self
            .tree
            .flows
            .iter()
            .filter(|(_, flow)| flow.cx.as_ref().is_some_and(|cx| !cx.schedules.is_empty()));
        let with_schedules: Vec<_> = with_schedules.map(|(id, _)| *id).collect();
        with_schedules.into_iter().for_each(|id| self.flow_deadline(id, now));
        self.settle();
    }

    fn flow_deadline(&mut self, id: FlowId, now: Moment) {
        let Some(entry) = self.tree.flows.get_mut(&id) else { return };
        let restart = matches!(entry.life, FlowLife::Waiting { until } if until <= now.at);
        let asked = entry.wake_at.take_if(|at| *at <= now.at).is_some();
        let scheduled = entry.cx.as_mut().is_some_and(|cx| cx.schedules.wake(now));
        if restart {
            self.flow_restarted(id);
        }
        if asked || scheduled {
            self.mark_up(id);
        }
        self.set_flow_timer(id);
    }

    /// Lets Flows react until none is dirty, then publishes the new version.
    pub(super) fn settle(&mut self) {
        self.refresh_views();
        for _ in 0..REACTIONS_AT_ONCE {
            if self.stage != AppStage::Running {
                break;
            }
            let Some((_, flow)) = self.dirty.pop_first() else { break };
            self.react(flow);
        }
        if self.stage == AppStage::Running && !self.dirty.is_empty() {
            self.ready_queue.ring_again();
        }
        self.advance_shutdown();
        self.hosts.flush();
        if std::mem::take(&mut self.changed) {
            self.version.send_modify(|version| *version += 1);
            if let Some(onlooker) = self.onlooker.take()
                && !onlooker.is_closed()
            {
                // The observer may have stopped waiting just now.
                let _ = onlooker.send(self.snapshot());
            }
        }
        self.arm();
    }

    // ---- helpers ----

    /// Calls the ledger of a Work and carries out the actions that it requests. Returns `None` if the Work is not part
    /// of the tree.
    pub(super) fn with_work<R>(&mut self, id: WorkId, call: impl FnOnce(&mut Ledger) -> R) -> Option<R> {
        let result = call(&mut self.tree.works.get(&id)?.lock().ledger);
        self.act(id);
        Some(result)
    }

    /// As [`with_work`](Self::with_work), and marks the Flows above the Work for a reaction.
    pub(super) fn update_work<R>(&mut self, id: WorkId, call: impl FnOnce(&mut Ledger) -> R) -> Option<R> {
        let owner = self.tree.works.get(&id)?.lock().owner;
        let result = self.with_work(id, call);
        self.mark_up(owner);
        result
    }

    fn mark(&mut self, flow: FlowId) {
        if let Some(entry) = self.tree.flows.get(&flow) {
            self.dirty.insert((Reverse(entry.depth), flow));
        }
    }

    /// Marks a Flow and all Flows above it for a reaction.
    pub(super) fn mark_up(&mut self, flow: FlowId) {
        self.changed = true;
        let mut next = Some(flow);
        while let Some(flow) = next {
            self.mark(flow);
            next = self.tree.flows.get(&flow).and_then(|entry| entry.parent);
        }
    }

    /// Records the cause of the next reactions of a Flow and of all Flows above it, for tracing.
    fn note_cause(&mut self, flow: FlowId, cause: &Cause) {
        if cause.is_none() {
            return;
        }
        let mut next = Some(flow);
        while let Some(entry) = next.and_then(|flow| self.tree.flows.get_mut(&flow)) {
            if entry.causes.len() < CAUSES {
                entry.causes.push(cause.clone());
            }
            next = entry.parent;
        }
    }

    /// Calls a Flow, also when it was moved since the last walk of the tree. Returns `None` when it is no longer below
    /// the Flows that were above it then.
    pub(super) fn with_flow<R>(&mut self, id: FlowId, call: impl FnOnce(&mut dyn AnyFlow) -> R) -> Option<R> {
        let path = self.tree.flows.get(&id)?.link.path.clone();
        let lineage = self.tree.lineage(id);
        let mut root = self.root.take()?;
        let (mut call, mut result) = (Some(call), None);
        self.watchdog.during(&path, || {
            // The search walks collections of the user's, which may panic.
            let sought = fence::call(|| {
                seek(&mut *root, &path, id, &lineage, &mut |flow| {
                    result = call.take().map(|call| call(flow));
                });
            });
            if let Err(panic) = sought {
                log::error!("flow `{path}` cannot be reached: code of its parents panicked: {panic}");
            }
        });
        self.root = Some(root);
        result
    }

    /// Returns true when a Flow can be called. If it is not at its last known position, the tree is walked again.
    pub(super) fn reaches(&mut self, id: FlowId) -> bool {
        if self.with_flow(id, |_| ()).is_some() {
            return true;
        }
        if !self.tree.flows.contains_key(&id) {
            return false;
        }
        if let Err(error) = self.walk_tree() {
            self.flow_failed(id, error);
        }
        // The Flow may have other parents than before.
        self.mark_up(id);
        self.with_flow(id, |_| ()).is_some()
    }

    /// Returns true when the children below a Flow, or their order, have changed since the last walk of the tree.
    pub(super) fn has_other_children(&mut self, id: FlowId) -> bool {
        let mut found = Vec::new();
        if self.with_flow(id, |flow| list_children(flow, id, &mut found)).is_none() {
            return true;
        }
        let known = |flow: &FlowId| self.tree.flows.get(flow).map(|entry| &entry.children);
        found.iter().any(|(flow, children)| known(flow) != Some(children))
    }

    /// Refreshes the `WorkRef`s of Works with new states.
    fn refresh_views(&mut self) {
        let mut lost = false;
        let mut root = self.root.take().expect("no call into the root is in progress");
        for id in std::mem::take(&mut self.stale) {
            let Some(record) = self.tree.works.get(&id) else { continue };
            let path = {
                let mut record = record.lock();
                record.stale = false;
                record.path.clone()
            };
            let found = fence::call(|| match root.find_child(crate::flow::Route::new(path.as_str())) {
                Some(Found(Node::Work(work))) => {
                    work.refresh();
                    true
                }
                _ => false,
            });
            // A moved Work is not found by its path.
            lost |= !found.unwrap_or(false);
        }
        if lost && let Err(panic) = fence::call(|| refresh_all(&mut *root, "")) {
            log::error!(
                "some states shown to Flows are out of date: a collection of children panicked: {panic}"
            );
        }
        self.root = Some(root);
    }

    pub(super) fn set_flow_timer(&mut self, id: FlowId) {
        let now = self.clock.now();
        let Some(entry) = self.tree.flows.get(&id) else { return };
        let scheduled = entry.cx.as_ref().and_then(|cx: &FlowContext| cx.schedules.next_wake());
        let restart = match entry.life {
            FlowLife::Waiting { until } => Some(until),
            FlowLife::Up | FlowLife::Failed => None,
        };
        if scheduled.is_some() {
            self.clock_watch.borrow_mut().begin(&self.clock);
        }
        let scheduled = scheduled.map(|time| self.clock.look_at(time, now));
        let deadlines = [entry.wake_at, scheduled, restart];
        self.timers.set(Timer::Flow(id), deadlines.into_iter().flatten().min());
    }

    /// Sets the single timer to the earliest deadline.
    fn arm(&mut self) {
        let mut sleep = self.sleep.borrow_mut();
        match (self.timers.next().and_then(|at| self.clock.instant(at)), &mut *sleep) {
            (None, sleep) => *sleep = None,
            (Some(deadline), Some(sleep)) if sleep.deadline() == deadline => {}
            (Some(deadline), Some(sleep)) => sleep.as_mut().reset(deadline),
            (Some(deadline), none) => *none = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }
}

/// Calls the Flow with this id: at its path, or else anywhere below the Flows of its lineage, where it may have been
/// moved.
fn seek(
    root: &mut dyn AnyFlow,
    path: &ActorPath,
    id: FlowId,
    lineage: &[FlowId],
    call: &mut dyn FnMut(&mut dyn AnyFlow),
) {
    struct Seek<'a> {
        lineage: &'a [FlowId],
        call: &'a mut dyn FnMut(&mut dyn AnyFlow),
    }

    impl Visitor for Seek<'_> {
        fn field(&mut self, _: &str) {}

        fn child(&mut self, position: Position<'_>, node: Node<'_>) {
            let Node::Flow(flow) = node else { return };
            if flow.link().map(|link| link.id) != self.lineage.first().copied() {
                return;
            }
            match &self.lineage[1..] {
                [] => (self.call)(flow),
                rest => {
                    let mut below = Seek { lineage: rest, call: &mut *self.call };
                    flow.walk_children(&mut Walk::new(position.path, &mut below));
                }
            }
        }
    }

    let is_meant = |flow: &dyn AnyFlow| flow.link().is_some_and(|link| link.id == id);
    if is_meant(root) {
        return call(root);
    }
    if let Some(Found(Node::Flow(flow))) = root.find_child(crate::flow::Route::new(path.as_str()))
        && is_meant(flow)
    {
        return call(flow);
    }
    if !lineage.is_empty() {
        root.walk_children(&mut Walk::new("", &mut Seek { lineage, call }));
    }
}

/// Collects the children of a Flow and of each Flow below it.
fn list_children(flow: &mut dyn AnyFlow, id: FlowId, out: &mut Vec<(FlowId, Vec<Child>)>) {
    struct List<'a> {
        children: Vec<Child>,
        out: &'a mut Vec<(FlowId, Vec<Child>)>,
    }

    /// A child that has not joined yet; ids start at 1.
    const NEW: Child = Child::Flow(FlowId(0));

    impl Visitor for List<'_> {
        fn field(&mut self, _: &str) {}

        fn child(&mut self, _: Position<'_>, node: Node<'_>) {
            self.children.push(match node {
                Node::Work(work) => work.record().map_or(NEW, |record| Child::Work(record.lock().id)),
                Node::Flow(flow) => match flow.link().map(|link| link.id) {
                    Some(id) => {
                        list_children(flow, id, self.out);
                        Child::Flow(id)
                    }
                    None => NEW,
                },
            });
        }
    }

    let mut list = List { children: Vec::new(), out };
    flow.walk_children(&mut Walk::new("", &mut list));
    let List { children, out } = list;
    out.push((id, children));
}

fn refresh_all(flow: &mut dyn AnyFlow, path: &str) {
    struct Refresh;

    impl Visitor for Refresh {
        fn field(&mut self, _: &str) {}

        fn child(&mut self, position: Position<'_>, node: Node<'_>) {
            match node {
                Node::Work(work) => work.refresh(),
                Node::Flow(flow) => refresh_all(flow, position.path),
            }
        }
    }

    flow.walk_children(&mut Walk::new(path, &mut Refresh));
}

impl Actor for Driver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let ready_queue = self.ready_queue.clone();
        let sleep = self.sleep.clone();
        let clock_watch = self.clock_watch.clone();
        ctx.add_stream(stream::poll_fn(move |cx| {
            if let Poll::Ready(rung) = ready_queue.poll(cx) {
                return Poll::Ready(Some(Wake::Updates(rung)));
            }
            let mut sleep = sleep.borrow_mut();
            if sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
                *sleep = None;
                return Poll::Ready(Some(Wake::Deadline));
            }
            clock_watch.borrow_mut().poll(cx).map(|()| Some(Wake::ClockSet))
        }));
    }
}

impl StreamHandler<Wake> for Driver {
    fn handle(&mut self, wake: Wake, _: &mut Self::Context) {
        match wake {
            Wake::Updates(rung) => self.on_updates(rung),
            Wake::Deadline => self.on_deadline(),
            Wake::ClockSet => self.on_clock_set(),
        }
    }
}
