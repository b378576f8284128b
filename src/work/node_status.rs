//! The nodes of an App as they are shown.

use std::collections::BTreeMap;

use super::load_report::{LoadReport, NodeLoad};
use super::policy::Resources;
use crate::payload::PayloadUsage;

/// Where something was recorded.
pub(crate) enum RecordedBy {
    /// On the node of this name.
    Node(String),
    /// In the process of the Work at this path.
    Process(String),
}

/// A node, as it is shown.
#[derive(Debug, Clone, serde::Serialize)]
pub struct NodeStatus {
    /// Whether there is a connection to it now.
    pub is_connected: bool,
    /// What it has been given by `--label`.
    pub labels: BTreeMap<String, String>,
    /// What it has.
    pub resources: Resources,
    /// What the Works on it need.
    pub used: Resources,
    /// The paths of the Works on it.
    pub works: Vec<String>,
    /// How loaded its process is; `None` until it has said so, or where its system does not.
    pub load: Option<NodeLoad>,
    /// What the values of payloads take there; `None` until it has said so.
    pub payloads: Option<PayloadUsage>,
    /// How long ago something was heard of it, in seconds.
    pub heartbeat_age: f64,
    /// How long a message from it and the answer took, in seconds; `None` until there was one.
    pub round_trip: Option<f64>,
    #[serde(skip)]
    pub(crate) load_report: Option<LoadReport>,
    #[serde(skip)]
    pub(crate) traffic: Traffic,
}

/// What a session has carried.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_messages: u64,
    pub(crate) received_messages: u64,
    /// Buffers of messages that were sent once more.
    pub(crate) resent: u64,
}
