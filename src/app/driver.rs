//! The actor that runs the Flows of an App.
//!
//! All Flows of an App react on one thread, the deepest first, each never concurrently with itself. The driver
//! sleeps until a Work rings its doorbell, a deadline comes or a question arrives; it never polls.
//!
//! One cycle: take in the news of the Works that rang, let the Flows above them react, carry out what the Flows
//! asked for, then show the new state to the outside.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, StreamHandler};
use futures::stream;
use tokio::sync::{oneshot, watch};
use tokio::time::Sleep;

use super::clock::{Clock, deadline_at, local};
use super::config::Config;
use super::control::{AppStage, Exit};
use super::error::AppError;
use super::shutdown::Shutdown;
use super::timers::{Timer, Timers};
use super::tree::{Child, FlowLife, Tree};
use crate::flow::{
    Action, AnyFlow, Ending, FlowContext, FlowError, Found, Interrupt, Moment, Node, Position, Scope,
    Visitor, Walk, enter, leave, lock,
};
use crate::id::{AppId, FlowId, WorkId};
use crate::state::Value;
use crate::work::{Command, Doorbell, Failure, Host, Reason, Report, forget_addresses, panic_message};

/// A reaction longer than this is logged.
const SLOW_REACTION: Duration = Duration::from_millis(100);

/// Told of the failure that ends the App, when it happens.
pub(crate) type OnFailure = Box<dyn FnOnce(&AppError) + Send>;

pub(crate) struct Driver {
    /// Taken out while something below it is called.
    pub(super) root: Option<Box<dyn AnyFlow>>,
    pub(super) tree: Tree,
    pub(super) config: Config,
    pub(super) host: Box<dyn Host>,
    pub(super) clock: Clock,
    pub(super) timers: Timers,
    pub(super) doorbell: Arc<Doorbell>,
    dirty: BTreeSet<(Reverse<usize>, FlowId)>,
    stale: Vec<WorkId>,
    /// The one timer; gone once its deadline was noticed. Whether it has elapsed does not say that.
    sleep: Rc<RefCell<Option<Pin<Box<Sleep>>>>>,
    pub(super) stage: AppStage,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) exit: Option<oneshot::Sender<Exit>>,
    pub(super) reactions: u64,
    version: watch::Sender<u64>,
    changed: bool,
}

/// What wakes the driver.
enum Wake {
    News(Vec<WorkId>),
    Deadline,
}

impl Driver {
    /// Attaches the whole tree, without starting anything.
    pub(super) fn new(
        app: AppId,
        root: Box<dyn AnyFlow>,
        config: Config,
        host: Box<dyn Host>,
        paused: bool,
        exit: oneshot::Sender<Exit>,
    ) -> Result<Self, AppError> {
        let mut driver = Self {
            root: Some(root),
            tree: Tree::new(app),
            config,
            host,
            clock: Clock::new(paused),
            timers: Timers::default(),
            doorbell: Arc::default(),
            dirty: BTreeSet::new(),
            stale: Vec::new(),
            sleep: Rc::default(),
            stage: AppStage::Starting,
            shutdown: None,
            on_failure: None,
            exit: Some(exit),
            reactions: 0,
            version: watch::Sender::new(0),
            changed: false,
        };
        let fields = driver.walk_tree().map_err(AppError::Failed)?;
        driver.check_places(&fields)?;
        Ok(driver)
    }

