//! Values to bytes and back, and to a digest without keeping the bytes.

use std::cell::Cell;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::depth::{MAX_DEPTH, Measured, is_too_deep};
/// The largest buffer that a thread keeps, in bytes.
const LARGEST_BUFFER: usize = 64 * 1024;

/// A value could not be turned into bytes, or bytes not into a value.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The value's `Serialize` refused.
    #[error(
        "a `{type_name}` does not serialise: {source}; derive `Serialize` for it, or skip the field at fault"
    )]
    Encode {
        /// The Rust type of the value.
        type_name: &'static str,
        /// What the encoder said.
        #[source]
        source: rmp_serde::encode::Error,
    },
    /// The bytes are not such a value.
    #[error("these {length} bytes are not a `{type_name}`: {source}")]
    Decode {
        /// The Rust type that was wanted.
        type_name: &'static str,
        /// How many bytes there were.
        length: usize,
        /// What the decoder said.
        #[source]
        source: rmp_serde::decode::Error,
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
}

/// The value as MessagePack with named fields.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    rmp_serde::to_vec_named(value).map(Bytes::from).map_err(encode_error::<T>)
}

/// Appends the value as [`encode`] encodes it.
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), CodecError> {
    rmp_serde::encode::write_named(&mut out.writer(), value).map_err(encode_error::<T>)
}

/// Writes the value as [`encode`] encodes it, piece by piece.
pub(crate) fn encode_to<T: Serialize + ?Sized>(value: &T, out: &mut dyn io::Write) -> Result<(), CodecError> {
    rmp_serde::encode::write_named(&mut { out }, value).map_err(encode_error::<T>)
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
    match encode_to(value, &mut count) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

/// The value that [`encode_to`] has written, read piece by piece.
pub(crate) fn decode_from<T: DeserializeOwned>(input: &mut dyn io::Read) -> Result<T, CodecError> {
    let mut input = Measured::new(input);
    let value = rmp_serde::from_read(&mut input);
    if input.is_too_deep {
        return Err(too_deep::<T>());
    }
    value.map_err(|source| CodecError::Decode { type_name: std::any::type_name::<T>(), length: 0, source })
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
    rmp_serde::from_slice(bytes).map_err(|source| CodecError::Decode {
        type_name: std::any::type_name::<T>(),
        length: bytes.len(),
        source,
    })
}

/// The BLAKE3 hash and the length of the encoded value, which is never held as a whole.
pub(crate) fn digest<T: Serialize + ?Sized>(value: &T) -> Result<(blake3::Hash, u64), CodecError> {
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
    rmp_serde::encode::write_named(&mut out, value).map_err(encode_error::<T>)?;
    let Sink(hasher) = out.into_inner().unwrap_or_else(|_| unreachable!("hashing does not fail"));
    Ok((hasher.finalize(), hasher.count()))
}

impl CodecError {
    /// The encoded value could not be written where it should go.
    pub(crate) fn written<T: ?Sized>(error: io::Error) -> Self {
        let source = rmp_serde::encode::Error::Syntax(error.to_string());
        Self::Encode { type_name: std::any::type_name::<T>(), source }
    }
}

fn too_deep<T: ?Sized>() -> CodecError {
    CodecError::TooDeep { type_name: std::any::type_name::<T>(), limit: MAX_DEPTH }
}

fn encode_error<T: ?Sized>(source: rmp_serde::encode::Error) -> CodecError {
    CodecError::Encode { type_name: std::any::type_name::<T>(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_encoded_bytes() {
        let value = vec![("a", 1), ("b", 2)];
        let (hash, length) = digest(&value).unwrap();
        let bytes = encode(&value).unwrap();
        assert_eq!((hash, length), (blake3::hash(&bytes), bytes.len() as u64));
    }

    #[test]
    fn bytes_of_another_type_are_refused_with_both_named() {
        let error = decode::<u8>(&encode("text").unwrap()).unwrap_err();
        assert!(error.to_string().contains("`u8`"), "{error}");
    }
}
