//! Works with a process of their own: any end of the process is the failure of one Work.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Reason};

use crate::held::{Held, children_of};
use crate::lab::{Add, Die, Lab, Suite, Sum, Task};
use crate::support::{Process, child_of, lab, program, signal, start, start_with, times, until, until_gone};

crate::tests![
    an_abort_is_the_failure_of_one_work,
    a_kill_is_the_failure_of_one_work,
    the_end_of_memory_is_the_failure_of_one_work,
    an_exit_in_mid_run_is_a_failure,
    a_restart_continues_in_another_process_from_the_last_published_state,
    a_process_that_hangs_for_a_moment_loses_nothing,
    a_process_that_hangs_for_too_long_is_ended,
    a_storm_of_restarts_ends_at_its_limit_and_leaves_nothing_behind,
    a_program_that_cannot_be_started_says_why,
    panic_in_the_command_of_a_process_fails_its_work,
    a_process_ends_with_its_work,
    a_process_ends_with_its_head,
    nothing_is_left_in_the_temporary_directory_by_a_killed_head,
    process_starts_again_when_its_program_was_replaced,
    process_starts_again_when_temporary_files_were_removed,
    process_starts_where_the_temporary_directory_has_a_long_path,
    process_that_cannot_join_says_why,
    directory_of_a_head_killed_with_its_processes_goes_with_the_next,
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

/// Waits until the Work has published that it serves, and sends it a message to die.
fn dies(app: &TestApp, how: Die, said: &str) {
    app.wait_for_state("a.runs", |runs: &u32| *runs == 1);
    let error = app.block_on(app.work::<Lab>("a").ask(how)).expect_err("the process dies of the message");
    // A process that exits in good order may still tell that its handler has failed.
    assert!(matches!(error, AskError::NodeLost { .. } | AskError::Failed { .. }), "{error}");
    died(app, said);
}

fn died(app: &TestApp, how: &str) {
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.reason, Some(Reason::ProcessDied), "{failed:?}");
    let message = failed.status.message.unwrap_or_default();
    assert!(message.contains("the process of work `a`") && message.contains(how), "{message}");
    assert_eq!(app.wait_for_state("a", |a: &Lab| a.runs == 1).lives, 1);
    // The other Work is not affected.
    assert_eq!(app.block_on(app.work::<Lab>("b").ask(Sum)).expect("the Work serves"), 0);
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
    // A state that the Work publishes in the instant of its crash may be lost.
    app.wait_for_state("a.runs", |runs: &u32| *runs == 2);
    let first = app.wait_for_state("a.process", |process: &u32| *process != 0);
    signal(first, "KILL");
    let again = app.wait_for_state("a", |a: &Lab| a.process != first && a.runs == 3);
    assert_eq!((again.count, again.lives), (10, 2));
    let status = app.wait_for_stage("a", Stage::Running);
    assert_eq!((status.status.attempt, status.successes), (2, 1));
}

fn a_process_that_hangs_for_a_moment_loses_nothing() {
    let app = start_with(times(500, 60_000), serve);
    let process = app.wait_for_state("a", |a: &Lab| a.runs == 1).process;
    let a = app.work::<Lab>("a");
    app.block_on(a.ask(Sum)).expect("the Work serves");
    let held = Held::here();
    for number in 0..100 {
        if number == 50 {
            signal(process, "STOP");
            // Only its connection is closed.
            until("that it is missed", || Held::here().descriptors() < held.descriptors());
            signal(process, "CONT");
        }
        app.block_on(a.tell(Add(number))).expect("the process is not lost");
    }
    assert_eq!(app.block_on(a.ask(Sum)).expect("the Work answers"), 4950);
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1);
    held.is_back();
}

fn a_process_that_hangs_for_too_long_is_ended() {
    let app = start_with(times(100, 8000), serve);
    let process = app.wait_for_state("a", |a: &Lab| a.runs == 1).process;
    signal(process, "STOP");
    died(&app, "no heartbeat within the grace period");
    until_gone(process);
}

