//! Lifetime of values: as long as anything refers to them, and no longer.

use std::sync::{Arc, Condvar, Mutex};

use flowright::Stage;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::support::{Gated, go_on, two};

/// The number of values of a type in memory.
struct Living {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Living {
    const fn new() -> Self {
        Self { count: Mutex::new(0), changed: Condvar::new() }
    }

    fn add(&self) {
        *self.count.lock().unwrap() += 1;
    }

    fn remove(&self) {
        *self.count.lock().unwrap() -= 1;
        self.changed.notify_all();
    }

    fn now(&self) -> usize {
        *self.count.lock().unwrap()
    }

    /// Waits until there are `count` values.
    fn wait_for(&self, count: usize) {
        let living = self.count.lock().unwrap();
        let limit = flowright::testing::DEFAULT_LIMIT;
        let (living, _) = self.changed.wait_timeout_while(living, limit, |living| *living != count).unwrap();
        assert_eq!(*living, count);
    }
}

/// Defines a type of values that counts its live values, so that each test has a counter of its own.
macro_rules! counted {
    ($name:ident, $living:ident) => {
        static $living: Living = Living::new();

        #[derive(Serialize, Deserialize)]
        struct $name(u32);

        impl $name {
            fn new(number: u32) -> Self {
                $living.add();
                Self(number)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                $living.remove();
            }
        }
    };
}

counted!(Kept, LIVING_KEPT);

/// A Work that makes the value that the Keeper keeps.
#[derive(Default, Serialize, Deserialize)]
struct KeptMaker {
    kept: Option<Payload<Kept>>,
}

impl Work for KeptMaker {
    type Input = u32;

    async fn run(&mut self, number: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.kept = Some(cx.payload(Kept::new(number))?);
        Ok(())
    }
}

/// A Work that keeps a payload in its state until it gets a message to drop it.
#[derive(Default, Serialize, Deserialize)]
struct Keeper {
    keeps: Option<Payload<Kept>>,
    is_empty: bool,
}

impl Work for Keeper {
    type Input = Payload<Kept>;

    async fn run(&mut self, payload: Payload<Kept>, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.keeps = Some(payload);
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Read;

impl Handle<Read> for Keeper {
    type Reply = u32;

    async fn handle(&mut self, Read: Read, _cx: &mut WorkContext<Self>) -> u32 {
        let kept = self.keeps.as_ref().expect("the Work keeps a payload").value().await;
        kept.map_or_else(|error| panic!("{error}"), |kept| kept.0)
    }
}

#[derive(Serialize, Deserialize)]
struct LetGo;

impl Handle<LetGo> for Keeper {
    type Reply = ();

    async fn handle(&mut self, LetGo: LetGo, cx: &mut WorkContext<Self>) {
        self.keeps = None;
        self.is_empty = true;
        cx.publish(self);
    }
}

#[derive(Default, Serialize, Children)]
struct MakerGoes {
    maker: Option<WorkRef<KeptMaker>>,
    keeper: WorkRef<Keeper>,
}

impl Flow for MakerGoes {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        if let Some(maker) = &self.maker {
            let kept = maker.run(5).finished()?.kept.clone().expect("the value was made");
            self.keeper.run(kept).finished()?;
            self.maker = None;
        }
        assert!(self.keeper.keeps.is_some() != self.keeper.is_empty);
        Ok(())
    }
}

#[test]
fn a_value_outlives_its_maker_while_it_is_referred_to_and_is_freed_after() {
    let app = TestApp::start(|| MakerGoes { maker: Some(WorkRef::default()), ..MakerGoes::default() });
    app.wait_for_stage("keeper", Stage::Succeeded);
    app.wait_for_state("maker", |maker: &Option<()>| maker.is_none());
    let keeper = app.work::<Keeper>("keeper");
    assert_eq!(app.block_on(keeper.ask(Read)).unwrap(), 5);
    assert_eq!(LIVING_KEPT.now(), 1);
    app.block_on(keeper.ask(LetGo)).unwrap();
    app.wait_for_state("keeper.is_empty", |is_empty| *is_empty);
    LIVING_KEPT.wait_for(0);
    app.stop().result.unwrap();
}

counted!(Checkpoint, LIVING_CHECKPOINTS);

/// A Work that makes one checkpoint after another and publishes the newest.
#[derive(Default, Serialize, Deserialize)]
struct Trainer {
    newest: Option<Payload<Checkpoint>>,
    made: u32,
}

impl Work for Trainer {
    type Input = u32;

