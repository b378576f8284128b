//! Nodes that die, hang and come back; networks that break.

use std::time::Instant;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Config, OnNodeLost, Reason};

use crate::lab::{Add, Lab, Never, Suite, Sum, Task};
use crate::proxy::{Proxy, Weather};
use crate::support::{Process, joining, lab, node, program, start, start_with};

crate::tests![
    a_killed_node_is_waited_for_and_its_run_starts_again_on_the_next,
    a_run_that_had_succeeded_does_not_start_again,
    with_fail_a_lost_node_is_the_failure_of_its_work,
    a_question_to_a_lost_node_is_answered_with_that,
    a_node_that_hangs_for_too_long_is_fenced,
    a_short_break_loses_doubles_and_reorders_nothing,
    a_long_break_gives_the_node_up_and_it_joins_again,
    a_half_open_connection_is_noticed_and_made_anew,
    a_slow_network_is_only_slow,
    a_node_that_does_not_read_holds_its_senders_up,
    a_node_without_its_head_ends_its_works_and_joins_the_next,
    a_node_is_told_of_the_end,
    a_node_that_is_asked_to_leave_leaves_at_once,
    chatter_conflates,
    nothing_is_left_behind_by_nodes_that_come_and_go,
];

/// Runs `Serve` on the node `n`, and whatever else the test asks for.
fn serve() -> Suite {
    Suite::new(lab(node("n")), lab(Placement::Thread), |suite, _| {
        suite.a.run(Task::Serve);
        Ok(())
    })
}

fn waits_with(app: &TestApp, part: &str) {
    app.wait_for_work("a", |a| {
        a.status.stage == Stage::Pending
            && a.status.message.as_deref().is_some_and(|message| message.contains(part))
    });
}

fn a_killed_node_is_waited_for_and_its_run_starts_again_on_the_next() {
    let app = start(serve);
    let address = joining(&app);
    waits_with(&app, &format!("node --join {address} --name n"));
    let first = Process::node(&address, "n");
    app.wait_for_stage("a", Stage::Running);
    app.block_on(app.work::<Lab>("a").ask(Sum)).expect("it serves");
    first.signal("KILL");
    waits_with(&app, "waits for node `n`");
    let _second = Process::node(&address, "n");
    let again = app.wait_for_stage("a", Stage::Running);
    assert_eq!((again.status.attempt, again.successes), (2, 0));
    // From the last published state: it was alive once already.
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("it serves again"), 0);
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
    let app = start(|| {
        Suite::new(lab(node("n")), lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Chatter);
            Ok(())
        })
    });
    let address = joining(&app);
    let mut zombie = Process::node(&address, "n");
    app.wait_for_state("a.count", |count: &u64| *count > 100);
    zombie.signal("STOP");
    waits_with(&app, "waits for node `n`");
    let before: u64 = app.state().get("a.count").and_then(|count| count.decode().ok()).expect("it counted");
    let _other = Process::node(&address, "n");
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    zombie.signal("CONT");
    // It finds out by itself that it was given up, ends its Works, and cannot join again under a name that is taken.
    zombie.expect("work `a` is ended");
    let (code, lines) = zombie.end();
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("there is a node `n` already")), "{lines:#?}");
    // What is seen is the other's, which went on from where this was.
    let now: Lab = app.wait_for_state("a", |a: &Lab| a.count > before + 100);
    assert_eq!((now.lives, now.runs), (2, 2));
}

/// Ten thousand messages while `trouble` happens.
fn numbers_arrive_in_spite_of(trouble: impl Fn(&Proxy) + Send + 'static) {
    const NUMBERS: u32 = 10_000;
    let app = start_with(
        Config { heartbeat_ms: Some(100), node_grace_ms: Some(20_000), ..Config::default() },
        serve,
    );
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    let (progress, seen) = std::sync::mpsc::channel();
    let troubling = std::thread::spawn(move || {
        // Each thousand of messages, some trouble.
        while seen.recv().is_ok() {
            trouble(&proxy);
        }
        proxy
    });
    app.block_on(async {
        for number in 0..NUMBERS {
            a.tell(Add(number)).await.expect("the node is not lost");
            if number % 1000 == 500 {
                progress.send(()).expect("it listens");
            }
        }
        drop(progress);
        let sum = a.ask(Sum).await.expect("the node is not lost");
        assert_eq!(sum, (0..u64::from(NUMBERS)).sum::<u64>());
    });
    let received: Vec<u32> = app.wait_for_state("a.received", |received: &Vec<u32>| !received.is_empty());
    assert!(received.into_iter().eq(0..NUMBERS), "in order, each once");
    let a = app.wait_for_stage("a", Stage::Running);
    assert_eq!(a.status.attempt, 1, "nothing was started again");
    drop(troubling.join());
}

