//! Recorded reactions, carried out again by the program as it is now: without hosts, timers and a journal.
//!
//! # Guarantees
//! - No Work is started, and nothing is written or sent: what a Flow asks for is only read out of the ledgers.
//! - The Flows react in the order in which the driver lets them react, the deepest first, and again if a parent has
//!   changed their fields or they have new children.
//! - A panic in the code of a Flow is contained, and is a failure of its reaction.
//!
//! # Limits
//! A field that serde skips has the value that the rehearsal before gave it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::config::Config;
use super::super::watchdog::Watchdog;
use super::REACTIONS_AT_ONCE;
use super::react::{described, reacted};
use super::reaction_queue::ReactionQueue;
use super::reactions::{Ask, Decision, Scene, Wake, is_hidden, owner};
use super::recorded_app::{RecoveredFlow, Recovery};
use super::recovery::{moved, read_inputs};
use super::renaming::Move;
use super::root_flow::{RootFlow, Whereabouts};
use super::tree::{FlowLife, Tree};
use crate::fence;
use crate::flow::{
    AnyFlow, FlowContext, FlowError, Image, Ledger, Moment, Restarts, Schedules, Scope, Supervisor, asked,
    enter, leave,
};
use crate::id::{ActorPath, AppId, FlowId, WorkId};
use crate::printable::chain;
use crate::state::Value;
use crate::work::Directory;

/// The root of the program, which recorded reactions are carried out with.
pub(in crate::app) struct Rehearsal {
    root: RootFlow,
    tree: Tree,
    app: AppId,
    config: Config,
    moves: Vec<Move>,
}

/// A rehearsed cycle.
struct Cycle {
    now: Moment,
    due: ReactionQueue,
    /// Failures of reactions by Flow.
    failed: BTreeMap<ActorPath, String>,
    wake: BTreeMap<ActorPath, Wake>,
    joined: BTreeSet<ActorPath>,
    left: BTreeSet<ActorPath>,
    /// Images of the Works before the reactions.
    before: BTreeMap<WorkId, Image>,
}

impl Rehearsal {
    pub(in crate::app) fn new(
        root: Box<dyn AnyFlow>,
        watchdog: Watchdog,
        app: AppId,
        config: Config,
        moves: Vec<Move>,
    ) -> Self {
        let tree = Tree::new(app, Arc::new(Directory::default()));
        Self { root: RootFlow::new(root, watchdog), tree, app, config, moves }
    }

    /// Lets the Flows of a scene react, and returns what each one asked for.
    ///
    /// # Errors
    /// All that the program cannot restore of the scene.
    pub(in crate::app) fn rehearse(
        &mut self,
        scene: &Scene,
    ) -> Result<BTreeMap<ActorPath, Decision>, Vec<String>> {
        let mut live = scene.live.clone();
        let moved = moved(&mut live, &self.moves).map_err(|error| vec![chain(&error)])?.paths;
        let applied: Vec<_> = self.moves.iter().filter(|one| moved.contains(&one.to)).cloned().collect();
        let renamed = |path: &ActorPath| {
            applied.iter().find_map(|one| one.renamed(path)).unwrap_or_else(|| path.clone())
        };
        let read = Recovery::read(live).map_err(|problems| {
            problems.into_iter().map(|(path, error)| format!("`{path}`: {error}")).collect::<Vec<_>>()
        });
        let mut recovery = read?.with(moved, BTreeSet::new());
        for (path, image) in &scene.images {
            recovery.images.insert(renamed(path), image.clone());
        }
        if !recovery.is_empty() {
            let restored = self.root.restore(recovery.tree());
            restored.map_err(|errors| errors.iter().map(|error| chain(error)).collect::<Vec<_>>())?;
        }
        let mut cycle = self.prepare(scene, recovery)?;
        let then: HashSet<_> =
            scene.then.keys().filter(|path| !scene.unknown.contains_key(*path)).map(&renamed).collect();
        for (id, entry) in self.tree.flows() {
            if then.contains(&entry.link.path) {
                cycle.due.insert(id, entry.depth);
            }
        }
        for _ in 0..REACTIONS_AT_ONCE {
            let Some(id) = cycle.due.pop() else { break };
            self.react(id, &mut cycle);
        }
        let back = |path: &ActorPath| {
            let back = applied.iter().find_map(|one| one.reversed().renamed(path));
            back.unwrap_or_else(|| path.clone())
        };
        Ok(self.decisions(scene, cycle, &back))
    }

