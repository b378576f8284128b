//! Nodes that end by themselves, because they have had no head for too long.

use std::time::{Duration, Instant};

use crate::support::{Process, free_address, head, program};

crate::tests![
    node_whose_head_is_killed_ends_in_time,
    node_that_finds_no_head_ends_in_time,
    node_with_a_restarted_head_counts_anew,
    node_without_a_limit_outlives_its_limited_twin,
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
    let last = lines.iter().find(|line| line.contains("This node ends: it has had no head for 3s"));
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

/// The node is there for longer than the limit after the first loss, and ends in time after the second one.
fn node_with_a_restarted_head_counts_anew() {
    let address = free_address();
    let mut first = head(&address, &[]);
    let mut node = Process::node_with(&address, "n", &WITHOUT_HEAD);
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

/// Nodes whose head has a journal.
#[cfg(feature = "journal")]
pub(crate) mod recorded {
    use super::*;

    crate::tests![node_of_a_killed_head_with_a_journal_ends_in_time];

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
}
