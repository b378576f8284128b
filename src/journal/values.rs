//! Values of payloads in a journal.
//!
//! A value is known by the hash of its bytes and by its type, and kept once, however many references have it. Those of at
//! most [`SMALL`] bytes are rows of the journal; larger ones, which are kept only on request, are files beside it.
//!
//! # Guarantees
//! - A value is on disk before the transaction that refers to it is durable: files are written and synced before the
//!   commit, rows are part of it. A transaction whose values have to be brought from another process waits for them, and
//!   so do those after it. If a value cannot be brought, the reference is recorded without it.
//! - A value is deleted once nothing in the process refers to it any more, which is not before the record that dropped
//!   its last reference is durable: until then the driver has a guard. The end of a process deletes nothing.
//! - What a crash leaves behind, a file without a row or a row that nothing refers to, is deleted by the next start.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Live;
use crate::payload::{
    ChunkHashes, FetchError, Hex, PayloadGuard, PayloadGuards, PayloadId, SMALL, StoredBlob, Want,
};
use crate::state::Value;

/// Number of values that are brought from other processes concurrently.
const AT_ONCE: usize = 16;

/// The identity of a value: the BLAKE3 hash of its bytes, and the name of its type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ValueKey {
    pub(crate) hash: Hex<32>,
    pub(crate) type_name: String,
}

impl ValueKey {
    fn of(blob: &StoredBlob) -> Self {
        Self { hash: Hex(blob.hashes.hash()), type_name: blob.type_name.as_ref().to_owned() }
    }
}

/// A reference inside of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nested {
    pub(crate) id: PayloadId,
    pub(crate) key: ValueKey,
}

/// A value that is to be recorded.
pub(crate) struct NewValue {
    pub(super) key: ValueKey,
    pub(super) blob: StoredBlob,
    /// The recorded values to which it refers.
    pub(super) nested: Vec<Nested>,
    /// Keeps the value from being deleted before it was written.
    _guard: Option<Arc<PayloadGuard>>,
}

impl NewValue {
    pub(super) fn length(&self) -> u64 {
        self.blob.hashes.length()
    }

    pub(super) fn is_small(&self) -> bool {
        self.length() <= SMALL
    }

    /// Returns a value for tests of the journal.
    #[cfg(test)]
    pub(super) fn test(bytes: Vec<u8>, nested: Vec<Nested>) -> Arc<Self> {
        let hashes = ChunkHashes::of(&bytes);
        let blob = StoredBlob::bytes(bytes.into(), hashes, "bytes".into(), PayloadGuards::default());
        Arc::new(Self { key: ValueKey::of(&blob), blob, nested, _guard: None })
    }
}

impl std::fmt::Debug for NewValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewValue").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Changes of the values of a group: those that are added, and those that are deleted.
pub(super) type ValueChanges = BTreeMap<ValueKey, Option<Arc<NewValue>>>;

/// A value that was recorded.
#[derive(Debug, Clone)]
pub(crate) struct StoredValue {
    pub(crate) key: ValueKey,
    pub(crate) hashes: ChunkHashes,
    pub(crate) nested: Vec<Nested>,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Bytes(Bytes),
    File(PathBuf),
}

impl StoredValue {
    /// Returns the value as the store of payloads keeps it, with guards of the values to which it refers.
    pub(crate) fn blob(&self, nested: PayloadGuards) -> StoredBlob {
        let (hashes, type_name) = (self.hashes.clone(), self.key.type_name.as_str().into());
        match &self.content {
            Content::Bytes(bytes) => StoredBlob::bytes(bytes.clone(), hashes, type_name, nested),
            Content::File(path) => StoredBlob::named_file(path.clone(), hashes, type_name, nested),
        }
    }
}

/// Which values are recorded besides those that are small or were made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Recorded {
    #[default]
    Small,
    All,
}

/// A function that has values deleted, at once if the second argument is true.
type Delete = Box<dyn Fn(Vec<ValueKey>, bool) + Send + Sync>;

/// The values that are recorded or about to be, counted by the guards that have a claim on them.
pub(crate) struct Values {
    delete: Delete,
    recorded: Recorded,
    claims: Mutex<HashMap<ValueKey, usize>>,
    /// False before all of the last process is restored, and once the App ends.
    deletes: AtomicBool,
}

