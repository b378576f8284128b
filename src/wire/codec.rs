//! Encoding of values to bytes and back, and to a digest without keeping the bytes.
//!
//! The encoding is MessagePack with named fields, and declares itself human-readable: addresses, UUIDs and dates are
//! texts. serde reads untagged, flattened and internally tagged types from a buffer that always declares itself
//! human-readable, whatever format filled it, so that such types can be read from no other encoding.

use std::cell::Cell;
use std::io;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::decoder;
use super::depth::{MAX_DEPTH, Measured, is_too_deep};
use super::encoder::{Form, Met, Out, Target};
use super::fault::Fault;
use crate::fence::{self, Panic};

/// Largest buffer that a thread keeps, in bytes.
const LARGEST_BUFFER: usize = 64 * 1024;

/// Error returned when a value cannot be encoded, or bytes cannot be decoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value's `Serialize` returned an error.
    #[error(
        "a `{type_name}` does not serialise: {error}; derive `Serialize` for it, or skip the field at fault"
    )]
    Encode {
        /// The Rust type of the value.
        type_name: &'static str,
        /// The error of the encoder.
        error: Fault,
    },
    /// The encoded value could not be written to its destination.
    #[error("an encoded `{type_name}` cannot be written: {error}")]
    Write {
        /// The Rust type of the value.
        type_name: &'static str,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The bytes are not a value of the type.
    #[error("these {length} bytes are not a `{type_name}`: {error}")]
    Decode {
        /// The Rust type that was expected.
        type_name: &'static str,
        /// The number of bytes.
        length: usize,
        /// The error of the decoder.
        error: Fault,
    },
    /// The value is nested too deeply to be decoded.
    #[error(
        "a `{type_name}` that is nested in more than {limit} levels is not read; flatten it, or send it in parts"
    )]
    TooDeep {
        /// The Rust type that was expected.
        type_name: &'static str,
        /// The maximum number of levels.
        limit: usize,
    },
    /// The value's `Serialize` or `Deserialize` panicked.
    #[error("the `{code}` of `{type_name}` panicked: {panic}")]
    Panicked {
        /// The Rust type of the value.
        type_name: &'static str,
        /// `Serialize` or `Deserialize`.
        code: &'static str,
        /// The message of the panic.
        panic: String,
    },
}

/// Encodes the value as MessagePack with named fields.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    encode_noting(value).map(|(bytes, _)| bytes)
}

/// Encodes the value like [`encode`], and returns which ambiguous parts were met in it.
pub(crate) fn encode_noting<T: Serialize + ?Sized>(value: &T) -> Result<(Bytes, Met), CodecError> {
    let mut out = Vec::with_capacity(128);
    let met = write(value, Target::Vec(&mut out), Form::AsIs)?;
    Ok((Bytes::from(out), met))
}

/// Encodes the value with its fields by position and its variants by number. [`decode`] reads it as the same type, and as
/// one with further fields at the end, which have defaults, and with further variants at the end.
///
/// # Errors
/// As [`encode`]; also for a field that is skipped, which would move the ones after it. Types that serde reads from a
/// buffer (flattened, untagged, internally tagged) are encoded, but not all of them can be read.
#[cfg(any(feature = "journal", test))]
pub(crate) fn encode_by_position<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(128);
    write(value, Target::Vec(&mut out), Form::Positional)?;
    Ok(out)
}

/// Returns `true` while this module is encoding a value on this thread. Types of the runtime, which can be read in
/// either form, have a shorter form in this encoding than in others that are human-readable.
pub(crate) fn is_encoding() -> bool {
    IS_ENCODING.get()
}

thread_local! {
    static IS_ENCODING: Cell<bool> = const { Cell::new(false) };
}

fn write<T: Serialize + ?Sized>(value: &T, target: Target<'_>, form: Form) -> Result<Met, CodecError> {
    /// Resets the mark on drop, also when the value's `Serialize` panics.
    struct Restore(bool);

    impl Drop for Restore {
        fn drop(&mut self) {
            IS_ENCODING.set(self.0);
        }
    }

    let _restore = Restore(IS_ENCODING.replace(true));
    match fence::call(|| Out::new(target, form).write(value)) {
        Ok(encoded) => encoded.map_err(encode_error::<T>),
        Err(panic) => Err(panicked::<T>("Serialize", &panic)),
    }
}

/// Appends the value, encoded like [`encode`].
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), CodecError> {
    write(value, Target::Buffer(out), Form::AsIs).map(drop)
}

