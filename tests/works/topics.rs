//! Topics between Works of one process.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Backlog, Batch, HandleBatch, Overflow, Subscription, Topic, TopicError};

use crate::support::{one, wherever_it_runs};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Price(u32);

/// A Work that subscribes when it starts, and counts.
#[derive(Default, Serialize, Deserialize)]
struct Reader {
    bound: usize,
    drops_newest: bool,
    is_subscribed: bool,
    received: Vec<u32>,
    starts: u32,
    #[serde(skip)]
    subscription: Option<Subscription>,
}

impl Reader {
    fn with(bound: usize, drops_newest: bool) -> WorkRef<Self> {
        WorkRef::from(Self { bound, drops_newest, ..Self::default() })
    }
}

impl Work for Reader {
    type Input = ();

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.starts += 1;
        let prices = cx.topic::<Price>("prices").await?;
        let overflow = if self.drops_newest { Overflow::DropNewest } else { Overflow::DropOldest };
        let backlog = Backlog::of(self.bound).on_overflow(overflow);
        self.subscription = Some(cx.subscribe(&prices, backlog).await?);
        self.is_subscribed = true;
        Ok(())
    }
}

impl Handle<Price> for Reader {
    type Reply = ();

    async fn handle(&mut self, Price(number): Price, cx: &mut WorkContext<Self>) {
        self.received.push(number);
        cx.publish(self);
    }
}

/// An order for a [`Reader`].
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Publish the numbers below this from within a handler, so that no message is handled meanwhile.
    Publish(u32),
    Cancel,
    Fail,
    /// Answer whether the subscription is over.
    IsOver,
}

impl Handle<Order> for Reader {
    type Reply = bool;

    async fn handle(&mut self, order: Order, cx: &mut WorkContext<Self>) -> bool {
        let subscription = self.subscription.as_ref().expect("it has subscribed");
        match order {
            Order::Publish(numbers) => {
                let prices = cx.topic("prices").await.expect("it is open");
                (0..numbers).for_each(|number| prices.publish(Price(number)).expect("it is published"));
            }
            Order::Cancel => subscription.cancel(),
            Order::Fail => panic!("it fails"),
            Order::IsOver => {}
        }
        subscription.is_over()
    }
}

#[derive(Serialize, Children)]
struct Market {
    a: WorkRef<Reader>,
    b: WorkRef<Reader>,
}

