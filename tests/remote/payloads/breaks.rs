//! Pulls that are interrupted, cancelled, or from a source that sends other bytes.

use std::time::Duration;

use flowright::prelude::*;

use super::office::{Clerk, Empty, Errand, Office, Open, open, summary, value};
use crate::held::wait_for_the_end_of;
use crate::proxy::{Proxy, Trap, Weather};
use crate::support::{Process, free_address};

crate::tests![
    a_pull_that_breaks_is_resumed,
    a_wrong_byte_is_noticed,
    a_source_that_sends_a_wrong_byte_is_replaced,
    a_source_that_is_killed_on_the_way_is_an_error_that_names_it,
    a_source_that_is_killed_on_the_way_is_replaced,
    a_pull_that_is_given_up_leaves_nothing,
    a_puller_that_takes_nothing_holds_up_nobody,
    source_unknown_to_the_head_is_asked_again,
];

/// A Work on a node that reaches the head through a proxy, which its pulls of the head's values pass as well.
fn behind_a_proxy(
    places: [&'static str; 3],
    react: impl FnMut(&mut Office, &mut FlowContext) -> Reaction + Send + 'static,
) -> (Open, Proxy, Process) {
    let open = open(places, &[], react);
    let proxy = Proxy::to(&open.address);
    let node = Process::node_of("payloads", proxy.address(), "p", &["--label", "behind=proxy"]);
    (open, proxy, node)
}

fn a_pull_that_breaks_is_resumed() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "thread"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 9_000_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Read(made));
        Ok(())
    });
    proxy.trap(2_500_000, Trap::Close, 3);
    let b: Clerk = open.app.wait_for_state("b", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(b.read, [summary(&value(9_000_000, 1))]);
    assert_eq!(proxy.traps_left(), 0, "it broke three times");
    open.app.stop().result.unwrap();
}

fn a_wrong_byte_is_noticed() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "thread"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 9_000_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Read(made));
        Ok(())
    });
    proxy.trap(2_500_000, Trap::Flip, u32::MAX);
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    for part in ["payload lost", "made by work `a`", "`head` sent bytes that do not match the hash"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

fn a_source_that_sends_a_wrong_byte_is_replaced() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "m"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 9_000_000, seed: 1 }).finished()?.made.clone();
        office.c.run(Errand::Keep(made[0].clone())).finished()?;
        office.b.run(Errand::Read(made));
        Ok(())
    });
    proxy.trap(2_500_000, Trap::Flip, u32::MAX);
    let b: Clerk = open.app.wait_for_state("b", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(b.read, [summary(&value(9_000_000, 1))]);
    assert!(proxy.traps_left() < u32::MAX, "it was tried");
    open.app.stop().result.unwrap();
}

/// A length for which the transfer is still in progress when its start is observed.
const LARGE: usize = 512 << 20;

fn killed_on_the_way(with_a_copy: bool) -> Open {
    let mut open = open(["m", "n", "o"], &[], move |office, _| {
        let Some(made) = office.a.made.first().cloned() else {
            office.a.run(Errand::Make { count: 1, length: LARGE, seed: 1 });
            return Ok(());
        };
        if !with_a_copy || office.c.run(Errand::Keep(made.clone())).finished().is_ok() {
            office.b.run(Errand::Watch(made));
        }
        Ok(())
    });
    open.app.wait_for_state("b.received", |received: &u64| *received > 0);
    open.nodes.remove("m");
    open
}

fn a_source_that_is_killed_on_the_way_is_an_error_that_names_it() {
    let error = killed_on_the_way(false).app.wait_for_exit().result.unwrap_err().to_string();
    for part in ["payload lost", "536870912 bytes, made by work `a`", "node `m` had it, and was lost at"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

fn a_source_that_is_killed_on_the_way_is_replaced() {
    let open = killed_on_the_way(true);
    let b: Clerk = open.app.wait_for_state("b", |clerk: &Clerk| clerk.read.len() == 1);
    assert_eq!(b.read, [(LARGE, 0)]);
    open.app.stop().result.unwrap();
}

fn a_pull_that_is_given_up_leaves_nothing() {
    let open = open(["m", "n", "thread"], &[], |office, _| {
        let Some(made) =
            office.a.run(Errand::Make { count: 1, length: 50_000_000, seed: 1 }).finished()?.made.first()
        else {
            return Ok(());
        };
        office.b.run(Errand::GiveUp(made.clone())).finished()?;
        office.a.run(Errand::Forget);
        Ok(())
    });
    open.app.wait_for_work("a", |work| work.successes == 2);
    for clerk in ["a", "b"] {
        open.until(clerk, |usage| usage.memory == 0);
    }
    open.app.stop().result.unwrap();
}

fn a_puller_that_takes_nothing_holds_up_nobody() {
    let (open, proxy, _node) = behind_a_proxy(["thread", "behind=proxy", "thread"], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 200_000_000, seed: 1 }).finished()?.made[0].clone();
        office.b.run(Errand::Watch(made));
        Ok(())
    });
    proxy.set(Weather::Slow(5_000_000));
    open.app.wait_for_state("b", |clerk: &Clerk| clerk.received > 0);
    proxy.set(Weather::Hold);
    // The thread that serves the value waits for room now; it ends with the App, also while its connection stays open.
    open.app.stop().result.unwrap();
    wait_for_the_end_of("tokio-rt-worker");
    drop(proxy);
}

/// A reference that one node sent to another has not passed through the head, so the head does not know the value. Pulls
/// nevertheless outlast a cut between the nodes that is shorter than the grace period.
fn source_unknown_to_the_head_is_asked_again() {
    let open = open(["behind=proxy", "n", "thread"], &[], |office, _| {
        let b = office.b.addr();
        office.b.run(Errand::Forget).finished()?;
        office.a.run(Errand::Pass(b));
        Ok(())
    });
    let inside = free_address();
    let proxy = Proxy::to(&inside);
    let arguments = ["--label", "behind=proxy", "--listen", &inside, "--advertise", proxy.address()];
    let _node = Process::node_of("payloads", &open.address, "m", &arguments);
    open.app.wait_for_work("a", |work| work.successes == 1);
    proxy.set(Weather::Cut);
    let attempts = proxy.refused() + 5;
    let b = open.app.work::<Clerk>("b");
    let read = open.app.block_on(async {
        let mut read = std::pin::pin!(async { b.ask(Empty).await });
        let mended = async {
            while proxy.refused() < attempts {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            proxy.set(Weather::Fair);
        };
        tokio::select! {
            read = &mut read => read,
            () = mended => read.await,
        }
    });
    assert_eq!(read.expect("the Work answers"), Ok(summary(&value(300_000, 9))));
    open.app.stop().result.unwrap();
}
