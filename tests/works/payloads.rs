//! Large values that go from Work to Work by reference.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{PayloadError, Reason, Stage};

use crate::support::{Gated, go_on, one, two, wherever_it_runs};

type Table = Vec<Vec<i64>>;

/// Makes a table, and says where in memory it is.
#[derive(Default, Serialize, Deserialize)]
struct Maker {
    table: Option<Payload<Table>>,
    address: usize,
}

impl Work for Maker {
    type Input = i64;

    async fn run(&mut self, seed: i64, cx: &mut WorkContext<Self>) -> Result<()> {
        let payload = cx.payload(vec![vec![seed, 2, 3], vec![4, 5]])?;
        self.address = Arc::as_ptr(&payload.value().await?) as usize;
        self.table = Some(payload);
        Ok(())
    }
}

/// Reads tables, in both ways there are.
#[derive(Default, Serialize, Deserialize)]
struct Reader {
    first_numbers: Vec<i64>,
    address: usize,
}

impl Work for Reader {
    type Input = Payload<Table>;

    async fn run(&mut self, table: Payload<Table>, _cx: &mut WorkContext<Self>) -> Result<()> {
        assert_eq!(table.len(), 2);
        let value = table.value().await?;
        assert!(std::ptr::eq(&raw const **value, &raw const **table));
        self.address = Arc::as_ptr(&value) as usize;
        self.first_numbers.push(value[0][0]);
        Ok(())
    }
}

#[test]
fn a_work_reads_the_very_allocation_that_another_one_made() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let maker = WorkRef::from(Maker::default()).placed(placement);
            two(maker, WorkRef::from(Reader::default()).placed(placement), |a, b, cx| {
                let made = a.run(1).finished()?;
                let table = made.table.clone().expect("the run has made it");
                let read = b.run(table).finished()?;
                assert_eq!(read.first_numbers, [1]);
                assert_eq!(read.address, made.address);
                cx.stop("it was read");
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    });
}

#[test]
fn the_apps_state_has_a_small_reference_and_not_the_value() {
    #[derive(Default, Serialize, Deserialize)]
    struct Big {
        bytes: Option<Payload<Vec<u8>>>,
    }

    impl Work for Big {
        type Input = usize;

        async fn run(&mut self, size: usize, cx: &mut WorkContext<Self>) -> Result<()> {
            self.bytes = Some(cx.payload(vec![200; size])?);
            Ok(())
        }
    }

    let root = || {
        one(WorkRef::from(Big::default()), |work, cx| {
            let made = work.run(3_000_000).finished()?.bytes.as_ref().expect("the run has made it");
            assert!(made.encoded_len() >= 3_000_000);
            assert_eq!(made.origin(), "work");
            cx.stop("it was made");
            Ok(())
        })
    };
    let exit = TestApp::start_app(App::new(root).max_state_bytes(300)).wait_for_exit();
    exit.result.unwrap();
    assert!(exit.state.encoded_len() < 300, "{}", exit.state.encoded_len());
}

#[derive(Serialize, Children)]
struct TwoMakers {
    left: WorkRef<Maker>,
    right: WorkRef<Maker>,
    reader: WorkRef<Reader>,
}

impl Flow for TwoMakers {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let left = self.left.run(7).finished()?.table.clone().expect("made");
        let right = self.right.run(7).finished()?.table.clone().expect("made");
        self.reader.run(left).finished()?;
        self.reader.run(right).finished()?;
        let other = self.right.run(8).finished()?.table.clone().expect("made");
        self.reader.run(other).finished()?;
        assert_eq!(self.reader.first_numbers, [7, 8]);
        cx.stop("both contents were read");
        Ok(())
    }
}

#[test]
fn equal_content_is_the_same_input_whoever_made_it_and_new_content_is_a_new_one() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || TwoMakers {
            left: WorkRef::from(Maker::default()).placed(placement),
            right: WorkRef::from(Maker::default()).placed(placement),
            reader: WorkRef::from(Reader::default()).placed(placement),
        });
        app.wait_for_exit().result.unwrap();
    });
}

#[derive(Serialize, Children)]
struct FanOut {
    makers: BTreeMap<String, WorkRef<Maker>>,
    readers: BTreeMap<String, WorkRef<Reader>>,
}

