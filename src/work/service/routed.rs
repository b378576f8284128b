//! A message that a balancer has handed to a replica.

use std::any::{Any, TypeId};
use std::sync::Arc;

use bytes::BytesMut;
use futures::future::LocalBoxFuture;

use super::dispatch::ReplicaId;
use crate::trace::Cause;
use crate::wire::CodecError;
use crate::work::cycles::AskId;
use crate::work::dead_letters::{DeadLetterReason, Lost, SenderId};
use crate::work::envelope::{AnyEnvelope, BoxedEnvelope, Deliver, NoReply, Outcome};
use crate::work::mailbox::CloseReason;
use crate::work::stream_ends::{StreamSink, StreamSource};
use crate::work::{Work, WorkContext};

/// The sender of messages to replicas, which takes them back.
pub(super) trait Dispatcher<W>: Send + Sync {
    /// Notes that a replica is done with a message.
    fn released(&self, id: ReplicaId);

    /// Takes back a message that no handler has begun because its replica does not run, for this reason.
    fn came_back(&self, id: ReplicaId, envelope: BoxedEnvelope<W>, why: CloseReason);

    /// Reports a message that no handler may have seen, and whose sender is not told so.
    fn lost(&self, reason: DeadLetterReason, why: &str, lost: Lost<'static>);
}

/// A message for a service, in the mailbox of a replica or on its way there. Once its handler has returned, its reply has
/// arrived, or it is dropped, the replica has room for the next one. If its replica does not run, it goes to another one.
///
/// Between processes a `tell` goes as an ask, so that the balancer learns when it was handled; one whose handler replies with
/// a stream does not.
pub(super) struct Routed<W: Work> {
    envelope: BoxedEnvelope<W>,
    place: Place<W>,
}

/// The place of a message among those of its replica, which is given back when this is dropped.
struct Place<W: Work> {
    /// Absent once the place was taken back.
    balancer: Option<Arc<dyn Dispatcher<W>>>,
    replica: ReplicaId,
}

impl<W: Work> Drop for Place<W> {
    fn drop(&mut self) {
        if let Some(balancer) = self.balancer.take() {
            balancer.released(self.replica);
        }
    }
}

impl<W: Work> Routed<W> {
    pub(super) fn new(
        envelope: BoxedEnvelope<W>,
        balancer: Arc<dyn Dispatcher<W>>,
        replica: ReplicaId,
    ) -> Self {
        Self { envelope, place: Place { balancer: Some(balancer), replica } }
    }

    /// Returns the message for the balancer, which takes the place back itself.
    pub(super) fn into_inner(self) -> BoxedEnvelope<W> {
        let Self { envelope, mut place } = self;
        place.balancer = None;
        envelope
    }
}

impl<W: Work> AnyEnvelope for Routed<W> {
    fn message_type(&self) -> TypeId {
        self.envelope.message_type()
    }

    fn name(&self) -> &'static str {
        self.envelope.name()
    }

    fn message(&self) -> &dyn Any {
        self.envelope.message()
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        self.envelope.write(out)
    }

    fn is_question(&self) -> bool {
        // An ask for a stream has a reader, which a `tell` does not have.
        self.envelope.is_question() || !self.envelope.has_stream()
    }

    fn ask(&self) -> Option<AskId> {
        AnyEnvelope::ask(&*self.envelope)
    }

    fn window(&self) -> Option<u32> {
        self.envelope.window()
    }

    fn open_stream(self: Box<Self>, source: Arc<dyn StreamSource>) -> Option<Arc<dyn StreamSink>> {
        let Self { envelope, place } = *self;
        drop(place);
        envelope.open_stream(source)
    }

    fn has_stream(&self) -> bool {
        self.envelope.has_stream()
    }

    fn deferred(&mut self) -> Option<Box<dyn Send>> {
        let (balancer, replica) = (self.place.balancer.take()?, self.place.replica);
        Some(Box::new(Place { balancer: Some(balancer), replica }))
    }

    fn is_abandoned(&self) -> bool {
        AnyEnvelope::is_abandoned(&*self.envelope)
    }

    fn cause(&self) -> Cause {
        self.envelope.cause()
    }

    fn sender(&self) -> SenderId {
        self.envelope.sender()
    }

    fn is_first(&self) -> bool {
        AnyEnvelope::is_first(&*self.envelope)
    }

    fn settle(self: Box<Self>, outcome: Outcome<'_>) -> bool {
        let why = match &outcome {
            Outcome::Unanswered(NoReply::Refused(why)) => Some(*why),
            Outcome::Moved => Some(CloseReason::NotStarted),
            Outcome::Answered(..) | Outcome::Unanswered(_) => None,
        };
        let (reason, text) = match &outcome {
            Outcome::Unanswered(NoReply::Unreadable(why)) => (DeadLetterReason::Unsendable, why.clone()),
            _ => (DeadLetterReason::NodeLost, "the process of the replica that had it is lost".to_owned()),
        };
        let lost = AnyEnvelope::lost(&*self.envelope);
        let Self { envelope, mut place } = *self;
        let balancer = place.balancer.clone();
        match (why, balancer) {
            (Some(why), Some(balancer)) => {
                place.balancer = None;
                balancer.came_back(place.replica, envelope, why);
            }
            (_, balancer) => {
                if AnyEnvelope::settle(envelope, outcome)
                    && let Some(balancer) = balancer
                {
                    balancer.lost(reason, &text, lost);
                }
            }
        }
        false
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        let Self { envelope, place } = *self;
        drop(place);
        envelope.into_any()
    }

    fn into_typed(self: Box<Self>) -> Box<dyn Any> {
        let envelope: BoxedEnvelope<W> = self;
        Box::new(envelope)
    }

    fn into_routed(self: Box<Self>) -> Option<Box<dyn Any>> {
        Some(self)
    }

    // The balancer takes it back in this process, whoever has sent it: so it has no session.
}

impl<W: Work> Deliver<W> for Routed<W> {
    fn deliver<'a>(self: Box<Self>, work: &'a mut W, cx: &'a mut WorkContext<W>) -> LocalBoxFuture<'a, ()> {
        let Self { envelope, place } = *self;
        let handled = envelope.deliver(work, cx);
        Box::pin(async move {
            handled.await;
            drop(place);
        })
    }
}
