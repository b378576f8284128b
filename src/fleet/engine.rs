//! The interface of an engine: what starts, lists and ends allocations.

use std::ffi::OsString;
use std::fmt;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;

use super::key::Key;
use crate::work::Resources;

/// An engine that starts, lists and ends allocations, each of which is one node of the App.
///
/// # Guarantees that an engine gives
/// - An allocation has the name of its [`Key`], by which [`list`](Self::list) finds it also if the answer to the request
///   was lost.
/// - Every call ends within a time limit of the engine's own, as [`EngineError::Unreachable`] at the latest.
/// - [`list`](Self::list) returns the allocations of this App only.
/// - [`end`](Self::end) is idempotent: an allocation that has ended or was never there is no error.
pub(crate) trait Engine: Send + Sync {
    /// Requests one allocation for each key, all alike. Returns the outcome for each key, in the same order.
    fn submit<'a>(
        &'a self,
        request: &'a Request,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Vec<Result<(), EngineError>>>;

    /// Returns the allocations of this App that the engine knows, those that have ended included for as long as it
    /// remembers them.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Listed>, EngineError>>;

    /// Ends allocations.
    fn end<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Returns the last `lines` lines of the output of an allocation; empty if it has none yet.
    fn output<'a>(&'a self, key: &'a Key, lines: usize) -> BoxFuture<'a, Result<String, EngineError>>;

    /// Returns the interval at which the list is asked for while there are allocations.
    fn interval(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Resolves when the list has changed, for engines that know. Cancel safe.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Has the engine check a request without starting anything. Returns the script or manifest, and the engine's verdict
    /// if it gives one without starting anything.
    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Checked, EngineError>>;
}

/// One kind of allocation: what it brings, how long it lasts, and the command that it executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// The command that joins the App, without the name of the node: `PROGRAM node --join HOST:PORT …`. The engine adds
    /// `--name KEY`.
    pub(crate) command: NodeCommand,
    /// Resources that the node brings. Zero means that the engine's default holds.
    pub(crate) brings: Resources,
    /// The time limit of the allocation; `None` for the engine's default.
    pub(crate) time: Option<Duration>,
    /// The time before the limit at which the node is told to leave.
    pub(crate) drain: Duration,
}

/// The command of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeCommand {
    /// The path of the program on the machines of the engine.
    pub(crate) program: std::path::PathBuf,
    /// The arguments, `node` and all behind it included. The secret of the App is in none of them.
    pub(crate) arguments: Vec<String>,
    /// Variables that are set, or removed, for processes on this machine.
    pub(crate) environment: Vec<(OsString, Option<OsString>)>,
}

/// An allocation as the engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: Key,
    /// The identifier by which people find it at the engine, such as the number of a job.
    pub(crate) id: String,
    pub(crate) stage: ListedStage,
    /// The time at which the engine ends it, if that is known.
    pub(crate) ends_at: Option<SystemTime>,
}

/// The stage of an allocation at its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListedStage {
    /// It waits, with the engine's reason.
    Queued { why: String },
    /// It runs, on the machines of this name.
    Running { at: String },
    /// It has ended.
    Ended { end: AllocationEnd, words: String },
}

/// The kind of end of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllocationEnd {
    /// The node has exited with 0.
    Completed,
    /// The node has failed, or could not be started.
    Failed,
    /// The engine's time limit has passed.
    TimeLimit,
    /// The engine needed the machine for something else.
    Preempted,
    /// Somebody has cancelled it.
    Cancelled,
}

/// Verdict on a request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The script or manifest.
    pub(crate) script: String,
    /// The verdict of the engine in its words; `None` if it gives none without starting anything.
    pub(crate) verdict: Option<Result<String, String>>,
}

/// Error of an engine, classed by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// The request can never succeed as it is. Somebody has to change something.
    Refused(String),
    /// A limit of the user or the account has been reached. The same request may succeed later.
    Quota(String),
    /// The engine gave no answer, so that the outcome is unknown.
    Unreachable(String),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Quota(why) => write!(f, "a quota is used up: {why}"),
            Self::Unreachable(why) => write!(f, "the engine gave no answer: {why}"),
        }
    }
}
