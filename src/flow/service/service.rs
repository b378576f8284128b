//! The Flow behind a [`ServiceRef`](super::ServiceRef), which starts, watches and ends the replicas.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flowright_macros::Children;
use serde::Serialize;

use super::rollouts::{Now, Replica, Rollouts, Seen};
use super::settings::ServiceSettings;
use crate::error::bail;
use crate::flow::Flow;
use crate::flow::context::{FlowContext, FlowWaker};
use crate::flow::reaction::Reaction;
use crate::flow::service_report::{ReplicaReport, ServiceMonitor, ServiceReport};
use crate::flow::work_ref::{Run, WorkRef};
use crate::id::ActorPath;
use crate::runtime;
use crate::state::Value;
use crate::work::{Frontend, InRotation, Reason, Routing, Stage, Work};

/// The Flow of a service: its children are the replicas, and its own fields the versions.
#[derive(Serialize, Children)]
#[serde(bound = "")]
pub(super) struct Service<W: Work> {
    pub(super) replicas: BTreeMap<String, WorkRef<W>>,
    pub(super) rollouts: Rollouts<W::Input>,
    /// The state with which a replica begins.
    pub(super) template: Value,
    pub(super) settings: ServiceSettings,
    #[serde(skip)]
    pub(super) routing: Routing,
    #[serde(skip)]
    pub(super) life: Life<W>,
}

/// The parts of a service that live as long as its process.
pub(super) struct Life<W: Work> {
    /// Absent until the service joins an App.
    pub(super) frontend: Option<Frontend<W>>,
    waker: Arc<OnceLock<FlowWaker>>,
    window: Window,
    monitor: ServiceMonitor,
}

impl<W: Work> Default for Life<W> {
    fn default() -> Self {
        Self {
            frontend: None,
            waker: Arc::default(),
            window: Window::default(),
            monitor: ServiceMonitor::default(),
        }
    }
}

/// The time over which the load is observed before there are fewer replicas.
#[derive(Default)]
struct Window {
    began: Duration,
    /// Largest number of messages since then.
    peak: usize,
}

/// Returns the name of a replica below its service.
fn name(id: u64, replica: &Replica) -> String {
    format!("v{}-{id}", replica.version)
}

impl<W: Work> Service<W> {
    pub(super) fn new(template: Value, in_flight: usize) -> Self {
        Self {
            replicas: BTreeMap::new(),
            rollouts: Rollouts::default(),
            template,
            settings: ServiceSettings { in_flight, ..ServiceSettings::default() },
            routing: Routing::default(),
            life: Life::default(),
        }
    }

    /// Requests the run of each replica with the input of its version, and returns what is seen of the replicas.
    fn look(&self) -> BTreeMap<u64, Seen> {
        let look = |(id, replica): (&u64, &Replica)| {
            let is_drained = self.life.frontend.as_ref().is_none_or(|frontend| frontend.taken_by(*id) == 0);
            let mut seen = Seen { is_drained, ..Seen::default() };
            let work = self.replicas.get(&name(*id, replica));
            if let (Some(work), Some(input), None) =
                (work, self.rollouts.input_of(replica.version), replica.drain_until)
            {
                let run = work.run_known(input);
                seen.is_ready = run.is_ready();
                seen.broken = broken(work, &run);
            }
            (*id, seen)
        };
        self.rollouts.replicas().iter().map(look).collect()
    }

    /// Follows the load with the number of replicas, if it may vary. Returns the time of the next look at it.
    fn follow_load(&mut self, now: Duration) -> Option<Duration> {
        let ServiceSettings { least, most, cool_down, .. } = self.settings;
        let frontend = self.life.frontend.as_ref()?;
        if least >= most || self.rollouts.serving().is_none() {
            return None;
        }
        let target = self.settings.target();
        let window = &mut self.life.window;
        let wanted = self.rollouts.wanted().clamp(least, most);
        let alarm = if wanted < most { wanted.saturating_mul(target) } else { usize::MAX };
        window.peak = window.peak.max(frontend.peak(alarm));
        let needed = window.peak.div_ceil(target).clamp(least, most);
        let is_calm = now >= window.began.saturating_add(cool_down);
        if needed > wanted || is_calm {
            *window = Window { began: now, peak: 0 };
            self.rollouts.scale(needed);
            if needed < most {
                // Armed for the new number.
                window.peak = frontend.peak(needed.saturating_mul(target));
            }
        }
        let is_above = self.rollouts.wanted() > least;
        is_above.then(|| window.began.saturating_add(cool_down))
    }

