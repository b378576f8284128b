//! Flowright: Works on threads of their own, or several on the single thread of a pool.
//!
//! `tell` waits for room, in mailboxes of the default capacity. Data shared by the two sides of a case is in statics,
//! because a Work is created from its serialised state, wherever it runs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use flowright::prelude::*;
use flowright::{AppHandle, Children};
use tokio::sync::{Notify, oneshot};

use crate::support::{Finish, Growth, Spawned, Tally, WARM_UP, current_thread, median, ns_each};

pub fn run(measure: &str, n: u64) -> Option<f64> {
    match measure {
        "tell-other-thread" => Some(pair::<Tell>(Placement::Thread, n)),
        "tell-same-thread" => Some(pair::<Tell>(Placement::Pool, n)),
        "ask-same-thread" => Some(pair::<Ask>(Placement::Pool, n)),
        "ask-other-thread" => Some(pair::<Ask>(Placement::Thread, n)),
        "spawn" | "bytes-per-idle-actor" => spawn(n).figure(measure),
        "bytes-per-remembered-run" => Some(remembered_runs(n)),
        "publish-react" => Some(latency::<Stamped>(n)),
        "publish-react-run" => Some(publish_react_run(n)),
        "publish-react-map-10" => Some(latency::<Map<10>>(n)),
        "publish-react-map-10000" => Some(latency::<Map<10_000>>(n)),
        "publish-field" => Some(cost::<Five>(n)),
        "publish-map-10" => Some(cost::<Map<10>>(n)),
        "publish-map-10000" => Some(cost::<Map<10_000>>(n)),
        "idle-1000" => Some(idle(n).0),
        "idle-1000-reactions" => Some(idle(n).1),
        _ => None,
    }
}

/// Sender of the figure, for whichever thread computes it.
static FIGURE: Mutex<Option<oneshot::Sender<f64>>> = Mutex::new(None);

fn report(figure: f64) {
    if let Some(waiting) = FIGURE.lock().expect("no panic").take() {
        let _ = waiting.send(figure);
    }
}

/// Runs an App until a part of it reports the figure.
fn figure_of<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> f64 {
    let (figure, reported) = oneshot::channel();
    *FIGURE.lock().expect("no panic") = Some(figure);
    current_thread().block_on(async {
        let _app = start(make).await;
        reported.await.expect("the case reports")
    })
}

async fn start<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> AppHandle {
    App::new(make).pool_threads(1).spawn().await.expect("the App starts")
}

// ---- tell and ask ----

#[derive(Default, Serialize, Deserialize)]
struct Sink {
    #[serde(skip)]
    sum: u64,
    #[serde(skip)]
    finish: Option<Finish>,
}

static FINISH: Mutex<Option<Finish>> = Mutex::new(None);

impl Work for Sink {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Tell(u64);

impl Handle<Tell> for Sink {
    type Reply = ();

