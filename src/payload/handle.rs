//! The handle through which user code holds and reads a value.
//!
//! # Guarantees
//! - If the value is in memory, reading returns that allocation; otherwise the value is loaded on first read, and not
//!   earlier.
//! - A handle keeps its value alive. A value read by dereferencing the handle also stays in memory as long as the
//!   handle.
//! - A handle serialises as a reference, or as its content hash where the encoding is used as an identity.

mod on_disk;

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) use self::on_disk::OnDisk;
use super::blocking;
use super::codec::{AnyValue, Form};
use super::deferred::drop_in_turn;
use super::entry::{Entry, Load, Target, straight_to_disk};
use super::error::{FetchError, PayloadError};
use super::hex::new_id;
use super::reference::{Reference, readable_type};
use super::remote_source::Want;
use super::store::{self, PayloadGuard, Replicas, Store};
use crate::id::ActorPath;
use crate::wire;

/// A small typed reference to a large value, which stays in the process that created it until it is read.
///
/// Created by [`WorkContext::payload`](crate::WorkContext::payload). It is serialised in under 200 bytes and can be
/// part of a state, an input or a message. Equality and run identity are those of the *content*.
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
    hold: Option<Arc<PayloadGuard>>,
    /// The value, once this handle has been dereferenced.
    read: Read,
    of: PhantomData<Arc<T>>,
}

/// A value that was read by dereferencing a handle, which keeps it in memory.
#[derive(Default)]
struct Read(OnceLock<AnyValue>);

impl Drop for Read {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            // The value may refer to payloads whose handles have read values, too.
            drop_in_turn(value);
        }
    }
}