    /// Every placement is of a Work that is there, or of one that may join a list or map later.
    fn check_places(&self, fields: &[String]) -> Result<(), AppError> {
        let works = self.tree.works.values().map(|record| lock(record).path.to_string());
        let flows = self.tree.flows.values().map(|entry| entry.link.path.to_string());
        let children: HashSet<String> = works.chain(flows).collect();
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

    fn start(&mut self, id: WorkId, now: Moment) {
        if let Some(record) = self.tree.works.get(&id) {
            lock(record).ledger.start(now);
            self.act(id);
        }
    }

    // ---- the cycle ----

    fn on_news(&mut self, rung: Vec<WorkId>) {
        let now = self.clock.now();
        for id in rung {
            let Some(record) = self.tree.works.get(&id).cloned() else { continue };
            let (news, owner, path, became_stale) = {
                let mut record = lock(&record);
                let was_stale = record.stale;
                let news = record.take_news(now);
                (news, record.owner, record.path.to_string(), record.stale && !was_stale)
            };
            if became_stale {
                self.stale.push(id);
            }
            match news {
                Ok(false) => continue,
                Ok(true) => {}
                Err(source) => self.flow_failed(owner, FlowError::Unreadable { path, source }),
            }
            self.act(id);
            self.mark_up(owner);
        }
        self.settle();
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

    fn flow_deadline(&mut self, id: FlowId, now: Moment) {
        let Some(entry) = self.tree.flows.get_mut(&id) else { return };
        let restart = matches!(entry.life, FlowLife::Waiting { until } if until <= now.at);
        let asked = entry.wake_at.take_if(|at| *at <= now.at).is_some();
        let scheduled = entry.cx.as_mut().is_some_and(|cx| cx.schedules.wake(local(now)));
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
        while self.stage == AppStage::Running
            && let Some((_, flow)) = self.dirty.pop_first()
        {
            self.react(flow);
        }
        self.advance_shutdown();
        self.host.flush();
        if std::mem::take(&mut self.changed) {
            self.version.send_modify(|version| *version += 1);
        }
        self.arm();
    }

    fn react(&mut self, id: FlowId) {
        let now = self.clock.now();
        let Some(entry) = self.tree.flows.get_mut(&id).filter(|entry| entry.life == FlowLife::Up) else {
            return;
        };
        let Some(mut cx) = entry.cx.take() else { return };
        let path = entry.link.path.clone();
        cx.begin(local(now));
        enter(id, path.clone(), now);
        let began = Instant::now();
        let result = self.with_flow(id, |flow| catch_unwind(AssertUnwindSafe(|| flow.react(&mut cx))));
        let took = began.elapsed();
        let scope = leave().expect("entered above");
        self.reactions += 1;
        self.changed = true;
        if took > SLOW_REACTION {
            log::warn!(
                "flow `{path}` took {took:?} to react; all Flows of the App wait meanwhile, so let a Work do what takes long"
            );
        }
        let ending = cx.ending.take();
        if let Some(entry) = self.tree.flows.get_mut(&id) {
            entry.wake_at = cx.wake_in.map(|delay| now.at + delay);
            entry.cx = Some(cx);
        }
        self.set_flow_timer(id);
        self.carry_out(id, scope);
        let path = path.to_string();
        match result {
            None | Some(Ok(Ok(()) | Err(Interrupt::Pending))) => {}
            Some(Ok(Err(Interrupt::Failed(error)))) => {
                self.flow_failed(id, FlowError::React { path, message: format!("{error:#}") });
            }
            Some(Err(panic)) => {
                self.flow_failed(id, FlowError::Panicked { path, message: panic_message(&*panic) });
            }
        }
        match ending {
            None => {}
            Some(Ending::Stop(why)) => self.stop(&why),
            Some(Ending::Fail(error)) => {
                self.fail(AppError::Failed(FlowError::Deliberate(format!("{error:#}"))));
            }
        }
    }

    /// Does what a Flow asked for while it reacted.
    fn carry_out(&mut self, flow: FlowId, scope: Scope) {
        let Scope { mut touched, lent, problems, tree_changed, early, .. } = scope;
        touched.dedup();
        touched.into_iter().for_each(|id| self.act(id));
        if tree_changed {
            match self.walk_tree() {
                Ok(_) => {
                    let lost = early.iter().find(|(_, joined)| !joined.load(Ordering::Relaxed));
                    if let Some((type_name, _)) = lost {
                        self.flow_failed(flow, FlowError::Unattached { type_name });
                    }
                }
                Err(error) => self.flow_failed(flow, error),
            }
        }
        for (child, before) in lent {
            self.note_write(child, before);
        }
        for problem in problems {
            self.flow_failed(flow, problem);
        }
    }

    /// A parent has had its hands on a child Flow: the child reacts if that has changed it.
    fn note_write(&mut self, child: FlowId, before: Option<Value>) {
        let after = self.with_flow(child, |flow| flow.state().ok()).flatten();
        if after != before {
            self.mark_up(child);
        }
    }

    /// Carries out what the ledger of a Work asks for.
    pub(super) fn act(&mut self, id: WorkId) {
        let Some(shared) = self.tree.works.get(&id).cloned() else { return };
        self.changed = true;
        let mut record = lock(&shared);
        loop {
            let actions = record.ledger.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Launch => {
                        let task = record.incarnation(&self.doorbell);
                        let path = record.path.clone();
                        if let Err(error) = self.host.launch(record.placement, &path, task) {
                            let failure = Failure { reason: Reason::UserError, message: error.to_string() };
                            record.ledger.report(Report::Died { failure }, self.clock.now());
                        }
                    }
                    Action::Send(order) => record.mailbox.command(Command::Run(order)),
                    Action::Cancel { run } => record.mailbox.command(Command::Cancel { run }),
                    Action::Stop => record.mailbox.command(Command::Stop),
                    Action::Kill => record.kill(),
                    Action::Close(why) => {
                        let lost = record.mailbox.close(why);
                        if lost > 0 {
                            log::warn!(
                                "work `{}`: {lost} messages that waited in its mailbox are lost",
                                record.path
                            );
                        }
                    }
                    Action::Restarting(Failure { reason, message }) => {
                        let (owner, path) = (record.owner, record.path.to_string());
                        log::warn!("work `{path}` failed and is restarted: {reason}: {message}");
                        drop(record);
                        self.child_restarts(owner, Child::Work(id), &path);
                        record = lock(&shared);
                    }
                    Action::Captured(Failure { reason, message }) => {
                        log::warn!(
                            "work `{}` failed, which is left to flow `{}`: {reason}: {message}",
                            record.path,
                            record.owner_path
                        );
                    }
                    Action::Raise(Failure { reason, message }) => {
                        let (owner, path) = (record.owner, record.path.to_string());
                        drop(record);
                        self.flow_failed(owner, FlowError::Work { path, reason, message });
                        record = lock(&shared);
                    }
                }
            }
        }
        self.timers.set(Timer::Work(id), record.ledger.next_deadline());
        let down = record.ledger.is_down();
        let path = record.path.clone();
        drop(record);
        if down && !self.tree.order.is_empty() && self.left(id) {
            self.tree.works.remove(&id);
            self.timers.set(Timer::Work(id), None);
            forget_addresses(self.tree.app, Some(&path));
        }
    }

