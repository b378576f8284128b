//! The head's graph of waits: which Work waits for the answer of which, and the rounds that confirm a cycle. Pure: no
//! sockets, clocks or threads; messages to processes are returned as [`WaitOrder`]s.
//!
//! The reports of one process arrive in their order, and so do the orders to it. Nothing else is assumed: those of different
//! processes, and the messages of Works, may take any time.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{AskId, WaitOrder, WaitReport};
use crate::id::{ActorPath, IdMap};

/// Most Works of a cycle that is found.
pub(super) const LONGEST: usize = 1_000;

/// Most waits that are kept.
const MOST: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Graph {
    waits: IdMap<AskId, Wait>,
    /// The wait of each Work; a Work has one at a time.
    by_work: HashMap<ActorPath, AskId>,
    /// The wait of the handler of each question.
    by_question: IdMap<AskId, AskId>,
    rounds: IdMap<u64, Round>,
    last_round: u64,
}

struct Wait {
    process: u64,
    work: ActorPath,
    asked: ActorPath,
    handles: Option<AskId>,
    /// The time at which the timeout passes.
    deadline: Duration,
    /// The round that confirms a cycle through this wait, or has.
    round: Option<u64>,
}

/// The confirmation of a cycle. It lasts until a wait of the cycle ends or does not stand.
struct Round {
    cycle: Vec<AskId>,
    /// The waits that have not been confirmed.
    open: HashSet<AskId>,
}

type Orders = Vec<(u64, WaitOrder)>;

impl Graph {
    /// Takes a report of a process, and returns the orders to processes that follow.
    pub(super) fn reported(&mut self, process: u64, report: WaitReport, now: Duration) -> Orders {
        let is_its_own = |ask: &AskId| self.waits.get(ask).is_none_or(|wait| wait.process == process);
        match report {
            WaitReport::Waits { ask, .. } | WaitReport::Checked { ask, .. } | WaitReport::Ended { ask }
                if !is_its_own(&ask) =>
            {
                Vec::new()
            }
            WaitReport::Waits { ask, work, asked, handles, remaining_us } => {
                let deadline = now.saturating_add(Duration::from_micros(remaining_us));
                self.waits(ask, Wait { process, work, asked, handles, deadline, round: None });
                self.look(ask)
            }
            WaitReport::Checked { round, ask, stands } => self.checked(round, ask, stands),
            WaitReport::Ended { ask } => {
                self.remove(ask);
                Vec::new()
            }
        }
    }

    /// Forgets the waits of a process that is lost.
    pub(super) fn lost(&mut self, process: u64) {
        let of_process = self.waits.iter().filter(|(_, wait)| wait.process == process);
        let lost: Vec<_> = of_process.map(|(ask, _)| *ask).collect();
        lost.into_iter().for_each(|ask| self.remove(ask));
    }

    fn waits(&mut self, ask: AskId, mut wait: Wait) {
        // A Work that waits for another ask does not wait for the one before any more.
        if let Some(before) = self.by_work.get(&wait.work).copied().filter(|before| *before != ask) {
            self.remove(before);
        }
        match self.waits.get(&ask) {
            Some(known) => {
                wait.round = known.round;
                if let Some(handles) = known.handles {
                    self.by_question.remove(&handles);
                }
            }
            None if self.waits.len() >= MOST => return,
            None => {}
        }
        self.by_work.insert(wait.work.clone(), ask);
        if let Some(handles) = wait.handles {
            self.by_question.insert(handles, ask);
        }
        self.waits.insert(ask, wait);
    }

    fn remove(&mut self, ask: AskId) {
        let Some(wait) = self.waits.remove(&ask) else { return };
        if self.by_work.get(&wait.work) == Some(&ask) {
            self.by_work.remove(&wait.work);
        }
        if let Some(handles) = wait.handles
            && self.by_question.get(&handles) == Some(&ask)
        {
            self.by_question.remove(&handles);
        }
        if let Some(round) = wait.round {
            self.end_round(round);
        }
    }

    fn end_round(&mut self, round: u64) {
        let Some(Round { cycle, .. }) = self.rounds.remove(&round) else { return };
        for ask in cycle {
            if let Some(wait) = self.waits.get_mut(&ask) {
                wait.round = None;
            }
        }
    }

    /// Returns the wait of the Work that has the question of a wait, if it waits: the one that handles it, or else the one
    /// that was asked.
    fn next(&self, ask: AskId) -> Option<AskId> {
        let handled = || self.by_question.get(&ask);
        handled().or_else(|| self.by_work.get(&self.waits.get(&ask)?.asked)).copied()
    }

    /// Looks for a cycle through a wait. If there is one, asks its Works whether it stands.
    fn look(&mut self, ask: AskId) -> Orders {
        let (mut cycle, mut last) = (vec![ask], ask);
        loop {
            match self.next(last) {
                Some(next) if next == ask => break,
                // Another cycle, to which this wait leads, ends here as well.
                Some(next) if cycle.len() < LONGEST => cycle.push(next),
                _ => return Vec::new(),
            }
            last = cycle[cycle.len() - 1];
        }
        // A cycle that is being confirmed.
        if cycle.iter().any(|ask| self.waits.get(ask).is_none_or(|wait| wait.round.is_some())) {
            return Vec::new();
        }
        self.last_round += 1;
        let round = self.last_round;
        let before = cycle.iter().cycle().skip(cycle.len() - 1);
        let mut orders = Vec::new();
        for (ask, asker) in cycle.iter().zip(before) {
            if let Some(wait) = self.waits.get_mut(ask) {
                wait.round = Some(round);
                orders.push((wait.process, WaitOrder::Check { round, ask: *ask, asker: *asker }));
            }
        }
        let open = cycle.iter().copied().collect();
        self.rounds.insert(round, Round { cycle, open });
        orders
    }

    /// Takes the answer of one Work of a cycle.
    fn checked(&mut self, round: u64, ask: AskId, stands: bool) -> Orders {
        let Some(Round { cycle, open }) = self.rounds.get_mut(&round) else { return Vec::new() };
        if !open.remove(&ask) {
            return Vec::new();
        }
        if !stands {
            self.end_round(round);
            return Vec::new();
        }
        if !open.is_empty() {
            return Vec::new();
        }
        // Confirmed. The round stays, so that nothing more follows until a wait ends.
        let waits = &self.waits;
        let first_to_end = |ask: &&AskId| (waits.get(*ask).map(|wait| wait.deadline), **ask);
        let Some(victim) = cycle.iter().min_by_key(first_to_end).copied() else { return Vec::new() };
        let Some(start) = cycle.iter().position(|ask| *ask == victim) else { return Vec::new() };
        let around = cycle.iter().cycle().skip(start).take(cycle.len() + 1);
        let names = around.filter_map(|ask| waits.get(ask)).map(|wait| wait.work.clone()).collect();
        let Some(wait) = waits.get(&victim) else { return Vec::new() };
        vec![(wait.process, WaitOrder::Fail { ask: victim, cycle: names })]
    }

    /// Returns true if nothing is kept.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waits.is_empty()
            && self.by_work.is_empty()
            && self.by_question.is_empty()
            && self.rounds.is_empty()
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
