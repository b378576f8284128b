//! Batches: one call of a handler gets several messages, and each caller gets its own reply.

use std::pin::pin;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AskError, Batch, HandleBatch, Placement};
use futures::FutureExt;
use futures::future::{join_all, maybe_done};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};
use proptest::strategy::Strategy;

use crate::support::{one, two, wherever_it_runs};

const HOUR: Duration = Duration::from_secs(3600);

/// A Work that gathers messages, and records each batch.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Model {
    /// Most messages of a batch.
    most: usize,
    within: Duration,
    /// Sender and number of the messages, a list for each call of a handler.
    handled: Vec<Vec<(usize, u32)>>,
    started: u32,
}

impl Work for Model {
    type Input = u32;

    async fn run(&mut self, run: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.started = run;
        cx.publish(self);
        cx.serve_forever(self).await?;
        Ok(())
    }
}

/// A message of a sender, with its number. One whose number is a multiple of 7 fails.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Predict(usize, u32);

impl HandleBatch<Predict> for Model {
    type Reply = std::result::Result<u32, String>;

    fn batch(&self) -> Batch {
        Batch::of(self.most).within(self.within)
    }

    async fn handle_batch(&mut self, batch: Vec<Predict>, cx: &mut WorkContext<Self>) -> Vec<Self::Reply> {
        assert!(cx.caller_waits());
        self.handled.push(batch.iter().map(|Predict(sender, number)| (*sender, *number)).collect());
        cx.publish(self);
        batch.iter().map(|Predict(_, number)| predict(*number)).collect()
    }
}

fn predict(number: u32) -> std::result::Result<u32, String> {
    if number.is_multiple_of(7) { Err(format!("{number} is bad")) } else { Ok(2 * number) }
}

/// A message that is handled by itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Look(usize, u32);

impl Handle<Look> for Model {
    type Reply = u32;

    async fn handle(&mut self, Look(sender, number): Look, cx: &mut WorkContext<Self>) -> u32 {
        self.handled.push(vec![(sender, number)]);
        cx.publish(self);
        number
    }
}

/// A message whose handler gives one reply too many.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Miscount;

impl HandleBatch<Miscount> for Model {
    type Reply = u32;

    async fn handle_batch(&mut self, batch: Vec<Miscount>, _cx: &mut WorkContext<Self>) -> Vec<u32> {
        vec![0; batch.len() + 1]
    }
}

fn start(placement: Placement, most: usize, within: Duration) -> TestApp {
    let app = TestApp::start(move || {
        let model = Model { most, within, ..Model::default() };
        one(WorkRef::new(model).placed(placement), |_, _| Ok(()))
    });
    app.wait_for_work("work", |work| work.is_up);
    app
}

fn sizes(app: TestApp) -> Vec<usize> {
    let exit = app.stop();
    let handled: Vec<Vec<(usize, u32)>> =
        exit.state.get("work.handled").expect("it is a field").decode().expect("it is a list");
    handled.iter().map(Vec::len).collect()
}

/// A full batch is handled at once; a message that fails does so for its own caller alone.
#[test]
fn full_batch_is_handled_at_once() {
    wherever_it_runs(|placement| {
        let app = start(placement, 4, HOUR);
        let model = app.work::<Model>("work");
        let replies = app.block_on(join_all((0..8).map(|number| model.ask(Predict(0, number)))));
        let replies: Vec<_> = replies.into_iter().map(|reply| reply.expect("the Work answers")).collect();
        assert_eq!(replies, (0..8).map(predict).collect::<Vec<_>>());
        assert_eq!(sizes(app), [4, 4]);
    });
}

/// A batch that is not full is handled once its time has passed.
#[test]
fn batch_is_handled_after_its_time() {
    wherever_it_runs(|placement| {
        let app = start(placement, 1000, Duration::from_millis(1));
        let model = app.work::<Model>("work");
        assert_eq!(app.block_on(model.ask(Predict(0, 1))).expect("the Work answers"), Ok(2));
        assert_eq!(sizes(app), [1]);
    });
}

