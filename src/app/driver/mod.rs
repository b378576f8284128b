//! The actor that runs the Flows of an App.
//!
//! A cycle takes the updates of the ready Works, lets the Flows above them react, carries out the commands given in the
//! reactions, and publishes the new state to observers.
//!
//! # Guarantees
//! - All Flows of an App react on one thread, the deepest first, each never concurrently with itself.
//! - The driver sleeps until a Work has an update, a deadline expires or a call arrives; it never polls.
//! - The rest of the App reads and changes nothing here but by the methods of [`Driver`].

mod actions;
#[cfg(feature = "remote")]
mod adoption;
#[cfg(feature = "journal")]
mod durable_guards;
mod failures;
#[cfg(feature = "journal")]
mod first_reactions;
#[cfg(feature = "journal")]
mod journaling;
#[cfg(not(feature = "journal"))]
#[path = "journaling_off.rs"]
mod journaling;
mod lifecycle;
#[cfg(feature = "remote")]
mod listen;
#[cfg(feature = "journal")]
mod mismatch;
mod observers;
mod payloads;
mod queries;
mod react;
mod reaction_queue;
#[cfg(feature = "journal")]
mod recorded_app;
#[cfg(feature = "journal")]
mod recording;
#[cfg(feature = "journal")]
mod recovery;
#[cfg(feature = "journal")]
mod renaming;
#[cfg(all(feature = "cli", feature = "journal"))]
mod repetition;
#[cfg(test)]
mod restore_tests;
#[cfg(feature = "journal")]
mod restored_values;
mod root_flow;
#[cfg(feature = "journal")]
mod safe_mode;
mod shutdown;
mod timers;
mod tree;
mod wake_ups;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, AsyncContext, Context, Handler, Message, StreamHandler};
use tokio::sync::{oneshot, watch};

pub(crate) use self::actions::{Action, NotDone};
use self::journaling::Journaling;
use self::lifecycle::Lifecycle;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(super) use self::mismatch::{Adapted, Renewed, adapt};
use self::observers::Observers;
pub(super) use self::payloads::{Referring, What, references};
use self::reaction_queue::ReactionQueue;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(super) use self::recorded_app::Recovery;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(super) use self::recording::LifeRow;
#[cfg(all(feature = "journal", any(feature = "cli", feature = "http")))]
pub(super) use self::recording::{APP, AppRow, CHILDREN, ChildrenRow, FACTS, FlowRow, SETTINGS};
#[cfg(feature = "journal")]
pub(super) use self::recovery::OpenedJournal;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(super) use self::recovery::{UnreadInputs, moved, moved_inputs, read_inputs};
#[cfg(feature = "journal")]
pub(super) use self::renaming::Move;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(super) use self::renaming::forget_children;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(crate) use self::repetition::Missing;
#[cfg(all(feature = "cli", feature = "journal"))]
pub(super) use self::repetition::{Cycle, Outcome, Repeated, Repeater};
use self::root_flow::{RootFlow, Whereabouts};
use self::timers::Timer;
use self::tree::{FlowLife, Tree};
use self::wake_ups::{Wake, WakeUps};
use super::clock::Clock;
use super::config::Config;
use super::error::AppError;
use super::histogram::Histogram;
use super::hosts::Hosts;
use super::resources::known_gpus;
use super::snapshot::Snapshot;
use super::status::{AppStage, Exit, SafeMode};
use super::watchdog::Watchdog;
use crate::flow::{AnyFlow, Changed, FlowContext, Ledger, Moment};
use crate::id::{ActorPath, FlowId, WorkId};
use crate::runtime::Runtime;
use crate::work::{Command, Directory, Failure, HostEvent, Incarnations, Outbox, Reason, Report};

/// A callback for the failure that stops the App, called when the failure happens.
pub(crate) type OnFailure = Box<dyn FnOnce(&AppError) + Send>;

