//! The address of a service: one mailbox for many replicas.
//!
//! The mailbox of a service belongs to no incarnation. It forwards to a [balancer](balancer), which hands each message to
//! one of the replicas in rotation. Other processes send to it as to a Work that lives in this process.

mod balancer;
mod dispatch;
mod routed;
mod routing;

use std::sync::Arc;

use self::balancer::Balancer;
use self::dispatch::ReplicaId;
pub use self::routing::Routing;
use super::mailbox::{CloseReason, Mailbox, Place};
use super::route::SharedRoute;
use super::{AnyMailbox, Directory, Work, WorkAddr};
use crate::id::ActorPath;
use crate::runtime::Runtime;

/// A replica in rotation.
pub(crate) struct InRotation<W: Work> {
    pub(crate) id: ReplicaId,
    pub(crate) addr: WorkAddr<W>,
    /// The version that it serves.
    pub(crate) version: u64,
}

/// Callback for changes that the owner of a service is to see: a replica that has left the rotation is drained, or there
/// are more messages than it has asked to be told of.
pub(crate) type Change = Box<dyn Fn() + Send + Sync>;

/// The messages of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceLoad {
    /// Number of messages that wait for a replica.
    pub(crate) waiting: usize,
    /// Number of messages that each replica has, if it has any.
    pub(crate) handed: Vec<(ReplicaId, usize)>,
}

impl ServiceLoad {
    /// Returns the number of messages that the replicas have.
    pub(crate) fn handed(&self) -> usize {
        self.handed.iter().map(|(_, messages)| messages).sum()
    }
}

/// The address of a service and the way from there to its replicas. Closed when it is dropped.
pub(crate) struct Frontend<W: Work> {
    addr: WorkAddr<W>,
    mailbox: Arc<Mailbox<W>>,
    balancer: Arc<Balancer<W>>,
    directory: Arc<Directory>,
}

impl<W: Work> Frontend<W> {
    /// Creates the address of a service at this path, to which messages can be sent at once. Up to `capacity` of them
    /// wait for a replica.
    pub(crate) fn new(
        runtime: &Runtime,
        path: &ActorPath,
        routing: Routing,
        capacity: usize,
        changed: Change,
    ) -> Self {
        let mailbox = Arc::new(Mailbox::new(capacity));
        let balancer = Balancer::new(path.clone(), &mailbox, routing, capacity, changed);
        mailbox.set_place(Place::At(SharedRoute(balancer.clone())));
        let any: Arc<dyn AnyMailbox> = mailbox.clone();
        let directory = Directory::of(runtime);
        directory.remember(path, &any);
        let addr = WorkAddr::new(runtime.app(), path.clone(), mailbox.clone());
        Self { addr, mailbox, balancer, directory }
    }

    pub(crate) fn addr(&self) -> &WorkAddr<W> {
        &self.addr
    }

    /// Has messages go to these replicas from now on, and to no other, each of which has at most `in_flight` at a time.
    pub(crate) fn rotate(&self, rotation: Vec<InRotation<W>>, in_flight: usize) {
        self.balancer.rotate(rotation, in_flight);
    }

    /// Returns the number of messages that this replica has not completed.
    pub(crate) fn taken_by(&self, id: ReplicaId) -> usize {
        self.balancer.taken_by(id)
    }

    /// Returns a function that counts the messages of the service, as long as it has not ended.
    pub(crate) fn meter(&self) -> impl Fn() -> ServiceLoad + Send + Sync + use<W> {
        let balancer = Arc::downgrade(&self.balancer);
        move || balancer.upgrade().map(|balancer| balancer.load()).unwrap_or_default()
    }

    /// Returns the largest number of messages since the last call, and has the callback called once there are more than
    /// `alarm`.
    pub(crate) fn peak(&self, alarm: usize) -> usize {
        self.balancer.peak(alarm)
    }
}

impl<W: Work> Drop for Frontend<W> {
    fn drop(&mut self) {
        let any: Arc<dyn AnyMailbox> = self.mailbox.clone();
        self.directory.has_left(self.addr.path(), &any);
        // The mailbox drains its route, the balancer.
        self.mailbox.close(CloseReason::Stopped);
    }
}
