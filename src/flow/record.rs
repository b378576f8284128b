//! Record of one Work, shared by its `WorkRef` and the driver.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::ledger::{Ledger, Moment};
use super::settings::WorkSettings;
use crate::id::{ActorPath, AppId, FlowId, WorkId};
use crate::payload::PayloadGuards;
use crate::state::{Patch, StateError, Tracker, Value};
use crate::trace::Cause;
use crate::wire;
use crate::work::{
    Abort, Acknowledge, AnyMailbox, FencingToken, Gpus, LaunchSpec, Mailbox, Outbox, Panics, Placement,
    ReadyQueue, Report, Resources, StepId, Work, WorkType,
};

pub(crate) type SharedRecord = Arc<Mutex<Record>>;

/// State, ledger and mailbox of one Work, independent of its type.
pub(crate) struct Record {
    pub(crate) id: WorkId,
    pub(crate) app: AppId,
    pub(crate) path: ActorPath,
    pub(crate) owner: FlowId,
    pub(crate) owner_path: ActorPath,
    pub(crate) placement: Placement,
    pub(crate) needs: Resources,
    /// The time for which the Work runs, as its Flow has declared.
    pub(crate) runs_for: Option<Duration>,
    pub(crate) kind: &'static WorkType,
    pub(crate) ledger: Ledger,
    pub(crate) mailbox: Arc<dyn AnyMailbox>,
    /// True until the Work leaves the tree; afterwards another Work may have joined with the same path.
    pub(crate) owns_path: bool,
    /// The last published state.
    pub(crate) state: Value,
    holds: PayloadGuards,
    /// Acknowledges the reports of the last update, until the driver takes it.
    pub(crate) acknowledge: Option<Acknowledge>,
    /// Guards of the state before the last update, until the driver takes them.
    pub(crate) replaced_holds: Option<PayloadGuards>,
    /// True if changes of the state are recorded.
    pub(crate) is_recorded: bool,
    /// True if it is recorded which type of input the recorded inputs have.
    #[cfg(feature = "journal")]
    pub(crate) is_input_marked: bool,
    /// Settings of a Work of which nothing is recorded yet.
    pub(crate) unrecorded_settings: Option<Box<WorkSettings>>,
    /// Changes of the state that are not recorded yet.
    pub(crate) unrecorded: Option<Box<Patch>>,
    /// True if the payloads of the state have changed since the `WorkRef` was refreshed.
    pub(crate) other_holds: bool,
    /// Number of published states; `conflated` of them were replaced by a newer one before they were read.
    pub(crate) published: u64,
    pub(crate) conflated: u64,
    /// Version of the state, incremented by each change.
    pub(crate) version: u64,
    /// True while the `WorkRef` shows an older state.
    pub(crate) stale: bool,
    max_state_bytes: usize,
    /// Upper bound of the encoded state, in bytes. The state is measured when patches from another process may have
    /// made it too large.
    size_bound: usize,
    life: Option<(Arc<Outbox>, Arc<Abort>)>,
    /// Number of decisions to launch or to kill an incarnation.
    decisions: u64,
    /// The last barrier of the incarnation that the driver has not answered.
    barrier: Option<u64>,
    /// Trace context of the last update, until the driver takes it.
    pub(crate) cause: Cause,
}

/// Changes made by an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    Nothing,
    /// Only what Flows do not see: steps, or a barrier was requested.
    Steps,
    Seen,
}

/// Identity that the tree gives to a Work that joins it.
pub(crate) struct Place {
    pub(crate) id: WorkId,
    pub(crate) app: AppId,
    pub(crate) path: ActorPath,
    pub(crate) owner: FlowId,
    pub(crate) owner_path: ActorPath,
    pub(crate) max_state_bytes: usize,
}

