//! A serializer that compares its input with a tree and updates the tree to match.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use serde::ser::{Serialize, Serializer};

use super::error::Fault;
use super::map_diff::MapDiff;
use super::number::{StructDiff, TOKEN};
use super::seq_diff::SeqDiff;
use super::size;
use super::walk::{Delta, Walk, Wrap};
use super::{Value, key};
use crate::wire::MAX_SOMES;

/// Builds the value that `state` serialises to.
pub(super) fn build<T: Serialize + ?Sized>(state: &T) -> Result<Value, Fault> {
    let mut value = Value::Nil;
    Walk::new(usize::MAX).run(state, &mut value)?;
    Ok(value)
}

/// Updates `slot` to the value that is serialised into it, and reports the difference.
///
/// After an error, `slot` holds a meaningless mixture of old and new.
pub(super) struct Diff<'a> {
    slot: &'a mut Value,
    walk: &'a mut Walk,
    /// Number of `Some`s directly around the value.
    somes: u8,
}

impl<'a> Diff<'a> {
    #[inline]
    pub(super) fn new(slot: &'a mut Value, walk: &'a mut Walk) -> Self {
        Self { slot, walk, somes: 0 }
    }

    #[inline]
    fn set(self, value: Value) -> Delta {
        *self.slot = value;
        Delta::Whole
    }

    #[inline]
    fn unsigned(self, n: u64) -> Result<Delta, Fault> {
        self.walk.add(size::unsigned_len(n))?;
        Ok(match self.slot {
            Value::U64(old) if *old == n => Delta::Same,
            Value::U64(old) => {
                *old = n;
                Delta::Whole
            }
            _ => self.set(Value::U64(n)),
        })
    }

    #[inline]
    fn signed(self, n: i64) -> Result<Delta, Fault> {
        if let Ok(n) = u64::try_from(n) {
            return self.unsigned(n);
        }
        self.walk.add(size::signed_len(n))?;
        Ok(match self.slot {
            Value::I64(old) if *old == n => Delta::Same,
            _ => self.set(Value::I64(n)),
        })
    }

    /// Writes a string literal, which is borrowed and not copied.
    #[inline]
    fn name(self, name: &'static str) -> Result<Delta, Fault> {
        self.walk.add(size::str_len(name.len()))?;
        Ok(match self.slot {
            Value::Str(old) if old == name => Delta::Same,
            _ => self.set(Value::name(name)),
        })
    }

    /// Prepares the slot for the content of a variant, and returns what to do once the content is written.
    fn variant(self, name: &'static str) -> Result<(Diff<'a>, Wrap), Fault> {
        self.walk.enter()?;
        self.walk.add(size::head_len(1))?;
        self.walk.add(size::str_len(name.len()))?;
        let kept = match &*self.slot {
            Value::Map(entries) => matches!(&entries[..], [(Value::Str(old), _)] if old == name),
            _ => false,
        };
        if !kept {
            *self.slot = Value::Map(vec![(Value::name(name), Value::Nil)]);
        }
        let Value::Map(entries) = self.slot else {
            unreachable!("the slot was found to be a map or made one");
        };
        let wrap = if kept { Wrap::Kept(name) } else { Wrap::Overwritten(name) };
        Ok((Diff::new(&mut entries[0].1, self.walk), wrap))
    }

    #[inline]
    fn seq(self, len: Option<usize>, wrap: Wrap) -> Result<SeqDiff<'a>, Fault> {
        self.walk.enter()?;
        Ok(SeqDiff::new(self.slot, self.walk, len, wrap))
    }

    #[inline]
    fn map(self, len: Option<usize>, wrap: Wrap) -> Result<MapDiff<'a>, Fault> {
        self.walk.enter()?;
        Ok(MapDiff::new(self.slot, self.walk, len, wrap))
    }
}

impl<'a> Serializer for Diff<'a> {
    type Ok = Delta;
    type Error = Fault;
    type SerializeSeq = SeqDiff<'a>;
    type SerializeTuple = SeqDiff<'a>;
    type SerializeTupleStruct = SeqDiff<'a>;
    type SerializeTupleVariant = SeqDiff<'a>;
    type SerializeMap = MapDiff<'a>;
    type SerializeStruct = StructDiff<'a>;
    type SerializeStructVariant = MapDiff<'a>;

    #[inline]
    fn serialize_bool(self, v: bool) -> Result<Delta, Fault> {
        self.walk.add(1)?;
        Ok(match self.slot {
            Value::Bool(old) if *old == v => Delta::Same,
            _ => self.set(Value::Bool(v)),
        })
    }

    #[inline]
    fn serialize_i8(self, v: i8) -> Result<Delta, Fault> {
        self.signed(v.into())
    }

    #[inline]
    fn serialize_i16(self, v: i16) -> Result<Delta, Fault> {
        self.signed(v.into())
    }

    #[inline]
    fn serialize_i32(self, v: i32) -> Result<Delta, Fault> {
        self.signed(v.into())
    }

    #[inline]
    fn serialize_i64(self, v: i64) -> Result<Delta, Fault> {
        self.signed(v)
    }

