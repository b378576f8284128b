//! The difference between two moments of an App.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::tree::{flow_statuses, state_of, statuses};
use crate::flow::RowError;
use crate::id::ActorPath;
use crate::journal::{Live, Moment};
use crate::state::Value;
use crate::work::Stage;

/// A part of an App at a moment, as far as moments are compared: what is at the path of a Flow, a Work or a field, and below
/// it; everything if the path is empty.
#[derive(Debug)]
pub(crate) struct Side {
    moment: Moment,
    path: String,
    /// The last Work or Flow on the way to the path. An item of a list is known by its name, whatever its place is.
    actor: ActorPath,
    state: Option<Value>,
    stages: BTreeMap<ActorPath, Stage>,
}

impl Side {
    /// Reads the live data of a moment.
    ///
    /// # Errors
    /// [`RowError`] if the children of a Flow cannot be read.
    pub(crate) fn new(moment: Moment, live: &Live, path: &str) -> Result<Self, RowError> {
        let is_part = |other: &ActorPath| {
            let rest = other.as_str().strip_prefix(path);
            path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let statuses = statuses(live).into_iter().chain(flow_statuses(live));
        let statuses = statuses.filter(|(path, _)| is_part(path));
        let stages = statuses.map(|(path, status)| (path, status.stage)).collect();
        let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
        let ways = ends.map(|end| (ActorPath::from(&path[..end]), path.get(end + 1..).unwrap_or_default()));
        let last = ways.rev().find(|(actor, _)| live.actors.contains_key(actor));
        let (actor, rest) = last.unwrap_or((ActorPath::root(), path));
        let state = state_of(live, &actor)?.get(rest).cloned();
        Ok(Self { moment, path: path.to_owned(), actor, state, stages })
    }
}

/// The difference between two moments of an App.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Diff {
    pub(crate) from: Moment,
    pub(crate) to: Moment,
    /// The Works and Flows whose stages differ, then the parts of the state that do.
    pub(crate) items: Vec<Difference>,
}

/// Something that differs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Difference {
    /// The stage of a Work or Flow, which may have joined or left.
    Stage { path: ActorPath, before: Option<Stage>, after: Option<Stage> },
    /// A part of the state.
    State(Part),
}

/// A part of a state that differs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// The dotted path of the part.
    pub(crate) path: String,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

impl Difference {
    /// Returns the difference as JSON: `path`, `before` and `after`, of which one is absent where there was nothing.
    pub(crate) fn to_json(&self) -> Json {
        let (path, before, after) = match self {
            Self::Stage { path, before, after } => {
                let json = |stage: &Option<Stage>| stage.as_ref().map(|stage| json!(stage));
                (path.as_str(), json(before), json(after))
            }
            Self::State(Part { path, before, after }) => {
                let json = |value: &Option<Value>| value.as_ref().map(Value::to_json);
                (path.as_str(), json(before), json(after))
            }
        };
        let mut json = json!({ "path": path });
        for (name, value) in [("before", before), ("after", after)] {
            if let Some(value) = value {
                json[name] = value;
            }
        }
        json
    }

    /// Returns the approximate size of the values in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Stage { .. } => 0,
            Self::State(Part { before, after, .. }) => {
                [before, after].into_iter().flatten().map(crate::wire::length).sum()
            }
        }
    }
}

impl Diff {
    /// Compares the same part of an App at two moments. `None` if there is nothing of it at either moment.
    pub(crate) fn between(from: &Side, to: &Side) -> Option<Self> {
        let paths: BTreeSet<_> = from.stages.keys().chain(to.stages.keys()).collect();
        let stages = paths.into_iter().map(|path| {
            let stage = |side: &Side| side.stages.get(path).copied();
            (path, stage(from), stage(to))
        });
        let stages = stages.filter(|(_, before, after)| before != after);
        let mut items: Vec<_> = stages
            .map(|(path, before, after)| Difference::Stage { path: path.clone(), before, after })
            .collect();
        // Where one moment does not have the Work, there is nothing of it, whatever else its path may lead to.
        let (from_way, to_way) = (from.actor.as_str().len(), to.actor.as_str().len());
        let before = from.state.as_ref().filter(|_| from_way >= to_way);
        let after = to.state.as_ref().filter(|_| to_way >= from_way);
        let mut parts = Vec::new();
        match (before, after) {
            (None, None) => return None,
            (Some(before), Some(after)) => compare(&from.path, before, after, &mut parts),
            (before, after) => parts.push(part(from.path.clone(), before, after)),
        }
        items.extend(parts.into_iter().map(Difference::State));
        Some(Self { from: from.moment, to: to.moment, items })
    }
}

/// Returns the parts of a state that differ, each as small as possible, in the order of `before`.
#[cfg(feature = "cli")]
pub(crate) fn differences(before: &Value, after: &Value) -> Vec<Part> {
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found
}

fn part(path: String, before: Option<&Value>, after: Option<&Value>) -> Part {
    Part { path, before: before.cloned(), after: after.cloned() }
}

