//! The receiving end of a mailbox, which takes messages in batches.

use std::any::TypeId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::super::end::{End, EndKind};
use super::super::envelope::BoxedEnvelope;
use super::super::stream_ends::OfIncarnation;
use super::super::watch::Watch;
use super::super::{Command, Work};
use super::Mailbox;
use super::watches::answer;

/// An item received from a mailbox.
pub(crate) enum Mail<W> {
    Command(Command),
    Message(BoxedEnvelope<W>),
}

/// The receiving end of a mailbox. Only the receiver of the current incarnation gets messages; an older one gets an
/// order to stop.
pub(crate) struct Receiver<W: Work> {
    mailbox: Arc<Mailbox<W>>,
    incarnation: u64,
}

impl<W: Work> Receiver<W> {
    pub(crate) fn new(mailbox: Arc<Mailbox<W>>, incarnation: u64) -> Self {
        Self { mailbox, incarnation }
    }

    /// Answers the watches of this incarnation.
    pub(crate) fn ended(&self, end: &End) {
        self.mailbox.ended(self.incarnation, end);
    }

    /// Keeps a watch for this incarnation.
    pub(crate) fn keep_watch(&self, watch: Box<Watch<W>>) {
        if let Err(watch) = self.mailbox.keep_watch(watch, Some(self.incarnation)) {
            watch.answer(&End::of(EndKind::Killed));
        }
    }

    /// Has a stream or subscription told when this incarnation ends.
    pub(crate) fn keep_with_incarnation(&self, ends: &Arc<dyn OfIncarnation>) {
        self.mailbox.keep_with_incarnation(ends, self.incarnation);
    }

    /// Returns the number of the incarnation.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn mailbox(&self) -> &Arc<Mailbox<W>> {
        &self.mailbox
    }

    /// Takes the next waiting command; commands go before messages.
    pub(crate) fn command(&mut self) -> Option<Command> {
        if !self.mailbox.commanded.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.mailbox.inner.lock();
        if inner.incarnation != self.incarnation {
            return Some(Command::Stop);
        }
        let command = inner.commands.pop_front();
        if inner.commands.is_empty() {
            // Freed, to keep idle Works small.
            inner.commands = VecDeque::new();
            self.mailbox.commanded.store(false, Ordering::Release);
        }
        command
    }

    /// Polls for the next command. Messages stay in the mailbox and do not wake the task.
    pub(crate) fn poll_command(&mut self, cx: &mut Context<'_>) -> Poll<Command> {
        let mut inner = self.mailbox.inner.lock();
        if inner.incarnation != self.incarnation {
            return Poll::Ready(Command::Stop);
        }
        if let Some(command) = inner.commands.pop_front() {
            return Poll::Ready(command);
        }
        self.mailbox.commanded.store(false, Ordering::Release);
        match &mut inner.listener {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Mail<W>> {
        if let Some(command) = self.command() {
            return Poll::Ready(Mail::Command(command));
        }
        loop {
            let mail = self.poll_mailbox(cx, None).map(|mail| mail.expect("a message of any type is taken"));
            let Poll::Ready(Mail::Message(envelope)) = mail else { return mail };
            if let Some(envelope) = self.mailbox.unless_abandoned(envelope) {
                return Poll::Ready(Mail::Message(envelope));
            }
        }
    }

    /// Polls for the next message if it is of this type. Returns `None` if it is of another type, or a command waits:
    /// both stay where they are.
    pub(crate) fn poll_same(
        &mut self,
        message: TypeId,
        cx: &mut Context<'_>,
    ) -> Poll<Option<BoxedEnvelope<W>>> {
        if self.mailbox.commanded.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        loop {
            let mail = self.poll_mailbox(cx, Some(message));
            let Poll::Ready(Some(Mail::Message(envelope))) = mail else { return mail.map(|_| None) };
            if let Some(envelope) = self.mailbox.unless_abandoned(envelope) {
                return Poll::Ready(Some(envelope));
            }
        }
    }

    /// Polls for the next message or command, or for the next message if it has the type `only`. Returns `None` if it is
    /// not to be taken.
    fn poll_mailbox(&mut self, cx: &mut Context<'_>, only: Option<TypeId>) -> Poll<Option<Mail<W>>> {
        let mailbox = &*self.mailbox;
        // Those that are sent first go before the rest of a batch.
        let is_overtaken = mailbox.has_first.load(Ordering::Acquire);
        let is_other = |next: &BoxedEnvelope<W>| only.is_some_and(|only| next.message_type() != only);
        if mailbox.has_batch.load(Ordering::Acquire) {
            let mut batch = mailbox.batch.lock();
            if batch.incarnation != self.incarnation {
                return Poll::Ready(Some(Mail::Command(Command::Stop)));
            }
            if !is_overtaken {
                if batch.messages.front().is_some_and(is_other) {
                    return Poll::Ready(None);
                }
                if let Some(envelope) = batch.messages.pop_front() {
                    if batch.messages.is_empty() {
                        mailbox.has_batch.store(false, Ordering::Release);
                    }
                    return Poll::Ready(Some(Mail::Message(envelope)));
                }
            }
        }
        let mut inner = mailbox.inner.lock();
        if inner.incarnation != self.incarnation {
            return Poll::Ready(Some(Mail::Command(Command::Stop)));
        }
        if is_overtaken {
            if inner.queue.has_first() {
                if inner.queue.front().is_some_and(is_other) {
                    return Poll::Ready(None);
                }
                let first = inner.queue.pop();
                mailbox.has_first.store(inner.queue.has_first(), Ordering::Release);
                let woken = inner.grant(mailbox.capacity());
                drop(inner);
                woken.into_iter().for_each(Waker::wake);
                return Poll::Ready(first.map(Mail::Message));
            }
            mailbox.has_first.store(false, Ordering::Release);
            drop(inner);
            return self.poll_mailbox(cx, only);
        }
        let is_cut = only.is_some() && !inner.commands.is_empty();
        if is_cut || inner.queue.is_here() && inner.queue.front().is_some_and(is_other) {
            return Poll::Ready(None);
        }
        inner.taken = 0;
        let first = if inner.queue.is_here() { inner.queue.pop() } else { None };
        if first.is_some() {
            let more = inner.queue.ready_for_batch().min(mailbox.largest_batch() - 1);
            if more > 0 {
                inner.taken = u16::try_from(more).expect("a batch is small");
                inner.queue.pop_into(&mut mailbox.batch.lock().messages, more);
                mailbox.has_batch.store(true, Ordering::Release);
            }
        } else if let Some(command) = inner.commands.pop_front() {
            return Poll::Ready(Some(Mail::Command(command)));
        } else {
            inner.is_gathering = only.is_some();
            match &mut inner.receiver {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        let woken = inner.grant(mailbox.capacity());
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
        first.map_or(Poll::Pending, |envelope| Poll::Ready(Some(Mail::Message(envelope))))
    }
}

impl<W: Work> Drop for Receiver<W> {
    fn drop(&mut self) {
        let mut inner = self.mailbox.inner.lock();
        if inner.incarnation == self.incarnation {
            inner.receiver = None;
            inner.listener = None;
            self.mailbox.unpop(&mut inner);
            inner.is_over = true;
            // An incarnation that reports its end has answered its watches by now.
            let watches = inner.watches.take();
            drop(inner);
            let kind = if std::thread::panicking() { EndKind::Panicked } else { EndKind::Killed };
            answer(watches, &End::of(kind));
        }
    }
}
