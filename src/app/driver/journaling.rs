//! The record of an App with a journal: what has changed in the cycle, and what waits until that is durable.
//!
//! # Guarantees
//! - All changes of one cycle are one transaction, which records between them where the reactions began: what comes before
//!   is what the Flows saw.
//! - An effect on anything outside of the driver waits until all changes before it are durable (output commit). Effects
//!   are carried out in their order.
//! - Changes of which nothing outside can know, such as the start of a run that was sent, cause no commit of their own.
//!
//! Output commit: Strom and Yemini, *Optimistic recovery in distributed systems*, 1985.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::status::JournalStatus;
use super::Driver;
use super::durable_guards::DurableGuards;
use super::tree::Child;
use crate::crash_evidence::CrashEvidence;
use crate::flow::{Fact, Moment};
use crate::id::{ActorPath, FlowId, IdMap, WorkId};
use crate::journal::{
    Change, Condition, CrashNotes, Journal, Reacted, Reaction, ReactionEnd, Table, Transaction,
};
use crate::state::Tracker;

/// Size of the transactions that wait to be committed from which the driver takes no more updates, in bytes.
const CONGESTED: u64 = 8 * 1024 * 1024;

/// An effect on anything outside of the driver.
pub(super) type Effect = Box<dyn FnOnce(&mut Driver)>;

/// The record of an App, which is empty without a journal.
#[derive(Default)]
pub(super) struct Journaling(Option<Box<Recording>>);

struct Recording {
    /// `None` where recorded reactions are repeated: nothing is kept or becomes durable there.
    journal: Option<Journal>,
    draft: Draft,
    /// Works and Flows whose facts are to be read at the end of the cycle.
    works: BTreeSet<WorkId>,
    flows: BTreeSet<FlowId>,
    /// Works whose facts may wait for the next transaction.
    unhurried: BTreeSet<WorkId>,
    /// Effects of this cycle.
    effects: Vec<Effect>,
    /// Effects of earlier cycles, with the position that they wait for.
    gate: VecDeque<(u64, Effect)>,
    /// The position of the last transaction.
    appended: u64,
    /// Works whose updates are not taken for now.
    held_back: Vec<WorkId>,
    /// Message of the journal while its disk is full.
    full: watch::Sender<Option<Arc<str>>>,
    /// Notes for the next start, to find crash loops.
    notes: Option<CrashNotes>,
    progress: Progress,
    /// Recorded parts of each Flow.
    recorded: IdMap<FlowId, RecordedFlow>,
    guards: DurableGuards,
}

/// The progress of an App since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing counts yet: the first cycle of a new App only records that App.
    Recovering,
    /// Progress counts, and none is recorded.
    Sought,
    /// Progress is recorded, and not durable yet.
    Recorded,
    Durable,
}

/// Recorded parts of a Flow, with which its changes are found.
pub(super) struct RecordedFlow {
    /// The Flow's own fields.
    pub(super) own: Tracker,
    /// True once a state is recorded, which patches can change.
    pub(super) has_state: bool,
    /// The encoded row of facts.
    pub(super) facts: Vec<u8>,
    /// The children, in order.
    pub(super) children: Option<Vec<Child>>,
    /// The next numbers in the lists of children.
    pub(super) lists: BTreeMap<String, u64>,
    /// The changes of the lists of the tree after which `lists` was read.
    pub(super) list_changes: u64,
}

impl Default for RecordedFlow {
    fn default() -> Self {
        Self {
            own: Tracker::new(usize::MAX),
            has_state: false,
            facts: Vec::new(),
            children: None,
            lists: BTreeMap::new(),
            list_changes: 0,
        }
    }
}

/// The part of the transaction of this cycle that is known already.
#[derive(Default)]
pub(super) struct Draft {
    /// Facts about Works that cause no commit of their own, of this cycle and of earlier ones: they come before `changes`.
    pub(super) unhurried: Vec<(ActorPath, Fact)>,
    pub(super) changes: Vec<Change>,
    /// True if one of the facts is progress.
    pub(super) is_progress: bool,
    /// The reactions; the changes that they saw are `unhurried` and the first of `changes`.
    pub(super) reacted: Option<Reacted>,
}

