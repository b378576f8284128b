//! What the API says, as Rust types: the OpenAPI document is made of them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::app::{AppStage, HEAD, PayloadStatus, Snapshot, WorkSnapshot, message_names, short_name};
use crate::flow::RunEntry;
use crate::remote::NodeStatus;
use crate::state::Value;
use crate::work::{Reason, Resources, Stage, Status};

/// A time as RFC 3339 has it, in UTC, with milliseconds.
pub(super) fn time(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// MessagePack as JSON, for people to read.
pub(super) fn readable(bytes: &[u8]) -> Json {
    crate::wire::decode::<Value>(bytes).map(|value| value.to_json()).unwrap_or_default()
}

fn since(status: &Status) -> Option<String> {
    (status.seq > 0 || status.time > SystemTime::UNIX_EPOCH).then(|| time(status.time))
}

/// Where a Work, a Flow or a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StageView {
    NotStarted,
    Pending,
    Running,
    Succeeded,
    Failed,
    Stopped,
}

impl From<Stage> for StageView {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::NotStarted => Self::NotStarted,
            Stage::Pending => Self::Pending,
            Stage::Running => Self::Running,
            Stage::Succeeded => Self::Succeeded,
            Stage::Failed => Self::Failed,
            Stage::Stopped => Self::Stopped,
        }
    }
}

/// Why it failed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReasonView {
    UserError,
    Panic,
    Timeout,
    PayloadLost,
    NodeLost,
    ProcessDied,
    Stopped,
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::UserError => Self::UserError,
            Reason::Panic => Self::Panic,
            Reason::Timeout => Self::Timeout,
            Reason::PayloadLost => Self::PayloadLost,
            Reason::NodeLost => Self::NodeLost,
            Reason::ProcessDied => Self::ProcessDied,
            Reason::Stopped => Self::Stopped,
        }
    }
}

/// Where the App stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AppStageView {
    Starting,
    Running,
    Stopping,
    Ended,
}

impl From<AppStage> for AppStageView {
    fn from(stage: AppStage) -> Self {
        match stage {
            AppStage::Starting => Self::Starting,
            AppStage::Running => Self::Running,
            AppStage::Stopping => Self::Stopping,
            AppStage::Ended => Self::Ended,
        }
    }
}

/// The App.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct AppView {
    /// The Rust type of the root.
    #[schema(example = "ContinuousDeployment")]
    pub(super) name: String,
    #[schema(example = "0.1.0")]
    pub(super) version: String,
    pub(super) stage: AppStageView,
    /// How many times its Flows have reacted.
    pub(super) reactions: u64,
    /// Where nodes join, when they may.
    pub(super) listening: Option<String>,
    #[schema(format = DateTime)]
    pub(super) started: String,
}

/// Everything but the state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct StatusView {
    /// Grows with each change.
    pub(super) version: u64,
    pub(super) app: AppView,
    /// By path.
    pub(super) works: BTreeMap<String, WorkView>,
    /// By path; that of the root is empty.
    pub(super) flows: BTreeMap<String, FlowView>,
    /// By name; `head` is where the Flows are.
    pub(super) nodes: BTreeMap<String, NodeView>,
}

/// The state of the App, or of a part of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct StateView {
    /// Grows with each change.
    #[schema(example = 42)]
    pub(super) version: u64,
    /// The serialised fields of Flows and Works.
    #[schema(example = json!({"train": {"last_checkpoint": "/some/path"}}))]
    pub(super) state: Json,
}

/// A Flow.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct FlowView {
    pub(super) stage: StageView,
    pub(super) reason: Option<ReasonView>,
    pub(super) message: Option<String>,
    #[schema(format = DateTime)]
    pub(super) since: Option<String>,
    /// Its Rust type.
    #[serde(rename = "type")]
    #[schema(example = "ContinuousDeployment")]
    pub(super) type_name: String,
}

