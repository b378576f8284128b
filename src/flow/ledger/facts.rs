//! Facts about the runs of one Work that have to survive the process (pure).
//!
//! A ledger that records its changes gives them as [`Fact`]s, a list for each transaction. An [`Image`] is the result of
//! applying facts in order, and a ledger can be restored from it.
//!
//! # Guarantees
//! - After each transaction, the image of all facts of a ledger is what can be read out of that ledger.
//! - A restored ledger treats an incarnation that was alive as if it had left its node: the run in progress starts
//!   again before any other with the same attempt number, and neither a failure nor a restart is counted. An incarnation
//!   that may live on a node is awaited instead.
//! - The end of an App is no fact about its Works: a Work that was alive then is alive in the image, and its runs wait.
//!   The outcome of a run that ends meanwhile is a fact.
//!
//! Times since the start of the App are facts as they are. The clock of an App that is restored continues from the time
//! of the last transaction.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[cfg(feature = "journal")]
use super::input_facts::InputFacts;
use super::memory::{Memory, StepChange};
use super::queue::{RunQueue, Touched};
use super::runs::{Outcomes, RunEntry, TRIES, Tries};
use super::{Action, Current, HISTORY, Ledger, Life, Moment, Next, OperatorStop, Waiting};
use crate::flow::policy::Policy;
use crate::flow::restart::Restarts;
#[cfg(feature = "journal")]
use crate::payload::PayloadGuards;
use crate::trace::Cause;
use crate::work::{Input, KnownStep, RunKey, Stage, Status, StepId, Steps};

/// A change of the durable part of a ledger.
#[derive(Debug, Clone)]
pub(crate) enum Fact {
    /// A run was requested.
    Requested { place: u64, key: RunKey, input: Input, queued: SystemTime },
    /// A run waits for its turn, after it was requested or interrupted.
    Waits { place: u64, progress: Progress },
    /// A run has ended, or was dropped before it began.
    Ended { place: u64 },
    /// The status of an input was set, at this time since the start of the App.
    Input { key: RunKey, status: Status, at: Duration },
    /// An input was forgotten.
    Forgotten { key: RunKey },
    /// A status was added to the history.
    Recorded(Status),
    /// An attempt at a run has ended.
    Attempted { number: u64, entry: RunEntry },
    /// A step of a run of this input was intended or done.
    Step { input: RunKey, step: KnownStep },
    /// These steps of the runs of this input were forgotten.
    StepsForgotten { input: RunKey, steps: Vec<StepId> },
    /// The life of the Work or its counters have changed.
    Work(WorkFacts),
    /// The input of this key was read by a changed program.
    #[cfg(feature = "journal")]
    Given { key: RunKey, input: Input },
    /// A run that has not ended has another key and input, because its input was read by a changed program.
    #[cfg(feature = "journal")]
    OtherKey { place: u64, key: RunKey, input: Input, queued: SystemTime },
    /// The remembered inputs were read by this program, or the first one was requested in it.
    #[cfg(feature = "journal")]
    InputsRead(InputFacts),
}

impl Fact {
    /// Returns true for a fact that a start which ends like the one before does not record again: a run was requested or has
    /// ended by itself, or a step was taken.
    #[cfg(feature = "journal")]
    pub(crate) fn is_progress(&self) -> bool {
        match self {
            // The attempt of a run that was interrupted is recorded as stopped by the next start.
            Self::Attempted { entry, .. } => entry.stage != Stage::Stopped,
            Self::Requested { .. } | Self::Step { .. } => true,
            _ => false,
        }
    }
}

/// Progress of a run that has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(super) attempts: u32,
    pub(super) forgotten: bool,
    pub(super) stopped: bool,
}

impl Progress {
    fn of(run: &Waiting) -> Self {
        Self { attempts: run.attempts, forgotten: run.forgotten, stopped: run.stopped }
    }
}