fn a_short_break_loses_doubles_and_reorders_nothing() {
    numbers_arrive_in_spite_of(|proxy| {
        proxy.set(Weather::Cut);
        proxy.set(Weather::Fair);
    });
}

fn a_half_open_connection_is_noticed_and_made_anew() {
    numbers_arrive_in_spite_of(|proxy| {
        // Nothing passes and nothing is closed: only the silence tells.
        proxy.hold_until_the_next_connection();
    });
}

fn a_slow_network_is_only_slow() {
    // The times that it has where nothing else is said.
    let app = start_with(Config::default(), serve);
    let proxy = Proxy::to(&joining(&app));
    proxy.set(Weather::Delay(Duration::from_millis(200)));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    app.block_on(async {
        for number in 0..1000 {
            a.tell(Add(number)).await.expect("the node is not lost");
        }
        assert_eq!(a.ask(Sum).await.expect("it answers"), 499_500);
    });
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1);
}

fn a_long_break_gives_the_node_up_and_it_joins_again() {
    let app = start(serve);
    let proxy = Proxy::to(&joining(&app));
    let mut node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    proxy.set(Weather::Hold);
    waits_with(&app, "waits for node `n`");
    proxy.set(Weather::Cut);
    proxy.set(Weather::Fair);
    node.expect("work `a` is ended");
    let again = app.wait_for_stage("a", Stage::Running);
    assert_eq!(again.status.attempt, 2);
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
}

fn a_node_that_does_not_read_holds_its_senders_up() {
    let app = start_with(
        Config { heartbeat_ms: Some(1000), node_grace_ms: Some(60_000), ..Config::default() },
        serve,
    );
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    node.signal("STOP");
    let a = app.work::<Lab>("a");
    let mut taken = 0_u32;
    let full = loop {
        match a.try_tell(Add(taken)) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100_000, "everything is taken, and kept in memory");
    };
    assert!(full.to_string().contains("is full"), "{full}");
    node.signal("CONT");
    let sum = app.block_on(a.ask(Sum)).expect("it goes on");
    assert_eq!(sum, (0..u64::from(taken)).sum::<u64>());
}

fn a_node_without_its_head_ends_its_works_and_joins_the_next() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let address = free.expect("there is a free port").to_string();
    let head = || {
        let mut command = program("suite");
        command.args(["--open-ui=false", "--without-server", "--listen", &address]);
        Process::start(command)
    };
    let mut first = head();
    let mut node = Process::node(&address, "n");
    node.expect("work `a` runs here");
    // What is logged there is seen here as well.
    first.expect("WARN: [a on n] it serves");
    first.signal("KILL");
    drop(first);
    let _second = head();
    // The next head knows nothing of the session, so that the node need not wait for the grace period.
    node.expect("work `a` is ended");
    node.expect_again("work `a` runs here");
}

fn a_node_is_told_of_the_end() {
    let app = start(serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    app.stop().result.expect("it ends well");
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("the App is over")), "{lines:#?}");
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

fn chatter_conflates() {
    let app = start(|| {
        let chatter = |name| lab(node(name));
        Suite::new(chatter("n"), chatter("n"), |suite, _| {
            suite.a.run(Task::Chatter);
            suite.b.run(Task::Chatter);
            Ok(())
        })
    });
    let _node = Process::node(&joining(&app), "n");
    for work in ["a.count", "b.count"] {
        app.wait_for_state(work, |count: &u64| *count > 20_000);
    }
    let counts = ["a.count", "b.count"]
        .map(|path| app.state().get(path).and_then(|count| count.decode::<u64>().ok()).expect("it counts"));
    let reactions = app.reactions();
    assert!(reactions < counts[0] + counts[1], "{reactions} reactions to {counts:?} states");
}

fn nothing_is_left_behind_by_nodes_that_come_and_go() {
    let app = start(serve);
    let address = joining(&app);
    let round = || {
        let node = Process::node(&address, "n");
        app.wait_for_stage("a", Stage::Running);
        node.signal("KILL");
        waits_with(&app, "waits for node `n`");
    };
    round();
    let before = (threads(), descriptors());
    for _ in 0..5 {
        round();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    // Other tests of this process come and go as well.
    while (threads() > before.0 + 16 || descriptors() > before.1 + 40) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(threads() <= before.0 + 16 && descriptors() <= before.1 + 40, "{before:?}");
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
