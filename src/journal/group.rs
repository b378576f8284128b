//! Groups of transactions that are committed together.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::encoding::{self, Recorded, Recording};
use super::error::JournalError;
use super::values::ValueChanges;
use super::{Change, Transaction, log_encoding};
use crate::id::ActorPath;
use crate::state::{Patch, Value};

/// Consecutive transactions, merged: of several changes of one state, the group has their combination.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The times of the last transaction.
    pub(super) at: Duration,
    pub(super) wall: SystemTime,
    pub(super) states: BTreeMap<ActorPath, StateChange>,
    pub(super) values: ValueChanges,
    /// The transactions as they are recorded in the history.
    pub(super) recording: Recording,
    /// The encoding of `recording`.
    pub(super) encoded: Bytes,
}

/// The change of a state.
#[derive(Debug)]
pub(super) enum StateChange {
    Set(Value),
    Patch(Patch),
    Left,
}

impl Group {
    /// Merges transactions, at least one, the first of which has position `first`.
    pub(super) fn merge(first: u64, transactions: Vec<Transaction>) -> Result<Self, JournalError> {
        let last = first + transactions.len().saturating_sub(1) as u64;
        let mut group = Self {
            first,
            last,
            at: Duration::ZERO,
            wall: SystemTime::UNIX_EPOCH,
            states: BTreeMap::new(),
            values: ValueChanges::new(),
            recording: Recording::with_capacity(transactions.len()),
            encoded: Bytes::new(),
        };
        for (transaction, position) in transactions.into_iter().zip(first..) {
            let Transaction { at, wall, changes, mut reacted } = transaction;
            (group.at, group.wall) = (at, wall);
            let mut recorded = Vec::with_capacity(changes.len() + usize::from(reacted.is_some()));
            for (index, change) in changes.into_iter().enumerate() {
                if let Some(reacted) = reacted.take_if(|reacted| reacted.seen == index) {
                    recorded.push(Recorded::reacted(reacted.reactions, at));
                }
                let change = group.add(position, change)?;
                // A transaction may change one state several times.
                let repeats = matches!(&change, Recorded::State(path)
                    if matches!(recorded.last(), Some(Recorded::State(last)) if last == path));
                if !repeats {
                    recorded.push(change);
                }
            }
            recorded.extend(reacted.map(|reacted| Recorded::reacted(reacted.reactions, at)));
            group.recording.push((encoding::nanos(at), encoding::wall_nanos(wall), recorded));
        }
        group.encoded = log_encoding::encode(&group.recording).into();
        Ok(group)
    }

    /// Returns the number of rows that are set or deleted.
    pub(super) fn row_changes(&self) -> usize {
        let changes = self.recording.iter().flat_map(|(_, _, changes)| changes);
        changes.filter(|change| matches!(change, Recorded::Put(..) | Recorded::Delete(..))).count()
    }

    fn add(&mut self, position: u64, change: Change) -> Result<Recorded, JournalError> {
        Ok(match change {
            Change::Put { path, table, key, value } => {
                Recorded::Put(path, table, Bytes::from(key), Bytes::from(value))
            }
            Change::Delete { path, table, key } => Recorded::Delete(path, table, Bytes::from(key)),
            Change::State { path, state } => {
                self.states.insert(path.clone(), StateChange::Set(state));
                Recorded::State(path)
            }
            Change::Patch { path, patch } => {
                let invalid = |what: String| JournalError::Invalid { position, what };
                match self.states.get_mut(&path) {
                    None => {
                        self.states.insert(path.clone(), StateChange::Patch(patch));
                    }
                    Some(StateChange::Patch(earlier)) => earlier.then(patch),
                    Some(StateChange::Set(state)) => state
                        .apply(patch)
                        .map_err(|error| invalid(format!("the patch of {path} does not fit: {error}")))?,
                    Some(StateChange::Left) => {
                        return Err(invalid(format!("{path} has left and has no state to change")));
                    }
                }
                Recorded::State(path)
            }
            Change::Left { path } => {
                self.states.insert(path.clone(), StateChange::Left);
                Recorded::Left(path)
            }
        })
    }
}
