//! What can be asked of a running App from outside, carried out between reactions as if its Flow had asked.

use std::sync::Arc;

use super::control::AppStage;
use super::driver::Driver;
use crate::flow::{Found, Node, Requested, Route, SharedRecord, lock};
use crate::work::{Input, RunKey};

/// What is to be done with a Work.
pub(crate) enum Action {
    /// Stop it, by whom, until it is started from outside or released by its Flow.
    Stop(Arc<str>),
    Start,
    Restart,
    /// Run this input once more, whatever became of it before.
    Rerun(RunKey, Input),
    /// Make this input new again.
    Forget(RunKey),
}

/// Why it was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotDone {
    NoSuchWork,
    /// The App has not begun, or ends.
    NotRunning,
    /// As many runs wait as may.
    QueueFull,
}

impl Driver {
    /// The Work at this path, if it is part of the tree.
    pub(super) fn record(&mut self, path: &str) -> Option<SharedRecord> {
        let root = self.root.as_mut().expect("nothing below the root is being called");
        let found = match root.find_child(Route::new(path)) {
            Some(Found(Node::Work(work))) => work.record().cloned(),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        // One that was moved is not where its name says.
        let works = self.tree.order.iter().filter_map(|id| self.tree.works.get(id));
        works.into_iter().find(|record| lock(record).path.as_str() == path).cloned()
    }

    pub(super) fn perform(&mut self, path: &str, action: Action) -> Result<(), NotDone> {
        let record = self.record(path).ok_or(NotDone::NoSuchWork)?;
        if self.stage != AppStage::Running {
            return Err(NotDone::NotRunning);
        }
        let now = self.clock.now();
        let (id, owner, result) = {
            let mut record = lock(&record);
            let ledger = &mut record.ledger;
            let result = match action {
                Action::Stop(by) => {
                    ledger.hold(by, now);
                    Requested::Unfinished
                }
                Action::Start => {
                    ledger.release();
                    ledger.start(now);
                    Requested::Unfinished
                }
                Action::Restart => {
                    ledger.release();
                    ledger.restart(now);
                    Requested::Unfinished
                }
                Action::Rerun(key, input) => {
                    ledger.release();
                    ledger.rerun(key, input, now)
                }
                Action::Forget(key) => {
                    ledger.forget(key, now);
                    Requested::Unfinished
                }
            };
            (record.id, record.owner, result)
        };
        self.act(id);
        self.mark_up(owner);
        self.settle();
        if result == Requested::Full { Err(NotDone::QueueFull) } else { Ok(()) }
    }
}
