//! Stand-in for the module `drive` in a program without the feature `drive`: there are no drives.

use crate::id::AppId;

/// Does nothing. With the feature, it sets the App whose drives the code on this thread uses.
pub(crate) fn enter(_: Option<AppId>) -> Option<AppId> {
    None
}
