//! Patches, which are changes to a value, and folding of consecutive patches.

use std::collections::{BTreeMap, HashMap};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Value;
use super::error::Fault;
use super::json::key_text;
use super::value::{SMALL, repeated};

/// A tree of changes that turns one value into another.
///
/// A patch is made for one particular value. Applied to any other, it may be refused, or change whatever is there;
/// see [`Value::apply`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Patch {
    /// Replaces the value, whatever it was.
    #[serde(rename = "set")]
    Set(Value),
    /// Changes entries of a map.
    #[serde(rename = "map")]
    Map(MapPatch),
    /// Changes items of a sequence.
    #[serde(rename = "seq")]
    Seq(SeqPatch),
}

/// Changes to the entries of a map; part of a [`Patch`].
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct MapPatch {
    /// Changes with distinct keys; a patch that repeats a key does not deserialise.
    pub(super) entries: Vec<Entry>,
    #[serde(skip)]
    index: Index,
}

/// Changes to the items of a sequence; part of a [`Patch`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeqPatch {
    /// The length of the sequence before the patch.
    pub(super) from: u32,
    /// The length of the sequence after the patch.
    pub(super) len: u32,
    /// Changes by position. Items beyond the shorter of the two lengths are always [`Patch::Set`].
    pub(super) items: BTreeMap<u32, Patch>,
}

/// The change to one entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Value,
    /// A position hint: of an existing entry, its likely position before the patch; of a new entry, its position
    /// after the patch.
    pub(super) at: u32,
    pub(super) change: Change,
}

/// The change of one field, as it is shown.
#[cfg(feature = "journal")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FieldChange<'a> {
    /// The field has this value now.
    To(&'a Value),
    /// Parts of the value have changed.
    Within,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Change {
    /// Adds an entry with this value.
    #[serde(rename = "add")]
    Insert(Value),
    /// Changes the value of an existing entry.
    #[serde(rename = "to")]
    Update(Patch),
    /// Removes an entry.
    #[serde(rename = "del")]
    Remove,
}

/// Positions of entries by key, built once there are more than a few.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "most patches have none, and all should be small")]
struct Index(Option<Box<HashMap<Value, usize>>>);

impl Clone for Index {
    fn clone(&self) -> Self {
        // The index can be rebuilt, and a copy of a patch is rarely folded any further.
        Self(None)
    }
}

/// Converts a position to its form in patches. Saturates: where positions must be exact, a length beyond `u32` makes
/// a patch that fits no value.
#[inline]
pub(super) fn hint(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Patch {
    /// Appends the changes of `later`, so that applying the result equals applying `self` and then `later`.
    ///
    /// Takes time proportional to the size of `later`, amortised, however large `self` has grown; except that adding
    /// or removing an entry of a map that `self` carries as a whole takes a pass over the keys of that map.
    ///
    /// If `later` was not made for the value that `self` leads to, the result fits no value.
    pub fn then(&mut self, later: Patch) {
        match (&mut *self, later) {
            (_, Patch::Set(value)) => *self = Patch::Set(value),
            (Patch::Set(value), later) => {
                if value.apply(later).is_err() {
                    *self = Patch::unfit();
                }
            }
            (Patch::Map(earlier), Patch::Map(later)) => earlier.then(later),
            (Patch::Seq(earlier), Patch::Seq(later)) => {
                if !earlier.then(later) {
                    *self = Patch::unfit();
                }
            }
            (Patch::Map(_), Patch::Seq(_)) | (Patch::Seq(_), Patch::Map(_)) => {
                *self = Patch::unfit();
            }
        }
    }

    /// Returns the top-level keys or positions that change, in their textual form.
    ///
    /// A patch that replaces the whole value touches everything in the new value.
    pub fn touches(&self) -> Vec<String> {
        match self {
            Patch::Set(Value::Map(entries)) => {
                entries.iter().map(|(key, _)| key_text(key).into_owned()).collect()
            }
            Patch::Set(Value::Seq(items)) => (0..items.len()).map(|at| at.to_string()).collect(),
            Patch::Set(_) => Vec::new(),
            Patch::Map(patch) => {
                patch.entries.iter().map(|entry| key_text(&entry.key).into_owned()).collect()
            }
            Patch::Seq(patch) => patch.items.keys().map(u32::to_string).collect(),
        }
    }

    /// Returns the top-level keys or positions that change, in their textual form, with the new value if that is the whole
    /// change.
    #[cfg(feature = "journal")]
    pub(crate) fn fields<'a>(&'a self) -> Vec<(String, FieldChange<'a>)> {
        match self {
            Patch::Set(Value::Map(entries)) => entries
                .iter()
                .map(|(key, value)| (key_text(key).into_owned(), FieldChange::To(value)))
                .collect(),
            Patch::Set(_) => Vec::new(),
            Patch::Map(patch) => {
                let change = |change: &'a Change| match change {
                    Change::Insert(value) | Change::Update(Patch::Set(value)) => FieldChange::To(value),
                    Change::Update(_) => FieldChange::Within,
                    Change::Remove => FieldChange::Removed,
                };
                patch
                    .entries
                    .iter()
                    .map(|entry| (key_text(&entry.key).into_owned(), change(&entry.change)))
                    .collect()
            }
            Patch::Seq(patch) => patch
                .items
                .iter()
                .map(|(at, change)| match change {
                    Patch::Set(value) => (at.to_string(), FieldChange::To(value)),
                    _ => (at.to_string(), FieldChange::Within),
                })
                .collect(),
        }
    }

    /// Returns a patch that no value accepts.
    fn unfit() -> Patch {
        Patch::Seq(SeqPatch::new(u32::MAX, 0, Vec::new()))
    }
}

