//! The way to a Work that another process hosts.

use std::sync::Arc;

use bytes::BytesMut;
use futures::future::BoxFuture;

use super::mailbox::Refused;
use super::message::AnyEnvelope;
use super::run::Command;
use crate::trace::Cause;
use crate::wire::CodecError;

/// What a mailbox forwards messages along. Messages of one sender arrive in order.
pub(crate) trait Route: Send + Sync {
    /// Sends a message if there is room for it now.
    fn try_send(&self, envelope: Box<dyn AnyEnvelope>) -> Result<(), Refused<Box<dyn AnyEnvelope>>>;

    /// Sends a message and waits for room.
    fn send<'a>(
        &'a self,
        envelope: Box<dyn AnyEnvelope>,
    ) -> BoxFuture<'a, Result<(), Refused<Box<dyn AnyEnvelope>>>>;

    /// Takes no more messages, and has those that no handler has begun given back. Then the mailbox is told that the
    /// route is drained.
    fn drain(self: Arc<Self>);

    /// Sends what waits in the mailbox.
    fn pump(self: Arc<Self>);

    /// Withdraws the questions under way whose askers have gone.
    fn withdraw_abandoned(&self);

    /// Whether the process at the other end sends messages on.
    fn is_relayed(&self) -> bool;

    /// The number of messages under way.
    fn depth(&self) -> usize;
}

/// Compares routes by identity.
#[derive(Clone)]
pub(crate) struct SharedRoute(pub(crate) Arc<dyn Route>);

impl PartialEq for SharedRoute {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedRoute {}

/// Finds the place of the Work that a mailbox is of.
pub(crate) trait Locator: Send + Sync {
    /// Messages wait until the place is known.
    fn wanted(&self);
}

/// Takes the commands for an incarnation in another process.
pub(crate) trait Commands: Send + Sync {
    fn command(&self, command: Command);
}

/// The sender of messages from another process.
pub(crate) trait Origin: Send + Sync {
    /// The session that they came by.
    fn session(&self) -> u64;

    /// Gives back a message that is no question and that no handler has begun.
    fn give_back(&self, write: &mut dyn FnMut(&mut BytesMut) -> Result<(), CodecError>, cause: Cause);
}
