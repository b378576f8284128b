//! Starting an App on a thread of its own.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use actix_rt::System;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::clock::{Clock, WallClock};
use super::config::Config;
use super::control::Control;
use super::driver::{Driver, OnFailure, Start};
#[cfg(feature = "journal")]
use super::driver::{Move, OpenedJournal};
use super::error::AppError;
use super::hosts::{Elsewhere, HEAD, Hosts};
use super::root::OneWork;
use super::status::Exit;
use super::watchdog::Watchdog;
#[cfg(feature = "remote")]
use super::watchers::show_watchers;
#[cfg(feature = "journal")]
use crate::crash_evidence::CrashEvidence as Evidence;
#[cfg(feature = "drive")]
use crate::drive::{Drives, LocalHome};
use crate::fence;
#[cfg(feature = "remote")]
use crate::flow::Kinds;
use crate::flow::{AnyFlow, Flow, FlowRef, Spawner, WorkRef};
use crate::id::AppId;
use crate::payload::{MemoryBudget, Store, never_wait_here};
#[cfg(feature = "journal")]
use crate::printable::chain;
use crate::recorder;
use crate::runtime::{self, Runtime};
use crate::work::logs::AppLog;
use crate::work::{
    ArgsError, Arguments, AskCycles, DeadLetter, DeadLetters, Directory, EncodedArguments, HookThread,
    Incarnations, LocalHost, MessageCounts, OnDeadLetter, Panics, Placement, Probes, Topics, Work,
    start_system,
};

/// Shortest interval at which an App that starts tries to open its journal while the disk is full.
#[cfg(feature = "journal")]
const ROOM_RETRY: Duration = Duration::from_secs(5);

/// An App without a journal leaves none.
#[cfg(not(feature = "journal"))]
type Evidence = std::convert::Infallible;

/// Sets the arguments that have defaults, and checks their type.
pub(crate) type CompleteArgs = fn(&Arguments) -> Result<(), ArgsError>;

/// An application: a root and its configuration.
///
/// `App::new(root).main()` gives a program its command line; `App::new(root).spawn().await` runs the App inside a
/// program or a test.
///
/// ```
/// # use flowright::prelude::*;
/// #[derive(Default, Serialize, Children)]
/// struct Hello;
///
/// impl Flow for Hello {
///     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
///         cx.stop("said hello");
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let app = App::new(Hello::default).spawn().await?;
/// app.wait().await.result?;
/// # Ok(())
/// # }
/// ```
#[must_use = "an App does nothing until `main` or `spawn` is called"]
pub struct App {
    pub(crate) make: Box<dyn FnOnce() -> Box<dyn AnyFlow> + Send>,
    pub(crate) config: Config,
    /// True when the App serves HTTP after [`App::spawn`].
    #[cfg(feature = "http")]
    pub(crate) serve: bool,
    pub(crate) on_failure: Option<OnFailure>,
    on_dead_letter: Option<OnDeadLetter>,
    runtime: Option<Box<dyn FnOnce() -> tokio::runtime::Runtime + Send>>,
    wall_clock: Option<WallClock>,
    pub(crate) arguments: Arc<Arguments>,
    /// Checks the arguments before the root is constructed, and sets those that have defaults; see `App::with_args`.
    pub(crate) complete_args: Option<CompleteArgs>,
    /// Extensions that upper layers store until the App is launched.
    pub(crate) extensions: Vec<Box<dyn Any + Send>>,
    #[cfg(feature = "remote")]
    pub(super) kinds: fn(&mut Kinds),
    /// Types of Works that are not known by the root.
    #[cfg(feature = "remote")]
    pub(super) hosted: Vec<fn(&mut Kinds)>,
    /// The panics of Works, if this is an App under test.
    pub(crate) panics: Option<Arc<Panics>>,
    /// The probes of a test, if it has any.
    pub(crate) probes: Option<Arc<Probes>>,
    /// The requests to the root, if it is that of [`App::empty`].
    pub(super) spawner: Option<Arc<Spawner>>,
    /// The name of the type of the root.
    pub(crate) name: &'static str,
    /// Absent if builds are to be compared.
    pub(super) version: Option<String>,
    /// Recorded actors that continue at other paths.
    #[cfg(feature = "journal")]
    pub(super) moves: Vec<Move>,
    #[cfg(feature = "remote")]
    pub(super) process: Option<crate::remote::ProcessProgram>,
}

