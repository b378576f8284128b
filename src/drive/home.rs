//! Registry that maps each App in this process to the location of its named drives.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{DriveError, StoreError};
use super::names::check_drive;
use super::objects::Objects;
use super::store::Store;
use crate::id::AppId;

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

static HOMES: Mutex<Option<HashMap<AppId, Arc<dyn Home>>>> = Mutex::new(None);

thread_local! {
    static CURRENT: Cell<Option<AppId>> = const { Cell::new(None) };
}

/// Registers the location of the App's named drives for this process, until the returned value is dropped.
pub(crate) fn register(app: AppId, home: Arc<dyn Home>) -> Registered {
    let before = HOMES.lock().get_or_insert_default().insert(app, home);
    drop(before);
    Registered(app)
}

#[must_use]
pub(crate) struct Registered(AppId);

impl Drop for Registered {
    fn drop(&mut self) {
        let home = HOMES.lock().as_mut().and_then(|homes| homes.remove(&self.0));
        drop(home);
    }
}

pub(crate) fn home(app: AppId) -> Option<Arc<dyn Home>> {
    HOMES.lock().as_ref()?.get(&app).cloned()
}

/// Sets the App whose code runs on this thread from now on, and returns the previous one.
pub(crate) fn enter(app: Option<AppId>) -> Option<AppId> {
    CURRENT.replace(app)
}

/// Opens a named drive of the App whose code runs on this thread, or of the only App in this process.
pub(super) fn open(drive: &str) -> Result<Arc<dyn Store>, DriveError> {
    let no_app = |why| DriveError::NoApp { drive: drive.to_owned(), why };
    let found = {
        let homes = HOMES.lock();
        let homes = homes.as_ref().filter(|homes| !homes.is_empty());
        let homes = homes.ok_or_else(|| no_app("none runs in this process: use the drive in a Work"))?;
        match (CURRENT.get().and_then(|app| homes.get(&app)), homes.len()) {
            (Some(home), _) => home.clone(),
            (None, 1) => homes.values().next().expect("there is one").clone(),
            (None, _) => {
                return Err(no_app("several run in this process: use the drive in a Work of its App"));
            }
        }
    };
    found.open(drive).map_err(|error| error.with(drive, "", None))
}
