//! Streamed replies behave the same wherever the Works run, and end when a process is lost.

use flowright::prelude::*;
use flowright::{EndKind, Placement, StreamError, StreamedReply};
use futures::{StreamExt, TryStreamExt};

use crate::lab::{Add, Break, Hold, Lab, Push, Stream, Suite, Sum, Task};
use crate::proxy::{Proxy, Weather};
use crate::support::{
    Process, joining, lab, node, serve, signal, start, start_with, times, wherever_it_runs,
};

crate::tests![
    streams_arrive_wherever_their_readers_are,
    senders_stop_at_the_window_and_hold_up_nothing_else,
    senders_are_told_that_nobody_reads,
    streams_that_are_not_complete_say_why,
    item_that_is_too_large_ends_its_stream,
    reader_is_told_that_a_process_is_lost,
    sender_is_told_that_the_node_of_its_reader_is_lost,
    stream_survives_broken_connections,
];

/// A Work in the one place reads streams of a Work in the other, and so does a program beside the head.
fn streams_arrive_wherever_their_readers_are() {
    for window in [1, 7, 4096] {
        wherever_it_runs(|lodge| {
            let lodged = lodge(Box::new(move |[a, b]| {
                Suite::new(lab(a), lab(b), move |suite, _| {
                    if suite.a.process != 0 {
                        let a = suite.a.addr();
                        suite.b.run(Task::Read(a.clone(), a.recipient(), window));
                    }
                    Ok(())
                })
            }));
            let app = &lodged.app;
            app.wait_for_state("b.sum", |sum: &Option<u64>| *sum == Some(499_545));
            let a = app.work::<Lab>("a");
            let items = app.block_on(async {
                let stream = a.stream(Stream(1000)).window(window).await.expect("it is opened");
                stream.try_collect::<Vec<u32>>().await.expect("it is complete")
            });
            assert!(items.into_iter().eq(0..1000), "{:?}", lodged.places);
        });
    }
}

/// While nobody reads a stream, its sender stops at the window, and other messages and streams of its Work go on.
fn senders_stop_at_the_window_and_hold_up_nothing_else() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let app = &lodged.app;
        app.wait_for_work("a", |a| a.is_up);
        let a = app.work::<Lab>("a");
        app.block_on(async {
            let mut slow = a.stream(Hold).window(8).await.expect("it is opened");
            assert_eq!(a.ask(Push::Items(1000)).await.expect("it answers"), 8, "{:?}", lodged.places);
            for number in 0..1000 {
                a.tell(Add(number)).await.expect("it runs");
            }
            assert_eq!(a.ask(Sum).await.expect("it answers"), 499_500, "{:?}", lodged.places);
            let other = a.stream(Stream(1000)).await.expect("it is opened");
            assert_eq!(other.try_collect::<Vec<u32>>().await.expect("it is complete").len(), 1000);
            assert_eq!(a.ask(Push::Items(1000)).await.expect("it answers"), 0, "{:?}", lodged.places);
            for number in 0..8 {
                assert_eq!(slow.next().await.expect("there are 8").expect("it was sent"), number.to_string());
            }
            // The credit arrives.
            let mut pushed = 0;
            while pushed < 8 {
                pushed += a.ask(Push::Items(8 - pushed)).await.expect("it answers");
            }
            assert_eq!(a.ask(Push::Items(1)).await.expect("it answers"), 0, "{:?}", lodged.places);
            a.ask(Push::Finish).await.expect("it answers");
            assert_eq!(slow.try_collect::<Vec<String>>().await.expect("it is complete").len(), 8);
        });
    });
}

/// The sender of a stream is told that its reader was dropped, and that of a `tell` has none.
fn senders_are_told_that_nobody_reads() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a), lab(b), |_, _| Ok(()))));
        let app = &lodged.app;
        app.wait_for_work("a", |a| a.is_up);
        let a = app.work::<Lab>("a");
        app.block_on(async {
            let kept = a.stream(Hold).await.expect("it is opened");
            let dropped = a.stream(Hold).await.expect("it is opened");
            assert_eq!(a.ask(Push::Items(3)).await.expect("it answers"), 3);
            drop(dropped);
            while a.ask(Push::Closed).await.expect("it answers") < 1 {}
            a.tell(Hold).await.expect("it runs");
            assert_eq!(a.ask(Push::Closed).await.expect("it answers"), 2, "{:?}", lodged.places);
            drop(kept);
            while a.ask(Push::Closed).await.expect("it answers") < 3 {}
            assert_eq!(a.ask(Push::Items(3)).await.expect("it answers"), 0);
        });
    });
}

/// Reads to the error with which the stream ends, behind this many items.
async fn error_behind(items: usize, mut stream: StreamedReply<String>) -> StreamError {
    for _ in 0..items {
        stream.next().await.expect("there are more").expect("they were sent");
    }
    let error = stream.next().await.expect("it is not complete").expect_err("all items were read");
    assert!(stream.next().await.is_none());
    error
}

