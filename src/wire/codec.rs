//! Values to bytes and back, and to a digest without keeping the bytes.
//!
//! The encoding is MessagePack with named fields, and says that it is human-readable: addresses, UUIDs and dates are texts.
//! serde reads untagged, flattened and internally tagged types from a buffer that takes itself for human-readable, whatever
//! it was filled from, so that no other encoding of such types can be read.

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

/// The largest buffer that a thread keeps, in bytes.
const LARGEST_BUFFER: usize = 64 * 1024;

/// A value could not be turned into bytes, or bytes not into a value.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The value's `Serialize` refused.
    #[error(
        "a `{type_name}` does not serialise: {error}; derive `Serialize` for it, or skip the field at fault"
    )]
    Encode {
        /// The Rust type of the value.
        type_name: &'static str,
        /// What the encoder said.
        error: Fault,
    },
    /// The encoded value could not be written where it should go.
    #[error("an encoded `{type_name}` cannot be written: {error}")]
    Write {
        /// The Rust type of the value.
        type_name: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The bytes are not such a value.
    #[error("these {length} bytes are not a `{type_name}`: {error}")]
    Decode {
        /// The Rust type that was wanted.
        type_name: &'static str,
        /// How many bytes there were.
        length: usize,
        /// What the decoder said.
        error: Fault,
    },
    /// The value is nested too deeply to be read.
    #[error(
        "a `{type_name}` that is nested in more than {limit} levels is not read; flatten it, or send it in parts"
    )]
    TooDeep {
        /// The Rust type that was wanted.
        type_name: &'static str,
        /// How many levels are read.
        limit: usize,
    },
    /// The value's `Serialize` or `Deserialize` panicked.
    #[error("the `{code}` of `{type_name}` panicked: {panic}")]
    Panicked {
        /// The Rust type of the value.
        type_name: &'static str,
        /// `Serialize` or `Deserialize`.
        code: &'static str,
        /// What the panic said.
        panic: String,
    },
}

/// The value as MessagePack with named fields.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    encode_noting(value).map(|(bytes, _)| bytes)
}

/// The value as [`encode`] encodes it, and what was met in it.
pub(crate) fn encode_noting<T: Serialize + ?Sized>(value: &T) -> Result<(Bytes, Met), CodecError> {
    let mut out = Vec::with_capacity(128);
    let met = write(value, Target::Vec(&mut out), Form::AsIs)?;
    Ok((Bytes::from(out), met))
}

/// Whether a value is being encoded by this module on this thread. Types of the runtime's own, which can be read either way,
/// are shorter in this encoding than in others that are human-readable.
pub(crate) fn is_encoding() -> bool {
    IS_ENCODING.get()
}

thread_local! {
    static IS_ENCODING: Cell<bool> = const { Cell::new(false) };
}

fn write<T: Serialize + ?Sized>(value: &T, target: Target<'_>, form: Form) -> Result<Met, CodecError> {
    /// Resets the mark also when the value's `Serialize` panics.
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

/// Appends the value as [`encode`] encodes it.
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), CodecError> {
    write(value, Target::Buffer(out), Form::AsIs).map(drop)
}

/// Writes the value piece by piece, with the entries of maps in the order of their encoded keys, so that equal maps have the same
/// bytes. Each map takes memory for its encoding meanwhile.
pub(crate) fn encode_canonically<T: Serialize + ?Sized>(
    value: &T,
    out: &mut dyn io::Write,
) -> Result<(), CodecError> {
    write(value, Target::Writer(out), Form::Canonical).map(drop)
}

/// Length of the value as [`encode`] encodes it; the largest number for a value that does not serialise.
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

/// The value that [`encode_canonically`] has written, read piece by piece.
pub(crate) fn decode_from<T: DeserializeOwned>(input: &mut dyn io::Read) -> Result<T, CodecError> {
    let mut input = Measured::new(input);
    let value = fence::call(|| decoder::decode_from(&mut input));
    if input.is_too_deep {
        return Err(too_deep::<T>());
    }
    let value = value.map_err(|panic| panicked::<T>("Deserialize", &panic))?;
    value.map_err(|error| CodecError::Decode { type_name: std::any::type_name::<T>(), length: 0, error })
}

/// Lends an empty buffer, which is kept for the next time: small values are encoded all the time, and each in memory of
/// its own would be an allocation for each.
pub(crate) fn with_buffer<R>(encode: impl FnOnce(&mut BytesMut) -> R) -> R {
    thread_local! {
        static BUFFER: Cell<BytesMut> = Cell::default();
    }
    // One that is wanted while another is in use, by the code of a value, is new.
    let mut buffer = BUFFER.take();
    let result = encode(&mut buffer);
    if buffer.capacity() <= LARGEST_BUFFER {
        buffer.clear();
        BUFFER.set(buffer);
    }
    result
}

/// The value that [`encode`] made `bytes` from.
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

/// The identity of a value: the BLAKE3 hash of its encoding in which neither the order of the entries of a map counts, nor the sign
/// of zero, nor which NaN there is. The encoded value is never held as a whole.
pub(crate) fn identity<T: Serialize + ?Sized>(value: &T) -> Result<blake3::Hash, CodecError> {
    digest(value, Form::Identity)
}

/// The same without regard to the order of the items of sequences. Two values of one type that differ in their identity and not in
/// this one differ in the order of some items only.
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

    // The encoder writes a few bytes at a time and the hash is fast on many.
    let mut out = io::BufWriter::with_capacity(16 * 1024, Sink(blake3::Hasher::new()));
    write(value, Target::Writer(&mut out), form)?;
    let Sink(hasher) = out.into_inner().unwrap_or_else(|_| unreachable!("hashing does not fail"));
    Ok(hasher.finalize())
}

impl CodecError {
    /// The encoded value could not be written where it should go.
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

    /// What cannot be written is no fault of the value's type.
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

    /// Text where it is human-readable and bytes elsewhere, as UUIDs and many others are.
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
        /// Types that serde reads from a buffer come back as they were, whatever is in them, whole and in pieces.
        #[test]
        fn buffered_types_come_back(value in adjacent()) {
            let bytes = encode(&value).unwrap();
            prop_assert_eq!(&decode::<Adjacent>(&bytes).unwrap(), &value);
            prop_assert_eq!(&decode_from::<Adjacent>(&mut &bytes[..]).unwrap(), &value);
        }
    }

    /// The mark of the encoder is gone after an error and after a panic, and stays after an inner value.
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

    /// A panic of a `Serialize` or `Deserialize` is an error that names the type and what the panic said.
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
