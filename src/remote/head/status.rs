//! The status of nodes, for the API and the page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Head, Node};
use crate::recorder::Carried;
use crate::work::{LoadReport, NodeRoom, NodeStatus, RecordedBy};

impl Head {
    /// Returns the status of all nodes, by name.
    pub(crate) fn status(&self) -> BTreeMap<String, NodeStatus> {
        let now = Instant::now();
        let state = self.state.lock();
        let nodes = state.nodes.values().filter(|node| !node.is_process);
        nodes
            .map(|node| {
                let works = node.incarnations.iter().filter_map(|number| state.incarnations.get(number));
                let mut works: Vec<_> = works.map(|away| away.path.to_string()).collect();
                works.sort();
                let card = node.link.peer();
                let status = NodeStatus {
                    is_connected: node.link.is_connected(),
                    is_leaving: node.is_leaving,
                    ends_in: node.deadline.as_ref().map(|deadline| deadline.left(now).as_secs_f64()),
                    labels: card.labels.clone(),
                    resources: card.resources,
                    used: node.used,
                    works,
                    load: node.load_report.and_then(|load_report| load_report.load),
                    payloads: node.load_report.map(|load_report| load_report.payloads),
                    heartbeat_age: node.link.silent_for().as_secs_f64(),
                    round_trip: node.round_trip.map(|took| took.as_secs_f64()),
                    load_report: node.load_report,
                    traffic: node.link.traffic(),
                };
                (card.name.clone(), status)
            })
            .collect()
    }

    /// Returns the nodes with their room, for the planner of fleets.
    pub(crate) fn rooms(&self) -> Vec<NodeRoom> {
        let state = self.state.lock();
        let nodes = state.nodes.values().filter(|node| !node.is_process);
        let now = Instant::now();
        let room = |node: &Node| {
            let card = node.link.peer();
            NodeRoom {
                name: card.name.clone(),
                labels: card.labels.clone(),
                resources: card.resources,
                used: node.used,
                works: node.incarnations.len(),
                is_leaving: node.is_leaving,
                ends_in: node.deadline.as_ref().map(|deadline| deadline.left(now)),
            }
        };
        nodes.map(room).collect()
    }

    /// Returns the load reports of the processes of single Works, which run on the machine of the head.
    pub(crate) fn load_of_processes(&self) -> Vec<LoadReport> {
        let state = self.state.lock();
        state.nodes.values().filter(|node| node.is_process).filter_map(|node| node.load_report).collect()
    }

    /// Returns the metrics recorded in other processes.
    pub(crate) fn recorded(&self) -> Vec<(RecordedBy, Arc<Carried>)> {
        let state = self.state.lock();
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
