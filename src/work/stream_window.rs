//! The two ends of a streamed reply: credit, order and the end. The pure core: no sockets, threads or clocks.
//!
//! The reader grants credit, in items: its *window* at first, and more as it takes items. The sender spends one for each
//! item. So no more items than the window are on their way or wait to be read, and a slow reader holds back its sender
//! and nobody else. The scheme is that of the flow control of HTTP/2 (RFC 9113), with items in place of bytes.
//!
//! # Guarantees
//! - The reader gets the items in the order in which they were sent, and then the end, once.
//! - Credit is neither lost nor made: that of the sender, items on their way, items that wait to be read, and items that
//!   were read and for which no credit was granted yet are together the window.
//! - Neither end waits for the other without being woken.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// Default window of a streamed reply, in items, see [`Ask::window`](crate::Ask::window).
pub const DEFAULT_STREAM_WINDOW: u32 = 64;

/// Upper limit of a window, in items.
pub(crate) const LARGEST_WINDOW: u32 = 4096;

/// Error returned for more credit than the window of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMuchCredit;

/// The number of items that may still be sent.
#[derive(Debug)]
pub(crate) struct Credit {
    window: u32,
    left: u32,
}

impl Credit {
    pub(crate) fn new(window: u32) -> Self {
        let window = window.clamp(1, LARGEST_WINDOW);
        Self { window, left: window }
    }

    /// Spends credit for one item. Returns false if there is none.
    pub(crate) fn spend(&mut self) -> bool {
        let has_some = self.left > 0;
        self.left -= u32::from(has_some);
        has_some
    }

    /// Adds credit for `more` items.
    ///
    /// # Errors
    /// [`TooMuchCredit`] if that exceeds the window.
    pub(crate) fn grant(&mut self, more: u32) -> Result<(), TooMuchCredit> {
        if more > self.window - self.left {
            return Err(TooMuchCredit);
        }
        self.left += more;
        Ok(())
    }
}

/// State of the sending end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// Nobody reads any more.
    Unread,
    /// The end was sent.
    Ended,
}

/// Reason why no item can be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotSent {
    /// Nobody reads the stream any more, or it has ended.
    Closed,
    /// The reader has granted no credit.
    NoCredit,
}

/// The sending end of a stream.
#[derive(Debug)]
pub(super) struct SendWindow {
    credit: Credit,
    state: Sending,
    sender: Option<Waker>,
}

impl SendWindow {
    pub(super) fn new(window: u32) -> Self {
        Self { credit: Credit::new(window), state: Sending::Open, sender: None }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state != Sending::Open
    }

    /// Returns the window, in items.
    pub(super) fn window(&self) -> u32 {
        self.credit.window
    }

    /// Polls for credit, which is not spent.
    ///
    /// # Errors
    /// [`NotSent::Closed`].
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotSent>> {
        if self.is_closed() {
            return Poll::Ready(Err(NotSent::Closed));
        }
        if self.credit.left > 0 {
            return Poll::Ready(Ok(()));
        }
        self.register(cx);
        Poll::Pending
    }

    /// Polls for the moment from which on nothing can be sent.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_closed() {
            return Poll::Ready(());
        }
        self.register(cx);
        Poll::Pending
    }

    fn register(&mut self, cx: &mut Context<'_>) {
        match &mut self.sender {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Spends credit for one item, which is then to be sent.
    ///
    /// # Errors
    /// [`NotSent`]; the item must not be sent.
    pub(super) fn spend(&mut self) -> Result<(), NotSent> {
        if self.is_closed() {
            return Err(NotSent::Closed);
        }
        if self.credit.spend() { Ok(()) } else { Err(NotSent::NoCredit) }
    }

    /// Adds credit from the reader. Returns the task that waits for it.
    ///
    /// # Errors
    /// [`TooMuchCredit`] if the reader has granted more than its window.
    pub(super) fn grant(&mut self, more: u32) -> Result<Option<Waker>, TooMuchCredit> {
        self.credit.grant(more)?;
        Ok(self.sender.take())
    }

    /// Records that nobody reads any more. Returns the task that waits.
    pub(super) fn leave(&mut self) -> Option<Waker> {
        if self.state == Sending::Open {
            self.state = Sending::Unread;
        }
        self.sender.take()
    }

    /// Ends the stream. Returns true if the end is to be sent, and the task that waits.
    pub(super) fn end(&mut self) -> (bool, Option<Waker>) {
        let is_first = self.state == Sending::Open;
        self.state = Sending::Ended;
        (is_first, self.sender.take())
    }
}

/// Error returned for an item that is not queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotQueued<T> {
    /// The sender had no credit for it.
    Overrun(T),
    /// The stream has ended, or nobody reads it any more.
    Late(T),
}

