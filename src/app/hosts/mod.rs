//! The places of an App: this process, and others that take part where the feature `remote` is on.

#[cfg(feature = "remote")]
mod elsewhere;
#[cfg(not(feature = "remote"))]
#[path = "elsewhere_off.rs"]
mod elsewhere;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::snapshot::HEAD;
use crate::id::ActorPath;
use crate::payload::PayloadId;
use crate::recorder::Carried;
use crate::work::{
    CloseReason, GpuPool, Host, HostError, HostEvent, LaunchSpec, LoadReport, LocalHost, NodeStatus,
    Placement, ReadyQueue, RecordedBy, Resources,
};

pub(super) use self::elsewhere::Elsewhere;
#[cfg(feature = "remote")]
pub(super) use self::elsewhere::{SharedHead, spawner};

/// Starts Works in the place that each is given.
pub(super) struct Hosts {
    local: LocalHost,
    pub(super) elsewhere: Elsewhere,
    /// The devices of this machine; `None` where they are not known.
    gpus: Option<Arc<GpuPool>>,
    /// Whether some of them are free again.
    freed: Arc<AtomicBool>,
}

impl Hosts {
    pub(super) fn new(local: LocalHost, elsewhere: Elsewhere) -> Self {
        Self { local, elsewhere, gpus: None, freed: Arc::default() }
    }

    /// Assigns so many devices to Works on this machine from now on.
    pub(super) fn assign_gpus(&mut self, count: u32, ready_queue: &Arc<ReadyQueue>) {
        let (freed, ready_queue) = (self.freed.clone(), ready_queue.clone());
        self.gpus = Some(GpuPool::new(count, move || {
            freed.store(true, Ordering::Release);
            ready_queue.ring_again();
        }));
    }

    pub(super) fn launch(
        &mut self,
        placement: &Placement,
        needs: Resources,
        mut what: LaunchSpec,
        ready_queue: &Arc<ReadyQueue>,
    ) -> Result<(), HostError> {
        let is_here = !matches!(placement, Placement::Node(_));
        if let Some(gpus) = self.gpus.as_ref().filter(|_| needs.gpus > 0 && is_here) {
            what.gpus = gpus.lease(needs.gpus).map_err(HostError::Unplaced)?;
        }
        match placement {
            Placement::Process | Placement::Node(_) => {
                self.elsewhere.launch(placement, needs, what, ready_queue, &mut self.local)
            }
            _ => {
                let path = what.path.clone();
                self.local.launch(placement, needs, what)?;
                self.elsewhere.launched_here(&path);
                Ok(())
            }
        }
    }

    /// Starts the bridge to other processes, unless it is there.
    #[cfg(feature = "remote")]
    pub(super) fn start_head(
        &mut self,
        ready_queue: &Arc<ReadyQueue>,
    ) -> Result<Arc<crate::remote::Head>, String> {
        self.elsewhere.start_head(ready_queue, &mut self.local)
    }

    /// Tells processes that have the address of the Work at `path` that it takes no messages for now.
    pub(super) fn closed(&self, path: &ActorPath, why: CloseReason) {
        self.elsewhere.closed(path, why);
    }

    /// Says that the App ends.
    pub(super) fn stopping(&self) {
        self.elsewhere.stopping();
    }

    pub(super) fn flush(&mut self) {
        self.local.flush();
    }

    pub(super) fn events(&mut self) -> Vec<HostEvent> {
        let mut events = self.elsewhere.events();
        if self.freed.swap(false, Ordering::Acquire) {
            events.push(HostEvent::Room);
        }
        events
    }

    /// The name of the node where a Work was launched last.
    pub(super) fn node_of(&self, path: &ActorPath) -> Arc<str> {
        static HERE: OnceLock<Arc<str>> = OnceLock::new();
        let elsewhere = self.elsewhere.node_of(path);
        elsewhere.unwrap_or_else(|| HERE.get_or_init(|| Arc::from(HEAD)).clone())
    }

    /// The names of the nodes that hold the value of a payload.
    pub(super) fn holders(&self, id: PayloadId) -> Vec<String> {
        self.elsewhere.holders(id).unwrap_or_else(|| vec![HEAD.to_owned()])
    }

    /// The address where nodes join.
    pub(super) fn listening(&self) -> Option<String> {
        self.elsewhere.listening()
    }

    /// The load of the processes of single Works, which are on this machine.
    pub(super) fn load_of_processes(&self) -> Vec<LoadReport> {
        self.elsewhere.load_of_processes()
    }

    /// Metrics that were recorded in other processes.
    pub(super) fn recorded(&self) -> Vec<(RecordedBy, Arc<Carried>)> {
        self.elsewhere.recorded()
    }

    pub(super) fn nodes(&self) -> BTreeMap<String, NodeStatus> {
        self.elsewhere.nodes()
    }
}
