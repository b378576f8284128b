//! The caller of an ask, or of a streamed reply, whose handler has begun.

use std::any::{Any, TypeId};
use std::sync::Arc;
use std::task::{Context, Poll};

use super::cycles::AskId;
use super::stream_ends::{ItemSink, StreamSource};
use crate::fence::Fenced;

/// The caller of an ask that is being handled. Dropped unanswered, it reports to the caller that the handler failed.
pub(super) trait Caller: Send {
    /// Returns true if the caller has given up: its timeout has passed, it was dropped, or its process is lost.
    fn is_gone(&self) -> bool;

    /// Polls for the moment at which the caller gives up. Wakes the last task that has polled.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns the id of an ask that a Work may await.
    fn ask(&self) -> Option<AskId>;

    /// Returns the caller itself, for a downcast to the type with which it was made.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;

    /// Returns the type of the value `V` that the caller awaits, or `Streamed<V>` if it awaits a stream.
    fn awaits(&self) -> TypeId;

    /// Returns the caller as a `Box<dyn AnswerTo<V>>`, or as a `Box<dyn StreamCaller<V>>` if it awaits a stream, for a
    /// downcast.
    fn into_answer_to(self: Box<Self>) -> Box<dyn Any>;
}

/// The caller of an ask that awaits a value of type `V`.
pub(super) trait AnswerTo<V>: Caller {
    /// Sends the reply to the caller.
    fn answer(self: Box<Self>, value: Fenced<V>);

    /// Tells the caller that the Work has dropped the reply.
    fn reply_dropped(self: Box<Self>);
}

/// The caller that awaits a stream of items of type `V`.
pub(super) trait StreamCaller<V>: Caller {
    /// Returns the window of the reader, in items.
    fn window(&self) -> u32;

    /// Opens the stream. `source` gets the credit of the reader.
    fn open(self: Box<Self>, source: Arc<dyn StreamSource>) -> Arc<dyn ItemSink<V>>;
}
