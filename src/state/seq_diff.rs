//! Comparison of a sequence that is being serialised with the sequence in the tree, item by item.

use serde::ser::{Serialize, SerializeSeq, SerializeTuple, SerializeTupleStruct, SerializeTupleVariant};

use super::Value;
use super::diff::Diff;
use super::error::Fault;
use super::map_diff::{RESERVE, TRIVIAL};
use super::patch::{Patch, SeqPatch, hint};
use super::size;
use super::walk::{Delta, Walk, Wrap};

pub(super) struct SeqDiff<'a> {
    items: &'a mut Vec<Value>,
    walk: &'a mut Walk,
    start: usize,
    /// The slot did not hold a sequence, so that the whole sequence is new.
    fresh: bool,
    old_len: usize,
    next: usize,
    changes: Vec<(u32, Patch)>,
    /// Bytes of items that were replaced as a whole.
    replaced: usize,
    wrap: Wrap,
}

impl<'a> SeqDiff<'a> {
    pub(super) fn new(slot: &'a mut Value, walk: &'a mut Walk, len: Option<usize>, wrap: Wrap) -> Self {
        let fresh = !matches!(slot, Value::Seq(_));
        if fresh {
            *slot = Value::Seq(Vec::with_capacity(len.unwrap_or(0).min(RESERVE)));
        }
        let Value::Seq(items) = slot else {
            unreachable!("the slot was found to be a sequence or made one");
        };
        Self {
            old_len: items.len(),
            items,
            start: walk.size(),
            walk,
            fresh,
            next: 0,
            changes: Vec::new(),
            replaced: 0,
            wrap,
        }
    }

    #[inline]
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        if self.next == self.items.len() {
            self.items.push(Value::Nil);
        }
        let before = self.walk.size();
        let slot = &mut self.items[self.next];
        match value.serialize(Diff::new(slot, self.walk)) {
            Ok(Delta::Same) if self.next < self.old_len => {}
            Ok(_) if self.fresh => {}
            Ok(_) => {
                let patch = self.walk.take().unwrap_or_else(|| {
                    self.replaced += self.walk.size() - before;
                    Patch::Set(slot.clone())
                });
                self.changes.push((hint(self.next), patch));
            }
            Err(fault) => {
                self.walk.fail();
                return Err(self.blame(fault, before));
            }
        }
        self.next += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<Delta, Fault> {
        self.items.truncate(self.next);
        if let Err(fault) = self.walk.add(size::head_len(self.next)) {
            let fault = fault.with_largest(|| largest(self.items));
            return Err(self.wrap.blame(fault, self.walk.size() - self.start));
        }
        let delta = if self.fresh {
            Delta::Whole
        } else if self.changes.is_empty() && self.next == self.old_len {
            Delta::Same
        } else if !self.walk.patches()
            || (self.changes.len() > TRIVIAL && self.replaced > (self.walk.size() - self.start) / 2)
        {
            Delta::Whole
        } else {
            let (from, len) = (hint(self.old_len), hint(self.next));
            let changes = std::mem::take(&mut self.changes);
            self.walk.give(Patch::Seq(SeqPatch::new(from, len, changes)))
        };
        self.walk.leave();
        Ok(self.wrap.finish(delta, self.walk))
    }

    #[cold]
    fn blame(&self, fault: Fault, before: usize) -> Fault {
        let fault = fault.at(self.next.to_string()).with_largest(|| {
            let current = self.walk.size() - before;
            match largest(&self.items[..self.next]) {
                Some((name, size)) if size > current => Some((name, size)),
                _ => Some((self.next.to_string(), current)),
            }
        });
        self.wrap.blame(fault, self.walk.size() - self.start)
    }
}

fn largest(items: &[Value]) -> Option<(String, usize)> {
    let sizes = items.iter().map(Value::encoded_len).enumerate();
    let (at, size) = sizes.max_by_key(|(_, size)| *size)?;
    Some((at.to_string(), size))
}

impl SerializeSeq for SeqDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(mut self) -> Result<Delta, Fault> {
        self.finish()
    }
}

impl SerializeTuple for SeqDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(mut self) -> Result<Delta, Fault> {
        self.finish()
    }
}

impl SerializeTupleStruct for SeqDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(mut self) -> Result<Delta, Fault> {
        self.finish()
    }
}

impl SerializeTupleVariant for SeqDiff<'_> {
    type Ok = Delta;
    type Error = Fault;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(mut self) -> Result<Delta, Fault> {
        self.finish()
    }
}
