//! The reference that travels in place of a value.
//!
//! # Guarantees
//! - A reference is serialised in under 200 bytes, however long the names of its type and its Work are.
//! - Errors describe the payload in words: id, type, size and the Work that created it.

use std::any::type_name;

use serde::{Deserialize, Serialize};

use super::chunk_hashes::ChunkHashes;
use super::error::{FetchError, PayloadError};
use super::hex::{Hex, PayloadId};
use crate::id::ActorPath;

/// The serialisable reference to a value: its identity, its size, and a description for error messages.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) id: PayloadId,
    pub(super) hash: Hex<32>,
    pub(crate) length: u64,
    pub(crate) of: String,
    pub(crate) origin: String,
}

/// Maximum length of a type name or path in bytes. Longer names are truncated, so that a reference stays small.
const NAME_LIMIT: usize = 56;

impl Reference {
    pub(super) fn new(id: PayloadId, hashes: &ChunkHashes, of: &str, origin: &ActorPath) -> Self {
        let (hash, length) = (Hex(hashes.hash()), hashes.length());
        Self { id, hash, length, of: shorten(of), origin: shorten(origin.as_str()) }
    }

    /// Returns `false` if the recorded type name proves that the value is not a `T`. A truncated name proves nothing.
    pub(super) fn may_be<T>(&self) -> bool {
        let name = readable_type::<T>();
        name.len() > NAME_LIMIT || name == self.of
    }

    /// Returns true if the value may have been made from the type of this name.
    #[cfg(feature = "journal")]
    pub(crate) fn fits(&self, type_name: &str) -> bool {
        type_name == super::codec::TREE || shorten(&readable(type_name)) == self.of
    }

    /// Returns the hash of the content.
    #[cfg(feature = "journal")]
    pub(crate) fn content_hash(&self) -> [u8; 32] {
        self.hash.0
    }

    pub(super) fn describe(&self) -> String {
        let Self { id, length, of, origin, .. } = self;
        format!("payload {} ({of}, {length} bytes, made by work `{origin}`)", &id.to_string()[..8])
    }

    pub(super) fn error<T>(&self, error: FetchError) -> PayloadError {
        let payload = self.describe();
        match error {
            FetchError::Lost(why) => PayloadError::Lost { payload, why },
            FetchError::WrongType(stored) => {
                PayloadError::WrongType { payload, stored, wanted: type_name::<T>() }
            }
            FetchError::Corrupt(why) => PayloadError::Corrupt { payload, why },
            FetchError::Unusable(why) => PayloadError::Unusable { payload, why },
            FetchError::NoRoom(why) => PayloadError::NoRoom { payload, why },
            FetchError::Cancelled => {
                PayloadError::Lost { payload, why: "its transfer was cancelled".to_owned() }
            }
        }
    }

    /// Creates a reference from its MessagePack fields; `None` if the id or the hash has the wrong length.
    pub(crate) fn from_parts(id: &[u8], hash: &[u8], length: u64, of: &str, origin: &str) -> Option<Self> {
        let (id, hash) = (Hex(id.try_into().ok()?), Hex(hash.try_into().ok()?));
        Some(Self { id, hash, length, of: of.to_owned(), origin: origin.to_owned() })
    }
}

/// Returns the type's name without module paths: `Vec<f32>` for `alloc::vec::Vec<f32>`.
pub(super) fn readable_type<T>() -> String {
    readable(type_name::<T>())
}

fn readable(type_name: &str) -> String {
    let mut out = String::new();
    let mut word_start = 0;
    for c in type_name.chars() {
        if c == ':' {
            out.truncate(word_start);
            continue;
        }
        out.push(c);
        if !c.is_alphanumeric() && c != '_' {
            word_start = out.len();
        }
    }
    out
}

fn shorten(name: &str) -> String {
    if name.len() <= NAME_LIMIT {
        return name.to_owned();
    }
    let mut end = NAME_LIMIT - '…'.len_utf8();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &name[..end])
}