impl Flow for FanOut {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        for (seed, maker) in (0..).zip(self.makers.values()) {
            maker.run(seed);
        }
        let mut done = true;
        for ((name, maker), reader) in self.makers.iter().zip(self.readers.values()) {
            let Some(table) = &maker.table else { return Ok(()) };
            assert_eq!(table.origin(), format!("makers.{name}"));
            done &= reader.run(table.clone()).finished().is_ok();
        }
        if done {
            for (seed, reader) in (0..).zip(self.readers.values()) {
                assert_eq!(reader.first_numbers, [seed]);
            }
            cx.stop("all were read");
        }
        Ok(())
    }
}

#[test]
fn payloads_in_fields_of_the_same_name_in_many_works_do_not_mix() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let names = || ["a", "b", "c", "d"].map(str::to_owned).into_iter();
            FanOut {
                makers: names().map(|n| (n, WorkRef::from(Maker::default()).placed(placement))).collect(),
                readers: names().map(|n| (n, WorkRef::from(Reader::default()).placed(placement))).collect(),
            }
        });
        app.wait_for_exit().result.unwrap();
    });
}

/// How many values of a type there are in memory.
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

    /// Waits until there are so many.
    fn wait_for(&self, count: usize) {
        let living = self.count.lock().unwrap();
        let limit = flowright::testing::DEFAULT_LIMIT;
        let (living, _) = self.changed.wait_timeout_while(living, limit, |living| *living != count).unwrap();
        assert_eq!(*living, count);
    }
}

/// Defines a value that counts how many of it live, so that each test has a count of its own.
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

/// Makes what the Keeper keeps.
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

/// Keeps a payload in its state until it is told to let go.
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
        let kept = self.keeps.as_ref().expect("it keeps one").value().await;
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
            let kept = maker.run(5).finished()?.kept.clone().expect("made");
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

/// Makes one checkpoint after another and shows the newest.
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
    // The other Work is running, so the Flow has reacted to all there was.
    app.wait_for_state("b.begun", |begun: &Vec<u32>| begun.len() == 1);
    assert_eq!(app.wait_for_state("a.made", |_: &u32| true), 20);
    LIVING_CHECKPOINTS.wait_for(1);
    go_on(&app, "b");
    app.wait_for_stage("b", Stage::Succeeded);
    app.stop().result.unwrap();
    LIVING_CHECKPOINTS.wait_for(0);
}

counted!(Queued, LIVING_QUEUED);

/// Sends itself nothing: it makes a payload that only the input of a run refers to.
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

/// Waits for its turn, then reads its input.
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
            // Look, so that the Flow's own view refers to it no more.
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

/// Reads a reference as something else than it was made from.
#[derive(Default, Serialize, Deserialize)]
struct Mistaken {
    told: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Way {
    Value,
    Deref,
}

impl Work for Mistaken {
    type Input = (Way, String);

    async fn run(&mut self, (way, reference): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        let payload: Payload<String> = serde_json::from_str(&reference)?;
        match way {
            Way::Value => {
                let value = payload.value().await;
                if let Err(PayloadError::WrongType { .. }) = &value {
                    self.told = "wrong type".into();
                }
                value?;
            }
            Way::Deref => drop(payload.len()),
        }
        Ok(())
    }
}

#[test]
fn a_payload_that_is_read_as_another_type_is_a_typed_error_that_names_both() {
    for way in [Way::Value, Way::Deref] {
        let app = TestApp::start(move || {
            two(WorkRef::from(Maker::default()), WorkRef::from(Mistaken::default()), move |a, b, _| {
                let table = a.run(1).finished()?.table.clone().expect("made");
                b.run((way, serde_json::to_string(&table)?));
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        let error = exit.result.unwrap_err().to_string();
        for part in ["work `b` failed", "Vec<Vec<i64>>", "made by work `a`", "String"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
    }
}

#[test]
fn a_reference_that_outlived_its_value_says_what_it_was() {
    let app = TestApp::start(|| {
        let mut reference = None;
        two(WorkRef::from(Maker::default()), WorkRef::from(Mistaken::default()), move |a, b, _| {
            if reference.is_none() {
                let table = a.run(1).finished()?.table.clone().expect("made");
                reference = Some(serde_json::to_string(&table)?);
            }
            assert!(a.run(2).finished()?.table.is_some());
            b.run((Way::Value, reference.clone().expect("kept above")));
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    let error = exit.result.unwrap_err().to_string();
    for part in ["is lost", "Vec<Vec<i64>>", "bytes, made by work `a`"] {
        assert!(error.contains(part), "no {part} in: {error}");
    }
    assert_eq!(exit.status.works["b"].status.reason, Some(Reason::PayloadLost));
}