/// A Work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct WorkView {
    /// Its Rust type.
    #[serde(rename = "type")]
    #[schema(example = "Train")]
    pub(super) type_name: String,
    pub(super) stage: StageView,
    pub(super) reason: Option<ReasonView>,
    /// The whole chain of causes, or what it waits for.
    pub(super) message: Option<String>,
    /// Which try of its run it is, from 1; 0 before the first.
    pub(super) attempt: u32,
    /// When it got to this stage.
    #[schema(format = DateTime)]
    pub(super) since: Option<String>,
    /// `thread`, `pool`, `process`, or which nodes.
    #[schema(example = "thread")]
    pub(super) placement: String,
    /// Where it lives, while it does.
    #[schema(example = "head")]
    pub(super) node: Option<String>,
    /// Whether messages reach it.
    pub(super) is_up: bool,
    pub(super) mailbox: MailboxView,
    pub(super) runs: RunCounts,
    /// How often it was started anew.
    pub(super) restarts: u32,
    /// The run under way.
    pub(super) current: Option<CurrentRun>,
    /// The messages that it can be asked with.
    #[schema(example = json!(["Predict"]))]
    pub(super) messages: Vec<String>,
}

/// The messages that wait.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxView {
    pub(super) waiting: u64,
    pub(super) capacity: u64,
    /// How many were ever taken, or passed on to where the Work is.
    pub(super) accepted: u64,
}

/// How many runs wait, and how many tries have ended in which way.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RunCounts {
    pub(super) waiting: u64,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) stopped: u64,
}

/// The run under way.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct CurrentRun {
    pub(super) run: u64,
    /// `null` when it is too large to be shown.
    pub(super) input: Json,
    #[schema(format = DateTime)]
    pub(super) started: Option<String>,
}

/// One try of a run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RunView {
    /// Its number; `null` while it waits for its turn.
    pub(super) run: Option<u64>,
    /// Which try it is, from 1; 0 while it waits for the first.
    pub(super) attempt: u32,
    pub(super) stage: StageView,
    pub(super) reason: Option<ReasonView>,
    pub(super) message: Option<String>,
    /// `null` when it was too large to be kept (4 KiB).
    pub(super) input: Json,
    #[schema(format = DateTime)]
    pub(super) queued: String,
    #[schema(format = DateTime)]
    pub(super) started: Option<String>,
    #[schema(format = DateTime)]
    pub(super) ended: Option<String>,
    pub(super) node: Option<String>,
}

impl From<RunEntry> for RunView {
    fn from(run: RunEntry) -> Self {
        Self {
            run: run.run,
            attempt: run.attempt,
            stage: run.stage.into(),
            reason: run.reason.map(ReasonView::from),
            message: run.message.map(|message| message.to_string()),
            input: run.input.as_deref().map(readable).unwrap_or_default(),
            queued: time(run.queued),
            started: run.started.map(time),
            ended: run.ended.map(time),
            node: run.node.map(|node| node.to_string()),
        }
    }
}

/// A page of runs, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RunsView {
    pub(super) page: u64,
    pub(super) per_page: u64,
    /// How many are remembered.
    pub(super) total: u64,
    pub(super) items: Vec<RunView>,
}

/// What a node has, or what of it is in use.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct ResourcesView {
    pub(super) cpus: u32,
    pub(super) gpus: u32,
    /// Bytes.
    pub(super) memory: u64,
}

impl From<Resources> for ResourcesView {
    fn from(Resources { cpus, gpus, memory }: Resources) -> Self {
        Self { cpus, gpus, memory }
    }
}

/// What the values of payloads take on a node, in bytes.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct UsageView {
    pub(super) memory: u64,
    pub(super) disk: u64,
}

/// A node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct NodeView {
    pub(super) is_connected: bool,
    pub(super) labels: BTreeMap<String, String>,
    /// What it has.
    pub(super) resources: ResourcesView,
    /// What the Works on it need.
    pub(super) used: ResourcesView,
    /// The paths of the Works on it.
    pub(super) works: Vec<String>,
    /// What the values of payloads take there; `null` where it is not known.
    pub(super) payloads: Option<UsageView>,
    /// How long ago something was heard of it, in seconds.
    #[schema(example = 0.4)]
    pub(super) heartbeat_age: f64,
    pub(super) is_head: bool,
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        Self {
            is_connected: node.is_connected,
            labels: node.labels,
            resources: node.resources.into(),
            used: node.used.into(),
            works: node.works,
            payloads: None,
            // Tenths: it is looked at by people, and each digit is a change.
            heartbeat_age: (node.heartbeat_age * 10.0).round() / 10.0,
            is_head: false,
        }
    }
}

