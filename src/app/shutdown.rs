//! Failure and shutdown.
//!
//! A failure goes up the tree of Flows until a Flow captures or restarts it, or it fails the App. During the shutdown
//! nothing new starts, and Works are asked to stop in reverse order of their start. A slow Work delays the next for a
//! short time only, every Work is asked within half of the grace period, and all of them together have the whole grace
//! period.

use std::time::Duration;

use super::driver::Driver;
use super::error::AppError;
use super::status::{AppStage, Exit};
use super::timers::Timer;
use super::tree::{Child, FlowLife};
use crate::fence;
use crate::flow::{Decision, FlowError, Strategy};
use crate::id::{FlowId, WorkId};
use crate::printable::chain;
use crate::work::{Reason, Stage, Status};

/// The longest time for which a Work that is slow to stop delays the one that was started before it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The share of the reserve that one slow Work may use.
const RESERVE_PARTS: u32 = 10;

/// The division of the time in which Works are asked to stop, one after the other.
///
/// Half of the grace period is for asking. Half of that is divided evenly between the Works that are left, so that no
/// number of slow Works takes the time of the quick ones; the other half is a reserve, of which each slow Work may use
/// a tenth.
#[derive(Debug)]
struct Turns {
    /// Every Work has been asked by then.
    until: Duration,
    reserve: Duration,
    began: Duration,
    share: Duration,
}

impl Turns {
    fn new(grace: Duration, now: Duration) -> Self {
        let time = grace / 2;
        Self { until: now.saturating_add(time), reserve: time / 2, began: now, share: Duration::ZERO }
    }

    /// Begins the turn of one of `left` Works. Returns the time at which the next one is asked at the latest.
    fn next(&mut self, left: usize, now: Duration) -> Duration {
        let over = now.saturating_sub(self.began).saturating_sub(self.share);
        self.reserve = self.reserve.saturating_sub(over);
        let rest = self.until.saturating_sub(now);
        let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        self.share = rest.saturating_sub(self.reserve) / left;
        self.began = now;
        let turn = self.share.saturating_add(self.reserve / RESERVE_PARTS).min(PATIENCE).min(rest);
        now.saturating_add(turn)
    }
}

/// A shutdown in progress.
pub(super) struct Shutdown {
    result: Option<Result<(), AppError>>,
    /// Works that have not been asked to stop yet; the next one is the last.
    left: Vec<WorkId>,
    asked: Option<WorkId>,
    turns: Turns,
    next_at: Duration,
    end_at: Duration,
}

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
    pub(super) fn stop(&mut self, why: &str) {
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
        self.shutdown = Some(Shutdown {
            result: Some(result),
            left: left.clone(),
            asked: None,
            turns: Turns::new(grace, now.at),
            next_at: now.at,
            end_at: now.at.saturating_add(grace),
        });
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
            let waits = shutdown
                .asked
                .and_then(|id| works.get(&id))
                .is_some_and(|record| !record.lock().ledger.is_down());
            if waits && now.at < shutdown.next_at {
                break;
            }
            let count = shutdown.left.len();
            let Some(id) = shutdown.left.pop() else { break };
            shutdown.asked = Some(id);
            shutdown.next_at = shutdown.turns.next(count, now.at);
            self.with_work(id, |ledger| ledger.shut_down(now));
        }
        let all_down = self.tree.works.values().all(|record| record.lock().ledger.is_down());
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

    /// Kills the Works that have not stopped when the grace period is over; before that the cycle advances the
    /// shutdown.
    pub(super) fn shutdown_deadline(&mut self) {
        let now = self.clock.now().at;
        if self.shutdown.as_ref().is_none_or(|shutdown| now < shutdown.end_at) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Simulates Works that need these times to stop. Returns the time at which each was asked.
    fn asked(grace: Duration, needs: &[Duration]) -> Vec<Duration> {
        let start = 7 * MS;
        let (mut turns, mut now) = (Turns::new(grace, start), start);
        let ask = |(place, need): (usize, &Duration)| {
            let at = now - start;
            now = turns.next(needs.len() - place, now).min(now.saturating_add(*need));
            at
        };
        needs.iter().enumerate().map(ask).collect()
    }

    /// Any number of Works, however slow, are asked within half of the grace period.
    #[test]
    fn slow_works_are_all_asked_in_half_the_grace() {
        for grace in [Duration::ZERO, MS, 100 * MS, 10_000 * MS, 60_000 * MS] {
            for count in [1, 2, 20, 30, 1_000, 20_000] {
                let last = asked(grace, &vec![Duration::MAX; count]).pop().unwrap();
                assert!(last <= grace / 2, "the last of {count} is asked after {last:?} of {grace:?}");
            }
        }
    }

    /// Quick Works get the time they need, however many slow ones are among the others.
    #[test]
    fn quick_works_are_waited_for_among_slow_ones() {
        for slow_each in [2, 3, 10] {
            let needs: Vec<_> =
                (0..200).map(|n| if n % slow_each == 0 { 60_000 * MS } else { 5 * MS }).collect();
            let times = asked(10_000 * MS, &needs);
            for (place, need) in needs.iter().enumerate().take(199).filter(|(_, need)| **need == 5 * MS) {
                assert!(times[place + 1] - times[place] >= *need, "number {place} of one in {slow_each}");
            }
        }
    }

    /// With enough time, a slow Work delays the next by the whole [`PATIENCE`].
    #[test]
    fn few_slow_works_are_waited_for_as_long_as_may_be() {
        let all = [Duration::MAX; 3];
        assert_eq!(asked(10_000 * MS, &all), [Duration::ZERO, PATIENCE, 2 * PATIENCE]);
        assert_eq!(asked(Duration::MAX, &all), [Duration::ZERO, PATIENCE, 2 * PATIENCE]);
    }
}