/// The claim of a guard on a recorded value, which is deleted with the last claim.
struct Claim {
    values: Arc<Values>,
    key: ValueKey,
    is_small: bool,
}

/// The note at a guard that its value could not be brought, so that it is not tried again.
struct NotRecorded;

impl Drop for Claim {
    fn drop(&mut self) {
        // Deleted under the lock, so that a transaction that adds the value again comes after that.
        let mut claims = self.values.claims.lock();
        let Some(count) = claims.get_mut(&self.key) else { return };
        *count -= 1;
        if *count == 0 {
            claims.remove(&self.key);
            if self.values.deletes.load(Ordering::Relaxed) {
                // A small value takes the room of a row, which is worth no commit of its own.
                (self.values.delete)(vec![self.key.clone()], !self.is_small);
            }
        }
    }
}

impl Values {
    pub(super) fn new(recorded: Recorded, delete: Delete) -> Arc<Self> {
        Arc::new(Self { delete, recorded, claims: Mutex::default(), deletes: AtomicBool::new(false) })
    }

    /// Creates the values of a journal that is only read: none is deleted.
    #[cfg(feature = "cli")]
    pub(crate) fn unchanged() -> Arc<Self> {
        Self::new(Recorded::Small, Box::new(|_, _| {}))
    }

    /// Gives a guard a claim on its value, which is recorded.
    pub(crate) fn claim(self: &Arc<Self>, guard: &PayloadGuard, key: ValueKey) {
        *self.claims.lock().entry(key.clone()).or_default() += 1;
        let is_small = guard.entry().content_id().is_some_and(|content| content.length <= SMALL);
        guard.set_record(Claim { values: self.clone(), key, is_small });
    }

    /// Begins to delete values: `unused` now, and others once their last claim is dropped.
    pub(crate) fn delete_from_now(&self, unused: Vec<ValueKey>) {
        self.deletes.store(true, Ordering::Relaxed);
        if !unused.is_empty() {
            (self.delete)(unused, true);
        }
    }

    /// Deletes nothing any more, because the App ends.
    pub(crate) fn keep_from_now(&self) {
        self.deletes.store(false, Ordering::Relaxed);
    }

    fn is_wanted(&self, guard: &PayloadGuard) -> bool {
        guard.entry().content_id().is_some_and(|content| {
            self.recorded == Recorded::All || content.length <= SMALL || guard.is_durable()
        })
    }

    /// Returns the values behind new references that are to be recorded with them, and those to which they refer.
    ///
    /// # Errors
    /// The guards without a record, if a value is in another process: [`bring`](Self::bring) brings it.
    pub(crate) fn here(
        self: &Arc<Self>,
        guards: Vec<Arc<PayloadGuard>>,
    ) -> Result<Vec<Arc<NewValue>>, Vec<Arc<PayloadGuard>>> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let new: Vec<_> = guards.into_iter().filter(|guard| !guard.has_record()).collect();
        let mut left = new.clone();
        while let Some(guard) = left.pop() {
            // A value that has a record was added by an earlier transaction, or by this one.
            if guard.has_record() || !self.is_wanted(&guard) || !seen.insert(guard.id()) {
                continue;
            }
            let Some(blob) = guard.entry().blob() else { return Err(new) };
            left.extend(blob.nested.iter().cloned());
            found.push((guard, blob));
        }
        Ok(self.new_values(found))
    }

    /// Brings the values behind new references from other processes, and returns those that are to be recorded, with
    /// those to which they refer. Values that cannot be brought are left out.
    pub(crate) async fn bring(self: Arc<Self>, guards: Vec<Arc<PayloadGuard>>) -> Vec<Arc<NewValue>> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut left = guards;
        while !left.is_empty() {
            // Those with a record are added as well: a later transaction may have given them one.
            left.retain(|guard| self.is_wanted(guard) && seen.insert(guard.id()));
            let brought = stream::iter(left.drain(..).map(|guard| async move {
                let brought = bring(&guard).await;
                (guard, brought)
            }));
            let brought: Vec<_> = brought.buffer_unordered(AT_ONCE).collect().await;
            for (guard, brought) in brought {
                match brought {
                    Ok(blob) => {
                        left.extend(blob.nested.iter().cloned());
                        found.push((guard, blob));
                    }
                    Err(error) => {
                        log::warn!(
                            "the journal does not have the value of payload {}, which could not be brought to the head: {error}",
                            guard.id()
                        );
                        guard.set_record(NotRecorded);
                    }
                }
            }
        }
        self.new_values(found)
    }

    fn new_values(self: &Arc<Self>, found: Vec<(Arc<PayloadGuard>, StoredBlob)>) -> Vec<Arc<NewValue>> {
        let new = found.into_iter().map(|(guard, blob)| {
            let nested = blob.nested.iter().filter(|nested| self.is_wanted(nested));
            let nested = nested.filter_map(|nested| {
                let blob = nested.entry().blob()?;
                Some(Nested { id: nested.id(), key: ValueKey::of(&blob) })
            });
            let (key, nested) = (ValueKey::of(&blob), nested.collect());
            if !guard.has_record() {
                self.claim(&guard, key.clone());
            }
            Arc::new(NewValue { key, blob, nested, _guard: Some(guard) })
        });
        new.collect()
    }
}

