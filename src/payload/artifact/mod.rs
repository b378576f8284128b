//! Artifacts: files and directories that are stored and transferred like payloads.
//!
//! # Guarantees
//! - An artifact contains what was at the path when it was created, because the files are copied then.
//! - Creating, sending and fetching an artifact need memory only for some buffers and the list of its files.

mod error;
mod files;
mod manifest;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::fmt;
use std::future::IntoFuture;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::oneshot;

pub use self::error::ArtifactError;
pub use self::files::Files;
use self::pack::Packing;
use self::unpack::{Destination, unpack};
use super::chunk_hashes::{ChunkHasher, ChunkHashes};
use super::codec::TREE;
use super::error::FetchError;
use super::handle::{OnDisk, Payload, Progress};
use super::hex::new_id;
use super::spill::{SpillWriter, Spilled};
use super::store::Store;
use super::verified_reader::VerifiedReader;
use crate::id::ActorPath;

/// A small reference to a file or a directory, whose content stays in the process that created the artifact until it
/// is fetched.
///
/// Created by [`WorkContext::artifact`](crate::WorkContext::artifact), which copies the files; later changes to the
/// originals do not change the artifact. It is serialised in under 200 bytes and can be part of a state, an input or
/// a message. Equality and run identity are those of the *content*: the names below the root, the permissions, and
/// the bytes.
///
/// An artifact lives as long as anything refers to it, like a [`Payload`]. Its content is on disk, in the directory
/// for payloads (`--payload-dir`), and counts towards the disk budget.
///
/// # What is kept
/// Names, contents, the permissions of files and directories (read, write, execute), and symlinks that lead to
/// something in the same tree. Symlinks that lead out of the tree are refused, as are sockets, pipes and devices.
/// Owners, timestamps, extended attributes and the bits `setuid`, `setgid` and `sticky` are not kept; hard links
/// become separate files.
///
/// ```
/// # use flowright::prelude::*;
/// # use flowright::Artifact;
/// #[derive(Default, Serialize, Deserialize)]
/// struct Train {
///     checkpoint: Option<Artifact>,
/// }
///
/// impl Work for Train {
///     type Input = ();
///
///     async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
///         # let directory = std::env::temp_dir().join(format!("flowright-doc-{}", std::process::id()));
///         # std::fs::create_dir_all(directory.join("checkpoint"))?;
///         # std::fs::write(directory.join("checkpoint/weights"), "0.5")?;
///         let checkpoint = cx.artifact(directory.join("checkpoint"))?;
///         // Usually in another Work, which has it as an input:
///         checkpoint.fetch(directory.join("copy")).await?;
///         assert_eq!(std::fs::read_to_string(directory.join("copy/weights"))?, "0.5");
///         # std::fs::remove_dir_all(directory)?;
///         self.checkpoint = Some(checkpoint);
///         Ok(())
///     }
/// }
/// # let app = flowright::testing::TestApp::start_app(App::of_work(Train::default));
/// # app.wait_for_exit().result.unwrap();
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Artifact(Payload<Tree>);

/// The type parameter of an artifact's [`Payload`]. It has no values, because an artifact is never decoded into
/// memory.
enum Tree {}

impl Artifact {
    pub(crate) fn new(files: &Files, store: &Arc<Store>, origin: &ActorPath) -> Result<Self, ArtifactError> {
        let path = files.root();
        let packing = Packing::of(files)?;
        let no_room = |why: FetchError| ArtifactError::NoRoom { path: path.to_owned(), why: why.to_string() };
        let id = new_id();
        let spill = SpillWriter::begin(store.budget(), packing.length()).map_err(no_room)?;
        let mut both = Both { spill, hashes: ChunkHasher::new() };
        let directory = both.spill.directory().to_owned();
        packing.write(&mut both, |error| ArtifactError::NoRoom {
            path: path.to_owned(),
            why: format!(
                "its copy in {} cannot be written: {error}; make room there, or choose another directory with \
                 `--payload-dir`",
                directory.display()
            ),
        })?;
        let hashes = both.hashes.finish();
        let file = both.spill.finish().map_err(no_room)?;
        let kind = if packing.is_directory() { "directory" } else { "file" };
        let name = path.file_name().unwrap_or(path.as_os_str());
        let of = format!("{kind} `{}`", name.to_string_lossy());
        Ok(Self(Payload::on_disk(OnDisk { id, file, hashes, type_name: TREE }, &of, store, origin)))
    }

    /// Writes the artifact to `into`, which is the destination itself, not its parent directory. Missing parent
    /// directories are created.
    ///
    /// The artifact is written to a hidden temporary sibling of `into`, which is renamed to `into` when it is
    /// complete. If the content is not on this machine yet, it is pulled first, like a payload, and kept as a
    /// replica.
    ///
    /// ```no_run
    /// # async fn f(artifact: flowright::Artifact) -> flowright::Result<()> {
    /// artifact.fetch("model").overwrite(true).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// If the future is dropped before the rename, nothing is left at `into`. Content that has been pulled completely
    /// is kept.
    ///
    /// # Errors
    /// [`ArtifactError`]. A failed fetch leaves `into` as it was.
    pub fn fetch(&self, into: impl Into<PathBuf>) -> Fetch {
        Fetch { artifact: self.clone(), into: into.into(), overwrite: false }
    }

