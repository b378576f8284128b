//! Random test of facts: the image of all facts is the ledger, and a process may end after any transaction.

use proptest::prelude::*;

use super::super::facts::*;
use super::super::*;
use super::at_random::{INPUTS, Model, policy, step};
use super::{ask, at, input};
use crate::flow::policy::{Overlap, Policy, Remember};
use crate::flow::restart::OnError;
use crate::work::KnownStep;

/// Policies by which no failure ends the App.
fn capturing() -> impl Strategy<Value = Policy> {
    policy().prop_map(|policy| Policy { on_error: OnError::Capture, ..policy })
}

proptest! {
    /// The process ends at random moments, and the ledger is restored from its facts: the guarantees of the ledger hold
    /// across all processes.
    #[test]
    fn restored_ledger_continues_where_the_process_ended(
        policy in capturing(),
        lives in proptest::collection::vec(proptest::collection::vec(step(), 0..20), 1..5),
    ) {
        let is_queue = policy.overlap == Overlap::Queue;
        let mut model = Model::recorded(policy);
        for steps in &lives {
            for step in steps {
                model.take(step);
            }
            model.end_process();
        }
        model.settle();
        for number in 0..INPUTS {
            let stage = model.status(number).stage;
            prop_assert!(!matches!(stage, Stage::Pending | Stage::Running), "{} is left {}", number, stage);
            if is_queue && model.owes(number) {
                prop_assert!(stage.is_terminal(), "{} was accepted and is {}", number, stage);
            }
        }
    }

    /// An App that ends in good order and is restored goes on with the runs that waited, and repeats none that has
    /// succeeded, even if it succeeded after the end had begun.
    #[test]
    fn end_of_the_app_is_no_fact(
        policy in capturing(),
        before in proptest::collection::vec(step(), 0..30),
        meanwhile in proptest::collection::vec(step(), 0..10),
    ) {
        let is_queue = policy.overlap == Overlap::Queue;
        let mut model = Model::recorded(policy);
        for step in &before {
            model.take(step);
        }
        model.end_app(&meanwhile);
        model.settle();
        for number in 0..INPUTS {
            let stage = model.status(number).stage;
            if is_queue && model.owes(number) {
                prop_assert!(stage.is_terminal(), "{} was accepted and is {}", number, stage);
            }
        }
    }
}

/// A success, the end of the App and the stop of the Work are one transaction when a Flow ends the App on a success.
#[test]
fn success_in_the_transaction_that_ends_the_app_is_kept() {
    let (key, bytes) = Input::new(&1_u8).unwrap();
    let now = Moment { at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
    let mut ledger = Ledger::new(Policy::shared());
    ledger.record_facts();
    let mut image = Image::default();
    ledger.request(key, bytes, now);
    ledger.report(Report::RunStarted { run: 1 }, now);
    ledger.take_facts().into_iter().for_each(|fact| image.apply(fact));
    ledger.report(Report::RunSucceeded { run: 1 }, now);
    ledger.wind_down(now);
    ledger.shut_down(now);
    ledger.take_facts().into_iter().for_each(|fact| image.apply(fact));
    let restored = Ledger::restore(Policy::shared(), image, None, now);
    assert_eq!(restored.run_status(key).stage, Stage::Succeeded);
    assert_eq!(restored.successes(), 1);
}

/// A step that is done after the App has begun to end is known to the next process.
#[test]
fn step_done_while_the_app_ends_is_a_fact() {
    let mut ledger = Ledger::new(Policy::shared());
    ledger.record_facts();
    let mut image = Image::new();
    let mut record = |ledger: &mut Ledger| ledger.take_facts().into_iter().for_each(|fact| image.apply(fact));
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    record(&mut ledger);
    ledger.wind_down(at(1));
    ledger.report(Report::Stepped { run: 1, step: KnownStep::test(1, true) }, at(1));
    record(&mut ledger);
    ledger.shut_down(at(2));
    ledger.report(Report::Stepped { run: 1, step: KnownStep::test(2, true) }, at(2));
    ledger.report(Report::RunStopped { run: 1 }, at(2));
    ledger.report(Report::Stopped { failure: None }, at(2));
    record(&mut ledger);
    let mut restored = Ledger::restore(Policy::shared(), image, None, at(3));
    let steps = restored.take_actions().into_iter().find_map(|action| match action {
        Action::Send(order) => Some(order.steps.iter().count()),
        _ => None,
    });
    assert_eq!(steps, Some(2));
}

/// Outcomes beyond a limit that the program has lowered since are forgotten by the journal as well.
#[test]
fn outcome_evicted_by_a_restore_is_a_fact() {
    let mut ledger = Ledger::new(Policy::shared());
    ledger.record_facts();
    let mut image = Image::new();
    for run in 1..=3 {
        ask(&mut ledger, run, at(0));
        ledger.report(Report::RunStarted { run: run.into() }, at(0));
        ledger.report(Report::RunSucceeded { run: run.into() }, at(0));
    }
    ledger.take_facts().into_iter().for_each(|fact| image.apply(fact));
    assert_eq!(image.inputs.len(), 3);
    let remember = Remember { count: Some(1), age: None };
    let policy = Arc::new(Policy { remember, ..Policy::default() });
    let mut restored = Ledger::restore(policy, image.clone(), None, at(1));
    restored.take_facts().into_iter().for_each(|fact| image.apply(fact));
    let (kept, _) = input(3);
    assert_eq!(image.inputs.keys().collect::<Vec<_>>(), [&kept]);
}
