//! Changes of live data that were read.

use bytes::Bytes;

use super::{Change, Live};
use crate::state::StateError;

impl Live {
    /// Applies a change.
    ///
    /// # Errors
    /// [`StateError`] if a patch does not fit.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), StateError> {
        match change {
            Change::Put { path, table, key, value } => {
                let rows = self.actors.entry(path.clone()).or_default().rows.entry(*table).or_default();
                match rows.binary_search_by(|(other, _)| other[..].cmp(key)) {
                    Ok(index) => rows[index].1 = Bytes::copy_from_slice(value),
                    Err(index) => {
                        rows.insert(index, (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
                    }
                }
            }
            Change::Delete { path, table, key } => {
                let rows = self.actors.get_mut(path).and_then(|actor| actor.rows.get_mut(table));
                if let Some(rows) = rows
                    && let Ok(index) = rows.binary_search_by(|(other, _)| other[..].cmp(key))
                {
                    rows.remove(index);
                }
            }
            Change::State { path, state } => {
                self.actors.entry(path.clone()).or_default().state = Some(state.clone());
            }
            Change::Patch { path, patch } => {
                self.actors
                    .entry(path.clone())
                    .or_default()
                    .state
                    .get_or_insert_default()
                    .apply(patch.clone())?;
            }
            Change::Left { path } => drop(self.actors.remove(path)),
        }
        Ok(())
    }
}
