//! Taking over the incarnations that nodes, and processes of single Works, have kept while the head was started again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::hosts::HEAD;
use super::Driver;
use crate::flow::{Expected, SharedRecord, Verdict, judge};
use crate::id::{ActorPath, WorkId};
use crate::state::Tracker;
use crate::work::{Claim, FencingToken};

/// The kept incarnations that were taken over.
#[derive(Default)]
pub(super) struct Adoptions {
    /// Their number by the number of the process of their node, until that node has described all that it has kept.
    by_process: BTreeMap<u64, usize>,
    total: u64,
    /// The time at which this head began to listen for nodes.
    listening_since: Option<Instant>,
    /// The time from then to the last adoption.
    took: Duration,
}

impl Adoptions {
    /// Records that nodes can join from now on.
    pub(super) fn listening(&mut self) {
        self.listening_since = Some(Instant::now());
    }

    /// Counts an incarnation on a node that was taken over.
    fn add(&mut self, process: u64) {
        *self.by_process.entry(process).or_default() += 1;
        self.total += 1;
        self.took = self.listening_since.map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// Returns the number of all incarnations that were taken over, and the time from the moment at which this head
    /// listened to the last of them.
    #[cfg_attr(
        not(feature = "journal"),
        allow(dead_code, reason = "only heads with a journal take over anything")
    )]
    pub(super) fn status(&self) -> (u64, Duration) {
        (self.total, self.took)
    }
}

impl Driver {
    /// Takes over an incarnation that a node has kept, or has it ended.
    pub(super) fn claimed(&mut self, claim: Claim) {
        let (process, incarnation) = (claim.process, claim.incarnation);
        let path = claim.path.clone();
        let keeper = match &*claim.node {
            HEAD => "its own process".to_owned(),
            node => format!("node `{node}`"),
        };
        let found = self.work_at(&path);
        let verdict = {
            let record = found.as_ref().map(|(_, record)| record.lock());
            let expected = record.as_ref().map(|record| Expected {
                awaited: record.ledger.awaited(),
                work: record.kind.name(),
                fits: self.hosts.fits(process, &record.placement),
            });
            judge(expected, incarnation, &claim.work)
        };
        match (verdict, found) {
            (Verdict::Adopt, Some((id, record))) => {
                if self.adopt(id, &record, claim) {
                    self.adoptions.add(process);
                }
            }
            (Verdict::Adopt, None) => {}
            (Verdict::End(why), _) => {
                log::warn!("work `{path}` was kept by {keeper}, and is ended there: {why}");
                self.hosts.refuse(process, incarnation);
            }
            (Verdict::Replace(why), found) => {
                log::warn!("work `{path}` was kept by {keeper}, and is ended there and started again: {why}");
                self.hosts.refuse(process, incarnation);
                if let Some((id, _)) = found {
                    let now = self.wake_ups.now();
                    self.update_work(id, |ledger| ledger.not_kept(now));
                }
            }
        }
    }

    /// Takes over an incarnation. Returns false if its node is lost again.
    fn adopt(&mut self, id: WorkId, shared: &SharedRecord, claim: Claim) -> bool {
        let now = self.wake_ups.now();
        let (last_run, incarnation, node) = (claim.last_run, claim.incarnation, claim.node.clone());
        {
            let mut record = shared.lock();
            let mut tracker = Tracker::resume(record.state.clone(), usize::MAX);
            let patch = match tracker.update(&claim.state) {
                Ok(patch) => patch,
                Err(error) => {
                    log::error!(
                        "the state of work `{}` on node `{node}` cannot be read: {error}",
                        record.path
                    );
                    None
                }
            };
            let needs = record.needs;
            let token = FencingToken::numbered(incarnation);
            let what = record.incarnation(self.wake_ups.ready_queue(), token);
            if !self.hosts.take_over(claim, patch, needs, what) {
                record.kill();
                return false;
            }
            record.ledger.placed_on(Some(node));
            record.ledger.adopted(last_run, now);
        }
        self.update_work(id, |_| ());
        true
    }

    /// Gives up the incarnations that were on a node which has come back without them. `work` is the only one if it is the
    /// process of a single Work.
    pub(super) fn all_claimed(&mut self, process: u64, node: &Arc<str>, work: Option<ActorPath>) {
        if let Some(path) = work {
            match self.adoptions.by_process.remove(&process) {
                Some(_) => log::info!("adopted work `{path}` in its own process"),
                None => self.not_kept(&path),
            }
            return self.hosts.has_claimed(process);
        }
        let now = self.wake_ups.now();
        let mut lost = 0;
        for id in self.tree.ids() {
            let is_lost = self.tree.work(id).is_some_and(|record| {
                let record = record.lock();
                record.ledger.awaited().is_some() && record.ledger.node() == Some(node)
            });
            if is_lost {
                self.update_work(id, |ledger| ledger.not_kept(now));
                lost += 1;
            }
        }
        let adopted = self.adoptions.by_process.remove(&process).unwrap_or_default();
        let works = |number: usize| if number == 1 { "1 Work".to_owned() } else { format!("{number} Works") };
        match (adopted, lost) {
            (0, 0) => {}
            (0, lost) => {
                log::warn!("node `{node}` has returned without {}, to be started again", works(lost))
            }
            (adopted, 0) => log::info!(
                "adopted {} on node `{node}`, {:.1?} after this head began to listen",
                works(adopted),
                self.adoptions.took
            ),
            (adopted, lost) => log::warn!(
                "adopted {} on node `{node}`, which has returned without {}, to be started again",
                works(adopted),
                works(lost)
            ),
        }
        self.hosts.has_claimed(process);
    }

    /// Gives up the incarnation of a Work whose process has ended while there was no head, or has come back without it.
    pub(super) fn not_kept(&mut self, path: &ActorPath) {
        let Some((id, record)) = self.work_at(path) else { return };
        let is_awaited = {
            let ledger = &record.lock().ledger;
            // It may be on a node instead.
            ledger.awaited().is_some() && ledger.node().is_none_or(|node| &**node == HEAD)
        };
        if is_awaited {
            log::warn!(
                "the process of work `{path}` has not returned; the Work starts again from its last durable state"
            );
            let now = self.wake_ups.now();
            self.update_work(id, |ledger| ledger.not_kept(now));
        }
    }

    /// Returns the Work at this path.
    fn work_at(&mut self, path: &ActorPath) -> Option<(WorkId, SharedRecord)> {
        let record = self.record(path.as_str())?;
        let id = record.lock().id;
        Some((id, record))
    }
}