impl Draft {
    /// Returns the contents of the transaction.
    pub(super) fn finish(self) -> (Vec<Change>, Option<Reacted>) {
        let Self { unhurried, changes, mut reacted, .. } = self;
        if unhurried.is_empty() {
            return (changes, reacted);
        }
        let seen = &changes[..reacted.as_ref().map_or(changes.len(), |reacted| reacted.seen)];
        let mut newer: HashSet<(ActorPath, Table, Vec<u8>)> = HashSet::new();
        for change in seen {
            if let Change::Put { path, table: table @ (Table::Work | Table::Input), key, .. } = change {
                newer.insert((path.clone(), *table, key.clone()));
            }
        }
        let mut all = Vec::with_capacity(2 * unhurried.len() + changes.len());
        // The newest first: of several facts about one row, the last is recorded.
        let mut kept: Vec<_> = unhurried.into_iter().rev().collect();
        kept.retain(|(path, fact)| {
            fact.replaceable_row().is_none_or(|(table, key)| newer.insert((path.clone(), table, key)))
        });
        kept.into_iter().rev().for_each(|(path, fact)| fact.append_to(&mut all, &path));
        if let Some(reacted) = &mut reacted {
            reacted.seen += all.len();
        }
        all.extend(changes);
        (all, reacted)
    }
}

/// Contents of the transaction of this cycle.
pub(super) struct Touched {
    pub(super) draft: Draft,
    pub(super) works: BTreeSet<WorkId>,
    pub(super) flows: BTreeSet<FlowId>,
    pub(super) unhurried: BTreeSet<WorkId>,
}

impl Journaling {
    pub(super) fn new(journal: Journal, position: u64, notes: CrashNotes) -> Self {
        Self::with(Some(journal), position, Some(notes), Progress::Recovering)
    }

    /// Creates the record of reactions that are repeated: it collects their changes, and keeps nothing.
    #[cfg(feature = "cli")]
    pub(super) fn of_repetition() -> Self {
        // Nothing that waits for this position goes on.
        Self::with(None, u64::MAX, None, Progress::Durable)
    }

    fn with(journal: Option<Journal>, appended: u64, notes: Option<CrashNotes>, progress: Progress) -> Self {
        Self(Some(Box::new(Recording {
            journal,
            draft: Draft::default(),
            works: BTreeSet::new(),
            flows: BTreeSet::new(),
            unhurried: BTreeSet::new(),
            effects: Vec::new(),
            gate: VecDeque::new(),
            appended,
            held_back: Vec::new(),
            full: watch::Sender::new(None),
            notes,
            progress,
            recorded: IdMap::default(),
            guards: DurableGuards::default(),
        })))
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records that facts of a Work may have changed.
    pub(super) fn touch_work(&mut self, id: WorkId) {
        if let Some(recording) = &mut self.0 {
            recording.works.insert(id);
        }
    }

    /// Records a change of a Work that nothing outside can know of before a later one is durable.
    pub(super) fn touch_unhurried(&mut self, id: WorkId) {
        if let Some(recording) = &mut self.0 {
            recording.unhurried.insert(id);
        }
    }

    /// Records that facts of a Flow may have changed.
    pub(super) fn touch_flow(&mut self, id: FlowId) {
        if let Some(recording) = &mut self.0 {
            recording.flows.insert(id);
        }
    }

    /// Takes out what is recorded of a Flow.
    pub(super) fn recorded_flow(&mut self, id: FlowId) -> RecordedFlow {
        self.0.as_mut().and_then(|recording| recording.recorded.remove(&id)).unwrap_or_default()
    }

    /// Puts back what is recorded of a Flow.
    pub(super) fn keep_recorded(&mut self, id: FlowId, recorded: RecordedFlow) {
        if let Some(recording) = &mut self.0 {
            recording.recorded.insert(id, recorded);
        }
    }

    /// Returns the guards of the recorded payloads.
    pub(super) fn guards(&mut self) -> Option<&mut DurableGuards> {
        self.0.as_mut().map(|recording| &mut recording.guards)
    }

    /// Notes that a Work has left.
    pub(super) fn forget_work(&mut self, id: WorkId) {
        if let Some(recording) = &mut self.0 {
            recording.guards.work_left(id);
        }
    }

    /// Forgets a Flow that has left.
    pub(super) fn forget_flow(&mut self, id: FlowId) {
        if let Some(recording) = &mut self.0 {
            recording.guards.flow_left(id);
            recording.recorded.remove(&id);
            recording.flows.remove(&id);
        }
    }

    /// Adds a change to the transaction of this cycle.
    pub(super) fn change(&mut self, change: Change) {
        if let Some(recording) = &mut self.0 {
            recording.draft.changes.push(change);
        }
    }

    /// Keeps an effect until all changes before it are durable. Returns it if they are.
    pub(super) fn defer<E: FnOnce(&mut Driver) + 'static>(&mut self, effect: E) -> Option<E> {
        let Some(recording) = &mut self.0 else { return Some(effect) };
        if recording.has_changes() || !recording.effects.is_empty() {
            recording.effects.push(Box::new(effect));
            return None;
        }
        if recording.gate.is_empty() && recording.durable() >= recording.appended {
            return Some(effect);
        }
        recording.gate.push_back((recording.appended, Box::new(effect)));
        None
    }

