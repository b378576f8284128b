//! State of one walk along a serialised state, shared by the comparisons of its parts.

use serde::Serialize;

use super::Value;
use super::diff::Diff;
use super::error::Fault;
use super::patch::{MapPatch, Patch};

/// Maximum nesting depth of a state. Reading, comparing and dropping a value are recursive.
pub(super) const MAX_DEPTH: usize = 128;

/// Depth below which changes are sent as whole values: a patch has four levels where its value has one.
const MAX_PATCH_DEPTH: usize = 32;

/// The result of comparing one part of the tree. The patch of a [`Delta::Part`] is in [`Walk::part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delta {
    /// The part was equal.
    Same,
    /// The part was overwritten. The new value itself is the patch; the recorder of patches clones it, so that nested
    /// overwritten parts are cloned once, or not at all.
    Whole,
    /// Some places of the part were changed.
    Part,
}

/// State of one walk: its size, limit, depth, and the latest patch.
#[derive(Debug)]
pub(super) struct Walk {
    size: usize,
    limit: usize,
    /// Number of containers that the walk is inside of.
    depth: usize,
    /// The patch of a [`Delta::Part`], for the caller to take. It is passed here so that the result for each field
    /// fits into registers.
    part: Option<Patch>,
    /// Something failed, so that the tree and the recorded changes no longer agree, even if a `Serialize`
    /// implementation ignored the error and continued.
    failed: bool,
}

impl Walk {
    /// Creates a walk that fails after `limit` bytes.
    #[inline]
    pub(super) fn new(limit: usize) -> Self {
        Self { size: 0, limit, depth: 0, part: None, failed: false }
    }

    /// Updates `tree` to `state`.
    #[inline]
    pub(super) fn run<T: Serialize + ?Sized>(&mut self, state: &T, tree: &mut Value) -> Result<Delta, Fault> {
        let delta = state.serialize(Diff::new(tree, self))?;
        if self.failed {
            return Err(Fault::new("a `Serialize` implementation ignored an error and continued"));
        }
        Ok(delta)
    }

    #[cold]
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// Returns the number of bytes counted so far.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[inline]
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Fault> {
        self.size = self.size.saturating_add(bytes);
        if self.size > self.limit {
            return Err(Fault::too_large(self.size, self.limit));
        }
        Ok(())
    }

    /// Enters a container.
    #[inline]
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::new(format!("it is nested in more than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// Leaves the innermost container.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Returns whether changes at this depth are sent one by one.
    #[inline]
    pub(super) fn patches(&self) -> bool {
        self.depth <= MAX_PATCH_DEPTH
    }

    #[inline]
    pub(super) fn give(&mut self, patch: Patch) -> Delta {
        self.part = Some(patch);
        Delta::Part
    }

    /// Takes the patch of the latest result: `None` unless that was [`Delta::Part`].
    #[inline]
    pub(super) fn take(&mut self) -> Option<Patch> {
        self.part.take()
    }
}

/// The enum variant around a container, if there is one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wrap {
    None,
    /// The slot held the same variant before.
    Kept(&'static str),
    /// The slot held something else.
    Overwritten(&'static str),
}

impl Wrap {
    /// Returns the change to the variant for a change to its content.
    #[inline]
    pub(super) fn finish(self, delta: Delta, walk: &mut Walk) -> Delta {
        let patches = walk.patches();
        match self {
            Wrap::None => return delta,
            Wrap::Kept(_) | Wrap::Overwritten(_) => walk.leave(),
        }
        match self {
            Wrap::Kept(name) => match walk.take() {
                Some(patch) if patches => walk.give(Patch::Map(MapPatch::one(Value::name(name), 0, patch))),
                Some(_) => Delta::Whole,
                None => delta,
            },
            Wrap::None | Wrap::Overwritten(_) => Delta::Whole,
        }
    }

    #[cold]
    pub(super) fn blame(self, fault: Fault, size: usize) -> Fault {
        match self {
            Wrap::None => fault,
            Wrap::Kept(name) | Wrap::Overwritten(name) => {
                fault.at(name).with_largest(|| Some((name.to_owned(), size)))
            }
        }
    }
}
