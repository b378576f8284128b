//! The shape of a Flow's children: what is in each field that holds them, with the name of each child.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::ActorPath;

/// The content of a field that holds children. Serialised variants have names of one letter, because a list can be long.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// A Work or Flow, with the name that it was given when it joined, wherever it is now.
    #[serde(rename = "c")]
    Child(ActorPath),
    /// An `Option` without content.
    #[serde(rename = "n")]
    Absent,
    /// An `Option` with content.
    #[serde(rename = "s")]
    Present(Box<Shape>),
    /// The elements of a list, in order.
    #[serde(rename = "l")]
    List(Vec<Shape>),
    /// The entries of a map, by the text of their keys. In order, unless the map has none.
    #[serde(rename = "m")]
    Map(Vec<(String, Shape)>),
}

impl Shape {
    /// Returns the content of an `Option`, or else the shape itself, so that a field may become an `Option` and back.
    pub(super) fn unwrapped(&self) -> &Self {
        let mut shape = self;
        while let Self::Present(content) = shape {
            shape = content;
        }
        shape
    }

    /// Returns the content that an `Option` has, for a field that may not have been one.
    pub(super) fn content(&self) -> Option<&Self> {
        match self {
            Self::Absent => None,
            Self::Present(content) => Some(content),
            other => Some(other),
        }
    }

    /// Returns the shape in words, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Child(_) => "a Work or Flow",
            Self::Absent => "nothing",
            Self::Present(content) => content.describe(),
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// Gives each child the name that `rename` returns for its name, and removes children for which that is `None`. Returns
    /// false if the shape itself is such a child.
    #[cfg(feature = "journal")]
    pub(crate) fn rename(&mut self, rename: &dyn Fn(&ActorPath) -> Option<ActorPath>) -> bool {
        match self {
            Self::Child(name) => match rename(name) {
                Some(new) => *name = new,
                None => return false,
            },
            Self::Absent => {}
            Self::Present(content) => {
                if !content.rename(rename) {
                    *self = Self::Absent;
                }
            }
            Self::List(elements) => elements.retain_mut(|element| element.rename(rename)),
            Self::Map(entries) => entries.retain_mut(|(_, content)| content.rename(rename)),
        }
        true
    }

    /// Calls `visit` with the name of each child.
    pub(crate) fn each_child(&self, visit: &mut dyn FnMut(&ActorPath)) {
        match self {
            Self::Child(name) => visit(name),
            Self::Absent => {}
            Self::Present(content) => content.each_child(visit),
            Self::List(elements) => elements.iter().for_each(|element| element.each_child(visit)),
            Self::Map(entries) => entries.iter().for_each(|(_, content)| content.each_child(visit)),
        }
    }
}

/// The name of a child that has not joined the App.
#[derive(Debug, Default)]
pub(super) enum ChildName {
    /// Given when the child joins.
    #[default]
    Open,
    /// The name that the child would be given if nothing was restored.
    Program(ActorPath),
    /// The recorded name of a child that was restored.
    Restored(ActorPath),
}

impl ChildName {
    /// Returns the name if there is one.
    pub(super) fn known(&self) -> Option<&ActorPath> {
        match self {
            Self::Open => None,
            Self::Program(name) | Self::Restored(name) => Some(name),
        }
    }

    /// Returns the recorded name if the child was restored.
    pub(super) fn restored(&self) -> Option<&ActorPath> {
        match self {
            Self::Restored(name) => Some(name),
            Self::Open | Self::Program(_) => None,
        }
    }
}

/// The shapes of all fields of a Flow that hold children, by the name of the field. A field without a shape has a child
/// that has not joined the App.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shapes(BTreeMap<String, Shape>);

impl Shapes {
    /// Adds the shape of a field.
    pub fn add(&mut self, field: &'static str, shape: Option<Shape>) {
        self.0.extend(shape.map(|shape| (field.to_owned(), shape)));
    }

    /// Returns the shape of a field.
    pub(crate) fn field(&self, field: &str) -> Option<&Shape> {
        self.0.get(field)
    }

    /// Iterates over the fields with their shapes.
    #[cfg(feature = "journal")]
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.0.iter().map(|(name, shape)| (name.as_str(), shape))
    }

    /// Removes the shape of a field. Returns false if there is none.
    #[cfg(feature = "journal")]
    pub(crate) fn remove(&mut self, field: &str) -> bool {
        self.0.remove(field).is_some()
    }

    /// Gives each child the name that `rename` returns for its name, and removes children for which that is `None`.
    #[cfg(feature = "journal")]
    pub(crate) fn rename(&mut self, rename: &dyn Fn(&ActorPath) -> Option<ActorPath>) {
        self.0.retain(|_, shape| shape.rename(rename));
    }
}
