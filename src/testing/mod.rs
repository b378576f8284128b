//! Layer 7: starting an App in a test, and waiting for its state and statuses.
//!
//! ```
//! use flowright::prelude::*;
//! use flowright::testing::TestApp;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Adder {
//!     sum: i64,
//! }
//!
//! impl Work for Adder {
//!     type Input = i64;
//!
//!     async fn run(&mut self, amount: i64, _cx: &mut WorkContext<Self>) -> Result<()> {
//!         self.sum += amount;
//!         Ok(())
//!     }
//! }
//!
//! #[derive(Default, Serialize, Children)]
//! struct Sum {
//!     adder: WorkRef<Adder>,
//! }
//!
//! impl Flow for Sum {
//!     fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
//!         for amount in 1..=10 {
//!             self.adder.run(amount);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let app = TestApp::start(Sum::default);
//! app.wait_for_state("adder.sum", |sum: &i64| *sum == 55);
//! app.wait_for_work("adder", |adder| adder.successes == 10);
//! app.stop().result.unwrap();
//! ```
//!
//! All waits are for events, not for time. A wait that exceeds its limit panics with the current state and statuses.

mod probe;

use std::fmt::Write;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

pub use self::probe::Probe;
pub use crate::app::WallClock;
use crate::app::{App, AppError, AppHandle, AppStatus, Control, Exit, WorkStatus};
use crate::flow::Flow;
use crate::printable::chain;
use crate::runtime;
use crate::state::Value;
pub use crate::work::Question;
use crate::work::{Panics, Stage, Work, WorkAddr, WorkPanic};

/// Default limit of a wait; see [`TestApp::limit`]. It is measured in real time, even if the App's clock is paused,
/// and is long enough that a busy machine does not fail a test.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// An App under test, driven from a synchronous test. Dropping it stops the App.
#[must_use = "dropping a `TestApp` stops its App"]
pub struct TestApp {
    runtime: Runtime,
    control: Control,
    address: Option<SocketAddr>,
    /// Taken when the end of the App is awaited.
    handle: Mutex<Option<AppHandle>>,
    panics: Arc<Panics>,
    /// Parts of the messages of panics that are expected.
    expected_panics: Vec<String>,
    limit: Duration,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_panics();
        }
    }
}

impl TestApp {
    /// Starts an App without a server.
    ///
    /// # Panics
    /// If the App does not start.
    pub fn start<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> Self {
        Self::start_app(App::new(make))
    }

    /// Starts an App on one thread, with a clock that jumps to the next deadline whenever the App is idle: timers,
    /// schedules, `cx.sleep`, backoffs and timeouts then take no time. `make_runtime` creates a current-thread
    /// runtime with `start_paused(true)`, which needs tokio's feature `test-util` in the test.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::testing::TestApp;
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Nap;
    ///
    /// impl Work for Nap {
    ///     type Input = ();
    ///
    ///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    ///         cx.sleep(self, Duration::from_secs(24 * 3600)).await?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Napping { nap: WorkRef<Nap> }
    /// # impl Flow for Napping {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction {
    /// #         self.nap.run(());
    /// #         Ok(())
    /// #     }
    /// # }
    /// let paused = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    /// let app = TestApp::start_paused(Napping::default, paused);
    /// app.wait_for_stage("nap", Stage::Succeeded); // at once
    /// ```
    ///
    /// # Panics
    /// If the App does not start.
    pub fn start_paused<F: Flow>(
        make: impl FnOnce() -> F + Send + 'static,
        make_runtime: impl FnOnce() -> Runtime + Send + 'static,
    ) -> Self {
        Self::start_app(App::new(make).runtime(make_runtime))
    }

    /// Starts an App with a configuration of its own.
    ///
    /// # Panics
    /// If the App does not start.
    pub fn start_app(app: App) -> Self {
        Self::try_start(app).unwrap_or_else(|error| panic!("the App did not start: {}", chain(&error)))
    }

