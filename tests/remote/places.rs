//! Works behave the same wherever they run.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, EndKind, Reason, SendError};

use crate::held::wait_for_the_end_of;
use crate::lab::{
    Add, Break, Double, Early, Flush, Lab, Later, Mirror, Never, Probe, Reply, Suite, Sum, Task, Unnamed,
    Until, Waits, doubles, give_up, leave,
};
use crate::support::{Process, joining, lab, node, signal, start, until, wherever_it_runs};

crate::tests![
    a_run_succeeds_and_its_state_is_there_no_later_than_its_status,
    an_error_keeps_its_chain_and_the_next_run_goes_on,
    value_of_an_error_is_kept_in_the_process_of_the_app,
    a_panic_is_one_failure_and_a_restart_continues_from_the_last_published_state,
    a_run_that_takes_too_long_is_given_up,
    a_work_that_was_stopped_refuses_messages_and_starts_again,
    questions_are_answered_and_unanswered_ones_say_why,
    works_tell_each_other_in_order_and_lose_nothing,
    a_full_mailbox_holds_up_its_senders,
    a_message_that_was_not_named_is_refused_at_its_sender,
    reply_that_cannot_be_sent_was_handled,
    given_up_questions_are_not_handled,
    questions_of_a_lost_node_are_not_handled,
    handlers_see_that_their_callers_have_gone,
    handler_sees_that_the_node_of_its_caller_is_lost,
    recipients_lead_to_their_works,
    watchers_are_told_how_an_incarnation_ends,
    watchers_are_told_that_a_process_is_lost,
    watcher_of_a_blocked_work_is_told_when_it_is_given_up,
    batches_are_handled_wherever_their_callers_are,
    deferred_replies_arrive_from_wherever_they_are_sent,
    deferred_replies_that_are_not_sent_say_so,
    deferred_replies_know_whether_their_callers_wait,
    buffered_types_with_addresses_survive,
    an_input_that_is_too_large_says_so,
    the_initial_state_travels,
    a_node_gets_what_needs_it,
];

fn a_run_succeeds_and_its_state_is_there_no_later_than_its_status() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, cx| {
                let a = suite.a.run(Task::Count(50)).finished()?;
                assert_eq!((a.count, a.lives, a.runs), (50, 1, 1));
                let b = suite.b.run(Task::Count(7)).finished()?;
                assert_eq!(b.count, 7);
                cx.stop("both are done");
                Ok(())
            })
        }));
        let exit = lodged.app.wait_for_exit();
        assert!(exit.result.is_ok(), "{:?}: {:?}", lodged.places, exit.result);
        assert_eq!(exit.status.works["a"].status.stage, Stage::Succeeded, "{:?}", lodged.places);
        assert_eq!(exit.state.get("a.stopped").and_then(|stopped| stopped.decode().ok()), Some(1_u32));
    });
}

fn an_error_keeps_its_chain_and_the_next_run_goes_on() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a).on_error(OnError::Capture), lab(b), |suite, cx| {
                let failed = suite.a.run(Task::Fail).outcome()?.expect_err("the run fails");
                assert_eq!(failed.reason, Some(Reason::UserError));
                let message = failed.message.unwrap_or_default();
                assert_eq!(message, "the port: invalid digit found in string");
                assert_eq!(suite.a.run(Task::Count(1)).finished()?.lives, 1);
                cx.stop("seen");
                Ok(())
            })
        }));
        let exit = lodged.app.wait_for_exit();
        assert!(exit.result.is_ok(), "{:?}: {:?}", lodged.places, exit.result);
    });
}

/// The text of an error that ends the App is the same everywhere; its value is kept in the process of the App only.
fn value_of_an_error_is_kept_in_the_process_of_the_app() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, _| {
                suite.a.run(Task::Fail);
                Ok(())
            })
        }));
        let exit = lodged.app.wait_for_exit();
        let is_here = lodged.places.0 == "thread";
        assert_eq!(exit.downcast_ref::<std::num::ParseIntError>().is_some(), is_here, "{:?}", lodged.places);
        let text = exit.result.expect_err("the Work fails").to_string();
        assert!(text.contains("the port: invalid digit found in string"), "{:?}: {text}", lodged.places);
    });
}

