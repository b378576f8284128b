//! The report of a service: what its Flow has decided, and the messages that it has.
//!
//! # Guarantees
//! - A report is that of the last reaction of the service, as a whole; before the first one it is empty.
//! - The messages are counted at the time of the query. A service that has ended has none.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::id::ActorPath;
use crate::work::{ServiceLoad, milliseconds};

/// The stage of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RolloutStage {
    /// Its replicas start, beside those of the version that serves.
    Starting,
    /// The version serves: all new messages go to it.
    Serving,
    /// A newer version has replaced it.
    Replaced,
    /// It has not become ready, or a replica of it has failed before. The version before goes on serving.
    RolledBack,
    /// A newer input was deployed before it was ready.
    Superseded,
}

/// A rollout: the course of one version of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rollout {
    /// Number of the version, from 1.
    pub version: u64,
    /// The stage that the rollout has reached.
    pub stage: RolloutStage,
    /// The reason, for a version that was rolled back.
    pub message: Option<String>,
    /// Wall-clock time at which the rollout has reached the stage; serialised as milliseconds since 1970.
    #[serde(with = "milliseconds")]
    pub time: SystemTime,
}

/// A service after one of its reactions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceReport {
    /// Number of the version that serves.
    pub(crate) serving: Option<u64>,
    /// Wanted number of replicas of the version that serves.
    pub(crate) wanted: usize,
    /// The last rollouts, oldest first.
    pub(crate) rollouts: Vec<Rollout>,
    /// The replicas that have joined the App, by their numbers.
    pub(crate) replicas: Vec<ReplicaReport>,
}

/// A replica after a reaction of its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaReport {
    /// Number of the replica.
    pub(crate) id: u64,
    pub(crate) path: ActorPath,
    pub(crate) version: u64,
    /// True once the replica has called `ready`, until it leaves.
    pub(crate) is_ready: bool,
    /// True while the replica finishes its last messages.
    pub(crate) is_draining: bool,
}

impl ServiceReport {
    /// Returns true if one version serves with a replica in rotation.
    pub(crate) fn is_ready(&self) -> bool {
        let in_rotation = |replica: &ReplicaReport| {
            replica.is_ready && !replica.is_draining && Some(replica.version) == self.serving
        };
        self.replicas.iter().any(in_rotation)
    }
}

/// Shared by the Flow of a service, which reports here, and queries. Cloning is cheap.
#[derive(Clone, Default)]
pub struct ServiceMonitor(Arc<Mutex<Monitored>>);

#[derive(Default)]
struct Monitored {
    report: Arc<ServiceReport>,
    /// Counts the messages; absent until the service has an address.
    load: Option<Arc<dyn Fn() -> ServiceLoad + Send + Sync>>,
}

impl ServiceMonitor {
    pub(crate) fn publish(&self, report: ServiceReport) {
        let mut monitored = self.0.lock();
        if *monitored.report != report {
            monitored.report = Arc::new(report);
        }
    }

    /// Sets how messages are counted.
    pub(crate) fn count_by(&self, load: impl Fn() -> ServiceLoad + Send + Sync + 'static) {
        self.0.lock().load = Some(Arc::new(load));
    }

    pub(crate) fn report(&self) -> Arc<ServiceReport> {
        self.0.lock().report.clone()
    }

    /// Counts the messages of the service.
    pub(crate) fn load(&self) -> ServiceLoad {
        let load = self.0.lock().load.clone();
        load.map(|load| load()).unwrap_or_default()
    }
}
