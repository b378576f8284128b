//! Status of each input that was requested of a Work, and the eviction of old outcomes.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;
use crate::flow::policy::Remember;
use crate::id::IdMap;
use crate::work::{KnownStep, RunKey, Stage, Status, StepId, StepValue, Steps, StepsFull};

/// Number of remembered inputs at which a warning is logged.
const MANY: usize = 1_000_000;

/// Number of recent inputs that are compared with a new one.
const COMPARED: usize = 64;

/// Statuses of inputs, by key. Outcomes are evicted as [`Remember`] requires, oldest first; runs in progress never are.
#[derive(Debug, Default)]
pub(super) struct Memory {
    statuses: IdMap<RunKey, Status>,
    /// Boxed, because few Works have a limit.
    aging: Option<Box<Aging>>,
    is_told_of_many: bool,
    /// Boxed, because few Works have inputs with sequences.
    reordered: Option<Box<Reordered>>,
    /// Present if changes are recorded.
    changes: Option<Box<Changes>>,
    /// Steps of runs that have not succeeded, and outputs of those that have, by their input. Boxed, because few Works have
    /// either.
    steps: Option<Box<IdMap<RunKey, Steps>>>,
}

/// Outcomes by age, if there is a limit.
#[derive(Debug, Default)]
struct Aging {
    /// The sequence number of the status, the input, and the time.
    outcomes: VecDeque<(u64, RunKey, Duration)>,
    /// Number of outdated entries in `outcomes`.
    outdated: usize,
}

/// Changes that are not taken yet.
#[derive(Debug, Default)]
struct Changes {
    /// Inputs whose status has changed since the last call of [`take_changed`](Memory::take_changed), with the time.
    inputs: Vec<(RunKey, Duration)>,
    /// Changes of steps since the last call of [`take_step_changes`](Memory::take_step_changes).
    steps: Vec<StepChange>,
}

/// A change of the remembered steps.
#[derive(Debug)]
pub(super) enum StepChange {
    Known(RunKey, StepId),
    Forgotten(RunKey, Vec<StepId>),
}

/// Detector of inputs that differ only in the order of a sequence.
#[derive(Debug, Default)]
struct Reordered {
    seen: VecDeque<(u64, RunKey)>,
    is_told: bool,
}

impl Memory {
    /// Restores the statuses of inputs, and of each the time since the start of the App at which it was set. Records
    /// changes from now on: evictions are the first.
    pub(super) fn restored(
        inputs: impl IntoIterator<Item = (RunKey, Status, Duration)>,
        steps: impl IntoIterator<Item = (RunKey, Steps)>,
        remember: Remember,
        now: Moment,
    ) -> Self {
        let mut memory = Self::default();
        memory.record_changes();
        let steps: IdMap<_, _> = steps.into_iter().collect();
        memory.steps = (!steps.is_empty()).then(|| Box::new(steps));
        let mut outcomes = Vec::new();
        for (key, status, at) in inputs {
            if status.stage.is_terminal() {
                outcomes.push((status.seq, key, at));
            }
            memory.statuses.insert(key, status);
        }
        if !remember.is_everything() {
            outcomes.sort_unstable_by_key(|(seq, ..)| *seq);
            memory.aging.get_or_insert_default().outcomes = outcomes.into();
            memory.expire(remember, now);
        }
        memory
    }

    /// Records changes from now on.
    pub(super) fn record_changes(&mut self) {
        self.changes.get_or_insert_default();
    }

    /// Returns the inputs whose status has changed since the last call; an input may be there several times.
    pub(super) fn take_changed(&mut self) -> Vec<(RunKey, Duration)> {
        self.changes.as_mut().map(|changes| std::mem::take(&mut changes.inputs)).unwrap_or_default()
    }

    /// Returns the changes of the remembered steps since the last call, in order.
    pub(super) fn take_step_changes(&mut self) -> Vec<StepChange> {
        self.changes.as_mut().map(|changes| std::mem::take(&mut changes.steps)).unwrap_or_default()
    }