    /// Brings the tree to the state that the Flows saw.
    fn prepare(&mut self, scene: &Scene, mut recovery: Recovery) -> Result<Cycle, Vec<String>> {
        let wall = scene.wall.unwrap_or(std::time::UNIX_EPOCH);
        let now = Moment { at: scene.at, wall };
        self.tree = Tree::after(&self.tree, self.app);
        self.tree.record_changes();
        let changes = self.root.walk(&mut self.tree, &self.config, wall);
        if !changes.errors.is_empty() {
            return Err(changes.errors.iter().map(|error| chain(error)).collect());
        }
        let is_new = recovery.is_empty();
        let mut before = BTreeMap::new();
        for id in self.tree.order().to_vec() {
            let Some(shared) = self.tree.work(id) else { continue };
            let mut record = shared.lock();
            match recovery.images.remove(&record.path) {
                Some(mut image) => {
                    let given = recovery.given.remove(&record.path).unwrap_or_default();
                    // Remembered inputs have the keys that they have in this program.
                    let _ = read_inputs(record.kind, &mut image, &given);
                    before.insert(id, image.clone());
                    let policy = record.ledger.shared_policy();
                    // An incarnation that is awaited for ever gets no orders.
                    record.ledger = Ledger::restore(policy, image, Some(Duration::MAX), now);
                    // Outcomes beyond the limits of the program as it is now.
                    record.ledger.take_facts();
                }
                None => {
                    before.insert(id, Image::new());
                    if is_new || scene.is_start {
                        record.ledger.start(now);
                    }
                }
            }
        }
        let flows: Vec<_> = self.tree.flows().map(|(id, _)| id).collect();
        for id in flows {
            let Some(entry) = self.tree.flow_mut(id) else { continue };
            let path = entry.link.path.clone();
            let Some(RecoveredFlow { row, lists, .. }) = recovery.flows.remove(&path) else { continue };
            entry.life = row.life.into();
            *entry.link.status.lock() = row.status;
            entry.wake_at = row.wake_at;
            entry.restarts = Restarts::restored(&row.restarts);
            entry.supervisor = Supervisor::restored(&row.child_restarts);
            let mut cx = FlowContext::restored(path, wall, Schedules::restored(row.schedules));
            if !scene.is_start {
                cx.has_reacted();
            }
            entry.cx = Some(cx);
            for (list, next) in lists {
                self.tree.restore_list(list, next, id);
            }
        }
        Ok(Cycle {
            now,
            due: ReactionQueue::default(),
            failed: BTreeMap::new(),
            wake: BTreeMap::new(),
            joined: BTreeSet::new(),
            left: BTreeSet::new(),
            before,
        })
    }

    fn whereabouts(&self, id: FlowId) -> Option<Whereabouts> {
        let path = self.tree.flow(id)?.link.path.clone();
        Some(Whereabouts { id, path, lineage: self.tree.lineage(id) })
    }

    fn mark_up(&self, flow: FlowId, cycle: &mut Cycle) {
        for (flow, entry) in self.tree.upwards(flow) {
            cycle.due.insert(flow, entry.depth);
        }
    }

    fn react(&mut self, id: FlowId, cycle: &mut Cycle) {
        let Some(whereabouts) = self.whereabouts(id) else { return };
        let path = whereabouts.path.clone();
        let entry = self.tree.flow_mut(id).filter(|entry| entry.life == FlowLife::Up);
        let Some(mut cx) = entry.and_then(|entry| entry.cx.take()) else { return };
        cx.begin(cycle.now);
        enter(id, path.clone(), cycle.now);
        let result = self.root.call(&whereabouts, |flow| fence::call(|| reacted(flow, &mut cx)));
        let Some(scope) = leave() else { return };
        let wake = cx.wake_in.map_or(Wake::None, Wake::In);
        cycle.wake.insert(path.clone(), wake);
        if let Some(entry) = self.tree.flow_mut(id) {
            entry.cx = Some(cx);
        }
        self.carry_out(id, scope, cycle);
        match result {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => self.fail(id, described(&error), cycle),
            Some(Err(panic)) => self.fail(id, panic.to_string(), cycle),
        }
    }

    fn fail(&mut self, id: FlowId, message: String, cycle: &mut Cycle) {
        let Some(entry) = self.tree.flow_mut(id) else { return };
        entry.life = FlowLife::Failed;
        cycle.failed.insert(entry.link.path.clone(), message);
    }

    fn carry_out(&mut self, flow: FlowId, scope: Scope, cycle: &mut Cycle) {
        let Scope { lent, problems, tree_changed, .. } = scope;
        let is_moved = lent.iter().any(|(child, _)| self.has_other_children(*child))
            || self.tree.has_strays() && self.has_other_children(flow);
        let walked = if tree_changed || is_moved { self.walk(cycle) } else { Vec::new() };
        for (child, before) in lent {
            self.note_write(child, before, cycle);
        }
        for problem in problems.iter().chain(&walked) {
            self.fail(flow, chain(problem), cycle);
        }
    }