    /// Returns the evidence that code leaves if the process ends.
    pub(super) fn evidence(&self) -> Option<Arc<CrashEvidence>> {
        let recording = self.0.as_ref().filter(|recording| recording.progress != Progress::Durable)?;
        recording.notes.as_ref()?.evidence()
    }

    /// Notes that the App goes on. With `is_new`, progress counts after the first cycle only.
    pub(super) fn go_on(&mut self, is_new: bool) {
        let Some(recording) = &mut self.0 else { return };
        if let Some(notes) = &mut recording.notes {
            notes.go_on();
        }
        if !is_new {
            recording.progress = Progress::Sought;
        }
    }

    /// Counts progress from now on.
    pub(super) fn count_news(&mut self) {
        if let Some(recording) = &mut self.0
            && recording.progress == Progress::Recovering
        {
            recording.progress = Progress::Sought;
        }
    }

    /// Records that this cycle has made progress. Returns true if that is the first, which counts once it is durable.
    pub(super) fn is_first_progress(&mut self) -> bool {
        let Some(recording) = self.0.as_mut().filter(|recording| recording.progress == Progress::Sought)
        else {
            return false;
        };
        recording.progress = Progress::Recorded;
        true
    }

    /// Notes that the App has made progress, which is durable.
    pub(super) fn mark_progress(&mut self) {
        if let Some(recording) = self.0.as_mut().filter(|recording| recording.progress != Progress::Durable) {
            recording.progress = Progress::Durable;
            if let (Some(journal), Some(notes)) = (&recording.journal, &mut recording.notes) {
                notes.has_progressed();
                journal.mark_progress();
            }
        }
    }

    /// Keeps an effect until the transaction of this cycle is durable.
    pub(super) fn add_effect(&mut self, effect: impl FnOnce(&mut Driver) + 'static) {
        if let Some(recording) = &mut self.0 {
            recording.effects.push(Box::new(effect));
        }
    }

    /// Returns true when nothing waits to become durable.
    pub(super) fn is_durable(&self) -> bool {
        self.0.as_ref().is_none_or(|recording| {
            !recording.has_changes()
                && recording.effects.is_empty()
                && recording.gate.is_empty()
                && recording.durable() >= recording.appended
        })
    }

    /// Returns what has changed in this cycle.
    pub(super) fn take_touched(&mut self) -> Option<Touched> {
        let recording = self.0.as_mut()?;
        Some(Touched {
            draft: std::mem::take(&mut recording.draft),
            works: std::mem::take(&mut recording.works),
            flows: std::mem::take(&mut recording.flows),
            unhurried: std::mem::take(&mut recording.unhurried),
        })
    }

    /// Puts back the part of a transaction that is known already.
    pub(super) fn keep_draft(&mut self, draft: Draft) {
        if let Some(recording) = &mut self.0 {
            let later = std::mem::replace(&mut recording.draft, draft);
            recording.draft.changes.extend(later.changes);
        }
    }

    /// Returns true if a Flow has reacted in this cycle, or nothing is recorded.
    pub(super) fn has_reacted(&self) -> bool {
        self.0.as_ref().is_none_or(|recording| recording.draft.reacted.is_some())
    }

    /// Records a reaction of this cycle, the border of which is set.
    pub(super) fn add_reaction(&mut self, reaction: impl FnOnce() -> Reaction) {
        if let Some(reacted) = self.0.as_mut().and_then(|recording| recording.draft.reacted.as_mut()) {
            reacted.reactions.push(reaction());
        }
    }

    /// Returns the last reaction of this cycle.
    #[cfg(feature = "cli")]
    pub(super) fn last_reaction(&self) -> Option<&Reaction> {
        self.0.as_ref()?.draft.reacted.as_ref()?.reactions.last()
    }

    /// Returns the number of reactions of this cycle.
    #[cfg(feature = "cli")]
    pub(super) fn reactions(&self) -> usize {
        let reacted = self.0.as_ref().and_then(|recording| recording.draft.reacted.as_ref());
        reacted.map_or(0, |reacted| reacted.reactions.len())
    }

    /// Records the unusual end of the last reaction.
    pub(super) fn end_reaction(&mut self, end: ReactionEnd) {
        let reacted = self.0.as_mut().and_then(|recording| recording.draft.reacted.as_mut());
        if let Some(reaction) = reacted.and_then(|reacted| reacted.reactions.last_mut()) {
            reaction.end.get_or_insert(end);
        }
    }

    /// Returns true if effects of this cycle wait.
    pub(super) fn has_effects(&self) -> bool {
        self.0.as_ref().is_some_and(|recording| !recording.effects.is_empty())
    }

