//! Failure and the end.
//!
//! A failure goes up the tree of Flows until somebody captures it or it is the App's. The App's end stops its
//! Works in reverse order of their start; one that takes long holds up the next for a moment only, and all of
//! them together have the grace period.

use std::sync::PoisonError;
use std::time::Duration;

use super::control::{AppStage, Exit};
use super::driver::Driver;
use super::error::AppError;
use super::timers::Timer;
use super::tree::{Child, FlowLife};
use crate::flow::{Decision, FlowError, lock};
use crate::id::{FlowId, WorkId};
use crate::work::{Reason, Stage, Status};

/// How long a Work that is slow to stop holds up the one that was started before it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The App's end under way.
pub(super) struct Shutdown {
    result: Option<Result<(), AppError>>,
    /// Those that were not asked to stop yet, the last one first in line.
    left: Vec<WorkId>,
    asked: Option<WorkId>,
    next_at: Duration,
    end_at: Duration,
}

impl Driver {
    // ---- failures ----

    /// A Flow has failed: by itself, or because of a child.
    pub(super) fn flow_failed(&mut self, id: FlowId, error: FlowError) {
        if self.stage == AppStage::Stopping || self.stage == AppStage::Ended {
            log::error!("while the App ends: {error}");
            return;
        }
        let now = self.clock.now();
        let Some(entry) = self.tree.flows.get_mut(&id) else {
            return self.fail(AppError::Failed(error));
        };
        if entry.life == FlowLife::Failed {
            return;
        }
        if let Some(wait) = entry.restarts.next(&entry.options.restart, now.at) {
            log::warn!("{error}; flow `{}` is restarted in {wait:?}", entry.link.path);
            entry.life = FlowLife::Waiting { until: now.at + wait };
            let (parent, path) = (entry.parent, entry.link.path.to_string());
            self.stop_below(id);
            self.set_flow_timer(id);
            if let Some(parent) = parent {
                self.child_restarts(parent, Child::Flow(id), &path);
            }
            return;
        }
        let Some(parent) = entry.parent else {
            return self.fail(AppError::Failed(error));
        };
        entry.life = FlowLife::Failed;
        let path = entry.link.path.to_string();
        let captured = entry.options.on_error == crate::flow::OnError::Capture;
        {
            let mut status = entry.link.status.lock().unwrap_or_else(PoisonError::into_inner);
            *status = Status {
                stage: Stage::Failed,
                reason: Some(Reason::UserError),
                message: Some(error.to_string()),
                time: now.wall,
                attempt: status.attempt,
                seq: status.seq + 1,
            };
        }
        self.stop_below(id);
        if captured {
            log::warn!(
                "{error}; the failure of flow `{path}` is left to flow `{}`",
                self.tree.flow_path(parent)
            );
            self.mark_up(parent);
        } else {
            self.flow_failed(parent, FlowError::Flow { path, source: Box::new(error) });
        }
    }

    fn stop_below(&mut self, flow: FlowId) {
        let now = self.clock.now();
        for id in self.tree.works_below(flow).into_iter().rev() {
            if let Some(record) = self.tree.works.get(&id) {
                lock(record).ledger.stop(now);
                self.act(id);
            }
        }
    }

    /// The wait of a failed Flow is over.
    pub(super) fn flow_restarted(&mut self, id: FlowId) {
        let now = self.clock.now();
        for work in self.tree.works_below(id) {
            if let Some(record) = self.tree.works.get(&work) {
                let mut record = lock(record);
                record.ledger.forgive();
                record.ledger.start(now);
                drop(record);
                self.act(work);
            }
        }
        // Those below may have failed on the way to this one, or wait for a restart of their own.
        for flow in self.tree.flows_from(id) {
            let Some(entry) = self.tree.flows.get_mut(&flow) else { continue };
            if entry.life != FlowLife::Up {
                entry.life = FlowLife::Up;
                let mut status = entry.link.status.lock().unwrap_or_else(PoisonError::into_inner);
                let (attempt, seq) = (status.attempt, status.seq + 1);
                *status = Status { stage: Stage::Running, time: now.wall, attempt, seq, ..Status::default() };
            }
            self.set_flow_timer(flow);
            self.mark_up(flow);
        }
    }

