//! Repetition of recorded reactions: the Flows of this program react to recorded states, with no hosts and no clock.
//!
//! # Guarantees
//! - The Flows see what is recorded: states, statuses of runs, children, schedules, and the time and the number of the
//!   reaction.
//! - Nothing leaves the driver: no Work is launched, no run starts, and nothing is recorded.
//! - A reaction that could see something that is not recorded is not repeated, and neither is one that could see what such
//!   a reaction has done in the same cycle.
//! - Between two cycles the tree is as the constructor has made it, but for the fields that serde skips.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::super::clock::Clock;
use super::super::config::{Config, OnMismatch};
use super::super::error::{AppError, Unrestorable};
use super::super::hosts::Hosts;
use super::super::watchdog::Watchdog;
use super::journaling::{Draft, Journaling, Touched};
use super::lifecycle::Lifecycle;
use super::mismatch::{Adapted, adapt};
use super::observers::Observers;
use super::reaction_queue::ReactionQueue;
use super::recorded_app::Recovery;
use super::recovery::{Resumed, moved, read_inputs};
use super::renaming::Move;
use super::restored_values::RestoredValues;
use super::wake_ups::WakeUps;
use super::{Driver, Start};
use crate::flow::{AnyFlow, Journaled, Ledger, Moment, RecordedTree, RestoreError, Restored};
use crate::id::{ActorPath, FlowId, WorkId};
use crate::journal::{Change, Live, Reacted, Reaction, ReactionEnd, StoredValue, Values};
use crate::payload::Store;
use crate::printable::chain;
use crate::runtime::Runtime;
use crate::work::{Place, RunKey, WorkType};

/// Repeats recorded reactions with the Flows of this program.
pub(in crate::app) struct Repeater {
    driver: Driver,
    /// The tree as the constructor has made it.
    constructed: RecordedTree,
    watchdog: Watchdog,
    moves: Vec<Move>,
    /// The values of payloads that the journal has.
    values: Vec<StoredValue>,
    recorded: Arc<Values>,
}

/// The reactions of a cycle, and what the first of them saw.
pub(in crate::app) struct Cycle<'c> {
    pub(in crate::app) live: Live,
    /// The actors whose states in `live` are not those that the Flows saw, which are not recorded.
    pub(in crate::app) unknown: &'c BTreeSet<ActorPath>,
    pub(in crate::app) reactions: &'c [Reaction],
    /// The wall-clock time of each reaction.
    pub(in crate::app) walls: &'c [SystemTime],
}

/// The outcome of the repetition of a cycle.
pub(in crate::app) struct Repeated {
    /// The outcome of each reaction.
    pub(in crate::app) outcomes: Vec<Outcome>,
    /// The live data that the first reaction saw, with what is recorded of Flows as this program records it.
    pub(in crate::app) before: Live,
    /// The changes that the reactions have made.
    pub(in crate::app) changes: Vec<Change>,
    /// The fields that the program has and the record lacks, and the other way round.
    pub(in crate::app) restored: Restored,
    /// The moves of actors that were due.
    pub(in crate::app) moves: Vec<Move>,
    /// The types of the Works.
    kinds: HashMap<ActorPath, &'static WorkType>,
}

/// The outcome of the repetition of one reaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app) enum Outcome {
    /// The Flow has reacted, and this is its unusual end.
    Reacted(Option<ReactionEnd>),
    /// There is no such Flow now, or it does not react any more.
    Absent,
    /// The reaction could see something that is not recorded.
    Unrecorded(Missing),
}

/// The part of the record that a reaction could see and that is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Missing {
    /// A state that another one has replaced in the same commit.
    State,
    /// The state or the runs of a Work with [`Journaled::RunsOnly`] or [`Journaled::Off`].
    Work,
    /// The value of a payload.
    Payload,
}

impl Repeater {
    /// Makes the tree of the Flows `root`, as the constructor has made it.
    ///
    /// # Errors
    /// When the tree is invalid, or cannot be recorded.
    pub(in crate::app) fn new(
        root: Box<dyn AnyFlow>,
        config: Config,
        hosts: Hosts,
        runtime: Arc<Runtime>,
        watchdog: Watchdog,
        moves: Vec<Move>,
        values: Vec<StoredValue>,
    ) -> Result<Self, AppError> {
        let clock = Clock::held_at(Moment { at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH });
        let (exit, _) = oneshot::channel();
        let start =
            Start { runtime, watchdog: watchdog.clone(), clock, on_failure: None, exit, journal: None };
        let mut driver = Driver::new(root, config, hosts, start)?;
        let problems = driver.root.problems();
        if !problems.is_empty() {
            let problems = problems.iter().map(|problem| chain(problem)).collect();
            return Err(AppError::Unrecordable(Unrestorable::new(problems)));
        }
        let constructed = driver.root.recorded_tree().map_err(AppError::Failed)?;
        Ok(Self { driver, constructed, watchdog, moves, values, recorded: Values::unchanged() })
    }

