//! Streamed replies: order, backpressure, and the ways in which a stream ends.

use std::pin::pin;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{
    AskError, EndKind, Placement, Recipient, SendError, StreamError, StreamSendError, StreamSender, Streamed,
    StreamedReply,
};
use futures::future::join_all;
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::support::{one, wherever_it_runs};

/// A Work that sends streams.
#[derive(Default, Serialize, Deserialize)]
struct Source {
    /// Number of [`Numbers`] that were handled.
    handled: u32,
    #[serde(skip)]
    kept: Vec<StreamSender<u32>>,
}

/// The run of a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Task {
    Serve,
    /// Serve until the timeout of the run has passed.
    Overrun,
}

impl Work for Source {
    type Input = Task;

    async fn run(&mut self, _: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        cx.serve_forever(self).await?;
        Ok(())
    }
}

/// A question for the numbers below this.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Numbers(u32);

impl Handle<Numbers> for Source {
    type Reply = Streamed<u32>;

    async fn handle(&mut self, Numbers(below): Numbers, cx: &mut WorkContext<Self>) -> Streamed<u32> {
        self.handled += 1;
        cx.stream_of(futures::stream::iter(0..below))
    }
}

/// A question whose stream is sent by [`Deed`]s.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hold;

impl Handle<Hold> for Source {
    type Reply = Streamed<u32>;

    async fn handle(&mut self, _: Hold, cx: &mut WorkContext<Self>) -> Streamed<u32> {
        let (streamed, sender) = cx.stream();
        self.kept.push(sender);
        streamed
    }
}

/// A question whose handler sends the numbers below this before it returns.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Within(u32);

impl Handle<Within> for Source {
    type Reply = Streamed<u32>;

    async fn handle(&mut self, Within(below): Within, cx: &mut WorkContext<Self>) -> Streamed<u32> {
        let (streamed, mut sender) = cx.stream();
        for number in 0..below {
            if sender.send(number).await.is_err() {
                return streamed;
            }
        }
        sender.finish();
        streamed
    }
}

/// A question whose stream panics after three items.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bad;

impl Handle<Bad> for Source {
    type Reply = Streamed<u32>;

    async fn handle(&mut self, _: Bad, cx: &mut WorkContext<Self>) -> Streamed<u32> {
        cx.stream_of(
            futures::stream::iter(0..).map(|number| if number < 3 { number } else { panic!("no more") }),
        )
    }
}

/// A question whose handler reads a stream of its own Work.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OfItself;

impl Handle<OfItself> for Source {
    type Reply = bool;

    async fn handle(&mut self, _: OfItself, cx: &mut WorkContext<Self>) -> bool {
        let refused = cx.addr().stream(Numbers(1)).await;
        matches!(refused, Err(AskError::NotHandled(SendError::ToItself { .. })))
    }
}

/// An action with the oldest stream that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Deed {
    /// Send numbers from 0 on as long as there is room, but no more than this. The answer is how many were sent.
    Push(u32),
    Finish,
    Fail,
    Drop,
    Panic,
    /// The answer is the number of streams that nobody reads.
    Closed,
    /// The answer is the number of handled [`Numbers`].
    Handled,
}

impl Handle<Deed> for Source {
    type Reply = u32;

    async fn handle(&mut self, deed: Deed, _cx: &mut WorkContext<Self>) -> u32 {
        match deed {
            Deed::Push(most) => {
                return (0..most).take_while(|n| self.kept[0].try_send(*n).is_ok()).count() as u32;
            }
            Deed::Finish => self.kept.remove(0).finish(),
            Deed::Fail => self.kept.remove(0).fail("it is out of numbers"),
            Deed::Drop => drop(self.kept.remove(0)),
            Deed::Panic => std::panic::resume_unwind(Box::new("as it was told")),
            Deed::Closed => return self.kept.iter().filter(|sender| sender.is_closed()).count() as u32,
            Deed::Handled => return self.handled,
        }
        0
    }
}

fn start(placement: Placement) -> TestApp {
    let app = TestApp::start(move || {
        let restart = Restart::on_failure().max(1000).backoff(Duration::ZERO..Duration::ZERO);
        let work = WorkRef::new(Source::default()).placed(placement).restart(restart);
        one(work, |work, _| {
            work.run(Task::Serve);
            Ok(())
        })
    });
    app.wait_for_stage("work", Stage::Running);
    app
}

/// Reads to the end; returns the items, and the error of a stream that is not complete.
async fn read(mut stream: StreamedReply<u32>) -> (Vec<u32>, Option<StreamError>) {
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => items.push(item),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (items, Some(error));
            }
        }
    }
    (items, None)
}

