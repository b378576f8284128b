//! The planner: which allocations are requested, drained and ended (pure: no engine, no clock, no randomness of its own).
//!
//! Its inputs are the demand of waiting Works, the nodes of the App, the answers and lists of the engines, and the time; its
//! outputs are [`PlanAction`]s. Time is measured from any fixed moment.
//!
//! # Guarantees
//! - A group never has more allocations than `most`, and never more than `backlog` that wait at the engine. Until the first
//!   list of its engine has arrived, nothing is requested: an earlier head may have left allocations.
//! - Demand is first put into the free room of nodes and into allocations that are on their way, and only then into new ones
//!   of the first group that fits.
//! - A node leaves when nothing has needed it for `idle`, when its allocation is about to end, or when it is told to. The
//!   engine is told to end an allocation only if its node has not joined in time, does not leave in time, or is gone.
//! - An allocation counts as present until two lists of the engine that began after the answer to its request do not show
//!   it, and its node is not in the App.
//! - A group whose allocations fail is retried as its [`Breaker`] says. The ends of allocations that were preempted, that
//!   reached their time limit or were ended on purpose are no failures.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use super::allocation::{Allocation, Stage};
use super::breaker::{Breaker, PROVED};
use super::engine::{AllocationEnd, EngineError, Listed, ListedStage};
use super::key::Key;
use super::limits::Limits;
use super::packing::{Bin, fitting, free};
use crate::work::{Demand, GROUP_LABEL, NodeRoom, Resources};

/// Time that a node gets to leave beyond the time to drain.
const SLACK: Duration = Duration::from_secs(60);

/// Interval at which the engine is told again to end an allocation that it still lists.
const END_AGAIN: Duration = Duration::from_secs(30);

/// Pause of a group whose quota is used up.
const QUOTA_PAUSE: Duration = Duration::from_secs(30);

/// Number of lists without an allocation after which it has ended.
const UNSEEN: u32 = 2;

/// An action that the planner has decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PlanAction {
    /// Request one allocation for each key. Answered by [`Planner::answered`].
    Submit { group: String, keys: Vec<Key> },
    /// Send the node of an allocation away; with `if_idle` only if it has no Work.
    Drain { key: Key, why: String, if_idle: bool },
    /// Have the engine end allocations.
    End { group: String, keys: Vec<Key> },
    /// Find the last lines of the output of an allocation that has failed. Answered by [`Planner::explained`].
    Explain { key: Key },
}

/// The planner of all groups.
pub(crate) struct Planner {
    groups: BTreeMap<String, Group>,
    /// The order of the groups in the configuration.
    order: Vec<String>,
    /// The state of the generator of keys.
    random: u64,
    /// The reasons why Works wait, as far as the groups have to do with it.
    reasons: BTreeMap<Demand, String>,
    /// Failed allocations whose output is to be read.
    to_explain: Vec<Key>,
    /// Allocations of groups that are not configured any more, each with a group of the engine that has it.
    strays: Vec<(String, Key)>,
}

/// A group and its allocations.
struct Group {
    limits: Limits,
    allocations: BTreeMap<Key, Allocation>,
    breaker: Breaker,
    /// True once a list of the engine has arrived.
    is_listed: bool,
    /// The reason for which somebody, or a refusal of the engine, has paused the group.
    paused: Option<String>,
    /// The time until which a quota is used up, and the words of the engine.
    quota: Option<(Duration, String)>,
    /// The words of the engine when it last gave no answer.
    unreachable: Option<String>,
    /// The time of nodes of ended allocations without Works.
    idle: Duration,
}

/// Numbers of allocations of a group.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    usable: usize,
    waiting: usize,
    /// Usable allocations that have not lived for long enough to count as working.
    unproved: usize,
    /// Allocations among them that are to be requested now.
    new: usize,
}

impl Counts {
    fn add(&mut self) {
        for count in [&mut self.all, &mut self.usable, &mut self.waiting, &mut self.unproved, &mut self.new] {
            *count += 1;
        }
    }
}

