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

/// Where an App stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppStage {
    /// Its tree is made; nothing runs yet.
    Starting,
    /// Its Flows react.
    Running,
    /// Its Works are being stopped.
    Stopping,
    /// It is over.
    Ended,
}

/// The status of everything in an App.
#[derive(Debug, Clone, Serialize)]
pub struct AppStatus {
    /// Where the App stands.
    pub stage: AppStage,
    /// How many times its Flows have reacted.
    pub reactions: u64,
    /// Its Works, by path.
    pub works: BTreeMap<String, WorkStatus>,
    /// Its Flows, by path; the root is `root`.
    pub flows: BTreeMap<String, Status>,
    /// The nodes that have joined it, by name.
    pub nodes: BTreeMap<String, NodeStatus>,
    /// Where nodes join, when they may.
    pub listening: Option<String>,
}

/// The status of a Work.
#[derive(Debug, Clone, Serialize)]
pub struct WorkStatus {
    /// Where the run under way stands, else the last one.
    #[serde(flatten)]
    pub status: Status,
    /// The Rust type of the Work.
    pub type_name: &'static str,
    /// Where it runs.
    pub placement: Placement,
    /// Whether an incarnation lives, so that messages reach it.
    pub is_up: bool,
    /// How many runs have succeeded.
    pub successes: u64,
    /// How many messages wait in its mailbox.
    pub waiting_messages: usize,
}

/// How an App ended.
#[derive(Debug)]
pub struct Exit {
    /// Whether it ended well.
    pub result: Result<(), AppError>,
    /// Its last state.
    pub state: Value,
    /// The last status of everything in it. A Work that was stopped because the App ended keeps its outcome.
    pub status: AppStatus,
}

impl Exit {
    pub(super) fn broken(how: &str) -> Self {
        Self::failed(AppError::Internal(how.to_owned()))
    }

    /// That of an App of which nothing more can be said.
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

/// Asks and steers a running App, from any thread. Cloning is cheap.
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

    /// The state tree: the root Flow as it is serialised, the Works in it as last published.
    ///
    /// # Errors
    /// [`AppError::Ended`], and [`AppError::Failed`] when a Flow's own state does not serialise.
    pub async fn state(&self) -> Result<Value, AppError> {
        self.call(|driver| driver.state()).await?.map_err(AppError::Failed)
    }

    /// The status of everything.
    ///
    /// # Errors
    /// [`AppError::Ended`].
    pub async fn status(&self) -> Result<AppStatus, AppError> {
        self.call(|driver| driver.status()).await
    }

    /// The address of the Work at `path`; `None` when there is none, or it is of another type.
    ///
    /// # Errors
    /// [`AppError::Ended`].
    pub async fn work<W: Work>(&self, path: &str) -> Result<Option<WorkAddr<W>>, AppError> {
        let record = self.record(path).await?;
        Ok(record.and_then(|record| {
            let record = lock(&record);
            Some(WorkAddr::new(record.app, record.path.clone(), record.mailbox_of::<W>()?))
        }))
    }

    /// Changes whenever there is something new to see, after the Flows have reacted to it; the value is a number
    /// that grows. Closed when the App is over.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Ends the App in good order, as `cx.stop(why)` does. Does nothing if it is ending. Where a Flow does not return, the App
    /// ends with [`AppError::Stuck`] when the grace period is over.
    pub fn stop(&self, why: impl Into<String>) {
        let why = why.into();
        self.watchdog.ask_to_end();
        self.driver.do_send(Call::new(move |driver| {
            driver.stop(&why);
            driver.settle();
        }));
    }

    /// Waits for the end of the App, without being woken by its changes.
    pub(crate) async fn ended(&self) {
        // Nothing is ever sent on it.
        let _ = self.alive.clone().changed().await;
    }

    /// The Flow whose code has kept the App's thread for a long time, so that nothing else is answered.
    pub(crate) fn stuck(&self) -> Option<Stuck> {
        self.watchdog.stuck()
    }

    pub(super) fn begin(&self) {
        self.driver.do_send(Call::new(Driver::begin));
    }

    /// Which App it is.
    pub(crate) fn app(&self) -> AppId {
        self.app
    }

    /// One look at everything.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, AppError> {
        self.call(|driver| driver.snapshot()).await
    }

    /// The same as soon as there is something newer than `version`; for one at a time.
    pub(crate) async fn snapshot_after(&self, version: u64) -> Result<oneshot::Receiver<Snapshot>, AppError> {
        let (onlooker, snapshot) = oneshot::channel();
        self.call(move |driver| driver.show_after(version, onlooker)).await?;
        Ok(snapshot)
    }

    pub(crate) async fn work_snapshot(&self, path: &str) -> Result<Option<WorkSnapshot>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.work_snapshot(&path)).await
    }

    /// A page of the runs of a Work, the newest first.
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

    /// What is known of the Work at `path`, if there is one.
    pub(crate) async fn record(&self, path: &str) -> Result<Option<SharedRecord>, AppError> {
        let path = path.to_owned();
        self.call(move |driver| driver.record(&path)).await
    }

    /// Has something done on the App's thread, between reactions.
    pub(super) async fn call<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Driver) -> R + Send + 'static,
    ) -> Result<R, AppError> {
        self.driver.send(Call::new(what)).await.map_err(|_| AppError::Ended)
    }
}

/// A question to the driver, or an order.
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
        let root = self.root.as_ref().expect("nothing below the root is being called");
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
