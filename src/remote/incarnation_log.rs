//! The part of an incarnation on a node that the node keeps for the case that its head is started again.

use std::collections::VecDeque;

use crate::payload::PayloadGuards;
use crate::state::{Patch, Value};
use crate::work::Report;

/// The last state that was sent to the head, and the reports that were sent and may not be durable there.
pub(super) struct IncarnationLog {
    state: Value,
    holds: PayloadGuards,
    reports: VecDeque<Report>,
    /// Number of the reports that are durable.
    acknowledged: u64,
    /// Number of the last run that was ordered.
    last_run: u64,
    /// True while no head has taken over the incarnation, so that nothing of it may be sent.
    pub(super) is_paused: bool,
}

impl IncarnationLog {
    /// Creates the log of an incarnation that is launched from this state.
    pub(super) fn new(state: Value, holds: PayloadGuards) -> Self {
        Self { state, holds, reports: VecDeque::new(), acknowledged: 0, last_run: 0, is_paused: false }
    }

    /// Records an update that is sent to the head. Returns the guards of the state before, if they have changed, which
    /// the caller drops without a lock.
    #[must_use]
    pub(super) fn sent(
        &mut self,
        patch: Option<&Patch>,
        holds: Option<&PayloadGuards>,
        reports: &[Report],
    ) -> Option<PayloadGuards> {
        if let Some(patch) = patch
            && let Err(error) = self.state.apply(patch.clone())
        {
            // The patches of an incarnation apply in their order.
            log::error!("a published state cannot be kept for a head that is started again: {error}");
        }
        self.reports.extend(reports.iter().cloned());
        holds.map(|holds| std::mem::replace(&mut self.holds, holds.clone()))
    }

    /// Records the order of a run.
    pub(super) fn ordered(&mut self, run: u64) {
        self.last_run = self.last_run.max(run);
    }

    /// Drops the reports up to number `count`, which are durable.
    pub(super) fn acknowledge(&mut self, count: u64) {
        while self.acknowledged < count && self.reports.pop_front().is_some() {
            self.acknowledged += 1;
        }
    }

    /// Returns true if all reports are durable.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.reports.is_empty()
    }

    pub(super) fn state(&self) -> &Value {
        &self.state
    }

    pub(super) fn holds(&self) -> &PayloadGuards {
        &self.holds
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        self.reports.iter().cloned().collect()
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn last_run(&self) -> u64 {
        self.last_run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Tracker;

    /// Reports are kept until they are acknowledged, whatever the order of the acknowledgements, and the state is the
    /// last one.
    #[test]
    fn unacknowledged_reports_are_kept() {
        let mut tracker = Tracker::new(usize::MAX);
        let _ = tracker.update(&0_u64).unwrap();
        let mut log = IncarnationLog::new(tracker.value().clone(), PayloadGuards::default());
        for run in 1..=5 {
            log.ordered(run);
            let patch = tracker.update(&run).unwrap();
            let reports = [Report::RunStarted { run }, Report::RunSucceeded { run }];
            assert!(log.sent(patch.as_ref(), None, &reports).is_none());
        }
        for (count, left) in [(3, 7), (2, 7), (8, 2), (99, 0)] {
            log.acknowledge(count);
            assert_eq!(log.reports().len(), left);
        }
        assert!(log.is_acknowledged());
        assert_eq!((log.acknowledged(), log.last_run(), log.state()), (10, 5, tracker.value()));
    }
}
