//! The values that are pinned for the peer of a session.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::payload::{PayloadGuard, PayloadId};

/// The values that are pinned for the peer of a session.
#[derive(Default)]
pub(in crate::remote) struct Pins {
    pinned: Mutex<HashMap<PayloadId, (Arc<PayloadGuard>, u32)>>,
    /// Values that were pinned when the session ended because the peer was replaced.
    set_aside: Mutex<Vec<Arc<PayloadGuard>>>,
    /// Notified when no pin is left.
    released: Notify,
}

impl Pins {
    pub(in crate::remote) fn has(&self, id: PayloadId) -> bool {
        self.pinned.lock().contains_key(&id)
    }

    pub(in crate::remote) fn is_empty(&self) -> bool {
        self.pinned.lock().is_empty()
    }

    /// Waits until nothing is pinned.
    pub(in crate::remote) async fn released(&self) {
        loop {
            let released = self.released.notified();
            if self.is_empty() {
                return;
            }
            released.await;
        }
    }

    pub(in crate::remote) fn add(&self, hold: &Arc<PayloadGuard>) {
        self.pinned.lock().entry(hold.id()).or_insert_with(|| (hold.clone(), 0)).1 += 1;
    }

    pub(in crate::remote) fn release(&self, id: PayloadId, count: u32) {
        let mut pins = self.pinned.lock();
        let Some((_, pinned)) = pins.get_mut(&id) else { return };
        *pinned = pinned.saturating_sub(count);
        let released = if *pinned == 0 { pins.remove(&id) } else { None };
        let is_last = pins.is_empty();
        drop(pins);
        // Not under the lock: dropping the guard may release other values that are pinned here.
        drop(released);
        if is_last {
            self.released.notify_waiters();
        }
    }

    /// Sets all pinned values aside, so that the end of the session does not release them.
    pub(in crate::remote) fn set_aside(&self) {
        let pinned = std::mem::take(&mut *self.pinned.lock());
        self.set_aside.lock().extend(pinned.into_values().map(|(guard, _)| guard));
    }

    /// Returns the values that were set aside.
    pub(in crate::remote) fn take_set_aside(&self) -> Vec<Arc<PayloadGuard>> {
        std::mem::take(&mut self.set_aside.lock())
    }

    pub(in crate::remote) fn clear(&self) {
        let pins = std::mem::take(&mut *self.pinned.lock());
        drop(pins);
        self.released.notify_waiters();
    }
}
