//! What a Flow knows of one of its Works, shared by the `WorkRef` and the driver.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::{Ledger, Moment};
use crate::id::{ActorPath, AppId, FlowId, WorkId};
use crate::payload::Holds;
use crate::state::{StateError, Value};
use crate::trace::Cause;
use crate::work::{
    Abort, AnyMailbox, Doorbell, Ingredients, Mailbox, Outbox, Placement, Resources, Work, WorkKind,
};

pub(crate) type SharedRecord = Arc<Mutex<Record>>;

/// One Work, whatever its type.
pub(crate) struct Record {
    pub(crate) id: WorkId,
    pub(crate) app: AppId,
    pub(crate) path: ActorPath,
    pub(crate) owner: FlowId,
    pub(crate) owner_path: ActorPath,
    pub(crate) placement: Placement,
    pub(crate) needs: Resources,
    pub(crate) kind: &'static WorkKind,
    pub(crate) ledger: Ledger,
    pub(crate) mailbox: Arc<dyn AnyMailbox>,
    /// The last published state.
    pub(crate) state: Value,
    holds: Holds,
    /// Whether what the state refers to has changed since the `WorkRef` was refreshed.
    pub(crate) other_holds: bool,
    /// How many states were published, and how many of them were not seen since a newer one came first.
    pub(crate) published: u64,
    pub(crate) conflated: u64,
    /// Grows with each change of the state.
    pub(crate) version: u64,
    /// Whether the `WorkRef` still shows an older state.
    pub(crate) stale: bool,
    max_state_bytes: usize,
    life: Option<(Arc<Outbox>, Arc<Abort>)>,
    /// What has led to what was told last, until the driver takes it.
    pub(crate) cause: Cause,
}

/// What the tree gives to a Work that joins it.
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
        holds: Holds,
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
            kind: WorkKind::of::<W>(),
            ledger,
            mailbox: Arc::new(Mailbox::<W>::new(mailbox)),
            state,
            holds,
            other_holds: false,
            published: 0,
            conflated: 0,
            version: 1,
            stale: false,
            max_state_bytes,
            life: None,
            cause: Cause::default(),
        }
    }

    /// An incarnation ready to be launched; the one before it is given up.
    pub(crate) fn incarnation(&mut self, doorbell: &Arc<Doorbell>) -> Ingredients {
        let outbox = Arc::new(Outbox::new(self.id, doorbell.clone()));
        let abort = Arc::new(Abort::default());
        self.life = Some((outbox.clone(), abort.clone()));
        Ingredients {
            kind: self.kind,
            app: self.app,
            path: self.path.clone(),
            state: self.state.clone(),
            holds: self.holds.clone(),
            max_state_bytes: self.max_state_bytes,
            mailbox: self.mailbox.clone(),
            outbox,
            abort,
        }
    }

    /// What the last published state refers to.
    pub(crate) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Whether the living incarnation writes into this outbox.
    pub(crate) fn speaks_through(&self, outbox: &Arc<Outbox>) -> bool {
        self.life.as_ref().is_some_and(|(living, _)| Arc::ptr_eq(living, outbox))
    }

    /// Ends the incarnation by force and listens to it no more.
    pub(crate) fn kill(&mut self) {
        if let Some((_, abort)) = self.life.take() {
            abort.raise();
        }
    }

    /// Takes in what the incarnation has told since the last time; whether anything has changed.
    pub(crate) fn take_news(&mut self, now: Moment) -> Result<bool, StateError> {
        let Some((outbox, _)) = &self.life else { return Ok(false) };
        let news = outbox.take();
        self.published += u64::from(news.published);
        self.conflated += u64::from(news.conflated);
        self.cause = news.cause;
        let mut changed = !news.reports.is_empty();
        if let Some(patch) = news.patch {
            self.state.apply(patch)?;
            self.version += 1;
            self.stale = true;
            changed = true;
        }
        if let Some(holds) = news.holds {
            self.holds = holds;
            self.other_holds = true;
        }
        for report in news.reports {
            self.ledger.report(report, now);
        }
        Ok(changed)
    }

    pub(crate) fn mailbox_of<W: Work>(&self) -> Option<Arc<Mailbox<W>>> {
        let mailbox: Arc<dyn Any + Send + Sync> = self.mailbox.clone().into_any();
        mailbox.downcast().ok()
    }
}

pub(crate) fn lock(record: &SharedRecord) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
