//! The runs of one Work and the lives of its incarnations (pure): the time is a parameter, and [`Action`]s for the
//! driver are the output.
//!
//! # Guarantees
//! - One run per distinct input, unless calls are not cached or the outcome was forgotten; one run at a time; in the
//!   order of the requests.
//! - A failed run is retried only by a restart or by [`Ledger::rerun`].
//! - Any restart starts the run that was in progress again, before any other.
//! - A Work whose node is lost, or not connected yet, waits for a node: its run is pending and its status has the
//!   reason.
//! - A report about a run that is not the current one changes nothing.
//! - The steps of a run are remembered until a run of its input succeeds, or the input is forgotten. The output of a run is
//!   remembered until its input is forgotten, or another attempt at it begins.
//! - An incarnation that may live on a node that a new head has not heard of yet gets no orders, and no other is launched,
//!   until its node has returned or is given up.
//! - `status().seq` only grows.

mod awaited;
mod facts;
#[cfg(feature = "journal")]
mod input_facts;
mod memory;
mod new_status;
mod queue;
#[cfg(feature = "journal")]
mod rekey;
#[cfg(feature = "journal")]
mod rows;
mod runs;
mod steps;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[cfg(feature = "journal")]
pub(crate) use self::facts::Image;
#[cfg(feature = "journal")]
pub(crate) use self::facts::{Fact, WorkFacts};
#[cfg(feature = "journal")]
pub(crate) use self::input_facts::InputFacts;
use self::new_status::NewStatus;
use self::queue::RunQueue;
#[cfg(feature = "journal")]
pub(crate) use self::rekey::Rekeyed;
#[cfg(feature = "journal")]
pub(crate) use self::rows::{ImageReader, RowError, decoded, encoded};
pub(crate) use self::runs::{Outcomes, RunEntry};
use super::policy::{OnNodeLost, Policy};
use super::restart::Restarts;
use crate::trace::Cause;
use crate::work::{CloseReason, Failure, Input, Reason, Report, RunKey, RunOrder, Stage, Status, StepValue};

/// A point in time, passed to a core that has no clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Monotonic time since the start of the App; for deadlines.
    pub(crate) at: Duration,
    /// Wall-clock time, for display.
    pub(crate) wall: SystemTime,
}

/// Action that the driver carries out for a Work.
#[derive(Debug)]
pub(crate) enum Action {
    /// Starts an incarnation from the last published state, with the mailbox open.
    Launch,
    Send(Box<RunOrder>),
    Cancel {
        run: u64,
    },
    Stop,
    /// Aborts the incarnation and abandons its outbox.
    Kill,
    /// Refuses messages.
    Close(CloseReason),
    /// The Work restarts by its own policy; the Flow's strategy may restart siblings.
    Restarting(Failure),
    /// The Work has failed, and its policy leaves the handling to its Flow.
    Captured(Failure),
    /// The Work has failed after its last restart, and its policy fails the App.
    Raise(Failure),
}

/// Result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requested {
    /// The run has succeeded, and this reaction may continue.
    Finished,
    /// The run is accepted, in progress, failed or stopped.
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
    queue: RunQueue,
    /// Boxed to keep idle Works, which are most of a large App, small.
    current: Option<Box<Current>>,
    history: VecDeque<Status>,
    restarts: Restarts,
    next_run: u64,
    seq: u64,
    successes: u64,
    launches: u32,
    /// Boxed to keep Works without runs, which are most of a large App, small.
    tries: Option<Box<runs::Tries>>,
    /// Node of the incarnation.
    node: Option<Arc<str>>,
    /// Number of the incarnation that was launched last.
    incarnation: u64,
    /// Reason why the Work has no place, while it waits for one.
    waits_for: Option<Box<str>>,
    /// Stop by an operator, which keeps the Work stopped until it is lifted.
    hold: Option<Box<OperatorStop>>,
    /// True once the App ends: outcomes are kept, and nothing starts any more.
    ending: bool,
    /// True if the incarnation ends because its node leaves: the next incarnation is not a restart, and its run not a
    /// new attempt.
    moving: bool,
    actions: Vec<Action>,
    /// State that finds the changes which have to survive the process, if they are recorded.
    recording: Option<Box<facts::Recording>>,
}

/// A stop by an operator, which takes precedence over the requests of the Flow.
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
    /// There is no place for the Work yet.
    Unplaced,
    /// The incarnation lives on a node, unless that is lost as well, and the node has not returned to this head yet.
    Awaited {
        until: Duration,
        /// The step after the end of an incarnation that is to stop.
        next: Option<Next>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Relaunch { at: Duration },
}

