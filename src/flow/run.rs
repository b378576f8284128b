//! Runs, as a Flow sees them.

use super::reaction::Interrupt;
use super::work_ref::WorkRef;
use crate::work::{RunKey, Status, Work};

/// Handle to a requested run.
pub struct Run<'a, W: Work> {
    pub(super) work: &'a WorkRef<W>,
    pub(super) key: Option<RunKey>,
    pub(super) finished: bool,
}

impl<'a, W: Work> Run<'a, W> {
    /// Returns the Work once this run has succeeded. Until then `?` ends the reaction, and `react` is called again when
    /// the run may have succeeded. For a failed run whose failure is captured this is pending forever: check
    /// [`status`](Self::status) first, or use [`outcome`](Self::outcome).
    ///
    /// # Errors
    /// [`Interrupt::Pending`] while the run has not succeeded.
    pub fn finished(self) -> Result<&'a W, Interrupt> {
        if self.finished { Ok(self.work) } else { Err(Interrupt::Pending) }
    }

    /// Returns the outcome of the run, for a Flow that captures failures: the Work if the run succeeded, or else the
    /// status of the run. Until the run has ended, `?` ends the reaction.
    ///
    /// # Errors
    /// [`Interrupt::Pending`] while the run has not ended.
    pub fn outcome(self) -> Result<Result<&'a W, Status>, Interrupt> {
        if self.finished {
            return Ok(Ok(self.work));
        }
        let status = self.status();
        if status.stage.is_terminal() { Ok(Err(status)) } else { Err(Interrupt::Pending) }
    }

    /// Returns the status of this run.
    pub fn status(&self) -> Status {
        self.key.map_or_else(Status::default, |key| self.work.read(|ledger| ledger.run_status(key)))
    }
}
