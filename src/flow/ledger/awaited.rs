//! Incarnations that live on a node while the process of the head is replaced.

use super::{Action, Ledger, Life, Moment, Next};
use crate::flow::policy::Overlap;
use crate::work::{CloseReason, RunOrder};

impl Ledger {
    /// Records the number under which the next incarnation is launched.
    pub(crate) fn launched_as(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        self.node = None;
    }

    /// Returns the number of the incarnation whose node has not returned yet.
    #[cfg(feature = "remote")]
    pub(crate) fn awaited(&self) -> Option<u64> {
        matches!(self.life, Life::Awaited { .. }).then_some(self.incarnation)
    }

    /// Goes on with the awaited incarnation, whose node has returned. `last_run` is the last run that it was ordered.
    #[cfg(feature = "remote")]
    pub(crate) fn adopted(&mut self, last_run: u64, now: Moment) {
        let Life::Awaited { next, .. } = self.life else { return };
        self.life = Life::Up;
        if let Some(current) = &mut self.current {
            let has_begun = self.tries.as_deref().is_some_and(|tries| tries.has_begun(current.run));
            let timeout = self.policy.timeout.filter(|_| has_begun);
            current.deadline = timeout.map(|timeout| now.at.saturating_add(timeout));
            let waiting = &current.waiting;
            if current.run > last_run {
                self.actions.push(Action::Send(Box::new(RunOrder {
                    run: current.run,
                    attempt: waiting.attempts,
                    input: waiting.input.clone(),
                    steps: self.runs.steps(waiting.key),
                    announced: false,
                    cause: waiting.cause.clone(),
                })));
            }
            // The order to cancel may have been lost with the head.
            if self.policy.overlap == Overlap::Restart && !self.queue.is_empty() {
                current.kill_at = Some(now.at.saturating_add(self.policy.grace));
                self.actions.push(Action::Cancel { run: current.run });
            }
        }
        match next {
            None => self.pump(now),
            Some(next) => {
                self.stop_for(next, now);
                if next == Next::Stay {
                    self.actions.push(Action::Close(CloseReason::Stopped));
                }
            }
        }
    }

    /// Gives up the awaited incarnation, which its node has not kept: the next one is launched, and no failure counts.
    #[cfg(feature = "remote")]
    pub(crate) fn not_kept(&mut self, now: Moment) {
        if self.awaited().is_some() {
            self.lose_awaited(now);
            self.process_ended(now);
        }
    }

    /// Takes an awaited incarnation for one whose node is known.
    pub(super) fn lose_awaited(&mut self, now: Moment) {
        if let Life::Awaited { next, .. } = self.life {
            self.life = match next {
                None => Life::Up,
                Some(next) => Life::Stopping { next, kill_at: now.at },
            };
        }
    }
}
