//! An ask that has waited for a while, shared by its future and by the search for cycles.

use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{AskId, WaitReport};
use crate::id::ActorPath;

/// The register of the waits of a process.
pub(in crate::work) trait WaitRegister: Send + Sync {
    /// Adds a wait.
    fn add(&self, ask: AskId, wait: &Arc<SlowAsk>);

    /// Removes a wait that has ended, and reports so.
    fn end(&self, ask: AskId);

    /// Reports about a wait.
    fn report(&self, report: WaitReport);
}

/// An ask that has waited for a while. Dropped with the future of the ask: then the wait has ended.
pub(in crate::work) struct SlowAsk {
    ask: AskId,
    asked: ActorPath,
    /// The end of the timeout.
    until: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The task of the Work, once its code has polled the ask.
    task: Option<Waker>,
    due: Due,
    /// The register that has the wait.
    reported: Option<Arc<dyn WaitRegister>>,
    cycle: Option<Vec<ActorPath>>,
}

/// The questions that the Work of a slow ask answers after its next poll.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::work) struct Due {
    /// True if the Work is to report whether it waits for the ask.
    pub(in crate::work) report: bool,
    /// The round in which the head asks whether the wait still stands, and the question that the Work must have.
    pub(in crate::work) check: Option<(u64, AskId)>,
}

impl SlowAsk {
    pub(in crate::work) fn new(ask: AskId, asked: ActorPath, until: Instant) -> Arc<Self> {
        Arc::new(Self { ask, asked, until, state: Mutex::default() })
    }

    /// Has the Work find out after its next poll whether it waits for the ask.
    pub(in crate::work) fn look(&self) {
        self.state.lock().due.report = true;
    }

    /// Notes the task of the Work whose code polls the ask.
    pub(in crate::work) fn polled_by(&self, task: &Waker) {
        match &mut self.state.lock().task {
            Some(known) => known.clone_from(task),
            none => *none = Some(task.clone()),
        }
    }

    /// Returns what is to be found out, and nothing more until it is asked for again.
    pub(in crate::work) fn take_due(&self) -> Option<Due> {
        let due = std::mem::take(&mut self.state.lock().due);
        (due != Due::default()).then_some(due)
    }

    /// Reports that the Work at `work`, which handles the question `handles`, waits for the ask, or does not.
    pub(in crate::work) fn report(
        self: &Arc<Self>,
        register: &Arc<dyn WaitRegister>,
        waits: bool,
        work: &ActorPath,
        handles: Option<AskId>,
    ) {
        let before = {
            let mut state = self.state.lock();
            std::mem::replace(&mut state.reported, waits.then(|| register.clone()))
        };
        let ask = self.ask;
        if waits {
            register.add(ask, self);
            let remaining = self.until.saturating_duration_since(Instant::now());
            register.report(WaitReport::Waits {
                ask,
                work: work.clone(),
                asked: self.asked.clone(),
                handles,
                remaining_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
            });
        } else if let Some(before) = before {
            before.end(ask);
        }
    }

    /// Notes that the ask was polled by other code than that of its Work, or beside its mailbox: nothing waits for it.
    pub(in crate::work) fn polled_elsewhere(&self) {
        let reported = self.state.lock().reported.take();
        if let Some(register) = reported {
            register.end(self.ask);
        }
    }

    /// Answers a check of the head.
    pub(in crate::work) fn checked(&self, round: u64, stands: bool) {
        let register = self.state.lock().reported.clone();
        if let Some(register) = register {
            register.report(WaitReport::Checked { round, ask: self.ask, stands });
        }
    }

    /// Has the Work check its wait, for a round of the head.
    pub(super) fn check(&self, round: u64, asker: AskId) {
        let mut state = self.state.lock();
        state.due.check = Some((round, asker));
        wake(state);
    }

    /// Has the ask fail because of this cycle.
    pub(super) fn fail(&self, cycle: Vec<ActorPath>) {
        let mut state = self.state.lock();
        state.cycle = Some(cycle);
        wake(state);
    }

    /// Returns the cycle because of which the ask fails.
    pub(in crate::work) fn cycle(&self) -> Option<Vec<ActorPath>> {
        self.state.lock().cycle.take()
    }
}

fn wake(state: parking_lot::MutexGuard<'_, State>) {
    let task = state.task.clone();
    drop(state);
    if let Some(task) = task {
        task.wake();
    }
}

impl Drop for SlowAsk {
    fn drop(&mut self) {
        if let Some(register) = self.state.get_mut().reported.take() {
            register.end(self.ask);
        }
    }
}
