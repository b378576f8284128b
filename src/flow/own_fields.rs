//! A Flow's own fields, restored from the state that was recorded.
//!
//! # Guarantees
//! - Nothing is restored unless everything can be: a field that was recorded and cannot be read is reported by name, and
//!   so is a field of the program that the record lacks.
//! - A field that serde skips keeps the value that the constructor of the Flow gave it, and so does a field with serde's
//!   `default` that the record lacks.
//! - A recorded field that the program does not have any more is reported, and restoring continues.
//! - A panic in a user's `Deserialize` or `Drop` is contained.

use std::any::type_name;
use std::collections::BTreeSet;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::fence;
use crate::state::{StateError, Value};

/// A function that reads a field from its recorded value.
#[doc(hidden)]
pub type ReadField<T> = fn(&Value) -> Result<T, StateError>;

/// Chooses [`ReadField`] for a type, at the place where the derive knows the type: method resolution prefers
/// [`ByDeserialize`] where the type can be deserialised, and falls back to [`ByNothing`].
#[doc(hidden)]
pub struct FieldReader<T>(PhantomData<fn() -> T>);

impl<T> FieldReader<T> {
    #[allow(clippy::new_without_default, reason = "for the derive only")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

#[doc(hidden)]
pub trait ByDeserialize<T> {
    fn reader(&self) -> Option<ReadField<T>>;
}

impl<T: DeserializeOwned> ByDeserialize<T> for FieldReader<T> {
    fn reader(&self) -> Option<ReadField<T>> {
        Some(Value::decode::<T>)
    }
}

#[doc(hidden)]
pub trait ByNothing<T> {
    fn reader(&self) -> Option<ReadField<T>>;
}

impl<T> ByNothing<T> for &FieldReader<T> {
    fn reader(&self) -> Option<ReadField<T>> {
        None
    }
}

/// Error returned for one field of a Flow that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The type of the field cannot be deserialised.
    #[error(
        "the field `{field}` cannot be restored: `{type_name}` does not implement `Deserialize`; derive it, or leave the field \
         out of the state with `#[serde(skip)]`"
    )]
    NotDeserialisable {
        /// Serialised name of the field.
        field: String,
        /// Type of the field.
        type_name: &'static str,
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
    /// The recorded value does not have the shape of the field's type.
    #[error("the field `{field}` cannot be restored")]
    Unreadable {
        /// Serialised name of the field.
        field: String,
        /// Why the value does not fit.
        source: StateError,
    },
}

/// The recorded state of a Flow while its own fields are restored from it.
#[doc(hidden)]
pub struct OwnFields<'a> {
    recorded: &'a Value,
    /// True in the first pass, which changes nothing.
    is_check: bool,
    known: BTreeSet<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> OwnFields<'a> {
    /// Restores a field, or only checks that it can be restored.
    pub fn field<T>(
        &mut self,
        name: &'static str,
        is_optional: bool,
        read: Option<ReadField<T>>,
        field: &mut T,
    ) {
        self.known.insert(name);
        let Some(value) = self.recorded.field(name) else {
            if !is_optional {
                self.errors.push(FieldError::Missing { field: name.to_owned() });
            }
            return;
        };
        let Some(read) = read else {
            let type_name = type_name::<T>();
            return self.errors.push(FieldError::NotDeserialisable { field: name.to_owned(), type_name });
        };
        match read(value) {
            Ok(value) => {
                let unused = if self.is_check { value } else { std::mem::replace(field, value) };
                if let Err(panic) = fence::discard(unused) {
                    log::error!("a value of the field `{name}` panicked while it was dropped: {panic}");
                }
            }
            Err(source) => self.errors.push(FieldError::Unreadable { field: name.to_owned(), source }),
        }
    }

    /// Reports a field that an attribute of serde makes impossible to restore.
    pub fn unrestorable(&mut self, name: &'static str, attribute: &'static str) {
        self.known.insert(name);
        self.errors.push(FieldError::Attribute { field: name.to_owned(), attribute });
    }

    /// Reports a tuple struct.
    pub fn unnamed(&mut self) {
        self.errors.push(FieldError::Unnamed);
    }

    /// Names a field that holds children, which are restored by themselves.
    pub fn child(&mut self, name: &'static str) {
        self.known.insert(name);
    }
}

