//! Running a reaction, and carrying out the commands given in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::error::AppError;
use super::super::hosts::HEAD;
use super::Driver;
use super::timers::Timer;
use super::tree::{Child, FlowEntry, FlowLife};
use crate::error::Error;
use crate::fence;
use crate::flow::{
    Action, AnyFlow, Ending, FlowContext, FlowError, FlowWaker, Scope, SharedRecord, enter, is_pending, leave,
};
use crate::id::{ActorPath, FlowId, WorkId};
#[cfg(feature = "journal")]
use crate::journal::{Reaction, ReactionEnd};
use crate::printable::chain;
use crate::state::Value;
use crate::trace::{Span, What};
use crate::work::{
    Abort, CloseReason, Command, Failure, FencingToken, HostError, Reason, Report, ReturnedError, RunOrder,
};

/// An order to the host of a Work or to its incarnation.
enum Order {
    /// Launch an incarnation, unless another decision has followed.
    Launch {
        decision: u64,
        token: FencingToken,
    },
    Send(Box<RunOrder>),
    Command(Command),
    /// Abort the incarnation, or else the one that was launched while this order waited.
    Kill(Option<Arc<Abort>>),
    Close(CloseReason),
}

/// The duration of a reaction beyond which it is logged.
const SLOW_REACTION: Duration = Duration::from_millis(100);

/// Lets the Flow react. Returns its error unless that is [`Pending`](crate::Pending).
fn reacted(flow: &mut dyn AnyFlow, cx: &mut FlowContext) -> Result<(), ReturnedError> {
    let result = flow.react(cx).map_err(ReturnedError::new);
    if result.as_ref().is_err_and(|error| is_pending(error)) { Ok(()) } else { result }
}

/// Returns the unusual end of a reaction with this result. `problem` is its first failure beside that.
#[cfg(feature = "journal")]
fn reaction_end(
    result: Option<&Result<Result<(), ReturnedError>, fence::Panic>>,
    problem: Option<String>,
    ending: Option<&Ending>,
) -> Option<ReactionEnd> {
    let failed = match result {
        None | Some(Ok(Ok(()))) => problem,
        Some(Ok(Err(error))) => Some(described(error)),
        Some(Err(panic)) => Some(panic.to_string()),
    };
    failed.map(ReactionEnd::Failed).or_else(|| match ending? {
        Ending::Stop(why) => Some(ReactionEnd::Stops(why.clone())),
        Ending::Fail(error) => Some(ReactionEnd::Failed(described(error))),
    })
}

fn described(error: &Error) -> String {
    fence::text(|| format!("{error:#}"))
}

