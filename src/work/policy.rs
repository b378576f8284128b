//! Where a Work lives, and the sizes of what it is given.

use serde::{Deserialize, Serialize};

/// Where a Work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Placement {
    /// A thread (an actix arbiter) of its own: code that blocks harms nobody else.
    #[default]
    Thread,
    /// One of a few threads that many light Works share: code in it must not block.
    Pool,
}

impl std::str::FromStr for Placement {
    type Err = UnknownPlacement;

    fn from_str(name: &str) -> Result<Self, UnknownPlacement> {
        match name {
            "thread" => Ok(Self::Thread),
            "pool" => Ok(Self::Pool),
            _ => Err(UnknownPlacement(name.to_owned())),
        }
    }
}

/// A placement of that name does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no placement; there are `thread` (a thread of its own) and `pool` (a few shared threads)")]
pub struct UnknownPlacement(String);

/// How many messages wait in a Work's mailbox before senders wait or are refused, unless
/// [`WorkRef::mailbox`](crate::WorkRef::mailbox) says otherwise.
pub const DEFAULT_MAILBOX: usize = 1024;

/// How large the encoded state of one Work may be, in bytes, unless the App says otherwise.
pub const DEFAULT_MAX_STATE_BYTES: usize = 1024 * 1024;