fn a_storm_of_restarts_ends_at_its_limit_and_leaves_nothing_behind() {
    let begins = Arc::new(AtomicBool::new(false));
    let may_begin = begins.clone();
    let app = start(move || {
        let restart = Restart::on_failure().max(8).backoff(Duration::ZERO..Duration::ZERO);
        let a = lab(Placement::Process).restart(restart).on_error(OnError::Capture);
        let b = lab(Placement::Process).on_error(OnError::Capture);
        Suite::new(a, b, move |suite, cx| {
            suite.b.run(Task::Exit(1));
            match may_begin.load(Ordering::Relaxed) {
                true => drop(suite.a.run(Task::Exit(1))),
                false => cx.wake_in(Duration::from_millis(10)),
            }
            Ok(())
        })
    });
    // The first process that fails causes the allocations that are made once.
    app.wait_for_stage("b", Stage::Failed);
    let held = Held::here();
    begins.store(true, Ordering::Relaxed);
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.attempt, 9);
    held.is_back();
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

/// A panic in what `App::process` is given fails the Work whose process it was to start, and no other.
fn panic_in_the_command_of_a_process_fails_its_work() {
    let app = TestApp::start_app(App::new(serve).process(|| panic!("a trap")));
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.reason, Some(Reason::ProcessDied));
    let message = failed.status.message.as_deref().unwrap_or_default();
    assert!(message.contains("could not be started") && message.contains("a trap"), "{failed:?}");
    assert_eq!(app.block_on(app.work::<Lab>("b").ask(Sum)).expect("the Work serves"), 0);
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
    let process = child_of(&head);
    head.signal("KILL");
    until_gone(process);
}

/// Starts a head with a token and a process for `a`, with this temporary directory.
fn head_in(directory: &std::path::Path) -> Process {
    let mut command = program("suite");
    command.args(["--open-ui=false", "--without-server", "--listen", "127.0.0.1:0", "--place", "a=process"]);
    command.env("TMPDIR", directory).env_remove("XDG_RUNTIME_DIR");
    let mut head = Process::start(command);
    head.expect("it serves");
    head
}

/// The directories in it that are for sockets.
fn left_in(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the directory exists").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("flowright-") && name.len() == "flowright-".len() + 16).collect()
}

