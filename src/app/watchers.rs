//! Processes that watch the state of the App (feature `remote`).

use super::control::Control;
use super::hosts::SharedHead;

/// Sends each new state to the processes that watch the App.
pub(super) async fn show_watchers(control: Control, head: SharedHead) {
    let mut changes = control.changes();
    while changes.changed().await.is_ok() {
        let version = *changes.borrow_and_update();
        let Some(head) = head.get().filter(|head| head.has_watchers()) else { continue };
        if let Ok(state) = control.state().await {
            head.show(version, state);
        }
    }
}
