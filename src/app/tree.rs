//! The tree of children: who has joined, who has left, what everybody is called.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::config::Config;
use crate::flow::{
    AnyFlow, FlowContext, FlowError, FlowLink, FlowOptions, Node, Place, Position, Restarts, SharedRecord,
    Supervisor, Visitor, Walk, lock,
};
use crate::id::{ActorPath, AppId, FlowId, IdMap, WorkId};
use crate::trace::Cause;
use crate::work::{Stage, Status};

/// A child of a Flow, in the order of declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    Work(WorkId),
    Flow(FlowId),
}

/// What the driver knows of one Flow.
pub(super) struct FlowEntry {
    pub(super) link: Arc<FlowLink>,
    pub(super) type_name: &'static str,
    pub(super) parent: Option<FlowId>,
    pub(super) depth: usize,
    pub(super) children: Vec<Child>,
    pub(super) options: FlowOptions,
    pub(super) supervisor: Supervisor,
    pub(super) restarts: Restarts,
    pub(super) life: FlowLife,
    /// Taken out while it reacts.
    pub(super) cx: Option<FlowContext>,
    /// When it asked to be woken.
    pub(super) wake_at: Option<std::time::Duration>,
    /// What has led to its next reaction.
    pub(super) causes: Vec<Cause>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowLife {
    Up,
    /// Failed; waits to be restarted.
    Waiting {
        until: std::time::Duration,
    },
    Failed,
}

pub(super) struct Tree {
    pub(super) app: AppId,
    pub(super) works: IdMap<WorkId, SharedRecord>,
    pub(super) flows: IdMap<FlowId, FlowEntry>,
    /// The Works that are part of the tree, in the order in which they joined.
    pub(super) order: Vec<WorkId>,
    next_id: u64,
    /// The next number in each list, which is never given twice.
    next_in_list: HashMap<String, u64>,
}

/// What a walk has found.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) joined: Vec<WorkId>,
    pub(super) left: Vec<WorkId>,
    pub(super) flows_joined: Vec<FlowId>,
    pub(super) flows_left: Vec<FlowId>,
    pub(super) errors: Vec<FlowError>,
    /// The paths of the fields that can hold children.
    pub(super) fields: Vec<String>,
}

impl Tree {
    pub(super) fn new(app: AppId) -> Self {
        Self {
            app,
            works: IdMap::default(),
            flows: IdMap::default(),
            order: Vec::new(),
            next_id: 0,
            next_in_list: HashMap::new(),
        }
    }

    /// Walks all children; those that are new join, those that are gone leave.
    pub(super) fn walk(&mut self, root: &mut dyn AnyFlow, config: &Config, now: SystemTime) -> Changes {
        let mut walker = Walker {
            tree: self,
            config,
            now,
            flow: None,
            depth: 0,
            moved: false,
            seen: Vec::new(),
            seen_flows: HashSet::new(),
            changes: Changes::default(),
        };
        walker.child(Position::root(), Node::Flow(root));
        let Walker { seen, seen_flows, moved, mut changes, .. } = walker;
        self.order.retain(|id| {
            let stays = seen.get(id.0 as usize).is_some_and(|seen| *seen);
            if !stays {
                changes.left.push(*id);
            }
            stays
        });
        changes.flows_left.extend(self.flows.keys().filter(|id| !seen_flows.contains(id)));
        if moved {
            changes.errors.extend(self.duplicate_name(&seen_flows));
        }
        changes
    }

    /// A name that two children have. Places differ, so that it takes one that was moved and kept its name.
    fn duplicate_name(&self, flows: &HashSet<FlowId>) -> Option<FlowError> {
        let works = self.order.iter().filter_map(|id| self.works.get(id)).map(|work| lock(work).path.clone());
        let flows = flows.iter().filter_map(|id| self.flows.get(id)).map(|entry| entry.link.path.clone());
        let mut names = HashSet::new();
        let twice = works.chain(flows).find(|path| !names.insert(path.clone()))?;
        Some(FlowError::DuplicateName { path: twice.to_string() })
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A Flow and the Flows below it, at any depth.
    pub(super) fn flows_from(&self, flow: FlowId) -> Vec<FlowId> {
        let mut flows = vec![flow];
        let mut next = 0;
        while let Some(flow) = flows.get(next) {
            let children = self.flows.get(flow).map_or(&[][..], |entry| &entry.children);
            let below: Vec<_> = children
                .iter()
                .filter_map(|child| match child {
                    Child::Flow(flow) => Some(*flow),
                    Child::Work(_) => None,
                })
                .collect();
            flows.extend(below);
            next += 1;
        }
        flows
    }

    /// The Works below a Flow, at any depth.
    pub(super) fn works_below(&self, flow: FlowId) -> Vec<WorkId> {
        let mut works = Vec::new();
        let mut flows = vec![flow];
        while let Some(flow) = flows.pop() {
            for child in self.flows.get(&flow).map_or(&[][..], |entry| &entry.children) {
                match child {
                    Child::Work(work) => works.push(*work),
                    Child::Flow(flow) => flows.push(*flow),
                }
            }
        }
        works
    }

    pub(super) fn flow_path(&self, flow: FlowId) -> String {
        self.flows.get(&flow).map_or_else(String::new, |entry| entry.link.path.to_string())
    }
}

struct Walker<'a> {
    tree: &'a mut Tree,
    config: &'a Config,
    now: SystemTime,
    flow: Option<FlowId>,
    depth: usize,
    /// Whether a child was found that is no longer where it got its name.
    moved: bool,
    /// By number: whether the Work was found.
    seen: Vec<bool>,
    seen_flows: HashSet<FlowId>,
    changes: Changes,
}

