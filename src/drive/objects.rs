//! Drives on the storage of `object_store`: local directories, and buckets.
//!
//! # Guarantees
//! - A file appears under its name only when it is complete: in a directory by a rename, in a bucket by the
//!   completion of its upload.
//! - An incomplete upload is removed, even if the writer's future is dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
#[cfg(feature = "s3")]
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, WriteMultipart,
};

use super::error::StoreError;
use super::names::STAGING;
use super::store::{Body, DriveFile, Given, Store, Supply, Wanted};

/// Size in bytes of the parts of an upload. Smaller files are put in one request.
const PART: usize = 8 << 20;

/// Maximum number of parts of one upload that are in flight.
const PARTS: usize = 4;

/// Size in bytes of the buffer with which files are read.
pub(crate) const PIECE: usize = 512 << 10;

#[derive(Clone)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Prefix of every object's path; empty for a directory.
    prefix: Path,
    /// The store of a local directory, which can also rename a file unless the new name exists.
    local: Option<Arc<LocalFileSystem>>,
}

impl Objects {
    /// Opens the drive in a directory, which is created if it is missing.
    pub(super) fn in_directory(directory: &FilePath) -> Result<Self, StoreError> {
        let failed = |error: io::Error| {
            let why = format!("the directory {} cannot be used: {error}", directory.display());
            match error.kind() {
                ErrorKind::PermissionDenied => StoreError::Denied(why),
                ErrorKind::StorageFull => StoreError::NoRoom(why),
                _ => StoreError::Unreachable(why),
            }
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(directory).map_err(told)?;
        // Object stores have no empty directories: a directory is removed with its last file.
        let store = Arc::new(store.with_automatic_cleanup(true));
        Ok(Self { store: store.clone(), prefix: Path::default(), local: Some(store) })
    }

    /// Opens the drive in a bucket. `url` names the bucket; `prefix` is prepended to every name.
    #[cfg(feature = "s3")]
    pub(super) fn in_bucket(url: &str, prefix: &str) -> Result<Self, StoreError> {
        use object_store::RetryConfig;
        use object_store::aws::AmazonS3Builder;

        // The total time of all attempts equals the default grace period of nodes.
        let retry =
            RetryConfig { max_retries: 5, retry_timeout: Duration::from_secs(10), ..RetryConfig::default() };
        let store = AmazonS3Builder::from_env().with_url(url).with_retry(retry).build().map_err(told)?;
        let prefix = Path::parse(prefix).map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(Self { store: Arc::new(store), prefix, local: None })
    }

    fn path(&self, name: &str) -> Result<Path, StoreError> {
        let whole = match (self.prefix.as_ref(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}/{name}"),
        };
        Path::parse(whole).map_err(|error| StoreError::Failed(error.to_string()))
    }

    /// Calls `what` with the local path of a file, on a thread that may block. Does nothing for a bucket.
    async fn on_disk(
        &self,
        path: &Path,
        what: impl FnOnce(&FilePath) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let Some(local) = &self.local else { return Ok(()) };
        let file = local.path_to_filesystem(path).map_err(told)?;
        let done = tokio::task::spawn_blocking(move || what(&file)).await;
        done.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))
    }

    /// Returns the path of a file to be opened.
    async fn path_of_file(&self, name: &str) -> Result<Path, StoreError> {
        let path = self.path(name)?;
        let check = |file: &FilePath| match std::fs::metadata(file) {
            // Opening a pipe would block.
            Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
                Err(StoreError::Failed("the file with that name is not a regular file".to_owned()))
            }
            // The store itself reports directories and missing files.
            _ => Ok(()),
        };
        self.on_disk(&path, check).await?;
        Ok(path)
    }

    /// Returns the path of a file to be put. A directory without files under that name is removed first, since it
    /// must not block the name.
    async fn path_to_put(&self, name: &str) -> Result<Path, StoreError> {
        let path = self.path(name)?;
        let clear = |file: &FilePath| {
            if std::fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_dir()) {
                remove_empty(file);
            }
            Ok(())
        };
        self.on_disk(&path, clear).await?;
        Ok(path)
    }

    fn file(&self, meta: &ObjectMeta) -> DriveFile {
        let whole = meta.location.as_ref();
        let name = whole.strip_prefix(self.prefix.as_ref()).unwrap_or(whole).trim_start_matches('/');
        DriveFile { name: name.to_owned(), size: meta.size, modified: meta.last_modified.into() }
    }

    async fn put_all(&self, name: &str, supply: &Supply, create: bool) -> Result<(), StoreError> {
        let path = self.path_to_put(name).await?;
        let mut body = supply();
        let mut first = BytesMut::new();
        let mut rest = None;
        while let Some(piece) = body.try_next().await? {
            if first.len() + piece.len() > PART {
                rest = Some(piece);
                break;
            }
            first.extend_from_slice(&piece);
        }
        let Some(rest) = rest else {
            let mode = if create { PutMode::Create } else { PutMode::Overwrite };
            let options = PutOptions { mode, ..PutOptions::default() };
            let payload = PutPayload::from_bytes(first.freeze());
            self.store.put_opts(&path, payload, options).await.map_err(told)?;
            return Ok(());
        };
        let first = first.freeze();
        if create {
            self.is_free(&path).await?;
        }
        // A multipart upload to a bucket cannot be completed on the condition that the name is free.
        if !create || self.local.is_none() {
            return self.put_parts(&path, first, rest, body, create).await;
        }
        let staging = self.path(&format!("{STAGING}/{:016x}", crate::id::unique()))?;
        let staged = Staged { store: self.store.clone(), path: Some(staging.clone()) };
        self.put_parts(&staging, first, rest, body, false).await?;
        self.store.rename_if_not_exists(&staging, &path).await.map_err(told)?;
        staged.done();
        Ok(())
    }

    async fn is_free(&self, path: &Path) -> Result<(), StoreError> {
        match self.store.head(path).await {
            Ok(_) => Err(StoreError::Exists),
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(told(error)),
        }
    }

    async fn put_parts(
        &self,
        path: &Path,
        first: Bytes,
        second: Bytes,
        mut body: Body,
        must_be_free: bool,
    ) -> Result<(), StoreError> {
        let upload = self.store.put_multipart(path).await.map_err(told)?;
        let mut upload = Upload(Some(WriteMultipart::new_with_chunk_size(upload, PART)));
        upload.parts().put(first);
        upload.parts().put(second);
        while let Some(piece) = body.try_next().await? {
            upload.parts().wait_for_capacity(PARTS).await.map_err(told)?;
            upload.parts().put(piece);
        }
        if must_be_free {
            self.is_free(path).await?;
        }
        let Some(parts) = upload.0.take() else { unreachable!("an upload is completed once") };
        parts.finish().await.map_err(told)?;
        Ok(())
    }
}

