//! A consistent snapshot of an App, taken between reactions. Taking it is cheap on the App's thread; expensive work,
//! such as serialising it as JSON, is left to the caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::histogram::Histogram;
use super::status::{AppStage, JournalStatus, SafeMode};
use crate::flow::{FlowError, Outcomes, Record, RunEntry, ServiceMonitor, ServiceReport};
use crate::id::ActorPath;
use crate::recorder::Carried;
use crate::runtime::Runtime;
use crate::state::Value;
use crate::work::{
    DeadLetters, LoadReport, NodeStatus, Placement, RecordedBy, Resources, ServiceLoad, Stage, Status,
    WorkType,
};

/// A snapshot of the whole App at one version.
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) stage: AppStage,
    pub(crate) safe_mode: Option<SafeMode>,
    pub(crate) reactions: u64,
    pub(crate) reaction_times: BTreeMap<&'static str, Histogram>,
    pub(crate) listening: Option<String>,
    /// `None` without a journal.
    pub(crate) journal: Option<JournalStatus>,
    /// An error when a Flow's own state does not serialise.
    pub(crate) state: Result<Value, FlowError>,
    pub(crate) works: Vec<WorkSnapshot>,
    pub(crate) flows: Vec<FlowSnapshot>,
    pub(crate) nodes: BTreeMap<String, NodeStatus>,
    pub(crate) resources: Resources,
    /// The runtime of the App, whose own load is measured when the snapshot is shown.
    pub(crate) runtime: Arc<Runtime>,
    /// The load reports of the processes of single Works.
    pub(crate) processes: Vec<LoadReport>,
    /// The metrics recorded in other processes.
    pub(crate) recorded: Vec<(RecordedBy, Arc<Carried>)>,
    /// The time that taking the snapshot has kept the App's thread.
    pub(crate) took: Duration,
}

pub(crate) struct WorkSnapshot {
    pub(crate) path: ActorPath,
    pub(crate) owner: ActorPath,
    pub(crate) kind: &'static WorkType,
    pub(crate) status: Status,
    pub(crate) placement: Placement,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) is_up: bool,
    /// The operator who keeps the Work stopped, and the time of the stop.
    pub(crate) held: Option<(Arc<str>, SystemTime)>,
    /// True while the Work waits for a node.
    pub(crate) is_unplaced: bool,
    /// The readiness policy of the Work: whether the App is not ready while this Work is pending. `None` when its Flow
    /// sets none.
    pub(crate) counts_for_readiness: Option<bool>,
    pub(crate) waiting_messages: usize,
    pub(crate) capacity: usize,
    pub(crate) waiting_runs: usize,
    pub(crate) outcomes: Outcomes,
    pub(crate) restarts: u32,
    /// The run in progress: its number, its input if that is small, and its start.
    pub(crate) current: Option<(u64, Option<Bytes>, Option<SystemTime>)>,
    pub(crate) needs: Resources,
    pub(crate) accepted: u64,
    /// Messages to the Work that no handler saw and whose senders were not told so.
    pub(crate) dead_letters: u64,
    pub(crate) published: u64,
    pub(crate) conflated: u64,
}

pub(crate) struct FlowSnapshot {
    pub(crate) path: ActorPath,
    pub(crate) parent: Option<ActorPath>,
    pub(crate) type_name: &'static str,
    pub(crate) status: Status,
    /// The service, if it is the Flow of one.
    pub(crate) service: Option<ServiceSnapshot>,
}

/// A service: the report of its last reaction, and its messages.
pub(crate) struct ServiceSnapshot {
    pub(crate) path: ActorPath,
    /// The status of its Flow.
    pub(crate) status: Status,
    pub(crate) report: Arc<ServiceReport>,
    monitor: ServiceMonitor,
}

/// A page of the runs of a Work.
pub(crate) struct RunsPage {
    pub(crate) total: usize,
    pub(crate) runs: Vec<RunEntry>,
}

impl ServiceSnapshot {
    /// Takes the snapshot of the service of a Flow.
    pub(super) fn of(path: &ActorPath, status: &Status, monitor: &ServiceMonitor) -> Self {
        Self {
            path: path.clone(),
            status: status.clone(),
            report: monitor.report(),
            monitor: monitor.clone(),
        }
    }

    /// Returns true if its Flow runs, and one version serves with a replica in rotation.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.stage == Stage::Running && self.report.is_ready()
    }

    /// Counts the messages of the service, at the time of the call.
    pub(crate) fn load(&self) -> ServiceLoad {
        self.monitor.load()
    }
}

impl WorkSnapshot {
    /// Takes the snapshot of one Work.
    pub(super) fn of(record: &Record, dead_letters: &DeadLetters) -> Self {
        let ledger = &record.ledger;
        Self {
            path: record.path.clone(),
            owner: record.owner_path.clone(),
            kind: record.kind,
            status: ledger.status(),
            placement: record.placement,
            node: ledger.node().cloned(),
            is_up: ledger.is_up(),
            held: ledger.held().map(|hold| (hold.by.clone(), hold.since)),
            is_unplaced: ledger.is_unplaced(),
            counts_for_readiness: ledger.policy().counts_for_readiness,
            waiting_messages: record.mailbox.depth(),
            capacity: record.mailbox.capacity(),
            waiting_runs: ledger.waiting_runs(),
            outcomes: ledger.outcomes(),
            restarts: ledger.restart_count(),
            current: ledger.current_run(),
            needs: record.needs,
            accepted: record.mailbox.accepted(),
            dead_letters: dead_letters.count(&record.path),
            published: record.published,
            conflated: record.conflated,
        }
    }
}
