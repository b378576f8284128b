//! Groups of nodes that engines start.

use serde::Serialize;
use utoipa::ToSchema;

use super::node::ResourcesView;
use crate::app::AppFleet;
use crate::fleet::{AllocationView, Checked, GroupView};
use crate::runtime::Runtime;

/// An allocation: a node that an engine has been asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct FleetAllocationView {
    /// The name of the allocation, and of its node.
    #[schema(example = "a100-k3x9wq")]
    pub(in crate::http) name: String,
    /// The identifier at the engine, such as the number of a job; `null` until the engine has listed it.
    pub(in crate::http) id: Option<String>,
    /// The stage: `requested`, `unknown` (the answer to the request was lost), `queued`, `starting`, `joined`, `leaving`,
    /// `gone` (its node has left, and the engine has not said so yet) or `ending`.
    #[schema(example = "joined")]
    pub(in crate::http) stage: &'static str,
    /// The time in this stage, in seconds.
    pub(in crate::http) seconds: f64,
    /// The engine's reason for which it waits.
    pub(in crate::http) reason: Option<String>,
    /// The machines on which it runs.
    pub(in crate::http) at: Option<String>,
    /// The time until the engine ends it, in seconds; `null` if that is unknown.
    pub(in crate::http) ends_in: Option<f64>,
    /// The number of Works on its node.
    pub(in crate::http) works: usize,
}

/// A group: nodes with the same settings.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct FleetGroupView {
    pub(in crate::http) name: String,
    /// The number of nodes that are kept even when nothing needs them.
    pub(in crate::http) least: usize,
    /// The largest number of allocations.
    pub(in crate::http) most: usize,
    /// Resources that a node brings.
    pub(in crate::http) brings: ResourcesView,
    /// The reason for which nothing more is requested until somebody resumes the group.
    pub(in crate::http) paused: Option<String>,
    /// A problem with the engine, or with allocations that failed.
    pub(in crate::http) problem: Option<String>,
    /// The time for which nodes of the group had no Work, all together, in seconds.
    pub(in crate::http) idle_seconds: f64,
    pub(in crate::http) allocations: Vec<FleetAllocationView>,
}

/// The fleet of an App: its groups, in the order in which they are tried.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct FleetView {
    pub(in crate::http) items: Vec<FleetGroupView>,
}

/// The last lines of the output of an allocation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct FleetLogView {
    pub(in crate::http) text: String,
}

/// The script or manifest of a group, and what its engine says to it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct FleetCheckView {
    pub(in crate::http) script: String,
    /// `accepted`, `refused`, or `unknown` if the engine says nothing without starting something.
    #[schema(example = "accepted")]
    pub(in crate::http) verdict: &'static str,
    /// The words of the engine.
    pub(in crate::http) words: Option<String>,
}

/// Returns the groups of the App; none if it has no fleet.
pub(in crate::http) fn groups_of(runtime: &Runtime) -> Vec<GroupView> {
    let slot = runtime.part::<AppFleet>();
    slot.and_then(|slot| Some(slot.get()?.views())).unwrap_or_default()
}

impl From<Checked> for FleetCheckView {
    fn from(checked: Checked) -> Self {
        let (verdict, words) = match checked.verdict {
            Some(Ok(words)) => ("accepted", Some(words)),
            Some(Err(words)) => ("refused", Some(words)),
            None => ("unknown", None),
        };
        Self { script: checked.script, verdict, words }
    }
}

impl From<AllocationView> for FleetAllocationView {
    fn from(allocation: AllocationView) -> Self {
        Self {
            name: allocation.key,
            id: allocation.id,
            stage: allocation.stage,
            seconds: allocation.for_.as_secs_f64(),
            reason: Some(allocation.words).filter(|words| !words.is_empty()),
            at: allocation.at,
            ends_in: allocation.ends_in.map(|ends_in| ends_in.as_secs_f64()),
            works: allocation.works,
        }
    }
}

impl From<GroupView> for FleetGroupView {
    fn from(group: GroupView) -> Self {
        Self {
            name: group.name,
            least: group.least,
            most: group.most,
            brings: group.brings.into(),
            paused: group.paused,
            problem: group.problem,
            idle_seconds: group.idle.as_secs_f64(),
            allocations: group.allocations.into_iter().map(Into::into).collect(),
        }
    }
}
