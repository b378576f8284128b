//! A Flow's own fields: those that are not children and that serde does not skip. How they are saved, and which types
//! can be.
//!
//! # Guarantees
//! - Children are not serialised with the own fields.
//! - A field that cannot be saved or read back is refused by name.
//! - A panic in a user's `Drop` or `Default` is contained.

use std::any::type_name;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeStruct};
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::fence::{self, Fenced};
use crate::state::{StateError, Value};
use crate::work::Work;

/// A function that reads a field from its recorded value.
#[doc(hidden)]
pub type ReadField<T> = fn(&Value) -> Result<T, StateError>;

/// Chooses what can be done with a type, at the place where the derive knows the type: method resolution prefers
/// [`ByDeserialize`] where the type can be deserialised, and falls back to [`WithoutDeserialize`]; the other pairs of
/// traits are alike.
#[doc(hidden)]
pub struct FieldType<T>(PhantomData<fn() -> T>);

impl<T> FieldType<T> {
    #[allow(clippy::new_without_default, reason = "for the derive only")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

#[doc(hidden)]
pub trait ByDeserialize<T> {
    fn reader(&self) -> Option<ReadField<T>>;
}

impl<T: DeserializeOwned> ByDeserialize<T> for FieldType<T> {
    fn reader(&self) -> Option<ReadField<T>> {
        Some(Value::decode::<T>)
    }
}

#[doc(hidden)]
pub trait WithoutDeserialize<T> {
    fn reader(&self) -> Option<ReadField<T>>;
}

impl<T> WithoutDeserialize<T> for &FieldType<T> {
    fn reader(&self) -> Option<ReadField<T>> {
        None
    }
}

#[doc(hidden)]
pub trait ByDefault<T> {
    fn maker(&self) -> Option<fn() -> T>;
}

impl<T: Default> ByDefault<T> for FieldType<T> {
    fn maker(&self) -> Option<fn() -> T> {
        Some(T::default)
    }
}

#[doc(hidden)]
pub trait WithoutDefault<T> {
    fn maker(&self) -> Option<fn() -> T>;
}

impl<T> WithoutDefault<T> for &FieldType<T> {
    fn maker(&self) -> Option<fn() -> T> {
        None
    }
}

#[doc(hidden)]
pub trait BySerialize<T> {
    fn writer(&self) -> WriteSerialised;
}

impl<T: Serialize> BySerialize<T> for FieldType<T> {
    fn writer(&self) -> WriteSerialised {
        WriteSerialised
    }
}

#[doc(hidden)]
pub trait WithoutSerialize<T> {
    fn writer(&self) -> WriteNothing;
}

impl<T> WithoutSerialize<T> for &FieldType<T> {
    fn writer(&self) -> WriteNothing {
        WriteNothing
    }
}

#[doc(hidden)]
pub trait ByWork<T> {
    fn role(&self) -> ChildRole<T>;
}

impl<T: Work> ByWork<T> for FieldType<T> {
    fn role(&self) -> ChildRole<T> {
        ChildRole(PhantomData)
    }
}

#[doc(hidden)]
pub trait WithoutWork<T> {
    fn role(&self) -> StateRole;
}

impl<T> WithoutWork<T> for &FieldType<T> {
    fn role(&self) -> StateRole {
        StateRole
    }
}

/// The role of a field whose type is a Work.
#[doc(hidden)]
pub struct ChildRole<T>(PhantomData<fn() -> T>);

/// The role of a field of the Flow's own state.
#[doc(hidden)]
pub struct StateRole;

/// The role of a field that is no child. `W` is the type of the field.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{W}` is a Work, so that a Flow holds it in a `WorkRef<{W}>`",
    label = "a Work that would never be part of the App",
    note = "write `WorkRef<{W}>` as the type of the field; by it the Flow reads the state of the Work, and runs and stops it"
)]
pub trait OwnRole<W> {}

impl<W> OwnRole<W> for StateRole {}

/// Accepts the role of a field that is no child.
#[doc(hidden)]
pub fn require_own<W, R: OwnRole<W>>(_: R) {}

/// Writes a field of type `T`.
#[doc(hidden)]
pub trait WriteField<T> {
    const CAN_WRITE: bool;

    fn write<S: SerializeStruct>(
        &self,
        name: &'static str,
        field: &T,
        fields: &mut S,
    ) -> Result<(), S::Error>;
}

#[doc(hidden)]
pub struct WriteSerialised;

impl<T: Serialize> WriteField<T> for WriteSerialised {
    const CAN_WRITE: bool = true;

    fn write<S: SerializeStruct>(
        &self,
        name: &'static str,
        field: &T,
        fields: &mut S,
    ) -> Result<(), S::Error> {
        fields.serialize_field(name, field)
    }
}

#[doc(hidden)]
pub struct WriteNothing;

impl<T> WriteField<T> for WriteNothing {
    const CAN_WRITE: bool = false;

    fn write<S: SerializeStruct>(&self, name: &'static str, _: &T, _: &mut S) -> Result<(), S::Error> {
        let type_name = type_name::<T>();
        Err(S::Error::custom(FieldError::NotSerialisable { field: name.to_owned(), type_name }))
    }
}