/// The number of reactions after which the driver yields to calls and signals: two Flows that undo each other's changes
/// must not block the App forever.
const REACTIONS_AT_ONCE: usize = 256;

/// The actor that runs the Flows of an App. Each field has a responsibility of its own; the driver makes them work
/// together.
pub(crate) struct Driver {
    /// Dropped first: values that are freed with the rest stay recorded.
    journaling: Journaling,
    runtime: Arc<Runtime>,
    /// The Flows as the user wrote them.
    root: RootFlow,
    /// The records of the Works and Flows.
    tree: Tree,
    config: Config,
    hosts: Hosts,
    wake_ups: WakeUps,
    /// The Flows that have a reason to react.
    due: ReactionQueue,
    /// Works whose new states their `WorkRef`s do not show yet.
    stale: Vec<WorkId>,
    lifecycle: Lifecycle,
    /// The durations of reactions, by type of Flow.
    reaction_times: BTreeMap<&'static str, Histogram>,
    observers: Observers<Snapshot>,
    /// Numbers of incarnations, shared with the hosts.
    incarnations: Arc<Incarnations>,
    /// Incarnations that were taken over from nodes.
    #[cfg(feature = "remote")]
    adoptions: adoption::Adoptions,
    /// Set while the App restores everything and lets nothing go on.
    safe_mode: Option<SafeMode>,
    /// The outcome of the App, which has ended, until all is durable.
    outcome: Option<(Exit, oneshot::Sender<Exit>)>,
    /// Recovered Works and Flows that have not gone on yet.
    #[cfg(feature = "journal")]
    resumed: recovery::Resumed,
}

/// The start of an App, in addition to its root and configuration.
pub(super) struct Start {
    pub(super) runtime: Arc<Runtime>,
    pub(super) watchdog: Watchdog,
    pub(super) clock: Clock,
    /// Called with the failure that stops the App.
    pub(super) on_failure: Option<OnFailure>,
    /// Receives the outcome of the App.
    pub(super) exit: oneshot::Sender<Exit>,
    #[cfg(feature = "journal")]
    pub(super) journal: Option<OpenedJournal>,
}

impl Driver {
    /// Attaches the whole tree without starting any Work.
    ///
    /// # Errors
    /// When the tree is invalid, or a configured placement names an unknown path.
    pub(super) fn new(
        root: Box<dyn AnyFlow>,
        config: Config,
        mut hosts: Hosts,
        start: Start,
    ) -> Result<Self, AppError> {
        let Start { runtime, watchdog, clock, on_failure, exit, .. } = start;
        #[cfg(feature = "journal")]
        let journal = start.journal;
        let wake_ups = WakeUps::new(clock);
        if let Some(count) = known_gpus(config.gpus) {
            hosts.assign_gpus(count, wake_ups.ready_queue());
        }
        let mut driver = Self {
            journaling: Journaling::default(),
            root: RootFlow::new(root, watchdog.clone()),
            tree: Tree::new(runtime.app(), Directory::of(&runtime)),
            incarnations: runtime.part().unwrap_or_default(),
            runtime,
            config,
            hosts,
            wake_ups,
            due: ReactionQueue::default(),
            stale: Vec::new(),
            lifecycle: Lifecycle::new(on_failure, exit, watchdog),
            reaction_times: BTreeMap::new(),
            observers: Observers::new(),
            #[cfg(feature = "remote")]
            adoptions: adoption::Adoptions::default(),
            safe_mode: None,
            outcome: None,
            #[cfg(feature = "journal")]
            resumed: recovery::Resumed::default(),
        };
        #[cfg(feature = "journal")]
        let recovery = match journal {
            Some(opened) => Some(driver.open_journal(opened)?),
            None => None,
        };
        let fields = driver.walk_tree().map_err(AppError::Failed)?;
        driver.check_places(&fields)?;
        #[cfg(feature = "journal")]
        if let Some(recovery) = recovery {
            driver.restore_facts(recovery);
        }
        Ok(driver)
    }