    /// Repeats the reactions of a cycle.
    ///
    /// # Errors
    /// [`AppError::Unrestorable`] if this program cannot read the record.
    pub(in crate::app) fn repeat(&mut self, cycle: Cycle<'_>) -> Result<Repeated, AppError> {
        let Cycle { mut live, unknown, reactions, walls } = cycle;
        let moment = |index: usize| {
            let at = reactions.get(index).map_or(Duration::ZERO, |reaction| reaction.at);
            Moment { at, wall: walls.get(index).copied().unwrap_or(SystemTime::UNIX_EPOCH) }
        };
        self.reset(moment(0));
        let driver = &mut self.driver;
        let moved = moved(&mut live, &self.moves)?.paths;
        let moves: Vec<_> = self.moves.iter().filter(|one| moved.contains(&one.to)).cloned().collect();
        let renamed = |path: &ActorPath| Move::rename(&moves, path);
        let store = Store::of(&driver.runtime);
        // Kept until all have reacted.
        let _values = RestoredValues::new(self.values.clone(), &live, store, self.recorded.clone());
        let unrestorable = |errors: Vec<RestoreError>| {
            AppError::Unrestorable(Unrestorable::new(errors.iter().map(|error| chain(error)).collect()))
        };
        driver.root.restore_constructed(&self.constructed).map_err(unrestorable)?;
        let mut before = live.clone();
        let root = &mut driver.root;
        let Adapted { recovery, restored, .. } = adapt(live, &moved, OnMismatch::Refuse, 0, |recovery| {
            if recovery.is_empty() { Ok(Restored::default()) } else { root.restore(recovery.tree()) }
        })?;
        driver.tree.record_changes();
        driver.walk_tree().map_err(AppError::Failed)?;
        let new = driver.restore_as_it_was(recovery);
        driver.lifecycle.begin();
        let now = driver.wake_ups.now();
        new.into_iter().for_each(|id| driver.start(id, now));
        driver.due = ReactionQueue::default();
        for change in driver.take_all_changes() {
            // A patch that does not fit would be one of the driver's own.
            let _ = before.apply(&change);
        }
        driver.journaling.keep_draft(Draft { reacted: Some(Reacted::default()), ..Draft::default() });

        let flows = driver.tree.flows().map(|(id, entry)| (entry.link.path.clone(), id)).collect();
        let unknown: HashSet<_> = unknown.iter().map(renamed).collect();
        let mut course = Course { flows, unknown, unrecorded: Vec::new() };
        let outcomes = reactions.iter().enumerate().map(|(index, reaction)| {
            driver.wake_ups.hold_at(moment(index));
            driver.repeat_reaction(&renamed(&reaction.flow), reaction.number, &mut course)
        });
        let outcomes = outcomes.collect();
        let kinds = driver.tree.members().map(|record| {
            let record = record.lock();
            (record.path.clone(), record.kind)
        });
        let kinds = kinds.collect();
        let changes = driver.take_touched_changes();
        Ok(Repeated { outcomes, before, changes, restored, moves, kinds })
    }

    fn reset(&mut self, now: Moment) {
        let driver = &mut self.driver;
        let (exit, _) = oneshot::channel();
        driver.journaling = Journaling::of_repetition();
        driver.tree = driver.tree.successor();
        driver.wake_ups = WakeUps::new(Clock::held_at(now));
        driver.due = ReactionQueue::default();
        driver.stale = Vec::new();
        driver.lifecycle = Lifecycle::new(None, exit, self.watchdog.clone());
        driver.observers = Observers::new();
        driver.outcome = None;
        driver.resumed = Resumed::default();
        #[cfg(feature = "remote")]
        {
            driver.adoptions = super::adoption::Adoptions::default();
        }
    }
}

impl Repeated {
    /// Returns the path that an actor has in this program.
    pub(in crate::app) fn renamed(&self, path: &ActorPath) -> ActorPath {
        Move::rename(&self.moves, path)
    }

    /// Returns the key that an input of a Work has in this program, if its recorded bytes are known and can be read.
    pub(in crate::app) fn key(&self, path: &ActorPath, key: RunKey, bytes: Option<&[u8]>) -> RunKey {
        let read = self.kinds.get(path).zip(bytes).map(|(kind, bytes)| kind.recorded_input(key, bytes));
        read.and_then(Result::ok).map_or(key, |(key, _)| key)
    }
}

/// The course of the repetition of a cycle.
struct Course {
    flows: HashMap<ActorPath, FlowId>,
    unknown: HashSet<ActorPath>,
    /// Flows whose reactions are not repeated, or have seen what is not recorded.
    unrecorded: Vec<FlowId>,
}

