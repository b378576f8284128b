//! The names and settings that the program gives to the children that its constructor makes, before anything of a tree is
//! restored.

use std::collections::HashMap;

use super::children::{AnyFlow, Node, Position, Visitor, Walk};
use super::restore_error::RestoreError;
use super::restoring::ProgramSettings;
use crate::fence;
use crate::id::ActorPath;

/// Names the children of a tree that has not joined the App as they would be named when they join, and returns their
/// settings.
///
/// # Errors
/// [`RestoreError::Panicked`] if a collection of children panics.
pub(super) fn name_children(
    root: &mut dyn AnyFlow,
    path: ActorPath,
) -> Result<ProgramSettings, RestoreError> {
    let mut naming = Naming { settings: ProgramSettings::default(), lists: HashMap::new() };
    let named = fence::call(|| naming.flow(path.clone(), root));
    match named {
        Ok(()) => Ok(naming.settings),
        Err(panic) => Err(RestoreError::Panicked { path, message: panic.to_string() }),
    }
}

struct Naming {
    settings: ProgramSettings,
    /// The next number in each list of children, by the path of the list.
    lists: HashMap<String, u64>,
}

impl Naming {
    fn flow(&mut self, name: ActorPath, flow: &mut dyn AnyFlow) {
        flow.set_program_name(name.clone());
        self.settings.flows.insert(name.clone(), flow.options().clone());
        flow.walk_children(&mut Walk::new(name.as_str(), self));
    }

    fn name(&mut self, position: Position<'_>) -> ActorPath {
        match position.path.rsplit_once('.') {
            Some((list, _)) if position.listed => {
                let next = self.lists.entry(list.to_owned()).or_default();
                let name = ActorPath::from(format!("{list}.{next}").as_str());
                *next += 1;
                name
            }
            _ => ActorPath::from(position.path),
        }
    }
}

impl Visitor for Naming {
    fn field(&mut self, _: &str) {}

    fn child(&mut self, position: Position<'_>, node: Node<'_>) {
        let name = self.name(position);
        match node {
            Node::Work(work) => {
                work.set_program_name(name.clone());
                self.settings.works.insert(name, work.settings());
            }
            Node::Flow(flow) => self.flow(name, flow),
        }
    }
}
