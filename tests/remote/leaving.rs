//! Nodes that end by themselves, because they have had no head for too long, and nodes that the head sends away.

use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::lab::{Lab, Suite, Task, Until};
use crate::proxy::{Proxy, Weather};
use crate::support::{
    Process, free_address, head, joining, lab, program, start, start_with, times, until, waits_with,
};

crate::tests![
    node_whose_head_is_killed_ends_in_time,
    node_that_finds_no_head_ends_in_time,
    node_with_a_restarted_head_counts_anew,
    node_without_a_limit_outlives_its_limited_twin,
    work_on_a_node_that_is_sent_away_continues_elsewhere,
    node_that_is_sent_away_waits_for_the_grace_of_its_works,
    node_out_of_reach_is_sent_away_once_it_returns,
    node_is_sent_away_by_a_command,
    node_leaves_before_its_lifetime_ends,
    work_that_runs_for_long_waits_for_a_node_that_lasts,
    lifetime_without_time_to_leave_is_refused,
];

/// The limit on the time without a head, and its text.
const LIMIT: Duration = Duration::from_secs(3);
const WITHOUT_HEAD: [&str; 2] = ["--without-head", "3s"];

/// Time by which a node may exceed its limit.
const LATE: Duration = Duration::from_secs(5);

/// Waits until a node has ended, checks how it has ended, and returns the time since `since`.
#[track_caller]
fn ends(node: Process, since: Instant) -> Duration {
    let (code, lines) = node.end();
    let took = since.elapsed();
    assert_eq!(code, Some(0), "{lines:#?}");
    let last = lines.iter().find(|line| line.contains("This node ends: it has had no head for "));
    assert!(last.is_some_and(|line| line.contains("--without-head")), "{lines:#?}");
    took
}

/// Kills a head, and returns the moment.
fn kill(head: Process) -> Instant {
    head.signal("KILL");
    let moment = Instant::now();
    head.end();
    moment
}

/// The session of the node would last for ten minutes.
fn node_whose_head_is_killed_ends_in_time() {
    let address = free_address();
    let mut command = program("patient");
    command.args(["--open-ui=false", "--without-server", "--listen", &address]);
    let mut head = Process::start(command);
    let node = Process::node_with(&address, "n", &WITHOUT_HEAD);
    head.expect("node `n` has joined");
    let took = ends(node, kill(head));
    // The head was heard up to one heartbeat before its end.
    assert!(took > LIMIT - Duration::from_secs(1) && took <= LIMIT + LATE, "{took:?}");
}

fn node_that_finds_no_head_ends_in_time() {
    let begun = Instant::now();
    let took = ends(Process::node_with(&free_address(), "n", &WITHOUT_HEAD), begun);
    assert!(took >= LIMIT && took <= LIMIT + LATE, "{took:?}");
}

