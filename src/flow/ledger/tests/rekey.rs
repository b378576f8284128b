//! Random test of remembered inputs that are read as a changed type: outcomes stay, and nothing runs twice.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::facts::*;
use super::super::*;
use super::at;
use super::at_random::{read, write};
use crate::flow::policy::Policy;
use crate::flow::restart::OnError;
use crate::journal::Table;
use crate::wire::{self, CodecError};
use crate::work::KnownStep;

/// The number of inputs of the type before, and of the type since.
const OLD: u8 = 6;
const NEW: u8 = 4;

/// An input. The program before writes a number, the program since writes new ones as a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Given {
    Old(u8),
    New(u8),
}

impl Given {
    fn all() -> impl Iterator<Item = Self> {
        (0..OLD).map(Self::Old).chain((0..NEW).map(Self::New))
    }

    fn input(self) -> (RunKey, Input) {
        match self {
            Self::Old(number) => Input::new(&number).unwrap(),
            Self::New(number) => Input::new(&(number,)).unwrap(),
        }
    }

    fn key(self) -> RunKey {
        self.input().0
    }
}

/// The outcome of reading an old input with the changed program.
#[derive(Debug, Clone, Copy)]
enum Becomes {
    Same,
    New(u8),
    Unreadable,
}

type Program = [Becomes; OLD as usize];

fn becomes() -> impl Strategy<Value = Becomes> {
    prop_oneof![
        2 => Just(Becomes::Same),
        6 => (0..NEW).prop_map(Becomes::New),
        2 => Just(Becomes::Unreadable),
    ]
}