/// The run in progress of a Work, as it is recorded.
#[cfg(feature = "journal")]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunInProgress {
    /// Its place in the queue, which no other run of the Work has.
    pub(crate) place: u64,
    pub(crate) run: u64,
    pub(crate) attempt: u32,
    pub(crate) started: Option<SystemTime>,
    pub(crate) node: Option<Arc<str>>,
}

#[cfg(feature = "journal")]
impl WorkFacts {
    /// Returns the run in progress.
    pub(crate) fn run_in_progress(&self) -> Option<RunInProgress> {
        self.current.as_ref().map(|current| RunInProgress {
            place: current.place,
            run: current.run,
            attempt: current.progress.attempts,
            started: current.started,
            node: current.node.clone(),
        })
    }

    /// Returns the operator's stop that holds the Work.
    pub(crate) fn held(&self) -> Option<&OperatorStop> {
        self.hold.as_ref()
    }

    /// Returns what becomes of the incarnation of the Work, in words.
    #[cfg(feature = "cli")]
    pub(crate) fn life_in_words(&self) -> &'static str {
        match self.life {
            LifeFacts::Down => "is down",
            LifeFacts::Up => "starts",
            LifeFacts::Stopping(Next::Stay) => "stops",
            LifeFacts::Stopping(Next::Relaunch { .. }) => "restarts",
            LifeFacts::Waiting { .. } => "waits for its restart",
            LifeFacts::Unplaced => "waits for a place",
        }
    }

    /// Returns true if the Work has just joined: it was launched once at most, and no attempt at a run has ended.
    pub(crate) fn is_new(&self) -> bool {
        self.next_run <= 2 && self.attempted == 0 && self.launches <= 1
    }
}

/// Life and counters of a Work.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WorkFacts {
    pub(super) life: LifeFacts,
    pub(super) moving: bool,
    pub(super) current: Option<CurrentRun>,
    pub(super) hold: Option<OperatorStop>,
    pub(super) restarts: Vec<Duration>,
    pub(super) outcomes: Outcomes,
    /// Number of attempts that have ended.
    pub(super) attempted: u64,
    pub(super) next_run: u64,
    pub(super) next_place: u64,
    pub(super) seq: u64,
    pub(super) successes: u64,
    pub(super) launches: u32,
    /// Number of the incarnation that was launched last.
    pub(super) incarnation: u64,
    /// Node of the living incarnation, once it is known.
    pub(super) node: Option<Arc<str>>,
}

/// The life of a Work, without the deadlines that end with the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LifeFacts {
    #[default]
    Down,
    Up,
    Stopping(Next),
    Waiting {
        until: Duration,
    },
    Unplaced,
}

impl From<Life> for LifeFacts {
    fn from(life: Life) -> Self {
        match life {
            Life::Down => Self::Down,
            Life::Up => Self::Up,
            Life::Stopping { next, .. } => Self::Stopping(next),
            Life::Waiting { until } => Self::Waiting { until },
            Life::Unplaced => Self::Unplaced,
            Life::Awaited { next: None, .. } => Self::Up,
            Life::Awaited { next: Some(next), .. } => Self::Stopping(next),
        }
    }
}

/// The run in progress.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CurrentRun {
    pub(super) place: u64,
    pub(super) run: u64,
    pub(super) progress: Progress,
    pub(super) started: Option<SystemTime>,
    pub(super) node: Option<Arc<str>>,
}

/// State of a ledger that records its changes.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// Statuses since the last transaction.
    pub(super) statuses: Vec<Status>,
    /// The facts about the Work at the last transaction.
    work: WorkFacts,
    /// Changes before the App began to end, once it has begun.
    before_end: Option<Vec<Fact>>,
    /// True if a run of an unknown input was requested since the last call of
    /// [`take_unknown_request`](Ledger::take_unknown_request).
    #[cfg(feature = "journal")]
    has_unknown_request: bool,
}