/// Writes the value piece by piece, with the entries of maps in the order of their encoded keys, so that equal maps
/// have the same bytes. Each map is buffered while it is encoded.
pub(crate) fn encode_canonically<T: Serialize + ?Sized>(
    value: &T,
    out: &mut dyn io::Write,
) -> Result<(), CodecError> {
    write(value, Target::Writer(out), Form::Canonical).map(drop)
}

/// Returns the length of the value, encoded like [`encode`]; `usize::MAX` if the value does not serialise.
pub(crate) fn length<T: Serialize + ?Sized>(value: &T) -> usize {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    match write(value, Target::Writer(&mut count), Form::AsIs) {
        Ok(_) => count.0,
        Err(_) => usize::MAX,
    }
}

/// Decodes a value that was written by [`encode_canonically`], piece by piece.
pub(crate) fn decode_from<T: DeserializeOwned>(input: &mut dyn io::Read) -> Result<T, CodecError> {
    let mut input = Measured::new(input);
    let value = fence::call(|| decoder::decode_from(&mut input));
    if input.is_too_deep {
        return Err(too_deep::<T>());
    }
    let value = value.map_err(|panic| panicked::<T>("Deserialize", &panic))?;
    value.map_err(|error| CodecError::Decode { type_name: std::any::type_name::<T>(), length: 0, error })
}

/// Lends an empty buffer, which the thread keeps for the next call: small values are encoded frequently, and this saves
/// an allocation for each.
pub(crate) fn with_buffer<R>(encode: impl FnOnce(&mut BytesMut) -> R) -> R {
    thread_local! {
        static BUFFER: Cell<BytesMut> = Cell::default();
    }
    // A nested call, from the code of a value, gets a new buffer.
    let mut buffer = BUFFER.take();
    let result = encode(&mut buffer);
    if buffer.capacity() <= LARGEST_BUFFER {
        buffer.clear();
        BUFFER.set(buffer);
    }
    result
}

/// Decodes a value that was encoded by [`encode`].
///
/// # Errors
/// [`CodecError`], also for a value that is nested too deeply.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if is_too_deep(bytes) {
        return Err(too_deep::<T>());
    }
    let value = fence::call(|| decoder::decode(bytes));
    let value = value.map_err(|panic| panicked::<T>("Deserialize", &panic))?;
    value.map_err(|error| CodecError::Decode {
        type_name: std::any::type_name::<T>(),
        length: bytes.len(),
        error,
    })
}

/// Returns the identity of a value: the BLAKE3 hash of an encoding that is independent of the order of map entries, of
/// the sign of zero, and of the bits of a NaN. The encoded value is never held as a whole.
pub(crate) fn identity<T: Serialize + ?Sized>(value: &T) -> Result<blake3::Hash, CodecError> {
    digest(value, Form::Identity)
}

/// Returns the identity of a value without regard to the order of the items of sequences. If two values of one type
/// differ in their [`identity`] but not in this hash, they differ only in the order of some items.
pub(crate) fn unordered<T: Serialize + ?Sized>(value: &T) -> Result<blake3::Hash, CodecError> {
    digest(value, Form::Unordered)
}

fn digest<T: Serialize + ?Sized>(value: &T, form: Form) -> Result<blake3::Hash, CodecError> {
    struct Sink(blake3::Hasher);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    // The encoder writes a few bytes at a time, and hashing is faster on many.
    let mut out = io::BufWriter::with_capacity(16 * 1024, Sink(blake3::Hasher::new()));
    write(value, Target::Writer(&mut out), form)?;
    let Sink(hasher) = out.into_inner().unwrap_or_else(|_| unreachable!("hashing does not fail"));
    Ok(hasher.finalize())
}

impl CodecError {
    /// Returns the error for an encoded value that could not be written to its destination.
    pub(crate) fn written<T: ?Sized>(error: io::Error) -> Self {
        Self::Write { type_name: std::any::type_name::<T>(), error }
    }
}

fn too_deep<T: ?Sized>() -> CodecError {
    CodecError::TooDeep { type_name: std::any::type_name::<T>(), limit: MAX_DEPTH }
}

fn panicked<T: ?Sized>(code: &'static str, panic: &Panic) -> CodecError {
    CodecError::Panicked { type_name: std::any::type_name::<T>(), code, panic: panic.to_string() }
}