/// What is a Flow and what a Work.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Flow,
    Work,
}

/// One Flow or Work in the graph.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct GraphItem {
    #[schema(example = "train")]
    pub(super) path: String,
    pub(super) kind: Kind,
    #[serde(rename = "type")]
    #[schema(example = "Train")]
    pub(super) type_name: String,
    /// The path of the Flow that it belongs to; `null` for the root.
    pub(super) parent: Option<String>,
    pub(super) node: Option<String>,
    pub(super) placement: Option<String>,
    pub(super) stage: StageView,
}

/// The tree of Flows and Works.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct GraphView {
    pub(super) items: Vec<GraphItem>,
}

/// A payload that something in the App refers to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct PayloadView {
    pub(super) id: String,
    /// The Rust type of its value.
    #[serde(rename = "type")]
    #[schema(example = "Vec<f32>")]
    pub(super) type_name: String,
    /// The length of its value, encoded.
    pub(super) bytes: u64,
    /// The path of the Work that made it.
    pub(super) made_by: String,
    /// The node that it is on; `null` when it is lost.
    pub(super) owner: Option<String>,
    /// The other nodes that have it.
    pub(super) copies: Vec<String>,
    /// Whether it is in the memory of the head.
    pub(super) in_memory: bool,
    /// Whether it is on the disk of the head.
    pub(super) on_disk: bool,
    /// The states and runs that refer to it.
    #[schema(example = json!(["train (state)", "deploy (run 3)"]))]
    pub(super) held_by: Vec<String>,
}

impl From<PayloadStatus> for PayloadView {
    fn from(status: PayloadStatus) -> Self {
        let mut nodes = status.nodes.into_iter();
        Self {
            id: status.id,
            type_name: status.type_name,
            bytes: status.bytes,
            made_by: status.made_by,
            owner: nodes.next(),
            copies: nodes.collect(),
            in_memory: status.is_in_memory,
            on_disk: status.is_here && !status.is_in_memory,
            held_by: status.held_by,
        }
    }
}

/// The payloads.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct PayloadsView {
    pub(super) items: Vec<PayloadView>,
}

/// One line that was logged.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct LogView {
    /// Grows from line to line.
    pub(super) seq: u64,
    #[schema(format = DateTime)]
    pub(super) time: String,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[schema(example = "info")]
    pub(super) level: String,
    /// The path of the Work that said it.
    pub(super) work: Option<String>,
    /// The run in which it said it.
    pub(super) run: Option<u64>,
    #[schema(example = "head")]
    pub(super) node: String,
    pub(super) target: String,
    pub(super) text: String,
}

/// Lines that were logged, in order.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct LogsView {
    pub(super) items: Vec<LogView>,
    /// What to give as `after` to get those that follow.
    pub(super) next: u64,
}

/// It will be done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Accepted {
    #[schema(example = true)]
    pub(super) accepted: bool,
}

/// A run that is wanted once more: either its input, or the number of a run that had it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(example = json!({"run": 7}))]
#[allow(dead_code, reason = "the types for the document; the body is read in two steps")]
pub(super) enum Rerun {
    Run(RunNumber),
    Input(InputBody),
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the types for the document; the body is read in two steps")]
pub(super) struct RunNumber {
    #[schema(minimum = 1)]
    pub(super) run: u64,
}

/// An input, as the Work's `Input` type reads it from JSON.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the types for the document; the body is read in two steps")]
pub(super) struct InputBody {
    #[schema(required = true)]
    pub(super) input: Json,
}

/// Why the App is to end.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StopBody {
    #[schema(example = "the release is over")]
    pub(super) why: String,
}

/// Whether the App lives, or whether its Works are past pending.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    pub(super) status: String,
}

/// What the program is, which does not change.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) started: SystemTime,
}

