//! Images of the live rows, from which those at a position of the history are rebuilt; and pruning of the history.

use std::collections::VecDeque;

use bytes::Bytes;
use rusqlite::params;

use super::rows::ImageMark;
use super::{SqliteStore, encoding};
use crate::id::ActorPath;
use crate::journal::{JournalError, log_encoding};

/// Size of the parts of an image, in bytes.
const PART: usize = 256 * 1024;

/// Size of the history between two images, relative to an image: reading the data at a position takes that much more.
const INTERVAL: i64 = 4;

/// The smallest size of the history between two images, in bytes.
const LEAST: i64 = 16 << 20;

/// The number of rows that are pruned at a time.
const SLICE: usize = 256;

/// The images that the file has.
pub(super) struct Images {
    /// Oldest first.
    marks: VecDeque<ImageMark>,
    /// The size of the last image in bytes.
    size: i64,
    /// The size of the history at which an image is tried again after the disk was full.
    not_before: i64,
}

impl Images {
    pub(super) fn new(marks: Vec<ImageMark>) -> Self {
        Self { marks: marks.into(), size: 0, not_before: 0 }
    }

    /// Returns the last image at or before a position.
    pub(super) fn before(&self, position: u64) -> Option<ImageMark> {
        self.marks.iter().rfind(|mark| mark.position <= position).copied()
    }

    /// Returns the oldest position that can be read.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.marks.front().map(|mark| mark.position)
    }
}

/// Pruning that is under way: what only positions before the horizon need is deleted.
pub(super) struct Pruning {
    horizon: u64,
    /// The actor whose states are pruned next.
    next: Option<ActorPath>,
    has_states_done: bool,
}

impl SqliteStore {
    /// Has the history begin at an image, or ends it, as the settings say.
    pub(super) fn adopt_history(&mut self) -> Result<(), JournalError> {
        if self.settings.has_history() && self.images.marks.is_empty() {
            self.write_image()?;
        } else if !self.settings.has_history() && !self.images.marks.is_empty() {
            self.fold_all()?;
        }
        let oldest = self.images.marks.front().map(|mark| mark.position);
        let horizon = oldest.filter(|_| self.settings.has_history()).unwrap_or(self.fold.row().position);
        let (mut is_pending, head) = (!self.settings.has_history() && oldest.is_some(), self.head.position);
        // The history is pruned last, so that a row of it shows that pruning was interrupted.
        self.rows().each_history(0, horizon, false, |row| {
            is_pending |= row.position < head;
            Ok(false)
        })?;
        if is_pending { self.prune_to(horizon) } else { Ok(()) }
    }

    /// Does the next part of what the history needs. Returns true if there is more.
    pub(super) fn maintain_history(&mut self) -> Result<bool, JournalError> {
        if self.is_image_due() {
            match self.write_image() {
                Err(error) if error.is_full() => self.images.not_before = self.head.total + LEAST,
                written => written?,
            }
        }
        if self.pruning.is_none()
            && let Some(horizon) = self.horizon()
        {
            self.prune_to(horizon)?;
        }
        match self.prune_slice() {
            // Commits are tried again, and pruning with them.
            Err(error) if error.is_full() => Ok(false),
            pruned => pruned,
        }
    }

    fn is_image_due(&self) -> bool {
        let Some(last) = self.images.marks.back().filter(|_| self.settings.has_history()) else {
            return false;
        };
        let limit = i64::try_from(self.settings.history_bytes / 4).unwrap_or(i64::MAX);
        let interval = (INTERVAL * self.images.size).max(LEAST).min(limit).max(self.images.size);
        let age = i64::try_from(self.settings.history_age.as_nanos() / 8).unwrap_or(i64::MAX);
        last.position < self.head.position
            && self.head.total >= self.images.not_before
            && (self.head.total - last.total > interval || self.head.wall.saturating_sub(last.wall) > age)
    }

    /// Returns the position of the oldest image that is to be kept, if there are older ones.
    fn horizon(&self) -> Option<u64> {
        let oldest = self.images.marks.front()?;
        let bytes = i64::try_from(self.settings.history_bytes).unwrap_or(i64::MAX);
        let age = i64::try_from(self.settings.history_age.as_nanos()).unwrap_or(i64::MAX);
        let is_kept = |mark: &&ImageMark| {
            self.head.total - mark.total <= bytes && self.head.wall.saturating_sub(mark.wall) <= age
        };
        let kept = self.images.marks.iter().find(is_kept).or(self.images.marks.back())?;
        (kept.position > oldest.position).then_some(kept.position)
    }

