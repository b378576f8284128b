//! Floor 2: references to large values.
//!
//! A [`Payload`] is a small reference that travels in state, inputs and messages in place of a value that stays
//! where it was made.
//!
//! # Guarantees
//! - On the node that made it, [`Payload::value`] and `*payload` give the very allocation that was put in:
//!   nothing is serialised or copied.
//! - A value lives while anything refers to it: a handle, the last published state of a Work, the input of a run
//!   that has not ended. Then it is freed. Nothing else keeps it, and nothing drops it earlier.
//! - Two payloads with equal content are the same input to a run, whoever made them.
//! - A reference that outlived its value, or is read as another type than was stored, gives a [`PayloadError`]
//!   that names it.

mod reference;
mod store;

pub use reference::{Payload, PayloadError};
pub(crate) use store::{Holds, by_content, collect};
