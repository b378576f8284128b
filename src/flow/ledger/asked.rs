//! The part of one transaction that a Flow asked of a Work, and the Work as the Flow saw it when it asked (pure).
//!
//! A transaction has what the Works reported in a cycle and what the Flows asked for then. For each Work it records the
//! result of both; this module separates them again.
//!
//! # Guarantees
//! - The image that a Flow saw has each status of an input, each outcome and each run in progress that the Work had
//!   before the reaction, and nothing that the reaction itself has caused.
//! - A ledger that is restored from that image and is asked for the same records the same requests.
//!
//! # Limits
//! An operator's request to run or to forget an input is recorded as one of the Flow.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;

use super::facts::{Fact, Image, LifeFacts, WorkFacts};
use super::{Next, RunEntry};
use crate::work::{RunKey, Stage, Status};

/// A request of a Flow to one of its Works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// A run of the input with these bytes of its key.
    Run([u8; 16]),
    /// To forget the outcome of an input.
    Forget([u8; 16]),
    Stop,
    /// To start without a run.
    Start,
}

/// The requests of a Flow to one of its Works, with the encoded inputs that are known.
pub(crate) type AllAsked = BTreeMap<Asked, Option<Bytes>>;

fn is_down(life: LifeFacts) -> bool {
    matches!(life, LifeFacts::Down | LifeFacts::Stopping(Next::Stay))
}

/// The facts of one transaction about a Work, sorted by their origin.
struct Sorted<'f> {
    facts: &'f [Fact],
    /// The places and the keys of the runs that were requested.
    places: HashSet<u64>,
    keys: HashSet<RunKey>,
    work: Option<&'f WorkFacts>,
    /// True if an operator has stopped the Work or lifted that stop.
    is_commanded: bool,
    has_failed: bool,
}

impl<'f> Sorted<'f> {
    fn new(before: &Image, facts: &'f [Fact]) -> Self {
        let (mut places, mut keys) = (HashSet::new(), HashSet::new());
        let (mut work, mut has_failed) = (None, false);
        for fact in facts {
            match fact {
                // A run that was there has another key, because its input was read by a changed program.
                Fact::Requested { place, key, .. } if !before.runs.contains_key(place) => {
                    places.insert(*place);
                    keys.insert(*key);
                }
                Fact::Work(facts) => work = Some(facts),
                Fact::Recorded(status) => has_failed |= status.stage == Stage::Failed,
                _ => {}
            }
        }
        let is_commanded = work.is_some_and(|work| work.hold != before.work.hold);
        Self { facts, places, keys, work, is_commanded, has_failed }
    }

    /// Returns the request to stop the Work or to start it, if there was one.
    fn life(&self, before: &Image) -> Option<Asked> {
        let work = self.work.filter(|_| !self.is_commanded && !self.has_failed)?;
        match (is_down(before.work.life), is_down(work.life)) {
            // An incarnation that was to stop has ended.
            (true, true) | (false, false) => None,
            (false, true) => Some(Asked::Stop),
            (true, false) => self.places.is_empty().then_some(Asked::Start),
        }
    }

    /// Returns the end of the attempt that was in progress, with the key of its input.
    fn outcome(&self, before: &Image) -> Option<(RunKey, Status)> {
        let current = before.work.current.as_ref()?;
        let run = before.runs.get(&current.place).filter(|run| !run.progress.forgotten)?;
        let is_its = |entry: &&RunEntry| entry.run == Some(current.run);
        let entry = self.facts.iter().find_map(|fact| match fact {
            Fact::Attempted { entry, .. } => Some(entry).filter(is_its),
            _ => None,
        })?;
        let status = self.facts.iter().find_map(|fact| match fact {
            Fact::Recorded(status) => Some(status).filter(|status| status.stage == entry.stage),
            _ => None,
        })?;
        Some((run.key, status.clone()))
    }
}

