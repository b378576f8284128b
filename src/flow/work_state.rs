//! The recorded state of a Work, read by the program as it is now.
//!
//! # Guarantees
//! - A field that was recorded and that the Work does not read is reported.
//! - A field that the Work needs and that was not recorded is named, with what to do about it. If it is evidently a
//!   recorded field with another name, that one is named too.
//! - A panic in a user's `Deserialize`, `Serialize` or `Drop` is contained.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use thiserror::Error;

use crate::fence::{self, Fenced};
use crate::state::{StateError, Value};

/// Error returned for a recorded state that the Work cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum WorkStateError {
    /// The record lacks a field that the Work needs.
    #[error("a field of its state was not recorded; if it is new, give it `#[serde(default)]`")]
    Missing {
        /// The error of the decoder, which names the field.
        source: StateError,
    },
    /// The record lacks a field that the Work needs, and has one that the Work does not know and that fits.
    #[error(
        "the field `{field}` of its state was not recorded, but a field `{recorded}` was that fits; if that is its old name, \
         give it `#[serde(alias = {recorded:?})]`, and if it is new, `#[serde(default)]`"
    )]
    Renamed {
        /// The missing field.
        field: String,
        /// The unknown field of the record.
        recorded: String,
    },
    /// The recorded state does not have the shape of the Work.
    #[error("its recorded state does not fit the program")]
    Unreadable {
        /// Why it does not fit.
        source: StateError,
    },
}

/// The fields of a Work that differ from the recorded ones.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// The recorded fields that the Work does not have.
    pub(super) removed: Vec<String>,
    /// The fields that were not recorded, or under another name, which is the second part.
    pub(super) new: Vec<(String, Option<String>)>,
}

/// Reads a recorded state. Returns it with the fields of the Work that differ from the recorded ones.
///
/// # Errors
/// [`WorkStateError`] if the state cannot be read.
pub(super) fn read<W: Serialize + DeserializeOwned>(
    recorded: &Value,
) -> Result<(Fenced<W>, Fields), WorkStateError> {
    let names: BTreeSet<&str> = recorded.field_names().collect();
    let known = known_fields::<W>();
    let work = match recorded.decode::<W>() {
        Ok(work) => Fenced::new(work),
        Err(source) => return Err(explain::<W>(recorded, &names, &known, source)),
    };
    if names.len() == known.len() && names.iter().all(|name| known.contains(name)) {
        return Ok((work, Fields::default()));
    }
    // Fields that are only serialised are not among those that `Deserialize` knows, and a `Deserialize` by hand may not
    // say which it knows.
    let again = Value::of(&*work).unwrap_or_default();
    let written: BTreeSet<&str> = again.field_names().collect();
    let is_removed = |name: &&&str| !known.contains(*name) && !written.contains(*name);
    let removed = names.iter().filter(is_removed).map(|name| (*name).to_owned()).collect();
    let new: Vec<_> = written.difference(&names).collect();
    // Read by an alias, and written under the name of the field.
    let renamed: Vec<_> =
        names.iter().filter(|name| known.contains(*name) && !written.contains(*name)).collect();
    let recorded_as = |field: &str| {
        let same = |name: &&&&str| recorded.field(name) == again.field(field);
        let mut same = renamed.iter().filter(same);
        match (same.next(), same.next()) {
            (Some(name), None) => Some((**name).to_owned()),
            _ => None,
        }
    };
    let new = new.into_iter().map(|field| ((*field).to_owned(), recorded_as(field))).collect();
    Ok((work, Fields { removed, new }))
}

fn explain<W: DeserializeOwned>(
    recorded: &Value,
    names: &BTreeSet<&str>,
    known: &BTreeSet<&'static str>,
    source: StateError,
) -> WorkStateError {
    let StateError::Unreadable { path, reason, .. } = &source else {
        return WorkStateError::Unreadable { source };
    };
    let Some(rest) = reason.strip_prefix("missing field `") else {
        return WorkStateError::Unreadable { source };
    };
    let field = rest.trim_end_matches('`');
    let mut unknown = names.iter().filter(|name| !known.contains(**name));
    if path.is_none()
        && let (Some(only), None) = (unknown.next(), unknown.next())
        && reads_renamed::<W>(recorded, only, field)
    {
        return WorkStateError::Renamed { field: field.to_owned(), recorded: (*only).to_owned() };
    }
    WorkStateError::Missing { source }
}

/// Returns true if the state can be read when the field `from` is called `to`.
fn reads_renamed<W: DeserializeOwned>(recorded: &Value, from: &str, to: &str) -> bool {
    let Value::Map(entries) = recorded else { return false };
    let rename = |(key, value): &(Value, Value)| match key {
        Value::Str(name) if name == from => (Value::Str(to.to_owned().into()), value.clone()),
        _ => (key.clone(), value.clone()),
    };
    match Value::Map(entries.iter().map(rename).collect()).decode::<W>() {
        Ok(work) => {
            drop(Fenced::new(work));
            true
        }
        Err(_) => false,
    }
}

/// Returns the names that the `Deserialize` of a struct gives, with its aliases. Empty for other types, and for a
/// `Deserialize` by hand that gives none.
fn known_fields<W: DeserializeOwned>() -> BTreeSet<&'static str> {
    let asked = fence::call(|| match W::deserialize(FieldNames) {
        Ok(work) => {
            drop(Fenced::new(work));
            &[][..]
        }
        Err(NamesOrError::Names(names)) => names,
        Err(NamesOrError::Error) => &[],
    });
    asked.unwrap_or_default().iter().copied().collect()
}

/// A deserializer that only learns which fields a struct has.
struct FieldNames;

#[derive(Debug)]
enum NamesOrError {
    Names(&'static [&'static str]),
    Error,
}

impl fmt::Display for NamesOrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no value, only the names of the fields are wanted")
    }
}

impl std::error::Error for NamesOrError {}

impl serde::de::Error for NamesOrError {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Error
    }
}

impl<'de> Deserializer<'de> for FieldNames {
    type Error = NamesOrError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NamesOrError> {
        Err(NamesOrError::custom("no value"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NamesOrError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NamesOrError> {
        Err(NamesOrError::Names(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}