    /// Returns the remembered steps of the runs of an input.
    pub(super) fn steps(&self, key: RunKey) -> Steps {
        self.steps.as_ref().and_then(|steps| steps.get(&key)).cloned().unwrap_or_default()
    }

    /// Remembers a step of the run of an input.
    ///
    /// # Errors
    /// [`StepsFull`] if the run remembers too much already.
    pub(super) fn remember_step(&mut self, key: RunKey, step: KnownStep) -> Result<(), StepsFull> {
        let id = step.id;
        let is_changed = self.steps.get_or_insert_default().entry(key).or_default().insert(step)?;
        if let Some(changes) = self.changes.as_mut().filter(|_| is_changed) {
            changes.steps.push(StepChange::Known(key, id));
        }
        Ok(())
    }

    /// Returns the output of the last run of an input, which counts if that run has succeeded.
    pub(super) fn output(&self, key: RunKey) -> Option<&StepValue> {
        self.steps.as_ref()?.get(&key)?.output()
    }

    /// Returns true if the last attempt at a run has reported that it is ready.
    pub(super) fn is_ready(&self, key: RunKey) -> bool {
        let steps = self.steps.as_ref().and_then(|steps| steps.get(&key));
        steps.is_some_and(|steps| steps.get(StepId::READY).is_some())
    }

    /// Forgets what counts for one attempt only: its output, and that it was ready.
    pub(super) fn forget_attempt(&mut self, key: RunKey) {
        self.forget_steps_if(key, |id| id == StepId::OUTPUT || id == StepId::READY);
    }

    fn forget_steps(&mut self, key: RunKey) {
        self.forget_steps_if(key, |_| true);
    }

    fn forget_steps_if(&mut self, key: RunKey, is_forgotten: impl Fn(StepId) -> bool) {
        let Some(all) = &mut self.steps else { return };
        let Some(steps) = all.get_mut(&key) else { return };
        let mut ids: Vec<_> = steps.iter().map(|step| step.id).collect();
        ids.retain(|id| is_forgotten(*id) && steps.remove(*id).is_some());
        if steps.is_empty() {
            all.remove(&key);
        }
        if all.is_empty() {
            self.steps = None;
        }
        if let Some(changes) = self.changes.as_mut().filter(|_| !ids.is_empty()) {
            changes.steps.push(StepChange::Forgotten(key, ids));
        }
    }

    #[cfg(test)]
    pub(super) fn all_steps(&self) -> impl Iterator<Item = (&RunKey, &Steps)> {
        self.steps.iter().flat_map(|steps| steps.iter())
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RunKey, &Status)> {
        self.statuses.iter()
    }

    fn note_change(&mut self, key: RunKey, at: Duration) {
        if let Some(changes) = &mut self.changes {
            changes.inputs.push((key, at));
        }
    }

    pub(super) fn get(&self, key: RunKey) -> Option<&Status> {
        self.statuses.get(&key)
    }

    pub(super) fn stage(&self, key: RunKey) -> Stage {
        self.get(key).map_or(Stage::NotStarted, |status| status.stage)
    }

    pub(super) fn set(&mut self, key: RunKey, status: Status, remember: Remember, now: Moment) {
        let (seq, is_outcome) = (status.seq, status.stage.is_terminal());
        if status.stage == Stage::Succeeded {
            self.forget_steps_if(key, |id| id != StepId::OUTPUT);
        }
        let before = self.statuses.insert(key, status);
        self.note_change(key, now.at);
        if remember.is_everything() {
            return;
        }
        self.outdate(before);
        if is_outcome {
            self.aging.get_or_insert_default().outcomes.push_back((seq, key, now.at));
            self.expire(remember, now);
        }
    }

    pub(super) fn forget(&mut self, key: RunKey) {
        let before = self.statuses.remove(&key);
        self.forget_steps(key);
        self.note_change(key, Duration::ZERO);
        self.outdate(before);
    }

