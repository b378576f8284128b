//! Replication at the head: which processes have copies of a value, and which nodes are to have a replica.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::bridge::{Bridge, Whereabouts};
use super::link::Link;
use super::presence::Presence;
use super::protocol::{Control, Source};
use super::references::distant;
use crate::payload::{COPIES, Lease, PayloadGuard, PayloadId, Replicas, Replicate};
use crate::printable::{LONGEST_REASON, brief};

/// Number of lost nodes that are remembered, to explain the loss of their values.
const REMEMBERED: usize = 256;

/// The processes of an App, as far as the account of copies needs them.
pub(super) trait Nodes: Send + Sync {
    /// Returns the session with a node that is not lost.
    fn link_of(&self, node: u64) -> Option<Arc<Link>>;
    /// Returns the nodes on which replicas may be kept, the least loaded first.
    fn keepers(&self) -> Vec<Arc<Link>>;
    /// Returns whether a node or the process of a Work is present, and is going to stay.
    fn presence(&self, node: u64) -> Presence;
    /// Returns a description of a node or the process of a Work, for errors.
    fn in_words(&self, link: &Link) -> String;
    /// Returns `true` once the App is stopping, so that values need not outlive their processes any more.
    fn is_stopping(&self) -> bool;
}

/// All copies that the head knows of.
pub(super) struct Copies {
    me: Weak<Copies>,
    bridge: Arc<Bridge>,
    nodes: Weak<dyn Nodes>,
    by_value: Mutex<HashMap<PayloadId, Arc<Copied>>>,
    lost: Mutex<VecDeque<(u64, String)>>,
}

/// The copies of one value, recorded as long as something in the App refers to the value.
struct Copied {
    id: PayloadId,
    copies: Weak<Copies>,
    nodes: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    have: HashSet<u64>,
    /// Nodes that were told to pull the value.
    asked: HashSet<u64>,
    wanted: Option<Replicas>,
    /// The reason why the value could not be moved before its only copy was lost.
    not_moved: Option<String>,
}

struct ReplicaLease(Arc<Copied>);

impl Lease for ReplicaLease {
    fn session(&self) -> u64 {
        COPIES
    }

    fn again(&self) {}

    /// Discards the copies because nothing refers to the value any more.
    fn release(&self, _: bool) {
        let Some(copies) = self.0.copies.upgrade() else { return };
        // If the value has arrived anew in the meantime, the map has a later record of it.
        let last = copies.by_value.lock().remove(&self.0.id);
        let last = last.filter(|last| !Arc::ptr_eq(last, &self.0));
        let mut nodes = std::mem::take(&mut *self.0.nodes.lock());
        if let Some(last) = last {
            let Holders { have, asked, .. } = std::mem::take(&mut *last.nodes.lock());
            nodes.have.extend(have);
            nodes.asked.extend(asked);
        }
        for node in nodes.have.into_iter().chain(nodes.asked) {
            if let Some(link) = copies.link_of(node) {
                link.control(&Control::Discard { id: self.0.id });
            }
        }
    }
}

