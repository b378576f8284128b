//! Comparing a map being serialised with the map in the tree.
//!
//! Maps are usually serialised in the order they had last time, so a cursor walks the old
//! entries alongside. What is out of place is handled in stages, each for more disorder
//! than the one before. A key found a little further on has the entries before it set
//! aside, where later keys may find them. A key found neither there nor nearby is looked
//! for among all entries left, since it is probably new and there are few such. Once that
//! has happened too often, or too much is set aside, everything left goes into a hash map.
//!
//! ```text
//! 0 ······· write ······· read ······· len
//!   current        holes        not seen
//! ```

use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap, SerializeStruct, SerializeStructVariant};

use super::diff::{Delta, Diff, Walk, Wrap, build};
use super::error::Fault;
use super::json::key_text;
use super::key::{Equals, NotScalar};
use super::patch::{Change, Entry, MapPatch, Patch, hint};
use super::size;
use super::value::{SMALL, Value, repeated_key, repeated_key_at};

/// How many keys are looked for one by one among all entries left before those are indexed.
const SCANS: u8 = 16;

/// Patches with fewer changes are sent as they are, however much they replace.
pub(super) const TRIVIAL: usize = 8;

/// Reserved up front at most, whatever length is announced.
pub(super) const RESERVE: usize = 4096;

pub(super) struct MapDiff<'a> {
    entries: &'a mut Vec<(Value, Value)>,
    walk: &'a mut Walk,
    start: usize,
    /// The slot did not hold a map, so that all of this one is new.
    fresh: bool,
    read: usize,
    write: usize,
    /// How far the entries not seen yet have moved back to make room for new ones.
    shift: usize,
    /// Where the entry whose key was serialised last used to be.
    pending: Option<usize>,
    /// Boxed, as this struct is moved about for every map and most are in order.
    disorder: Option<Box<Disorder>>,
    changes: Vec<Entry>,
    inserted: usize,
    /// Bytes in values overwritten as a whole.
    replaced: usize,
    wrap: Wrap,
}

#[derive(Default)]
struct Disorder {
    /// Entries passed over, with where they were.
    skipped: Vec<(usize, Value, Value)>,
    /// Once there is too much disorder: all entries not seen yet.
    rest: Option<HashMap<Value, (usize, Value)>>,
    scans: u8,
}

/// A key to be found.
trait Probe {
    fn is(&mut self, candidate: &Value) -> Result<bool, Fault>;
    fn build(&mut self) -> Result<Value, Fault>;
}

struct Field(&'static str);

impl Probe for Field {
    #[inline]
    fn is(&mut self, candidate: &Value) -> Result<bool, Fault> {
        Ok(match candidate {
            // A name is normally the very same text each time.
            Value::Str(name) => {
                (name.as_ptr() == self.0.as_ptr() && name.len() == self.0.len()) || name == self.0
            }
            _ => false,
        })
    }

    fn build(&mut self) -> Result<Value, Fault> {
        Ok(Value::name(self.0))
    }
}

struct Key<'k, T: ?Sized> {
    key: &'k T,
    /// The key itself, once it proved not to be comparable without.
    built: Option<Value>,
}

impl<T: Serialize + ?Sized> Probe for Key<'_, T> {
    #[inline]
    fn is(&mut self, candidate: &Value) -> Result<bool, Fault> {
        if let Some(built) = &self.built {
            return Ok(built == candidate);
        }
        match self.key.serialize(Equals(candidate)) {
            Ok(equal) => Ok(equal),
            Err(NotScalar) => Ok(self.built.insert(build(self.key)?) == candidate),
        }
    }

    fn build(&mut self) -> Result<Value, Fault> {
        match self.built.take() {
            Some(built) => Ok(built),
            None => build(self.key),
        }
    }
}

impl<'a> MapDiff<'a> {
    #[inline]
    pub(super) fn new(slot: &'a mut Value, walk: &'a mut Walk, len: Option<usize>, wrap: Wrap) -> Self {
        let fresh = !matches!(slot, Value::Map(_));
        if fresh {
            *slot = Value::Map(Vec::with_capacity(len.unwrap_or(0).min(RESERVE)));
        }
        let Value::Map(entries) = slot else {
            unreachable!("the slot was found to be a map or made one");
        };
        Self {
            entries,
            start: walk.size(),
            walk,
            fresh,
            read: 0,
            write: 0,
            shift: 0,
            pending: None,
            disorder: None,
            changes: Vec::new(),
            inserted: 0,
            replaced: 0,
            wrap,
        }
    }