/// The node is there for longer than the limit after the first loss, and ends in time after the second one. The limit is
/// longer than a head takes to start on a busy machine.
fn node_with_a_restarted_head_counts_anew() {
    const LIMIT: Duration = Duration::from_secs(15);
    let address = free_address();
    let mut first = head(&address, &[]);
    let mut node = Process::node_with(&address, "n", &["--without-head", "15s"]);
    first.expect("node `n` has joined");
    let lost = kill(first);
    let mut second = head(&address, &[]);
    second.expect("node `n` has joined");
    while lost.elapsed() < LIMIT + LATE {
        assert!(!node.has_ended(), "it has a head");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let took = ends(node, kill(second));
    assert!(took <= LIMIT + LATE, "{took:?}");
}

fn node_without_a_limit_outlives_its_limited_twin() {
    let address = free_address();
    let mut unlimited = Process::node(&address, "m");
    ends(Process::node_with(&address, "n", &WITHOUT_HEAD), Instant::now());
    assert!(!unlimited.has_ended(), "nobody has limited it");
    let mut head = head(&address, &[]);
    head.expect("node `m` has joined");
}

/// A Flow whose Work `a` runs on any node and publishes without a pause.
fn chatter() -> Suite {
    let a = lab("*".parse().expect("the placement is valid"));
    Suite::new(a, lab(Placement::Thread), |suite, _| {
        suite.a.run(Task::Chatter);
        Ok(())
    })
}

/// Sends a node away, and returns whether it is there.
fn drain(app: &TestApp, name: &str) -> bool {
    app.block_on(app.control().drain(name, "its machine\nis sold")).expect("the App runs")
}

/// Waits until a node that was sent away has ended, and checks how.
#[track_caller]
fn has_left(node: Process) {
    let (code, lines) = node.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    let is_why = |line: &String| line.contains("This node ends: the head has sent it away (");
    assert!(lines.iter().any(is_why), "{lines:#?}");
}

/// The run stops at its next turn, `on_stop` runs, and the Work continues from its last state in the same attempt. Nothing
/// is placed on the node from the moment of the decision, although it has room.
fn work_on_a_node_that_is_sent_away_continues_elsewhere() {
    let app = start(chatter);
    let address = joining(&app);
    let first = Process::node(&address, "m");
    app.wait_for_state("a.count", |count: &u64| *count > 100);
    assert!(!drain(&app, "nobody"));
    assert!(!drain(&app, "head"));
    assert!(drain(&app, "m"));
    let is_leaving = app.status().nodes.get("m").is_none_or(|node| node.is_leaving);
    assert!(is_leaving, "it was sent away");
    // It may have left by now.
    drain(&app, "m");
    app.wait_for_stage("a", Stage::Pending);
    has_left(first);
    until("its departure", || !app.status().nodes.contains_key("m"));
    let second = Process::node(&address, "n");
    let a: Lab = app.wait_for_state("a", |a: &Lab| a.process == second.id() && a.runs == 2);
    assert_eq!((a.stopped, a.lives), (1, 2));
    assert!(a.count > 100, "it goes on from the last state: {}", a.count);
    let status = app.wait_for_stage("a", Stage::Running).status;
    assert_eq!((status.attempt, status.message), (1, None));
    app.stop().result.expect("it stops");
}

/// The grace period of nodes is over long before that of the Work, which has a handler that never ends and is killed.
fn node_that_is_sent_away_waits_for_the_grace_of_its_works() {
    let app = start_with(times(250, 500), || {
        let a = lab("*".parse().expect("the placement is valid")).grace(Duration::from_secs(3));
        Suite::new(a, lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Serve);
            Ok(())
        })
    });
    let mut node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    let never = Until("/nothing is here".into());
    app.block_on(app.work::<Lab>("a").tell(never)).expect("the Work serves");
    app.wait_for_state("a.is_held", |is_held: &bool| *is_held);
    let begun = Instant::now();
    assert!(drain(&app, "n"));
    node.expect("leaving the App, because the head sends this node away");
    has_left(node);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
}

/// The message waits for the next connection, and the Work is nowhere else meanwhile.
fn node_out_of_reach_is_sent_away_once_it_returns() {
    let app = start_with(times(250, 120_000), chatter);
    let proxy = Proxy::to(&joining(&app));
    let first = Process::node(proxy.address(), "m");
    app.wait_for_state("a.count", |count: &u64| *count > 100);
    let second = Process::node(&joining(&app), "n");
    until("the second node", || app.status().nodes.contains_key("n"));
    proxy.set(Weather::Cut);
    until("the loss of the connection", || !app.status().nodes["m"].is_connected);
    assert!(drain(&app, "m"));
    assert!(app.status().nodes["m"].is_leaving);
    let here: Lab = app.wait_for_state("a", |_: &Lab| true);
    assert_eq!((here.process, here.lives), (first.id(), 1));
    proxy.set(Weather::Fair);
    let a: Lab = app.wait_for_state("a", |a: &Lab| a.process == second.id() && a.runs == 2);
    assert_eq!((a.stopped, a.lives), (1, 2));
    has_left(first);
    app.stop().result.expect("it stops");
}

/// The command waits until the node is gone.
fn node_is_sent_away_by_a_command() {
    let address = free_address();
    let mut command = program("suite");
    command.args(["--open-ui=false", "--port", "0", "--listen", &address]);
    let mut head = Process::start(command);
    let node = Process::node(&address, "n");
    head.expect("node `n` has joined");
    let line = head.expect("View it in your browser: http://");
    let url = line.split("http://").nth(1).and_then(|url| url.split('/').next()).expect("it has an address");
    let call = |arguments: &[&str]| {
        let mut command = program("suite");
        command.args(arguments).args(["--url", url]);
        Process::start(command).end()
    };
    let (code, lines) = call(&["drain", "nobody"]);
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("there is no node `nobody`")), "{lines:#?}");
    let (code, lines) = call(&["drain", "n", "--why", "it is idle"]);
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("node n has left")), "{lines:#?}");
    has_left(node);
    head.expect("node `n` is sent away (asked for over HTTP: it is idle)");
    head.expect("node `n` has left; its Works had ended in good order");
    let (code, lines) = call(&["nodes"]);
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("n ")), "{lines:#?}");
}