impl Ledger {
    /// Records changes from now on.
    pub(crate) fn record_facts(&mut self) {
        self.recording = Some(Box::new(Recording { work: self.work_facts(), ..Recording::default() }));
        self.queue.record_changes();
        self.runs.record_changes();
        self.tries().record_changes();
    }

    /// Notes that a run of an input was requested that was never requested before, or was forgotten.
    #[cfg(feature = "journal")]
    pub(super) fn note_unknown_request(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.has_unknown_request = true;
        }
    }

    /// Returns true if a run of an unknown input was requested since the last call.
    #[cfg(feature = "journal")]
    pub(crate) fn take_unknown_request(&mut self) -> bool {
        self.recording.as_mut().is_some_and(|recording| std::mem::take(&mut recording.has_unknown_request))
    }

    /// Returns the changes since the last call, which make a transaction together.
    pub(crate) fn take_facts(&mut self) -> Vec<Fact> {
        let Some(mut recording) = self.recording.take() else { return Vec::new() };
        let before = recording.work.clone();
        let mut facts = Vec::new();
        recording.work = match recording.before_end.take() {
            None => self.append_changes(&mut recording, &mut facts),
            Some(before_end) => {
                facts.extend(before_end);
                recording.before_end = Some(Vec::new());
                self.append_outcome(&mut recording, &mut facts)
            }
        };
        if recording.work != before {
            facts.push(Fact::Work(recording.work.clone()));
        }
        self.recording = Some(recording);
        facts
    }

    /// Appends all changes but those of the facts about the Work, which are returned.
    fn append_changes(&mut self, recording: &mut Recording, facts: &mut Vec<Fact>) -> WorkFacts {
        let touched = self.queue.take_touched();
        self.append_runs(touched, recording.work.current.as_ref(), facts);
        facts.extend(self.take_facts_of_inputs());
        facts.extend(recording.statuses.drain(..).map(Fact::Recorded));
        let attempted = self.take_attempts().into_iter();
        facts.extend(attempted.map(|(number, entry)| Fact::Attempted { number, entry }));
        let steps = self.runs.take_step_changes();
        facts.extend(steps.into_iter().filter_map(|change| self.fact_of_step(change)));
        self.work_facts()
    }

    /// Appends the steps and the outcome of the run in progress, if it has one now, and no other change. Returns the facts
    /// about the Work.
    fn append_outcome(&mut self, recording: &mut Recording, facts: &mut Vec<Fact>) -> WorkFacts {
        let is_outcome = |stage| matches!(stage, Stage::Succeeded | Stage::Failed);
        let inputs = self.take_facts_of_inputs();
        let statuses = std::mem::take(&mut recording.statuses);
        let attempts = self.take_attempts();
        let work = recording.work.clone();
        let (forgotten, known): (Vec<_>, Vec<_>) = self
            .runs
            .take_step_changes()
            .into_iter()
            .partition(|change| matches!(change, StepChange::Forgotten(..)));
        facts.extend(known.into_iter().filter_map(|change| self.fact_of_step(change)));
        let Some(run) = &work.current else { return work };
        let is_its_end = |entry: &RunEntry| entry.run == Some(run.run) && is_outcome(entry.stage);
        let Some((number, entry)) = attempts.into_iter().find(|(_, entry)| is_its_end(entry)) else {
            return work;
        };
        let is_status = |fact: &Fact| matches!(fact, Fact::Input { status, .. } if is_outcome(status.stage));
        facts.push(Fact::Ended { place: run.place });
        facts.extend(inputs.into_iter().filter(is_status));
        facts.extend(statuses.into_iter().filter(|status| is_outcome(status.stage)).map(Fact::Recorded));
        if entry.stage == Stage::Succeeded {
            facts.extend(forgotten.into_iter().filter_map(|change| self.fact_of_step(change)));
        }
        facts.push(Fact::Attempted { number, entry });
        let WorkFacts { outcomes, attempted, successes, seq, .. } = self.work_facts();
        WorkFacts { current: None, outcomes, attempted, successes, seq, ..work }
    }

    fn fact_of_step(&self, change: StepChange) -> Option<Fact> {
        match change {
            // A step that was forgotten since is followed by a change that says so.
            StepChange::Known(input, id) => {
                self.runs.steps(input).get(id).map(|step| Fact::Step { input, step: step.clone() })
            }
            StepChange::Forgotten(input, steps) => Some(Fact::StepsForgotten { input, steps }),
        }
    }

    fn take_attempts(&mut self) -> Vec<(u64, RunEntry)> {
        self.tries.as_mut().map(|tries| tries.take_ended()).unwrap_or_default()
    }

    /// Records from now on only the outcome of the run in progress, because the App ends. The changes before are kept for
    /// the next transaction.
    pub(super) fn record_end(&mut self) {
        if self.recording.as_ref().is_none_or(|recording| recording.before_end.is_some()) {
            return;
        }
        let facts = self.take_facts();
        if let Some(recording) = &mut self.recording {
            recording.before_end = Some(facts);
        }
    }

    fn take_facts_of_inputs(&mut self) -> Vec<Fact> {
        let changed = self.runs.take_changed().into_iter();
        let fact = |(key, at)| match self.runs.get(key) {
            Some(status) => Fact::Input { key, status: status.clone(), at },
            None => Fact::Forgotten { key },
        };
        changed.map(fact).collect()
    }

    /// Appends the facts about runs that were requested, wait or have ended. `before` was in progress at the last
    /// transaction.
    fn append_runs(&self, touched: Vec<Touched>, before: Option<&CurrentRun>, facts: &mut Vec<Fact>) {
        let mut places: BTreeMap<u64, bool> = BTreeMap::new();
        // A run that was in progress and has ended was not in the queue since.
        let ended = before.map(|run| Touched { place: run.place, is_new: false });
        for run in touched.into_iter().chain(ended) {
            *places.entry(run.place).or_default() |= run.is_new;
        }
        let current = self.current.as_deref().map(|current| &current.waiting);
        for (place, is_new) in places {
            let run = self.queue.get(place).or_else(|| current.filter(|run| run.place == place));
            match run {
                Some(run) => {
                    if is_new {
                        let (key, input, queued) = (run.key, run.input.clone(), run.queued);
                        facts.push(Fact::Requested { place, key, input, queued });
                    }
                    let progress = Progress::of(run);
                    let is_known = before.is_some_and(|run| run.place == place && run.progress == progress);
                    if !is_known {
                        facts.push(Fact::Waits { place, progress });
                    }
                }
                None if is_new => {}
                None => facts.push(Fact::Ended { place }),
            }
        }
    }

    fn work_facts(&self) -> WorkFacts {
        let in_progress = self.tries.as_deref().and_then(Tries::in_progress);
        let current = self.current.as_deref().map(|Current { waiting, run, .. }| CurrentRun {
            place: waiting.place,
            run: *run,
            progress: Progress::of(waiting),
            started: in_progress.and_then(|entry| entry.started),
            node: in_progress.and_then(|entry| entry.node.clone()),
        });
        WorkFacts {
            life: self.life.into(),
            moving: self.moving,
            current,
            hold: self.hold.as_deref().cloned(),
            restarts: self.restarts.times(),
            outcomes: self.outcomes(),
            attempted: self.tries.as_deref().map_or(0, Tries::attempted),
            next_run: self.next_run,
            next_place: self.queue.next_place(),
            seq: self.seq,
            successes: self.successes,
            launches: self.launches,
            incarnation: self.incarnation,
            node: self.node().cloned(),
        }
    }

    /// Restores a ledger of a Work whose head has ended, and records its changes from now on. An incarnation that was
    /// alive is launched again, or awaited until the time `awaited`, if there is one.
    pub(crate) fn restore(policy: Arc<Policy>, image: Image, awaited: Option<Duration>, now: Moment) -> Self {
        let (mut ledger, life) = Self::rebuilt(policy, image, now);
        ledger.life = match (life, awaited) {
            (LifeFacts::Down, _) => Life::Down,
            (LifeFacts::Up, Some(until)) => Life::Awaited { until, next: None },
            (LifeFacts::Up, None) => Life::Up,
            (LifeFacts::Stopping(next), Some(until)) => Life::Awaited { until, next: Some(next) },
            (LifeFacts::Stopping(next), None) => Life::Stopping { next, kill_at: now.at },
            (LifeFacts::Waiting { until }, _) => Life::Waiting { until },
            (LifeFacts::Unplaced, _) => Life::Unplaced,
        };
        ledger.record_facts();
        ledger.process_ended(now);
        ledger
    }

    /// Restores a ledger as it was while its process lived, to repeat what was done with it then, and records its changes
    /// from now on.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(crate) fn as_it_was(policy: Arc<Policy>, image: Image, now: Moment) -> Self {
        let (mut ledger, life) = Self::rebuilt(policy, image, now);
        ledger.life = match life {
            LifeFacts::Down => Life::Down,
            LifeFacts::Up => Life::Up,
            LifeFacts::Stopping(next) => Life::Stopping { next, kill_at: Duration::MAX },
            LifeFacts::Waiting { until } => Life::Waiting { until },
            LifeFacts::Unplaced => Life::Unplaced,
        };
        ledger.record_facts();
        ledger
    }

    /// Makes a ledger of which only the life is missing, which is returned.
    fn rebuilt(policy: Arc<Policy>, image: Image, now: Moment) -> (Self, LifeFacts) {
        let Image { work, mut runs, inputs, statuses, attempts, steps, .. } = image;
        let remember = policy.remember;
        let mut ledger = Self::new(policy);
        let mut tries = Tries::restored(attempts, work.outcomes, work.attempted);
        if let Some(CurrentRun { place, run, started, node, .. }) = work.current
            && let Some(waiting) = runs.remove(&place).map(|requested| requested.waiting(place))
        {
            tries.restore_in_progress(run, started, node, &waiting);
            ledger.current = Some(Box::new(Current { waiting, run, deadline: None, kill_at: None }));
        }
        ledger.tries = Some(Box::new(tries));
        let waiting = runs.into_iter().map(|(place, requested)| requested.waiting(place)).collect();
        ledger.queue = RunQueue::restored(waiting, work.next_place);
        let inputs = inputs.into_iter().map(|(key, (status, at))| (key, status, at));
        ledger.runs = Memory::restored(inputs, steps, remember, now);
        ledger.history = statuses;
        ledger.restarts = Restarts::restored(&work.restarts);
        ledger.hold = work.hold.map(Box::new);
        ledger.moving = work.moving;
        (ledger.next_run, ledger.seq) = (work.next_run, work.seq);
        (ledger.successes, ledger.launches) = (work.successes, work.launches);
        (ledger.incarnation, ledger.node) = (work.incarnation, work.node);
        (ledger, work.life)
    }

    /// As [`hold`](Self::hold), for a restored Work none of whose actions was carried out: no incarnation is launched to be
    /// stopped.
    pub(crate) fn hold_unlaunched(&mut self, by: Arc<str>, now: Moment) {
        self.hold(by, now);
        self.actions.retain(|action| matches!(action, Action::Close(_)));
        if matches!(self.life, Life::Stopping { next: Next::Stay, .. }) {
            self.exited(None, now);
        }
    }

    /// Ends a restored Work none of whose actions was carried out, because the App ends: nothing of that is recorded.
    #[cfg(feature = "journal")]
    pub(crate) fn never_launched(&mut self) {
        self.record_end();
        self.ending = true;
        self.actions.clear();
        self.life = Life::Down;
    }

    /// Has an incarnation whose node has not returned yet awaited until this time.
    #[cfg(feature = "journal")]
    pub(crate) fn await_until(&mut self, time: Duration) {
        if let Life::Awaited { until, .. } = &mut self.life {
            *until = time;
        }
    }

    /// Ends the incarnation that was alive when the process ended, and launches the next one.
    pub(super) fn process_ended(&mut self, now: Moment) {
        match self.life {
            Life::Up => {
                self.moving = true;
                self.life = Life::Stopping { next: Next::Relaunch { at: now.at }, kill_at: now.at };
                self.exited(None, now);
            }
            Life::Stopping { .. } => self.exited(None, now),
            Life::Unplaced => self.place(now),
            Life::Waiting { .. } => self.on_time(now),
            Life::Down | Life::Awaited { .. } => {}
        }
    }
}