    /// Checks that every configured placement is for a Work in the tree, or for a child that may join a list or map
    /// later.
    fn check_places(&self, fields: &[String]) -> Result<(), AppError> {
        let works = self.tree.works().map(|record| record.lock().path.to_string());
        let flows = self.tree.flows().map(|(_, entry)| entry.link.path.to_string());
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
        self.observers.changes()
    }

    pub(super) fn alive(&self) -> watch::Receiver<()> {
        self.observers.alive()
    }

    /// Sends a snapshot to `onlooker` once the version differs from `version`, at once if it does already.
    pub(super) fn show_after(&mut self, version: u64, onlooker: oneshot::Sender<Snapshot>) {
        if let Some(onlooker) = self.observers.wait(version, onlooker) {
            self.show(onlooker);
        }
    }

    /// Sends an observer the snapshot of this moment, once all that it shows is durable.
    fn show(&mut self, onlooker: oneshot::Sender<Snapshot>) {
        let snapshot = self.snapshot();
        self.when_durable(move |_| {
            // The observer may have stopped waiting just now.
            let _ = onlooker.send(snapshot);
        });
    }

    /// Starts all Works and lets every Flow react, unless the App is in safe mode.
    pub(super) fn begin(&mut self) {
        #[cfg(feature = "journal")]
        if self.safe_mode.is_some() {
            return self.stay_safe();
        }
        if self.lifecycle.begin() {
            self.go_on();
        }
    }

    /// Starts all Works and lets every Flow react, because the App runs now.
    fn go_on(&mut self) {
        #[cfg(feature = "journal")]
        self.seek_progress();
        let now = self.wake_ups.now();
        for id in self.tree.order().to_vec() {
            #[cfg(feature = "journal")]
            if self.resumed.has(id) {
                continue;
            }
            self.start(id, now);
        }
        #[cfg(feature = "journal")]
        self.resume();
        let flows: Vec<_> = self.tree.flows().map(|(id, _)| id).collect();
        flows.into_iter().for_each(|flow| self.mark(flow));
        self.settle();
        #[cfg(feature = "journal")]
        {
            self.journaling.count_news();
            self.resumed.first.changed();
        }
    }

    /// Returns the stage of the App.
    fn stage(&self) -> AppStage {
        match self.lifecycle.stage() {
            AppStage::Starting if self.safe_mode.is_some() => AppStage::SafeMode,
            stage => stage,
        }
    }

    fn start(&mut self, id: WorkId, now: Moment) {
        self.with_work(id, |ledger| ledger.start(now));
    }

    // ---- cycle ----

