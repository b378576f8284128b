//! The recorded reactions: what each Flow saw, and what it asked for.
//!
//! A transaction has what the Works reported in a cycle and what the Flows decided then. That a Flow reacted is not
//! recorded: it did if something below it has news, if it decided something, or if its own facts have changed.
//!
//! # Guarantees
//! - The live data of a [`Scene`] are those before the reactions of the transaction, with the news that the Flows saw.
//! - A Flow whose state, or the state of an actor below it, is not recorded for this transaction alone is no part of
//!   the comparison, and is counted. So is one of which a Work has left that may have reported the end of a run.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::recording::{CHILDREN, FACTS, FlowRow, LifeRow, SETTINGS};
use crate::flow::{Asked, Fact, Image, ImageReader, RowError, asked, decoded, has_other_life};
use crate::id::ActorPath;
use crate::journal::{Change, HistoryEntry, Live, LiveActor, RecordedTransaction, Table};
use crate::printable::chain;
use crate::work::Stage;

/// The largest difference of two wake-ups that count as equal: a transaction is made some time after its reactions.
const CLOSE: Duration = Duration::from_secs(1);

/// A request of a Flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ask {
    Work(ActorPath, Asked),
    /// A child joined.
    Joined(ActorPath),
    /// A child left.
    Left(ActorPath),
}

/// The wake-up that a Flow asked for, after a reaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wake {
    #[default]
    None,
    In(Duration),
    /// It is not recorded.
    Unknown,
}

/// All that a Flow asked for in a cycle.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Decision {
    /// With the encoded inputs of runs.
    pub(crate) asks: BTreeMap<Ask, Option<Bytes>>,
    pub(crate) wake: Wake,
    /// Message of the failure of the reaction.
    pub(crate) failed: Option<String>,
}

/// A part of what a Flow asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Ask(Ask, Option<Bytes>),
    Wake(Duration),
    Failed(String),
}

/// The parts of two decisions that differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Differing {
    pub(crate) then_only: Vec<Part>,
    pub(crate) now_only: Vec<Part>,
}

impl Differing {
    pub(crate) fn is_empty(&self) -> bool {
        self.then_only.is_empty() && self.now_only.is_empty()
    }
}

impl Decision {
    /// Returns what only one of two decisions has. Messages of failures are not compared.
    pub(crate) fn differing(then: &Self, now: &Self) -> Differing {
        let only = |one: &Self, other: &Self| {
            let asks = one.asks.iter().filter(|(ask, _)| !other.asks.contains_key(ask));
            let mut parts: Vec<_> = asks.map(|(ask, input)| Part::Ask(ask.clone(), input.clone())).collect();
            match (one.wake, other.wake) {
                (Wake::In(one), Wake::In(other)) if one.abs_diff(other) > CLOSE => {
                    parts.push(Part::Wake(one))
                }
                (Wake::In(one), Wake::None) => parts.push(Part::Wake(one)),
                _ => {}
            }
            if let (Some(message), None) = (&one.failed, &other.failed) {
                parts.push(Part::Failed(message.clone()));
            }
            parts
        };
        Differing { then_only: only(then, now), now_only: only(now, then) }
    }
}

/// A Flow of a scene whose reaction cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// States of one commit were recorded together, or a Work has left with its last run.
    Unrecorded,
    Unreadable(String),
}

/// The reactions of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    pub(crate) position: u64,
    /// Time since the start of the App.
    pub(crate) at: Duration,
    pub(crate) wall: Option<SystemTime>,
    /// True for the first transaction after a start: all Flows react.
    pub(crate) is_start: bool,
    /// The live data that the Flows saw. Empty if the App began with this transaction.
    pub(crate) live: Live,
    /// The images that the Flows saw of the Works with news.
    pub(crate) images: HashMap<ActorPath, Image>,
    /// The Flows that reacted, by path, with what they asked for.
    pub(crate) then: BTreeMap<ActorPath, Decision>,
    pub(crate) unknown: BTreeMap<ActorPath, Unknown>,
    /// Works of which it cannot be told whether their Flow asked them to stop or to start.
    pub(crate) commanded: HashSet<ActorPath>,
    /// All Flows, to find the one that an actor belongs to.
    pub(crate) flows: BTreeSet<ActorPath>,
}

impl Scene {
    /// Returns the Flow that a Work or Flow belongs to.
    pub(crate) fn owner(&self, path: &ActorPath) -> ActorPath {
        owner(&self.flows, path)
    }
}

