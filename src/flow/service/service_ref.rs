//! Handles by which a Flow holds its services.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::rollouts::{InputKey, Now};
use super::service::Service;
use super::settings::Replicas;
use crate::flow::check::Check;
use crate::flow::children::{ChildGroup, Found, Kinds, Route, Walk};
use crate::flow::error::FlowError;
use crate::flow::flow_ref::FlowRef;
use crate::flow::policy::{Journaled, OnNodeLost, Overlap, Policy};
use crate::flow::restart::{OnError, Restart};
use crate::flow::restoring::{Prepared, Restoring};
use crate::flow::scope;
use crate::flow::service_report::{Rollout, RolloutStage};
use crate::flow::shape::Shape;
use crate::flow::work_ref::WorkRef;
use crate::id::ActorPath;
use crate::payload::Hex;
use crate::state::Value;
use crate::work::{Input, Messages, Placement, Resources, Routing, Status, Work, WorkAddr};

/// A Flow's handle to a service: one address for several replicas of a Work, whose versions are replaced while they serve.
///
/// A version is an input that was [deployed](Self::deploy). Its replicas start beside those of the version that serves and
/// get the input by [`Work::run`]. A replica counts once its run calls [`WorkContext::ready`](crate::WorkContext::ready);
/// afterwards the run goes on, as with [`serve_forever`](crate::WorkContext::serve_forever). When the replicas that start
/// beside the old ones are ready, new messages go to them, all at once: nobody gets an answer of an older version any
/// more. The old replicas finish the messages that they have, and end. If a replica fails before, or the version is not
/// ready [in time](Self::ready_within), it is rolled back, and the old version goes on serving.
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::ServiceRef;
/// #[derive(Serialize, Deserialize)]
/// struct Predict(f64);
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Model {
///     slope: f64,
/// }
///
/// impl Work for Model {
///     type Input = f64; // what is deployed
///
///     async fn run(&mut self, slope: f64, cx: &mut WorkContext<Self>) -> Result<()> {
///         self.slope = slope; // loads the model
///         cx.ready(self);
///         cx.serve_forever(self).await?;
///         Ok(())
///     }
///
///     fn messages(messages: &mut Messages<Self>) {
///         messages.accept::<Predict>();
///     }
/// }
///
/// impl Handle<Predict> for Model {
///     type Reply = f64;
///
///     async fn handle(&mut self, m: Predict, _cx: &mut WorkContext<Self>) -> f64 {
///         self.slope * m.0
///     }
/// }
///
/// #[derive(Serialize, Children)]
/// struct Deployment {
///     server: ServiceRef<Model>,
/// }
///
/// impl Flow for Deployment {
///     fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
///         self.server.deploy(3.0);
///         Ok(())
///     }
/// }
///
/// # let app = flowright::testing::TestApp::start(|| Deployment {
/// #     server: ServiceRef::new(Model::default()).replicas(2),
/// # });
/// # let server = app.work::<Model>("server");
/// # assert_eq!(app.block_on(async { server.ask(Predict(2.0)).await }).unwrap(), 6.0);
/// # app.stop().result.unwrap();
/// ```
///
/// # Messages
/// Send messages to [`addr`](Self::addr). A message waits in the service until a replica has room for it, so that it can
/// still go to any of them: by default a replica has one message at a time ([`in_flight`](Self::in_flight)). If a replica
/// stops or its process is killed, the messages go to others that no handler had begun. One that a handler of a killed
/// process had begun, or that a lost node had got, may have been handled; its caller gets the error that says so.
///
/// Messages of one sender may be handled by different replicas, and so in another order than they were sent.
///
/// # Durability
/// With a journal, versions, replicas and their states are recorded. An App that is started again goes on with the version
/// that served, and with the rollout under way.
pub struct ServiceRef<W: Work> {
    flow: FlowRef<Service<W>>,
}

impl<W: Work> ServiceRef<W> {
    /// Creates a service whose replicas begin with this state. It serves once an input was deployed.
    pub fn new(work: W) -> Self {
        let in_flight = Messages::<W>::largest_batch(&work);
        let template = Value::of(&work).unwrap_or_else(|source| {
            let path = std::any::type_name::<W>().to_owned();
            scope::problem(FlowError::InitialState { path, source });
            Value::Nil
        });
        let mut service = Service::new(template, in_flight);
        service.settings.work.policy = Policy {
            on_error: OnError::Capture,
            restart: Restart::on_failure().max(u32::MAX),
            counts_for_readiness: Some(false),
            ..Policy::default()
        }
        .into();
        Self { flow: FlowRef::new(service) }
    }

    fn set(mut self, set: impl FnOnce(&mut Service<W>)) -> Self {
        set(&mut self.flow);
        self
    }

    fn set_policy(self, set: impl FnOnce(&mut Policy)) -> Self {
        self.set(|service| set(std::sync::Arc::make_mut(&mut service.settings.work.policy)))
    }

    /// Sets the number of replicas; 1 by default. Within a range, such as `2..=8`, the load decides: there are more as soon
    /// as there are more messages than the [target](Self::target) for each, and fewer once there were fewer for the time
    /// to [cool down](Self::cool_down).
    #[must_use]
    pub fn replicas(self, replicas: impl Into<Replicas>) -> Self {
        let Replicas { least, most } = replicas.into();
        self.set(|service| (service.settings.least, service.settings.most) = (least, most))
    }

    /// Sets the number of replicas beyond the wanted one that there may be during a rollout, at least 1. By default there
    /// may be twice as many as wanted, so that a new version starts with all of its replicas. With fewer, as where each
    /// needs a GPU, it serves with these at first, and the others start as the old ones end.
    #[must_use]
    pub fn max_extra(self, replicas: usize) -> Self {
        self.set(|service| service.settings.max_extra = Some(replicas.max(1)))
    }

    /// Sets how messages are distributed; to the replica with the fewest messages by default.
    #[must_use]
    pub fn routing(self, routing: Routing) -> Self {
        self.set(|service| service.routing = routing)
    }

    /// Sets the largest number of messages that a replica has at a time and has not answered; by default 1, or the largest
    /// [batch](crate::Batch) of the messages that it accepts. A deferred reply, or a stream that is open, does not count.
    ///
    /// More spare a replica in another process the time between two messages. Those that a lost node had got fail at their
    /// callers, as their handlers may have begun.
    #[must_use]
    pub fn in_flight(self, messages: usize) -> Self {
        self.set(|service| service.settings.in_flight = messages.max(1))
    }

    /// Sets the largest number of messages that wait for a replica; 1,024 by default. More senders wait for room.
    #[must_use]
    pub fn queue(self, messages: usize) -> Self {
        self.set(|service| service.settings.queue = messages.max(1))
    }

    /// Sets the number of messages for each replica, waiting or with it, beyond which there are more replicas; twice
    /// [`in_flight`](Self::in_flight) by default.
    #[must_use]
    pub fn target(self, messages: usize) -> Self {
        self.set(|service| service.settings.target = Some(messages.max(1)))
    }

    /// Sets the time for which there have to be fewer messages before there are fewer replicas; 60 s by default.
    #[must_use]
    pub fn cool_down(self, time: Duration) -> Self {
        self.set(|service| service.settings.cool_down = time)
    }

    /// Sets the time within which a new version has to be ready; 60 s by default.
    #[must_use]
    pub fn ready_within(self, time: Duration) -> Self {
        self.set(|service| service.settings.ready_within = time)
    }

    /// Sets the time that replicas which leave have to finish their messages; 30 s by default. Afterwards they are asked
    /// to stop: messages that no handler has begun go to another replica.
    #[must_use]
    pub fn drain(self, time: Duration) -> Self {
        self.set(|service| service.settings.drain = time)
    }

    /// Sets what an input does that is deployed while another one is rolled out: with [`Overlap::Latest`], the default, it
    /// follows, unless a newer one comes meanwhile; with [`Overlap::Queue`] all follow; with [`Overlap::Restart`] the
    /// rollout is given up for it at once.
    #[must_use]
    pub fn overlap(self, overlap: Overlap) -> Self {
        self.set(|service| service.settings.overlap = overlap)
    }

    /// Sets the placement of each replica, as [`WorkRef::placed`].
    #[must_use]
    pub fn placed(self, placement: Placement) -> Self {
        self.set(|service| service.settings.work.placement = Some(placement))
    }

    /// Sets the resources that each replica needs, as [`WorkRef::needs`].
    #[must_use]
    pub fn needs(self, needs: Resources) -> Self {
        self.set(|service| service.settings.work.needs = Some(needs))
    }

    /// Sets the time for which each replica runs, as [`WorkRef::runs_for`].
    #[must_use]
    pub fn runs_for(self, time: Duration) -> Self {
        self.set(|service| service.settings.work.runs_for = Some(time))
    }

    /// Sets when a replica that serves is restarted after a failure. By default always, after 0.1 s to 10 s. The service
    /// fails when a replica that serves has failed after its last restart.
    #[must_use]
    pub fn restart(self, restart: Restart) -> Self {
        self.set_policy(|policy| policy.restart = restart)
    }

    /// Sets what becomes of a replica whose node is lost, as [`WorkRef::on_node_lost`].
    #[must_use]
    pub fn on_node_lost(self, on_node_lost: OnNodeLost) -> Self {
        self.set_policy(|policy| policy.on_node_lost = on_node_lost)
    }

    /// Sets the time that a replica has to end after it was asked to, as [`WorkRef::grace`].
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        self.set_policy(|policy| policy.grace = grace)
    }

    /// Sets what is recorded of each replica, as [`WorkRef::journal`].
    #[must_use]
    pub fn journal(self, what: Journaled) -> Self {
        self.set_policy(|policy| policy.journaled = what)
    }

    /// Sets the handling of a failure of the service, as [`FlowRef::on_error`].
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.flow = self.flow.on_error(on_error);
        self
    }

    /// Has the service serve a new version, with this input. Each distinct input is rolled out once, until it is
    /// [forgotten](Self::forget): a Flow may call this in each reaction. Inputs are compared as those of
    /// [`WorkRef::run`].
    ///
    /// # Errors
    /// The Flow fails with [`FlowError::Input`] if the input cannot be serialised.
    pub fn deploy(&mut self, input: W::Input) {
        let Some(key) = self.key(&input) else { return };
        if self.flow.rollouts.is_known(key) {
            return;
        }
        let overlap = self.flow.settings.overlap;
        let now = scope::with(|scope| Now { at: scope.now.at, wall: scope.now.wall });
        let now = now.unwrap_or(Now { at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH });
        self.flow.rollouts.deploy(key, input, overlap, now);
    }

    /// Forgets that this input was deployed, so that it can be deployed again: after a rollback, or to serve an earlier
    /// version again. The version that serves goes on.
    pub fn forget(&mut self, input: &W::Input) {
        if let Some(key) = self.key(input)
            && self.flow.rollouts.is_known(key)
        {
            self.flow.rollouts.forget(key);
        }
    }

    /// Sets the number of replicas, within the range of [`replicas`](Self::replicas).
    pub fn scale(&mut self, replicas: usize) {
        let (least, most) = (self.flow.settings.least, self.flow.settings.most);
        let replicas = replicas.clamp(least, most.max(least));
        if self.flow.rollouts.wanted() != replicas {
            self.flow.rollouts.scale(replicas);
        }
    }

    fn key(&self, input: &W::Input) -> Option<InputKey> {
        match Input::new(input) {
            Ok((key, _)) => Some(Hex(key.to_bytes())),
            Err(source) => {
                let path = self.path().map(|path| path.to_string()).unwrap_or_default();
                scope::problem(FlowError::Input { path, source });
                None
            }
        }
    }

    /// Returns the last rollout: the one under way, or else the last that has ended.
    pub fn rollout(&self) -> Option<&Rollout> {
        self.flow.rollouts.rollouts().next_back()
    }

    /// Returns the last rollouts, oldest first; at most 16.
    pub fn rollouts(&self) -> impl DoubleEndedIterator<Item = &Rollout> {
        self.flow.rollouts.rollouts()
    }

    /// Returns the number of the version that serves, from 1.
    pub fn version(&self) -> Option<u64> {
        self.flow.rollouts.serving().map(|serving| serving.number)
    }

    /// Returns the input of the version that serves.
    pub fn deployed(&self) -> Option<&W::Input> {
        self.flow.rollouts.serving().map(|serving| &serving.input)
    }

    /// Returns true while a rollout is under way, or an input waits for one.
    pub fn is_rolling_out(&self) -> bool {
        let last = self.rollout().is_some_and(|rollout| rollout.stage == RolloutStage::Starting);
        last || self.flow.rollouts.is_waiting()
    }

    /// Returns the replicas of all versions, by their names: `v2-5` is replica 5, of version 2. A Flow reads their states
    /// and sends them messages; the service starts and stops them.
    pub fn all(&self) -> impl Iterator<Item = (&str, &WorkRef<W>)> {
        self.flow.replicas.iter().map(|(name, work)| (name.as_str(), work))
    }

    /// Returns the address of the service, to which messages are sent as to a Work. Before the service has joined the App,
    /// sending to it fails.
    pub fn addr(&self) -> WorkAddr<W> {
        self.flow.life.frontend.as_ref().map_or_else(WorkAddr::nowhere, |frontend| frontend.addr().clone())
    }

    /// Returns the status of the service: running, or failed with the reason.
    pub fn status(&self) -> Status {
        self.flow.status()
    }

    /// Returns the path from the root of the App, or `None` before the service has joined the App.
    pub fn path(&self) -> Option<ActorPath> {
        self.flow.path()
    }
}

