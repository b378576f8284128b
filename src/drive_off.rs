//! The same interface in a program without the feature `drive`: there are no drives.

use crate::id::AppId;

/// Would say whose code runs on this thread, to find the drives of its App.
pub(crate) fn enter(_: Option<AppId>) -> Option<AppId> {
    None
}
