//! The reaction in progress on this thread.
//!
//! `WorkRef`s are used through `&self` inside of `react`, and their commands are carried out after it. The commands are
//! collected in a thread-local instead of an argument of every call, so that a Flow reads like sequential code.

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
    /// Flows that their parent has borrowed mutably, with their state before.
    pub(crate) lent: Vec<(FlowId, Option<Value>)>,
    /// Errors of the user's code that had no other way to be reported, such as an invalid `run` whose result was
    /// ignored.
    pub(crate) problems: Vec<FlowError>,
    /// True if a child was created or dropped, so that the tree has to be walked.
    pub(crate) tree_changed: bool,
    /// Works that were asked to run before they joined the tree: their type, and a flag that is set when they join.
    pub(crate) early: Vec<(&'static str, Arc<AtomicBool>)>,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// Begins a reaction.
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

/// Ends the reaction and returns its effects.
pub(crate) fn leave() -> Option<Scope> {
    SCOPE.take()
}

/// Accesses the reaction in progress on this thread; returns `None` if there is none.
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
