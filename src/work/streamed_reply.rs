//! The reading end of a streamed reply.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::stream::FusedStream;

use super::end::End;
use super::stream_ends::StreamEnd;
use super::stream_queue::{Incoming, Incomplete};
use crate::id::ActorPath;
use crate::wire::CodecError;

/// The items of a streamed reply, made by [`WorkAddr::stream`](crate::WorkAddr::stream): a [`Stream`] of `Result`s.
///
/// It yields the items in the order in which they were sent. A stream that is complete ends with `None`; one that is not
/// yields one [`StreamError`] before, behind the items that have arrived. So a stream that breaks off is never taken for
/// a complete one.
///
/// Items are sent ahead of the reader, up to its [window](crate::Ask::window). Reading grants the sender more.
///
/// Dropping it tells the sender that nobody reads any more, also in another process, and discards the items that wait.
///
/// # Cancel safety
/// The futures of `next` and the like lose no item when they are dropped.
#[must_use = "the sender waits until its items are read; dropping this ends the stream"]
pub struct StreamedReply<T> {
    path: ActorPath,
    incoming: Incoming<T>,
}

impl<T> StreamedReply<T> {
    pub(super) fn new(path: ActorPath, incoming: Incoming<T>) -> Self {
        Self { path, incoming }
    }

    /// Returns the path of the Work that sends the stream.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }
}

impl<T> Stream for StreamedReply<T> {
    type Item = Result<T, StreamError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // A sender on another thread that is as fast as this reader must not keep other tasks of this thread waiting.
        ready!(pin!(tokio::task::consume_budget()).poll(cx));
        let next = self.incoming.poll_next(cx);
        next.map(|next| next.map(|item| item.map_err(|error| StreamError::of(&self.path, error))))
    }
}

impl<T> FusedStream for StreamedReply<T> {
    fn is_terminated(&self) -> bool {
        self.incoming.is_over()
    }
}

impl<T> fmt::Debug for StreamedReply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedReply").field("work", &self.path).finish_non_exhaustive()
    }
}

/// Error that ends a streamed reply which is not complete. The items before it are valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The Work has ended the stream with an error, by [`StreamSender::fail`](crate::StreamSender::fail).
    #[error("work `{path}` has ended the stream with an error: {why}")]
    Failed {
        /// Path of the Work.
        path: String,
        /// The text that the Work has given.
        why: String,
    },
    /// The [`StreamSender`](crate::StreamSender) was dropped before it was finished, as by a handler that panics.
    #[error("work `{path}` has dropped the sender of the stream before the stream was complete")]
    Unfinished {
        /// Path of the Work.
        path: String,
    },
    /// The incarnation that sent the stream has ended. The next one does not continue it.
    #[error(
        "the incarnation of work `{path}` that sent the stream has ended before the stream was complete: {end}"
    )]
    Ended {
        /// Path of the Work.
        path: String,
        /// The way in which it ended.
        end: End,
    },
    /// The node or process of the Work is lost.
    #[error("the node that hosted work `{path}` was lost before the stream was complete")]
    NodeLost {
        /// Path of the Work.
        path: String,
    },
    /// An item could not be sent to this process: it is too large, or its `Serialize` fails.
    #[error("an item of the stream of work `{path}` could not be sent: {why}")]
    NotSent {
        /// Path of the Work.
        path: String,
        /// Cause and remedy, as text.
        why: String,
    },
    /// An item has arrived from another process and cannot be decoded.
    #[error("an item of the stream of work `{path}` cannot be read: {error}")]
    BadItem {
        /// Path of the Work.
        path: String,
        /// The error of decoding the item.
        error: CodecError,
    },
}

impl StreamError {
    fn of(path: &ActorPath, why: Incomplete) -> Self {
        let path = path.to_string();
        match why {
            Incomplete::BadItem(error) => Self::BadItem { path, error },
            Incomplete::End(StreamEnd::Failed(why)) => Self::Failed { path, why },
            Incomplete::End(StreamEnd::Ended(end)) => Self::Ended { path, end },
            Incomplete::End(StreamEnd::NodeLost) => Self::NodeLost { path },
            Incomplete::End(StreamEnd::NotSent(why)) => Self::NotSent { path, why },
            Incomplete::End(StreamEnd::Unfinished | StreamEnd::Complete) => Self::Unfinished { path },
        }
    }
}
