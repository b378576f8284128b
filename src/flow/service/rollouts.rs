//! The versions of a service and their replicas: which ones there are to be, and which get messages (pure, without a clock
//! of its own).
//!
//! # Guarantees
//! - Each distinct input is rolled out once, until it is forgotten.
//! - A version gets messages only once as many of its replicas as start beside the old ones have been ready at the same
//!   time. From then on the version before gets none, and no older version ever again.
//! - A version that does not become ready in time, or one of whose replicas breaks before, is rolled back: nothing changes
//!   for the version that serves.
//! - There are never more replicas than the wanted number and `max_extra`, except while a smaller number is wanted and the
//!   others finish.
//! - A replica that leaves is ended once it has finished its messages, and at the latest after the time to drain.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::flow::policy::Overlap;
use crate::flow::service_report::{Rollout, RolloutStage};
use crate::payload::Hex;

/// Number of ended rollouts that are remembered.
const HISTORY: usize = 16;

/// Number of inputs that are remembered as rolled out.
const KNOWN: usize = 1024;

/// Content of an input, by which it is recognised.
pub(super) type InputKey = Hex<16>;

/// A version: an input that was deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Version<I> {
    /// Number of the version, from 1.
    pub(super) number: u64,
    pub(super) key: InputKey,
    pub(super) input: I,
}

/// A version that is not ready yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Candidate<I> {
    version: Version<I>,
    /// Time of the App by which it has to be ready.
    deadline: Duration,
}

/// An input that waits for the end of the rollout under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Waiting<I> {
    key: InputKey,
    input: I,
}

/// A replica of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Replica {
    pub(super) version: u64,
    /// Time of the App by which it is ended, once it leaves.
    pub(super) drain_until: Option<Duration>,
}

/// The bounds within which replicas are started and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: usize,
    pub(super) most: usize,
    /// Number of replicas beyond the wanted number, during a rollout; at least 1.
    pub(super) max_extra: usize,
    pub(super) ready_within: Duration,
    pub(super) drain: Duration,
}

/// A replica as it is seen now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) is_ready: bool,
    /// The reason why it will not become ready.
    pub(super) broken: Option<String>,
    /// True if it has no message that was sent to the service.
    pub(super) is_drained: bool,
}

/// The moment of a step: the time of the App, and the time on the wall.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) at: Duration,
    pub(super) wall: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Rollouts<I> {
    serving: Option<Version<I>>,
    candidate: Option<Candidate<I>>,
    waiting: VecDeque<Waiting<I>>,
    /// The replicas that there are to be, by their numbers, which are never used again.
    replicas: BTreeMap<u64, Replica>,
    /// Wanted number of replicas of the version that serves.
    wanted: usize,
    /// The last rollouts, oldest first; the last is the one under way, if there is one.
    rollouts: VecDeque<Rollout>,
    /// Keys of the inputs that were deployed, oldest first.
    known: VecDeque<InputKey>,
    last_version: u64,
    last_replica: u64,
}

impl<I> Default for Rollouts<I> {
    fn default() -> Self {
        Self {
            serving: None,
            candidate: None,
            waiting: VecDeque::new(),
            replicas: BTreeMap::new(),
            wanted: 0,
            rollouts: VecDeque::new(),
            known: VecDeque::new(),
            last_version: 0,
            last_replica: 0,
        }
    }
}

impl<I> Rollouts<I> {
    /// Returns true if this input was deployed and not forgotten since.
    pub(super) fn is_known(&self, key: InputKey) -> bool {
        self.known.contains(&key)
    }

    /// Deploys an input, unless it is known.
    pub(super) fn deploy(&mut self, key: InputKey, input: I, overlap: Overlap, now: Now) {
        if self.is_known(key) {
            return;
        }
        if self.known.len() == KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(key);
        match overlap {
            Overlap::Queue => {}
            Overlap::Latest => self.waiting.clear(),
            Overlap::Restart => {
                self.waiting.clear();
                self.end_candidate(RolloutStage::Superseded, None, now);
            }
        }
        self.waiting.push_back(Waiting { key, input });
    }

    /// Forgets an input, so that it can be deployed again. The version that serves goes on.
    pub(super) fn forget(&mut self, key: InputKey) {
        self.known.retain(|known| *known != key);
    }

    /// Sets the wanted number of replicas, which is kept within the bounds.
    pub(super) fn scale(&mut self, wanted: usize) {
        self.wanted = wanted;
    }

    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    pub(super) fn serving(&self) -> Option<&Version<I>> {
        self.serving.as_ref()
    }

    /// Returns the last rollouts, oldest first.
    pub(super) fn rollouts(&self) -> impl DoubleEndedIterator<Item = &Rollout> {
        self.rollouts.iter()
    }

    /// Returns true if an input waits for the end of the rollout under way.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the replicas that there are to be, by their numbers.
    pub(super) fn replicas(&self) -> &BTreeMap<u64, Replica> {
        &self.replicas
    }

    /// Returns the input for the replicas of a version, unless the version has left.
    pub(super) fn input_of(&self, version: u64) -> Option<&I> {
        let candidate = self.candidate.iter().map(|candidate| &candidate.version);
        let mut versions = self.serving.iter().chain(candidate);
        versions.find(|known| known.number == version).map(|known| &known.input)
    }

    /// Returns the numbers of the replicas that are to get messages: those of the version that serves which are ready.
    pub(super) fn rotation(&self, seen: &BTreeMap<u64, Seen>) -> Vec<u64> {
        let Some(serving) = &self.serving else { return Vec::new() };
        let stays = self
            .replicas
            .iter()
            .filter(|(_, replica)| replica.version == serving.number && replica.drain_until.is_none());
        stays.map(|(id, _)| *id).filter(|id| seen.get(id).is_some_and(|seen| seen.is_ready)).collect()
    }

