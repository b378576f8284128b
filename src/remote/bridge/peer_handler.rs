//! The interfaces between the bridge and the parts of its process that use it.

use std::sync::Arc;

use futures::future::{BoxFuture, LocalBoxFuture};

use super::super::link::{Inbound, Link, Target};
use super::super::protocol::{Control, Hello, Refusal, Role, Source};
use super::{Bridge, DialError};
use crate::id::ActorPath;
use crate::payload::{PayloadGuard, PayloadGuards, PayloadId};
use crate::transport::Connection;
use crate::work::AnyMailbox;

/// The role-specific behaviour of a process towards its sessions, implemented by the head and by the agent of a node.
pub(in crate::remote) trait PeerHandler: Send + Sync {
    /// Decides whether a process that dials may begin a session; returns the refusal if not.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;
    fn joined(&self, link: &Arc<Link>, role: Role);
    /// Handles a control message. `carried` holds the values that the message refers to.
    fn control(&self, link: &Arc<Link>, control: Control, carried: PayloadGuards) -> Result<(), String>;
    fn disconnected(&self, link: &Arc<Link>, role: Role, why: &str);
    fn connected_again(&self, link: &Arc<Link>, role: Role);
    fn lost(&self, link: &Arc<Link>, role: Role, why: &str);

    /// Resolves the destination of messages that have arrived for the Work at `path`.
    fn destination(&self, path: &ActorPath, target: Target) -> Destination;

    // ---- values ----

    /// Returns the session with the head, or `None` in the head itself.
    fn head(&self) -> Option<Arc<Link>>;
    /// Returns the session with a process, if there is one.
    fn link_to(&self, process: u64) -> Option<Arc<Link>>;
    /// Handles a reference that has arrived from another process.
    fn reference(&self, hold: &Arc<PayloadGuard>);
    /// Handles the arrival of a value that was made in another process.
    fn pulled(&self, id: PayloadId);
    /// Finds the processes that have a value, and those of `among` that are gone. Resolves to `None` when the head cannot
    /// be asked.
    fn whereabouts(&self, id: PayloadId, among: Vec<u64>) -> BoxFuture<'static, Option<Whereabouts>>;
}

/// The parts of every process, whatever its role, that use the connections of the bridge.
pub(in crate::remote) trait Services: Send + Sync {
    /// Returns the receiver of the messages of a session.
    fn inbox(&self, bridge: &Arc<Bridge>, link: &Arc<Link>) -> Box<dyn Inbound>;
    /// Serves a connection without a session, on which the peer pulls values or uses a drive, until the peer is done.
    fn serve(
        &self,
        bridge: Arc<Bridge>,
        role: Role,
        connection: Connection,
    ) -> LocalBoxFuture<'static, Result<(), DialError>>;
}

/// The processes that have a value, or the reason for its loss.
#[derive(Debug, Clone, Default)]
pub(in crate::remote) struct Whereabouts {
    /// The processes that the head knows to have the value. A process whose reference has not passed through the head
    /// may have it as well.
    pub(in crate::remote) sources: Vec<Source>,
    /// Processes in question that are no longer part of the App.
    pub(in crate::remote) gone: Vec<u64>,
    pub(in crate::remote) lost: Option<String>,
}

/// The destination of a message that has arrived.
pub(in crate::remote) enum Destination {
    /// An incarnation in this process, with its number in the mailbox.
    Incarnation(Arc<dyn AnyMailbox>, u64),
    /// The Work, wherever it runs.
    Anywhere(Arc<dyn AnyMailbox>),
    /// An incarnation that has not been launched here yet. Resolve again once the future completes.
    NotYet(BoxFuture<'static, ()>),
    /// Back to the sender, because the incarnation is gone.
    Gone,
}
