//! Runs of one Work that wait for their turn.

use std::collections::VecDeque;

use super::Waiting;

/// A queue of runs, in the order of their places. A run gets its place when it is requested and keeps it: a run that was
/// in progress and waits again goes before all others.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    runs: VecDeque<Waiting>,
    next_place: u64,
    /// Changes since the last call of [`take_touched`](Self::take_touched), if they are recorded.
    #[expect(clippy::box_collection, reason = "most queues have none")]
    touched: Option<Box<Vec<Touched>>>,
}

/// The place of a run that has joined or left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Touched {
    pub(super) place: u64,
    /// True if the run was requested.
    pub(super) is_new: bool,
}

impl RunQueue {
    /// Restores a queue; `runs` are in the order of their places.
    pub(super) fn restored(runs: VecDeque<Waiting>, next_place: u64) -> Self {
        Self { runs, next_place, touched: None }
    }

    /// Records changes from now on.
    pub(super) fn record_changes(&mut self) {
        self.touched.get_or_insert_default();
    }

    /// Returns the changes since the last call, in no particular order.
    pub(super) fn take_touched(&mut self) -> Vec<Touched> {
        self.touched.as_deref_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn next_place(&self) -> u64 {
        self.next_place
    }

    /// Appends a run that was requested.
    pub(super) fn push_new(&mut self, mut run: Waiting) {
        run.place = self.next_place;
        self.next_place += 1;
        self.touch(run.place, true);
        self.runs.push_back(run);
    }

    /// Puts a run that was taken from the front back there.
    pub(super) fn push_front(&mut self, run: Waiting) {
        self.touch(run.place, false);
        self.runs.push_front(run);
    }

    pub(super) fn pop_front(&mut self) -> Option<Waiting> {
        let run = self.runs.pop_front()?;
        self.touch(run.place, false);
        Some(run)
    }

    /// Removes all runs.
    pub(super) fn take_all(&mut self) -> VecDeque<Waiting> {
        self.take_if(|_| true)
    }

    /// Removes the runs for which `which` is true.
    pub(super) fn take_if(&mut self, which: impl Fn(&Waiting) -> bool) -> VecDeque<Waiting> {
        let (taken, stay): (VecDeque<_>, _) = std::mem::take(&mut self.runs).into_iter().partition(which);
        self.runs = stay;
        for run in &taken {
            self.touch(run.place, false);
        }
        taken
    }

    pub(super) fn get(&self, place: u64) -> Option<&Waiting> {
        let at = self.runs.binary_search_by_key(&place, |run| run.place).ok()?;
        self.runs.get(at)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Waiting> {
        self.runs.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn touch(&mut self, place: u64, is_new: bool) {
        if let Some(touched) = &mut self.touched {
            touched.push(Touched { place, is_new });
        }
    }
}
