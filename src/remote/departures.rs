//! Moving the values of a process that ends gracefully.
//!
//! # Guarantees
//! - A node that leaves, and the process of a Work that is over, end once a process that stays keeps every value to
//!   which the App refers, by a state, an input, a message, a variable or another value. That is bounded by the grace
//!   period. A value that could not be moved in time is named, with the reason, in an error of the head's log and in
//!   the error of its readers.
//! - A value is moved only if it would be lost otherwise: not if it is unreferenced, nor if a process that stays has a
//!   copy.
//! - The value is streamed to the head, into memory if the budget has room for it, else to disk.
//! - While the App itself stops nothing is moved: these processes stay until the Works of the App have ended.
//!
//! # Protocol
//! 1. The head sends `MayLeave` once no Work runs there and all messages that no handler had begun have been returned.
//!    From then on, copies in that process no longer count.
//! 2. The process sends `MoveLeases` to each other node that it has a session with. Such a node has the head *adopt*
//!    each value that it holds by a lease of the process, and releases the process when the head confirms that the
//!    value stays.
//! 3. The process sends `HandedOver` when nothing is pinned for other nodes any more. The head adopts all other values
//!    that it knows of and that would be lost, until there are none: a value that was moved may refer to others.
//! 4. The head sends `End`.
//!
//! All earlier messages of the process have been processed by then, since they use the same sessions. The function
//! [`fate`] decides which values have to be moved; a property test runs random departures on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::timeout;

use super::bridge::Bridge;
use super::link::Link;
use super::presence::{Fate, Presence, fate};
use super::protocol::Control;
use super::references::distant;
use super::replication::{Copies, Nodes};
use crate::payload::{PayloadGuard, PayloadGuards, PayloadId, Want};

/// Number of values that are moved concurrently.
const AT_ONCE: usize = 8;

/// Interval at which a move checks whether the value is still referenced.
const WANTED: Duration = Duration::from_millis(100);

/// The head's side of the departure of other processes.
pub(super) struct Departures {
    me: Weak<Departures>,
    bridge: Arc<Bridge>,
    nodes: Weak<dyn Nodes>,
    copies: Arc<Copies>,
}