    /// Has the children that there are to be.
    fn reconcile(&mut self) -> Reaction {
        let wanted: BTreeMap<_, _> =
            self.rollouts.replicas().iter().map(|(id, replica)| (name(*id, replica), *replica)).collect();
        self.replicas.retain(|name, _| wanted.contains_key(name));
        for (name, replica) in wanted {
            if !self.replicas.contains_key(&name) {
                let settings = self.settings.work.clone();
                let work = WorkRef::with_settings(self.template.decode::<W>()?, settings);
                // The run is requested before the Work joins, so that the service reacts again then.
                if let Some(input) = self.rollouts.input_of(replica.version) {
                    work.run_known(input);
                }
                self.replicas.insert(name, work);
            }
        }
        Ok(())
    }

    fn rotate(&self, seen: &BTreeMap<u64, Seen>) {
        let (Some(frontend), Some(serving)) = (&self.life.frontend, self.rollouts.serving()) else { return };
        let version = serving.number;
        let ready = self.rollouts.rotation(seen).into_iter();
        let rotation = ready.filter_map(|id| {
            let name = name(id, self.rollouts.replicas().get(&id)?);
            Some(InRotation { id, addr: self.replicas.get(&name)?.addr(), version })
        });
        frontend.rotate(rotation.collect(), self.settings.in_flight);
    }

    fn report(&self, seen: &BTreeMap<u64, Seen>) -> ServiceReport {
        let replica = |(id, replica): (&u64, &Replica)| {
            Some(ReplicaReport {
                id: *id,
                path: self.replicas.get(&name(*id, replica))?.path()?,
                version: replica.version,
                is_ready: seen.get(id).is_some_and(|seen| seen.is_ready),
                is_draining: replica.drain_until.is_some(),
            })
        };
        ServiceReport {
            serving: self.rollouts.serving().map(|serving| serving.number),
            wanted: self.rollouts.wanted(),
            rollouts: self.rollouts.rollouts().cloned().collect(),
            replicas: self.rollouts.replicas().iter().filter_map(replica).collect(),
        }
    }

    /// Fails if a replica that serves has failed after its last restart.
    fn check_serving(&self, seen: &BTreeMap<u64, Seen>) -> Reaction {
        let Some(serving) = self.rollouts.serving() else { return Ok(()) };
        for (id, replica) in self.rollouts.replicas() {
            if replica.version != serving.number || replica.drain_until.is_some() {
                continue;
            }
            if let Some(work) = self.replicas.get(&name(*id, replica))
                && seen.contains_key(id)
                && work.status().stage == Stage::Failed
            {
                let path = work.path().map(|path| path.to_string()).unwrap_or_default();
                let why = work.status().message.unwrap_or_default();
                bail!("replica `{path}`, which served, has failed after its last restart: {why}");
            }
        }
        Ok(())
    }
}

/// Returns the reason why a replica that was not ready yet will not become so. The loss of its process or node is none: it
/// starts again.
fn broken<W: Work>(work: &WorkRef<W>, run: &Run<'_, W>) -> Option<String> {
    let last = run.status();
    let is_lost = |reason| matches!(reason, Some(Reason::ProcessDied | Reason::NodeLost));
    let failed = if last.stage == Stage::Failed {
        Some(last)
    } else {
        let mut statuses = work.statuses().into_iter();
        statuses.find(|status| status.stage == Stage::Failed && !is_lost(status.reason))
    };
    failed.map(|status| status.message.unwrap_or_else(|| "its run failed".to_owned()))
}

impl<W: Work> Flow for Service<W> {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if let Some(waker) = cx.waker() {
            // The first one stays good.
            let _ = self.life.waker.set(waker);
        }
        let moment = cx.moment();
        let now = Now { at: moment.at, wall: moment.wall };
        let seen = self.look();
        self.check_serving(&seen)?;
        let bounds = self.settings.bounds();
        self.rollouts.step(&seen, &bounds, now);
        let look_again = self.follow_load(now.at);
        self.rollouts.step(&seen, &bounds, now);
        self.rotate(&seen);
        // Those that have left the rotation just now may have no message.
        let seen = self.look();
        self.rollouts.step(&seen, &bounds, now);
        self.reconcile()?;
        self.life.monitor.publish(self.report(&seen));
        let next = self.rollouts.next_deadline().into_iter().chain(look_again).min();
        if let Some(next) = next {
            cx.wake_in(next.saturating_sub(now.at));
        }
        Ok(())
    }

    // The messages that replicas have not finished.
    const SEES_UNRECORDED: bool = true;

    fn joined(&mut self, path: &ActorPath) {
        let Ok(runtime) = runtime::current() else { return };
        let waker = self.life.waker.clone();
        let changed = Box::new(move || {
            if let Some(waker) = waker.get() {
                waker.wake();
            }
        });
        let frontend = Frontend::new(&runtime, path, self.routing.clone(), self.settings.queue, changed);
        self.life.monitor.count_by(frontend.meter());
        self.life.frontend = Some(frontend);
    }

    fn monitor(&self) -> Option<ServiceMonitor> {
        Some(self.life.monitor.clone())
    }
}
