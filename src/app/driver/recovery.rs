//! Recovery of an App from its journal.
//!
//! # Guarantees
//! - Everything is read with the program as it is now before anything is changed. A part that cannot be read refuses the
//!   recovery, with all such parts named.
//! - A Work that was alive is launched again from its last durable state, and its run in progress starts again before any
//!   other. Neither counts as a failure.
//! - A failure that ended the App is tried again: starting the App anew is the operator's answer to it.
//! - Recorded Works and Flows that the program does not have are kept in the journal, and named.
//! - The remembered inputs of a Work are read as its type of input once in each build of the program, or when the Work has
//!   another type of input. An input that has another key then keeps its outcome. One that cannot be read is kept and
//!   counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;

use super::super::error::{AppError, Unrestorable};
use super::super::hosts::HEAD;
use super::super::status::SafeMode;
use super::Driver;
use super::first_reactions::FirstReactions;
use super::journaling::{Journaling, RecordedFlow};
use super::mismatch::{Adapted, adapt};
use super::recorded_app::{RecoveredFlow, Recovery};
use super::recording::{APP, AppRow};
use super::renaming::{Move, Moved, move_actors};
use super::restored_values::RestoredValues;
use super::tree::FlowLife;
use crate::crash_evidence::CrashEvidence;
use crate::flow::{
    FlowContext, Image, InputFacts, Journaled, Ledger, Moment, OnError, Record, Rekeyed, Restarts, Restored,
    RowError, Schedules, Supervisor, encoded,
};
use crate::id::{ActorPath, AppId, FlowId, WorkId};
use crate::journal::{Change, CrashNotes, Journal, JournalSettings, Live, Recovered, Table};
use crate::payload::Store;
use crate::printable::chain;
use crate::state::{Tracker, Value};
use crate::work::{Place, Placement, ReadyQueue, Stage, WorkType};

/// Recovered Works and Flows that have not gone on yet.
#[derive(Default)]
pub(super) struct Resumed {
    works: BTreeSet<WorkId>,
    /// Number of runs that were in progress, without those of awaited Works.
    runs: usize,
    /// Number of Works whose nodes are to return.
    awaited: usize,
    /// Flows whose failure ended the App.
    failed: Vec<FlowId>,
    /// The last position of the journal, and whether the process ended in good order.
    after: Option<(u64, bool)>,
    /// Recorded Works and Flows that the program does not have.
    pub(super) parked: Vec<ActorPath>,
    /// Works with remembered inputs that the program cannot read.
    pub(super) unread: UnreadInputs,
    pub(super) first: FirstReactions,
}

/// A journal that was opened for an App.
pub(in crate::app) struct OpenedJournal {
    journal: Journal,
    recovered: Recovered,
    notes: CrashNotes,
    /// Filled with the queue that wakes the driver when the journal has made progress.
    waker: Arc<OnceLock<Arc<ReadyQueue>>>,
    moves: Vec<Move>,
}

impl OpenedJournal {
    /// Opens the journal in `directory`, which is made if there is none.
    ///
    /// # Errors
    /// [`AppError::Journal`] when the journal cannot be opened.
    pub(in crate::app) fn open(
        directory: &Path,
        settings: JournalSettings,
        version: &str,
    ) -> Result<Self, AppError> {
        let waker = Arc::<OnceLock<Arc<ReadyQueue>>>::default();
        let to_wake = waker.clone();
        let on_progress = Box::new(move || {
            if let Some(queue) = to_wake.get() {
                queue.ring_again();
            }
        });
        let opened = Journal::open(directory, settings, version, on_progress);
        let (journal, recovered, notes) = opened.map_err(|error| AppError::Journal(error.into()))?;
        Ok(Self { journal, recovered, notes, waker, moves: Vec::new() })
    }

    /// Sets the actors that continue at other paths than those at which they were recorded.
    pub(in crate::app) fn moved(self, moves: Vec<Move>) -> Self {
        Self { moves, ..self }
    }

    /// Returns the evidence that code leaves if the process ends.
    pub(in crate::app) fn evidence(&self) -> Option<Arc<CrashEvidence>> {
        self.notes.evidence()
    }

