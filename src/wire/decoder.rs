//! The decoder: MessagePack to serde values.
//!
//! # Guarantees
//! - It reads the output of the [encoder](super::encoder), and integers, floats, texts and bytes of any width that
//!   MessagePack has.
//! - Memory is allocated as bytes arrive, never by the claimed length.

use std::io;

use rmp::Marker;
use serde::de::value::{BorrowedBytesDeserializer, BytesDeserializer, SeqDeserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::extension::{EXTENSION, MAX_SOMES, SOME_NIL};
use super::fault::Fault;

/// Decodes a value from the beginning of `bytes`.
pub(super) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Fault> {
    T::deserialize(&mut Decoder::new(Slice(bytes)))
}

/// Decodes a value from a reader.
pub(super) fn decode_from<T: DeserializeOwned>(input: impl io::Read) -> Result<T, Fault> {
    T::deserialize(&mut Decoder::new(Stream { input, peeked: None, buffer: Vec::new() }))
}

/// A source of bytes.
trait Input<'de> {
    fn peek(&mut self) -> Result<u8, Fault>;

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault>;

    fn bytes(&mut self, length: usize) -> Result<Bytes<'de, '_>, Fault>;
}

/// Bytes that outlive the decoder, or are copied.
enum Bytes<'de, 'a> {
    Borrowed(&'de [u8]),
    Copied(&'a [u8]),
}

impl Bytes<'_, '_> {
    fn get(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

fn ended() -> Fault {
    Fault::new("the input ends too early")
}

struct Slice<'de>(&'de [u8]);

impl<'de> Input<'de> for Slice<'de> {
    #[inline]
    fn peek(&mut self) -> Result<u8, Fault> {
        self.0.first().copied().ok_or_else(ended)
    }

    #[inline]
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        let (these, rest) = self.0.split_at_checked(bytes.len()).ok_or_else(ended)?;
        bytes.copy_from_slice(these);
        self.0 = rest;
        Ok(())
    }

    #[inline]
    fn bytes(&mut self, length: usize) -> Result<Bytes<'de, '_>, Fault> {
        let (these, rest) = self.0.split_at_checked(length).ok_or_else(ended)?;
        self.0 = rest;
        Ok(Bytes::Borrowed(these))
    }
}

struct Stream<R> {
    input: R,
    peeked: Option<u8>,
    buffer: Vec<u8>,
}

impl<'de, R: io::Read> Input<'de> for Stream<R> {
    fn peek(&mut self) -> Result<u8, Fault> {
        if let Some(peeked) = self.peeked {
            return Ok(peeked);
        }
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(*self.peeked.insert(byte[0]))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        match (bytes, self.peeked) {
            ([first, rest @ ..], Some(peeked)) => {
                (*first, self.peeked) = (peeked, None);
                Ok(self.input.read_exact(rest)?)
            }
            (bytes, _) => Ok(self.input.read_exact(bytes)?),
        }
    }

    fn bytes(&mut self, length: usize) -> Result<Bytes<'de, '_>, Fault> {
        self.buffer.clear();
        self.buffer.extend(self.peeked.take_if(|_| length > 0));
        let left = (length - self.buffer.len()) as u64;
        io::Read::read_to_end(&mut io::Read::take(&mut self.input, left), &mut self.buffer)?;
        if self.buffer.len() == length { Ok(Bytes::Copied(&self.buffer)) } else { Err(ended()) }
    }
}

struct Decoder<I> {
    input: I,
    /// The number of `Some`s that were entered since a byte was read.
    somes: u8,
}

impl<'de, I: Input<'de>> Decoder<I> {
    fn new(input: I) -> Self {
        Self { input, somes: 0 }
    }

    #[inline]
    fn marker(&mut self) -> Result<Marker, Fault> {
        self.somes = 0;
        self.fixed().map(|[byte]| Marker::from_u8(byte))
    }