/// Progress of the transfer of a payload's value to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes that have arrived and been verified.
    pub received: u64,
    /// Length of the encoded value in bytes.
    pub total: u64,
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Payload<T> {
    pub(crate) fn new(value: T, store: &Arc<Store>, origin: &ActorPath) -> Result<Self, PayloadError> {
        let form = Form::of::<T>();
        let value: AnyValue = Arc::new(value);
        let (hashes, nested) = store::collect(|| form.hashes(&value));
        let hashes = hashes.map_err(|source| PayloadError::Unserialisable {
            origin: origin.to_string(),
            source: Arc::new(source),
        })?;
        let nested = nested.distinct();
        let id = new_id();
        let reference = Arc::new(Reference::new(id, &hashes, &readable_type::<T>(), origin));
        let entry = match store.budget().reserve(hashes.length()) {
            Ok(()) => Entry::of_value(store.facilities(), value, form, hashes, nested),
            Err(FetchError::NoRoom(in_memory)) => {
                let file = straight_to_disk(store.budget(), value, form, &hashes).map_err(|on_disk| {
                    let why = format!("in memory: {in_memory}; on disk: {on_disk}");
                    PayloadError::NoRoom { payload: reference.describe(), why }
                })?;
                Entry::of_file(store.facilities(), file, hashes, form.type_name(), nested)
            }
            Err(error) => return Err(reference.error::<T>(error)),
        };
        Ok(Self { reference, hold: Some(store.made(id, entry)), read: Read::default(), of: PhantomData })
    }

    /// Returns the value. In the process that has it, this is the original allocation, at no cost; elsewhere the
    /// value is pulled from a node that has it, verified against its hash, and kept. Concurrent readers share one
    /// transfer.
    ///
    /// The value is in memory once, however many readers it has. It stays there while a returned `Arc` is in use;
    /// unused values are spilled to disk when the memory budget is exceeded.
    ///
    /// # Cancel safety
    /// The transfer is cancelled, and what had arrived is freed, when all futures that wait for the value are
    /// dropped.
    ///
    /// # Errors
    /// [`PayloadError`], which names the payload and says what to do.
    pub async fn value(&self) -> Result<Arc<T>, PayloadError> {
        loop {
            match self.look()? {
                Found::Here(value) => return Ok(value),
                Found::Coming(load) => {
                    if let Some(value) = self.landed(load.await)? {
                        return Ok(value);
                    }
                }
            }
        }
    }

    /// Starts to pull the value in the background, so that a later read finds it here or waits less. An error is
    /// returned by that read.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # async fn f(batches: Vec<Payload<Vec<f32>>>) -> Result<()> {
    /// for (number, batch) in batches.iter().enumerate() {
    ///     if let Some(next) = batches.get(number + 1) {
    ///         next.prefetch(); // it arrives while this one is used
    ///     }
    ///     println!("{}", batch.value().await?.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefetch(&self) {
        let Ok(Found::Coming(load)) = self.look() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(load)),
            Err(_) => drop(std::thread::spawn(|| blocking::wait(load))),
        }
    }

    /// Returns the value if it is in memory, and otherwise starts or joins a load of it.
    fn look(&self) -> Result<Found<T>, PayloadError> {
        if let Some(value) = self.read.0.get() {
            return self.typed(value.clone()).map(Found::Here);
        }
        let hold = self.hold()?;
        if let Some(value) = hold.entry().value() {
            return self.typed(value).map(Found::Here);
        }
        if !self.reference.may_be::<T>() {
            return Err(self.reference.error::<T>(FetchError::WrongType(self.reference.of.clone())));
        }
        Ok(Found::Coming(hold.entry().load(self.want(), Target::Value(Form::of::<T>()))))
    }

    fn landed(&self, landed: Result<AnyValue, FetchError>) -> Result<Option<Arc<T>>, PayloadError> {
        match landed {
            // A load that this reader joined may have been for another form, such as bytes; the caller tries again.
            Ok(value) => Ok(value.downcast::<T>().ok()),
            Err(FetchError::WrongType(stored)) if stored == type_name::<T>() => Ok(None),
            Err(error) => Err(self.reference.error::<T>(error)),
        }
    }

    fn typed(&self, value: AnyValue) -> Result<Arc<T>, PayloadError> {
        value.downcast::<T>().map_err(|_| {
            let stored = self.hold.as_ref().and_then(|hold| hold.entry().type_name());
            self.reference.error::<T>(FetchError::WrongType(stored.unwrap_or_default()))
        })
    }

    /// Returns the value, blocking the thread until it is loaded; the fallible form of a dereference. The value stays in
    /// memory for as long as this handle does.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// fn sum(numbers: &Payload<Vec<u64>>) -> Result<u64> {
    ///     Ok(numbers.blocking_value()?.iter().sum())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`PayloadError`], which names the payload and says what to do; [`PayloadError::WouldBlock`] if the value is
    /// elsewhere and the thread must not block, as in a Flow.
    pub fn blocking_value(&self) -> Result<&T, PayloadError> {
        loop {
            if let Some(value) = self.read.0.get().and_then(|value| value.downcast_ref()) {
                return Ok(value);
            }
            let value = match self.look()? {
                Found::Here(value) => value,
                Found::Coming(_) if !blocking::may_wait() => {
                    store::note_missing();
                    return Err(PayloadError::WouldBlock { payload: self.reference.describe() });
                }
                Found::Coming(load) => match self.landed(blocking::wait(load))? {
                    Some(value) => value,
                    None => continue,
                },
            };
            self.read.0.get_or_init(|| value);
        }
    }

    fn want(&self) -> Want {
        self.want_as(type_name::<T>())
    }

    #[cfg(test)]
    pub(super) fn resolve_for_tests(&self) -> Arc<T> {
        match self.look() {
            Ok(Found::Here(value)) => value,
            _ => unreachable!("it was made here"),
        }
    }
}

enum Found<T> {
    Here(Arc<T>),
    Coming(Load),
}

impl<T> Payload<T> {
    /// Keeps replicas on `copies` nodes, including the one that created the payload, as soon as there are so many
    /// nodes and for as long as anything refers to the payload. If a node with a replica is lost, another node makes
    /// one from those that are left.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # fn f<W: Work>(cx: &mut WorkContext<W>) -> Result<Payload<Vec<f32>>> {
    /// let weights = cx.payload(vec![0.0_f32; 1_000_000])?.replicate(2);
    /// # Ok(weights)
    /// # }
    /// ```
    #[must_use = "a payload is freed when nothing refers to it"]
    pub fn replicate(self, copies: usize) -> Self {
        if let Some(hold) = &self.hold {
            let Reference { hash, length, .. } = *self.reference;
            hold.set_replicas(Replicas { count: u32::try_from(copies).unwrap_or(u32::MAX), hash, length });
            hold.replicate();
        }
        self
    }

