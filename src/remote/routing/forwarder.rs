//! Finds the place of one Work for its mailbox on a node, and follows it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::super::agent::Agent;
use super::super::bridge::Bridge;
use super::super::link::Link;
use super::super::references::Source;
use super::{DirectRoute, Ends, Location, count_lost};
use crate::id::ActorPath;
use crate::work::{AnyMailbox, Locator, Place, SharedRoute, WorkKind};

pub(in crate::remote) struct Forwarder {
    me: Weak<Forwarder>,
    agent: Weak<Agent>,
    bridge: Weak<Bridge>,
    head: Arc<Link>,
    path: ActorPath,
    kind: &'static WorkKind,
    mailbox: OnceLock<Weak<dyn AnyMailbox>>,
    /// Whether the head was asked.
    is_asked: AtomicBool,
}

impl Forwarder {
    pub(in crate::remote) fn new(
        agent: Weak<Agent>,
        bridge: &Arc<Bridge>,
        head: Arc<Link>,
        path: ActorPath,
        kind: &'static WorkKind,
    ) -> Arc<Self> {
        let bridge = Arc::downgrade(bridge);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            agent,
            bridge,
            head,
            path,
            kind,
            mailbox: OnceLock::new(),
            is_asked: AtomicBool::new(false),
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

    /// The head has told where the Work is.
    pub(in crate::remote) fn follow(&self, location: &Location<Source>) {
        let (Some(mailbox), Some(bridge)) = (self.mailbox(), self.bridge.upgrade()) else { return };
        let place = match location {
            Location::Pending => Place::Pending,
            Location::Closed(why) => Place::Closed(*why),
            Location::At { node, .. } if node.id == bridge.me().id => {
                // Launched before this was told, or over since.
                match mailbox.place() {
                    Place::Here => return,
                    _ => Place::Pending,
                }
            }
            Location::At { node, incarnation } => {
                let (path, kind) = (self.path.clone(), self.kind);
                let ends = Ends { mailbox: Arc::downgrade(&mailbox), path, kind, incarnation: *incarnation };
                Place::At(SharedRoute(if node.id == self.head.peer().id {
                    DirectRoute::over(self.bridge.clone(), ends, self.head.clone())
                } else {
                    let (card, bridge) = (node.card(), self.bridge.clone());
                    let relay = Some(self.head.clone());
                    DirectRoute::new(self.bridge.clone(), ends, relay, move || {
                        Some(bridge.upgrade()?.peer(&card))
                    })
                }))
            }
        };
        // An incarnation here is told by the head what becomes of it; its messages are not for it any more.
        mailbox.leave(None);
        count_lost(&self.path, mailbox.set_place(place), "the Work was stopped");
    }
}

impl Locator for Forwarder {
    fn wanted(&self) {
        if self.is_asked.swap(true, Ordering::AcqRel) {
            return;
        }
        if let (Some(agent), Some(me)) = (self.agent.upgrade(), self.me.upgrade()) {
            agent.subscribe(&me);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if *self.is_asked.get_mut()
            && let Some(agent) = self.agent.upgrade()
        {
            agent.unsubscribe(&self.path);
        }
    }
}
