//! Regression tests of the ledger for situations that are easy to get wrong.

#[cfg(feature = "remote")]
mod adopted;
mod at_random;
mod facts;
#[cfg(feature = "journal")]
mod rekey;

use super::*;
use crate::flow::policy::*;
use crate::flow::restart::{OnError, Restart};
use crate::work::{KnownStep, MAX_STEPS};

fn input(number: u8) -> (RunKey, Input) {
    Input::new(&number).unwrap()
}

const MS: Duration = Duration::from_millis(1);

fn at(ms: u32) -> Moment {
    Moment { at: ms * MS, wall: SystemTime::UNIX_EPOCH + ms * MS }
}

fn ask(ledger: &mut Ledger, number: u8, now: Moment) -> Requested {
    let (key, bytes) = input(number);
    ledger.request(key, bytes, now)
}

fn runs(actions: &[Action]) -> Vec<u64> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send(order) => Some(order.run),
            _ => None,
        })
        .collect()
}

/// A stop by an operator takes precedence over all requests of a Flow until it is lifted.
#[test]
fn held_work_starts_only_when_released() {
    let mut ledger = Ledger::new(Policy::shared());
    let (key, bytes) = Input::new(&1_u32).unwrap();
    ledger.start(at(0));
    ledger.hold("alice".into(), at(1));
    ledger.report(Report::Stopped { failure: None }, at(2));
    ledger.take_actions();
    for asks in 0..4 {
        match asks {
            0 => drop(ledger.request(key, bytes.clone(), at(3))),
            1 => drop(ledger.rerun(key, bytes.clone(), at(3))),
            2 => ledger.start(at(3)),
            _ => ledger.restart(at(3)),
        }
        assert!(!ledger.is_up() && ledger.take_actions().is_empty(), "{asks}");
    }
    assert_eq!(ledger.held().map(|hold| &*hold.by), Some("alice"));
    ledger.release();
    ledger.request(key, bytes, at(4));
    assert!(ledger.take_actions().iter().any(|action| matches!(action, Action::Launch)) && ledger.is_up());
}

/// A run that fails for good keeps its steps for the next run of its input, also after a restart of its Flow, until one
/// succeeds or the input is forgotten.
#[test]
fn steps_are_remembered_until_the_run_succeeds() {
    let mut ledger = Ledger::new(Policy::shared());
    let step = KnownStep::test(1, true);
    let known = |ledger: &mut Ledger| -> Vec<usize> {
        let order =
            |action| if let Action::Send(order) = action { Some(order.steps.iter().count()) } else { None };
        ledger.take_actions().into_iter().filter_map(order).collect()
    };
    ask(&mut ledger, 1, at(0));
    assert_eq!(known(&mut ledger), [0]);
    ledger.report(Report::RunStarted { run: 1 }, at(1));
    ledger.report(Report::Stepped { run: 1, step: step.clone() }, at(1));
    ledger.report(Report::RunFailed { run: 1, failure: Failure::new(Reason::UserError, "no") }, at(2));
    ask(&mut ledger, 2, at(3));
    ledger.report(Report::RunSucceeded { run: 2 }, at(3));
    assert_eq!(known(&mut ledger), [0], "another input has other steps");
    let (key, bytes) = input(1);
    ledger.rerun(key, bytes, at(4));
    assert_eq!(known(&mut ledger), [1]);
    ledger.report(Report::RunFailed { run: 3, failure: Failure::new(Reason::UserError, "no") }, at(5));
    ledger.clear_failures();
    ask(&mut ledger, 1, at(6));
    assert_eq!(known(&mut ledger), [1], "a restart of the Flow is another attempt");
    ledger.report(Report::RunSucceeded { run: 4 }, at(7));
    let (key, bytes) = input(1);
    ledger.rerun(key, bytes, at(8));
    assert_eq!(known(&mut ledger), [0], "the run has succeeded since");
    ledger.report(Report::Stepped { run: 5, step }, at(9));
    ledger.report(Report::RunFailed { run: 5, failure: Failure::new(Reason::UserError, "no") }, at(9));
    ledger.forget(key, at(9));
    ask(&mut ledger, 1, at(9));
    assert_eq!(known(&mut ledger), [0], "the input was forgotten");
}

/// A process that reports more steps than a run may have is ended, and the run has failed.
#[test]
fn run_with_too_many_steps_fails() {
    let mut ledger = Ledger::new(Policy { on_error: OnError::Capture, ..Policy::default() }.into());
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    ledger.take_actions();
    for n in 0..=MAX_STEPS {
        assert!(ledger.take_actions().is_empty(), "{n}");
        let step = KnownStep::numbered(n);
        ledger.report(Report::Stepped { run: 1, step }, at(1));
    }
    assert!(matches!(ledger.take_actions()[..], [Action::Kill, ..]));
    let status = ledger.run_status(input(1).0);
    assert_eq!((status.stage, status.reason), (Stage::Failed, Some(Reason::UserError)));
}

