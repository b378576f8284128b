//! The encoder: serde values to MessagePack with named fields.
//!
//! # Guarantees
//! - Nested options stay distinct: `None` is nil, and nil inside `Some`s is an extension with their number.
//! - A [canonical](Form::Canonical) encoding is independent of the order of the entries of maps: they are sorted by
//!   their encoded keys, at every depth. Such a map is buffered while it is written; nothing else is.

use std::io;

use bytes::BytesMut;
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::extension::{EXTENSION, MAX_SOMES, SOME_NIL};
use super::fault::Fault;

/// The form of an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// As `AsIs`, with the fields of structs in an array, and with numbers for the names of variants.
    #[cfg_attr(not(any(feature = "journal", test)), allow(dead_code))]
    Positional,
    /// Maps are in their order of iteration.
    AsIs,
    /// The entries of maps are sorted.
    Canonical,
    /// Canonical, and for comparison only: equal floats have the same encoding, as have all NaNs.
    Identity,
    /// Like `Identity`, with the items of sequences (not of tuples) sorted as well.
    Unordered,
}

/// Ambiguous parts that an encoder has met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Met {
    /// A part whose encoding is not its identity: a map of several entries, a NaN or a negative zero.
    pub(crate) several_forms: bool,
    /// A sequence of several items.
    pub(crate) sequence: bool,
}