/// Creates an [`App`] as [`App::new`] does, with the version of the package in which the macro is used
/// ([`App::version`]): processes of different builds can then take part in the same App.
///
/// ```
/// # use flowright::prelude::*;
/// # #[derive(Default, Serialize, Children)]
/// # struct Hello;
/// # impl Flow for Hello {
/// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
/// # }
/// let app = flowright::app!(Hello::default);
/// ```
#[macro_export]
macro_rules! app {
    ($make:expr $(,)?) => {
        $crate::App::new($make).version(::core::env!("CARGO_PKG_VERSION"))
    };
}

impl App {
    /// Creates an App whose root Flow is constructed by `make`, on the thread of the App.
    pub fn new<F: Flow>(make: impl FnOnce() -> F + Send + 'static) -> Self {
        Self {
            make: Box::new(move || Box::new(FlowRef::new(make()))),
            config: Config::default(),
            #[cfg(feature = "http")]
            serve: false,
            on_failure: None,
            on_dead_letter: None,
            runtime: None,
            wall_clock: None,
            arguments: Arc::default(),
            complete_args: None,
            extensions: Vec::new(),
            #[cfg(feature = "remote")]
            kinds: Kinds::below::<F>,
            #[cfg(feature = "remote")]
            hosted: Vec::new(),
            spawner: None,
            panics: None,
            probes: None,
            name: std::any::type_name::<F>(),
            version: None,
            #[cfg(feature = "journal")]
            moves: Vec::new(),
            #[cfg(feature = "remote")]
            process: None,
        }
    }

    /// Creates an App that runs a single Work, made by `make` on the thread of the App, once with the default input. The App
    /// ends when that run has succeeded, or fails with it. The Work's path is `work`.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Hello;
    ///
    /// impl Work for Hello {
    ///     type Input = ();
    ///
    ///     async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let app = App::of_work(Hello::default).spawn().await?;
    /// app.wait().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn of_work<W>(make: impl FnOnce() -> W + Send + 'static) -> Self
    where
        W: Work,
        W::Input: Default,
    {
        Self { name: std::any::type_name::<W>(), ..Self::new(move || OneWork { work: WorkRef::new(make()) }) }
    }

    /// Sets the version of the program. Processes can take part in an App only with the same version. Without it they have
    /// to be the same build: the hashes of their binaries are compared. [`app!`](crate::app!) sets the version of the
    /// package that it is used in.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Lets what a journal has recorded of the Work or Flow at the path `from`, and of all below it, continue at the path
    /// `to`. Without it, they are parked when the program has them at another path.
    ///
    /// The move is recorded when the App starts. It may stay in the program: nothing is done when nothing is recorded at
    /// `from`, or something at `to`. The new path may be that of a field, also of a new Flow that the constructor makes, or of
    /// an entry of a map; not that of an element of a list.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train {
    /// #     type Input = ();
    /// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
    /// # }
    /// #[derive(Default, Serialize, Children)]
    /// struct Team {
    ///     train: WorkRef<Train>, // was a field of `Root`
    /// }
    /// # impl Flow for Team {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    ///
    /// #[derive(Default, Serialize, Children)]
    /// struct Root {
    ///     team: FlowRef<Team>,
    /// }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    ///
    /// let app = App::new(Root::default).moved("train", "team.train");
    /// ```
    ///
    /// # Panics
    /// If one of the paths is empty, as that of the root is.
    #[cfg(feature = "journal")]
    pub fn moved(mut self, from: &str, to: &str) -> Self {
        assert!(!from.is_empty() && !to.is_empty(), "the root of an App cannot move");
        self.moves.push(Move { from: from.into(), to: to.into() });
        self
    }

