//! The sending end of a streamed reply.
//!
//! # Guarantees
//! - A sender waits while as many items as the reader's window are on their way or wait to be read.
//! - The reader is told the end once: by [`StreamSender::finish`] or [`StreamSender::fail`], when the sender is dropped, or
//!   when the incarnation ends whose handler has made the stream. Only the first of these makes the stream complete.
//! - A sender is woken when nobody reads any more.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Poll;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use super::caller::StreamCaller;
use super::end::End;
use super::message_counts::OpenStream;
use super::stream_ends::{ItemRefused, ItemSink, OfIncarnation, StreamEnd, StreamSource};
use super::stream_queue::wake;
use super::stream_window::{NotSent, SendWindow, TooMuchCredit};
use super::unsent::Unsent;
use crate::fence::{self, Fenced};

/// The reply of a handler that is a stream of items of type `T`, made by
/// [`WorkContext::stream`](crate::WorkContext::stream) together with the [`StreamSender`] for it, or by
/// [`WorkContext::stream_of`](crate::WorkContext::stream_of).
///
/// Its caller reads it by [`WorkAddr::stream`](crate::WorkAddr::stream); an `ask` does not compile.
#[must_use = "a handler returns it as its reply"]
pub struct Streamed<T>(PhantomData<fn(T)>);

impl<T> Streamed<T> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> fmt::Debug for Streamed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streamed")
    }
}

/// Error returned when an item of a streamed reply could not be sent.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StreamSendError<T> {
    /// Nobody reads the stream any more: the reader was dropped, or its process or node is lost. Or the incarnation has
    /// ended whose handler has made the stream, and the reader was told so.
    #[error("nobody reads the stream any more, or the incarnation that sends it has ended")]
    Closed(Unsent<T>),
    /// As many items as the reader's window are on their way or wait to be read. Retrying later is safe.
    #[error(
        "the window of the reader is full ({window} items wait to be read); wait for it with `send(…).await`, or read \
         with a larger `.window(…)`"
    )]
    Full {
        /// The window of the reader, in items.
        window: u32,
        /// The item that was not sent.
        item: Unsent<T>,
    },
    /// The item cannot be sent to the process of the reader: it is too large, or its `Serialize` fails. The reader was
    /// told so, and the stream has ended.
    #[error(
        "an item of the stream cannot be sent to the process of its reader, and the stream has ended: {why}"
    )]
    NotSent {
        /// Cause and remedy, as text.
        why: String,
    },
}

impl<T> StreamSendError<T> {
    /// Returns the item that was not sent, unless it is the reason for which the stream has ended.
    #[must_use = "the item was not sent"]
    pub fn into_item(self) -> Option<T> {
        match self {
            Self::Closed(item) | Self::Full { item, .. } => Some(item.into_inner()),
            Self::NotSent { .. } => None,
        }
    }
}

impl<T> fmt::Debug for StreamSendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamSendError({self})")
    }
}

/// The sending end of a [streamed reply](crate::WorkContext::stream). It can be kept in a private field of the Work, or
/// moved to another task or thread.
///
/// [`finish`](Self::finish) makes the stream complete. Dropped before, the reader gets
/// [`StreamError::Unfinished`](crate::StreamError::Unfinished) behind the items that were sent. When the incarnation ends
/// whose handler has made the stream, the reader gets [`StreamError::Ended`](crate::StreamError::Ended), wherever the
/// sender was moved.
#[must_use = "the reader gets an error if this is dropped without `finish`"]
pub struct StreamSender<T: 'static> {
    /// `None` without a reader.
    outlet: Option<Arc<Outlet<T>>>,
}

/// The sending end of a stream, shared by its [`StreamSender`] and by those that close it.
struct Outlet<T> {
    window: Mutex<SendWindow>,
    /// The direction of the reader, until the stream is closed.
    to: Mutex<Option<Direction<T>>>,
}

struct Direction<T> {
    sink: Arc<dyn ItemSink<T>>,
    _counted: OpenStream,
}

