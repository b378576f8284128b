//! The nodes of an App, as queries and the page show them.

use std::collections::BTreeMap;

use super::load_report::{LoadReport, NodeLoad};
use super::policy::Resources;
use crate::payload::PayloadUsage;

/// Process in which a metric was recorded.
pub(crate) enum RecordedBy {
    /// The node of this name.
    Node(String),
    /// The process of the Work at this path.
    Process(String),
}

/// Status of a node.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// True while a connection to the node exists.
    pub is_connected: bool,
    /// True once the node is about to leave: nothing more is placed there, and its Works continue elsewhere.
    pub is_leaving: bool,
    /// Time until the node's allocation ends, in seconds, as given by `--lifetime`; `None` if it is unknown.
    pub ends_in: Option<f64>,
    /// Labels of the node, as given by `--label`.
    pub labels: BTreeMap<String, String>,
    /// Resources of the node.
    pub resources: Resources,
    /// Resources needed by the Works on the node.
    pub used: Resources,
    /// Paths of the Works on the node.
    pub works: Vec<String>,
    /// Load of the node's process; `None` until its first report, or where its system does not report it.
    pub load: Option<NodeLoad>,
    /// Memory and disk space of payloads on the node; `None` until its first report.
    pub payloads: Option<PayloadUsage>,
    /// Time since anything was received from the node, in seconds.
    pub heartbeat_age: f64,
    /// Last measured round-trip time of the session, in seconds; `None` until the first measurement.
    pub round_trip: Option<f64>,
    #[serde(skip)]
    pub(crate) load_report: Option<LoadReport>,
    #[serde(skip)]
    pub(crate) traffic: Traffic,
}

/// Traffic of a session.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_messages: u64,
    pub(crate) received_messages: u64,
    /// Number of retransmitted buffers, each with several messages.
    pub(crate) resent: u64,
}