fn a_panic_is_one_failure_and_a_restart_continues_from_the_last_published_state() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let restart = Restart::on_failure().max(1).backoff(Duration::ZERO..Duration::ZERO);
            Suite::new(lab(a).on_error(OnError::Capture).restart(restart), lab(b), |suite, cx| {
                suite.a.run(Task::Count(5)).finished()?;
                let failed = suite.a.run(Task::Panic).outcome()?.expect_err("the run fails");
                assert_eq!(failed.reason, Some(Reason::Panic));
                assert_eq!((failed.message.as_deref(), failed.attempt), (Some("it panics"), 2));
                let a = suite.a.run(Task::Count(6)).finished()?;
                assert_eq!((a.count, a.lives), (6, 3));
                cx.stop("seen");
                Ok(())
            })
        }));
        let exit = lodged.app.wait_for_exit();
        assert!(exit.result.is_ok(), "{:?}: {:?}", lodged.places, exit.result);
    });
}

fn a_run_that_takes_too_long_is_given_up() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let a = lab(a).on_error(OnError::Capture).timeout(Duration::from_secs(4));
            Suite::new(a, lab(b), |suite, cx| {
                let failed = suite.a.run(Task::Serve).outcome()?.expect_err("the run fails");
                assert_eq!(failed.reason, Some(Reason::Timeout));
                assert_eq!(suite.a.run(Task::Count(3)).finished()?.count, 3);
                cx.stop("seen");
                Ok(())
            })
        }));
        let exit = lodged.app.wait_for_exit();
        assert!(exit.result.is_ok(), "{:?}: {:?}", lodged.places, exit.result);
    });
}

fn a_work_that_was_stopped_refuses_messages_and_starts_again() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let mut asked_to_stop = false;
            Suite::new(lab(a), lab(b), move |suite, _| {
                suite.a.run(Task::Serve);
                if suite.a.is_running() && !asked_to_stop {
                    asked_to_stop = true;
                    suite.a.stop();
                }
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_state("a.stopped", |stopped: &u32| *stopped == 1);
        // The reaction to its end requested it again, so that it runs once more.
        app.wait_for_work("a", |a| a.status.stage == Stage::Running && a.is_up);
        app.wait_for_state("a.lives", |lives: &u32| *lives == 2);
        assert_eq!(app.block_on(app.work::<Lab>("a").ask(Sum)).expect("the Work serves"), 0);
    });
}

fn questions_are_answered_and_unanswered_ones_say_why() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let restart = Restart::on_failure().backoff(Duration::ZERO..Duration::ZERO);
            Suite::new(lab(a).restart(restart), lab(b), |suite, _| {
                suite.a.run(Task::Serve);
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_stage("a", Stage::Running);
        let a = app.work::<Lab>("a");
        app.block_on(async {
            for number in 1..=10 {
                a.tell(Add(number)).await.expect("the Work accepts the message");
            }
            assert_eq!(a.ask(Sum).await.expect("the Work answers"), 55, "{:?}", lodged.places);
            let broken = a.ask(Break).await.expect_err("the handler panics");
            assert!(matches!(broken, AskError::Failed { .. }), "{:?}: {broken}", lodged.places);
        });
        app.wait_for_work("a", |a| a.status.stage == Stage::Running && a.status.attempt == 2);
        app.block_on(async {
            let late = a.ask(Never).timeout(Duration::from_millis(100)).await.expect_err("nobody answers");
            assert!(matches!(late, AskError::Timeout { .. }), "{:?}: {late}", lodged.places);
        });
    });
}

fn works_tell_each_other_in_order_and_lose_nothing() {
    const NUMBERS: u32 = 3000;
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, cx| {
                suite.b.run(Task::Serve);
                if suite.b.is_running() {
                    let a = suite.a.run(Task::Send(suite.b.addr(), NUMBERS)).finished()?;
                    assert_eq!(a.sum, Some((0..u64::from(NUMBERS)).sum()));
                    // There is no order between publishes of the two Works.
                    if suite.b.received.len() == NUMBERS as usize {
                        assert!(suite.b.received.iter().copied().eq(0..NUMBERS), "in order, each once");
                        cx.stop("seen");
                    }
                }
                Ok(())
            })
        }));
        let exit = lodged.app.wait_for_exit();
        assert!(exit.result.is_ok(), "{:?}: {:?}", lodged.places, exit.result);
    });
}

