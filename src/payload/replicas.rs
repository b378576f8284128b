//! Registry of the [`Replicate`] implementation for each App in this process.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::store::PayloadGuard;
use crate::id::AppId;

/// Requests replicas of a value in other processes, if its App knows the value.
pub(crate) trait Replicate: Send + Sync {
    fn replicate(&self, hold: &Arc<PayloadGuard>);
}

static WAYS: Mutex<Option<HashMap<AppId, Arc<dyn Replicate>>>> = Mutex::new(None);

/// Registers the replicator of `app` in this process, or removes it.
pub(crate) fn set_replicator(app: AppId, way: Option<Arc<dyn Replicate>>) {
    let mut ways = WAYS.lock();
    let ways = ways.get_or_insert_default();
    let before = match way {
        Some(way) => ways.insert(app, way),
        None => ways.remove(&app),
    };
    drop(before);
}

/// Requests the replicas of a value from all Apps of this process. Those that do not know the value ignore the request.
pub(super) fn ask(hold: &Arc<PayloadGuard>) {
    let ways: Vec<_> = WAYS.lock().iter().flat_map(HashMap::values).cloned().collect();
    for way in ways {
        way.replicate(hold);
    }
}
