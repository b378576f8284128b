//! Location of the named drives of an App.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{DriveError, StoreError};
use super::names::check_drive;
use super::objects::Objects;
use super::store::Store;
use crate::runtime::{self, NoRuntime, Runtime};

/// Opens the named drives of one App.
pub(crate) trait Home: Send + Sync {
    fn open(&self, drive: &str) -> Result<Arc<dyn Store>, StoreError>;
}

/// Named drives as subdirectories of a local directory.
pub(crate) struct LocalHome(pub(crate) PathBuf);

impl Home for LocalHome {
    fn open(&self, drive: &str) -> Result<Arc<dyn Store>, StoreError> {
        // The name may come from another process, so it is checked here, too.
        check_drive(drive).map_err(StoreError::Failed)?;
        Ok(Arc::new(Objects::in_directory(&self.0.join(drive))?))
    }
}

/// The named drives of one App, as a part of its [`Runtime`].
pub(crate) struct Drives(Arc<dyn Home>);

impl Drives {
    pub(crate) fn at(home: impl Home + 'static) -> Arc<Self> {
        Arc::new(Self(Arc::new(home)))
    }

    /// Returns the location of the named drives of an App.
    pub(crate) fn of(runtime: &Runtime) -> Option<Arc<dyn Home>> {
        runtime.part::<Self>().map(|drives| drives.0.clone())
    }
}

/// Opens a named drive of the App that this thread belongs to, or of the only App in this process.
pub(super) fn open(drive: &str) -> Result<Arc<dyn Store>, DriveError> {
    let no_app = |why| DriveError::NoApp { drive: drive.to_owned(), why };
    let runtime = runtime::current().map_err(|error| match error {
        NoRuntime::NoneRuns => no_app("none runs in this process: use the drive in a Work"),
        NoRuntime::SeveralRun => no_app("several run in this process: use the drive in a Work of its App"),
    })?;
    let home = Drives::of(&runtime);
    let home = home.ok_or_else(|| no_app("the one that runs in this process has no drives"))?;
    home.open(drive).map_err(|error| error.with(drive, "", None))
}
