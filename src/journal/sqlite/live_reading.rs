//! Reading the live data at a position of the history, in parts.
//!
//! # Guarantees
//! - The result is the live data at one position, whatever is appended between the parts: rows of the history and of
//!   states are never changed, and those that the reading needs stay for as long as its image does.
//! - If the image is pruned meanwhile, the reading ends with [`JournalError::NoPosition`].
//! - A missing or damaged row is an error.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::images::Images;
use super::rows::{ImageMark, Rows};
use super::{SqliteStore, encoding, fold};
use crate::id::ActorPath;
use crate::journal::{Extent, JournalError, Live, Moment, Table};

/// A reading of the live data at the last group that ends at or before a position.
pub(super) struct LiveReading {
    position: u64,
    extent: Extent,
    /// The image from which the data are rebuilt. `None` where `live` was read at once.
    base: Option<ImageMark>,
    stage: Stage,
    data: BTreeMap<(ActorPath, Table, Bytes), Bytes>,
    moment: Moment,
    /// The number of rows of live states at `moment`, and the sum of their checksums.
    expected: (i64, i64),
    /// The checksum of the row of the history at `moment`.
    chain: i64,
    found: (i64, i64),
    live: Live,
}

/// The part that is read next.
enum Stage {
    /// This part of the image.
    Image(i64),
    History,
    /// The state of the first actor after this one.
    States(Option<ActorPath>),
    Done,
}

impl LiveReading {
    /// Begins to rebuild the data at a position from an image.
    pub(super) fn new(position: u64, extent: Extent, base: ImageMark) -> Self {
        Self {
            position,
            extent,
            base: Some(base),
            stage: Stage::Image(0),
            data: BTreeMap::new(),
            moment: base.moment(),
            expected: (base.state_rows, base.state_sum),
            chain: base.chain,
            found: (0, 0),
            live: Live::default(),
        }
    }

    /// Returns data that were read at once.
    pub(super) fn done(moment: Moment, live: Live) -> Self {
        let new = Self::new(moment.position, Extent::All, ImageMark::default());
        Self { base: None, stage: Stage::Done, moment, live, ..new }
    }

    /// Returns the data, once all is read.
    pub(super) fn finish(self) -> (Moment, Live) {
        (self.moment, self.live)
    }

    /// Continues until `deadline`, and for one part at least. Returns true once all is read.
    pub(super) fn advance(
        &mut self,
        rows: &Rows<'_>,
        images: &Images,
        newest: u64,
        deadline: Option<Instant>,
    ) -> Result<bool, JournalError> {
        let Some(base) = self.base else { return Ok(true) };
        let oldest = images.oldest().unwrap_or(newest);
        // Rows that positions before the oldest image need may be gone.
        if images.oldest().is_none_or(|oldest| oldest > base.position) {
            return Err(JournalError::NoPosition { position: self.position, oldest, newest });
        }
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        loop {
            match &self.stage {
                Stage::Image(part) => {
                    let part = *part;
                    let (extent, data) = (self.extent, &mut self.data);
                    let is_last = rows.part_of_image(base.position, part, |path, table, key, value| {
                        if extent.has(table) {
                            data.insert((path, table, own(extent, key)), own(extent, value));
                        }
                    })?;
                    self.stage = if is_last { Stage::History } else { Stage::Image(part + 1) };
                }
                Stage::History => {
                    if self.history(rows, &is_over)? {
                        self.check_end(rows, newest)?;
                        for ((path, table, key), value) in std::mem::take(&mut self.data) {
                            self.live.put(&path, table, key, value);
                        }
                        self.stage = Stage::States(None);
                    }
                }
                Stage::States(after) => match rows.next_path(after.as_ref())? {
                    Some(path) => {
                        self.state(rows, &path)?;
                        self.stage = Stage::States(Some(path));
                    }
                    None => {
                        self.check_states(rows)?;
                        self.stage = Stage::Done;
                    }
                },
                Stage::Done => return Ok(true),
            }
            if is_over() {
                return Ok(matches!(self.stage, Stage::Done));
            }
        }
    }

