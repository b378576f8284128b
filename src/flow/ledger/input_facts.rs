//! The last reading of the recorded inputs of a Work.

use serde::{Deserialize, Serialize};

/// The last reading of the recorded inputs of a Work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct InputFacts {
    /// The mark of the type as which they can be read; `None` if that is not known.
    pub(crate) mark: Option<u64>,
    /// The number of inputs that got another key when they were read.
    pub(crate) moved: u64,
    /// The number of these that have become equal to another input, whose outcome is remembered instead.
    pub(crate) merged: u64,
    /// The number of inputs that cannot be read as the type.
    pub(crate) unreadable: u64,
    /// The number of inputs of a changed type that were too long to be recorded.
    pub(crate) too_long: u64,
}

impl InputFacts {
    /// Returns the facts about inputs all of which are of the type with this mark.
    pub(crate) fn of(mark: Option<u64>) -> Self {
        Self { mark, ..Self::default() }
    }

    /// Returns the number of inputs that kept keys which no request may have any more.
    pub(crate) fn kept(&self) -> u64 {
        self.unreadable + self.too_long
    }
}
