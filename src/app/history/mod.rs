//! Looking back: what the journal of an App tells about its past.
//!
//! Pure: what is here reads transactions and live data of a journal, whoever has opened it.
//!
//! # Guarantees
//! - A row that cannot be decoded becomes an event that says so; nothing panics, whatever a journal contains.

mod at;
mod diff;
mod events;
#[cfg(feature = "http")]
mod live;
mod paging;
mod tree;
mod why;
#[cfg(test)]
mod why_tests;

pub(crate) use self::at::At;
#[cfg(feature = "cli")]
pub(crate) use self::diff::differences;
pub(crate) use self::diff::{Diff, Difference, Side};
pub(crate) use self::events::Event;
#[cfg(feature = "cli")]
pub(crate) use self::events::What;
#[cfg(feature = "http")]
pub(crate) use self::live::{NoPast, Past};
pub(crate) use self::paging::{Page, Paging, Wanted};
pub(crate) use self::tree::state_tree;
pub(crate) use self::why::{Because, Chain, Tracing};
#[cfg(feature = "http")]
pub(crate) use self::why::{Cursor, NoCursor};
