//! Changes of the recorded children of Flows: children that are dropped, and actors that continue at another path.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::recording::{CHILDREN, ChildrenRow};
use crate::flow::{RowError, decoded, encoded};
use crate::id::ActorPath;
use crate::journal::{Change, Live, LiveActor, Table};

/// Returns the part of `path` below `above`, which is empty for that path itself, with its leading dot otherwise.
pub(super) fn below<'p>(path: &'p ActorPath, above: &ActorPath) -> Option<&'p str> {
    let rest = path.as_str().strip_prefix(above.as_str())?;
    (rest.is_empty() || rest.starts_with('.')).then_some(rest)
}

/// Returns the new rows of the Flows that have other children when each child is renamed, or removed if its new name is
/// `None`.
fn rename_children(
    live: &Live,
    rename: &dyn Fn(&ActorPath) -> Option<ActorPath>,
) -> Result<Vec<(ActorPath, Vec<u8>)>, RowError> {
    let mut renamed = Vec::new();
    for (path, actor) in &live.actors {
        let rows = actor.rows.get(&Table::Flow).map(Vec::as_slice).unwrap_or_default();
        for (_, value) in rows.iter().filter(|(key, _)| key == CHILDREN) {
            let mut row: ChildrenRow = decoded(Table::Flow, value)?;
            let before = row.shapes.clone();
            row.shapes.rename(rename);
            if row.shapes != before {
                renamed.push((path.clone(), encoded(&row)));
            }
        }
    }
    Ok(renamed)
}

fn put_children(path: ActorPath, value: Vec<u8>) -> Change {
    Change::Put { path, table: Table::Flow, key: CHILDREN.to_vec(), value }
}

/// Returns the changes that remove an actor, and all below it, from the children of the Flows that stay.
///
/// # Errors
/// [`RowError`] if the children of a Flow cannot be read.
pub(in crate::app) fn forget_children(live: &Live, gone: &ActorPath) -> Result<Vec<Change>, RowError> {
    let rename = |name: &ActorPath| below(name, gone).is_none().then(|| name.clone());
    let renamed = rename_children(live, &rename)?;
    let stay = renamed.into_iter().filter(|(path, _)| below(path, gone).is_none());
    Ok(stay.map(|(path, value)| put_children(path, value)).collect())
}

/// Actors that continue at another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app) struct Move {
    pub(in crate::app) from: ActorPath,
    pub(in crate::app) to: ActorPath,
}

impl Move {
    /// Returns the path that an actor has after these moves, of which that with the longest old path counts.
    #[cfg(feature = "cli")]
    pub(super) fn rename(moves: &[Self], path: &ActorPath) -> ActorPath {
        let renamed = moves.iter().filter_map(|one| Some((one.from.as_str().len(), one.renamed(path)?)));
        renamed.max_by_key(|(length, _)| *length).map_or_else(|| path.clone(), |(_, renamed)| renamed)
    }

    /// Returns the new path of an actor at or below the old one.
    fn renamed(&self, path: &ActorPath) -> Option<ActorPath> {
        let rest = below(path, &self.from)?;
        Some(ActorPath::from(format!("{}{rest}", self.to.as_str()).as_str()))
    }
}

/// The actors that were moved, and the changes that record it.
#[derive(Debug, Default)]
pub(in crate::app) struct Moved {
    pub(in crate::app) paths: BTreeSet<ActorPath>,
    pub(super) changes: Vec<Change>,
}

/// Moves actors of the live data. A move is left out if nothing is recorded at its old path, or something at the new
/// one: it was made before.
///
/// # Errors
/// [`RowError`] if the children of a Flow cannot be read.
pub(super) fn move_actors(live: &mut Live, moves: &[Move]) -> Result<Moved, RowError> {
    let has = |path: &ActorPath| live.actors.keys().any(|other| below(other, path).is_some());
    let is_due = |one: &&Move| has(&one.from) && (!has(&one.to) || below(&one.to, &one.from).is_some());
    let mut moves: Vec<_> = moves.iter().filter(is_due).cloned().collect();
    if moves.is_empty() {
        return Ok(Moved::default());
    }
    // The longest old path counts.
    moves.sort_by_key(|one| std::cmp::Reverse(one.from.as_str().len()));
    let renamed = |path: &ActorPath| moves.iter().find_map(|one| one.renamed(path));
    let is_moved = |path: &ActorPath| moves.iter().any(|one| one.from == *path);
    // The Flow above the old path loses the child; the one above the new path gets it when it is restored.
    let rename = |name: &ActorPath| {
        if is_moved(name) { None } else { Some(renamed(name).unwrap_or_else(|| name.clone())) }
    };
    let mut moved = Moved::default();
    for (path, value) in rename_children(live, &rename)? {
        let row = live.actors.get_mut(&path).and_then(|actor| actor.rows.get_mut(&Table::Flow));
        let rows = row.into_iter().flatten().filter(|(key, _)| key == CHILDREN);
        rows.for_each(|(_, old)| *old = Bytes::copy_from_slice(&value));
        if renamed(&path).is_none() {
            moved.changes.push(put_children(path, value));
        }
    }
    let old: Vec<_> = live.actors.keys().filter(|path| renamed(path).is_some()).cloned().collect();
    let mut taken = Vec::new();
    for path in old {
        taken.extend(renamed(&path).zip(live.actors.remove(&path)));
        moved.changes.push(Change::Left { path });
    }
    for (path, mut actor) in taken {
        rename_lists(&mut actor, &moves)?;
        let LiveActor { state, rows } = &actor;
        moved.changes.extend(state.clone().map(|state| Change::State { path: path.clone(), state }));
        for (table, rows) in rows {
            let put = |(key, value): &(Bytes, Bytes)| Change::Put {
                path: path.clone(),
                table: *table,
                key: key.to_vec(),
                value: value.to_vec(),
            };
            moved.changes.extend(rows.iter().map(put));
        }
        live.actors.insert(path, actor);
    }
    moved.paths = moves.into_iter().map(|one| one.to).collect();
    Ok(moved)
}

/// Renames the lists of children of a Flow, whose next numbers are recorded by their paths.
fn rename_lists(actor: &mut LiveActor, moves: &[Move]) -> Result<(), RowError> {
    let rows = actor.rows.get_mut(&Table::Flow);
    for (_, value) in rows.into_iter().flatten().filter(|(key, _)| key == CHILDREN) {
        let mut row: ChildrenRow = decoded(Table::Flow, value)?;
        if row.lists.is_empty() {
            continue;
        }
        let renamed = row.lists.into_iter().map(|(list, next)| {
            let path = ActorPath::from(list.as_str());
            let path = moves.iter().find_map(|one| one.renamed(&path)).unwrap_or(path);
            (path.as_str().to_owned(), next)
        });
        row.lists = renamed.collect();
        *value = encoded(&row).into();
    }
    Ok(())
}