/// A group as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupView {
    pub(crate) name: String,
    pub(crate) least: usize,
    pub(crate) most: usize,
    pub(crate) brings: Resources,
    /// The reason for which nothing is requested, if nothing is.
    pub(crate) paused: Option<String>,
    /// A problem with the engine or with allocations that failed.
    pub(crate) problem: Option<String>,
    /// The time for which nodes of the group had no Work, all together.
    pub(crate) idle: Duration,
    pub(crate) allocations: Vec<AllocationView>,
}

impl GroupView {
    /// Returns true if another view differs in times only.
    pub(super) fn shows_as(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&AllocationView, &AllocationView)| {
            (&a.key, &a.id, a.stage, &a.words, &a.at, a.works)
                == (&b.key, &b.id, b.stage, &b.words, &b.at, b.works)
        };
        self.paused == other.paused
            && self.problem.is_some() == other.problem.is_some()
            && self.allocations.len() == other.allocations.len()
            && self.allocations.iter().zip(&other.allocations).all(is_same)
    }
}

/// An allocation as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AllocationView {
    pub(crate) key: String,
    pub(crate) id: Option<String>,
    pub(crate) stage: &'static str,
    /// The time in this stage.
    pub(crate) for_: Duration,
    /// The engine's reason for which it waits.
    pub(crate) words: String,
    pub(crate) at: Option<String>,
    pub(crate) ends_in: Option<Duration>,
    pub(crate) works: usize,
}

impl Planner {
    /// Creates a planner of these groups, in the order in which they are tried. `random` is the seed of the keys.
    pub(crate) fn new(groups: impl IntoIterator<Item = (String, Limits)>, random: u64) -> Self {
        let mut order = Vec::new();
        let groups = groups.into_iter().map(|(name, limits)| {
            order.push(name.clone());
            (name, Group::new(limits))
        });
        let groups = groups.collect();
        Self { groups, order, random, reasons: BTreeMap::new(), to_explain: Vec::new(), strays: Vec::new() }
    }

    /// Decides what is to be done now.
    pub(crate) fn plan(
        &mut self,
        now: Duration,
        demand: &BTreeMap<Demand, usize>,
        nodes: &[NodeRoom],
    ) -> Vec<PlanAction> {
        let mut actions = Vec::new();
        self.observe(now, nodes);
        let left = self.pack(now, demand, nodes);
        self.request(now, demand, left, &mut actions);
        for (name, group) in &mut self.groups {
            group.release(name, now, &mut actions);
        }
        let mut strays: BTreeMap<String, Vec<Key>> = BTreeMap::new();
        for (group, key) in self.strays.drain(..) {
            strays.entry(group).or_default().push(key);
        }
        actions.extend(strays.into_iter().map(|(group, keys)| PlanAction::End { group, keys }));
        actions.extend(self.to_explain.drain(..).map(|key| PlanAction::Explain { key }));
        actions
    }

