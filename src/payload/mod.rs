//! Layer 2: references to large values.
//!
//! A [`Payload`] is a small reference that travels in state, inputs and messages in place of a value that stays
//! where it was made until somebody reads it.
//!
//! # Guarantees
//! - On a node that has it, [`Payload::value`] and `*payload` give the very same allocation: nothing is serialised or
//!   copied. Elsewhere the value is pulled when it is first read, once for all who want it, straight from a node that
//!   has it; every chunk is verified against the hash.
//! - A value lives while anything refers to it: a handle, the last published state of a Work, the input of a run
//!   that has not ended, a value that is alive itself, in whatever process. Then it is freed, and all copies of it. Nothing
//!   else keeps it, and nothing drops it earlier.
//! - Two payloads with equal content are the same input to a run, whoever made them.
//! - A reference that outlived its value, or is read as another type than was stored, gives a [`PayloadError`]
//!   that names it.
//! - Values in memory take no more than a budget; those that were not used for longest wait on disk.
//!
//! How a value is written is in `form`, what its bytes must be in `outline`, how they arrive in `reception`; where it is
//! in `entry`, in which form in `kept`, what keeps it alive in `store`, and how much room there is in `keeper`. Files and directories are in
//! `artifact`. How processes speak of payloads is none of this layer's business: it knows [`RemoteSource`] and [`Lease`].

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
mod replicas;
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
pub(crate) use self::memory_budget::PayloadCounts;
pub use self::memory_budget::PayloadUsage;
pub(crate) use self::memory_budget::{StoreSettings, configure};
pub(crate) use self::reference::Reference;
pub(crate) use self::remote_source::{Opened, RemoteSource, SMALL, Small, Waited, Want};
pub(crate) use self::replicas::{Replicate, set_replicator};
pub(crate) use self::store::{
    COPIES, Lease, PayloadGuard, PayloadGuards, Replicas, all, arrived, by_content, collect, discard,
    discard_all, entry_of, find,
};
pub(crate) use self::stored_blob::StoredBlob;
pub(crate) use self::verified_reader::Chunks;