#[derive(Debug)]
struct Waiting {
    /// Place in the queue, which the run keeps until its end.
    place: u64,
    key: RunKey,
    input: Input,
    queued: SystemTime,
    attempts: u32,
    /// True if the input was forgotten while its run was in progress: the outcome is not recorded for the input.
    forgotten: bool,
    /// True if the run was asked to stop together with its Work, so that a start of the Work does not start the run
    /// again.
    stopped: bool,
    /// Trace context of the reaction that requested the run.
    cause: Cause,
}

impl Waiting {
    /// Returns the input whose status this run determines.
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
            queue: RunQueue::default(),
            current: None,
            history: VecDeque::new(),
            restarts: Restarts::default(),
            next_run: 1,
            seq: 0,
            successes: 0,
            launches: 0,
            tries: None,
            node: None,
            incarnation: 0,
            waits_for: None,
            hold: None,
            ending: false,
            moving: false,
            actions: Vec::new(),
            recording: None,
        }
    }

    /// Returns the actions since the last call.
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
        // A later reaction requests the run again, once the operator's stop is lifted.
        let wanted = wanted && self.hold.is_none();
        if wanted && !self.enqueue(key, input, now) {
            return Requested::Full;
        }
        #[cfg(feature = "journal")]
        if wanted && known == Stage::NotStarted {
            self.note_unknown_request();
        }
        result
    }

    pub(crate) fn rerun(&mut self, key: RunKey, input: Input, now: Moment) -> Requested {
        match self.run_status(key).stage {
            _ if self.hold.is_some() => Requested::Unfinished,
            Stage::Pending | Stage::Running => Requested::Unfinished,
            _ if self.enqueue(key, input, now) => Requested::Unfinished,
            _ => Requested::Full,
        }
    }

    /// Returns true if an input was never requested, or was forgotten.
    pub(crate) fn is_new(&self, key: RunKey) -> bool {
        self.runs.stage(key) == Stage::NotStarted
    }

    /// Returns the number of remembered inputs once, when it is large enough for a warning.
    pub(crate) fn tell_of_many_inputs(&mut self) -> Option<usize> {
        self.runs.tell_of_many()
    }

    /// Returns true as long as the order of sequences in inputs is compared.
    pub(crate) fn compares_order(&self) -> bool {
        self.runs.compares_order()
    }

    /// Returns true for the first new input that differs from another one only in the order of a sequence. `unordered`
    /// is the hash that such inputs have in common.
    pub(crate) fn is_reordered(&mut self, key: RunKey, unordered: u64) -> bool {
        self.runs.is_reordered(key, unordered)
    }

    /// Forgets the outcome of an input. A run of it that is in progress continues, and its outcome is not recorded.
    pub(crate) fn forget(&mut self, key: RunKey, now: Moment) {
        self.runs.forget(key);
        self.drop_waiting(key, "its input was forgotten", now.wall);
        if let Some(current) = self.current.as_mut().filter(|current| current.waiting.key == key) {
            current.waiting.forgotten = true;
        }
    }

    /// Forgets all inputs whose run failed or was stopped.
    pub(crate) fn clear_failures(&mut self) {
        self.runs.forget_all(&[Stage::Failed, Stage::Stopped]);
    }

    /// Stops the Work, and keeps it stopped until [`release`](Self::release).
    pub(crate) fn hold(&mut self, by: Arc<str>, now: Moment) {
        self.stop(now);
        self.hold = Some(Box::new(OperatorStop { by, since: now.wall }));
    }

    /// Returns the operator's stop that holds the Work, if there is one.
    pub(crate) fn held(&self) -> Option<&OperatorStop> {
        self.hold.as_deref()
    }

    /// Lifts the stop of an operator.
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
            Life::Awaited { next: Some(next), .. } => *next = Next::Relaunch { at: now.at },
            Life::Up | Life::Waiting { .. } | Life::Unplaced | Life::Awaited { .. } => {}
        }
    }

    /// Records that there was no place for the launched incarnation, for this reason.
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
            None => self.record(NewStatus::pending(Some(why.to_owned())), now),
        }
    }

    /// Records that a Work that waits for a place does so for another reason than before.
    pub(crate) fn still_waits(&mut self, why: &str, now: Moment) {
        if self.life != Life::Unplaced || self.waits_for.as_deref() == Some(why) {
            return;
        }
        self.waits_for = Some(why.into());
        let status = NewStatus::pending(Some(why.to_owned()));
        let status = match self.queue.iter().next() {
            Some(waiting) => status.of(waiting),
            None => status,
        };
        self.record(status, now);
    }

    /// Launches a Work that waits for a place, because there may be one now.
    pub(crate) fn place(&mut self, now: Moment) {
        if self.life == Life::Unplaced {
            self.launch(now);
        }
    }

    /// Records that the node of the incarnation is lost.
    pub(crate) fn node_lost(&mut self, why: &str, now: Moment) {
        self.actions.push(Action::Kill);
        self.lose_awaited(now);
        let stays = matches!(self.life, Life::Stopping { next: Next::Stay, .. });
        match self.life {
            Life::Stopping { .. } => self.exited(None, now),
            Life::Up if self.policy.on_node_lost == OnNodeLost::Fail => {
                let failure = Failure::new(Reason::NodeLost, why);
                let current = self.current.take().map(|current| current.waiting);
                self.failed(current, failure, true, now);
            }
            Life::Up => {
                self.actions.push(Action::Close(CloseReason::NodeLost));
                match self.current.take().map(|current| current.waiting) {
                    Some(waiting) => self.requeue(waiting, Some(why), now),
                    None => self.record(NewStatus::pending_after_node_loss(why.to_owned()), now),
                }
                self.launch(now);
            }
            Life::Down | Life::Waiting { .. } | Life::Unplaced | Life::Awaited { .. } => {}
        }
        if stays {
            self.actions.push(Action::Close(CloseReason::Stopped));
        }
    }

    /// Stops the Work until it is started or a run is requested.
    pub(crate) fn stop(&mut self, now: Moment) {
        for waiting in self.queue.take_all() {
            self.tries().dropped(&waiting, None, now.wall);
            self.record(NewStatus::stopped().of(&waiting), now);
        }
        if let Some(current) = &mut self.current {
            current.waiting.stopped = true;
        }
        let was_open = !matches!(
            self.life,
            Life::Down
                | Life::Stopping { next: Next::Stay, .. }
                | Life::Awaited { next: Some(Next::Stay), .. }
        );
        match &mut self.life {
            Life::Down => {}
            // An App that ends does not wait for nodes, which end the Works of an App that is over.
            Life::Awaited { .. } if self.ending => self.life = Life::Down,
            Life::Awaited { next, .. } => *next = Some(Next::Stay),
            Life::Up => {
                self.life =
                    Life::Stopping { next: Next::Stay, kill_at: now.at.saturating_add(self.policy.grace) };
                self.actions.push(Action::Stop);
            }
            Life::Stopping { next, .. } => *next = Next::Stay,
            Life::Waiting { .. } | Life::Unplaced => {
                self.life = Life::Down;
                self.record(NewStatus::stopped(), now);
            }
        }
        if was_open {
            self.actions.push(Action::Close(CloseReason::Stopped));
        }
    }

    /// Starts no further incarnation and no further run, because the App ends; a living incarnation continues until
    /// [`shut_down`](Self::shut_down).
    pub(crate) fn wind_down(&mut self, now: Moment) {
        self.record_end();
        self.ending = true;
        if self.life != Life::Up {
            self.stop(now);
        }
    }

    /// Stops the Work because the App ends; existing outcomes are kept.
    pub(crate) fn shut_down(&mut self, now: Moment) {
        self.record_end();
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
            Life::Awaited { next: next @ (None | Some(Next::Stay)), .. } => {
                *next = Some(Next::Relaunch { at: now.at });
            }
            Life::Stopping { .. } | Life::Waiting { .. } | Life::Unplaced | Life::Awaited { .. } => {}
        }
    }

    /// Ends the incarnation gracefully, because its node is about to leave; the next one starts on another node.
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
                // A node says again what the head before may not have recorded.
                if self.tries.as_deref().is_some_and(|tries| tries.has_begun(run)) {
                    return;
                }
                current.deadline = timeout.map(|timeout| now.at.saturating_add(timeout));
                self.waits_for = None;
                let status = NewStatus::running().of(&current.waiting);
                self.record(status, now);
                self.tries().began(now.wall);
            }
            Report::RunSucceeded { run } => {
                let Some(current) = self.end_run(run) else { return };
                self.successes += 1;
                let output = current.status_key().and_then(|key| self.runs.output(key));
                let output = output.map(|output| output.bytes().clone());
                self.tries().returned(output);
                self.tries().ended(Stage::Succeeded, None, None, now.wall);
                self.record(NewStatus::succeeded().of(&current), now);
                self.pump(now);
            }
            Report::RunStopped { run } => {
                let relaunch = matches!(self.life, Life::Stopping { next: Next::Relaunch { .. }, .. });
                let Some(current) = self.end_run(run) else { return };
                if relaunch {
                    self.requeue(current, None, now);
                } else {
                    self.tries().ended(Stage::Stopped, Some(Reason::Stopped), None, now.wall);
                    self.record(NewStatus::stopped().of(&current), now);
                    self.pump(now);
                }
            }
            Report::RunFailed { run, failure } => {
                let Some(current) = self.end_run(run) else { return };
                self.failed(Some(current), failure, false, now);
            }
            Report::Stepped { run, step } => self.stepped(run, step, now),
            // The driver answers it.
            Report::Barrier { .. } => {}
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
            Life::Waiting { until } | Life::Awaited { until, .. } => Some(until),
            Life::Down | Life::Up | Life::Unplaced => None,
        };
        // The deadlines of a run count only while nothing else ends its incarnation.
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
            Life::Awaited { until, .. } if until <= now.at => {
                let why = match &self.node {
                    Some(node) => {
                        format!("node `{node}` has not returned to the head that was started again")
                    }
                    None => "its node has not returned to the head that was started again".to_owned(),
                };
                self.node_lost(&why, now);
            }
            _ => {}
        }
        let Some(current) = self.current.as_ref().filter(|_| self.life == Life::Up) else { return };
        if current.deadline.is_some_and(|deadline| deadline <= now.at) {
            let timeout = self.policy.timeout.unwrap_or_default();
            let message = format!("the run did not end within {timeout:?}");
            self.actions.push(Action::Kill);
            let current = self.current.take().map(|current| current.waiting);
            self.failed(current, Failure::new(Reason::Timeout, message), true, now);
        } else if current.kill_at.is_some_and(|kill_at| kill_at <= now.at) {
            self.actions.push(Action::Kill);
            self.life = Life::Stopping { next: Next::Relaunch { at: now.at }, kill_at: now.at };
            let Current { waiting, .. } = *self.current.take().expect("checked above");
            self.tries().ended(Stage::Stopped, Some(Reason::Stopped), None, now.wall);
            self.record(NewStatus::stopped().of(&waiting), now);
            self.exited(None, now);
        }
    }

    // ---- what can be seen ----

    pub(crate) fn run_status(&self, key: RunKey) -> Status {
        self.runs.get(key).cloned().unwrap_or_default()
    }

    /// Returns the output of the run of an input that has succeeded, if the run has set one.
    pub(crate) fn output(&self, key: RunKey) -> Option<&StepValue> {
        self.runs.output(key).filter(|_| self.runs.stage(key) == Stage::Succeeded)
    }

    /// Returns true while the run of an input is in progress and has reported that it is ready, or has succeeded, in an
    /// incarnation that lives.
    pub(crate) fn is_ready(&self, key: RunKey) -> bool {
        let is_current =
            self.current.as_ref().is_some_and(|current| current.waiting.status_key() == Some(key));
        let is_ready =
            if is_current { self.runs.is_ready(key) } else { self.runs.stage(key) == Stage::Succeeded };
        is_ready && self.life == Life::Up
    }

    /// Returns the status of the run in progress, or else the last status of the Work.
    pub(crate) fn status(&self) -> Status {
        let current = self.current.as_ref().and_then(|current| self.runs.get(current.waiting.status_key()?));
        current.or_else(|| self.history.back()).cloned().unwrap_or_default()
    }

    pub(crate) fn history(&self) -> impl DoubleEndedIterator<Item = &Status> {
        self.history.iter()
    }

    /// Returns the sequence number of the last status.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    pub(crate) fn successes(&self) -> u64 {
        self.successes
    }

    /// Returns true while the Work waits for a node that fits.
    pub(crate) fn is_unplaced(&self) -> bool {
        matches!(self.life, Life::Unplaced)
    }

    /// Returns the policy, as it is shared with the handle of the Work.
    #[cfg(feature = "journal")]
    pub(crate) fn shared_policy(&self) -> Arc<Policy> {
        self.policy.clone()
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns true while an incarnation lives.
    pub(crate) fn is_up(&self) -> bool {
        let is_launched = !self.actions.iter().any(|action| matches!(action, Action::Launch));
        is_launched && matches!(self.life, Life::Up | Life::Stopping { .. } | Life::Awaited { .. })
    }

    /// Returns true if no incarnation lives, and none will start without a request.
    pub(crate) fn is_down(&self) -> bool {
        self.life == Life::Down
    }
}

#[cfg(test)]
mod tests;
