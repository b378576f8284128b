//! The fields of Flows that cannot be saved or restored, found by type before anything runs.

use std::any::{TypeId, type_name};
use std::collections::HashSet;

use super::own_fields::{FieldError, WriteField};

/// A field of a Flow's type that cannot be saved or restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a Flow of type `{flow}` cannot be recorded")]
pub(crate) struct FlowProblem {
    /// The Flow's type.
    pub(crate) flow: &'static str,
    pub(crate) source: FieldError,
}

/// The search for such fields in a type of Flow and those below it.
#[doc(hidden)]
pub struct Check {
    /// The Flow's type.
    flow: &'static str,
    /// True for a Flow that the constructor may not make, because it is in a collection.
    is_recreated: bool,
    seen: HashSet<(TypeId, bool)>,
    problems: Vec<FlowProblem>,
}

impl Check {
    pub(super) fn new() -> Self {
        Self { flow: "", is_recreated: false, seen: HashSet::new(), problems: Vec::new() }
    }

    /// Reports a field that cannot be saved or read back.
    pub fn own<T, W: WriteField<T>>(&mut self, name: &'static str, _: W, can_read: bool) {
        let (field, type_name) = (name.to_owned(), type_name::<T>());
        if !W::CAN_WRITE {
            self.problem(FieldError::NotSerialisable { field, type_name });
        } else if !can_read {
            self.problem(FieldError::NotDeserialisable { field, type_name });
        }
    }

    /// Reports a field that serde skips, if it has no default and its Flow may have to be made anew.
    pub fn skipped<T>(&mut self, name: &'static str, has_default: bool) {
        if self.is_recreated && !has_default {
            self.problem(FieldError::NoDefault { field: name.to_owned(), type_name: type_name::<T>() });
        }
    }

    /// Reports a field that an attribute of serde makes impossible to restore.
    pub fn unrestorable(&mut self, name: &'static str, attribute: &'static str) {
        self.problem(FieldError::Attribute { field: name.to_owned(), attribute });
    }

    /// Reports a tuple struct.
    pub fn unnamed(&mut self) {
        self.problem(FieldError::Unnamed);
    }

    pub(super) fn problem(&mut self, source: FieldError) {
        let problem = FlowProblem { flow: self.flow, source };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Checks the content of a collection.
    pub(super) fn collection(&mut self, check: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.is_recreated, true);
        check(self);
        self.is_recreated = outer;
    }

    /// Checks a Flow.
    pub(super) fn flow<F: 'static>(&mut self, check: impl FnOnce(&mut Self)) {
        if self.seen.insert((TypeId::of::<F>(), self.is_recreated)) {
            let outer = std::mem::replace(&mut self.flow, type_name::<F>());
            check(self);
            self.flow = outer;
        }
    }

    pub(super) fn into_problems(self) -> Vec<FlowProblem> {
        self.problems
    }
}
