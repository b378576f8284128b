//! The reference itself.

use std::any::{Any, type_name};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::store::{self, Entry};
use crate::id::ActorPath;
use crate::wire::{self, CodecError};

/// A payload could not be made or read.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// The value does not serialise, so that no other node could ever read it.
    #[error("a payload of work `{origin}` cannot be made: {source}")]
    Unserialisable {
        /// The Work that tried to make it.
        origin: String,
        /// What the encoder said.
        #[source]
        source: CodecError,
    },
    /// Nothing has the value any more.
    #[error(
        "the value of {payload} is gone: nothing referred to it any more, so it was freed; \
         keep the `Payload` in a state, an input or a variable for as long as its value is needed"
    )]
    Lost {
        /// The payload in words: type, size, Work and id.
        payload: String,
    },
    /// The reference is read as another type than the value has.
    #[error("{payload} is read as a `{wanted}`; read it as the type it was made from")]
    WrongType {
        /// The payload in words: type, size, Work and id.
        payload: String,
        /// The type that was asked for.
        wanted: &'static str,
    },
}

/// A small typed reference to a large value that stays where it was made until someone reads it.
///
/// Made by [`WorkContext::payload`](crate::WorkContext::payload). It is serialised in under 200 bytes and can be
/// a field of a state, an input or a part of either, and a message. Equality and run identity are those of the
/// *content*.
///
/// ```
/// # use flowright::prelude::*;
/// #[derive(Default, Serialize, Deserialize)]
/// struct Embedder {
///     vectors: Option<Payload<Vec<f32>>>,
/// }
///
/// impl Work for Embedder {
///     type Input = ();
///
///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
///         let payload = cx.payload(vec![0.5; 1_000_000])?;
///         assert_eq!(payload.value().await?.len(), 1_000_000); // the same allocation
///         self.vectors = Some(payload);
///         Ok(())
///     }
/// }
/// ```
pub struct Payload<T> {
    reference: Arc<Reference>,
    entry: Option<Arc<Entry>>,
    value: OnceLock<Arc<T>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Reference {
    id: Hex<16>,
    hash: Hex<32>,
    length: u64,
    of: String,
    origin: String,
}

/// Names longer than this are cut, so that a reference stays small whatever the type is called.
const NAME_LIMIT: usize = 56;

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Payload<T> {
    pub(crate) fn new(value: T, origin: &ActorPath) -> Result<Self, PayloadError> {
        let (hash, length) = wire::digest(&value)
            .map_err(|source| PayloadError::Unserialisable { origin: origin.to_string(), source })?;
        let id = new_id();
        let value = Arc::new(value);
        let entry = store::insert(id, value.clone() as Arc<dyn Any + Send + Sync>);
        let reference = Reference {
            id: Hex(id.to_be_bytes()),
            hash: Hex(*hash.as_bytes()),
            length,
            of: shorten(&readable_type::<T>()),
            origin: shorten(origin.as_str()),
        };
        Ok(Self { reference: Arc::new(reference), entry: Some(entry), value: OnceLock::from(value) })
    }

    /// The value. On the node that has it this is the very allocation, at no cost.
    ///
    /// # Errors
    /// [`PayloadError::Lost`] when the value was freed, [`PayloadError::WrongType`] when it is not a `T`.
    pub async fn value(&self) -> Result<Arc<T>, PayloadError> {
        self.resolve().cloned()
    }

    fn resolve(&self) -> Result<&Arc<T>, PayloadError> {
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        let entry = self.entry.as_ref().ok_or_else(|| PayloadError::Lost { payload: self.describe() })?;
        let value = entry
            .value
            .clone()
            .downcast::<T>()
            .map_err(|_| PayloadError::WrongType { payload: self.describe(), wanted: type_name::<T>() })?;
        Ok(self.value.get_or_init(|| value))
    }
}

impl<T> Payload<T> {
    /// The size of the encoded value in bytes.
    pub fn encoded_len(&self) -> u64 {
        self.reference.length
    }

    /// The BLAKE3 hash of the encoded value.
    pub fn content_hash(&self) -> [u8; 32] {
        self.reference.hash.0
    }

    /// The path of the Work that made it.
    pub fn origin(&self) -> &str {
        &self.reference.origin
    }

    fn describe(&self) -> String {
        let Reference { id, length, of, origin, .. } = &*self.reference;
        format!("payload {} ({of}, {length} bytes, made by work `{origin}`)", &id.to_string()[..8])
    }
}

/// Reads the value, blocking the thread until it is here.
///
/// # Panics
/// With the [`PayloadError`] when the value cannot be had; inside a Work this ends the run with
/// [`Reason::PayloadLost`](crate::Reason::PayloadLost). [`Payload::value`] gives it as an error instead.
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Deref for Payload<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.resolve().unwrap_or_else(|error| std::panic::panic_any(error))
    }
}

impl<T> Clone for Payload<T> {
    fn clone(&self) -> Self {
        Self { reference: self.reference.clone(), entry: self.entry.clone(), value: self.value.clone() }
    }
}