    /// Returns the time at which a plan may decide differently though nothing else has happened.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        self.groups.values().flat_map(|group| group.moments(now)).min()
    }

    /// Returns true while the engine of this group has to be asked for its allocations: before the first list, and
    /// while there is an allocation.
    pub(crate) fn wants_list(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|group| !group.is_listed || !group.allocations.is_empty())
    }

    /// Takes the answer to the request of an allocation.
    pub(crate) fn answered(&mut self, now: Duration, key: &Key, answer: Result<(), EngineError>) {
        let Some(group) = self.groups.get_mut(key.group()) else { return };
        let Some(allocation) = group.allocations.get_mut(key) else { return };
        allocation.answered = Some(now);
        match answer {
            Ok(()) => {
                group.unreachable = None;
                if matches!(allocation.stage, Stage::Requested | Stage::Unknown) {
                    allocation.enter(Stage::Queued, now);
                }
            }
            Err(EngineError::Unreachable(why)) => {
                group.unreachable = Some(why);
                if allocation.stage == Stage::Requested {
                    allocation.enter(Stage::Unknown, now);
                }
            }
            Err(EngineError::Quota(why)) => {
                group.allocations.remove(key);
                group.quota = Some((now + QUOTA_PAUSE, why));
            }
            Err(EngineError::Refused(why)) => {
                group.allocations.remove(key);
                group.paused = Some(why);
            }
        }
    }

    /// Records that the node of an allocation was not sent away, because it has got a Work.
    pub(crate) fn stays(&mut self, now: Duration, key: &Key) {
        let group = self.groups.get_mut(key.group());
        let allocation = group.and_then(|group| group.allocations.get_mut(key));
        if let Some(allocation) = allocation.filter(|allocation| allocation.stage == Stage::Leaving) {
            allocation.unneeded_since = None;
            allocation.enter(Stage::Joined, now);
        }
    }

    /// Takes a list of these groups, which one engine has made, that was asked for at `asked`. `wall` is the time now by the
    /// wall clock.
    pub(crate) fn listed(
        &mut self,
        (now, wall): (Duration, SystemTime),
        asked: Duration,
        groups: &[String],
        list: Result<Vec<Listed>, EngineError>,
    ) {
        let list = match list {
            Ok(list) => list,
            Err(error) => {
                let words = error.to_string();
                for name in groups {
                    if let Some(group) = self.groups.get_mut(name) {
                        group.unreachable = Some(words.clone());
                    }
                }
                return;
            }
        };
        let mut by_group: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
        for listed in &list {
            by_group.entry(listed.key.group()).or_default().push(listed);
            let is_over = matches!(listed.stage, ListedStage::Ended { .. });
            let is_ours = groups.iter().any(|group| group == listed.key.group());
            if let Some(group) = groups.first().filter(|_| !is_over && !is_ours) {
                self.strays.push((group.clone(), listed.key.clone()));
            }
        }
        for name in groups {
            let Some(group) = self.groups.get_mut(name) else { continue };
            (group.is_listed, group.unreachable) = (true, None);
            let listed = by_group.remove(name.as_str()).unwrap_or_default();
            group.listed((now, wall), asked, &listed, &mut self.to_explain);
        }
    }

    /// Takes the last lines of the output of an allocation that has failed.
    pub(crate) fn explained(&mut self, key: &Key, output: &str) {
        if let Some(group) = self.groups.get_mut(key.group()) {
            group.breaker.explain(output);
        }
    }

    /// Requests nothing more for a group. Returns false if there is no such group.
    pub(crate) fn pause(&mut self, group: &str, why: &str) -> bool {
        self.groups.get_mut(group).map(|group| group.paused = Some(why.to_owned())).is_some()
    }

    /// Goes on with a group that was paused, by whatever. Returns false if there is no such group.
    pub(crate) fn resume(&mut self, group: &str) -> bool {
        let Some(group) = self.groups.get_mut(group) else { return false };
        (group.paused, group.quota) = (None, None);
        group.breaker.clear();
        true
    }

    /// Ends an allocation: drains its node if it has one. Returns the action; `None` if there is no such allocation.
    pub(crate) fn end(&mut self, now: Duration, key: &Key) -> Option<PlanAction> {
        let allocation = self.groups.get_mut(key.group())?.allocations.get_mut(key)?;
        allocation.is_end_wanted = true;
        Some(match allocation.stage {
            Stage::Joined | Stage::Leaving => {
                allocation.enter(Stage::Leaving, now);
                let why = "somebody has ended its allocation".to_owned();
                PlanAction::Drain { key: key.clone(), why, if_idle: false }
            }
            _ => {
                allocation.enter(Stage::Ending, now);
                allocation.end_told = Some(now);
                PlanAction::End { group: key.group().to_owned(), keys: vec![key.clone()] }
            }
        })
    }

    /// Returns the keys of all allocations, by group, for the end of the App.
    pub(crate) fn all(&self) -> BTreeMap<String, Vec<Key>> {
        let keys = |group: &Group| group.allocations.keys().cloned().collect::<Vec<_>>();
        let all = self.groups.iter().map(|(name, group)| (name.clone(), keys(group)));
        all.filter(|(_, keys)| !keys.is_empty()).collect()
    }

    /// Returns the reasons why Works wait, by their demand, as far as the groups have to do with it.
    pub(crate) fn reasons(&self) -> &BTreeMap<Demand, String> {
        &self.reasons
    }

    /// Returns what is shown of the groups, in their order.
    pub(crate) fn views(&self, now: Duration) -> Vec<GroupView> {
        self.order.iter().map(|name| self.groups[name].view(name, now)).collect()
    }

    /// Brings the allocations up to date with the nodes of the App.
    fn observe(&mut self, now: Duration, nodes: &[NodeRoom]) {
        let mut present = HashSet::new();
        for node in nodes {
            let Some(key) = key_of(node) else { continue };
            let Some(group) = self.groups.get_mut(key.group()) else { continue };
            let allocation = group.allocations.entry(key.clone()).or_insert_with(|| Allocation::adopted(now));
            allocation.node_is_here(node, now);
            if allocation.is_proved() {
                group.breaker.proved(allocation.requested);
            }
            present.insert(key);
        }
        for group in self.groups.values_mut() {
            group.quota.take_if(|(until, _)| *until <= now);
            let away = group.allocations.iter_mut().filter(|(key, _)| !present.contains(*key));
            away.for_each(|(_, allocation)| allocation.node_is_away(now));
        }
    }

    /// Puts the demand into nodes and into allocations that are on their way, and records which of them are needed. Returns
    /// the rest, largest first.
    fn pack(
        &mut self,
        now: Duration,
        demand: &BTreeMap<Demand, usize>,
        nodes: &[NodeRoom],
    ) -> Vec<(Demand, usize)> {
        let (needed, left) = {
            let mut bins: Vec<(Bin<'_>, Option<Key>)> = Vec::new();
            for node in nodes.iter().filter(|node| !node.is_leaving) {
                let key = key_of(node);
                let group = key.as_ref().and_then(|key| self.groups.get(key.group()));
                let of_fleet = group.zip(key.as_ref());
                let allocation = of_fleet.and_then(|(group, key)| group.allocations.get(key));
                if allocation.is_some_and(|allocation| allocation.stage != Stage::Joined) {
                    continue;
                }
                let drain = group.map_or(Duration::ZERO, |group| group.limits.drain);
                let ends_in = match allocation {
                    Some(allocation) => allocation.ends_at.map(|at| at.saturating_sub(now)),
                    None => node.ends_in,
                };
                let bin = Bin {
                    name: &node.name,
                    labels: &node.labels,
                    free: free(node.resources, node.used),
                    lasts: ends_in.map(|ends_in| ends_in.saturating_sub(drain)),
                    is_needed: node.works > 0,
                };
                bins.push((bin, key));
            }
            // Nodes with Works first, so that others become idle; then allocations in the order of their progress.
            bins.sort_by_key(|(bin, _)| !bin.is_needed);
            let mut coming: Vec<_> = self.groups.values().flat_map(Group::coming).collect();
            coming.sort_by_key(|(_, _, allocation)| (allocation.stage.is_waiting(), allocation.requested));
            for (limits, key, allocation) in coming {
                let lasts = allocation.ends_at.map(|at| at.saturating_sub(now)).or(limits.time);
                let bin = Bin {
                    name: key.as_str(),
                    labels: &limits.labels,
                    free: limits.brings,
                    lasts: lasts.map(|lasts| lasts.saturating_sub(limits.drain)),
                    is_needed: false,
                };
                bins.push((bin, Some(key.clone())));
            }
            let mut left = Vec::new();
            for (demand, count) in demand {
                let mut count = *count;
                for (bin, _) in &mut bins {
                    count = bin.put(demand, count);
                    if count == 0 {
                        break;
                    }
                }
                if count > 0 {
                    left.push((*demand, count));
                }
            }
            let needed = bins.into_iter().filter(|(bin, _)| bin.is_needed).filter_map(|(_, key)| key);
            (needed.collect::<HashSet<_>>(), left)
        };
        for group in self.groups.values_mut() {
            group.mark_needed(&needed, now);
        }
        left
    }

    /// Requests allocations for the demand that is left, and records why the others wait.
    fn request(
        &mut self,
        now: Duration,
        demand: &BTreeMap<Demand, usize>,
        left: Vec<(Demand, usize)>,
        actions: &mut Vec<PlanAction>,
    ) {
        let mut counts: BTreeMap<&String, Counts> =
            self.groups.iter().map(|(name, group)| (name, group.counts())).collect();
        // The free room of the nodes that are requested now, which smaller demands use as well.
        let mut rooms: Vec<(usize, Resources)> = Vec::new();
        for (demand, mut count) in left {
            if demand.selector.is_name() {
                continue;
            }
            for (place, name) in self.order.iter().enumerate() {
                let group = &self.groups[name];
                if group.lacks(name, &demand).is_some() {
                    continue;
                }
                for (_, free) in rooms.iter_mut().filter(|(of, _)| *of == place) {
                    let mut bin = group.new_bin(name, *free);
                    count = bin.put(&demand, count);
                    *free = bin.free;
                }
                let counts = counts.get_mut(name).expect("all groups are counted");
                while count > 0 && group.may_request(counts, now) {
                    let mut bin = group.new_bin(name, group.limits.brings);
                    count = bin.put(&demand, count);
                    counts.add();
                    rooms.push((place, bin.free));
                }
                // A group that is only short of room in its queue will serve it later; one that is full or paused will not.
                if count == 0 || group.serves_later(counts, now) {
                    break;
                }
            }
        }
        for (name, group) in &self.groups {
            let counts = counts.get_mut(name).expect("all groups are counted");
            while counts.usable < group.limits.least && group.may_request(counts, now) {
                counts.add();
            }
        }
        let new = counts.into_iter().filter(|(_, counts)| counts.new > 0);
        for (group, count) in new.map(|(name, counts)| (name.clone(), counts.new)).collect::<Vec<_>>() {
            let keys: Vec<_> = (0..count).map(|_| self.new_key(&group)).collect();
            let allocations = &mut self.groups.get_mut(&group).expect("it is configured").allocations;
            allocations.extend(keys.iter().map(|key| (key.clone(), Allocation::new(now))));
            actions.push(PlanAction::Submit { group, keys });
        }
        let progress: BTreeMap<_, _> =
            self.groups.iter().map(|(name, group)| (name, group.progress(now))).collect();
        let reasons = demand.keys().filter_map(|demand| Some((*demand, self.reason(demand, &progress)?)));
        self.reasons = reasons.collect();
    }

    fn new_key(&mut self, group: &str) -> Key {
        loop {
            // SplitMix64 (Steele, Lea and Flood: Fast Splittable Pseudorandom Number Generators, 2014).
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = self.random;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let key = Key::new(group, bits ^ (bits >> 31));
            if !self.groups[group].allocations.contains_key(&key) {
                return key;
            }
        }
    }

    /// Returns why Works with this demand wait, by group; `None` if no group has to do with it.
    fn reason(&self, demand: &Demand, progress: &BTreeMap<&String, String>) -> Option<String> {
        if demand.selector.is_name() || self.order.is_empty() {
            return None;
        }
        let of = |name: &String| {
            let why = self.groups[name].lacks(name, demand);
            format!("group `{name}` {}", why.as_ref().unwrap_or(&progress[name]))
        };
        Some(self.order.iter().map(of).collect::<Vec<_>>().join("; "))
    }
}

