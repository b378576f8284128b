//! Message routing to Works in other processes.
//!
//! The head decides which process hosts a Work and records the decision in the [`Registry`], together with the sessions
//! that have subscribed to the Work. A process that has an address subscribes once and receives each change of location
//! from then on. Its mailbox for the Work forwards messages along a [`DirectRoute`] to the incarnation that the head
//! has named, and to no other; the module `work::mailbox::queue` documents how a mailbox changes from one route to the
//! next.
//!
//! # Guarantees
//! - A message is handled at most once, by the incarnation that was named to its sender. When a message reaches a
//!   process in which that incarnation has ended or has been told to accept no more messages, it is returned to the
//!   sender, which sends it to the next incarnation.
//! - No route leads to the process in which it starts, and a node never forwards messages of another process: only the
//!   head does.
//! - Two nodes that cannot reach each other exchange messages by way of the head. Once a node relays messages to a Work,
//!   it continues to do so, with later addresses as well, because messages in flight by way of the head must not be
//!   overtaken.
//! - When a session is lost, messages that were handed to it but never written to a connection are returned to their
//!   senders. Messages that were written but not acknowledged may have been handled: such a `tell` is counted as lost,
//!   and such an `ask` fails with `NodeLost`, unless the peer was a process of this machine that has ended, and whose mark
//!   says that no handler had begun it (the module `begun`).
//! - Messages of one sender are handled in order, also across moves, with two exceptions after a session between two
//!   nodes is lost: a Work that is launched on the sender's node may handle messages that are sent there before those
//!   in flight by way of the head; and an incarnation that is ended by force, until its node hears of it, may handle
//!   messages in its mailbox after the next incarnation has handled later ones.
//! - A process that no longer has an address of a Work receives no more locations of it, and unused channels are
//!   closed.

mod direct_route;
mod forwarder;
mod registry;

pub(super) use self::direct_route::{DirectRoute, Ends, Relay};
pub(super) use self::forwarder::{Forwarder, Subscriptions};
pub(super) use self::registry::Registry;

#[cfg(test)]
mod model_tests;
