//! Registry of the [`Replicate`] implementation for each App in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::store::PayloadGuard;
use crate::id::AppId;

/// Requests replicas of a value in other processes.
pub(crate) trait Replicate: Send + Sync {
    fn replicate(&self, hold: &Arc<PayloadGuard>);
}

static WAYS: Mutex<Option<HashMap<AppId, Arc<dyn Replicate>>>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<HashMap<AppId, Arc<dyn Replicate>>>> {
    WAYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers the replicator for payloads that `app` creates in this process, or removes it. A node has none: its head
/// learns the number of replicas together with the reference.
pub(crate) fn set_replicator(app: AppId, way: Option<Arc<dyn Replicate>>) {
    let mut ways = lock();
    let ways = ways.get_or_insert_default();
    let before = match way {
        Some(way) => ways.insert(app, way),
        None => ways.remove(&app),
    };
    drop(before);
}

pub(super) fn ask(app: AppId, hold: &Arc<PayloadGuard>) {
    let way = lock().as_ref().and_then(|ways| ways.get(&app)).cloned();
    if let Some(way) = way {
        way.replicate(hold);
    }
}
