//! Handles by which a Flow holds other Flows.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Flow;
use super::check::{Check, FlowProblem};
use super::children::{AnyFlow, ChildGroup, Children, Found, Kinds, Node, Route, Walk};
use super::context::FlowContext;
use super::error::FlowError;
use super::flow_link::{FlowLink, FlowOptions};
use super::program_names::name_children;
use super::reaction::Reaction;
use super::recorded::RecordedTree;
use super::restart::{OnError, Restart};
use super::restore_error::{RestoreError, Restored};
#[cfg(all(feature = "cli", feature = "journal"))]
use super::restoring::ProgramSettings;
use super::restoring::{Prepared, Restoring};
use super::scope;
use super::service_report::ServiceMonitor;
use super::shape::{ChildName, Shape, Shapes};
use super::supervisor::Strategy;
use crate::fence::Fenced;
use crate::id::ActorPath;
use crate::state::{Patch, StateError, Tracker, Value};
use crate::work::Status;

/// A Flow's handle to a Flow below it, which is an actor of its own: it reacts to changes below it, commands its own
/// Works, and its failure escalates to its parent.
///
/// A `FlowRef` dereferences to the Flow, so that the parent can read the Flow's fields and Works. A parent that writes
/// a field causes a reaction of the child.
///
/// ```
/// # use flowright::prelude::*;
/// #[derive(Default, Serialize, Children)]
/// struct Team {
///     goal: u32,
/// }
///
/// impl Flow for Team {
///     fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
///         Ok(())
///     }
/// }
///
/// #[derive(Default, Serialize, Children)]
/// struct Company {
///     team: FlowRef<Team>,
/// }
///
/// impl Flow for Company {
///     fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
///         if self.team.goal != 42 {
///             self.team.goal = 42; // the team reacts to it
///         }
///         Ok(())
///     }
/// }
/// ```
pub struct FlowRef<F: Flow> {
    /// Discarded in `drop`, which reports a panic.
    flow: Fenced<F>,
    options: FlowOptions,
    link: Option<Arc<FlowLink>>,
    name: ChildName,
}

/// Serialises a Flow's own fields, without its children.
struct OwnState<'a, F>(&'a F);

impl<F: Children> Serialize for OwnState<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.save(serializer)
    }
}

impl<F: Flow> FlowRef<F> {
    /// Creates a Flow. It joins the App when it is in a field of a Flow that is part of the App.
    pub fn new(flow: F) -> Self {
        scope::with(|scope| scope.tree_changed = true);
        Self { flow: Fenced::new(flow), options: FlowOptions::default(), link: None, name: ChildName::Open }
    }

    /// Sets the handling of a failure after the last restart: with `Raise`, the default, the parent fails too; with
    /// `Capture` the Flow's Works are stopped, its [`status`](Self::status) becomes failed, and the parent reacts.
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.options.on_error = on_error;
        self
    }

    /// Sets the restart policy: a restart of the Flow restarts all Works below it from their last published states and
    /// forgets failed runs, and the Flow reacts anew. By default a failed Flow is not restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.options.restart = restart;
        self
    }

    /// Returns the status of the Flow: running, or failed with the reason.
    pub fn status(&self) -> Status {
        self.link.as_ref().map(|link| link.status.lock().clone()).unwrap_or_default()
    }

    /// Returns the path from the root of the App, or `None` before the Flow has joined the App.
    pub fn path(&self) -> Option<ActorPath> {
        self.link.as_ref().map(|link| link.path.clone())
    }
}

impl<F: Flow> Deref for FlowRef<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.flow
    }
}

impl<F: Flow> DerefMut for FlowRef<F> {
    fn deref_mut(&mut self) -> &mut F {
        if let Some(link) = &self.link {
            let first = scope::with(|scope| scope.lent.iter().all(|(flow, _)| *flow != link.id));
            if first == Some(true) {
                // Saved to detect a write of the parent. The state published last does not serve for that, since the
                // child may have changed its fields meanwhile.
                let before = Value::of(&*self.flow).ok();
                scope::with(|scope| scope.lent.push((link.id, before)));
            }
        }
        &mut self.flow
    }
}

impl<F: Flow + Default> Default for FlowRef<F> {
    fn default() -> Self {
        Self::new(F::default())
    }
}

impl<F: Flow> From<F> for FlowRef<F> {
    fn from(flow: F) -> Self {
        Self::new(flow)
    }
}

impl<F: Flow> fmt::Debug for FlowRef<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowRef")
            .field("flow", &std::any::type_name::<F>())
            .field("path", &self.path())
            .finish()
    }
}

impl<F: Flow> Serialize for FlowRef<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.flow.serialize(serializer)
    }
}

