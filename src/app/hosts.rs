//! The places of an App: this process, and the others that take part.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use actix_rt::{Arbiter, ArbiterHandle};

use super::snapshot::HEAD;
use crate::id::{ActorPath, AppId};
use crate::recorder::Carried;
use crate::remote::{Head, HeadOptions, NodeStatus, RecordedBy, Spawner, Vitals};
use crate::work::{
    Closed, Doorbell, Host, HostError, HostEvent, Ingredients, LocalHost, Placement, Resources,
};

/// The bridge to other processes, which is there once it is needed.
#[derive(Clone, Default)]
pub(super) struct SharedHead(Arc<OnceLock<Arc<Head>>>);

impl SharedHead {
    pub(super) fn get(&self) -> Option<&Arc<Head>> {
        self.0.get()
    }
}

pub(super) struct Hosts {
    app: AppId,
    local: LocalHost,
    /// `None` where everything is on one thread, for tests with a clock of their own.
    remote: Option<HeadOptions>,
    head: SharedHead,
    /// The thread that the bridge lives on, and that pooled Works share.
    bridge: Option<ArbiterHandle>,
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Some(bridge) = &self.bridge {
            bridge.stop();
        }
    }
}

impl Hosts {
    pub(super) fn new(app: AppId, local: LocalHost, remote: Option<HeadOptions>) -> Self {
        Self { app, local, remote, head: SharedHead::default(), bridge: None }
    }

    pub(super) fn head(&self) -> SharedHead {
        self.head.clone()
    }

    /// The bridge, which begins to live on a thread of its own that pooled Works share.
    pub(super) fn start_head(&mut self, doorbell: &Arc<Doorbell>) -> Result<Arc<Head>, String> {
        if let Some(head) = self.head.get() {
            return Ok(head.clone());
        }
        let options = self.remote.take().ok_or("this App runs on one thread, for tests")?;
        let arbiter = std::panic::catch_unwind(Arbiter::new)
            .map_err(|_| "no thread could be started for the bridge to other processes")?
            .handle();
        self.local.share(arbiter.clone());
        self.bridge = Some(arbiter.clone());
        let head = Head::new(self.app, options, doorbell.clone(), spawner(arbiter));
        Ok(self.head.0.get_or_init(|| head).clone())
    }

    pub(super) fn launch(
        &mut self,
        placement: &Placement,
        needs: Resources,
        what: Ingredients,
        doorbell: &Arc<Doorbell>,
    ) -> Result<(), HostError> {
        match placement {
            Placement::Process | Placement::Node(_) => match self.start_head(doorbell) {
                Ok(head) => {
                    let path = what.path.clone();
                    head.launch(placement, needs, what)?;
                    if *placement == Placement::Process {
                        head.launched_here(&path);
                    }
                    Ok(())
                }
                Err(why) => Err(HostError::NoProcess { path: what.path.to_string(), why }),
            },
            _ => {
                let path = self.head.get().map(|_| what.path.clone());
                self.local.launch(placement, needs, what)?;
                if let (Some(head), Some(path)) = (self.head.get(), path) {
                    head.launched_here(&path);
                }
                Ok(())
            }
        }
    }

    /// The Work at `path` takes no messages for now: processes that have its address are told.
    pub(super) fn closed(&self, path: &ActorPath, why: Closed) {
        if let Some(head) = self.head.get() {
            head.closed(path, why);
        }
    }

    pub(super) fn flush(&mut self) {
        self.local.flush();
    }

    pub(super) fn events(&mut self) -> Vec<HostEvent> {
        self.head.get().map(|head| head.take_events()).unwrap_or_default()
    }

    /// The name of the node where a Work was launched last.
    pub(super) fn node_of(&self, path: &ActorPath) -> Arc<str> {
        static HERE: OnceLock<Arc<str>> = OnceLock::new();
        let elsewhere = self.head.get().and_then(|head| head.node_of(path));
        elsewhere.unwrap_or_else(|| HERE.get_or_init(|| Arc::from(HEAD)).clone())
    }

    /// Where nodes join.
    pub(super) fn listening(&self) -> Option<String> {
        Some(self.head.get()?.endpoint()?.to_string())
    }

    /// What the processes of single Works, which are on this machine, have told of themselves.
    pub(super) fn vitals_of_processes(&self) -> Vec<Vitals> {
        self.head.get().map(|head| head.vitals_of_processes()).unwrap_or_default()
    }

    /// What was recorded in other processes.
    pub(super) fn recorded(&self) -> Vec<(RecordedBy, Arc<Carried>)> {
        self.head.get().map(|head| head.recorded()).unwrap_or_default()
    }

    pub(super) fn nodes(&self) -> BTreeMap<String, NodeStatus> {
        self.head.get().map(|head| head.status()).unwrap_or_default()
    }
}

/// Of local tasks of this arbiter.
pub(super) fn spawner(arbiter: ArbiterHandle) -> Spawner {
    Arc::new(move |task| {
        // When it has stopped the App is over.
        let _ = arbiter.spawn_fn(move || drop(actix_rt::spawn(task())));
    })
}