    /// Makes the entry at `write` the one for this key. Returns where it was, or `None`
    /// if it is new.
    #[inline]
    fn locate(&mut self, mut probe: impl Probe) -> Result<Option<usize>, Fault> {
        if let Some((key, _)) = self.entries.get(self.read)
            && probe.is(key)?
        {
            return Ok(Some(self.take(self.read)));
        }
        self.locate_misplaced(probe)
    }

    #[cold]
    fn locate_misplaced(&mut self, mut probe: impl Probe) -> Result<Option<usize>, Fault> {
        let near = self.entries.len().min(self.read + 1 + SMALL);
        for at in self.read + 1..near {
            if probe.is(&self.entries[at].0)? {
                return Ok(Some(self.take(at)));
            }
        }
        let unseen = near < self.entries.len();
        if unseen || self.disorder.is_some() {
            let disorder = self.disorder.get_or_insert_default();
            if disorder.skipped.len() > SMALL || (unseen && disorder.scans == SCANS) {
                self.index_rest();
            } else if unseen {
                disorder.scans += 1;
            }
        }
        if let Some(disorder) = &mut self.disorder {
            if let Some(rest) = &mut disorder.rest {
                let key = probe.build()?;
                let (key, was, value) = match rest.remove_entry(&key) {
                    Some((key, (was, value))) => (key, Some(was), value),
                    None => (key, None, Value::Nil),
                };
                self.place(key, value);
                return Ok(was);
            }
            for at in 0..disorder.skipped.len() {
                if probe.is(&disorder.skipped[at].1)? {
                    let (was, key, value) = disorder.skipped.swap_remove(at);
                    self.place(key, value);
                    return Ok(Some(was));
                }
            }
        }
        for at in near..self.entries.len() {
            if probe.is(&self.entries[at].0)? {
                return Ok(Some(self.take(at)));
            }
        }
        let key = probe.build()?;
        self.place(key, Value::Nil);
        Ok(None)
    }

    /// Moves the entry at `at` to `write`, setting aside those passed over.
    #[inline]
    fn take(&mut self, at: usize) -> usize {
        if self.read < at {
            let skipped = &mut self.disorder.get_or_insert_default().skipped;
            for passed in self.read..at {
                let (key, value) = std::mem::take(&mut self.entries[passed]);
                skipped.push((passed - self.shift, key, value));
            }
        }
        if self.write != at {
            self.entries.swap(self.write, at);
        }
        self.read = at + 1;
        at - self.shift
    }

    /// Puts an entry at `write`.
    fn place(&mut self, key: Value, value: Value) {
        if self.write < self.read {
            self.entries[self.write] = (key, value);
        } else {
            self.entries.insert(self.write, (key, value));
            self.read += 1;
            self.shift += 1;
        }
    }

    fn index_rest(&mut self) {
        let (read, shift) = (self.read, self.shift);
        let disorder = self.disorder.get_or_insert_default();
        let rest = disorder.rest.get_or_insert_default();
        let unseen = self.entries.drain(read..).zip(read - shift..);
        rest.extend(unseen.map(|((key, value), was)| (key, (was, value))));
        let skipped = disorder.skipped.drain(..);
        rest.extend(skipped.map(|(was, key, value)| (key, (was, value))));
        self.entries.truncate(self.write);
        self.read = self.write;
        self.shift = 0;
    }

    /// Serialises the value of the entry at `write`.
    #[inline]
    fn fill<T: Serialize + ?Sized>(
        &mut self,
        was: Option<usize>,
        key_len: usize,
        value: &T,
    ) -> Result<(), Fault> {
        let before = self.walk.size();
        let slot = &mut self.entries[self.write].1;
        let filled = match self.walk.add(key_len) {
            Ok(()) => value.serialize(Diff::new(slot, self.walk)),
            Err(fault) => Err(fault),
        };
        match filled {
            Ok(Delta::Same) if was.is_some() => {}
            Ok(_) if self.fresh => {}
            Ok(_) => self.record(was, before),
            Err(fault) => {
                self.walk.fail();
                return Err(self.blame(fault, before));
            }
        }
        self.write += 1;
        Ok(())
    }

    #[inline(never)]
    fn record(&mut self, was: Option<usize>, before: usize) {
        let (key, value) = &self.entries[self.write];
        let (at, change) = match (was, self.walk.take()) {
            (Some(was), Some(patch)) => (was, Change::Update(patch)),
            (Some(was), None) => {
                self.replaced += self.walk.size() - before;
                (was, Change::Update(Patch::Set(value.clone())))
            }
            (None, _) => {
                self.replaced += self.walk.size() - before;
                self.inserted += 1;
                (self.write, Change::Insert(value.clone()))
            }
        };
        self.changes.push(Entry { key: key.clone(), at: hint(at), change });
    }

