//! The runs of one Work and the lives of its incarnations: pure. The time is given; what is to be done comes out
//! as [`Action`]s.
//!
//! # Guarantees
//! - One run per distinct input, unless calls are not cached or its outcome was forgotten; one run at a time; in the order asked for.
//! - A run that failed is tried again only by a restart or by [`Ledger::rerun`].
//! - A restart, wherever it comes from, starts the run that was under way again, before any other.
//! - A Work whose node is lost, or not there yet, waits for one: its run is pending and says what it waits for.
//! - A report of a run that is no longer the current one changes nothing.
//! - `status().seq` only grows.

mod memory;
mod runs;
mod steps;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(crate) use self::runs::{Outcomes, RunEntry};
use super::policy::{OnNodeLost, Policy};
use super::restart::Restarts;
use crate::trace::Cause;
use crate::work::{CloseReason, Failure, Input, Reason, Report, RunKey, RunOrder, Stage, Status};

/// A point in time, given to a core that has no clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Since the start of the App; for deadlines.
    pub(crate) at: Duration,
    /// For people.
    pub(crate) wall: SystemTime,
}

/// What is to be done for a Work.
#[derive(Debug)]
pub(crate) enum Action {
    /// Start an incarnation from the last published state, with the mailbox open.
    Launch,
    Send(RunOrder),
    Cancel {
        run: u64,
    },
    Stop,
    /// Give the incarnation up: end it by force and listen to it no more.
    Kill,
    /// Refuse messages.
    Close(CloseReason),
    /// A restart by the Work's own policy has begun; its Flow's strategy may restart others.
    Restarting(Failure),
    /// The Work has failed and its policy leaves that to its Flow.
    Captured(Failure),
    /// The Work has failed for good and its policy says that this is the App's failure.
    Raise(Failure),
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requested {
    /// The run succeeded, and this is the reaction that may go on.
    Finished,
    /// It is accepted, under way, or over in another way.
    Unfinished,
    /// The queue is full.
    Full,
}

const HISTORY: usize = 64;

#[derive(Debug)]
pub(crate) struct Ledger {
    policy: Arc<Policy>,
    life: Life,
    runs: memory::Memory,
    queue: VecDeque<Waiting>,
    /// Boxed, since most Works of a large App are idle.
    current: Option<Box<Current>>,
    history: VecDeque<Status>,
    restarts: Restarts,
    next_run: u64,
    seq: u64,
    successes: u64,
    launches: u32,
    /// Boxed as well: most Works of a large App have none.
    tries: Option<Box<runs::Tries>>,
    /// Where the incarnation lives.
    node: Option<Arc<str>>,
    /// What it waits for while there is no place for it.
    waits_for: Option<Box<str>>,
    /// Who has stopped the Work from outside of its Flow, so that it stays as it is until that is lifted.
    hold: Option<OperatorStop>,
    /// Whether the App is ending: outcomes stay as they are and nothing starts any more.
    ending: bool,
    /// Whether the incarnation ends because its node leaves: the next one is no restart, and its run no other try.
    moving: bool,
    actions: Vec<Action>,
}

/// A stop by an operator, which holds against whatever the Flow asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OperatorStop {
    pub(crate) by: Arc<str>,
    pub(crate) since: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Down,
    Up,
    Stopping {
        next: Next,
        kill_at: Duration,
    },
    Waiting {
        until: Duration,
    },
    /// There is no place for it yet.
    Unplaced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Relaunch { at: Duration },
}

#[derive(Debug)]
struct Waiting {
    key: RunKey,
    input: Input,
    queued: SystemTime,
    attempts: u32,
    /// Whether its input was made new again while it was under way: what becomes of it says nothing about the input.
    forgotten: bool,
    /// Whether it was asked to stop with its Work, so that it does not start again with it.
    stopped: bool,
    /// The reaction that has asked for it, also when it starts much later.
    cause: Cause,
}

impl Waiting {
    /// The input whose status this run tells.
    fn status_key(&self) -> Option<RunKey> {
        (!self.forgotten).then_some(self.key)
    }
}

#[derive(Debug)]
struct Current {
    waiting: Waiting,
    run: u64,
    deadline: Option<Duration>,
    kill_at: Option<Duration>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Input({} bytes)", self.bytes.len())
    }
}

impl std::fmt::Debug for RunOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunOrder({}, attempt {})", self.run, self.attempt)
    }
}