impl Driver {
    fn repeat_reaction(&mut self, path: &ActorPath, number: u64, course: &mut Course) -> Outcome {
        let joined = || self.tree.flows().find(|(_, entry)| entry.link.path == *path).map(|(id, _)| id);
        let known = course.flows.get(path).copied().filter(|id| self.tree.flow(*id).is_some());
        let Some(id) = known.or_else(joined) else { return Outcome::Absent };
        if let Some(missing) = self.missing_to(id, course) {
            course.unrecorded.push(id);
            return Outcome::Unrecorded(missing);
        }
        if !self.lifecycle.is_running() {
            return Outcome::Absent;
        }
        if let Some(cx) = self.tree.flow_mut(id).and_then(|entry| entry.cx.as_mut()) {
            cx.continue_with(number);
        }
        let store = Store::of(&self.runtime);
        let (missing, before) = (store.missing(), self.journaling.reactions());
        self.react(id);
        if store.missing() != missing {
            course.unrecorded.push(id);
            return Outcome::Unrecorded(Missing::Payload);
        }
        match self.journaling.last_reaction() {
            Some(reaction) if self.journaling.reactions() > before => Outcome::Reacted(reaction.end.clone()),
            _ => Outcome::Absent,
        }
    }

    /// Returns what a Flow could see that is not recorded.
    fn missing_to(&self, id: FlowId, course: &Course) -> Option<Missing> {
        let is_above = |above: FlowId, below: FlowId| self.tree.upwards(below).any(|(flow, _)| flow == above);
        if course.unrecorded.iter().any(|other| is_above(*other, id) || is_above(id, *other)) {
            return Some(Missing::State);
        }
        let flows = self.tree.flows_from(id);
        if flows
            .iter()
            .any(|flow| self.tree.flow(*flow).is_some_and(|entry| course.unknown.contains(&entry.link.path)))
        {
            return Some(Missing::State);
        }
        if self.tree.flow(id).is_some_and(|entry| entry.sees_unrecorded) {
            return Some(Missing::State);
        }
        let mut missing = None;
        for work in self.tree.works_below(id) {
            let Some(record) = self.tree.work(work) else { continue };
            let record = record.lock();
            if course.unknown.contains(&record.path) {
                return Some(Missing::State);
            }
            if record.ledger.policy().journaled != Journaled::All {
                missing = Some(Missing::Work);
            }
        }
        missing
    }

    /// Restores the ledgers of Works and the facts about Flows as they were while the process lived. Returns the Works of
    /// which nothing is recorded.
    fn restore_as_it_was(&mut self, mut recovery: Recovery) -> Vec<WorkId> {
        let now = self.wake_ups.now();
        let mut new = Vec::new();
        for id in self.tree.order().to_vec() {
            let Some(shared) = self.tree.work(id).cloned() else { continue };
            let mut record = shared.lock();
            let path = record.path.clone();
            let Some(mut image) = recovery.images.remove(&path) else {
                new.push(id);
                continue;
            };
            record.unrecorded_settings = None;
            if record.ledger.policy().journaled == Journaled::Off {
                continue;
            }
            let given = recovery.given.remove(&path).unwrap_or_default();
            let _ = read_inputs(record.kind, &mut image, &given);
            record.is_input_marked = true;
            if image.is_alive() {
                // As those of a Work that lives, its mailbox takes messages, which nothing reads.
                record.mailbox.set_place(Place::Pending);
            }
            record.ledger = Ledger::as_it_was(record.ledger.shared_policy(), image, now);
        }
        let flows: Vec<_> = self.tree.flows().map(|(id, entry)| (id, entry.link.path.clone())).collect();
        for (id, path) in flows {
            let Some(flow) = recovery.flows.remove(&path) else { continue };
            let own = recovery.tree.flows.remove(&path).map(|image| image.own).unwrap_or_default();
            self.restore_flow(id, flow, own, now.wall);
        }
        new
    }

    /// Takes what is recorded of the whole tree out of the transaction of this cycle.
    fn take_all_changes(&mut self) -> Vec<Change> {
        self.tree.order().to_vec().into_iter().for_each(|id| self.journaling.touch_work(id));
        let flows: Vec<_> = self.tree.flows().map(|(id, _)| id).collect();
        flows.into_iter().for_each(|id| self.journaling.touch_flow(id));
        self.take_touched_changes()
    }

    fn take_touched_changes(&mut self) -> Vec<Change> {
        let Some(Touched { mut draft, works, flows, unhurried }) = self.journaling.take_touched() else {
            return Vec::new();
        };
        let works = works.into_iter().chain(unhurried).collect();
        self.record_touched(works, flows, &mut draft);
        draft.finish().0
    }
}
