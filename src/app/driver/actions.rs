//! Actions on a running App from outside, carried out between reactions as if the Work's Flow had requested them.

use std::sync::Arc;

use super::super::status::AppStage;
use super::Driver;
use crate::flow::{Requested, SharedRecord};
use crate::id::WorkId;
use crate::work::{Input, RunKey};

/// An action on a Work.
pub(crate) enum Action {
    /// Stop it until it is started from outside or released by its Flow; carries the operator's name.
    Stop(Arc<str>),
    Start,
    Restart,
    /// Run this input again, whatever the outcome of earlier runs.
    Rerun(RunKey, Input),
    /// Forget the outcome of this input.
    Forget(RunKey),
}

/// The reason why an action was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotDone {
    NoSuchWork,
    /// The App has not started, or is stopping.
    NotRunning,
    /// The App is in safe mode, in which a Work can be stopped only.
    SafeMode,
    /// The run queue of the Work is full.
    QueueFull,
}

impl Driver {
    /// Returns the Work at this path, if it is part of the tree.
    pub(in crate::app) fn record(&mut self, path: &str) -> Option<SharedRecord> {
        // A moved Work is not at its path.
        let moved = || self.tree.members().find(|record| record.lock().path.as_str() == path).cloned();
        self.root.record_at(path).or_else(moved)
    }

    /// Performs an action in safe mode, in which nothing starts.
    fn perform_safely(&mut self, id: WorkId, action: Action) -> Result<(), NotDone> {
        let Action::Stop(by) = action else { return Err(NotDone::SafeMode) };
        let now = self.wake_ups.now();
        self.with_work(id, |ledger| ledger.hold_unlaunched(by, now));
        self.settle();
        Ok(())
    }

    /// Sends a node away. Returns false if there is no such node.
    pub(in crate::app) fn drain(&mut self, node: &str, why: &str) -> bool {
        self.hosts.drain(node, why)
    }

    pub(in crate::app) fn perform(&mut self, path: &str, action: Action) -> Result<(), NotDone> {
        let id = self.record(path).ok_or(NotDone::NoSuchWork)?.lock().id;
        if self.stage() == AppStage::SafeMode {
            return self.perform_safely(id, action);
        }
        if !self.lifecycle.is_running() {
            return Err(NotDone::NotRunning);
        }
        let now = self.wake_ups.now();
        let result = self.update_work(id, |ledger| {
            match action {
                Action::Stop(by) => ledger.hold(by, now),
                Action::Start => {
                    ledger.release();
                    ledger.start(now);
                }
                Action::Restart => {
                    ledger.release();
                    ledger.restart(now);
                }
                Action::Rerun(key, input) => {
                    ledger.release();
                    return ledger.rerun(key, input, now);
                }
                Action::Forget(key) => ledger.forget(key, now),
            }
            Requested::Unfinished
        });
        self.settle();
        match result {
            None => Err(NotDone::NoSuchWork),
            Some(Requested::Full) => Err(NotDone::QueueFull),
            Some(Requested::Finished | Requested::Unfinished) => Ok(()),
        }
    }
}