impl Ledger {
    pub(crate) fn new(policy: Arc<Policy>) -> Self {
        Self {
            policy,
            life: Life::Down,
            runs: memory::Memory::default(),
            queue: VecDeque::new(),
            current: None,
            history: VecDeque::new(),
            restarts: Restarts::default(),
            next_run: 1,
            seq: 0,
            successes: 0,
            launches: 0,
            tries: None,
            node: None,
            waits_for: None,
            hold: None,
            ending: false,
            moving: false,
            actions: Vec::new(),
        }
    }

    /// What is to be done since the last call.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    // ---- what the Flow asks ----

    pub(crate) fn request(&mut self, key: RunKey, input: Input, now: Moment) -> Requested {
        self.runs.expire(self.policy.remember, now);
        let known = self.runs.stage(key);
        let result = if known == Stage::Succeeded { Requested::Finished } else { Requested::Unfinished };
        let wanted = match known {
            Stage::NotStarted | Stage::Stopped => true,
            Stage::Pending | Stage::Running | Stage::Failed => false,
            Stage::Succeeded => !self.policy.cache_calls && self.is_idle(),
        };
        // A later reaction asks again, when it is not held any more.
        let wanted = wanted && self.hold.is_none();
        if wanted && !self.enqueue(key, input, now) { Requested::Full } else { result }
    }

    pub(crate) fn rerun(&mut self, key: RunKey, input: Input, now: Moment) -> Requested {
        match self.run_status(key).stage {
            _ if self.hold.is_some() => Requested::Unfinished,
            Stage::Pending | Stage::Running => Requested::Unfinished,
            _ if self.enqueue(key, input, now) => Requested::Unfinished,
            _ => Requested::Full,
        }
    }

    /// Whether an input was never asked for, or is new again.
    pub(crate) fn is_new(&self, key: RunKey) -> bool {
        self.runs.stage(key) == Stage::NotStarted
    }

    /// How many inputs are remembered, when that is worth a warning: once.
    pub(crate) fn tell_of_many_inputs(&mut self) -> Option<usize> {
        self.runs.tell_of_many()
    }

    /// Whether the order of the sequences in inputs is to be looked into still.
    pub(crate) fn compares_order(&self) -> bool {
        self.runs.compares_order()
    }

    /// Whether a new input is the first that differs from another one only in the order of a sequence; `unordered` is what such inputs
    /// have in common.
    pub(crate) fn is_reordered(&mut self, key: RunKey, unordered: u64) -> bool {
        self.runs.is_reordered(key, unordered)
    }

    /// Makes an input new again. A run of it that is under way goes on and is not counted.
    pub(crate) fn forget(&mut self, key: RunKey, now: Moment) {
        self.runs.forget(key);
        self.drop_waiting(key, "its input was forgotten", now.wall);
        if let Some(current) = self.current.as_mut().filter(|current| current.waiting.key == key) {
            current.waiting.forgotten = true;
        }
    }

    /// Makes every input new again whose run failed or was stopped.
    pub(crate) fn clear_failures(&mut self) {
        self.runs.forget_all(&[Stage::Failed, Stage::Stopped]);
    }

    /// Stops the Work, and keeps it stopped until [`release`](Self::release).
    pub(crate) fn hold(&mut self, by: Arc<str>, now: Moment) {
        self.stop(now);
        self.hold = Some(OperatorStop { by, since: now.wall });
    }

    /// Who keeps the Work stopped, if somebody does.
    pub(crate) fn held(&self) -> Option<&OperatorStop> {
        self.hold.as_ref()
    }

    /// Has the Work do again what its Flow asks.
    pub(crate) fn release(&mut self) {
        self.hold = None;
    }

    pub(crate) fn start(&mut self, now: Moment) {
        if self.hold.is_some() || self.ending {
            return;
        }
        match &mut self.life {
            Life::Down => self.launch(now),
            Life::Stopping { next, .. } => *next = Next::Relaunch { at: now.at },
            Life::Up | Life::Waiting { .. } | Life::Unplaced => {}
        }
    }

    /// There was no place for the incarnation that was to be launched, for this reason.
    pub(crate) fn unplaced(&mut self, why: &str, now: Moment) {
        if self.life != Life::Up {
            return;
        }
        self.life = Life::Unplaced;
        self.launches = self.launches.saturating_sub(1);
        self.actions.push(Action::Close(CloseReason::Unplaced));
        let said_before = self.waits_for.as_deref() == Some(why);
        self.waits_for = Some(why.into());
        match self.current.take().map(|current| current.waiting) {
            Some(waiting) if said_before => {
                self.tries().taken_back();
                let attempts = waiting.attempts.saturating_sub(1);
                self.queue.push_front(Waiting { attempts, ..waiting });
            }
            Some(waiting) => self.requeue(waiting, Some(why), now),
            None if said_before => {}
            None => self.record_work_status(Stage::Pending, None, Some(why.to_owned()), now),
        }
    }

