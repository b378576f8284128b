//! Nodes and heads that crash, hang and return.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use flowright::prelude::*;
use flowright::{AskError, OnNodeLost, Reason};

use crate::held::Held;
use crate::lab::{Add, Lab, Never, Suite, Sum, Task};
use crate::support::{
    Process, child_of, free_address, head, joining, lab, node, program, serve, signal, start, start_with,
    times, until, until_gone, waits_with,
};

crate::tests![
    a_killed_node_is_waited_for_and_its_run_starts_again_on_the_next,
    a_run_that_had_succeeded_does_not_start_again,
    with_fail_a_lost_node_is_the_failure_of_its_work,
    a_question_to_a_lost_node_is_answered_with_that,
    a_node_that_hangs_for_too_long_is_fenced,
    a_node_that_hangs_for_a_moment_loses_nothing,
    woken_node_does_not_begin_a_run_that_was_given_up,
    killed_node_on_this_machine_is_lost_before_its_grace_period,
    a_node_without_its_head_ends_its_works_and_joins_the_next,
    rejoined_nodes_are_as_good_as_new,
    nodes_of_a_restarted_head_are_as_good_as_new,
    a_killed_head_takes_its_processes_with_it_and_its_nodes_after_the_grace_period,
    a_head_that_hangs_for_a_moment_loses_nothing,
    a_node_is_told_of_the_end,
    ended_head_reports_no_lost_node,
    a_node_that_is_asked_to_leave_leaves_at_once,
    leaving_node_hands_its_work_over_in_good_order,
    leaving_node_waits_for_its_works_no_longer_than_its_grace,
    nothing_is_left_behind_by_nodes_that_come_and_go,
];

fn a_killed_node_is_waited_for_and_its_run_starts_again_on_the_next() {
    let app = start(serve);
    let address = joining(&app);
    waits_with(&app, &format!("node --join {address} --name n"));
    let first = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves");
    let held = Held::here();
    first.signal("KILL");
    waits_with(&app, "waits for node `n`");
    let _second = Process::node(&address, "n");
    let again = app.wait_for_stage("a", Stage::Running);
    assert_eq!((again.status.attempt, again.successes), (2, 0));
    // The state continues from the last published one, which had one life.
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves again"), 0);
    held.is_back();
}

fn a_run_that_had_succeeded_does_not_start_again() {
    let app = start(|| {
        Suite::new(lab(node("n")), lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Count(10));
            Ok(())
        })
    });
    let address = joining(&app);
    let first = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Succeeded);
    first.signal("KILL");
    waits_with(&app, "waits for node `n`");
    let _second = Process::node(&address, "n");
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    app.wait_for_state("a", |a: &Lab| (a.count, a.runs) == (10, 1));
}

fn with_fail_a_lost_node_is_the_failure_of_its_work() {
    let app = start(|| {
        let a = lab(node("n")).on_node_lost(OnNodeLost::Fail).on_error(OnError::Capture);
        Suite::new(a, lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Serve);
            Ok(())
        })
    });
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    node.signal("KILL");
    let failed = app.wait_for_stage("a", Stage::Failed);
    assert_eq!(failed.status.reason, Some(Reason::NodeLost));
    assert!(failed.status.message.as_deref().unwrap_or_default().contains("node `n` was lost"), "{failed:?}");
}

fn a_question_to_a_lost_node_is_answered_with_that() {
    let app = start(serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    let error = app.block_on(async {
        let ask = a.ask(Never);
        let kill = async {
            a.ask(Sum).await.expect_err("the handler before it never ends");
        };
        node.signal("KILL");
        futures::future::join(ask, kill).await.0.expect_err("nobody answers")
    });
    assert!(
        matches!(error, AskError::NodeLost { .. } | AskError::NotHandled(_)),
        "it is told, long before the deadline: {error}"
    );
}

fn a_node_that_hangs_for_too_long_is_fenced() {
    let app = start_with(times(100, 8000), || {
        Suite::new(lab(node("n")), lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Chatter);
            Ok(())
        })
    });
    let address = joining(&app);
    let mut zombie = Process::node(&address, "n");
    app.wait_for_state("a.count", |count: &u64| *count > 100);
    let held = Held::here();
    zombie.signal("STOP");
    waits_with(&app, "waits for node `n`");
    let before: u64 =
        app.state().get("a.count").and_then(|count| count.decode().ok()).expect("the Work has counted");
    let _other = Process::node(&address, "n");
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    zombie.signal("CONT");
    // The node notices that it was given up, ends its Works, and cannot join again under a name that is taken.
    zombie.expect("work `a` is ended");
    let (code, lines) = zombie.end();
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("there is a node `n` already")), "{lines:#?}");
    // The state is that of the other incarnation, which continued from the last published one.
    let now: Lab = app.wait_for_state("a", |a: &Lab| a.count > before + 100);
    assert_eq!((now.lives, now.runs), (2, 2));
    held.is_back();
}