    /// Applies rows of the history, and returns true after the last one.
    fn history(&mut self, rows: &Rows<'_>, is_over: &dyn Fn() -> bool) -> Result<bool, JournalError> {
        use encoding::Recorded;

        let Self { extent, data, moment, expected, chain, .. } = self;
        let mut is_last = true;
        rows.each_history(moment.position + 1, self.position, false, |row| {
            if row.first != moment.position + 1 || row.chain != *chain {
                let (from, to) = (moment.position + 1, row.first);
                return Err(rows.damaged(format!("the history from position {from} to {to} is missing")));
            }
            *moment = row.moment();
            *expected = (row.state_rows, row.state_sum);
            *chain = row.sum();
            for change in fold::decode(rows, &row)?.into_iter().flat_map(|(_, _, changes)| changes) {
                match change {
                    Recorded::Put(path, table, key, value) if extent.has(table) => {
                        data.insert((path, table, own(*extent, key)), own(*extent, value));
                    }
                    Recorded::Delete(path, table, key) if extent.has(table) => {
                        data.remove(&(path, table, key));
                    }
                    Recorded::Left(path) => fold::remove_rows_of(data, &path),
                    Recorded::Put(..) | Recorded::Delete(..) | Recorded::State(_) | Recorded::Reacted(_) => {}
                }
            }
            is_last = !is_over();
            Ok(is_last)
        })?;
        Ok(is_last)
    }

    /// Finds out whether the group that has the next position follows, or else the one of the wanted position is missing.
    fn check_end(&self, rows: &Rows<'_>, newest: u64) -> Result<(), JournalError> {
        let moment = self.moment;
        let mut is_followed = moment.position == newest;
        rows.each_history(moment.position + 1, newest, false, |row| {
            is_followed = row.first == moment.position + 1 && row.chain == self.chain;
            Ok(false)
        })?;
        if is_followed {
            return Ok(());
        }
        Err(rows.damaged(format!("the history after position {} is missing", moment.position)))
    }

    fn state(&mut self, rows: &Rows<'_>, path: &ActorPath) -> Result<(), JournalError> {
        let Some(read) = rows.state_rows(path, Some(self.moment.position))? else { return Ok(()) };
        let (count, sum) = self.found;
        self.found = (count + read.count(), sum.wrapping_add(read.sum()));
        let state = read
            .decode()
            .map_err(|error| rows.damaged(format!("the state of {path} cannot be decoded: {error}")))?;
        self.live.actors.entry(path.clone()).or_default().state = Some(state);
        Ok(())
    }

    fn check_states(&self, rows: &Rows<'_>) -> Result<(), JournalError> {
        if self.found == self.expected {
            return Ok(());
        }
        Err(rows.damaged(format!(
            "at position {}, {} rows of live states were recorded, and {} were found, which are not the same",
            self.moment.position, self.expected.0, self.found.0
        )))
    }
}

/// Returns the bytes by themselves where others that were read with them are not kept.
fn own(extent: Extent, bytes: Bytes) -> Bytes {
    if extent == Extent::All { bytes } else { Bytes::copy_from_slice(&bytes) }
}

impl SqliteStore {
    /// Begins to rebuild the live data at the last group that ends at or before a position.
    pub(super) fn reading_at(&self, position: u64, extent: Extent) -> Result<LiveReading, JournalError> {
        let newest = self.head.position;
        let oldest = self.images.oldest().unwrap_or(newest);
        let base = self.images.before(position).filter(|_| position <= newest);
        let base = base.ok_or(JournalError::NoPosition { position, oldest, newest })?;
        Ok(LiveReading::new(position, extent, base))
    }

    /// Continues a reading, and returns true once all is read.
    pub(super) fn advance(
        &self,
        reading: &mut LiveReading,
        deadline: Option<Instant>,
    ) -> Result<bool, JournalError> {
        reading.advance(&self.rows(), &self.images, self.head.position, deadline)
    }

    /// Rebuilds the live data at the last group that ends at or before a position.
    pub(super) fn live_at(&self, position: u64) -> Result<(Moment, Live), JournalError> {
        let mut reading = self.reading_at(position, Extent::All)?;
        self.advance(&mut reading, None)?;
        Ok(reading.finish())
    }
}
