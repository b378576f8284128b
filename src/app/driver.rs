//! The actor that runs the Flows of an App.
//!
//! All Flows of an App react on one thread, the deepest first, each never concurrently with itself. The driver
//! sleeps until a Work rings its ready_queue, a deadline comes or a question arrives; it never polls.
//!
//! One cycle: take in the news of the Works that rang, let the Flows above them react, carry out what the Flows
//! asked for, then show the new state to the outside.

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

use super::clock::{Clock, ClockWatch};
use super::config::Config;
use super::control::{AppStage, Exit};
use super::error::AppError;
use super::histogram::Histogram;
use super::hosts::Hosts;
use super::resources::{known_gpus, resources};
use super::shutdown::Shutdown;
use super::snapshot::Snapshot;
use super::timers::{Timer, Timers};
use super::tree::{Child, FlowLife, Tree};
use super::watchdog::Watchdog;
use crate::fence;
use crate::flow::{AnyFlow, FlowContext, Found, Moment, Node, Position, Visitor, Walk, lock};
use crate::id::{ActorPath, AppId, FlowId, WorkId};
use crate::trace::Cause;
use crate::work::{Failure, HostEvent, ReadyQueue, Reason, Report, Resources};

/// Told of the failure that ends the App, when it happens.
pub(crate) type OnFailure = Box<dyn FnOnce(&AppError) + Send>;

/// After so many reactions the driver looks for questions and signals first: two Flows that undo each other's
/// changes must not make the App deaf.
const REACTIONS_AT_ONCE: usize = 256;

/// As many of the causes of one reaction are remembered.
const CAUSES: usize = 32;

pub(crate) struct Driver {
    /// Taken out while something below it is called.
    pub(super) root: Option<Box<dyn AnyFlow>>,
    pub(super) tree: Tree,
    pub(super) config: Config,
    pub(super) hosts: Hosts,
    pub(super) clock: Clock,
    pub(super) timers: Timers,
    pub(super) ready_queue: Arc<ReadyQueue>,
    pub(super) dirty: BTreeSet<(Reverse<usize>, FlowId)>,
    stale: Vec<WorkId>,
    /// Works that wait for a node.
    pub(super) unplaced: BTreeSet<WorkId>,
    /// The one timer; gone once its deadline was noticed. Whether it has elapsed does not say that.
    sleep: Rc<RefCell<Option<Pin<Box<Sleep>>>>>,
    pub(super) watchdog: Watchdog,
    /// Says when the wall clock was set; there from the first schedule on.
    clock_watch: Rc<RefCell<ClockWatch>>,
    pub(super) stage: AppStage,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) exit: Option<oneshot::Sender<Exit>>,
    pub(super) reactions: u64,
    /// How long the Flows took to react, by type.
    pub(super) reaction_times: BTreeMap<&'static str, Histogram>,
    /// What this machine has.
    pub(super) resources: Resources,
    version: watch::Sender<u64>,
    /// Dropped with the driver, which is how those who do not look at every change hear of its end.
    alive: watch::Sender<()>,
    pub(super) changed: bool,
    /// Waits for the next change, and is shown what came of it at once: asking then would take two wake-ups more.
    onlooker: Option<oneshot::Sender<Snapshot>>,
}

/// What wakes the driver.
enum Wake {
    Updates(Vec<WorkId>),
    Deadline,
    ClockSet,
}

impl Driver {
    /// Attaches the whole tree, without starting anything.
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

    /// Every placement is of a Work that is there, or of one that may join a list or map later.
    fn check_places(&self, fields: &[String]) -> Result<(), AppError> {
        let works = self.tree.works.values().map(|record| lock(record).path.to_string());
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

    /// Shows everything to `onlooker` as soon as there is something newer than `version`.
    pub(super) fn show_after(&mut self, version: u64, onlooker: oneshot::Sender<Snapshot>) {
        if self.version() == version {
            self.onlooker = Some(onlooker);
        } else {
            // It may have given up.
            let _ = onlooker.send(self.snapshot());
        }
    }

    pub(super) fn alive(&self) -> watch::Receiver<()> {
        self.alive.subscribe()
    }

    pub(super) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Starts the Works and lets every Flow react.
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
        if let Some(record) = self.tree.works.get(&id) {
            lock(record).ledger.start(now);
            self.act(id);
        }
    }

    // ---- the cycle ----

    fn on_updates(&mut self, rung: Vec<WorkId>) {
        let now = self.clock.now();
        for id in rung {
            let Some(record) = self.tree.works.get(&id).cloned() else { continue };
            let (update, owner, became_stale, cause) = {
                let mut record = lock(&record);
                let was_stale = record.stale;
                let update = record.take_news(now);
                let cause = std::mem::take(&mut record.cause);
                (update, record.owner, record.stale && !was_stale, cause)
            };
            if became_stale {
                self.stale.push(id);
            }
            match update {
                Ok(false) => continue,
                Ok(true) => {}
                // It is in another process, which says what cannot be so.
                Err(source) => {
                    let message = format!("what it has published cannot be followed: {source}");
                    let failure = Failure { reason: Reason::UserError, message };
                    let mut record = lock(&record);
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
                    let Some(record) = self.tree.works.get(&id).cloned() else { continue };
                    let owner = {
                        let mut record = lock(&record);
                        if !record.speaks_through(&outbox) {
                            continue;
                        }
                        match lost {
                            Some(why) => record.ledger.node_lost(&why, now),
                            None => record.ledger.move_away(now),
                        }
                        record.owner
                    };
                    self.act(id);
                    self.mark_up(owner);
                }
            }
        }
        if room {
            for id in std::mem::take(&mut self.unplaced) {
                let Some(record) = self.tree.works.get(&id).cloned() else { continue };
                let owner = {
                    let mut record = lock(&record);
                    record.ledger.place(now);
                    record.owner
                };
                self.act(id);
                self.mark_up(owner);
            }
        }
    }

