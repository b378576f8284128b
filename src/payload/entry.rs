//! One value and its location: in memory, on disk, or in another process until it is loaded.
//!
//! # Guarantees
//! - A value is stored in one form at a time, and the memory budget counts its bytes exactly while they are in
//!   memory.
//! - A value whose allocation is in use outside the store is never spilled.
//! - Concurrent loads of the same value share one transfer.

mod load;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::load::Loading;
pub(super) use self::load::{Load, Target};
use super::chunk_hashes::ChunkHashes;
use super::codec::{AnyValue, Form};
use super::deferred::drop_in_turn;
use super::error::FetchError;
use super::hex::Hex;
use super::jobs::Jobs;
use super::memory_budget::{MemoryBudget, SpillOutcome, Spillable};
use super::remote_source::RemoteSource;
use super::spill::{SpillWriter, Spilled};
use super::store::PayloadGuards;
use super::stored_blob::{Body, StoredBlob};
use crate::wire::CodecError;

pub(crate) struct Entry {
    budget: Arc<MemoryBudget>,
    jobs: Arc<Jobs>,
    content: Mutex<Content>,
    /// The position in the LRU order of the memory budget.
    used: AtomicU64,
    /// Set as soon as the hash is known, once.
    content_id: OnceLock<ContentId>,
}

/// Budget and job queue that the entries of one store share.
#[derive(Clone)]
pub(super) struct Facilities {
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) jobs: Arc<Jobs>,
}

/// The identity of the content of a value: the hash and the length of its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentId {
    pub(crate) hash: Hex<32>,
    pub(crate) length: u64,
}

impl ContentId {
    fn of(hashes: &ChunkHashes) -> Self {
        Self { hash: Hex(hashes.hash()), length: hashes.length() }
    }
}

struct Content {
    /// `None` while the value is only in other processes.
    blob: Option<StoredBlob>,
    loading: Option<Loading>,
    remote_source: Option<Arc<dyn RemoteSource>>,
}

impl Entry {
    pub(super) fn away(facilities: &Facilities) -> Arc<Self> {
        Self::new(facilities, None)
    }

    /// Creates an entry for a value whose memory has already been reserved.
    pub(super) fn of_value(
        facilities: &Facilities,
        value: AnyValue,
        form: &'static Form,
        hashes: ChunkHashes,
        nested: PayloadGuards,
    ) -> Arc<Self> {
        let entry = Self::new(facilities, Some(StoredBlob::value(value, form, hashes, nested)));
        entry.budget.enlist(&entry);
        entry
    }

    pub(super) fn of_file(
        facilities: &Facilities,
        file: Spilled,
        hashes: ChunkHashes,
        type_name: &str,
        nested: PayloadGuards,
    ) -> Arc<Self> {
        let body = Body::File(Arc::new(file));
        Self::new(facilities, Some(StoredBlob { hashes, type_name: type_name.into(), nested, body }))
    }

    /// Creates an entry for a recorded value.
    #[cfg(feature = "journal")]
    pub(super) fn restored(facilities: &Facilities, blob: StoredBlob) -> Arc<Self> {
        let entry = Self::away(facilities);
        if blob.is_in_memory() {
            entry.budget.take(blob.hashes.length());
        }
        entry.keep(blob);
        entry
    }

    fn new(facilities: &Facilities, blob: Option<StoredBlob>) -> Arc<Self> {
        let Facilities { budget, jobs } = facilities.clone();
        let content_id = OnceLock::new();
        if let Some(blob) = &blob {
            let _ = content_id.set(ContentId::of(&blob.hashes));
        }
        let content = Mutex::new(Content { blob, loading: None, remote_source: None });
        Arc::new(Self { budget, jobs, content, used: AtomicU64::new(0), content_id })
    }

    pub(super) fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    pub(super) fn set_remote_source(&self, remote_source: Arc<dyn RemoteSource>) {
        self.content.lock().remote_source = Some(remote_source);
    }

    /// Makes this process the owner of a value that is stored here, by forgetting its remote source.
    pub(crate) fn set_owned_here(&self) {
        self.content.lock().remote_source = None;
    }

    /// Returns the identity of the content, if this process knows it.
    pub(crate) fn content_id(&self) -> Option<ContentId> {
        self.content_id.get().copied()
    }

    pub(crate) fn set_content_id(&self, content_id: ContentId) {
        let _ = self.content_id.set(content_id);
    }

    /// Returns the process that the value came from; `None` if it was created here.
    pub(crate) fn remote_source(&self) -> Option<Arc<dyn RemoteSource>> {
        self.content.lock().remote_source.clone()
    }

    pub(crate) fn is_here(&self) -> bool {
        self.content.lock().blob.is_some()
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.content.lock().blob.as_ref().is_some_and(StoredBlob::is_in_memory)
    }

