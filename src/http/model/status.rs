//! The App as a whole: status, state, graph, health.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

#[cfg(feature = "remote")]
use super::fleet::groups_of;
use super::node::{NodeView, nodes};
use super::stage::{AppStageView, ReasonView, StageView};
use super::work::{WorkView, work_view};
use super::{since, time};
use crate::app::{Snapshot, short_name};

/// The App.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct AppView {
    /// The Rust type of the root.
    #[schema(example = "ContinuousDeployment")]
    pub(in crate::http) name: String,
    #[schema(example = "0.1.0")]
    pub(in crate::http) version: String,
    pub(in crate::http) stage: AppStageView,
    /// The reason why the App is in safe mode; `null` unless it is.
    pub(in crate::http) safe_mode: Option<SafeModeView>,
    /// The number of reactions of all Flows.
    pub(in crate::http) reactions: u64,
    /// The address at which nodes join; `null` when none may.
    pub(in crate::http) listening: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) started: String,
    /// The journal; `null` for an App without one.
    pub(in crate::http) journal: Option<JournalView>,
}

/// The crash loop because of which the App is in safe mode, in which nothing goes on until it is resumed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct SafeModeView {
    pub(in crate::http) reason: String,
    /// The Works and Flows whose code was executing at each of the crashes.
    #[schema(example = json!(["work `train`"]))]
    pub(in crate::http) suspects: Vec<String>,
}

/// The journal of the App.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct JournalView {
    /// The number of the last transaction that is durable.
    #[schema(example = 4711)]
    pub(in crate::http) position: u64,
    /// The number of transactions that are not durable yet.
    pub(in crate::http) waiting: u64,
    /// The reason why nothing becomes durable at present; `null` if nothing is wrong.
    pub(in crate::http) full: Option<String>,
    /// The recorded Works and Flows that the program does not have. Their record is kept.
    pub(in crate::http) parked: Vec<String>,
    /// The numbers of remembered inputs that the program could not read when it was started, by the path of the Work.
    pub(in crate::http) unread_inputs: BTreeMap<String, u64>,
    /// The Works of which runs with new inputs were requested at the start, although nothing had changed.
    pub(in crate::http) unstable_inputs: Vec<String>,
}

/// The status of the App: everything but the state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct StatusView {
    /// The version, which grows with each change.
    pub(in crate::http) version: u64,
    pub(in crate::http) app: AppView,
    /// The Works by path.
    pub(in crate::http) works: BTreeMap<String, WorkView>,
    /// The Flows by path; the path of the root is empty.
    pub(in crate::http) flows: BTreeMap<String, FlowView>,
    /// The nodes by name; `head` is the process with the Flows.
    pub(in crate::http) nodes: BTreeMap<String, NodeView>,
    /// The groups of nodes that engines start; `/api/v1/fleet` shows their allocations.
    pub(in crate::http) fleet: Vec<FleetSummary>,
}

/// A group of nodes that an engine starts.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct FleetSummary {
    #[schema(example = "a100")]
    pub(in crate::http) name: String,
    /// The number of allocations in each stage.
    #[schema(example = json!({"queued": 2, "joined": 3}))]
    pub(in crate::http) stages: BTreeMap<&'static str, usize>,
    /// True if nothing is requested until somebody resumes the group.
    pub(in crate::http) is_paused: bool,
    /// True if the engine does not answer, a quota is used up, or allocations fail.
    pub(in crate::http) has_problem: bool,
}

/// The state of the App, or a part of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct StateView {
    /// The version, which grows with each change.
    #[schema(example = 42)]
    pub(in crate::http) version: u64,
    /// The serialised fields of Flows and Works.
    #[schema(example = json!({"train": {"last_checkpoint": "/some/path"}}))]
    pub(in crate::http) state: Json,
}

/// A Flow.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct FlowView {
    pub(in crate::http) stage: StageView,
    pub(in crate::http) reason: Option<ReasonView>,
    pub(in crate::http) message: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) since: Option<String>,
    /// The Rust type of the Flow.
    #[serde(rename = "type")]
    #[schema(example = "ContinuousDeployment")]
    pub(in crate::http) type_name: String,
    /// True for the Flow of a service, which `/api/v1/services` shows.
    pub(in crate::http) is_service: bool,
}

/// The kind of an item in the graph.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Kind {
    Flow,
    Work,
}