    async fn handle(&mut self, Tell(value): Tell, _: &mut WorkContext<Self>) {
        self.sum = black_box(self.sum.wrapping_add(value));
        if let Some(finish) = &mut self.finish {
            finish.one();
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Ask(u64);

impl Handle<Ask> for Sink {
    type Reply = u64;

    async fn handle(&mut self, Ask(value): Ask, _: &mut WorkContext<Self>) -> u64 {
        value + 1
    }
}

/// An operation that one Work performs on another `n` times; returns the nanoseconds per operation.
trait Exchange: 'static {
    async fn exchange(sink: WorkAddr<Sink>, n: u64) -> Result<f64>;
}

impl Exchange for Tell {
    async fn exchange(sink: WorkAddr<Sink>, n: u64) -> Result<f64> {
        let (finish, done) = Finish::after(n);
        *FINISH.lock().expect("no panic") = Some(finish);
        sink.ask(Fetch).await?;
        let start = Instant::now();
        for value in 0..n {
            sink.tell(Tell(value)).await.map_err(|_| Error::msg("the sink has gone"))?;
        }
        Ok(ns_each(start, done.await?, n))
    }
}

/// Makes the sink take the counter that was left in `FINISH`.
#[derive(Serialize, Deserialize)]
struct Fetch;

impl Handle<Fetch> for Sink {
    type Reply = ();

    async fn handle(&mut self, _: Fetch, _: &mut WorkContext<Self>) {
        self.finish = FINISH.lock().expect("no panic").take();
    }
}

impl Exchange for Ask {
    async fn exchange(sink: WorkAddr<Sink>, n: u64) -> Result<f64> {
        let mut start = Instant::now();
        for value in 0..WARM_UP + n {
            if value == WARM_UP {
                start = Instant::now();
            }
            let answer = sink.ask(Ask(value)).await.map_err(|_| Error::msg("no answer"))?;
            assert_eq!(answer, value + 1);
        }
        Ok(ns_each(start, Instant::now(), n))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Source<E> {
    #[serde(skip)]
    exchange: std::marker::PhantomData<E>,
}

impl<E: Exchange> Work for Source<E> {
    type Input = (WorkAddr<Sink>, u64);

    async fn run(&mut self, (sink, n): Self::Input, _: &mut WorkContext<Self>) -> Result<()> {
        report(E::exchange(sink, n).await?);
        Ok(())
    }
}

#[derive(Serialize, Children)]
#[serde(bound = "")]
struct Pair<E: Exchange> {
    source: WorkRef<Source<E>>,
    sink: WorkRef<Sink>,
    n: u64,
}

impl<E: Exchange> Flow for Pair<E> {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.source.run((self.sink.addr(), self.n));
        Ok(())
    }
}

fn pair<E: Exchange>(placement: Placement, n: u64) -> f64 {
    figure_of(move || Pair::<E> {
        source: WorkRef::new(Source { exchange: std::marker::PhantomData }).placed(placement),
        sink: WorkRef::new(Sink::default()).placed(placement),
        n,
    })
}

// ---- spawn ----

static TALLY: OnceLock<Arc<Tally>> = OnceLock::new();
static BEGAN: OnceLock<Instant> = OnceLock::new();

#[derive(Default, Serialize, Deserialize)]
struct One;

impl Work for One {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

impl Handle<Tell> for One {
    type Reply = ();

    async fn handle(&mut self, Tell(value): Tell, _: &mut WorkContext<Self>) {
        black_box(value);
        TALLY.get().expect("set first").one();
    }
}

/// Creates its Works in the first reaction, and sends a message to each in the next one.
#[derive(Serialize, Children)]
struct Many {
    works: Vec<WorkRef<One>>,
    n: u64,
    told: bool,
}

impl Flow for Many {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        if self.works.is_empty() {
            BEGAN.get_or_init(Instant::now);
            self.works.extend((0..self.n).map(|_| WorkRef::new(One).placed(Placement::Pool)));
        } else if !self.told {
            self.told = true;
            for (value, work) in self.works.iter().enumerate() {
                work.try_tell(Tell(value as u64)).map_err(|_| Error::msg("the mailbox is full"))?;
            }
        }
        Ok(())
    }
}

fn spawn(n: u64) -> Spawned {
    let (tally, done) = Tally::after(n);
    assert!(TALLY.set(tally).is_ok());
    current_thread().block_on(async move {
        let growth = Growth::start();
        let app = start(move || Many { works: Vec::new(), n, told: false }).await;
        let end = done.await.expect("the Works live");
        let ns = ns_each(*BEGAN.get().expect("it has reacted"), end, n);
        // The driver answers a query after it has processed the reports of all starts.
        app.control().status().await.expect("the App runs");
        let bytes = growth.bytes_each(n);
        Spawned { ns, bytes }
    })
}

// ---- remembered runs ----

impl Work for Numbered {
    type Input = u64;

    async fn run(&mut self, _: u64, _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Numbered;

/// Runs one input after the other. The first runs fill everything of bounded size, such as the list of recent
/// attempts and buffers.
#[derive(Serialize, Children)]
struct Remembering {
    work: WorkRef<Numbered>,
    next: u64,
    n: u64,
    #[serde(skip)]
    growth: Option<Growth>,
}

const FIRST_RUNS: u64 = 1_000;

impl Flow for Remembering {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        while self.next < FIRST_RUNS + self.n {
            self.work.run(self.next).finished()?;
            self.next += 1;
            if self.next == FIRST_RUNS {
                self.growth = Some(Growth::start());
            }
        }
        if let Some(growth) = self.growth.take() {
            report(growth.bytes_each(self.n));
        }
        Ok(())
    }
}

fn remembered_runs(n: u64) -> f64 {
    let work = || WorkRef::new(Numbered).placed(Placement::Pool);
    figure_of(move || Remembering { work: work(), next: 0, n, growth: None })
}

// ---- publish ----

/// Notified when a publish was seen.
static SEEN: Notify = Notify::const_new();
static LATENCIES: Mutex<Vec<f64>> = Mutex::new(Vec::new());

fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

fn note_latency(stamp: u64) {
    let took = now_ns() - stamp;
    LATENCIES.lock().expect("no panic").push(took as f64);
    SEEN.notify_one();
}

/// A state of which one field changes.
trait Changing: Serialize + for<'a> Deserialize<'a> + 'static {
    fn new() -> Self;
    fn change(&mut self, round: u64, stamp: u64);
    fn stamp(&self) -> u64;
}

#[derive(Serialize, Deserialize)]
struct Stamped {
    stamp: u64,
}

impl Changing for Stamped {
    fn new() -> Self {
        Self { stamp: 0 }
    }

    fn change(&mut self, _: u64, stamp: u64) {
        self.stamp = stamp;
    }

    fn stamp(&self) -> u64 {
        self.stamp
    }
}

#[derive(Serialize, Deserialize)]
struct Five {
    name: String,
    epoch: u32,
    loss: f64,
    best: Option<f64>,
    step: u64,
}

impl Changing for Five {
    fn new() -> Self {
        Self { name: "a training run".to_owned(), epoch: 3, loss: 0.5, best: Some(0.25), step: 0 }
    }

    fn change(&mut self, round: u64, _: u64) {
        self.step = round;
    }

    fn stamp(&self) -> u64 {
        self.step
    }
}

#[derive(Serialize, Deserialize)]
struct Map<const N: usize> {
    map: BTreeMap<String, u64>,
}

impl<const N: usize> Changing for Map<N> {
    fn new() -> Self {
        Self { map: (0..N).map(|key| (format!("key-{key:05}"), 0)).collect() }
    }

    fn change(&mut self, _: u64, stamp: u64) {
        *self.map.get_mut("key-00005").expect("there are ten") = stamp;
    }

    fn stamp(&self) -> u64 {
        self.map["key-00005"]
    }
}

#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Publisher<C: Changing> {
    state: C,
}

/// The operation that a run of the publisher repeats `n` times.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Task {
    /// Publishes, and waits until the publish was seen.
    Latency { n: u64 },
    /// Publishes without waiting.
    Cost { n: u64 },
}

impl<C: Changing> Work for Publisher<C> {
    type Input = Task;

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        match task {
            Task::Latency { n } => {
                for round in 1..=n {
                    // Give the Flow's thread time to go to sleep after it has woken this one.
                    std::thread::sleep(Duration::from_micros(50));
                    self.state.change(round, now_ns());
                    cx.publish(self);
                    SEEN.notified().await;
                }
                report(median(&mut LATENCIES.lock().expect("no panic")));
            }
            Task::Cost { n } => {
                let start = Instant::now();
                for round in 1..=n {
                    self.state.change(round, round);
                    cx.publish(self);
                }
                report(ns_each(start, Instant::now(), n));
            }
        }
        Ok(())
    }
}

#[derive(Serialize, Children)]
#[serde(bound = "")]
struct Watch<C: Changing> {
    publisher: WorkRef<Publisher<C>>,
    #[serde(skip)]
    task: Task,
    #[serde(skip)]
    last: u64,
}

impl<C: Changing> Flow for Watch<C> {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.publisher.run(self.task);
        let stamp = self.publisher.state.stamp();
        if stamp != self.last {
            self.last = stamp;
            if matches!(self.task, Task::Latency { .. }) {
                note_latency(stamp);
            }
        }
        Ok(())
    }
}

