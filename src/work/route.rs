//! The way to a Work that lives in another process.

use futures::future::BoxFuture;

use super::mailbox::{Closed, Refused};
use super::message::Letter;
use super::run::Command;

/// What a mailbox passes on to when its Work lives elsewhere. Messages of one sender arrive in order.
pub(crate) trait Route: Send + Sync {
    /// Sends a message if there is room for it now.
    fn try_send(&self, letter: Box<dyn Letter>) -> Result<(), Refused<Box<dyn Letter>>>;

    /// Sends a message and waits for room.
    fn send<'a>(&'a self, letter: Box<dyn Letter>) -> BoxFuture<'a, Result<(), Refused<Box<dyn Letter>>>>;

    fn command(&self, command: Command);

    /// Refuses messages from now on, those included that wait at the other end.
    fn close(&self, why: Closed);

    /// How many messages are on their way.
    fn depth(&self) -> usize;
}