    /// Writes an image of the live rows at the last position: those of `live`, with the changes that wait to be folded.
    pub(in crate::journal) fn write_image(&mut self) -> Result<(), JournalError> {
        let mark = ImageMark {
            position: self.head.position,
            wall: self.head.wall,
            at: self.head.at,
            total: self.head.total,
            state_rows: self.head.state_rows,
            state_sum: self.head.state_sum,
            chain: self.chain,
        };
        self.images.size = self.transact(|store| {
            let (mut part, mut size, mut held) = (0, 0, 0);
            let mut rows: Vec<encoding::ImageRow> = Vec::new();
            let mut add = |row: encoding::ImageRow| -> Result<(), JournalError> {
                held += row.2.len() + row.3.len() + 32;
                rows.push(row);
                if held >= PART {
                    size += store.put_part(mark, part, false, &rows)?;
                    part += 1;
                    rows.clear();
                    held = 0;
                }
                Ok(())
            };
            store.rows().each_live(false, |path, row| {
                let row = row.map_err(|what| store.rows().damaged(what))?;
                if store.fold.overrides(path, row.table, &row.key) {
                    return Ok(());
                }
                add((path.clone(), row.table, row.key, row.value))
            })?;
            store
                .fold
                .each_row(|path, table, key, value| add((path.clone(), table, key.clone(), value.clone())))?;
            Ok(size + store.put_part(mark, part, true, &rows)?)
        })?;
        self.images.marks.push_back(mark);
        Ok(())
    }

    fn put_part(
        &self,
        mark: ImageMark,
        part: i64,
        is_last: bool,
        rows: &[encoding::ImageRow],
    ) -> Result<i64, JournalError> {
        let encoded = log_encoding::encode_rows(rows);
        self.execute(
            "INSERT INTO image (position, part, last, wall, at, total, state_rows, state_sum, chain, rows, sum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                mark.position as i64,
                part,
                i64::from(is_last),
                mark.wall,
                mark.at,
                mark.total,
                mark.state_rows,
                mark.state_sum,
                mark.chain,
                &encoded[..],
                mark.sum(part, is_last, &encoded)
            ],
        )?;
        Ok(encoded.len() as i64)
    }

    /// Prunes what only positions before this one need.
    #[cfg(test)]
    pub(in crate::journal) fn forget_images_before(&mut self, horizon: u64) {
        self.prune_to(horizon).unwrap();
        while self.prune_slice().unwrap() {}
    }

    /// Begins to prune. The images go first, since without them no position before the horizon can be read.
    fn prune_to(&mut self, horizon: u64) -> Result<(), JournalError> {
        // Without history, no image is kept.
        let first_kept = if self.settings.has_history() { horizon } else { u64::MAX };
        if self.images.marks.front().is_some_and(|mark| mark.position < first_kept) {
            self.transact(|store| {
                let bound = i64::try_from(first_kept).unwrap_or(i64::MAX);
                store.execute("DELETE FROM image WHERE position < ?1", [bound])
            })?;
            self.images.marks.retain(|mark| mark.position >= first_kept);
        }
        let next = self.rows().next_path(None)?;
        self.pruning = Some(Pruning { horizon, has_states_done: next.is_none(), next });
        Ok(())
    }

    fn prune_slice(&mut self) -> Result<bool, JournalError> {
        let Some(mut pruning) = self.pruning.take() else { return Ok(false) };
        let horizon = pruning.horizon as i64;
        let head = self.head.position as i64;
        let mut is_done = false;
        let pruned = self.transact(|store| {
            let mut left = SLICE;
            while !pruning.has_states_done && left > 0 {
                let Some(path) = pruning.next.clone() else {
                    pruning.has_states_done = true;
                    break;
                };
                let deleted = store.prune_state(&path, horizon, left)?;
                if deleted < left {
                    pruning.next = store.rows().next_path(Some(&path))?;
                }
                left = left.saturating_sub(deleted.max(1));
            }
            if left > 0 {
                // What is not folded yet is pruned by a later pruning.
                let horizon = horizon.min(store.fold.row().position as i64);
                let deleted = store.execute(
                    "DELETE FROM history WHERE position IN (SELECT position FROM history \
                     WHERE position <= ?1 AND position < ?2 ORDER BY position LIMIT ?3)",
                    params![horizon, head, left as i64],
                )?;
                is_done = deleted < left;
            }
            Ok(())
        });
        if !is_done || pruned.is_err() {
            self.pruning = Some(pruning);
        }
        pruned.map(|()| !is_done)
    }

    /// Deletes rows of the state of an actor that only positions before the horizon need. Returns their number, at most
    /// `limit`.
    fn prune_state(&self, path: &ActorPath, horizon: i64, limit: usize) -> Result<usize, JournalError> {
        self.execute(
            "DELETE FROM state WHERE path = ?1 AND position IN (SELECT position FROM state \
             WHERE path = ?1 AND position <= ?2 AND position < (SELECT position + (kind = 'left') FROM state \
             WHERE path = ?1 AND position <= ?2 AND kind <> 'patch' ORDER BY position DESC LIMIT 1) \
             ORDER BY position LIMIT ?3)",
            params![path.as_str(), horizon, limit as i64],
        )
    }
}
