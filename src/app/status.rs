//! The stage and the status of an App, and its outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::error::AppError;
use crate::state::Value;
use crate::work::{NodeStatus, Placement, Status};

/// The stage of an App.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AppStage {
    /// The tree has been built; no Work or Flow has run yet.
    Starting,
    /// Everything is restored, and nothing goes on until the App is resumed, because it was in a crash loop
    /// ([`AppStatus::safe_mode`]).
    SafeMode,
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
    /// The reason why the App is in safe mode; `None` unless it is.
    pub safe_mode: Option<SafeMode>,
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
    /// The journal; `None` for an App without one.
    pub journal: Option<JournalStatus>,
}

/// The crash loop because of which an App is in safe mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SafeMode {
    /// The reason, for people.
    pub reason: String,
    /// The Works and Flows whose code was executing at each of the crashes, such as "work `train`".
    pub suspects: Vec<String>,
}

/// The status of an App's journal. Numbers count from the start of this process, except for the position.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JournalStatus {
    /// The number of the last transaction that is durable.
    pub position: u64,
    /// The number of transactions that are not durable yet.
    pub waiting: u64,
    /// The size of these transactions, in bytes. Values that are written to files count until their commit begins.
    pub waiting_bytes: u64,
    /// The reason why nothing becomes durable at present: the disk is full.
    pub full: Option<String>,
    /// The number of commits.
    pub commits: u64,
    /// The number of transactions that were committed.
    pub transactions: u64,
    /// The largest number of transactions in one commit.
    pub largest_group: u64,
    /// The number of bytes written.
    pub written_bytes: u64,
    /// The total duration of the commits.
    pub commit_time: Duration,
    /// The duration of the slowest commit.
    pub slowest_commit: Duration,
    /// The recorded Works and Flows that the program does not have. Their record is kept.
    pub parked: Vec<String>,
    /// The numbers of remembered inputs that the program could not read when it was started, because the type of input of
    /// their Work has changed; by the path of the Work. Their outcomes are kept.
    pub unread_inputs: BTreeMap<String, u64>,
    /// The Works of which the first reactions of this process have requested runs with new inputs, although nothing had
    /// changed since the process before it: each start may run something once more.
    pub unstable_inputs: Vec<String>,
    /// The number of Works that had gone on in other processes while there was no head, and were taken over.
    pub adopted: u64,
    /// The time from the moment at which this process listened for nodes to the last time that it took over a Work; 0
    /// if there was none.
    pub adoption_time: Duration,
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
    /// Returns the error of type `E` with which the App failed, as [`AppError::downcast_ref`] does.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// use std::num::ParseIntError;
    ///
    /// # #[derive(Default, Serialize, Children)]
    /// # struct Server {}
    /// impl Flow for Server {
    ///     fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
    ///         let _port: u16 = "many".parse().context("the port")?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let exit = flowright::testing::TestApp::start(Server::default).wait_for_exit();
    /// assert!(exit.downcast_ref::<ParseIntError>().is_some());
    /// ```
    pub fn downcast_ref<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.result.as_ref().err()?.downcast_ref()
    }

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
                safe_mode: None,
                reactions: 0,
                works: BTreeMap::new(),
                flows: BTreeMap::new(),
                nodes: BTreeMap::new(),
                listening: None,
                journal: None,
            },
        }
    }
}
