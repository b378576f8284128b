//! Layer 2: drives, which are folders that all Works share.
//!
//! # Guarantees
//! - A reader gets a complete file as it was put: never part of one, and never a mixture of two versions.
//! - Files of more than 8 MiB are streamed; only [`Drive::read`] holds a whole one in memory.
//!
//! `home` locates drives, and `store` defines what a drive can do. `objects` implements it for directories and
//! buckets; on nodes, a layer above implements it by requests to the head.

mod error;
mod home;
mod names;
mod objects;
mod store;
mod transfer;

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::error::DriveError;
pub(crate) use self::error::StoreError;
pub(crate) use self::home::{Drives, Home, LocalHome};
pub(crate) use self::names::check as check_name;
pub(crate) use self::objects::PIECE;
use self::objects::{Objects, supply_of_bytes, supply_of_file};
pub use self::store::DriveFile;
pub(crate) use self::store::{Body, Given, Store, Supply, Wanted};
pub use self::transfer::{Get, Put, Transferred};

/// A folder that all Works of an App share, on whichever machine they run.
///
/// A drive with a plain name is a directory of the head (`--drive-dir`, by default `.flowright/drives`), which nodes
/// access through the head: no storage service is needed. A drive with a URL is a directory that all machines have
/// mounted at the same path (`file:///mnt/shared`), or, with the feature `s3`, a bucket (`s3://bucket/prefix`).
///
/// A drive is serialised as its name or URL, so that it can be part of a state, an input or a message. Its methods
/// are to be called from Works.
///
/// ```
/// # use flowright::prelude::*;
/// #[derive(Default, Serialize, Deserialize)]
/// struct Reporter {
///     found: Vec<String>,
/// }
///
/// impl Work for Reporter {
///     type Input = Drive;
///
///     async fn run(&mut self, reports: Drive, _cx: &mut WorkContext<Self>) -> Result<()> {
///         reports.put_bytes("2024/one.txt", "all is well").await?;
///         self.found = reports.list("2024").await?.into_iter().map(|file| file.name).collect();
///         assert_eq!(reports.read("2024/one.txt").await?, "all is well");
///         reports.delete("2024/one.txt").await?;
///         assert!(!reports.exists("2024/one.txt").await?);
///         Ok(())
///     }
/// }
/// # #[derive(Default, Serialize, Children)]
/// # struct Root { reporter: WorkRef<Reporter> }
/// # impl Flow for Root {
/// #     fn react(&mut self, cx: &mut FlowContext) -> Reaction {
/// #         let found = self.reporter.run(Drive::new("reports")).finished()?.found.clone();
/// #         assert_eq!(found, ["2024/one.txt"]);
/// #         cx.stop("done");
/// #         Ok(())
/// #     }
/// # }
/// # let directory = std::env::temp_dir().join(format!("flowright-drive-doc-{}", std::process::id()));
/// # let config = flowright::Config::new().drive_dir(&directory);
/// # let app = flowright::testing::TestApp::start_app(App::new(Root::default).config(config));
/// # app.wait_for_exit().result.unwrap();
/// # std::fs::remove_dir_all(directory).unwrap();
/// ```
///
/// # Names
/// A file has a name such as `reports/2024/one.txt`. Absolute names, and names with `..` and the like, are refused.
///
/// # Two at once
/// If two writers put a file with the same name at the same time, one of the two files remains, complete. With
/// `.overwrite(false)` the other writer gets [`DriveError::Exists`]; but for files of more than 8 MiB in a bucket
/// this is checked just before the upload is completed, so that two writers at the very same time may both succeed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Drive(Arc<str>);