impl<W: Work + Default> Default for ServiceRef<W> {
    fn default() -> Self {
        Self::new(W::default())
    }
}

impl<W: Work> From<W> for ServiceRef<W> {
    fn from(work: W) -> Self {
        Self::new(work)
    }
}

impl<W: Work> fmt::Debug for ServiceRef<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceRef")
            .field("work", &std::any::type_name::<W>())
            .field("path", &self.path())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl<W: Work> Serialize for ServiceRef<W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.flow.serialize(serializer)
    }
}

impl<W: Work> ChildGroup for ServiceRef<W> {
    fn kinds(kinds: &mut Kinds) {
        FlowRef::<Service<W>>::kinds(kinds);
    }

    fn walk(&mut self, walk: &mut Walk<'_>) {
        self.flow.walk(walk);
    }

    fn holds(&self, route: Route<'_>) -> bool {
        self.flow.holds(route)
    }

    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>> {
        self.flow.find(route)
    }

    fn shape(&self) -> Option<Shape> {
        self.flow.shape()
    }

    fn prepare(&self, shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Prepared<Self>> {
        // Those of the program as it is now count for what is started from now on.
        let (template, settings) = (self.flow.template.clone(), self.flow.settings.clone());
        let change = self.flow.prepare(shape, restoring)?;
        Some(Box::new(move |field| {
            change(&mut field.flow);
            field.flow.template = template;
            field.flow.settings = settings;
        }))
    }

    fn rebuild(shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Self> {
        FlowRef::rebuild(shape, restoring).map(|flow| Self { flow })
    }

    fn check(check: &mut Check) {
        FlowRef::<Service<W>>::check(check);
    }
}
