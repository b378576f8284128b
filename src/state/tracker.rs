//! The publisher's side.

use serde::Serialize;

use super::error::{Fault, StateError};
use super::walk::{Delta, Walk};
use super::{Patch, Value};
use crate::fence;

/// What an unpublished or half-updated tree is shown as.
static NIL: Value = Value::Nil;

/// The publisher's side: the tree as last published.
///
/// ```
/// use flowright::state::{Tracker, Value};
///
/// #[derive(serde::Serialize)]
/// struct Training {
///     run: &'static str,
///     step: u64,
/// }
///
/// let mut training = Training { run: "first", step: 0 };
/// let mut tracker = Tracker::new(64 * 1024);
/// let mut copy = Value::default();
/// for step in 0..3 {
///     training.step = step;
///     if let Some(patch) = tracker.update(&training)? {
///         copy.apply(patch)?;
///     }
///     assert_eq!(&copy, tracker.value());
/// }
/// assert_eq!(tracker.update(&training)?, None);
///
/// training.step = 7;
/// let patch = tracker.update(&training)?.expect("a change");
/// assert_eq!(patch.touches(), ["step"]);
/// # Ok::<_, flowright::state::StateError>(())
/// ```
#[derive(Debug)]
pub struct Tracker {
    tree: Value,
    /// Observers have `tree`. False before the first update and from the moment an update
    /// begins until it succeeds, so that a panic on the way counts as a failure too.
    published: bool,
    limit: usize,
}

impl Tracker {
    /// A tracker with nothing published yet: the first update sends the whole value.
    ///
    /// States over `limit_bytes`, as measured by [`Value::encoded_len`], are refused.
    pub fn new(limit_bytes: usize) -> Self {
        Self { tree: Value::Nil, published: false, limit: limit_bytes }
    }

    /// A tracker that continues from a value observers are known to have.
    pub fn resume(value: Value, limit_bytes: usize) -> Self {
        Self { tree: value, published: true, limit: limit_bytes }
    }

    /// Compares `state` with what was last published. `None` means nothing changed;
    /// `Some` is the patch that brings a copy of the value last published up to `state`.
    ///
    /// Map entries that merely changed places are no change.
    ///
    /// # Errors
    ///
    /// [`StateError::Unserialisable`] as for [`Value::of`], and [`StateError::TooLarge`] if
    /// the state exceeds the limit. Nothing counts as published then: the next successful
    /// update returns a [`Patch::Set`] with the whole value.
    #[inline]
    pub fn update<T: Serialize + ?Sized>(&mut self, state: &T) -> Result<Option<Patch>, StateError> {
        let continues = std::mem::replace(&mut self.published, false);
        if !continues {
            self.tree = Value::Nil;
        }
        let mut walk = Walk::new(self.limit);
        let walked = fence::call(|| walk.run(state, &mut self.tree));
        let delta = walked.unwrap_or_else(|panic| Err(Fault::panicked("Serialize", &panic)));
        let delta = delta.map_err(Fault::unserialisable)?;
        self.published = true;
        Ok(match delta {
            Delta::Part => walk.take(),
            Delta::Same if continues => None,
            Delta::Same | Delta::Whole => Some(Patch::Set(self.tree.clone())),
        })
    }

    /// The value last published; [`Value::Nil`] if there is none, or if the last update
    /// failed.
    pub fn value(&self) -> &Value {
        if self.published { &self.tree } else { &NIL }
    }
}