fn a_full_mailbox_holds_up_its_senders() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a).mailbox(4), lab(b), |suite, _| {
                suite.a.run(Task::Serve);
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_stage("a", Stage::Running);
        let a = app.work::<Lab>("a");
        // The Work takes no more messages out of the mailbox.
        a.try_tell(Never).expect("the mailbox has room");
        let mut taken = 0;
        let full = loop {
            match a.try_tell(Add(taken)) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
            assert!(taken < 10_000, "{:?}: it takes everything", lodged.places);
        };
        assert!(matches!(full, SendError::Full { .. }), "{full}");
        assert_eq!(full.into_message().0, taken);
    });
}

fn a_message_that_was_not_named_is_refused_at_its_sender() {
    let app = start(|| {
        Suite::new(lab(node("n")), lab(Placement::Thread), |suite, _| {
            suite.a.run(Task::Serve);
            Ok(())
        })
    });
    let _node = Process::node(&joining(&app), "n");
    app.wait_for_stage("a", Stage::Running);
    let error = app.work::<Lab>("a").try_tell(Unnamed).expect_err("the message cannot be read there");
    assert!(matches!(error, SendError::Unsendable { .. }), "{error}");
    assert!(error.to_string().contains("messages.accept::<"), "{error}");
    assert!(app.work::<Lab>("b").try_tell(Unnamed).is_ok(), "in one process nothing needs to be named");
}

/// A reply that is too large for a frame, or does not serialise, is reported as such: the message was handled, once,
/// and asking again would handle it again. The Work goes on.
fn reply_that_cannot_be_sent_was_handled() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, _| {
                suite.a.run(Task::Serve);
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_stage("a", Stage::Running);
        let a = app.work::<Lab>("a");
        let large = app.block_on(a.ask(Reply::Large(17 << 20)));
        let broken = app.block_on(a.ask(Reply::Broken));
        if lodged.places.0 == "thread" {
            assert_eq!(large.expect("nothing is encoded").text.len(), 17 << 20);
            broken.expect("nothing is encoded");
        } else {
            for (result, why) in [(large, ["16777216", "`Payload`"]), (broken, ["Replied", "it is broken"])] {
                let error = result.expect_err("the message cannot be sent");
                assert!(matches!(error, AskError::ReplyNotSent { .. }), "{:?}: {error}", lodged.places);
                let text = error.to_string();
                assert!(why.iter().all(|part| text.contains(part)), "{:?}: {text}", lodged.places);
            }
        }
        app.wait_for_state("a.count", |handled: &u64| *handled == 2);
        let small = app.block_on(a.ask(Reply::Large(1 << 20))).expect("the reply is small enough");
        assert_eq!(small.text.len(), 1 << 20);
        app.wait_for_state("a.count", |handled: &u64| *handled == 3);
    });
}

/// The path of a file that does not exist yet, for [`Until`].
fn gate(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("flowright-gate-{}-{name}", std::process::id()))
}

/// Questions that were given up, by a deadline or by being dropped, are not handled when the Work gets to them,
/// wherever it and its askers run; other questions are.
fn given_up_questions_are_not_handled() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let is_here = |place| matches!(place, Placement::Thread | Placement::Pool);
            let is_beside = is_here(a) && is_here(b) || a == b && a != Placement::Process;
            Suite::new(lab(a), lab(b), move |suite, _| {
                if suite.a.is_held {
                    suite.b.run(Task::GiveUp(suite.a.addr(), is_beside));
                }
                Ok(())
            })
        }));
        let (app, (place, _)) = (&lodged.app, lodged.places);
        let is_here = matches!(place, "thread" | "pool");
        let gate = gate("given-up");
        let a = app.work::<Lab>("a");
        app.wait_for_work("a", |a| a.is_up);
        app.block_on(a.tell(Until(gate.clone()))).expect("the Work runs");
        app.wait_for_stage("b", Stage::Succeeded);
        app.block_on(async {
            give_up(&a, 200, is_here).await;
            a.tell(Add(1)).await.expect("the Work runs");
        });
        if is_here {
            until("all that was given up is dropped", || a.waiting() <= 2);
        }
        std::fs::write(&gate, "").expect("the file is writable");
        let sum = app.block_on(a.ask(Sum).timeout(crate::process::LIMIT)).expect("the Work answers");
        assert_eq!(sum, 1, "{:?}", lodged.places);
        std::fs::remove_file(&gate).expect("the file exists");
    });
}