/// A Flow or Work in the graph.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct GraphItem {
    #[schema(example = "train")]
    pub(in crate::http) path: String,
    pub(in crate::http) kind: Kind,
    #[serde(rename = "type")]
    #[schema(example = "Train")]
    pub(in crate::http) type_name: String,
    /// The path of the parent Flow; `null` for the root.
    pub(in crate::http) parent: Option<String>,
    pub(in crate::http) node: Option<String>,
    pub(in crate::http) placement: Option<String>,
    pub(in crate::http) stage: StageView,
}

/// The tree of Flows and Works.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct GraphView {
    pub(in crate::http) items: Vec<GraphItem>,
}

/// The answer of a liveness probe.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Health {
    #[schema(example = "ok")]
    pub(in crate::http) status: String,
}

/// The answer of a readiness probe.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Readiness {
    #[schema(example = "ok")]
    pub(in crate::http) status: String,
    /// The pending Works and the services that are not ready, listed with `detail=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(in crate::http) pending: Option<Vec<PendingView>>,
}

/// A Work that is pending, or a service that is not ready.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PendingView {
    #[schema(example = "train")]
    pub(in crate::http) path: String,
    /// True when the App is not ready because of this Work or service.
    pub(in crate::http) counts: bool,
    /// The reason why the Work is pending, or the service is not ready.
    pub(in crate::http) message: Option<String>,
}

/// The program that serves this API.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct AppInfo {
    #[schema(example = "ContinuousDeployment")]
    pub(in crate::http) name: String,
    /// The full Rust type of the root, which distinguishes programs of the same name.
    #[schema(example = "continuous_deployment::ContinuousDeployment")]
    pub(in crate::http) program: String,
    pub(in crate::http) version: String,
}

/// Facts about the program that stay the same while it runs.
#[derive(Debug, Clone)]
pub(in crate::http) struct About {
    pub(in crate::http) name: String,
    pub(in crate::http) program: &'static str,
    pub(in crate::http) version: String,
    pub(in crate::http) started: SystemTime,
}

pub(in crate::http) fn status_view(snapshot: &Snapshot, about: &About) -> StatusView {
    let works = snapshot.works.iter().map(|work| (work.path.as_str().to_owned(), work_view(work)));
    let flows = snapshot.flows.iter().map(|flow| {
        let view = FlowView {
            stage: flow.status.stage.into(),
            reason: flow.status.reason.map(ReasonView::from),
            message: flow.status.message.clone(),
            since: since(&flow.status),
            type_name: short_name(flow.type_name),
            is_service: flow.service.is_some(),
        };
        (flow.path.as_str().to_owned(), view)
    });
    StatusView {
        version: snapshot.version,
        app: AppView {
            name: about.name.clone(),
            version: about.version.clone(),
            stage: snapshot.stage.into(),
            safe_mode: snapshot.safe_mode.as_ref().map(|safe_mode| SafeModeView {
                reason: safe_mode.reason.clone(),
                suspects: safe_mode.suspects.clone(),
            }),
            reactions: snapshot.reactions,
            listening: snapshot.listening.clone(),
            started: time(about.started),
            journal: snapshot.journal.as_ref().map(|journal| JournalView {
                position: journal.position,
                waiting: journal.waiting,
                full: journal.full.clone(),
                parked: journal.parked.clone(),
                unread_inputs: journal.unread_inputs.clone(),
                unstable_inputs: journal.unstable_inputs.clone(),
            }),
        },
        works: works.collect(),
        flows: flows.collect(),
        nodes: nodes(snapshot),
        fleet: fleet_summary(snapshot),
    }
}

#[cfg(feature = "remote")]
fn fleet_summary(snapshot: &Snapshot) -> Vec<FleetSummary> {
    let summary = |group: crate::fleet::GroupView| {
        let mut stages = BTreeMap::new();
        for allocation in &group.allocations {
            *stages.entry(allocation.stage).or_insert(0) += 1;
        }
        let (is_paused, has_problem) = (group.paused.is_some(), group.problem.is_some());
        FleetSummary { name: group.name, stages, is_paused, has_problem }
    };
    groups_of(&snapshot.runtime).into_iter().map(summary).collect()
}

#[cfg(not(feature = "remote"))]
fn fleet_summary(_: &Snapshot) -> Vec<FleetSummary> {
    Vec::new()
}

pub(in crate::http) fn graph_view(snapshot: &Snapshot) -> GraphView {
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