fn watch<C: Changing>(task: Task) -> f64 {
    figure_of(move || Watch::<C> { publisher: WorkRef::new(Publisher { state: C::new() }), task, last: 0 })
}

fn latency<C: Changing>(n: u64) -> f64 {
    watch::<C>(Task::Latency { n })
}

fn cost<C: Changing>(n: u64) -> f64 {
    watch::<C>(Task::Cost { n })
}

#[derive(Default, Serialize, Deserialize)]
struct Runner;

impl Work for Runner {
    type Input = u64;

    async fn run(&mut self, stamp: u64, _: &mut WorkContext<Self>) -> Result<()> {
        note_latency(stamp);
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Chain {
    publisher: WorkRef<Publisher<Stamped>>,
    runner: WorkRef<Runner>,
    #[serde(skip)]
    n: u64,
}

impl Flow for Chain {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        self.publisher.run(Task::Latency { n: self.n });
        if self.publisher.state.stamp != 0 {
            self.runner.run(self.publisher.state.stamp);
        }
        Ok(())
    }
}

fn publish_react_run(n: u64) -> f64 {
    figure_of(move || Chain {
        publisher: WorkRef::new(Publisher { state: Stamped::new() }),
        runner: WorkRef::default(),
        n,
    })
}

// ---- idle ----

#[derive(Serialize, Children)]
struct Idle {
    works: Vec<WorkRef<One>>,
}

impl Flow for Idle {
    fn react(&mut self, _: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

/// Measures CPU seconds and reactions within 30 seconds, with `n` Works on a thread each.
fn idle(n: u64) -> (f64, f64) {
    current_thread().block_on(async move {
        let app = start(move || Idle { works: (0..n).map(|_| WorkRef::new(One)).collect() }).await;
        loop {
            let status = app.control().status().await.expect("the App runs");
            if status.works.values().all(|work| work.is_up) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = (cpu_seconds(), app.control().status().await.expect("the App runs").reactions);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let after = (cpu_seconds(), app.control().status().await.expect("the App runs").reactions);
        (after.0 - before.0, (after.1 - before.1) as f64)
    })
}

/// Returns the CPU time of all threads of this process so far.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux's /proc");
    let ns = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    ns.sum::<f64>() / 1e9
}