impl<F: Flow> Drop for FlowRef<F> {
    fn drop(&mut self) {
        if self.link.is_some() {
            scope::with(|scope| scope.tree_changed = true);
        }
        if let Err(panic) = self.flow.discard_now() {
            let path = self.path().or_else(|| self.name.known().cloned());
            let path = path.map(|path| path.to_string()).unwrap_or_default();
            scope::problem(FlowError::Panicked { path, code: "Drop", message: panic.to_string() });
        }
    }
}

impl<F: Flow> AnyFlow for FlowRef<F> {
    fn link(&self) -> Option<&Arc<FlowLink>> {
        self.link.as_ref()
    }

    fn attach(&mut self, link: Arc<FlowLink>) -> FlowOptions {
        self.flow.joined(&link.path);
        self.link = Some(link);
        self.name = ChildName::Open;
        self.options.clone()
    }

    fn walk_children(&mut self, walk: &mut Walk<'_>) {
        Children::walk(&mut *self.flow, walk);
    }

    fn find_child(&mut self, route: Route<'_>) -> Option<Found<'_>> {
        Children::find(&mut *self.flow, route)
    }

    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.flow.react(cx)
    }

    fn strategy(&self) -> Strategy {
        self.flow.strategy()
    }

    fn monitor(&self) -> Option<ServiceMonitor> {
        self.flow.monitor()
    }

    fn state(&self) -> Result<Value, StateError> {
        Value::of(&*self.flow)
    }

    fn sees_unrecorded(&self) -> bool {
        F::SEES_UNRECORDED
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<F>()
    }

    fn options(&self) -> &FlowOptions {
        &self.options
    }

    fn set_program_name(&mut self, name: ActorPath) {
        self.name = ChildName::Program(name);
    }

    fn restored_name(&self) -> Option<&ActorPath> {
        self.name.restored()
    }

    fn save(&self, saved: &mut Tracker) -> Result<Option<Patch>, StateError> {
        saved.update(&OwnState(&*self.flow))
    }

    fn shapes(&self) -> Shapes {
        let mut shapes = Shapes::default();
        Children::shapes(&*self.flow, &mut shapes);
        shapes
    }

    fn problems(&self) -> Vec<FlowProblem> {
        let mut check = Check::new();
        <Self as ChildGroup>::check(&mut check);
        check.into_problems()
    }

    fn restore(&mut self, recorded: &RecordedTree) -> Result<Restored, Vec<RestoreError>> {
        let root = ActorPath::root();
        let program = name_children(self, root.clone()).map_err(|error| vec![error])?;
        let mut restoring = Restoring::new(recorded, program);
        let prepared = self.prepare(&Shape::Child(root), &mut restoring);
        restoring.finish(prepared, self)
    }

    #[cfg(all(feature = "cli", feature = "journal"))]
    fn restore_constructed(&mut self, constructed: &RecordedTree) -> Result<(), Vec<RestoreError>> {
        // Without settings of the program, those of `constructed` count.
        let mut restoring = Restoring::new(constructed, ProgramSettings::default());
        let prepared = self.prepare(&Shape::Child(ActorPath::root()), &mut restoring);
        restoring.finish(prepared, self).map(drop)
    }
}

impl<F: Flow> ChildGroup for FlowRef<F> {
    fn kinds(kinds: &mut Kinds) {
        kinds.below::<F>();
    }

    fn walk(&mut self, walk: &mut Walk<'_>) {
        walk.child(Node::Flow(self));
    }

    fn holds(&self, route: Route<'_>) -> bool {
        self.link.as_ref().is_some_and(|link| route.leads_through(link.path.as_str()))
    }

    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>> {
        let link = self.link.clone()?;
        let path = link.path.as_str();
        if route.ends_at(path) {
            Some(Found(Node::Flow(self)))
        } else if route.leads_through(path) {
            self.flow.find(route.below(path))
        } else {
            None
        }
    }

    fn shape(&self) -> Option<Shape> {
        let name = self.link.as_ref().map(|link| &link.path).or_else(|| self.name.known());
        name.cloned().map(Shape::Child)
    }

    fn prepare(&self, shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Prepared<Self>> {
        let name = restoring.child(shape, "a Flow")?.clone();
        let (image, options) = restoring.flow(&name)?;
        let change = restoring.prepare_flow(&name, image, |flow| self.flow.prepare(flow))?;
        Some(Box::new(move |flow| {
            change(&mut flow.flow);
            flow.options = options;
            flow.name = ChildName::Restored(name);
        }))
    }

    fn rebuild(shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Self> {
        let name = restoring.child(shape, "a Flow")?.clone();
        let (image, options) = restoring.flow(&name)?;
        let flow = restoring.rebuild_flow(&name, image, F::rebuild)?;
        Some(Self { flow, options, link: None, name: ChildName::Restored(name) })
    }

    fn check(check: &mut Check) {
        check.flow::<F>(F::check);
    }
}