/// Removes a directory and its subdirectories, if there are no files in any of them.
fn remove_empty(directory: &FilePath) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_empty(&entry.path());
    }
    let _ = std::fs::remove_dir(directory);
}

/// A multipart upload, aborted on drop unless it was completed.
struct Upload(Option<WriteMultipart>);

impl Upload {
    fn parts(&mut self) -> &mut WriteMultipart {
        self.0.as_mut().expect("no part is added after completion")
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    log::debug!("a cancelled upload could not be removed: {error}");
                }
            });
        }
    }
}

/// A complete file under its temporary name, removed on drop unless it was renamed.
struct Staged {
    store: Arc<dyn ObjectStore>,
    path: Option<Path>,
}

impl Staged {
    fn done(mut self) {
        self.path = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let (Some(path), Ok(runtime)) = (self.path.take(), tokio::runtime::Handle::try_current()) {
            let store = self.store.clone();
            runtime.spawn(async move { drop(store.delete(&path).await) });
        }
    }
}

impl Store for Objects {
    fn put(&self, name: String, supply: Supply, create: bool) -> BoxFuture<'static, Result<(), StoreError>> {
        let this = self.clone();
        async move { this.put_all(&name, &supply, create).await }.boxed()
    }

    fn get(&self, wanted: Wanted) -> BoxFuture<'static, Result<Given, StoreError>> {
        let this = self.clone();
        async move {
            let path = this.path_of_file(&wanted.name).await?;
            let range = match (wanted.from, wanted.to) {
                (0, None) => None,
                (from, None) => Some(GetRange::Offset(from)),
                (from, Some(to)) => Some(GetRange::Bounded(from..to)),
            };
            let options = GetOptions { range, if_match: wanted.version, ..GetOptions::default() };
            let got = this.store.get_opts(&path, options).await.map_err(told)?;
            let Range { start: from, end: to } = got.range;
            let (file, version) = (this.file(&got.meta), got.meta.e_tag.clone());
            let body = match got.payload {
                GetResultPayload::File(file, _) => pieces(file, from, to),
                GetResultPayload::Stream(body) => body.map_err(told).boxed(),
            };
            Ok(Given { file, from, to, version, body })
        }
        .boxed()
    }

    fn list(&self, directory: String) -> BoxStream<'static, Result<Vec<DriveFile>, StoreError>> {
        let path = match self.path(&directory) {
            Ok(path) => path,
            Err(error) => return stream::once(async { Err(error) }).boxed(),
        };
        let this = self.clone();
        let found = self.store.list(Some(&path)).map_ok(move |meta| this.file(&meta)).map_err(told);
        let found = found.try_filter(|file| {
            let shown = !file.name.starts_with(STAGING);
            async move { shown }
        });
        found.try_ready_chunks(1000).map_err(|error| error.1).boxed()
    }

    fn delete(&self, name: String) -> BoxFuture<'static, Result<(), StoreError>> {
        let this = self.clone();
        async move {
            let path = this.path_of_file(&name).await?;
            // A bucket reports success for the deletion of a missing object.
            this.store.head(&path).await.map_err(told)?;
            this.store.delete(&path).await.map_err(told)
        }
        .boxed()
    }

    fn look(&self, name: String) -> BoxFuture<'static, Result<Option<DriveFile>, StoreError>> {
        let this = self.clone();
        async move {
            match this.store.head(&this.path_of_file(&name).await?).await {
                Ok(meta) => Ok(Some(this.file(&meta))),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(told(error)),
            }
        }
        .boxed()
    }
}