    #[inline]
    fn peek(&mut self) -> Result<Marker, Fault> {
        self.input.peek().map(Marker::from_u8)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.input.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<usize, Fault> {
        self.fixed().map(|[byte]| usize::from(byte))
    }

    fn u16(&mut self) -> Result<usize, Fault> {
        self.fixed().map(u16::from_be_bytes).map(usize::from)
    }

    fn u32(&mut self) -> Result<usize, Fault> {
        self.fixed().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    fn text<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        match self.input.bytes(length)? {
            Bytes::Borrowed(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => visitor.visit_borrowed_str(text),
                Err(_) => visitor.visit_borrowed_bytes(bytes),
            },
            Bytes::Copied(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => visitor.visit_str(text),
                Err(_) => visitor.visit_bytes(bytes),
            },
        }
    }

    fn binary<V: Visitor<'de>>(
        &mut self,
        length: usize,
        visitor: V,
        as_items: bool,
    ) -> Result<V::Value, Fault> {
        match self.input.bytes(length)? {
            bytes if as_items => {
                let mut items = SeqDeserializer::<_, Fault>::new(bytes.get().iter().copied());
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Bytes::Borrowed(bytes) => visitor.visit_borrowed_bytes(bytes),
            Bytes::Copied(bytes) => visitor.visit_bytes(bytes),
        }
    }

    fn items<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        let mut items = Items { decoder: self, left: length };
        let value = visitor.visit_seq(&mut items)?;
        items.end(length)?;
        Ok(value)
    }

    fn entries<V: Visitor<'de>>(&mut self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        let mut items = Items { decoder: self, left: length };
        let value = visitor.visit_map(&mut items)?;
        items.end(length)?;
        Ok(value)
    }

    /// Reads the extension that begins with this marker.
    fn extension(&mut self, marker: Marker) -> Result<Extension<'_, 'de>, Fault> {
        let length = match marker {
            Marker::FixExt1 => 1,
            Marker::FixExt2 => 2,
            Marker::FixExt4 => 4,
            Marker::FixExt8 => 8,
            Marker::FixExt16 => 16,
            Marker::Ext8 => self.u8()?,
            Marker::Ext16 => self.u16()?,
            Marker::Ext32 => self.u32()?,
            _ => return Err(Fault::new("an extension was expected")),
        };
        let [tag] = self.fixed()?;
        let tag = i8::from_be_bytes([tag]);
        let data = self.input.bytes(length)?;
        match data.get() {
            &[somes] if tag == SOME_NIL => match somes {
                1..=MAX_SOMES => Ok(Extension::SomeNil(SomeNil(somes))),
                _ => Err(Fault::new(format!("nil cannot be nested in {somes} `Some`s"))),
            },
            _ => Ok(Extension::Other(tag, data)),
        }
    }

