//! Interface to other processes from which a value can be pulled.

use std::any::Any;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::chunk_hashes::ChunkHashes;
use super::error::FetchError;
use super::hex::PayloadId;
use super::store::PayloadGuards;
use super::verified_reader::Chunks;

/// Maximum size in bytes of a value that is pulled as one message, without a thread of its own.
pub(crate) const SMALL: u64 = 64 << 10;

/// A request for a value.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) id: PayloadId,
    pub(crate) hash: [u8; 32],
    pub(crate) length: u64,
    /// The type as which the value will be read; empty if the requester only stores the bytes.
    pub(crate) type_name: &'static str,
    /// Description of the payload, for errors and log messages.
    pub(crate) what: String,
}

/// Closed as soon as nothing waits for the transfer any more.
pub(crate) type Waited = watch::Receiver<()>;

/// The processes from which a value that is not stored here can be pulled.
pub(crate) trait RemoteSource: Send + Sync {
    /// Pulls a small value as a whole.
    fn small(&self, want: Want) -> BoxFuture<'static, Result<Small, FetchError>>;

    /// Begins a transfer. This method and the returned [`Chunks`] block.
    fn open(&self, want: &Want, waited: Waited) -> Result<Opened, FetchError>;

    /// Returns whether any reachable process has the value.
    fn has(&self, id: PayloadId) -> BoxFuture<'static, bool>;

    /// Reports that this process now has the value, too.
    fn pulled(&self, id: PayloadId);

    fn as_any(&self) -> &dyn Any;
}

/// A small value that was pulled.
pub(crate) struct Small {
    pub(crate) bytes: Bytes,
    pub(crate) type_name: String,
    /// The payloads that the value refers to.
    pub(crate) nested: PayloadGuards,
}

/// A transfer that has begun.
pub(crate) struct Opened {
    pub(crate) hashes: ChunkHashes,
    pub(crate) type_name: String,
    /// The payloads that the value refers to.
    pub(crate) nested: PayloadGuards,
    pub(crate) chunks: Box<dyn Chunks>,
}
