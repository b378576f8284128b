//! The value tree: its shape, equality, and access by path.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Fault, StateError};
use super::json::key_text;
use super::{decode, diff};
use crate::fence;

/// Number of map entries up to which they are searched one by one; larger maps are indexed.
pub(super) const SMALL: usize = 16;

/// A serialised value: the serde data model as a tree.
///
/// The [module documentation](super) describes how Rust types map to it.
///
/// # Equality
///
/// Floats compare by their bits, so that a NaN equals itself and `0.0` differs from `-0.0`. `F32` and `F64` never
/// equal each other. Maps compare without regard to the order of their entries.
///
/// # Canonical form
///
/// All functions of this module produce values with one representation per number, as noted at the variants, and
/// without repeated keys in maps. Values constructed by hand should do the same: a number in two representations
/// compares as two numbers, and comparing maps with repeated keys gives an unspecified result.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Value {
    /// `None`, `()` and unit structs.
    #[default]
    Nil,
    /// `None` or unit inside of this number of `Some`s, from 1 to 128; 1 for `Some(None)` and `Some(())`.
    SomeNil(u8),
    /// A boolean.
    Bool(bool),
    /// A negative integer; other integers are [`U64`](Value::U64).
    I64(i64),
    /// A non-negative integer.
    U64(u64),
    /// An integer outside the range of both `i64` and `u64`.
    Wide(Box<i128>),
    /// A single-precision float.
    F32(f32),
    /// A double-precision float.
    F64(f64),
    /// Text: strings, chars and the names of unit variants. String literals are borrowed.
    Str(Cow<'static, str>),
    /// Binary data.
    Bytes(Vec<u8>),
    /// A sequence, tuple or tuple struct.
    Seq(Vec<Value>),
    /// A map, struct, or a variant with its content. Keys are distinct.
    Map(Vec<(Value, Value)>),
}

/// Maximum number of levels in the key of a map.
const MAX_KEY_DEPTH: usize = 4;

impl Value {
    /// Returns the value that `state` serialises to.
    ///
    /// # Errors
    ///
    /// [`StateError::Unserialisable`] if a `Serialize` implementation reports an error,
    /// a map repeats a key, or an integer exceeds `i128::MAX`.
    pub fn of<T: Serialize + ?Sized>(state: &T) -> Result<Value, StateError> {
        let built = fence::call(|| diff::build(state));
        built.unwrap_or_else(|panic| Err(Fault::panicked("Serialize", &panic))).map_err(Fault::unserialisable)
    }

