//! The state tree at a position, and the statuses of its actors.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::app::driver::{CHILDREN, ChildrenRow, FACTS, FlowRow};
use crate::flow::{Fact, RowError, Shape, decoded};
use crate::id::ActorPath;
use crate::journal::{Live, LiveActor, Table};
use crate::state::Value;
use crate::work::Status;

/// The tables of the rows that the state tree and the statuses are made of.
pub(crate) const TABLES: &[Table] = &[Table::Flow, Table::Work, Table::Status];

/// Returns the state tree of live data: the root Flow's own fields, with the states of its children at their names.
///
/// # Errors
/// [`RowError`] if the children of a Flow cannot be read.
pub(crate) fn state_tree(live: &Live) -> Result<Value, RowError> {
    state_of(live, &ActorPath::root())
}

/// Returns the state of a Work or Flow, with those of its children; [`Value::Nil`] if there is none.
///
/// # Errors
/// As of [`state_tree`].
pub(crate) fn state_of(live: &Live, path: &ActorPath) -> Result<Value, RowError> {
    Tree { live, above: Vec::new() }.actor(path)
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

/// Returns the last status of each Work.
pub(crate) fn statuses(live: &Live) -> BTreeMap<ActorPath, Status> {
    let of_work = |(path, actor): (&ActorPath, &LiveActor)| {
        actor.rows.get(&Table::Work)?;
        let rows = actor.rows.get(&Table::Status).map(Vec::as_slice).unwrap_or_default();
        let status = |(key, value): &(Bytes, Bytes)| -> Option<Status> {
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
pub(crate) fn flow_statuses(live: &Live) -> BTreeMap<ActorPath, Status> {
    let of_flow = |(path, actor): (&ActorPath, &LiveActor)| {
        let (_, value) = actor.rows.get(&Table::Flow)?.iter().find(|(key, _)| key == FACTS)?;
        let row: FlowRow = decoded(Table::Flow, value).ok()?;
        Some((path.clone(), row.status))
    };
    live.actors.iter().filter_map(of_flow).collect()
}