/// The durable part of a ledger.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Image {
    pub(super) work: WorkFacts,
    /// Runs that have not ended, by place.
    pub(super) runs: BTreeMap<u64, RequestedRun>,
    /// Statuses of inputs, and when they were set.
    pub(super) inputs: HashMap<RunKey, (Status, Duration)>,
    /// The last statuses, oldest first.
    pub(super) statuses: VecDeque<Status>,
    /// The last attempts that have ended, oldest first.
    pub(super) attempts: VecDeque<RunEntry>,
    /// Steps of runs that have not succeeded, and outputs of those that have, by their input.
    pub(super) steps: HashMap<RunKey, Steps>,
    #[cfg(feature = "journal")]
    pub(super) inputs_read: InputFacts,
}

/// A run that has not ended.
#[derive(Debug, Clone)]
pub(super) struct RequestedRun {
    pub(super) key: RunKey,
    pub(super) input: Input,
    pub(super) queued: SystemTime,
    pub(super) progress: Progress,
}

impl RequestedRun {
    fn waiting(self, place: u64) -> Waiting {
        let Self { key, input, queued, progress: Progress { attempts, forgotten, stopped } } = self;
        Waiting { place, key, input, queued, attempts, forgotten, stopped, cause: Cause::default() }
    }
}

impl PartialEq for RequestedRun {
    fn eq(&self, other: &Self) -> bool {
        let of = |run: &Self| (run.key, run.queued, run.progress);
        of(self) == of(other) && self.input.bytes == other.input.bytes
    }
}