/// Questions of a Work whose node was killed are not handled by others.
fn questions_of_a_lost_node_are_not_handled() {
    let app = start(|| {
        Suite::new(lab(Placement::Thread), lab(node("n")), |suite, _| {
            suite.b.run(Task::Ask(suite.a.addr()));
            Ok(())
        })
    });
    let asker = Process::node(&joining(&app), "n");
    let gate = gate("lost");
    let a = app.work::<Lab>("a");
    app.wait_for_work("a", |a| a.is_up);
    app.block_on(a.tell(Until(gate.clone()))).expect("the Work runs");
    until("the question waits", || a.waiting() > 0);
    asker.signal("KILL");
    app.wait_for_work("b", |b| b.status.stage == Stage::Pending);
    until("the question is dropped", || a.waiting() == 0);
    std::fs::write(&gate, "").expect("the file is writable");
    assert_eq!(app.block_on(a.ask(Sum)).expect("the Work answers"), 0);
    std::fs::remove_file(&gate).expect("the file exists");
}

/// A handler that has begun is told that its caller has given up, wherever the two run. A `tell` has no caller that
/// could.
fn handlers_see_that_their_callers_have_gone() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, _| {
                if suite.a.process != 0 {
                    suite.b.run(Task::AskAndLeave(suite.a.addr()));
                }
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_stage("b", Stage::Succeeded);
        let a = app.work::<Lab>("a");
        app.block_on(leave(&a, 2)).expect("the Work answers");
        app.wait_for_state("a.count", |gone: &u64| *gone >= 8);
        let gone = app.wait_for_state("a.count", |_: &u64| true);
        app.block_on(a.tell(Waits)).expect("the Work runs");
        app.wait_for_state("a.count", |count: &u64| *count == gone + 1);
    });
}

/// The handler of a question sees that the node of the Work that has asked is lost.
fn handler_sees_that_the_node_of_its_caller_is_lost() {
    let app = start(|| {
        Suite::new(lab(Placement::Thread), lab(node("n")), |suite, _| {
            suite.b.run(Task::AskAndStay(suite.a.addr()));
            Ok(())
        })
    });
    let asker = Process::node(&joining(&app), "n");
    app.wait_for_state("a.is_held", |is_held: &bool| *is_held);
    asker.signal("KILL");
    app.wait_for_state("a.count", |gone: &u64| *gone == 1);
}

/// Recipients arrive in inputs, messages and answers, and lead to their Work wherever it runs.
fn recipients_lead_to_their_works() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, cx| {
                // Messages to a Work that waits for its node are refused.
                if suite.a.process != 0 {
                    let a = suite.a.addr();
                    let input = Task::Address(a.clone().into(), a.recipient(), a.recipient());
                    assert_eq!(suite.b.run(input).finished()?.sum, Some(10));
                    cx.stop("they have arrived");
                }
                Ok(())
            })
        }));
        let exit = lodged.app.wait_for_exit();
        assert!(exit.result.is_ok(), "{:?}: {:?}", lodged.places, exit.result);
    });
}