impl Driver {
    pub(super) fn react(&mut self, id: FlowId) {
        if !self.reaches(id) {
            return;
        }
        let is_up = |entry: &&mut FlowEntry| entry.life == FlowLife::Up;
        if self.tree.flow_mut(id).filter(is_up).is_none() {
            return;
        }
        #[cfg(feature = "journal")]
        self.record_seen();
        let now = self.wake_ups.now();
        let Some(entry) = self.tree.flow_mut(id).filter(is_up) else { return };
        let Some(mut cx) = entry.cx.take() else { return };
        let (path, type_name) = (entry.link.path.clone(), entry.type_name);
        let span = Span::start(What::React, path.as_str(), &std::mem::take(&mut entry.causes));
        cx.begin(now, FlowWaker::new(self.wake_ups.ready_queue().clone(), id));
        #[cfg(feature = "journal")]
        self.journaling.add_reaction(|| Reaction::new(path.clone(), now.at, cx.reaction()));
        self.journaling.touch_flow(id);
        #[cfg(feature = "journal")]
        let schedules = self.before_first_reaction(id, &cx);
        enter(id, path.clone(), now);
        let began = Instant::now();
        let result = span.within(|| {
            self.with_evidence(&path, |driver| {
                driver.with_flow(id, |flow| fence::call(|| reacted(flow, &mut cx)))
            })
        });
        let took = began.elapsed();
        let scope = leave().expect("entered above");
        self.observers.change();
        self.reaction_times.entry(type_name).or_default().add(took);
        if took > SLOW_REACTION {
            log::warn!(
                "flow `{path}` took {took:?} to react; no Flow of the App reacts meanwhile, so move long computations \
                 into a Work"
            );
        }
        #[cfg(feature = "journal")]
        if let Some(schedules) = schedules {
            self.after_first_reaction(&path, &schedules, &cx, &scope);
        }
        let ending = cx.ending.take();
        if let Some(entry) = self.tree.flow_mut(id) {
            entry.wake_at = cx.wake_in.map(|delay| now.at.saturating_add(delay));
            entry.cx = Some(cx);
        }
        self.set_flow_timer(id);
        let problem = self.carry_out(id, scope);
        #[cfg(feature = "journal")]
        if let Some(end) = reaction_end(result.as_ref(), problem, ending.as_ref()) {
            self.journaling.end_reaction(end);
        }
        #[cfg(not(feature = "journal"))]
        drop(problem);
        let path = path.to_string();
        match result {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => {
                let message = described(&error);
                self.flow_failed(id, FlowError::React { path, message, error });
            }
            Some(Err(panic)) => {
                let message = panic.to_string();
                self.flow_failed(id, FlowError::Panicked { path, code: "react", message });
            }
        }
        match ending {
            None => {}
            Some(Ending::Stop(why)) => self.begin_shutdown(&why),
            Some(Ending::Fail(error)) => {
                let error = ReturnedError::new(error);
                let message = described(&error);
                self.fail(AppError::Failed(FlowError::Deliberate { message, error }));
            }
        }
    }

    /// Calls code of the Flow at this path, which leaves evidence if the process ends meanwhile.
    fn with_evidence<R>(&mut self, path: &ActorPath, call: impl FnOnce(&mut Self) -> R) -> R {
        #[cfg(feature = "journal")]
        if let Some(evidence) = self.journaling.evidence() {
            return evidence.during(|| format!("flow `{path}`"), || call(self));
        }
        #[cfg(not(feature = "journal"))]
        let _ = path;
        call(self)
    }

    /// Carries out the commands that a Flow gave while it reacted. Returns the first of its failures.
    fn carry_out(&mut self, flow: FlowId, scope: Scope) -> Option<String> {
        let mut first = None;
        let mut fail = |driver: &mut Self, error: FlowError| {
            first.get_or_insert_with(|| chain(&error));
            driver.flow_failed(flow, error);
        };
        let Scope { mut touched, lent, problems, tree_changed, early, .. } = scope;
        touched.dedup();
        touched.into_iter().for_each(|id| self.act(id));
        // Moving children is not reported: a parent may have moved them between Flows, or put back a child it had taken
        // out.
        let is_moved = lent.iter().any(|(child, _)| self.has_other_children(*child))
            || self.tree.has_strays() && self.has_other_children(flow);
        if tree_changed || is_moved {
            match self.walk_tree() {
                Ok(_) => {
                    let lost = early.iter().find(|(_, joined)| !joined.load(Ordering::Relaxed));
                    if let Some((type_name, _)) = lost {
                        fail(self, FlowError::Unattached { type_name });
                    }
                }
                Err(error) => fail(self, error),
            }
        }
        for (child, before) in lent {
            self.note_write(child, before);
        }
        for problem in problems {
            fail(self, problem);
        }
        first
    }

    /// Marks a child Flow for a reaction if its parent has changed its state.
    fn note_write(&mut self, child: FlowId, before: Option<Value>) {
        let Some(after) = self.with_flow(child, |flow| flow.state().ok()) else { return };
        if after != before {
            self.journaling.touch_flow(child);
            self.mark_up(child);
        }
    }

