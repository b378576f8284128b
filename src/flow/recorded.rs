//! The recorded Works and Flows of an App, from which its tree is restored.

use std::collections::{BTreeSet, HashMap};

use super::flow_link::FlowOptions;
use super::settings::WorkSettings;
use super::shape::Shapes;
use crate::id::ActorPath;
use crate::state::Value;

/// Record of a Work, for the `WorkRef`.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkImage {
    /// The last published state.
    pub(crate) state: Value,
    pub(crate) settings: WorkSettings,
}

/// Record of a Flow, for the `FlowRef`.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowImage {
    /// The Flow's own fields, as a map by their serialised names.
    pub(crate) own: Value,
    pub(crate) shapes: Shapes,
    pub(crate) options: FlowOptions,
}

/// The recorded actors by their paths; the root Flow has the empty path.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordedTree {
    pub(crate) works: HashMap<ActorPath, WorkImage>,
    pub(crate) flows: HashMap<ActorPath, FlowImage>,
    /// Actors that were recorded at other paths than those that they have now. The recorded children of the Flows above
    /// them lack them.
    pub(crate) moved: BTreeSet<ActorPath>,
    /// Flows whose own fields begin anew, because what is recorded of them cannot be read.
    pub(crate) fresh: BTreeSet<ActorPath>,
    /// The record of each Flow of which nothing is recorded, but below which are actors that have moved there.
    pub(crate) new_flow: FlowImage,
}
