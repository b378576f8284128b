//! The course of the history: the live data before each reaction, and what came of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime};

use super::comparison::{Differences, by_flow, deepest, is_below, renumber};
use super::decision::{Decision, Decisions, Reading, What};
use super::{Differing, RereactError, Rereacted, Span};
use crate::app::driver::{Cycle, Missing, Outcome, Repeated, Repeater};
use crate::app::history::At;
use crate::id::ActorPath;
use crate::journal::{Change, HistoryEntry, HistoryFilter, Live, Reacted, Reader, RecordedTransaction};

/// Number of groups that are read at a time.
const PART: usize = 256;

/// A range of the history, with the live data before what is read next.
pub(super) struct Course<'r> {
    reader: &'r mut Reader,
    live: Live,
    /// Actors whose states in `live` are not those of this moment, which are not recorded.
    unknown: BTreeSet<ActorPath>,
    /// The position that is read next, which begins a group.
    next: u64,
    from: u64,
    to: u64,
    found: Rereacted,
    differs: SyncSender<Differing>,
    /// False once nobody wants to know what differs.
    is_wanted: bool,
}

impl<'r> Course<'r> {
    /// Finds the begin of a range.
    ///
    /// # Errors
    /// [`RereactError`] if the history does not have the range, or cannot be read.
    pub(super) fn begin(
        reader: &'r mut Reader,
        span: Span,
        differs: SyncSender<Differing>,
    ) -> Result<Self, RereactError> {
        let from = position(reader, span.from)?;
        let to = position(reader, span.to)?;
        for explicit in [from, to.filter(|_| matches!(span.to, Some(At::Position(_))))].into_iter().flatten()
        {
            // Has the error that says which positions there are.
            reader.live_at(Some(explicit))?;
        }
        let filter = HistoryFilter { from, limit: 1, ..HistoryFilter::default() };
        let first = reader.history(&filter)?.entries.into_iter().next();
        let Some(first) = first else {
            let newest = reader.live_at(None)?.0.position;
            if from.is_some_and(|from| from > newest) || newest == 0 {
                return Ok(Self::at(reader, Live::default(), u64::MAX, (1, 0), differs));
            }
            return Err(RereactError::NoHistory);
        };
        let live = reader.live_at(Some(first.first.saturating_sub(1)))?.1;
        let begin = first.first;
        Ok(Self::at(reader, live, begin, (from.unwrap_or(begin), to.unwrap_or(u64::MAX)), differs))
    }

    fn at(
        reader: &'r mut Reader,
        live: Live,
        next: u64,
        (from, to): (u64, u64),
        differs: SyncSender<Differing>,
    ) -> Self {
        let (unknown, found) = (BTreeSet::new(), Rereacted::default());
        Self { reader, live, unknown, next, from, to, found, differs, is_wanted: true }
    }

