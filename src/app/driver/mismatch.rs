//! Parts of a record that this program cannot read, and that begin anew if the operator wants that (`--on-mismatch`).
//!
//! # Guarantees
//! - Only what cannot be read begins anew: a Work with its runs, the own fields of a Flow, or the children of a field. The
//!   rest is restored as if nothing were wrong.
//! - A parked record is renamed as a whole, to a path that no other actor has, and is not read again. It comes back with
//!   [`App::moved`](crate::App::moved) in a program that can read it.
//! - A record that is damaged, and one for which code of the program panics, is refused whatever the operator wants.
//! - All of it is one transaction, that of the first cycle. A program that is refused has changed nothing.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::super::config::OnMismatch;
use super::super::error::{AppError, Unrestorable};
use super::recorded_app::Recovery;
use super::recording::{CHILDREN, ChildrenRow, FACTS};
use super::renaming::{Move, below, forget_children, move_actors};
use crate::flow::{RestoreError, Restored, RowError, decoded, encoded};
use crate::id::ActorPath;
use crate::journal::{Change, Live, Table};
use crate::printable::chain;

/// A part of the record that begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// The Work, Flow, or field with children.
    pub(crate) path: ActorPath,
    /// True for the own fields of a Flow, without its children.
    pub(crate) is_own_fields: bool,
    /// The path at which the record is parked; `None` if it is dropped.
    pub(crate) parked: Option<ActorPath>,
    pub(crate) why: String,
}

impl std::fmt::Display for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, is_own_fields, parked, why } = self;
        let what = if *is_own_fields { "the own fields of flow " } else { "" };
        let begins = if *is_own_fields { "begin" } else { "begins" };
        write!(f, "{what}`{path}` {begins} anew, because {why}; ")?;
        match parked {
            Some(parked) => write!(f, "the record is parked at `{parked}`"),
            None => f.write_str("the record is dropped, and stays in the history"),
        }
    }
}

/// A part of the record that cannot be restored, and the part that has to begin anew for the rest to be.
struct Mismatch {
    part: Option<Part>,
    why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    OwnFields(ActorPath),
    Whole(ActorPath),
}

impl Mismatch {
    fn of_row((path, error): &(ActorPath, String)) -> Self {
        let part = (!path.is_root()).then(|| Part::Whole(path.clone()));
        Self { part, why: format!("`{path}`: {error}") }
    }

    /// `fresh` are the Flows whose own fields begin anew already.
    fn of_tree(error: &RestoreError, fresh: &BTreeSet<ActorPath>) -> Self {
        let whole = |path: &ActorPath| (!path.is_root()).then(|| Part::Whole(path.clone()));
        let part = match error {
            RestoreError::Flow { path, .. } if !fresh.contains(path) => Some(Part::OwnFields(path.clone())),
            RestoreError::Flow { path, .. }
            | RestoreError::Work { path, .. }
            | RestoreError::Kind { path, .. } => whole(path),
            RestoreError::Shape { field, .. } => whole(&field.as_str().into()),
            RestoreError::Key { field, key } => whole(&format!("{field}.{key}").as_str().into()),
            RestoreError::Unrecorded { .. }
            | RestoreError::Repeated { .. }
            | RestoreError::Panicked { .. } => None,
        };
        Self { part, why: chain(error) }
    }
}

/// A record that was restored, with what it took.
pub(in crate::app) struct Adapted {
    pub(in crate::app) recovery: Recovery,
    pub(in crate::app) restored: Restored,
    pub(in crate::app) renewed: Vec<Renewed>,
    /// The changes that record it.
    pub(super) changes: Vec<Change>,
}