/// All watchers of an incarnation are told how it ends, wherever it and they run. A Work that is not running is at its
/// end.
fn watchers_are_told_how_an_incarnation_ends() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let restart = Restart::on_failure().max(1000).backoff(Duration::ZERO..Duration::ZERO);
            Suite::new(lab(a).restart(restart), lab(b), |suite, _| {
                if suite.a.count == 0 {
                    suite.a.run(Task::Serve);
                } else {
                    suite.a.stop();
                }
                if suite.a.process != 0 {
                    suite.b.run(Task::Watch(suite.a.addr()));
                }
                Ok(())
            })
        }));
        let app = &lodged.app;
        let a = app.work::<Lab>("a");
        // The other Work watches one of these incarnations.
        while app.status().works["b"].status.stage != Stage::Succeeded {
            app.wait_for_work("a", |a| a.is_up);
            app.block_on(async {
                let (first, second, told) = tokio::join!(a.watch(), a.watch(), a.tell(Break));
                told.expect("the Work runs");
                assert_eq!([first.kind, second.kind], [EndKind::Panicked; 2], "{:?}", lodged.places);
            });
        }
        app.wait_for_state("b.seen", |seen: &Option<EndKind>| *seen == Some(EndKind::Panicked));
        app.wait_for_work("a", |a| a.is_up);
        let (end, told) = app.block_on(async { tokio::join!(a.watch(), a.tell(Waits)) });
        told.expect("the Work runs");
        assert_eq!(end.kind, EndKind::Stopped, "{:?}: {end}", lodged.places);
        app.wait_for_work("a", |a| !a.is_up);
        assert_eq!(app.block_on(a.watch()).kind, EndKind::NotRunning, "{:?}", lodged.places);
    });
}

/// The watchers of a Work on a node, or in a process of its own, are told when that is killed.
fn watchers_are_told_that_a_process_is_lost() {
    for placement in [node("n"), Placement::Process] {
        let is_on_node = placement != Placement::Process;
        let app = start(move || {
            Suite::new(lab(placement).on_error(OnError::Capture), lab(Placement::Pool), |suite, _| {
                if suite.a.process != 0 {
                    suite.b.run(Task::Watch(suite.a.addr()));
                }
                Ok(())
            })
        });
        let host = is_on_node.then(|| Process::node(&joining(&app), "n"));
        let process = app.wait_for_state("a.process", |process: &u32| *process != 0);
        let a = app.work::<Lab>("a");
        let end = app.block_on(async {
            let mut watch = std::pin::pin!(a.watch());
            // An answer proves that the watch, which was sent before, has arrived.
            tokio::select! {
                end = &mut watch => panic!("it has ended: {end}"),
                sum = a.ask(Sum) => assert_eq!(sum.expect("the Work answers"), 0),
            }
            signal(process, "KILL");
            watch.await
        });
        assert_eq!(end.kind, EndKind::NodeLost, "{end}");
        // It may have begun to watch when the process was killed.
        let seen = app.wait_for_state("b.seen", |seen: &Option<EndKind>| seen.is_some());
        assert!(matches!(seen, Some(EndKind::NodeLost | EndKind::NotRunning)), "{seen:?}");
        drop(host);
    }
}

/// The watcher of a Work whose thread blocks is told when the Work is given up, and does not wait for the thread.
fn watcher_of_a_blocked_work_is_told_when_it_is_given_up() {
    let gate = gate("blocked");
    let file = gate.clone();
    let app = start(move || {
        let a = lab(Placement::Thread).on_error(OnError::Capture).timeout(Duration::from_secs(2));
        Suite::new(a, lab(Placement::Pool), move |suite, _| {
            suite.a.run(Task::Block(file.clone()));
            Ok(())
        })
    });
    app.wait_for_state("a.runs", |runs: &u32| *runs == 1);
    let end = app.block_on(app.work::<Lab>("a").watch());
    assert_eq!(end.kind, EndKind::Killed, "{end}");
    assert_eq!(app.wait_for_stage("a", Stage::Failed).status.reason, Some(Reason::Timeout));
    std::fs::write(&gate, "").expect("the file is writable");
    app.stop().result.expect("the failure is captured");
    // The App does not wait for the thread, which still has to see the file.
    wait_for_the_end_of("flowright-work");
    std::fs::remove_file(&gate).expect("the file exists");
}

/// Messages of callers in all places are handled in batches, and a message of another type ends a batch that is not full.
fn batches_are_handled_wherever_their_callers_are() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, _| {
                if suite.a.process != 0 {
                    suite.b.run(Task::AskForDoubles(suite.a.addr(), 6));
                }
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_state("b.sum", |sum: &Option<u64>| *sum == Some(28));
        app.wait_for_state("a.batches", |sizes: &Vec<usize>| *sizes == [3, 3]);
        let a = app.work::<Lab>("a");
        assert_eq!(app.block_on(doubles(&a, 3)).expect("the Work answers"), 4, "{:?}", lodged.places);
        let (cut, sum) = app.block_on(async { tokio::join!(a.ask(Double(5)), a.ask(Sum)) });
        assert_eq!(cut.expect("the Work answers"), Ok(10), "{:?}", lodged.places);
        sum.expect("the Work answers");
        app.wait_for_state("a.batches", |sizes: &Vec<usize>| *sizes == [3, 3, 3, 1]);
    });
}

