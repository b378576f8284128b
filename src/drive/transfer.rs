//! Transfers of files into a drive and out of it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::IntoFuture;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::error::DriveError;
use super::store::{Given, Supply, Wanted};
use super::{Drive, StoreError};
use crate::atomic_file::StagedPath;

/// Progress of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transferred {
    /// Bytes transferred so far.
    pub bytes: u64,
    /// Size of the file in bytes, if it is known.
    pub total: Option<u64>,
}

type OnProgress = Arc<Mutex<dyn FnMut(Transferred) + Send>>;

fn tell(on_progress: Option<&OnProgress>, now: Transferred) {
    if let Some(on_progress) = on_progress {
        (on_progress.lock())(now);
    }
}

/// A future that puts a file into a drive when it is awaited.
#[must_use = "nothing is put until this is awaited"]
pub struct Put {
    drive: Drive,
    name: String,
    supply: Supply,
    from: Option<PathBuf>,
    total: Option<u64>,
    overwrite: bool,
    on_progress: Option<OnProgress>,
}

impl Put {
    pub(super) fn new(
        drive: Drive,
        name: String,
        supply: Supply,
        from: Option<PathBuf>,
        total: Option<u64>,
    ) -> Self {
        Self { drive, name, supply, from, total, overwrite: true, on_progress: None }
    }

    /// Sets whether to replace an existing file of that name; `true` by default.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets a callback that is called after each piece. Its count restarts at zero if the upload is retried after a
    /// broken connection.
    pub fn on_progress(mut self, call: impl FnMut(Transferred) + Send + 'static) -> Self {
        self.on_progress = Some(Arc::new(Mutex::new(call)));
        self
    }

    /// Wraps the supply so that it reports progress.
    fn told(&self) -> Supply {
        let (supply, on_progress, total) = (self.supply.clone(), self.on_progress.clone(), self.total);
        Arc::new(move || {
            let on_progress = on_progress.clone();
            let mut bytes = 0;
            let told = supply().inspect_ok(move |piece: &Bytes| {
                bytes += piece.len() as u64;
                tell(on_progress.as_ref(), Transferred { bytes, total });
            });
            told.boxed()
        })
    }
}

impl IntoFuture for Put {
    type Output = Result<(), DriveError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        // Opens the store now, while the thread still runs code of the App: the future may be polled elsewhere.
        let store = self.drive.open(&self.name, false);
        Box::pin(async move {
            let supply = if self.on_progress.is_some() { self.told() } else { self.supply.clone() };
            let put = store?.put(self.name.clone(), supply, !self.overwrite).await;
            put.map_err(|error| error.with(self.drive.name(), &self.name, self.from.as_deref()))
        })
    }
}

/// A future that gets a file from a drive when it is awaited.
#[must_use = "nothing is fetched until this is awaited"]
pub struct Get {
    drive: Drive,
    name: String,
    into: PathBuf,
    overwrite: bool,
    on_progress: Option<OnProgress>,
}

impl Get {
    pub(super) fn new(drive: Drive, name: String, into: PathBuf) -> Self {
        Self { drive, name, into, overwrite: false, on_progress: None }
    }

    /// Sets whether to replace an existing file at the path, once the new file is complete; `false` by default.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets a callback that is called after each piece.
    pub fn on_progress(mut self, call: impl FnMut(Transferred) + Send + 'static) -> Self {
        self.on_progress = Some(Arc::new(Mutex::new(call)));
        self
    }

    fn written(&self, error: &io::Error) -> DriveError {
        if error.kind() == ErrorKind::AlreadyExists {
            return DriveError::ExistsHere { into: self.into.clone(), name: self.name.clone() };
        }
        DriveError::Local { path: self.into.clone(), what: "written", why: error.to_string() }
    }

    async fn get(self, store: Arc<dyn super::Store>) -> Result<(), DriveError> {
        if !self.overwrite && self.into.symlink_metadata().is_ok() {
            return Err(self.written(&ErrorKind::AlreadyExists.into()));
        }
        let failed = |error: StoreError| error.with(self.drive.name(), &self.name, None);
        let wanted = Wanted { name: self.name.clone(), from: 0, to: None, version: None };
        let Given { from, to, mut body, .. } = store.get(wanted).await.map_err(failed)?;
        let total = Some(to - from);
        let mut writing = begin(&self.into).await.map_err(|error| self.written(&error))?;
        let mut bytes = 0;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(failed)?;
            bytes += piece.len() as u64;
            writing = write(writing, piece).await.map_err(|error| self.written(&error))?;
            tell(self.on_progress.as_ref(), Transferred { bytes, total });
        }
        if total != Some(bytes) {
            return Err(failed(StoreError::Failed(format!("only {bytes} of {} bytes arrived", to - from))));
        }
        let (staged, file) = writing;
        drop(file);
        let overwrite = self.overwrite;
        let placed = on_a_thread(move || staged.commit(overwrite)).await;
        placed.map_err(|error| self.written(&error))
    }
}

impl IntoFuture for Get {
    type Output = Result<(), DriveError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let store = self.drive.open(&self.name, false);
        Box::pin(async move { self.get(store?).await })
    }
}

async fn begin(into: &Path) -> io::Result<(StagedPath, File)> {
    let into = into.to_owned();
    on_a_thread(move || {
        let staged = StagedPath::of(&into)?;
        let file = OpenOptions::new().write(true).create_new(true).open(staged.path())?;
        Ok((staged, file))
    })
    .await
}

async fn write((staged, mut file): (StagedPath, File), piece: Bytes) -> io::Result<(StagedPath, File)> {
    on_a_thread(move || {
        file.write_all(&piece)?;
        Ok((staged, file))
    })
    .await
}

async fn on_a_thread<T: Send + 'static>(
    what: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(what).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Put({} into {:?})", self.name, self.drive)
    }
}

impl fmt::Debug for Get {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Get({} of {:?} into {})", self.name, self.drive, self.into.display())
    }
}
