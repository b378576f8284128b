//! History of the attempts at runs of a Work, for display, with small inputs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Current, Ledger, Waiting};
use crate::work::{Input, Reason, RunKey, Stage};

/// Number of attempts of a Work that are kept.
pub(super) const TRIES: usize = 200;

/// Largest input or output that is kept for display after its run has ended, in bytes.
const LONGEST: usize = 4 * 1024;

/// An attempt at a run, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunEntry {
    /// Number of the attempt; `None` while the run waits for its turn.
    pub(crate) run: Option<u64>,
    pub(crate) attempt: u32,
    pub(crate) stage: Stage,
    pub(crate) reason: Option<Reason>,
    pub(crate) message: Option<Arc<str>>,
    /// Encoded input; `None` if it was too large to be kept.
    pub(crate) input: Option<Bytes>,
    /// Encoded output; `None` if there is none, or if it was too large to be kept here.
    pub(crate) output: Option<Bytes>,
    pub(crate) queued: SystemTime,
    pub(crate) started: Option<SystemTime>,
    pub(crate) ended: Option<SystemTime>,
    pub(crate) node: Option<Arc<str>>,
}

/// Number of attempts by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Outcomes {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) stopped: u64,
    /// Total duration of the attempts that began, in seconds, in the order of the fields.
    pub(crate) seconds: [f64; 3],
}

/// Attempts that were sent, oldest first; at most the last one is in progress.
#[derive(Debug, Default)]
pub(super) struct Tries {
    entries: VecDeque<RunEntry>,
    outcomes: Outcomes,
    /// Attempts that have ended since the last call of [`take_ended`](Self::take_ended), if they are recorded.
    newly_ended: Option<Vec<RunEntry>>,
    /// Number of attempts that have ended since changes are recorded.
    attempted: u64,
}

impl Tries {
    /// Restores the attempts that have ended.
    pub(super) fn restored(entries: VecDeque<RunEntry>, outcomes: Outcomes, attempted: u64) -> Self {
        Self { entries, outcomes, newly_ended: None, attempted }
    }

    /// Records attempts that end from now on.
    pub(super) fn record_changes(&mut self) {
        self.newly_ended.get_or_insert_default();
    }

    /// Returns the attempts that have ended since the last call, with their numbers, from 1.
    pub(super) fn take_ended(&mut self) -> Vec<(u64, RunEntry)> {
        let ended = self.newly_ended.as_mut().map(std::mem::take).unwrap_or_default();
        let before = self.attempted;
        self.attempted += ended.len() as u64;
        (before + 1..).zip(ended).collect()
    }

    /// Returns the number of the last attempt that [`take_ended`](Self::take_ended) has returned.
    pub(super) fn attempted(&self) -> u64 {
        self.attempted
    }

    /// Returns the attempt in progress.
    pub(super) fn in_progress(&self) -> Option<&RunEntry> {
        self.entries.back().filter(|entry| entry.ended.is_none())
    }

    /// Returns true if this attempt is in progress and has begun.
    pub(super) fn has_begun(&self, run: u64) -> bool {
        self.in_progress().is_some_and(|entry| entry.run == Some(run) && entry.started.is_some())
    }

    /// Restores the attempt in progress.
    pub(super) fn restore_in_progress(
        &mut self,
        run: u64,
        started: Option<SystemTime>,
        node: Option<Arc<str>>,
        waiting: &Waiting,
    ) {
        let stage = if started.is_some() { Stage::Running } else { Stage::Pending };
        self.push(RunEntry { run: Some(run), stage, started, node, ..entry(waiting) });
    }

    /// Iterates over the attempts that have ended, oldest first.
    #[cfg(test)]
    pub(super) fn ended_ones(&self) -> impl Iterator<Item = &RunEntry> {
        self.entries.iter().filter(|entry| entry.ended.is_some())
    }

