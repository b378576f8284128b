//! Commits of the driver: reads what has changed in a cycle, and carries out the effects that wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::error::AppError;
use super::Driver;
use super::durable_guards::DurableGuards;
use super::journaling::{Draft, Touched};
use super::shutdown::Shutdown;
use super::tree::FlowLife;
use crate::flow::{Fact, FlowError, FlowOptions, InputFacts, ScheduleRow, Shapes, encoded};
use crate::id::{ActorPath, FlowId, WorkId};
use crate::journal::{Change, Condition, Reacted, Table};
use crate::payload;
use crate::printable::chain;
use crate::work::Status;

/// The key of the row with the settings of a Work.
pub(in crate::app) const SETTINGS: &[u8] = b"settings";
/// The key of the row with the [`FlowRow`] of a Flow.
pub(in crate::app) const FACTS: &[u8] = b"facts";
/// The key of the row with the [`ChildrenRow`] of a Flow.
pub(in crate::app) const CHILDREN: &[u8] = b"children";
/// The key of the row with the [`AppRow`].
pub(in crate::app) const APP: &[u8] = b"app";

/// The recorded part of a Flow, without its fields and children.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct FlowRow {
    pub(in crate::app) life: LifeRow,
    pub(in crate::app) status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::app) wake_at: Option<Duration>,
    /// Restarts in the window of the Flow's own restart policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::app) restarts: Vec<Duration>,
    /// Restarts of children in the window of the Flow's strategy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::app) child_restarts: Vec<Duration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::app) schedules: Vec<ScheduleRow>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::app) enum LifeRow {
    Up,
    Waiting { until: Duration },
    Failed,
}

impl From<FlowLife> for LifeRow {
    fn from(life: FlowLife) -> Self {
        match life {
            FlowLife::Up => Self::Up,
            FlowLife::Waiting { until } => Self::Waiting { until },
            FlowLife::Failed => Self::Failed,
        }
    }
}

impl From<LifeRow> for FlowLife {
    fn from(life: LifeRow) -> Self {
        match life {
            LifeRow::Up => Self::Up,
            LifeRow::Waiting { until } => Self::Waiting { until },
            LifeRow::Failed => Self::Failed,
        }
    }
}

/// The children of a Flow, and what their parent has set for the Flow itself.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct ChildrenRow {
    pub(in crate::app) shapes: Shapes,
    /// The next numbers in the lists of children, by the path of the list.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::app) lists: BTreeMap<String, u64>,
    pub(in crate::app) options: FlowOptions,
}

/// The recorded part of the App itself.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct AppRow {
    /// The name of the type of the root, for people.
    pub(in crate::app) root: String,
}

impl Driver {
    /// Ends the transaction of this cycle, and hands it to the journal.
    pub(super) fn commit(&mut self) {
        let Some(Touched { mut draft, works, flows, unhurried }) = self.journaling.take_touched() else {
            return;
        };
        let now = self.wake_ups.now();
        self.record_touched(works, flows, &mut draft);
        if draft.changes.is_empty() && !self.journaling.has_effects() {
            unhurried.into_iter().for_each(|id| self.journaling.touch_unhurried(id));
            // The facts that they saw are seen by the reactions of the next cycle as well.
            draft.reacted = None;
            self.journaling.keep_draft(draft);
            return;
        }
        for id in unhurried {
            draft.is_progress |= self.record_work(id, &mut draft.changes);
        }
        if draft.is_progress && self.lifecycle.is_over() {
            draft.changes.extend(self.resumed.first.unseen());
        }
        if draft.is_progress && self.journaling.is_first_progress() {
            self.when_durable(Self::progressed);
        }
        let released = self.journaling.guards().map(DurableGuards::take_released).unwrap_or_default();
        if !released.is_empty() {
            self.journaling.add_effect(move |_| drop(released));
        }
        self.journaling.append(draft, now);
        if self.journaling.has_released() {
            self.wake_ups.ready_queue().ring_again();
        }
    }

