//! Processes that end in good order while other processes refer to their values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use flowright::prelude::*;
use flowright::{Config, PayloadUsage};

use super::office::{Bytes, Clerk, Empty, Errand, Office, Open, open_with, summary, value};
use crate::support::{Process, times, until, until_gone};

crate::tests![
    values_of_a_stopped_process_move_to_the_head,
    values_of_a_restarted_process_move_to_the_head,
    values_of_many_processes_that_end_at_once_are_read,
    nested_values_are_read_from_another_process,
    nested_values_of_a_stopped_process_move_along,
    nested_values_are_read_back_from_the_disk,
    a_reader_goes_on_while_the_process_ends,
    values_of_a_node_that_leaves_move_to_the_head,
    values_of_a_node_that_is_sent_away_move_to_the_head,
    a_value_in_a_variable_elsewhere_outlives_a_leaving_node,
    values_of_two_nodes_that_leave_at_once_are_read,
    a_value_with_another_copy_does_not_move,
    a_value_that_nothing_refers_to_does_not_move,
    values_that_move_go_to_disk_where_memory_is_short,
    a_value_that_cannot_move_is_lost_with_the_reason,
];

const LENGTHS: [usize; 3] = [10, 70_000, 3_000_000];

/// Total length of two values of each length.
const ALL: usize = 2 * (10 + 70_000 + 3_000_000);

/// Has a clerk make values of several lengths.
fn make(clerk: &WorkRef<Clerk>, seed: u8) -> std::result::Result<Vec<Bytes>, Pending> {
    let mut made = Vec::new();
    for length in LENGTHS {
        made = clerk.run(Errand::Make { count: 2, length, seed }).finished()?.made.clone();
    }
    Ok(made)
}

/// The lengths and sums of the values of [`make`].
fn summaries(seed: u8) -> Vec<(usize, u64)> {
    let of = |length: usize| [0, 1].map(|n| summary(&value(length, seed + n)));
    LENGTHS.into_iter().flat_map(of).collect()
}

/// An office whose Flow has a script for each of several phases. The clerk `c` is in the head's process.
struct Phases {
    open: Open,
    phase: Arc<AtomicU8>,
}

