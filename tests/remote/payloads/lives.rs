//! Lifetime of values, also beyond that of their makers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use flowright::prelude::*;

use super::office::{Clerk, Errand, Return, open, summary, value};
use crate::support::until;

crate::tests![
    a_value_outlives_its_maker,
    what_nothing_refers_to_is_freed_everywhere,
    a_value_that_is_lost_says_where_it_was,
    a_copy_outlives_the_node_that_made_it,
    a_listed_copy_outlives_its_maker_when_it_came_by_message,
    a_copy_is_freed_when_nothing_in_the_app_refers_to_it,
    replicas_are_kept_and_made_anew,
    replicas_of_values_from_elsewhere_are_made,
    values_pass_between_nodes_that_joined_again,
];

fn a_value_outlives_its_maker() {
    let open = open(["m", "n", "thread"], &[], |office, cx| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        if !office.a.has_stopped() {
            office.a.stop();
            return Ok(());
        }
        let read = &office.b.run(Errand::Read(made)).finished()?.read;
        assert_eq!(read[..], [summary(&value(500_000, 1))]);
        cx.stop("it was read");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn what_nothing_refers_to_is_freed_everywhere() {
    let open = open(["m", "n", "process"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 3, length: 400_000, seed: 1 }).finished()?.made.clone();
        if !made.is_empty() {
            office.b.run(Errand::Read(made.clone())).finished()?;
            office.c.run(Errand::Keep(made[0].clone())).finished()?;
            office.a.run(Errand::Forget);
        }
        Ok(())
    });
    open.app.wait_for_work("c", |work| work.successes == 1);
    open.app.wait_for_work("a", |work| work.successes == 2);
    // The makers and readers have dropped their references, except for one.
    open.until("a", |usage| usage.memory == 400_000);
    open.until("b", |usage| usage.memory == 400_000);
    open.until("c", |usage| usage.memory == 400_000);
    let kept = open.app.block_on(open.app.work::<Clerk>("c").ask(Return)).unwrap();
    assert_eq!(kept.map(|kept| kept.encoded_len()), Some(400_000));
    for clerk in ["a", "b", "c"] {
        open.until(clerk, |usage| usage.memory == 0 && usage.disk == 0);
    }
    open.app.stop().result.unwrap();
}

