//! The head's side of values: who has copies of them, and who is to have some.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::bridge::Whereabouts;
use super::head::Head;
use super::link::Link;
use super::protocol::Control;
use super::references::{Source, distant};
use crate::payload::{self, COPIES, Hold, PayloadId, Replicas, Replicate, Tie};
use crate::printable::{LONGEST_REASON, brief};

/// So many lost nodes are remembered, for those who miss what was on them.
const REMEMBERED: usize = 256;

/// All copies that the head knows of.
#[derive(Default)]
pub(super) struct Copies {
    by_value: Mutex<HashMap<PayloadId, Arc<Copied>>>,
    lost: Mutex<VecDeque<(u64, String)>>,
}

/// Who has copies of one value, for as long as something in the App refers to it.
struct Copied {
    id: PayloadId,
    head: Weak<Head>,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    have: HashSet<u64>,
    /// They were told to pull it.
    asked: HashSet<u64>,
    wanted: Option<Replicas>,
}

impl Copied {
    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct CopiedTie(Arc<Copied>);

impl Tie for CopiedTie {
    fn session(&self) -> u64 {
        COPIES
    }

    fn again(&self) {}

    /// Nothing refers to the value any more: the copies are let go.
    fn release(&self, _: bool) {
        let Some(head) = self.0.head.upgrade() else { return };
        // Where the value came anew meanwhile, what is kept of it since is another one.
        let last = head.copies.lock().remove(&self.0.id);
        let last = last.filter(|last| !Arc::ptr_eq(last, &self.0));
        let mut nodes = std::mem::take(&mut *self.0.lock());
        if let Some(last) = last {
            let Nodes { have, asked, .. } = std::mem::take(&mut *last.lock());
            nodes.have.extend(have);
            nodes.asked.extend(asked);
        }
        for node in nodes.have.into_iter().chain(nodes.asked) {
            if let Some(link) = head.link_of(node) {
                link.control(&Control::Discard { id: self.0.id });
            }
        }
    }
}

impl Copies {
    fn lock(&self) -> MutexGuard<'_, HashMap<PayloadId, Arc<Copied>>> {
        self.by_value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> MutexGuard<'_, VecDeque<(u64, String)>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Head {
    /// What is known of the copies of this value.
    fn copied_of(self: &Arc<Self>, hold: &Arc<Hold>) -> Arc<Copied> {
        let id = hold.id();
        let copied = {
            let mut copies = self.copies.lock();
            let copied = copies.entry(id).or_insert_with(|| {
                Arc::new(Copied { id, head: Arc::downgrade(self), nodes: Mutex::default() })
            });
            copied.clone()
        };
        // Kept by one of before, whose end removes what is kept here.
        hold.tie(COPIES, || Arc::new(CopiedTie(copied.clone())));
        copied
    }

    /// A process has a copy now, or cannot make one.
    pub(super) fn copied(self: &Arc<Self>, link: &Arc<Link>, id: PayloadId, failed: Option<String>) {
        let node = link.peer().id;
        let Some(hold) = payload::find(id) else {
            return link.reply(&Control::Discard { id });
        };
        let copied = self.copied_of(&hold);
        let mut nodes = copied.lock();
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

    /// Sees to it that as many processes have the value as are to.
    pub(super) fn see_to_copies(self: &Arc<Self>, hold: &Arc<Hold>) {
        let Some(wanted) = hold.replicas() else { return };
        let copied = self.copied_of(hold);
        copied.lock().wanted = Some(wanted);
        self.make_copies(&copied, hold);
    }

    fn make_copies(&self, copied: &Copied, hold: &Arc<Hold>) {
        let owner = distant(hold, |distant| distant.owner.id).unwrap_or_else(|| self.bridge.me().id);
        let owner_lives = owner == self.bridge.me().id || self.link_of(owner).is_some();
        let mut nodes = copied.lock();
        let Some(Replicas { count, hash, length }) = nodes.wanted else { return };
        let there = nodes.have.len() + nodes.asked.len() + usize::from(owner_lives);
        let missing = (count as usize).saturating_sub(there);
        let mut candidates = self.keepers();
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

    /// There is another node, or one less.
    pub(super) fn nodes_changed(&self) {
        let all: Vec<_> = self.copies.lock().values().cloned().collect();
        for copied in all {
            if copied.lock().wanted.is_some()
                && let Some(hold) = payload::find(copied.id)
            {
                self.make_copies(&copied, &hold);
            }
        }
    }

    /// What was on this node is not there any more.
    pub(super) fn copies_lost(&self, link: &Link, why: &str) {
        let node = link.peer().id;
        let when = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
        let words = format!("node `{}` had it, and was lost at {when} ({why})", link.peer().name);
        {
            let mut lost = self.copies.lost();
            lost.push_back((node, words));
            if lost.len() > REMEMBERED {
                lost.pop_front();
            }
        }
        let all: Vec<_> = self.copies.lock().values().cloned().collect();
        for copied in all {
            let had = {
                let mut nodes = copied.lock();
                nodes.asked.remove(&node) | nodes.have.remove(&node)
            };
            if had && let Some(hold) = payload::find(copied.id) {
                distant(&hold, |distant| distant.remove_copy(node));
            }
        }
        self.nodes_changed();
    }

    /// Who has a value.
    pub(super) fn who_has(&self, id: PayloadId) -> Whereabouts {
        let Some(hold) = payload::find(id) else {
            let lost = "nothing in the App referred to it any more, so it was freed".to_owned();
            return Whereabouts { sources: Vec::new(), lost: Some(lost) };
        };
        let me = self.bridge.me();
        let owner = distant(&hold, |distant| distant.owner.clone());
        let copied = self.copies.lock().get(&id).cloned();
        let have = copied.map(|copied| copied.lock().have.clone()).unwrap_or_default();
        let nodes = owner.iter().map(|owner| owner.id).chain(have);
        let mut sources: Vec<_> =
            nodes.filter_map(|node| self.link_of(node)).map(|link| Source::of(link.peer())).collect();
        if hold.entry().is_here() {
            sources.insert(0, Source::of(me));
        }
        let Some(owner) = owner else { return Whereabouts { sources, lost: None } };
        let lost = sources.is_empty().then(|| {
            let known = self.copies.lost().iter().find(|(node, _)| *node == owner.id).map(|(_, words)| words.clone());
            let words = known.unwrap_or_else(|| format!("node `{}` had it, and is gone", owner.name));
            format!(
                "{words}, and no other node has a copy; `cx.payload(value)?.replicate(2)` has a second node keep one"
            )
        });
        Whereabouts { sources, lost }
    }
}

/// Copies of what Works in the head's own process make.
pub(super) struct FromHere(pub(super) Weak<Head>);

impl Replicate for FromHere {
    fn replicate(&self, hold: &Arc<Hold>) {
        if let Some(head) = self.0.upgrade() {
            head.see_to_copies(hold);
        }
    }
}