/// Restores the own fields of a Flow by `restore`, which visits each of them. Returns the names of recorded fields that
/// the Flow does not have.
///
/// # Errors
/// All fields that cannot be restored; the Flow is unchanged then.
pub(crate) fn restore_own_fields(
    recorded: &Value,
    mut restore: impl FnMut(&mut OwnFields<'_>),
) -> Result<Vec<String>, Vec<FieldError>> {
    let fields = |is_check| OwnFields { recorded, is_check, known: BTreeSet::new(), errors: Vec::new() };
    let mut checked = fields(true);
    restore(&mut checked);
    if !checked.errors.is_empty() {
        return Err(checked.errors);
    }
    let mut restored = fields(false);
    restore(&mut restored);
    if !restored.errors.is_empty() {
        return Err(restored.errors);
    }
    let names = recorded.field_names();
    Ok(names.filter(|name| !restored.known.contains(name)).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::flow::{Children, Flow, FlowContext, Reaction, WorkRef};
    use crate::work::{Work, WorkContext};

    #[derive(Default, Serialize, Deserialize)]
    struct Idle;

    impl Work for Idle {
        type Input = ();

        async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> crate::error::Result<()> {
            Ok(())
        }
    }

    #[derive(Default, Serialize, flowright_macros::Children)]
    struct Team {
        idle: WorkRef<Idle>,
        rounds: u32,
        #[serde(rename = "bestScore")]
        best: Option<Option<f64>>,
        names: BTreeMap<u8, String>,
        #[serde(default)]
        added: String,
        #[serde(skip)]
        cache: Vec<std::cell::Cell<u8>>,
    }

    impl Flow for Team {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            Ok(())
        }
    }

    fn restore(team: &mut Team, recorded: &Value) -> Result<Vec<String>, Vec<FieldError>> {
        restore_own_fields(recorded, |fields| team.restore(fields))
    }

    /// Fields are restored by their serialised names; what serde skips stays as the constructor made it.
    #[test]
    fn own_fields_are_restored_by_name() {
        let names: BTreeMap<u8, String> = [(3, "three".to_owned())].into();
        let before =
            Team { rounds: 7, best: Some(None), names: names.clone(), added: "x".into(), ..Team::default() };
        let recorded = Value::of(&before).unwrap();
        let mut team = Team { cache: vec![Default::default()], ..Team::default() };
        assert_eq!(restore(&mut team, &recorded), Ok(Vec::new()));
        assert_eq!((team.rounds, team.best, team.names, team.added.as_str()), (7, Some(None), names, "x"));
        assert_eq!(team.cache.len(), 1);
    }

    /// A record without a field that has a default, and with a field that is gone, is restored; the latter is named.
    #[test]
    fn added_and_removed_fields_are_told_apart() {
        #[derive(Serialize)]
        struct Older {
            idle: (),
            rounds: u32,
            #[serde(rename = "bestScore")]
            best: Option<f64>,
            names: BTreeMap<u8, String>,
            budget: u32,
        }

        let older = Older { idle: (), rounds: 1, best: None, names: BTreeMap::new(), budget: 1 };
        let mut team = Team { added: "kept".into(), ..Team::default() };
        assert_eq!(restore(&mut team, &Value::of(&older).unwrap()), Ok(vec!["budget".to_owned()]));
        assert_eq!((team.rounds, team.added.as_str()), (1, "kept"));
    }

    /// All fields that do not fit are named, and none is changed.
    #[test]
    fn record_that_does_not_fit_changes_nothing() {
        #[derive(Serialize)]
        struct Other {
            rounds: &'static str,
            names: BTreeMap<u8, String>,
        }

        let other = Other { rounds: "many", names: [(1, "one".to_owned())].into() };
        let mut team = Team::default();
        let errors = restore(&mut team, &Value::of(&other).unwrap()).unwrap_err();
        assert!(
            matches!(&errors[0], FieldError::Unreadable { field, .. } if field == "rounds"),
            "{errors:?}"
        );
        assert_eq!(errors[1], FieldError::Missing { field: "bestScore".to_owned() });
        assert_eq!(errors.len(), 2);
        assert!(team.names.is_empty());
    }

    /// A field whose type cannot be deserialised is refused by name, and so is one that is serialised by a function.
    #[test]
    fn field_that_cannot_be_read_back_is_refused_by_name() {
        #[derive(Default, Serialize)]
        struct OneWay(u8);

        fn text<S: serde::Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(number)
        }

        #[derive(Default, Serialize, flowright_macros::Children)]
        struct Mixed {
            one_way: OneWay,
            #[serde(serialize_with = "text")]
            number: u8,
        }

        impl Flow for Mixed {
            fn react(&mut self, _: &mut FlowContext) -> Reaction {
                Ok(())
            }
        }

        let mut mixed = Mixed::default();
        let recorded = Value::of(&mixed).unwrap();
        let errors = restore_own_fields(&recorded, |fields| mixed.restore(fields)).unwrap_err();
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(shown[0].contains("`one_way`") && shown[0].contains("OneWay"), "{shown:?}");
        assert!(shown[1].contains("`number`") && shown[1].contains("serialize_with"), "{shown:?}");
    }
}