fn temporary(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("fr-{name}-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("the directory is new");
    directory
}

/// The surviving process removes the sockets and the token of its head.
fn nothing_is_left_in_the_temporary_directory_by_a_killed_head() {
    let directory = temporary("left");
    let head = head_in(&directory);
    let process = child_of(&head);
    assert_eq!(left_in(&directory).len(), 1);
    head.signal("KILL");
    until_gone(process);
    assert_eq!(left_in(&directory), Vec::<String>::new());
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
}

/// Starts a head that restarts `a` when it fails, with this directory for temporary files.
fn restarting_head(mut command: Command, directory: &std::path::Path) -> Process {
    command.args(["--open-ui=false", "--without-server", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", directory).env_remove("XDG_RUNTIME_DIR");
    let head = Process::start(command);
    serving_child(&head, 0);
    head
}

/// Waits until a process of the head other than `before` runs a Work.
fn serving_child(head: &Process, before: u32) -> u32 {
    let runs_a_work = |process: &u32| {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| name.starts_with("flowright-work"))
    };
    let mut child = None;
    until("a process that runs a Work", || {
        child = children_of(head.id()).into_iter().filter(|child| *child != before).find(runs_a_work);
        child.is_some()
    });
    child.expect("the loop above has set it")
}

/// Kills the process of `a`, and waits until another one runs it.
fn restart_process(head: &Process) -> u32 {
    let before = serving_child(head, 0);
    signal(before, "KILL");
    serving_child(head, before)
}

/// The new process runs the same executable, under the same name, whatever file is at its path.
fn process_starts_again_when_its_program_was_replaced() {
    let directory = temporary("replaced");
    let app = directory.join("my-app");
    std::fs::copy(std::env::current_exe().expect("the path of the test binary is known"), &app)
        .expect("the program can be copied");
    let mut command = Command::new(&app);
    command.env(crate::support::VARIABLE, "restarts").env_remove("FLOWRIGHT_TOKEN");
    let head = restarting_head(command, &directory);
    std::fs::write(directory.join("next"), "another program").expect("the directory is writable");
    for replace in [true, false] {
        match replace {
            true => std::fs::rename(directory.join("next"), &app).expect("the program can be replaced"),
            false => std::fs::remove_file(&app).expect("the program can be removed"),
        }
        let process = restart_process(&head);
        let shown =
            |what| std::fs::read_to_string(format!("/proc/{process}/{what}")).expect("the process runs");
        assert_eq!(shown("comm").trim(), "my-app");
        assert!(shown("cmdline").starts_with(&app.display().to_string()), "{}", shown("cmdline"));
    }
    head.signal("INT");
    head.end();
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
}

/// The sockets and the token are created again: at once for a new process, soon for others.
fn process_starts_again_when_temporary_files_were_removed() {
    let directory = temporary("cleaned");
    let head = restarting_head(program("restarts"), &directory);
    let files = || {
        let sockets = left_in(&directory).into_iter().map(|name| directory.join(name)).next();
        let entries = sockets.and_then(|sockets| std::fs::read_dir(sockets).ok()).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    // Two sockets, the token, and the mark of the questions that the process has begun.
    assert_eq!(files().len(), 4, "{:?}", files());
    for remove_all in [false, true] {
        match remove_all {
            // Clean-up tools remove old files, and leave directories.
            false => files()
                .iter()
                .for_each(|file| std::fs::remove_file(file).expect("the path belongs to the test")),
            true => std::fs::remove_dir_all(&directory).expect("the path belongs to the test"),
        }
        restart_process(&head);
    }
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
    std::fs::create_dir(&directory).expect("the directory was removed");
    let has = |part: &str| files().iter().any(|file| file.to_string_lossy().contains(part));
    until("the socket of the head", || has("head.sock"));
    let is_socket = |file: &std::path::PathBuf| file.extension().is_some_and(|extension| extension == "sock");
    until("the socket of the process", || {
        files().iter().any(|file| file.to_string_lossy().contains("/process-") && is_socket(file))
    });
    head.signal("INT");
    head.end();
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
}

fn process_starts_where_the_temporary_directory_has_a_long_path() {
    let directory = temporary("long");
    let long = directory.join("a-directory-whose-path-leaves-no-room-for-the-name-of-a-socket-in-it");
    std::fs::create_dir(&long).expect("the directory is new");
    let head = restarting_head(program("restarts"), &long);
    restart_process(&head);
    assert_eq!(left_in(&long), Vec::<String>::new());
    head.signal("INT");
    head.end();
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
}

/// The failure of a process that did not join has its output.
fn process_that_cannot_join_says_why() {
    let broken = || {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'libmissing.so: no such file' >&2; exit 3"]);
        Ok(command)
    };
    let app = TestApp::start_app(App::new(serve).process(broken));
    let failed = app.wait_for_stage("a", Stage::Failed);
    let message = failed.status.message.unwrap_or_default();
    for part in ["exit code 3", "libmissing.so: no such file"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

/// No process is left to remove the directory: the next head does.
fn directory_of_a_head_killed_with_its_processes_goes_with_the_next() {
    let directory = temporary("swept");
    let head = head_in(&directory);
    let process = child_of(&head);
    // A stopped process would continue when its parent ends, and the head would notice the end of its process.
    head.signal("STOP");
    signal(process, "KILL");
    until_gone(process);
    head.signal("KILL");
    until_gone(head.id());
    let before = left_in(&directory);
    assert_eq!(before.len(), 1);
    let next = head_in(&directory);
    let after = left_in(&directory);
    assert!(after.len() == 1 && after != before, "{before:?}, then {after:?}");
    next.signal("INT");
    next.end();
    assert_eq!(left_in(&directory), Vec::<String>::new());
    std::fs::remove_dir_all(&directory).expect("the path belongs to the test");
}
