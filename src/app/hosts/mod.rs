//! The hosts of an App: this process, and with the feature `remote` other processes.

#[cfg(feature = "remote")]
mod elsewhere;
#[cfg(not(feature = "remote"))]
#[path = "elsewhere_off.rs"]
mod elsewhere;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::waiting::{Waiting, Wanted};
use super::resources::resources;
use crate::id::{ActorPath, WorkId};
use crate::payload::PayloadId;
use crate::recorder::Carried;
#[cfg(feature = "remote")]
use crate::remote::KeptProcess;
#[cfg(feature = "remote")]
use crate::state::Patch;
#[cfg(feature = "remote")]
use crate::work::{Claim, Gpus};
use crate::work::{
    CloseReason, Demand, GpuPool, Host, HostError, HostEvent, LaunchSpec, LoadReport, LocalHost, NodeStatus,
    Placement, ReadyQueue, RecordedBy, Resources,
};

pub(super) use self::elsewhere::Elsewhere;
#[cfg(feature = "remote")]
pub(super) use self::elsewhere::{SharedHead, spawner};

/// Number of Works waiting for the same that are told a changed reason, those that have waited longest.
const MOST_TOLD: usize = 32;

/// The name of the node with the Flows.
pub(crate) const HEAD: &str = "head";

/// Launches Works according to their placement.
pub(super) struct Hosts {
    local: LocalHost,
    elsewhere: Elsewhere,
    /// The resources of this machine.
    resources: Resources,
    /// Works that wait for a node or for GPUs.
    waiting: Waiting,
    /// Demands whose reason has changed.
    reasons: BTreeSet<Wanted>,
    /// The version of the demand that was posted.
    posted: u64,
    #[cfg(feature = "remote")]
    board: Arc<super::demand::DemandBoard>,
    /// The GPUs of this machine; `None` when they are unknown.
    gpus: Option<Arc<GpuPool>>,
    /// True once leased GPUs have been returned.
    freed: Arc<AtomicBool>,
}

impl Hosts {
    pub(super) fn new(local: LocalHost, elsewhere: Elsewhere) -> Self {
        Self {
            local,
            elsewhere,
            resources: resources(),
            waiting: Waiting::default(),
            reasons: BTreeSet::new(),
            posted: 0,
            #[cfg(feature = "remote")]
            board: Arc::default(),
            gpus: None,
            freed: Arc::default(),
        }
    }

    /// Makes `count` GPUs available for leases to Works on this machine.
    pub(super) fn assign_gpus(&mut self, count: u32, ready_queue: &Arc<ReadyQueue>) {
        self.resources.gpus = count;
        let (freed, ready_queue) = (self.freed.clone(), ready_queue.clone());
        self.gpus = Some(GpuPool::new(count, move || {
            freed.store(true, Ordering::Release);
            ready_queue.ring_again();
        }));
    }

    /// Launches a Work. If it is refused as [`HostError::Unplaced`], it waits, and is among the next
    /// [`next_to_place`](Self::next_to_place).
    pub(super) fn launch(
        &mut self,
        placement: &Placement,
        needs: Resources,
        runs_for: Option<Duration>,
        what: LaunchSpec,
        ready_queue: &Arc<ReadyQueue>,
    ) -> Result<(), HostError> {
        let id = what.outbox.id();
        let wanted = Wanted::by(placement, needs, runs_for);
        if let Some((wanted, why)) =
            wanted.and_then(|wanted| Some((wanted, self.waiting.refusal(id, &wanted)?.to_owned())))
        {
            // Others wait for the same, and nothing has changed since.
            self.waiting.join(id, wanted);
            return Err(HostError::Unplaced { why, demand: wanted.demand() });
        }
        let launched = self.try_launch(placement, needs, runs_for, what, ready_queue);
        match (&launched, wanted) {
            (Ok(()), _) => self.waiting.launched(id),
            (Err(HostError::Unplaced { why, .. }), Some(wanted)) => {
                if self.waiting.refused(id, wanted, why) {
                    self.reasons.insert(wanted);
                }
            }
            (Err(_), _) => self.waiting.forget(id),
        }
        launched
    }

