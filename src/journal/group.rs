//! Groups of transactions that are committed together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::encoding::{self, Recorded, Recording};
use super::error::JournalError;
use super::{Change, Table, Transaction};
use crate::id::ActorPath;
use crate::state::{Patch, Value};

/// Consecutive transactions, merged: of several changes of one row or state, the group has their combination.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The times of the last transaction.
    pub(super) at: Duration,
    pub(super) wall: SystemTime,
    /// Actors whose rows are deleted before `rows` is applied.
    pub(super) left: BTreeSet<ActorPath>,
    /// New values of rows; `None` deletes the row.
    pub(super) rows: BTreeMap<(ActorPath, Table, Bytes), Option<Bytes>>,
    pub(super) states: BTreeMap<ActorPath, StateChange>,
    /// The transactions as they are recorded in the history, encoded. Empty without history.
    pub(super) recording: Vec<u8>,
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
    pub(super) fn merge(
        first: u64,
        transactions: Vec<Transaction>,
        has_history: bool,
    ) -> Result<Self, JournalError> {
        let last = first + transactions.len().saturating_sub(1) as u64;
        let mut group = Self {
            first,
            last,
            at: Duration::ZERO,
            wall: SystemTime::UNIX_EPOCH,
            left: BTreeSet::new(),
            rows: BTreeMap::new(),
            states: BTreeMap::new(),
            recording: Vec::new(),
        };
        let mut recording = Recording::new();
        for (transaction, position) in transactions.into_iter().zip(first..) {
            let Transaction { at, wall, changes } = transaction;
            (group.at, group.wall) = (at, wall);
            let mut recorded = Vec::with_capacity(changes.len());
            for change in changes {
                let change = group.add(position, change)?;
                // A transaction may change one state several times.
                let repeats = matches!(&change, Recorded::State(path)
                    if matches!(recorded.last(), Some(Recorded::State(last)) if last == path));
                if has_history && !repeats {
                    recorded.push(change);
                }
            }
            if has_history {
                recording.push((encoding::nanos(at), encoding::wall_nanos(wall), recorded));
            }
        }
        if has_history {
            group.recording = encoding::encode(&recording)
                .map_err(|error| JournalError::Invalid { position: last, what: error.to_string() })?;
        }
        Ok(group)
    }

    fn add(&mut self, position: u64, change: Change) -> Result<Recorded, JournalError> {
        Ok(match change {
            Change::Put { path, table, key, value } => {
                let (key, value) = (Bytes::from(key), Bytes::from(value));
                self.rows.insert((path.clone(), table, key.clone()), Some(value.clone()));
                Recorded::Put(path, table, key, value)
            }
            Change::Delete { path, table, key } => {
                let key = Bytes::from(key);
                self.rows.insert((path.clone(), table, key.clone()), None);
                Recorded::Delete(path, table, key)
            }
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
                let begin = (path.clone(), Table::App, Bytes::new());
                let keys: Vec<_> = self
                    .rows
                    .range(begin..)
                    .take_while(|((other, ..), _)| *other == path)
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in keys {
                    self.rows.remove(&key);
                }
                self.states.insert(path.clone(), StateChange::Left);
                self.left.insert(path.clone());
                Recorded::Left(path)
            }
        })
    }
}