    /// There may be a place for it now.
    pub(crate) fn place(&mut self, now: Moment) {
        if self.life == Life::Unplaced {
            self.launch(now);
        }
    }

    /// The node where the incarnation lived is lost.
    pub(crate) fn node_lost(&mut self, why: &str, now: Moment) {
        self.actions.push(Action::Kill);
        let stays = matches!(self.life, Life::Stopping { next: Next::Stay, .. });
        match self.life {
            Life::Stopping { .. } => self.exited(None, now),
            Life::Up if self.policy.on_node_lost == OnNodeLost::Fail => {
                let failure = Failure { reason: Reason::NodeLost, message: why.to_owned() };
                let current = self.current.take().map(|current| current.waiting);
                self.failed(current, failure, true, now);
            }
            Life::Up => {
                self.actions.push(Action::Close(CloseReason::NodeLost));
                match self.current.take().map(|current| current.waiting) {
                    Some(waiting) => self.requeue(waiting, Some(why), now),
                    None => self.record_work_status(
                        Stage::Pending,
                        Some(Reason::NodeLost),
                        Some(why.to_owned()),
                        now,
                    ),
                }
                self.launch(now);
            }
            Life::Down | Life::Waiting { .. } | Life::Unplaced => {}
        }
        if stays {
            self.actions.push(Action::Close(CloseReason::Stopped));
        }
    }

    /// Ends the Work until it is started again or a run is asked for.
    pub(crate) fn stop(&mut self, now: Moment) {
        for waiting in std::mem::take(&mut self.queue) {
            self.tries().dropped(&waiting, None, now.wall);
            self.record(
                waiting.status_key(),
                Stage::Stopped,
                Some(Reason::Stopped),
                None,
                waiting.attempts,
                now,
            );
        }
        if let Some(current) = &mut self.current {
            current.waiting.stopped = true;
        }
        let was_open = !matches!(self.life, Life::Down | Life::Stopping { next: Next::Stay, .. });
        match &mut self.life {
            Life::Down => {}
            Life::Up => {
                self.life =
                    Life::Stopping { next: Next::Stay, kill_at: now.at.saturating_add(self.policy.grace) };
                self.actions.push(Action::Stop);
            }
            Life::Stopping { next, .. } => *next = Next::Stay,
            Life::Waiting { .. } | Life::Unplaced => {
                self.life = Life::Down;
                self.record_work_status(Stage::Stopped, Some(Reason::Stopped), None, now);
            }
        }
        if was_open {
            self.actions.push(Action::Close(CloseReason::Stopped));
        }
    }

    /// Starts no incarnation and no run from now on, because the App ends; one that lives goes on until
    /// [`shut_down`](Self::shut_down).
    pub(crate) fn wind_down(&mut self, now: Moment) {
        self.ending = true;
        if self.life != Life::Up {
            self.stop(now);
        }
    }

    /// Does what [`stop`](Self::stop) does because the App ends: what has an outcome keeps it.
    pub(crate) fn shut_down(&mut self, now: Moment) {
        self.ending = true;
        self.stop(now);
    }

    /// Ends the incarnation and starts the next one from the last published state.
    pub(crate) fn restart(&mut self, now: Moment) {
        if self.hold.is_some() || self.ending {
            return;
        }
        match &mut self.life {
            Life::Down => self.launch(now),
            Life::Up => self.stop_for(Next::Relaunch { at: now.at }, now),
            Life::Stopping { next: next @ Next::Stay, .. } => *next = Next::Relaunch { at: now.at },
            Life::Stopping { .. } | Life::Waiting { .. } | Life::Unplaced => {}
        }
    }

    /// The node where the incarnation lives is about to leave: it ends in good order, and the next one goes on elsewhere.
    pub(crate) fn move_away(&mut self, now: Moment) {
        if self.ending {
            self.stop(now);
        } else if self.life == Life::Up {
            self.moving = true;
            self.stop_for(Next::Relaunch { at: now.at }, now);
        }
    }

    // ---- what the Work reports ----

