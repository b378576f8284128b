//! Connections that break, hang, are slow, and are not read from.

use std::time::Instant;

use flowright::Config;
use flowright::prelude::*;

use crate::held::Held;
use crate::lab::{Add, Lab, Suite, Sum, Task};
use crate::proxy::{Proxy, Trap, Weather};
use crate::support::{Process, joining, lab, node, serve, start, start_with, times, waits_with};

crate::tests![
    a_short_break_loses_doubles_and_reorders_nothing,
    a_long_break_gives_the_node_up_and_it_joins_again,
    a_half_open_connection_is_noticed_and_made_anew,
    a_slow_network_is_only_slow,
    connections_that_end_at_once_are_made_less_often,
    a_node_that_does_not_read_holds_its_senders_up,
    chatter_conflates,
];

/// Asserts that ten thousand messages arrive while `trouble` happens.
fn numbers_arrive_in_spite_of(trouble: impl Fn(&Proxy) + Send + 'static) {
    const NUMBERS: u32 = 10_000;
    let app = start_with(times(400, 60_000), serve);
    let proxy = Proxy::to(&joining(&app));
    let node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    app.block_on(a.ask(Sum)).expect("the Work serves");
    let (held, held_there) = (Held::here(), Held::by(node.id()));
    // `trouble` happens after each thousand messages, while the next are sent.
    let (progress, seen) = std::sync::mpsc::sync_channel(0);
    let troubling = std::thread::spawn(move || {
        while seen.recv().is_ok() {
            trouble(&proxy);
        }
        proxy
    });
    app.block_on(async {
        for number in 0..NUMBERS {
            a.tell(Add(number)).await.expect("the node is not lost");
            if number % 1000 == 500 {
                progress.send(()).expect("the receiver waits");
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
    let _proxy = troubling.join().expect("there was trouble");
    held.is_back();
    held_there.is_back();
}

fn a_short_break_loses_doubles_and_reorders_nothing() {
    numbers_arrive_in_spite_of(|proxy| {
        proxy.set(Weather::Cut);
        proxy.set(Weather::Fair);
    });
}

fn a_half_open_connection_is_noticed_and_made_anew() {
    numbers_arrive_in_spite_of(|proxy| {
        // No bytes pass and nothing is closed: only missing heartbeats reveal it.
        proxy.hold_until_the_next_connection();
    });
}

fn a_slow_network_is_only_slow() {
    // The default heartbeat and grace period.
    let app = start_with(Config::new(), serve);
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    let mut sum = 0;
    for weather in [Weather::Delay(Duration::from_millis(200)), Weather::Slow(64 * 1024)] {
        proxy.set(weather);
        sum += 499_500;
        app.block_on(async {
            for number in 0..1000 {
                a.tell(Add(number)).await.expect("the node is not lost");
            }
            assert_eq!(a.ask(Sum).await.expect("the Work answers"), sum);
        });
    }
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1);
}

/// Connections that end in the handshake, or as soon as messages pass, are dialed again after longer and longer pauses.
/// Nothing is lost meanwhile.
fn connections_that_end_at_once_are_made_less_often() {
    const BROKEN: u32 = 8;
    // Half of each pause, which jitter cannot take away: an exponential backoff from 20 ms, up to 50 ms as long as the peer
    // has been out of reach for half a second at most.
    const PAUSES: Duration = Duration::from_millis(10 + 20 + 5 * 25);
    let app = start_with(times(400, 120_000), serve);
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    let mut sum = 0;
    for bytes_before_the_end in [1, 6000] {
        let before = proxy.connections();
        proxy.trap(bytes_before_the_end, Trap::Close, BROKEN);
        let began = Instant::now();
        proxy.set(Weather::Cut);
        proxy.set(Weather::Fair);
        app.block_on(async {
            while proxy.traps_left() > 0 {
                a.tell(Add(1)).await.expect("the node is not lost");
                sum += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(a.ask(Sum).await.expect("the node is not lost"), sum);
        });
        assert!(began.elapsed() >= PAUSES, "{:?} for {BROKEN} connections", began.elapsed());
        // The one that works in the end, and those of the handshake that the cut interrupted.
        let dialed = proxy.connections() - before;
        assert!((u64::from(BROKEN)..=u64::from(BROKEN) + 3).contains(&dialed), "{dialed} connections");
    }
    assert_eq!(app.wait_for_stage("a", Stage::Running).status.attempt, 1);
}

fn a_long_break_gives_the_node_up_and_it_joins_again() {
    let app = start_with(times(100, 8000), serve);
    let proxy = Proxy::to(&joining(&app));
    let mut node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves");
    let held = Held::here();
    proxy.set(Weather::Hold);
    waits_with(&app, "waits for node `n`");
    proxy.set(Weather::Cut);
    proxy.set(Weather::Fair);
    node.expect("work `a` is ended");
    let again = app.wait_for_stage("a", Stage::Running);
    assert_eq!(again.status.attempt, 2);
    app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
    held.is_back();
}

fn a_node_that_does_not_read_holds_its_senders_up() {
    let app = start_with(times(1000, 60_000), serve);
    let node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    app.block_on(a.ask(Sum)).expect("the Work serves");
    let held = Held::here();
    node.signal("STOP");
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
    let sum = app.block_on(a.ask(Sum)).expect("the node goes on");
    assert_eq!(sum, (0..u64::from(taken)).sum::<u64>());
    held.is_back();
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
    let both_count = |to: u64| {
        for work in ["a.count", "b.count"] {
            app.wait_for_state(work, |count: &u64| *count > to);
        }
    };
    both_count(1000);
    let held = Held::here();
    both_count(20_000);
    // However many states are published after that, no more memory is used.
    held.is_back();
    let counts = ["a.count", "b.count"].map(|path| {
        app.state().get(path).and_then(|count| count.decode::<u64>().ok()).expect("the Work counts")
    });
    let reactions = app.reactions();
    assert!(reactions < counts[0] + counts[1], "{reactions} reactions to {counts:?} states");
}