/// Returns the key of a node's allocation, if the node is one of a fleet and not one with such a name by chance.
fn key_of(node: &NodeRoom) -> Option<Key> {
    let key: Key = node.name.parse().ok()?;
    (node.labels.get(GROUP_LABEL).map(String::as_str) == Some(key.group())).then_some(key)
}

impl Group {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            allocations: BTreeMap::new(),
            breaker: Breaker::default(),
            is_listed: false,
            paused: None,
            quota: None,
            unreachable: None,
            idle: Duration::ZERO,
        }
    }

    /// Takes what the engine lists of this group.
    fn listed(
        &mut self,
        (now, wall): (Duration, SystemTime),
        asked: Duration,
        list: &[&Listed],
        to_explain: &mut Vec<Key>,
    ) {
        let mut seen: BTreeMap<&Key, &Listed> = BTreeMap::new();
        for listed in list {
            // An engine may remember an earlier one of the same name.
            let is_over = |listed: &Listed| matches!(listed.stage, ListedStage::Ended { .. });
            if seen.get(&listed.key).is_none_or(|before| is_over(before)) {
                seen.insert(&listed.key, listed);
            }
        }
        for (key, listed) in &seen {
            match &listed.stage {
                ListedStage::Ended { end, words } => {
                    // The node's session is the truth about it.
                    if self.allocations.get(key).is_some_and(|allocation| !allocation.is_present) {
                        self.ended(key, *end, words, now, to_explain);
                    }
                }
                stage => {
                    let allocation =
                        self.allocations.entry((*key).clone()).or_insert_with(|| Allocation::adopted(now));
                    allocation.listed(stage, now);
                    allocation.id = Some(listed.id.clone());
                    if let Some(ends_at) = listed.ends_at {
                        allocation.ends_at = Some(now + ends_at.duration_since(wall).unwrap_or_default());
                    }
                }
            }
        }
        let mut gone = Vec::new();
        for (key, allocation) in &mut self.allocations {
            if seen.contains_key(key) || allocation.is_present {
                continue;
            }
            if allocation.answered.is_some_and(|answered| answered < asked) {
                allocation.unseen += 1;
                if allocation.unseen >= UNSEEN {
                    gone.push((key.clone(), allocation.stage));
                }
            }
        }
        for (key, stage) in gone {
            match stage {
                // The request was lost, and is made again if it is still needed.
                Stage::Unknown => drop(self.allocations.remove(&key)),
                _ => {
                    self.ended(
                        &key,
                        AllocationEnd::Failed,
                        "the engine does not list it any more",
                        now,
                        to_explain,
                    );
                }
            }
        }
    }

    /// Removes an allocation that has ended, and decides whether that is a failure.
    fn ended(
        &mut self,
        key: &Key,
        end: AllocationEnd,
        words: &str,
        now: Duration,
        to_explain: &mut Vec<Key>,
    ) {
        let Some(allocation) = self.allocations.remove(key) else { return };
        self.idle += allocation.idle_time(now);
        let was_wanted = allocation.is_end_wanted || allocation.stage == Stage::Leaving;
        if was_wanted || allocation.is_proved() || end != AllocationEnd::Failed {
            return;
        }
        let when = match allocation.joined {
            Some(_) => "died soon after it had joined",
            None => "ended before it had joined",
        };
        if self.breaker.strike(allocation.requested, now, format!("{key} {when}: {words}")) {
            to_explain.push(key.clone());
        }
    }

    /// Records which allocations are needed.
    fn mark_needed(&mut self, needed: &HashSet<Key>, now: Duration) {
        for (key, allocation) in &mut self.allocations {
            match needed.contains(key) {
                true => allocation.unneeded_since = None,
                false => drop(allocation.unneeded_since.get_or_insert(now)),
            }
        }
    }

    /// Drains and ends allocations whose time has come.
    fn release(&mut self, name: &str, now: Duration, actions: &mut Vec<PlanAction>) {
        let mut late = Vec::new();
        let mut usable = self.counts().usable;
        let mut to_end = Vec::new();
        for (key, allocation) in &mut self.allocations {
            let for_ = now.saturating_sub(allocation.since);
            let unneeded = allocation.unneeded_since.map(|since| now.saturating_sub(since));
            let is_surplus =
                unneeded.is_some_and(|unneeded| unneeded >= self.limits.idle) && usable > self.limits.least;
            // Its node may be on its way back, with Works that make no demand until then.
            let may_return = allocation.is_adopted && allocation.stage == Stage::Starting;
            let is_late = |at: Duration| now + self.limits.drain >= at;
            match allocation.stage {
                Stage::Joined if allocation.ends_at.is_some_and(is_late) => {
                    usable -= 1;
                    allocation.enter(Stage::Leaving, now);
                    let why = "the time limit of its allocation is near".to_owned();
                    actions.push(PlanAction::Drain { key: key.clone(), why, if_idle: false });
                }
                Stage::Joined if is_surplus => {
                    usable -= 1;
                    allocation.enter(Stage::Leaving, now);
                    let why = "nothing has needed it for a while".to_owned();
                    actions.push(PlanAction::Drain { key: key.clone(), why, if_idle: true });
                }
                Stage::Queued | Stage::Starting if is_surplus && !may_return => {
                    usable -= 1;
                    allocation.is_end_wanted = true;
                    allocation.enter(Stage::Ending, now);
                }
                Stage::Starting if for_ >= self.limits.join_within => {
                    usable -= 1;
                    allocation.is_end_wanted = true;
                    allocation.enter(Stage::Ending, now);
                    late.push((key.clone(), allocation.requested));
                }
                // Its grace period for another connection is over: the head has given the node up.
                Stage::Gone if for_ >= self.limits.join_within => allocation.enter(Stage::Ending, now),
                Stage::Leaving if for_ >= self.limits.drain + SLACK => {
                    allocation.is_end_wanted = true;
                    allocation.enter(Stage::Ending, now);
                }
                _ => {}
            }
            let is_told = allocation.end_told.is_some_and(|told| now < told + END_AGAIN);
            if allocation.stage == Stage::Ending && !is_told {
                allocation.end_told = Some(now);
                to_end.push(key.clone());
            }
        }
        if !to_end.is_empty() {
            actions.push(PlanAction::End { group: name.to_owned(), keys: to_end });
        }
        for (key, requested) in late {
            let why = format!("{key} runs and has not joined within {:?}", self.limits.join_within);
            if self.breaker.strike(requested, now, why) {
                actions.push(PlanAction::Explain { key });
            }
        }
    }

    /// Returns the moments at which [`release`](Self::release) or the breaker may decide differently.
    fn moments(&self, now: Duration) -> Vec<Duration> {
        let mut moments = Vec::new();
        let has_surplus = self.counts().usable > self.limits.least;
        for allocation in self.allocations.values() {
            match allocation.stage {
                Stage::Joined => {
                    moments.extend(allocation.ends_at.map(|at| at.saturating_sub(self.limits.drain)));
                    moments.extend(allocation.joined.map(|(first, _)| first + PROVED));
                }
                Stage::Starting | Stage::Gone => moments.push(allocation.since + self.limits.join_within),
                Stage::Leaving => moments.push(allocation.since + self.limits.drain + SLACK),
                Stage::Ending => moments.extend(allocation.end_told.map(|told| told + END_AGAIN)),
                Stage::Requested | Stage::Unknown | Stage::Queued => {}
            }
            let may_go = matches!(allocation.stage, Stage::Queued | Stage::Starting | Stage::Joined);
            if has_surplus && may_go {
                moments.extend(allocation.unneeded_since.map(|since| since + self.limits.idle));
            }
        }
        moments.push(self.breaker.opens_at());
        moments.extend(self.quota.as_ref().map(|(until, _)| *until));
        moments.retain(|at| *at > now);
        moments
    }

    /// Returns the allocations whose nodes have not joined yet and will.
    fn coming(&self) -> impl Iterator<Item = (&Limits, &Key, &Allocation)> {
        let allocations = self.allocations.iter();
        let coming = allocations
            .filter(|(_, allocation)| allocation.stage.is_usable() && allocation.stage != Stage::Joined);
        coming.map(|(key, allocation)| (&self.limits, key, allocation))
    }

    /// Counts the allocations that count against the limits.
    fn counts(&self) -> Counts {
        let mut counts = Counts { all: self.allocations.len(), ..Counts::default() };
        for allocation in self.allocations.values() {
            let is_usable = allocation.stage.is_usable();
            counts.usable += usize::from(is_usable);
            counts.waiting += usize::from(allocation.stage.is_waiting());
            counts.unproved += usize::from(is_usable && !allocation.is_proved());
        }
        counts
    }

    /// Returns true if one more allocation may be requested.
    fn may_request(&self, counts: &Counts, now: Duration) -> bool {
        self.is_open(now)
            && counts.all < self.limits.most
            && counts.waiting < self.limits.backlog
            && self.breaker.limit().is_none_or(|limit| counts.unproved < limit)
    }

    /// Returns true if the group will request more once its queue has room, or once its first list has arrived.
    fn serves_later(&self, counts: &Counts, now: Duration) -> bool {
        let will_be_listed = !self.is_listed && self.unreachable.is_none() && self.paused.is_none();
        (self.is_open(now) || will_be_listed) && !self.breaker.is_paused() && counts.all < self.limits.most
    }

    fn is_open(&self, now: Duration) -> bool {
        self.is_listed && self.paused.is_none() && self.quota.is_none() && self.breaker.opens_at() <= now
    }

    fn new_bin<'a>(&'a self, name: &'a str, free: Resources) -> Bin<'a> {
        let lasts = self.limits.time.map(|time| time.saturating_sub(self.limits.drain));
        Bin { name, labels: &self.limits.labels, free, lasts, is_needed: false }
    }

    /// Returns why nodes of this group can never serve the demand; `None` if they can.
    fn lacks(&self, name: &str, demand: &Demand) -> Option<String> {
        let bin = self.new_bin(name, self.limits.brings);
        if !bin.is_meant(&demand.selector) {
            return Some(format!("is not {}", demand.selector.describe()));
        }
        if fitting(self.limits.brings, demand.needs) == 0 {
            return Some(format!("brings {}, which is less than {}", self.limits.brings, demand.needs));
        }
        if !bin.lasts_for(demand) {
            let (time, drain) = (self.limits.time.unwrap_or_default(), self.limits.drain);
            return Some(format!("has nodes for {time:?}, of which the last {drain:?} are for leaving"));
        }
        (self.limits.most == 0).then(|| "may have no nodes".to_owned())
    }

    /// Returns what a Work that a node of this group can serve waits for.
    fn progress(&self, now: Duration) -> String {
        if let Some(why) = &self.paused {
            return format!("is paused: {why}");
        }
        if let Some(why) = self.failure(now) {
            return why;
        }
        if let Some((_, why)) = &self.quota {
            return format!("has used up its quota: {why}");
        }
        if let Some(why) = &self.unreachable {
            return format!("cannot be asked: {why}");
        }
        if !self.is_listed {
            return "has not been asked yet".to_owned();
        }
        let of = |stage: &dyn Fn(Stage) -> bool| {
            self.allocations.values().filter(|allocation| stage(allocation.stage)).count()
        };
        let (waiting, starting) = (of(&Stage::is_waiting), of(&|stage| stage == Stage::Starting));
        let words = self.allocations.values().find(|allocation| !allocation.words.is_empty());
        let words = words.map(|allocation| format!(" ({})", allocation.words)).unwrap_or_default();
        let full = if self.allocations.len() >= self.limits.most { ", which is its limit" } else { "" };
        let all = self.allocations.len();
        format!(
            "has {all} allocations{full}, of which {waiting} are queued{words} and {starting} are starting"
        )
    }

    /// Returns how the allocations of the group fail, if they do.
    fn failure(&self, now: Duration) -> Option<String> {
        let strikes = self.breaker.strikes();
        let times = match strikes {
            0 => return None,
            1 => "once".to_owned(),
            more => format!("{more} times"),
        };
        let next = match self.breaker.opens_at().saturating_sub(now).as_secs() {
            0 => "one is being tried".to_owned(),
            wait => format!("the next try is in {wait} s"),
        };
        Some(format!("has failed {times}, {next}: {}", self.breaker.why()))
    }

    fn view(&self, name: &str, now: Duration) -> GroupView {
        let is_failing = self.breaker.strikes() > 0;
        let has_problem = is_failing || self.quota.is_some() || self.unreachable.is_some();
        let problem = has_problem.then(|| self.progress(now));
        let idle = self.allocations.values().map(|allocation| allocation.idle_time(now)).sum::<Duration>();
        let allocations = self.allocations.iter().map(|(key, allocation)| AllocationView {
            key: key.to_string(),
            id: allocation.id.clone(),
            stage: allocation.stage.name(),
            for_: now.saturating_sub(allocation.since),
            words: allocation.words.clone(),
            at: allocation.at.clone(),
            ends_in: allocation.ends_at.map(|at| at.saturating_sub(now)),
            works: allocation.works,
        });
        GroupView {
            name: name.to_owned(),
            least: self.limits.least,
            most: self.limits.most,
            brings: self.limits.brings,
            paused: self.paused.clone(),
            problem,
            idle: self.idle + idle,
            allocations: allocations.collect(),
        }
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
