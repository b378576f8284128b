//! Nodes with their load and their payload storage.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{HEAD, Snapshot};
use crate::work::{LoadReport, NodeLoad, NodeStatus, Resources};

/// Resources of a node: those it has, or those that are reserved.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct ResourcesView {
    pub(in crate::http) cpus: u32,
    pub(in crate::http) gpus: u32,
    /// Memory in bytes.
    pub(in crate::http) memory: u64,
}

impl From<Resources> for ResourcesView {
    fn from(Resources { cpus, gpus, memory }: Resources) -> Self {
        Self { cpus, gpus, memory }
    }
}

/// The load of a node.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct LoadView {
    /// The processor cores that the process of the node keeps busy.
    #[schema(example = 0.25)]
    pub(in crate::http) cpus: f64,
    /// The memory that the process of the node uses, in bytes.
    pub(in crate::http) memory: u64,
    /// The load average of the machine over the last minute.
    #[schema(example = 1.5)]
    pub(in crate::http) average: f64,
}

impl LoadView {
    /// Converts a load report; `None` when it has numbers that JSON cannot express.
    fn of(load: NodeLoad) -> Option<Self> {
        let NodeLoad { cpus, memory, average } = load;
        (cpus.is_finite() && average.is_finite()).then_some(Self { cpus: hundredths(cpus), memory, average })
    }
}

/// The bytes that payload values occupy on a node, and counters since its process started.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct UsageView {
    pub(in crate::http) memory: u64,
    pub(in crate::http) disk: u64,
    /// Reads of a value that was in memory.
    pub(in crate::http) hits: u64,
    /// Values pulled from another process.
    pub(in crate::http) pulls: u64,
    /// Values spilled to disk to make room in memory.
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
    /// True once the node is about to leave: nothing more is placed there, and its Works continue elsewhere.
    pub(in crate::http) is_leaving: bool,
    /// The time until the node's allocation ends, in seconds; `null` if it is unknown.
    #[schema(example = 3600)]
    pub(in crate::http) ends_in: Option<u64>,
    pub(in crate::http) labels: BTreeMap<String, String>,
    /// The resources that the node has.
    pub(in crate::http) resources: ResourcesView,
    /// The resources that its Works reserve.
    pub(in crate::http) used: ResourcesView,
    /// The paths of the Works on the node.
    pub(in crate::http) works: Vec<String>,
    /// The load, including the processes of single Works; `null` while it is unknown.
    pub(in crate::http) load: Option<LoadView>,
    /// The memory and disk that payload values occupy; `null` while it is unknown.
    pub(in crate::http) payloads: Option<UsageView>,
    /// Messages lost since the process started: no handler saw them, and their senders got no error. `null` while it is
    /// unknown.
    pub(in crate::http) messages_lost: Option<u64>,
    /// Asks dropped before a handler began, because the caller had stopped waiting; `null` while it is unknown.
    pub(in crate::http) questions_abandoned: Option<u64>,
    /// Asks that failed because Works waited for each other's replies; `null` while it is unknown.
    pub(in crate::http) deadlocks: Option<u64>,
    /// Streamed replies that Works on the node are sending; `null` while it is unknown.
    pub(in crate::http) streams_open: Option<u64>,
    /// The time since the last message from the node, in seconds.
    #[schema(example = 0.4)]
    pub(in crate::http) heartbeat_age: f64,
    /// The round-trip time between the head and the node, in seconds; `null` for the head, and while it is unknown.
    #[schema(example = 0.0004)]
    pub(in crate::http) round_trip: Option<f64>,
    pub(in crate::http) is_head: bool,
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        Self {
            is_connected: node.is_connected,
            is_leaving: node.is_leaving,
            ends_in: node.ends_in.map(|left| left as u64),
            labels: node.labels,
            resources: node.resources.into(),
            used: node.used.into(),
            works: node.works,
            load: node.load.and_then(LoadView::of),
            payloads: node.load_report.as_ref().map(UsageView::from),
            messages_lost: node.load_report.as_ref().map(|load_report| load_report.messages_lost),
            questions_abandoned: node.load_report.as_ref().map(|load_report| load_report.questions_abandoned),
            deadlocks: node.load_report.as_ref().map(|load_report| load_report.deadlocks),
            streams_open: node.load_report.as_ref().map(|load_report| load_report.streams_open),
            // In tenths: the number is for people, and every new digit would be a change to send.
            heartbeat_age: (node.heartbeat_age * 10.0).round() / 10.0,
            round_trip: node.round_trip,
            is_head: false,
        }
    }
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Returns all nodes by name, including the head.
pub(in crate::http) fn nodes(snapshot: &Snapshot) -> BTreeMap<String, NodeView> {
    let here = snapshot.works.iter().filter(|work| work.node.as_deref() == Some(HEAD));
    let mut used = Resources::default();
    let mut works = Vec::new();
    for work in here {
        used = used.plus(work.needs);
        works.push(work.path.as_str().to_owned());
    }
    works.sort();
    let load_report = snapshot.processes.iter().fold(LoadReport::of(&snapshot.runtime), LoadReport::plus);
    let head = NodeView {
        is_connected: true,
        is_leaving: false,
        ends_in: None,
        labels: BTreeMap::new(),
        resources: snapshot.resources.into(),
        used: used.into(),
        works,
        load: load_report.load.and_then(LoadView::of),
        payloads: Some(UsageView::from(&load_report)),
        messages_lost: Some(load_report.messages_lost),
        questions_abandoned: Some(load_report.questions_abandoned),
        deadlocks: Some(load_report.deadlocks),
        streams_open: Some(load_report.streams_open),
        heartbeat_age: 0.0,
        round_trip: None,
        is_head: true,
    };
    let mut nodes: BTreeMap<_, _> =
        snapshot.nodes.iter().map(|(name, node)| (name.clone(), NodeView::from(node.clone()))).collect();
    nodes.insert(HEAD.to_owned(), head);
    nodes
}
