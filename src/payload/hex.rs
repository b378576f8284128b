//! Byte arrays that are hexadecimal text in human-readable formats, and plain bytes elsewhere.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

/// The id of a payload, unique among all processes.
pub(crate) type PayloadId = Hex<16>;

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && !wire::is_encoding() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const N: usize>;

        impl<'de, const N: usize> serde::de::Visitor<'de> for Visitor<N> {
            type Value = Hex<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes, or {} hexadecimal digits", 2 * N)
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Hex<N>, E> {
                bytes.try_into().map(Hex).map_err(|_| E::invalid_length(bytes.len(), &self))
            }

            /// Reads a sequence of numbers, which is how JSON writes bytes when a JSON text is part of an encoded
            /// value.
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Hex<N>, A::Error> {
                let mut bytes = [0; N];
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = seq.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(at, &self))?;
                }
                Ok(Hex(bytes))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Hex<N>, E> {
                if text.len() != 2 * N || !text.is_ascii() {
                    return Err(E::invalid_length(text.len(), &self));
                }
                let mut bytes = [0; N];
                for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digits = std::str::from_utf8(digits).map_err(E::custom)?;
                    *byte = u8::from_str_radix(digits, 16).map_err(E::custom)?;
                }
                Ok(Hex(bytes))
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Visitor)
        } else {
            deserializer.deserialize_bytes(Visitor)
        }
    }
}

/// Returns a new id: a random number of the process, from the keys of the standard library's hash maps, and a
/// counter.
pub(super) fn new_id() -> PayloadId {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PROCESS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = *PROCESS.get_or_init(crate::id::unique);
    let id = u128::from(process) << 64 | u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    Hex(id.to_be_bytes())
}