impl Record {
    pub(super) fn new<W: Work>(
        place: Place,
        placement: Placement,
        needs: Resources,
        ledger: Ledger,
        mailbox: usize,
        state: Value,
        holds: PayloadGuards,
    ) -> Self {
        let Place { id, app, path, owner, owner_path, max_state_bytes } = place;
        Self {
            id,
            app,
            path,
            owner,
            owner_path,
            placement,
            needs,
            runs_for: None,
            kind: WorkType::of::<W>(),
            ledger,
            mailbox: Arc::new(Mailbox::<W>::new(mailbox)),
            owns_path: true,
            state,
            holds,
            acknowledge: None,
            replaced_holds: None,
            is_recorded: false,
            #[cfg(feature = "journal")]
            is_input_marked: false,
            unrecorded_settings: None,
            unrecorded: None,
            other_holds: false,
            published: 0,
            conflated: 0,
            version: 1,
            stale: false,
            max_state_bytes,
            size_bound: usize::MAX,
            life: None,
            decisions: 0,
            barrier: None,
            cause: Cause::default(),
        }
    }

    /// Prepares the launch of a new incarnation, which replaces the one before.
    pub(crate) fn incarnation(&mut self, ready_queue: &Arc<ReadyQueue>, token: FencingToken) -> LaunchSpec {
        let outbox = Arc::new(Outbox::new(self.id, ready_queue.clone()));
        let abort = Arc::new(Abort::default());
        self.life = Some((outbox.clone(), abort.clone()));
        self.barrier = None;
        LaunchSpec {
            kind: self.kind,
            path: self.path.clone(),
            state: self.state.clone(),
            holds: self.holds.clone(),
            max_state_bytes: self.max_state_bytes,
            mailbox: self.mailbox.clone(),
            outbox,
            abort,
            gpus: Gpus::default(),
            token,
        }
    }

    /// Returns the guards of the payloads in the last published state.
    pub(crate) fn holds(&self) -> &PayloadGuards {
        &self.holds
    }

