//! Copies on purpose: who sees to them, by App.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::store::PayloadGuard;
use crate::id::AppId;

/// Has other processes keep copies.
pub(crate) trait Replicate: Send + Sync {
    fn replicate(&self, hold: &Arc<PayloadGuard>);
}

static WAYS: Mutex<Option<HashMap<AppId, Arc<dyn Replicate>>>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<HashMap<AppId, Arc<dyn Replicate>>>> {
    WAYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who sees to copies of what this process makes for this App. On a node that is the head, which is told with the reference.
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