    async fn run(&mut self, number: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.newest = Some(cx.payload(Checkpoint::new(number))?);
        self.made += 1;
        Ok(())
    }
}

#[test]
fn values_that_were_replaced_are_freed_although_the_flow_has_looked_at_them() {
    let app = TestApp::start(|| {
        two(WorkRef::from(Trainer::default()), WorkRef::from(Gated::default()), |a, b, _| {
            for number in 0..20 {
                a.run(number).finished()?;
                assert!(a.newest.is_some());
            }
            b.run(0);
            Ok(())
        })
    });
    // The other Work is running, so the Flow has reacted to all earlier changes.
    app.wait_for_state("b.begun", |begun: &Vec<u32>| begun.len() == 1);
    assert_eq!(app.wait_for_state("a.made", |_: &u32| true), 20);
    LIVING_CHECKPOINTS.wait_for(1);
    go_on(&app, "b");
    app.wait_for_stage("b", Stage::Succeeded);
    app.stop().result.unwrap();
    LIVING_CHECKPOINTS.wait_for(0);
}

counted!(Queued, LIVING_QUEUED);

/// A Work that makes a payload to which only the input of a run refers.
#[derive(Default, Serialize, Deserialize)]
struct Passes {
    passing: Option<Payload<Queued>>,
}

impl Work for Passes {
    type Input = bool;

    async fn run(&mut self, make: bool, cx: &mut WorkContext<Self>) -> Result<()> {
        self.passing = if make { Some(cx.payload(Queued::new(3))?) } else { None };
        Ok(())
    }
}

/// A Work that waits for a message, then reads its input.
#[derive(Default, Serialize, Deserialize)]
struct ReadsLater {
    at_work: bool,
    read: Vec<u32>,
    #[serde(skip)]
    gate: Arc<tokio::sync::Notify>,
}

impl Work for ReadsLater {
    type Input = Option<Payload<Queued>>;

    async fn run(&mut self, input: Self::Input, cx: &mut WorkContext<Self>) -> Result<()> {
        match input {
            None => {
                self.at_work = true;
                cx.publish(self);
                let gate = self.gate.clone();
                cx.serve(self, async move { gate.notified().await }).await?;
            }
            Some(payload) => self.read.push(payload.value().await?.0),
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Open;

impl Handle<Open> for ReadsLater {
    type Reply = ();

    async fn handle(&mut self, Open: Open, _cx: &mut WorkContext<Self>) {
        self.gate.notify_one();
    }
}

#[test]
fn a_value_lives_while_only_a_waiting_run_refers_to_it() {
    let app = TestApp::start(|| {
        let mut passed = false;
        two(WorkRef::from(Passes::default()), WorkRef::from(ReadsLater::default()), move |a, b, _| {
            b.run(None);
            a.run(true).finished()?;
            if !passed {
                passed = true;
                b.run(a.passing.clone());
            }
            a.run(false).finished()?;
            // Reading the field refreshes the Flow's view, which then has no reference any more.
            assert!(a.passing.is_none());
            Ok(())
        })
    });
    app.wait_for_work("a", |work| work.successes == 2);
    app.wait_for_state("b.at_work", |at_work| *at_work);
    assert_eq!(LIVING_QUEUED.now(), 1);
    app.block_on(app.work::<ReadsLater>("b").ask(Open)).unwrap();
    assert_eq!(app.wait_for_state("b.read", |read: &Vec<u32>| read.len() == 1), [3]);
    LIVING_QUEUED.wait_for(0);
    app.stop().result.unwrap();
}