    /// Carries out the actions that the ledger of a Work requests. With a journal, those that can be observed outside of
    /// the driver wait until what they depend on is durable.
    pub(super) fn act(&mut self, id: WorkId) {
        self.journaling.touch_work(id);
        self.carry_on(id);
    }

    /// As [`act`](Self::act), for a ledger whose changes need no commit of their own.
    fn carry_on(&mut self, id: WorkId) {
        let Some(shared) = self.tree.work(id).cloned() else { return };
        self.observers.change();
        let mut record = shared.lock();
        loop {
            let actions = record.ledger.take_actions();
            if actions.is_empty() {
                break;
            }
            let mut orders = Vec::new();
            for action in actions {
                let (owner, path) = (record.owner, record.path.clone());
                match action {
                    Action::Launch => {
                        let token = self.incarnations.next();
                        record.ledger.launched_as(token.number());
                        orders.push(Order::Launch { decision: record.decide(), token });
                    }
                    Action::Kill => {
                        record.decide();
                        orders.push(Order::Kill(record.abandon()));
                    }
                    Action::Send(run) => orders.push(Order::Send(run)),
                    Action::Cancel { run } => orders.push(Order::Command(Command::Cancel { run })),
                    Action::Stop => orders.push(Order::Command(Command::Stop)),
                    Action::Close(why) => orders.push(Order::Close(why)),
                    Action::Captured(Failure { reason, message, .. }) => log::warn!(
                        "work `{path}` failed, captured by flow `{}`: {reason}: {message}",
                        record.owner_path
                    ),
                    Action::Restarting(Failure { reason, message, .. }) => {
                        log::warn!("work `{path}` failed and is restarted: {reason}: {message}");
                        drop(record);
                        self.issue(id, &shared, std::mem::take(&mut orders));
                        self.child_restarts(owner, Child::Work(id), path.as_str());
                        record = shared.lock();
                    }
                    Action::Raise(Failure { reason, message, error }) => {
                        let path = path.to_string();
                        drop(record);
                        self.issue(id, &shared, std::mem::take(&mut orders));
                        self.flow_failed(owner, FlowError::Work { path, reason, message, error });
                        record = shared.lock();
                    }
                }
            }
            drop(record);
            self.issue(id, &shared, orders);
            record = shared.lock();
        }
        self.wake_ups.set(Timer::Work(id), record.ledger.next_deadline());
        let down = record.ledger.is_down();
        let (path, mailbox) = (record.path.clone(), record.mailbox.clone());
        drop(record);
        if down {
            self.hosts.forget(id);
        }
        if down && self.tree.has_left(id) {
            self.tree.remove(id);
            self.wake_ups.set(Timer::Work(id), None);
            self.tree.forget_address(&path, &mailbox);
        }
    }

    /// Gives orders to the host and to the incarnation of a Work, once all that they depend on is durable.
    fn issue(&mut self, id: WorkId, shared: &SharedRecord, orders: Vec<Order>) {
        if orders.is_empty() {
            return;
        }
        if !self.journaling.is_on() {
            self.give(id, shared, orders);
            return;
        }
        let shared = shared.clone();
        self.when_durable(move |driver| {
            if driver.give(id, &shared, orders) {
                driver.journaling.touch_work(id);
            } else {
                driver.journaling.touch_unhurried(id);
            }
            driver.carry_on(id);
        });
    }

