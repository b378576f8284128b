//! The tree of children: joining, leaving, and names.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::super::config::Config;
use super::super::snapshot::ServiceSnapshot;
use crate::fence;
use crate::flow::{
    AnyFlow, FlowContext, FlowError, FlowLink, FlowOptions, Journaled, Node, Place, Position, Record,
    Restarts, ServiceMonitor, SharedRecord, Supervisor, Visitor, Walk,
};
use crate::id::{ActorPath, AppId, FlowId, IdMap, WorkId};
use crate::trace::Cause;
use crate::work::{AnyMailbox, Directory, Stage, Status};

/// The number of causes kept for one reaction.
const CAUSES: usize = 32;

/// A child of a Flow. Children are kept in the order of declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    Work(WorkId),
    Flow(FlowId),
}

/// The record of one Flow.
pub(super) struct FlowEntry {
    pub(super) link: Arc<FlowLink>,
    pub(super) type_name: &'static str,
    /// True if the Flow reacts to what is not recorded.
    pub(super) sees_unrecorded: bool,
    /// The monitor, if it is the Flow of a service.
    pub(super) monitor: Option<ServiceMonitor>,
    pub(super) parent: Option<FlowId>,
    pub(super) depth: usize,
    pub(super) children: Vec<Child>,
    pub(super) options: FlowOptions,
    pub(super) supervisor: Supervisor,
    pub(super) restarts: Restarts,
    pub(super) life: FlowLife,
    /// The context of the Flow; taken out while it reacts.
    pub(super) cx: Option<FlowContext>,
    /// The time at which the Flow has asked to be woken.
    pub(super) wake_at: Option<std::time::Duration>,
    /// The causes of the next reaction, for tracing.
    pub(super) causes: Vec<Cause>,
}