    /// Makes all that the first reaction of a cycle can see the first part of the transaction.
    pub(super) fn record_seen(&mut self) {
        if !self.journaling.has_reacted()
            && let Some(Touched { mut draft, works, flows, unhurried }) = self.journaling.take_touched()
        {
            self.record_touched(works, flows, &mut draft);
            for id in unhurried {
                draft.is_progress |= self.record_facts_of(id, &mut draft.changes, Some(&mut draft.unhurried));
            }
            draft.reacted = Some(Reacted { seen: draft.changes.len(), reactions: Vec::new() });
            self.journaling.keep_draft(draft);
        }
    }

    /// Adds what has changed of these actors.
    pub(super) fn record_touched(
        &mut self,
        works: BTreeSet<WorkId>,
        flows: BTreeSet<FlowId>,
        draft: &mut Draft,
    ) {
        for id in flows {
            self.record_flow(id, &mut draft.changes);
        }
        for id in works {
            draft.is_progress |= self.record_work(id, &mut draft.changes);
        }
    }

    /// Carries out the effects whose changes are durable.
    pub(super) fn release_durable(&mut self) {
        while let Some(effect) = self.journaling.next_effect() {
            effect(self);
        }
    }

    /// Notes a full disk, and ends the App if its journal has failed.
    pub(super) fn check_journal(&mut self) {
        let error = match self.journaling.condition() {
            None => return,
            Some(Condition::Working) => {
                if self.journaling.set_full(None) {
                    log::info!("the journal has room again: the App goes on");
                }
                return;
            }
            Some(Condition::Full { message, .. }) => {
                if self.journaling.set_full(Some(&message)) {
                    log::error!(
                        "{message}; until then the Works keep running, but no run or Work is started and nothing new is shown"
                    );
                }
                if self.outcome.is_some() {
                    // The App has only waited for its last commit.
                    let failure = self.give_up_full_journal();
                    self.end_unless(failure);
                }
                return;
            }
            Some(Condition::Failed(error)) => error,
        };
        log::error!("the App ends, because its journal has failed: {}", chain(&error));
        drop(self.journaling.give_up());
        // Nothing leaves any more that is not recorded: the Works are not asked to stop in good order.
        self.tree.works().for_each(|record| record.lock().kill());
        let now = self.wake_ups.now().at;
        self.lifecycle.stop(Shutdown::new(
            Err(AppError::Journal(error.clone().into())),
            Vec::new(),
            Duration::ZERO,
            now,
        ));
        self.end_unless(Some(AppError::Journal(error.into())));
    }

    /// Gives up a journal whose disk is full, because the App ends. Returns the error with which it ends, unless another
    /// one has ended it.
    pub(super) fn give_up_full_journal(&mut self) -> Option<AppError> {
        let Some(Condition::Full { message, .. }) = self.journaling.condition() else { return None };
        drop(self.journaling.give_up());
        Some(AppError::JournalFull { message })
    }

    /// Closes the journal, all of which is durable, because the App has ended in good order.
    pub(super) fn close_journal(&mut self) {
        if let Some(journal) = self.journaling.give_up()
            && let Err(error) = journal.close(true)
        {
            // All is durable already: the next start only does not know that this end was clean.
            log::warn!("the journal was not closed in good order: {}", chain(&error));
        }
    }

    /// Records the changes of a Work. Returns true if they are progress, which an App in a crash loop does not make.
    fn record_work(&mut self, id: WorkId, changes: &mut Vec<Change>) -> bool {
        self.record_facts_of(id, changes, None)
    }