    fn push(&mut self, entry: RunEntry) {
        if self.entries.len() >= TRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Records an attempt that is sent to the Work.
    pub(super) fn sent(&mut self, run: u64, waiting: &Waiting, node: Option<Arc<str>>) {
        self.push(RunEntry { run: Some(run), node, ..entry(waiting) });
    }

    fn open(&mut self) -> Option<&mut RunEntry> {
        self.entries.back_mut().filter(|entry| entry.ended.is_none())
    }

    pub(super) fn began(&mut self, now: SystemTime) {
        if let Some(entry) = self.open() {
            (entry.stage, entry.started) = (Stage::Running, Some(now));
        }
    }

    pub(super) fn on_node(&mut self, node: Option<Arc<str>>) {
        if let Some(entry) = self.open() {
            entry.node = node;
        }
    }

    /// Removes an attempt that was sent but did not begin, because its run waits again.
    pub(super) fn taken_back(&mut self) {
        if self.open().is_some_and(|entry| entry.started.is_none()) {
            self.entries.pop_back();
        }
    }

    /// Records the output of the attempt that was sent last.
    pub(super) fn returned(&mut self, output: Option<Bytes>) {
        if let Some(entry) = self.open() {
            entry.output = output.filter(|output| output.len() <= LONGEST);
        }
    }

    /// Records the end of the attempt that was sent last.
    pub(super) fn ended(
        &mut self,
        stage: Stage,
        reason: Option<Reason>,
        message: Option<&str>,
        now: SystemTime,
    ) {
        let is_recorded = self.newly_ended.is_some();
        if let Some(entry) = self.open() {
            close(entry, stage, reason, message, now);
            let ended = is_recorded.then(|| entry.clone());
            let took = entry.started.and_then(|started| now.duration_since(started).ok());
            self.count(stage, took.unwrap_or_default());
            self.newly_ended.iter_mut().for_each(|all| all.extend(ended.iter().cloned()));
        }
    }

    /// Records the end of a run that was never sent.
    pub(super) fn dropped(&mut self, waiting: &Waiting, why: Option<&str>, now: SystemTime) {
        // The attempt in progress stays the last one.
        let open = self.open().is_some().then(|| self.entries.pop_back()).flatten();
        let mut dropped = entry(waiting);
        close(&mut dropped, Stage::Stopped, Some(Reason::Stopped), why, now);
        self.newly_ended.iter_mut().for_each(|all| all.push(dropped.clone()));
        self.push(dropped);
        open.into_iter().for_each(|open| self.push(open));
        self.count(Stage::Stopped, Duration::ZERO);
    }

    fn count(&mut self, stage: Stage, took: Duration) {
        let outcomes = &mut self.outcomes;
        let (count, place) = match stage {
            Stage::Succeeded => (&mut outcomes.succeeded, 0),
            Stage::Failed => (&mut outcomes.failed, 1),
            Stage::Stopped => (&mut outcomes.stopped, 2),
            Stage::NotStarted | Stage::Pending | Stage::Running => return,
        };
        *count += 1;
        outcomes.seconds[place] += took.as_secs_f64();
    }
}

fn close(entry: &mut RunEntry, stage: Stage, reason: Option<Reason>, message: Option<&str>, now: SystemTime) {
    (entry.stage, entry.reason, entry.ended) = (stage, reason, Some(now));
    entry.message = message.map(Arc::from);
}

fn entry(waiting: &Waiting) -> RunEntry {
    let input = &waiting.input.bytes;
    RunEntry {
        run: None,
        attempt: waiting.attempts,
        stage: Stage::Pending,
        reason: None,
        message: None,
        input: (input.len() <= LONGEST).then(|| input.clone()),
        output: None,
        queued: waiting.queued,
        started: None,
        ended: None,
        node: None,
    }
}

impl Ledger {
    /// Returns a page of runs, newest first, and their total number.
    pub(crate) fn runs(&self, skip: usize, take: usize) -> (usize, Vec<RunEntry>) {
        let tries = self.tries.as_deref().map(|tries| &tries.entries);
        let total = self.queue.len() + tries.map_or(0, VecDeque::len);
        let waiting = self.queue.iter().rev().map(entry);
        let begun = tries.into_iter().flat_map(|entries| entries.iter().rev().cloned());
        (total, waiting.chain(begun).skip(skip).take(take).collect())
    }

    /// Returns the number of waiting runs.
    pub(crate) fn waiting_runs(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        self.tries.as_deref().map(|tries| tries.outcomes).unwrap_or_default()
    }

    /// Returns the number, the input and the start of the run in progress.
    pub(crate) fn current_run(&self) -> Option<(u64, Option<Bytes>, Option<SystemTime>)> {
        let Current { run, waiting, .. } = &**self.current.as_ref()?;
        let entry = self.tries.as_deref().and_then(|tries| tries.entries.back());
        let input = &waiting.input.bytes;
        let input = (input.len() <= LONGEST).then(|| input.clone());
        Some((*run, input, entry.and_then(|entry| entry.started)))
    }

    /// Returns the encoded input of a run in the history; `Some(None)` if it was too large to be kept.
    pub(crate) fn input_of(&self, run: u64) -> Option<Option<Bytes>> {
        let tries = self.tries.as_deref()?;
        tries.entries.iter().find(|entry| entry.run == Some(run)).map(|entry| entry.input.clone())
    }

    /// Iterates over the inputs that wait or are in progress, with the number of the run if there is one.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (Option<u64>, &Input)> {
        let current = self.current.iter().map(|current| (Some(current.run), &current.waiting.input));
        current.chain(self.queue.iter().map(|waiting| (None, &waiting.input)))
    }

    /// Returns the number of incarnations before the current or last one.
    pub(crate) fn restart_count(&self) -> u32 {
        self.launches.saturating_sub(1)
    }

    /// Records the node of the incarnation that was launched last. If it loses its place, the reason why there is no other
    /// one is told anew.
    pub(crate) fn placed_on(&mut self, node: Option<Arc<str>>) {
        self.node.clone_from(&node);
        self.waits_for = None;
        if let Some(tries) = &mut self.tries {
            tries.on_node(node);
        }
    }

    /// Returns the node of the living incarnation.
    pub(crate) fn node(&self) -> Option<&Arc<str>> {
        self.node.as_ref().filter(|_| self.is_up())
    }

    pub(super) fn tries(&mut self) -> &mut Tries {
        self.tries.get_or_insert_default()
    }

    pub(super) fn drop_waiting(&mut self, key: RunKey, why: &str, now: SystemTime) {
        for waiting in self.queue.take_if(|waiting| waiting.key == key) {
            self.tries().dropped(&waiting, Some(why), now);
        }
    }
}
