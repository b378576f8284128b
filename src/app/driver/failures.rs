//! Failures of Flows and the end of the App.
//!
//! A failure goes up the tree of Flows until a Flow captures or restarts it, or it fails the App. During the shutdown
//! nothing new starts.

use super::super::error::AppError;
use super::super::status::{AppStage, Exit};
use super::Driver;
use super::shutdown::Shutdown;
use super::timers::Timer;
use super::tree::{Child, FlowLife};
use crate::fence;
use crate::flow::{Decision, FlowError, Strategy};
use crate::id::FlowId;
use crate::printable::chain;
use crate::work::{Reason, Stage, Status};

impl Driver {
    // ---- failures ----

    /// Handles the failure of a Flow, its own or that of a child: restarts it, or captures or escalates the failure.
    pub(super) fn flow_failed(&mut self, id: FlowId, error: FlowError) {
        if self.stage == AppStage::Stopping || self.stage == AppStage::Ended {
            log::error!("during the shutdown: {}", chain(&error));
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
            log::warn!("{}; flow `{}` is restarted in {wait:?}", chain(&error), entry.link.path);
            entry.life = FlowLife::Waiting { until: now.at.saturating_add(wait) };
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
            let mut status = entry.link.status.lock();
            *status = Status {
                stage: Stage::Failed,
                reason: Some(Reason::UserError),
                message: Some(chain(&error)),
                time: now.wall,
                attempt: status.attempt,
                seq: status.seq + 1,
            };
        }
        self.stop_below(id);
        if captured {
            log::warn!(
                "{}; the failure of flow `{path}` is captured by flow `{}`",
                chain(&error),
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
            self.with_work(id, |ledger| ledger.stop(now));
        }
    }

    /// Restarts a failed Flow after its back-off.
    pub(super) fn flow_restarted(&mut self, id: FlowId) {
        if self.stage != AppStage::Running {
            return;
        }
        let now = self.clock.now();
        for work in self.tree.works_below(id) {
            self.with_work(work, |ledger| {
                ledger.clear_failures();
                ledger.start(now);
            });
        }
        // The Flows below may have failed before this one, or wait for restarts of their own.
        for flow in self.tree.flows_from(id) {
            let Some(entry) = self.tree.flows.get_mut(&flow) else { continue };
            if entry.life != FlowLife::Up {
                entry.life = FlowLife::Up;
                let mut status = entry.link.status.lock();
                let (attempt, seq) = (status.attempt, status.seq + 1);
                *status = Status { stage: Stage::Running, time: now.wall, attempt, seq, ..Status::default() };
            }
            self.set_flow_timer(flow);
            self.mark_up(flow);
        }
    }

    /// Applies the strategy of a Flow to the siblings of a child that is being restarted.
    pub(super) fn child_restarts(&mut self, flow: FlowId, child: Child, path: &str) {
        let now = self.clock.now();
        let strategy = match self.with_flow(flow, |flow| fence::call(|| flow.strategy())) {
            Some(Ok(strategy)) => strategy,
            None => Strategy::default(),
            Some(Err(panic)) => {
                let (path, message) = (self.tree.flow_path(flow), panic.to_string());
                return self.flow_failed(flow, FlowError::Panicked { path, code: "strategy", message });
            }
        };
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
                        self.with_work(work, |ledger| {
                            if ledger.is_up() {
                                ledger.restart(now);
                            }
                        });
                    }
                }
            }
        }
    }

    // ---- shutdown ----

    /// Stops the App gracefully.
    pub(in crate::app) fn stop(&mut self, why: &str) {
        if self.shutdown.is_none() {
            log::info!("the App ends: {why}");
            self.end_with(Ok(()));
        }
    }

    /// Stops the App as failed.
    pub(super) fn fail(&mut self, error: AppError) {
        match &self.shutdown {
            Some(_) => log::error!("during the shutdown: {}", chain(&error)),
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
        self.watchdog.ending();
        self.hosts.stopping();
        let now = self.clock.now();
        let grace = self.config.grace();
        let mut left: Vec<_> = self.tree.works.keys().copied().collect();
        left.sort_unstable();
        self.shutdown = Some(Shutdown::new(result, left.clone(), grace, now.at));
        for id in left {
            self.with_work(id, |ledger| ledger.wind_down(now));
        }
    }

    /// Asks the next Works to stop when it is their turn. Ends the App when none is left, or when the grace period is
    /// over.
    pub(super) fn advance_shutdown(&mut self) {
        let now = self.clock.now();
        loop {
            let works = &self.tree.works;
            let Some(shutdown) = &mut self.shutdown else { return };
            let is_down = |id| works.get(&id).is_none_or(|record| record.lock().ledger.is_down());
            let Some(id) = shutdown.next(now.at, is_down) else { break };
            self.with_work(id, |ledger| ledger.shut_down(now));
        }
        let all_down = self.tree.works.values().all(|record| record.lock().ledger.is_down());
        let Some(shutdown) = &mut self.shutdown else { return };
        if shutdown.all_asked() && all_down || shutdown.is_expired(now.at) {
            if let Some(result) = shutdown.take_result() {
                self.end(result);
            }
            return;
        }
        let next = shutdown.next_deadline();
        self.timers.set(Timer::ShutDown, Some(next));
    }

    /// Kills the Works that have not stopped when the grace period is over; before that the cycle advances the
    /// shutdown.
    pub(super) fn shutdown_deadline(&mut self) {
        let now = self.clock.now().at;
        if self.shutdown.as_ref().is_none_or(|shutdown| !shutdown.is_expired(now)) {
            return;
        }
        for record in self.tree.works.values() {
            let mut record = record.lock();
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
            // The caller may not be waiting for the end.
            let _ = exit.send(Exit { result, state: state.unwrap_or_default(), status });
        }
    }
}
