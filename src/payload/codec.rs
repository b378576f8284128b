//! Encoding and decoding of the values of payloads.
//!
//! Byte strings, texts and vectors of plain numbers are sent as they are in memory (little-endian), so that they need
//! no parsing. All other types use MessagePack, encoded while the value is sent and decoded while it arrives. Maps
//! are written in the order of their encoded keys, so that equal maps have equal encodings, and a process that pulled
//! a value passes on the same bytes.

use std::any::{Any, TypeId, type_name};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::chunk_hashes::{ChunkHasher, ChunkHashes};
use super::error::FetchError;
use super::huge;
use super::verified_reader::VerifiedReader;
use crate::wire::{self, CodecError};

/// A value of any type.
pub(crate) type AnyValue = Arc<dyn Any + Send + Sync>;

/// Type name that marks a payload as an artifact.
pub(super) const TREE: &str = "flowright::Artifact";

/// The encoder and decoder of one type, with the type erased.
pub(crate) struct Form {
    type_name: fn() -> &'static str,
    write: fn(&AnyValue, &mut dyn io::Write) -> Result<(), CodecError>,
    receive: fn(VerifiedReader<'_>) -> Result<AnyValue, FetchError>,
}

impl Form {
    pub(crate) fn of<T: Serialize + DeserializeOwned + Send + Sync + 'static>() -> &'static Self {
        const { &Self { type_name: type_name::<T>, write: write::<T>, receive: receive::<T> } }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        (self.type_name)()
    }

    pub(crate) fn hashes(&self, value: &AnyValue) -> Result<ChunkHashes, CodecError> {
        if let Some(bytes) = as_bytes(value) {
            return Ok(ChunkHashes::of(bytes));
        }
        // The encoder writes a few bytes at a time, while BLAKE3 is fast on large buffers only.
        let mut out = io::BufWriter::with_capacity(64 * 1024, ChunkHasher::new());
        (self.write)(value, &mut out)?;
        Ok(out.into_inner().unwrap_or_else(|_| unreachable!("hashing does not fail")).finish())
    }

    /// Writes the encoding of `value`.
    pub(crate) fn write(&self, value: &AnyValue, out: &mut dyn io::Write) -> Result<(), CodecError> {
        (self.write)(value, out)
    }

    /// Decodes a value from verified chunks as they arrive.
    pub(crate) fn receive(&self, reception: VerifiedReader<'_>) -> Result<AnyValue, FetchError> {
        (self.receive)(reception)
    }
}

fn write<T: Serialize + 'static>(value: &AnyValue, out: &mut dyn io::Write) -> Result<(), CodecError> {
    match as_bytes(value) {
        Some(bytes) => out.write_all(bytes).map_err(CodecError::written::<T>),
        None => {
            let value: &T = value.downcast_ref().expect("a form is used for values of its type");
            wire::encode_canonically(value, out)
        }
    }
}