/// Returns the Flow above an actor.
pub(crate) fn owner(flows: &BTreeSet<ActorPath>, path: &ActorPath) -> ActorPath {
    let mut above = path.as_str();
    while let Some((shorter, _)) = above.rsplit_once('.') {
        let flow = ActorPath::from(shorter);
        if flows.contains(&flow) {
            return flow;
        }
        above = shorter;
    }
    ActorPath::root()
}

/// The rows of a transaction about one actor.
#[derive(Default)]
struct OfActor {
    facts: Vec<Fact>,
    flow: Option<FlowRow>,
    has_settings: bool,
    has_children: bool,
    has_state: bool,
    has_left: bool,
    error: Option<RowError>,
}

impl OfActor {
    fn row(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), RowError> {
        match (table, value) {
            (Table::Work, Some(_)) if key == SETTINGS => self.has_settings = true,
            (Table::Flow, Some(_)) if key == CHILDREN => self.has_children = true,
            (Table::Flow, Some(value)) if key == FACTS => self.flow = Some(decoded(table, value)?),
            _ => self.facts.extend(Fact::from_row(table, key, value)?),
        }
        Ok(())
    }

    fn add(&mut self, change: &Change) {
        let read = match change {
            Change::Put { table, key, value, .. } => self.row(*table, key, Some(value)),
            Change::Delete { table, key, .. } => self.row(*table, key, None),
            Change::State { .. } | Change::Patch { .. } => {
                self.has_state = true;
                Ok(())
            }
            Change::Left { .. } => {
                *self = Self { has_left: true, ..Self::default() };
                Ok(())
            }
        };
        if let Err(error) = read {
            self.error.get_or_insert(error);
        }
    }

    fn is_flow(&self) -> bool {
        self.flow.is_some() || self.has_children
    }

    /// Returns true if a Flow above a Work with these facts has something to react to, or has decided something.
    fn has_news(&self) -> bool {
        let is_news = |fact: &Fact| {
            !matches!(
                fact,
                Fact::Work(_) | Fact::Step { .. } | Fact::StepsForgotten { .. } | Fact::Waits { .. }
            )
        };
        self.has_state || self.has_left || self.facts.iter().any(is_news)
    }
}

fn is_flow(actor: &LiveActor) -> bool {
    actor.rows.contains_key(&Table::Flow)
}

/// Reads the image of a recorded Work.
fn image_of(actor: Option<&LiveActor>) -> Result<Image, RowError> {
    let mut reader = ImageReader::new();
    for (table, rows) in actor.map(|actor| &actor.rows).into_iter().flatten() {
        for (key, value) in rows.iter().filter(|(key, _)| *table != Table::Work || key != SETTINGS) {
            reader.read(*table, key, value)?;
        }
    }
    Ok(reader.finish())
}

fn flow_row(live: &Live, path: &ActorPath) -> Option<FlowRow> {
    let rows = live.actors.get(path)?.rows.get(&Table::Flow)?;
    let (_, value) = rows.iter().find(|(key, _)| key == FACTS)?;
    decoded(Table::Flow, value).ok()
}

/// Turns the history, group by group from a position whose live data are known, into scenes.
pub(crate) struct Reactions {
    live: Live,
    /// The positions of the first transactions after a start.
    starts: HashSet<u64>,
}

impl Reactions {
    /// `live` are the live data before the first group that is given.
    pub(crate) fn new(live: Live, starts: impl IntoIterator<Item = u64>) -> Self {
        Self { live, starts: starts.into_iter().collect() }
    }

    /// Adds the next group, and calls `scene` for each transaction from the position `from` in which Flows reacted.
    ///
    /// # Errors
    /// A description of a change that does not fit.
    pub(crate) fn add(
        &mut self,
        entry: &HistoryEntry,
        from: u64,
        mut scene: impl FnMut(Scene),
    ) -> Result<(), String> {
        // Actors whose states are recorded with a later transaction of the group.
        let mut merged: HashSet<ActorPath> = HashSet::new();
        for transaction in &entry.transactions {
            let before = merged.clone();
            merged.extend(transaction.merged.iter().cloned());
            for change in &transaction.changes {
                if let Change::State { path, .. } | Change::Patch { path, .. } = change {
                    merged.remove(path);
                }
            }
            if transaction.position >= from
                && let Some(made) = self.scene(transaction, &before, &merged)
            {
                scene(made);
            }
            for change in &transaction.changes {
                self.live.apply(change).map_err(|error| {
                    format!("position {}: `{}`: {}", transaction.position, change.path(), chain(&error))
                })?;
            }
        }
        Ok(())
    }