/// A run is sent while the node is stopped, and the node is given up before it is woken: it does not process the data
/// in its socket.
fn woken_node_does_not_begin_a_run_that_was_given_up() {
    let ordered = Arc::new(AtomicBool::new(false));
    let serves = ordered.clone();
    // The heartbeat interval is so long that the session expires before the connection.
    let app = start_with(times(4000, 8000), move || {
        // The Work that shares the thread of the connection keeps it busy: a sleeping thread checks the time first when
        // it wakes.
        let busy = lab("n/pool".parse().expect("the placement is valid"));
        Suite::new(lab(node("n")), busy, move |suite, cx| {
            cx.wake_in(Duration::from_millis(20));
            suite.b.run(Task::Chatter);
            suite.a.run(Task::Count(1)).finished()?;
            if serves.load(Ordering::SeqCst) {
                suite.a.run(Task::Serve);
            }
            Ok(())
        })
    });
    let mut node = Process::node(&joining(&app), "n");
    app.wait_for_work("a", |a| a.successes == 1);
    node.expect("work `a` runs here");
    node.signal("STOP");
    ordered.store(true, Ordering::SeqCst);
    waits_with(&app, "waits for node `n`");
    node.signal("CONT");
    node.expect_again("work `a` is ended");
    node.expect("work `a` runs here");
    assert!(!node.seen.iter().any(|line| line.contains("it serves")), "{:#?}", node.seen);
    node.expect("it serves");
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1, "the first try never began");
}

/// The end of the process is proved, so that the head does not wait for the grace period.
fn killed_node_on_this_machine_is_lost_before_its_grace_period() {
    let app = start_with(times(1000, 600_000), serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    node.signal("KILL");
    waits_with(&app, "waits for node `n`");
}

fn a_node_that_hangs_for_a_moment_loses_nothing() {
    const NUMBERS: u32 = 2000;
    let app = start_with(times(500, 60_000), serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    let (held, held_there) = (Held::here(), Held::by(node.id()));
    let a = app.work::<Lab>("a");
    for number in 0..NUMBERS {
        if number % 500 == 250 {
            node.signal("STOP");
            until("that it is missed", || !app.status().nodes["n"].is_connected);
            node.signal("CONT");
        }
        app.block_on(a.tell(Add(number))).expect("the node is not lost");
    }
    assert_eq!(app.block_on(a.ask(Sum)).expect("the Work answers"), (0..u64::from(NUMBERS)).sum::<u64>());
    let received: Vec<u32> = app.wait_for_state("a.received", |received: &Vec<u32>| !received.is_empty());
    assert!(received.into_iter().eq(0..NUMBERS), "in order, each once");
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1, "nothing was started again");
    held.is_back();
    held_there.is_back();
}

fn a_node_without_its_head_ends_its_works_and_joins_the_next() {
    let address = free_address();
    let mut first = head(&address, &[]);
    let mut node = Process::node(&address, "n");
    node.expect("work `a` runs here");
    // Log lines of the node appear at the head.
    first.expect("WARN: [a on n] it serves");
    let held = Held::by(node.id());
    first.signal("KILL");
    drop(first);
    let mut second = head(&address, &[]);
    // The next head does not know the session, so that the node need not wait for the grace period.
    node.expect("work `a` is ended");
    node.expect_again("work `a` runs here");
    second.expect("WARN: [a on n] it serves");
    held.is_back();
}

/// Nodes that were given up twice while they hung join again in the same processes: messages between their Works
/// arrive, and pooled Works run.
fn rejoined_nodes_are_as_good_as_new() {
    let app = start_with(times(100, 8000), || {
        let pooled = lab("m/pool".parse().expect("the placement is valid"));
        Suite::new(lab(node("n")), pooled, |suite, _| {
            suite.b.run(Task::Serve);
            if suite.b.lives > 0 {
                suite.a.run(Task::Send(suite.b.addr(), 10 * suite.b.lives));
            }
            Ok(())
        })
    });
    let address = joining(&app);
    let nodes = ["m", "n"].map(|name| Process::node(&address, name));
    let mut sum = 0;
    for life in 1_u64..=3 {
        sum += (0..10 * life).sum::<u64>();
        app.wait_for_state("a", |a: &Lab| u64::from(a.lives) == life && a.sum == Some(sum));
        let b: Lab = app.wait_for_state("b", |b: &Lab| u64::from(b.lives) == life);
        assert_eq!(b.process, nodes[0].id(), "it is the node that was there from the beginning");
        if life < 3 {
            nodes.iter().for_each(|node| node.signal("STOP"));
            until("the loss of both", || app.status().nodes.is_empty());
            nodes.iter().for_each(|node| node.signal("CONT"));
        }
    }
}

/// As above, with nodes whose head was killed and restarted twice.
fn nodes_of_a_restarted_head_are_as_good_as_new() {
    let address = free_address();
    let head = || {
        let mut command = program("pair");
        command.args(["--open-ui=false", "--without-server", "--listen", &address]);
        Process::start(command)
    };
    let mut first = head();
    let _nodes = ["m", "n"].map(|name| Process::node_of("pair", &address, name, &[]));
    first.expect("the sum is 4950");
    for _ in 0..2 {
        first.signal("KILL");
        first = head();
        first.expect("the sum is 4950");
    }
}

fn a_killed_head_takes_its_processes_with_it_and_its_nodes_after_the_grace_period() {
    let address = free_address();
    let mut first = head(&address, &["--place", "b=process"]);
    // The address at which other nodes find it, whichever head it has joined.
    let mut node = Process::node_with(&address, "n", &["--listen", &free_address()]);
    node.expect("work `a` runs here");
    first.expect("WARN: [a on n] it serves");
    let process = child_of(&first);
    first.signal("KILL");
    until_gone(process);
    // The node gets no notice: it waits for the head to return, until its grace period is over.
    node.expect("the connection to the head broke");
    node.expect("work `a` is ended");
    node.expect(&format!("waiting for a head at {address}"));
    let mut second = head(&address, &[]);
    node.expect_again("work `a` runs here");
    second.expect("WARN: [a on n] it serves");
}

fn a_head_that_hangs_for_a_moment_loses_nothing() {
    let address = free_address();
    let mut head = head(&address, &[]);
    let mut node = Process::node(&address, "n");
    node.expect("work `a` runs here");
    head.expect("WARN: [a on n] it serves");
    let held = Held::by(head.id());
    head.signal("STOP");
    node.expect("the connection to the head broke");
    head.signal("CONT");
    node.expect("connected to the head again; nothing was lost");
    // Otherwise the node would have ended its Work.
    node.signal("INT");
    head.expect("node `n` has left; its Works had ended in good order");
    held.is_back();
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}

fn a_node_is_told_of_the_end() {
    let app = start(serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    app.stop().result.expect("the App ends without an error");
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("the App is over")), "{lines:#?}");
}

