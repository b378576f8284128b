//! State transitions of the ledger: the consequences of events for runs and incarnations.

use super::new_status::NewStatus;
use super::{Action, Current, HISTORY, Ledger, Life, Moment, Next, Waiting};
use crate::flow::policy::Overlap;
use crate::flow::restart::OnError;
use crate::trace::Cause;
use crate::work::{CloseReason, Failure, Input, KnownStep, Reason, RunKey, RunOrder, Stage};

impl Ledger {
    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none() && self.queue.is_empty()
    }

    pub(super) fn enqueue(&mut self, key: RunKey, input: Input, now: Moment) -> bool {
        if self.ending {
            return true;
        }
        match self.policy.overlap {
            Overlap::Queue if self.queue.len() >= self.policy.queue && !self.is_idle() => return false,
            Overlap::Queue => {}
            Overlap::Latest | Overlap::Restart => {
                for dropped in self.queue.take_all() {
                    self.runs.forget(dropped.key);
                    self.tries().dropped(&dropped, Some("replaced by a newer input"), now.wall);
                }
            }
        }
        if self.policy.overlap == Overlap::Restart
            && self.life == Life::Up
            && let Some(current) = &mut self.current
            && current.kill_at.is_none()
        {
            current.kill_at = Some(now.at.saturating_add(self.policy.grace));
            self.actions.push(Action::Cancel { run: current.run });
        }
        let queued = now.wall;
        let cause = Cause::current();
        let waiting =
            Waiting { place: 0, key, input, queued, attempts: 0, forgotten: false, stopped: false, cause };
        let waits_for = self.waits_for.as_deref().filter(|_| self.life == Life::Unplaced).map(str::to_owned);
        self.record(NewStatus::pending(waits_for).of(&waiting), now);
        self.queue.push_new(waiting);
        match &mut self.life {
            Life::Down => self.launch(now),
            Life::Stopping { next: next @ Next::Stay, .. } => *next = Next::Relaunch { at: now.at },
            Life::Awaited { next: Some(next @ Next::Stay), .. } => *next = Next::Relaunch { at: now.at },
            _ => self.pump(now),
        }
        true
    }

    /// Sends the next run if there is one and none is in progress.
    pub(super) fn pump(&mut self, _now: Moment) {
        if self.life != Life::Up || self.current.is_some() || self.ending {
            return;
        }
        let Some(mut waiting) = self.queue.pop_front() else { return };
        waiting.attempts += 1;
        let run = self.next_run;
        self.next_run += 1;
        self.runs.forget_attempt(waiting.key);
        self.actions.push(Action::Send(Box::new(RunOrder {
            run,
            attempt: waiting.attempts,
            input: waiting.input.clone(),
            steps: self.runs.steps(waiting.key),
            announced: false,
            cause: waiting.cause.clone(),
        })));
        let node = self.node.clone();
        self.tries().sent(run, &waiting, node);
        self.current = Some(Box::new(Current { waiting, run, deadline: None, kill_at: None }));
    }

    pub(super) fn launch(&mut self, now: Moment) {
        if self.ending || self.hold.is_some() {
            if self.life != Life::Down {
                self.actions.push(Action::Close(CloseReason::Stopped));
            }
            self.life = Life::Down;
            return;
        }
        self.life = Life::Up;
        if !std::mem::take(&mut self.moving) {
            self.launches = self.launches.saturating_add(1);
        }
        self.actions.push(Action::Launch);
        self.pump(now);
    }

    pub(super) fn stop_for(&mut self, next: Next, now: Moment) {
        self.life = Life::Stopping { next, kill_at: now.at.saturating_add(self.policy.grace) };
        self.actions.push(Action::Stop);
    }

    /// Remembers a step of the run in progress.
    pub(super) fn stepped(&mut self, run: u64, step: KnownStep, now: Moment) {
        let current = self.current.as_ref().filter(|current| current.run == run);
        // A run whose input was forgotten is not tried again.
        let Some(key) = current.and_then(|current| current.waiting.status_key()) else { return };
        if let Err(limit) = self.runs.remember_step(key, step) {
            // A Work observes the limits by itself.
            let message = format!("the process of the Work reported more than {limit} in one run");
            self.actions.push(Action::Kill);
            let current = self.current.take().map(|current| current.waiting);
            self.failed(current, Failure::new(Reason::UserError, message), true, now);
        }
    }

    pub(super) fn end_run(&mut self, run: u64) -> Option<Waiting> {
        self.current.take_if(|current| current.run == run).map(|current| current.waiting)
    }

    /// Returns true if the run is not wanted any more: its input was forgotten, it was stopped, or a newer run is to
    /// replace it.
    fn is_superseded(&self, waiting: &Waiting) -> bool {
        waiting.forgotten
            || waiting.stopped
            || self.policy.overlap == Overlap::Restart && !self.queue.is_empty()
    }

    /// Returns an interrupted run to the front of the queue, with the same attempt number if it never began.
    pub(super) fn requeue(&mut self, waiting: Waiting, why: Option<&str>, now: Moment) {
        if self.is_superseded(&waiting) {
            self.tries().ended(Stage::Stopped, Some(Reason::Stopped), why, now.wall);
            self.record(NewStatus::stopped().of(&waiting), now);
            return;
        }
        let began = self.run_status(waiting.key).stage == Stage::Running;
        let is_counted = began && !self.moving;
        let attempts = if is_counted { waiting.attempts } else { waiting.attempts.saturating_sub(1) };
        let waiting = Waiting { attempts, ..waiting };
        self.tries().taken_back();
        self.tries().ended(Stage::Stopped, Some(Reason::Stopped), why, now.wall);
        self.record(NewStatus::pending(why.map(str::to_owned)).of(&waiting), now);
        self.queue.push_front(waiting);
    }

    /// Records that the incarnation has ended as requested.
    pub(super) fn exited(&mut self, failure: Option<Failure>, now: Moment) {
        let next = match self.life {
            Life::Stopping { next, .. } => next,
            _ => Next::Stay,
        };
        let current = self.current.take().map(|current| current.waiting);
        let had_run = current.is_some();
        if let Some(waiting) = current {
            match next {
                Next::Relaunch { .. } => self.requeue(waiting, None, now),
                Next::Stay => {
                    self.tries().ended(Stage::Stopped, Some(Reason::Stopped), None, now.wall);
                    self.record(NewStatus::stopped().of(&waiting), now);
                }
            }
        }
        self.moving &= next != Next::Stay;
        self.life = match next {
            Next::Stay => Life::Down,
            Next::Relaunch { at } => Life::Waiting { until: at },
        };
        if let Some(failure) = failure {
            self.record(NewStatus::failed(failure.clone()), now);
            if !self.ending {
                self.escalate(failure);
            }
        } else if next == Next::Stay && !had_run && !self.ending && self.status().stage != Stage::Stopped {
            self.record(NewStatus::stopped(), now);
        }
        match self.life {
            Life::Waiting { until } if until <= now.at => self.launch(now),
            _ => {}
        }
    }

    pub(super) fn failed(&mut self, run: Option<Waiting>, failure: Failure, died: bool, now: Moment) {
        self.moving = false;
        let status = NewStatus::failed(failure.clone());
        match &run {
            Some(run) => {
                self.tries().ended(Stage::Failed, Some(failure.reason), Some(&failure.message), now.wall);
                self.record(status.of(run), now);
            }
            None => self.record(status, now),
        }
        let stopping = match self.life {
            Life::Stopping { next, .. } => Some(next),
            _ => None,
        };
        if stopping == Some(Next::Stay) {
            if died {
                self.life = Life::Down;
                // A failure during the stop is a failure nevertheless; an error of `on_stop` is handled in `exited`.
                if !self.ending {
                    self.escalate(failure);
                }
            }
            return;
        }
        if self.ending {
            // The App ends, and this Work has not been asked to stop yet.
            if died {
                self.life = Life::Down;
                self.actions.push(Action::Close(CloseReason::Failed));
            }
            self.escalate(failure);
            return;
        }
        if let Some(wait) = self.restarts.next(&self.policy.restart, now.at) {
            let until = now.at.saturating_add(wait);
            if let Some(run) = run.filter(|run| !self.is_superseded(run)) {
                self.record(NewStatus::pending(None).of(&run), now);
                self.queue.push_front(run);
            }
            if died {
                self.life = Life::Waiting { until };
            } else {
                self.stop_for(Next::Relaunch { at: until }, now);
            }
            self.actions.push(Action::Restarting(failure));
            return;
        }
        if died {
            let relaunch = matches!(stopping, Some(Next::Relaunch { .. })) || !self.queue.is_empty();
            self.life = Life::Down;
            if relaunch && self.policy.on_error == OnError::Capture {
                self.launch(now);
            } else {
                self.actions.push(Action::Close(CloseReason::Failed));
            }
        } else {
            self.pump(now);
        }
        self.escalate(failure);
    }

    /// Hands over a failure after the last restart, as the policy says.
    fn escalate(&mut self, failure: Failure) {
        self.actions.push(match self.policy.on_error {
            OnError::Raise => Action::Raise(failure),
            OnError::Capture => Action::Captured(failure),
        });
    }

    /// Records a status of a run or of the Work.
    pub(super) fn record(&mut self, status: NewStatus, now: Moment) {
        self.seq += 1;
        let (key, status) = status.recorded(self.seq, now);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        if let Some(recording) = &mut self.recording {
            recording.statuses.push(status.clone());
        }
        self.history.push_back(status.clone());
        if let Some(key) = key {
            self.runs.set(key, status, self.policy.remember, now);
        }
    }
}