impl Walker<'_> {
    fn name(&mut self, position: Position<'_>) -> ActorPath {
        if let Some((group, key)) = position.bad_key {
            self.changes.errors.push(FlowError::BadKey { group: group.to_owned(), key: key.to_owned() });
        }
        match position.path.rsplit_once('.') {
            Some((group, _)) if position.listed => {
                let next = match self.tree.next_in_list.get_mut(group) {
                    Some(next) => next,
                    None => self.tree.next_in_list.entry(group.to_owned()).or_default(),
                };
                let name = ActorPath::from(format!("{group}.{next}").as_str());
                *next += 1;
                name
            }
            _ => ActorPath::from(position.path),
        }
    }

    /// Looks whether a child that has a name is still where it got it; its place in a list does not matter.
    fn compare(&mut self, name: &ActorPath, position: Position<'_>) {
        let group = |path: &str| path.rsplit_once('.').map_or(0, |(group, _)| group.len());
        let (name, place) = (name.as_str(), position.path);
        self.moved |=
            if position.listed { name[..group(name)] != place[..group(place)] } else { name != place };
    }

    fn mark_seen(&mut self, WorkId(id): WorkId) {
        let index = id as usize;
        if self.seen.len() <= index {
            self.seen.resize(index + 1, false);
        }
        self.seen[index] = true;
    }

    fn owner(&mut self) -> &mut FlowEntry {
        let flow = self.flow.expect("Works are below a Flow");
        self.tree.flows.get_mut(&flow).expect("a Flow joins before its children")
    }
}

impl Visitor for Walker<'_> {
    fn field(&mut self, path: &str) {
        self.changes.fields.push(path.to_owned());
    }

    fn child(&mut self, position: Position<'_>, node: Node<'_>) {
        match node {
            Node::Work(work) => {
                let owner = self.owner().link.clone();
                let known = work.record().map(|record| {
                    let mut record = lock(record);
                    // A child keeps its name when it is moved, but not its Flow.
                    record.owner = owner.id;
                    record.owner_path = owner.path.clone();
                    (record.id, record.path.clone())
                });
                let id = match known {
                    Some((id, name)) => {
                        self.compare(&name, position);
                        id
                    }
                    None => {
                        let id = WorkId(self.tree.id());
                        let path = self.name(position);
                        let place = Place {
                            id,
                            app: self.tree.app,
                            path: path.clone(),
                            owner: owner.id,
                            owner_path: owner.path.clone(),
                            max_state_bytes: self.config.state_limit(),
                        };
                        match work.attach(place, self.config.placement_of(path.as_str())) {
                            Ok(record) => {
                                self.tree.works.insert(id, record);
                                self.tree.order.push(id);
                                self.changes.joined.push(id);
                            }
                            Err(error) => {
                                self.changes.errors.push(error);
                                return;
                            }
                        }
                        id
                    }
                };
                self.mark_seen(id);
                self.owner().children.push(Child::Work(id));
            }
            Node::Flow(flow) => {
                let parent = self.flow;
                let known = flow.link().map(|link| (link.id, link.path.clone()));
                let (id, path) = match known {
                    Some((id, name)) => {
                        self.compare(&name, position);
                        if let Some(entry) = self.tree.flows.get_mut(&id) {
                            (entry.parent, entry.depth) = (parent, self.depth);
                        }
                        (id, name)
                    }
                    None => {
                        let id = FlowId(self.tree.id());
                        let path = self.name(position);
                        let status = Status { stage: Stage::Running, time: self.now, ..Status::default() };
                        let link = Arc::new(FlowLink { id, path: path.clone(), status: Mutex::new(status) });
                        let options = flow.attach(link.clone());
                        self.tree.flows.insert(
                            id,
                            FlowEntry {
                                link,
                                type_name: flow.type_name(),
                                parent,
                                depth: self.depth,
                                children: Vec::new(),
                                options,
                                supervisor: Supervisor::default(),
                                restarts: Restarts::default(),
                                life: FlowLife::Up,
                                cx: Some(FlowContext::new(path.clone(), self.now)),
                                wake_at: None,
                                causes: Vec::new(),
                            },
                        );
                        self.changes.flows_joined.push(id);
                        (id, path)
                    }
                };
                self.seen_flows.insert(id);
                if parent.is_some() {
                    self.owner().children.push(Child::Flow(id));
                }
                if let Some(entry) = self.tree.flows.get_mut(&id) {
                    entry.children.clear();
                }
                self.flow = Some(id);
                self.depth += 1;
                flow.walk_children(&mut Walk::new(path.as_str(), self));
                self.depth -= 1;
                self.flow = parent;
            }
        }
    }
}
