//! The tree of Flows as the user wrote it: the root Flow, and calls into it and into the Flows below it.
//!
//! # Guarantees
//! - Every call into a Flow is watched by the [`Watchdog`].
//! - Searches walk collections of the user's, which may panic. Such a panic is caught here, and the Flow counts as not
//!   found.

use std::time::SystemTime;

use super::super::config::Config;
use super::super::watchdog::Watchdog;
use super::tree::{Changes, Child, Tree};
use crate::fence;
use crate::flow::{AnyFlow, FlowError, Found, Node, Position, Route, SharedRecord, Visitor, Walk};
#[cfg(all(feature = "cli", feature = "journal"))]
use crate::flow::{FlowImage, WorkImage};
#[cfg(feature = "journal")]
use crate::flow::{FlowProblem, RecordedTree, RestoreError, Restored};
use crate::id::{ActorPath, FlowId};
#[cfg(all(feature = "cli", feature = "journal"))]
use crate::state::Tracker;
use crate::state::Value;

/// The root Flow of an App, with the Flows and `WorkRef`s below it.
pub(super) struct RootFlow {
    root: Box<dyn AnyFlow>,
    watchdog: Watchdog,
}

/// The last known position of a Flow.
pub(super) struct Whereabouts {
    pub(super) id: FlowId,
    pub(super) path: ActorPath,
    /// The Flows from below the root down to the Flow.
    pub(super) lineage: Vec<FlowId>,
}

impl RootFlow {
    pub(super) fn new(root: Box<dyn AnyFlow>, watchdog: Watchdog) -> Self {
        Self { root, watchdog }
    }

    /// Returns the state of the root, which contains the states of all Works and Flows.
    pub(super) fn state(&self) -> Result<Value, FlowError> {
        let state = self.watchdog.during(&ActorPath::root(), || self.root.state());
        state.map_err(|source| FlowError::OwnState { path: "root".to_owned(), source })
    }

    /// Brings `tree` up to date with the children that there are.
    pub(super) fn walk(&mut self, tree: &mut Tree, config: &Config, now: SystemTime) -> Changes {
        let root = &mut *self.root;
        self.watchdog.during(&ActorPath::root(), || tree.walk(root, config, now))
    }

    /// Calls a Flow, also when it was moved since the last walk of the tree. Returns `None` when it is no longer below
    /// the Flows that were above it then.
    pub(super) fn call<R>(
        &mut self,
        flow: &Whereabouts,
        call: impl FnOnce(&mut dyn AnyFlow) -> R,
    ) -> Option<R> {
        let Whereabouts { id, path, lineage } = flow;
        let root = &mut *self.root;
        let (mut call, mut result) = (Some(call), None);
        self.watchdog.during(path, || {
            // The search walks collections of the user's, which may panic.
            let sought = fence::call(|| {
                seek(root, path, *id, lineage, &mut |flow| {
                    result = call.take().map(|call| call(flow));
                });
            });
            if let Err(panic) = sought {
                log::error!("flow `{path}` cannot be reached: code of its parents panicked: {panic}");
            }
        });
        result
    }

    /// Returns the children of a Flow and of each Flow below it, as [`call`](Self::call) finds the Flow.
    pub(super) fn children_from(&mut self, flow: &Whereabouts) -> Option<Vec<(FlowId, Vec<Child>)>> {
        let mut found = Vec::new();
        self.call(flow, |any| list_children(any, flow.id, &mut found))?;
        Some(found)
    }