    fn scene(
        &self,
        transaction: &RecordedTransaction,
        merged_before: &HashSet<ActorPath>,
        merged: &HashSet<ActorPath>,
    ) -> Option<Scene> {
        let mut actors: BTreeMap<&ActorPath, OfActor> = BTreeMap::new();
        for change in &transaction.changes {
            actors.entry(change.path()).or_default().add(change);
        }
        for path in &transaction.merged {
            actors.entry(path).or_default().has_state = true;
        }
        let known = &self.live.actors;
        let mut made = Scene {
            position: transaction.position,
            at: transaction.at,
            wall: Some(transaction.wall),
            is_start: self.starts.contains(&transaction.position) || known.is_empty(),
            live: self.live.clone(),
            ..Scene::default()
        };
        let flows = known.iter().filter(|(_, actor)| is_flow(actor)).map(|(path, _)| path);
        made.flows = flows
            .chain(actors.iter().filter(|(_, actor)| actor.is_flow()).map(|(path, _)| *path))
            .cloned()
            .collect();
        let due = made.due(&actors);
        made.see(transaction, &actors, known);
        made.then = due.into_iter().map(|path| (path, Decision::default())).collect();
        made.decide(&actors, known);
        made.wake(&actors);
        made.exclude(&actors, merged_before, merged);
        (!made.then.is_empty()).then_some(made)
    }
}

impl Scene {
    /// Returns the Flows that have reacted.
    fn due(&self, actors: &BTreeMap<&ActorPath, OfActor>) -> BTreeSet<ActorPath> {
        let mut due = BTreeSet::new();
        let mut mark = |mut flow: ActorPath| loop {
            let above = (!flow.is_root()).then(|| self.owner(&flow));
            due.insert(flow);
            match above {
                Some(above) => flow = above,
                None => break,
            }
        };
        if self.is_start {
            self.flows.iter().cloned().for_each(&mut mark);
        }
        for (path, actor) in actors {
            if self.flows.contains(*path) {
                mark((*path).clone());
            } else if actor.has_news() {
                mark(self.owner(path));
            }
        }
        // A Flow that has failed, or waits for its restart, does not react. One that fails in its reaction does.
        due.retain(|path| {
            let row = actors.get(path).and_then(|actor| actor.flow.as_ref().map(|row| row.life));
            let before = flow_row(&self.live, path).map(|row| row.life);
            let is_up = |life: LifeRow| matches!(life, LifeRow::Up);
            match (before, row) {
                (_, Some(life)) if is_up(life) => true,
                (Some(life), Some(_)) if is_up(life) => !self.has_failed_below(path, actors),
                (Some(life), None) => is_up(life),
                (None, None) => true,
                _ => false,
            }
        });
        due
    }