    /// Applies a configuration; its settings take precedence over earlier ones, of this method and of others. On the
    /// command line of [`App::main`] all of them can be overridden.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config.or(self.config);
        self
    }

    /// Sets the placement of the Work at `path`, and of all Works below it. It takes precedence over
    /// [`WorkRef::placed`]; of several paths the longest counts. A path that does not begin with a child of the tree is an
    /// error of [`App::spawn`].
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Hello;
    /// # impl Flow for Hello {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// let app = App::new(Hello::default).place("workers", Placement::Pool).place("workers.3", Placement::Process);
    /// ```
    pub fn place(mut self, path: impl Into<String>, placement: Placement) -> Self {
        self.config.place.insert(path.into(), placement);
        self
    }

    /// Sets the limit on the encoded state of one Work, in bytes; 1 MiB by default.
    pub fn max_state_bytes(mut self, bytes: usize) -> Self {
        self.config.max_state_bytes = Some(bytes);
        self
    }

    /// Sets the number of threads that pooled Works share; the number of cores by default.
    pub fn pool_threads(mut self, threads: usize) -> Self {
        self.config.pool_threads = Some(threads);
        self
    }

    /// Sets the grace period in which Works have to stop when the App ends; 10 seconds by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = Some(grace);
        self
    }

    /// Serves the HTTP API and the page on `address` after [`App::spawn`]; port 0 is any free port. `main` serves them
    /// by default, unless the command line says otherwise. An address beyond the loopback one needs a token
    /// ([`Config::http_token_file`]).
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Hello;
    /// # impl Flow for Hello {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let app = App::new(Hello::default).serve("127.0.0.1:0".parse()?).spawn().await?;
    /// println!("http://{}/view", app.address().expect("the App is served"));
    /// app.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "http")]
    pub fn serve(mut self, address: SocketAddr) -> Self {
        self.config.host = Some(address.ip().to_string());
        self.config.port = Some(address.port());
        self.serve = true;
        self
    }

    /// Sets the App's own arguments, which Works read by [`WorkContext::args`](crate::WorkContext::args) wherever they run. In an
    /// App that is made by [`App::with_args`], they are for [`App::spawn`]; [`App::main`] reads them from the command line.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// #[derive(Serialize, Deserialize)]
    /// struct TrainArgs {
    ///     epochs: u32,
    /// }
    ///
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Train { epochs: u32 }
    /// # impl Flow for Train {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// let args = TrainArgs { epochs: 3 };
    /// let app = App::new(|| Train { epochs: 3 }).args(&args)?;
    /// # Ok::<_, flowright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ArgsError::Codec`] when they cannot be serialised, or not be read back.
    pub fn args<A: Serialize + DeserializeOwned>(self, args: &A) -> Result<Self, ArgsError> {
        self.arguments.set(EncodedArguments::new(args)?);
        Ok(self)
    }

    /// Checks the App's own arguments, on which the constructor of the root depends.
    pub(super) fn complete_args(&self) -> Result<(), AppError> {
        self.complete_args.map_or(Ok(()), |complete| complete(&self.arguments)).map_err(AppError::Args)
    }

    /// Calls `hook` with each dead letter of the App: a message that no handler saw and whose sender was not told so, wherever
    /// in the App it was lost. Without it, dead letters are logged and counted (`flowright_dead_letters_total` in `/metrics`).
    ///
    /// The hook is called on a thread of its own, so that it holds up no Work when it is slow; a panic in it is logged. At most
    /// 1,024 letters wait for it, and as many on each node. Equal ones that wait are one letter with their
    /// [`count`](DeadLetter::count); those beyond the bound are only counted and logged. Each letter comes at most once. When the
    /// App ends, the hook has a second to take the last ones.
    ///
    /// A second call replaces the hook of the first.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::DeadLetterReason;
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Hello;
    /// # impl Flow for Hello {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// let app = App::new(Hello::default).on_dead_letter(|letter| {
    ///     if letter.reason != DeadLetterReason::Abandoned {
    ///         eprintln!("{} × {} from {} to {}: {}", letter.count, letter.message, letter.sender, letter.to, letter.why);
    ///     }
    /// });
    /// ```
    pub fn on_dead_letter(mut self, hook: impl FnMut(&DeadLetter) + Send + 'static) -> Self {
        self.on_dead_letter = Some(Box::new(hook));
        self
    }

    /// Runs the whole App on one thread and on this runtime, including all Works whatever their placement. A test can
    /// pause the clock of the runtime; timers and schedules then follow that clock.
    pub fn runtime(mut self, make: impl FnOnce() -> tokio::runtime::Runtime + Send + 'static) -> Self {
        self.runtime = Some(Box::new(make));
        self
    }

    /// Uses this wall clock for schedules and for displayed times, so that a test can choose the date.
    pub fn wall_clock(mut self, clock: WallClock) -> Self {
        self.wall_clock = Some(clock);
        self
    }

    /// Runs the App on a thread of its own, inside any program that has a tokio runtime.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, no Flow reacts and no Work runs.
    ///
    /// # Errors
    /// [`AppError`] when the tree is invalid. No Work or Flow has run in that case.
    #[cfg(not(feature = "http"))]
    pub async fn spawn(self) -> Result<AppHandle, AppError> {
        Ok(self.launch().await?.begin(None))
    }

    /// Builds and checks the tree on a new thread. No Work or Flow runs before [`Launched::begin`].
    pub(crate) async fn launch(self) -> Result<Launched, AppError> {
        self.complete_args()?;
        let (name, version) = (self.name, self.version.clone());
        let (ready, launched) = oneshot::channel();
        let (exit, exited) = oneshot::channel();
        let (watchdog, gave_up) = Watchdog::start(self.config.grace()).map_err(AppError::Thread)?;
        let watched = watchdog.clone();
        let spawned = std::thread::Builder::new()
            .name("flowright".to_owned())
            .spawn(move || self.live(watched, ready, exit));
        if let Err(error) = spawned {
            watchdog.end();
            return Err(AppError::Thread(error));
        }
        let control =
            launched.await.map_err(|_| AppError::Internal("its thread ended at once".to_owned()))??;
        let exited = async move {
            tokio::select! {
                biased;
                exit = exited => exit.ok(),
                Ok(error) = gave_up => Some(Exit::failed(error)),
            }
        };
        let exited = exited.boxed();
        Ok(Launched { control, name, version, exited })
    }

    /// Creates the runtime of an App with this number, whose journal was opened as number `epoch`. Code of its Works leaves
    /// `evidence` if the process ends.
    pub(super) fn new_runtime(
        &self,
        directory: Arc<Directory>,
        (app, epoch): (AppId, u64),
        evidence: Option<Arc<Evidence>>,
    ) -> Arc<Runtime> {
        let budget = MemoryBudget::new(self.config.store_settings());
        Arc::new_cyclic(|of| {
            let store = Store::new(budget, of.clone());
            let of = Runtime::new(app).with(directory).with(store);
            let of = of.with(Arc::new(Incarnations::new(epoch)));
            let of = of.with(Arc::new(AppLog::default())).with(Arc::new(MessageCounts::default()));
            let of = of.with(self.arguments.clone());
            let of = of.with(Arc::new(DeadLetters::at(HEAD)));
            let of = of.with(Arc::new(AskCycles::default())).with(Arc::new(Topics::default()));
            #[cfg(feature = "remote")]
            let of = of.with(Arc::new(super::fleet::AppFleet::default()));
            #[cfg(feature = "drive")]
            let of = of.with(Drives::at(LocalHome(self.config.drives())));
            let of = match &self.spawner {
                Some(spawner) => of.with(spawner.clone()),
                None => of,
            };
            let of = match &self.panics {
                Some(panics) => of.with(panics.clone()),
                None => of,
            };
            let of = match &self.probes {
                Some(probes) => of.with(probes.clone()),
                None => of,
            };
            match evidence {
                Some(evidence) => of.with(evidence),
                None => of,
            }
        })
    }

    /// Opens the journal, if the App has one. While its disk is full, waits until there is room, unless nobody waits for
    /// the App any more.
    #[cfg(feature = "journal")]
    fn open_journal(&self, is_given_up: impl Fn() -> bool) -> Result<Option<OpenedJournal>, AppError> {
        let Some(directory) = self.config.journal.as_deref() else { return Ok(None) };
        let version = self.version.as_deref().unwrap_or_default();
        let mut was_full = false;
        loop {
            let begin = std::time::Instant::now();
            let error = match OpenedJournal::open(directory, self.config.journal_settings(), version) {
                Ok(opened) => {
                    if was_full {
                        log::info!("the journal has room again: the App starts");
                    }
                    return Ok(Some(opened.moved(self.moves.clone())));
                }
                Err(error) => error,
            };
            let is_full = matches!(&error, AppError::Journal(failure) if failure.is_full());
            if !is_full || is_given_up() {
                return Err(error);
            }
            if !was_full {
                was_full = true;
                log::error!("{}; until then the App does not start", chain(&error));
            }
            // A large journal takes long to read.
            std::thread::sleep(ROOM_RETRY.max(begin.elapsed() * 4));
        }
    }

    fn live(
        mut self,
        watchdog: Watchdog,
        ready: oneshot::Sender<Result<Control, AppError>>,
        exit: oneshot::Sender<Exit>,
    ) {
        let _watched = Watched(watchdog.clone());
        never_wait_here();
        recorder::install();
        let paused = self.runtime.is_some();
        #[cfg(feature = "remote")]
        match super::fleet::listen_address(&self.config) {
            Ok(listen) => self.config.listen = listen,
            Err(error) => return drop(ready.send(Err(error))),
        }
        #[cfg(feature = "journal")]
        let journal = match self.open_journal(|| ready.is_closed()) {
            Ok(journal) => journal,
            Err(error) => return drop(ready.send(Err(error))),
        };
        #[cfg(feature = "journal")]
        let (app, epoch) = journal.as_ref().map_or_else(|| (AppId::next(), 0), OpenedJournal::identity);
        #[cfg(not(feature = "journal"))]
        let (app, epoch) = (AppId::next(), 0);
        let directory = Arc::new(Directory::default());
        #[cfg(feature = "journal")]
        let evidence = journal.as_ref().and_then(OpenedJournal::evidence);
        #[cfg(not(feature = "journal"))]
        let evidence = None;
        let of = self.new_runtime(directory.clone(), (app, epoch), evidence);
        runtime::belong(of.clone());
        let running = of.start();
        let hook = self.on_dead_letter.take().map(|hook| HookThread::start(of.clone(), hook)).transpose();
        let hook = match hook {
            Ok(hook) => hook,
            Err(error) => return drop(ready.send(Err(AppError::Thread(error)))),
        };
        #[cfg(feature = "remote")]
        let elsewhere = match self.head_options(epoch) {
            Ok(options) => Elsewhere::new(of.clone(), (!paused).then_some(options)),
            Err(error) => return drop(ready.send(Err(error.into()))),
        };
        #[cfg(not(feature = "remote"))]
        let elsewhere = Elsewhere::default();
        #[cfg(feature = "remote")]
        let process = self.process.clone();
        let Self { make, config, on_failure, runtime, wall_clock, .. } = self;
        let local = match paused {
            true => LocalHost::inline(of.clone()),
            false => LocalHost::new(of.clone(), config.pool_size()),
        };
        let hosts = Hosts::new(local, elsewhere);
        #[cfg(feature = "remote")]
        let (shared, listen) = (hosts.head(), config.listen.clone());
        let system = match runtime {
            Some(make) => System::with_tokio_rt(make),
            None => start_system(&of),
        };
        let (driver_exit, driver_exited) = oneshot::channel();
        let end = system.block_on(async move {
            let driver = fence::call(make)
                .map_err(|panic| AppError::Constructor(panic.to_string()))
                .and_then(|root| {
                    let clock = Clock::new(paused, wall_clock);
                    let watchdog = watchdog.clone();
                    let (runtime, exit) = (of.clone(), driver_exit);
                    let start = Start {
                        runtime,
                        watchdog,
                        clock,
                        on_failure,
                        exit,
                        #[cfg(feature = "journal")]
                        journal,
                    };
                    Driver::new(root, config, hosts, start)
                });
            let driver = match driver {
                Ok(driver) => driver,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return None;
                }
            };
            #[cfg(feature = "remote")]
            let mut driver = driver;
            #[cfg(feature = "remote")]
            let listening = match (driver.expect_back().await, listen) {
                (Err(error), _) => Err(error),
                (Ok(()), Some(listen)) => {
                    driver.listen(&listen).await.and_then(|()| driver.start_fleet(process.as_ref()))
                }
                (Ok(()), None) => driver.nothing_is_advertised(),
            };
            #[cfg(feature = "remote")]
            if let Err(error) = listening {
                let _ = ready.send(Err(error));
                return None;
            }
            let (changes, alive) = (driver.changes(), driver.alive());
            let control = Control::new(driver.start(), changes, alive, watchdog, of.clone());
            #[cfg(feature = "remote")]
            actix_rt::spawn(show_watchers(control.clone(), shared.clone()));
            ready.send(Ok(control)).ok()?;
            let exit = driver_exited.await.ok();
            #[cfg(feature = "remote")]
            if let Some(head) = shared.get() {
                head.end("the App is over").await;
            }
            #[cfg(feature = "remote")]
            if let Some(fleet) = of.part::<super::fleet::AppFleet>() {
                fleet.end().await;
            }
            exit
        });
        directory.end();
        drop(running);
        // Stops all remaining arbiters.
        System::current().stop();
        let _ = system.run();
        if let Some(hook) = hook {
            hook.end();
        }
        // Sent last, so that nothing of the App is left when its end is reported.
        if let Some(end) = end {
            let _ = exit.send(end);
        }
    }
}