    /// Reads a value of any kind; bytes are visited as a sequence of numbers if `wants_items`.
    fn any<V: Visitor<'de>>(&mut self, visitor: V, wants_items: bool) -> Result<V::Value, Fault> {
        let marker = self.marker()?;
        match marker {
            Marker::Null => visitor.visit_unit(),
            Marker::True => visitor.visit_bool(true),
            Marker::False => visitor.visit_bool(false),
            Marker::FixPos(n) => visitor.visit_u8(n),
            Marker::FixNeg(n) => visitor.visit_i8(n),
            Marker::U8 => visitor.visit_u8(u8::from_be_bytes(self.fixed()?)),
            Marker::U16 => visitor.visit_u16(u16::from_be_bytes(self.fixed()?)),
            Marker::U32 => visitor.visit_u32(u32::from_be_bytes(self.fixed()?)),
            Marker::U64 => visitor.visit_u64(u64::from_be_bytes(self.fixed()?)),
            Marker::I8 => visitor.visit_i8(i8::from_be_bytes(self.fixed()?)),
            Marker::I16 => visitor.visit_i16(i16::from_be_bytes(self.fixed()?)),
            Marker::I32 => visitor.visit_i32(i32::from_be_bytes(self.fixed()?)),
            Marker::I64 => visitor.visit_i64(i64::from_be_bytes(self.fixed()?)),
            Marker::F32 => visitor.visit_f32(f32::from_be_bytes(self.fixed()?)),
            Marker::F64 => visitor.visit_f64(f64::from_be_bytes(self.fixed()?)),
            Marker::FixStr(length) => self.text(length.into(), visitor),
            Marker::Str8 => self.u8().and_then(|length| self.text(length, visitor)),
            Marker::Str16 => self.u16().and_then(|length| self.text(length, visitor)),
            Marker::Str32 => self.u32().and_then(|length| self.text(length, visitor)),
            Marker::Bin8 => self.u8().and_then(|length| self.binary(length, visitor, wants_items)),
            Marker::Bin16 => self.u16().and_then(|length| self.binary(length, visitor, wants_items)),
            Marker::Bin32 => self.u32().and_then(|length| self.binary(length, visitor, wants_items)),
            Marker::FixArray(length) => self.items(length.into(), visitor),
            Marker::Array16 => self.u16().and_then(|length| self.items(length, visitor)),
            Marker::Array32 => self.u32().and_then(|length| self.items(length, visitor)),
            Marker::FixMap(length) => self.entries(length.into(), visitor),
            Marker::Map16 => self.u16().and_then(|length| self.entries(length, visitor)),
            Marker::Map32 => self.u32().and_then(|length| self.entries(length, visitor)),
            Marker::Reserved => Err(Fault::new("the byte c1 begins no value")),
            extension => match self.extension(extension)? {
                Extension::SomeNil(nil) => nil.deserialize_any(visitor),
                Extension::Other(tag, data) => visitor.visit_newtype_struct(Parts::new(tag, data)),
            },
        }
    }

    /// Reads an integer of up to 128 bits: `Ok` is the form of 16 bytes, `Err` any other.
    fn wide(&mut self) -> Result<Result<[u8; 16], i128>, Fault> {
        let bytes = match self.peek()? {
            Marker::Bin8 => {
                self.marker()?;
                match self.u8()? {
                    16 => self.fixed()?,
                    other => {
                        return Err(Fault::new(format!(
                            "an integer of 16 bytes was expected, not of {other}"
                        )));
                    }
                }
            }
            _ => return i128::deserialize(Small(self)).map(Err),
        };
        Ok(Ok(bytes))
    }
}

fn is_extension(marker: Marker) -> bool {
    matches!(
        marker,
        Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32
    )
}

/// Deserialises an integer in MessagePack's own form.
struct Small<'a, I>(&'a mut Decoder<I>);

