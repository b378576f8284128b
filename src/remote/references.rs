//! Distributed reference counting: keeps a value alive for references in other processes.
//!
//! # The scheme
//! The sender of a reference pins the value for the session until the receiver releases it, as many times as it was
//! sent. These are the *counts*: they are needed because a release and the same reference may cross on the wire. (The
//! scheme is that of the object-capability protocols, E's CapTP among them.) The receiver thereby has a *lease*, until
//! nothing there refers to the value any more.
//!
//! A lease is good when it is from the owner, in whose process the value was made, or from the head, which has a lease
//! of the owner itself. A lease of any other process is exchanged at once: the receiver asks the owner to `hold` the
//! value for it, and then releases the sender. Leases therefore lead to the owner in at most two steps, never in a
//! circle, and a node does not lose values with another node that has merely passed on a reference.
//!
//! A reference is not counted when it goes to a process of which the sender itself has a lease: the release follows it
//! in the same session, and until then that lease keeps the value.
//!
//! A value that refers to other values keeps them alive wherever it is, as `StoredBlob::nested` in each process that
//! has it. A process that pulls it asks the source, in their session, which values these are, and has leases on them
//! before it has the value.
//!
//! # A head that is started again
//! The leases of a head end with its process, and so do the leases that others have from it. Nodes therefore keep what
//! was pinned for it until the next head has taken over the Works, and all processes have had the owners hold the values
//! that they refer to: [`hold_at_owners`] on a node, and [`hold_at`] at the head.
//!
//! The module `departures` documents how leases move to the head when a process ends.

use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::bridge::Bridge;
use super::link::{Link, SendReferences};
use super::protocol::{Carried, Control, Source};
use crate::payload::{
    COPIES, FetchError, Lease, Opened, PayloadGuard, PayloadGuards, PayloadId, RemoteSource, Small, Waited,
    Want,
};

/// The lease of a session over which a reference has arrived.
struct LinkTie {
    link: Weak<Link>,
    session: u64,
    id: PayloadId,
    count: AtomicU32,
}

impl LinkTie {
    /// Returns a lease with a count of one.
    fn to(link: &Arc<Link>, id: PayloadId) -> Arc<dyn Lease> {
        let count = AtomicU32::new(1);
        Arc::new(Self { link: Arc::downgrade(link), session: link.number(), id, count })
    }
}

impl Lease for LinkTie {
    fn session(&self) -> u64 {
        self.session
    }

    fn again(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self, _: bool) {
        if let Some(link) = self.link.upgrade().filter(|link| !link.is_over()) {
            link.control(&Control::Release { id: self.id, count: self.count.load(Ordering::Relaxed) });
        }
    }
}

/// The interest of the head in a copy in this process. The head lists the copy and announces when it is no longer
/// wanted. The lease keeps no value alive at the head; it only keeps the copy here when no local reference is left.
struct CopyTie {
    head: Weak<Link>,
    id: PayloadId,
}

impl Lease for CopyTie {
    fn session(&self) -> u64 {
        COPIES
    }

    fn again(&self) {}

    fn keeps_copies(&self) -> bool {
        self.head.upgrade().is_some_and(|head| !head.is_over())
    }

    fn release(&self, copy_stays: bool) {
        if let Some(head) = self.head.upgrade().filter(|head| copy_stays && !head.is_over()) {
            // Reported again, since the head may have forgotten the value and learned of it anew in between. If the
            // head does not know the value, it has the copy discarded.
            head.control(&Control::Copied { id: self.id, failed: None });
        }
    }
}

/// Attaches the head's interest to a copy in this process of a value that was made in another one.
pub(super) fn lease_replica(head: &Arc<Link>, hold: &PayloadGuard) {
    let (head, id) = (Arc::downgrade(head), hold.id());
    hold.lease(COPIES, || Arc::new(CopyTie { head, id }));
}

/// A value in another process.
pub(super) struct Distant {
    bridge: Weak<Bridge>,
    owner: Source,
    copies: Mutex<Vec<Source>>,
}

impl Distant {
    /// Returns the process in which the value was made.
    pub(super) fn owner(&self) -> &Source {
        &self.owner
    }

