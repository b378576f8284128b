//! Layer 7: starting an App in a test and waiting for what it does.
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
//! Everything waits for events, not for time; a wait that lasts longer than its limit panics with the state and
//! the statuses as they are then.

use std::fmt::Write;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

pub use crate::app::WallClock;
use crate::app::{App, AppError, AppHandle, AppStatus, Control, Exit, Root, WorkStatus};
use crate::printable::chain;
use crate::state::Value;
use crate::work::{Stage, Work, WorkAddr};

/// How long a wait may last unless [`TestApp::limit`] says otherwise. It is real time, also when the App's clock is paused, and
/// so long that a machine that is busy with other things fails no test.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// An App under test, driven from a test that is not async itself. Dropping it stops the App.
pub struct TestApp {
    runtime: Runtime,
    control: Control,
    /// Taken when the App's end is waited for.
    handle: Mutex<Option<AppHandle>>,
    limit: Duration,
}

impl TestApp {
    /// Starts an App without a server.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start<R, Kind>(make: impl FnOnce() -> R + Send + 'static) -> Self
    where
        R: Root<Kind>,
    {
        Self::start_app(App::new(make))
    }

    /// Starts an App on one thread with a clock of its own that jumps to the next deadline whenever the App is
    /// idle: timers, schedules, `cx.sleep`, backoffs and timeouts then take no time. `make_runtime` makes a
    /// current-thread runtime with `start_paused(true)`, which needs tokio's feature `test-util` in the test.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_paused<R, Kind>(
        make: impl FnOnce() -> R + Send + 'static,
        make_runtime: impl FnOnce() -> Runtime + Send + 'static,
    ) -> Self
    where
        R: Root<Kind>,
    {
        Self::start_app(App::new(make).runtime(make_runtime))
    }

    /// Starts an App that was set up in some way.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_app(app: App) -> Self {
        Self::try_start(app).unwrap_or_else(|error| panic!("the App did not start: {}", chain(&error)))
    }

    /// Starts an App that may not start.
    ///
    /// # Errors
    /// Why it did not.
    pub fn try_start(app: App) -> Result<Self, AppError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Thread)?;
        let handle = runtime.block_on(app.spawn())?;
        let control = handle.control().clone();
        Ok(Self { runtime, control, handle: Mutex::new(Some(handle)), limit: DEFAULT_LIMIT })
    }

    /// How long a wait may last.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The App's door.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Waits for something outside the App, such as an answer of a Work.
    ///
    /// # Panics
    /// When it takes longer than the limit.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let result = self.runtime.block_on(async { tokio::time::timeout(self.limit, future).await });
        result.unwrap_or_else(|_| panic!("nothing came within {:?}; {}", self.limit, self.describe()))
    }

    /// The address of a Work.
    ///
    /// # Panics
    /// When there is none of this type at `path`.
    pub fn work<W: Work>(&self, path: &str) -> WorkAddr<W> {
        let found = self.running(self.control.work(path));
        found.unwrap_or_else(|| {
            panic!("there is no `{}` at `{path}`; {}", std::any::type_name::<W>(), self.describe())
        })
    }

    /// The state tree now.
    ///
    /// # Panics
    /// When the App has ended.
    pub fn state(&self) -> Value {
        self.running(self.control.state())
    }

    /// The status of everything now.
    ///
    /// # Panics
    /// When the App has ended.
    pub fn status(&self) -> AppStatus {
        self.running(self.control.status())
    }

    /// How many times the Flows have reacted.
    ///
    /// # Panics
    /// When the App has ended.
    pub fn reactions(&self) -> u64 {
        self.status().reactions
    }

    /// Waits until the state at the dotted `path` is a `T` of which `holds` is true, and gives it.
    ///
    /// # Panics
    /// When that does not happen within the limit, or the App ends before.
    pub fn wait_for_state<T: DeserializeOwned>(&self, path: &str, holds: impl Fn(&T) -> bool) -> T {
        self.wait(&format!("the state `{path}`"), async |control: &Control| {
            let state = control.state().await.ok()?;
            state.get(path)?.decode::<T>().ok().filter(&holds)
        })
    }

    /// Waits until `holds` is true of the status of the Work at `path`, and gives it.
    ///
    /// # Panics
    /// When that does not happen within the limit, or the App ends before.
    pub fn wait_for_work(&self, path: &str, holds: impl Fn(&WorkStatus) -> bool) -> WorkStatus {
        self.wait(&format!("the status of work `{path}`"), async |control: &Control| {
            control.status().await.ok()?.works.remove(path).filter(&holds)
        })
    }

    /// Waits until the Work at `path` is at this stage.
    ///
    /// # Panics
    /// When that does not happen within the limit, or the App ends before.
    pub fn wait_for_stage(&self, path: &str, stage: Stage) -> WorkStatus {
        self.wait_for_work(path, |work| work.status.stage == stage)
    }

    /// Waits until the App ends by itself.
    ///
    /// # Panics
    /// When that does not happen within the limit.
    pub fn wait_for_exit(self) -> Exit {
        let handle = self.take_handle().expect("an App ends once");
        self.block_on(handle.wait())
    }

    /// Stops the App and waits until it has ended.
    ///
    /// # Panics
    /// When that takes longer than the limit.
    pub fn stop(self) -> Exit {
        let handle = self.take_handle().expect("an App ends once");
        self.block_on(handle.stop())
    }

    fn wait<T>(&self, what: &str, mut look: impl AsyncFnMut(&Control) -> Option<T>) -> T {
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
        // Writing to a string cannot fail.
        let _ = match now {
            (Ok(state), Ok(status)) => write!(text, "state: {}\nstatus: {status:#?}", state.to_json()),
            _ => match self.take_handle().map(|handle| self.block_on(handle.wait()).result) {
                Some(Err(error)) => write!(text, "the App has failed: {}", chain(&error)),
                _ => write!(text, "the App has ended"),
            },
        };
        text
    }

    /// What a question to the App gives, which has to run.
    #[track_caller]
    fn running<T, E>(&self, answer: impl Future<Output = Result<T, E>>) -> T {
        self.block_on(answer).unwrap_or_else(|_| panic!("the App should run; {}", self.describe()))
    }

    fn take_handle(&self) -> Option<AppHandle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