    /// Repeats the reactions of the range.
    ///
    /// # Errors
    /// [`RereactError`] if the history or a state cannot be read.
    pub(super) fn follow(mut self, repeater: &mut Repeater) -> Result<Rereacted, RereactError> {
        while self.next <= self.to && self.is_wanted {
            // A group is read as a whole, also if the range ends in it.
            let filter = HistoryFilter { from: Some(self.next), limit: PART, ..HistoryFilter::default() };
            let entries = self.reader.history(&filter)?.entries;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if entry.first > self.to || !self.is_wanted {
                    return Ok(self.found);
                }
                self.next = entry.first + entry.transactions.len() as u64;
                self.group(&entry, repeater)?;
            }
        }
        Ok(self.found)
    }

    fn group(&mut self, entry: &HistoryEntry, repeater: &mut Repeater) -> Result<(), RereactError> {
        self.unknown.clear();
        for (index, transaction) in entry.transactions.iter().enumerate() {
            let RecordedTransaction { position, changes, merged, reacted, merged_seen, .. } = transaction;
            let (seen, merged_seen) = match reacted {
                Some(reacted) => (reacted.seen.min(changes.len()), (*merged_seen).min(merged.len())),
                None => (changes.len(), merged.len()),
            };
            self.apply(*position, &changes[..seen])?;
            self.unknown.extend(merged[..merged_seen].iter().cloned());
            if (self.from..=self.to).contains(position) {
                let (first, _) = self.found.positions.unwrap_or((*position, *position));
                self.found.positions = Some((first, *position));
                if let Some(reacted) = reacted.as_ref().filter(|reacted| !reacted.reactions.is_empty()) {
                    let live = self.seen(&entry.transactions[index..]);
                    self.cycle(transaction, reacted, live, repeater)?;
                }
            }
            self.apply(*position, &changes[seen..])?;
            self.unknown.extend(merged[merged_seen..].iter().cloned());
        }
        Ok(())
    }

    fn apply(&mut self, position: u64, changes: &[Change]) -> Result<(), RereactError> {
        for change in changes {
            self.live.apply(change).map_err(|source| RereactError::Damaged { position, source })?;
            if let Change::State { path, .. } | Change::Patch { path, .. } | Change::Left { path } = change {
                self.unknown.remove(path);
            }
        }
        Ok(())
    }

    /// Returns the live data with some state of each actor. One that has none yet, because it is not recorded, has that of a
    /// later transaction, which no Flow gets to see.
    fn seen(&self, later: &[RecordedTransaction]) -> Live {
        let mut live = self.live.clone();
        for path in &self.unknown {
            let Some(actor) = live.actors.get_mut(path).filter(|actor| actor.state.is_none()) else {
                continue;
            };
            let changes = later.iter().flat_map(|transaction| &transaction.changes);
            actor.state = changes.into_iter().find_map(|change| match change {
                Change::State { path: of, state } if of == path => Some(state.clone()),
                _ => None,
            });
        }
        live
    }

    fn cycle(
        &mut self,
        transaction: &RecordedTransaction,
        reacted: &Reacted,
        live: Live,
        repeater: &mut Repeater,
    ) -> Result<(), RereactError> {
        let position = transaction.position;
        let reactions = &reacted.reactions;
        self.found.reactions += reactions.len() as u64;
        let has_state = |path: &ActorPath| live.actors.get(path).is_none_or(|actor| actor.state.is_some());
        if !self.unknown.iter().all(has_state) {
            // It has left before its first state was recorded, so that the tree cannot be made.
            *self.found.missing.entry(Missing::State).or_default() += reactions.len() as u64;
            return Ok(());
        }
        let wall = |at: Duration| -> SystemTime {
            let before = transaction.at.saturating_sub(at);
            transaction.wall.checked_sub(before).unwrap_or(transaction.wall)
        };
        let walls: Vec<_> = reactions.iter().map(|reaction| wall(reaction.at)).collect();
        let unknown = &self.unknown;
        let cycle = Cycle { live: live.clone(), unknown, reactions, walls: &walls };
        let repeated = repeater.repeat(cycle).map_err(|source| RereactError::At { position, source })?;
        let seen = reacted.seen.min(transaction.changes.len());
        let then = self.then(transaction, reacted, &transaction.changes[seen..], &live, &repeated)?;
        let now = self.now(position, reacted, &repeated)?;
        self.compare(transaction, reacted, &walls, then, now, &repeated);
        Ok(())
    }

    /// Returns what was asked for then.
    fn then(
        &self,
        transaction: &RecordedTransaction,
        reacted: &Reacted,
        changes: &[Change],
        live: &Live,
        repeated: &Repeated,
    ) -> Result<Vec<Decision>, RereactError> {
        let restored = &repeated.restored;
        let removed: HashSet<_> =
            restored.removed_fields.iter().map(|removed| (&removed.path, removed.field.as_str())).collect();
        let renamed: HashMap<_, _> = restored
            .new_fields
            .iter()
            .filter_map(|new| Some(((&new.path, new.recorded.as_deref()?), new.field.as_str())))
            .collect();
        let mut last = HashMap::new();
        for reaction in &reacted.reactions {
            last.insert(reaction.flow.clone(), reaction.at);
        }
        let reading = Reading {
            before: live,
            reacted: &last,
            field: &|path, field| {
                let path = repeated.renamed(path);
                if removed.contains(&(&path, field)) {
                    return None;
                }
                Some((*renamed.get(&(&path, field)).unwrap_or(&field)).to_owned())
            },
            key: &|path, key, bytes| repeated.key(&repeated.renamed(path), key, bytes),
        };
        let position = transaction.position;
        let decisions = reading.decisions(changes);
        let Decisions { all: mut found, new_lists } =
            decisions.map_err(|source| RereactError::Unreadable { position, source })?;
        for reaction in &reacted.reactions {
            let end = reaction.end.clone().map(What::End);
            found.extend(end.map(|what| Decision { path: reaction.flow.clone(), what }));
        }
        for decision in &mut found {
            decision.path = repeated.renamed(&decision.path);
        }
        let new_lists = new_lists.iter().map(|list| repeated.renamed(&list.as_str().into()).to_string());
        renumber(&mut found, &new_lists.collect());
        Ok(found)
    }

    /// Returns what is asked for now.
    fn now(
        &self,
        position: u64,
        reacted: &Reacted,
        repeated: &Repeated,
    ) -> Result<Vec<Decision>, RereactError> {
        let added: HashSet<_> = repeated
            .restored
            .new_fields
            .iter()
            .filter(|new| new.recorded.is_none())
            .map(|new| (&new.path, new.field.as_str()))
            .collect();
        let mut last = HashMap::new();
        for (reaction, outcome) in reacted.reactions.iter().zip(&repeated.outcomes) {
            if matches!(outcome, Outcome::Reacted(_)) {
                last.insert(repeated.renamed(&reaction.flow), reaction.at);
            }
        }
        let reading = Reading {
            before: &repeated.before,
            reacted: &last,
            field: &|path, field| (!added.contains(&(path, field))).then(|| field.to_owned()),
            key: &|path, key, bytes| repeated.key(path, key, bytes),
        };
        let decisions = reading.decisions(&repeated.changes);
        let Decisions { all: mut found, new_lists } =
            decisions.map_err(|source| RereactError::Unreadable { position, source })?;
        for (reaction, outcome) in reacted.reactions.iter().zip(&repeated.outcomes) {
            if let Outcome::Reacted(Some(end)) = outcome {
                let path = repeated.renamed(&reaction.flow);
                found.push(Decision { path, what: What::End(end.clone()) });
            }
        }
        renumber(&mut found, &new_lists);
        Ok(found)
    }

    fn compare(
        &mut self,
        transaction: &RecordedTransaction,
        reacted: &Reacted,
        walls: &[SystemTime],
        then: Vec<Decision>,
        now: Vec<Decision>,
        repeated: &Repeated,
    ) {
        // The Flows in the order of their first reactions.
        let mut flows: Vec<ActorPath> = Vec::new();
        let mut missing: HashMap<ActorPath, Missing> = HashMap::new();
        let mut last: HashMap<ActorPath, usize> = HashMap::new();
        for (index, reaction) in reacted.reactions.iter().enumerate() {
            let flow = repeated.renamed(&reaction.flow);
            if let Some(Outcome::Unrecorded(what)) = repeated.outcomes.get(index) {
                missing.entry(flow.clone()).or_insert(*what);
            }
            if last.insert(flow.clone(), index).is_none() {
                flows.push(flow);
            }
        }
        let merged = &transaction.merged[transaction.merged_seen.min(transaction.merged.len())..];
        let merged: Vec<_> = merged.iter().map(|path| repeated.renamed(path)).collect();
        let is_compared = |decision: &Decision| {
            !(matches!(decision.what, What::Field { .. }) && merged.contains(&decision.path))
        };
        let then = then.into_iter().filter(is_compared).collect();
        let now = now.into_iter().filter(is_compared).collect();
        let mut by_flow = by_flow(&flows, then, now);
        for flow in &flows {
            let index = last.get(flow).copied().unwrap_or_default();
            let count = reacted.reactions.iter().filter(|one| repeated.renamed(&one.flow) == *flow).count();
            let differences = by_flow.remove(flow).unwrap_or_default();
            let of_above = flows.iter().filter(|above| *above != flow && is_below(flow, above.as_str()));
            let missing_above = of_above.filter_map(|above| missing.get(above)).next().copied();
            let is_partial = merged.iter().any(|path| deepest(path, &flows) == Some(flow));
            let missing = missing.get(flow).copied();
            let missing = missing.or_else(|| missing_above.filter(|_| !differences.is_empty()));
            let missing = missing.or((is_partial && differences.is_empty()).then_some(Missing::State));
            if let Some(missing) = missing {
                *self.found.missing.entry(missing).or_default() += count as u64;
                continue;
            }
            if !differences.is_empty() {
                let Differences { then, now } = differences;
                self.found.differing += 1;
                self.is_wanted &= self
                    .differs
                    .send(Differing {
                        position: transaction.position,
                        wall: walls.get(index).copied().unwrap_or(transaction.wall),
                        flow: flow.clone(),
                        number: reacted.reactions.get(index).map_or(0, |reaction| reaction.number),
                        then,
                        now,
                    })
                    .is_ok();
            }
        }
    }
}

/// Returns the position of a moment.
fn position(reader: &mut Reader, at: Option<At>) -> Result<Option<u64>, RereactError> {
    Ok(match at {
        None => None,
        Some(At::Position(position)) => Some(position),
        Some(At::Time(wall)) => Some(reader.position_at(wall)?.ok_or(RereactError::TooEarly)?),
    })
}
