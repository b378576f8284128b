//! The children of a Flow: the traits behind the derive, and the driver's walk over children.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use serde::Serializer;

use super::check::{Check, FlowProblem};
use super::context::FlowContext;
use super::error::FlowError;
use super::flow_link::{FlowLink, FlowOptions};
use super::reaction::Reaction;
use super::record::{Place, SharedRecord};
use super::recorded::RecordedTree;
use super::restore_error::{RestoreError, Restored};
use super::restoring::{Preparation, Prepared, Rebuild, Restoring};
use super::service_report::ServiceMonitor;
use super::settings::WorkSettings;
use super::shape::{Shape, Shapes};
use super::supervisor::Strategy;
use crate::fence;
use crate::id::ActorPath;
use crate::state::{Patch, StateError, Tracker, Value};
use crate::work::{Placement, WorkType};

/// The Works and Flows that a Flow owns. Always derived:
///
/// ```
/// # use flowright::prelude::*;
/// # use std::collections::BTreeMap;
/// # #[derive(Default, Serialize, Deserialize)]
/// # struct Train;
/// # impl Work for Train {
/// #     type Input = ();
/// #     async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> { Ok(()) }
/// # }
/// #[derive(Default, Serialize, Children)]
/// struct Team {
///     train: WorkRef<Train>,                  // the child `train`
///     more: BTreeMap<String, WorkRef<Train>>, // the children `more.<key>`
///     rounds: u32,                            // the Flow's own state
/// }
/// # impl Flow for Team {
/// #     fn react(&mut self, _: &mut FlowContext) -> Reaction { Ok(()) }
/// # }
/// ```
///
/// Children are the fields whose type is [`WorkRef`](crate::WorkRef), [`FlowRef`](crate::FlowRef),
/// [`ServiceRef`](crate::ServiceRef), or an `Option`, `Vec`, `HashMap` or `BTreeMap` of them, in the order of declaration.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what its children are",
    label = "not a Flow yet",
    note = "add `#[derive(Children)]` to `{Self}` (and `Serialize`, so that its state can be seen)"
)]
pub trait Children {
    #[doc(hidden)]
    fn kinds(kinds: &mut Kinds)
    where
        Self: Sized;

