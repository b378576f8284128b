//! Works that wait for a node, or for devices of this machine. Pure.
//!
//! # Guarantees
//! - Works with equal demand are one group, in order of arrival. A Work that is refused again keeps its place.
//! - After [`room`](Waiting::room), the Works of each group are tried again in that order until one is refused: that one
//!   stands for all behind it, since nothing but more room makes a difference to them. While tries are in flight, more are
//!   begun only as far as others have succeeded (as many as have succeeded, and one more), so that few are in vain.
//! - A Work whose group waits already is refused without a try, and joins the end of its group.
//! - What counts as demand is each Work that was refused and was neither launched nor forgotten since, also while it is
//!   tried again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::id::WorkId;
use crate::work::{Demand, Placement, Resources};

/// The demand that the Works of a group share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    /// Room on a node.
    Node(Demand),
    /// This number of devices of this machine.
    Gpus(u32),
}

impl Wanted {
    /// Returns what a Work has to wait for if there is no room for it; `None` if it never waits.
    pub(super) fn by(
        placement: &Placement,
        needs: Resources,
        runs_for: Option<std::time::Duration>,
    ) -> Option<Self> {
        match placement {
            Placement::Node(selector) => Some(Self::Node(Demand { selector: *selector, needs, runs_for })),
            _ if needs.gpus > 0 => Some(Self::Gpus(needs.gpus)),
            _ => None,
        }
    }

    /// Returns the demand for a node.
    pub(super) fn demand(&self) -> Option<Demand> {
        match self {
            Self::Node(demand) => Some(*demand),
            Self::Gpus(_) => None,
        }
    }
}

/// The Works that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    groups: BTreeMap<Wanted, Group>,
    /// The groups of the Works, and their places in them.
    works: HashMap<WorkId, (Wanted, u64)>,
    /// Groups that may have Works to try.
    open: VecDeque<Wanted>,
    next_place: u64,
    /// Number of changes of the demand.
    version: u64,
}

/// The Works that wait for the same.
#[derive(Debug, Default)]
struct Group {
    /// The Works by their place.
    works: BTreeMap<u64, WorkId>,
    /// Places of the Works that are being tried again.
    in_flight: BTreeSet<u64>,
    /// True while Works are tried: since there was room, none was refused.
    is_open: bool,
    /// Works before this place have been tried in this round.
    tried_below: u64,
    /// Number of Works that may be in flight.
    window: usize,
    /// True while the group is in the queue of those that may have Works to try.
    is_queued: bool,
    /// True if there was more room while Works were in flight.
    again: bool,
    /// The reason of the last refusal.
    why: String,
}

impl Group {
    /// Begins a round.
    fn open(&mut self) {
        (self.is_open, self.again) = (true, false);
        (self.tried_below, self.window) = (0, 1);
    }

    /// Adds the group to the queue of those that may have Works to try.
    fn queue(&mut self, wanted: Wanted, open: &mut VecDeque<Wanted>) {
        if !std::mem::replace(&mut self.is_queued, true) {
            open.push_back(wanted);
        }
    }

    /// Returns the next Work to try in this round.
    fn next(&mut self) -> Option<WorkId> {
        if !self.is_open || self.in_flight.len() >= self.window {
            return None;
        }
        let (place, id) = self.works.range(self.tried_below..).next()?;
        self.tried_below = place + 1;
        self.in_flight.insert(*place);
        Some(*id)
    }
}

impl Waiting {
    /// Begins a round of tries in each group, because resources were freed.
    pub(super) fn room(&mut self) {
        for (wanted, group) in &mut self.groups {
            if group.in_flight.is_empty() {
                group.open();
                group.queue(*wanted, &mut self.open);
            } else {
                group.again = true;
            }
        }
    }