/// A guard that ends the watchdog together with the App's thread.
struct Watched(Watchdog);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// An App with a valid tree that has not started yet.
pub(crate) struct Launched {
    pub(crate) control: Control,
    /// The type of the root and the version of the program.
    pub(crate) name: &'static str,
    pub(crate) version: Option<String>,
    exited: BoxFuture<'static, Option<Exit>>,
}

impl Launched {
    pub(crate) fn begin(self, address: Option<SocketAddr>) -> AppHandle {
        self.control.begin();
        AppHandle { control: self.control, exited: Some(self.exited), address }
    }
}

/// A handle to a running App. Dropping it asks the App to stop.
///
/// ```
/// # use flowright::prelude::*;
/// # #[derive(Default, Serialize, Children)]
/// # struct Hello;
/// # impl Flow for Hello {
/// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let app = App::new(Hello::default).spawn().await?;
/// println!("{:?}", app.control().status().await?.stage);
/// let exit = app.stop().await; // `wait` waits for an App that ends by itself
/// exit.result?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the handle stops the App"]
pub struct AppHandle {
    control: Control,
    exited: Option<BoxFuture<'static, Option<Exit>>>,
    address: Option<SocketAddr>,
}

impl AppHandle {
    /// Returns the handle for queries and commands.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Returns the address at which the App serves HTTP, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits for the App to end.
    ///
    /// # Cancel safety
    /// Not cancel safe: the handle is consumed, and dropping the future asks the App to stop, as dropping the handle
    /// does.
    #[must_use = "the failure of the App is in `result`"]
    pub async fn wait(mut self) -> Exit {
        let exited = self.exited.take().expect("a handle waits once");
        match exited.await {
            Some(exit) => exit,
            None => Exit::broken("its thread ended without a result"),
        }
    }

    /// Asks the App to stop and waits for its end. The Works have the grace period ([`App::grace`]) to end.
    ///
    /// # Cancel safety
    /// Not cancel safe: the handle is consumed. An App whose future is dropped stops all the same.
    pub async fn stop(self) -> Exit {
        self.control.stop("requested by its handle");
        self.wait().await
    }
}

impl Drop for AppHandle {
    fn drop(&mut self) {
        self.control.stop("its handle was dropped");
    }
}
