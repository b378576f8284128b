//! Changes to a value, and folding them together.

use std::collections::{BTreeMap, HashMap};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Value;
use super::error::Fault;
use super::json::key_text;
use super::value::{SMALL, repeated};

/// A tree of changes that turns one value into another.
///
/// A patch is made for one particular value. On any other it may be refused, or change
/// what is there; see [`Value::apply`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// One for each key; a patch with another is not read.
    pub(super) entries: Vec<Entry>,
    #[serde(skip)]
    index: Index,
}

/// Changes to the items of a sequence; part of a [`Patch`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeqPatch {
    /// The length the sequence has before.
    pub(super) from: u32,
    /// The length the sequence has after.
    pub(super) len: u32,
    /// Items beyond the shorter of the two lengths are always set.
    pub(super) items: BTreeMap<u32, Patch>,
}

/// The change to one entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Value,
    /// Where the entry is likely to be found in the map as it was before the patch, or in
    /// case of a new one belongs in the map as it is after.
    pub(super) at: u32,
    pub(super) change: Change,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Change {
    /// The key is new.
    #[serde(rename = "add")]
    Insert(Value),
    /// The key stays.
    #[serde(rename = "to")]
    Update(Patch),
    /// The key goes.
    #[serde(rename = "del")]
    Remove,
}

/// Where the entry of each key is, built once there are enough of them.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "most patches have none, and all should be small")]
struct Index(Option<Box<HashMap<Value, usize>>>);

impl Clone for Index {
    fn clone(&self) -> Self {
        // It can be rebuilt, and a copy of a patch is rarely folded any further.
        Self(None)
    }
}

/// A position as it is kept in patches. Saturates: where exactness matters, lengths
/// beyond `u32` make a patch that does not fit.
#[inline]
pub(super) fn hint(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Patch {
    /// Adds the changes of `later`, so that applying the result once equals applying
    /// `self` and then `later`.
    ///
    /// Takes time in proportion to the size of `later`, amortised, however large `self`
    /// has grown; except that removing or adding an entry of a map that `self` carries as
    /// a whole involves a pass over the keys of that map.
    ///
    /// If `later` was not made for the value `self` leads to, the result does not fit
    /// any value either.
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

    /// The top-level keys or positions that change, in their textual form.
    ///
    /// A patch that replaces the whole value touches all that the new value has.
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

    /// A patch that no value accepts.
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

    /// Forgets the change at `at`.
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

    /// False if `later` does not follow.
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
