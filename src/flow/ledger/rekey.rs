//! Remembered inputs of a Work whose type of input may have changed: their keys in the program as it is now (pure).
//!
//! # Guarantees
//! - An input that can be read gets the key that an equal input has when it is requested now. Its outcome, its steps and
//!   its place in the queue stay with it, so that no run that has succeeded runs again.
//! - Of several inputs that have become equal, one outcome is remembered: a success if there is one, else that of a run
//!   that has not ended, else the newest. Runs of the others are dropped; one in progress ends without an outcome.
//! - An input that cannot be read, or was too long to be recorded, keeps its key and its outcome, and is counted.
//! - Doing it again changes nothing.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::facts::{Fact, Image};
use super::input_facts::InputFacts;
use super::rows::key_from;
use crate::printable::chain;
use crate::wire::CodecError;
use crate::work::{Input, RunKey, Stage, Steps};

/// The result of reading the recorded inputs of a Work with the program as it is now.
#[derive(Debug)]
pub(crate) struct Rekeyed {
    pub(crate) inputs: InputFacts,
    /// Why an input cannot be read, of the first such one.
    pub(crate) why: Option<String>,
    /// The changes, which end with the facts about the inputs.
    pub(crate) facts: Vec<Fact>,
}

/// An input that gets another key.
struct Move {
    from: RunKey,
    to: RunKey,
    input: Input,
}

/// The order in which one of several equal inputs is chosen, the last one: whether it has succeeded, the place of its run
/// that has not ended, and the number of its status.
type Rank = (bool, Option<Reverse<u64>>, u64);

impl Image {
    /// Returns how the recorded inputs were read last.
    pub(crate) fn inputs_read(&self) -> InputFacts {
        self.inputs_read
    }

    /// Returns true if an input is remembered, or a run has not ended.
    pub(crate) fn has_inputs(&self) -> bool {
        !self.inputs.is_empty() || !self.runs.is_empty()
    }

    /// Gives each remembered input the key that it has in the program as it is now. `given` are the recorded inputs by key,
    /// ordered; `read` reads one whose key is known as the program's type of input, which has this mark.
    pub(crate) fn rekey(
        &mut self,
        given: &[(Bytes, Bytes)],
        mark: Option<u64>,
        read: impl Fn(RunKey, &[u8]) -> Result<(RunKey, Input), CodecError>,
    ) -> Rekeyed {
        let mut inputs = InputFacts::of(mark);
        let (mut moves, mut known, mut why) = (Vec::new(), 0, None);
        let mut read_one = |from: RunKey, bytes: &[u8], is_remembered: bool| match read(from, bytes) {
            Ok((to, input)) if to != from => moves.push(Move { from, to, input }),
            Ok(_) => {}
            Err(error) if is_remembered => {
                inputs.unreadable += 1;
                why.get_or_insert_with(|| chain(&error));
            }
            // Its outcome is not wanted, and the run fails by itself.
            Err(_) => {}
        };
        for (key, bytes) in given {
            let from = key_from(key);
            if self.inputs.contains_key(&from) {
                known += 1;
                read_one(from, bytes, true);
            }
        }
        let is_given = |key: RunKey| {
            let key = key.to_bytes();
            given.binary_search_by(|(other, _)| other[..].cmp(&key)).is_ok()
        };
        // Inputs that are recorded with their runs only: long ones, and those that were forgotten meanwhile.
        let mut seen = HashSet::new();
        for run in self.runs.values() {
            let is_remembered = self.inputs.contains_key(&run.key);
            if !(is_remembered && is_given(run.key)) && seen.insert(run.key) {
                known += u64::from(is_remembered);
                read_one(run.key, &run.input.bytes, is_remembered);
            }
        }
        // Only where the type has changed do inputs matter that were not recorded.
        let has_changed = !moves.is_empty() || inputs.unreadable > 0 || self.inputs_read.too_long > 0;
        inputs.too_long = if has_changed { (self.inputs.len() as u64).saturating_sub(known) } else { 0 };
        inputs.moved = moves.iter().filter(|one| self.inputs.contains_key(&one.from)).count() as u64;
        let (mut facts, merged) = self.apply_moves(moves);
        inputs.merged = merged;
        self.inputs_read = inputs;
        facts.push(Fact::InputsRead(inputs));
        Rekeyed { inputs, why, facts }
    }

