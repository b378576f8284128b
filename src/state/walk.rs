//! What the parts of a walk along a state have in common.

use serde::Serialize;

use super::Value;
use super::diff::Diff;
use super::error::Fault;
use super::patch::{MapPatch, Patch};

/// How many levels a state may have. Whoever reads, compares or drops one calls itself for each.
pub(super) const MAX_DEPTH: usize = 128;

/// Changes further down are sent as whole values: a patch has four levels where its value has one.
const MAX_PATCH_DEPTH: usize = 32;

/// What became of one part of the tree. See [`Walk::part`] for the patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delta {
    /// It was equal already.
    Same,
    /// It was overwritten. The patch is the value itself, and whoever records patches
    /// clones it; that way nested overwritten parts are cloned once, or not at all.
    Whole,
    /// It was changed in places.
    Part,
}

/// What is common to one walk along a state.
#[derive(Debug)]
pub(super) struct Walk {
    size: usize,
    limit: usize,
    /// How many containers the walk is in.
    depth: usize,
    /// The patch that goes with a [`Delta::Part`], for the recipient to take. Handing it
    /// over here keeps what every single field returns small enough for registers.
    part: Option<Patch>,
    /// Something failed, so that the tree and the changes recorded no longer agree, even if
    /// a `Serialize` implementation chose to carry on.
    failed: bool,
}

impl Walk {
    /// A walk that fails beyond `limit` bytes.
    #[inline]
    pub(super) fn new(limit: usize) -> Self {
        Self { size: 0, limit, depth: 0, part: None, failed: false }
    }

    /// Brings `tree` up to `state`.
    #[inline]
    pub(super) fn run<T: Serialize + ?Sized>(&mut self, state: &T, tree: &mut Value) -> Result<Delta, Fault> {
        let delta = state.serialize(Diff::new(tree, self))?;
        if self.failed {
            return Err(Fault::new("a `Serialize` implementation went on after an error"));
        }
        Ok(delta)
    }

    #[cold]
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// Bytes seen so far.
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

    /// Goes into a container.
    #[inline]
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::new(format!("it is nested in more than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// Leaves the container that was entered last.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Whether changes of this container are sent one by one.
    #[inline]
    pub(super) fn patches(&self) -> bool {
        self.depth <= MAX_PATCH_DEPTH
    }

    #[inline]
    pub(super) fn give(&mut self, patch: Patch) -> Delta {
        self.part = Some(patch);
        Delta::Part
    }

    /// The patch just given: `None` unless what became of it is [`Delta::Part`].
    #[inline]
    pub(super) fn take(&mut self) -> Option<Patch> {
        self.part.take()
    }
}

/// The variant around a container, if there is one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wrap {
    None,
    /// The slot held the same variant before.
    Kept(&'static str),
    /// The slot held something else.
    Overwritten(&'static str),
}

impl Wrap {
    /// The change to the variant, given the change to its content.
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