    #[doc(hidden)]
    fn walk(&mut self, walk: &mut Walk<'_>);

    #[doc(hidden)]
    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>>;

    /// Serialises the Flow's own fields.
    #[doc(hidden)]
    fn save<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        Self: Sized;

    /// Adds the shapes of the fields that hold children.
    #[doc(hidden)]
    fn shapes(&self, shapes: &mut Shapes);

    /// Reads the record of the Flow, without changing anything.
    #[doc(hidden)]
    fn prepare(&self, flow: &mut Preparation<'_, '_, Self>)
    where
        Self: Sized + 'static;

    /// Makes the Flow from its record.
    #[doc(hidden)]
    fn rebuild(flow: &mut Rebuild<'_, '_>) -> Option<Self>
    where
        Self: Sized + 'static;

    /// Reports the fields of the type that cannot be recorded.
    #[doc(hidden)]
    fn check(check: &mut Check)
    where
        Self: Sized;
}

/// A field that can contain children.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold children of a Flow",
    label = "no children can be here",
    note = "children are `WorkRef`, `FlowRef`, `ServiceRef`, and `Option`, `Vec`, `HashMap`, `BTreeMap` of them, maps with `String` or integer keys and hashers that \
            implement `Default`"
)]
#[doc(hidden)]
pub trait ChildGroup {
    fn kinds(kinds: &mut Kinds)
    where
        Self: Sized;
    fn walk(&mut self, walk: &mut Walk<'_>);
    fn holds(&self, route: Route<'_>) -> bool;
    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>>;

    /// Returns what is in the field, or `None` for a child that has not joined the App.
    fn shape(&self) -> Option<Shape>;

    /// Prepares to have in the field what was recorded. A child is kept where one of the same name is; which one that is,
    /// is decided by name in a collection and by position elsewhere.
    fn prepare(&self, shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Prepared<Self>>
    where
        Self: Sized + 'static;

    /// Makes what was recorded.
    fn rebuild(shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Self>
    where
        Self: Sized + 'static;

    /// Reports the fields of Flows that can be in the field and that cannot be recorded.
    fn check(check: &mut Check)
    where
        Self: Sized;
}

/// The types of Works that can exist below a Flow, even if there is none of a type at the moment.
#[doc(hidden)]
#[derive(Default)]
pub struct Kinds {
    works: BTreeMap<&'static str, &'static WorkType>,
    /// Visited Flow types, because a Flow can contain Flows of its own type.
    flows: HashSet<TypeId>,
}

impl Kinds {
    /// Adds the types in a field of type `G`.
    pub fn field<G: ChildGroup>(&mut self) {
        G::kinds(self);
    }

    pub(crate) fn below<F: Children + 'static>(&mut self) {
        if self.flows.insert(TypeId::of::<F>()) {
            F::kinds(self);
        }
    }

    pub(super) fn add(&mut self, kind: &'static WorkType) {
        self.works.insert(kind.name(), kind);
    }

    /// Returns the types by name.
    pub(crate) fn into_works(self) -> BTreeMap<&'static str, &'static WorkType> {
        self.works
    }
}

/// A path, and the part of it that has not been resolved yet.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Route<'a> {
    path: &'a str,
    rest: &'a str,
}

impl<'a> Route<'a> {
    pub(crate) fn new(path: &'a str) -> Self {
        Self { path, rest: path }
    }

    /// Returns the next segment, and the route below it.
    pub fn next(self) -> (&'a str, Self) {
        let (segment, rest) = self.rest.split_once('.').unwrap_or((self.rest, ""));
        (segment, Self { rest, ..self })
    }

    /// Returns true if the route names the child at `path`.
    pub(super) fn ends_at(self, path: &str) -> bool {
        self.path == path
    }

    /// Returns true if the route names the child at `path` or one below it.
    pub(super) fn leads_through(self, path: &str) -> bool {
        self.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Returns the route with only the part below `path` unresolved.
    pub(super) fn below(self, path: &str) -> Self {
        let rest = self.path.strip_prefix(path).unwrap_or_default();
        Self { rest: rest.strip_prefix('.').unwrap_or(rest), ..self }
    }
}

/// A child that was found.
#[doc(hidden)]
pub struct Found<'a>(pub(crate) Node<'a>);

pub(crate) enum Node<'a> {
    Work(&'a mut dyn AnyWork),
    Flow(&'a mut dyn AnyFlow),
}

/// A `WorkRef` of any type, for the driver.
pub(crate) trait AnyWork {
    fn record(&self) -> Option<&SharedRecord>;
    fn attach(&mut self, place: Place, placement: Option<Placement>) -> Result<SharedRecord, FlowError>;
    /// Shows the newest state from now on.
    fn refresh(&mut self);
    fn settings(&self) -> WorkSettings;
    /// Sets the name that the Work would be given if nothing was restored.
    fn set_program_name(&mut self, name: ActorPath);
    /// Returns the recorded name of a Work that was restored and has not joined yet.
    fn restored_name(&self) -> Option<&ActorPath>;
    #[cfg(all(feature = "cli", feature = "journal"))]
    fn kind(&self) -> &'static WorkType;
}

/// A `FlowRef` of any type, for the driver.
pub(crate) trait AnyFlow {
    fn link(&self) -> Option<&Arc<FlowLink>>;
    fn attach(&mut self, link: Arc<FlowLink>) -> FlowOptions;
    fn walk_children(&mut self, walk: &mut Walk<'_>);
    fn find_child(&mut self, route: Route<'_>) -> Option<Found<'_>>;
    fn react(&mut self, cx: &mut FlowContext) -> Reaction;
    fn strategy(&self) -> Strategy;
    /// Returns the monitor of the Flow of a service.
    fn monitor(&self) -> Option<ServiceMonitor>;
    fn state(&self) -> Result<Value, StateError>;
    /// Returns true if the Flow reacts to what is not recorded.
    fn sees_unrecorded(&self) -> bool;
    /// Returns the name of the Flow's Rust type.
    fn type_name(&self) -> &'static str;
    fn options(&self) -> &FlowOptions;
    /// Sets the name that the Flow would be given if nothing was restored.
    fn set_program_name(&mut self, name: ActorPath);
    /// Returns the recorded name of a Flow that was restored and has not joined yet.
    fn restored_name(&self) -> Option<&ActorPath>;
    /// Compares the Flow's own fields with those in `saved`, and returns how they differ. Children are not serialised.
    fn save(&self, saved: &mut Tracker) -> Result<Option<Patch>, StateError>;
    /// Returns what is in the fields that hold children. Walks collections of the user's, which may panic.
    fn shapes(&self) -> Shapes;
    /// Returns the fields of this type of Flow, and of those that can be below it, that cannot be recorded.
    fn problems(&self) -> Vec<FlowProblem>;
    /// Restores the root Flow, as its constructor made it, and all children.
    fn restore(&mut self, recorded: &RecordedTree) -> Result<Restored, Vec<RestoreError>>;
    /// Restores the root Flow, and all children, as the constructor has made them. They may have been restored otherwise
    /// since, and have joined an App. Fields that serde skips keep what they have.
    #[cfg(all(feature = "cli", feature = "journal"))]
    fn restore_constructed(&mut self, constructed: &RecordedTree) -> Result<(), Vec<RestoreError>>;
}

/// Visitor of the children of a Flow, in order.
pub(crate) trait Visitor {
    /// Called before a field that can contain children.
    fn field(&mut self, path: &str);

    fn child(&mut self, position: Position<'_>, node: Node<'_>);
}

/// Position of a child in the tree.
#[derive(Clone, Copy)]
pub(crate) struct Position<'a> {
    pub(crate) path: &'a str,
    /// True for an element of a list: it keeps the name it was given first, even if its index changes.
    pub(crate) listed: bool,
    /// Path of a map and its key on the way to the child, if the key cannot be part of a path.
    pub(crate) bad_key: Option<(&'a str, &'a str)>,
}

impl Position<'_> {
    pub(crate) fn root() -> Self {
        Position { path: "", listed: false, bad_key: None }
    }
}

/// A walk over the children of one Flow.
#[doc(hidden)]
pub struct Walk<'v> {
    path: String,
    listed: bool,
    bad_key: Option<(String, String)>,
    visitor: &'v mut dyn Visitor,
}

impl<'v> Walk<'v> {
    pub(crate) fn new(path: &str, visitor: &'v mut dyn Visitor) -> Self {
        Self { path: path.to_owned(), listed: false, bad_key: None, visitor }
    }

    /// Visits the children in a field.
    pub fn field(&mut self, name: &'static str, group: &mut dyn ChildGroup) {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        self.visitor.field(&path);
        self.segment(&name, false, group);
    }

    fn segment(&mut self, name: &dyn std::fmt::Display, listed: bool, group: &mut dyn ChildGroup) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        // Writing to a string cannot fail.
        let _ = write!(self.path, "{name}");
        let outer = std::mem::replace(&mut self.listed, listed);
        group.walk(self);
        self.listed = outer;
        self.path.truncate(length);
    }

    pub(super) fn keyed(&mut self, key: &str, group: &mut dyn ChildGroup) {
        let bad = key.is_empty() || key.contains('.');
        if bad {
            self.bad_key = Some((self.path.clone(), key.to_owned()));
        }
        self.segment(&key, false, group);
        if bad {
            self.bad_key = None;
        }
    }

    pub(super) fn child(&mut self, node: Node<'_>) {
        let bad_key = self.bad_key.as_ref().map(|(group, key)| (group.as_str(), key.as_str()));
        let position = Position { path: &self.path, listed: self.listed, bad_key };
        self.visitor.child(position, node);
    }
}

impl<G: ChildGroup> ChildGroup for Option<G> {
    fn kinds(kinds: &mut Kinds) {
        G::kinds(kinds);
    }