/// The destination of encoded bytes.
pub(super) enum Target<'t> {
    Vec(&'t mut Vec<u8>),
    Buffer(&'t mut BytesMut),
    Writer(&'t mut dyn io::Write),
}

/// The output of one value: to the target, or to the innermost incomplete part.
pub(super) struct Out<'t> {
    target: Target<'t>,
    form: Form,
    /// The parts that are buffered before they are written, the innermost last.
    parts: Vec<Vec<u8>>,
    met: Met,
}

impl<'t> Out<'t> {
    pub(super) fn new(target: Target<'t>, form: Form) -> Self {
        Self { target, form, parts: Vec::new(), met: Met::default() }
    }

    /// Encodes the value.
    pub(super) fn write<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Met, Fault> {
        value.serialize(Encoder::new(&mut self))?;
        Ok(self.met)
    }

    fn gather(&mut self) {
        self.parts.push(Vec::new());
    }

    /// Returns the current length of the innermost part.
    fn gathered(&self) -> usize {
        self.parts.last().map_or(0, Vec::len)
    }

    fn take_gathered(&mut self) -> Vec<u8> {
        self.parts.pop().unwrap_or_default()
    }
}

impl io::Write for Out<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(part) = self.parts.last_mut() {
            part.extend_from_slice(bytes);
            return Ok(());
        }
        match &mut self.target {
            Target::Vec(target) => target.extend_from_slice(bytes),
            Target::Buffer(target) => target.extend_from_slice(bytes),
            Target::Writer(target) => target.write_all(bytes)?,
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Serialises one value.
pub(super) struct Encoder<'o, 't> {
    out: &'o mut Out<'t>,
    /// The number of `Some`s that directly enclose the value.
    somes: u8,
}

impl<'o, 't> Encoder<'o, 't> {
    #[inline]
    fn new(out: &'o mut Out<'t>) -> Self {
        Self { out, somes: 0 }
    }

    fn variant(&mut self, index: u32, name: &'static str) -> Result<(), Fault> {
        rmp::encode::write_map_len(self.out, 1)?;
        self.variant_name(index, name)
    }

    fn variant_name(&mut self, index: u32, name: &'static str) -> Result<(), Fault> {
        match self.out.form {
            Form::Positional => drop(rmp::encode::write_uint(self.out, index.into())?),
            _ => rmp::encode::write_str(self.out, name)?,
        }
        Ok(())
    }

    fn fields(self, length: usize) -> Result<Fields<'o, 't>, Fault> {
        let is_named = self.out.form != Form::Positional;
        let kind = if is_named { Kind::Map } else { Kind::Array };
        kind.write_length(self.out, count(length)?)?;
        Ok(Fields { out: self.out, is_named })
    }

    fn tuple(self, length: usize) -> Result<Container<'o, 't>, Fault> {
        self.container(Kind::Array, Some(length), false)
    }

    /// Begins a container. One whose parts are sorted, or whose length is not known, is buffered.
    fn container(
        self,
        kind: Kind,
        length: Option<usize>,
        is_sorted: bool,
    ) -> Result<Container<'o, 't>, Fault> {
        let order = match length {
            _ if is_sorted => Order::Sorted { key_ends: Vec::new(), ends: Vec::new() },
            Some(length) => {
                kind.write_length(self.out, count(length)?)?;
                Order::Fixed
            }
            None => Order::Counted,
        };
        if !matches!(order, Order::Fixed) {
            self.out.gather();
        }
        Ok(Container { out: self.out, kind, order, count: 0 })
    }
}

fn count(length: usize) -> Result<u32, Fault> {
    u32::try_from(length)
        .map_err(|_| Fault::new(format!("cannot encode {length} items: MessagePack counts with 32 bits")))
}

impl<'o, 't> Serializer for Encoder<'o, 't> {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Container<'o, 't>;
    type SerializeTuple = Container<'o, 't>;
    type SerializeTupleStruct = Container<'o, 't>;
    type SerializeTupleVariant = Container<'o, 't>;
    type SerializeMap = Container<'o, 't>;
    type SerializeStruct = Fields<'o, 't>;
    type SerializeStructVariant = Fields<'o, 't>;

    fn serialize_bool(self, v: bool) -> Result<(), Fault> {
        Ok(rmp::encode::write_bool(self.out, v)?)
    }

    fn serialize_i8(self, v: i8) -> Result<(), Fault> {
        self.serialize_i64(v.into())
    }

    fn serialize_i16(self, v: i16) -> Result<(), Fault> {
        self.serialize_i64(v.into())
    }

    fn serialize_i32(self, v: i32) -> Result<(), Fault> {
        self.serialize_i64(v.into())
    }

    fn serialize_i64(self, v: i64) -> Result<(), Fault> {
        rmp::encode::write_sint(self.out, v)?;
        Ok(())
    }

    fn serialize_i128(self, v: i128) -> Result<(), Fault> {
        self.serialize_bytes(&v.to_be_bytes())
    }

    fn serialize_u8(self, v: u8) -> Result<(), Fault> {
        self.serialize_u64(v.into())
    }

    fn serialize_u16(self, v: u16) -> Result<(), Fault> {
        self.serialize_u64(v.into())
    }

    fn serialize_u32(self, v: u32) -> Result<(), Fault> {
        self.serialize_u64(v.into())
    }

    fn serialize_u64(self, v: u64) -> Result<(), Fault> {
        rmp::encode::write_uint(self.out, v)?;
        Ok(())
    }

    fn serialize_u128(self, v: u128) -> Result<(), Fault> {
        self.serialize_bytes(&v.to_be_bytes())
    }

    fn serialize_f32(self, v: f32) -> Result<(), Fault> {
        let mut v = v;
        if v.is_nan() || v == 0.0 && v.is_sign_negative() {
            self.out.met.several_forms = true;
            if self.out.form >= Form::Identity {
                v = if v.is_nan() { f32::NAN } else { 0.0 };
            }
        }
        Ok(rmp::encode::write_f32(self.out, v)?)
    }

    fn serialize_f64(self, v: f64) -> Result<(), Fault> {
        let mut v = v;
        if v.is_nan() || v == 0.0 && v.is_sign_negative() {
            self.out.met.several_forms = true;
            if self.out.form >= Form::Identity {
                v = if v.is_nan() { f64::NAN } else { 0.0 };
            }
        }
        Ok(rmp::encode::write_f64(self.out, v)?)
    }

    fn serialize_char(self, v: char) -> Result<(), Fault> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, v: &str) -> Result<(), Fault> {
        count(v.len())?;
        Ok(rmp::encode::write_str(self.out, v)?)
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<(), Fault> {
        count(v.len())?;
        Ok(rmp::encode::write_bin(self.out, v)?)
    }

    fn serialize_none(self) -> Result<(), Fault> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        if self.somes == MAX_SOMES {
            return Err(Fault::new(format!("more than {MAX_SOMES} `Some`s are nested")));
        }
        value.serialize(Self { somes: self.somes + 1, ..self })
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        if self.somes == 0 {
            return Ok(rmp::encode::write_nil(self.out)?);
        }
        rmp::encode::write_ext_meta(self.out, 1, SOME_NIL)?;
        Ok(io::Write::write_all(self.out, &[self.somes])?)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Fault> {
        rmp::encode::write_array_len(self.out, 0)?;
        Ok(())
    }

    fn serialize_unit_variant(
        mut self,
        _name: &'static str,
        index: u32,
        name: &'static str,
    ) -> Result<(), Fault> {
        self.variant_name(index, name)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        if name != EXTENSION {
            return value.serialize(self);
        }
        self.out.gather();
        value.serialize(Encoder::new(self.out))?;
        let (tag, data): (i8, Data) = super::decoder::decode(&self.out.take_gathered())?;
        rmp::encode::write_ext_meta(self.out, count(data.0.len())?, tag)?;
        Ok(io::Write::write_all(self.out, &data.0)?)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _name: &'static str,
        index: u32,
        name: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.variant(index, name)?;
        value.serialize(Encoder::new(self.out))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Container<'o, 't>, Fault> {
        let is_sorted = self.out.form == Form::Unordered;
        self.container(Kind::Array, length, is_sorted)
    }

    fn serialize_tuple(self, length: usize) -> Result<Container<'o, 't>, Fault> {
        self.tuple(length)
    }

    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<Container<'o, 't>, Fault> {
        self.tuple(length)
    }

    fn serialize_tuple_variant(
        mut self,
        _name: &'static str,
        index: u32,
        name: &'static str,
        length: usize,
    ) -> Result<Container<'o, 't>, Fault> {
        self.variant(index, name)?;
        self.tuple(length)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Container<'o, 't>, Fault> {
        let is_sorted = self.out.form >= Form::Canonical;
        self.container(Kind::Map, length, is_sorted)
    }

    fn serialize_struct(self, _name: &'static str, length: usize) -> Result<Fields<'o, 't>, Fault> {
        self.fields(length)
    }

    fn serialize_struct_variant(
        mut self,
        _name: &'static str,
        index: u32,
        name: &'static str,
        length: usize,
    ) -> Result<Fields<'o, 't>, Fault> {
        self.variant(index, name)?;
        self.fields(length)
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

/// The bytes of an extension.
struct Data(Vec<u8>);

impl<'de> serde::Deserialize<'de> for Data {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Data;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the bytes of an extension")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Data, E> {
                Ok(Data(bytes.to_owned()))
            }
        }

        deserializer.deserialize_bytes(Visitor)
    }
}

/// The kind of a container.
enum Kind {
    Array,
    Map,
}

impl Kind {
    fn write_length(&self, out: &mut Out<'_>, length: u32) -> Result<(), Fault> {
        match self {
            Self::Array => rmp::encode::write_array_len(out, length)?,
            Self::Map => rmp::encode::write_map_len(out, length)?,
        };
        Ok(())
    }
}

/// The order in which the parts of a container are written.
enum Order {
    /// In order, after their number.
    Fixed,
    /// In order, once their number is known.
    Counted,
    /// Sorted by their keys, once they are complete. The ends of the keys and of the parts are those in the buffered
    /// bytes; an item of a sequence is its own key.
    Sorted { key_ends: Vec<usize>, ends: Vec<usize> },
}

/// Writes buffered parts, sorted by their keys.
fn write_sorted(out: &mut Out<'_>, gathered: &[u8], key_ends: &[usize], ends: &[usize]) -> io::Result<()> {
    let begin = |n: usize| if n == 0 { 0 } else { ends[n - 1] };
    let key = |n: usize| &gathered[begin(n)..key_ends[n]];
    if ends.len() < 2 || (1..ends.len()).all(|n| key(n - 1) <= key(n)) {
        return io::Write::write_all(out, gathered);
    }
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by(|a, b| key(*a).cmp(key(*b)));
    order.into_iter().try_for_each(|n| io::Write::write_all(out, &gathered[begin(n)..ends[n]]))
}

/// The items of a sequence or a tuple, or the entries of a map.
pub(super) struct Container<'o, 't> {
    out: &'o mut Out<'t>,
    kind: Kind,
    order: Order,
    count: u32,
}

impl Container<'_, '_> {
    #[inline]
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(Encoder::new(self.out))?;
        self.count = self.count.saturating_add(1);
        if let Order::Sorted { key_ends, ends } = &mut self.order {
            key_ends.push(self.out.gathered());
            ends.push(self.out.gathered());
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        if matches!(self.order, Order::Fixed) {
            return Ok(());
        }
        let gathered = self.out.take_gathered();
        self.kind.write_length(self.out, self.count)?;
        match &self.order {
            Order::Sorted { key_ends, ends } if key_ends.len() != ends.len() => {
                return Err(Fault::new("a map has a key without a value"));
            }
            Order::Sorted { key_ends, ends } => write_sorted(self.out, &gathered, key_ends, ends)?,
            Order::Fixed | Order::Counted => io::Write::write_all(self.out, &gathered)?,
        }
        Ok(())
    }
}

impl SerializeSeq for Container<'_, '_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(self) -> Result<(), Fault> {
        self.out.met.sequence |= self.count > 1;
        self.finish()
    }
}

impl SerializeTuple for Container<'_, '_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(self) -> Result<(), Fault> {
        self.finish()
    }
}

impl SerializeTupleStruct for Container<'_, '_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(self) -> Result<(), Fault> {
        self.finish()
    }
}