impl FlowEntry {
    /// Returns the snapshot of the service, if it is the Flow of one.
    pub(super) fn service(&self) -> Option<ServiceSnapshot> {
        let monitor = self.monitor.as_ref()?;
        Some(ServiceSnapshot::of(&self.link.path, &self.link.status.lock(), monitor))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowLife {
    Up,
    /// Failed; restarts after a back-off.
    Waiting {
        until: std::time::Duration,
    },
    Failed,
}

/// The Works and Flows of an App.
pub(super) struct Tree {
    app: AppId,
    directory: Arc<Directory>,
    /// True if the changes of Works that join are recorded.
    is_recorded: bool,
    /// The Works that are part of the tree, and those that have left and not ended.
    works: IdMap<WorkId, SharedRecord>,
    flows: IdMap<FlowId, FlowEntry>,
    /// The Works that are part of the tree, in the order in which they joined.
    order: Vec<WorkId>,
    next_id: u64,
    /// The next number in each list of children, by the path of the list.
    lists: HashMap<String, List>,
    /// The number of changes of `lists`.
    list_changes: u64,
    /// Flows that have left, whose Works have not all ended.
    leaving: IdMap<FlowId, LeavingFlow>,
    /// Children that have left but still exist, so that they may be put back.
    strays: Vec<Stray>,
}

enum Stray {
    Work(Weak<Mutex<Record>>),
    Flow(Weak<FlowLink>),
}

/// The names in a list of children. A number is not reused while a Work that may have it lives.
struct List {
    next: u64,
    /// The Flow that has last named a child in this list.
    owner: FlowId,
}

struct LeavingFlow {
    works: usize,
    lists: Vec<String>,
}

/// The result of a walk.
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
    pub(super) fn new(app: AppId, directory: Arc<Directory>) -> Self {
        Self {
            app,
            directory,
            is_recorded: false,
            works: IdMap::default(),
            flows: IdMap::default(),
            order: Vec::new(),
            next_id: 0,
            lists: HashMap::new(),
            list_changes: 0,
            leaving: IdMap::default(),
            strays: Vec::new(),
        }
    }

    /// Creates an empty tree of the same App, in which no id of this one is used again.
    #[cfg(all(feature = "cli", feature = "journal"))]
    pub(super) fn successor(&self) -> Self {
        Self { next_id: self.next_id, ..Self::new(self.app, self.directory.clone()) }
    }

    /// Records the changes of Works that join from now on.
    #[cfg(feature = "journal")]
    pub(super) fn record_changes(&mut self) {
        self.is_recorded = true;
    }

    /// Unregisters the address of a Work that has left and ended.
    pub(super) fn forget_address(&self, path: &ActorPath, mailbox: &Arc<dyn AnyMailbox>) {
        self.directory.forget(path, mailbox);
    }

    /// Returns the record of a Work that is part of the tree, or has left and not ended.
    pub(super) fn work(&self, id: WorkId) -> Option<&SharedRecord> {
        self.works.get(&id)
    }

    /// Returns the records of all Works, with those that have left and not ended.
    pub(super) fn works(&self) -> impl Iterator<Item = &SharedRecord> {
        self.works.values()
    }

    /// Returns the ids of all Works, with those that have left and not ended, in the order in which they joined.
    pub(super) fn ids(&self) -> Vec<WorkId> {
        let mut ids: Vec<_> = self.works.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the Works that are part of the tree, in the order in which they joined.
    pub(super) fn order(&self) -> &[WorkId] {
        &self.order
    }

    /// Returns the records of the Works that are part of the tree, in the order in which they joined.
    pub(super) fn members(&self) -> impl Iterator<Item = &SharedRecord> {
        self.order.iter().filter_map(|id| self.works.get(id))
    }

    /// Returns `true` when a Work has stopped.
    pub(super) fn is_down(&self, id: WorkId) -> bool {
        self.works.get(&id).is_none_or(|record| record.lock().ledger.is_down())
    }

    pub(super) fn flow(&self, id: FlowId) -> Option<&FlowEntry> {
        self.flows.get(&id)
    }

    pub(super) fn flow_mut(&mut self, id: FlowId) -> Option<&mut FlowEntry> {
        self.flows.get_mut(&id)
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = (FlowId, &FlowEntry)> {
        self.flows.iter().map(|(id, entry)| (*id, entry))
    }

    /// Forgets a Flow that has left.
    pub(super) fn remove_flow(&mut self, id: FlowId) -> Option<FlowEntry> {
        let entry = self.flows.remove(&id)?;
        self.directory.forget_flow(&entry.link.path, id);
        Some(entry)
    }

    /// Returns a Flow and all Flows above it, from the Flow up to the root.
    pub(super) fn upwards(&self, flow: FlowId) -> impl Iterator<Item = (FlowId, &FlowEntry)> {
        let entry = |flow| Some((flow, self.flows.get(&flow)?));
        std::iter::successors(entry(flow), move |(_, below)| entry(below.parent?))
    }

    /// Records the cause of the next reactions of a Flow and of all Flows above it, for tracing.
    pub(super) fn note_cause(&mut self, flow: FlowId, cause: &Cause) {
        if cause.is_none() {
            return;
        }
        let mut next = Some(flow);
        while let Some(entry) = next.and_then(|flow| self.flows.get_mut(&flow)) {
            if entry.causes.len() < CAUSES {
                entry.causes.push(cause.clone());
            }
            next = entry.parent;
        }
    }

    /// Returns true when a child that has left still exists and may be put back.
    pub(super) fn has_strays(&mut self) -> bool {
        let works = &self.works;
        self.strays.retain(|stray| match stray {
            Stray::Work(record) => {
                // The tree holds a reference of its own until the Work has ended.
                record.upgrade().is_some_and(|record| {
                    let id = record.lock().id;
                    Arc::strong_count(&record) > 1 + usize::from(works.contains_key(&id))
                })
            }
            Stray::Flow(link) => link.strong_count() > 0,
        });
        !self.strays.is_empty()
    }

    /// Returns the Flows from below the root down to `flow`.
    pub(super) fn lineage(&self, flow: FlowId) -> Vec<FlowId> {
        let below_root = self.upwards(flow).filter(|(_, entry)| entry.parent.is_some());
        let mut lineage: Vec<_> = below_root.map(|(flow, _)| flow).collect();
        lineage.reverse();
        lineage
    }

    /// Returns true when a Work is no longer part of the tree.
    pub(super) fn has_left(&self, id: WorkId) -> bool {
        self.place_in_order(id).is_none()
    }

    fn place_in_order(&self, id: WorkId) -> Option<usize> {
        // Ids grow in the order of joining.
        self.order.binary_search(&id).ok()
    }

    /// Forgets a Work that has left and ended.
    pub(super) fn remove(&mut self, id: WorkId) {
        let Some(record) = self.works.remove(&id) else { return };
        let owner = record.lock().owner;
        if let Some(leaving) = self.leaving.get_mut(&owner) {
            leaving.works = leaving.works.saturating_sub(1);
            if leaving.works == 0 {
                self.forget_lists(owner);
            }
        }
    }

    /// Returns the next numbers in the lists of children of a Flow.
    #[cfg(feature = "journal")]
    pub(super) fn lists_of(&self, flow: FlowId) -> std::collections::BTreeMap<String, u64> {
        let lists = self.lists.iter().filter(|(_, list)| list.owner == flow);
        lists.map(|(path, list)| (path.clone(), list.next)).collect()
    }

    /// Returns the number of changes of the lists of all Flows: [`lists_of`](Self::lists_of) returns the same as long as
    /// this is the same.
    #[cfg(feature = "journal")]
    pub(super) fn list_changes(&self) -> u64 {
        self.list_changes
    }

    /// Restores the next number in a list of children.
    #[cfg(feature = "journal")]
    pub(super) fn restore_list(&mut self, path: String, next: u64, owner: FlowId) {
        self.list_changes += 1;
        self.lists.insert(path, List { next, owner });
    }

    /// Keeps the lists of Flows that have left until their Works have ended, so that a Flow that joins at the same path
    /// does not reuse their names.
    fn keep_lists(&mut self, left: &[FlowId]) {
        if left.is_empty() {
            return;
        }
        let mut leaving: IdMap<FlowId, LeavingFlow> = IdMap::default();
        for flow in left {
            leaving.insert(*flow, LeavingFlow { works: 0, lists: Vec::new() });
        }
        for record in self.works.values() {
            if let Some(flow) = leaving.get_mut(&record.lock().owner) {
                flow.works += 1;
            }
        }
        for (path, list) in &self.lists {
            if let Some(flow) = leaving.get_mut(&list.owner) {
                flow.lists.push(path.clone());
            }
        }
        self.leaving.extend(leaving);
        for flow in left {
            if self.leaving.get(flow).is_some_and(|flow| flow.works == 0) {
                self.forget_lists(*flow);
            }
        }
    }

    fn forget_lists(&mut self, flow: FlowId) {
        let lists = self.leaving.remove(&flow).map(|leaving| leaving.lists).unwrap_or_default();
        for path in lists {
            if self.lists.get(&path).is_some_and(|list| list.owner == flow) {
                self.lists.remove(&path);
            }
        }
    }

    /// Walks all children: new ones join, missing ones leave.
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
        let mut seen = seen.into_iter();
        self.order.retain(|id| {
            let stays = seen.next().unwrap_or(false);
            if !stays {
                changes.left.push(*id);
            }
            stays
        });
        changes.flows_left.extend(self.flows.keys().filter(|id| !seen_flows.contains(id)));
        let works = changes.left.iter().filter_map(|id| self.works.get(id));
        self.strays.extend(works.map(|record| Stray::Work(Arc::downgrade(record))));
        let flows = changes.flows_left.iter().filter_map(|id| self.flows.get(id));
        self.strays.extend(flows.map(|entry| Stray::Flow(Arc::downgrade(&entry.link))));
        self.keep_lists(&changes.flows_left);
        if moved {
            changes.errors.extend(self.duplicate_name(&seen_flows));
        }
        changes
    }

    /// Returns an error if two children have the same name. Positions are unique, so this takes a child that was moved
    /// and kept its name.
    fn duplicate_name(&self, flows: &HashSet<FlowId>) -> Option<FlowError> {
        let works =
            self.order.iter().filter_map(|id| self.works.get(id)).map(|work| work.lock().path.clone());
        let flows = flows.iter().filter_map(|id| self.flows.get(id)).map(|entry| entry.link.path.clone());
        let mut names = HashSet::new();
        let twice = works.chain(flows).find(|path| !names.insert(path.clone()))?;
        Some(FlowError::DuplicateName { path: twice.to_string() })
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Returns a Flow and all Flows below it, at any depth.
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

    /// Returns the Works below a Flow, at any depth.
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
    /// True when a child was found away from the position that it is named after.
    moved: bool,
    /// True for each Work that was found, in the order of joining.
    seen: Vec<bool>,
    seen_flows: HashSet<FlowId>,
    changes: Changes,
}

impl Walker<'_> {
    /// Returns the name of a child that joins: its recorded one if it was restored, or else that of its position.
    fn name(&mut self, position: Position<'_>, restored: Option<ActorPath>) -> ActorPath {
        if let Some((group, key)) = position.bad_key {
            self.changes.errors.push(FlowError::BadKey { group: group.to_owned(), key: key.to_owned() });
        }
        if let Some(name) = restored {
            self.compare(&name, position);
            if let Some((group, number)) = name.as_str().rsplit_once('.')
                && position.listed
                && let Ok(number) = number.parse::<u64>()
            {
                self.list(group, |next| next.max(number.saturating_add(1)));
            }
            return name;
        }
        match position.path.rsplit_once('.') {
            Some((group, _)) if position.listed => {
                let number = self.list(group, |next| next + 1);
                ActorPath::from(format!("{group}.{number}").as_str())
            }
            _ => ActorPath::from(position.path),
        }
    }

    /// Changes the next number of the list at this path, in which the Flow that is walked names a child. Returns the number
    /// before.
    fn list(&mut self, path: &str, change: impl FnOnce(u64) -> u64) -> u64 {
        let owner = self.flow.unwrap_or(FlowId(0));
        // Looked up first, because the path is seldom new and would be allocated.
        if !self.tree.lists.contains_key(path) {
            self.tree.lists.insert(path.to_owned(), List { next: 0, owner });
        }
        let list = self.tree.lists.get_mut(path).expect("inserted if it was missing");
        let before = std::mem::replace(list, List { next: change(list.next), owner });
        self.tree.list_changes += 1;
        before.next
    }

    /// Checks whether a child is still at the position it is named after; its index in a list does not count.
    fn compare(&mut self, name: &ActorPath, position: Position<'_>) {
        let group = |path: &str| path.rsplit_once('.').map_or(0, |(group, _)| group.len());
        let (name, place) = (name.as_str(), position.path);
        self.moved |=
            if position.listed { name[..group(name)] != place[..group(place)] } else { name != place };
    }

    fn mark_seen(&mut self, id: WorkId) {
        let Some(index) = self.tree.place_in_order(id) else { return };
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
                // A child that has left and was put back joins anew.
                let known = work.record().filter(|record| !self.tree.has_left(record.lock().id));
                let known = known.map(|record| {
                    let mut record = record.lock();
                    // A child that was moved keeps its name, but not its owner.
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
                        let path = self.name(position, work.restored_name().cloned());
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
                                if self.tree.is_recorded {
                                    let mut record = record.lock();
                                    let settings = work.settings();
                                    record.is_recorded = settings.policy.journaled == Journaled::All;
                                    if settings.policy.journaled != Journaled::Off {
                                        record.ledger.record_facts();
                                    }
                                    record.unrecorded_settings = Some(Box::new(settings));
                                }
                                // Addresses of this path lead to the new Work from here on, even while a previous Work
                                // at this path still ends.
                                self.tree.directory.remember(&path, &record.lock().mailbox);
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
                let known = flow.link().filter(|link| self.tree.flows.contains_key(&link.id));
                let known = known.map(|link| (link.id, link.path.clone()));
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
                        let path = self.name(position, flow.restored_name().cloned());
                        let status = Status { stage: Stage::Running, time: self.now, ..Status::default() };
                        let link = Arc::new(FlowLink { id, path: path.clone(), status: Mutex::new(status) });
                        let options = flow.attach(link.clone());
                        self.tree.directory.remember_flow(&path, id, flow.type_name());
                        self.tree.flows.insert(
                            id,
                            FlowEntry {
                                link,
                                type_name: flow.type_name(),
                                sees_unrecorded: flow.sees_unrecorded(),
                                monitor: flow.monitor(),
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
                // The collections walked are the user's and may panic.
                if let Err(panic) = fence::call(|| flow.walk_children(&mut Walk::new(path.as_str(), self))) {
                    let (path, message) = (path.to_string(), panic.to_string());
                    self.changes.errors.push(FlowError::Panicked { path, code: "Children", message });
                }
                self.depth -= 1;
                self.flow = parent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flowright_macros::Children;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::flow::{Flow, FlowRef, Reaction, WorkRef};
    use crate::work::{Work, WorkContext};

    #[derive(Default, Serialize, Deserialize)]
    struct Idle;

    impl Work for Idle {
        type Input = ();

        async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> crate::error::Result<()> {
            Ok(())
        }
    }

    #[derive(Default, Serialize, Children)]
    struct Team {
        members: Vec<WorkRef<Idle>>,
    }

    #[derive(Default, Serialize, Children)]
    struct Teams {
        by_name: BTreeMap<String, FlowRef<Team>>,
    }

    impl Flow for Team {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            Ok(())
        }
    }

    impl Flow for Teams {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            Ok(())
        }
    }

    fn team() -> FlowRef<Team> {
        FlowRef::new(Team { members: vec![WorkRef::default()] })
    }

    fn paths(tree: &Tree) -> Vec<String> {
        tree.order.iter().map(|id| tree.works[id].lock().path.to_string()).collect()
    }

    /// A list starts over with its Flow, but does not reuse a name while a Work of the previous Flow has it.
    #[test]
    fn names_in_a_list_are_kept_until_its_works_ended() {
        let mut root = FlowRef::new(Teams::default());
        let mut tree = Tree::new(AppId::NONE, Arc::default());
        let walk = |tree: &mut Tree, root: &mut FlowRef<Teams>| {
            let changes = tree.walk(root, &Config::default(), SystemTime::UNIX_EPOCH);
            assert!(changes.errors.is_empty());
            changes.flows_left.iter().for_each(|flow| drop(tree.flows.remove(flow)));
            changes.left
        };
        let put = |root: &mut FlowRef<Teams>| drop(root.by_name.insert("blue".to_owned(), team()));
        put(&mut root);
        assert!(walk(&mut tree, &mut root).is_empty());
        assert_eq!(paths(&tree), ["by_name.blue.members.0"]);
        // The Work of the previous Flow has not ended.
        put(&mut root);
        let first = walk(&mut tree, &mut root);
        assert_eq!(paths(&tree), ["by_name.blue.members.1"]);
        root.by_name.clear();
        let second = walk(&mut tree, &mut root);
        assert!(paths(&tree).is_empty());
        for id in first.into_iter().chain(second) {
            assert!(tree.has_left(id));
            tree.remove(id);
        }
        let left = (tree.works.len(), tree.lists.len(), tree.leaving.len());
        assert_eq!(left, (0, 0, 0));
        put(&mut root);
        walk(&mut tree, &mut root);
        assert_eq!(paths(&tree), ["by_name.blue.members.0"]);
    }
}
