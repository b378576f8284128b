//! The publishing side of observable state.

use serde::Serialize;

use super::error::{Fault, StateError};
use super::walk::{Delta, Walk};
use super::{Patch, Value};
use crate::fence;

/// The published value while nothing is published.
static NIL: Value = Value::Nil;

/// The publishing side of a state: holds the value published last, and compares new states with it.
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
    /// Set while `tree` is the value that observers have. Cleared initially, and from the begin of each update
    /// until it succeeds, so that a panic in between counts as a failure.
    published: bool,
    limit: usize,
}

impl Tracker {
    /// Creates a tracker that has published nothing: the first update sends the whole value.
    ///
    /// States larger than `limit_bytes`, as measured by [`Value::encoded_len`], are refused.
    pub fn new(limit_bytes: usize) -> Self {
        Self { tree: Value::Nil, published: false, limit: limit_bytes }
    }

    /// Creates a tracker that continues from a value that observers have.
    pub fn resume(value: Value, limit_bytes: usize) -> Self {
        Self { tree: value, published: true, limit: limit_bytes }
    }

    /// Compares `state` with the value published last. Returns the patch that turns a copy of that value into
    /// `state`, or `None` if nothing changed.
    ///
    /// Reordered map entries are not a change.
    ///
    /// # Errors
    ///
    /// [`StateError::Unserialisable`] as for [`Value::of`], and [`StateError::TooLarge`] if the state exceeds the
    /// limit. The tracker then counts as having published nothing: the next successful update returns a
    /// [`Patch::Set`] with the whole value.
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

    /// Returns the value published last; [`Value::Nil`] if there is none, or if the last update failed.
    pub fn value(&self) -> &Value {
        if self.published { &self.tree } else { &NIL }
    }
}
