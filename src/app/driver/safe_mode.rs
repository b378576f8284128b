//! Safe mode: an App that was in a crash loop restores everything, and lets nothing go on until it is resumed.
//!
//! # Guarantees
//! - In safe mode no Flow reacts, no Work or run starts, no schedule fires and no node is answered that has kept Works. The
//!   state, the status and the API are there.
//! - Works can be stopped, and stay stopped when the App is resumed.
//! - An App that ends in safe mode records nothing of its Works: they are as they were after the last crash.
//! - An App that has recorded progress is in no crash loop: a Work has published, a run was requested or has ended, a step
//!   was taken, or the App has run for [`LONG`]. The first cycle of a new App does not count, nor do the own fields of
//!   Flows, since a Flow may change them in each reaction.

use std::time::Duration;

use super::super::error::AppError;
use super::super::status::{AppStage, SafeMode};
use super::Driver;
use super::shutdown::Shutdown;
use super::timers::Timer;
use crate::journal::CrashLoop;

/// The time for which an App runs before that counts as progress.
const LONG: Duration = Duration::from_secs(60);

impl SafeMode {
    /// Describes the loop because of which an App is in safe mode.
    pub(super) fn of(found: &CrashLoop) -> Self {
        let CrashLoop { starts, within, suspects } = found;
        let names = suspects.join(", ");
        let reason = format!(
            "the process has ended by a crash {starts} times, in starts within {} s that made no progress, while code of \
             {names} was executing",
            within.as_secs_f64().ceil()
        );
        Self { reason, suspects: suspects.clone() }
    }
}

impl Driver {
    /// Begins to run in safe mode.
    pub(super) fn stay_safe(&mut self) {
        if let Some(safe_mode) = self.safe_mode.as_ref().filter(|_| self.stage() == AppStage::SafeMode) {
            log::warn!(
                "safe mode: {}; everything is restored, and nothing goes on until `resume`",
                safe_mode.reason
            );
        }
        self.settle();
    }

    /// Leaves safe mode. Returns false if the App is not in it.
    pub(in crate::app) fn leave_safe_mode(&mut self) -> bool {
        if self.stage() != AppStage::SafeMode || !self.lifecycle.begin() {
            return false;
        }
        self.safe_mode = None;
        log::info!("the App is resumed from safe mode");
        let now = self.wake_ups.now();
        if let Some(time) = self.config.time_to_return() {
            // What nodes have said in safe mode was not heard.
            let until = now.at.saturating_add(time);
            self.tree.works().for_each(|record| record.lock().ledger.await_until(until));
        }
        self.go_on();
        self.on_host_events(now);
        self.settle();
        true
    }

    /// Ends an App that is in safe mode.
    pub(super) fn end_safe(&mut self, result: Result<(), AppError>) {
        let now = self.wake_ups.now().at;
        self.tree.works().for_each(|record| record.lock().ledger.never_launched());
        self.lifecycle.stop(Shutdown::new(result, Vec::new(), Duration::ZERO, now));
        self.hosts.stopping();
    }

    /// Has the App leave evidence of a crash until it has made progress.
    pub(super) fn seek_progress(&mut self) {
        if self.journaling.is_on() {
            self.journaling.go_on(!self.resumed.is_of_recorded_app());
            let until = self.wake_ups.now().at.saturating_add(LONG);
            self.wake_ups.set(Timer::Progress, Some(until));
        }
    }

    /// Records that the App has made progress.
    pub(super) fn progressed(&mut self) {
        self.wake_ups.set(Timer::Progress, None);
        self.journaling.mark_progress();
    }
}
