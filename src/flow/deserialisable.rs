//! The error of the compiler for a Flow that derives `Deserialize`.
//!
//! No type implements [`Deserialisable`]. The implementation that is bounded by it never applies, and is there so that the
//! compiler says what to do, instead of naming types that implement `Deserialize`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::work_ref::WorkRef;
use crate::work::Work;

/// No Work is part of a Flow that is deserialised.
#[diagnostic::on_unimplemented(
    message = "a Flow cannot be deserialised: its `WorkRef<{Self}>` belongs to the App that it has joined",
    label = "a Flow does not derive `Deserialize`",
    note = "remove `Deserialize` from the derives of the Flow: it needs `Serialize` and `Children`, and a journal restores its \
            fields without it"
)]
#[doc(hidden)]
pub trait Deserialisable {}

#[doc(hidden)]
impl<'de, W: Work + Deserialisable> Deserialize<'de> for WorkRef<W> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("a `WorkRef` belongs to the App that it has joined"))
    }
}