    /// Records what was not seen as removed.
    #[inline(never)]
    fn sweep(&mut self) {
        let from = self.changes.len();
        let (read, shift) = (self.read, self.shift);
        let mut removed = |was: usize, key: Value| {
            self.replaced += key.encoded_len();
            self.changes.push(Entry { key, at: hint(was), change: Change::Remove });
        };
        if let Some(disorder) = self.disorder.take() {
            for (was, key, _) in disorder.skipped {
                removed(was, key);
            }
            for (key, (was, _)) in disorder.rest.into_iter().flatten() {
                removed(was, key);
            }
        }
        for ((key, _), was) in self.entries.drain(read..).zip(read - shift..) {
            removed(was, key);
        }
        self.entries.truncate(self.write);
        self.changes[from..].sort_unstable_by_key(|entry| entry.at);
    }

    #[inline]
    fn finish(&mut self) -> Result<Delta, Fault> {
        if self.write < self.entries.len() || self.disorder.is_some() {
            self.sweep();
        }
        if self.fresh || self.inserted > 0 {
            self.refuse_repeated()?;
        }
        if let Err(fault) = self.walk.add(size::head_len(self.entries.len())) {
            let fault = fault.with_largest(|| self.largest(self.write));
            return Err(self.blame_self(fault));
        }
        let delta = if self.fresh {
            Delta::Whole
        } else if self.changes.is_empty() {
            Delta::Same
        } else if self.changes.len() > TRIVIAL && self.replaced > (self.walk.size() - self.start) / 2 {
            Delta::Whole
        } else {
            let changes = std::mem::take(&mut self.changes);
            self.walk.give(Patch::Map(MapPatch::new(changes)))
        };
        Ok(self.wrap.finish(delta, self.walk))
    }

    #[inline(never)]
    fn refuse_repeated(&self) -> Result<(), Fault> {
        let repeated = if self.fresh {
            repeated_key(self.entries)
        } else {
            let inserted = self.changes.iter().filter_map(|entry| match entry.change {
                Change::Insert(_) => Some(entry.at as usize),
                _ => None,
            });
            repeated_key_at(self.entries, self.inserted, inserted)
        };
        match repeated {
            None => Ok(()),
            Some(key) => Err(self.blame_self(Fault::repeated(key))),
        }
    }

    /// Adds where it happened to a fault from the entry at `write`.
    #[cold]
    fn blame(&self, fault: Fault, before: usize) -> Fault {
        let key = &self.entries[self.write].0;
        let fault = fault.at_key(key).with_largest(|| {
            let current = self.walk.size() - before;
            match self.largest(self.write) {
                Some((name, size)) if size > current => Some((name, size)),
                _ => Some((key_text(key).into_owned(), current)),
            }
        });
        self.blame_self(fault)
    }

    fn blame_self(&self, fault: Fault) -> Fault {
        self.wrap.blame(fault, self.walk.size() - self.start)
    }

    /// The largest of the first `count` entries.
    fn largest(&self, count: usize) -> Option<(String, usize)> {
        let sizes =
            self.entries[..count].iter().map(|(key, value)| (key, key.encoded_len() + value.encoded_len()));
        sizes.max_by_key(|(_, size)| *size).map(|(key, size)| (key_text(key).into_owned(), size))
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Fault> {
        let was = match self.locate(Field(key)) {
            Ok(was) => was,
            Err(fault) => {
                self.walk.fail();
                return Err(self.blame_self(fault));
            }
        };
        self.fill(was, size::str_len(key.len()), value)
    }

    #[inline]
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        match self.locate(Key { key, built: None }) {
            Ok(was) => self.pending = was,
            Err(fault) => {
                self.walk.fail();
                return Err(self.blame_self(fault));
            }
        }
        Ok(())
    }
}

impl SerializeMap for MapDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        self.key(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        let was = self.pending.take();
        let key_len = self.entries[self.write].0.encoded_len();
        self.fill(was, key_len, value)
    }

    #[inline]
    fn end(mut self) -> Result<Delta, Fault> {
        self.finish()
    }
}

impl SerializeStruct for MapDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Fault> {
        self.field(key, value)
    }

    #[inline]
    fn end(mut self) -> Result<Delta, Fault> {
        self.finish()
    }
}

impl SerializeStructVariant for MapDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Fault> {
        self.field(key, value)
    }

    fn end(mut self) -> Result<Delta, Fault> {
        self.finish()
    }
}