/// Finds the parts of a state that differ, each as small as possible, in the order of `before`.
fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<Part>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Map(before), Value::Map(after)) => {
            let (old, new) = (index(before), index(after));
            for (key, value) in before {
                let name = below(&key.key_text());
                match find(after, &new, key) {
                    Some(other) => compare(&name, value, other, found),
                    None => found.push(part(name, Some(value), None)),
                }
            }
            for (key, value) in after.iter().filter(|(key, _)| find(before, &old, key).is_none()) {
                found.push(part(below(&key.key_text()), None, Some(value)));
            }
        }
        (Value::Seq(before), Value::Seq(after)) => {
            for at in 0..before.len().max(after.len()) {
                let name = below(&at.to_string());
                match (before.get(at), after.get(at)) {
                    (Some(before), Some(after)) => compare(&name, before, after, found),
                    (before, after) => found.push(part(name, before, after)),
                }
            }
        }
        (before, after) => found.push(part(path.to_owned(), Some(before), Some(after))),
    }
}

/// The entries of a map by the texts of their keys. Keys with the same text are rare.
fn index(entries: &[(Value, Value)]) -> BTreeMap<String, Vec<usize>> {
    let mut index = BTreeMap::<_, Vec<_>>::new();
    for (at, (key, _)) in entries.iter().enumerate() {
        index.entry(key.key_text().into_owned()).or_default().push(at);
    }
    index
}

fn find<'e>(
    entries: &'e [(Value, Value)],
    index: &BTreeMap<String, Vec<usize>>,
    key: &Value,
) -> Option<&'e Value> {
    let places = index.get(key.key_text().as_ref())?;
    places.iter().map(|at| &entries[*at]).find(|(other, _)| other == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::app::driver::{CHILDREN, ChildrenRow};
    use crate::flow::{FlowOptions, Shape, Shapes, encoded};
    use crate::journal::{Change, Table};

    fn moment(position: u64) -> Moment {
        Moment { position, at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH }
    }

    /// An App with a list of Works of these names, which have these states.
    fn app(workers: &[(&str, u64)]) -> Live {
        let mut live = Live::default();
        let path = |name: &str| ActorPath::from(format!("workers.{name}").as_str());
        for (name, number) in workers {
            let state = Value::of(&BTreeMap::from([("n", number)])).unwrap();
            live.apply(&Change::State { path: path(name), state }).unwrap();
        }
        let items = workers.iter().map(|(name, _)| Shape::Child(path(name))).collect();
        let mut shapes = Shapes::default();
        shapes.add("workers", Some(Shape::List(items)));
        let row = ChildrenRow { shapes, lists: BTreeMap::new(), options: FlowOptions::default() };
        let (key, value) = (CHILDREN.to_vec(), encoded(&row));
        live.apply(&Change::Put { path: ActorPath::root(), table: Table::Flow, key, value }).unwrap();
        live
    }

    fn diff(before: &Live, after: &Live, path: &str) -> Option<Vec<Part>> {
        let side = |position, live| Side::new(moment(position), live, path).unwrap();
        let diff = Diff::between(&side(1, before), &side(2, after))?;
        let part = |item| if let Difference::State(part) = item { part } else { panic!("{item:?}") };
        Some(diff.items.into_iter().map(part).collect())
    }

    /// An item of a list is compared with itself when others have left the list before it.
    #[test]
    fn list_item_that_has_moved_is_compared_by_its_name() {
        let (before, after) = (app(&[("0", 5), ("1", 7)]), app(&[("1", 8)]));
        let n = |number: u64| Some(Value::of(&number).unwrap());
        let expected = Part { path: "workers.1.n".to_owned(), before: n(7), after: n(8) };
        assert_eq!(diff(&before, &after, "workers.1"), Some(vec![expected.clone()]));
        assert_eq!(diff(&before, &after, "workers.1.n"), Some(vec![expected]));
        let gone = diff(&before, &after, "workers.0").unwrap();
        assert_eq!((gone.len(), &gone[0].after), (1, &None), "{gone:?}");
        let back = diff(&after, &before, "workers.0").unwrap();
        assert_eq!((back.len(), &back[0].before), (1, &None), "{back:?}");
        assert_eq!(diff(&before, &after, "nobody"), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Nil), any::<u8>().prop_map(|n| Value::of(&n).unwrap())];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = prop::sample::select(vec!["a", "b", "c", "d"]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Seq),
                prop::collection::btree_map(key, inner, 0..4).prop_map(|map| {
                    let entry = |(key, value): (&str, Value)| (Value::Str(key.to_owned().into()), value);
                    Value::Map(map.into_iter().map(entry).collect())
                }),
            ]
        })
    }

    proptest! {
        /// Each part is what is at its path at both moments, and differs; nothing else does.
        #[test]
        fn parts_are_what_differs(before in value(), after in value()) {
            let mut found = Vec::new();
            compare("", &before, &after, &mut found);
            prop_assert_eq!(found.is_empty(), before == after);
            let mut paths = BTreeSet::new();
            for part in &found {
                prop_assert_eq!(before.get(&part.path), part.before.as_ref());
                prop_assert_eq!(after.get(&part.path), part.after.as_ref());
                prop_assert_ne!(&part.before, &part.after);
                prop_assert!(paths.insert(part.path.clone()));
            }
            // No part is within another one.
            for path in &paths {
                let below = format!("{path}.");
                prop_assert!(!paths.iter().any(|other| other.starts_with(&below)));
            }
        }
    }
}
