//! Serialisation of [`Value`] to and from other formats.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::Value;
use super::error::Fault;
use super::map_diff::RESERVE;
use super::value::repeated_key;
use crate::wire::{self, MAX_SOMES};

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Nil => serializer.serialize_unit(),
            Value::SomeNil(somes) => serializer.serialize_some(&Value::nil_in(somes.saturating_sub(1))),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::I64(n) => serializer.serialize_i64(*n),
            Value::U64(n) => serializer.serialize_u64(*n),
            Value::Wide(n) if serializer.is_human_readable() && !wire::is_encoding() => {
                serializer.serialize_i128(**n)
            }
            Value::Wide(n) => {
                serializer.serialize_newtype_struct(EXTENSION, &(WIDE as i8, Wide(n.to_be_bytes())))
            }
            Value::F32(x) => serializer.serialize_f32(*x),
            Value::F64(x) => serializer.serialize_f64(*x),
            Value::Str(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Value::Seq(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// Name by which the MessagePack encoder recognises an extension type. Integers of more than 64 bits, which
/// MessagePack lacks, are an extension of type [`WIDE`].
const EXTENSION: &str = "_ExtStruct";
const WIDE: u64 = 1;

/// The 16 bytes of a wide integer, big-endian.
struct Wide([u8; 16]);

impl Serialize for Wide {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// Needs a self-describing format. Refuses maps with repeated keys, and keys that are nested in more than four
/// levels.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from_i64(v))
    }

    fn visit_i128<E>(self, v: i128) -> Result<Value, E> {
        Ok(Value::from_i128(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::U64(v))
    }

    fn visit_u128<E: de::Error>(self, v: u128) -> Result<Value, E> {
        let unexpected = || E::invalid_value(de::Unexpected::Other(&v.to_string()), &self);
        let v = i128::try_from(v).map_err(|_| unexpected())?;
        Ok(Value::from_i128(v))
    }

    fn visit_f32<E>(self, v: f32) -> Result<Value, E> {
        Ok(Value::F32(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::F64(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Str(Cow::Owned(v.to_owned())))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::Str(Cow::Owned(v)))
    }

    fn visit_bytes<E>(self, v: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(v.to_owned()))
    }

    fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(v))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Nil => Ok(Value::SomeNil(1)),
            Value::SomeNil(MAX_SOMES) => Err(de::Error::custom(Fault::too_many_somes())),
            Value::SomeNil(somes) => Ok(Value::SomeNil(somes + 1)),
            value => Ok(value),
        }
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Value::Seq(parts) = &value
            && let [Value::U64(WIDE), Value::Bytes(bytes)] = &parts[..]
            && let Ok(bytes) = <[u8; 16]>::try_from(&bytes[..])
        {
            return Ok(Value::from_i128(i128::from_be_bytes(bytes)));
        }
        Ok(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(RESERVE));
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0).min(RESERVE));
        while let Some((key, value)) = map.next_entry::<Value, Value>()? {
            if !key.is_key() {
                return Err(de::Error::custom(Fault::deep_key()));
            }
            entries.push((key, value));
        }
        match repeated_key(&entries) {
            None => Ok(Value::Map(entries)),
            Some(key) => Err(de::Error::custom(Fault::repeated(key))),
        }
    }
}
