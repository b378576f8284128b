//! Routes to a Work in another process.

use std::sync::Arc;

use bytes::BytesMut;
use futures::future::BoxFuture;

use super::dead_letters::SenderId;
use super::envelope::AnyEnvelope;
use super::mailbox::Refused;
use super::run::Command;
use crate::trace::Cause;
use crate::wire::CodecError;

/// A route along which a mailbox forwards messages. Messages of one sender arrive in order.
pub(crate) trait Route: Send + Sync {
    /// Sends a message if there is room for it now.
    ///
    /// # Errors
    /// [`Refused`] with the message.
    fn try_send(&self, envelope: Box<dyn AnyEnvelope>) -> Result<(), Refused<Box<dyn AnyEnvelope>>>;

    /// Sends a message; waits for room.
    fn send<'a>(
        &'a self,
        envelope: Box<dyn AnyEnvelope>,
    ) -> BoxFuture<'a, Result<(), Refused<Box<dyn AnyEnvelope>>>>;

    /// Takes no more messages, and has the process at the other end give back those that no handler has begun. Then
    /// tells the mailbox that the route is drained.
    fn drain(self: Arc<Self>);

    /// Starts a pump, which sends the messages that wait in the mailbox.
    fn pump(self: Arc<Self>);

    /// Withdraws asks in flight whose caller has given up.
    fn withdraw_abandoned(&self);

    /// Returns true if the process at the other end forwards the messages to a third process.
    fn is_relayed(&self) -> bool;

    /// Returns true for the way from a service to its replicas.
    fn is_of_service(&self) -> bool {
        false
    }

    /// Returns true once nothing can be sent along the route any more, because its session is over.
    #[cfg(feature = "remote")]
    fn is_lost(&self) -> bool;

    /// Returns the number of messages in flight.
    fn depth(&self) -> usize;
}

/// A route that is compared by identity.
#[derive(Clone)]
pub(crate) struct SharedRoute(pub(crate) Arc<dyn Route>);

impl PartialEq for SharedRoute {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedRoute {}

/// Finds the place of the Work of one mailbox.
pub(crate) trait Locator: Send + Sync {
    /// Requests the place, for which messages wait.
    fn wanted(&self);
}

/// Destination of commands to an incarnation in another process.
pub(crate) trait Commands: Send + Sync {
    fn command(&self, command: Command);
}

/// Sender of messages in another process.
pub(crate) trait Origin: Send + Sync {
    /// Returns the session by which the messages arrived.
    fn session(&self) -> u64;

    /// Gives back a tell that no handler has begun.
    fn give_back(
        &self,
        write: &mut dyn FnMut(&mut BytesMut) -> Result<(), CodecError>,
        cause: Cause,
        sender: SenderId,
    );
}