/// Without a time to wait, a batch has the messages that are already there.
#[test]
fn batch_without_time_takes_waiting_messages() {
    wherever_it_runs(|placement| {
        let app = start(placement, 1000, Duration::ZERO);
        let model = app.work::<Model>("work");
        for number in 1..=3 {
            assert_eq!(
                app.block_on(model.ask(Predict(0, number))).expect("the Work answers"),
                Ok(2 * number)
            );
        }
        assert_eq!(sizes(app), [1, 1, 1]);
    });
}

/// A batch ends where the next message is of another type, so that no order changes.
#[test]
fn batch_ends_before_a_message_of_another_type() {
    wherever_it_runs(|placement| {
        let app = start(placement, 1000, HOUR);
        let model = app.work::<Model>("work");
        let (predicted, looked) =
            app.block_on(async { tokio::join!(model.ask(Predict(0, 1)), model.ask(Look(0, 2))) });
        assert_eq!(predicted.expect("the Work answers"), Ok(2));
        assert_eq!(looked.expect("the Work answers"), 2);
        assert_eq!(sizes(app), [1, 1]);
    });
}

/// A Work that gathers a batch handles it when it is asked to stop, or to begin a run.
#[test]
fn commands_do_not_wait_for_a_batch() {
    wherever_it_runs(|placement| {
        for stops in [false, true] {
            let app = TestApp::start(move || {
                let model = || Model { most: 1000, within: HOUR, ..Model::default() };
                let (a, b) = (WorkRef::new(model()).placed(placement), WorkRef::new(model()));
                two(a, b, move |a, b, _| {
                    match (b.handled.is_empty(), stops) {
                        (true, _) => {}
                        (false, true) => a.stop(),
                        (false, false) => drop(a.run(1)),
                    }
                    Ok(())
                })
            });
            app.wait_for_work("a", |a| a.is_up);
            app.wait_for_work("b", |b| b.is_up);
            let (a, b) = (app.work::<Model>("a"), app.work::<Model>("b"));
            let reply = app.block_on(async {
                let mut asked = pin!(a.ask(Predict(0, 1)).timeout(HOUR));
                assert!(asked.as_mut().now_or_never().is_none(), "it gathers for an hour");
                while a.waiting() > 0 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(b.ask(Look(0, 1)).await.expect("the Work answers"), 1);
                asked.await
            });
            assert_eq!(reply.expect("the Work answers"), Ok(2));
            match stops {
                true => drop(app.wait_for_work("a", |a| !a.is_up)),
                false => assert_eq!(app.wait_for_state("a.started", |run: &u32| *run > 0), 1),
            }
        }
    });
}

/// A message whose handler panics if one of the batch is true.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Explode(bool);

impl HandleBatch<Explode> for Model {
    type Reply = usize;

    fn batch(&self) -> Batch {
        Batch::of(2).within(HOUR)
    }

    async fn handle_batch(&mut self, batch: Vec<Explode>, _cx: &mut WorkContext<Self>) -> Vec<usize> {
        assert!(batch.iter().all(|Explode(is_bad)| !is_bad), "this batch explodes");
        vec![batch.len(); batch.len()]
    }
}

/// A handler that panics fails the Work and all callers of its batch; messages that wait behind it are handled by the next
/// incarnation.
#[test]
fn panic_of_a_batch_fails_its_callers_alone() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let restart = Restart::on_failure().max(1).backoff(Duration::ZERO..Duration::ZERO);
            one(WorkRef::new(Model::default()).placed(placement).restart(restart), |_, _| Ok(()))
        });
        let app = app.expect_panic("this batch explodes");
        app.wait_for_work("work", |work| work.is_up);
        let model = app.work::<Model>("work");
        let asked = [false, true, false, false].map(|is_bad| model.ask(Explode(is_bad)));
        let replies = app.block_on(join_all(asked));
        for reply in &replies[..2] {
            assert!(matches!(reply, Err(AskError::Failed { .. })), "{reply:?}");
        }
        let replies: Vec<_> =
            replies.into_iter().skip(2).map(|reply| reply.expect("it is handled")).collect();
        assert_eq!(replies, [2, 2]);
    });
}

