//! Applying patches to values.

use std::collections::{HashMap, HashSet};

use super::error::{Fault, StateError};
use super::patch::{Change, Entry, MapPatch, Patch, SeqPatch};
use super::value::{SMALL, Value};

/// Number of insertions or removals up to which entries are moved one at a time.
const FEW: usize = 4;

/// Distance from its position hint within which an entry is looked for before all entries are searched.
const DRIFT: usize = 8;

impl Value {
    /// Applies the changes of `patch` to this value.
    ///
    /// Changing an entry of a map takes no search if the entries are in the publisher's order, which is the case
    /// unless they were reordered since the whole map was last sent. Adding or removing entries takes a pass over the
    /// map.
    ///
    /// # Errors
    ///
    /// [`StateError::Mismatch`] if the patch was made for a different value and does not fit this one. The value is
    /// still well-formed then, but may have only some of the changes; discard it.
    pub fn apply(&mut self, patch: Patch) -> Result<(), StateError> {
        self.change(patch).map_err(Fault::mismatch)
    }

    fn change(&mut self, patch: Patch) -> Result<(), Fault> {
        match (self, patch) {
            (value, Patch::Set(new)) => {
                *value = new;
                Ok(())
            }
            (Value::Map(entries), Patch::Map(patch)) => change_entries(entries, patch),
            (Value::Seq(items), Patch::Seq(patch)) => change_items(items, patch),
            (value, Patch::Map(_)) => Err(unexpected("a map", value)),
            (value, Patch::Seq(_)) => Err(unexpected("a sequence", value)),
        }
    }
}

#[cold]
fn unexpected(expected: &str, found: &Value) -> Fault {
    Fault::new(format!("it changes {expected}, but found {}", found.kind()))
}

#[cold]
fn absent(key: &Value) -> Fault {
    Fault::new("it changes this key, but there is no such key").at_key(key)
}

type MapEntries = Vec<(Value, Value)>;

fn change_entries(entries: &mut MapEntries, patch: MapPatch) -> Result<(), Fault> {
    let mut removed = Vec::new();
    let mut inserted = Vec::new();
    let mut misplaced = Vec::new();
    // Entries are inserted and removed after all positions are known.
    for entry in patch.entries {
        if let Change::Insert(value) = entry.change {
            inserted.push((entry.at as usize, (entry.key, value)));
            continue;
        }
        match find_near(entries, &entry.key, entry.at as usize) {
            Some(at) => change_entry(&mut entries[at], at, entry, &mut removed)?,
            None => misplaced.push(entry),
        }
    }
    if !misplaced.is_empty() {
        let positions = find_anywhere(entries, &misplaced)?;
        for (entry, at) in misplaced.into_iter().zip(positions) {
            change_entry(&mut entries[at], at, entry, &mut removed)?;
        }
    }
    if !removed.is_empty() {
        remove_all(entries, removed);
    }
    if !inserted.is_empty() {
        insert_all(entries, inserted)?;
    }
    Ok(())
}

fn change_entry(
    (key, value): &mut (Value, Value),
    at: usize,
    entry: Entry,
    removed: &mut Vec<usize>,
) -> Result<(), Fault> {
    match entry.change {
        Change::Update(patch) => value.change(patch).map_err(|fault| fault.at_key(key))?,
        Change::Remove => removed.push(at),
        Change::Insert(_) => unreachable!("new entries are sorted out first"),
    }
    Ok(())
}

fn find_near(entries: &MapEntries, key: &Value, hint: usize) -> Option<usize> {
    if entries.get(hint).is_some_and(|(found, _)| found == key) {
        return Some(hint);
    }
    let hint = hint.min(entries.len());
    let near = hint.saturating_sub(DRIFT)..entries.len().min(hint + DRIFT);
    near.into_iter().find(|&at| entries[at].0 == *key)
}

fn find_anywhere(entries: &MapEntries, wanted: &[Entry]) -> Result<Vec<usize>, Fault> {
    let index: Option<HashMap<&Value, usize>> = (wanted.len() > FEW && entries.len() > SMALL)
        .then(|| entries.iter().map(|(key, _)| key).zip(0..).collect());
    let find = |key: &Value| match &index {
        Some(index) => index.get(key).copied(),
        None => entries.iter().position(|(found, _)| found == key),
    };
    wanted.iter().map(|Entry { key, .. }| find(key).ok_or_else(|| absent(key))).collect()
}

fn remove_all(entries: &mut MapEntries, mut removed: Vec<usize>) {
    removed.sort_unstable();
    if removed.len() <= FEW {
        for &at in removed.iter().rev() {
            entries.remove(at);
        }
    } else {
        let mut position = 0;
        let mut removed = removed.into_iter().peekable();
        entries.retain(|_| {
            let gone = removed.next_if_eq(&position).is_some();
            position += 1;
            !gone
        });
    }
}

fn insert_all(entries: &mut MapEntries, mut inserted: Vec<(usize, (Value, Value))>) -> Result<(), Fault> {
    inserted.sort_by_key(|(at, _)| *at);
    if inserted.len() <= FEW {
        for (at, entry) in inserted {
            if entries.iter().any(|(key, _)| *key == entry.0) {
                return Err(present(&entry.0));
            }
            entries.insert(at.min(entries.len()), entry);
        }
        return Ok(());
    }
    let mut keys: HashSet<&Value> = entries.iter().map(|(key, _)| key).collect();
    for (_, (key, _)) in &inserted {
        if !keys.insert(key) {
            return Err(present(key));
        }
    }
    let mut merged = Vec::with_capacity(entries.len() + inserted.len());
    let mut inserted = inserted.into_iter().peekable();
    for entry in entries.drain(..) {
        while let Some((_, new)) = inserted.next_if(|(at, _)| *at <= merged.len()) {
            merged.push(new);
        }
        merged.push(entry);
    }
    merged.extend(inserted.map(|(_, new)| new));
    *entries = merged;
    Ok(())
}

#[cold]
fn present(key: &Value) -> Fault {
    Fault::new("it adds this key, but the key is there already").at_key(key)
}

fn change_items(items: &mut Vec<Value>, patch: SeqPatch) -> Result<(), Fault> {
    if items.len() != patch.from as usize {
        return Err(Fault::new(format!(
            "it changes a sequence of {} items, but found one of {}",
            patch.from,
            items.len()
        )));
    }
    let len = patch.len as usize;
    items.truncate(len);
    for (at, change) in patch.items {
        let at = at as usize;
        let count = items.len();
        match (items.get_mut(at), change) {
            (Some(item), change) => item.change(change).map_err(|fault| fault.at(at.to_string()))?,
            (None, Patch::Set(item)) if at == count && at < len => items.push(item),
            (None, _) => {
                let fault = Fault::new("it changes this item, but there is no such item");
                return Err(fault.at(at.to_string()));
            }
        }
    }
    if items.len() != len {
        return Err(Fault::new(format!(
            "it leaves a sequence of {} items, but announces {len}",
            items.len()
        )));
    }
    Ok(())
}