    fn has_failed_below(&self, flow: &ActorPath, actors: &BTreeMap<&ActorPath, OfActor>) -> bool {
        let is_failure =
            |fact: &Fact| matches!(fact, Fact::Recorded(status) if status.stage == Stage::Failed);
        let is_below = |path: &ActorPath| {
            flow.is_root()
                || path.as_str().strip_prefix(flow.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        actors.iter().any(|(path, actor)| is_below(path) && actor.facts.iter().any(is_failure))
    }

    /// Adds the news to the live data.
    fn see(
        &mut self,
        transaction: &RecordedTransaction,
        actors: &BTreeMap<&ActorPath, OfActor>,
        known: &BTreeMap<ActorPath, LiveActor>,
    ) {
        for change in &transaction.changes {
            let (Change::State { path, .. } | Change::Patch { path, .. }) = change else { continue };
            let is_work = known.get(path).is_some_and(|actor| actor.rows.contains_key(&Table::Work));
            let has_joined = actors.get(path).is_some_and(|actor| actor.has_settings || actor.has_left);
            if is_work && !has_joined && self.live.apply(change).is_err() {
                self.unknown
                    .insert(self.owner(path), Unknown::Unreadable("its state cannot be read".to_owned()));
            }
        }
        // A Flow that was restarted was so before it reacted.
        for (path, actor) in actors {
            if let Some(row) = actor.flow.as_ref().filter(|row| matches!(row.life, LifeRow::Up))
                && let Some(before) = flow_row(&self.live, path)
                && !matches!(before.life, LifeRow::Up)
            {
                let row = FlowRow { life: row.life, status: row.status.clone(), ..before };
                let (path, value) = ((*path).clone(), crate::flow::encoded(&row));
                let put = Change::Put { path, table: Table::Flow, key: FACTS.to_vec(), value };
                // A row fits in any case.
                let _ = self.live.apply(&put);
            }
        }
    }

    /// Sorts the facts of the transaction into what the Flows saw and what they asked for.
    fn decide(&mut self, actors: &BTreeMap<&ActorPath, OfActor>, known: &BTreeMap<ActorPath, LiveActor>) {
        for (path, actor) in actors {
            let owner = self.owner(path);
            if let Some(error) = &actor.error {
                let flow = if self.flows.contains(*path) { (*path).clone() } else { owner };
                self.unknown.insert(flow, Unknown::Unreadable(chain(error)));
                continue;
            }
            let was_there = known.contains_key(*path);
            let has_joined = actor.has_settings || actor.has_children || actor.flow.is_some();
            let mut asks = Vec::new();
            if !self.is_start && !path.is_root() {
                if actor.has_left && was_there {
                    asks.push((Ask::Left((*path).clone()), None));
                    // What a Work has reported is not recorded if it leaves in the same cycle.
                    if image_of(known.get(*path)).is_ok_and(|image| image.has_runs()) {
                        self.unknown.insert(owner.clone(), Unknown::Unrecorded);
                    }
                }
                if has_joined && (actor.has_left || !was_there) {
                    asks.push((Ask::Joined((*path).clone()), None));
                }
            }
            if !self.flows.contains(*path) && !actor.facts.is_empty() {
                let stays = was_there && !actor.has_left;
                match image_of(known.get(*path).filter(|_| stays)) {
                    Ok(before) => {
                        let all = asked(&before, &actor.facts);
                        asks.extend(
                            all.into_iter().map(|(asked, input)| (Ask::Work((*path).clone(), asked), input)),
                        );
                        if has_other_life(&before, &actor.facts) || !stays {
                            self.commanded.insert((*path).clone());
                        }
                        if stays {
                            self.images.insert((*path).clone(), before.seen(&actor.facts, self.at));
                        }
                    }
                    Err(error) => {
                        drop(self.unknown.insert(owner.clone(), Unknown::Unreadable(chain(&error))))
                    }
                }
            }
            let commanded = &self.commanded;
            if let Some(decision) = self.then.get_mut(&owner) {
                decision.asks.extend(asks.into_iter().filter(|(ask, _)| !is_hidden(commanded, ask)));
            }
        }
    }

    /// Adds the wake-ups and failures.
    fn wake(&mut self, actors: &BTreeMap<&ActorPath, OfActor>) {
        for (path, decision) in &mut self.then {
            let now = actors.get(path).and_then(|actor| actor.flow.as_ref());
            let before = flow_row(&self.live, path);
            decision.wake = match (now, &before) {
                (Some(row), _) => row.wake_at.map_or(Wake::None, |at| Wake::In(at.saturating_sub(self.at))),
                (None, Some(FlowRow { wake_at: Some(_), .. })) => Wake::Unknown,
                (None, _) => Wake::None,
            };
            if let Some(row) = now.filter(|row| !matches!(row.life, LifeRow::Up)) {
                let message = row.status.message.clone();
                decision.failed = Some(message.unwrap_or_else(|| "it failed".to_owned()));
                decision.wake = Wake::Unknown;
            }
        }
    }

    /// Takes out the Flows whose states, or those below them, are not known.
    fn exclude(
        &mut self,
        actors: &BTreeMap<&ActorPath, OfActor>,
        before: &HashSet<ActorPath>,
        merged: &HashSet<ActorPath>,
    ) {
        let is_flow =
            |path: &&ActorPath| self.flows.contains(*path) || actors.get(*path).is_some_and(OfActor::is_flow);
        let of_flows = before.iter().filter(is_flow).cloned();
        let of_works = merged.iter().filter(|path| !is_flow(path)).map(|path| self.owner(path));
        let mut unknown: Vec<(ActorPath, Unknown)> =
            of_flows.chain(of_works).map(|flow| (flow, Unknown::Unrecorded)).collect();
        unknown.extend(std::mem::take(&mut self.unknown));
        for (flow, why) in unknown {
            let mut next = Some(flow);
            while let Some(flow) = next.take() {
                next = (!flow.is_root()).then(|| self.owner(&flow));
                if self.then.contains_key(&flow) {
                    self.unknown.insert(flow, why.clone());
                }
            }
        }
    }
}

/// Returns true for a request that cannot be told from what others have done.
pub(crate) fn is_hidden(commanded: &HashSet<ActorPath>, ask: &Ask) -> bool {
    matches!(ask, Ask::Work(path, Asked::Stop | Asked::Start) if commanded.contains(path))
}

#[cfg(test)]
#[path = "reactions_tests.rs"]
mod tests;
