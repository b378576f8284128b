//! The interface of the storage behind a drive.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// A file in a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DriveFile {
    /// Name of the file, with `/` as separator of directories.
    pub name: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// Time at which the file was put.
    pub modified: SystemTime,
}

/// A stream of the bytes of a file.
pub(crate) type Body = BoxStream<'static, Result<Bytes, StoreError>>;

/// A source of the bytes of a file to be put. Each call starts from the beginning, for retries.
pub(crate) type Supply = Arc<dyn Fn() -> Body + Send + Sync>;

/// A request to read a file or a range of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    /// Offset of the first byte.
    pub(crate) from: u64,
    /// Offset after the last byte; `None` for the end of the file.
    pub(crate) to: Option<u64>,
    /// The version that the file must still have, if any.
    pub(crate) version: Option<String>,
}

/// The reply to a [`Wanted`]: the file, the range in bytes that follows, and its bytes.
pub(crate) struct Given {
    pub(crate) file: DriveFile,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) version: Option<String>,
    pub(crate) body: Body,
}

/// The storage of one drive. Callers have validated all names.
pub(crate) trait Store: Send + Sync {
    /// Puts a file, which appears under its name only when it is complete. With `create`, fails with
    /// [`StoreError::Exists`] if the name is taken.
    fn put(&self, name: String, supply: Supply, create: bool) -> BoxFuture<'static, Result<(), StoreError>>;

    fn get(&self, wanted: Wanted) -> BoxFuture<'static, Result<Given, StoreError>>;

    /// Lists all files in a directory and below it, in batches and in no particular order.
    fn list(&self, directory: String) -> BoxStream<'static, Result<Vec<DriveFile>, StoreError>>;

    fn delete(&self, name: String) -> BoxFuture<'static, Result<(), StoreError>>;

    fn look(&self, name: String) -> BoxFuture<'static, Result<Option<DriveFile>, StoreError>>;
}
