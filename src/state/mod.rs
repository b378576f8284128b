//! Layer 2: observable state, and the patches by which changes of it travel.
//!
//! An actor's serialised fields are its observable state. Publishing compares the
//! fields with the tree published last and produces a [`Patch`] that names only what
//! differs; an observer holds its own copy of the tree and applies the patches.
//!
//! ```text
//! actor ── Tracker::update(&state) ──> Patch ── Patch::then ──> Patch ── Value::apply ──> copy
//!            (walk, compare)                     (conflate)               (observer)
//! ```
//!
//! # Guarantees
//!
//! * **Exactness.** Applying all patches of a [`Tracker`] in order, or any consecutive patches folded with
//!   [`Patch::then`], leaves a copy equal to the published value.
//! * **Silence.** A state that serialises to the value published last yields no patch, whatever the iteration order
//!   of its maps.
//! * **No hidden cost.** Comparing allocates nothing for the parts that did not change, unless map entries were
//!   reordered or a map key is not a scalar.
//! * **All or nothing.** A failed [`Tracker::update`] publishes nothing. The next successful one sends the whole
//!   value, so that a failure cannot leave observers with a mixture.
//! * **No trust in patches.** A patch that does not fit the value it is applied to is reported as
//!   [`StateError::Mismatch`]; it cannot produce a malformed value.
//!
//! # The shape of a value
//!
//! A [`Value`] has the shape of self-describing MessagePack or JSON with named fields. Structs become maps with the
//! field names as keys, in declaration order. Unit variants become strings, and all other variants one-entry maps
//! from the variant's name to its content. Newtype structs and `Some(x)` become their content. `None` and unit become
//! [`Value::Nil`], and inside of `Some` [`Value::SomeNil`], so that nested options stay distinct.

mod codec;
mod decode;
mod diff;
mod error;
mod json;
mod json_patch;
mod key;
mod map_diff;
mod number;
mod patch;
mod patch_apply;
mod seq_diff;
mod size;
mod tracker;
mod value;
mod walk;

#[cfg(test)]
mod tests;

pub use error::StateError;
pub(crate) use json::{from_json, to_json};
#[cfg(feature = "journal")]
pub(crate) use patch::FieldChange;
pub use patch::{MapPatch, Patch, SeqPatch};
pub use tracker::Tracker;
pub use value::Value;