impl Departures {
    pub(super) fn new(bridge: Arc<Bridge>, nodes: Weak<dyn Nodes>, copies: Arc<Copies>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), bridge, nodes, copies })
    }

    fn presence(&self, node: u64) -> Presence {
        self.nodes.upgrade().map_or(Presence::Gone, |nodes| nodes.presence(node))
    }

    fn fate_of(&self, hold: &PayloadGuard) -> Fate {
        fate(hold.entry().is_here(), self.copies.holders_of(hold).into_iter().map(|node| self.presence(node)))
    }

    /// Moves a value to the head unless a process that stays has it.
    async fn adopt(&self, id: PayloadId) -> Result<(), String> {
        let Some(hold) = self.bridge.store().find(id) else { return Ok(()) };
        match self.fate_of(&hold) {
            Fate::Kept => {}
            Fate::Moves => move_here(&hold).await?,
            Fate::Lost => return Err("no reachable process has it".to_owned()),
        }
        self.settle(&hold);
        Ok(())
    }

    /// Releases the head's leases at other processes if the head owns the value now, or its owner is leaving.
    fn settle(&self, hold: &PayloadGuard) {
        if hold.entry().is_here() {
            hold.entry().set_owned_here();
        }
        let owner = distant(hold, |distant| distant.owner().id);
        if owner.is_none_or(|owner| self.presence(owner) != Presence::Stays) {
            hold.release_all_but(&[]);
        }
    }

    /// Adopts a value that a node holds only by a lease from a process that is about to end.
    pub(super) fn adopt_for(&self, link: &Arc<Link>, id: PayloadId, has: bool, carried: PayloadGuards) {
        if has {
            self.copies.copied(link, id, None);
        }
        let (me, link) = (self.me.clone(), link.clone());
        self.bridge.spawn(move || async move {
            let Some(departures) = me.upgrade() else { return };
            let grace = departures.bridge.settings().grace;
            let adopted = timeout(grace, departures.adopt(id)).await.unwrap_or_else(|_| Err(too_slow(grace)));
            let hold = departures.bridge.store().find(id);
            match (&hold, adopted) {
                (Some(hold), Ok(())) => link.pins().add(hold),
                (Some(hold), Err(why)) => departures.copies.not_moved(hold, &why),
                (None, _) => {}
            }
            let there = hold.is_some_and(|hold| link.pins().has(hold.id()));
            link.reply(&Control::Held { id, there });
            drop(carried);
        });
    }

    /// Returns the values that would be lost with this process.
    fn only_at(&self, node: u64) -> Vec<PayloadId> {
        let mut found = Vec::new();
        for hold in self.bridge.store().all() {
            let holders = self.copies.holders_of(&hold);
            if !holders.contains(&node) {
                continue;
            }
            match fate(hold.entry().is_here(), holders.into_iter().map(|node| self.presence(node))) {
                Fate::Moves => found.push(hold.id()),
                Fate::Kept | Fate::Lost => self.settle(&hold),
            }
        }
        found
    }

    /// Begins to move all values that would be lost with this process, and then has the process end.
    pub(super) fn begin(&self, link: &Arc<Link>) {
        let (me, link) = (self.me.clone(), link.clone());
        self.bridge.spawn(move || async move {
            if let Some(departures) = me.upgrade() {
                departures.take_over(&link).await;
            }
        });
    }

    async fn take_over(&self, link: &Arc<Link>) {
        let node = link.peer().id;
        let mut failed: BTreeMap<[u8; 16], String> = BTreeMap::new();
        let moving = async {
            loop {
                let mut left = self.only_at(node);
                left.retain(|id| !failed.contains_key(&id.0));
                if left.is_empty() || self.nodes.upgrade().is_none_or(|nodes| nodes.is_stopping()) {
                    return;
                }
                let moves = stream::iter(left).map(|id| async move { (id, self.adopt(id).await) });
                let mut moves = std::pin::pin!(moves.buffer_unordered(AT_ONCE));
                while let Some((id, moved)) = moves.next().await {
                    if let Err(why) = moved {
                        failed.insert(id.0, why);
                    }
                }
            }
        };
        let grace = self.bridge.settings().grace;
        let is_late = timeout(grace, moving).await.is_err();
        for id in self.only_at(node) {
            let why = failed.remove(&id.0).or_else(|| is_late.then(|| too_slow(grace)));
            if let (Some(why), Some(hold)) = (why, self.bridge.store().find(id)) {
                self.copies.not_moved(&hold, &why);
            }
        }
        link.control(&Control::End { why: "nothing in the App needs it any more".to_owned() });
    }
}

fn too_slow(grace: Duration) -> String {
    format!("that took longer than the grace period of {grace:?}")
}

/// Pulls a value to this process; gives up once nothing refers to it.
async fn move_here(hold: &Arc<PayloadGuard>) -> Result<(), String> {
    let id = hold.id();
    let content = hold.entry().content_id().ok_or("its hash is not known")?;
    let what = format!("payload {id}");
    let want = Want { id, hash: content.hash.0, length: content.length, type_name: "", what };
    let load = hold.entry().load_whatever_others_want(want);
    let unwanted = async {
        while Arc::strong_count(hold) > 1 {
            tokio::time::sleep(WANTED).await;
        }
    };
    tokio::select! {
        loaded = load => loaded.map_err(|error| error.to_string()),
        () = unwanted => Ok(()),
    }
}

/// Has other nodes release this process, which is about to end, and waits until they have.
pub(super) async fn release_peers(bridge: &Bridge) {
    bridge.set_leaving();
    for link in bridge.peers() {
        link.control(&Control::MoveLeases);
    }
    while let Some(link) = bridge.peers().into_iter().find(|link| !link.pins().is_empty()) {
        link.pins().released().await;
    }
}

#[cfg(test)]
mod tests;
