//! Comparison of a map that is being serialised with the map in the tree.
//!
//! Maps are usually serialised in the order of the last time, so a cursor walks the old entries alongside. Entries
//! out of order are handled in stages of increasing cost. If a key is found a little ahead of the cursor, the entries
//! before it are set aside, where later keys may find them. If a key is neither nearby nor set aside, all remaining
//! entries are scanned, because it is probably new and there are few of those. After too many scans, or with too many
//! entries set aside, all remaining entries are moved into a hash map.
//!
//! ```text
//! 0 ······· write ······· read ······· len
//!   current        holes        not seen
//! ```

use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap, SerializeStruct, SerializeStructVariant};

use super::diff::Diff;
use super::error::Fault;
use super::json::key_text;
use super::key::{Field, Key, Probe};
use super::patch::{Change, Entry, MapPatch, Patch, hint};
use super::size;
use super::value::{SMALL, Value, repeated_key, repeated_key_at};
use super::walk::{Delta, Walk, Wrap};

/// Number of scans over all remaining entries after which they are indexed.
const SCANS: u8 = 16;

/// Former position of an entry that is new.
const NOWHERE: usize = usize::MAX;

/// Patches with at most this many changes are sent as patches, however many bytes they replace.
pub(super) const TRIVIAL: usize = 8;

/// Maximum capacity to reserve for an announced length, which cannot be trusted.
pub(super) const RESERVE: usize = 4096;

pub(super) struct MapDiff<'a> {
    entries: &'a mut Vec<(Value, Value)>,
    walk: &'a mut Walk,
    start: usize,
    /// The slot did not hold a map, so that the whole map is new.
    fresh: bool,
    read: usize,
    write: usize,
    /// Number of positions by which the entries not yet seen have moved back, to make room for new ones.
    shift: usize,
    /// Former position of the entry at `write`, or `NOWHERE`.
    was: usize,
    /// Boxed to keep this struct small: one is moved for every map, and most maps are in order.
    disorder: Option<Box<Disorder>>,
    changes: Vec<Entry>,
    inserted: usize,
    /// Bytes of values that were replaced as a whole.
    replaced: usize,
    wrap: Wrap,
}

#[derive(Default)]
struct Disorder {
    /// Entries set aside, with their former positions.
    skipped: Vec<(usize, Value, Value)>,
    /// All entries not yet seen, once there is too much disorder to scan.
    rest: Option<HashMap<Value, (usize, Value)>>,
    scans: u8,
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
            was: NOWHERE,
            disorder: None,
            changes: Vec::new(),
            inserted: 0,
            replaced: 0,
            wrap,
        }
    }

    /// Moves the entry with this key to `write`, or inserts a new one there.
    #[inline]
    fn locate(&mut self, mut probe: impl Probe) -> Result<(), Fault> {
        if let Some((key, _)) = self.entries.get(self.read)
            && probe.is(key)?
        {
            self.was = self.read - self.shift;
            if self.write != self.read {
                self.entries.swap(self.write, self.read);
            }
            self.read += 1;
            return Ok(());
        }
        self.locate_misplaced(probe)
    }

    #[cold]
    fn locate_misplaced(&mut self, mut probe: impl Probe) -> Result<(), Fault> {
        let near = self.entries.len().min(self.read + 1 + SMALL);
        for at in self.read + 1..near {
            if probe.is(&self.entries[at].0)? {
                self.take(at);
                return Ok(());
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
                let (was, value) = rest.remove(&key).unwrap_or((NOWHERE, Value::Nil));
                self.place(was, key, value);
                return Ok(());
            }
            for at in 0..disorder.skipped.len() {
                if probe.is(&disorder.skipped[at].1)? {
                    let (was, key, value) = disorder.skipped.swap_remove(at);
                    self.place(was, key, value);
                    return Ok(());
                }
            }
        }
        for at in near..self.entries.len() {
            if probe.is(&self.entries[at].0)? {
                self.take(at);
                return Ok(());
            }
        }
        let key = probe.build()?;
        self.place(NOWHERE, key, Value::Nil);
        Ok(())
    }

    /// Moves the entry at `at` to `write`, setting aside the entries in between.
    fn take(&mut self, at: usize) {
        let skipped = &mut self.disorder.get_or_insert_default().skipped;
        for passed in self.read..at {
            let (key, value) = std::mem::take(&mut self.entries[passed]);
            skipped.push((passed - self.shift, key, value));
        }
        self.was = at - self.shift;
        self.entries.swap(self.write, at);
        self.read = at + 1;
    }

    /// Writes an entry to `write`, overwriting a hole or making room.
    fn place(&mut self, was: usize, key: Value, value: Value) {
        self.was = was;
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
    fn fill<T: Serialize + ?Sized>(&mut self, key_len: usize, value: &T) -> Result<(), Fault> {
        let before = self.walk.size();
        let slot = &mut self.entries[self.write].1;
        let filled = match self.walk.add(key_len) {
            Ok(()) => value.serialize(Diff::new(slot, self.walk)),
            Err(fault) => Err(fault),
        };
        match filled {
            Ok(Delta::Same) if self.was != NOWHERE => {}
            Ok(_) if self.fresh => {}
            Ok(_) => self.record(before),
            Err(fault) => {
                self.walk.fail();
                return Err(self.blame(fault, before));
            }
        }
        self.write += 1;
        Ok(())
    }

    #[inline(never)]
    fn record(&mut self, before: usize) {
        let (key, value) = &self.entries[self.write];
        let patch = self.walk.take();
        if patch.is_none() {
            self.replaced += self.walk.size() - before;
        }
        let (at, change) = if self.was == NOWHERE {
            self.inserted += 1;
            (self.write, Change::Insert(value.clone()))
        } else {
            let patch = patch.unwrap_or_else(|| Patch::Set(value.clone()));
            (self.was, Change::Update(patch))
        };
        self.changes.push(Entry { key: key.clone(), at: hint(at), change });
    }

    /// Records the entries that were not seen as removed.
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
        } else if !self.walk.patches()
            || (self.changes.len() > TRIVIAL && self.replaced > (self.walk.size() - self.start) / 2)
        {
            Delta::Whole
        } else {
            let changes = std::mem::take(&mut self.changes);
            self.walk.give(Patch::Map(MapPatch::new(changes)))
        };
        self.walk.leave();
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

    /// Adds the path and the largest field to a fault from the entry at `write`.
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

    /// Returns the largest of the first `count` entries.
    fn largest(&self, count: usize) -> Option<(String, usize)> {
        let sizes =
            self.entries[..count].iter().map(|(key, value)| (key, key.encoded_len() + value.encoded_len()));
        sizes.max_by_key(|(_, size)| *size).map(|(key, size)| (key_text(key).into_owned(), size))
    }

    #[inline]
    fn key(&mut self, probe: impl Probe) -> Result<(), Fault> {
        match self.locate(probe) {
            Ok(()) => Ok(()),
            Err(fault) => {
                self.walk.fail();
                Err(self.blame_self(fault))
            }
        }
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Fault> {
        self.key(Field(key))?;
        self.fill(size::str_len(key.len()), value)
    }
}

impl SerializeMap for MapDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        self.key(Key::new(key))
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        let key_len = self.entries[self.write].0.encoded_len();
        self.fill(key_len, value)
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