fn a_value_that_is_lost_says_where_it_was() {
    let mut open = open(["m", "n", "thread"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        if office.c.run(Errand::Forget).finished().is_ok() && office.a.status().stage == Stage::Pending {
            office.b.run(Errand::Read(made));
        }
        Ok(())
    });
    open.app.wait_for_work("c", |work| work.successes == 1);
    open.nodes.remove("m");
    let exit = open.app.wait_for_exit();
    let error = exit.result.unwrap_err().to_string();
    for part in [
        "payload lost",
        "Vec<u8>, 500000 bytes, made by work `a`",
        "node `m` had it, and was lost at",
        "replicate",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

fn a_copy_outlives_the_node_that_made_it() {
    let mut open = open(["m", "n", "thread"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Read(made.clone())).finished()?;
        if office.a.status().stage == Stage::Pending {
            office.c.run(Errand::Read(made));
        }
        Ok(())
    });
    open.app.wait_for_work("b", |work| work.successes == 1);
    open.nodes.remove("m");
    let c: Clerk = open.app.wait_for_state("c", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(c.read, [summary(&value(500_000, 1))]);
    open.app.stop().result.unwrap();
}

/// The copy of a Work that received the value in a message, and dropped its reference, is listed and can be read.
fn a_listed_copy_outlives_its_maker_when_it_came_by_message() {
    let mut open = open(["m", "n", "thread"], &[], |office, _| {
        let b = office.b.addr();
        office.b.run(Errand::Forget).finished()?;
        let made = office.a.run(Errand::Make { count: 1, length: 300_000, seed: 9 }).finished()?.made.clone();
        office.a.run(Errand::Hand(b)).finished()?;
        if office.a.status().stage == Stage::Pending {
            office.c.run(Errand::Read(made));
        }
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 2);
    open.until_held(|nodes| nodes == ["m", "n"]);
    open.nodes.remove("m");
    let c: Clerk = open.app.wait_for_state("c", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(c.read, [summary(&value(300_000, 9))]);
    open.app.stop().result.unwrap();
}

/// A copy that arrived by message is kept for the head no longer than something in the App refers to the value.
fn a_copy_is_freed_when_nothing_in_the_app_refers_to_it() {
    let open = open(["m", "n", "thread"], &[], |office, _| {
        let b = office.b.addr();
        office.b.run(Errand::Forget).finished()?;
        office.a.run(Errand::Make { count: 1, length: 300_000, seed: 9 }).finished()?;
        office.a.run(Errand::Hand(b)).finished()?;
        office.a.run(Errand::Forget);
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 3);
    for clerk in ["a", "b"] {
        open.until(clerk, |usage| usage.memory == 0 && usage.disk == 0);
    }
    open.app.stop().result.unwrap();
}

fn replicas_are_kept_and_made_anew() {
    let mut open = open(["m", "n", "o"], &[], |office, _| {
        office.b.run(Errand::Forget).finished()?;
        office.c.run(Errand::Forget).finished()?;
        office.a.run(Errand::Replicate { length: 500_000, copies: 2 });
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 1);
    open.until_held(|nodes| nodes.len() == 2 && nodes[0] == "m");
    open.nodes.remove("m");
    open.until_held(|nodes| nodes.len() == 2 && !nodes.contains(&"m".to_owned()));
    for clerk in ["b", "c"] {
        assert_eq!(open.usage(clerk).memory, 500_000);
    }
    open.app.stop().result.unwrap();
}

/// A Flow, or a Work on another node, that has a value of a third process requests replicas of it.
fn replicas_of_values_from_elsewhere_are_made() {
    for is_flow in [true, false] {
        let mut open = open(["m", "n", "o"], &[], move |office, _| {
            office.b.run(Errand::Forget).finished()?;
            office.c.run(Errand::Forget).finished()?;
            let made =
                office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
            if is_flow {
                drop(made[0].clone().replicate(2));
            } else {
                office.b.run(Errand::ReplicateOf(made[0].clone(), 2));
            }
            Ok(())
        });
        open.app.wait_for_work("a", |work| work.successes == 1);
        open.until_held(|nodes| nodes.len() == 2 && nodes[0] == "m");
        open.nodes.remove("m");
        open.until_held(|nodes| nodes.len() == 2 && !nodes.contains(&"m".to_owned()));
        open.app.stop().result.unwrap();
    }
}

/// Nodes that were given up while they hung, and joined again in the same processes, make values and read each other's,
/// small ones and large ones.
fn values_pass_between_nodes_that_joined_again() {
    const LENGTHS: [usize; 2] = [1000, 300_000];
    let round = Arc::new(AtomicU8::new(1));
    let current = round.clone();
    let open = open(["m", "n", "thread"], &[], move |office, _| {
        let seed = current.load(Ordering::SeqCst);
        let mut made = Vec::new();
        for length in LENGTHS {
            made = office.a.run(Errand::Make { count: 1, length, seed }).finished()?.made.clone();
        }
        office.b.run(Errand::Read(made[made.len() - 2..].to_vec())).finished()?;
        Ok(())
    });
    let mut expected = Vec::new();
    for seed in 1..=3 {
        expected.extend(LENGTHS.map(|length| summary(&value(length, seed))));
        open.app.wait_for_state("b.read", |read: &Vec<(usize, u64)>| *read == expected);
        if seed < 3 {
            open.nodes.values().for_each(|node| node.signal("STOP"));
            until("the loss of both", || open.app.status().nodes.is_empty());
            round.store(seed + 1, Ordering::SeqCst);
            open.nodes.values().for_each(|node| node.signal("CONT"));
        }
    }
}
