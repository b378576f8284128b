//! Starting an App on a thread of its own.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use actix::Actor;
use actix_rt::System;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::config::Config;
use super::control::{Control, Exit};
use super::driver::{Driver, OnFailure};
use super::error::AppError;
use super::root::{Root, RootFlow};
use crate::id::AppId;
use crate::work::{Host, LocalHost, Placement, forget_addresses, panic_message};

/// An application: a root, and how it is run.
///
/// `App::new(root).main()` gives a binary its command line; `App::new(root).spawn().await` runs the same inside a
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
pub struct App {
    pub(crate) make: Box<dyn FnOnce() -> RootFlow + Send>,
    pub(crate) config: Config,
    /// Where to serve HTTP when the App is spawned into a program.
    pub(crate) serve: bool,
    pub(crate) on_failure: Option<OnFailure>,
    runtime: Option<Box<dyn FnOnce() -> tokio::runtime::Runtime + Send>>,
}

impl App {
    /// An App whose root is made by `make`, on the thread of the App.
    pub fn new<R, Kind>(make: impl FnOnce() -> R + Send + 'static) -> Self
    where
        R: Root<Kind>,
    {
        Self {
            make: Box::new(move || make().into_root()),
            config: Config::default(),
            serve: false,
            on_failure: None,
            runtime: None,
        }
    }

    /// Uses this configuration where nothing else says otherwise.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config.or(self.config);
        self
    }

    /// Where the Work at `path`, and all below it, runs.
    pub fn place(mut self, path: impl Into<String>, placement: Placement) -> Self {
        self.config.place.insert(path.into(), placement);
        self
    }

    /// How large the encoded state of one Work may be, in bytes; 1 MiB by default.
    pub fn max_state_bytes(mut self, bytes: usize) -> Self {
        self.config.max_state_bytes = Some(bytes);
        self
    }

    /// How many threads pooled Works share; as many as the machine has cores by default.
    pub fn pool_threads(mut self, threads: usize) -> Self {
        self.config.pool_threads = Some(threads);
        self
    }

    /// How long Works have to stop when the App ends, in whole seconds; 10 by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace_seconds = Some(grace.as_secs());
        self
    }

    /// Serves the HTTP API and the page when the App is spawned into a program: on `address`, at port 0 on a free
    /// one. `main` always does, unless its command line says otherwise.
    pub fn serve(mut self, address: SocketAddr) -> Self {
        self.config.host = Some(address.ip().to_string());
        self.config.port = Some(address.port());
        self.serve = true;
        self
    }

    /// Runs the whole App, all its Works whatever their placement included, on one thread and on this runtime, so
    /// that a test can pause its clock: timers and schedules then go by that clock.
    pub fn runtime(mut self, make: impl FnOnce() -> tokio::runtime::Runtime + Send + 'static) -> Self {
        self.runtime = Some(Box::new(make));
        self
    }

    /// Makes the tree and finds it in order, on a new thread; nothing runs before [`Launched::begin`].
    pub(crate) async fn launch(self) -> Result<Launched, AppError> {
        let (ready, launched) = oneshot::channel();
        let (exit, exited) = oneshot::channel();
        std::thread::Builder::new()
            .name("flowright".to_owned())
            .spawn(move || self.live(ready, exit))
            .map_err(AppError::Thread)?;
        let control = launched.await.map_err(|_| AppError::Internal("it did not start".to_owned()))??;
        let exited = exited.map(|exit| exit.ok()).boxed();
        Ok(Launched { control, exited })
    }

    fn live(self, ready: oneshot::Sender<Result<Control, AppError>>, exit: oneshot::Sender<Exit>) {
        let Self { make, config, on_failure, runtime, .. } = self;
        let (paused, host): (bool, Box<dyn Host>) = match &runtime {
            Some(_) => (true, Box::new(LocalHost::inline())),
            None => (false, Box::new(LocalHost::new(config.pool_size()))),
        };
        let system = match runtime {
            Some(make) => System::with_tokio_rt(make),
            None => System::new(),
        };
        let app = AppId::next();
        let (driver_exit, driver_exited) = oneshot::channel();
        let end = system.block_on(async move {
            let driver = catch_unwind(AssertUnwindSafe(make))
                .map_err(|panic| AppError::Constructor(panic_message(&*panic)))
                .and_then(|RootFlow(root)| Driver::new(app, root, config, host, paused, driver_exit));
            let mut driver = match driver {
                Ok(driver) => driver,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return None;
                }
            };
            driver.on_failure = on_failure;
            let changes = driver.changes();
            let control = Control::new(driver.start(), changes);
            ready.send(Ok(control)).ok()?;
            driver_exited.await.ok()
        });
        forget_addresses(app, None);
        // Stops every arbiter that is still there.
        System::current().stop();
        let _ = system.run();
        // Not before: who has waited for the App finds nothing of it any more.
        if let Some(end) = end {
            let _ = exit.send(end);
        }
    }
}

/// An App whose tree is in order and which has not begun.
pub(crate) struct Launched {
    pub(crate) control: Control,
    exited: BoxFuture<'static, Option<Exit>>,
}

impl Launched {
    pub(crate) fn begin(self, address: Option<SocketAddr>) -> AppHandle {
        self.control.begin();
        AppHandle { control: self.control, exited: Some(self.exited), address }
    }
}

/// A running App. Dropping it asks the App to stop.
pub struct AppHandle {
    control: Control,
    exited: Option<BoxFuture<'static, Option<Exit>>>,
    address: Option<SocketAddr>,
}

impl AppHandle {
    /// The App's door: its state, its status, its Works.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Where the App serves HTTP, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits for the App to end.
    ///
    /// # Cancel safety
    /// The handle is used up: dropping the future asks the App to stop, as dropping the handle does.
    pub async fn wait(mut self) -> Exit {
        let exited = self.exited.take().expect("a handle waits once");
        match exited.await {
            Some(exit) => exit,
            None => Exit::broken("it ended without a word"),
        }
    }

    /// Asks the App to stop and waits until it has.
    pub async fn stop(self) -> Exit {
        self.control.stop("its handle asked for it");
        self.wait().await
    }
}

impl Drop for AppHandle {
    fn drop(&mut self) {
        self.control.stop("its handle was dropped");
    }
}
