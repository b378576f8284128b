//! The nodes as they are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::session::Traffic;
use super::super::vitals::{NodeLoad, Vitals};
use super::{Head, Node};
use crate::payload::PayloadUsage;
use crate::recorder::Carried;
use crate::work::Resources;

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
    pub(crate) vitals: Option<Vitals>,
    #[serde(skip)]
    pub(crate) traffic: Traffic,
}

impl Head {
    /// The nodes, by name.
    pub(crate) fn status(&self) -> BTreeMap<String, NodeStatus> {
        let state = self.lock();
        let nodes = state.nodes.values().filter(|node| !node.is_process);
        nodes
            .map(|node| {
                let works = node.incarnations.iter().filter_map(|number| state.incarnations.get(number));
                let mut works: Vec<_> = works.map(|away| away.path.to_string()).collect();
                works.sort();
                let card = node.link.peer();
                let status = NodeStatus {
                    is_connected: node.link.is_connected(),
                    labels: card.labels.clone(),
                    resources: card.resources,
                    used: node.used,
                    works,
                    load: node.vitals.and_then(|vitals| vitals.load),
                    payloads: node.vitals.map(|vitals| vitals.payloads),
                    heartbeat_age: node.link.silent_for().as_secs_f64(),
                    round_trip: node.round_trip.map(|took| took.as_secs_f64()),
                    vitals: node.vitals,
                    traffic: node.link.traffic(),
                };
                (card.name.clone(), status)
            })
            .collect()
    }

    /// What the processes of single Works have told of themselves, which are on the machine of this one.
    pub(crate) fn vitals_of_processes(&self) -> Vec<Vitals> {
        let state = self.lock();
        state.nodes.values().filter(|node| node.is_process).filter_map(|node| node.vitals).collect()
    }

    /// What was recorded in other processes.
    pub(crate) fn recorded(&self) -> Vec<(RecordedBy, Arc<Carried>)> {
        let state = self.lock();
        let by = |node: &Node| match node.is_process {
            false => Some(RecordedBy::Node(node.link.peer().name.clone())),
            true => {
                let away = node.incarnations.iter().find_map(|number| state.incarnations.get(number))?;
                Some(RecordedBy::Process(away.path.to_string()))
            }
        };
        let nodes = state.nodes.values();
        nodes.filter_map(|node| Some((by(node)?, node.recorded.clone()))).collect()
    }
}
