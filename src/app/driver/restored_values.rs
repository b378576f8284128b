//! Values of payloads that the journal has, when an App is restored.
//!
//! # Guarantees
//! - Every reference in recorded states, inputs of runs, steps and fields of Flows has its value again before any of them
//!   is read, if the journal has the value undamaged.
//! - Values that nothing refers to any more are deleted once all is restored, and none before. What Works and Flows refer
//!   to that the program does not have any more is kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::payloads::references;
use crate::id::ActorPath;
use crate::journal::{Live, StoredValue, Table, ValueKey, Values};
use crate::payload::{PayloadGuard, PayloadGuards, PayloadId, Reference, Store};
use crate::state::Value;
use crate::wire;

/// The recorded values, and guards of those that something refers to.
pub(super) struct RestoredValues {
    store: Arc<Store>,
    values: Arc<Values>,
    by_hash: HashMap<[u8; 32], Vec<StoredValue>>,
    used: HashSet<ValueKey>,
    guards: HashMap<PayloadId, Arc<PayloadGuard>>,
    by_path: HashMap<ActorPath, Vec<Arc<PayloadGuard>>>,
}

impl RestoredValues {
    /// Restores the values to which the live data of a journal refer.
    pub(super) fn new(stored: Vec<StoredValue>, live: &Live, store: Arc<Store>, values: Arc<Values>) -> Self {
        let mut by_hash: HashMap<_, Vec<_>> = HashMap::new();
        for value in stored {
            by_hash.entry(value.key.hash.0).or_default().push(value);
        }
        let (used, guards, by_path) = Default::default();
        let mut restored = Self { store, values, by_hash, used, guards, by_path };
        if restored.by_hash.is_empty() {
            return restored;
        }
        for (path, actor) in &live.actors {
            let mut found = Vec::new();
            if let Some(state) = &actor.state {
                references(state, &mut |reference| found.push(reference));
            }
            for table in [Table::Run, Table::Step] {
                for (_, row) in actor.rows.get(&table).into_iter().flatten() {
                    in_row(row, &mut found);
                }
            }
            let guards: Vec<_> =
                found.into_iter().filter_map(|reference| restored.restore(&reference)).collect();
            if !guards.is_empty() {
                restored.by_path.insert(path.clone(), guards);
            }
        }
        restored
    }

    /// Restores the value of a reference, if the journal has it.
    fn restore(&mut self, reference: &Reference) -> Option<Arc<PayloadGuard>> {
        if let Some(guard) = self.guards.get(&reference.id) {
            return Some(guard.clone());
        }
        let of_hash = self.by_hash.get(&reference.content_hash())?;
        let key = of_hash.iter().map(|value| &value.key).find(|key| reference.fits(&key.type_name))?.clone();
        // A value needs the guards of those to which it refers: these come first, without recursion.
        let mut left = vec![(reference.id, key, false)];
        while let Some((id, key, has_nested)) = left.pop() {
            if self.guards.contains_key(&id) {
                continue;
            }
            let of_hash = self.by_hash.get(&key.hash.0).into_iter().flatten();
            let Some(value) = of_hash.into_iter().find(|value| value.key == key).cloned() else { continue };
            if !has_nested && !value.nested.is_empty() {
                left.push((id, key, true));
                left.extend(value.nested.into_iter().map(|nested| (nested.id, nested.key, false)));
                continue;
            }
            let nested = value.nested.iter().filter_map(|nested| self.guards.get(&nested.id).cloned());
            let guard = self.store.restored(id, value.blob(nested.collect()));
            self.values.claim(&guard, key.clone());
            self.used.insert(key);
            self.guards.insert(id, guard);
        }
        self.guards.get(&reference.id).cloned()
    }

    /// Returns the guards of the restored values to which a value refers.
    pub(super) fn guards_in(&self, value: &Value) -> PayloadGuards {
        if self.guards.is_empty() {
            return PayloadGuards::default();
        }
        let mut found = Vec::new();
        references(value, &mut |reference| found.extend(self.guards.get(&reference.id).cloned()));
        found.into_iter().collect::<PayloadGuards>().distinct()
    }

    /// Returns the guards of the restored values to which an encoded value refers.
    pub(super) fn guards_in_bytes(&self, bytes: &[u8]) -> PayloadGuards {
        if self.guards.is_empty() {
            return PayloadGuards::default();
        }
        wire::decode(bytes).map(|value| self.guards_in(&value)).unwrap_or_default()
    }

    /// Forgets the values of a Work or Flow that is part of the App, and has guards of its own now.
    pub(super) fn is_restored(&mut self, path: &ActorPath) {
        self.by_path.remove(path);
    }

    /// Notes that a part of the record begins anew. If it is parked, it keeps its values.
    pub(super) fn is_renewed(&mut self, path: &ActorPath, parked: Option<&ActorPath>) {
        if let Some(parked) = parked
            && let Some(guards) = self.by_path.remove(path)
        {
            self.by_path.insert(parked.clone(), guards);
        }
    }

    /// Begins to delete values that nothing refers to. Returns guards of what parked Works and Flows refer to.
    pub(super) fn finish(self) -> Vec<Arc<PayloadGuard>> {
        let stored = self.by_hash.into_values().flatten().map(|value| value.key);
        let unused = stored.filter(|key| !self.used.contains(key)).collect();
        self.values.delete_from_now(unused);
        self.by_path.into_values().flatten().collect()
    }
}

/// Finds references in a row, which has encoded values as byte strings.
fn in_row(bytes: &[u8], found: &mut Vec<Reference>) {
    let Ok(value) = wire::decode::<Value>(bytes) else { return };
    references(&value, &mut |reference| found.push(reference));
    in_byte_strings(&value, found);
}

fn in_byte_strings(value: &Value, found: &mut Vec<Reference>) {
    match value {
        Value::Bytes(bytes) => {
            if let Ok(value) = wire::decode::<Value>(bytes) {
                references(&value, &mut |reference| found.push(reference));
            }
        }
        Value::Seq(items) => items.iter().for_each(|item| in_byte_strings(item, found)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| in_byte_strings(value, found)),
        _ => {}
    }
}
