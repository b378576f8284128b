//! The stage of an App, from its start to its end.
//!
//! # Guarantees
//! - The stages follow each other in the order of [`AppStage`], and none is entered twice.
//! - The first reason to stop decides the result of the App.
//! - The failure that stops the App is reported at once, and a later one is not.

use tokio::sync::oneshot;

use super::super::error::AppError;
use super::super::status::{AppStage, Exit};
use super::super::watchdog::Watchdog;
use super::OnFailure;
use super::shutdown::Shutdown;

/// The stage of an App, and those that wait for its end.
pub(super) struct Lifecycle {
    phase: Phase,
    on_failure: Option<OnFailure>,
    exit: Option<oneshot::Sender<Exit>>,
    watchdog: Watchdog,
}

enum Phase {
    Starting,
    Running,
    Stopping(Box<Shutdown>),
    Ended,
}

impl Lifecycle {
    pub(super) fn new(
        on_failure: Option<OnFailure>,
        exit: oneshot::Sender<Exit>,
        watchdog: Watchdog,
    ) -> Self {
        Self { phase: Phase::Starting, on_failure, exit: Some(exit), watchdog }
    }

    pub(super) fn stage(&self) -> AppStage {
        match self.phase {
            Phase::Starting => AppStage::Starting,
            Phase::Running => AppStage::Running,
            Phase::Stopping(_) => AppStage::Stopping,
            Phase::Ended => AppStage::Ended,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Returns `true` once the App has begun to stop.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Ended)
    }

    /// Begins to run the App. Returns `false` if it has begun before.
    pub(super) fn begin(&mut self) -> bool {
        let is_starting = matches!(self.phase, Phase::Starting);
        if is_starting {
            self.phase = Phase::Running;
        }
        is_starting
    }

    /// Begins to stop the App, unless it is over already. `shutdown` has the result.
    pub(super) fn stop(&mut self, shutdown: Shutdown) {
        if self.is_over() {
            return;
        }
        if let (Some(error), Some(on_failure)) = (shutdown.error(), self.on_failure.take()) {
            on_failure(error);
        }
        self.watchdog.ending();
        self.phase = Phase::Stopping(Box::new(shutdown));
    }

    /// Returns the shutdown in progress.
    pub(super) fn shutdown(&mut self) -> Option<&mut Shutdown> {
        match &mut self.phase {
            Phase::Stopping(shutdown) => Some(shutdown),
            Phase::Starting | Phase::Running | Phase::Ended => None,
        }
    }

    /// Ends the App whose shutdown is over. Returns its result, and where the outcome is to be sent.
    pub(super) fn end(&mut self) -> Option<(Result<(), AppError>, oneshot::Sender<Exit>)> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Stopping(shutdown) => Some((shutdown.into_result(), self.exit.take()?)),
            Phase::Starting | Phase::Running | Phase::Ended => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn failed() -> Result<(), AppError> {
        Err(AppError::Internal("it failed".to_owned()))
    }

    fn shutdown(result: Result<(), AppError>) -> Shutdown {
        Shutdown::new(result, Vec::new(), Duration::ZERO, Duration::ZERO)
    }

    /// Runs `test` with the stage of a new App and the number of failures that were reported.
    fn with_lifecycle(test: impl FnOnce(&mut Lifecycle, &AtomicUsize)) {
        let reported = Arc::new(AtomicUsize::new(0));
        let counted = reported.clone();
        let on_failure: OnFailure = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let (watchdog, _gave_up) = Watchdog::start(Duration::ZERO).unwrap();
        let (exit, _exited) = oneshot::channel();
        test(&mut Lifecycle::new(Some(on_failure), exit, watchdog.clone()), &reported);
        watchdog.end();
    }

    /// An App runs, stops and ends once each.
    #[test]
    fn stages_follow_each_other_once() {
        with_lifecycle(|lifecycle, reported| {
            assert_eq!(lifecycle.stage(), AppStage::Starting);
            assert!(lifecycle.begin() && !lifecycle.begin());
            assert!(lifecycle.is_running() && lifecycle.shutdown().is_none());
            lifecycle.stop(shutdown(Ok(())));
            assert!(lifecycle.is_over() && lifecycle.shutdown().is_some() && !lifecycle.begin());
            assert_eq!(lifecycle.stage(), AppStage::Stopping);
            assert!(lifecycle.end().is_some_and(|(result, _)| result.is_ok()));
            assert!(lifecycle.is_over() && lifecycle.end().is_none() && !lifecycle.begin());
            assert_eq!(lifecycle.stage(), AppStage::Ended);
            assert_eq!(reported.load(Ordering::Relaxed), 0);
        });
    }

    /// The first of two failures is reported and is the result.
    #[test]
    fn first_failure_is_the_result() {
        with_lifecycle(|lifecycle, reported| {
            lifecycle.stop(shutdown(failed()));
            assert_eq!(reported.load(Ordering::Relaxed), 1);
            lifecycle.stop(shutdown(Ok(())));
            lifecycle.stop(shutdown(failed()));
            assert!(lifecycle.end().is_some_and(|(result, _)| result.is_err()));
            assert_eq!(reported.load(Ordering::Relaxed), 1);
        });
    }

    /// A failure after the App was stopped is not reported.
    #[test]
    fn failure_of_an_app_that_stops_is_not_reported() {
        with_lifecycle(|lifecycle, reported| {
            lifecycle.stop(shutdown(Ok(())));
            lifecycle.stop(shutdown(failed()));
            assert!(lifecycle.end().is_some_and(|(result, _)| result.is_ok()));
            assert_eq!(reported.load(Ordering::Relaxed), 0);
        });
    }
}