    /// Returns true if the current incarnation writes to this outbox.
    pub(crate) fn speaks_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.life.as_ref().is_some_and(|(living, _)| Arc::ptr_eq(living, outbox))
    }

    /// Records a decision to launch or to kill an incarnation, and returns its number.
    pub(crate) fn decide(&mut self) -> u64 {
        self.decisions += 1;
        self.decisions
    }

    /// Returns true unless another decision has followed this one.
    pub(crate) fn is_last_decision(&self, decision: u64) -> bool {
        self.decisions == decision
    }

    /// Abandons the outbox of the incarnation, and returns what aborts it.
    pub(crate) fn abandon(&mut self) -> Option<Arc<Abort>> {
        self.life.take().map(|(_, abort)| abort)
    }

    /// Aborts the incarnation and abandons its outbox.
    pub(crate) fn kill(&mut self) {
        if let Some((_, abort)) = self.life.take() {
            abort.raise();
            self.mailbox.given_up(None);
        }
    }

    /// Takes the last barrier that was not answered, with the outbox that it came through.
    pub(crate) fn take_barrier(&mut self) -> Option<(u64, Arc<Outbox>)> {
        let number = self.barrier.take()?;
        self.life.as_ref().map(|(outbox, _)| (number, outbox.clone()))
    }

    /// Applies the updates of the incarnation since the last call.
    ///
    /// # Errors
    /// [`StateError`] if a patch does not apply or makes the state exceed its limit.
    pub(crate) fn take_update(&mut self, now: Moment) -> Result<Changed, StateError> {
        let Some((outbox, _)) = &self.life else { return Ok(Changed::Nothing) };
        let news = outbox.take();
        self.published += u64::from(news.published);
        self.conflated += u64::from(news.conflated);
        self.cause = news.cause;
        self.acknowledge = news.acknowledge;
        let is_quiet = |report: &Report| match report {
            Report::Stepped { step, .. } => step.id != StepId::READY,
            Report::Barrier { .. } => true,
            _ => false,
        };
        let mut changed = match news.reports.iter().all(is_quiet) {
            true if news.reports.is_empty() => Changed::Nothing,
            true => Changed::Steps,
            false => Changed::Seen,
        };
        if let Some(patch) = news.patch {
            let recorded = self.is_recorded.then(|| patch.clone());
            self.apply(patch, news.foreign_bytes)?;
            match (&mut self.unrecorded, recorded) {
                (Some(earlier), Some(patch)) => earlier.then(patch),
                (unrecorded, Some(patch)) => *unrecorded = Some(Box::new(patch)),
                (_, None) => {}
            }
            self.version += 1;
            self.stale = true;
            changed = Changed::Seen;
        }
        if let Some(holds) = news.holds {
            if !holds.is_empty() && !self.stale {
                // A Work that is taken over has the recorded state: the references in it, which were read when their
                // values were not known here, are read again.
                self.stale = true;
                changed = Changed::Seen;
            }
            self.replaced_holds = Some(std::mem::replace(&mut self.holds, holds));
            self.other_holds = true;
        }
        let seq = self.ledger.seq();
        for report in news.reports {
            Panics::note(&self.path, &report);
            match report {
                Report::Barrier { number } => self.barrier = Some(number),
                report => self.ledger.report(report, now),
            }
        }
        if self.ledger.seq() != seq {
            changed = Changed::Seen;
        }
        Ok(changed)
    }

    /// Applies a patch to the state. A Work in this process has checked its patches against the limit; patches from
    /// another process, whose encoded length is `foreign_bytes`, are checked here.
    fn apply(&mut self, patch: Patch, foreign_bytes: usize) -> Result<(), StateError> {
        if foreign_bytes == 0 {
            self.size_bound = usize::MAX;
            return self.state.apply(patch);
        }
        let bound = self.size_bound.saturating_add(foreign_bytes);
        if bound <= self.max_state_bytes {
            self.size_bound = bound;
            return self.state.apply(patch);
        }
        // A state that is too large is discarded, so that the next incarnation starts from the last valid one.
        let mut next = self.state.clone();
        next.apply(patch)?;
        Tracker::new(self.max_state_bytes).update(&next)?;
        self.size_bound = wire::length(&next);
        self.state = next;
        Ok(())
    }

    pub(crate) fn mailbox_of<W: Work>(&self) -> Option<Arc<Mailbox<W>>> {
        let mailbox: Arc<dyn Any + Send + Sync> = self.mailbox.clone().into_any();
        mailbox.downcast().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::flow::policy::Policy;
    use crate::work::WorkContext;

    #[derive(Default, Serialize, Deserialize)]
    struct Pages {
        texts: Vec<String>,
    }

    impl Work for Pages {
        type Input = ();

        async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> crate::error::Result<()> {
            Ok(())
        }
    }

    fn pages(many: usize) -> Pages {
        Pages { texts: vec!["a page of twenty b..".to_owned(); many] }
    }

    /// Patches from another process may make the state as large as the limit but no larger; a patch that would is
    /// refused with an error that names the field, and the state stays unchanged.
    #[test]
    fn foreign_state_beyond_the_limit_is_refused() {
        const LIMIT: usize = 10_000;
        let place = Place {
            id: WorkId(1),
            app: AppId::NONE,
            path: ActorPath::root(),
            owner: FlowId(1),
            owner_path: ActorPath::root(),
            max_state_bytes: LIMIT,
        };
        let mut tracker = Tracker::new(usize::MAX);
        tracker.update(&pages(0)).unwrap();
        let ledger = Ledger::new(Arc::new(Policy::default()));
        let state = tracker.value().clone();
        let (placement, needs) = (Placement::Process, Resources::default());
        let mut record =
            Record::new::<Pages>(place, placement, needs, ledger, 1, state, PayloadGuards::default());
        let outbox = record.incarnation(&Arc::default(), FencingToken::default()).outbox;
        let now = Moment { at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
        let mut most = 0;
        for many in (1..2000).step_by(7) {
            let before = record.state.clone();
            let patch = tracker.update(&pages(many)).unwrap();
            outbox.update(patch, None, Vec::new(), None, Cause::default());
            match record.take_update(now) {
                Ok(changed) => assert!(changed == Changed::Seen && record.state == *tracker.value()),
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains("too large") && said.contains("texts"), "{said}");
                    assert_eq!(record.state, before);
                    break;
                }
            }
            most = many;
        }
        let size = wire::length(&pages(most));
        assert!((LIMIT - 200..=LIMIT).contains(&size), "the largest accepted state has {size} bytes");
    }
}