    /// Has the Works that wait for a node or for GPUs tried again, because there is room.
    pub(super) fn room(&mut self) {
        self.waiting.room();
    }

    /// Returns the next Work that waits and is to be launched again now; it is to be [launched](Self::launch) or
    /// [forgotten](Self::forget). A launch that succeeds brings forth the next one.
    pub(super) fn next_to_place(&mut self) -> Option<WorkId> {
        self.waiting.next()
    }

    /// Returns Works that wait for another reason than they did, with the reason; not all, where many wait for the same.
    pub(super) fn take_reasons(&mut self) -> Vec<(Vec<WorkId>, String)> {
        let changed = std::mem::take(&mut self.reasons);
        let of = |wanted| {
            let (works, why) = self.waiting.first(&wanted, MOST_TOLD)?;
            Some((works, why.to_owned()))
        };
        changed.into_iter().filter_map(of).collect()
    }

    /// Forgets a Work that waits no longer.
    pub(super) fn forget(&mut self, id: WorkId) {
        self.waiting.forget(id);
    }

    /// Posts the demand of the Works that wait for nodes, if it has changed.
    pub(super) fn post_changes(&mut self) {
        if std::mem::replace(&mut self.posted, self.waiting.version()) != self.waiting.version() {
            self.post();
        }
    }

    #[cfg(feature = "remote")]
    fn post(&self) {
        self.board.set(self.waiting.demand());
    }

    #[cfg(not(feature = "remote"))]
    fn post(&self) {}

    #[cfg(feature = "remote")]
    pub(super) fn board(&self) -> &Arc<super::demand::DemandBoard> {
        &self.board
    }

    /// Returns what the fleet does for a Work that waits for a node.
    #[cfg(feature = "remote")]
    pub(super) fn fleet_reason(&self, record: &crate::flow::Record) -> Option<String> {
        let Placement::Node(selector) = record.placement else { return None };
        self.board.reason(&Demand { selector, needs: record.needs, runs_for: record.runs_for })
    }

    #[cfg(not(feature = "remote"))]
    pub(super) fn fleet_reason(&self, _: &crate::flow::Record) -> Option<String> {
        None
    }

    fn try_launch(
        &mut self,
        placement: &Placement,
        needs: Resources,
        runs_for: Option<Duration>,
        mut what: LaunchSpec,
        ready_queue: &Arc<ReadyQueue>,
    ) -> Result<(), HostError> {
        let is_here = !matches!(placement, Placement::Node(_));
        if let Some(gpus) = self.gpus.as_ref().filter(|_| needs.gpus > 0 && is_here) {
            what.gpus = gpus.lease(needs.gpus).map_err(|why| HostError::Unplaced { why, demand: None })?;
        }
        match placement {
            Placement::Process | Placement::Node(_) => {
                self.elsewhere.launch(placement, needs, runs_for, what, ready_queue, &mut self.local)
            }
            _ => {
                let path = what.path.clone();
                self.local.launch(placement, needs, what)?;
                self.elsewhere.launched_here(&path);
                Ok(())
            }
        }
    }

    /// Returns the head side of the connection to other processes, once it has been started.
    #[cfg(feature = "remote")]
    pub(super) fn head(&self) -> SharedHead {
        self.elsewhere.head()
    }

    /// Starts the head side of the connection to other processes, unless it is running.
    #[cfg(feature = "remote")]
    pub(super) fn start_head(
        &mut self,
        ready_queue: &Arc<ReadyQueue>,
    ) -> Result<Arc<crate::remote::Head>, String> {
        self.elsewhere.start_head(ready_queue, &mut self.local)
    }

    /// Returns true if a process of this Work that an earlier head has started is alive.
    #[cfg(feature = "journal")]
    pub(super) fn is_kept(&self, path: &ActorPath) -> bool {
        self.elsewhere.is_kept(path)
    }

