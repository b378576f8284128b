//! The end of a mailbox at which its Work takes messages out, in batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::super::message::{Envelope, Outcome};
use super::super::{Command, Work};
use super::Mailbox;

/// What an incarnation finds in its mailbox.
pub(crate) enum Mail<W> {
    Command(Command),
    Message(Envelope<W>),
}

/// The receiving end, of which the living incarnation has the only one.
pub(crate) struct Receiver<W: Work> {
    mailbox: Arc<Mailbox<W>>,
    batch: VecDeque<Envelope<W>>,
    incarnation: u64,
}

impl<W: Work> Receiver<W> {
    pub(crate) fn new(mailbox: Arc<Mailbox<W>>, incarnation: u64) -> Self {
        Self { mailbox, batch: VecDeque::new(), incarnation }
    }

    pub(crate) fn mailbox(&self) -> &Arc<Mailbox<W>> {
        &self.mailbox
    }

    /// A command that waits; commands go before messages.
    pub(crate) fn command(&mut self) -> Option<Command> {
        if !self.mailbox.commanded.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.mailbox.lock();
        if inner.incarnation != self.incarnation {
            return Some(Command::Stop);
        }
        let command = inner.commands.pop_front();
        if inner.commands.is_empty() {
            self.mailbox.commanded.store(false, Ordering::Release);
        }
        command
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Mail<W>> {
        if let Some(command) = self.command() {
            return Poll::Ready(Mail::Command(command));
        }
        if let Some(envelope) = self.batch.pop_front() {
            return Poll::Ready(Mail::Message(envelope));
        }
        let mut inner = self.mailbox.lock();
        if inner.incarnation != self.incarnation {
            return Poll::Ready(Mail::Command(Command::Stop));
        }
        inner.taken = 0;
        let first = inner.messages.pop_front();
        if first.is_some() {
            let more = inner.messages.len().min(self.mailbox.batch - 1);
            inner.taken = more;
            if more > 0 && more == inner.messages.len() {
                std::mem::swap(&mut self.batch, &mut inner.messages);
            } else {
                self.batch.extend(inner.messages.drain(..more));
            }
        } else if let Some(command) = inner.commands.pop_front() {
            return Poll::Ready(Mail::Command(command));
        } else {
            match &mut inner.receiver {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        let woken = if inner.waiting.is_empty() { Vec::new() } else { inner.grant(self.mailbox.capacity) };
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
        first.map_or(Poll::Pending, |envelope| Poll::Ready(Mail::Message(envelope)))
    }
}

impl<W: Work> Drop for Receiver<W> {
    fn drop(&mut self) {
        let mut inner = self.mailbox.lock();
        if inner.incarnation == self.incarnation {
            inner.receiver = None;
            inner.taken = 0;
        }
        let refused = match inner.closed {
            Some(why) => {
                std::mem::take(&mut self.batch).into_iter().map(|envelope| (envelope, why)).collect()
            }
            None => {
                while let Some(envelope) = self.batch.pop_back() {
                    inner.messages.push_front(envelope);
                }
                Vec::new()
            }
        };
        drop(inner);
        for (envelope, why) in refused {
            envelope.settle(Outcome::Refused(why));
        }
    }
}