    /// Returns the name of the root's Rust type.
    #[cfg(feature = "journal")]
    pub(super) fn type_name(&self) -> &'static str {
        self.root.type_name()
    }

    /// Returns the fields of the Flows that cannot be recorded.
    #[cfg(feature = "journal")]
    pub(super) fn problems(&self) -> Vec<FlowProblem> {
        self.root.problems()
    }

    /// Restores the root, as its constructor made it, and all children. Nothing is changed when something cannot be
    /// restored.
    #[cfg(feature = "journal")]
    pub(super) fn restore(&mut self, recorded: &RecordedTree) -> Result<Restored, Vec<RestoreError>> {
        let root = &mut *self.root;
        self.watchdog.during(&ActorPath::root(), || root.restore(recorded))
    }

    /// Returns what is recorded of the tree, all of which has joined.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(super) fn recorded_tree(&mut self) -> Result<RecordedTree, FlowError> {
        struct Saving(RecordedTree, Option<FlowError>);

        impl Saving {
            fn flow(&mut self, flow: &mut dyn AnyFlow) {
                let Some(path) = flow.link().map(|link| link.path.clone()) else { return };
                let mut own = Tracker::new(usize::MAX);
                if let Err(source) = flow.save(&mut own) {
                    let path = path.to_string();
                    self.1.get_or_insert(FlowError::OwnState { path, source });
                }
                let (shapes, options) = (flow.shapes(), flow.options().clone());
                let image = FlowImage { own: own.value().clone(), shapes, options };
                self.0.flows.insert(path.clone(), image);
                flow.walk_children(&mut Walk::new(path.as_str(), self));
            }
        }

        impl Visitor for Saving {
            fn field(&mut self, _: &str) {}

            fn child(&mut self, _: Position<'_>, node: Node<'_>) {
                match node {
                    Node::Flow(flow) => self.flow(flow),
                    Node::Work(work) => {
                        let record = work.record().map(|record| {
                            let record = record.lock();
                            (record.path.clone(), record.state.clone())
                        });
                        let Some((path, state)) = record else { return };
                        self.0.works.insert(path, WorkImage { state, settings: work.settings() });
                    }
                }
            }
        }

        let mut saving = Saving(RecordedTree::default(), None);
        let root = &mut *self.root;
        let saved = self.watchdog.during(&ActorPath::root(), || fence::call(|| saving.flow(root)));
        let panicked = saved.err().map(|panic| {
            let (path, message) = ("root".to_owned(), panic.to_string());
            FlowError::Panicked { path, code: "Children", message }
        });
        match saving.1.or(panicked) {
            None => Ok(saving.0),
            Some(error) => Err(error),
        }
    }

    /// Restores the root and all children as the constructor has made them.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(super) fn restore_constructed(
        &mut self,
        constructed: &RecordedTree,
    ) -> Result<(), Vec<RestoreError>> {
        let root = &mut *self.root;
        self.watchdog.during(&ActorPath::root(), || root.restore_constructed(constructed))
    }

    /// Returns the children of a Flow, without those of the Flows below it.
    #[cfg(feature = "journal")]
    pub(super) fn children_of(&mut self, flow: &Whereabouts) -> Option<Vec<Child>> {
        struct List(Vec<Child>);

        impl Visitor for List {
            fn field(&mut self, _: &str) {}

            fn child(&mut self, _: Position<'_>, node: Node<'_>) {
                self.0.extend(match node {
                    Node::Work(work) => work.record().map(|record| Child::Work(record.lock().id)),
                    Node::Flow(flow) => flow.link().map(|link| Child::Flow(link.id)),
                });
            }
        }

        self.call(flow, |any| {
            let mut list = List(Vec::new());
            let walked = fence::call(|| any.walk_children(&mut Walk::new("", &mut list)));
            walked.ok().map(|()| list.0)
        })?
    }

    /// Returns the record of the Work that is at this path.
    pub(super) fn record_at(&mut self, path: &str) -> Option<SharedRecord> {
        let found = fence::call(|| match self.root.find_child(Route::new(path)) {
            Some(Found(Node::Work(work))) => work.record().cloned(),
            _ => None,
        });
        found.unwrap_or(None)
    }

    /// Has the `WorkRef`s of the Works at these paths show the new states.
    pub(super) fn refresh(&mut self, paths: impl IntoIterator<Item = ActorPath>) {
        let mut lost = false;
        for path in paths {
            let found = fence::call(|| match self.root.find_child(Route::new(path.as_str())) {
                Some(Found(Node::Work(work))) => {
                    work.refresh();
                    true
                }
                _ => false,
            });
            // A moved Work is not found by its path.
            lost |= !found.unwrap_or(false);
        }
        if lost && let Err(panic) = fence::call(|| refresh_all(&mut *self.root, "")) {
            log::error!(
                "some states shown to Flows are out of date: a collection of children panicked: {panic}"
            );
        }
    }
}

/// Calls the Flow with this id: at its path, or else anywhere below the Flows of its lineage, where it may have been
/// moved.
fn seek(
    root: &mut dyn AnyFlow,
    path: &ActorPath,
    id: FlowId,
    lineage: &[FlowId],
    call: &mut dyn FnMut(&mut dyn AnyFlow),
) {
    struct Seek<'a> {
        lineage: &'a [FlowId],
        call: &'a mut dyn FnMut(&mut dyn AnyFlow),
    }

    impl Visitor for Seek<'_> {
        fn field(&mut self, _: &str) {}

        fn child(&mut self, position: Position<'_>, node: Node<'_>) {
            let Node::Flow(flow) = node else { return };
            if flow.link().map(|link| link.id) != self.lineage.first().copied() {
                return;
            }
            match &self.lineage[1..] {
                [] => (self.call)(flow),
                rest => {
                    let mut below = Seek { lineage: rest, call: &mut *self.call };
                    flow.walk_children(&mut Walk::new(position.path, &mut below));
                }
            }
        }
    }

    let is_meant = |flow: &dyn AnyFlow| flow.link().is_some_and(|link| link.id == id);
    if is_meant(root) {
        return call(root);
    }
    if let Some(Found(Node::Flow(flow))) = root.find_child(Route::new(path.as_str()))
        && is_meant(flow)
    {
        return call(flow);
    }
    if !lineage.is_empty() {
        root.walk_children(&mut Walk::new("", &mut Seek { lineage, call }));
    }
}

/// Collects the children of a Flow and of each Flow below it.
fn list_children(flow: &mut dyn AnyFlow, id: FlowId, out: &mut Vec<(FlowId, Vec<Child>)>) {
    struct List<'a> {
        children: Vec<Child>,
        out: &'a mut Vec<(FlowId, Vec<Child>)>,
    }

    /// A child that has not joined yet; ids start at 1.
    const NEW: Child = Child::Flow(FlowId(0));

    impl Visitor for List<'_> {
        fn field(&mut self, _: &str) {}

        fn child(&mut self, _: Position<'_>, node: Node<'_>) {
            self.children.push(match node {
                Node::Work(work) => work.record().map_or(NEW, |record| Child::Work(record.lock().id)),
                Node::Flow(flow) => match flow.link().map(|link| link.id) {
                    Some(id) => {
                        list_children(flow, id, self.out);
                        Child::Flow(id)
                    }
                    None => NEW,
                },
            });
        }
    }

    let mut list = List { children: Vec::new(), out };
    flow.walk_children(&mut Walk::new("", &mut list));
    let List { children, out } = list;
    out.push((id, children));
}

fn refresh_all(flow: &mut dyn AnyFlow, path: &str) {
    struct Refresh;

    impl Visitor for Refresh {
        fn field(&mut self, _: &str) {}

        fn child(&mut self, position: Position<'_>, node: Node<'_>) {
            match node {
                Node::Work(work) => work.refresh(),
                Node::Flow(flow) => refresh_all(flow, position.path),
            }
        }
    }

    flow.walk_children(&mut Walk::new(path, &mut Refresh));
}
