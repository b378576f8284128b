//! Comparison of a map key with keys in the tree, without serialising it to a value first.

use std::fmt::{self, Display, Write};

use serde::ser::{self, Impossible, Serialize, Serializer};

use super::Value;
use super::diff::build;
use super::error::Fault;
use crate::wire::MAX_SOMES;

/// A map key to be located in the tree.
pub(super) trait Probe {
    fn is(&mut self, candidate: &Value) -> Result<bool, Fault>;
    fn build(&mut self) -> Result<Value, Fault>;
}

/// The name of a struct field.
pub(super) struct Field(pub(super) &'static str);

impl Probe for Field {
    #[inline]
    fn is(&mut self, candidate: &Value) -> Result<bool, Fault> {
        Ok(match candidate {
            // A field's name is normally the same string literal each time.
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

/// A key of any type.
pub(super) struct Key<'k, T: ?Sized> {
    key: &'k T,
    /// The key as a value, built once it proves not to be a scalar.
    built: Option<Value>,
}

impl<'k, T: ?Sized> Key<'k, T> {
    #[inline]
    pub(super) fn new(key: &'k T) -> Self {
        Self { key, built: None }
    }
}

impl<T: Serialize + ?Sized> Probe for Key<'_, T> {
    #[inline]
    fn is(&mut self, candidate: &Value) -> Result<bool, Fault> {
        if let Some(built) = &self.built {
            return Ok(built == candidate);
        }
        match self.key.serialize(Equals::new(candidate)) {
            Ok(equal) => Ok(equal),
            Err(NotScalar) => Ok(self.built.insert(self.whole()?) == candidate),
        }
    }

    fn build(&mut self) -> Result<Value, Fault> {
        match self.built.take() {
            Some(built) => Ok(built),
            None => self.whole(),
        }
    }
}

impl<T: Serialize + ?Sized> Key<'_, T> {
    fn whole(&self) -> Result<Value, Fault> {
        let key = build(self.key)?;
        if key.is_key() { Ok(key) } else { Err(Fault::deep_key()) }
    }
}

/// The key is not a scalar, or fails to serialise, so that it can only be compared as a [`Value`].
#[derive(Debug)]
pub(super) struct NotScalar;

impl Display for NotScalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a scalar")
    }
}

impl std::error::Error for NotScalar {}

impl ser::Error for NotScalar {
    fn custom<T: Display>(_: T) -> Self {
        NotScalar
    }
}

/// Returns whether `value` displays as exactly `text`, without allocating.
pub(super) fn prints_as<T: Display + ?Sized>(value: &T, text: &str) -> bool {
    struct Rest<'a>(&'a str);

    impl Write for Rest<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    let mut rest = Rest(text);
    write!(rest, "{value}").is_ok() && rest.0.is_empty()
}

/// A serializer that returns whether its input is a scalar equal to `candidate`.
pub(super) struct Equals<'a> {
    candidate: &'a Value,
    /// Number of `Some`s directly around the key.
    somes: u8,
}

impl<'a> Equals<'a> {
    #[inline]
    pub(super) fn new(candidate: &'a Value) -> Self {
        Self { candidate, somes: 0 }
    }
    #[inline]
    fn unsigned(self, n: u64) -> Result<bool, NotScalar> {
        Ok(matches!(self.candidate, Value::U64(old) if *old == n))
    }

    #[inline]
    fn signed(self, n: i64) -> Result<bool, NotScalar> {
        Ok(match self.candidate {
            Value::I64(old) => *old == n,
            Value::U64(old) => u64::try_from(n) == Ok(*old),
            _ => false,
        })
    }
}

type NoCompound = Impossible<bool, NotScalar>;