/// Restores the live data of a journal whose last position is `position`, by `restore`, and lets parts that cannot be
/// restored begin anew, as `on_mismatch` says.
///
/// # Errors
/// [`AppError::Unrestorable`] with all that cannot be restored. Nothing was restored then.
pub(in crate::app) fn adapt(
    mut live: Live,
    moved: &BTreeSet<ActorPath>,
    on_mismatch: OnMismatch,
    position: u64,
    mut restore: impl FnMut(&Recovery) -> Result<Restored, Vec<RestoreError>>,
) -> Result<Adapted, AppError> {
    let unrestorable = |problems: Vec<String>| AppError::Unrestorable(Unrestorable::new(problems));
    let (mut renewed, mut changes): (Vec<Renewed>, Vec<Change>) = (Vec::new(), Vec::new());
    let mut fresh = BTreeSet::new();
    loop {
        let read = match on_mismatch {
            OnMismatch::Refuse => Recovery::read(std::mem::take(&mut live)),
            OnMismatch::Park | OnMismatch::Fresh => Recovery::read(live.clone()),
        };
        let mismatches: Vec<_> = match read {
            Ok(recovery) => {
                let recovery = recovery.with(moved.clone(), fresh.clone());
                match restore(&recovery) {
                    Ok(restored) => return Ok(Adapted { recovery, restored, renewed, changes }),
                    Err(errors) => errors.iter().map(|error| Mismatch::of_tree(error, &fresh)).collect(),
                }
            }
            Err(errors) => errors.iter().map(Mismatch::of_row).collect(),
        };
        let is_refused = on_mismatch == OnMismatch::Refuse;
        if is_refused || mismatches.is_empty() || mismatches.iter().any(|mismatch| mismatch.part.is_none()) {
            return Err(unrestorable(mismatches.into_iter().map(|mismatch| mismatch.why).collect()));
        }
        let before = renewed.len();
        let all: Vec<_> = mismatches.iter().map(|mismatch| mismatch.why.clone()).collect();
        for Mismatch { part, why } in mismatches {
            let Some(part) = part else { continue };
            let (path, is_own_fields) = match &part {
                Part::OwnFields(path) => (path, true),
                Part::Whole(path) => (path, false),
            };
            if renewed.iter().any(|one| !one.is_own_fields && below(path, &one.path).is_some()) {
                // A second reason for the same part.
                continue;
            }
            let parked = (on_mismatch == OnMismatch::Park).then(|| parked_path(&live, path, position));
            let made = if is_own_fields {
                let is_new = fresh.insert(path.clone());
                is_new
                    .then(|| Ok(parked.as_ref().map(|to| copy_own(&mut live, path, to)).unwrap_or_default()))
            } else {
                Some(renew(&mut live, path, parked.as_ref()))
            };
            match made {
                None => continue,
                Some(Ok(made)) => changes.extend(made),
                Some(Err(error)) => return Err(unrestorable(vec![why, chain(&error)])),
            }
            renewed.push(Renewed { path: path.clone(), is_own_fields, parked, why });
        }
        if renewed.len() == before {
            return Err(unrestorable(all));
        }
    }
}

/// Returns the path at which the record of an actor is parked: its own, with the position at which it was parked.
fn parked_path(live: &Live, path: &ActorPath, position: u64) -> ActorPath {
    let is_free = |to: &ActorPath| !live.actors.keys().any(|other| below(other, to).is_some());
    let mut names = (0_u64..).map(|number| match number {
        0 => format!("{}~{position}", path.as_str()),
        number => format!("{}~{position}-{number}", path.as_str()),
    });
    let found = names.find_map(|name| Some(ActorPath::from(name.as_str())).filter(is_free));
    found.unwrap_or_else(|| path.clone())
}

/// Copies the own fields and facts of a Flow to another path, and returns the changes.
fn copy_own(live: &mut Live, path: &ActorPath, to: &ActorPath) -> Vec<Change> {
    let Some(mut actor) = live.actors.get(path).cloned() else { return Vec::new() };
    actor.rows.retain(|table, _| *table == Table::Flow);
    let mut changes: Vec<_> =
        actor.state.iter().map(|state| Change::State { path: to.clone(), state: state.clone() }).collect();
    for rows in actor.rows.values_mut() {
        rows.retain(|(key, _)| key == FACTS && key != CHILDREN);
        changes.extend(rows.iter().map(|(key, value)| Change::Put {
            path: to.clone(),
            table: Table::Flow,
            key: key.to_vec(),
            value: value.to_vec(),
        }));
    }
    live.actors.insert(to.clone(), actor);
    changes
}

/// Removes an actor and all below it from the live data, and returns the changes. With `parked`, they continue there.
fn renew(live: &mut Live, path: &ActorPath, parked: Option<&ActorPath>) -> Result<Vec<Change>, RowError> {
    let mut changes = forget_children(live, path)?;
    changes.extend(forget_field(live, path)?);
    for change in &changes {
        let Change::Put { path, key, value, .. } = change else { continue };
        let rows = live.actors.get_mut(path).and_then(|actor| actor.rows.get_mut(&Table::Flow));
        let rows = rows.into_iter().flatten().filter(|(known, _)| known == key);
        rows.for_each(|(_, old)| *old = Bytes::copy_from_slice(value));
    }
    if let Some(to) = parked {
        let moved = move_actors(live, &[Move { from: path.clone(), to: to.clone() }])?;
        changes.extend(moved.changes);
        return Ok(changes);
    }
    let gone: Vec<_> = live.actors.keys().filter(|other| below(other, path).is_some()).cloned().collect();
    for path in gone {
        live.actors.remove(&path);
        changes.push(Change::Left { path });
    }
    Ok(changes)
}

/// Returns the change by which a Flow has no record of its field at this path, if it is one of a list or a map.
fn forget_field(live: &Live, field: &ActorPath) -> Result<Option<Change>, RowError> {
    let (above, name) = field.as_str().rsplit_once('.').unwrap_or(("", field.as_str()));
    let above = ActorPath::from(above);
    let rows = live.actors.get(&above).and_then(|actor| actor.rows.get(&Table::Flow));
    let Some((key, value)) = rows.into_iter().flatten().find(|(key, _)| key == CHILDREN) else {
        return Ok(None);
    };
    let mut row: ChildrenRow = decoded(Table::Flow, value)?;
    row.shapes.rename(&|name| below(name, field).is_none().then(|| name.clone()));
    if !row.shapes.remove(name) {
        return Ok(None);
    }
    Ok(Some(Change::Put { path: above, table: Table::Flow, key: key.to_vec(), value: encoded(&row) }))
}
