//! Watches: questions that are answered by the end of an incarnation.
//!
//! A watch travels to the Work as an ask does. The mailbox of the incarnation keeps it outside of the queue, so that it
//! neither takes room nor waits for a busy Work, and answers it when the incarnation ends.

use std::any::{Any, TypeId};
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::BytesMut;
use futures::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::dead_letters::SenderId;
pub(crate) use super::end::WATCH;
use super::end::{End, EndKind};
use super::envelope::{AnyEnvelope, BoxedEnvelope, Deliver, NoReply, Outcome, Reply};
use super::mailbox::CloseReason;
use super::outbox::Report;
use super::route::Origin;
use super::status::{Failure, Reason};
use super::{Work, WorkContext};
use crate::payload::PayloadGuards;
use crate::trace::Cause;
use crate::wire::{self, CodecError};

impl End {
    /// Returns the end that an incarnation reports.
    pub(super) fn reported(report: &Report) -> Self {
        let failure = match report {
            Report::Stopped { failure } => failure.as_ref(),
            Report::Died { failure } => Some(failure),
            _ => None,
        };
        match failure {
            None => Self::of(EndKind::Stopped),
            Some(Failure { reason, message, .. }) => {
                let kind = if *reason == Reason::Panic { EndKind::Panicked } else { EndKind::Failed };
                Self { kind, message: Some(message.clone()) }
            }
        }
    }

    /// Returns the end of a Work that refuses messages.
    pub(super) fn closed(why: CloseReason) -> Self {
        match why {
            CloseReason::NodeLost => Self::of(EndKind::NodeLost),
            CloseReason::NotStarted
            | CloseReason::Stopped
            | CloseReason::Failed
            | CloseReason::Unplaced
            | CloseReason::Unknown => Self::of(EndKind::NotRunning),
        }
    }

    fn unanswered(why: NoReply) -> Self {
        match why {
            NoReply::Refused(why) => Self::closed(why),
            NoReply::NodeLost => Self::of(EndKind::NodeLost),
            NoReply::Failed | NoReply::ReplyDropped => Self::of(EndKind::Killed),
            NoReply::Unreadable(why) | NoReply::ReplyNotSent(why) => {
                Self { kind: EndKind::NotRunning, message: Some(why) }
            }
        }
    }
}

/// A watch on its way to an incarnation of a Work of type `W`, or kept by its mailbox.
pub(super) struct Watch<W> {
    watcher: Watcher,
    work: PhantomData<fn(W)>,
}

enum Watcher {
    Here(oneshot::Sender<End>),
    /// In another process. The origin is there until a mailbox keeps the watch.
    Peer(Box<dyn Reply>, Option<Arc<dyn Origin>>),
}

impl<W: Work> Watch<W> {
    /// Makes a watch and the receiver of the end.
    pub(super) fn new() -> (Box<Self>, oneshot::Receiver<End>) {
        let (watcher, end) = oneshot::channel();
        (Box::new(Self { watcher: Watcher::Here(watcher), work: PhantomData }), end)
    }

    /// Makes a watch that has arrived from another process.
    pub(super) fn arrived(reply: Box<dyn Reply>, origin: Arc<dyn Origin>) -> Box<Self> {
        Box::new(Self { watcher: Watcher::Peer(reply, Some(origin)), work: PhantomData })
    }

    /// Notes that a mailbox keeps the watch, which is not given back any more.
    pub(super) fn keep(&mut self) {
        if let Watcher::Peer(_, origin) = &mut self.watcher {
            // A channel counts as drained once all its origins are gone.
            drop(origin.take());
        }
    }

    /// Tells the watcher of the end.
    pub(super) fn answer(self: Box<Self>, end: &End) {
        let _ = match wire::encode(end) {
            Ok(end) => self.settle(Outcome::Answered(&end, PayloadGuards::default())),
            Err(_) => self.settle(Outcome::Unanswered(NoReply::Failed)),
        };
    }
}

impl<W: Work> AnyEnvelope for Watch<W> {
    fn message_type(&self) -> TypeId {
        TypeId::of::<Self>()
    }

    fn name(&self) -> &'static str {
        WATCH
    }

    fn message(&self) -> &dyn Any {
        self
    }

    fn write(&self, _: &mut BytesMut) -> Result<(), CodecError> {
        Ok(())
    }

    fn is_question(&self) -> bool {
        true
    }

    fn is_abandoned(&self) -> bool {
        match &self.watcher {
            Watcher::Here(watcher) => watcher.is_closed(),
            Watcher::Peer(watcher, _) => watcher.is_abandoned(),
        }
    }

    fn cause(&self) -> Cause {
        Cause::default()
    }

    fn sender(&self) -> SenderId {
        SenderId::OUTSIDE
    }

    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool {
        match self.watcher {
            Watcher::Here(watcher) => {
                let end = match outcome {
                    Outcome::Answered(end, _) => {
                        wire::decode(end).unwrap_or_else(|_| End::of(EndKind::Killed))
                    }
                    Outcome::Unanswered(why) => End::unanswered(why),
                    Outcome::Moved => End::of(EndKind::NotRunning),
                };
                // The watcher may have given up.
                let _ = watcher.send(end);
            }
            Watcher::Peer(watcher, _) => watcher.send(outcome),
        }
        false
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn into_typed(self: Box<Self>) -> Box<dyn Any> {
        let envelope: BoxedEnvelope<W> = self;
        Box::new(envelope)
    }

    fn session(&self) -> Option<u64> {
        match &self.watcher {
            Watcher::Here(_) => None,
            Watcher::Peer(_, origin) => origin.as_ref().map(|origin| origin.session()),
        }
    }
}

impl<W: Work> Deliver<W> for Watch<W> {
    /// Has the mailbox keep a watch that was sent before the incarnation had begun.
    fn deliver<'a>(self: Box<Self>, _: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        cx.keep_watch(self);
        Box::pin(async {})
    }
}
