//! What a Flow waits for.

use super::reaction::Interrupt;
use super::work_ref::WorkRef;
use crate::work::{RunKey, Status, Work};

/// A run that was asked for.
pub struct Run<'a, W: Work> {
    pub(super) work: &'a WorkRef<W>,
    pub(super) key: Option<RunKey>,
    pub(super) finished: bool,
}

impl<'a, W: Work> Run<'a, W> {
    /// The Work, once this run has succeeded; until then `?` leaves `react`, which is called again when it may
    /// have. A run that failed and was captured keeps waiting: look at [`status`](Self::status) first.
    ///
    /// # Errors
    /// [`Interrupt::Pending`] while the run has not succeeded.
    pub fn finished(self) -> Result<&'a W, Interrupt> {
        if self.finished { Ok(self.work) } else { Err(Interrupt::Pending) }
    }

    /// How this run ended, whichever way, for a Flow that captures failures: the Work when it succeeded, else the
    /// status; until the end `?` leaves `react`.
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

    /// Where this run stands.
    pub fn status(&self) -> Status {
        self.key.map_or_else(Status::default, |key| self.work.read(|ledger| ledger.run_status(key)))
    }
}