/// The sessions with nodes end with the App, which is no loss of these nodes.
fn ended_head_reports_no_lost_node() {
    let address = free_address();
    let mut command = program("suite");
    command.args(["--open-ui=false", "--port", "0", "--listen", &address]);
    let mut head = Process::start(command);
    let node = Process::node(&address, "n");
    head.expect("WARN: [a on n] it serves");
    head.signal("TERM");
    let (code, lines) = head.end();
    assert!(code == Some(0) && !lines.iter().any(|line| line.contains("is lost")), "{code:?} {lines:#?}");
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}

fn a_node_that_is_asked_to_leave_leaves_at_once() {
    let app = start(serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    node.signal("INT");
    waits_with(&app, "waits for node `n`");
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}

/// After SIGTERM the run stops at its next turn, `on_stop` runs, the last state arrives, and the Work continues from it
/// on the other node, in the same attempt.
fn leaving_node_hands_its_work_over_in_good_order() {
    let app = start(|| {
        let a = lab("*".parse().expect("the placement is valid"));
        Suite::new(a, lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Chatter);
            Ok(())
        })
    });
    let address = joining(&app);
    let first = Process::node(&address, "m");
    app.wait_for_state("a.count", |count: &u64| *count > 100);
    let second = Process::node(&address, "n");
    until("the second node", || app.status().nodes.contains_key("n"));
    first.signal("TERM");
    let a: Lab = app.wait_for_state("a", |a: &Lab| a.process == second.id() && a.runs == 2);
    assert_eq!((a.stopped, a.lives), (1, 2));
    assert!(a.count > 100, "it goes on from the last state: {}", a.count);
    let status = app.wait_for_stage("a", Stage::Running).status;
    assert_eq!((status.attempt, status.message), (1, None));
    let (code, lines) = first.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("left the App")), "{lines:#?}");
    until("its departure", || !app.status().nodes.contains_key("m"));
}

/// A handler that never ends does not keep the node from leaving.
fn leaving_node_waits_for_its_works_no_longer_than_its_grace() {
    let app = start_with(times(250, 6000), serve);
    let node = Process::node_with(&joining(&app), "n", &[]);
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    app.block_on(a.ask(Sum)).expect("the Work serves");
    app.block_on(async {
        let mut ask = std::pin::pin!(a.ask(Never));
        let poll = std::future::poll_fn(|cx| Poll::Ready(ask.as_mut().poll(cx).is_pending()));
        assert!(poll.await, "it is not answered");
        node.signal("TERM");
    });
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    waits_with(&app, "waits for node `n`");
}

fn nothing_is_left_behind_by_nodes_that_come_and_go() {
    let app = start(serve);
    let address = joining(&app);
    let round = |how: &str| {
        let node = Process::node(&address, "n");
        app.wait_for_stage("a", Stage::Running);
        signal(node.id(), how);
        waits_with(&app, "waits for node `n`");
    };
    round("KILL");
    let held = Held::here();
    for how in ["KILL", "INT"].into_iter().cycle().take(20) {
        round(how);
    }
    held.is_back();
}