    /// Returns the next Work to try, which counts as in flight until it is launched, refused or forgotten.
    pub(super) fn next(&mut self) -> Option<WorkId> {
        while let Some(wanted) = self.open.front() {
            let mut group = self.groups.get_mut(wanted);
            let next = group.as_mut().and_then(|group| group.next());
            if next.is_some() {
                return next;
            }
            group.into_iter().for_each(|group| group.is_queued = false);
            self.open.pop_front();
        }
        None
    }

    /// Returns the reason for which a Work is refused without a try.
    pub(super) fn refusal(&self, id: WorkId, wanted: &Wanted) -> Option<&str> {
        let group = self.groups.get(wanted)?;
        let is_tried =
            self.works.get(&id).is_some_and(|(own, place)| own == wanted && group.in_flight.contains(place));
        (!is_tried).then_some(&*group.why)
    }

    /// Adds a Work that was refused without a try.
    pub(super) fn join(&mut self, id: WorkId, wanted: Wanted) {
        let place = self.place(id, wanted);
        self.groups.entry(wanted).or_default().works.insert(place, id);
    }

    /// Returns the place of a Work in its group, which is the last one for a new Work.
    fn place(&mut self, id: WorkId, wanted: Wanted) -> u64 {
        match self.works.get(&id) {
            Some((before, place)) if *before == wanted => *place,
            _ => {
                self.forget(id);
                self.next_place += 1;
                self.version += 1;
                self.works.insert(id, (wanted, self.next_place));
                self.next_place
            }
        }
    }

    /// Records that a try has found no place for a Work, for this reason. Returns true if the reason differs from that of the Works
    /// behind it.
    pub(super) fn refused(&mut self, id: WorkId, wanted: Wanted, why: &str) -> bool {
        let place = self.place(id, wanted);
        let group = self.groups.entry(wanted).or_default();
        group.works.insert(place, id);
        group.in_flight.remove(&place);
        group.is_open = false;
        if group.again && group.in_flight.is_empty() {
            group.open();
            group.queue(wanted, &mut self.open);
        }
        if group.why == why {
            return false;
        }
        why.clone_into(&mut group.why);
        group.works.len() > 1
    }

    /// Forgets a Work that was launched. The next one of its group is tried.
    pub(super) fn launched(&mut self, id: WorkId) {
        self.remove(id, true);
    }

    /// Forgets a Work that waits no longer. If it was in flight, the next one of its group is tried in its place.
    pub(super) fn forget(&mut self, id: WorkId) {
        self.remove(id, false);
    }

    fn remove(&mut self, id: WorkId, has_succeeded: bool) {
        let Some((wanted, place)) = self.works.remove(&id) else { return };
        self.version += 1;
        let Some(group) = self.groups.get_mut(&wanted) else { return };
        group.works.remove(&place);
        if group.works.is_empty() {
            self.groups.remove(&wanted);
            return;
        }
        if !group.in_flight.remove(&place) {
            return;
        }
        if has_succeeded {
            group.window = group.window.saturating_add(1);
        }
        if !group.is_open && group.again && group.in_flight.is_empty() {
            group.open();
        }
        if group.is_open {
            group.queue(wanted, &mut self.open);
        }
    }

    /// Returns the first Works of a group, up to a number, and the reason for which they wait.
    pub(super) fn first(&self, wanted: &Wanted, most: usize) -> Option<(Vec<WorkId>, &str)> {
        let group = self.groups.get(wanted)?;
        Some((group.works.values().take(most).copied().collect(), &group.why))
    }

    /// Returns the number of Works that wait for nodes, by what they need of them.
    pub(super) fn demand(&self) -> BTreeMap<Demand, usize> {
        let of_nodes = |(wanted, group): (&Wanted, &Group)| Some((wanted.demand()?, group.works.len()));
        self.groups.iter().filter_map(of_nodes).collect()
    }