    /// Returns the number of the App, and the number of this opening of its journal.
    pub(in crate::app) fn identity(&self) -> (AppId, u64) {
        (AppId::recorded(self.recovered.app), self.recovered.epoch)
    }
}

impl Resumed {
    /// Returns true until the recovered Works and Flows go on, if there are any.
    pub(super) fn is_of_recorded_app(&self) -> bool {
        self.after.is_some()
    }

    pub(super) fn has(&self, id: WorkId) -> bool {
        self.works.contains(&id)
    }
}

impl Driver {
    /// Takes a journal into use: continues the clock, and restores the root.
    ///
    /// # Errors
    /// [`AppError::Unrestorable`] with all that cannot be restored.
    pub(super) fn open_journal(&mut self, opened: OpenedJournal) -> Result<Recovery, AppError> {
        let OpenedJournal { journal, recovered, notes, waker, moves } = opened;
        let Recovered { mut live, last, was_clean, values, .. } = recovered;
        // Set once, here.
        let _ = waker.set(self.wake_ups.ready_queue().clone());
        if last.position > 0 {
            self.wake_ups.continue_from(Moment { at: last.at, wall: last.wall });
        }
        let recorded = journal.values().clone();
        self.safe_mode = notes.crash_loop().map(SafeMode::of);
        self.journaling = Journaling::new(journal, last.position, notes);
        self.tree.record_changes();
        let problems = self.root.problems();
        if !problems.is_empty() {
            let problems = problems.iter().map(|problem| chain(problem)).collect();
            return Err(AppError::Unrecordable(Unrestorable::new(problems)));
        }
        let of_app = self.resumed.first.recovered(live.actors.get(&ActorPath::root()));
        let moved = moved(&mut live, &moves)?;
        let mut values = RestoredValues::new(values, &live, Store::of(&self.runtime), recorded);
        let (on_mismatch, root) = (self.config.on_mismatch.unwrap_or_default(), &mut self.root);
        let adapted = adapt(live, &moved.paths, on_mismatch, last.position, |recovery| {
            if recovery.is_empty() { Ok(Restored::default()) } else { root.restore(&recovery.tree) }
        })?;
        let Adapted { mut recovery, restored, renewed, changes } = adapted;
        renewed.iter().for_each(|renewed| log::warn!("{renewed}"));
        for renewed in &renewed {
            values.is_renewed(&renewed.path, renewed.parked.as_ref());
        }
        recovery.values = Some(values);
        let root = self.root.type_name();
        if let Some(recorded) = recovery.root.take().filter(|recorded| recorded != root) {
            log::warn!(
                "the journal is that of an App with the root `{recorded}`, and the root of this program is `{root}`; if this \
                 is another App, give it a directory of its own"
            );
            self.journaling.change(app_row(root));
        }
        self.note_restored(restored);
        if !(moved.changes.is_empty() && changes.is_empty()) {
            self.resumed.first.changed();
        }
        let changes = moved.changes.into_iter().chain(changes).chain(of_app);
        changes.for_each(|change| self.journaling.change(change));
        if last.position > 0 {
            self.resumed.after = Some((last.position, was_clean));
        }
        Ok(recovery)
    }

    /// Notes what is recorded and was not restored.
    fn note_restored(&mut self, restored: Restored) {
        for removed in restored.removed_fields {
            log::warn!(
                "the recorded field `{}` of `{}` is dropped, because the program does not have it any more",
                removed.field,
                removed.path
            );
        }
        for path in &restored.unused {
            log::warn!(
                "`{path}` is recorded and not part of the program any more: it is parked in the journal"
            );
        }
        self.resumed.parked = restored.unused;
    }

