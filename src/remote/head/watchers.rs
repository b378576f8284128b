//! The processes that watch the state of the App.
//!
//! # Guarantees
//! - States conflate for a slow watcher, which does not delay the others: at most one waits for each watcher.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::bridge::Bridge;
use super::super::link::Link;
use super::super::protocol::Control;
use crate::state::Value;

/// The version of the App's state that a watcher is to be sent next.
type UnsentState = Arc<Mutex<Option<(u64, Arc<Value>)>>>;

/// A process that watches the state of the App.
struct Watcher {
    link: Arc<Link>,
    /// The newest state, while the session has no room for it. Older ones are conflated.
    waiting: UnsentState,
}

/// The watchers of an App.
pub(super) struct Watchers {
    bridge: Arc<Bridge>,
    all: Mutex<Vec<Watcher>>,
}

impl Watchers {
    pub(super) fn new(bridge: Arc<Bridge>) -> Self {
        Self { bridge, all: Mutex::default() }
    }

    pub(super) fn add(&self, link: &Arc<Link>) {
        self.all.lock().push(Watcher { link: link.clone(), waiting: Arc::default() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.lock().is_empty()
    }

    /// Sends the state of the App to its watchers. States conflate for a slow watcher, which does not delay the others.
    pub(super) fn show(&self, version: u64, shown: Value) {
        let shown = Arc::new(shown);
        let mut all = self.all.lock();
        all.retain(|watcher| !watcher.link.is_over());
        for Watcher { link, waiting } in &*all {
            let before = waiting.lock().replace((version, shown.clone()));
            if before.is_none() {
                let (link, waiting) = (link.clone(), waiting.clone());
                self.bridge.spawn(move || show_when_there_is_room(link, waiting));
            }
        }
    }
}

async fn show_when_there_is_room(link: Arc<Link>, waiting: UnsentState) {
    let is_over = !link.room().await;
    if let Some((version, state)) = waiting.lock().take()
        && !is_over
    {
        link.control(&Control::State { version, state: Arc::unwrap_or_clone(state) });
    }
}