impl Flow for Market {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

fn market(a: WorkRef<Reader>, b: WorkRef<Reader>, placement: Placement) -> TestApp {
    let (a, b) = (a.placed(placement), b.placed(placement));
    let b = b.restart(Restart::on_failure().max(3).backoff(Duration::ZERO..Duration::ZERO));
    let app = TestApp::start(move || Market { a, b }).expect_panic("it fails");
    for path in ["a", "b"] {
        app.wait_for_state(&format!("{path}.is_subscribed"), |is_subscribed: &bool| *is_subscribed);
    }
    app
}

fn prices(app: &TestApp) -> Topic<Price> {
    app.block_on(app.control().topic("prices")).expect("the topic has prices")
}

/// Each subscriber gets all messages in order, and its backlog alone decides what it loses: the policy says whether the
/// oldest or the newest.
#[test]
fn subscribers_get_what_their_backlogs_keep() {
    wherever_it_runs(|placement| {
        let app = market(Reader::with(1000, false), Reader::with(3, true), placement);
        let a = app.work::<Reader>("a");
        // All are published while `a` handles another message; `b` may handle some meanwhile.
        app.block_on(a.ask(Order::Publish(100))).expect("it answers");
        let received = app.wait_for_state("a.received", |received: &Vec<u32>| received.len() == 100);
        assert!(received.iter().copied().eq(0..100));
        let received = app.wait_for_state("b.received", |received: &Vec<u32>| received.len() >= 3);
        assert!(received.is_sorted() && received[..3] == [0, 1, 2], "{received:?}");

        let app = market(Reader::with(3, true), Reader::with(1, false), placement);
        let a = app.work::<Reader>("a");
        app.block_on(a.ask(Order::Publish(100))).expect("it answers");
        app.wait_for_state("a.received", |received: &Vec<u32>| *received == [0, 1, 2]);
        app.wait_for_state("b.received", |received: &Vec<u32>| received.last() == Some(&99));
    });
}

/// A subscription ends when it is cancelled: what waits is dropped, and a program's messages reach the others.
#[test]
fn cancelled_subscription_gets_nothing_more() {
    wherever_it_runs(|placement| {
        let app = market(Reader::with(64, false), Reader::with(64, false), placement);
        let (a, prices) = (app.work::<Reader>("a"), prices(&app));
        prices.publish(Price(1)).expect("it is published");
        app.wait_for_state("a.received", |received: &Vec<u32>| *received == [1]);
        assert!(app.block_on(a.ask(Order::Cancel)).expect("it answers"));
        prices.publish(Price(2)).expect("it is published");
        app.wait_for_state("b.received", |received: &Vec<u32>| *received == [1, 2]);
        assert!(app.block_on(a.ask(Order::IsOver)).expect("it answers"));
        app.wait_for_state("a.received", |received: &Vec<u32>| *received == [1]);
    });
}

/// A subscription ends with its incarnation, and the next one subscribes for itself: nothing comes twice.
#[test]
fn subscription_ends_with_its_incarnation() {
    wherever_it_runs(|placement| {
        let app = market(Reader::with(64, false), Reader::with(64, false), placement);
        let (b, prices) = (app.work::<Reader>("b"), prices(&app));
        for life in 2..4_u32 {
            app.block_on(b.ask(Order::Fail)).expect_err("it panics");
            app.wait_for_state("b.starts", |starts: &u32| *starts == life);
            assert!(!app.block_on(b.ask(Order::IsOver)).expect("it answers"));
            prices.publish(Price(life)).expect("it is published");
            app.wait_for_state("b.received", |received: &Vec<u32>| received.last() == Some(&life));
        }
        app.wait_for_state("b.received", |received: &Vec<u32>| *received == [2, 3]);
        app.wait_for_state("a.received", |received: &Vec<u32>| *received == [2, 3]);
    });
}

/// A topic has one type of messages as long as anything uses it; the error names both types.
#[test]
fn topic_of_another_type_is_an_error() {
    wherever_it_runs(|placement| {
        let app = market(Reader::with(64, false), Reader::with(64, false), placement);
        let control = app.control();
        let error = app.block_on(control.topic::<String>("prices")).expect_err("it has prices");
        let text = error.to_string();
        assert!(text.contains("::Price` and not `alloc::string::String`"), "{text}");
        assert!(matches!(error, TopicError::OtherType { .. }));
        let words = app.block_on(control.topic::<String>("words")).expect("nobody uses it");
        app.block_on(control.topic::<Price>("words")).expect_err("it has texts");
        drop(words);
        app.block_on(control.topic::<Price>("words")).expect("nobody uses it any more");
        let error = app.block_on(control.topic::<Price>("no name")).expect_err("that is no name");
        assert!(matches!(error, TopicError::Name { .. }));
    });
}

/// A Work that handles prices in batches.
#[derive(Default, Serialize, Deserialize)]
struct Batcher {
    batches: Vec<usize>,
    sum: u32,
}

impl Work for Batcher {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        let prices = cx.topic("prices").await?;
        cx.subscribe(&prices, Backlog::of(100)).await?;
        // No message is handled before all are published.
        (1..=100).try_for_each(|number| prices.publish(Price(number)))?;
        cx.serve_forever(self).await?;
        Ok(())
    }
}

impl HandleBatch<Price> for Batcher {
    type Reply = ();

    fn batch(&self) -> Batch {
        Batch::of(32)
    }

    async fn handle_batch(&mut self, prices: Vec<Price>, cx: &mut WorkContext<Self>) -> Vec<()> {
        self.batches.push(prices.len());
        self.sum += prices.iter().map(|price| price.0).sum::<u32>();
        cx.publish(self);
        prices.iter().map(|_| ()).collect()
    }
}

/// A handler of batches gets the messages of a topic in batches.
#[test]
fn messages_of_a_topic_come_in_batches() {
    wherever_it_runs(|placement| {
        let work = WorkRef::from(Batcher::default()).placed(placement);
        let app = TestApp::start(move || {
            one(work, |work, _| {
                work.run(());
                Ok(())
            })
        });
        app.wait_for_state("work.sum", |sum: &u32| *sum == 5050);
        let batches = app.wait_for_state("work.batches", |_: &Vec<usize>| true);
        assert!(batches.len() < 10 && batches.iter().all(|size| *size <= 32), "{batches:?}");
    });
}
