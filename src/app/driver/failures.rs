//! Failures of Flows and the end of the App.
//!
//! A failure goes up the tree of Flows until a Flow captures or restarts it, or it fails the App. During the shutdown
//! nothing new starts.

use super::super::error::AppError;
#[cfg(feature = "journal")]
use super::super::status::AppStage;
use super::super::status::Exit;
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
        if self.lifecycle.is_over() {
            log::error!("during the shutdown: {}", chain(&error));
            return;
        }
        let now = self.wake_ups.now();
        self.journaling.touch_flow(id);
        let Some(entry) = self.tree.flow_mut(id) else {
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
        let now = self.wake_ups.now();
        for id in self.tree.works_below(flow).into_iter().rev() {
            self.with_work(id, |ledger| ledger.stop(now));
        }
    }

    /// Restarts a failed Flow after its back-off.
    pub(super) fn flow_restarted(&mut self, id: FlowId) {
        if !self.lifecycle.is_running() {
            return;
        }
        let now = self.wake_ups.now();
        for work in self.tree.works_below(id) {
            self.with_work(work, |ledger| {
                ledger.clear_failures();
                ledger.start(now);
            });
        }
        // The Flows below may have failed before this one, or wait for restarts of their own.
        for flow in self.tree.flows_from(id) {
            self.journaling.touch_flow(flow);
            let Some(entry) = self.tree.flow_mut(flow) else { continue };
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
        let now = self.wake_ups.now();
        let strategy = match self.with_flow(flow, |flow| fence::call(|| flow.strategy())) {
            Some(Ok(strategy)) => strategy,
            None => Strategy::default(),
            Some(Err(panic)) => {
                let (path, message) = (self.tree.flow_path(flow), panic.to_string());
                return self.flow_failed(flow, FlowError::Panicked { path, code: "strategy", message });
            }
        };
        self.journaling.touch_flow(flow);
        let Some(entry) = self.tree.flow_mut(flow) else { return };
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

    /// Stops the App gracefully, between reactions.
    pub(in crate::app) fn stop(&mut self, why: &str) {
        self.begin_shutdown(why);
        self.settle();
    }

    /// Begins to stop the App gracefully, unless it is stopping already.
    pub(super) fn begin_shutdown(&mut self, why: &str) {
        if !self.lifecycle.is_over() {
            log::info!("the App ends: {why}");
            self.end_with(Ok(()));
        }
    }

    /// Stops the App as failed.
    pub(super) fn fail(&mut self, error: AppError) {
        if self.lifecycle.is_over() {
            log::error!("during the shutdown: {}", chain(&error));
        } else {
            self.end_with(Err(error));
        }
    }

    fn end_with(&mut self, result: Result<(), AppError>) {
        let now = self.wake_ups.now();
        #[cfg(feature = "journal")]
        if self.stage() == AppStage::SafeMode {
            return self.end_safe(result);
        }
        let works = self.tree.ids();
        self.lifecycle.stop(Shutdown::new(result, works.clone(), self.config.grace(), now.at));
        self.hosts.stopping();
        for id in works {
            self.with_work(id, |ledger| ledger.wind_down(now));
        }
    }

    /// Asks the next Works to stop when it is their turn. Ends the App when none is left, or when the grace period is
    /// over.
    pub(super) fn advance_shutdown(&mut self) {
        let now = self.wake_ups.now();
        while let Some(shutdown) = self.lifecycle.shutdown() {
            let Some(id) = shutdown.next(now.at, |id| self.tree.is_down(id)) else { break };
            self.with_work(id, |ledger| ledger.shut_down(now));
        }
        let Some(shutdown) = self.lifecycle.shutdown() else { return };
        let all_down = self.tree.works().all(|record| record.lock().ledger.is_down());
        if shutdown.is_done(all_down, now.at) {
            return self.end();
        }
        let next = shutdown.next_deadline();
        self.wake_ups.set(Timer::ShutDown, Some(next));
    }

    /// Kills the Works that have not stopped when the grace period is over; before that the cycle advances the
    /// shutdown.
    pub(super) fn shutdown_deadline(&mut self) {
        let now = self.wake_ups.now().at;
        if self.lifecycle.shutdown().is_none_or(|shutdown| !shutdown.is_expired(now)) {
            return;
        }
        for record in self.tree.works() {
            let mut record = record.lock();
            if !record.ledger.is_down() {
                log::warn!("work `{}` did not stop in time and is ended by force", record.path);
                record.kill();
            }
        }
    }

    pub(super) fn end(&mut self) {
        #[cfg(feature = "journal")]
        let failure = self.give_up_full_journal();
        #[cfg(not(feature = "journal"))]
        let failure = None;
        self.end_unless(failure);
    }

    /// Ends the App once all is durable. `failure` is that of a journal which was given up: the App ends at once, and as
    /// failed, also when it was only waiting for a last commit.
    pub(super) fn end_unless(&mut self, failure: Option<AppError>) {
        self.wake_ups.set(Timer::ShutDown, None);
        let ended = self.lifecycle.end();
        let ends_now = ended.is_some();
        if let Some((result, exit)) = ended {
            let (state, status) = (self.state().unwrap_or_default(), self.status());
            self.outcome = Some((Exit { result, state, status }, exit));
        }
        match failure {
            Some(failure) => {
                if let Some((exit, _)) = &mut self.outcome
                    && exit.result.is_ok()
                {
                    exit.result = Err(failure);
                }
                self.send_outcome();
            }
            None if ends_now => self.when_durable(Self::send_outcome),
            None => {}
        }
    }

    fn send_outcome(&mut self) {
        let Some((outcome, exit)) = self.outcome.take() else { return };
        #[cfg(feature = "journal")]
        self.close_journal();
        // The caller may not be waiting for the end.
        let _ = exit.send(outcome);
    }
}
