//! References to artifacts, which are stored on disk and never decoded into memory.
//!
//! # Guarantees
//! - [`Payload::pull_to_disk`] stores the bytes on the disk of this machine, even if another reader loads them into
//!   memory.

use std::marker::PhantomData;
use std::sync::Arc;

use super::super::chunk_hashes::ChunkHashes;
use super::super::entry::{Entry, Target};
use super::super::error::{FetchError, PayloadError};
use super::super::hex::PayloadId;
use super::super::jobs::Jobs;
use super::super::reference::Reference;
use super::super::spill::Spilled;
use super::super::store::{PayloadGuards, Store};
use super::{Payload, Read};
use crate::id::ActorPath;

/// A file that was written when the artifact was created, before it has a reference.
pub(in crate::payload) struct OnDisk {
    pub(in crate::payload) id: PayloadId,
    pub(in crate::payload) file: Spilled,
    pub(in crate::payload) hashes: ChunkHashes,
    pub(in crate::payload) type_name: &'static str,
}

impl<T> Payload<T> {
    /// Creates a reference to a file on disk.
    pub(in crate::payload) fn on_disk(
        made: OnDisk,
        of: &str,
        store: &Arc<Store>,
        origin: &ActorPath,
    ) -> Self {
        let OnDisk { id, file, hashes, type_name } = made;
        let reference = Arc::new(Reference::new(id, &hashes, of, origin));
        let entry = Entry::of_file(store.facilities(), file, hashes, type_name, PayloadGuards::default());
        let hold = Some(store.made(id, entry));
        Self { reference, hold, read: Read::default(), of: PhantomData }
    }

    /// Pulls the bytes to the disk of this machine, unless they are on it already.
    pub(in crate::payload) async fn pull_to_disk(
        &self,
        type_name: &'static str,
    ) -> Result<(Arc<Spilled>, ChunkHashes), PayloadError> {
        let entry = self.hold()?.entry();
        loop {
            if let Some(stored) = entry.type_name()
                && stored != type_name
            {
                let payload = self.describe();
                return Err(PayloadError::WrongType { payload, stored, wanted: type_name });
            }
            if let Some(on_disk) = entry.on_disk() {
                return Ok(on_disk);
            }
            // If another reader loads the bytes into memory, the next iteration writes them from memory to disk.
            let pulled = entry.load(self.want_as(type_name), Target::File).await;
            pulled.map_err(|error| self.reference.error::<T>(error))?;
        }
    }

    /// Returns whether the value is stored here or in another process that can be reached.
    pub(in crate::payload) async fn is_somewhere(&self) -> bool {
        let Some(hold) = &self.hold else { return false };
        if hold.entry().is_here() {
            return true;
        }
        match hold.entry().remote_source() {
            Some(remote_source) => remote_source.has(self.reference.id).await,
            None => false,
        }
    }

    /// Returns the threads for blocking work of the App.
    pub(in crate::payload) fn jobs(&self) -> Result<&Arc<Jobs>, PayloadError> {
        Ok(self.hold()?.entry().jobs())
    }

    pub(in crate::payload) fn describe(&self) -> String {
        self.reference.describe()
    }

    pub(in crate::payload) fn error(&self, error: FetchError) -> PayloadError {
        self.reference.error::<T>(error)
    }

    /// Returns the description of the content.
    pub(in crate::payload) fn of(&self) -> &str {
        &self.reference.of
    }
}
