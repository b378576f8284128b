//! Random departures, on a model of which processes have which value.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Fate, Presence, fate};

const PROCESSES: usize = 4;
const VALUES: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    /// A process pulls a value from another one that has it.
    Copy { value: usize, process: usize },
    /// The last reference to a value is dropped.
    Release { value: usize },
    /// A process begins to leave.
    Leave { process: usize },
    /// The head moves one of the values that would be lost with a process, if there is one.
    Move { process: usize, pick: usize },
    /// The head lets a process end, if nothing would be lost with it.
    End { process: usize },
}

#[derive(Debug, Default)]
struct Value {
    /// The processes that have the value, apart from the head.
    holders: BTreeSet<usize>,
    here: bool,
    is_released: bool,
}

#[derive(Debug)]
struct World {
    values: Vec<Value>,
    processes: [Presence; PROCESSES],
    moves: usize,
}

impl World {
    fn fate_of(&self, value: usize) -> Fate {
        let Value { holders, here, .. } = &self.values[value];
        fate(*here, holders.iter().map(|process| self.processes[*process]))
    }

    /// Returns the values that would be lost, as the head finds them: unreferenced values are unknown to it.
    fn only_at(&self, process: usize) -> Vec<usize> {
        let is_known = |value: &usize| {
            let Value { holders, is_released, .. } = &self.values[*value];
            holders.contains(&process) && !is_released
        };
        (0..VALUES).filter(is_known).filter(|value| self.fate_of(*value) == Fate::Moves).collect()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Copy { value, process } => {
                let known = &mut self.values[value];
                if !known.is_released && self.processes[process] == Presence::Stays {
                    known.holders.insert(process);
                }
            }
            Step::Release { value } => {
                self.values[value] = Value { is_released: true, ..Value::default() };
            }
            Step::Leave { process } => {
                if self.processes[process] == Presence::Stays {
                    self.processes[process] = Presence::Leaves;
                }
            }
            Step::Move { process, pick } => {
                let left = self.only_at(process);
                if let Some(value) = left.get(pick % left.len().max(1)) {
                    let value = &mut self.values[*value];
                    let stays = value.holders.iter().any(|holder| self.processes[*holder] == Presence::Stays);
                    assert!(!value.here && !stays, "a value is moved though another process keeps it");
                    value.here = true;
                    self.moves += 1;
                }
            }
            Step::End { process } => {
                if self.processes[process] == Presence::Leaves && self.only_at(process).is_empty() {
                    self.processes[process] = Presence::Gone;
                    self.values.iter_mut().for_each(|value| {
                        value.holders.remove(&process);
                    });
                }
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let process = 0..PROCESSES;
    let value = 0..VALUES;
    let step = prop_oneof![
        3 => (value.clone(), process.clone()).prop_map(|(value, process)| Step::Copy { value, process }),
        1 => value.prop_map(|value| Step::Release { value }),
        2 => process.clone().prop_map(|process| Step::Leave { process }),
        4 => (process.clone(), any::<usize>()).prop_map(|(process, pick)| Step::Move { process, pick }),
        4 => process.prop_map(|process| Step::End { process }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// For any interleaving of departures, a referenced value is never lost, and is moved at most once and only when no
    /// process that stays has it; and every process can end.
    #[test]
    fn departures_in_any_order_lose_no_value(
        makers in prop::collection::vec(0..PROCESSES, VALUES),
        steps in steps(),
    ) {
        let values = makers.into_iter().map(|maker| Value { holders: [maker].into(), ..Value::default() });
        let mut world =
            World { values: values.collect(), processes: [Presence::Stays; PROCESSES], moves: 0 };
        let all = (0..PROCESSES).flat_map(|process| {
            let moves = (0..VALUES).map(move |pick| Step::Move { process, pick });
            [Step::Leave { process }].into_iter().chain(moves).chain([Step::End { process }])
        });
        for step in steps.into_iter().chain(all) {
            world.step(&step);
            for (number, value) in world.values.iter().enumerate() {
                let is_there = value.here || !value.holders.is_empty();
                prop_assert!(is_there || value.is_released, "value {number} is lost by {step:?}: {world:?}");
            }
        }
        prop_assert_eq!(world.processes, [Presence::Gone; PROCESSES]);
        prop_assert!(world.moves <= VALUES);
    }
}

/// A value is moved only if processes that leave have it, and no other does.
#[test]
fn fate_depends_on_those_that_stay() {
    use Presence::{Gone, Leaves, Stays};

    assert_eq!(fate(true, []), Fate::Kept);
    assert_eq!(fate(false, [Leaves, Stays]), Fate::Kept);
    assert_eq!(fate(false, [Gone, Leaves]), Fate::Moves);
    assert_eq!(fate(false, [Gone]), Fate::Lost);
    assert_eq!(fate(true, [Leaves]), Fate::Kept);
}