    /// Takes the processes of single Works that an earlier head has started, with the devices that they have.
    #[cfg(feature = "remote")]
    pub(super) fn take_kept(&mut self) -> Vec<(KeptProcess, Gpus)> {
        let lease = |process: KeptProcess| {
            let gpus = self.gpus.as_ref().map(|pool| pool.lease_these(&process.gpus)).unwrap_or_default();
            (process, gpus)
        };
        self.elsewhere.take_kept().into_iter().map(lease).collect()
    }

    /// Returns true if a Work with this placement may run on a node.
    #[cfg(feature = "remote")]
    pub(super) fn fits(&self, process: u64, placement: &Placement) -> bool {
        self.elsewhere.head().get().is_some_and(|head| head.fits(process, placement))
    }

    /// Takes over an incarnation that a node has kept. Returns false if the node is lost.
    #[cfg(feature = "remote")]
    pub(super) fn take_over(
        &self,
        claim: Claim,
        patch: Option<Patch>,
        needs: Resources,
        what: LaunchSpec,
    ) -> bool {
        self.elsewhere.head().get().is_some_and(|head| head.take_over(claim, patch, needs, what))
    }

    /// Has a node end an incarnation that it has kept.
    #[cfg(feature = "remote")]
    pub(super) fn refuse(&self, process: u64, incarnation: u64) {
        if let Some(head) = self.elsewhere.head().get() {
            head.refuse(process, incarnation);
        }
    }

    /// Makes a node, whose kept incarnations have been taken over or refused, available for launches.
    #[cfg(feature = "remote")]
    pub(super) fn has_claimed(&self, process: u64) {
        if let Some(head) = self.elsewhere.head().get() {
            head.has_claimed(process);
        }
    }

    /// Tells processes with the address of the Work at `path` that it accepts no messages for now.
    pub(super) fn closed(&self, path: &ActorPath, why: CloseReason) {
        self.elsewhere.closed(path, why);
    }

    /// Tells other processes that the App is stopping.
    pub(super) fn stopping(&self) {
        self.elsewhere.stopping();
    }

    /// Sends a node away. Returns false if there is no such node.
    pub(super) fn drain(&self, node: &str, why: &str) -> bool {
        self.elsewhere.drain(node, why)
    }

    pub(super) fn flush(&mut self) {
        self.local.flush();
    }

    pub(super) fn events(&mut self) -> Vec<HostEvent> {
        let mut events = self.elsewhere.events();
        #[cfg(feature = "remote")]
        if !events.is_empty() {
            self.post();
        }
        #[cfg(feature = "remote")]
        if self.board.take_told() {
            events.push(HostEvent::NodesChanged);
        }
        if self.freed.swap(false, Ordering::Acquire) {
            events.push(HostEvent::Room);
        }
        events
    }

    /// Returns the name of the node on which a Work was last launched.
    pub(super) fn node_of(&self, path: &ActorPath) -> Arc<str> {
        static HERE: OnceLock<Arc<str>> = OnceLock::new();
        let elsewhere = self.elsewhere.node_of(path);
        elsewhere.unwrap_or_else(|| HERE.get_or_init(|| Arc::from(HEAD)).clone())
    }

    /// Returns the names of the nodes that hold the value of a payload.
    pub(super) fn holders(&self, id: PayloadId) -> Vec<String> {
        self.elsewhere.holders(id).unwrap_or_else(|| vec![HEAD.to_owned()])
    }

    /// Returns the address at which nodes join.
    pub(super) fn listening(&self) -> Option<String> {
        self.elsewhere.listening()
    }

    /// Returns the resources of this machine.
    pub(super) fn resources(&self) -> Resources {
        self.resources
    }

    /// Returns the load reports of the processes of single Works, all of which are on this machine.
    pub(super) fn load_of_processes(&self) -> Vec<LoadReport> {
        self.elsewhere.load_of_processes()
    }

    /// Returns the metrics recorded in other processes.
    pub(super) fn recorded(&self) -> Vec<(RecordedBy, Arc<Carried>)> {
        self.elsewhere.recorded()
    }

    pub(super) fn nodes(&self) -> BTreeMap<String, NodeStatus> {
        self.elsewhere.nodes()
    }
}