/// The Work continues on the other node while the first one still has some of its time.
fn node_leaves_before_its_lifetime_ends() {
    let app = start(chatter);
    let address = joining(&app);
    let begun = Instant::now();
    let first = Process::node_with(&address, "m", &["--lifetime", "33s", "--drain-before", "30s"]);
    app.wait_for_state("a.count", |count: &u64| *count > 100);
    let second = Process::node(&address, "n");
    let a: Lab = app.wait_for_state("a", |a: &Lab| a.process == second.id() && a.runs == 2);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(33), "{took:?}");
    assert_eq!((a.stopped, a.lives), (1, 2));
    let (code, lines) = first.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("because the time of this node ends in")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("This node ends: its time is over")), "{lines:#?}");
    let status = app.wait_for_stage("a", Stage::Running).status;
    assert_eq!((status.attempt, status.message), (1, None));
    app.stop().result.expect("it stops");
}

fn work_that_runs_for_long_waits_for_a_node_that_lasts() {
    let app = start(|| {
        let a = lab("*".parse().expect("the placement is valid")).runs_for(Duration::from_secs(3_600));
        Suite::new(a, lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Chatter);
            Ok(())
        })
    });
    let address = joining(&app);
    let _short = Process::node_with(&address, "m", &["--lifetime", "61m"]);
    waits_with(&app, "`m` ends at 2");
    waits_with(&app, "UTC, too early for 1h and the 5m in which it is left");
    let ends_in = app.status().nodes["m"].ends_in.expect("it has told");
    assert!(ends_in > 3_000.0 && ends_in < 3_660.0, "{ends_in}");
    let long = Process::node_with(&address, "n", &["--lifetime", "2h"]);
    app.wait_for_state("a", |a: &Lab| a.process == long.id());
    app.stop().result.expect("it stops");
}

fn lifetime_without_time_to_leave_is_refused() {
    let arguments = ["--lifetime", "5m", "--drain-before", "1h"];
    let (code, lines) = Process::node_with("127.0.0.1:1", "n", &arguments).end();
    assert_eq!(code, Some(2), "{lines:#?}");
    let why = "--drain-before 1h is not shorter than --lifetime 5m";
    assert!(lines.iter().any(|line| line.contains(why)), "{lines:#?}");
}

/// Nodes whose head has a journal.
#[cfg(feature = "journal")]
pub(crate) mod recorded {
    use super::*;

    crate::tests![
        node_of_a_killed_head_with_a_journal_ends_in_time,
        node_that_returns_to_a_restarted_head_is_sent_away,
    ];

    /// The Works of the node wait for their head to be started again.
    fn node_of_a_killed_head_with_a_journal_ends_in_time() {
        let address = free_address();
        let directory = std::env::temp_dir().join(format!("flowright-leaving-{}", std::process::id()));
        let journal = directory.to_str().expect("the path is text");
        let mut head = head(&address, &["--journal", journal]);
        let mut node = Process::node_with(&address, "n", &WITHOUT_HEAD);
        head.expect("node `n` has joined");
        node.expect("work `a` runs here");
        let took = ends(node, kill(head));
        // The directory is temporary anyway.
        let _ = std::fs::remove_dir_all(&directory);
        assert!(took <= LIMIT + LATE, "{took:?}");
    }

    /// The node is sent away as soon as it has returned, while the head may not have taken its Work over yet.
    fn node_that_returns_to_a_restarted_head_is_sent_away() {
        let address = free_address();
        let directory = std::env::temp_dir().join(format!("flowright-sent-away-{}", std::process::id()));
        let journal = directory.to_str().expect("the path is text");
        let start = || {
            let mut command = program("suite");
            command.args(["--open-ui=false", "--port", "0", "--listen", &address, "--journal", journal]);
            Process::start(command)
        };
        let mut first = start();
        let mut node = Process::node(&address, "n");
        first.expect("node `n` has joined");
        node.expect("work `a` runs here");
        kill(first);
        let mut second = start();
        let line = second.expect("View it in your browser: http://");
        let url =
            line.split("http://").nth(1).and_then(|url| url.split('/').next()).expect("it has an address");
        until("the return of the node", || {
            let mut command = program("suite");
            command.args(["drain", "n", "--no-wait", "--url", url]);
            Process::start(command).end().0 == Some(0)
        });
        has_left(node);
        second.expect("node `n` has left; its Works had ended in good order");
        // The directory is temporary anyway.
        let _ = std::fs::remove_dir_all(&directory);
    }
}