/// Waits until this many replies are deferred.
fn deferred(app: &TestApp, count: usize) {
    app.wait_for_state("a.deferred", |deferred: &usize| *deferred == count);
}

/// A reply that a handler has deferred is sent later, from the Work or from elsewhere in its process, to callers
/// wherever they are. One that is sent by the handler itself arrives while the handler goes on.
fn deferred_replies_arrive_from_wherever_they_are_sent() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, _| {
                if suite.a.process != 0 {
                    suite.b.run(Task::AskForLater(suite.a.addr(), 21));
                }
                Ok(())
            })
        }));
        let app = &lodged.app;
        deferred(app, 1);
        let a = app.work::<Lab>("a");
        assert_eq!(app.block_on(a.ask(Flush::Here)).expect("the Work answers"), 0);
        app.wait_for_state("b.sum", |sum: &Option<u64>| *sum == Some(42));
        for flush in [Flush::Here, Flush::Task, Flush::Thread] {
            app.block_on(async {
                let asked = async { tokio::join!(a.ask(Later(1)), a.ask(Later(2))) };
                let flushed = async {
                    while a.ask(Flush::Waiting).await.expect("the Work answers") < 2 {}
                    a.tell(flush).await.expect("the Work runs");
                };
                let ((first, second), ()) = tokio::join!(asked, flushed);
                let answers = (first.expect("it is answered"), second.expect("it is answered"));
                assert_eq!(answers, (2, 4), "{:?}: {flush:?}", lodged.places);
            });
        }
        let gate = gate("early");
        assert_eq!(app.block_on(a.ask(Early(gate.clone()))).expect("the Work answers"), 7);
        app.wait_for_state("a.is_held", |is_held: &bool| *is_held);
        std::fs::write(&gate, "").expect("the file is writable");
        app.wait_for_state("a.is_held", |is_held: &bool| !*is_held);
        std::fs::remove_file(&gate).expect("the file exists");
    });
}

/// The caller of a reply that is dropped, or whose incarnation ends, is told what has happened.
fn deferred_replies_that_are_not_sent_say_so() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            let restart = Restart::on_failure().backoff(Duration::ZERO..Duration::ZERO);
            Suite::new(lab(a).restart(restart), lab(b), |suite, _| {
                suite.a.run(Task::Serve);
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_stage("a", Stage::Running);
        let a = app.work::<Lab>("a");
        for ends in [false, true] {
            let error = app.block_on(async {
                let end = async {
                    while a.ask(Flush::Waiting).await.expect("the Work answers") < 1 {}
                    match ends {
                        false => a.tell(Flush::Drop).await.expect("the Work runs"),
                        true => a.tell(Break).await.expect("the Work runs"),
                    }
                };
                tokio::join!(a.ask(Later(1)), end).0.expect_err("no reply is sent")
            });
            assert!(matches!(error, AskError::Failed { .. }), "{:?}: {error}", lodged.places);
            let text = error.to_string();
            assert!(text.contains("deferred reply"), "{:?}: {text}", lodged.places);
        }
    });
}

/// A deferred reply knows that its caller has gone. That of a `tell` has nobody who could go, and is discarded.
fn deferred_replies_know_whether_their_callers_wait() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, _| {
                suite.a.run(Task::Serve);
                Ok(())
            })
        }));
        let app = &lodged.app;
        app.wait_for_stage("a", Stage::Running);
        let a = app.work::<Lab>("a");
        app.block_on(async {
            a.tell(Later(1)).await.expect("the Work runs");
            let gone = {
                let mut asked = std::pin::pin!(a.ask(Later(2)));
                let both_wait = async { while a.ask(Flush::Waiting).await.expect("the Work answers") < 2 {} };
                tokio::select! {
                    answer = &mut asked => Some(answer),
                    () = both_wait => None,
                }
            };
            assert!(gone.is_none(), "{:?}: {gone:?}", lodged.places);
            while a.ask(Flush::Waiting).await.expect("the Work answers") > 1 {}
            assert_eq!(a.ask(Flush::Here).await.expect("the Work answers"), 0);
        });
    });
}