    /// Forgets the inputs in these stages, but not the steps of their runs.
    pub(super) fn forget_all(&mut self, stages: &[Stage]) {
        let changes = &mut self.changes;
        self.statuses.retain(|key, status| {
            let is_forgotten = stages.contains(&status.stage);
            if let Some(changes) = changes.as_mut().filter(|_| is_forgotten) {
                changes.inputs.push((*key, Duration::ZERO));
            }
            !is_forgotten
        });
        self.compact();
    }

    fn outdate(&mut self, before: Option<Status>) {
        let Some(Aging { outcomes, outdated }) = self.aging.as_deref_mut() else { return };
        if !outcomes.is_empty() && before.is_some_and(|status| status.stage.is_terminal()) {
            *outdated += 1;
            if *outdated > COMPARED && *outdated > outcomes.len() / 2 {
                self.compact();
            }
        }
    }

    fn compact(&mut self) {
        let statuses = &self.statuses;
        if let Some(Aging { outcomes, outdated }) = self.aging.as_deref_mut() {
            outcomes.retain(|(seq, key, _)| statuses.get(key).is_some_and(|status| status.seq == *seq));
            *outdated = 0;
        }
    }

    /// Evicts outcomes beyond the limits of number or age.
    pub(super) fn expire(&mut self, remember: Remember, now: Moment) {
        let Some(mut aging) = self.aging.take() else { return };
        while let Some((seq, key, at)) = aging.outcomes.front().copied() {
            let is_valid = self.statuses.get(&key).is_some_and(|status| status.seq == seq);
            if is_valid {
                let is_too_old = remember.age.is_some_and(|age| now.at.saturating_sub(at) >= age);
                let known = aging.outcomes.len().saturating_sub(aging.outdated);
                if !is_too_old && remember.count.is_none_or(|count| known <= count) {
                    break;
                }
                self.statuses.remove(&key);
                self.forget_steps(key);
                self.note_change(key, Duration::ZERO);
            } else {
                aging.outdated = aging.outdated.saturating_sub(1);
            }
            aging.outcomes.pop_front();
        }
        self.aging = Some(aging);
    }

    /// Returns the number of remembered inputs once, when it is large enough for a warning.
    pub(super) fn tell_of_many(&mut self) -> Option<usize> {
        let many = self.statuses.len();
        (many >= MANY && !std::mem::replace(&mut self.is_told_of_many, true)).then_some(many)
    }

    /// Returns true as long as the order of sequences in inputs is compared.
    pub(super) fn compares_order(&self) -> bool {
        self.reordered.as_ref().is_none_or(|reordered| !reordered.is_told)
    }