impl MapPatch {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self { entries, index: Index::default() }
    }

    pub(super) fn one(key: Value, at: u32, patch: Patch) -> Self {
        let change = Change::Update(patch);
        Self::new(vec![Entry { key, at, change }])
    }

    fn then(&mut self, later: MapPatch) {
        for entry in later.entries {
            let Some(at) = self.find(&entry.key) else {
                if let Some(index) = &mut self.index.0 {
                    index.insert(entry.key.clone(), self.entries.len());
                }
                self.entries.push(entry);
                continue;
            };
            let slot = &mut self.entries[at].change;
            match (&mut *slot, entry.change) {
                (Change::Insert(value), Change::Update(patch)) => {
                    if value.apply(patch).is_err() {
                        *slot = Change::Update(Patch::unfit());
                    }
                }
                (Change::Insert(_), Change::Remove) => self.cancel(at),
                (Change::Update(earlier), Change::Update(later)) => earlier.then(later),
                (Change::Update(_), Change::Remove) => *slot = Change::Remove,
                (Change::Remove, Change::Insert(value)) => {
                    *slot = Change::Update(Patch::Set(value));
                }
                (Change::Insert(_) | Change::Update(_), Change::Insert(_))
                | (Change::Remove, Change::Update(_) | Change::Remove) => {
                    *slot = Change::Update(Patch::unfit());
                }
            }
        }
    }

    fn find(&mut self, key: &Value) -> Option<usize> {
        if self.entries.len() <= SMALL {
            self.index.0 = None;
            return self.entries.iter().position(|entry| entry.key == *key);
        }
        let entries = &self.entries;
        let index = self.index.0.get_or_insert_with(|| {
            let keys = entries.iter().map(|entry| entry.key.clone());
            Box::new(keys.zip(0..).collect())
        });
        index.get(key).copied()
    }

    /// Removes the change at position `at` from the patch.
    fn cancel(&mut self, at: usize) {
        let cancelled = self.entries.swap_remove(at);
        if let Some(index) = &mut self.index.0 {
            index.remove(&cancelled.key);
            if let Some(moved) = self.entries.get(at)
                && let Some(position) = index.get_mut(&moved.key)
            {
                *position = at;
            }
        }
    }
}

impl PartialEq for MapPatch {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl SeqPatch {
    pub(super) fn new(from: u32, len: u32, items: Vec<(u32, Patch)>) -> Self {
        Self { from, len, items: items.into_iter().collect() }
    }

    /// Returns `false` if `later` does not follow `self`.
    fn then(&mut self, later: SeqPatch) -> bool {
        if later.from != self.len {
            return false;
        }
        self.items.split_off(&later.len);
        for (at, patch) in later.items {
            if let Some(earlier) = self.items.get_mut(&at) {
                earlier.then(patch);
            } else if at < self.len || matches!(patch, Patch::Set(_)) {
                self.items.insert(at, patch);
            } else {
                return false;
            }
        }
        self.len = later.len;
        true
    }
}

impl<'de> Deserialize<'de> for MapPatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = Vec::<Entry>::deserialize(deserializer)?;
        match repeated(entries.iter().map(|entry| &entry.key)) {
            Some(key) => Err(D::Error::custom(Fault::repeated(key))),
            None => Ok(Self::new(entries)),
        }
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.key, self.at, &self.change).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (key, at, change): (Value, _, _) = Deserialize::deserialize(deserializer)?;
        if !key.is_key() {
            return Err(D::Error::custom(Fault::deep_key()));
        }
        Ok(Self { key, at, change })
    }
}
