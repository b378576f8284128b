//! The place where a journal keeps its transactions.

use std::time::{Instant, SystemTime};

use super::group::Group;
use super::values::ValueChanges;
use super::{Extent, HistoryFilter, HistoryPart, JournalError, Live, Moment};

/// A place where transactions are kept, opened for writing under an epoch that no other opening has.
///
/// An implementation may be used after [`JournalError::Full`]; after any other error of [`append`](Store::append) or
/// [`maintain`](Store::maintain) nothing more is written to it.
pub(super) trait Store: Send {
    /// Records a group with its values, whole or not at all. Calls `is_durable` once it is durable, before the rest of the
    /// work, with the number of bytes that were written since the opening.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is recorded then, except that a failed sync leaves that open. `is_durable` is not called.
    fn append(&mut self, group: &Group, is_durable: &mut dyn FnMut(u64)) -> Result<(), JournalError>;

    /// Changes values of payloads alone. It is durable when the method returns.
    ///
    /// # Errors
    /// As [`append`](Store::append).
    fn change_values(&mut self, changes: &ValueChanges) -> Result<(), JournalError>;

    /// Does a part of the work that commits leave behind: checkpoints, images, pruning of history. Returns true if there
    /// is more to do now.
    fn maintain(&mut self) -> Result<bool, JournalError>;

    /// Returns the last moment.
    fn last(&self) -> Moment;

    /// Reads the live data at a position, or at the end of the last group before it. `None` reads the last.
    fn live(&mut self, position: Option<u64>) -> Result<(Moment, Live), JournalError>;

    /// Begins to read the live data at a position, or at the end of the last group before it, and returns the number of
    /// the reading.
    fn begin_live_at(&mut self, position: u64, extent: Extent) -> Result<u64, JournalError>;

    /// Continues a reading until `deadline`, and returns the data once all is read. Groups may be appended meanwhile, which
    /// the result does not have. The reading ends with the result, or with an error.
    fn continue_live_at(
        &mut self,
        reading: u64,
        deadline: Instant,
    ) -> Result<Option<(Moment, Live)>, JournalError>;

    /// Reads history, in the order that the filter says.
    fn history(&mut self, filter: &HistoryFilter) -> Result<HistoryPart, JournalError>;

    /// Returns the last position whose group was recorded at or before a time, if the journal has one.
    fn position_at(&mut self, wall: SystemTime) -> Result<Option<u64>, JournalError>;

    /// Records that the App has progressed since this opening.
    fn mark_progress(&mut self) -> Result<(), JournalError>;

    /// Ends the opening, and records whether the end was clean.
    fn close(self: Box<Self>, is_clean: bool) -> Result<(), JournalError>;
}