impl<T> PartialEq for Payload<T> {
    fn eq(&self, other: &Self) -> bool {
        self.reference.hash.0 == other.reference.hash.0 && self.reference.length == other.reference.length
    }
}

impl<T> Eq for Payload<T> {}

impl<T> fmt::Debug for Payload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reference { length, of, origin, .. } = &*self.reference;
        write!(f, "Payload<{of}>({length} bytes from `{origin}`)")
    }
}

impl<T> Serialize for Payload<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if store::is_by_content() {
            return (self.reference.hash.0, self.reference.length).serialize(serializer);
        }
        if let Some(entry) = &self.entry {
            store::note(entry);
        }
        if serializer.is_human_readable() {
            self.reference.serialize(serializer)
        } else {
            let Reference { id, hash, length, of, origin } = &*self.reference;
            (id, hash, length, of, origin).serialize(serializer)
        }
    }
}

impl<'de, T> Deserialize<'de> for Payload<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let reference = if deserializer.is_human_readable() {
            Reference::deserialize(deserializer)?
        } else {
            let (id, hash, length, of, origin) = Deserialize::deserialize(deserializer)?;
            Reference { id, hash, length, of, origin }
        };
        let entry = store::find(u128::from_be_bytes(reference.id.0));
        Ok(Self { reference: Arc::new(reference), entry, value: OnceLock::new() })
    }
}

/// Bytes that are text where a person reads them, and bytes elsewhere.
#[derive(Clone, Copy)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const N: usize>;

        impl<const N: usize> serde::de::Visitor<'_> for Visitor<N> {
            type Value = Hex<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes, or {} hexadecimal digits", 2 * N)
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Hex<N>, E> {
                bytes.try_into().map(Hex).map_err(|_| E::invalid_length(bytes.len(), &self))
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
            deserializer.deserialize_str(Visitor)
        } else {
            deserializer.deserialize_bytes(Visitor)
        }
    }
}

/// Unique in this process by counting, and among processes by the random keys that the standard library's hash maps get.
fn new_id() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::atomic::{AtomicU64, Ordering};

    static PROCESS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = *PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    u128::from(process) << 64 | u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// `alloc::vec::Vec<f32>` as `Vec<f32>`.
fn readable_type<T>() -> String {
    let mut out = String::new();
    let mut word_start = 0;
    for c in type_name::<T>().chars() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn payload<T: Serialize + DeserializeOwned + Send + Sync + 'static>(value: T) -> Payload<T> {
        Payload::new(value, &ActorPath::from("maker")).unwrap()
    }

    fn send<T>(payload: &Payload<T>) -> (Payload<T>, store::Holds) {
        let (bytes, holds) = store::collect(|| wire::encode(payload).unwrap());
        assert!(bytes.len() < 200, "{}", bytes.len());
        (wire::decode(&bytes).unwrap(), holds)
    }

    #[test]
    fn what_arrives_is_the_same_allocation() {
        let made = payload(vec![1_i64, 2, 3]);
        let (arrived, _) = send(&made);
        assert!(Arc::ptr_eq(made.resolve().unwrap(), arrived.resolve().unwrap()));
        assert_eq!(*arrived, [1, 2, 3]);
    }

    #[test]
    fn a_reference_stays_small_for_long_names() {
        type Long = std::collections::BTreeMap<String, Vec<Vec<Vec<Option<(String, String, String, u64)>>>>>;
        let made = Payload::new(
            Long::new(),
            &ActorPath::from("a_flow.with_a.very_long.path.down_to".repeat(9).as_str()),
        );
        send(&made.unwrap());
    }

    #[test]
    fn a_value_is_freed_with_its_last_holder_and_the_error_says_which_it_was() {
        let made = payload("abc".to_owned());
        let weak = Arc::downgrade(made.resolve().unwrap());
        let (bytes, holds) = store::collect(|| wire::encode(&made).unwrap());
        drop(made);
        assert!(weak.upgrade().is_some(), "the serialised reference still holds it");
        drop(holds);
        assert!(weak.upgrade().is_none());
        let arrived: Payload<String> = wire::decode(&bytes).unwrap();
        let error = arrived.resolve().unwrap_err().to_string();
        assert!(error.contains("String, 4 bytes, made by work `maker`"), "{error}");
    }

    #[test]
    fn another_type_is_a_typed_error() {
        let bytes = {
            let made = Box::leak(Box::new(payload(7_u64)));
            wire::encode(made).unwrap()
        };
        let arrived: Payload<String> = wire::decode(&bytes).unwrap();
        assert!(matches!(arrived.resolve(), Err(PayloadError::WrongType { .. })));
    }

    #[test]
    fn identity_is_by_content() {
        let key = |p: &Payload<u64>| store::by_content(|| wire::encode(p).unwrap());
        assert_eq!(key(&payload(1)), key(&payload(1)));
        assert_ne!(key(&payload(1)), key(&payload(2)));
        assert_eq!(payload(1), payload(1));
    }
}