impl<'de, I: Input<'de>> Deserializer<'de> for Small<'_, I> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.any(visitor, false)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, I: Input<'de>> Deserializer<'de> for &mut Decoder<I> {
    type Error = Fault;

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit map identifier ignored_any
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.any(visitor, false)
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.wide()? {
            Ok(bytes) => visitor.visit_i128(i128::from_be_bytes(bytes)),
            Err(small) => visitor.visit_i128(small),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.wide()? {
            Ok(bytes) => visitor.visit_u128(u128::from_be_bytes(bytes)),
            Err(small) => visitor.visit_i128(small),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.peek()? {
            Marker::Null => {
                self.marker()?;
                visitor.visit_none()
            }
            marker if is_extension(marker) => {
                self.marker()?;
                match self.extension(marker)? {
                    Extension::SomeNil(nil) => nil.deserialize_option(visitor),
                    Extension::Other(tag, data) => visitor.visit_some(Other { tag, data }),
                }
            }
            // Without the limit, a type that is an option of itself would recurse without end.
            _ if self.somes == MAX_SOMES => {
                Err(Fault::new(format!("more than {MAX_SOMES} `Some`s are nested")))
            }
            _ => {
                self.somes += 1;
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.peek()? {
            Marker::Null | Marker::FixArray(0) => {
                self.marker()?;
                visitor.visit_unit()
            }
            _ => self.deserialize_any(visitor),
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name != EXTENSION {
            return visitor.visit_newtype_struct(self);
        }
        let marker = self.marker()?;
        match self.extension(marker)? {
            Extension::Other(tag, data) => visitor.visit_newtype_struct(Parts::new(tag, data)),
            Extension::SomeNil(SomeNil(somes)) => {
                visitor.visit_newtype_struct(Parts::new(SOME_NIL, Bytes::Copied(&[somes])))
            }
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.any(visitor, true)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.any(visitor, true)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.any(visitor, true)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.any(visitor, true)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let length = match self.peek()? {
            Marker::FixMap(length) => {
                self.marker()?;
                length.into()
            }
            Marker::Map16 => {
                self.marker()?;
                self.u16()?
            }
            Marker::Map32 => {
                self.marker()?;
                self.u32()?
            }
            _ => return visitor.visit_enum(Variant { decoder: self, has_content: false }),
        };
        match length {
            1 => visitor.visit_enum(Variant { decoder: self, has_content: true }),
            length => Err(Fault::new(format!(
                "a map with one entry was expected, from the name of a variant to its content, not one with {length}"
            ))),
        }
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

/// The items of a sequence, or the entries of a map.
struct Items<'a, I> {
    decoder: &'a mut Decoder<I>,
    left: usize,
}

impl<I> Items<'_, I> {
    fn end(&self, length: usize) -> Result<(), Fault> {
        match self.left {
            0 => Ok(()),
            left => Err(Fault::new(format!("it has {length} items, and {} were expected", length - left))),
        }
    }
}

impl<'de, I: Input<'de>> SeqAccess<'de> for Items<'_, I> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de, I: Input<'de>> MapAccess<'de> for Items<'_, I> {
    type Error = Fault;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        SeqAccess::next_element_seed(self, seed)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

struct Variant<'a, I> {
    decoder: &'a mut Decoder<I>,
    has_content: bool,
}

impl<I> Variant<'_, I> {
    fn content(&self, wanted: &str) -> Result<(), Fault> {
        if self.has_content {
            return Ok(());
        }
        Err(de::Error::invalid_type(Unexpected::UnitVariant, &wanted))
    }
}

impl<'de, I: Input<'de>> EnumAccess<'de> for Variant<'_, I> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        Ok((seed.deserialize(&mut *self.decoder)?, self))
    }
}

impl<'de, I: Input<'de>> VariantAccess<'de> for Variant<'_, I> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.has_content {
            true => <()>::deserialize(self.decoder),
            false => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.content("newtype variant")?;
        seed.deserialize(self.decoder)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.content("tuple variant")?;
        self.decoder.any(visitor, true)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.content("struct variant")?;
        self.decoder.any(visitor, true)
    }
}

enum Extension<'a, 'de> {
    SomeNil(SomeNil),
    Other(i8, Bytes<'de, 'a>),
}

/// Nil inside this number of `Some`s.
struct SomeNil(u8);

impl<'de> Deserializer<'de> for SomeNil {
    type Error = Fault;

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.checked_sub(1) {
            Some(left) => visitor.visit_some(Self(left)),
            None => visitor.visit_unit(),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.checked_sub(1) {
            Some(left) => visitor.visit_some(Self(left)),
            None => visitor.visit_none(),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

/// An extension of another type: its tag and its bytes.
struct Other<'a, 'de> {
    tag: i8,
    data: Bytes<'de, 'a>,
}

impl<'de> Deserializer<'de> for Other<'_, 'de> {
    type Error = Fault;

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(Parts::new(self.tag, self.data))
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

/// The two parts of an extension, as a sequence.
struct Parts<'a, 'de> {
    tag: Option<i8>,
    data: Option<Bytes<'de, 'a>>,
}

impl<'a, 'de> Parts<'a, 'de> {
    fn new(tag: i8, data: Bytes<'de, 'a>) -> Self {
        Self { tag: Some(tag), data: Some(data) }
    }
}

impl<'de> Deserializer<'de> for Parts<'_, 'de> {
    type Error = Fault;

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(self)
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

impl<'de> SeqAccess<'de> for Parts<'_, 'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        if let Some(tag) = self.tag.take() {
            return seed.deserialize(de::IntoDeserializer::<Fault>::into_deserializer(tag)).map(Some);
        }
        match self.data.take() {
            Some(Bytes::Borrowed(data)) => {
                seed.deserialize(BorrowedBytesDeserializer::<Fault>::new(data)).map(Some)
            }
            Some(Bytes::Copied(data)) => seed.deserialize(BytesDeserializer::<Fault>::new(data)).map(Some),
            None => Ok(None),
        }
    }
}