impl Copies {
    pub(super) fn new(bridge: Arc<Bridge>, nodes: Weak<dyn Nodes>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            bridge,
            nodes,
            by_value: Mutex::default(),
            lost: Mutex::default(),
        })
    }

    fn link_of(&self, node: u64) -> Option<Arc<Link>> {
        self.nodes.upgrade()?.link_of(node)
    }

    fn presence(&self, node: u64) -> Presence {
        self.nodes.upgrade().map_or(Presence::Gone, |nodes| nodes.presence(node))
    }

    fn in_words(&self, link: &Link) -> String {
        self.nodes
            .upgrade()
            .map_or_else(|| format!("node `{}`", link.peer().name), |nodes| nodes.in_words(link))
    }

    /// Returns when and why a node was lost.
    fn loss_of(&self, node: u64) -> Option<String> {
        let lost = self.lost.lock();
        lost.iter().find(|(lost, _)| *lost == node).map(|(_, words)| words.clone())
    }
    /// Returns the record of the copies of this value; creates one if necessary.
    fn copied_of(&self, hold: &Arc<PayloadGuard>) -> Arc<Copied> {
        let id = hold.id();
        let copied = {
            let mut copies = self.by_value.lock();
            let copied = copies
                .entry(id)
                .or_insert_with(|| Arc::new(Copied { id, copies: self.me.clone(), nodes: Mutex::default() }));
            copied.clone()
        };
        // An earlier lease stays if there is one; its end removes this record too.
        hold.lease(COPIES, || Arc::new(ReplicaLease(copied.clone())));
        copied
    }

    /// Records that a process has a copy, or that it cannot make one.
    pub(super) fn copied(&self, link: &Arc<Link>, id: PayloadId, failed: Option<String>) {
        let node = link.peer().id;
        let Some(hold) = self.bridge.store().find(id) else {
            return link.reply(&Control::Discard { id });
        };
        let copied = self.copied_of(&hold);
        let mut nodes = copied.nodes.lock();
        nodes.asked.remove(&node);
        match failed {
            None => {
                nodes.have.insert(node);
                drop(nodes);
                distant(&hold, |distant| distant.add_copy(Source::of(link.peer())));
            }
            Some(why) => {
                let why = brief(&why, LONGEST_REASON);
                log::warn!("node `{}` cannot keep a copy of payload {id}: {why}", link.peer().name);
            }
        }
    }

    /// Has as many nodes pull the value as its replication factor asks for.
    pub(super) fn see_to_copies(&self, hold: &Arc<PayloadGuard>) {
        let Some(wanted) = hold.replicas() else { return };
        let copied = self.copied_of(hold);
        copied.nodes.lock().wanted = Some(wanted);
        self.make_copies(&copied, hold);
    }

    fn make_copies(&self, copied: &Copied, hold: &Arc<PayloadGuard>) {
        let owner = distant(hold, |distant| distant.owner().id).unwrap_or_else(|| self.bridge.me().id);
        let owner_lives = owner == self.bridge.me().id || self.link_of(owner).is_some();
        let mut nodes = copied.nodes.lock();
        let Some(Replicas { count, hash, length }) = nodes.wanted else { return };
        let there = nodes.have.len() + nodes.asked.len() + usize::from(owner_lives);
        let missing = (count as usize).saturating_sub(there);
        let mut candidates = self.nodes.upgrade().map(|nodes| nodes.keepers()).unwrap_or_default();
        candidates.retain(|link| {
            let node = link.peer().id;
            node != owner && !nodes.have.contains(&node) && !nodes.asked.contains(&node)
        });
        candidates.truncate(missing);
        nodes.asked.extend(candidates.iter().map(|link| link.peer().id));
        drop(nodes);
        for link in candidates {
            let holds = std::iter::once(hold.clone()).collect();
            link.control_with(&holds, &Control::Keep { id: copied.id, hash, length });
        }
    }

    /// Adjusts the replicas after a node has joined or was lost.
    pub(super) fn nodes_changed(&self) {
        let all: Vec<_> = self.by_value.lock().values().cloned().collect();
        for copied in all {
            if copied.nodes.lock().wanted.is_some()
                && let Some(hold) = self.bridge.store().find(copied.id)
            {
                self.make_copies(&copied, &hold);
            }
        }
    }

    /// Forgets the copies of a node that is lost, and makes new replicas.
    pub(super) fn lost_node(&self, link: &Link, why: &str, is_expected: bool) {
        let node = link.peer().id;
        let how = if is_expected { "ended" } else { "was lost" };
        let when = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
        let words = format!("{} had it, and {how} at {when} ({why})", self.in_words(link));
        {
            let mut lost = self.lost.lock();
            lost.push_back((node, words));
            if lost.len() > REMEMBERED {
                lost.pop_front();
            }
        }
        let all: Vec<_> = self.by_value.lock().values().cloned().collect();
        for copied in all {
            let had = {
                let mut nodes = copied.nodes.lock();
                nodes.asked.remove(&node) | nodes.have.remove(&node)
            };
            if had && let Some(hold) = self.bridge.store().find(copied.id) {
                distant(&hold, |distant| distant.remove_copy(node));
            }
        }
        self.nodes_changed();
    }

    /// Returns the processes known to have a value, without the head itself.
    pub(super) fn holders_of(&self, hold: &PayloadGuard) -> Vec<u64> {
        let copied = self.by_value.lock().get(&hold.id()).cloned();
        let mut holders: Vec<_> =
            copied.into_iter().flat_map(|copied| copied.nodes.lock().have.clone()).collect();
        if let Some(sources) = distant(hold, |distant| distant.sources()) {
            // Reports of copies beside the owner's may be out of date. They matter only for a process that is about to
            // end.
            let is_sure = |place: usize, node: u64| place == 0 || self.presence(node) == Presence::Leaves;
            let sources = sources.into_iter().enumerate();
            holders.extend(sources.filter(|(place, node)| is_sure(*place, node.id)).map(|(_, node)| node.id));
        }
        holders
    }

    /// Records that a value could not be moved from a process that has the only copy and is about to end.
    pub(super) fn not_moved(&self, hold: &Arc<PayloadGuard>, why: &str) {
        let id = hold.id();
        let nodes = self.holders_of(hold);
        let who: Vec<_> = nodes
            .into_iter()
            .filter_map(|node| self.link_of(node))
            .map(|link| self.in_words(&link))
            .collect();
        let who = if who.is_empty() { "a process that has ended".to_owned() } else { who.join(" and ") };
        log::error!(
            "payload {} of {who} could not be moved to the head: {why}; it is lost with that process",
            &id.to_string()[..8]
        );
        let why = format!("{who} had it, and ended before it could be moved to the head: {why}");
        self.copied_of(hold).nodes.lock().not_moved = Some(why);
    }

    /// Returns the processes that have a value and those of `among` that are gone, or the reason for its loss.
    pub(super) fn who_has(&self, id: PayloadId, among: &[u64]) -> Whereabouts {
        let me = self.bridge.me();
        let is_gone = |node: &u64| *node != me.id && self.presence(*node) == Presence::Gone;
        let gone: Vec<_> = among.iter().copied().filter(is_gone).collect();
        // A value may be unknown here although it exists: nodes pass references to each other directly.
        let Some(hold) = self.bridge.store().find(id) else {
            let lost = (gone.len() == among.len()).then(|| {
                let known = gone.iter().find_map(|node| self.loss_of(*node));
                known.map_or_else(
                    || "nothing in the App referred to it any more, so it was freed".to_owned(),
                    no_other_copy,
                )
            });
            return Whereabouts { sources: Vec::new(), gone, lost };
        };
        let owner = distant(&hold, |distant| distant.owner().clone());
        let copied = self.by_value.lock().get(&id).cloned();
        let (have, not_moved) = match copied {
            Some(copied) => {
                let nodes = copied.nodes.lock();
                (nodes.have.clone(), nodes.not_moved.clone())
            }
            None => Default::default(),
        };
        let nodes = owner.iter().map(|owner| owner.id).chain(have);
        let mut sources: Vec<_> =
            nodes.filter_map(|node| self.link_of(node)).map(|link| Source::of(link.peer())).collect();
        if hold.entry().is_here() {
            sources.insert(0, Source::of(me));
        }
        let Some(owner) = owner else { return Whereabouts { sources, gone, lost: None } };
        let lost = sources.is_empty().then(|| {
            let known = not_moved.or_else(|| self.loss_of(owner.id));
            no_other_copy(known.unwrap_or_else(|| format!("node `{}` had it, and is gone", owner.name)))
        });
        Whereabouts { sources, gone, lost }
    }
}