    fn serialize_i128(self, v: i128) -> Result<Delta, Fault> {
        if let Ok(n) = u64::try_from(v) {
            return self.unsigned(n);
        }
        if let Ok(n) = i64::try_from(v) {
            return self.signed(n);
        }
        self.walk.add(size::WIDE_LEN)?;
        Ok(match self.slot {
            Value::Wide(old) if **old == v => Delta::Same,
            _ => self.set(Value::Wide(Box::new(v))),
        })
    }

    #[inline]
    fn serialize_u8(self, v: u8) -> Result<Delta, Fault> {
        self.unsigned(v.into())
    }

    #[inline]
    fn serialize_u16(self, v: u16) -> Result<Delta, Fault> {
        self.unsigned(v.into())
    }

    #[inline]
    fn serialize_u32(self, v: u32) -> Result<Delta, Fault> {
        self.unsigned(v.into())
    }

    #[inline]
    fn serialize_u64(self, v: u64) -> Result<Delta, Fault> {
        self.unsigned(v)
    }

    fn serialize_u128(self, v: u128) -> Result<Delta, Fault> {
        match i128::try_from(v) {
            Ok(v) => self.serialize_i128(v),
            Err(_) => Err(Fault::new(format!("the integer {v} is too large: at most i128::MAX can be held"))),
        }
    }

    #[inline]
    fn serialize_f32(self, v: f32) -> Result<Delta, Fault> {
        self.walk.add(size::F32_LEN)?;
        Ok(match self.slot {
            Value::F32(old) if old.to_bits() == v.to_bits() => Delta::Same,
            Value::F32(old) => {
                *old = v;
                Delta::Whole
            }
            _ => self.set(Value::F32(v)),
        })
    }

    #[inline]
    fn serialize_f64(self, v: f64) -> Result<Delta, Fault> {
        self.walk.add(size::F64_LEN)?;
        Ok(match self.slot {
            Value::F64(old) if old.to_bits() == v.to_bits() => Delta::Same,
            Value::F64(old) => {
                *old = v;
                Delta::Whole
            }
            _ => self.set(Value::F64(v)),
        })
    }

    fn serialize_char(self, v: char) -> Result<Delta, Fault> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, v: &str) -> Result<Delta, Fault> {
        self.walk.add(size::str_len(v.len()))?;
        Ok(match self.slot {
            Value::Str(old) if old == v => Delta::Same,
            Value::Str(Cow::Owned(old)) => {
                v.clone_into(old);
                Delta::Whole
            }
            _ => self.set(Value::Str(Cow::Owned(v.to_owned()))),
        })
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<Delta, Fault> {
        self.walk.add(size::bytes_len(v.len()))?;
        Ok(match self.slot {
            Value::Bytes(old) if old == v => Delta::Same,
            Value::Bytes(old) => {
                v.clone_into(old);
                Delta::Whole
            }
            _ => self.set(Value::Bytes(v.to_owned())),
        })
    }

    #[inline]
    fn serialize_none(self) -> Result<Delta, Fault> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Delta, Fault> {
        if self.somes == MAX_SOMES {
            return Err(Fault::too_many_somes());
        }
        value.serialize(Self { somes: self.somes + 1, ..self })
    }

    #[inline]
    fn serialize_unit(self) -> Result<Delta, Fault> {
        if self.somes > 0 {
            self.walk.add(size::SOME_NIL_LEN)?;
            return Ok(match self.slot {
                Value::SomeNil(old) if *old == self.somes => Delta::Same,
                _ => {
                    let value = Value::SomeNil(self.somes);
                    self.set(value)
                }
            });
        }
        self.walk.add(1)?;
        Ok(match self.slot {
            Value::Nil => Delta::Same,
            _ => self.set(Value::Nil),
        })
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Delta, Fault> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<Delta, Fault> {
        self.name(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<Delta, Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Delta, Fault> {
        let (inner, wrap) = self.variant(variant)?;
        let Diff { slot, walk, .. } = inner;
        let start = walk.size();
        match value.serialize(Diff::new(slot, walk)) {
            Ok(delta) => Ok(wrap.finish(delta, walk)),
            Err(fault) => Err(wrap.blame(fault, walk.size() - start)),
        }
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<SeqDiff<'a>, Fault> {
        self.seq(len, Wrap::None)
    }

    fn serialize_tuple(self, len: usize) -> Result<SeqDiff<'a>, Fault> {
        self.seq(Some(len), Wrap::None)
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<SeqDiff<'a>, Fault> {
        self.seq(Some(len), Wrap::None)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<SeqDiff<'a>, Fault> {
        let (inner, wrap) = self.variant(variant)?;
        inner.seq(Some(len), wrap)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<MapDiff<'a>, Fault> {
        self.map(len, Wrap::None)
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<StructDiff<'a>, Fault> {
        if name == TOKEN {
            return Ok(StructDiff::Number { diff: Some(self), delta: None });
        }
        self.map(Some(len), Wrap::None).map(StructDiff::Struct)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<MapDiff<'a>, Fault> {
        let (inner, wrap) = self.variant(variant)?;
        inner.map(Some(len), wrap)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<Delta, Fault> {
        if let Value::Str(old) = &*self.slot
            && key::prints_as(value, old)
        {
            self.walk.add(size::str_len(old.len()))?;
            return Ok(Delta::Same);
        }
        let mut text = String::new();
        match write!(text, "{value}") {
            Ok(()) => self.serialize_str(&text),
            Err(fmt::Error) => Err(Fault::new("a `Display` implementation failed")),
        }
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}