    /// Has the journal of the App keep the value as long as a state, an input or a step refers to it, so that the value
    /// survives the end of every process, whatever its size. Without this, the journal keeps values of up to 64 KiB.
    ///
    /// The value is written to a file of the journal, and synced, before the first state, input or step that refers to
    /// it is durable; a value in another process is first transferred to the head. It has no effect in an App without a
    /// journal, and none on states that were published before the call.
    ///
    /// ```
    /// # use flowright::prelude::*;
    /// # fn f<W: Work>(cx: &mut WorkContext<W>) -> Result<Payload<Vec<f32>>> {
    /// let weights = cx.payload(vec![0.0_f32; 1_000_000])?.durable();
    /// # Ok(weights)
    /// # }
    /// ```
    #[must_use = "a payload is freed when nothing refers to it"]
    pub fn durable(self) -> Self {
        if let Some(hold) = &self.hold {
            hold.set_durable();
        }
        self
    }

    fn hold(&self) -> Result<&Arc<PayloadGuard>, PayloadError> {
        self.hold.as_ref().ok_or_else(|| {
            store::note_missing();
            self.reference.error::<T>(FetchError::Lost(
                "nothing referred to it any more, so it was freed, or the head was started again and its journal does not \
                 have the value; keep the `Payload` in a state, an input or a variable for as long as its value is needed, \
                 and make it with `.durable()` if it has more than 64 KiB and must survive the head"
                    .to_owned(),
            ))
        })
    }

    fn want_as(&self, type_name: &'static str) -> Want {
        let Reference { id, hash, length, .. } = &*self.reference;
        Want { id: *id, hash: hash.0, length: *length, type_name, what: self.reference.describe() }
    }

    /// Returns the size of the encoded value in bytes.
    pub fn encoded_len(&self) -> u64 {
        self.reference.length
    }

    /// Returns the BLAKE3 hash of the encoded value, in which maps are ordered by their encoded keys. Equal values
    /// have equal hashes.
    pub fn content_hash(&self) -> [u8; 32] {
        self.reference.hash.0
    }

    /// Returns the path of the Work that created the payload.
    pub fn origin(&self) -> &str {
        &self.reference.origin
    }

    /// Returns the progress of the transfer to this process.
    pub fn progress(&self) -> Progress {
        let total = self.reference.length;
        let received = self.hold.as_ref().map_or(0, |hold| hold.entry().received(total));
        Progress { received, total }
    }
}

/// Returns the value, blocking the thread until it is loaded. The value stays in memory for as long as this handle
/// does.
///
/// # Panics
/// With the [`PayloadError`] if the value cannot be loaded; inside a Work this ends the run, with
/// [`Reason::PayloadLost`](crate::Reason::PayloadLost) if the value is lost. Also with [`PayloadError::WouldBlock`]
/// if the value is elsewhere and the thread must not block: in a Flow, and in Works of the pool that run on the
/// thread of the connections. [`Payload::value`], which does not block, and [`Payload::blocking_value`] return errors
/// instead of panicking.
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Deref for Payload<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.blocking_value().unwrap_or_else(|error| std::panic::panic_any(error))
    }
}

impl<T> Clone for Payload<T> {
    fn clone(&self) -> Self {
        Self {
            reference: self.reference.clone(),
            hold: self.hold.clone(),
            // A clone keeps a value in memory only after it has been dereferenced itself.
            read: Read::default(),
            of: PhantomData,
        }
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
        match &self.hold {
            Some(hold) => store::note(hold),
            None => store::note_missing(),
        }
        if serializer.is_human_readable() && !wire::is_encoding() {
            self.reference.serialize(serializer)
        } else {
            let Reference { id, hash, length, of, origin } = &*self.reference;
            (id, hash, length, of, origin).serialize(serializer)
        }
    }
}