    fn left(&self, id: WorkId) -> bool {
        // Ids grow, and the order is that of joining.
        self.tree.order.binary_search(&id).is_err()
    }

    /// Lets new children join and start, and those that are gone stop. Gives the fields that can hold children.
    fn walk_tree(&mut self) -> Result<Vec<String>, FlowError> {
        let now = self.clock.now();
        let mut root = self.root.take().expect("nothing below the root is being called");
        let changes = self.tree.walk(&mut *root, &self.config, now.wall);
        self.root = Some(root);
        for id in changes.left {
            if let Some(record) = self.tree.works.get(&id) {
                lock(record).ledger.shut_down(now);
                self.act(id);
            }
        }
        for id in changes.flows_left {
            if let Some(entry) = self.tree.flows.remove(&id) {
                self.dirty.remove(&(Reverse(entry.depth), id));
            }
            self.timers.set(Timer::Flow(id), None);
        }
        if let Some(error) = changes.errors.into_iter().next() {
            return Err(error);
        }
        if self.stage == AppStage::Running {
            let mut owners = HashSet::new();
            for id in changes.joined {
                self.start(id, now);
                owners.extend(self.tree.works.get(&id).map(|record| lock(record).owner));
            }
            owners.into_iter().for_each(|flow| self.mark_up(flow));
            changes.flows_joined.into_iter().for_each(|flow| self.mark_up(flow));
        }
        Ok(changes.fields)
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

    pub(super) fn with_flow<R>(&mut self, id: FlowId, call: impl FnOnce(&mut dyn AnyFlow) -> R) -> Option<R> {
        let path = self.tree.flows.get(&id)?.link.path.clone();
        let mut root = self.root.take()?;
        let result = if path.is_root() {
            Some(call(&mut *root))
        } else {
            match root.find_child(crate::flow::Route::new(path.as_str())) {
                Some(Found(Node::Flow(flow))) => Some(call(flow)),
                _ => None,
            }
        };
        self.root = Some(root);
        result
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
            match root.find_child(crate::flow::Route::new(path.as_str())) {
                Some(Found(Node::Work(work))) => work.refresh(),
                // It was moved and is no longer where its name says.
                _ => lost = true,
            }
        }
        if lost {
            refresh_all(&mut *root, "");
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
        let deadlines = [entry.wake_at, scheduled.map(|time| deadline_at(time, now)), restart];
        self.timers.set(Timer::Flow(id), deadlines.into_iter().flatten().min());
    }

    /// Sets the one timer to the nearest deadline.
    fn arm(&mut self) {
        let mut sleep = self.sleep.borrow_mut();
        match (self.timers.next().map(|at| self.clock.instant(at)), &mut *sleep) {
            (None, sleep) => *sleep = None,
            (Some(deadline), Some(sleep)) if sleep.deadline() == deadline => {}
            (Some(deadline), Some(sleep)) => sleep.as_mut().reset(deadline),
            (Some(deadline), none) => *none = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }
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
        let doorbell = self.doorbell.clone();
        let sleep = self.sleep.clone();
        ctx.add_stream(stream::poll_fn(move |cx| {
            if let Poll::Ready(rung) = doorbell.poll(cx) {
                return Poll::Ready(Some(Wake::News(rung)));
            }
            let mut sleep = sleep.borrow_mut();
            if sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
                *sleep = None;
                return Poll::Ready(Some(Wake::Deadline));
            }
            Poll::Pending
        }));
    }
}

impl StreamHandler<Wake> for Driver {
    fn handle(&mut self, wake: Wake, _: &mut Self::Context) {
        match wake {
            Wake::News(rung) => self.on_news(rung),
            Wake::Deadline => self.on_deadline(),
        }
    }
}