impl Serializer for Equals<'_> {
    type Ok = bool;
    type Error = NotScalar;
    type SerializeSeq = NoCompound;
    type SerializeTuple = NoCompound;
    type SerializeTupleStruct = NoCompound;
    type SerializeTupleVariant = NoCompound;
    type SerializeMap = NoCompound;
    type SerializeStruct = NoCompound;
    type SerializeStructVariant = NoCompound;

    #[inline]
    fn serialize_bool(self, v: bool) -> Result<bool, NotScalar> {
        Ok(matches!(self.candidate, Value::Bool(old) if *old == v))
    }

    #[inline]
    fn serialize_i8(self, v: i8) -> Result<bool, NotScalar> {
        self.signed(v.into())
    }

    #[inline]
    fn serialize_i16(self, v: i16) -> Result<bool, NotScalar> {
        self.signed(v.into())
    }

    #[inline]
    fn serialize_i32(self, v: i32) -> Result<bool, NotScalar> {
        self.signed(v.into())
    }

    #[inline]
    fn serialize_i64(self, v: i64) -> Result<bool, NotScalar> {
        self.signed(v)
    }

    fn serialize_i128(self, v: i128) -> Result<bool, NotScalar> {
        Ok(match self.candidate {
            Value::I64(old) => i128::from(*old) == v,
            Value::U64(old) => i128::from(*old) == v,
            Value::Wide(old) => **old == v,
            _ => false,
        })
    }

    #[inline]
    fn serialize_u8(self, v: u8) -> Result<bool, NotScalar> {
        self.unsigned(v.into())
    }

    #[inline]
    fn serialize_u16(self, v: u16) -> Result<bool, NotScalar> {
        self.unsigned(v.into())
    }

    #[inline]
    fn serialize_u32(self, v: u32) -> Result<bool, NotScalar> {
        self.unsigned(v.into())
    }

    #[inline]
    fn serialize_u64(self, v: u64) -> Result<bool, NotScalar> {
        self.unsigned(v)
    }

    fn serialize_u128(self, v: u128) -> Result<bool, NotScalar> {
        // No value can hold so large an integer; building the key reports that error.
        i128::try_from(v).map_or(Err(NotScalar), |v| self.serialize_i128(v))
    }

    fn serialize_f32(self, v: f32) -> Result<bool, NotScalar> {
        Ok(matches!(self.candidate, Value::F32(old) if old.to_bits() == v.to_bits()))
    }

    fn serialize_f64(self, v: f64) -> Result<bool, NotScalar> {
        Ok(matches!(self.candidate, Value::F64(old) if old.to_bits() == v.to_bits()))
    }

    fn serialize_char(self, v: char) -> Result<bool, NotScalar> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, v: &str) -> Result<bool, NotScalar> {
        Ok(matches!(self.candidate, Value::Str(old) if old == v))
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<bool, NotScalar> {
        Ok(matches!(self.candidate, Value::Bytes(old) if old == v))
    }

    fn serialize_none(self) -> Result<bool, NotScalar> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, NotScalar> {
        // Building the key reports the error.
        let somes = self.somes.checked_add(1).filter(|somes| *somes <= MAX_SOMES).ok_or(NotScalar)?;
        value.serialize(Self { somes, ..self })
    }

    fn serialize_unit(self) -> Result<bool, NotScalar> {
        Ok(match self.candidate {
            Value::Nil => self.somes == 0,
            Value::SomeNil(somes) => *somes == self.somes,
            _ => false,
        })
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<bool, NotScalar> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<bool, NotScalar> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<bool, NotScalar> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<bool, NotScalar> {
        Err(NotScalar)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<NoCompound, NotScalar> {
        Err(NotScalar)
    }

    fn serialize_tuple(self, _: usize) -> Result<NoCompound, NotScalar> {
        Err(NotScalar)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<NoCompound, NotScalar> {
        Err(NotScalar)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<NoCompound, NotScalar> {
        Err(NotScalar)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<NoCompound, NotScalar> {
        Err(NotScalar)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<NoCompound, NotScalar> {
        Err(NotScalar)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<NoCompound, NotScalar> {
        Err(NotScalar)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<bool, NotScalar> {
        Ok(matches!(self.candidate, Value::Str(old) if prints_as(value, old)))
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}