    /// Returns the value if it is in memory in decoded form, and marks it as recently used.
    pub(super) fn value(self: &Arc<Self>) -> Option<AnyValue> {
        let value = match &self.content.lock().blob {
            Some(StoredBlob { body: Body::Value(value, _), .. }) => value.clone(),
            _ => return None,
        };
        self.budget.count_hit();
        self.budget.enlist(self);
        Some(value.into_inner())
    }

    /// Returns the name of the type that the value was created from, if the value is stored here.
    pub(super) fn type_name(&self) -> Option<String> {
        self.content.lock().blob.as_ref().map(|blob| blob.type_name.as_ref().to_owned())
    }

    /// Returns the spill file and its chunk hashes, if the value is on disk.
    pub(super) fn on_disk(&self) -> Option<(Arc<Spilled>, ChunkHashes)> {
        match &self.content.lock().blob {
            Some(StoredBlob { body: Body::File(file), hashes, .. }) => Some((file.clone(), hashes.clone())),
            _ => None,
        }
    }

    /// Returns how many bytes have arrived: all `length` of them once the value is stored here.
    pub(super) fn received(&self, length: u64) -> u64 {
        let content = self.content.lock();
        match (&content.blob, &content.loading) {
            (Some(_), _) => length,
            (None, loading) => loading.as_ref().map_or(0, Loading::received),
        }
    }

    /// Returns the stored form of the value, if there is one here, so that it can be sent to peers.
    pub(crate) fn blob(&self) -> Option<StoredBlob> {
        self.content.lock().blob.clone()
    }

    fn keep(self: &Arc<Self>, blob: StoredBlob) {
        let in_memory = blob.is_in_memory();
        self.set_content_id(ContentId::of(&blob.hashes));
        let before = self.content.lock().blob.replace(blob);
        if let Some(before) = before.filter(StoredBlob::is_in_memory) {
            self.budget.freed(before.hashes.length());
            drop_in_turn(before);
        }
        if in_memory {
            self.budget.enlist(self);
            if self.budget.is_exceeded() {
                // On another thread, since the caller may not block.
                let budget = self.budget.clone();
                self.jobs.run(move || budget.settle());
            }
        }
    }
}

impl Spillable for Entry {
    fn used(&self) -> &AtomicU64 {
        &self.used
    }

    fn spill(&self) -> SpillOutcome {
        let Some(blob) = self.blob().filter(StoredBlob::is_in_memory) else { return SpillOutcome::Done };
        // Two references are expected: the one in `content`, and the clone in `blob`.
        let in_use =
            |blob: &StoredBlob| matches!(&blob.body, Body::Value(value, _) if Arc::strong_count(value) > 2);
        if in_use(&blob) {
            return SpillOutcome::InUse;
        }
        let file = match write_file(&self.budget, &blob) {
            Ok(file) => file,
            Err(error) => return SpillOutcome::Failed(error),
        };
        let mut content = self.content.lock();
        if in_use(&blob) {
            return SpillOutcome::InUse;
        }
        let length = blob.hashes.length();
        content.blob = Some(StoredBlob { body: Body::File(Arc::new(file)), ..blob.clone() });
        drop(content);
        // Dropping the last reference may drop nested payloads.
        drop_in_turn(blob);
        self.budget.freed(length);
        SpillOutcome::Done
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.budget.delist(*self.used.get_mut());
        let content = self.content.get_mut();
        if let Some(blob) = content.blob.take() {
            if blob.is_in_memory() {
                self.budget.freed(blob.hashes.length());
            }
            // Dropping the last reference may drop nested payloads.
            drop_in_turn(blob);
        }
    }
}

/// Writes a value for which there is no room in memory directly to disk.
pub(super) fn straight_to_disk(
    budget: &Arc<MemoryBudget>,
    value: AnyValue,
    form: &'static Form,
    hashes: &ChunkHashes,
) -> Result<Spilled, FetchError> {
    write_file(budget, &StoredBlob::value(value, form, hashes.clone(), PayloadGuards::default()))
}

fn write_file(budget: &Arc<MemoryBudget>, blob: &StoredBlob) -> Result<Spilled, FetchError> {
    let mut writer = SpillWriter::begin(budget, blob.hashes.length())?;
    match &blob.body {
        Body::Value(value, form) => match form.write(value, &mut writer) {
            Ok(()) => {}
            Err(CodecError::Write { error, .. }) => return Err(writer.failed(&error)),
            Err(error) => return Err(FetchError::NoRoom(format!("it cannot be encoded to disk: {error}"))),
        },
        Body::Bytes(bytes) => {
            io::Write::write_all(&mut writer, bytes).map_err(|error| writer.failed(&error))?;
        }
        Body::File(_) => {}
    }
    writer.finish()
}