/// All items arrive in order, whatever the window, from a task as from the handler itself, also by way of recipients.
#[test]
fn items_arrive_in_order() {
    wherever_it_runs(|placement| {
        let app = start(placement);
        let work = app.work::<Source>("work");
        app.block_on(async {
            for window in [1, 2, 3, 64, 5000] {
                let stream = work.stream(Numbers(1000)).window(window).await.expect("it is opened");
                let items: Vec<u32> = stream.try_collect().await.expect("it is complete");
                assert!(items.into_iter().eq(0..1000));
            }
            let stream = work.stream(Within(1000)).await.expect("it is opened");
            assert_eq!(stream.path().as_str(), "work");
            assert!(stream.try_collect::<Vec<u32>>().await.expect("it is complete").into_iter().eq(0..1000));

            let recipient: Recipient<Numbers, Streamed<u32>> = work.recipient();
            let stream = recipient.stream(Numbers(10)).window(1).await.expect("it is opened");
            assert_eq!(read(stream).await.0.len(), 10);
            Recipient::<Numbers>::from(work.clone()).ask(Numbers(10)).await.expect("it is handled");
        });
    });
}

/// A sender stops at the window of its reader, and goes on as that reads.
#[test]
fn sender_stops_at_the_window() {
    wherever_it_runs(|placement| {
        let app = start(placement);
        let work = app.work::<Source>("work");
        app.block_on(async {
            let mut stream = work.stream(Hold).window(8).await.expect("it is opened");
            assert_eq!(work.ask(Deed::Push(1000)).await.expect("it answers"), 8);
            assert_eq!(work.ask(Deed::Push(1000)).await.expect("it answers"), 0);
            for number in 0..8 {
                assert_eq!(stream.next().await.expect("there are 8").expect("it was sent"), number);
            }
            assert!(stream.next().now_or_never().is_none());
            assert_eq!(work.ask(Deed::Push(1000)).await.expect("it answers"), 8);
            work.ask(Deed::Finish).await.expect("it answers");
            let (items, error) = read(stream).await;
            assert!(items.into_iter().eq(0..8) && error.is_none(), "{error:?}");
        });
    });
}

/// The sender is told when its reader is dropped. Nobody reads the stream of a `tell`.
#[test]
fn sender_is_told_that_nobody_reads() {
    wherever_it_runs(|placement| {
        let app = start(placement);
        let work = app.work::<Source>("work");
        app.block_on(async {
            let stream = work.stream(Hold).await.expect("it is opened");
            assert_eq!(work.ask(Deed::Push(3)).await.expect("it answers"), 3);
            assert_eq!(work.ask(Deed::Closed).await.expect("it answers"), 0);
            drop(stream);
            assert_eq!(work.ask(Deed::Closed).await.expect("it answers"), 1);
            assert_eq!(work.ask(Deed::Push(3)).await.expect("it answers"), 0);
            work.tell(Hold).await.expect("it runs");
            assert_eq!(work.ask(Deed::Closed).await.expect("it answers"), 2);
            // A handler that sends waits no more either.
            let mut stream = work.stream(Within(u32::MAX)).window(1).await.expect("it is opened");
            assert_eq!(stream.next().await.expect("it goes on").expect("it goes on"), 0);
            drop(stream);
            assert_eq!(work.ask(Deed::Handled).await.expect("it answers"), 0);
        });
    });
}

/// A stream that is not finished ends with an error, which tells why, behind the items that were sent.
#[test]
fn unfinished_stream_ends_with_an_error() {
    wherever_it_runs(|placement| {
        let app = start(placement);
        let app = app.expect_panic("as it was told");
        let work = app.work::<Source>("work");
        app.block_on(async {
            for deed in [Deed::Fail, Deed::Drop, Deed::Panic] {
                let stream = work.stream(Hold).await.expect("it is opened");
                assert_eq!(work.ask(Deed::Push(3)).await.expect("it answers"), 3);
                let _ = work.ask(deed).await;
                let (items, error) = read(stream).await;
                assert_eq!(items, [0, 1, 2]);
                match (deed, error.expect("it is not complete")) {
                    (Deed::Fail, StreamError::Failed { why, path }) => {
                        assert_eq!((why.as_str(), path.as_str()), ("it is out of numbers", "work"));
                    }
                    (Deed::Drop, StreamError::Unfinished { .. }) => {}
                    (Deed::Panic, StreamError::Ended { end, .. }) => assert_eq!(end.kind, EndKind::Panicked),
                    (_, error) => panic!("{deed:?}: {error}"),
                }
            }
        });
        app.wait_for_stage("work", Stage::Running);
        app.block_on(async {
            let (items, error) = read(work.stream(Bad).await.expect("it runs")).await;
            assert_eq!(items, [0, 1, 2]);
            let error = error.expect("it is not complete").to_string();
            assert!(error.contains("no more"), "{error}");
        });
    });
}