    fn on_deadline(&mut self) {
        let now = self.clock.now();
        while let Some(timer) = self.timers.due(now.at) {
            match timer {
                Timer::Work(id) => {
                    let Some(record) = self.tree.works.get(&id).cloned() else { continue };
                    let owner = {
                        let mut record = lock(&record);
                        record.ledger.on_time(now);
                        record.owner
                    };
                    self.act(id);
                    self.mark_up(owner);
                }
                Timer::Flow(id) => self.flow_deadline(id, now),
                Timer::ShutDown => self.shutdown_deadline(),
            }
        }
        self.settle();
    }

    /// Looks again at what was to be at a time of the wall clock, which was set.
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

    /// Lets Flows react until none has a reason to, then shows what came of it.
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
                // It may have given up just now.
                let _ = onlooker.send(self.snapshot());
            }
        }
        self.arm();
    }

    // ---- helpers ----

    fn mark(&mut self, flow: FlowId) {
        if let Some(entry) = self.tree.flows.get(&flow) {
            self.dirty.insert((Reverse(entry.depth), flow));
        }
    }

    /// Makes a Flow and all above it react.
    pub(super) fn mark_up(&mut self, flow: FlowId) {
        self.changed = true;
        let mut next = Some(flow);
        while let Some(flow) = next {
            self.mark(flow);
            next = self.tree.flows.get(&flow).and_then(|entry| entry.parent);
        }
    }

    /// Remembers what the next reactions of a Flow and all above it come from.
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

    /// Calls a Flow, wherever it was moved to; `None` when it cannot be found below the Flow that had it when the tree was
    /// walked last.
    pub(super) fn with_flow<R>(&mut self, id: FlowId, call: impl FnOnce(&mut dyn AnyFlow) -> R) -> Option<R> {
        let path = self.tree.flows.get(&id)?.link.path.clone();
        let lineage = self.tree.lineage(id);
        let mut root = self.root.take()?;
        let (mut call, mut result) = (Some(call), None);
        self.watchdog.during(&path, || {
            // On the way there are maps of the user's.
            let sought = fence::call(|| {
                seek(&mut *root, &path, id, &lineage, &mut |flow| {
                    result = call.take().map(|call| call(flow));
                });
            });
            if let Err(panic) = sought {
                log::error!("flow `{path}` is not found, for a panic: {panic}");
            }
        });
        self.root = Some(root);
        result
    }

    /// Returns whether a Flow can be called. When it is not where it was, the tree is walked.
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
        // The Flows above may be others than before.
        self.mark_up(id);
        self.with_flow(id, |_| ()).is_some()
    }

    /// Whether other children are below a Flow than when the tree was walked last, or in another order.
    pub(super) fn has_other_children(&mut self, id: FlowId) -> bool {
        let mut found = Vec::new();
        if self.with_flow(id, |flow| list_children(flow, id, &mut found)).is_none() {
            return true;
        }
        let known = |flow: &FlowId| self.tree.flows.get(flow).map(|entry| &entry.children);
        found.iter().any(|(flow, children)| known(flow) != Some(children))
    }

    /// Makes the `WorkRef`s show what has arrived.
    fn refresh_views(&mut self) {
        let mut lost = false;
        let mut root = self.root.take().expect("nothing below the root is being called");
        for id in std::mem::take(&mut self.stale) {
            let Some(record) = self.tree.works.get(&id) else { continue };
            let path = {
                let mut record = lock(record);
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
            // It was moved and is no longer where its name says.
            lost |= !found.unwrap_or(false);
        }
        if lost && let Err(panic) = fence::call(|| refresh_all(&mut *root, "")) {
            log::error!("not all states are shown to the Flows, for a panic: {panic}");
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

    /// Sets the one timer to the nearest deadline.
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

/// Calls the Flow that has this number: the one that is where its path says, else one that was moved, which is looked for
/// below each of the Flows above it.
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

/// The children that are below a Flow, for each Flow there.
fn list_children(flow: &mut dyn AnyFlow, id: FlowId, out: &mut Vec<(FlowId, Vec<Child>)>) {
    struct List<'a> {
        children: Vec<Child>,
        out: &'a mut Vec<(FlowId, Vec<Child>)>,
    }

    /// What has not joined yet; no child has this number.
    const NEW: Child = Child::Flow(FlowId(0));

    impl Visitor for List<'_> {
        fn field(&mut self, _: &str) {}

        fn child(&mut self, _: Position<'_>, node: Node<'_>) {
            self.children.push(match node {
                Node::Work(work) => work.record().map_or(NEW, |record| Child::Work(lock(record).id)),
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
