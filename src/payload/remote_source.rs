//! What this layer knows of other processes: that a value can be had there.

use std::any::Any;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::chunk_hashes::ChunkHashes;
use super::error::FetchError;
use super::hex::PayloadId;
use super::store::PayloadGuards;
use super::verified_reader::Chunks;

/// What is not larger is pulled as one message, without a thread of its own.
pub(crate) const SMALL: u64 = 64 << 10;

/// Which value is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) id: PayloadId,
    pub(crate) hash: [u8; 32],
    pub(crate) length: u64,
    /// The type as which it will be read; empty for whoever only keeps the bytes.
    pub(crate) type_name: &'static str,
    /// The payload in words.
    pub(crate) what: String,
}

/// Told, by being closed, that nobody waits any more.
pub(crate) type Waited = watch::Receiver<()>;

/// Where a value that is not in this process can be had.
pub(crate) trait RemoteSource: Send + Sync {
    /// All of a small value.
    fn small(&self, want: Want) -> BoxFuture<'static, Result<Small, FetchError>>;

    /// Begins to pull. Blocks, as all that comes of it does.
    fn open(&self, want: &Want, waited: Waited) -> Result<Opened, FetchError>;

    /// Whether anybody who can be reached has it.
    fn has(&self, id: PayloadId) -> BoxFuture<'static, bool>;

    /// The value is here now as well.
    fn pulled(&self, id: PayloadId);

    fn as_any(&self) -> &dyn Any;
}

/// A small value that was pulled.
pub(crate) struct Small {
    pub(crate) bytes: Bytes,
    pub(crate) type_name: String,
    /// The values that it refers to.
    pub(crate) nested: PayloadGuards,
}

/// A pull that has begun.
pub(crate) struct Opened {
    pub(crate) hashes: ChunkHashes,
    pub(crate) type_name: String,
    /// The values that it refers to.
    pub(crate) nested: PayloadGuards,
    pub(crate) chunks: Box<dyn Chunks>,
}