    /// Moves inputs to their new keys. Returns the changes, and the number of inputs whose outcome is not remembered because
    /// they have become equal to others.
    fn apply_moves(&mut self, moves: Vec<Move>) -> (Vec<Fact>, u64) {
        let lost = self.lost_to_equal_ones(&moves);
        let mut facts = Vec::new();
        let mut taken = Vec::new();
        for one in &moves {
            let Some(outcome) = self.inputs.remove(&one.from) else { continue };
            facts.push(Fact::Forgotten { key: one.from });
            let steps = self.forget_steps(one.from, &mut facts);
            if !lost.contains(&one.from) {
                taken.push((one, outcome, steps));
            }
        }
        for key in &lost {
            self.forget_steps(*key, &mut facts);
        }
        // After all that are removed, since the new key of one input may be the old one of another.
        for (one, (status, at), steps) in taken {
            let key = one.to;
            facts.push(Fact::Given { key, input: one.input.clone() });
            facts.push(Fact::Input { key, status: status.clone(), at });
            self.inputs.insert(key, (status, at));
            if steps.iter().next().is_some() {
                // Those of an equal input whose outcome was forgotten.
                self.forget_steps(key, &mut facts);
                facts.extend(steps.iter().map(|step| Fact::Step { input: key, step: step.clone() }));
                self.steps.insert(key, steps);
            }
        }
        self.move_runs(moves, &lost, &mut facts);
        (facts, lost.len() as u64)
    }

    /// Returns the inputs that have become equal to another one whose outcome is remembered, by their old keys.
    fn lost_to_equal_ones(&self, moves: &[Move]) -> HashSet<RunKey> {
        let mut places: HashMap<RunKey, Reverse<u64>> = HashMap::new();
        // The first place of each input is inserted last.
        for (place, run) in self.runs.iter().rev().filter(|(_, run)| !run.progress.forgotten) {
            places.insert(run.key, Reverse(*place));
        }
        let rank = |key: RunKey| -> Option<Rank> {
            let (status, _) = self.inputs.get(&key)?;
            Some((status.stage == Stage::Succeeded, places.get(&key).copied(), status.seq))
        };
        let moved: HashSet<RunKey> = moves.iter().map(|one| one.from).collect();
        let mut best: HashMap<RunKey, (Rank, RunKey)> = HashMap::new();
        let mut lost = HashSet::new();
        for one in moves {
            let Some(new) = rank(one.from).map(|rank| (rank, one.from)) else { continue };
            // An input that has this key already, and keeps it.
            let stays = || rank(one.to).filter(|_| !moved.contains(&one.to)).map(|rank| (rank, one.to));
            match best.get(&one.to).copied().or_else(stays) {
                None => drop(best.insert(one.to, new)),
                Some(before) => {
                    lost.insert(before.min(new).1);
                    best.insert(one.to, before.max(new));
                }
            }
        }
        lost
    }

    fn forget_steps(&mut self, key: RunKey, facts: &mut Vec<Fact>) -> Steps {
        let Some(steps) = self.steps.remove(&key) else { return Steps::default() };
        let ids = steps.iter().map(|step| step.id).collect();
        facts.push(Fact::StepsForgotten { input: key, steps: ids });
        steps
    }

    /// Gives runs that have not ended their new inputs, and drops those of inputs that are lost.
    fn move_runs(&mut self, moves: Vec<Move>, lost: &HashSet<RunKey>, facts: &mut Vec<Fact>) {
        let moves: HashMap<_, _> = moves.into_iter().map(|one| (one.from, (one.to, one.input))).collect();
        let current = self.work.current.as_ref().map(|current| current.place);
        let mut dropped = Vec::new();
        let mut is_lost_in_progress = false;
        for (place, run) in &mut self.runs {
            let is_lost = lost.contains(&run.key) && !run.progress.forgotten;
            if is_lost && current != Some(*place) {
                dropped.push(*place);
                continue;
            }
            if let Some((to, input)) = moves.get(&run.key) {
                (run.key, run.input) = (*to, input.clone());
                let (key, input, queued) = (run.key, run.input.clone(), run.queued);
                facts.push(Fact::OtherKey { place: *place, key, input, queued });
            }
            if is_lost {
                run.progress.forgotten = true;
                is_lost_in_progress = true;
                facts.push(Fact::Waits { place: *place, progress: run.progress });
            }
        }
        for place in dropped {
            self.runs.remove(&place);
            facts.push(Fact::Ended { place });
        }
        if is_lost_in_progress && let Some(current) = &mut self.work.current {
            current.progress.forgotten = true;
            facts.push(Fact::Work(self.work.clone()));
        }
    }
}