    fn has_other_children(&mut self, id: FlowId) -> bool {
        let found = self.whereabouts(id).and_then(|whereabouts| self.root.children_from(&whereabouts));
        let known = |flow: FlowId| self.tree.flow(flow).map(|entry| &entry.children);
        found.is_none_or(|found| found.iter().any(|(flow, children)| known(*flow) != Some(children)))
    }

    fn note_write(&mut self, child: FlowId, before: Option<Value>, cycle: &mut Cycle) {
        let Some(whereabouts) = self.whereabouts(child) else { return };
        let after = self.root.call(&whereabouts, |flow| flow.state().ok());
        if after.is_some_and(|after| after != before) {
            self.mark_up(child, cycle);
        }
    }

    /// Lets children join and leave. Returns the errors.
    fn walk(&mut self, cycle: &mut Cycle) -> Vec<FlowError> {
        let changes = self.root.walk(&mut self.tree, &self.config, cycle.now.wall);
        for id in changes.left {
            if let Some(record) = self.tree.work(id) {
                cycle.left.insert(record.lock().path.clone());
            }
            self.tree.remove(id);
        }
        for id in changes.flows_left {
            if let Some(entry) = self.tree.remove_flow(id) {
                cycle.due.remove(id, entry.depth);
                cycle.left.insert(entry.link.path.clone());
            }
        }
        for id in changes.joined {
            let Some(record) = self.tree.work(id).cloned() else { continue };
            let mut record = record.lock();
            record.ledger.start(cycle.now);
            cycle.before.insert(id, Image::new());
            cycle.joined.insert(record.path.clone());
            let owner = record.owner;
            drop(record);
            self.mark_up(owner, cycle);
        }
        for id in changes.flows_joined {
            if let Some(entry) = self.tree.flow(id) {
                cycle.joined.insert(entry.link.path.clone());
            }
            self.mark_up(id, cycle);
        }
        changes.errors
    }

    /// Reads what the Flows asked for.
    fn decisions(
        &self,
        scene: &Scene,
        cycle: Cycle,
        back: &dyn Fn(&ActorPath) -> ActorPath,
    ) -> BTreeMap<ActorPath, Decision> {
        let Cycle { failed, wake, joined, left, before, .. } = cycle;
        let mut decisions: BTreeMap<ActorPath, Decision> = BTreeMap::new();
        let mut flows = scene.flows.clone();
        flows.extend(self.tree.flows().map(|(_, entry)| back(&entry.link.path)));
        let mut add = |ask: Ask, input| {
            let (Ask::Work(path, _) | Ask::Joined(path) | Ask::Left(path)) = &ask;
            let owner = owner(&flows, path);
            decisions.entry(owner).or_default().asks.insert(ask, input);
        };
        if !scene.is_start {
            // One that has joined and left meanwhile is not recorded; one that was replaced has left and joined.
            let was_there = |path: &&ActorPath| scene.live.actors.contains_key(&back(path));
            left.iter().filter(was_there).for_each(|path| add(Ask::Left(back(path)), None));
            let is_there: HashSet<_> = self.paths().collect();
            let stays = joined.iter().filter(|path| is_there.contains(*path));
            stays.for_each(|path| add(Ask::Joined(back(path)), None));
        }
        for id in self.tree.order() {
            let (Some(shared), Some(before)) = (self.tree.work(*id), before.get(id)) else { continue };
            let mut record = shared.lock();
            let path = back(&record.path);
            let is_everything = record.ledger.policy().remember.is_everything();
            for (asked, input) in asked(before, &record.ledger.take_facts()) {
                // A ledger with a limit forgets by itself.
                let is_of_flow = is_everything || !matches!(asked, crate::flow::Asked::Forget(_));
                let is_new =
                    joined.contains(&record.path) || scene.is_start && !scene.live.actors.contains_key(&path);
                let ask = Ask::Work(path.clone(), asked);
                let is_life = matches!(asked, crate::flow::Asked::Stop | crate::flow::Asked::Start);
                if is_of_flow && !(is_new && is_life) && !is_hidden(&scene.commanded, &ask) {
                    add(ask, input);
                }
            }
        }
        for (path, wake) in wake {
            decisions.entry(back(&path)).or_default().wake = wake;
        }
        for (path, message) in failed {
            let decision = decisions.entry(back(&path)).or_default();
            (decision.failed, decision.wake) = (Some(message), Wake::Unknown);
        }
        decisions
    }

    /// Iterates over the paths of all children.
    fn paths(&self) -> impl Iterator<Item = ActorPath> {
        let flows = self.tree.flows().map(|(_, entry)| entry.link.path.clone());
        self.tree.members().map(|record| record.lock().path.clone()).chain(flows)
    }
}
