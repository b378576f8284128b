//! Queries and commands for a running App, carried out by its driver between reactions.

use std::sync::Arc;

use actix::Addr;
use tokio::sync::{oneshot, watch};

use super::driver::{Action, Call, Driver, NotDone, Withheld};
use super::error::AppError;
use super::snapshot::{RunsPage, ServiceSnapshot, Snapshot, WorkSnapshot};
use super::status::AppStatus;
use super::watchdog::{Stuck, Watchdog};
use crate::flow::SharedRecord;
use crate::id::ActorPath;
use crate::runtime::Runtime;
use crate::state::Value;
use crate::work::{Directory, FindError, Message, Topic, TopicError, Work, WorkAddr};

/// Number of requests that have moments of the past in memory at a time.
#[cfg(all(feature = "journal", feature = "http"))]
const LOOKING_BACK: usize = 2;

/// A handle that queries and controls a running App, from any thread. Cloning is cheap.
///
/// ```
/// # use flowright::prelude::*;
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Train { epoch: u32 }
/// # impl Work for Train {
/// #     type Input = ();
/// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
/// #         self.epoch = 3;
/// #         Ok(())
/// #     }
/// # }
/// # #[derive(Default, Serialize, Children)]
/// # struct Root { train: WorkRef<Train> }
/// # impl Flow for Root {
/// #     fn react(&mut self, _: &mut FlowContext) -> Reaction {
/// #         self.train.run(());
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let app = App::new(Root::default).spawn().await?;
/// let control = app.control();
/// let mut changes = control.changes();
/// while !control.status().await?.works["train"].status.stage.is_terminal() {
///     changes.changed().await?; // the state or the status has changed
/// }
/// let state = control.state().await?;
/// let epoch: u32 = state.get("train.epoch").expect("the Work has an epoch").decode()?;
/// assert_eq!(epoch, 3);
/// control.stop("it is trained");
/// app.wait().await.result?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Control {
    driver: Addr<Driver>,
    changes: watch::Receiver<u64>,
    alive: watch::Receiver<()>,
    watchdog: Watchdog,
    runtime: Arc<Runtime>,
    #[cfg(all(feature = "journal", feature = "http"))]
    looking_back: Arc<tokio::sync::Semaphore>,
}

impl Control {
    pub(super) fn new(
        driver: Addr<Driver>,
        changes: watch::Receiver<u64>,
        alive: watch::Receiver<()>,
        watchdog: Watchdog,
        runtime: Arc<Runtime>,
    ) -> Self {
        #[cfg(all(feature = "journal", feature = "http"))]
        let looking_back = Arc::new(tokio::sync::Semaphore::new(LOOKING_BACK));
        Self {
            driver,
            changes,
            alive,
            watchdog,
            runtime,
            #[cfg(all(feature = "journal", feature = "http"))]
            looking_back,
        }
    }

    /// Returns the state tree: the root Flow as serialised, with the last published state of each Work.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended, and [`AppError::Failed`] when a Flow's own state does not serialise.
    pub async fn state(&self) -> Result<Value, AppError> {
        self.call(|driver| driver.state()).await?.map_err(AppError::Failed)
    }

    /// Returns the status of the App, its Works, Flows and nodes.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended.
    pub async fn status(&self) -> Result<AppStatus, AppError> {
        self.call(|driver| driver.status()).await
    }

    /// Returns the address of the Work or the service at `path`; `None` when there is none, or it is of another type of Work.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended.
    pub async fn work<W: Work>(&self, path: &str) -> Result<Option<WorkAddr<W>>, AppError> {
        let Some(record) = self.record(path).await? else {
            let path = ActorPath::from(path);
            let mailbox = self.service_mailbox(&path).map(|mailbox| mailbox.into_any().downcast());
            let mailbox = mailbox.and_then(Result::ok);
            return Ok(mailbox.map(|mailbox| WorkAddr::new(self.runtime().app(), path, mailbox)));
        };
        let record = record.lock();
        let mailbox = record.mailbox_of::<W>();
        Ok(mailbox.map(|mailbox| WorkAddr::new(record.app, record.path.clone(), mailbox)))
    }

    /// Returns the address of the Work or the service at `path`, as [`WorkContext::find`](crate::WorkContext::find) does in
    /// a Work: its error says what is there instead.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::FindError;
    /// # #[derive(Default, Serialize, Deserialize)]
    /// # struct Train;
    /// # impl Work for Train { type Input = (); }
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root { train: WorkRef<Train> }
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let app = App::new(Root::default).spawn().await?;
    /// let train = app.control().find::<Train>("train").await?;
    /// assert_eq!(train.path().as_str(), "train");
    /// let error = app.control().find::<Train>("trian").await.unwrap_err();
    /// assert!(matches!(error, FindError::NotFound { similar, .. } if similar == ["train"]));
    /// # app.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`FindError`] if there is no such Work, if it is of another type, or if the App has ended.
    pub async fn find<W: Work>(&self, path: &str) -> Result<WorkAddr<W>, FindError> {
        let path = ActorPath::from(path);
        let wanted = path.clone();
        let (directory, runtime) = (Directory::of(&self.runtime), &self.runtime);
        // On the App's thread, so that the children of a reaction that has ended are there.
        let found = self.call(move |_| directory.look_up_here(&wanted)).await;
        let found = found
            .map_err(|error| FindError::Unreachable { path: path.to_string(), why: error.to_string() })?;
        found.addr(runtime, path)
    }

