//! The decision about an incarnation that a node has kept while its head was started again (pure).
//!
//! # Guarantees
//! - An incarnation is adopted only if it is the one that the journal has as the living incarnation of its Work. So no
//!   incarnation is adopted twice, and a Work never has two.
//! - Every other incarnation ends.

use std::fmt;

/// Record of the Work of a kept incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected<'a> {
    /// Number of the living incarnation whose node has not returned yet; `None` if there is none.
    pub(crate) awaited: Option<u64>,
    /// Name of the type of the Work.
    pub(crate) work: &'a str,
    /// True if the Work may run on the node that has kept the incarnation.
    pub(crate) fits: bool,
}

/// Decision about a kept incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Adopt,
    /// It ends, and its Work continues without it.
    End(Unwanted),
    /// It ends, although the journal has it as the living incarnation: another one is launched.
    Replace(Unwanted),
}

/// Reason for the end of a kept incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unwanted {
    NoSuchWork,
    NotAlive,
    OtherIncarnation,
    OtherType,
    OtherPlace,
}

impl fmt::Display for Unwanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchWork => "the App has no such Work any more",
            Self::NotAlive => "the journal has no living incarnation of it",
            Self::OtherIncarnation => "the journal has another incarnation of it",
            Self::OtherType => "the Work at this path has another type",
            Self::OtherPlace => "the Work is placed elsewhere now",
        })
    }
}

/// Decides about the incarnation with number `incarnation`, of a Work of the type `work`, that a node has kept.
/// `expected` is `None` if the App has no Work at its path.
pub(crate) fn judge(expected: Option<Expected<'_>>, incarnation: u64, work: &str) -> Verdict {
    let Some(expected) = expected else { return Verdict::End(Unwanted::NoSuchWork) };
    match expected.awaited {
        None => Verdict::End(Unwanted::NotAlive),
        Some(awaited) if awaited != incarnation => Verdict::End(Unwanted::OtherIncarnation),
        Some(_) if expected.work != work => Verdict::Replace(Unwanted::OtherType),
        Some(_) if !expected.fits => Verdict::Replace(Unwanted::OtherPlace),
        Some(_) => Verdict::Adopt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the incarnation that the journal has as the living one is adopted, and only where its Work may run.
    #[test]
    fn only_the_awaited_incarnation_is_adopted() {
        let awaited = Expected { awaited: Some(7), work: "Train", fits: true };
        assert_eq!(judge(Some(awaited), 7, "Train"), Verdict::Adopt);
        for number in [6, 8] {
            assert_eq!(judge(Some(awaited), number, "Train"), Verdict::End(Unwanted::OtherIncarnation));
        }
        let adopted = Expected { awaited: None, ..awaited };
        assert_eq!(judge(Some(adopted), 7, "Train"), Verdict::End(Unwanted::NotAlive));
        assert_eq!(judge(None, 7, "Train"), Verdict::End(Unwanted::NoSuchWork));
        assert_eq!(judge(Some(awaited), 7, "Serve"), Verdict::Replace(Unwanted::OtherType));
        let elsewhere = Expected { fits: false, ..awaited };
        assert_eq!(judge(Some(elsewhere), 7, "Train"), Verdict::Replace(Unwanted::OtherPlace));
    }
}