    pub(crate) fn report(&mut self, report: Report, now: Moment) {
        match report {
            Report::RunStarted { run } => {
                let timeout = self.policy.timeout;
                let Some(current) = self.current.as_mut().filter(|current| current.run == run) else {
                    return;
                };
                current.deadline = timeout.map(|timeout| now.at.saturating_add(timeout));
                self.waits_for = None;
                let (key, attempts) = (current.waiting.status_key(), current.waiting.attempts);
                self.record(key, Stage::Running, None, None, attempts, now);
                self.tries().began(now.wall);
            }
            Report::RunSucceeded { run } => {
                let Some(current) = self.end_run(run) else { return };
                self.successes += 1;
                self.tries().ended(Stage::Succeeded, None, None, now.wall);
                self.record(current.status_key(), Stage::Succeeded, None, None, current.attempts, now);
                self.pump(now);
            }
            Report::RunStopped { run } => {
                let relaunch = matches!(self.life, Life::Stopping { next: Next::Relaunch { .. }, .. });
                let Some(current) = self.end_run(run) else { return };
                if relaunch {
                    self.requeue(current, None, now);
                } else {
                    self.tries().ended(Stage::Stopped, Some(Reason::Stopped), None, now.wall);
                    self.record(
                        current.status_key(),
                        Stage::Stopped,
                        Some(Reason::Stopped),
                        None,
                        current.attempts,
                        now,
                    );
                    self.pump(now);
                }
            }
            Report::RunFailed { run, failure } => {
                let Some(current) = self.end_run(run) else { return };
                self.failed(Some(current), failure, false, now);
            }
            Report::Stopped { failure } => self.exited(failure, now),
            Report::Died { failure } => {
                let current = self.current.take().map(|current| current.waiting);
                self.failed(current, failure, true, now);
            }
        }
    }

    // ---- time ----

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let life = match self.life {
            Life::Stopping { kill_at, .. } => Some(kill_at),
            Life::Waiting { until } => Some(until),
            Life::Down | Life::Up | Life::Unplaced => None,
        };
        // A run has the deadlines of its own only while nothing else ends its incarnation.
        let run = self.current.iter().filter(|_| self.life == Life::Up);
        let run = run.flat_map(|current| [current.deadline, current.kill_at]).flatten();
        life.into_iter().chain(run).min()
    }

    pub(crate) fn on_time(&mut self, now: Moment) {
        match self.life {
            Life::Waiting { until } if until <= now.at => self.launch(now),
            Life::Stopping { kill_at, .. } if kill_at <= now.at => {
                self.actions.push(Action::Kill);
                self.exited(None, now);
            }
            _ => {}
        }
        let Some(current) = self.current.as_ref().filter(|_| self.life == Life::Up) else { return };
        if current.deadline.is_some_and(|deadline| deadline <= now.at) {
            let timeout = self.policy.timeout.unwrap_or_default();
            let message = format!("the run did not end within {timeout:?}");
            self.actions.push(Action::Kill);
            let current = self.current.take().map(|current| current.waiting);
            self.failed(current, Failure { reason: Reason::Timeout, message }, true, now);
        } else if current.kill_at.is_some_and(|kill_at| kill_at <= now.at) {
            self.actions.push(Action::Kill);
            self.life = Life::Stopping { next: Next::Relaunch { at: now.at }, kill_at: now.at };
            let Current { waiting, .. } = *self.current.take().expect("looked at above");
            self.tries().ended(Stage::Stopped, Some(Reason::Stopped), None, now.wall);
            self.record(
                waiting.status_key(),
                Stage::Stopped,
                Some(Reason::Stopped),
                None,
                waiting.attempts,
                now,
            );
            self.exited(None, now);
        }
    }

    // ---- what can be seen ----

    pub(crate) fn run_status(&self, key: RunKey) -> Status {
        self.runs.get(key).cloned().unwrap_or_default()
    }

    /// The status of the run under way, else the last status of all.
    pub(crate) fn status(&self) -> Status {
        let current = self.current.as_ref().and_then(|current| self.runs.get(current.waiting.status_key()?));
        current.or_else(|| self.history.back()).cloned().unwrap_or_default()
    }

    pub(crate) fn history(&self) -> impl DoubleEndedIterator<Item = &Status> {
        self.history.iter()
    }

    pub(crate) fn successes(&self) -> u64 {
        self.successes
    }

    /// Whether an incarnation lives.
    /// Whether it waits for a node that fits.
    pub(crate) fn is_unplaced(&self) -> bool {
        matches!(self.life, Life::Unplaced)
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.life, Life::Up | Life::Stopping { .. })
    }

    /// Whether nothing lives and nothing will by itself.
    pub(crate) fn is_down(&self) -> bool {
        self.life == Life::Down
    }
}

#[cfg(test)]
mod tests;