fn receive<T>(reception: VerifiedReader<'_>) -> Result<AnyValue, FetchError>
where
    T: DeserializeOwned + Send + Sync + 'static,
{
    match receive_plain(TypeId::of::<T>(), reception) {
        Ok(value) => value,
        Err(reception) => {
            let mut reader = reception.reader();
            let value = wire::decode_from::<T>(&mut reader);
            match (value, reader.failure) {
                (_, Some(failure)) => Err(failure),
                (Ok(value), None) => Ok(Arc::new(value)),
                (Err(error), None) => Err(FetchError::Unusable(error.to_string())),
            }
        }
    }
}

/// Defines `as_bytes` and `receive_plain` for the types whose memory is their encoding.
macro_rules! plain {
    ($($number:ty),*) => {
        /// Returns the bytes of a value whose memory is its encoding; `None` for other types.
        pub(super) fn as_bytes(value: &AnyValue) -> Option<&[u8]> {
            if let Some(bytes) = value.downcast_ref::<Bytes>() {
                return Some(bytes);
            }
            if let Some(text) = value.downcast_ref::<String>() {
                return Some(text.as_bytes());
            }
            $(
                if let Some(numbers) = value.downcast_ref::<Vec<$number>>() {
                    return Some(bytemuck::cast_slice(numbers));
                }
            )*
            None
        }

        /// Receives a value whose memory is its encoding; returns the reader unchanged for other types.
        fn receive_plain(of: TypeId, reception: VerifiedReader<'_>) -> Result<Result<AnyValue, FetchError>, VerifiedReader<'_>> {
            if of == TypeId::of::<Bytes>() {
                return Ok(numbers::<u8>(reception).map(|bytes| Arc::new(Bytes::from(bytes)) as AnyValue));
            }
            if of == TypeId::of::<String>() {
                return Ok(text(reception));
            }
            $(
                if of == TypeId::of::<Vec<$number>>() {
                    return Ok(numbers::<$number>(reception).map(|numbers| Arc::new(numbers) as AnyValue));
                }
            )*
            Err(reception)
        }
    };
}

// On a big-endian machine the memory of a number is not its little-endian encoding; there, numbers use MessagePack.
#[cfg(target_endian = "little")]
plain!(u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, f32, f64);
#[cfg(not(target_endian = "little"))]
plain!(u8, i8);

fn numbers<N: bytemuck::Pod>(reception: VerifiedReader<'_>) -> Result<Vec<N>, FetchError> {
    let length = reception.length()?;
    if !length.is_multiple_of(size_of::<N>()) {
        return Err(FetchError::Unusable(format!(
            "{length} bytes are not a whole number of `{}` values",
            type_name::<N>()
        )));
    }
    // Zeroed memory is mapped lazily: the system allocates each page on the first write.
    let mut numbers = vec![N::zeroed(); length / size_of::<N>()];
    let bytes = bytemuck::cast_slice_mut(&mut numbers);
    huge::advise(bytes);
    reception.fill(bytes)?;
    Ok(numbers)
}

fn text(reception: VerifiedReader<'_>) -> Result<AnyValue, FetchError> {
    let text = String::from_utf8(numbers::<u8>(reception)?);
    text.map(|text| Arc::new(text) as AnyValue).map_err(|error| FetchError::Unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::super::verified_reader::InMemory;
    use super::*;

    fn there_and_back<T>(value: T)
    where
        T: Serialize + DeserializeOwned + Send + Sync + PartialEq + std::fmt::Debug + 'static,
    {
        let form = Form::of::<T>();
        let value: AnyValue = Arc::new(value);
        let hashes = form.hashes(&value).unwrap();
        let mut bytes = Vec::new();
        form.write(&value, &mut bytes).unwrap();
        assert_eq!(hashes, ChunkHashes::of(&bytes), "the hash is that of the written bytes");
        let mut chunks = InMemory(&bytes);
        let back = form.receive(VerifiedReader::new(&hashes, &mut chunks, Arc::default(), "it")).unwrap();
        assert_eq!(back.downcast_ref::<T>(), value.downcast_ref::<T>());
        assert_eq!(form.hashes(&back).unwrap(), hashes, "a pulled value has the same bytes");
    }

    proptest! {
        #[test]
        fn values_come_back(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            floats in prop::collection::vec(-1e9..1e9_f32, 0..100),
            wide in prop::collection::vec(any::<i128>(), 0..10),
            text in ".*",
            table in prop::collection::btree_map(any::<u32>(), prop::collection::vec(".*", 0..3), 0..10),
        ) {
            there_and_back(bytes.clone());
            there_and_back(Bytes::from(bytes));
            there_and_back(floats);
            there_and_back(wide);
            there_and_back(text);
            there_and_back(vec![table.iter().map(|(n, all)| (*n, all.clone())).collect::<HashMap<_, _>>()]);
            there_and_back::<BTreeMap<u32, Vec<String>>>(table);
        }
    }

    #[test]
    fn plain_values_are_their_own_bytes() {
        let value: AnyValue = Arc::new(vec![1.5_f32, -2.0]);
        assert_eq!(as_bytes(&value).unwrap().len(), 8);
        let value: AnyValue = Arc::new(vec![vec![1_u8]]);
        assert!(as_bytes(&value).is_none());
    }

    #[test]
    fn values_of_many_chunks_come_back() {
        there_and_back((0..1_500_000_u32).map(|n| n as f32).collect::<Vec<f32>>());
        there_and_back((0..400_000_u32).map(|n| (n, n.to_string())).collect::<BTreeMap<_, _>>());
    }
}
