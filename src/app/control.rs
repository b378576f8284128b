//! Queries and commands for a running App, carried out by its driver between reactions.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use actix::{Addr, Handler, Message};
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::actions::{Action, NotDone};
use super::driver::Driver;
use super::error::AppError;
use super::snapshot::{RunsPage, Snapshot, WorkSnapshot};
use super::watchdog::{Stuck, Watchdog};
use crate::flow::{FlowError, SharedRecord, lock};
use crate::id::{ActorPath, AppId};
use crate::state::Value;
use crate::work::{NodeStatus, Placement, Status, Work, WorkAddr};

/// The stage of an App.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AppStage {
    /// The tree has been built; no Work or Flow has run yet.
    Starting,
    /// The Flows react.
    Running,
    /// The Works are being stopped.
    Stopping,
    /// The App has ended.
    Ended,
}

/// The status of an App with its Works, Flows and nodes.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct AppStatus {
    /// The stage of the App.
    pub stage: AppStage,
    /// The number of reactions of all Flows.
    pub reactions: u64,
    /// The Works by path.
    pub works: BTreeMap<String, WorkStatus>,
    /// The Flows by path; the path of the root is `root`.
    pub flows: BTreeMap<String, Status>,
    /// The nodes that have joined, by name.
    pub nodes: BTreeMap<String, NodeStatus>,
    /// The address at which nodes join; `None` when none may.
    pub listening: Option<String>,
}

/// The status of a Work.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct WorkStatus {
    /// The status of the run in progress, else of the last run.
    #[serde(flatten)]
    pub status: Status,
    /// The Rust type of the Work.
    pub type_name: &'static str,
    /// The placement of the Work.
    pub placement: Placement,
    /// True while an incarnation lives, so that messages are handled.
    pub is_up: bool,
    /// The number of runs that have succeeded.
    pub successes: u64,
    /// The number of messages that wait in the mailbox.
    pub waiting_messages: usize,
}

/// The outcome of an App that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exit {
    /// `Ok` when the App was stopped, an error when it failed.
    pub result: Result<(), AppError>,
    /// The last state of the App.
    pub state: Value,
    /// The last status of the App. A Work that was stopped because the App ended keeps its outcome.
    pub status: AppStatus,
}

impl Exit {
    pub(super) fn broken(how: &str) -> Self {
        Self::failed(AppError::Internal(how.to_owned()))
    }

    /// Creates the outcome of an App whose state and status are unknown.
    pub(super) fn failed(error: AppError) -> Self {
        Self {
            result: Err(error),
            state: Value::default(),
            status: AppStatus {
                stage: AppStage::Ended,
                reactions: 0,
                works: BTreeMap::new(),
                flows: BTreeMap::new(),
                nodes: BTreeMap::new(),
                listening: None,
            },
        }
    }
}

/// A handle that queries and controls a running App, from any thread. Cloning is cheap.
#[derive(Clone)]
pub struct Control {
    driver: Addr<Driver>,
    changes: watch::Receiver<u64>,
    alive: watch::Receiver<()>,
    watchdog: Watchdog,
    app: AppId,
}

impl Control {
    pub(super) fn new(
        driver: Addr<Driver>,
        changes: watch::Receiver<u64>,
        alive: watch::Receiver<()>,
        watchdog: Watchdog,
        app: AppId,
    ) -> Self {
        Self { driver, changes, alive, watchdog, app }
    }

    /// Returns the state tree: the root Flow as serialised, with the last published state of each Work.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended, and [`AppError::Failed`] when a Flow's own state does not serialise.
    pub async fn state(&self) -> Result<Value, AppError> {
        self.call(|driver| driver.state()).await?.map_err(AppError::Failed)
    }

    /// Returns the status of the App, its Works, Flows and nodes.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended.
    pub async fn status(&self) -> Result<AppStatus, AppError> {
        self.call(|driver| driver.status()).await
    }

    /// Returns the address of the Work at `path`; `None` when there is no such Work, or it has another type.
    ///
    /// # Errors
    /// [`AppError::Ended`] when the App has ended.
    pub async fn work<W: Work>(&self, path: &str) -> Result<Option<WorkAddr<W>>, AppError> {
        let record = self.record(path).await?;
        Ok(record.and_then(|record| {
            let record = lock(&record);
            Some(WorkAddr::new(record.app, record.path.clone(), record.mailbox_of::<W>()?))
        }))
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
        self.driver.do_send(Call::new(move |driver| {
            driver.stop(&why);
            driver.settle();
        }));
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

    /// Returns the id of the App.
    pub(crate) fn app(&self) -> AppId {
        self.app
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

    pub(crate) async fn perform(&self, path: &str, action: Action) -> Result<Result<(), NotDone>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.perform(&path, action)).await
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
        self.driver.send(Call::new(what)).await.map_err(|_| AppError::Ended)
    }
}

/// A closure to run on the driver.
struct Call<R>(Box<dyn FnOnce(&mut Driver) -> R + Send>);

impl<R> Call<R> {
    fn new(what: impl FnOnce(&mut Driver) -> R + Send + 'static) -> Self {
        Self(Box::new(what))
    }
}

impl<R: Send + 'static> Message for Call<R> {
    type Result = R;
}

impl<R: Send + 'static> Handler<Call<R>> for Driver {
    type Result = actix::MessageResult<Call<R>>;

    fn handle(&mut self, Call(what): Call<R>, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(what(self))
    }
}

impl Driver {
    pub(super) fn state(&self) -> Result<Value, FlowError> {
        let root = self.root.as_ref().expect("no call into the root is in progress");
        let state = self.watchdog.during(&ActorPath::root(), || root.state());
        state.map_err(|source| FlowError::OwnState { path: "root".to_owned(), source })
    }

    pub(super) fn status(&self) -> AppStatus {
        let works = self.tree.order.iter().filter_map(|id| self.tree.works.get(id)).map(|record| {
            let record = lock(record);
            let status = WorkStatus {
                status: record.ledger.status(),
                type_name: record.kind.name(),
                placement: record.placement,
                is_up: record.ledger.is_up(),
                successes: record.ledger.successes(),
                waiting_messages: record.mailbox.depth(),
            };
            (record.path.to_string(), status)
        });
        let flows = self.tree.flows.values().map(|entry| {
            let status = entry.link.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (entry.link.path.to_string(), status)
        });
        AppStatus {
            stage: self.stage,
            reactions: self.reactions,
            works: works.collect(),
            flows: flows.collect(),
            nodes: self.hosts.nodes(),
            listening: self.hosts.listening(),
        }
    }
}
