//! The items of a streamed reply that wait to be read, in the process of the reader.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stream_ends::{ItemRefused, ItemSink, StreamEnd, StreamSink, StreamSource};
use super::stream_window::{NotQueued, ReadWindow};
use crate::fence::Fenced;
use crate::payload::PayloadGuards;
use crate::wire::{self, CodecError};

/// Reason why a stream is not complete.
#[derive(Debug)]
pub(super) enum Incomplete {
    End(StreamEnd),
    /// An item cannot be decoded.
    BadItem(CodecError),
}

/// The items that wait to be read.
pub(super) struct StreamQueue<T>(Mutex<ReadWindow<Fenced<T>, Incomplete>>);

impl<T> StreamQueue<T> {
    pub(super) fn new(window: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(ReadWindow::new(window))))
    }

    fn push(&self, item: Fenced<T>) -> Result<(), ItemRefused> {
        let pushed = self.0.lock().item(item);
        match pushed {
            Ok(reader) => {
                wake(reader);
                Ok(())
            }
            Err(NotQueued::Overrun(_)) => Err(ItemRefused::Overrun),
            Err(NotQueued::Late(_)) => Err(ItemRefused::Closed),
        }
    }

    fn end_with(&self, end: Result<(), Incomplete>) {
        let reader = self.0.lock().end(end);
        wake(reader);
    }

    fn told(&self, end: StreamEnd) {
        self.end_with(if end == StreamEnd::Complete { Ok(()) } else { Err(Incomplete::End(end)) });
    }
}

/// Wakes a task, outside of the lock: a waker may be code of the user.
pub(super) fn wake(task: Option<Waker>) {
    if let Some(task) = task {
        task.wake();
    }
}

impl<T: Send> ItemSink<T> for StreamQueue<T> {
    fn item(&self, item: T) -> Result<(), ItemRefused> {
        self.push(Fenced::new(item))
    }

    fn end(&self, end: StreamEnd) {
        self.told(end);
    }
}

impl<T: DeserializeOwned + Send> StreamSink for StreamQueue<T> {
    fn item(&self, bytes: &[u8], _holds: PayloadGuards) -> Result<(), ItemRefused> {
        match wire::decode(bytes) {
            Ok(item) => self.push(Fenced::new(item)),
            Err(error) => {
                self.end_with(Err(Incomplete::BadItem(error)));
                Err(ItemRefused::Closed)
            }
        }
    }

    fn end(&self, end: StreamEnd) {
        self.told(end);
    }
}

/// The reading end of a stream. Dropped, it tells the sender that nobody reads any more.
pub(super) struct Incoming<T> {
    queue: Arc<StreamQueue<T>>,
    source: Arc<dyn StreamSource>,
}

impl<T> Incoming<T> {
    pub(super) fn new(queue: Arc<StreamQueue<T>>, source: Arc<dyn StreamSource>) -> Self {
        Self { queue, source }
    }

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Incomplete>>> {
        let (next, more) = {
            let mut window = self.queue.0.lock();
            (window.poll_next(cx), window.take_grant())
        };
        if let Some(more) = more {
            // Never more than the sender has spent.
            let _ = self.source.grant(more);
        }
        next.map(|next| next.map(|item| item.map(Fenced::into_inner)))
    }

    /// Returns true once the end was read.
    pub(super) fn is_over(&self) -> bool {
        self.queue.0.lock().is_over()
    }
}

impl<T> Drop for Incoming<T> {
    fn drop(&mut self) {
        let (items, was_open) = self.queue.0.lock().leave();
        if was_open {
            self.source.leave();
        }
        // Outside of the lock: the `Drop` of an item is code of the user.
        drop(items);
    }
}

/// Encodes the items for a reader in another process.
pub(super) struct EncodingSink {
    pub(super) to: Arc<dyn StreamSink>,
}

impl<T: Serialize> ItemSink<T> for EncodingSink {
    fn item(&self, item: T) -> Result<(), ItemRefused> {
        let item = Fenced::new(item);
        wire::with_buffer(|buffer| {
            let (encoded, holds) = crate::payload::collect(|| wire::encode_into(&*item, buffer));
            match encoded {
                Ok(()) => self.to.item(buffer, holds),
                Err(error) => Err(ItemRefused::NotSent(error.to_string())),
            }
        })
    }

    fn end(&self, end: StreamEnd) {
        self.to.end(end);
    }

    fn has_room(&self) -> bool {
        self.to.has_room()
    }

    fn room(&self) -> futures::future::BoxFuture<'_, bool> {
        self.to.room()
    }
}