/// The reading end of a stream. `E` says why a stream is not complete.
#[derive(Debug)]
pub(super) struct ReadWindow<T, E> {
    /// Credit that the sender has not spent yet.
    credit: Credit,
    items: VecDeque<T>,
    /// Number of items that were taken and for which no credit has been granted yet.
    owed: u32,
    state: Reading<E>,
    reader: Option<Waker>,
}

#[derive(Debug)]
enum Reading<E> {
    Open,
    /// The end has arrived, and the reader has not seen it.
    Ending(Result<(), E>),
    /// The reader has seen the end, or has gone.
    Over,
}

impl<T, E> ReadWindow<T, E> {
    pub(super) fn new(window: u32) -> Self {
        Self {
            credit: Credit::new(window),
            items: VecDeque::new(),
            owed: 0,
            state: Reading::Open,
            reader: None,
        }
    }

    /// Queues an item that has arrived. Returns the task that waits for it.
    ///
    /// # Errors
    /// [`NotQueued`] with the item.
    pub(super) fn item(&mut self, item: T) -> Result<Option<Waker>, NotQueued<T>> {
        if !matches!(self.state, Reading::Open) {
            return Err(NotQueued::Late(item));
        }
        if !self.credit.spend() {
            return Err(NotQueued::Overrun(item));
        }
        self.items.push_back(item);
        Ok(self.reader.take())
    }

    /// Records the end, which goes behind the items that wait. A second one is ignored. Returns the task that waits.
    pub(super) fn end(&mut self, end: Result<(), E>) -> Option<Waker> {
        if matches!(self.state, Reading::Open) {
            self.state = Reading::Ending(end);
        }
        self.reader.take()
    }

    /// Polls for the next item, or for the end: `None` once the stream is over.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, E>>> {
        if let Some(item) = self.items.pop_front() {
            self.owed += 1;
            return Poll::Ready(Some(Ok(item)));
        }
        match std::mem::replace(&mut self.state, Reading::Over) {
            Reading::Open => {
                self.state = Reading::Open;
                match &mut self.reader {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Reading::Ending(Ok(())) | Reading::Over => Poll::Ready(None),
            Reading::Ending(Err(error)) => Poll::Ready(Some(Err(error))),
        }
    }

    /// Returns the credit to grant to the sender now: for many items at once, since it costs a message.
    pub(super) fn take_grant(&mut self) -> Option<u32> {
        let is_due = self.owed >= (self.credit.window / 4).max(1) && matches!(self.state, Reading::Open);
        if !is_due {
            return None;
        }
        let more = std::mem::take(&mut self.owed);
        self.credit.grant(more).ok()?;
        Some(more)
    }

    /// Returns true once the reader has seen the end, or has gone.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, Reading::Over)
    }

    /// Records that the reader has gone. Returns the items that it has not read, and whether the sender is to be told.
    pub(super) fn leave(&mut self) -> (VecDeque<T>, bool) {
        let was_open = matches!(self.state, Reading::Open);
        self.state = Reading::Over;
        self.reader = None;
        (std::mem::take(&mut self.items), was_open)
    }
}

#[cfg(test)]
#[path = "stream_window_tests.rs"]
mod tests;
