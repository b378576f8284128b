//! How messages find the Works that they are for, wherever those are.
//!
//! The head decides where a Work runs and keeps the [`Registry`] of it: who is where, and which processes asked. A process
//! that has an address asks once, and is told of each change from then on. Its mailbox for the Work forwards along a
//! [`DirectRoute`] to the incarnation that the head has named, and to no other; see the module `work::mailbox::queue`
//! for how a mailbox goes from one route to the next.
//!
//! # Guarantees
//! - A message is handled at most once, by the incarnation that its sender was told of. A message that reaches a process where
//!   that incarnation has ended, or has been told to take no more, is given back to the sender, which sends it to the
//!   next one.
//! - No route leads to the process that it starts from, and a node never forwards what came from another: only the head does.
//! - Two processes that do not reach each other exchange messages by way of the head. A mailbox that has begun to goes
//!   on for as long as there is an address: what the head has on its way must not be overtaken.
//! - Messages that were handed to a session and never written to a connection come back when the session is lost. Those
//!   that were written and not acknowledged may have been handled: a `tell` among them is counted as lost, and an
//!   `ask` fails with `NodeLost`.
//! - Nobody who no longer has an address of a Work is told of it, and a channel that is not used any more is closed.

mod direct_route;
mod forwarder;
mod lost;
mod registry;

pub(super) use self::direct_route::{DirectRoute, Ends, Relay};
pub(super) use self::forwarder::Forwarder;
pub(super) use self::lost::count_lost;
pub(crate) use self::registry::Location;
pub(super) use self::registry::Registry;

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;