    /// As [`record_work`](Self::record_work), with `unhurried` for the facts, if there is one.
    fn record_facts_of(
        &mut self,
        id: WorkId,
        changes: &mut Vec<Change>,
        mut unhurried: Option<&mut Vec<(ActorPath, Fact)>>,
    ) -> bool {
        let Some(shared) = self.tree.work(id).filter(|_| !self.tree.has_left(id)) else { return false };
        let mut record = shared.lock();
        let path = record.path.clone();
        let mut is_progress = false;
        let is_state_recorded = record.is_recorded || record.unrecorded_settings.is_some();
        if let Some(settings) = record.unrecorded_settings.take() {
            record.unrecorded = None;
            changes.push(Change::State { path: path.clone(), state: record.state.clone() });
            let (table, key, value) = (Table::Work, SETTINGS.to_vec(), encoded(&*settings));
            changes.push(Change::Put { path: path.clone(), table, key, value });
        } else if let Some(patch) = record.unrecorded.take() {
            changes.push(Change::Patch { path: path.clone(), patch: *patch });
            is_progress = true;
        }
        let Some(guards) = self.journaling.guards() else { return is_progress };
        if is_state_recorded {
            guards.state(id, record.holds());
        }
        for fact in record.ledger.take_facts() {
            is_progress |= fact.is_progress();
            if matches!(fact, Fact::Requested { .. }) && !std::mem::replace(&mut record.is_input_marked, true)
            {
                Fact::InputsRead(InputFacts::of(record.kind.input_mark())).append_to(changes, &path);
            }
            guards.fact(id, &fact);
            match &mut unhurried {
                Some(facts) => facts.push((path.clone(), fact)),
                None => fact.append_to(changes, &path),
            }
        }
        is_progress
    }

    fn record_flow(&mut self, id: FlowId, changes: &mut Vec<Change>) {
        let Some(whereabouts) = self.whereabouts(id) else { return };
        let path = whereabouts.path.clone();
        let mut recorded = self.journaling.recorded_flow(id);
        let children = self.root.children_of(&whereabouts);
        // A child of a list that has joined and left since has taken a number.
        let changes_of_lists = self.tree.list_changes();
        let lists = (recorded.list_changes != changes_of_lists).then(|| self.tree.lists_of(id));
        let lists = lists.filter(|lists| *lists != recorded.lists);
        if lists.is_none() {
            recorded.list_changes = changes_of_lists;
        }
        let are_others = children.is_some() && (children != recorded.children || lists.is_some());
        let found = self.root.call(&whereabouts, |flow| {
            let shapes = are_others.then(|| crate::fence::call(|| flow.shapes()).ok()).flatten();
            let (own, guards) = payload::collect(|| flow.save(&mut recorded.own));
            (own, guards, shapes, flow.options().clone())
        });
        let Some((own, own_guards, shapes, options)) = found else { return };
        if own.is_ok()
            && let Some(guards) = self.journaling.guards()
        {
            guards.flow(id, own_guards.distinct());
        }
        match own {
            Ok(None) => {}
            Ok(Some(patch)) if recorded.has_state => {
                changes.push(Change::Patch { path: path.clone(), patch });
            }
            Ok(Some(_)) => {
                recorded.has_state = true;
                let state = recorded.own.value().clone();
                changes.push(Change::State { path: path.clone(), state });
            }
            Err(source) => {
                let error = FlowError::OwnState { path: path.to_string(), source };
                self.journaling.keep_recorded(id, recorded);
                return self.flow_failed(id, error);
            }
        }
        let put = |key: &[u8], value| Change::Put {
            path: path.clone(),
            table: Table::Flow,
            key: key.to_vec(),
            value,
        };
        if let Some(shapes) = shapes {
            recorded.children = children;
            if let Some(lists) = lists {
                (recorded.lists, recorded.list_changes) = (lists, changes_of_lists);
            }
            let row = ChildrenRow { shapes, lists: recorded.lists.clone(), options };
            changes.push(put(CHILDREN, encoded(&row)));
        }
        // The end of an App is no fact about its Flows.
        if let Some(entry) = self.tree.flow(id).filter(|_| !self.lifecycle.is_over()) {
            let row = FlowRow {
                life: entry.life.into(),
                status: entry.link.status.lock().clone(),
                wake_at: entry.wake_at,
                restarts: entry.restarts.times(),
                child_restarts: entry.supervisor.times(),
                schedules: entry.cx.as_ref().map(|cx| cx.schedules.rows()).unwrap_or_default(),
            };
            let facts = encoded(&row);
            if facts != recorded.facts {
                recorded.facts.clone_from(&facts);
                changes.push(put(FACTS, facts));
            }
        }
        self.journaling.keep_recorded(id, recorded);
    }

    /// Records that an actor has left the tree.
    pub(super) fn record_left(&mut self, path: &ActorPath) {
        self.journaling.change(Change::Left { path: path.clone() });
    }
}