/// Serialises the own fields of a Flow, under their serialised names.
#[doc(hidden)]
pub struct OwnWriter<S: Serializer>(S::SerializeStruct);

impl<S: Serializer> OwnWriter<S> {
    pub fn new(serializer: S, count: usize) -> Result<Self, S::Error> {
        serializer.serialize_struct("Flow", count).map(Self)
    }

    pub fn write<T, W: WriteField<T>>(
        &mut self,
        name: &'static str,
        writer: W,
        field: &T,
    ) -> Result<(), S::Error> {
        writer.write(name, field, &mut self.0)
    }

    pub fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

/// Refuses to save a tuple struct.
#[doc(hidden)]
pub fn refuse_unnamed<S: Serializer>(_: S) -> Result<S::Ok, S::Error> {
    Err(S::Error::custom(FieldError::Unnamed))
}

/// An own field of a Flow.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct OwnField {
    /// Serialised name.
    pub name: &'static str,
    /// Other names under which it may be recorded.
    pub aliases: &'static [&'static str],
    /// True if the record may lack the field.
    pub is_optional: bool,
}

/// A field of a Flow that is made from its record.
#[doc(hidden)]
pub struct Made<T>(pub(super) Fenced<T>);

impl<T> Made<T> {
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// Error returned for one field of a Flow that cannot be saved or restored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum FieldError {
    /// The type of the field cannot be serialised.
    #[error(
        "the field `{field}` cannot be saved: `{type_name}` is not known to implement `Serialize`; derive it, declare the bound \
         where the Flow's type is defined if the field is generic, or leave the field out of the state with `#[serde(skip)]`"
    )]
    NotSerialisable {
        /// Serialised name of the field.
        field: String,
        /// Type of the field.
        type_name: &'static str,
    },
    /// The type of the field cannot be deserialised.
    #[error(
        "the field `{field}` cannot be restored: `{type_name}` is not known to implement `Deserialize`; derive it, declare the \
         bound where the Flow's type is defined if the field is generic, or leave the field out of the state with \
         `#[serde(skip)]`"
    )]
    NotDeserialisable {
        /// Serialised name of the field.
        field: String,
        /// Type of the field.
        type_name: &'static str,
    },
    /// The field has to be made without a record, and its type has no default.
    #[error(
        "the field `{field}` cannot be made: it is not recorded, and `{type_name}` is not known to implement `Default`; implement \
         it, or name a function with `#[serde(default = \"…\")]`"
    )]
    NoDefault {
        /// Name of the field.
        field: String,
        /// Type of the field.
        type_name: &'static str,
    },
    /// The children are those that the program spawns.
    #[error("the Works that a program spawns are not known when it starts again; declare them in a Flow")]
    Spawned,
    /// The `Default` of a field panicked.
    #[error("the field `{field}` cannot be made: its `Default` panicked: {message}")]
    DefaultPanicked {
        /// Name of the field.
        field: String,
        /// Message of the panic.
        message: String,
    },
    /// Serde serialises the field by a function, or as part of the struct around it.
    #[error(
        "the field `{field}` cannot be restored, because of serde's `{attribute}`: use a type whose `Serialize` and `Deserialize` do \
         the same, or leave the field out of the state with `#[serde(skip)]`"
    )]
    Attribute {
        /// Name of the field.
        field: String,
        /// The attribute.
        attribute: &'static str,
    },
    /// The Flow is a tuple struct.
    #[error("a Flow whose fields have no names cannot be restored: write `struct … {{ name: … }}`")]
    Unnamed,
    /// The record lacks the field.
    #[error(
        "the field `{field}` was not recorded; if it is new, give it `#[serde(default)]`, and it keeps the value that the constructor \
         gives it"
    )]
    Missing {
        /// Serialised name of the field.
        field: String,
    },
    /// The record lacks the field, and has one that the Flow does not know and that fits.
    #[error(
        "the field `{field}` was not recorded, but a field `{recorded}` was that fits; if that is its old name, give it \
         `#[serde(alias = {recorded:?})]`, and if it is new, `#[serde(default)]`"
    )]
    Renamed {
        /// Serialised name of the missing field.
        field: String,
        /// The unknown field of the record.
        recorded: String,
    },
    /// The recorded value does not have the shape of the field's type.
    #[error("the field `{field}` cannot be restored")]
    Unreadable {
        /// Serialised name of the field.
        field: String,
        /// Why the value does not fit.
        source: StateError,
    },
}

/// Makes the value of a field by its `Default`.
pub(super) fn make_default<T>(
    field: &'static str,
    default: Option<fn() -> T>,
) -> Result<Fenced<T>, FieldError> {
    let Some(default) = default else {
        return Err(FieldError::NoDefault { field: field.to_owned(), type_name: type_name::<T>() });
    };
    let made = fence::call(|| Fenced::new(default()));
    made.map_err(|panic| FieldError::DefaultPanicked { field: field.to_owned(), message: panic.to_string() })
}