/// Returns what a Flow asked of a Work in a transaction. `before` is the image before the transaction.
pub(crate) fn asked(before: &Image, facts: &[Fact]) -> AllAsked {
    let sorted = Sorted::new(before, facts);
    let mut all: AllAsked = sorted.life(before).map(|asked| (asked, None)).into_iter().collect();
    for fact in facts {
        match fact {
            Fact::Requested { key, input, place, .. } if sorted.places.contains(place) => {
                all.insert(Asked::Run(key.to_bytes()), Some(input.bytes.clone()));
            }
            Fact::Forgotten { key } => drop(all.insert(Asked::Forget(key.to_bytes()), None)),
            _ => {}
        }
    }
    all
}

/// Returns true if it cannot be told whether the Flow asked the Work to stop or to start: the Work has failed, or an
/// operator has commanded it.
pub(crate) fn has_other_life(before: &Image, facts: &[Fact]) -> bool {
    let sorted = Sorted::new(before, facts);
    sorted.is_commanded || sorted.has_failed
}

impl Image {
    /// Returns true if a run is in progress or waits.
    pub(crate) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Returns the image as the Flow saw it that reacted in the transaction with these facts, which was made at the
    /// time `at` since the start of the App.
    pub(crate) fn seen(&self, facts: &[Fact], at: Duration) -> Self {
        let sorted = Sorted::new(self, facts);
        let life = sorted.life(self);
        let is_stopped = life == Some(Asked::Stop);
        let own = self.work.current.as_ref().map(|current| current.place);
        let statuses = statuses_seen(&sorted, self.work.next_place, is_stopped);
        let mut seen = self.clone();
        for fact in facts {
            match fact {
                Fact::Requested { .. } | Fact::Forgotten { .. } | Fact::Recorded(_) | Fact::Work(_) => {}
                Fact::Waits { place, .. } if sorted.places.contains(place) => {}
                // What was dropped before it began was forgotten, replaced or stopped by the Flow.
                Fact::Ended { place } if own != Some(*place) && !sorted.is_commanded => {}
                Fact::Attempted { entry, .. } if entry.run.is_none() && !sorted.is_commanded => {}
                Fact::Input { key, .. } if sorted.keys.contains(key) => {}
                Fact::Input { status, .. } if is_stopped && status.stage == Stage::Stopped => {}
                fact => seen.apply(fact.clone()),
            }
        }
        for status in &statuses {
            seen.apply(Fact::Recorded(status.clone()));
        }
        let is_open = |key: &RunKey| {
            let is_forgotten = |fact: &Fact| matches!(fact, Fact::Forgotten { key: other } if other == key);
            sorted.keys.contains(key) || facts.iter().any(is_forgotten)
        };
        if let Some((key, status)) = sorted.outcome(self).filter(|(key, _)| is_open(key)) {
            seen.inputs.insert(key, (status, at));
        }
        if let Some(work) = sorted.work {
            seen.apply(Fact::Work(work.clone()));
            let work = &mut seen.work;
            if work.current.as_ref().is_some_and(|current| sorted.places.contains(&current.place)) {
                // It was requested in an idle Work, which began it at once.
                let run = work.current.take().map(|current| current.run);
                work.next_run = run.unwrap_or(work.next_run);
            }
            work.next_place = self.work.next_place;
            work.seq = statuses.last().map_or(self.work.seq, |status| status.seq);
            if life.is_some() || !sorted.places.is_empty() && is_down(self.work.life) {
                work.life = self.work.life;
            }
        }
        seen
    }
}

/// Returns the statuses that were recorded before the Flow asked for anything.
fn statuses_seen(sorted: &Sorted<'_>, next_place: u64, is_stopped: bool) -> Vec<Status> {
    let mut statuses: Vec<_> = sorted
        .facts
        .iter()
        .filter_map(|fact| if let Fact::Recorded(status) = fact { Some(status.clone()) } else { None })
        .collect();
    let waits = sorted.work.is_some_and(|work| work.life == LifeFacts::Unplaced);
    // Each request takes a place and records a status, also one that was replaced or forgotten at once.
    let mut requests = sorted.work.map_or(0, |work| work.next_place.saturating_sub(next_place));
    while let Some(last) = statuses.last() {
        let is_request = last.stage == Stage::Pending && requests > 0 && (waits || last.message.is_none());
        let is_stop = last.stage == Stage::Stopped && is_stopped;
        if !is_request && !is_stop {
            break;
        }
        requests -= u64::from(is_request);
        statuses.pop();
    }
    statuses
}