/// Of a batch with too many replies, no caller gets one, and the Work goes on.
#[test]
fn wrong_number_of_replies_fails_the_callers() {
    wherever_it_runs(|placement| {
        let app = start(placement, 1, HOUR);
        let model = app.work::<Model>("work");
        let error = app.block_on(model.ask(Miscount)).expect_err("there are two replies");
        assert!(matches!(error, AskError::Failed { .. }), "{error}");
        assert_eq!(app.block_on(model.ask(Predict(0, 1))).expect("the Work answers"), Ok(2));
    });
}

/// Messages whose callers give up while the batch gathers are not handled.
#[test]
fn abandoned_messages_leave_the_batch() {
    wherever_it_runs(|placement| {
        let app = start(placement, 1000, HOUR);
        let model = app.work::<Model>("work");
        app.block_on(async {
            {
                let mut asked = pin!(model.ask(Predict(0, 1)));
                assert!(asked.as_mut().now_or_never().is_none(), "it gathers for an hour");
            }
            assert_eq!(model.ask(Look(0, 2)).await.expect("the Work answers"), 2);
        });
        assert_eq!(sizes(app), [1]);
    });
}

/// An operation of a sender: a message that is batched or not, an ask or a tell.
#[derive(Debug, Clone, Copy)]
struct Send {
    is_batched: bool,
    is_ask: bool,
}

fn schedule() -> impl Strategy<Value = (usize, u64, Vec<Vec<Send>>)> {
    let send = (any::<bool>(), any::<bool>()).prop_map(|(is_batched, is_ask)| Send { is_batched, is_ask });
    let senders = prop::collection::vec(prop::collection::vec(send, 0..30), 1..4);
    (1..9_usize, 0..3_u64, senders)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever several senders send, each message is handled once, those of one sender in order; batches have no more
    /// messages than they may, and each caller gets the reply to its own message.
    #[test]
    fn batches_keep_order_and_callers((most, within, senders) in schedule()) {
        let app = start(Placement::Pool, most, Duration::from_millis(within));
        let model = &app.work::<Model>("work");
        app.block_on(join_all(senders.iter().enumerate().map(|(sender, sends)| async move {
            let mut replies = Vec::new();
            for (send, number) in sends.iter().zip(0..) {
                let (batched, alone) = (Predict(sender, number), Look(sender, number));
                match send {
                    Send { is_batched: true, is_ask: false } => model.tell(batched).await.expect("it runs"),
                    Send { is_batched: false, is_ask: false } => model.tell(alone).await.expect("it runs"),
                    Send { is_batched, is_ask: true } => {
                        let reply = async move {
                            match is_batched {
                                true => model.ask(batched).await.expect("it answers"),
                                false => Ok(model.ask(alone).await.expect("it answers")),
                            }
                        };
                        // Sent now, and awaited later.
                        let mut reply = Box::pin(maybe_done(reply));
                        let _ = reply.as_mut().now_or_never();
                        replies.push((reply, if *is_batched { predict(number) } else { Ok(number) }));
                    }
                }
            }
            for (mut reply, expected) in replies {
                reply.as_mut().await;
                assert_eq!(reply.as_mut().take_output(), Some(expected));
            }
            // Whatever was told before is handled by now.
            model.ask(Look(sender, u32::MAX)).await.expect("it answers");
        })));
        let exit = app.stop();
        let handled: Vec<Vec<(usize, u32)>> = exit.state.get("work.handled").unwrap().decode().unwrap();
        prop_assert!(handled.iter().all(|batch| (1..=most).contains(&batch.len())), "{handled:?}");
        for (sender, sends) in senders.iter().enumerate() {
            let its = handled.iter().flatten().filter(|(from, _)| *from == sender).map(|(_, number)| *number);
            let sent = (0..sends.len() as u32).chain([u32::MAX]);
            prop_assert!(its.eq(sent), "sender {sender}: {handled:?}");
        }
    }
}