    /// Reads the value back as a `T`.
    ///
    /// Numbers convert between widths if they fit, and integers are accepted for floats. Map keys that passed through
    /// a text format (`"3"`, `"true"`) are accepted for integer and boolean keys.
    ///
    /// # Errors
    ///
    /// [`StateError::Unreadable`] if the value does not have the shape of a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, StateError> {
        let read = fence::call(|| decode::decode(self));
        read.unwrap_or_else(|panic| Err(Fault::panicked("Deserialize", &panic)))
            .map_err(Fault::unreadable::<T>)
    }

    /// Returns the part of the value at a dotted path such as `layers.3.weights`.
    ///
    /// Steps are map keys (in their textual form) or sequence positions; the empty path is the value itself. Keys
    /// that contain dots are found, too; if a path can be read in two ways, the reading with the shorter first step
    /// wins.
    pub fn get(&self, path: &str) -> Option<&Value> {
        if path.is_empty() {
            return Some(self);
        }
        let splits = path.match_indices('.').map(|(at, _)| at);
        splits.chain([path.len()]).find_map(|end| {
            let rest = path.get(end + 1..);
            let child = self.child(&path[..end])?;
            match rest {
                None => Some(child),
                Some("") => None,
                Some(rest) => child.get(rest),
            }
        })
    }

    /// Returns the field of this name, if the value is a struct or a map with text keys.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        let Value::Map(entries) = self else { return None };
        entries
            .iter()
            .find(|(key, _)| matches!(key, Value::Str(key) if &**key == name))
            .map(|(_, value)| value)
    }

    /// Iterates over the names of the fields, if the value is a struct or a map with text keys.
    pub(crate) fn field_names(&self) -> impl Iterator<Item = &str> {
        let entries = if let Value::Map(entries) = self { entries.as_slice() } else { &[] };
        entries.iter().filter_map(|(key, _)| if let Value::Str(key) = key { Some(&**key) } else { None })
    }

    /// Returns the text of the value as a key of a map.
    #[cfg(feature = "journal")]
    pub(crate) fn key_text(&self) -> Cow<'_, str> {
        key_text(self)
    }

    fn child(&self, step: &str) -> Option<&Value> {
        match self {
            Value::Map(entries) => {
                let named = |(key, _): &&(Value, Value)| match key {
                    Value::Str(name) => name == step,
                    other => key_text(other) == step,
                };
                entries.iter().find(named).map(|(_, value)| value)
            }
            Value::Seq(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn name(name: &'static str) -> Value {
        Value::Str(Cow::Borrowed(name))
    }

    /// Returns `None` inside of `somes` levels of `Some`.
    pub(super) fn nil_in(somes: u8) -> Value {
        if somes == 0 { Value::Nil } else { Value::SomeNil(somes) }
    }

    #[inline]
    pub(super) fn from_i64(n: i64) -> Value {
        u64::try_from(n).map_or(Value::I64(n), Value::U64)
    }

    pub(super) fn from_i128(n: i128) -> Value {
        if let Ok(n) = u64::try_from(n) {
            Value::U64(n)
        } else if let Ok(n) = i64::try_from(n) {
            Value::I64(n)
        } else {
            Value::Wide(Box::new(n))
        }
    }

    /// Returns whether the value is allowed as a map key. Comparing or printing a key takes time that doubles with
    /// each key nested in a key, hence the limit.
    pub(super) fn is_key(&self) -> bool {
        self.has_levels(MAX_KEY_DEPTH)
    }

    fn has_levels(&self, at_most: usize) -> bool {
        match self {
            Value::Seq(items) => at_most > 0 && items.iter().all(|item| item.has_levels(at_most - 1)),
            Value::Map(entries) => {
                let mut parts = entries.iter().flat_map(|(key, value)| [key, value]);
                at_most > 0 && parts.all(|part| part.has_levels(at_most - 1))
            }
            _ => true,
        }
    }

    /// Returns the kind of the value, for error messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "nothing",
            Value::SomeNil(_) => "nothing inside of `Some`",
            Value::Bool(_) => "a boolean",
            Value::I64(_) | Value::U64(_) | Value::Wide(_) => "an integer",
            Value::F32(_) | Value::F64(_) => "a float",
            Value::Str(_) => "a string",
            Value::Bytes(_) => "bytes",
            Value::Seq(_) => "a sequence",
            Value::Map(_) => "a map",
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Nil, Value::Nil) => true,
            (Value::SomeNil(a), Value::SomeNil(b)) => a == b,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::I64(a), Value::I64(b)) => a == b,
            (Value::U64(a), Value::U64(b)) => a == b,
            (Value::Wide(a), Value::Wide(b)) => a == b,
            (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
            (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Seq(a), Value::Seq(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => same_entries(a, b),
            _ => false,
        }
    }
}

impl Eq for Value {}

fn same_entries(a: &[(Value, Value)], b: &[(Value, Value)]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    // Equal maps usually have the same order of entries as well.
    let ordered = a.iter().zip(b).take_while(|(a, b)| a.0 == b.0).count();
    let (a_head, a_rest) = a.split_at(ordered);
    let (b_head, b_rest) = b.split_at(ordered);
    if a_head.iter().zip(b_head).any(|(a, b)| a.1 != b.1) {
        return false;
    }
    if a_rest.len() <= SMALL {
        a_rest.iter().all(|(key, value)| b_rest.iter().any(|(k, v)| k == key && v == value))
    } else {
        let b_rest: HashMap<_, _> = b_rest.iter().map(|(key, value)| (key, value)).collect();
        a_rest.iter().all(|(key, value)| b_rest.get(key) == Some(&value))
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Value::Nil => {}
            Value::SomeNil(somes) => somes.hash(state),
            Value::Bool(b) => b.hash(state),
            Value::I64(n) => n.hash(state),
            Value::U64(n) => n.hash(state),
            Value::Wide(n) => n.hash(state),
            Value::F32(x) => x.to_bits().hash(state),
            Value::F64(x) => x.to_bits().hash(state),
            Value::Str(text) => text.hash(state),
            Value::Bytes(bytes) => bytes.hash(state),
            Value::Seq(items) => items.hash(state),
            Value::Map(entries) => {
                // Hashes are summed, because the order of entries does not matter for equality.
                let sum = entries.iter().fold(0u64, |sum, entry| {
                    let mut hasher = DefaultHasher::new();
                    entry.hash(&mut hasher);
                    sum.wrapping_add(hasher.finish())
                });
                entries.len().hash(state);
                sum.hash(state);
            }
        }
    }
}

/// Returns a key that occurs more than once.
pub(super) fn repeated_key(entries: &[(Value, Value)]) -> Option<&Value> {
    repeated(entries.iter().map(|(key, _)| key))
}

/// Returns a key that occurs more than once.
pub(super) fn repeated<'a>(keys: impl ExactSizeIterator<Item = &'a Value> + Clone) -> Option<&'a Value> {
    if keys.len() <= SMALL {
        let twice = |(at, key): &(usize, &Value)| keys.clone().take(*at).any(|earlier| earlier == *key);
        keys.clone().enumerate().find(twice).map(|(_, key)| key)
    } else {
        let mut seen = HashSet::with_capacity(keys.len());
        keys.clone().find(|key| !seen.insert(*key))
    }
}

/// Returns a key that occurs more than once, if all keys except the `count` ones at `positions` are known to be
/// distinct.
pub(super) fn repeated_key_at(
    entries: &[(Value, Value)],
    count: usize,
    mut positions: impl Iterator<Item = usize>,
) -> Option<&Value> {
    const FEW: usize = 4;
    if count > FEW {
        return repeated_key(entries);
    }
    positions.find_map(|at| {
        let key = &entries[at].0;
        let others = entries[..at].iter().chain(&entries[at + 1..]);
        others.map(|(k, _)| k).find(|k| *k == key)
    })
}
