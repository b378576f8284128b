//! Works with a process of their own: whatever becomes of it is the failure of one Work.

use std::process::Command;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Reason};

use crate::held::children_of;
use crate::lab::{Die, Lab, Suite, Sum, Task};
use crate::support::{Process, lab, program, signal, start, until_gone};

crate::tests![
    an_abort_is_the_failure_of_one_work,
    a_kill_is_the_failure_of_one_work,
    the_end_of_memory_is_the_failure_of_one_work,
    an_exit_in_mid_run_is_a_failure,
    a_restart_continues_in_another_process_from_the_last_published_state,
    a_storm_of_restarts_ends_at_its_limit,
    a_program_that_cannot_be_started_says_why,
    a_process_ends_with_its_work,
    a_process_ends_with_its_head,
];

/// `a` serves in a process of its own, `b` in this one.
fn serve() -> Suite {
    let a = lab(Placement::Process).on_error(OnError::Capture);
    Suite::new(a, lab(Placement::Thread), |suite, _| {
        suite.a.run(Task::Serve);
        suite.b.run(Task::Serve);
        Ok(())
    })
}

/// Waits until it serves, which it has published, and tells it to die.
fn dies(app: &TestApp, how: Die, said: &str) {
    app.wait_for_state("a.runs", |runs: &u32| *runs == 1);
    let error = app.block_on(app.work::<Lab>("a").ask(how)).expect_err("it dies of it");
    assert!(matches!(error, AskError::NodeLost { .. }), "{error}");
    died(app, said);
}

fn died(app: &TestApp, how: &str) {
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.reason, Some(Reason::ProcessDied), "{failed:?}");
    let message = failed.status.message.unwrap_or_default();
    assert!(message.contains("the process of work `a`") && message.contains(how), "{message}");
    assert_eq!(app.wait_for_state("a", |a: &Lab| a.runs == 1).lives, 1);
    // The other Work goes on.
    assert_eq!(app.block_on(app.work::<Lab>("b").ask(Sum)).expect("it serves"), 0);
}

fn an_abort_is_the_failure_of_one_work() {
    dies(&start(serve), Die::Abort, "was aborted");
}

fn an_exit_in_mid_run_is_a_failure() {
    dies(&start(serve), Die::Exit(0), "exit code 0");
    dies(&start(serve), Die::Exit(3), "exit code 3");
}

fn a_kill_is_the_failure_of_one_work() {
    let app = start(serve);
    let process = app.wait_for_state("a", |a: &Lab| a.runs == 1).process;
    signal(process, "KILL");
    died(&app, "SIGKILL");
}

fn the_end_of_memory_is_the_failure_of_one_work() {
    let limited = || {
        let this = std::env::current_exe()?;
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 1000000; exec \"$0\" \"$@\""]).arg(this);
        command.env(crate::support::VARIABLE, "suite").env_remove("FLOWRIGHT_TOKEN");
        Ok(command)
    };
    dies(&TestApp::start_app(App::new(serve).process(limited)), Die::Eat, "was aborted");
}

fn a_restart_continues_in_another_process_from_the_last_published_state() {
    let app = start(|| {
        let restart = Restart::on_failure().max(1).backoff(Duration::ZERO..Duration::ZERO);
        Suite::new(lab(Placement::Process).restart(restart), lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Count(10)).finished()?;
            suite.a.run(Task::Serve);
            Ok(())
        })
    });
    app.wait_for_state("a.count", |count: &u64| *count == 10);
    app.wait_for_work("a", |a| a.successes == 1 && a.status.stage == Stage::Running);
    // What it publishes and takes with it in the same instant may not leave it.
    app.wait_for_state("a.runs", |runs: &u32| *runs == 2);
    let first = app.wait_for_state("a.process", |process: &u32| *process != 0);
    signal(first, "KILL");
    let again = app.wait_for_state("a", |a: &Lab| a.process != first && a.runs == 3);
    assert_eq!((again.count, again.lives), (10, 2));
    let status = app.wait_for_stage("a", Stage::Running);
    assert_eq!((status.status.attempt, status.successes), (2, 1));
}

fn a_storm_of_restarts_ends_at_its_limit() {
    let app = start(|| {
        let restart = Restart::on_failure().max(8).backoff(Duration::ZERO..Duration::ZERO);
        let a = lab(Placement::Process).restart(restart).on_error(OnError::Capture);
        Suite::new(a, lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Exit(1));
            Ok(())
        })
    });
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.attempt, 9);
}

fn a_program_that_cannot_be_started_says_why() {
    let app = TestApp::start_app(App::new(serve).process(|| Ok(Command::new("/nowhere/at/all"))));
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.reason, Some(Reason::ProcessDied));
    assert!(
        failed.status.message.as_deref().unwrap_or_default().contains("could not be started"),
        "{failed:?}"
    );
}

fn a_process_ends_with_its_work() {
    let app = start(|| {
        Suite::new(lab(Placement::Process), lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Count(1)).finished()?;
            suite.a.stop();
            Ok(())
        })
    });
    let process = app.wait_for_state("a", |a: &Lab| a.stopped == 1).process;
    until_gone(process);
}

fn a_process_ends_with_its_head() {
    let mut command = program("suite");
    command.args(["--open-ui=false", "--without-server", "--place", "a=process"]);
    let mut head = Process::start(command);
    head.expect("Your app has started");
    let process = loop {
        if let Some(process) = children_of(head.id()).first() {
            break *process;
        }
        std::thread::yield_now();
    };
    head.signal("KILL");
    until_gone(process);
}
