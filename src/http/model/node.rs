//! Nodes, how loaded they are, and what they keep.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{HEAD, Snapshot};
use crate::work::{LoadReport, NodeLoad, NodeStatus, Resources};

/// What a node has, or what of it is in use.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct ResourcesView {
    pub(in crate::http) cpus: u32,
    pub(in crate::http) gpus: u32,
    /// Bytes.
    pub(in crate::http) memory: u64,
}

impl From<Resources> for ResourcesView {
    fn from(Resources { cpus, gpus, memory }: Resources) -> Self {
        Self { cpus, gpus, memory }
    }
}

/// How loaded a node is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct LoadView {
    /// How many processors its process keeps busy.
    #[schema(example = 0.25)]
    pub(in crate::http) cpus: f64,
    /// Memory that its process has in use, in bytes.
    pub(in crate::http) memory: u64,
    /// How many threads of its machine want a processor, over the last minute.
    #[schema(example = 1.5)]
    pub(in crate::http) average: f64,
}

impl LoadView {
    /// What a node has said, as far as JSON has it.
    fn of(load: NodeLoad) -> Option<Self> {
        let NodeLoad { cpus, memory, average } = load;
        (cpus.is_finite() && average.is_finite()).then_some(Self { cpus: hundredths(cpus), memory, average })
    }
}

/// What the values of payloads take on a node, in bytes, and what became of them since its process began.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct UsageView {
    pub(in crate::http) memory: u64,
    pub(in crate::http) disk: u64,
    /// How often a value that was read was in memory.
    pub(in crate::http) hits: u64,
    /// How often one was pulled from another process.
    pub(in crate::http) pulls: u64,
    /// How often one was put on disk to make room.
    pub(in crate::http) spills: u64,
}

impl From<&LoadReport> for UsageView {
    fn from(load_report: &LoadReport) -> Self {
        let (payloads, counts) = (load_report.payloads, load_report.counts);
        Self {
            memory: payloads.memory,
            disk: payloads.disk,
            hits: counts.hits,
            pulls: counts.pulls,
            spills: counts.spills,
        }
    }
}

/// A node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct NodeView {
    pub(in crate::http) is_connected: bool,
    pub(in crate::http) labels: BTreeMap<String, String>,
    /// What it has.
    pub(in crate::http) resources: ResourcesView,
    /// What the Works on it need.
    pub(in crate::http) used: ResourcesView,
    /// The paths of the Works on it.
    pub(in crate::http) works: Vec<String>,
    /// How loaded it is, the processes of single Works counted in; `null` where it is not known.
    pub(in crate::http) load: Option<LoadView>,
    /// What the values of payloads take there; `null` where it is not known.
    pub(in crate::http) payloads: Option<UsageView>,
    /// Messages that no handler saw and whose senders were not told, since the process began; `null` where it is not known.
    pub(in crate::http) messages_lost: Option<u64>,
    /// Questions that were dropped there before a handler had begun, since nobody waited for the answer any more; `null` where it is not known.
    pub(in crate::http) questions_abandoned: Option<u64>,
    /// How long ago something was heard of it, in seconds.
    #[schema(example = 0.4)]
    pub(in crate::http) heartbeat_age: f64,
    /// How long a message from it and the answer take, in seconds; `null` for the head, and where it is not known yet.
    #[schema(example = 0.0004)]
    pub(in crate::http) round_trip: Option<f64>,
    pub(in crate::http) is_head: bool,
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        Self {
            is_connected: node.is_connected,
            labels: node.labels,
            resources: node.resources.into(),
            used: node.used.into(),
            works: node.works,
            load: node.load.and_then(LoadView::of),
            payloads: node.load_report.as_ref().map(UsageView::from),
            messages_lost: node.load_report.as_ref().map(|load_report| load_report.messages_lost),
            questions_abandoned: node.load_report.as_ref().map(|load_report| load_report.questions_abandoned),
            // Tenths: it is looked at by people, and each digit is a change.
            heartbeat_age: (node.heartbeat_age * 10.0).round() / 10.0,
            round_trip: node.round_trip,
            is_head: false,
        }
    }
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// All nodes, the head among them.
pub(in crate::http) fn nodes(snapshot: &Snapshot) -> BTreeMap<String, NodeView> {
    let here = snapshot.works.iter().filter(|work| work.node.as_deref() == Some(HEAD));
    let mut used = Resources::default();
    let mut works = Vec::new();
    for work in here {
        used = used.plus(work.needs);
        works.push(work.path.as_str().to_owned());
    }
    works.sort();
    let load_report = snapshot.processes.iter().fold(LoadReport::here(), LoadReport::plus);
    let head = NodeView {
        is_connected: true,
        labels: BTreeMap::new(),
        resources: snapshot.resources.into(),
        used: used.into(),
        works,
        load: load_report.load.and_then(LoadView::of),
        payloads: Some(UsageView::from(&load_report)),
        messages_lost: Some(load_report.messages_lost),
        questions_abandoned: Some(load_report.questions_abandoned),
        heartbeat_age: 0.0,
        round_trip: None,
        is_head: true,
    };
    let mut nodes: BTreeMap<_, _> =
        snapshot.nodes.iter().map(|(name, node)| (name.clone(), NodeView::from(node.clone()))).collect();
    nodes.insert(HEAD.to_owned(), head);
    nodes
}
