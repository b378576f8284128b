//! The reaction under way on this thread.
//!
//! `WorkRef`s are used through `&self` inside `react`, and their effects are carried out after it. What they are
//! gathered in is here, rather than in an argument of every call, so that a Flow reads like sequential code.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::error::FlowError;
use super::ledger::Moment;
use crate::id::{ActorPath, FlowId, WorkId};
use crate::printable::chain;
use crate::state::Value;

pub(crate) struct Scope {
    pub(crate) flow: FlowId,
    pub(crate) path: ActorPath,
    pub(crate) now: Moment,
    /// Works with actions to carry out.
    pub(crate) touched: Vec<WorkId>,
    /// Flows that their parent has had its hands on, with their state before.
    pub(crate) lent: Vec<(FlowId, Option<Value>)>,
    /// What user code did wrong without being told, such as a `run` whose result was ignored.
    pub(crate) problems: Vec<FlowError>,
    /// Whether a child was made or dropped, so that the tree has to be walked.
    pub(crate) tree_changed: bool,
    /// Works of which a run was asked for before they were part of the tree: their type, and whether they are by now.
    pub(crate) early: Vec<(&'static str, Arc<AtomicBool>)>,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// Opens the scope of a reaction.
pub(crate) fn enter(flow: FlowId, path: ActorPath, now: Moment) {
    SCOPE.set(Some(Scope {
        flow,
        path,
        now,
        touched: Vec::new(),
        lent: Vec::new(),
        problems: Vec::new(),
        tree_changed: false,
        early: Vec::new(),
    }));
}

/// Closes it and gives what was gathered.
pub(crate) fn leave() -> Option<Scope> {
    SCOPE.take()
}

/// Changes the scope, if a reaction is under way on this thread.
pub(super) fn with<R>(change: impl FnOnce(&mut Scope) -> R) -> Option<R> {
    SCOPE.try_with(|scope| scope.try_borrow_mut().ok()?.as_mut().map(change)).ok().flatten()
}

pub(super) fn problem(error: FlowError) {
    let mut error = Some(error);
    with(|scope| scope.problems.extend(error.take()));
    if let Some(error) = error {
        log::error!("{}", chain(&error));
    }
}