impl Image {
    /// Creates the image of a new ledger.
    pub(crate) fn new() -> Self {
        let work = WorkFacts { next_run: 1, ..WorkFacts::default() };
        Self { work, ..Self::default() }
    }

    /// Sets the guards of the payloads in inputs and steps, which `guards` finds in their bytes.
    #[cfg(feature = "journal")]
    pub(crate) fn restore_guards(&mut self, mut guards: impl FnMut(&[u8]) -> PayloadGuards) {
        for run in self.runs.values_mut() {
            run.input = Input::arrived(run.input.bytes.clone(), guards(&run.input.bytes));
        }
        self.steps.values_mut().for_each(|steps| steps.restore_guards(&mut guards));
    }

    /// Returns the facts about runs and steps that refer to payloads.
    #[cfg(feature = "journal")]
    pub(crate) fn facts_with_guards(&self) -> impl Iterator<Item = Fact> {
        let runs = self.runs.iter().filter(|(_, run)| !run.input.holds().is_empty());
        let runs = runs.map(|(place, run)| {
            let (key, input, queued) = (run.key, run.input.clone(), run.queued);
            Fact::Requested { place: *place, key, input, queued }
        });
        let steps = self.steps.iter().flat_map(|(input, steps)| steps.iter().map(|step| (*input, step)));
        let steps = steps.filter(|(_, step)| !step.holds().is_empty());
        runs.chain(steps.map(|(input, step)| Fact::Step { input, step: step.clone() }))
    }

