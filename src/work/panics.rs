//! The panics of Works, for a test that is to fail with them.

use parking_lot::Mutex;

use super::outbox::Report;
use super::status::Reason;
use crate::id::ActorPath;
use crate::runtime;

/// The panics that the App has heard of, a part of the runtime of an App under test.
#[derive(Debug, Default)]
pub(crate) struct Panics(Mutex<Vec<WorkPanic>>);

/// A panic of a Work.
#[derive(Debug, Clone)]
pub(crate) struct WorkPanic {
    pub(crate) work: ActorPath,
    pub(crate) message: String,
}

impl Panics {
    /// Notes the panic that a report of the Work at `path` is about, in the App that this thread belongs to.
    pub(crate) fn note(path: &ActorPath, report: &Report) {
        let failure = match report {
            Report::Died { failure } | Report::RunFailed { failure, .. } => failure,
            Report::Stopped { failure: Some(failure) } => failure,
            _ => return,
        };
        if failure.reason == Reason::Panic
            && let Some(panics) = runtime::of_thread().and_then(|runtime| runtime.part::<Self>())
        {
            panics.0.lock().push(WorkPanic { work: path.clone(), message: failure.message.clone() });
        }
    }

    /// Removes and returns those that have been noted.
    pub(crate) fn take(&self) -> Vec<WorkPanic> {
        std::mem::take(&mut self.0.lock())
    }
}