impl<T: 'static> Outlet<T> {
    /// Returns the direction of the reader, unless the stream is closed.
    fn sink(&self) -> Option<Arc<dyn ItemSink<T>>> {
        self.to.lock().as_ref().map(|to| to.sink.clone())
    }

    fn is_closed(&self) -> bool {
        self.window.lock().is_closed()
    }

    /// Ends the stream, unless it has ended or nobody reads it.
    fn end(&self, end: StreamEnd) {
        let (is_first, sender) = self.window.lock().end();
        let to = self.to.lock().take();
        if let Some(to) = to.filter(|_| is_first) {
            to.sink.end(end);
        }
        wake(sender);
    }

    async fn ready(&self) -> Result<Arc<dyn ItemSink<T>>, NotSent> {
        loop {
            poll_fn(|cx| self.window.lock().poll_ready(cx)).await?;
            let sink = self.sink().ok_or(NotSent::Closed)?;
            if sink.has_room() {
                return Ok(sink);
            }
            if !sink.room().await {
                return Err(NotSent::Closed);
            }
        }
    }

    /// Sends an item, for which there is room in `sink`.
    fn send(&self, sink: &dyn ItemSink<T>, item: T) -> Result<(), StreamSendError<T>> {
        let (spent, window) = {
            let mut window = self.window.lock();
            (window.spend(), window.window())
        };
        match spent {
            Ok(()) => {}
            Err(NotSent::Closed) => return Err(StreamSendError::Closed(Unsent::new(item))),
            Err(NotSent::NoCredit) => {
                return Err(StreamSendError::Full { window, item: Unsent::new(item) });
            }
        }
        match sink.item(item) {
            // An item that nobody reads any more was sent too late: the next one is refused.
            Ok(()) | Err(ItemRefused::Closed | ItemRefused::Overrun) => Ok(()),
            Err(ItemRefused::NotSent(why)) => {
                self.end(StreamEnd::NotSent(why.clone()));
                Err(StreamSendError::NotSent { why })
            }
        }
    }
}

impl<T: 'static> StreamSource for Outlet<T> {
    fn grant(&self, more: u32) -> Result<(), TooMuchCredit> {
        let sender = self.window.lock().grant(more)?;
        wake(sender);
        Ok(())
    }

    fn leave(&self) {
        let sender = self.window.lock().leave();
        drop(self.to.lock().take());
        wake(sender);
    }
}

impl<T: 'static> OfIncarnation for Outlet<T> {
    fn incarnation_ended(&self, end: &End) {
        self.end(StreamEnd::Ended(end.clone()));
    }
}

/// Opens a stream to the caller, if there is one. Returns what is to be told when the incarnation ends.
pub(super) fn open<T: Send + 'static>(
    caller: Option<Box<dyn StreamCaller<T>>>,
    counted: impl FnOnce() -> OpenStream,
) -> (StreamSender<T>, Option<Arc<dyn OfIncarnation>>) {
    let Some(caller) = caller else { return (StreamSender { outlet: None }, None) };
    let outlet =
        Arc::new(Outlet { window: Mutex::new(SendWindow::new(caller.window())), to: Mutex::new(None) });
    let sink = caller.open(outlet.clone());
    *outlet.to.lock() = Some(Direction { sink, _counted: counted() });
    // The reader may have gone while the stream was opened.
    if outlet.is_closed() {
        drop(outlet.to.lock().take());
    }
    (StreamSender { outlet: Some(outlet.clone()) }, Some(outlet))
}