    fn on_updates(&mut self, rung: Vec<WorkId>) {
        #[cfg(feature = "journal")]
        self.check_journal();
        if self.stage() == AppStage::SafeMode {
            // What nodes say is heard once the App goes on.
            self.observers.change();
            return self.settle();
        }
        let now = self.wake_ups.now();
        for id in self.journaling.admit(rung) {
            let Some(record) = self.tree.work(id).cloned() else { continue };
            let (update, owner, became_stale, cause, replaced, barrier, acknowledge) = {
                let mut record = record.lock();
                let was_stale = record.stale;
                let update = record.take_update(now);
                let cause = std::mem::take(&mut record.cause);
                let (replaced, barrier) = (record.replaced_holds.take(), record.take_barrier());
                let acknowledge = record.acknowledge.take();
                (update, record.owner, record.stale && !was_stale, cause, replaced, barrier, acknowledge)
            };
            if became_stale {
                self.stale.push(id);
            }
            match &update {
                Ok(Changed::Nothing) => continue,
                Ok(Changed::Steps | Changed::Seen) => {}
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
            // After the changes are noted, on which both depend.
            if let Some(holds) = replaced {
                // A process that is restored refers to them, until the newer state is durable.
                self.when_durable(move |_| drop(holds));
            }
            if let Some((barrier, outbox)) = barrier {
                self.when_durable(move |driver| driver.confirm(id, &outbox, barrier));
            }
            // Behind the answer to the barrier, which a node that has this acknowledgement requests no more.
            if let Some(acknowledge) = acknowledge {
                self.when_durable(move |_| acknowledge());
            }
            if !matches!(update, Ok(Changed::Steps)) {
                self.mark_up(owner);
                self.tree.note_cause(owner, &cause);
            }
        }
        for flow in self.wake_ups.ready_queue().take_flows() {
            self.mark_up(flow);
        }
        self.on_host_events(now);
        self.settle();
    }

    /// Tells the incarnation with this outbox, if it still lives, that everything before a barrier is durable.
    fn confirm(&mut self, id: WorkId, outbox: &Arc<Outbox>, barrier: u64) {
        let Some(record) = self.tree.work(id) else { return };
        let record = record.lock();
        if record.speaks_through(outbox) {
            record.mailbox.command(Command::Durable { barrier });
        }
    }

    /// Takes the updates that a Work of this process has published before this call.
    pub(in crate::app) fn take_updates(&mut self, ids: Vec<WorkId>) {
        if self.journaling.is_on() {
            self.on_updates(ids);
        }
    }

    /// Returns the Works below the Flow of a service.
    pub(in crate::app) fn works_of_service(&self, path: &ActorPath) -> Vec<WorkId> {
        let flow = self.tree.flows().find(|(_, entry)| entry.link.path == *path);
        flow.map(|(id, _)| self.tree.works_below(id)).unwrap_or_default()
    }

    fn on_host_events(&mut self, now: Moment) {
        let mut room = false;
        for event in self.hosts.events() {
            self.observers.change();
            match event {
                HostEvent::Room => room = true,
                // The observers were told above.
                HostEvent::NodesChanged => {}
                HostEvent::NodeLost { outbox, why } => {
                    self.of_node(&outbox, |ledger| ledger.node_lost(&why, now));
                }
                HostEvent::NodeLeaves { outbox } => self.of_node(&outbox, |ledger| ledger.move_away(now)),
                #[cfg(feature = "remote")]
                HostEvent::Kept(claim) => self.claimed(*claim),
                #[cfg(feature = "remote")]
                HostEvent::AllKept { process, node, work } => self.all_claimed(process, &node, work),
                #[cfg(feature = "remote")]
                HostEvent::NotKept { path } => self.not_kept(&path),
            }
        }
        if room {
            self.hosts.room();
        }
    }

    /// Launches Works that wait for a place, as far as there may be one now.
    fn place_waiting(&mut self) {
        let now = self.wake_ups.now();
        while let Some(id) = self.hosts.next_to_place() {
            if self.tree.work(id).is_some_and(|record| record.lock().ledger.is_unplaced()) {
                self.update_work(id, |ledger| ledger.place(now));
            } else {
                self.hosts.forget(id);
            }
        }
        for (works, why) in self.hosts.take_reasons() {
            for id in works {
                self.update_work(id, |ledger| ledger.still_waits(&why, now));
            }
        }
    }

    /// Calls the ledger of the Work whose current incarnation has this outbox.
    fn of_node(&mut self, outbox: &Arc<Outbox>, call: impl FnOnce(&mut Ledger)) {
        let id = outbox.id();
        if self.tree.work(id).is_some_and(|record| record.lock().speaks_through(outbox)) {
            self.update_work(id, call);
        }
    }

    fn on_deadline(&mut self) {
        let now = self.wake_ups.now();
        while let Some(timer) = self.wake_ups.due(now) {
            match timer {
                Timer::Work(id) => {
                    self.update_work(id, |ledger| ledger.on_time(now));
                }
                Timer::Flow(id) => self.flow_deadline(id, now),
                Timer::ShutDown => self.shutdown_deadline(),
                #[cfg(feature = "journal")]
                Timer::Progress => self.progressed(),
            }
        }
        self.settle();
    }

    /// Reevaluates all schedules after the wall clock was set.
    fn on_clock_set(&mut self) {
        let now = self.wake_ups.now();
        let with_schedules =
            self.tree.flows().filter(|(_, flow)| flow.cx.as_ref().is_some_and(|cx| !cx.schedules.is_empty()));
        let with_schedules: Vec<_> = with_schedules.map(|(id, _)| id).collect();
        with_schedules.into_iter().for_each(|id| self.flow_deadline(id, now));
        self.settle();
    }

    fn flow_deadline(&mut self, id: FlowId, now: Moment) {
        let Some(entry) = self.tree.flow_mut(id) else { return };
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
    fn settle(&mut self) {
        #[cfg(feature = "journal")]
        self.release_durable();
        self.place_waiting();
        self.refresh_views();
        for _ in 0..REACTIONS_AT_ONCE {
            if !self.lifecycle.is_running() {
                break;
            }
            let Some(flow) = self.due.pop() else { break };
            self.react(flow);
        }
        // A Work that was stopped may have been the one that the others of its kind waited for.
        self.place_waiting();
        if self.lifecycle.is_running() && !self.due.is_empty() {
            self.wake_ups.ready_queue().ring_again();
        }
        self.advance_shutdown();
        #[cfg(feature = "journal")]
        self.commit();
        self.hosts.flush();
        self.hosts.post_changes();
        if let Some(onlooker) = self.observers.publish() {
            self.show(onlooker);
        }
        self.wake_ups.arm();
    }

    // ---- helpers ----

    /// Carries out an effect on anything outside of the driver once all changes before it are durable; at once without
    /// a journal.
    pub(super) fn when_durable(&mut self, effect: impl FnOnce(&mut Self) + 'static) {
        if let Some(effect) = self.journaling.defer(effect) {
            effect(self);
        }
    }

    /// Calls the ledger of a Work and carries out the actions that it requests. Returns `None` if the Work is not part
    /// of the tree.
    fn with_work<R>(&mut self, id: WorkId, call: impl FnOnce(&mut Ledger) -> R) -> Option<R> {
        let result = call(&mut self.tree.work(id)?.lock().ledger);
        self.act(id);
        Some(result)
    }

    /// As [`with_work`](Self::with_work), and marks the Flows above the Work for a reaction.
    fn update_work<R>(&mut self, id: WorkId, call: impl FnOnce(&mut Ledger) -> R) -> Option<R> {
        let owner = self.tree.work(id)?.lock().owner;
        let result = self.with_work(id, call);
        self.mark_up(owner);
        result
    }

    fn mark(&mut self, flow: FlowId) {
        if let Some(entry) = self.tree.flow(flow) {
            self.due.insert(flow, entry.depth);
        }
    }

    /// Marks a Flow and all Flows above it for a reaction.
    fn mark_up(&mut self, flow: FlowId) {
        self.observers.change();
        for (flow, entry) in self.tree.upwards(flow) {
            self.due.insert(flow, entry.depth);
        }
    }

    /// Returns the last known position of a Flow that is part of the tree.
    fn whereabouts(&self, id: FlowId) -> Option<Whereabouts> {
        let path = self.tree.flow(id)?.link.path.clone();
        Some(Whereabouts { id, path, lineage: self.tree.lineage(id) })
    }

    /// Calls a Flow, as [`RootFlow::call`] does.
    fn with_flow<R>(&mut self, id: FlowId, call: impl FnOnce(&mut dyn AnyFlow) -> R) -> Option<R> {
        let whereabouts = self.whereabouts(id)?;
        self.root.call(&whereabouts, call)
    }

    /// Returns true when a Flow can be called. If it is not at its last known position, the tree is walked again.
    fn reaches(&mut self, id: FlowId) -> bool {
        if self.with_flow(id, |_| ()).is_some() {
            return true;
        }
        if self.tree.flow(id).is_none() {
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
    fn has_other_children(&mut self, id: FlowId) -> bool {
        let whereabouts = self.whereabouts(id);
        let found = whereabouts.and_then(|whereabouts| self.root.children_from(&whereabouts));
        let known = |flow: FlowId| self.tree.flow(flow).map(|entry| &entry.children);
        found.is_none_or(|found| found.iter().any(|(flow, children)| known(*flow) != Some(children)))
    }

    /// Refreshes the `WorkRef`s of Works with new states.
    fn refresh_views(&mut self) {
        let tree = &self.tree;
        let paths = std::mem::take(&mut self.stale).into_iter().filter_map(|id| {
            let mut record = tree.work(id)?.lock();
            record.stale = false;
            Some(record.path.clone())
        });
        self.root.refresh(paths);
    }

    fn set_flow_timer(&mut self, id: FlowId) {
        if !self.lifecycle.is_running() {
            // No Flow reacts or is restarted: a deadline that has passed would stay due for ever.
            return self.wake_ups.set(Timer::Flow(id), None);
        }
        let now = self.wake_ups.now();
        let Some(entry) = self.tree.flow(id) else { return };
        let scheduled = entry.cx.as_ref().and_then(|cx: &FlowContext| cx.schedules.next_wake());
        let restart = match entry.life {
            FlowLife::Waiting { until } => Some(until),
            FlowLife::Up | FlowLife::Failed => None,
        };
        let scheduled = scheduled.map(|time| self.wake_ups.deadline_of(time, now));
        let deadlines = [entry.wake_at, scheduled, restart];
        self.wake_ups.set(Timer::Flow(id), deadlines.into_iter().flatten().min());
    }
}

impl Actor for Driver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(self.wake_ups.events());
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

/// A closure to run on the App's thread, between reactions.
pub(super) struct Call<R>(Box<dyn FnOnce(&mut Driver) -> R + Send>);

impl<R> Call<R> {
    pub(super) fn new(what: impl FnOnce(&mut Driver) -> R + Send + 'static) -> Self {
        Self(Box::new(what))
    }
}

/// The reason why a call has no answer: the disk of the journal is full, so that what the answer would show is not
/// durable. Carries what the journal says.
pub(super) struct Withheld(pub(super) Arc<str>);

impl<R: Send + 'static> Message for Call<R> {
    type Result = Result<R, Withheld>;
}

impl<R: Send + 'static> Handler<Call<R>> for Driver {
    type Result = Answer<R>;

    fn handle(&mut self, Call(what): Call<R>, _: &mut Self::Context) -> Self::Result {
        let answer = what(self);
        if self.journaling.is_durable() {
            return Answer::Now(answer);
        }
        let (sender, later) = oneshot::channel();
        self.when_durable(move |_| {
            // The caller may have stopped waiting.
            let _ = sender.send(answer);
        });
        // The next cycle commits what the answer waits for.
        self.wake_ups.ready_queue().ring_again();
        Answer::Later(later, self.journaling.full())
    }
}

/// The answer to a call, which is sent once all that it tells of is durable.
pub(super) enum Answer<R> {
    Now(R),
    /// The second receiver has a value while the disk of the journal is full.
    Later(oneshot::Receiver<R>, watch::Receiver<Option<Arc<str>>>),
}

impl<R: Send + 'static> MessageResponse<Driver, Call<R>> for Answer<R> {
    fn handle(self, _: &mut Context<Driver>, to: Option<OneshotSender<Result<R, Withheld>>>) {
        // Without a sender, the caller does not wait for an answer.
        let Some(to) = to else { return };
        match self {
            Self::Now(answer) => drop(to.send(Ok(answer))),
            Self::Later(answer, mut full) => drop(actix_rt::spawn(async move {
                tokio::select! {
                    biased;
                    Ok(answer) = answer => drop(to.send(Ok(answer))),
                    Ok(why) = full.wait_for(Option::is_some) => {
                        let why = why.clone().unwrap_or_default();
                        drop(to.send(Err(Withheld(why))));
                    }
                    else => {}
                }
            })),
        }
    }
}
