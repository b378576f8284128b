//! Messages that are sent first overtake those that wait, wherever the Work and its senders run.

use flowright::prelude::*;
use futures::FutureExt;
use futures::future::join_all;

use crate::lab::{Add, Lab, Suite, Sum, Task, Until};
use crate::process::LIMIT;
use crate::support::{lab, wherever_it_runs};

crate::tests![
    messages_sent_first_overtake_those_in_the_mailbox,
    messages_sent_first_overtake_those_that_wait_for_room
];

/// The path of a file that does not exist yet, for [`Until`].
fn gate(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("flowright-priority-{}-{name}", std::process::id()))
}

/// Messages that are sent first are handled before all that a busy Work has in its mailbox, and in their order.
fn messages_sent_first_overtake_those_in_the_mailbox() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let is_here = |place| matches!(place, Placement::Thread | Placement::Pool);
            let is_beside = is_here(a) && is_here(b) || a == b && a != Placement::Process;
            Suite::new(lab(a), lab(b), move |suite, _| {
                if suite.a.is_held {
                    suite.b.run(Task::TellFirst(suite.a.addr(), is_beside));
                }
                Ok(())
            })
        }));
        let (app, gate) = (&lodged.app, gate("mailbox"));
        let a = app.work::<Lab>("a");
        app.wait_for_work("a", |a| a.is_up);
        app.block_on(a.tell(Until(gate.clone()))).expect("the Work runs");
        app.wait_for_stage("b", Stage::Succeeded);
        std::fs::write(&gate, "").expect("the file is writable");
        app.block_on(a.ask(Sum).timeout(LIMIT)).expect("the Work answers");
        let received = app.wait_for_state("a.received", |received: &Vec<u32>| received.len() == 25);
        assert!(received[..5].iter().copied().eq(1000..1005), "{:?}: {received:?}", lodged.places);
        assert!(received[5..].iter().copied().eq(0..20), "{:?}: {received:?}", lodged.places);
        std::fs::remove_file(&gate).expect("the file exists");
    });
}

/// A message that is sent first to a full mailbox takes its place before all that wait for room, or for credit on the way
/// to another process.
fn messages_sent_first_overtake_those_that_wait_for_room() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| Suite::new(lab(a).mailbox(4), lab(b), |_, _| Ok(()))));
        let (app, gate) = (&lodged.app, gate("room"));
        let a = app.work::<Lab>("a");
        app.wait_for_work("a", |a| a.is_up);
        app.block_on(a.tell(Until(gate.clone()))).expect("the Work runs");
        app.wait_for_state("a.is_held", |is_held: &bool| *is_held);
        let mut sent = 0;
        while a.try_tell(Add(sent)).is_ok() {
            sent += 1;
        }
        app.block_on(async {
            let mut waiting = Box::pin(join_all((sent..sent + 30).map(|number| a.tell(Add(number)))));
            assert!((&mut waiting).now_or_never().is_none(), "the mailbox is full");
            let mut first = Box::pin(a.tell_first(Add(9999)));
            // In this process it waits for room; on the way to another one it has credit of its own.
            let is_sent = (&mut first).now_or_never();
            assert_eq!(is_sent.is_none(), lodged.places.0 == "thread");
            std::fs::write(&gate, "").expect("the file is writable");
            if is_sent.is_none() {
                first.await.expect("the Work runs");
            }
            waiting.await.into_iter().for_each(|sent| sent.expect("the Work runs"));
            a.ask(Sum).timeout(LIMIT).await.expect("the Work answers");
        });
        let all = sent as usize + 31;
        let received = app.wait_for_state("a.received", |received: &Vec<u32>| received.len() == all);
        let place = received.iter().position(|number| *number == 9999);
        assert!(place < Some(10), "{:?}: {place:?} of {all}", lodged.places);
        assert!(received.iter().copied().filter(|number| *number != 9999).eq(0..sent + 30));
        std::fs::remove_file(&gate).expect("the file exists");
    });
}
