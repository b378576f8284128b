//! What a drive is on, wherever that is.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// A file in a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveFile {
    /// Its name, in which directories are separated by `/`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was put.
    pub modified: SystemTime,
}

/// The bytes of a file, piece by piece.
pub(crate) type Body = BoxStream<'static, Result<Bytes, StoreError>>;

/// Gives the bytes of a file that is to be put, from the beginning each time it is called.
pub(crate) type Supply = Arc<dyn Fn() -> Body + Send + Sync>;

/// What is wanted of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    /// In bytes.
    pub(crate) from: u64,
    /// Without this one; to the end where there is none.
    pub(crate) to: Option<u64>,
    /// If it is still this one.
    pub(crate) version: Option<String>,
}

/// What is given of it.
pub(crate) struct Given {
    pub(crate) file: DriveFile,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) version: Option<String>,
    pub(crate) body: Body,
}

/// A folder somewhere. Names have been looked at by whoever calls.
pub(crate) trait Store: Send + Sync {
    /// Puts a file, which has its name once all of it is there. With `create` only if there is none by that name.
    fn put(&self, name: String, supply: Supply, create: bool) -> BoxFuture<'static, Result<(), StoreError>>;

    fn get(&self, wanted: Wanted) -> BoxFuture<'static, Result<Given, StoreError>>;

    /// All files in a directory and below it, in no order.
    fn list(&self, directory: String) -> BoxStream<'static, Result<Vec<DriveFile>, StoreError>>;

    fn delete(&self, name: String) -> BoxFuture<'static, Result<(), StoreError>>;

    fn look(&self, name: String) -> BoxFuture<'static, Result<Option<DriveFile>, StoreError>>;
}