impl SerializeTupleVariant for Container<'_, '_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.item(value)
    }

    fn end(self) -> Result<(), Fault> {
        self.finish()
    }
}

impl SerializeMap for Container<'_, '_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        key.serialize(Encoder::new(self.out))?;
        self.count = self.count.saturating_add(1);
        if let Order::Sorted { key_ends, .. } = &mut self.order {
            key_ends.push(self.out.gathered());
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(Encoder::new(self.out))?;
        if let Order::Sorted { ends, .. } = &mut self.order {
            ends.push(self.out.gathered());
        }
        Ok(())
    }

    fn end(self) -> Result<(), Fault> {
        self.out.met.several_forms |= self.count > 1;
        self.finish()
    }
}

/// The fields of a struct.
pub(super) struct Fields<'o, 't> {
    out: &'o mut Out<'t>,
    /// False if the fields are known by their positions.
    is_named: bool,
}

impl Fields<'_, '_> {
    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Fault> {
        if self.is_named {
            rmp::encode::write_str(self.out, name)?;
        }
        value.serialize(Encoder::new(self.out))
    }

    fn skip(&self, name: &'static str) -> Result<(), Fault> {
        match self.is_named {
            true => Ok(()),
            false => Err(Fault::new(format!(
                "the field `{name}` cannot be skipped: the others are known by position"
            ))),
        }
    }
}

impl SerializeStruct for Fields<'_, '_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Fault> {
        self.field(name, value)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), Fault> {
        self.skip(name)
    }

    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

impl SerializeStructVariant for Fields<'_, '_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Fault> {
        self.field(name, value)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), Fault> {
        self.skip(name)
    }

    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}