impl Drive {
    /// Creates a reference to the drive with this name at the head of the App. A malformed name is reported by the
    /// first operation on the drive.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self(name.as_ref().into())
    }

    /// Creates a reference to the drive at this URL: `file:///directory`, or `s3://bucket/prefix` with the feature
    /// `s3`. Credentials for S3 come from the environment of each process: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, and for a service other than Amazon's `AWS_ENDPOINT` (and
    /// `AWS_ALLOW_HTTP=true`).
    ///
    /// ```
    /// use flowright::Drive;
    ///
    /// assert!(Drive::from_url("file:///mnt/shared").is_ok());
    /// let error = Drive::from_url("ftp://host").unwrap_err();
    /// assert!(error.to_string().contains("file:///"));
    /// ```
    ///
    /// # Errors
    /// [`DriveError::BadDrive`] if the URL is malformed or needs a feature that is off.
    pub fn from_url(url: impl AsRef<str>) -> Result<Self, DriveError> {
        let url = url.as_ref();
        place_of(url).map_err(|why| DriveError::BadDrive { drive: url.to_owned(), why })?;
        Ok(Self(url.into()))
    }

    /// Returns the name or URL of the drive.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns a future that streams the file at the path `from` into the drive.
    ///
    /// ```no_run
    /// # async fn f(drive: flowright::Drive) -> flowright::Result<()> {
    /// drive
    ///     .put("model/weights", "weights.bin")
    ///     .overwrite(false)
    ///     .on_progress(|now| println!("{} of {:?} bytes", now.bytes, now.total))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// If the future is dropped before it is done, a file that had the name before remains.
    ///
    /// # Errors
    /// [`DriveError`]; a file that had the name before remains, unless the error says that the outcome is unknown.
    pub fn put(&self, name: impl Into<String>, from: impl Into<PathBuf>) -> Put {
        let from = from.into();
        let total = from.metadata().ok().map(|metadata| metadata.len());
        Put::new(self.clone(), name.into(), supply_of_file(from.clone()), Some(from), total)
    }

    /// Returns a future that puts these bytes into the drive as a file.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_bytes(&self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Put {
        let bytes = bytes.into();
        let total = bytes.len() as u64;
        Put::new(self.clone(), name.into(), supply_of_bytes(bytes), None, Some(total))
    }

    /// Returns a future that streams a file of the drive to the local path `into`. The file is written to a temporary
    /// sibling of `into` and renamed when it is complete; missing parent directories are created.
    ///
    /// ```no_run
    /// # async fn f(drive: flowright::Drive) -> flowright::Result<()> {
    /// drive.get("model/weights", "weights.bin").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// If the future is dropped before it is done, nothing is left at `into`.
    ///
    /// # Errors
    /// [`DriveError`]; a failed get leaves `into` as it was.
    pub fn get(&self, name: impl Into<String>, into: impl Into<PathBuf>) -> Get {
        Get::new(self.clone(), name.into(), into.into())
    }

    /// Reads a whole file into memory.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`DriveError`].
    pub async fn read(&self, name: &str) -> Result<Bytes, DriveError> {
        let mut file = self.stream(name, ..).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = file.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// Streams a range of a file, in bytes.
    ///
    /// ```no_run
    /// # use flowright::Drive;
    /// # async fn f(drive: Drive) -> flowright::Result<()> {
    /// use futures::TryStreamExt;
    ///
    /// let mut header = drive.stream("model/weights", ..1024).await?;
    /// while let Some(bytes) = header.try_next().await? {
    ///     println!("{} bytes", bytes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// The future and the stream only read, and may be dropped at any time.
    ///
    /// # Errors
    /// [`DriveError`], from this method and from the stream.
    pub async fn stream(&self, name: &str, range: impl RangeBounds<u64>) -> Result<DriveStream, DriveError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => Some(last.saturating_add(1)),
            Bound::Excluded(to) => Some(*to),
            Bound::Unbounded => None,
        };
        let store = self.open(name, false)?;
        let failed = |error: StoreError| error.with(&self.0, name, None);
        if to.is_some_and(|to| to <= from) {
            let file = store.look(name.to_owned()).await.map_err(failed)?;
            let file = file.ok_or(StoreError::NotFound).map_err(failed)?;
            let body = futures::stream::empty().boxed();
            return Ok(DriveStream { drive: self.clone(), file, body });
        }
        let wanted = Wanted { name: name.to_owned(), from, to, version: None };
        let Given { file, body, .. } = store.get(wanted).await.map_err(failed)?;
        Ok(DriveStream { drive: self.clone(), file, body })
    }

    /// Lists all files in a directory of the drive and below it, ordered by name; `""` lists the whole drive.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`DriveError`]; an empty or missing directory is not an error.
    pub async fn list(&self, directory: &str) -> Result<Vec<DriveFile>, DriveError> {
        let mut files = Vec::new();
        let mut found = self.list_stream(directory)?;
        while let Some(file) = found.try_next().await? {
            files.push(file);
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Streams all files in a directory of the drive and below it, in no particular order.
    ///
    /// # Errors
    /// [`DriveError`], from this method and from the stream.
    pub fn list_stream(
        &self,
        directory: &str,
    ) -> Result<impl Stream<Item = Result<DriveFile, DriveError>> + Send + Unpin + use<>, DriveError> {
        let store = self.open(directory, true)?;
        let drive = self.0.clone();
        let found = store.list(directory.to_owned()).map_err(move |error| error.with(&drive, "", None));
        Ok(found.map_ok(|files| futures::stream::iter(files.into_iter().map(Ok))).try_flatten().boxed())
    }

    /// Deletes a file.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the file may have been deleted or not.
    ///
    /// # Errors
    /// [`DriveError`], in particular [`DriveError::NotFound`] if the drive has no file with this name.
    pub async fn delete(&self, name: &str) -> Result<(), DriveError> {
        let store = self.open(name, false)?;
        store.delete(name.to_owned()).await.map_err(|error| error.with(&self.0, name, None))
    }

    /// Returns whether the drive has a file with this name.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    ///
    /// # Errors
    /// [`DriveError`] if the drive cannot be queried.
    pub async fn exists(&self, name: &str) -> Result<bool, DriveError> {
        let store = self.open(name, false)?;
        let found = store.look(name.to_owned()).await;
        Ok(found.map_err(|error| error.with(&self.0, name, None))?.is_some())
    }

    /// Checks `name` and opens the store of this drive.
    fn open(&self, name: &str, may_be_empty: bool) -> Result<Arc<dyn Store>, DriveError> {
        let bad_drive = |why| DriveError::BadDrive { drive: self.0.as_ref().to_owned(), why };
        names::check(name, may_be_empty).map_err(|why| DriveError::BadName {
            drive: self.0.as_ref().to_owned(),
            name: name.to_owned(),
            why,
        })?;
        if !self.0.contains("://") || self.0.starts_with("lit://") {
            names::check_drive(&self.0).map_err(bad_drive)?;
            return home::open(&self.0);
        }
        let failed = |error: StoreError| error.with(&self.0, name, None);
        match place_of(&self.0).map_err(bad_drive)? {
            Place::Directory(directory) => Ok(Arc::new(Objects::in_directory(directory).map_err(failed)?)),
            #[cfg(feature = "s3")]
            Place::Bucket { prefix } => Ok(Arc::new(Objects::in_bucket(&self.0, prefix).map_err(failed)?)),
        }
    }
}

/// The location that a URL denotes.
enum Place<'a> {
    Directory(&'a Path),
    #[cfg(feature = "s3")]
    Bucket {
        prefix: &'a str,
    },
}

fn place_of(url: &str) -> Result<Place<'_>, String> {
    match url.split_once("://") {
        Some(("file", path)) if path.starts_with('/') && !path.contains("/../") && !path.ends_with("/..") => {
            Ok(Place::Directory(Path::new(path)))
        }
        Some(("file", _)) => Err("a directory has three slashes: `file:///mnt/shared`".to_owned()),
        #[cfg(not(feature = "s3"))]
        Some(("s3", _)) => {
            Err("buckets need the feature `s3`: `flowright = { …, features = [\"s3\"] }`".to_owned())
        }
        #[cfg(feature = "s3")]
        Some(("s3", rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = prefix.trim_end_matches('/');
            if rest.contains('@') {
                return Err(
                    "a URL is visible to all who see the state; set keys with `AWS_ACCESS_KEY_ID` and \
                            `AWS_SECRET_ACCESS_KEY`"
                        .to_owned(),
                );
            }
            if bucket.is_empty() {
                return Err("it names no bucket: `s3://bucket/prefix`".to_owned());
            }
            names::check(prefix, true)
                .map_err(|why| format!("the prefix after the bucket is not valid: {why}"))?;
            Ok(Place::Bucket { prefix })
        }
        _ => Err("the URLs of drives are `file:///directory` and `s3://bucket/prefix`; a drive with \
                  a plain name, `Drive::new(\"name\")`, is at the head"
            .to_owned()),
    }
}

/// A stream of the bytes of a file.
#[must_use = "a stream reads nothing until it is polled"]
pub struct DriveStream {
    drive: Drive,
    file: DriveFile,
    body: Body,
}

impl DriveStream {
    /// Returns the file that the bytes belong to.
    pub fn file(&self) -> &DriveFile {
        &self.file
    }
}

impl Stream for DriveStream {
    type Item = Result<Bytes, DriveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.body.poll_next_unpin(cx);
        polled.map_err(|error| error.with(&self.drive.0, &self.file.name, None))
    }
}

impl fmt::Debug for DriveStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DriveStream({:?} of {:?})", self.file, self.drive)
    }
}

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drive({})", self.0)
    }
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Drive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Drive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self(name.into()))
    }
}