    /// A child is being restarted; the strategy of its Flow decides about the others.
    pub(super) fn child_restarts(&mut self, flow: FlowId, child: Child, path: &str) {
        let now = self.clock.now();
        let strategy = self.with_flow(flow, |flow| flow.strategy()).unwrap_or_default();
        let Some(entry) = self.tree.flows.get_mut(&flow) else { return };
        let children = entry.children.clone();
        let Some(place) = children.iter().position(|other| *other == child) else { return };
        match entry.supervisor.on_restart(strategy, place, children.len(), now.at) {
            Decision::Escalate { max, within } => {
                let error = FlowError::TooManyRestarts {
                    path: self.tree.flow_path(flow),
                    max,
                    within,
                    last: path.to_owned(),
                };
                self.flow_failed(flow, error);
            }
            Decision::Restart(range) => {
                let others = range.filter(|other| *other != place).map(|other| children[other]);
                for other in others.collect::<Vec<_>>() {
                    let works = match other {
                        Child::Work(work) => vec![work],
                        Child::Flow(flow) => self.tree.works_below(flow),
                    };
                    for work in works {
                        let Some(record) = self.tree.works.get(&work) else { continue };
                        let mut record = lock(record);
                        if record.ledger.is_up() {
                            record.ledger.restart(now);
                        }
                        drop(record);
                        self.act(work);
                    }
                }
            }
        }
    }

    // ---- the end ----

    /// Ends the App in good order.
    pub(super) fn stop(&mut self, why: &str) {
        if self.shutdown.is_none() {
            log::info!("the App ends: {why}");
            self.end_with(Ok(()));
        }
    }

    /// Ends the App as failed.
    pub(super) fn fail(&mut self, error: AppError) {
        match &self.shutdown {
            Some(_) => log::error!("while the App ends: {error}"),
            None => {
                if let Some(told) = self.on_failure.take() {
                    told(&error);
                }
                self.end_with(Err(error));
            }
        }
    }

    fn end_with(&mut self, result: Result<(), AppError>) {
        self.stage = AppStage::Stopping;
        let now = self.clock.now().at;
        let end_at = now + self.config.grace();
        let mut left: Vec<_> = self.tree.works.keys().copied().collect();
        left.sort_unstable();
        self.shutdown = Some(Shutdown { result: Some(result), left, asked: None, next_at: now, end_at });
    }

    /// Asks the next Works to stop, when it is their turn; ends the App when none is left.
    pub(super) fn advance_shutdown(&mut self) {
        let now = self.clock.now();
        loop {
            let works = &self.tree.works;
            let Some(shutdown) = &mut self.shutdown else { return };
            let waits = shutdown
                .asked
                .and_then(|id| works.get(&id))
                .is_some_and(|record| !lock(record).ledger.is_down());
            if waits && now.at < shutdown.next_at {
                break;
            }
            let Some(id) = shutdown.left.pop() else { break };
            shutdown.asked = Some(id);
            shutdown.next_at = now.at + PATIENCE;
            if let Some(record) = works.get(&id) {
                lock(record).ledger.shut_down(now);
                self.act(id);
            }
        }
        let all_down = self.tree.works.values().all(|record| lock(record).ledger.is_down());
        let Some(shutdown) = &mut self.shutdown else { return };
        if shutdown.left.is_empty() && all_down || now.at >= shutdown.end_at {
            if let Some(result) = shutdown.result.take() {
                self.end(result);
            }
            return;
        }
        let next =
            if shutdown.left.is_empty() { shutdown.end_at } else { shutdown.next_at.min(shutdown.end_at) };
        self.timers.set(Timer::ShutDown, Some(next));
    }

    /// Nothing to do but to go on; the cycle does it.
    pub(super) fn shutdown_deadline(&mut self) {
        let now = self.clock.now().at;
        if self.shutdown.as_ref().is_none_or(|shutdown| now < shutdown.end_at) {
            return;
        }
        for record in self.tree.works.values() {
            let mut record = lock(record);
            if !record.ledger.is_down() {
                log::warn!("work `{}` did not stop in time and is ended by force", record.path);
                record.kill();
            }
        }
    }

    fn end(&mut self, result: Result<(), AppError>) {
        self.timers.set(Timer::ShutDown, None);
        self.stage = AppStage::Ended;
        let state = self.state();
        let status = self.status();
        if let Some(exit) = self.exit.take() {
            // Nobody may be waiting.
            let _ = exit.send(Exit { result, state: state.unwrap_or_default(), status });
        }
    }
}