/// The stream of an incarnation that stops, or is given up, ends with it.
#[test]
fn stream_ends_with_its_incarnation() {
    wherever_it_runs(|placement| {
        for overruns in [false, true] {
            let app = TestApp::start(move || {
                let mut work = WorkRef::new(Source::default()).placed(placement).on_error(OnError::Capture);
                if overruns {
                    work = work.timeout(Duration::from_millis(300));
                }
                one(work, move |work, _| {
                    if overruns && work.handled > 0 {
                        work.run(Task::Overrun);
                    }
                    if !overruns && work.handled > 0 {
                        work.stop();
                    }
                    Ok(())
                })
            });
            app.wait_for_work("work", |work| work.is_up);
            let work = app.work::<Source>("work");
            let (items, error) = app.block_on(async {
                let stream = work.stream(Hold).await.expect("it is opened");
                assert_eq!(work.ask(Deed::Push(2)).await.expect("it answers"), 2);
                work.tell(Publish).await.expect("it runs");
                read(stream).await
            });
            assert_eq!(items, [0, 1]);
            match error.expect("it is not complete") {
                StreamError::Ended { end, .. } => {
                    assert_eq!(end.kind, if overruns { EndKind::Killed } else { EndKind::Stopped }, "{end}");
                }
                error => panic!("{error}"),
            }
        }
    });
}

/// A message whose handler publishes that one was handled.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Publish;

impl Handle<Publish> for Source {
    type Reply = ();

    async fn handle(&mut self, _: Publish, cx: &mut WorkContext<Self>) {
        self.handled += 1;
        cx.publish(self);
    }
}

/// A question for a stream that is given up before its handler begins is not handled.
#[test]
fn abandoned_question_opens_no_stream() {
    wherever_it_runs(|placement| {
        let app = start(placement);
        let work = app.work::<Source>("work");
        app.block_on(async {
            // Its handler waits for the reader.
            let mut first = work.stream(Within(2)).window(1).await.expect("it is opened");
            {
                let mut second = pin!(work.stream(Numbers(1)));
                assert!(second.as_mut().now_or_never().is_none());
                assert!(second.as_mut().now_or_never().is_none());
            }
            assert_eq!(first.next().await.expect("there are two").expect("it was sent"), 0);
            assert_eq!(work.ask(Deed::Handled).await.expect("it answers"), 0);
        });
    });
}

/// Many streams of one Work do not hinder each other.
#[test]
fn many_streams_are_sent_at_once() {
    wherever_it_runs(|placement| {
        let app = start(placement);
        let work = app.work::<Source>("work");
        app.block_on(async {
            let idle = work.stream(Numbers(1000)).await.expect("it is opened");
            let streams = (1..=100).map(|number| {
                let work = &work;
                async move {
                    let stream =
                        work.stream(Numbers(100 + number)).window(number).await.expect("it is opened");
                    let (items, error) = read(stream).await;
                    assert!(items.into_iter().eq(0..100 + number) && error.is_none(), "{error:?}");
                }
            });
            join_all(streams).await;
            assert_eq!(read(idle).await.0.len(), 1000);
        });
    });
}

/// A handler cannot read a stream of its own Work, and is told so.
#[test]
fn stream_of_itself_is_refused() {
    wherever_it_runs(|placement| {
        let app = start(placement);
        assert!(app.block_on(app.work::<Source>("work").ask(OfItself)).expect("it answers"));
    });
}

/// An item that is refused comes back.
#[test]
fn refused_item_comes_back() {
    /// A Work that counts the items that come back.
    #[derive(Default, Serialize, Deserialize)]
    struct Pusher;

    impl Work for Pusher {
        type Input = ();
    }

    impl Handle<Hold> for Pusher {
        type Reply = Streamed<u32>;

        async fn handle(&mut self, _: Hold, cx: &mut WorkContext<Self>) -> Streamed<u32> {
            let (streamed, mut sender) = cx.stream();
            assert!(sender.try_send(1).is_ok());
            let full = sender.try_send(2).expect_err("the window is one item");
            assert!(matches!(full, StreamSendError::Full { window: 1, .. }), "{full}");
            assert_eq!(full.into_item(), Some(2));
            let (_, mut second) = cx.stream();
            let closed = second.send(3).await.expect_err("nobody reads a second stream");
            assert!(matches!(closed, StreamSendError::Closed(_)), "{closed}");
            assert_eq!(closed.into_item(), Some(3));
            sender.finish();
            streamed
        }
    }

    impl Handle<Publish> for Pusher {
        type Reply = ();

        async fn handle(&mut self, _: Publish, _cx: &mut WorkContext<Self>) {}
    }

    wherever_it_runs(|placement| {
        let app = TestApp::start(move || one(WorkRef::new(Pusher).placed(placement), |_, _| Ok(())));
        app.wait_for_work("work", |work| work.is_up);
        let work = app.work::<Pusher>("work");
        app.block_on(async {
            let stream = work.stream(Hold).window(1).await.expect("it is opened");
            // Read only when the handler has returned.
            work.ask(Publish).await.expect("it answers");
            assert_eq!(read(stream).await.0, [1]);
        });
    });
}