pub(super) fn work_view(work: &WorkSnapshot) -> WorkView {
    let WorkSnapshot { status, outcomes, .. } = work;
    WorkView {
        type_name: short_name(work.kind.name()),
        stage: status.stage.into(),
        reason: status.reason.map(ReasonView::from),
        message: status.message.clone(),
        attempt: status.attempt,
        since: since(status),
        placement: work.placement.to_string(),
        node: work.node.as_ref().map(|node| node.to_string()),
        is_up: work.is_up,
        mailbox: MailboxView {
            waiting: work.waiting_messages as u64,
            capacity: work.capacity as u64,
            accepted: work.accepted,
        },
        runs: RunCounts {
            waiting: work.waiting_runs as u64,
            succeeded: outcomes.succeeded,
            failed: outcomes.failed,
            stopped: outcomes.stopped,
        },
        restarts: work.restarts,
        current: work.current.as_ref().map(|(run, input, started)| CurrentRun {
            run: *run,
            input: input.as_deref().map(readable).unwrap_or_default(),
            started: started.map(time),
        }),
        messages: message_names(&work.kind.messages()),
    }
}

/// All nodes, the head among them.
pub(super) fn nodes(snapshot: &Snapshot) -> BTreeMap<String, NodeView> {
    let here = snapshot.works.iter().filter(|work| work.node.as_deref() == Some(HEAD));
    let mut used = Resources::default();
    let mut works = Vec::new();
    for work in here {
        used = used.plus(work.needs);
        works.push(work.path.as_str().to_owned());
    }
    works.sort();
    let head = NodeView {
        is_connected: true,
        labels: BTreeMap::new(),
        resources: snapshot.resources.into(),
        used: used.into(),
        works,
        payloads: Some(UsageView { memory: snapshot.payloads.memory, disk: snapshot.payloads.disk }),
        heartbeat_age: 0.0,
        is_head: true,
    };
    let mut nodes: BTreeMap<_, _> =
        snapshot.nodes.iter().map(|(name, node)| (name.clone(), NodeView::from(node.clone()))).collect();
    nodes.insert(HEAD.to_owned(), head);
    nodes
}

pub(super) fn status_view(snapshot: &Snapshot, about: &About) -> StatusView {
    let works = snapshot.works.iter().map(|work| (work.path.as_str().to_owned(), work_view(work)));
    let flows = snapshot.flows.iter().map(|flow| {
        let view = FlowView {
            stage: flow.status.stage.into(),
            reason: flow.status.reason.map(ReasonView::from),
            message: flow.status.message.clone(),
            since: since(&flow.status),
            type_name: short_name(flow.type_name),
        };
        (flow.path.as_str().to_owned(), view)
    });
    StatusView {
        version: snapshot.version,
        app: AppView {
            name: about.name.clone(),
            version: about.version.clone(),
            stage: snapshot.stage.into(),
            reactions: snapshot.reactions,
            listening: snapshot.listening.clone(),
            started: time(about.started),
        },
        works: works.collect(),
        flows: flows.collect(),
        nodes: nodes(snapshot),
    }
}

pub(super) fn graph_view(snapshot: &Snapshot) -> GraphView {
    let flows = snapshot.flows.iter().map(|flow| GraphItem {
        path: flow.path.as_str().to_owned(),
        kind: Kind::Flow,
        type_name: short_name(flow.type_name),
        parent: flow.parent.as_ref().map(|parent| parent.as_str().to_owned()),
        node: None,
        placement: None,
        stage: flow.status.stage.into(),
    });
    let mut items: Vec<_> = flows.collect();
    items.sort_by(|a, b| a.path.cmp(&b.path));
    items.extend(snapshot.works.iter().map(|work| GraphItem {
        path: work.path.as_str().to_owned(),
        kind: Kind::Work,
        type_name: short_name(work.kind.name()),
        parent: Some(work.owner.as_str().to_owned()),
        node: work.node.as_ref().map(|node| node.to_string()),
        placement: Some(work.placement.to_string()),
        stage: work.status.stage.into(),
    }));
    GraphView { items }
}