/// Streams the bytes `from..to` of a file, reading on threads that may block.
fn pieces(file: File, from: u64, to: u64) -> Body {
    let read = move |(mut file, at): (File, u64)| async move {
        if at >= to {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(to - at).unwrap_or(PIECE).min(PIECE)];
            if at == from {
                file.seek(SeekFrom::Start(from))?;
            }
            let length = file.read(&mut piece)?;
            if length == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof));
            }
            piece.truncate(length);
            Ok((Bytes::from(piece), file))
        });
        match read.await {
            Ok(Ok((piece, file))) => {
                let at = at + piece.len() as u64;
                Ok(Some((piece, (file, at))))
            }
            Ok(Err(error)) => Err(StoreError::Failed(format!("the file cannot be read: {error}"))),
            Err(error) => Err(StoreError::Failed(error.to_string())),
        }
    };
    stream::try_unfold((file, from), read).boxed()
}

/// Returns a supply of the bytes of a local file.
pub(super) fn supply_of_file(path: PathBuf) -> Supply {
    Arc::new(move || {
        let path = path.clone();
        let open = async move {
            let opened = tokio::task::spawn_blocking(move || {
                // Opening a pipe must not block.
                let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(io::Error::from(ErrorKind::IsADirectory));
                }
                if !metadata.is_file() {
                    return Err(io::Error::other("it is not a regular file"));
                }
                Ok((file, metadata.len()))
            });
            match opened.await {
                Ok(Ok((file, length))) => Ok(pieces(file, 0, length).map_err(|error| match error {
                    StoreError::Failed(why) => StoreError::Source(why),
                    error => error,
                })),
                Ok(Err(error)) => Err(StoreError::Source(error.to_string())),
                Err(error) => Err(StoreError::Source(error.to_string())),
            }
        };
        stream::once(open).try_flatten().boxed()
    })
}

pub(super) fn supply_of_bytes(bytes: Bytes) -> Supply {
    Arc::new(move || {
        let mut left = bytes.clone();
        let pieces =
            std::iter::from_fn(move || (!left.is_empty()).then(|| Ok(left.split_to(left.len().min(PIECE)))));
        stream::iter(pieces).boxed()
    })
}

/// Converts an error, with the messages of its whole chain of sources.
fn told(error: object_store::Error) -> StoreError {
    use object_store::Error;

    let mut why = error.to_string();
    let mut kind = None;
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            kind = Some(error.kind());
        }
        next = cause.source();
    }
    match (&error, kind) {
        (Error::NotFound { .. }, _) => StoreError::NotFound,
        (Error::AlreadyExists { .. }, _) => StoreError::Exists,
        (Error::Precondition { .. } | Error::NotModified { .. }, _) => StoreError::Changed,
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => StoreError::Denied(why),
        (_, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)) => {
            StoreError::NoRoom(why)
        }
        (_, Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)) => StoreError::Denied(why),
        (
            _,
            Some(
                ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::TimedOut,
            ),
        ) => StoreError::Unreachable(why),
        _ => StoreError::Failed(why),
    }
}
