//! Services: versions, replicas and messages.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::stage::StageView;
use super::time;
use crate::app::ServiceSnapshot;
use crate::flow::RolloutStage;

/// The maximum number of replicas that are listed.
const REPLICAS: usize = 1000;

/// A service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct ServiceView {
    #[schema(example = "server")]
    pub(in crate::http) path: String,
    /// The stage of the Flow of the service.
    pub(in crate::http) stage: StageView,
    /// The reason why the service has failed.
    pub(in crate::http) message: Option<String>,
    /// True when one version serves with at least one replica to which messages go.
    pub(in crate::http) is_ready: bool,
    /// The number of the version that serves; `null` until one does.
    #[schema(example = 2)]
    pub(in crate::http) version: Option<u64>,
    /// The last versions, the oldest first; at most 16.
    pub(in crate::http) versions: Vec<VersionView>,
    /// The wanted number of replicas of the version that serves.
    pub(in crate::http) wanted: u64,
    /// The number of replicas of all versions.
    pub(in crate::http) replica_count: u64,
    /// The replicas of all versions, the oldest first; at most 1,000.
    pub(in crate::http) replicas: Vec<ReplicaView>,
    /// The number of messages that wait for a replica.
    pub(in crate::http) waiting: u64,
    /// The number of messages that the replicas have and have not answered.
    pub(in crate::http) handed: u64,
}

/// A version of a service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct VersionView {
    /// The number of the version, from 1.
    #[schema(example = 2)]
    pub(in crate::http) version: u64,
    pub(in crate::http) stage: RolloutStageView,
    /// The reason why the version was rolled back.
    pub(in crate::http) message: Option<String>,
    /// The time at which the version reached this stage.
    #[schema(format = DateTime)]
    pub(in crate::http) since: String,
}

/// The stage of a version: its replicas start, it serves, a newer version has replaced it, it was rolled back before it
/// served, or a newer one was deployed before it was ready.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum RolloutStageView {
    Starting,
    Serving,
    Replaced,
    RolledBack,
    Superseded,
}

impl From<RolloutStage> for RolloutStageView {
    fn from(stage: RolloutStage) -> Self {
        match stage {
            RolloutStage::Starting => Self::Starting,
            RolloutStage::Serving => Self::Serving,
            RolloutStage::Replaced => Self::Replaced,
            RolloutStage::RolledBack => Self::RolledBack,
            RolloutStage::Superseded => Self::Superseded,
        }
    }
}

/// A replica of a service, which is a Work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct ReplicaView {
    /// The path of the Work.
    #[schema(example = "server.replicas.v2-3")]
    pub(in crate::http) path: String,
    pub(in crate::http) version: u64,
    /// True once the replica has said that it is ready, until it leaves.
    pub(in crate::http) is_ready: bool,
    /// True while the replica finishes its messages before it ends.
    pub(in crate::http) is_draining: bool,
    /// The number of messages that the replica has and has not answered.
    pub(in crate::http) messages: u64,
}

/// A page of services, by path.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct ServicesView {
    pub(in crate::http) page: u64,
    pub(in crate::http) per_page: u64,
    /// The number of services.
    pub(in crate::http) total: u64,
    pub(in crate::http) items: Vec<ServiceView>,
}

pub(in crate::http) fn service_view(service: &ServiceSnapshot) -> ServiceView {
    let (report, load) = (&service.report, service.load());
    let handed: BTreeMap<_, _> = load.handed.iter().copied().collect();
    let versions = report.rollouts.iter().map(|rollout| VersionView {
        version: rollout.version,
        stage: rollout.stage.into(),
        message: rollout.message.clone(),
        since: time(rollout.time),
    });
    let replicas = report.replicas.iter().take(REPLICAS).map(|replica| ReplicaView {
        path: replica.path.as_str().to_owned(),
        version: replica.version,
        is_ready: replica.is_ready,
        is_draining: replica.is_draining,
        messages: handed.get(&replica.id).map_or(0, |messages| *messages as u64),
    });
    ServiceView {
        path: service.path.as_str().to_owned(),
        stage: service.status.stage.into(),
        message: service.status.message.clone(),
        is_ready: service.is_ready(),
        version: report.serving,
        versions: versions.collect(),
        wanted: report.wanted as u64,
        replica_count: report.replicas.len() as u64,
        replicas: replicas.collect(),
        waiting: load.waiting as u64,
        handed: load.handed() as u64,
    }
}