    /// Restores the ledgers of Works and the facts about Flows, once the tree has been walked.
    pub(super) fn restore_facts(&mut self, mut recovery: Recovery) {
        let now = self.wake_ups.now();
        let time_to_return = self.config.time_to_return();
        for id in self.tree.order().to_vec() {
            let Some(shared) = self.tree.work(id).cloned() else { continue };
            let mut record = shared.lock();
            let path = record.path.clone();
            let Some(mut image) = recovery.images.remove(&path) else {
                self.resumed.first.changed();
                continue;
            };
            if record.ledger.policy().journaled == Journaled::Off {
                self.restore_unrecorded(id, &mut record, &image, &mut recovery);
                continue;
            }
            let given = recovery.given.remove(&path).unwrap_or_default();
            record.is_input_marked = self.rekey(record.kind, &path, &mut image, &given);
            if let (Some(values), Some(guards)) = (&mut recovery.values, self.journaling.guards()) {
                image.restore_guards(|bytes| values.guards_in_bytes(bytes));
                guards.state(id, record.holds());
                image.facts_with_guards().for_each(|fact| guards.fact(id, &fact));
                values.is_restored(&path);
            }
            let awaited = if may_be_in_a_process(&image) && self.hosts.is_kept(&path) {
                // The end of the process, which the head sees to, is reported before.
                Some(self.config.time_for_processes())
            } else {
                time_to_return.filter(|_| may_be_on_a_node(&image, &record.placement))
            };
            let awaited = awaited.map(|time| now.at.saturating_add(time));
            if awaited.is_some() {
                // Until its node returns, messages wait.
                record.mailbox.set_place(Place::Pending);
                self.resumed.awaited += 1;
            } else {
                self.resumed.runs += usize::from(image.has_run_in_progress());
            }
            record.ledger = Ledger::restore(record.ledger.shared_policy(), image, awaited, now);
            compare_recorded(&mut record, &mut recovery);
            self.resumed.works.insert(id);
        }
        self.resumed.unread.warn();
        // From the root downwards, so that a parent is known before its children.
        let mut flows: Vec<_> = self.tree.flows().map(|(id, entry)| (entry.depth, id)).collect();
        flows.sort_unstable();
        for (_, id) in flows {
            let Some(entry) = self.tree.flow(id) else { continue };
            let (path, parent) = (entry.link.path.clone(), entry.parent);
            let Some(flow) = recovery.flows.remove(&path) else { continue };
            let is_parent_up = parent
                .and_then(|parent| self.tree.flow(parent))
                .is_none_or(|parent| parent.life == FlowLife::Up);
            let own = recovery.tree.flows.remove(&path).map(|image| image.own).unwrap_or_default();
            if let (Some(values), Some(guards)) = (&mut recovery.values, self.journaling.guards()) {
                guards.flow(id, values.guards_in(&own));
                values.is_restored(&path);
            }
            self.restore_flow(id, flow, own, now.wall);
            let Some(entry) = self.tree.flow_mut(id) else { continue };
            if entry.life == FlowLife::Failed && entry.options.on_error == OnError::Raise && is_parent_up {
                entry.life = FlowLife::Up;
                self.resumed.failed.push(id);
            }
        }
        if let (Some(values), Some(guards)) = (recovery.values.take(), self.journaling.guards()) {
            guards.keep_parked(values.finish());
        }
        if self.resumed.works.is_empty() && recovery.tree.flows.is_empty() {
            self.journaling.change(app_row(self.root.type_name()));
        }
    }

    /// Restores the facts about a Flow, whose own fields are `own`.
    pub(super) fn restore_flow(&mut self, id: FlowId, flow: RecoveredFlow, own: Value, wall: SystemTime) {
        let RecoveredFlow { row, facts, lists } = flow;
        let own = Tracker::resume(own, usize::MAX);
        let recorded = RecordedFlow { own, has_state: true, facts, ..RecordedFlow::default() };
        self.journaling.keep_recorded(id, recorded);
        for (list, next) in lists {
            self.tree.restore_list(list, next, id);
        }
        let Some(entry) = self.tree.flow_mut(id) else { return };
        entry.life = row.life.into();
        *entry.link.status.lock() = row.status;
        entry.wake_at = row.wake_at;
        entry.restarts = Restarts::restored(&row.restarts);
        entry.supervisor = Supervisor::restored(&row.child_restarts);
        let path = entry.link.path.clone();
        entry.cx = Some(FlowContext::restored(path, wall, Schedules::restored(row.schedules)));
    }