    fn walk(&mut self, walk: &mut Walk<'_>) {
        if let Some(group) = self {
            group.walk(walk);
        }
    }

    fn holds(&self, route: Route<'_>) -> bool {
        self.as_ref().is_some_and(|group| group.holds(route))
    }

    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>> {
        self.as_mut()?.find(route)
    }

    fn shape(&self) -> Option<Shape> {
        let content = self.as_ref().and_then(G::shape);
        Some(content.map_or(Shape::Absent, |content| Shape::Present(Box::new(content))))
    }

    fn prepare(&self, shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Prepared<Self>>
    where
        Self: 'static,
    {
        let content = match (shape.content(), self) {
            (None, _) => None,
            (Some(shape), Some(group)) => {
                let change = group.prepare(shape, restoring)?;
                return Some(Box::new(move |field| {
                    if let Some(group) = field {
                        change(group);
                    }
                }));
            }
            (Some(shape), None) => Some(G::rebuild(shape, restoring)?),
        };
        Some(Box::new(move |field| discard(std::mem::replace(field, content))))
    }

    fn rebuild(shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Self>
    where
        Self: 'static,
    {
        match shape.content() {
            None => Some(None),
            Some(shape) => G::rebuild(shape, restoring).map(Some),
        }
    }

    fn check(check: &mut Check) {
        check.collection(G::check);
    }
}

/// Drops children that were not recorded.
fn discard<T>(children: T) {
    if let Err(panic) = fence::discard(children) {
        log::error!("a collection of children panicked while it was dropped: {panic}");
    }
}

/// An element of a collection that is restored.
enum Element<P, G> {
    /// One that the constructor made, at this place, with the change that restores it.
    Kept(P, Prepared<G>),
    Rebuilt(G),
}

/// Finds the elements of a collection that the constructor made by the names of the children in them.
struct Places<P> {
    by_name: HashMap<ActorPath, P>,
    taken: HashSet<P>,
}

impl<P: Clone + Eq + Hash> Places<P> {
    fn of<'g, G: ChildGroup + 'g>(elements: impl Iterator<Item = (P, &'g G)>) -> Self {
        let mut by_name = HashMap::new();
        for (place, group) in elements {
            if let Some(shape) = group.shape() {
                shape.each_child(&mut |name| drop(by_name.insert(name.clone(), place.clone())));
            }
        }
        Self { by_name, taken: HashSet::new() }
    }

    /// Returns the place of an element that has one of the recorded children. Each is returned once.
    fn take(&mut self, shape: &Shape) -> Option<P> {
        let mut found = None;
        shape.each_child(&mut |name| {
            if found.is_none() {
                found = self.by_name.get(name).filter(|place| !self.taken.contains(*place)).cloned();
            }
        });
        self.taken.extend(found.clone());
        found
    }
}

impl<G: ChildGroup> ChildGroup for Vec<G> {
    fn kinds(kinds: &mut Kinds) {
        G::kinds(kinds);
    }

    fn walk(&mut self, walk: &mut Walk<'_>) {
        for (index, group) in self.iter_mut().enumerate() {
            walk.segment(&index, true, group);
        }
    }

    fn holds(&self, route: Route<'_>) -> bool {
        self.iter().any(|group| group.holds(route))
    }

    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>> {
        let (segment, rest) = route.next();
        // Names outlive positions: an element whose index has changed is searched for.
        let index = segment
            .parse()
            .ok()
            .filter(|index: &usize| self.get(*index).is_some_and(|group| group.holds(rest)))
            .or_else(|| self.iter().position(|group| group.holds(rest)))?;
        self[index].find(rest)
    }

    fn shape(&self) -> Option<Shape> {
        Some(Shape::List(self.iter().filter_map(G::shape).collect()))
    }

    fn prepare(&self, shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Prepared<Self>>
    where
        Self: 'static,
    {
        let mut places = Places::of(self.iter().enumerate());
        let elements = list_of(shape, restoring)?.iter().map(|shape| match places.take(shape) {
            Some(index) => Some(Element::Kept(index, self[index].prepare(shape, restoring)?)),
            None => G::rebuild(shape, restoring).map(Element::Rebuilt),
        });
        // All elements are read, so that each that cannot be restored is reported.
        let elements: Vec<_> = elements.collect();
        let elements = elements.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Box::new(move |list| {
            let mut made: Vec<_> = std::mem::take(list).into_iter().map(Some).collect();
            list.extend(elements.into_iter().filter_map(|element| match element {
                Element::Kept(index, change) => {
                    let mut group = made.get_mut(index)?.take()?;
                    change(&mut group);
                    Some(group)
                }
                Element::Rebuilt(group) => Some(group),
            }));
            discard(made);
        }))
    }

    fn rebuild(shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Self>
    where
        Self: 'static,
    {
        let shapes = list_of(shape, restoring)?;
        let elements: Vec<_> = shapes.iter().map(|shape| G::rebuild(shape, restoring)).collect();
        elements.into_iter().collect()
    }

    fn check(check: &mut Check) {
        check.collection(G::check);
    }
}

/// Returns the recorded elements of a list. Reports a field that was no list.
fn list_of<'s>(shape: &'s Shape, restoring: &mut Restoring<'_>) -> Option<&'s [Shape]> {
    match shape.unwrapped() {
        Shape::List(elements) => Some(elements),
        Shape::Absent => Some(&[]),
        other => {
            restoring.wrong_shape(other, "a list");
            None
        }
    }
}

/// Returns the recorded entries of a map. Reports a field that was no map, and each key that is none of its type.
fn entries_of<'s, K: ChildKey>(
    shape: &'s Shape,
    restoring: &mut Restoring<'_>,
) -> Option<Vec<(K, &'s Shape)>> {
    let entries = match shape.unwrapped() {
        Shape::Map(entries) => &entries[..],
        Shape::Absent => &[],
        other => {
            restoring.wrong_shape(other, "a map");
            return None;
        }
    };
    let keyed = entries.iter().map(|(text, shape)| {
        let key = K::parse(text);
        if key.is_none() {
            restoring.wrong_key(text);
        }
        Some((key?, shape))
    });
    let keyed: Vec<_> = keyed.collect();
    keyed.into_iter().collect()
}

/// A key that can be part of a path.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a map of children",
    label = "no name can be made of this key",
    note = "the key is part of each child's name: maps of `WorkRef` and `FlowRef` have `String` or integer keys"
)]
#[doc(hidden)]
pub trait ChildKey: Sized {
    fn with_text<R>(&self, use_text: impl FnOnce(&str) -> R) -> R;
    fn parse(text: &str) -> Option<Self>;
}

impl ChildKey for String {
    fn with_text<R>(&self, use_text: impl FnOnce(&str) -> R) -> R {
        use_text(self)
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

macro_rules! integer_keys {
    ($($integer:ty)*) => {$(
        impl ChildKey for $integer {
            fn with_text<R>(&self, use_text: impl FnOnce(&str) -> R) -> R {
                use_text(&self.to_string())
            }

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

integer_keys!(u8 u16 u32 u64 usize i8 i16 i32 i64 isize);

// One implementation for both maps, which differ only in the bounds of their keys.
macro_rules! map_group {
    ([$($generics:tt)*] $map:ty, $take:expr, $order:expr) => {
        impl<$($generics)*> ChildGroup for $map {
            fn kinds(kinds: &mut Kinds) {
                G::kinds(kinds);
            }

            fn walk(&mut self, walk: &mut Walk<'_>) {
                for (key, group) in self.iter_mut() {
                    key.with_text(|key| walk.keyed(key, group));
                }
            }

            fn holds(&self, route: Route<'_>) -> bool {
                self.values().any(|group| group.holds(route))
            }

            fn find(&mut self, route: Route<'_>) -> Option<Found<'_>> {
                let (segment, rest) = route.next();
                self.get_mut(&K::parse(segment)?)?.find(rest)
            }

            fn shape(&self) -> Option<Shape> {
                let entry = |(key, group): (&K, &G)| {
                    Some((key.with_text(str::to_owned), group.shape()?))
                };
                let mut entries: Vec<_> = self.iter().filter_map(entry).collect();
                let order: fn(&mut [(String, Shape)]) = $order;
                order(&mut entries);
                Some(Shape::Map(entries))
            }

            fn prepare(&self, shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Prepared<Self>>
            where
                Self: 'static,
            {
                let text = |key: &K| key.with_text(str::to_owned);
                let mut places = Places::of(self.iter().map(|(key, group)| (text(key), group)));
                let groups: HashMap<_, _> = self.iter().map(|(key, group)| (text(key), group)).collect();
                let entries = entries_of::<K>(shape, restoring)?.into_iter().map(|(key, shape)| {
                    let element = match places.take(shape).and_then(|key| groups.get_key_value(&key)) {
                        Some((old_key, group)) => {
                            Element::Kept(old_key.clone(), group.prepare(shape, restoring)?)
                        }
                        None => Element::Rebuilt(G::rebuild(shape, restoring)?),
                    };
                    Some((key, element))
                });
                let entries: Vec<_> = entries.collect();
                let entries = entries.into_iter().collect::<Option<Vec<_>>>()?;
                Some(Box::new(move |map| {
                    let take: fn(&mut Self) -> Vec<(K, G)> = $take;
                    let made = take(map).into_iter().map(|(key, group)| (text(&key), group));
                    let mut made: HashMap<_, _> = made.collect();
                    map.extend(entries.into_iter().filter_map(|(key, element)| match element {
                        Element::Kept(old_key, change) => {
                            let mut group = made.remove(&old_key)?;
                            change(&mut group);
                            Some((key, group))
                        }
                        Element::Rebuilt(group) => Some((key, group)),
                    }));
                    discard(made);
                }))
            }

            fn rebuild(shape: &Shape, restoring: &mut Restoring<'_>) -> Option<Self>
            where
                Self: 'static,
            {
                let entries = entries_of::<K>(shape, restoring)?.into_iter();
                let entries: Vec<_> =
                    entries.map(|(key, shape)| Some((key, G::rebuild(shape, restoring)?))).collect();
                entries.into_iter().collect()
            }

            fn check(check: &mut Check) {
                check.collection(G::check);
            }
        }
    };
}

map_group!(
    [K: ChildKey + Eq + Hash, G: ChildGroup, S: BuildHasher + Default] HashMap<K, G, S>,
    |map| map.drain().collect(),
    // The order of a `HashMap` has no meaning, and would make equal shapes differ.
    |entries| entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b))
);
map_group!(
    [K: ChildKey + Ord, G: ChildGroup] BTreeMap<K, G>,
    |map| std::mem::take(map).into_iter().collect(),
    |_| ()
);
