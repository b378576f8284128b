//! Fencing tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that grows with each incarnation of a Work, for systems that refuse a lower one than they have seen.
///
/// An incarnation that was given up may still execute for a while, on a node that is cut off for instance. A system that
/// remembers the largest token it was given, and refuses smaller ones, is not changed by it any more. Tokens are ordered
/// by `epoch` first and `incarnation` second; the tokens of one Work, and of a Work that joins later at its path, only
/// grow.
///
/// Without a journal the epoch is 0, and the numbers begin again when the App is started again: tokens are comparable
/// within one life of the App only.
///
/// ```
/// use flowright::prelude::*;
/// use flowright::FencingToken;
///
/// # struct Store;
/// # impl Store { fn write(&mut self, _: FencingToken, _: &str) -> Result<()> { Ok(()) } }
/// # fn f<W: Work>(store: &mut Store, cx: &WorkContext<W>) -> Result<()> {
/// store.write(cx.fencing_token(), "the newest weights")?;
/// # Ok(())
/// # }
/// assert!(FencingToken { epoch: 1, incarnation: 9 } < FencingToken { epoch: 2, incarnation: 1 });
/// assert_eq!(FencingToken { epoch: 2, incarnation: 1 }.to_string(), "2-1");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FencingToken {
    /// Number of the life of the App, which its journal counts; 0 without a journal.
    pub epoch: u64,
    /// Number of the incarnation, in the order in which the App has launched incarnations of all its Works.
    pub incarnation: u64,
}

/// The bits of the number of an incarnation below those of the epoch.
const WITHIN_EPOCH: u32 = 40;

impl FencingToken {
    /// Returns the token as one number, which is ordered as the token is.
    pub(crate) fn number(self) -> u64 {
        self.epoch << WITHIN_EPOCH | self.incarnation
    }

    /// Returns the token with this number.
    #[cfg(feature = "remote")]
    pub(crate) fn numbered(number: u64) -> Self {
        Self { epoch: number >> WITHIN_EPOCH, incarnation: number & ((1 << WITHIN_EPOCH) - 1) }
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.incarnation)
    }
}