    /// Returns the time of the App at which the next step is due, if nothing changes before.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let drains = self.replicas.values().filter_map(|replica| replica.drain_until);
        drains.chain(self.candidate.as_ref().map(|candidate| candidate.deadline)).min()
    }

    /// Decides, from what is seen of the replicas, which ones there are to be and which version serves.
    pub(super) fn step(&mut self, seen: &BTreeMap<u64, Seen>, bounds: &Bounds, now: Now) {
        self.wanted = self.wanted.clamp(bounds.least, bounds.most.max(bounds.least));
        self.replicas.retain(|id, replica| {
            let is_drained = || seen.get(id).is_none_or(|seen| seen.is_drained);
            replica.drain_until.is_none_or(|until| now.at < until && !is_drained())
        });
        self.judge_candidate(seen, bounds, now);
        self.begin_next(bounds, now);
        self.adjust(seen, bounds, now);
    }

    /// Rolls the candidate back, or has it serve, if it is time for that.
    fn judge_candidate(&mut self, seen: &BTreeMap<u64, Seen>, bounds: &Bounds, now: Now) {
        let Some(Candidate { version, deadline }) = &self.candidate else { return };
        let number = version.number;
        let own: Vec<_> = self.replicas.iter().filter(|(_, replica)| replica.version == number).collect();
        let broken = own.iter().find_map(|(id, _)| seen.get(id)?.broken.clone());
        let ready = own.iter().filter(|(id, _)| seen.get(id).is_some_and(|seen| seen.is_ready)).count();
        if let Some(why) = broken {
            self.end_candidate(RolloutStage::RolledBack, Some(why), now);
        } else if ready >= self.beside(bounds) {
            self.promote(bounds, now);
        } else if *deadline <= now.at {
            let why = format!("it was not ready within {:?}", bounds.ready_within);
            self.end_candidate(RolloutStage::RolledBack, Some(why), now);
        }
    }

    /// Returns the number of replicas of a new version that start beside the old ones.
    fn beside(&self, bounds: &Bounds) -> usize {
        self.wanted.min(bounds.max_extra.max(1))
    }

    fn promote(&mut self, bounds: &Bounds, now: Now) {
        let Some(Candidate { version, .. }) = self.candidate.take() else { return };
        let number = version.number;
        for replica in self.replicas.values_mut().filter(|replica| replica.version != number) {
            replica.drain_until.get_or_insert(now.at.saturating_add(bounds.drain));
        }
        if let Some(before) = self.serving.replace(version) {
            self.note(before.number, RolloutStage::Replaced, None, now);
        }
        self.note(number, RolloutStage::Serving, None, now);
    }

    /// Ends the rollout under way. Its replicas have got no message.
    fn end_candidate(&mut self, stage: RolloutStage, why: Option<String>, now: Now) {
        let Some(Candidate { version, .. }) = self.candidate.take() else { return };
        self.replicas.retain(|_, replica| replica.version != version.number);
        self.note(version.number, stage, why, now);
    }

    fn begin_next(&mut self, bounds: &Bounds, now: Now) {
        if self.candidate.is_some() {
            return;
        }
        let Some(Waiting { key, input }) = self.waiting.pop_front() else { return };
        self.last_version += 1;
        let number = self.last_version;
        let deadline = now.at.saturating_add(bounds.ready_within);
        self.candidate = Some(Candidate { version: Version { number, key, input }, deadline });
        self.note(number, RolloutStage::Starting, None, now);
    }

    /// Adds and retires replicas until there are as many as wanted, as far as there is room.
    fn adjust(&mut self, seen: &BTreeMap<u64, Seen>, bounds: &Bounds, now: Now) {
        let serving = self.serving.as_ref().map(|version| version.number);
        let candidate = self.candidate.as_ref().map(|candidate| candidate.version.number);
        if let Some(serving) = serving {
            let stays = |replica: &Replica| replica.version == serving && replica.drain_until.is_none();
            let mut own: Vec<_> =
                self.replicas.iter().filter(|(_, replica)| stays(replica)).map(|(id, _)| *id).collect();
            // Those that are not ready leave first, and then the youngest.
            own.sort_by_key(|id| (!seen.get(id).is_some_and(|seen| seen.is_ready), *id));
            for id in own.split_off(own.len().min(self.wanted)) {
                if let Some(replica) = self.replicas.get_mut(&id) {
                    replica.drain_until = Some(now.at.saturating_add(bounds.drain));
                }
            }
        }
        // The candidate comes first: without it, the room that a rollout may take could be used up by replacements.
        let beside = self.beside(bounds);
        for (version, count) in [(candidate, beside), (serving, self.wanted)] {
            let Some(version) = version else { continue };
            let has = self
                .replicas
                .values()
                .filter(|replica| replica.version == version && replica.drain_until.is_none());
            let missing = count.saturating_sub(has.count());
            let room = (self.wanted + bounds.max_extra.max(1)).saturating_sub(self.replicas.len());
            for _ in 0..missing.min(room) {
                self.last_replica += 1;
                self.replicas.insert(self.last_replica, Replica { version, drain_until: None });
            }
        }
    }

    /// Records the stage of a rollout.
    fn note(&mut self, version: u64, stage: RolloutStage, message: Option<String>, now: Now) {
        let rollout = Rollout { version, stage, message, time: now.wall };
        match self.rollouts.iter_mut().find(|known| known.version == version) {
            Some(known) => *known = rollout,
            None => {
                if self.rollouts.len() == HISTORY {
                    self.rollouts.pop_front();
                }
                self.rollouts.push_back(rollout);
            }
        }
    }
}

#[cfg(test)]
#[path = "rollouts_tests.rs"]
mod tests;