    pub(super) fn add_copy(&self, source: Source) {
        let mut copies = self.copies.lock();
        if !copies.contains(&source) {
            copies.push(source);
        }
    }

    pub(super) fn remove_copy(&self, node: u64) {
        self.copies.lock().retain(|source| source.id != node);
    }

    /// Returns all processes that may have the value, the owner first.
    pub(super) fn sources(&self) -> Vec<Source> {
        let mut sources = vec![self.owner.clone()];
        sources.extend(self.copies.lock().iter().cloned());
        sources
    }
}

impl RemoteSource for Distant {
    fn small(&self, want: Want) -> BoxFuture<'static, Result<Small, FetchError>> {
        let (bridge, sources) = (self.bridge.clone(), self.sources());
        Box::pin(async move {
            match bridge.upgrade() {
                Some(bridge) => super::transfers::small(bridge, sources, want).await,
                None => Err(gone()),
            }
        })
    }

    fn open(&self, want: &Want, waited: Waited) -> Result<Opened, FetchError> {
        let bridge = self.bridge.upgrade().ok_or_else(gone)?;
        super::transfers::open(bridge, self.sources(), want, waited)
    }

    fn has(&self, id: PayloadId) -> BoxFuture<'static, bool> {
        let bridge = self.bridge.clone();
        let sources: Vec<_> = self.sources().into_iter().map(|source| source.id).collect();
        Box::pin(async move {
            let Some(bridge) = bridge.upgrade() else { return false };
            let answer = bridge.whereabouts(id, sources.clone()).await;
            answer.is_some_and(|answer| {
                !answer.sources.is_empty() || sources.iter().any(|source| !answer.gone.contains(source))
            })
        })
    }

    fn pulled(&self, id: PayloadId) {
        if let Some(peer_handler) = self.bridge.upgrade().and_then(|bridge| bridge.peer_handler().ok()) {
            peer_handler.pulled(id);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn gone() -> FetchError {
    FetchError::Lost("this process takes no part in its App any more".to_owned())
}

/// Calls `look` with the remote source of a value that was made in another process.
pub(super) fn distant<R>(hold: &PayloadGuard, look: impl FnOnce(&Distant) -> R) -> Option<R> {
    let remote_source = hold.entry().remote_source()?;
    remote_source.as_any().downcast_ref().map(look)
}

impl SendReferences for Bridge {
    fn send(&self, link: &Link, holds: &PayloadGuards) -> Vec<Carried> {
        let carried = holds.iter().map(|hold| {
            let counted = !hold.is_tied(link.number());
            if counted {
                link.pins().add(hold);
            }
            let (owner, mut copies) =
                distant(hold, |distant| (distant.owner.clone(), distant.copies.lock().clone()))
                    .unwrap_or_else(|| (Source::of(self.me()), Vec::new()));
            // The receiver may need this copy when the owner is lost.
            let me = self.me();
            if owner.id != me.id && hold.entry().is_here() && copies.iter().all(|copy| copy.id != me.id) {
                copies.push(Source::of(me));
            }
            let content = hold.entry().content_id();
            let (replicas, durable) = (hold.replicas(), hold.is_durable());
            Carried { id: hold.id(), counted, owner, copies, replicas, content, durable }
        });
        carried.collect()
    }
}

/// Takes in references that have arrived. Returns guards that keep their values alive until it is settled which
/// process holds them.
pub(super) fn arrived(bridge: &Arc<Bridge>, link: &Arc<Link>, carried: Vec<Carried>) -> PayloadGuards {
    let mut to_hold: Vec<(Source, PayloadId)> = Vec::new();
    let store = bridge.store();
    let holds = carried.into_iter().map(|carried| {
        let Carried { id, counted, owner, copies, replicas, content, durable } = carried;
        let hold = store.arrived(id, || {
            let owner = owner.clone();
            let bridge = Arc::downgrade(bridge);
            Arc::new(Distant { bridge, owner, copies: Mutex::new(copies) })
        });
        if let Some(replicas) = replicas {
            hold.set_replicas(replicas);
        }
        if let Some(content) = content {
            hold.entry().set_content_id(content);
        }
        if durable {
            hold.set_durable();
        }
        if !counted {
            return hold;
        }
        let head = bridge.head_id();
        let from = link.peer().id;
        let is_good = |node: u64| node == owner.id || Some(node) == head;
        let made_here = hold.entry().remote_source().is_none();
        let tied_well = || {
            let sessions = bridge.sessions_with([Some(owner.id), head]);
            sessions.into_iter().any(|session| session != link.number() && hold.is_tied(session))
        };
        if made_here || (!is_good(from) && tied_well()) {
            link.reply(&Control::Release { id, count: 1 });
            return hold;
        }
        hold.lease(link.number(), || LinkTie::to(link, id));
        if !is_good(from) {
            to_hold.push((owner, id));
        }
        hold
    });
    let holds: PayloadGuards = holds.collect();
    if link.is_leaving() {
        holds.iter().for_each(|hold| move_tie(bridge, link, hold));
    }
    for (owner, id) in to_hold {
        if let Some(link) = bridge.link_to(&owner) {
            link.control(&Control::Hold { id });
        }
    }
    if let Ok(peer_handler) = bridge.peer_handler() {
        holds.iter().for_each(|hold| peer_handler.reference(hold));
    }
    holds
}

/// Holds a value of this process for a peer that has its reference from another process.
pub(super) fn hold(bridge: &Bridge, link: &Link, id: PayloadId) {
    let hold = bridge.store().find(id);
    if let Some(hold) = &hold {
        link.pins().add(hold);
    }
    link.reply(&Control::Held { id, there: hold.is_some() });
}

/// Has the owners of all values that are referred to here hold them for this process, where only a head that was
/// replaced has held them.
pub(super) fn hold_at_owners(bridge: &Arc<Bridge>) {
    for hold in bridge.store().all() {
        let Some(owner) = distant(&hold, |distant| distant.owner.clone()) else { continue };
        let mut sessions = bridge.sessions_with([Some(owner.id), None]).into_iter();
        if !sessions.any(|session| hold.is_tied(session))
            && let Some(link) = bridge.link_to(&owner)
        {
            link.control(&Control::Hold { id: hold.id() });
        }
    }
}

/// Has a process that has joined this head hold its values to which something refers already.
pub(super) fn hold_at(bridge: &Bridge, link: &Link) {
    for hold in bridge.store().all() {
        let is_owner = distant(&hold, |distant| distant.owner.id == link.peer().id).unwrap_or_default();
        if is_owner && !hold.is_tied(link.number()) {
            link.control(&Control::Hold { id: hold.id() });
        }
    }
}

/// Handles the owner's confirmation that it holds a value for this process: the sender of the reference can be
/// released.
pub(super) fn held(bridge: &Bridge, link: &Arc<Link>, id: PayloadId, there: bool) {
    if !there {
        return;
    }
    let Some(hold) = bridge.store().find(id) else {
        return link.reply(&Control::Release { id, count: 1 });
    };
    hold.lease(link.number(), || LinkTie::to(link, id));
    if link.is_leaving() {
        return move_tie(bridge, link, &hold);
    }
    let good = bridge.sessions_with([distant(&hold, |distant| distant.owner.id), bridge.head_id()]);
    hold.release_all_but(&good);
}

/// Has the head hold the values that a peer, which is about to end, holds for this process.
pub(super) fn move_ties(bridge: &Bridge, link: &Link) {
    link.set_leaving();
    for hold in bridge.store().all() {
        move_tie(bridge, link, &hold);
    }
}

fn move_tie(bridge: &Bridge, link: &Link, hold: &Arc<PayloadGuard>) {
    let Ok(peer_handler) = bridge.peer_handler() else { return };
    // The head itself moves values in `take_over`.
    let Some(head) = peer_handler.head().filter(|_| hold.is_tied(link.number())) else { return };
    if hold.is_tied(head.number()) {
        return hold.release_lease(link.number());
    }
    let owner = distant(hold, |distant| distant.owner.id).filter(|owner| *owner != link.peer().id);
    if owner.is_some() && !bridge.sessions_with([owner, None]).is_empty() {
        // The owner will confirm soon that it holds the value.
        return;
    }
    let has = hold.entry().is_here();
    if has {
        lease_replica(&head, hold);
    }
    let carried = std::iter::once(hold.clone()).collect();
    head.control_with(&carried, &Control::Adopt { id: hold.id(), has });
}
