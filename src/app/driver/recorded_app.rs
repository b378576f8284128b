//! The recorded App, read from the live data of a journal.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::recording::{APP, AppRow, CHILDREN, ChildrenRow, FACTS, FlowRow, SETTINGS};
use super::restored_values::RestoredValues;
use crate::flow::{FlowImage, Image, ImageReader, RecordedTree, WorkImage, decoded};
use crate::id::ActorPath;
use crate::journal::{Live, LiveActor, Table, TableRows};
use crate::printable::chain;

/// The recorded App.
#[derive(Default)]
pub(in crate::app) struct Recovery {
    pub(super) tree: RecordedTree,
    pub(in crate::app) images: HashMap<ActorPath, Image>,
    /// Inputs of runs of Works by key, in the order of the keys.
    pub(in crate::app) given: HashMap<ActorPath, TableRows>,
    pub(super) flows: HashMap<ActorPath, RecoveredFlow>,
    pub(super) values: Option<RestoredValues>,
    /// The name of the type of the root, if it is recorded.
    pub(super) root: Option<String>,
}

/// The recorded part of a Flow, without its fields and children.
pub(super) struct RecoveredFlow {
    pub(super) row: FlowRow,
    /// The encoded row.
    pub(super) facts: Vec<u8>,
    pub(super) lists: BTreeMap<String, u64>,
}

impl Recovery {
    /// Reads the live data of a journal.
    ///
    /// # Errors
    /// All actors with rows that cannot be read, and what is wrong with them.
    pub(super) fn read(live: Live) -> Result<Self, Vec<(ActorPath, String)>> {
        let (mut recovery, mut problems) = (Self::default(), Vec::new());
        for (path, actor) in live.actors {
            let app = actor.rows.get(&Table::App).into_iter().flatten().find(|(key, _)| key == APP);
            if let Some(Ok(AppRow { root })) = app.map(|(_, value)| decoded(Table::App, value)) {
                recovery.root = Some(root);
            }
            let read = if actor.rows.contains_key(&Table::Work) {
                recovery.read_work(&path, actor)
            } else if actor.rows.contains_key(&Table::Flow) {
                recovery.read_flow(&path, actor)
            } else {
                Ok(())
            };
            if let Err(error) = read {
                problems.push((path, chain(&*error)));
            }
        }
        if problems.is_empty() { Ok(recovery) } else { Err(problems) }
    }

    /// Sets the actors that have moved, and the Flows whose own fields begin anew.
    pub(super) fn with(mut self, moved: BTreeSet<ActorPath>, fresh: BTreeSet<ActorPath>) -> Self {
        (self.tree.moved, self.tree.fresh) = (moved, fresh);
        self
    }

    /// Returns the recorded tree.
    pub(in crate::app) fn tree(&self) -> &RecordedTree {
        &self.tree
    }

    fn read_work(
        &mut self,
        path: &ActorPath,
        mut actor: LiveActor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(given) = actor.rows.remove(&Table::Given) {
            self.given.insert(path.clone(), given);
        }
        let mut reader = ImageReader::new();
        let mut image = WorkImage { state: actor.state.unwrap_or_default(), ..WorkImage::default() };
        for (table, rows) in &actor.rows {
            for (key, value) in rows {
                match table {
                    Table::Work if key == SETTINGS => image.settings = decoded(*table, value)?,
                    table => reader.read(*table, key, value)?,
                }
            }
        }
        self.images.insert(path.clone(), reader.finish());
        self.tree.works.insert(path.clone(), image);
        Ok(())
    }

    fn read_flow(&mut self, path: &ActorPath, actor: LiveActor) -> Result<(), Box<dyn std::error::Error>> {
        let mut image = FlowImage { own: actor.state.unwrap_or_default(), ..FlowImage::default() };
        let (mut row, mut facts, mut lists) = (None, Vec::new(), BTreeMap::new());
        for (key, value) in actor.rows.get(&Table::Flow).into_iter().flatten() {
            if key == FACTS {
                row = Some(decoded(Table::Flow, value)?);
                facts = value.to_vec();
            } else if key == CHILDREN {
                let children: ChildrenRow = decoded(Table::Flow, value)?;
                (image.shapes, image.options, lists) = (children.shapes, children.options, children.lists);
            }
        }
        self.tree.flows.insert(path.clone(), image);
        if let Some(row) = row {
            self.flows.insert(path.clone(), RecoveredFlow { row, facts, lists });
        }
        Ok(())
    }

    pub(in crate::app) fn is_empty(&self) -> bool {
        self.tree.flows.is_empty()
    }
}