/// Tagged, flattened and untagged types arrive as they were sent, in inputs, states, payloads, messages and answers,
/// whatever their parts are; so do the scopes of addresses, and nested options.
fn buffered_types_with_addresses_survive() {
    wherever_it_runs(|lodge| {
        let lodged = lodge(Box::new(|[a, b]| {
            Suite::new(lab(a), lab(b), |suite, _| {
                let kept = suite.a.run(Task::Keep(Probe::new())).finished()?;
                let payload = kept.payload.clone().expect("the Work makes a payload");
                suite.b.run(Task::Open(payload)).finished()?;
                suite.a.run(Task::Serve);
                Ok(())
            })
        }));
        let app = &lodged.app;
        for work in ["a", "b"] {
            app.wait_for_work(work, |work| work.status.stage != Stage::Pending && work.is_up);
            app.wait_for_state(&format!("{work}.kept"), |kept: &Option<Probe>| *kept == Some(Probe::new()));
            let answer = app.block_on(app.work::<Lab>(work).ask(Mirror(Probe::new())));
            assert_eq!(answer.expect("the Work answers"), Probe::new(), "{:?}", lodged.places);
        }
    });
}

fn an_input_that_is_too_large_says_so() {
    let app = start(|| {
        Suite::new(lab(node("n")).on_error(OnError::Capture), lab(Placement::Thread), |suite, cx| {
            let failed =
                suite.a.run(Task::Bytes(vec![200; 9 << 20])).outcome()?.expect_err("the input is too large");
            assert!(failed.message.as_deref().unwrap_or_default().contains("Payload"), "{failed:?}");
            assert_eq!(suite.a.run(Task::Bytes(vec![200; 1 << 20])).finished()?.count, 1 << 20);
            cx.stop("seen");
            Ok(())
        })
    });
    let _node = Process::node(&joining(&app), "n");
    let exit = app.wait_for_exit();
    assert!(exit.result.is_ok(), "{:?}", exit.result);
}

fn the_initial_state_travels() {
    let app = start(|| {
        let seasoned = Lab { count: 41, received: vec![1, 2], ..Lab::default() };
        let a = WorkRef::from(seasoned).placed(node("n"));
        Suite::new(a, lab(Placement::Thread), |suite, cx| {
            let a = suite.a.run(Task::Count(42)).finished()?;
            assert_eq!((a.count, a.received.len()), (42, 2));
            assert_ne!(a.process, std::process::id());
            cx.stop("seen");
            Ok(())
        })
    });
    let _node = Process::node(&joining(&app), "n");
    let exit = app.wait_for_exit();
    assert!(exit.result.is_ok(), "{:?}", exit.result);
}

fn a_node_gets_what_needs_it() {
    let app = start(|| {
        let needs = |gpus| WorkRef::from(Lab::default()).needs(Resources::gpus(gpus));
        Suite::new(needs(1), needs(2), |suite, _| {
            suite.a.run(Task::Serve);
            suite.b.run(Task::Serve);
            Ok(())
        })
    });
    let waits = app.wait_for_work("a", |a| a.status.message.is_some());
    assert_eq!(waits.status.stage, Stage::Pending);
    assert!(waits.status.message.as_deref().unwrap_or_default().contains("any node"), "{waits:?}");
    let address = joining(&app);
    let _small = Process::node_with(&address, "small", &["--gpus", "1"]);
    app.wait_for_stage("a", Stage::Running);
    let waits = app.wait_for_work("b", |b| {
        b.status.message.as_deref().is_some_and(|message| message.contains("room for 0 cpus, 2 gpus"))
    });
    assert_eq!(waits.status.stage, Stage::Pending);
    let _large = Process::node_with(&address, "large", &["--gpus", "2"]);
    app.wait_for_stage("b", Stage::Running);
    let nodes = app.status().nodes;
    assert_eq!(
        (&nodes["small"].works[..], &nodes["large"].works[..]),
        (&["a".to_owned()][..], &["b".to_owned()][..])
    );
}
