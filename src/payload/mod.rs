//! Layer 2: references to large values.
//!
//! A [`Payload`] is a small reference that travels in state, inputs and messages in place of a large value, which
//! stays in the process that created it until it is read.
//!
//! # Guarantees
//! - On a node that has the value, [`Payload::value`] and `*payload` return the original allocation: nothing is
//!   serialised or copied. Elsewhere the value is pulled on first read, directly from a node that has it; concurrent
//!   readers share one transfer, and every chunk is verified against its hash.
//! - A value lives as long as anything refers to it, in any process: a handle, the last published state of a Work,
//!   the input of a run that has not ended, or another live value. Then the value and all its replicas are freed.
//!   Nothing else keeps a value alive, and nothing frees it earlier.
//! - Two payloads with equal content are the same input to a run, no matter which Works created them.
//! - Reading a reference whose value was freed, or reading it as a type other than the stored one, returns a
//!   [`PayloadError`] that names the payload.
//! - Values in memory take no more than the memory budget; the least recently used ones are spilled to disk.
//!
//! Encoding and decoding are in `codec`, chunk hashes in `chunk_hashes`, verification of arriving chunks in
//! `verified_reader`. `entry` tracks the location of a value, `stored_blob` its stored form, `store` the guards and
//! leases that keep it alive, and `memory_budget` the memory and disk in use. Files and directories are in
//! `artifact`. The network protocol belongs to a layer above, which implements [`RemoteSource`] and [`Lease`].

mod artifact;
mod blocking;
mod chunk_hashes;
mod codec;
mod deferred;
mod entry;
mod error;
mod handle;
mod hex;
mod huge;
mod jobs;
mod memory_budget;
mod reference;
mod remote_source;
mod spill;
mod store;
mod stored_blob;
mod verified_reader;

#[cfg(fuzzing)]
pub use self::artifact::fuzz as artifact_fuzz;
pub use self::artifact::{Artifact, ArtifactError, Fetch, Files};
pub(crate) use self::blocking::never_wait_here;
pub(crate) use self::chunk_hashes::ChunkHashes;
pub(crate) use self::entry::ContentId;
pub(crate) use self::error::FetchError;
pub use self::error::PayloadError;
pub use self::handle::{Payload, Progress};
pub(crate) use self::hex::{Hex, PayloadId};
pub use self::memory_budget::PayloadUsage;
pub(crate) use self::memory_budget::{MemoryBudget, PayloadCounts, StoreSettings};
pub(crate) use self::reference::Reference;
pub(crate) use self::remote_source::{Opened, RemoteSource, SMALL, Small, Waited, Want};
pub(crate) use self::store::{
    COPIES, Lease, PayloadGuard, PayloadGuards, Replicas, Replicate, Store, by_content, collect,
};
pub(crate) use self::stored_blob::StoredBlob;
pub(crate) use self::verified_reader::Chunks;
