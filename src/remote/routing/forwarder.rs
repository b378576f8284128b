//! The forwarder: subscribes to the location of one Work on behalf of its mailbox on a node, and follows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::super::bridge::Bridge;
use super::super::protocol::{Location, Source};
use super::super::uplink::Uplink;
use super::{DirectRoute, Ends, Relay};
use crate::id::ActorPath;
use crate::work::{AnyMailbox, Locator, Place, SharedRoute, WorkType};

/// The subscriptions of a node at its head.
pub(in crate::remote) trait Subscriptions: Send + Sync {
    /// Subscribes to the location of the Work of `forwarder`, and has the forwarder follow it.
    fn subscribe(&self, forwarder: &Arc<Forwarder>);
    /// Ends the subscription of a forwarder of the Work at `path`.
    fn unsubscribe(&self, path: &ActorPath);
    /// Remembers that messages to a Work go by way of the head, although this process has no address of it any more: the
    /// head may still have messages from here, which those of a new address must not overtake.
    fn keep_relayed(&self, path: &ActorPath, is_relayed: &Arc<AtomicBool>);
}

pub(in crate::remote) struct Forwarder {
    me: Weak<Forwarder>,
    subscriptions: Weak<dyn Subscriptions>,
    bridge: Weak<Bridge>,
    head: Arc<Uplink>,
    path: ActorPath,
    kind: &'static WorkType,
    /// True if this process hosts a single Work. All other processes reach such a Work by way of the head.
    is_process: bool,
    mailbox: OnceLock<Weak<dyn AnyMailbox>>,
    /// True once this forwarder has subscribed at the head.
    is_asked: AtomicBool,
    /// True once messages go by way of the head because a session with a node was lost; the subscriptions keep it for
    /// addresses to come.
    is_relayed: Arc<AtomicBool>,
    /// The last incarnation that was followed. The head names incarnations in ascending order, and may name one twice.
    followed: AtomicU64,
    /// True until the head that has replaced the one before has sent a location.
    is_anew: AtomicBool,
}

impl Forwarder {
    pub(in crate::remote) fn new(
        subscriptions: Weak<dyn Subscriptions>,
        bridge: &Arc<Bridge>,
        head: Arc<Uplink>,
        path: ActorPath,
        kind: &'static WorkType,
        is_process: bool,
        is_relayed: Arc<AtomicBool>,
    ) -> Arc<Self> {
        let bridge = Arc::downgrade(bridge);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            subscriptions,
            bridge,
            head,
            path,
            kind,
            is_process,
            mailbox: OnceLock::new(),
            is_asked: AtomicBool::new(false),
            is_relayed,
            followed: AtomicU64::new(0),
            is_anew: AtomicBool::new(false),
        })
    }

    pub(in crate::remote) fn bind(&self, mailbox: &Arc<dyn AnyMailbox>) {
        let _ = self.mailbox.set(Arc::downgrade(mailbox));
    }

    pub(in crate::remote) fn path(&self) -> &ActorPath {
        &self.path
    }

    pub(in crate::remote) fn mailbox(&self) -> Option<Arc<dyn AnyMailbox>> {
        self.mailbox.get()?.upgrade()
    }

    /// Expects the location of the Work from a head that has replaced the one before. Until that head knows it, the
    /// mailbox keeps its route.
    pub(in crate::remote) fn follow_anew(&self) {
        self.is_anew.store(true, Ordering::Release);
    }

    /// Returns true if the mailbox needs no other route for the first location that a new head has sent.
    fn keeps_route(&self, location: &Location<Source>, mailbox: &Arc<dyn AnyMailbox>) -> bool {
        let Location::At { incarnation, .. } = location else { return *location == Location::Pending };
        self.is_anew.store(false, Ordering::Release);
        let is_the_same = self.followed.load(Ordering::Acquire) == *incarnation;
        if is_the_same && matches!(mailbox.place(), Place::At(SharedRoute(route)) if !route.is_lost()) {
            return true;
        }
        // It may be the incarnation to which the way through the head before has led.
        self.followed.store(0, Ordering::Release);
        false
    }

    /// Moves the mailbox to the location that the head has sent.
    pub(in crate::remote) fn follow(&self, location: &Location<Source>) {
        let (Some(mailbox), Some(bridge)) = (self.mailbox(), self.bridge.upgrade()) else { return };
        let is_relayed = self.is_relayed.load(Ordering::Acquire);
        if self.is_anew.load(Ordering::Acquire) && self.keeps_route(location, &mailbox) {
            return;
        }
        if let Location::At { incarnation, .. } = location
            && self.followed.fetch_max(*incarnation, Ordering::AcqRel) >= *incarnation
        {
            return;
        }
        let ends = |incarnation| {
            let (path, kind) = (self.path.clone(), self.kind);
            Ends { mailbox: Arc::downgrade(&mailbox), path, kind, incarnation, is_relayed }
        };
        let head = self.head.link();
        let by_the_head = |incarnation| {
            let route = DirectRoute::over(self.bridge.clone(), ends(incarnation), head.clone());
            Place::At(SharedRoute(route))
        };
        let place = match location {
            // For the head, a Work in a process of its own is located at the head. That process itself hosts the Work.
            Location::At { node, .. }
                if node.id == head.peer().id && self.is_process && matches!(mailbox.place(), Place::Here) =>
            {
                return;
            }
            // The head follows the Work itself, and the messages that it has in flight must not be overtaken.
            Location::Pending | Location::At { .. } if matches!(mailbox.place(), Place::At(SharedRoute(route)) if route.is_relayed()) =>
            {
                return;
            }
            Location::Pending => Place::Pending,
            Location::Closed(why) => Place::Closed(*why),
            Location::At { node, .. } if node.id == bridge.me().id => {
                // Either launched here before this location arrived, or ended since.
                match mailbox.place() {
                    Place::Here => return,
                    _ => Place::Pending,
                }
            }
            Location::At { node, incarnation } if is_relayed || node.id == head.peer().id => {
                by_the_head(*incarnation)
            }
            Location::At { node, incarnation } => {
                let (card, bridge) = (node.card(), self.bridge.clone());
                let relay = Relay { head: self.head.clone(), is_used: self.is_relayed.clone() };
                let begin = move || Some(bridge.upgrade()?.peer(&card));
                let route = DirectRoute::new(self.bridge.clone(), ends(*incarnation), Some(relay), begin);
                Place::At(SharedRoute(route))
            }
        };
        // The head tells a local incarnation separately what happens to it; it must get no more of these messages.
        mailbox.leave(None);
        mailbox.set_place(place);
    }
}

impl Locator for Forwarder {
    fn wanted(&self) {
        if self.is_asked.swap(true, Ordering::AcqRel) {
            return;
        }
        if let (Some(subscriptions), Some(me)) = (self.subscriptions.upgrade(), self.me.upgrade()) {
            subscriptions.subscribe(&me);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let Some(subscriptions) = self.subscriptions.upgrade() else { return };
        if self.is_relayed.load(Ordering::Acquire) {
            subscriptions.keep_relayed(&self.path, &self.is_relayed);
        }
        if *self.is_asked.get_mut() {
            subscriptions.unsubscribe(&self.path);
        }
    }
}