    /// Opens the topic of this name, as [`WorkContext::topic`](crate::WorkContext::topic) does in a Work, to publish messages
    /// from outside of Works.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # use flowright::{Topic, TopicError};
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root {}
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Price(f64);
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let app = App::new(Root::default).spawn().await?;
    /// let prices: Topic<Price> = app.control().topic("prices").await?;
    /// prices.publish(Price(1.5))?;
    /// let error = app.control().topic::<String>("prices").await.unwrap_err();
    /// assert!(matches!(error, TopicError::OtherType { .. }));
    /// # app.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`TopicError`] if the topic has messages of another type, which the error names, if the name is not one, or if this
    /// process has 4,096 topics.
    pub async fn topic<M: Message + Clone>(&self, name: &str) -> Result<Topic<M>, TopicError> {
        Topic::open(&self.runtime, name).await
    }

    /// Returns a receiver that changes whenever the state or the status has changed and the Flows have reacted to it.
    /// The value is a version that grows. The channel closes when the App ends.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Stops the App gracefully, as `cx.stop(why)` does. Does nothing if the App is already stopping. If a Flow does
    /// not return, the App ends with [`AppError::Stuck`] after the grace period.
    pub fn stop(&self, why: impl Into<String>) {
        let why = why.into();
        self.watchdog.ask_to_end();
        self.driver.do_send(Call::new(move |driver| driver.stop(&why)));
    }

    /// Lets an App in safe mode go on ([`AppStatus::safe_mode`](super::AppStatus::safe_mode)). Returns false if it is not
    /// in safe mode; nothing is changed then.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root {}
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let app = App::new(Root::default).spawn().await?;
    /// if let Some(safe_mode) = app.control().status().await?.safe_mode {
    ///     println!("{}: {}", safe_mode.reason, safe_mode.suspects.join(", "));
    ///     app.control().resume().await?;
    /// }
    /// # app.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// The App may or may not go on when the future is dropped before it is ready.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended, and [`AppError::Withheld`] while the disk of the journal is full.
    pub async fn resume(&self) -> Result<bool, AppError> {
        #[cfg(feature = "journal")]
        return self.call(Driver::leave_safe_mode).await;
        #[cfg(not(feature = "journal"))]
        self.call(|_| false).await
    }

    /// Sends a node away, for the reason `why`: nothing more is placed there, its Works stop at their next turn and continue
    /// elsewhere from their last state, which is no failure of theirs, the values that would be lost with it are moved, and
    /// its process ends with exit code 0. Returns false if no node has this name. Does nothing to a node that is about to
    /// leave already; [`NodeStatus::is_leaving`](crate::NodeStatus) tells so.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Root {}
    /// # impl Flow for Root {
    /// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let app = App::new(Root::default).spawn().await?;
    /// let is_there = app.control().drain("gpu-1", "its machine gets a new disk").await?;
    /// assert!(!is_there);
    /// # app.stop().await.result?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// The node may or may not be sent away when the future is dropped before it is ready.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended.
    pub async fn drain(&self, node: &str, why: impl Into<String>) -> Result<bool, AppError> {
        let (node, why) = (node.to_owned(), why.into());
        self.call(move |driver| driver.drain(&node, &why)).await
    }

    /// Waits for the end of the App, without waking up for its changes. Cancel safe.
    pub(crate) async fn ended(&self) {
        // Nothing is ever sent; the channel closes with the driver.
        let _ = self.alive.clone().changed().await;
    }

    /// Returns the Flow whose code has blocked the App's thread for a long time, so that no call is answered.
    pub(crate) fn stuck(&self) -> Option<Stuck> {
        self.watchdog.stuck()
    }

    pub(super) fn begin(&self) {
        self.driver.do_send(Call::new(Driver::begin));
    }

    /// Returns the runtime of the App.
    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Returns a snapshot of the App.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, AppError> {
        self.call(|driver| driver.snapshot()).await
    }

    /// Returns a receiver of the first snapshot newer than `version`. Only the latest caller is served.
    pub(crate) async fn snapshot_after(&self, version: u64) -> Result<oneshot::Receiver<Snapshot>, AppError> {
        let (onlooker, snapshot) = oneshot::channel();
        self.call(move |driver| driver.show_after(version, onlooker)).await?;
        Ok(snapshot)
    }

    pub(crate) async fn work_snapshot(&self, path: &str) -> Result<Option<WorkSnapshot>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.work_snapshot(&path)).await
    }

    /// Returns a page of the runs of a Work, the newest first; `None` when there is no such Work.
    pub(crate) async fn runs(
        &self,
        path: &str,
        skip: usize,
        take: usize,
    ) -> Result<Option<RunsPage>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.runs(&path, skip, take)).await
    }

    /// Returns the services, by path.
    pub(crate) async fn services(&self) -> Result<Vec<ServiceSnapshot>, AppError> {
        self.call(|driver| driver.services()).await
    }

    /// Returns the service at `path`; `None` when there is no such service.
    pub(crate) async fn service(&self, path: &str) -> Result<Option<ServiceSnapshot>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.service(&path)).await
    }

    pub(crate) async fn perform(&self, path: &str, action: Action) -> Result<Result<(), NotDone>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.perform(&path, action)).await
    }

    /// Waits until this request may have moments of the past in memory, and returns its turn, which ends on drop.
    #[cfg(all(feature = "journal", feature = "http"))]
    pub(super) async fn turn_to_look_back(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        // It is never closed.
        self.looking_back.clone().acquire_owned().await.ok()
    }

    /// Returns the record of the Work at `path`; `None` when there is no such Work.
    pub(crate) async fn record(&self, path: &str) -> Result<Option<SharedRecord>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.record(&path)).await
    }

    /// Runs a closure on the App's thread, between reactions.
    pub(super) async fn call<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Driver) -> R + Send + 'static,
    ) -> Result<R, AppError> {
        match self.driver.send(Call::new(what)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Withheld(why))) => Err(AppError::Withheld { why: why.to_string() }),
            Err(_) => Err(AppError::Ended),
        }
    }
}