    /// Returns true if an incarnation was alive.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.work.life, LifeFacts::Up | LifeFacts::Stopping(_))
    }

    /// Returns the node of the incarnation that was alive, if it is known.
    pub(crate) fn node(&self) -> Option<&str> {
        self.work.node.as_deref()
    }

    /// Returns true if a run was in progress.
    pub(crate) fn has_run_in_progress(&self) -> bool {
        self.work.current.is_some()
    }

    pub(crate) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Requested { place, key, input, queued } => {
                let progress = Progress::default();
                self.runs.insert(place, RequestedRun { key, input, queued, progress });
            }
            Fact::Waits { place, progress } => self.set_progress(place, progress),
            Fact::Ended { place } => drop(self.runs.remove(&place)),
            Fact::Input { key, status, at } => drop(self.inputs.insert(key, (status, at))),
            Fact::Forgotten { key } => drop(self.inputs.remove(&key)),
            Fact::Recorded(status) => push_bounded(&mut self.statuses, status, HISTORY),
            Fact::Attempted { entry, .. } => push_bounded(&mut self.attempts, entry, TRIES),
            Fact::Step { input, step } => {
                // The steps were within the limits of the ledger.
                let _ = self.steps.entry(input).or_default().insert(step);
            }
            Fact::StepsForgotten { input, steps } => {
                let Some(known) = self.steps.get_mut(&input) else { return };
                steps.into_iter().for_each(|id| drop(known.remove(id)));
                if known.is_empty() {
                    self.steps.remove(&input);
                }
            }
            Fact::Work(work) => {
                if let Some(current) = &work.current {
                    self.set_progress(current.place, current.progress);
                }
                self.work = work;
            }
            // The image has no inputs of runs that have ended.
            #[cfg(feature = "journal")]
            Fact::Given { .. } => {}
            #[cfg(feature = "journal")]
            Fact::OtherKey { place, key, input, .. } => {
                if let Some(run) = self.runs.get_mut(&place) {
                    (run.key, run.input) = (key, input);
                }
            }
            #[cfg(feature = "journal")]
            Fact::InputsRead(inputs) => self.inputs_read = inputs,
        }
    }

    pub(super) fn set_progress(&mut self, place: u64, progress: Progress) {
        if let Some(run) = self.runs.get_mut(&place) {
            run.progress = progress;
        }
    }
}