/// A stream that is not complete ends with an error, behind its items, that tells why.
fn streams_that_are_not_complete_say_why() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let restart = Restart::on_failure().max(1000).backoff(Duration::ZERO..Duration::ZERO);
            Suite::new(lab(a).restart(restart), lab(b), |suite, _| {
                match suite.a.count {
                    0 => drop(suite.a.run(Task::Serve)),
                    _ => suite.a.stop(),
                }
                Ok(())
            })
        }));
        let (app, places) = (&lodged.app, lodged.places);
        app.wait_for_stage("a", Stage::Running);
        let a = app.work::<Lab>("a");
        app.block_on(async {
            let stream = a.stream(Hold).await.expect("it is opened");
            assert_eq!(a.ask(Push::Items(3)).await.expect("it answers"), 3);
            a.ask(Push::Fail).await.expect("it answers");
            let error = error_behind(3, stream).await;
            let is_told = matches!(&error, StreamError::Failed { why, .. } if why == "as it was told");
            assert!(is_told, "{places:?}: {error}");

            let stream = a.stream(Hold).await.expect("it is opened");
            a.ask(Push::Drop).await.expect("it answers");
            let error = error_behind(0, stream).await;
            assert!(matches!(error, StreamError::Unfinished { .. }), "{places:?}: {error}");

            for kind in [EndKind::Panicked, EndKind::Stopped] {
                let stream = a.stream(Hold).await.expect("it is opened");
                assert_eq!(a.ask(Push::Items(2)).await.expect("it answers"), 2);
                match kind {
                    EndKind::Panicked => a.tell(Break).await.expect("it runs"),
                    // Counted, for the Flow that stops the Work.
                    _ => a.tell(crate::lab::Waits).await.expect("it runs"),
                }
                let error = error_behind(2, stream).await;
                let is_told = matches!(&error, StreamError::Ended { end, .. } if end.kind == kind);
                assert!(is_told, "{places:?}: {error}");
                if kind == EndKind::Panicked {
                    // Until the next incarnation is there, messages wait or are refused.
                    while a.ask(Sum).await.is_err() {}
                }
            }
        });
    });
}

/// An item that is too large for another process ends its stream, for both ends.
fn item_that_is_too_large_ends_its_stream() {
    for placement in [node("n"), Placement::Process] {
        let is_on_node = placement != Placement::Process;
        let app = start(move || Suite::new(lab(placement), lab(Placement::Pool), |_, _| Ok(())));
        let host = is_on_node.then(|| Process::node(&joining(&app), "n"));
        app.wait_for_work("a", |a| a.is_up);
        let a = app.work::<Lab>("a");
        app.block_on(async {
            let stream = a.stream(Hold).await.expect("it is opened");
            assert_eq!(a.ask(Push::Items(1)).await.expect("it answers"), 1);
            assert_eq!(a.ask(Push::Large(17 << 20)).await.expect("it answers"), 1);
            assert_eq!(a.ask(Push::Closed).await.expect("it answers"), 1);
            let error = error_behind(1, stream).await;
            assert!(matches!(error, StreamError::NotSent { .. }), "{error}");
        });
        drop(host);
    }
}

/// The reader of a stream is told when the node or process of its Work is killed, behind the items that have arrived.
fn reader_is_told_that_a_process_is_lost() {
    for placement in [node("n"), Placement::Process] {
        let is_on_node = placement != Placement::Process;
        let app = start(move || {
            Suite::new(lab(placement).on_error(OnError::Capture), lab(Placement::Pool), |_, _| Ok(()))
        });
        let host = is_on_node.then(|| Process::node(&joining(&app), "n"));
        let process = app.wait_for_state("a.process", |process: &u32| *process != 0);
        let a = app.work::<Lab>("a");
        app.block_on(async {
            let stream = a.stream(Hold).await.expect("it is opened");
            // The items precede the answer.
            assert_eq!(a.ask(Push::Items(3)).await.expect("it answers"), 3);
            signal(process, "KILL");
            let error = error_behind(3, stream).await;
            assert!(matches!(error, StreamError::NodeLost { .. }), "{error}");
        });
        drop(host);
    }
}

/// A sender is told when the node of its reader is killed.
fn sender_is_told_that_the_node_of_its_reader_is_lost() {
    let app = start(|| {
        Suite::new(lab(Placement::Pool), lab(node("n")).on_error(OnError::Capture), |suite, _| {
            if suite.b.process != 0 {
                suite.b.run(Task::ReadOn(suite.a.addr()));
            }
            Ok(())
        })
    });
    let host = Process::node(&joining(&app), "n");
    let a = app.work::<Lab>("a");
    app.wait_for_work("a", |a| a.is_up);
    // The reader publishes once its stream is opened.
    let process = app.wait_for_state("b.process", |process: &u32| *process != 0);
    app.wait_for_state("b.is_held", |is_held: &bool| *is_held);
    app.block_on(async {
        assert_eq!(a.ask(Push::Closed).await.expect("it answers"), 0);
        signal(process, "KILL");
        while a.ask(Push::Closed).await.expect("it answers") < 1 {}
    });
    drop(host);
}

/// A stream goes on over the connections of its session, in order and with each item once.
fn stream_survives_broken_connections() {
    const NUMBERS: u32 = 10_000;
    let app = start_with(times(400, 60_000), serve);
    let proxy = Proxy::to(&joining(&app));
    let _node = Process::node(proxy.address(), "n");
    app.wait_for_stage("a", Stage::Running);
    let a = app.work::<Lab>("a");
    app.block_on(async {
        let mut stream = a.stream(Stream(NUMBERS)).await.expect("it is opened");
        for number in 0..NUMBERS {
            if number % 2500 == 500 {
                proxy.set(Weather::Cut);
                proxy.set(Weather::Fair);
            }
            assert_eq!(stream.next().await.expect("there are more").expect("it was sent"), number);
        }
        assert!(stream.next().await.is_none());
    });
}