    /// Returns true for the first new input that differs from another one only in the order of a sequence. `unordered`
    /// is the hash that such inputs have in common.
    pub(super) fn is_reordered(&mut self, key: RunKey, unordered: u64) -> bool {
        let reordered = self.reordered.get_or_insert_default();
        if reordered.is_told {
            return false;
        }
        if reordered.seen.iter().any(|(seen, other)| *seen == unordered && *other != key) {
            **reordered = Reordered { seen: VecDeque::new(), is_told: true };
            return true;
        }
        if reordered.seen.len() == COMPARED {
            reordered.seen.pop_front();
        }
        reordered.seen.push_back((unordered, key));
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::work::Input;

    fn at(seconds: u64) -> Moment {
        Moment { at: Duration::from_secs(seconds), wall: SystemTime::UNIX_EPOCH }
    }

    fn key(n: u8) -> RunKey {
        Input::new(&n).unwrap().0
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, Stage),
        Forget(u8),
        ForgetFailed,
        Wait(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let stage = prop_oneof![
            Just(Stage::Pending),
            Just(Stage::Running),
            Just(Stage::Succeeded),
            Just(Stage::Failed),
            Just(Stage::Stopped),
        ];
        prop_oneof![
            6 => (0..12_u8, stage).prop_map(|(n, stage)| Step::Set(n, stage)),
            1 => (0..12_u8).prop_map(Step::Forget),
            1 => Just(Step::ForgetFailed),
            1 => (0..9_u8).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The memory agrees with a plain list of outcomes after any steps, and never evicts a run in progress.
        #[test]
        fn oldest_outcomes_are_forgotten_first(
            steps in prop::collection::vec(step(), 0..400),
            count in prop::option::of(1..6_usize),
            age in prop::option::of(1..20_u64),
        ) {
            let remember = Remember { count, age: age.map(Duration::from_secs) };
            let (mut memory, mut time) = (Memory::default(), 0);
            // By age: the input, its stage, and the time of the stage.
            let mut model: Vec<(u8, Stage, u64)> = Vec::new();
            for (seq, step) in (1..).zip(steps) {
                match step {
                    Step::Set(n, stage) => {
                        let status = Status { stage, seq, ..Status::default() };
                        memory.set(key(n), status, remember, at(time));
                        model.retain(|(other, ..)| *other != n);
                        model.push((n, stage, time));
                    }
                    Step::Forget(n) => {
                        memory.forget(key(n));
                        model.retain(|(other, ..)| *other != n);
                    }
                    Step::ForgetFailed => {
                        memory.forget_all(&[Stage::Failed, Stage::Stopped]);
                        model.retain(|(_, stage, _)| !matches!(stage, Stage::Failed | Stage::Stopped));
                    }
                    Step::Wait(seconds) => time += u64::from(seconds),
                }
                memory.expire(remember, at(time));
                model.retain(|(_, stage, then)| !stage.is_terminal() || age.is_none_or(|age| time - then < age));
                while let Some(count) = count
                    && model.iter().filter(|(_, stage, _)| stage.is_terminal()).count() > count
                {
                    let oldest = model.iter().position(|(_, stage, _)| stage.is_terminal()).unwrap();
                    model.remove(oldest);
                }
                for n in 0..12 {
                    let expected = model.iter().find(|(other, ..)| *other == n);
                    let expected = expected.map_or(Stage::NotStarted, |(_, stage, _)| *stage);
                    prop_assert_eq!(memory.stage(key(n)), expected, "{}", n);
                }
                prop_assert!(memory.aging.as_ref().map_or(0, |aging| aging.outcomes.len()) <= 2 * model.len() + COMPARED + 1);
            }
        }
    }

    /// By default nothing is evicted, and no list of outcomes is kept.
    #[test]
    fn everything_is_remembered_by_default() {
        let mut memory = Memory::default();
        for (seq, n) in (1..).zip(0..=255_u8) {
            let status = Status { stage: Stage::Succeeded, seq, ..Status::default() };
            memory.set(key(n), status, Remember::default(), at(seq));
        }
        assert!((0..=255_u8).all(|n| memory.stage(key(n)) == Stage::Succeeded));
        assert!(memory.aging.is_none() && memory.tell_of_many().is_none());
    }

    /// The warning appears once, with the millionth remembered input.
    #[test]
    fn many_inputs_are_warned_of_once() {
        let mut memory = Memory::default();
        for n in 1..=MANY as u64 + 1 {
            let status = Status { stage: Stage::Succeeded, seq: n, ..Status::default() };
            memory.set(Input::new(&n).unwrap().0, status, Remember::default(), at(0));
            assert_eq!(memory.tell_of_many(), (n == MANY as u64).then_some(MANY));
        }
    }

    /// Only the first reordered input is reported.
    #[test]
    fn reordered_input_is_told_of_once() {
        let mut memory = Memory::default();
        let (a, b, c) = (key(1), key(2), key(3));
        assert!(!memory.is_reordered(a, 7));
        assert!(!memory.is_reordered(a, 7), "the same input after it was forgotten");
        assert!(!memory.is_reordered(b, 8));
        assert!(memory.compares_order());
        assert!(memory.is_reordered(c, 7));
        assert!(!memory.compares_order() && !memory.is_reordered(b, 7));
    }
}
