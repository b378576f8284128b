//! The demand of Works that wait for a node, which the hosts post and the fleet reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::work::{Demand, ReadyQueue};

/// The demand of waiting Works, and the reasons that the fleet gives for their waiting.
#[derive(Default)]
pub(super) struct DemandBoard {
    demand: Mutex<BTreeMap<Demand, usize>>,
    reasons: Mutex<BTreeMap<Demand, String>>,
    changed: Notify,
    /// True once the reasons have changed.
    is_told: AtomicBool,
    /// The queue that wakes the driver.
    ready_queue: OnceLock<Arc<ReadyQueue>>,
}

impl DemandBoard {
    /// Records how many Works wait, by what they need, or that a node has changed.
    pub(super) fn set(&self, demand: BTreeMap<Demand, usize>) {
        *self.demand.lock() = demand;
        self.changed.notify_one();
    }

    /// Takes the queue that wakes the driver when the fleet explains something.
    pub(super) fn rings(&self, ready_queue: &Arc<ReadyQueue>) {
        let _ = self.ready_queue.set(ready_queue.clone());
    }

    /// Returns true if the reasons have changed since the last call.
    pub(super) fn take_told(&self) -> bool {
        self.is_told.swap(false, Ordering::AcqRel)
    }

    /// Returns what the groups have to do with a Work that waits.
    pub(super) fn reason(&self, demand: &Demand) -> Option<String> {
        self.reasons.lock().get(demand).cloned()
    }

    /// Returns how many Works wait, by what they need.
    pub(super) fn demand(&self) -> BTreeMap<Demand, usize> {
        self.demand.lock().clone()
    }

    /// Resolves when the demand or a node has changed since the last call. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the reasons why Works wait, as far as the groups have to do with it, and wakes the driver if they differ.
    /// With `is_changed` it wakes the driver in any case.
    pub(super) fn explain(&self, reasons: BTreeMap<Demand, String>, is_changed: bool) {
        {
            let mut known = self.reasons.lock();
            if *known == reasons && !is_changed {
                return;
            }
            *known = reasons;
        }
        self.is_told.store(true, Ordering::Release);
        if let Some(ready_queue) = self.ready_queue.get() {
            ready_queue.ring_again();
        }
    }
}
