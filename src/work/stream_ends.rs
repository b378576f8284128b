//! The interfaces between the two ends of a streamed reply, which may be in different processes, and to processes that
//! pass its items on.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::end::End;
use super::stream_window::TooMuchCredit;
use crate::payload::PayloadGuards;

/// The end of a stream, as its reader is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StreamEnd {
    /// All items were sent.
    Complete,
    /// The sender has ended the stream with an error, which is this text.
    Failed(String),
    /// The sender was dropped.
    Unfinished,
    /// The incarnation that had sent the stream has ended.
    Ended(End),
    /// The process of the sender is lost.
    NodeLost,
    /// An item could not be sent to the process of the reader, for this reason.
    NotSent(String),
}

/// Reason why an item was not passed on.
#[derive(Debug)]
pub(crate) enum ItemRefused {
    /// The sender had no credit for it.
    Overrun,
    /// Nobody reads the stream any more, or the reader was told that it has ended.
    Closed,
    /// It cannot be sent to the process of the reader, for this reason.
    NotSent(String),
}

/// The direction of the reader, for code that does not know the type of the items.
pub(crate) trait StreamSink: Send + Sync {
    /// Passes an encoded item on, which refers to the values of `holds`.
    ///
    /// # Errors
    /// [`ItemRefused`].
    fn item(&self, bytes: &[u8], holds: PayloadGuards) -> Result<(), ItemRefused>;

    /// Tells the reader that no more items follow. A second end is ignored.
    fn end(&self, end: StreamEnd);

    /// Returns true if an item can be passed on without waiting.
    fn has_room(&self) -> bool {
        true
    }

    /// Waits until items can be passed on; false if that is never so again.
    fn room(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }
}

/// The direction of the reader, for the sender of items of type `T`.
pub(super) trait ItemSink<T>: Send + Sync {
    /// Sends an item for which there is credit.
    ///
    /// # Errors
    /// [`ItemRefused`].
    fn item(&self, item: T) -> Result<(), ItemRefused>;

    /// As [`StreamSink::end`].
    fn end(&self, end: StreamEnd);

    /// As [`StreamSink::has_room`].
    fn has_room(&self) -> bool {
        true
    }

    /// As [`StreamSink::room`].
    fn room(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }
}

/// The direction of the sender.
pub(crate) trait StreamSource: Send + Sync {
    /// Grants credit for `more` items.
    ///
    /// # Errors
    /// [`TooMuchCredit`] if that exceeds the window.
    fn grant(&self, more: u32) -> Result<(), TooMuchCredit>;

    /// Tells the sender that nobody reads the stream any more.
    fn leave(&self);
}

/// A stream or subscription that ends with its incarnation.
pub(super) trait OfIncarnation: Send + Sync {
    /// Tells all who take part in it that the incarnation has ended.
    fn incarnation_ended(&self, end: &End);
}