/// Reads an input with the program since, which reads its own as well.
fn read_input(program: &Program, bytes: &[u8]) -> Result<(RunKey, Input), CodecError> {
    if let Ok((number,)) = wire::decode::<(u8,)>(bytes) {
        return Ok(Given::New(number).input());
    }
    let number = wire::decode::<u8>(bytes)?;
    match program[usize::from(number)] {
        Becomes::Same => Ok(Given::Old(number).input()),
        Becomes::New(new) => Ok(Given::New(new).input()),
        Becomes::Unreadable => Err(wire::decode::<u8>(&[]).unwrap_err()),
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Ask(Given),
    Forget(Given),
    Begin,
    Step(u8),
    Succeed,
    Fail,
    ClearFailures,
}

fn op() -> impl Strategy<Value = Op> {
    let given = || prop_oneof![3 => (0..OLD).prop_map(Given::Old), 1 => (0..NEW).prop_map(Given::New)];
    prop_oneof![
        8 => given().prop_map(Op::Ask),
        2 => given().prop_map(Op::Forget),
        3 => Just(Op::Begin),
        2 => (0..3_u8).prop_map(Op::Step),
        4 => Just(Op::Succeed),
        2 => Just(Op::Fail),
        1 => Just(Op::ClearFailures),
    ]
}

type Rows = HashMap<(Table, Vec<u8>), Vec<u8>>;

fn policy() -> Policy {
    Policy { on_error: OnError::Capture, ..Policy::default() }
}

/// Carries out operations, and returns the rows that record them.
fn recorded(ops: &[Op]) -> Rows {
    let mut ledger = Ledger::new(policy().into());
    ledger.record_facts();
    let (mut rows, mut run) = (Rows::new(), 0);
    for (now, op) in (0..).map(at).zip(ops) {
        match *op {
            Op::Ask(given) => {
                let (key, input) = given.input();
                ledger.request(key, input, now);
            }
            Op::Forget(given) => ledger.forget(given.key(), now),
            Op::Begin => ledger.report(Report::RunStarted { run }, now),
            Op::Step(step) => ledger.report(Report::Stepped { run, step: KnownStep::test(step, true) }, now),
            Op::Succeed => ledger.report(Report::RunSucceeded { run }, now),
            Op::Fail => {
                let failure = Failure::new(Reason::UserError, "no");
                ledger.report(Report::RunFailed { run, failure }, now);
            }
            Op::ClearFailures => ledger.clear_failures(),
        }
        for action in ledger.take_actions() {
            if let Action::Send(order) = action {
                run = order.run;
            }
        }
        ledger.take_facts().into_iter().for_each(|fact| write(&mut rows, fact));
    }
    rows
}

fn given(rows: &Rows) -> Vec<(Bytes, Bytes)> {
    let given = rows.iter().filter(|((table, _), _)| *table == Table::Given);
    let copied = |bytes: &Vec<u8>| Bytes::copy_from_slice(bytes);
    let mut given: Vec<_> = given.map(|((_, key), value)| (copied(key), copied(value))).collect();
    given.sort();
    given
}

/// The place of the first run of an input that has not ended and whose outcome is wanted.
fn place(image: &Image, key: RunKey) -> Option<u64> {
    let wanted = image.runs.iter().filter(|(_, run)| run.key == key && !run.progress.forgotten);
    wanted.map(|(place, _)| *place).min()
}

fn stage(image: &Image, key: RunKey) -> Option<(Stage, u64)> {
    image.inputs.get(&key).map(|(status, _)| (status.stage, status.seq))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    /// Each input has the outcome of the best of the inputs that it was, rows and image agree, a second reading changes
    /// nothing, and no input that has succeeded runs again.
    #[test]
    fn outcomes_stay_when_inputs_are_read_as_another_type(
        ops in prop::collection::vec(op(), 0..60),
        program in prop::array::uniform6(becomes()),
    ) {
        let mut rows = recorded(&ops);
        let before = read(&rows);
        let mut image = before.clone();
        let result = image.rekey(&given(&rows), Some(7), |_, bytes| read_input(&program, bytes));
        result.facts.into_iter().for_each(|fact| write(&mut rows, fact));
        prop_assert_eq!(&read(&rows), &image);

        let (mut moved, mut merged, mut unreadable) = (0, 0, 0);
        let mut succeeded = Vec::new();
        for number in 0..OLD {
            let (key, is_known) = (Given::Old(number).key(), before.inputs.contains_key(&Given::Old(number).key()));
            match program[usize::from(number)] {
                Becomes::New(_) => {
                    moved += u64::from(is_known);
                    prop_assert!(!image.inputs.contains_key(&key) && !image.steps.contains_key(&key) || !is_known);
                }
                kept => {
                    unreadable += u64::from(is_known && matches!(kept, Becomes::Unreadable));
                    prop_assert_eq!(image.inputs.get(&key), before.inputs.get(&key));
                    prop_assert_eq!(image.steps.get(&key), before.steps.get(&key));
                }
            }
        }
        for new in 0..NEW {
            let is_it = |old: &Given| match *old {
                Given::Old(old) => matches!(program[usize::from(old)], Becomes::New(to) if to == new),
                Given::New(old) => old == new,
            };
            let were: Vec<_> = Given::all().filter(is_it).map(Given::key).collect();
            let known: Vec<_> = were.iter().copied().filter(|key| before.inputs.contains_key(key)).collect();
            merged += known.len().saturating_sub(1) as u64;
            let best = known.iter().copied().max_by_key(|key| {
                let (stage, seq) = stage(&before, *key).unwrap();
                let place = place(&before, *key).map_or(0, |place| u64::MAX - place);
                (stage == Stage::Succeeded, place, seq)
            });
            let key = Given::New(new).key();
            prop_assert_eq!(stage(&image, key), best.and_then(|best| stage(&before, best)));
            if let Some(best) = best {
                let left = before.steps.get(&key).filter(|_| !before.inputs.contains_key(&key));
                prop_assert_eq!(image.steps.get(&key), before.steps.get(&best).or(left));
                let has_succeeded = stage(&before, best).unwrap().0 == Stage::Succeeded;
                succeeded.extend(has_succeeded.then_some(key));
                prop_assert_eq!(place(&image, key), place(&before, best));
            }
        }
        let counted = image.inputs_read();
        prop_assert_eq!((counted.moved, counted.merged, counted.unreadable), (moved, merged, unreadable));

        let mut again = image.clone();
        let second = again.rekey(&given(&rows), Some(7), |_, bytes| read_input(&program, bytes));
        prop_assert_eq!((second.inputs.moved, second.facts.len()), (0, 1));
        again.inputs_read = image.inputs_read;
        prop_assert_eq!(&again, &image);

        // Everything that waits runs, and is asked for once more.
        let mut ledger = Ledger::restore(Arc::new(policy()), image, None, at(1000));
        let mut ran: HashMap<RunKey, u32> = HashMap::new();
        for key in &succeeded {
            let input = Given::all().find(|given| given.key() == *key).unwrap().input().1;
            prop_assert_eq!(ledger.request(*key, input, at(1000)), Requested::Finished);
        }
        loop {
            let actions = ledger.take_actions();
            let mut runs = Vec::new();
            for action in actions {
                if let Action::Send(order) = action {
                    if let Ok((key, _)) = read_input(&program, &order.input.bytes) {
                        *ran.entry(key).or_default() += 1;
                    }
                    runs.push(order.run);
                }
            }
            if runs.is_empty() {
                break;
            }
            for run in runs {
                ledger.report(Report::RunStarted { run }, at(1001));
                ledger.report(Report::RunSucceeded { run }, at(1001));
            }
        }
        prop_assert!(succeeded.iter().all(|key| !ran.contains_key(key)), "{:?} of {:?}", ran, succeeded);
        prop_assert!(ran.values().all(|times| *times == 1), "{:?}", ran);
    }
}

/// Inputs that were too long to be recorded are counted where the type has changed, and their runs that wait are moved.
#[test]
fn long_inputs_are_counted_where_the_type_has_changed() {
    let long = |letter: char| letter.to_string().repeat(5000);
    let mut ledger = Ledger::new(policy().into());
    ledger.record_facts();
    let ask = |ledger: &mut Ledger, text: &str| {
        let (key, input) = Input::new(&text).unwrap();
        ledger.request(key, input, at(0))
    };
    ask(&mut ledger, &long('a'));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    ledger.report(Report::RunSucceeded { run: 1 }, at(0));
    ask(&mut ledger, "b");
    ask(&mut ledger, &long('c'));
    let mut rows = Rows::new();
    ledger.take_facts().into_iter().for_each(|fact| write(&mut rows, fact));
    let same = |_, bytes: &[u8]| Input::new(&wire::decode::<String>(bytes)?);
    let wrapped = |_, bytes: &[u8]| Input::new(&(wire::decode::<String>(bytes)?,));
    let mut image = read(&rows);
    let unchanged = image.rekey(&given(&rows), Some(1), same);
    assert_eq!((unchanged.inputs.moved, unchanged.inputs.kept()), (0, 0));
    let mut image = read(&rows);
    let changed = image.rekey(&given(&rows), Some(2), wrapped);
    assert_eq!((changed.inputs.moved, changed.inputs.too_long, changed.inputs.unreadable), (2, 1, 0));
    let waiting: Vec<_> = image.runs.values().map(|run| run.key).collect();
    assert_eq!(waiting, ["b", &long('c')].map(|text| Input::new(&(text,)).unwrap().0));
}
