//! Flows that tests write in place, Works that several tests use, and clocks.

use std::sync::{Arc, Mutex, Once, PoisonError};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Placement, Work};
use tokio::sync::Semaphore;

type React<W> = Box<dyn FnMut(&mut WorkRef<W>, &mut FlowContext) -> Reaction>;

/// A Flow with one Work, called `work`, that reacts as the test says.
#[derive(Serialize, Children)]
pub(crate) struct One<W: Work> {
    work: WorkRef<W>,
    #[serde(skip)]
    react: React<W>,
}

pub(crate) fn one<W: Work>(
    work: WorkRef<W>,
    react: impl FnMut(&mut WorkRef<W>, &mut FlowContext) -> Reaction + 'static,
) -> One<W> {
    One { work, react: Box::new(react) }
}

impl<W: Work> Flow for One<W> {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        (self.react)(&mut self.work, cx)
    }
}

type ReactTwo<A, B> = Box<dyn FnMut(&mut WorkRef<A>, &mut WorkRef<B>, &mut FlowContext) -> Reaction>;

/// A Flow with two Works, called `a` and `b`, that reacts as the test says.
#[derive(Serialize, Children)]
pub(crate) struct Two<A: Work, B: Work> {
    a: WorkRef<A>,
    b: WorkRef<B>,
    #[serde(skip)]
    react: ReactTwo<A, B>,
}

pub(crate) fn two<A: Work, B: Work>(
    a: WorkRef<A>,
    b: WorkRef<B>,
    react: impl FnMut(&mut WorkRef<A>, &mut WorkRef<B>, &mut FlowContext) -> Reaction + 'static,
) -> Two<A, B> {
    Two { a, b, react: Box::new(react) }
}

impl<A: Work, B: Work> Flow for Two<A, B> {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        (self.react)(&mut self.a, &mut self.b, cx)
    }
}

/// Runs a test with a Work on a thread of its own and with one in the pool.
pub(crate) fn wherever_it_runs(test: impl Fn(Placement)) {
    for placement in [Placement::Thread, Placement::Pool] {
        test(placement);
    }
}

/// An App on one thread whose clock jumps to the next deadline when it is idle.
pub(crate) fn paused<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> TestApp {
    TestApp::start_paused(make, || {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    })
}

/// Events in order, as the test sees them.
#[derive(Clone, Default)]
pub(crate) struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T: Clone> Seen<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn note(&self, what: T) {
        self.0.lock().unwrap().push(what);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}

/// A Work that records each run: its input, and whether another was in progress.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) ran: Vec<u32>,
    pub(crate) under_way: Option<u32>,
}

impl Work for Journal {
    type Input = u32;

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        if let Some(other) = self.under_way.replace(input) {
            flowright::bail!("{input} was started while {other} was under way");
        }
        cx.turn(self).await?;
        self.under_way = None;
        self.ran.push(input);
        Ok(())
    }
}

/// A Work whose runs wait until the test lets them end.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Gated {
    pub(crate) begun: Vec<u32>,
    pub(crate) ended: Vec<u32>,
    pub(crate) stopped: Vec<u32>,
    /// The inputs that the test requests, for Flows that run them.
    pub(crate) wished: Vec<u32>,
    #[serde(skip)]
    gate: Arc<Gate>,
}

/// A semaphore of runs that may end; permits are kept for later runs.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Gate {
    async fn passed(&self) {
        self.0.acquire().await.expect("the semaphore is never closed").forget();
    }
}

impl Work for Gated {
    type Input = u32;

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.begun.push(input);
        cx.publish(self);
        let gate = self.gate.clone();
        let result = cx.serve(self, async move { gate.passed().await }).await;
        match result {
            Ok(()) => self.ended.push(input),
            Err(Stopped) => self.stopped.push(input),
        }
        Ok(result?)
    }
}

/// A message that lets the current run, or the next one, end.
#[derive(Serialize, Deserialize)]
pub(crate) struct GoOn;

impl Handle<GoOn> for Gated {
    type Reply = ();

    async fn handle(&mut self, GoOn: GoOn, _cx: &mut WorkContext<Self>) {
        self.gate.0.add_permits(1);
    }
}

/// Lets the run of the Gated Work at `path` end.
pub(crate) fn go_on(app: &TestApp, path: &str) {
    app.block_on(app.work::<Gated>(path).ask(GoOn)).unwrap();
}

/// A message that adds a number to the requested inputs.
#[derive(Serialize, Deserialize)]
pub(crate) struct Wish(u32);

impl Handle<Wish> for Gated {
    type Reply = ();

    async fn handle(&mut self, Wish(number): Wish, cx: &mut WorkContext<Self>) {
        self.wished.push(number);
        cx.publish(self);
    }
}

/// Requests a number and waits until the Flow of the Work `work` has reacted to it.
pub(crate) fn wish(app: &TestApp, number: u32) {
    app.block_on(app.work::<Gated>("work").ask(Wish(number))).unwrap();
    app.wait_for_state("work.wished", |wished: &Vec<u32>| wished.last() == Some(&number));
}

/// Warnings and errors that this process has logged since the first call of [`listen_to_the_log`].
pub(crate) fn warnings() -> Vec<String> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Installs the logger that [`warnings`] reads.
pub(crate) fn listen_to_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_boxed_logger(Box::new(Recorder)).expect("there is no other logger");
        log::set_max_level(log::LevelFilter::Warn);
    });
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LOG.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}