    /// Restores a Work of which only the existence is recorded.
    fn restore_unrecorded(
        &mut self,
        id: WorkId,
        record: &mut Record,
        image: &Image,
        recovery: &mut Recovery,
    ) {
        let path = record.path.clone();
        // It is not as the Flows have seen it.
        self.resumed.first.changed();
        compare_recorded(record, recovery);
        if let (Some(values), Some(guards)) = (&mut recovery.values, self.journaling.guards()) {
            guards.state(id, record.holds());
            values.is_restored(&path);
        }
        // Recorded by a program with another setting, so that it is to be recorded again.
        if *image != Image::new() {
            self.journaling.change(Change::Left { path });
        }
    }

    /// Gives the remembered inputs of a Work the keys that they have in this program, unless they have them. Returns false if
    /// it is not recorded that they have.
    fn rekey(
        &mut self,
        kind: &WorkType,
        path: &ActorPath,
        image: &mut Image,
        given: &[(Bytes, Bytes)],
    ) -> bool {
        let read = read_inputs(kind, image, given);
        let Some(Rekeyed { inputs, why, facts }) = read else {
            self.resumed.unread.know(path, image.inputs_read());
            return image.inputs_read().mark == kind.input_mark();
        };
        self.resumed.unread.add(path, inputs, why);
        if inputs.moved > 0 {
            log::info!("the type of input of work `{path}` has changed: {}", moved_inputs(&inputs));
        }
        let mut changes = Vec::new();
        facts.into_iter().for_each(|fact| fact.append_to(&mut changes, path));
        changes.into_iter().for_each(|change| self.journaling.change(change));
        true
    }

    /// Lets the recovered Works and Flows go on.
    pub(super) fn resume(&mut self) {
        if let Some((position, was_clean)) = self.resumed.after.take() {
            let end = if was_clean { "a clean end" } else { "an unclean end" };
            let (works, runs) = (self.resumed.works.len(), self.resumed.runs);
            let works = counted(works, "Work", "Works");
            let runs = match runs {
                0 if self.resumed.awaited > 0 => "no run starts again".to_owned(),
                0 => "no run was under way".to_owned(),
                1 => "1 run under way starts again".to_owned(),
                runs => format!("{runs} runs under way start again"),
            };
            log::info!("resumed at position {position} after {end}: {works}, {runs}");
            if self.resumed.awaited > 0 {
                let works = counted(self.resumed.awaited, "Work is", "Works are");
                let time = self.config.time_for_others();
                log::info!(
                    "{works} on nodes or in processes of their own, which have {time:?} to return; what they host goes on \
                     meanwhile"
                );
            }
        }
        let now = self.wake_ups.now();
        for id in std::mem::take(&mut self.resumed.works) {
            let Some(shared) = self.tree.work(id) else { continue };
            let owner = shared.lock().owner;
            let is_owner_up = self.tree.flow(owner).is_some_and(|flow| flow.life == FlowLife::Up);
            let is_tried_again = self.with_work(id, |ledger| {
                let ended_the_app = is_owner_up && ledger.policy().on_error == OnError::Raise;
                let is_tried_again = ended_the_app && ledger.status().stage == Stage::Failed;
                if is_tried_again {
                    ledger.clear_failures();
                    ledger.start(now);
                }
                is_tried_again
            });
            if is_tried_again == Some(true) {
                self.resumed.first.changed();
            }
        }
        for id in std::mem::take(&mut self.resumed.failed) {
            self.resumed.first.changed();
            self.flow_restarted(id);
        }
        let flows: Vec<_> = self.tree.flows().map(|(id, _)| id).collect();
        flows.into_iter().for_each(|id| self.set_flow_timer(id));
    }
}

/// Has the state and the settings of a Work recorded again only if they differ from what is recorded.
fn compare_recorded(record: &mut Record, recovery: &mut Recovery) {
    if let Some(recorded) = recovery.tree.works.remove(&record.path)
        && recorded.state == record.state
        && record.unrecorded_settings.as_deref() == Some(&recorded.settings)
    {
        record.unrecorded_settings = None;
    }
}

/// Reads the remembered inputs of a Work as the type that they have in this program, which may give them other keys.
/// Returns `None` if they were read as this type before.
pub(in crate::app) fn read_inputs(
    kind: &WorkType,
    image: &mut Image,
    given: &[(Bytes, Bytes)],
) -> Option<Rekeyed> {
    if !image.has_inputs() {
        return None;
    }
    let mark = kind.input_mark();
    if mark.is_some() && image.inputs_read().mark == mark {
        return None;
    }
    Some(image.rekey(given, mark, |key, bytes| kind.recorded_input(key, bytes)))
}