impl Phases {
    fn new(
        places: [&'static str; 3],
        react: impl FnMut(&mut Office, u8) -> Reaction + Send + 'static,
    ) -> Self {
        Self::with(times(250, 20_000), places, react)
    }

    fn with(
        config: Config,
        places: [&'static str; 3],
        mut react: impl FnMut(&mut Office, u8) -> Reaction + Send + 'static,
    ) -> Self {
        let phase = Arc::new(AtomicU8::new(0));
        let current = phase.clone();
        let open = open_with("127.0.0.1:0", config, places, &[], move |office, _| {
            office.c.run(Errand::Forget).finished()?;
            react(office, current.load(Ordering::SeqCst))
        });
        Self { open, phase }
    }

    fn next(&self) {
        self.phase.fetch_add(1, Ordering::SeqCst);
        self.open.poke();
    }

    fn wait_for(&self, clerk: &str, done: impl Fn(&Clerk) -> bool) -> Clerk {
        self.open.app.wait_for_state(clerk, move |clerk: &Clerk| done(clerk))
    }

    fn wait_for_run(&self, clerk: &str, runs: u64) {
        self.open.app.wait_for_work(clerk, move |work| work.successes >= runs);
    }

    fn stop(self) {
        self.open.app.stop().result.unwrap();
    }
}

fn in_memory(length: usize) -> PayloadUsage {
    let mut usage = PayloadUsage::default();
    usage.memory = length as u64;
    usage
}

/// The values of `a` are read after its process has ended.
fn values_of_a_stopped_process_move_to_the_head() {
    let phases = Phases::new(["process", "n", "thread"], |office, phase| {
        let made = make(&office.a, 1)?;
        if phase >= 1 && !office.a.has_stopped() {
            office.a.stop();
        }
        if phase >= 2 {
            office.b.run(Errand::Read(made));
        }
        Ok(())
    });
    let a = phases.wait_for("a", |clerk| clerk.made.len() == 6);
    phases.next();
    until_gone(a.process);
    assert_eq!(PayloadUsage::here(), in_memory(ALL));
    phases.next();
    assert_eq!(phases.wait_for("b", |clerk| clerk.read.len() == 6).read, summaries(1));
    phases.stop();
}

fn values_of_a_restarted_process_move_to_the_head() {
    let mut restarted = false;
    let phases = Phases::new(["process", "process", "thread"], move |office, phase| {
        let made = make(&office.a, 1)?;
        if phase >= 1 && !std::mem::replace(&mut restarted, true) {
            office.a.restart_now();
        }
        if phase >= 2 {
            office.b.run(Errand::Read(made));
        }
        Ok(())
    });
    let process = phases.wait_for("a", |clerk| clerk.made.len() == 6).process;
    phases.next();
    phases.wait_for("a", move |clerk| clerk.process != process);
    until_gone(process);
    phases.next();
    assert_eq!(phases.wait_for("b", |clerk| clerk.read.len() == 6).read, summaries(1));
    phases.stop();
}

fn values_of_many_processes_that_end_at_once_are_read() {
    let phases = Phases::new(["process"; 3], |office, phase| {
        let made = [&office.a, &office.b].map(|clerk| make(clerk, 1));
        let [a, b] = made;
        let (a, b) = (a?, b?);
        let own = make(&office.c, 1)?;
        if phase >= 1 {
            for clerk in [&office.a, &office.b] {
                if !clerk.has_stopped() {
                    clerk.stop();
                }
            }
        }
        if phase >= 2 {
            office.c.run(Errand::Read([a, b, own].concat()));
        }
        Ok(())
    });
    let [a, b] = ["a", "b"].map(|clerk| phases.wait_for(clerk, |clerk| clerk.made.len() == 6).process);
    phases.wait_for("c", |clerk| clerk.made.len() == 6);
    phases.next();
    until_gone(a);
    until_gone(b);
    phases.next();
    let c = phases.wait_for("c", |clerk| clerk.read.len() == 18);
    assert_eq!(c.read, summaries(1).repeat(3));
    phases.stop();
}

const DEPTH: usize = 30;
const LENGTH: usize = 90_000;

fn nested_summaries() -> Vec<(usize, u64)> {
    (0..DEPTH).rev().map(|n| summary(&value(LENGTH, n as u8))).collect()
}

fn nested_values_are_read_from_another_process() {
    for [a, b] in [["process", "thread"], ["m", "n"], ["thread", "n"], ["process", "n"]] {
        let phases = Phases::new([a, b, "thread"], |office, _| {
            let a = office.a.run(Errand::Nest { depth: DEPTH, length: LENGTH }).finished()?;
            if let Some(nested) = a.nested.clone() {
                office.b.run(Errand::Unnest(nested));
            }
            Ok(())
        });
        let read = phases.wait_for("b", |clerk| clerk.read.len() == DEPTH).read;
        assert_eq!(read, nested_summaries(), "{a} {b}");
        phases.stop();
    }
}

fn nested_values_of_a_stopped_process_move_along() {
    let phases = Phases::new(["process", "n", "thread"], |office, phase| {
        let a = office.a.run(Errand::Nest { depth: DEPTH, length: LENGTH }).finished()?;
        let nested = a.nested.clone();
        if phase >= 1 && !office.a.has_stopped() {
            office.a.stop();
        }
        if let Some(nested) = nested.filter(|_| phase >= 2) {
            office.b.run(Errand::Unnest(nested));
        }
        Ok(())
    });
    let a = phases.wait_for("a", |clerk| clerk.nested.is_some());
    phases.next();
    until_gone(a.process);
    phases.next();
    assert_eq!(phases.wait_for("b", |clerk| clerk.read.len() == DEPTH).read, nested_summaries());
    phases.stop();
}

/// Values within a value stay alive while that is spilled to disk, in the process that made it and in one that has a
/// copy.
fn nested_values_are_read_back_from_the_disk() {
    let config = || times(250, 20_000).payload_memory_mib(1);
    for [a, b] in [["thread", "thread"], ["process", "thread"]] {
        let phases = Phases::with(config(), [a, b, "thread"], |office, _| {
            let a = office.a.run(Errand::Nest { depth: DEPTH, length: LENGTH }).finished()?;
            let Some(nested) = a.nested.clone() else { return Ok(()) };
            office.b.run(Errand::Unnest(nested.clone())).finished()?;
            // Small values were spilled to make room for larger ones.
            office.b.run(Errand::Make { count: 3, length: 900_000, seed: 7 }).finished()?;
            office.c.run(Errand::Unnest(nested));
            Ok(())
        });
        assert_eq!(phases.wait_for("c", |clerk| clerk.read.len() == DEPTH).read, nested_summaries());
        phases.stop();
    }
}

/// A length for which the transfer is still in progress when its start is observed.
const LARGE: usize = 256 << 20;

fn a_reader_goes_on_while_the_process_ends() {
    let phases = Phases::new(["process", "n", "thread"], |office, phase| {
        let a = office.a.run(Errand::Make { count: 1, length: LARGE, seed: 1 }).finished()?;
        let Some(made) = a.made.first().cloned() else { return Ok(()) };
        office.b.run(Errand::Watch(made));
        if phase >= 1 && !office.a.has_stopped() {
            office.a.stop();
        }
        Ok(())
    });
    phases.wait_for("b", |clerk| clerk.received > 0);
    phases.next();
    assert_eq!(phases.wait_for("b", |clerk| clerk.read.len() == 1).read, [(LARGE, 0)]);
    phases.stop();
}

fn values_of_a_node_that_leaves_move_to_the_head() {
    values_move(|_, m| m.signal("TERM"));
}

fn values_of_a_node_that_is_sent_away_move_to_the_head() {
    values_move(|phases, _| {
        let control = phases.open.app.control();
        let is_there = phases.open.app.block_on(control.drain("m", "it is idle"));
        assert!(is_there.expect("the App runs"));
    });
}

/// The values of `a` are read after its node `m` has left.
fn values_move(leave: impl FnOnce(&Phases, &Process)) {
    let mut phases = Phases::new(["m", "n", "thread"], |office, phase| {
        let made = make(&office.a, 1)?;
        if phase >= 1 {
            office.b.run(Errand::Read(made));
        }
        Ok(())
    });
    phases.wait_for("a", |clerk| clerk.made.len() == 6);
    let m = phases.open.nodes.remove("m").unwrap();
    leave(&phases, &m);
    assert_eq!(m.end().0, Some(0));
    assert_eq!(PayloadUsage::here(), in_memory(ALL));
    phases.next();
    assert_eq!(phases.wait_for("b", |clerk| clerk.read.len() == 6).read, summaries(1));
    phases.stop();
}

/// Neither the head nor a state refers to the value.
fn a_value_in_a_variable_elsewhere_outlives_a_leaving_node() {
    let mut phases = Phases::new(["m", "n", "thread"], |office, _| {
        let b = office.b.addr();
        office.b.run(Errand::Forget).finished()?;
        office.a.run(Errand::Pass(b));
        Ok(())
    });
    phases.wait_for_run("a", 1);
    assert_eq!(PayloadUsage::here(), in_memory(0));
    let m = phases.open.nodes.remove("m").unwrap();
    m.signal("TERM");
    assert_eq!(m.end().0, Some(0));
    let read = phases.open.app.block_on(phases.open.app.work::<Clerk>("b").ask(Empty)).unwrap();
    assert_eq!(read, Ok(summary(&value(300_000, 9))));
    // No reference is left.
    until("the end of the value at the head", || PayloadUsage::here() == in_memory(0));
    phases.open.until("b", |usage| usage == in_memory(0));
    phases.stop();
}

/// Each node has a copy of the value that the other has made.
fn values_of_two_nodes_that_leave_at_once_are_read() {
    let mut phases = Phases::new(["m", "n", "thread"], |office, phase| {
        let (a, b) = (make(&office.a, 1)?, make(&office.b, 2)?);
        office.a.run(Errand::Read(b.clone())).finished()?;
        office.b.run(Errand::Read(a.clone())).finished()?;
        if phase >= 1 {
            office.c.run(Errand::Read([a, b].concat()));
        }
        Ok(())
    });
    phases.wait_for_run("b", 4);
    phases.wait_for_run("a", 4);
    let nodes = std::mem::take(&mut phases.open.nodes);
    nodes.values().for_each(|node| node.signal("TERM"));
    for (_, node) in nodes {
        assert_eq!(node.end().0, Some(0));
    }
    phases.next();
    let read = phases.wait_for("c", |clerk| clerk.read.len() == 12).read;
    assert_eq!(read, [summaries(1), summaries(2)].concat());
    phases.stop();
}

fn a_value_with_another_copy_does_not_move() {
    let phases = Phases::new(["process", "n", "thread"], |office, phase| {
        let made = make(&office.a, 1)?;
        office.b.run(Errand::Read(made.clone())).finished()?;
        if phase >= 1 && !office.a.has_stopped() {
            office.a.stop();
        }
        if phase >= 2 {
            office.c.run(Errand::Read(made));
        }
        Ok(())
    });
    let a = phases.wait_for("a", |clerk| clerk.made.len() == 6);
    phases.wait_for_run("b", 1);
    phases.next();
    until_gone(a.process);
    assert_eq!(PayloadUsage::here(), in_memory(0));
    phases.next();
    assert_eq!(phases.wait_for("c", |clerk| clerk.read.len() == 6).read, summaries(1));
    phases.stop();
}

fn a_value_that_nothing_refers_to_does_not_move() {
    let phases = Phases::new(["process", "thread", "thread"], |office, phase| {
        make(&office.a, 1)?;
        office.a.run(Errand::Forget).finished()?;
        if phase >= 1 && !office.a.has_stopped() {
            office.a.stop();
        }
        Ok(())
    });
    let process = phases.wait_for("a", |clerk| clerk.process != 0).process;
    phases.wait_for_run("a", 4);
    phases.next();
    until_gone(process);
    assert_eq!(PayloadUsage::here(), in_memory(0));
    phases.stop();
}

fn values_that_move_go_to_disk_where_memory_is_short() {
    let config = times(250, 20_000).payload_memory_mib(1);
    let mut phases = Phases::with(config, ["m", "n", "thread"], |office, phase| {
        let made = make(&office.a, 1)?;
        if phase >= 1 {
            office.b.run(Errand::Read(made));
        }
        Ok(())
    });
    phases.wait_for("a", |clerk| clerk.made.len() == 6);
    let m = phases.open.nodes.remove("m").unwrap();
    m.signal("TERM");
    assert_eq!(m.end().0, Some(0));
    let usage = PayloadUsage::here();
    assert_eq!(usage.memory + usage.disk, ALL as u64);
    assert!(usage.memory <= 1 << 20, "{usage:?}");
    phases.next();
    assert_eq!(phases.wait_for("b", |clerk| clerk.read.len() == 6).read, summaries(1));
    phases.stop();
}

/// The head has no room for the value.
fn a_value_that_cannot_move_is_lost_with_the_reason() {
    let config = times(250, 20_000).payload_memory_mib(1).payload_disk_mib(1);
    let mut phases = Phases::with(config, ["m", "n", "thread"], |office, phase| {
        let made = make(&office.a, 1)?;
        if phase >= 1 {
            office.b.run(Errand::Read(made));
        }
        Ok(())
    });
    phases.wait_for("a", |clerk| clerk.made.len() == 6);
    let m = phases.open.nodes.remove("m").unwrap();
    m.signal("TERM");
    assert_eq!(m.end().0, Some(0));
    phases.next();
    let error = phases.open.app.wait_for_exit().result.unwrap_err().to_string();
    for part in ["payload lost", "3000000 bytes", "node `m` had it", "moved to the head", "--payload-memory"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("grace period"), "{error}");
}