    /// Starts an App that may refuse to start, such as one whose tree has two children of one name.
    ///
    /// # Errors
    /// The error with which the App failed to start.
    pub fn try_start(mut app: App) -> Result<Self, AppError> {
        let panics = Arc::new(Panics::default());
        app.panics = Some(panics.clone());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Thread)?;
        let handle = runtime.block_on(app.spawn())?;
        let (control, address) = (handle.control().clone(), handle.address());
        let (handle, expected_panics) = (Mutex::new(Some(handle)), Vec::new());
        Ok(Self { runtime, control, address, handle, panics, expected_panics, limit: DEFAULT_LIMIT })
    }

    /// Expects that Works panic with a message that contains `text`, any number of times. A panic that is not expected
    /// fails the test with its message when the App ends, even if the Work was restarted or its failure captured.
    ///
    /// ```should_panic
    /// # use flowright::prelude::*;
    /// # use flowright::testing::TestApp;
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Fragile {
    ///     runs: u32,
    /// }
    ///
    /// impl Work for Fragile {
    ///     type Input = ();
    ///
    ///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    ///         assert_ne!(cx.attempt(), 1, "the first attempt");
    ///         self.runs += 1;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[derive(Serialize, Children)]
    /// # struct Root { fragile: WorkRef<Fragile> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction {
    /// #         self.fragile.run(());
    /// #         Ok(())
    /// #     }
    /// # }
    /// # let root = || Root { fragile: WorkRef::new(Fragile::default()).restart(Restart::on_failure().max(1)) };
    /// let app = TestApp::start(root); // lacks `.expect_panic("the first attempt")`
    /// app.wait_for_stage("fragile", Stage::Succeeded);
    /// app.stop().result.unwrap(); // panics: work `fragile` panicked
    /// ```
    pub fn expect_panic(mut self, text: impl Into<String>) -> Self {
        self.expected_panics.push(text.into());
        self
    }

    /// Sets the limit of each wait; [`DEFAULT_LIMIT`] by default.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Returns the control handle of the App.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Returns the address at which the App serves HTTP, if it does; see [`App::serve`].
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits for something outside the App, such as the reply of a Work. The thread belongs to the App meanwhile: a
    /// [`Drive`](crate::Drive) that the future uses is one of this App.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::testing::TestApp;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Double(u64);
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Server;
    /// # impl Work for Server {
    /// #     type Input = ();
    /// #     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
    /// #         cx.serve_forever(self).await?;
    /// #         Ok(())
    /// #     }
    /// # }
    /// # impl Handle<Double> for Server {
    /// #     type Reply = u64;
    /// #     async fn handle(&mut self, m: Double, _: &mut WorkContext<Self>) -> u64 { 2 * m.0 }
    /// # }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { server: WorkRef<Server> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction {
    /// #         self.server.run(());
    /// #         Ok(())
    /// #     }
    /// # }
    /// let app = TestApp::start(Root::default);
    /// app.wait_for_stage("server", Stage::Running);
    /// let server = app.work::<Server>("server");
    /// assert_eq!(app.block_on(server.ask(Double(21))).unwrap(), 42);
    /// ```
    ///
    /// # Panics
    /// If the wait exceeds the limit.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _entered = runtime::enter(self.control.runtime().clone());
        let result = self.runtime.block_on(async { tokio::time::timeout(self.limit, future).await });
        result.unwrap_or_else(|_| panic!("no result within {:?}; {}", self.limit, self.describe()))
    }

    /// Returns the address of a Work.
    ///
    /// # Panics
    /// If there is no Work of this type at `path`.
    pub fn work<W: Work>(&self, path: &str) -> WorkAddr<W> {
        let found = self.running(self.control.work(path));
        found.unwrap_or_else(|| {
            panic!("there is no `{}` at `{path}`; {}", std::any::type_name::<W>(), self.describe())
        })
    }

    /// Returns the current state tree.
    ///
    /// # Panics
    /// If the App has ended.
    pub fn state(&self) -> Value {
        self.running(self.control.state())
    }

    /// Returns the current status of the App and everything in it.
    ///
    /// # Panics
    /// If the App has ended.
    pub fn status(&self) -> AppStatus {
        self.running(self.control.status())
    }

    /// Returns how many times the Flows have reacted.
    ///
    /// # Panics
    /// If the App has ended.
    pub fn reactions(&self) -> u64 {
        self.status().reactions
    }

    /// Waits until the state at the dotted `path` is a `T` that satisfies `holds`, and returns it.
    ///
    /// # Panics
    /// If the wait exceeds the limit, or the App ends first.
    pub fn wait_for_state<T: DeserializeOwned>(&self, path: &str, holds: impl Fn(&T) -> bool) -> T {
        self.wait(&format!("the state `{path}`"), async |control: &Control| {
            let state = control.state().await.ok()?;
            state.get(path)?.decode::<T>().ok().filter(&holds)
        })
    }

    /// Waits until the status of the Work at `path` satisfies `holds`, and returns it.
    ///
    /// # Panics
    /// If the wait exceeds the limit, or the App ends first.
    pub fn wait_for_work(&self, path: &str, holds: impl Fn(&WorkStatus) -> bool) -> WorkStatus {
        self.wait(&format!("the status of work `{path}`"), async |control: &Control| {
            control.status().await.ok()?.works.remove(path).filter(&holds)
        })
    }

    /// Waits until the Work at `path` is at this stage, and returns its status.
    ///
    /// # Panics
    /// If the wait exceeds the limit, or the App ends first.
    pub fn wait_for_stage(&self, path: &str, stage: Stage) -> WorkStatus {
        self.wait_for_work(path, |work| work.status.stage == stage)
    }

    /// Waits until the App ends by itself.
    ///
    /// # Panics
    /// If the wait exceeds the limit.
    #[must_use = "the failure of the App is in `result`"]
    pub fn wait_for_exit(self) -> Exit {
        let handle = self.take_handle().expect("an App ends once");
        let exit = self.block_on(handle.wait());
        self.check_panics();
        exit
    }

    /// Stops the App and waits until it has ended.
    ///
    /// # Panics
    /// If the wait exceeds the limit.
    pub fn stop(self) -> Exit {
        let handle = self.take_handle().expect("an App ends once");
        let exit = self.block_on(handle.stop());
        self.check_panics();
        exit
    }

    /// Fails the test if a Work has panicked unexpectedly.
    #[track_caller]
    fn check_panics(&self) {
        let is_expected =
            |panic: &WorkPanic| self.expected_panics.iter().any(|text| panic.message.contains(text));
        if let Some(WorkPanic { work, message }) = self.panics.take().iter().find(|panic| !is_expected(panic))
        {
            panic!("work `{work}` panicked: {message}\n(`TestApp::expect_panic` expects a panic of a Work)");
        }
    }

    fn wait<T>(&self, what: &str, mut look: impl AsyncFnMut(&Control) -> Option<T>) -> T {
        let _entered = runtime::enter(self.control.runtime().clone());
        let found = self.runtime.block_on(async {
            let mut changes = self.control.changes();
            let search = async {
                loop {
                    changes.mark_unchanged();
                    if let Some(found) = look(&self.control).await {
                        return Some(found);
                    }
                    changes.changed().await.ok()?;
                }
            };
            tokio::time::timeout(self.limit, search).await
        });
        match found {
            Ok(Some(found)) => found,
            Ok(None) => panic!("before {what} was as expected, {}", self.describe()),
            Err(_) => panic!("{what} was not as expected within {:?}; {}", self.limit, self.describe()),
        }
    }

    fn describe(&self) -> String {
        let now = self.runtime.block_on(async { (self.control.state().await, self.control.status().await) });
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = match now {
            (Ok(state), Ok(status)) => write!(text, "state: {}\nstatus: {status:#?}", state.to_json()),
            _ => match self.take_handle().map(|handle| self.block_on(handle.wait()).result) {
                Some(Err(error)) => write!(text, "the App has failed: {}", chain(&error)),
                _ => write!(text, "the App has ended"),
            },
        };
        text
    }

    /// Awaits the answer to a query. Panics if the App has ended.
    #[track_caller]
    fn running<T, E>(&self, answer: impl Future<Output = Result<T, E>>) -> T {
        self.block_on(answer).unwrap_or_else(|_| panic!("the App should run; {}", self.describe()))
    }

    fn take_handle(&self) -> Option<AppHandle> {
        self.handle.lock().take()
    }
}