    /// Returns a number that changes with the demand.
    pub(super) fn version(&self) -> u64 {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::work::Selector;

    fn wanted(cpus: u32) -> Wanted {
        let needs = Resources::cpus(cpus);
        Wanted::Node(Demand { selector: Selector::any(), needs, runs_for: None })
    }

    fn ids(waiting: &Waiting, wanted: &Wanted) -> Vec<u64> {
        let first = waiting.first(wanted, usize::MAX);
        first.into_iter().flat_map(|(works, _)| works).map(|WorkId(id)| id).collect()
    }

    /// Has these Works wait for one processor.
    fn waiting(works: std::ops::RangeInclusive<u64>) -> Waiting {
        let mut waiting = Waiting::default();
        for id in works {
            waiting.refused(WorkId(id), wanted(1), "full");
        }
        waiting
    }

    #[test]
    fn work_that_is_refused_again_keeps_its_place() {
        let mut waiting = waiting(1..=3);
        assert_eq!(waiting.next(), None);
        waiting.room();
        assert_eq!(waiting.next(), Some(WorkId(1)));
        waiting.refused(WorkId(1), wanted(1), "full");
        assert_eq!(waiting.next(), None);
        assert_eq!(ids(&waiting, &wanted(1)), [1, 2, 3]);
    }

    #[test]
    fn launch_has_the_next_work_of_its_group_tried() {
        let mut waiting = waiting(1..=3);
        waiting.room();
        assert_eq!(waiting.next(), Some(WorkId(1)));
        assert_eq!(waiting.next(), None, "its result is not known");
        waiting.launched(WorkId(1));
        assert_eq!(waiting.next(), Some(WorkId(2)));
        waiting.refused(WorkId(2), wanted(1), "full");
        assert_eq!(waiting.next(), None);
        assert_eq!(ids(&waiting, &wanted(1)), [2, 3]);
    }

    /// With tries whose results come late, as many more are begun as have succeeded.
    #[test]
    fn tries_in_flight_double_while_they_succeed() {
        let mut waiting = waiting(1..=100);
        waiting.room();
        let mut rounds = Vec::new();
        loop {
            let tried: Vec<_> = std::iter::from_fn(|| waiting.next()).collect();
            if tried.is_empty() {
                break;
            }
            rounds.push(tried.len());
            tried.into_iter().for_each(|id| waiting.launched(id));
        }
        assert_eq!(rounds, [1, 2, 4, 8, 16, 32, 37]);
        assert!(waiting.demand().is_empty());
    }

    #[test]
    fn room_during_a_try_begins_another_round() {
        let mut waiting = waiting(1..=2);
        waiting.room();
        assert_eq!(waiting.next(), Some(WorkId(1)));
        waiting.room();
        assert_eq!(waiting.next(), None);
        waiting.refused(WorkId(1), wanted(1), "full");
        assert_eq!(waiting.next(), Some(WorkId(1)));
        waiting.forget(WorkId(1));
        assert_eq!(waiting.next(), Some(WorkId(2)));
    }

    #[test]
    fn work_behind_others_is_refused_without_a_try() {
        let mut waiting = waiting(1..=1);
        assert_eq!(waiting.refusal(WorkId(2), &wanted(1)), Some("full"));
        assert_eq!(waiting.refusal(WorkId(2), &wanted(2)), None, "nobody waits for that");
        waiting.room();
        waiting.next();
        assert_eq!(waiting.refusal(WorkId(1), &wanted(1)), None, "it is its turn");
        waiting.launched(WorkId(1));
        assert_eq!(waiting.refusal(WorkId(2), &wanted(1)), None);
    }

    #[test]
    fn groups_are_tried_by_themselves_the_largest_needs_first() {
        let mut waiting = waiting(1..=2);
        for id in 3..=4 {
            waiting.refused(WorkId(id), wanted(8), "full");
        }
        waiting.refused(WorkId(5), Wanted::Gpus(1), "no device");
        waiting.room();
        let tried: Vec<_> = std::iter::from_fn(|| waiting.next()).collect();
        assert_eq!(tried, [3, 1, 5].map(WorkId));
        let demand: Vec<_> =
            waiting.demand().into_iter().map(|(demand, count)| (demand.needs.cpus, count)).collect();
        assert_eq!(demand, [(8, 2), (1, 2)]);
    }

    /// A slot that turns over costs two tries for each Work that is launched, whatever the number that wait.
    #[test]
    fn slot_that_turns_over_costs_two_tries_a_work() {
        const WORKS: u64 = 2_000;
        let (mut waiting, mut tries, mut in_order) = (waiting(1..=WORKS), 0, Vec::new());
        while !waiting.demand().is_empty() {
            waiting.room();
            let mut is_free = true;
            while let Some(id) = waiting.next() {
                tries += 1;
                if std::mem::take(&mut is_free) {
                    waiting.launched(id);
                    in_order.push(id);
                } else {
                    waiting.refused(id, wanted(1), "full");
                }
            }
        }
        assert_eq!(in_order, (1..=WORKS).map(WorkId).collect::<Vec<_>>());
        assert_eq!(tries, 2 * WORKS - 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(u64, u32),
        Room(u32),
        Try,
        /// The result of one of the tries in flight.
        Answer(usize),
        Forget(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..30, 1_u32..4).prop_map(|(id, cpus)| Step::Arrive(id, cpus)),
            (1_u32..6).prop_map(Step::Room),
            Just(Step::Try),
            Just(Step::Try),
            (0_usize..8).prop_map(Step::Answer),
            (0_usize..8).prop_map(Step::Answer),
            (0_u64..30).prop_map(Step::Forget),
        ]
    }

    proptest! {
        /// Whatever happens in which order: when all tries are answered, no Work waits for which there is room, as long as
        /// the room was told; the demand is the Works that wait; and each group is launched in order of arrival if nothing
        /// is in flight meanwhile.
        #[test]
        fn no_work_waits_while_there_is_room(steps in prop::collection::vec(step(), 1..200)) {
            let (mut waiting, mut free) = (Waiting::default(), 0_u32);
            let (mut model, mut in_flight) = (BTreeMap::<u64, u32>::new(), Vec::<u64>::new());
            let answer = |waiting: &mut Waiting, model: &mut BTreeMap<u64, u32>, free: &mut u32, id: u64| {
                let Some(cpus) = model.get(&id).copied() else { return };
                if *free >= cpus {
                    *free -= cpus;
                    model.remove(&id);
                    waiting.launched(WorkId(id));
                } else {
                    waiting.refused(WorkId(id), wanted(cpus), "full");
                }
            };
            for step in steps {
                match step {
                    Step::Arrive(id, cpus) => {
                        if model.contains_key(&id) {
                            continue;
                        }
                        let is_refused = waiting.refusal(WorkId(id), &wanted(cpus)).is_some();
                        if is_refused {
                            model.insert(id, cpus);
                            waiting.join(WorkId(id), wanted(cpus));
                        } else if free < cpus {
                            model.insert(id, cpus);
                            waiting.refused(WorkId(id), wanted(cpus), "full");
                        } else {
                            free -= cpus;
                        }
                    }
                    Step::Room(cpus) => {
                        free += cpus;
                        waiting.room();
                    }
                    Step::Try => in_flight.extend(waiting.next().map(|WorkId(id)| id)),
                    Step::Answer(at) if at < in_flight.len() => {
                        let id = in_flight.swap_remove(at);
                        answer(&mut waiting, &mut model, &mut free, id);
                    }
                    Step::Answer(_) => {}
                    Step::Forget(id) => {
                        model.remove(&id);
                        in_flight.retain(|other| *other != id);
                        waiting.forget(WorkId(id));
                    }
                }
                let count: usize = waiting.demand().values().sum();
                prop_assert_eq!(count, model.len());
            }
            loop {
                in_flight.extend(std::iter::from_fn(|| waiting.next()).map(|WorkId(id)| id));
                let Some(id) = in_flight.pop() else { break };
                answer(&mut waiting, &mut model, &mut free, id);
            }
            for (id, cpus) in &model {
                prop_assert!(*cpus > free, "work {} waits for {} of {} that are free", id, cpus, free);
            }
        }
    }
}
