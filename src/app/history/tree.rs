//! The state tree at a position, and what differs between two.

use std::collections::BTreeMap;

use crate::app::driver::{CHILDREN, ChildrenRow};
#[cfg(feature = "http")]
use crate::app::driver::{FACTS, FlowRow};
use crate::flow::{Fact, RowError, Shape, decoded};
use crate::id::ActorPath;
use crate::journal::{Live, LiveActor, Table};
use crate::state::Value;
#[cfg(feature = "cli")]
use crate::work::Stage;
use crate::work::Status;

/// Returns the state tree of live data: the root Flow's own fields, with the states of its children at their names.
///
/// # Errors
/// [`RowError`] if the children of a Flow cannot be read.
pub(crate) fn state_tree(live: &Live) -> Result<Value, RowError> {
    Tree { live, above: Vec::new() }.actor(&ActorPath::root())
}

struct Tree<'l> {
    live: &'l Live,
    /// Actors whose states are being built: a damaged record may name an actor as a child of itself.
    above: Vec<ActorPath>,
}

impl Tree<'_> {
    fn actor(&mut self, path: &ActorPath) -> Result<Value, RowError> {
        let Some(actor) = self.live.actors.get(path) else { return Ok(Value::Nil) };
        let state = actor.state.clone().unwrap_or_default();
        let Some(row) = children_of(actor)? else { return Ok(state) };
        if self.above.contains(path) {
            return Ok(Value::Nil);
        }
        self.above.push(path.clone());
        let mut fields = if let Value::Map(fields) = state { fields } else { Vec::new() };
        for (name, shape) in row.shapes.fields() {
            fields.push((Value::Str(name.to_owned().into()), self.shape(shape)?));
        }
        self.above.pop();
        Ok(Value::Map(fields))
    }

    fn shape(&mut self, shape: &Shape) -> Result<Value, RowError> {
        Ok(match shape {
            Shape::Child(path) => self.actor(path)?,
            Shape::Absent => Value::Nil,
            Shape::Present(content) => self.shape(content)?,
            Shape::List(items) => {
                Value::Seq(items.iter().map(|item| self.shape(item)).collect::<Result<_, _>>()?)
            }
            Shape::Map(entries) => {
                let entry =
                    |(key, shape): &(String, Shape)| Ok((Value::Str(key.clone().into()), self.shape(shape)?));
                Value::Map(entries.iter().map(entry).collect::<Result<_, _>>()?)
            }
        })
    }
}

fn children_of(actor: &LiveActor) -> Result<Option<ChildrenRow>, RowError> {
    let rows = actor.rows.get(&Table::Flow);
    let row = rows.and_then(|rows| rows.iter().find(|(key, _)| key == CHILDREN));
    row.map(|(_, value)| decoded(Table::Flow, value)).transpose()
}

/// Returns the stage of each Work.
#[cfg(feature = "cli")]
pub(crate) fn stages(live: &Live) -> BTreeMap<ActorPath, Stage> {
    statuses(live).into_iter().map(|(path, status)| (path, status.stage)).collect()
}

/// Returns the last status of each Work.
pub(crate) fn statuses(live: &Live) -> BTreeMap<ActorPath, Status> {
    let of_work = |(path, actor): (&ActorPath, &LiveActor)| {
        actor.rows.get(&Table::Work)?;
        let rows = actor.rows.get(&Table::Status).map(Vec::as_slice).unwrap_or_default();
        let status = |(key, value): &(Vec<u8>, Vec<u8>)| -> Option<Status> {
            match Fact::from_row(Table::Status, key, Some(value)) {
                Ok(Some(Fact::Recorded(status))) => Some(status),
                _ => None,
            }
        };
        let last = rows.iter().filter_map(status).max_by_key(|status| status.seq);
        Some((path.clone(), last.unwrap_or_default()))
    };
    live.actors.iter().filter_map(of_work).collect()
}

/// Returns the status of each Flow.
#[cfg(feature = "http")]
pub(crate) fn flow_statuses(live: &Live) -> BTreeMap<ActorPath, Status> {
    let of_flow = |(path, actor): (&ActorPath, &LiveActor)| {
        let (_, value) = actor.rows.get(&Table::Flow)?.iter().find(|(key, _)| key == FACTS)?;
        let row: FlowRow = decoded(Table::Flow, value).ok()?;
        Some((path.clone(), row.status))
    };
    live.actors.iter().filter_map(of_flow).collect()
}

/// A part of the state that differs between two moments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    /// The dotted path of the part.
    pub(crate) path: String,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

/// Returns the parts of a state that differ, each as small as possible, in the order of `before`.
pub(crate) fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let mut only = |path, before: Option<&Value>, after: Option<&Value>| {
        found.push(Difference { path, before: before.cloned(), after: after.cloned() });
    };
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Map(before), Value::Map(after)) => {
            let find =
                |entries: &[(Value, Value)], key: &Value| entries.iter().position(|(other, _)| other == key);
            for (key, value) in before {
                let name = below(&key.key_text());
                match find(after, key) {
                    Some(at) => compare(&name, value, &after[at].1, found),
                    None => found.push(Difference { path: name, before: Some(value.clone()), after: None }),
                }
            }
            for (key, value) in after.iter().filter(|(key, _)| find(before, key).is_none()) {
                let (path, after) = (below(&key.key_text()), Some(value.clone()));
                found.push(Difference { path, before: None, after });
            }
        }
        (Value::Seq(before), Value::Seq(after)) => {
            for at in 0..before.len().max(after.len()) {
                let name = below(&at.to_string());
                match (before.get(at), after.get(at)) {
                    (Some(before), Some(after)) => compare(&name, before, after, found),
                    (before, after) => {
                        let (before, after) = (before.cloned(), after.cloned());
                        found.push(Difference { path: name, before, after });
                    }
                }
            }
        }
        (before, after) => only(path.to_owned(), Some(before), Some(after)),
    }
}
