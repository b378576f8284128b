//! The children of a Flow: the traits behind the derive, and the driver's walk over children.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::hash::BuildHasher;
use std::sync::Arc;

use super::context::FlowContext;
use super::error::FlowError;
use super::flow_link::{FlowLink, FlowOptions};
use super::own_fields::OwnFields;
use super::reaction::Reaction;
use super::record::{Place, SharedRecord};
use super::supervisor::Strategy;
use crate::state::{StateError, Value};
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
/// Children are the fields whose type is [`WorkRef`](crate::WorkRef), [`FlowRef`](crate::FlowRef), or an `Option`,
/// `Vec`, `HashMap` or `BTreeMap` of them, in the order of declaration.
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

    /// Restores the Flow's own fields.
    #[doc(hidden)]
    fn restore(&mut self, fields: &mut OwnFields<'_>);
}

/// A field that can contain children.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold children of a Flow",
    label = "no children can be here",
    note = "children are `WorkRef`, `FlowRef`, and `Option`, `Vec`, `HashMap`, `BTreeMap` of them, maps with `String` or integer keys"
)]
#[doc(hidden)]
pub trait ChildGroup {
    fn kinds(kinds: &mut Kinds)
    where
        Self: Sized;
    fn walk(&mut self, walk: &mut Walk<'_>);
    fn holds(&self, route: Route<'_>) -> bool;
    fn find(&mut self, route: Route<'_>) -> Option<Found<'_>>;
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
}

/// A `FlowRef` of any type, for the driver.
pub(crate) trait AnyFlow {
    fn link(&self) -> Option<&Arc<FlowLink>>;
    fn attach(&mut self, link: Arc<FlowLink>) -> FlowOptions;
    fn walk_children(&mut self, walk: &mut Walk<'_>);
    fn find_child(&mut self, route: Route<'_>) -> Option<Found<'_>>;
    fn react(&mut self, cx: &mut FlowContext) -> Reaction;
    fn strategy(&self) -> Strategy;
    fn state(&self) -> Result<Value, StateError>;
    /// Returns the name of the Flow's Rust type.
    fn type_name(&self) -> &'static str;
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

    fn keyed(&mut self, key: &str, group: &mut dyn ChildGroup) {
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
    ([$($generics:tt)*] $map:ty) => {
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
        }
    };
}

map_group!([K: ChildKey + Eq + std::hash::Hash, G: ChildGroup, S: BuildHasher] HashMap<K, G, S>);
map_group!([K: ChildKey + Ord, G: ChildGroup] BTreeMap<K, G>);