/// Describes the inputs of a Work that have other keys.
pub(in crate::app) fn moved_inputs(inputs: &InputFacts) -> String {
    let InputFacts { moved, merged, .. } = *inputs;
    let equal = match merged {
        0 => String::new(),
        1 => "; 1 has become equal to another, whose outcome is remembered".to_owned(),
        merged => format!("; {merged} have become equal to others, whose outcomes are remembered"),
    };
    let moved = counted(moved, "remembered input is", "remembered inputs are");
    format!("{moved} known by a new key, and no run is repeated{equal}")
}

/// Works with remembered inputs that the program cannot read.
#[derive(Debug, Default)]
pub(in crate::app) struct UnreadInputs {
    /// The numbers of these inputs.
    pub(in crate::app) by_path: BTreeMap<ActorPath, u64>,
    /// News of Works whose inputs were read now.
    new: Vec<String>,
}

impl UnreadInputs {
    /// Adds the inputs of a Work of which it was recorded that they cannot be read.
    pub(in crate::app) fn know(&mut self, path: &ActorPath, inputs: InputFacts) {
        if inputs.kept() > 0 {
            self.by_path.insert(path.clone(), inputs.kept());
        }
    }

    /// Adds the inputs of a Work that were read now, with what is wrong with one of them.
    pub(in crate::app) fn add(&mut self, path: &ActorPath, inputs: InputFacts, why: Option<String>) {
        if inputs.kept() == 0 {
            return;
        }
        self.know(path, inputs);
        let InputFacts { unreadable, too_long, .. } = inputs;
        let unreadable = (unreadable > 0).then(|| {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            format!("{unreadable} cannot be read as its type of input{why}")
        });
        let too_long = (too_long > 0).then(|| format!("{too_long} were too long to be recorded"));
        let parts: Vec<_> = unreadable.into_iter().chain(too_long).collect();
        self.new.push(format!("of work `{path}` {}", parts.join(", and ")));
    }

    /// Describes the inputs that were read now; `None` if nothing is wrong with them.
    pub(in crate::app) fn describe(&self) -> Option<String> {
        let works = self.new.join("; ");
        (!works.is_empty()).then(|| {
            format!(
                "remembered inputs have kept their keys, because the type has changed and they could not be read: {works}; \
                 their outcomes are kept, and a run with such an input is a new one"
            )
        })
    }

    fn warn(&mut self) {
        if let Some(said) = self.describe() {
            log::warn!("{said}");
        }
        self.new.clear();
    }
}

/// Moves actors of the live data of a journal.
///
/// # Errors
/// [`AppError::Unrestorable`] if the children of a Flow cannot be read.
pub(in crate::app) fn moved(live: &mut Live, moves: &[Move]) -> Result<Moved, AppError> {
    let unreadable = |error: RowError| AppError::Unrestorable(Unrestorable::new(vec![chain(&error)]));
    move_actors(live, moves).map_err(unreadable)
}

/// Returns the change that records the name of the type of the root.
fn app_row(root: &str) -> Change {
    let row = AppRow { root: root.to_owned() };
    Change::Put { path: ActorPath::root(), table: Table::App, key: APP.to_vec(), value: encoded(&row) }
}

/// Returns true if the living incarnation of a recovered Work may be in a process of its own.
fn may_be_in_a_process(image: &Image) -> bool {
    image.is_alive() && image.node().is_none_or(|node| node == HEAD)
}

/// Returns true if the living incarnation of a recovered Work may be on a node.
fn may_be_on_a_node(image: &Image, placement: &Placement) -> bool {
    let is_on_a_node = match image.node() {
        Some(node) => node != HEAD,
        None => matches!(placement, Placement::Node(_)),
    };
    image.is_alive() && is_on_a_node
}

fn counted<N: fmt::Display + PartialEq + From<u8>>(number: N, one: &str, many: &str) -> String {
    if number == N::from(1) { format!("1 {one}") } else { format!("{number} {many}") }
}