/// Returns the reason for the loss of a value whose only holder is gone.
fn no_other_copy(loss: String) -> String {
    format!(
        "{loss}, and no other node has a copy; `cx.payload(value)?.replicate(2)` has a second node keep one"
    )
}

/// Replication that Works and Flows in the head's own process request.
pub(super) struct FromHere(pub(super) Weak<Copies>);

impl Replicate for FromHere {
    fn replicate(&self, hold: &Arc<PayloadGuard>) {
        let Some(copies) = self.0.upgrade() else { return };
        let is_known =
            hold.is_made_here() || copies.bridge.accepted().iter().any(|link| hold.is_tied(link.number()));
        if is_known {
            copies.see_to_copies(hold);
        }
    }
}

/// Replication that Works on a node request. The number of replicas goes to the head with the reference; a value that the
/// head knows already is sent once more.
pub(super) struct FromNode(pub(super) Weak<Link>);

impl Replicate for FromNode {
    fn replicate(&self, hold: &Arc<PayloadGuard>) {
        let Some(head) = self.0.upgrade() else { return };
        let id = hold.id();
        if hold.entry().remote_source().is_some() || head.pins().has(id) {
            head.control_with(&std::iter::once(hold.clone()).collect(), &Control::Replicate { id });
        }
    }
}