    /// Unpacks the file. The method takes the artifact by value, so that the reference is dropped before the caller
    /// is notified.
    fn unpack(
        self,
        file: Arc<Spilled>,
        hashes: &ChunkHashes,
        destination: &Destination<'_>,
    ) -> Result<(), ArtifactError> {
        let what = self.0.describe();
        let mut chunks = file;
        let mut reader = VerifiedReader::new(hashes, &mut chunks, Arc::default(), &what).reader();
        let unpacked = unpack(&mut reader, hashes.length(), destination);
        match reader.failure.take() {
            Some(error) => {
                let into = destination.into.to_owned();
                Err(ArtifactError::Unavailable { into, source: self.0.error(error) })
            }
            None => unpacked,
        }
    }

    /// Returns whether the content is stored here or in another process that can be reached.
    ///
    /// # Cancel safety
    /// The future only reads, and may be dropped at any time.
    pub async fn exists(&self) -> bool {
        self.0.is_somewhere().await
    }

    /// Keeps replicas on `copies` nodes; see [`Payload::replicate`].
    #[must_use = "an artifact is freed when nothing refers to it"]
    pub fn replicate(self, copies: usize) -> Self {
        Self(self.0.replicate(copies))
    }

    /// Has the journal of the App keep the content, so that it survives the end of every process; see
    /// [`Payload::durable`].
    ///
    /// ```no_run
    /// # use flowright::prelude::*;
    /// # fn f<W: Work>(cx: &mut WorkContext<W>) -> Result<Artifact> {
    /// let checkpoint = cx.artifact("checkpoint")?.durable();
    /// # Ok(checkpoint)
    /// # }
    /// ```
    #[must_use = "an artifact is freed when nothing refers to it"]
    pub fn durable(self) -> Self {
        Self(self.0.durable())
    }

    /// Returns the size in bytes, including the list of the files.
    #[expect(clippy::len_without_is_empty, reason = "there is always a list")]
    pub fn len(&self) -> u64 {
        self.0.encoded_len()
    }

    /// Returns the BLAKE3 hash of the whole content.
    pub fn content_hash(&self) -> [u8; 32] {
        self.0.content_hash()
    }

    /// Returns the path of the Work that created the artifact.
    pub fn origin(&self) -> &str {
        self.0.origin()
    }

    /// Returns the progress of the transfer to this machine.
    pub fn progress(&self) -> Progress {
        self.0.progress()
    }
}

/// A future that fetches an artifact when it is awaited.
#[must_use = "nothing is fetched until this is awaited"]
#[derive(Debug)]
pub struct Fetch {
    artifact: Artifact,
    into: PathBuf,
    overwrite: bool,
}

impl Fetch {
    /// Sets whether to replace an existing file or directory, which is removed after the artifact is complete;
    /// `false` by default.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    async fn fetch(self) -> Result<(), ArtifactError> {
        let Self { artifact, into, overwrite } = self;
        if into.file_name().is_none() {
            return Err(ArtifactError::NoName { into });
        }
        if !overwrite && into.symlink_metadata().is_ok() {
            return Err(ArtifactError::Exists { into });
        }
        let unavailable = |source| ArtifactError::Unavailable { into: into.clone(), source };
        let (file, hashes) = artifact.0.pull_to_disk(TREE).await.map_err(unavailable)?;
        let jobs = artifact.0.jobs().map_err(unavailable)?.clone();
        let (done, unpacked) = oneshot::channel();
        let destination = into.clone();
        jobs.run(move || {
            let destination = Destination { into: &destination, overwrite, is_wanted: &|| !done.is_closed() };
            let unpacked = artifact.unpack(file, &hashes, &destination);
            let _ = done.send(unpacked);
        });
        unpacked.await.unwrap_or(Err(ArtifactError::GivenUp { into }))
    }
}

impl IntoFuture for Fetch {
    type Output = Result<(), ArtifactError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.fetch())
    }
}

/// A writer that spills to disk and computes the chunk hashes at once.
struct Both {
    spill: SpillWriter,
    hashes: ChunkHasher,
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.spill.write(bytes)?;
        self.hashes.write_all(&bytes[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spill.flush()
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Artifact({}, {} bytes from `{}`)", self.0.of(), self.len(), self.origin())
    }
}

impl Serialize for Artifact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Artifact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Payload::deserialize(deserializer).map(Self)
    }
}

/// Unpacks arbitrary bytes and asserts that nothing outside of the destination is written.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let outside = std::env::temp_dir().join(format!("flowright-fuzz-{}", std::process::id()));
    let inside = outside.join("inside");
    std::fs::create_dir_all(&inside).expect("the temporary directory is writable");
    let into = inside.join("tree");
    let destination = unpack::Destination { into: &into, overwrite: false, is_wanted: &|| true };
    let written = unpack::unpack(&mut &data[..], data.len() as u64, &destination);
    for (directory, there) in [(&outside, 1), (&inside, usize::from(written.is_ok()))] {
        let entries = std::fs::read_dir(directory).expect("this process created the directory").count();
        assert_eq!(entries, there, "{written:?}");
    }
    std::fs::remove_dir_all(&outside).expect("this process created the directory");
}
