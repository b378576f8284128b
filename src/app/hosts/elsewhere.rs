//! Hosts in other processes. The head side of the connection to them is started on first use.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_rt::ArbiterHandle;

use crate::descriptors;
use crate::id::ActorPath;
use crate::payload::PayloadId;
use crate::recorder::Carried;
use crate::remote::{Head, HeadOptions, KeptProcess, ProcessHome, Spawner};
use crate::runtime::Runtime;
use crate::work::{
    CloseReason, HostError, HostEvent, LaunchSpec, LoadReport, LocalHost, NodeStatus, Placement, ReadyQueue,
    RecordedBy, Resources, start_arbiter,
};

/// The head side of the connection to other processes, once it has been started.
#[derive(Clone, Default)]
pub(in crate::app) struct SharedHead(Arc<OnceLock<Arc<Head>>>);

impl SharedHead {
    pub(in crate::app) fn get(&self) -> Option<&Arc<Head>> {
        self.0.get()
    }
}

/// The hosts in other processes.
pub(in crate::app) struct Elsewhere {
    runtime: Arc<Runtime>,
    /// `None` when the whole App runs on one thread, as in tests with a paused clock.
    options: Option<HeadOptions>,
    /// Processes of single Works that an earlier head has started.
    kept: Vec<KeptProcess>,
    head: SharedHead,
    /// The thread of the head, which pooled Works share.
    bridge: Option<ArbiterHandle>,
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(bridge) = &self.bridge {
            bridge.stop();
        }
    }
}

impl Elsewhere {
    pub(in crate::app) fn new(runtime: Arc<Runtime>, options: Option<HeadOptions>) -> Self {
        let home = options.as_ref().and_then(|options| options.home.as_ref());
        let kept = home.map(ProcessHome::kept).unwrap_or_default();
        Self { runtime, options, kept, head: SharedHead::default(), bridge: None }
    }

    /// Returns true if a process of this Work that an earlier head has started is alive.
    #[cfg(feature = "journal")]
    pub(super) fn is_kept(&self, path: &ActorPath) -> bool {
        self.kept.iter().any(|process| process.path == *path && process.is_alive())
    }

    /// Takes the processes of single Works that an earlier head has started.
    pub(super) fn take_kept(&mut self) -> Vec<KeptProcess> {
        std::mem::take(&mut self.kept)
    }

    pub(in crate::app) fn head(&self) -> SharedHead {
        self.head.clone()
    }

    /// Returns the head, started if necessary on a thread of its own, which pooled Works share.
    pub(in crate::app) fn start_head(
        &mut self,
        ready_queue: &Arc<ReadyQueue>,
        local: &mut LocalHost,
    ) -> Result<Arc<Head>, String> {
        if let Some(head) = self.head.get() {
            return Ok(head.clone());
        }
        let options = self.options.take().ok_or("this App runs on one thread, for tests")?;
        let arbiter = start_arbiter(&self.runtime).map_err(|error| {
            let hint = descriptors::hint(&error);
            format!(
                "no thread with a runtime could be started for the bridge to other processes: {error}{hint}"
            )
        })?;
        let arbiter = arbiter.handle();
        local.share(arbiter.clone());
        self.bridge = Some(arbiter.clone());
        let head = Head::new(self.runtime.clone(), options, ready_queue.clone(), spawner(arbiter));
        Ok(self.head.0.get_or_init(|| head).clone())
    }

    pub(super) fn launch(
        &mut self,
        placement: &Placement,
        needs: Resources,
        runs_for: Option<Duration>,
        what: LaunchSpec,
        ready_queue: &Arc<ReadyQueue>,
        local: &mut LocalHost,
    ) -> Result<(), HostError> {
        match self.start_head(ready_queue, local) {
            Ok(head) => {
                let path = what.path.clone();
                head.launch(placement, needs, runs_for, what)?;
                if *placement == Placement::Process {
                    head.launched_here(&path);
                }
                Ok(())
            }
            Err(why) => Err(HostError::NoProcess { path: what.path.to_string(), why }),
        }
    }

    pub(super) fn launched_here(&self, path: &ActorPath) {
        if let Some(head) = self.head.get() {
            head.launched_here(path);
        }
    }

    pub(super) fn closed(&self, path: &ActorPath, why: CloseReason) {
        if let Some(head) = self.head.get() {
            head.closed(path, why);
        }
    }

    pub(super) fn stopping(&self) {
        if let Some(head) = self.head.get() {
            head.stopping();
        }
    }

    pub(super) fn drain(&self, node: &str, why: &str) -> bool {
        self.head.get().is_some_and(|head| head.drain(node, why))
    }

    pub(super) fn events(&self) -> Vec<HostEvent> {
        self.head.get().map(|head| head.take_events()).unwrap_or_default()
    }

    pub(super) fn node_of(&self, path: &ActorPath) -> Option<Arc<str>> {
        self.head.get()?.node_of(path)
    }

    pub(super) fn holders(&self, id: PayloadId) -> Option<Vec<String>> {
        Some(self.head.get()?.holders(id))
    }

    pub(super) fn listening(&self) -> Option<String> {
        Some(self.head.get()?.joining()?.to_string())
    }

    pub(super) fn load_of_processes(&self) -> Vec<LoadReport> {
        self.head.get().map(|head| head.load_of_processes()).unwrap_or_default()
    }

    pub(super) fn recorded(&self) -> Vec<(RecordedBy, Arc<Carried>)> {
        self.head.get().map(|head| head.recorded()).unwrap_or_default()
    }

    pub(super) fn nodes(&self) -> BTreeMap<String, NodeStatus> {
        self.head.get().map(|head| head.status()).unwrap_or_default()
    }
}

/// Returns a function that spawns local tasks on this arbiter.
pub(in crate::app) fn spawner(arbiter: ArbiterHandle) -> Spawner {
    Arc::new(move |task| {
        // Fails only when the arbiter has stopped, which is at the end of the App.
        let _ = arbiter.spawn_fn(move || drop(actix_rt::spawn(task())));
    })
}