fn push_bounded<T>(items: &mut VecDeque<T>, item: T, most: usize) {
    while items.len() >= most {
        items.pop_front();
    }
    items.push_back(item);
}

#[cfg(test)]
impl Image {
    /// Returns the image without the times at which statuses were set, which a ledger does not keep.
    pub(super) fn without_times(&self) -> Self {
        let mut image = self.clone();
        image.inputs.values_mut().for_each(|(_, at)| *at = Duration::ZERO);
        image
    }
}

#[cfg(test)]
impl Ledger {
    /// Reads the durable part out of the ledger.
    pub(super) fn image(&self) -> Image {
        let current = self.current.iter().map(|current| &current.waiting);
        let runs = self.queue.iter().chain(current).map(|run| {
            let Waiting { place, key, input, queued, .. } = run;
            let (key, input, queued) = (*key, input.clone(), *queued);
            (*place, RequestedRun { key, input, queued, progress: Progress::of(run) })
        });
        let inputs = self.runs.iter().map(|(key, status)| (*key, (status.clone(), Duration::ZERO)));
        let tries = self.tries.as_deref();
        let ended = tries.into_iter().flat_map(Tries::ended_ones).cloned();
        Image {
            work: self.work_facts(),
            runs: runs.collect(),
            inputs: inputs.collect(),
            statuses: self.history.clone(),
            attempts: ended.collect(),
            steps: self.runs.all_steps().map(|(key, steps)| (*key, steps.clone())).collect(),
            #[cfg(feature = "journal")]
            inputs_read: InputFacts::default(),
        }
    }
}