/// Loads a value into this process.
async fn bring(guard: &Arc<PayloadGuard>) -> Result<StoredBlob, FetchError> {
    let entry = guard.entry();
    loop {
        if let Some(blob) = entry.blob() {
            return Ok(blob);
        }
        let Some(content) = entry.content_id() else {
            return Err(FetchError::Lost("its hash is not known".to_owned()));
        };
        let (id, hash, length) = (guard.id(), content.hash.0, content.length);
        let want = Want { id, hash, length, type_name: "", what: format!("payload {id}") };
        entry.load_whatever_others_want(want).await?;
    }
}

/// Returns the hashes of all values to which live data may refer. Others may be among them, since bytes are not told from
/// references with certainty.
pub(super) fn mentioned(live: &Live) -> HashSet<[u8; 32]> {
    let mut found = HashSet::new();
    for actor in live.actors.values() {
        if let Some(state) = &actor.state {
            in_value(state, &mut found);
        }
        for (_, bytes) in actor.rows.values().flatten() {
            in_bytes(bytes, &mut found);
        }
    }
    found
}

fn in_value(value: &Value, found: &mut HashSet<[u8; 32]>) {
    match value {
        Value::Seq(items) => items.iter().for_each(|item| in_value(item, found)),
        Value::Map(entries) => entries.iter().for_each(|(key, value)| {
            in_value(key, found);
            in_value(value, found);
        }),
        Value::Bytes(bytes) => match bytes[..].try_into() {
            Ok(hash) => drop(found.insert(hash)),
            Err(_) => in_bytes(bytes, found),
        },
        Value::Str(text) => found.extend(blake3::Hash::from_hex(text.as_bytes()).map(<[u8; 32]>::from)),
        _ => {}
    }
}

/// Finds byte strings of 32 bytes in the encoding of any value, also within other byte strings.
fn in_bytes(bytes: &[u8], found: &mut HashSet<[u8; 32]>) {
    let hashes = bytes.windows(34).filter(|window| window[..2] == [0xc4, 32]);
    found.extend(hashes.filter_map(|window| <[u8; 32]>::try_from(&window[2..]).ok()));
    let hex = bytes.windows(66).filter(|window| window[..2] == [0xd9, 64]);
    found.extend(hex.filter_map(|window| blake3::Hash::from_hex(&window[2..]).ok()).map(<[u8; 32]>::from));
}

/// Returns those of `values` to which live data may refer, directly or by others.
pub(super) fn reachable(values: Vec<StoredValue>, live: &Live) -> Vec<StoredValue> {
    let mut wanted = mentioned(live);
    let mut by_hash: HashMap<[u8; 32], Vec<StoredValue>> = HashMap::new();
    for value in values {
        by_hash.entry(value.key.hash.0).or_default().push(value);
    }
    let mut found = Vec::new();
    while let Some(hash) = wanted.iter().next().copied() {
        wanted.remove(&hash);
        for value in by_hash.remove(&hash).unwrap_or_default() {
            wanted.extend(value.nested.iter().map(|nested| nested.key.hash.0));
            found.push(value);
        }
    }
    found
}
