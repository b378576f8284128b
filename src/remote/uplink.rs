//! The session of a node with its head, which another one replaces when the head is started again.

use std::sync::Arc;

use parking_lot::RwLock;

use super::link::Link;

pub(super) struct Uplink(RwLock<Arc<Link>>);

impl Uplink {
    pub(super) fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(link)))
    }

    /// Returns the session with the head as it is now.
    pub(super) fn link(&self) -> Arc<Link> {
        self.0.read().clone()
    }

    pub(super) fn replace(&self, link: Arc<Link>) {
        let before = std::mem::replace(&mut *self.0.write(), link);
        drop(before);
    }
}