    /// Appends the transaction of this cycle, if there are changes, and closes the gate for its effects.
    pub(super) fn append(&mut self, draft: Draft, now: Moment) {
        let Some(recording) = &mut self.0 else { return };
        let (changes, reacted) = draft.finish();
        if let Some(journal) = recording.journal.as_ref().filter(|_| !changes.is_empty()) {
            let transaction = Transaction { at: now.at, wall: now.wall, changes, reacted };
            let values = journal.values().clone();
            recording.appended = match values.here(recording.guards.take_added()) {
                Ok(new) => journal.append(transaction, new),
                Err(guards) => {
                    let (position, incomplete) = journal.append_incomplete(transaction);
                    tokio::task::spawn_local(async move { incomplete.complete(values.bring(guards).await) });
                    position
                }
            };
        }
        let appended = recording.appended;
        recording.gate.extend(recording.effects.drain(..).map(|effect| (appended, effect)));
    }

    /// Returns true if an effect waits although its changes are durable, so that no commit is to come that wakes the
    /// driver for it.
    pub(super) fn has_released(&self) -> bool {
        self.0.as_ref().is_some_and(|recording| {
            recording.gate.front().is_some_and(|(position, _)| *position <= recording.durable())
        })
    }

    /// Removes and returns the next effect whose changes are durable.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        let recording = self.0.as_mut()?;
        let (position, _) = recording.gate.front()?;
        if *position > recording.durable() {
            return None;
        }
        recording.gate.pop_front().map(|(_, effect)| effect)
    }

    /// Returns the Works whose updates are to be taken now: none while too much waits to be committed.
    pub(super) fn admit(&mut self, rung: Vec<WorkId>) -> Vec<WorkId> {
        let Some(recording) = &mut self.0 else { return rung };
        if recording.backlog_bytes() > CONGESTED {
            recording.held_back.extend(rung);
            return Vec::new();
        }
        if recording.held_back.is_empty() {
            return rung;
        }
        let mut admitted = std::mem::take(&mut recording.held_back);
        admitted.extend(rung);
        admitted
    }

    /// Returns a receiver of what the journal says while its disk is full.
    pub(super) fn full(&self) -> watch::Receiver<Option<Arc<str>>> {
        match &self.0 {
            Some(recording) => recording.full.subscribe(),
            None => watch::Sender::new(None).subscribe(),
        }
    }

    /// Records whether the disk of the journal is full. Returns true if that has changed.
    pub(super) fn set_full(&mut self, why: Option<&str>) -> bool {
        let Some(recording) = &mut self.0 else { return false };
        recording.full.send_if_modified(|full| {
            let is_other = full.is_some() != why.is_some();
            if is_other {
                *full = why.map(Arc::from);
            }
            is_other
        })
    }

    /// Returns the status of the journal, without what the recovery has found and the Works that were adopted.
    pub(super) fn status(&self) -> Option<JournalStatus> {
        let recording = self.0.as_ref()?;
        let figures = recording.journal.as_ref()?.figures();
        Some(JournalStatus {
            position: figures.position,
            waiting: recording.appended.saturating_sub(figures.position),
            waiting_bytes: recording.backlog_bytes(),
            full: recording.full.borrow().as_deref().map(str::to_owned),
            commits: figures.commits,
            transactions: figures.transactions,
            largest_group: figures.largest_group,
            written_bytes: figures.written,
            commit_time: figures.commit_time,
            slowest_commit: figures.slowest_commit,
            parked: Vec::new(),
            unread_inputs: BTreeMap::new(),
            unstable_inputs: Vec::new(),
            adopted: 0,
            adoption_time: Duration::ZERO,
        })
    }

    /// Returns the condition of the journal.
    pub(super) fn condition(&self) -> Option<Condition> {
        self.0.as_ref()?.journal.as_ref().map(Journal::condition)
    }

    /// Returns the journal, to look back.
    #[cfg(feature = "http")]
    pub(super) fn journal(&self) -> Option<&Journal> {
        self.0.as_ref()?.journal.as_ref()
    }

    /// Gives up the journal: nothing more is recorded, and effects that wait are dropped.
    pub(super) fn give_up(&mut self) -> Option<Journal> {
        let recording = self.0.take()?;
        // Its guards are dropped with the rest of it.
        recording.journal.as_ref()?.values().keep_from_now();
        recording.journal
    }
}

impl Recording {
    /// Returns the last position that is durable.
    fn durable(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::durable)
    }

    fn backlog_bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::backlog_bytes)
    }

    fn has_changes(&self) -> bool {
        !(self.draft.changes.is_empty()
            && self.draft.unhurried.is_empty()
            && self.works.is_empty()
            && self.flows.is_empty()
            && self.unhurried.is_empty())
    }
}