/// A Work whose node leaves continues elsewhere in the same attempt, without counting as a restart; an ordinary restart
/// counts.
#[test]
fn moved_work_goes_on_in_the_same_try() {
    let mut ledger = Ledger::new(Policy::shared());
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    let attempts = |actions: Vec<Action>| -> Vec<u32> {
        let order =
            |action: Action| if let Action::Send(order) = action { Some(order.attempt) } else { None };
        actions.into_iter().filter_map(order).collect()
    };
    assert_eq!(attempts(ledger.take_actions()), [1]);
    ledger.move_away(at(1));
    assert!(matches!(ledger.take_actions()[..], [Action::Stop]));
    ledger.report(Report::RunStopped { run: 1 }, at(2));
    ledger.report(Report::Stopped { failure: None }, at(2));
    assert_eq!(attempts(ledger.take_actions()), [1]);
    assert_eq!(ledger.restart_count(), 0);
    // The first launch finds no place.
    ledger.unplaced("waits for a node", at(3));
    ledger.place(at(4));
    ledger.take_actions();
    assert_eq!(ledger.restart_count(), 0);
    ledger.report(Report::RunStarted { run: 3 }, at(4));
    ledger.restart(at(5));
    ledger.report(Report::RunStopped { run: 3 }, at(6));
    ledger.report(Report::Stopped { failure: None }, at(6));
    assert_eq!((attempts(ledger.take_actions()), ledger.restart_count()), (vec![2], 1));
}

/// The reason why a Work waits for a place is told again once it has had one, even if no run has begun there.
#[test]
fn reason_of_waiting_is_told_again_after_a_place() {
    let mut ledger = Ledger::new(Policy::shared());
    ledger.start(at(0));
    ledger.take_actions();
    ledger.unplaced("waits for node `n`", at(1));
    ledger.place(at(2));
    ledger.take_actions();
    ledger.placed_on(Some("n".into()));
    ledger.node_lost("node `n` was lost", at(3));
    ledger.take_actions();
    assert_eq!(ledger.status().message.as_deref(), Some("node `n` was lost"));
    ledger.unplaced("waits for node `n`", at(4));
    assert_eq!(ledger.status().message.as_deref(), Some("waits for node `n`"));
}

#[test]
fn a_deadline_that_passes_while_the_work_stops_is_no_deadline_any_more() {
    let mut ledger =
        Ledger::new(Policy { timeout: Some(5 * MS), grace: 100 * MS, ..Policy::default() }.into());
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    assert_eq!(ledger.next_deadline(), Some(5 * MS));
    ledger.stop(at(1));
    assert_eq!(ledger.next_deadline(), Some(101 * MS));
}

#[test]
fn a_run_that_was_forgotten_does_not_answer_for_the_one_that_replaces_it() {
    let mut ledger = Ledger::new(Policy::shared());
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    ledger.forget(input(1).0, at(0));
    assert_eq!(ask(&mut ledger, 1, at(1)), Requested::Unfinished);
    ledger.take_actions();
    ledger.report(Report::RunSucceeded { run: 1 }, at(2));
    assert_eq!(ask(&mut ledger, 1, at(2)), Requested::Unfinished);
    assert_eq!(runs(&ledger.take_actions()), [2]);
}

#[test]
fn a_run_that_was_stopped_does_not_start_again_because_another_is_asked_for() {
    let mut ledger = Ledger::new(Policy::shared());
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    ledger.stop(at(1));
    ask(&mut ledger, 2, at(1));
    ledger.report(Report::RunStopped { run: 1 }, at(2));
    ledger.report(Report::Stopped { failure: None }, at(2));
    assert_eq!(ledger.run_status(input(1).0).stage, Stage::Stopped);
    assert_eq!(ledger.run_status(input(2).0).stage, Stage::Pending);
}

#[test]
fn a_stopped_work_stays_stopped_when_the_grace_of_a_cancelled_run_is_over() {
    let policy = Policy { overlap: Overlap::Restart, grace: 10 * MS, ..Policy::default() };
    let mut ledger = Ledger::new(policy.into());
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    ask(&mut ledger, 2, at(1));
    ledger.stop(at(5));
    ledger.take_actions();
    ledger.on_time(at(11));
    assert!(ledger.take_actions().is_empty());
    ledger.on_time(at(15));
    assert!(ledger.is_down());
}

#[test]
fn with_restart_a_run_that_fails_on_its_way_out_does_not_come_before_the_newest() {
    let policy = Policy {
        overlap: Overlap::Restart,
        restart: Restart::on_failure().backoff(Duration::ZERO..Duration::ZERO),
        ..Policy::default()
    };
    let mut ledger = Ledger::new(policy.into());
    ask(&mut ledger, 1, at(0));
    ledger.report(Report::RunStarted { run: 1 }, at(0));
    ask(&mut ledger, 2, at(1));
    let failure = Failure::new(Reason::UserError, "left in a hurry");
    ledger.report(Report::RunFailed { run: 1, failure }, at(2));
    ledger.report(Report::Stopped { failure: None }, at(2));
    assert_eq!(ledger.run_status(input(1).0).stage, Stage::Failed);
    ledger.report(Report::RunStarted { run: 2 }, at(3));
    assert_eq!(ledger.run_status(input(2).0).stage, Stage::Running);
}

#[test]
fn a_panic_on_the_way_out_is_raised() {
    let mut ledger = Ledger::new(Policy::shared());
    ledger.start(at(0));
    ledger.stop(at(1));
    ledger.take_actions();
    let failure = Failure::new(Reason::Panic, "panicked");
    ledger.report(Report::Died { failure }, at(2));
    assert!(matches!(ledger.take_actions()[..], [Action::Raise(_)]));
}

#[test]
fn the_history_is_bounded_and_keeps_the_newest() {
    let mut ledger = Ledger::new(Policy { cache_calls: false, ..Policy::default() }.into());
    for run in 1..=100 {
        ask(&mut ledger, 1, at(0));
        ledger.report(Report::RunStarted { run }, at(0));
        ledger.report(Report::RunSucceeded { run }, at(0));
    }
    let kept: Vec<_> = ledger.history().map(|status| status.seq).collect();
    assert_eq!(kept, (300 - HISTORY as u64 + 1..=300).collect::<Vec<_>>());
    assert_eq!(ledger.successes(), 100);
}
