//! A deserializer that reads a [`Value`] in place.

use std::slice;

use serde::de::value::{BorrowedStrDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::Value;
use super::error::Fault;
use crate::wire::MAX_SOMES;

pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Fault> {
    T::deserialize(Decode::content(value))
}

#[derive(Clone, Copy)]
struct Decode<'de> {
    value: &'de Value,
    /// True for the key of a map, which may have been converted to text by a format such as JSON.
    key: bool,
    /// Number of `Some`s entered since `value`.
    somes: u8,
}

enum Left {
    Nil,
    /// `None` inside of further `Some`s.
    Some,
    Value,
}

impl<'de> Decode<'de> {
    fn content(value: &'de Value) -> Self {
        Self { value, key: false, somes: 0 }
    }

    /// Returns what remains of the value after `somes` levels of `Some` have been entered.
    fn left(self) -> Left {
        match self.value {
            Value::Nil => Left::Nil,
            Value::SomeNil(somes) if *somes <= self.somes => Left::Nil,
            Value::SomeNil(_) => Left::Some,
            _ => Left::Value,
        }
    }

    fn integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if let (true, Value::Str(text)) = (self.key, self.value)
            && let Ok(n) = text.parse()
        {
            let parsed = Value::from_i128(n);
            return match parsed {
                Value::U64(n) => visitor.visit_u64(n),
                Value::I64(n) => visitor.visit_i64(n),
                _ => visitor.visit_i128(n),
            };
        }
        self.deserialize_any(visitor)
    }

    fn float<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Str(text) if self.key => match text.parse() {
                Ok(x) => visitor.visit_f64(x),
                Err(_) => self.deserialize_any(visitor),
            },
            Value::Wide(n) => visitor.visit_f64(**n as f64),
            _ => self.deserialize_any(visitor),
        }
    }

    fn unexpected(self) -> Unexpected<'de> {
        match self.value {
            Value::Nil => Unexpected::Unit,
            Value::SomeNil(_) => Unexpected::Option,
            Value::Bool(b) => Unexpected::Bool(*b),
            Value::I64(n) => Unexpected::Signed(*n),
            Value::U64(n) => Unexpected::Unsigned(*n),
            Value::Wide(_) => Unexpected::Other("integer of more than 64 bits"),
            Value::F32(x) => Unexpected::Float(f64::from(*x)),
            Value::F64(x) => Unexpected::Float(*x),
            Value::Str(text) => Unexpected::Str(text),
            Value::Bytes(bytes) => Unexpected::Bytes(bytes),
            Value::Seq(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }
}

macro_rules! numbers {
    ($($through:ident: $($method:ident)*;)*) => {$($(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.$through(visitor)
        }
    )*)*};
}

impl<'de> Deserializer<'de> for Decode<'de> {
    type Error = Fault;

    numbers! {
        integer:
            deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
            deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128;
        float:
            deserialize_f32 deserialize_f64;
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit map identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Nil => visitor.visit_unit(),
            Value::SomeNil(_) => match self.left() {
                Left::Some => visitor.visit_some(Self { somes: self.somes + 1, ..self }),
                Left::Nil | Left::Value => visitor.visit_unit(),
            },
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::I64(n) => visitor.visit_i64(*n),
            Value::U64(n) => visitor.visit_u64(*n),
            Value::Wide(n) => visitor.visit_i128(**n),
            Value::F32(x) => visitor.visit_f32(*x),
            Value::F64(x) => visitor.visit_f64(*x),
            Value::Str(text) => visitor.visit_borrowed_str(text),
            Value::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Value::Seq(items) => {
                let mut items = Items::new(items);
                let value = visitor.visit_seq(&mut items)?;
                expect_end(items.iter.len(), items.next)?;
                Ok(value)
            }
            Value::Map(entries) => {
                let mut entries = EntriesAccess::new(entries);
                let value = visitor.visit_map(&mut entries)?;
                expect_end(entries.iter.len(), entries.seen)?;
                Ok(value)
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Str(text) if self.key && text == "true" => visitor.visit_bool(true),
            Value::Str(text) if self.key && text == "false" => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.left() {
            Left::Nil => visitor.visit_none(),
            // The visitor of a type that is an option of itself would recurse without end.
            _ if self.somes == MAX_SOMES => Err(Fault::too_many_somes()),
            _ => visitor.visit_some(Self { somes: self.somes + 1, ..self }),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Bytes(bytes) => {
                let mut items = SeqDeserializer::new(bytes.iter().copied());
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::Str(name) => visitor.visit_enum(BorrowedStrDeserializer::new(name)),
            Value::Map(entries) => match &entries[..] {
                [(name, content)] => {
                    visitor.visit_enum(Variant { name, content }).map_err(|fault| fault.at_key(name))
                }
                _ => Err(Fault::invalid_length(
                    entries.len(),
                    &"a map with one entry, from the name of a variant to its content",
                )),
            },
            _ => Err(Fault::invalid_type(
                self.unexpected(),
                &"the name of a variant, or a map from that to its content",
            )),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

fn expect_end(left: usize, seen: usize) -> Result<(), Fault> {
    struct Only(usize);

    impl Expected for Only {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{} of them", self.0)
        }
    }

    if left == 0 {
        return Ok(());
    }
    Err(Fault::invalid_length(seen + left, &Only(seen)))
}

struct Items<'de> {
    iter: slice::Iter<'de, Value>,
    next: usize,
}

impl<'de> Items<'de> {
    fn new(items: &'de [Value]) -> Self {
        Self { iter: items.iter(), next: 0 }
    }
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.iter.next() else {
            return Ok(None);
        };
        let at = self.next;
        self.next += 1;
        match seed.deserialize(Decode::content(item)) {
            Ok(value) => Ok(Some(value)),
            Err(fault) => Err(fault.at(at.to_string())),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.iter.len())
    }
}

struct EntriesAccess<'de> {
    iter: slice::Iter<'de, (Value, Value)>,
    current: Option<&'de (Value, Value)>,
    seen: usize,
}

impl<'de> EntriesAccess<'de> {
    fn new(entries: &'de [(Value, Value)]) -> Self {
        Self { iter: entries.iter(), current: None, seen: 0 }
    }
}

impl<'de> MapAccess<'de> for EntriesAccess<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.iter.next();
        let Some((key, _)) = self.current else {
            return Ok(None);
        };
        self.seen += 1;
        let key_only = Decode { key: true, ..Decode::content(key) };
        match seed.deserialize(key_only) {
            Ok(value) => Ok(Some(value)),
            Err(fault) => Err(fault.at_key(key)),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let Some((key, value)) = self.current else {
            return Err(Fault::new("a value was asked for before its key"));
        };
        seed.deserialize(Decode::content(value)).map_err(|fault| fault.at_key(key))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.iter.len())
    }
}

struct Variant<'de> {
    name: &'de Value,
    content: &'de Value,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Decode<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Decode<'de>), Fault> {
        let variant = seed.deserialize(Decode::content(self.name))?;
        Ok((variant, Decode::content(self.content)))
    }
}

impl<'de> VariantAccess<'de> for Decode<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.value {
            Value::Nil => Ok(()),
            _ => Err(Fault::invalid_type(self.unexpected(), &"no content")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
}