    /// Gives orders now. Returns true if what has become of them is to be recorded at once: the host has refused one, or an
    /// incarnation is on a node, which a later head must know to find it there instead of starting another one.
    fn give(&mut self, id: WorkId, shared: &SharedRecord, orders: Vec<Order>) -> bool {
        let mut record = shared.lock();
        let (mut launched, mut is_on_a_node) = (true, false);
        for order in orders {
            match order {
                // Replaced by a later decision while it waited.
                Order::Launch { decision, .. } if !record.is_last_decision(decision) => {
                    launched = false;
                    self.hosts.forget(id);
                }
                Order::Launch { token, .. } => {
                    let ready_queue = self.wake_ups.ready_queue();
                    let what = record.incarnation(ready_queue, token);
                    let now = self.wake_ups.now();
                    let (needs, runs_for) = (record.needs, record.runs_for);
                    let result = self.hosts.launch(&record.placement, needs, runs_for, what, ready_queue);
                    launched = result.is_ok();
                    match result {
                        Ok(()) => {
                            let node = self.hosts.node_of(&record.path);
                            is_on_a_node = &*node != HEAD;
                            record.ledger.placed_on(Some(node));
                        }
                        Err(HostError::Unplaced { why, .. }) => {
                            record.kill();
                            record.ledger.unplaced(&why, now);
                            if !record.ledger.is_unplaced() {
                                // It was asked to stop while the launch waited.
                                self.hosts.forget(id);
                                record.ledger.report(Report::Stopped { failure: None }, now);
                            }
                        }
                        Err(error) => {
                            let reason = match error {
                                HostError::NoProcess { .. } => Reason::ProcessDied,
                                _ => Reason::UserError,
                            };
                            let failure = Failure::new(reason, error.to_string());
                            record.ledger.report(Report::Died { failure }, now);
                        }
                    }
                }
                // The launch has failed, and the ledger has already taken the run back.
                Order::Send(_) if !launched => {}
                Order::Send(order) => {
                    let run = order.run;
                    if record.mailbox.run(order) {
                        record.ledger.report(Report::RunStarted { run }, self.wake_ups.now());
                        self.mark_up(record.owner);
                    }
                }
                Order::Command(command) => record.mailbox.command(command),
                Order::Kill(Some(abort)) => {
                    abort.raise();
                    record.mailbox.given_up(None);
                }
                // What was launched meanwhile.
                Order::Kill(None) => record.kill(),
                Order::Close(why) => {
                    record.mailbox.close(why);
                    if record.owns_path {
                        self.hosts.closed(&record.path, why);
                    }
                }
            }
        }
        !launched || is_on_a_node
    }

    /// Walks the tree: new children join and start, removed ones stop. Returns the paths of the fields that can hold
    /// children.
    pub(super) fn walk_tree(&mut self) -> Result<Vec<String>, FlowError> {
        let now = self.wake_ups.now();
        let changes = self.root.walk(&mut self.tree, &self.config, now.wall);
        for id in changes.left {
            if let Some(record) = self.tree.work(id).cloned() {
                #[cfg(feature = "journal")]
                if self.journaling.is_on() {
                    let path = record.lock().path.clone();
                    self.record_left(&path);
                    self.journaling.forget_work(id);
                }
                record.lock().ledger.shut_down(now);
                self.act(id);
                // A Work that joins at the same path is launched after this and has a location of its own.
                record.lock().owns_path = false;
            }
        }
        for id in changes.flows_left {
            if let Some(entry) = self.tree.remove_flow(id) {
                self.due.remove(id, entry.depth);
                self.journaling.forget_flow(id);
                #[cfg(feature = "journal")]
                self.record_left(&entry.link.path);
            }
            self.wake_ups.set(Timer::Flow(id), None);
        }
        if let Some(error) = changes.errors.into_iter().next() {
            return Err(error);
        }
        changes.joined.iter().for_each(|id| self.journaling.touch_work(*id));
        changes.flows_joined.iter().for_each(|id| self.journaling.touch_flow(*id));
        if self.lifecycle.is_running() {
            let mut owners = HashSet::new();
            for id in changes.joined {
                self.start(id, now);
                owners.extend(self.tree.work(id).map(|record| record.lock().owner));
            }
            owners.into_iter().for_each(|flow| self.mark_up(flow));
            changes.flows_joined.into_iter().for_each(|flow| self.mark_up(flow));
        }
        Ok(changes.fields)
    }
}