impl<'de, T> Deserialize<'de> for Payload<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // In human-readable formats, a derived `Deserialize` reads the struct from an array as well as from a map.
        let reference = if deserializer.is_human_readable() {
            Reference::deserialize(deserializer)?
        } else {
            let (id, hash, length, of, origin) = Deserialize::deserialize(deserializer)?;
            Reference { id, hash, length, of, origin }
        };
        let hold = Store::here().and_then(|store| store.find(reference.id));
        Ok(Self { reference: Arc::new(reference), hold, read: Read::default(), of: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_budget::{MemoryBudget, StoreSettings};
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Payload(Payload<u64>),
        Inner {
            #[serde(flatten)]
            inner: std::collections::BTreeMap<String, Payload<u64>>,
        },
    }

    /// A reference is read from JSON and from serde's internal buffer, in either of its encodings.
    #[test]
    fn payload_in_untagged_type_arrives() {
        let made = payload(5_u64);
        for either in [
            Either::Payload(made.clone()),
            Either::Inner { inner: [("name".to_owned(), made.clone())].into() },
        ] {
            let bytes = wire::encode(&either).unwrap();
            assert_eq!(wire::decode::<Either>(&bytes).unwrap(), either);
            let json = serde_json::to_string(&either).unwrap();
            assert_eq!(serde_json::from_str::<Either>(&json).unwrap(), either);
        }
    }

    /// A reference inside JSON text inside a MessagePack value is readable.
    #[test]
    fn payload_in_json_in_a_message_arrives() {
        struct Text(Payload<u64>);

        impl Serialize for Text {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&serde_json::to_string(&self.0).map_err(serde::ser::Error::custom)?)
            }
        }

        let made = payload(5_u64);
        let text: String = wire::decode(&wire::encode(&Text(made.clone())).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Payload<u64>>(&text).unwrap(), made);
    }

    fn payload<T: Serialize + DeserializeOwned + Send + Sync + 'static>(value: T) -> Payload<T> {
        Payload::new(value, &Store::for_tests(), &ActorPath::from("maker")).unwrap()
    }

    fn send<T>(payload: &Payload<T>) -> (Payload<T>, store::PayloadGuards) {
        let (bytes, holds) = store::collect(|| wire::encode(payload).unwrap());
        assert!(bytes.len() < 200, "{}", bytes.len());
        (wire::decode(&bytes).unwrap(), holds)
    }

    #[test]
    fn what_arrives_is_the_same_allocation() {
        let made = payload(vec![1_i64, 2, 3]);
        let (arrived, _) = send(&made);
        assert!(std::ptr::eq(made.blocking_value().unwrap(), arrived.blocking_value().unwrap()));
        assert_eq!(*arrived, [1, 2, 3]);
    }

    #[test]
    fn a_reference_stays_small_for_long_names() {
        type Long = std::collections::BTreeMap<String, Vec<Vec<Vec<Option<(String, String, String, u64)>>>>>;
        let made = Payload::new(
            Long::new(),
            &Store::for_tests(),
            &ActorPath::from("a_flow.with_a.very_long.path.down_to".repeat(9).as_str()),
        );
        send(&made.unwrap());
    }

    #[test]
    fn a_value_is_freed_with_its_last_holder_and_the_error_says_which_it_was() {
        let made = payload("abc".to_owned());
        let weak = Arc::downgrade(&made.resolve_for_tests());
        let (bytes, holds) = store::collect(|| wire::encode(&made).unwrap());
        drop(made);
        assert!(weak.upgrade().is_some(), "the serialised reference still holds it");
        drop(holds);
        assert!(weak.upgrade().is_none());
        let arrived: Payload<String> = wire::decode(&bytes).unwrap();
        let error = arrived.blocking_value().unwrap_err().to_string();
        assert!(error.contains("String, 3 bytes, made by work `maker`"), "{error}");
    }

    /// The memory and disk of values are free as soon as their last handles are dropped, even if a thread has only just
    /// loaded one of them.
    #[test]
    fn loaded_value_is_freed_with_its_last_handle() {
        let settings = StoreSettings { memory: Some(3_000_000), ..StoreSettings::default() };
        let store = Store::new(MemoryBudget::new(settings), std::sync::Weak::new());
        for _ in 0..200 {
            let made = [1_u8, 2, 3]
                .map(|byte| Payload::new(vec![byte; 1 << 20], &store, &ActorPath::from("maker")).unwrap());
            // The first was spilled to disk to make room.
            assert!(blocking::wait(made[0].value()).unwrap().iter().all(|byte| *byte == 1));
            drop(made);
            assert_eq!(store.usage(), Default::default());
        }
    }

    #[test]
    fn another_type_is_a_typed_error() {
        let bytes = {
            let made = Box::leak(Box::new(payload(7_u64)));
            wire::encode(made).unwrap()
        };
        let arrived: Payload<String> = wire::decode(&bytes).unwrap();
        assert!(matches!(arrived.blocking_value(), Err(PayloadError::WrongType { .. })));
    }

    #[test]
    fn identity_is_by_content() {
        let key = |p: &Payload<u64>| store::by_content(|| wire::encode(p).unwrap());
        assert_eq!(key(&payload(1)), key(&payload(1)));
        assert_ne!(key(&payload(1)), key(&payload(2)));
        assert_eq!(payload(1), payload(1));
    }
}