fn encode_error<T: ?Sized>(error: Fault) -> CodecError {
    match error.into_io() {
        Ok(error) => CodecError::written::<T>(error),
        Err(error) => CodecError::Encode { type_name: std::any::type_name::<T>(), error },
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

    use proptest::prelude::*;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::*;

    /// A failure to write is not blamed on the value's type.
    #[test]
    fn encoding_to_a_full_disk_names_the_disk() {
        struct Full;

        impl io::Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        for error in [
            encode_canonically(&vec!["text"; 3], &mut Full).unwrap_err(),
            encode_canonically(&std::collections::BTreeMap::from([(1, 2.5)]), &mut Full).unwrap_err(),
            encode_canonically(&7_u64, &mut Full).unwrap_err(),
        ] {
            let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
            assert!(matches!(&error, CodecError::Write { error, .. } if is_full(error)), "{error:?}");
        }
    }

    /// Text in human-readable formats and bytes in others, like UUIDs and many other types.
    #[derive(Debug, Clone, PartialEq)]
    struct Token([u8; 4]);

    impl Serialize for Token {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match serializer.is_human_readable() {
                true => serializer.collect_str(&u32::from_be_bytes(self.0)),
                false => serializer.serialize_bytes(&self.0),
            }
        }
    }

    impl<'de> Deserialize<'de> for Token {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            match deserializer.is_human_readable() {
                true => {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map(u32::to_be_bytes).map(Self).map_err(serde::de::Error::custom)
                }
                false => <[u8; 4]>::deserialize(deserializer).map(Self),
            }
        }
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Part {
        host: IpAddr,
        gate: SocketAddr,
        token: Token,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Gate(SocketAddr),
        Host(IpAddr),
        Part(Part),
        Tokens(Vec<(Token, IpAddr)>),
        Number(i64),
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Host {
            host: IpAddr,
        },
        Part(Part),
        Flat {
            name: String,
            #[serde(flatten)]
            part: Option<Part>,
        },
        Any {
            any: Untagged,
        },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", content = "value")]
    enum Adjacent {
        Tagged(Tagged),
        Untagged(Untagged),
        Plain(Part, Vec<Untagged>),
    }

    fn host() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn gate() -> impl Strategy<Value = SocketAddr> {
        (host(), any::<u16>(), any::<u32>()).prop_map(|(host, port, scope)| match host {
            IpAddr::V4(host) => SocketAddr::V4(SocketAddrV4::new(host, port)),
            IpAddr::V6(host) => SocketAddr::V6(SocketAddrV6::new(host, port, 0, scope)),
        })
    }

    fn part() -> impl Strategy<Value = Part> {
        (host(), gate(), any::<[u8; 4]>()).prop_map(|(host, gate, token)| Part {
            host,
            gate,
            token: Token(token),
        })
    }

    fn untagged() -> impl Strategy<Value = Untagged> {
        prop_oneof![
            gate().prop_map(Untagged::Gate),
            host().prop_map(Untagged::Host),
            part().prop_map(Untagged::Part),
            prop::collection::vec((any::<[u8; 4]>().prop_map(Token), host()), 0..3)
                .prop_map(Untagged::Tokens),
            any::<i64>().prop_map(Untagged::Number),
        ]
    }

    fn adjacent() -> impl Strategy<Value = Adjacent> {
        let tagged = prop_oneof![
            host().prop_map(|host| Tagged::Host { host }),
            part().prop_map(Tagged::Part),
            (".*", prop::option::of(part())).prop_map(|(name, part)| Tagged::Flat { name, part }),
            untagged().prop_map(|any| Tagged::Any { any }),
        ];
        prop_oneof![
            tagged.prop_map(Adjacent::Tagged),
            untagged().prop_map(Adjacent::Untagged),
            (part(), prop::collection::vec(untagged(), 0..3))
                .prop_map(|(part, all)| Adjacent::Plain(part, all)),
        ]
    }

    proptest! {
        /// Types that serde reads from a buffer are decoded as they were encoded, whatever their content, whole and in
        /// pieces.
        #[test]
        fn buffered_types_come_back(value in adjacent()) {
            let bytes = encode(&value).unwrap();
            prop_assert_eq!(&decode::<Adjacent>(&bytes).unwrap(), &value);
            prop_assert_eq!(&decode_from::<Adjacent>(&mut &bytes[..]).unwrap(), &value);
        }
    }

    /// The mark of the encoder is reset after an error and after a panic, and remains set after an inner value.
    #[test]
    fn mark_of_the_encoder_lasts_as_long_as_the_encoding() {
        struct Inner(fn() -> bool);

        impl Serialize for Inner {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                encode(&1).unwrap();
                assert!(is_encoding());
                if (self.0)() {
                    Err(serde::ser::Error::custom("refused"))
                } else {
                    serializer.serialize_unit()
                }
            }
        }

        assert!(encode(&Inner(|| false)).is_ok() && !is_encoding());
        assert!(encode(&Inner(|| true)).is_err() && !is_encoding());
        assert!(encode(&Inner(|| panic!("on purpose"))).is_err() && !is_encoding());
    }

    /// A panic of a `Serialize` or `Deserialize` becomes an error with the type and the message of the panic.
    #[test]
    fn panics_of_user_code_are_errors() {
        #[derive(Debug)]
        struct Bad;

        impl Serialize for Bad {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("not written")
            }
        }

        impl<'de> Deserialize<'de> for Bad {
            fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                panic!("not read")
            }
        }

        let written =
            [encode(&Bad).unwrap_err().to_string(), digest(&Bad, Form::Identity).unwrap_err().to_string()];
        assert!(written.iter().all(|said| said.contains("Bad` panicked: not written")), "{written:?}");
        let bytes = encode(&1).unwrap();
        let read = [
            decode::<Bad>(&bytes).unwrap_err().to_string(),
            decode_from::<Bad>(&mut &bytes[..]).unwrap_err().to_string(),
        ];
        assert!(read.iter().all(|said| said.contains("Bad` panicked: not read")), "{read:?}");
        assert_eq!(length(&Bad), usize::MAX);
    }

    /// Encodings by position are short, and are read as a later version of the type.
    #[test]
    fn encoding_by_position_is_read_by_a_later_type() {
        #[derive(Serialize)]
        enum Stage {
            Idle,
            Until(u64),
            Between { begin: u8, end: u8 },
        }

        #[derive(Serialize)]
        struct Row {
            name: Option<&'static str>,
            stages: Vec<Stage>,
        }

        #[derive(Debug, PartialEq, Deserialize)]
        enum LaterStage {
            Idle,
            Until(u64),
            Between { begin: u8, end: u8 },
            Never,
        }

        #[derive(Debug, PartialEq, Deserialize)]
        struct LaterRow {
            name: Option<String>,
            stages: Vec<LaterStage>,
            #[serde(default)]
            weight: u64,
        }

        let row = Row {
            name: None,
            stages: vec![Stage::Idle, Stage::Until(5), Stage::Between { begin: 1, end: 2 }],
        };
        let short = encode_by_position(&row).unwrap();
        assert_eq!(short, [0x92, 0xc0, 0x93, 0, 0x81, 1, 5, 0x81, 2, 0x92, 1, 2]);
        let stages = vec![LaterStage::Idle, LaterStage::Until(5), LaterStage::Between { begin: 1, end: 2 }];
        let later = LaterRow { name: None, stages, weight: 0 };
        assert_eq!(decode::<LaterRow>(&short).unwrap(), later);
        assert_eq!(decode::<LaterRow>(&encode(&row).unwrap()).unwrap(), later);
        let newer = encode_by_position(&(1, 2, 3, 4)).unwrap();
        assert!(decode::<LaterRow>(&newer).is_err());
    }

    /// A field that is skipped would move the ones after it.
    #[test]
    fn skipped_field_has_no_encoding_by_position() {
        #[derive(Serialize)]
        struct Row {
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<u8>,
            weight: u8,
        }

        let whole = encode_by_position(&Row { name: Some(1), weight: 2 }).unwrap();
        assert_eq!(whole, [0x92, 1, 2]);
        let error = encode_by_position(&Row { name: None, weight: 2 }).unwrap_err().to_string();
        assert!(error.contains("`name`"), "{error}");
    }

    #[test]
    fn the_digest_is_that_of_the_encoded_bytes() {
        let value = vec![("a", 1.5), ("b", 2.0)];
        let (bytes, met) = encode_noting(&value).unwrap();
        assert!(!met.several_forms);
        assert_eq!(identity(&value).unwrap(), blake3::hash(&bytes));
    }

    #[test]
    fn bytes_of_another_type_are_refused_with_both_named() {
        let error = decode::<u8>(&encode("text").unwrap()).unwrap_err();
        assert!(error.to_string().contains("`u8`"), "{error}");
    }
}
