//! Stands in for the record of an App where the feature `journal` is off: nothing is recorded, and no effect waits.

use std::sync::Arc;

use tokio::sync::watch;

use super::Driver;
use crate::id::{FlowId, WorkId};

#[derive(Default)]
pub(super) struct Journaling;

impl Journaling {
    pub(super) fn is_on(&self) -> bool {
        false
    }

    pub(super) fn full(&self) -> watch::Receiver<Option<Arc<str>>> {
        watch::Sender::new(None).subscribe()
    }

    pub(super) fn is_durable(&self) -> bool {
        true
    }

    pub(super) fn touch_work(&mut self, _: WorkId) {}

    pub(super) fn touch_unhurried(&mut self, _: WorkId) {}

    pub(super) fn touch_flow(&mut self, _: FlowId) {}

    pub(super) fn forget_flow(&mut self, _: FlowId) {}

    pub(super) fn defer<E: FnOnce(&mut Driver) + 'static>(&mut self, effect: E) -> Option<E> {
        Some(effect)
    }

    pub(super) fn admit(&mut self, rung: Vec<WorkId>) -> Vec<WorkId> {
        rung
    }
}