impl<T: Send + 'static> StreamSender<T> {
    /// Sends an item. Waits while the window of the reader is full, and while the connection to the process of the reader
    /// has no room.
    ///
    /// For a reader in another process the item is encoded on the calling thread.
    ///
    /// # Cancel safety
    /// A future that is dropped before it completes does not send the item.
    ///
    /// # Errors
    /// [`StreamSendError`], but never [`StreamSendError::Full`].
    pub async fn send(&mut self, item: T) -> Result<(), StreamSendError<T>> {
        let item = Fenced::new(item);
        let closed = |item: Fenced<T>| StreamSendError::Closed(Unsent::new(item.into_inner()));
        let Some(outlet) = &self.outlet else { return Err(closed(item)) };
        // A reader on another thread that is as fast as this sender must not keep other tasks of this thread waiting.
        tokio::task::consume_budget().await;
        match outlet.ready().await {
            Ok(sink) => outlet.send(&*sink, item.into_inner()),
            Err(_) => Err(closed(item)),
        }
    }

    /// Sends an item if there is room for it now.
    ///
    /// # Errors
    /// [`StreamSendError`]; [`StreamSendError::Full`] if it would have to wait.
    pub fn try_send(&mut self, item: T) -> Result<(), StreamSendError<T>> {
        let Some((outlet, sink)) = self.outlet.as_ref().and_then(|outlet| Some((outlet, outlet.sink()?)))
        else {
            return Err(StreamSendError::Closed(Unsent::new(item)));
        };
        if !sink.has_room() {
            let window = outlet.window.lock().window();
            return Err(StreamSendError::Full { window, item: Unsent::new(item) });
        }
        outlet.send(&*sink, item)
    }

    /// Sends all items of `items`, then finishes the stream. Returns early, and drops `items`, once nobody reads any more.
    ///
    /// A panic of `items` ends the stream with [`StreamError::Failed`](crate::StreamError::Failed).
    ///
    /// # Cancel safety
    /// A future that is dropped drops the sender, and the stream is not complete.
    pub async fn send_all(mut self, items: impl Stream<Item = T>) {
        let mut items = Fenced::new(Box::pin(items));
        loop {
            let next = poll_fn(|cx| {
                if self.poll_closed(cx).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                match fence::call(|| items.poll_next_unpin(cx)) {
                    Ok(next) => next.map(Ok),
                    Err(panic) => Poll::Ready(Err(panic)),
                }
            });
            match next.await {
                Ok(Some(item)) => {
                    if self.send(item).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return self.finish(),
                Err(panic) => return self.fail(format!("the source of the stream panicked: {panic}")),
            }
        }
    }

    /// Completes the stream.
    pub fn finish(self) {
        self.end(StreamEnd::Complete);
    }

    /// Ends the stream with an error: its reader gets [`StreamError::Failed`](crate::StreamError::Failed) with this text.
    pub fn fail(self, why: impl Into<String>) {
        self.end(StreamEnd::Failed(why.into()));
    }
}

impl<T: 'static> StreamSender<T> {
    /// Returns true once nothing can be sent any more: the reader was dropped, its process or node is lost, or the
    /// incarnation has ended whose handler has made the stream. For a `tell`, which has no reader, it is always true.
    ///
    /// The reader in another process is told to be gone by a message, so that this may stay false for a moment, and for
    /// up to the grace period if its node does not answer.
    pub fn is_closed(&self) -> bool {
        self.outlet.as_ref().is_none_or(|outlet| outlet.is_closed())
    }

    /// Waits until nothing can be sent any more, as [`is_closed`](Self::is_closed) tells.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn closed(&mut self) {
        poll_fn(|cx| self.poll_closed(cx)).await;
    }

    fn poll_closed(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        self.outlet.as_ref().map_or(Poll::Ready(()), |outlet| outlet.window.lock().poll_closed(cx))
    }

    fn end(mut self, end: StreamEnd) {
        if let Some(outlet) = self.outlet.take() {
            outlet.end(end);
        }
    }
}

impl<T: 'static> Drop for StreamSender<T> {
    fn drop(&mut self) {
        if let Some(outlet) = self.outlet.take() {
            outlet.end(StreamEnd::Unfinished);
        }
    }
}

impl<T: 'static> fmt::Debug for StreamSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSender").field("is_closed", &self.is_closed()).finish()
    }
}
