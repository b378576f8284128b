//! Guards of the payloads to which the record of an App refers.
//!
//! # Guarantees
//! - The value behind a recorded reference is not freed before the record that dropped the last reference to it is
//!   durable: a process that is restored until then refers to it. That holds for states of Works, inputs of runs that
//!   have not ended, values of remembered steps, and fields of Flows.
//! - The end of an App releases nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::flow::Fact;
use crate::id::{FlowId, IdMap, WorkId};
use crate::payload::{PayloadGuard, PayloadGuards};
use crate::work::{RunKey, StepId};

/// Guards of the references that are recorded, and of those that the transaction of this cycle drops.
#[derive(Default)]
pub(super) struct DurableGuards {
    works: IdMap<WorkId, OfWork>,
    flows: IdMap<FlowId, PayloadGuards>,
    /// Guards of references that this cycle has dropped.
    released: Vec<PayloadGuards>,
    /// Guards of references that this cycle has recorded, and whose values may not be recorded yet.
    added: Vec<Arc<PayloadGuard>>,
    /// Guards of what recorded Works and Flows refer to that the program does not have any more.
    parked: Vec<Arc<PayloadGuard>>,
}

/// Guards of a Work, without empty ones.
#[derive(Default)]
struct OfWork {
    state: PayloadGuards,
    /// Inputs of runs that have not ended, by place.
    runs: BTreeMap<u64, PayloadGuards>,
    steps: IdMap<RunKey, BTreeMap<StepId, PayloadGuards>>,
}

impl OfWork {
    fn is_empty(&self) -> bool {
        self.state.is_empty() && self.runs.is_empty() && self.steps.is_empty()
    }
}

impl DurableGuards {
    /// Notes that the state of a Work is recorded, which has these guards.
    pub(super) fn state(&mut self, id: WorkId, guards: &PayloadGuards) {
        let before = self.works.get(&id).map(|work| &work.state);
        if before.map_or(guards.is_empty(), |before| before.is_same(guards)) {
            return;
        }
        self.add(guards);
        let before = std::mem::replace(&mut self.works.entry(id).or_default().state, guards.clone());
        self.release(before);
        self.drop_empty(id);
    }

    /// Notes that a fact about a Work is recorded.
    pub(super) fn fact(&mut self, id: WorkId, fact: &Fact) {
        match fact {
            Fact::Requested { place, input, .. } if !input.holds().is_empty() => {
                self.add(input.holds());
                let before = self.works.entry(id).or_default().runs.insert(*place, input.holds().clone());
                self.release(before.unwrap_or_default());
            }
            Fact::Ended { place } => {
                let Some(work) = self.works.get_mut(&id) else { return };
                let before = work.runs.remove(place);
                self.release(before.unwrap_or_default());
                self.drop_empty(id);
            }
            Fact::Step { input, step } => {
                let guards = step.holds();
                if guards.is_empty() {
                    // Only an output has one before it.
                    return self.forget_steps(id, *input, &[step.id]);
                }
                self.add(&guards);
                let steps = self.works.entry(id).or_default().steps.entry(*input).or_default();
                let before = steps.insert(step.id, guards);
                self.release(before.unwrap_or_default());
            }
            Fact::StepsForgotten { input, steps } => self.forget_steps(id, *input, steps),
            _ => {}
        }
    }

    fn forget_steps(&mut self, id: WorkId, input: RunKey, forgotten: &[StepId]) {
        let Some(work) = self.works.get_mut(&id) else { return };
        let Some(steps) = work.steps.get_mut(&input) else { return };
        let before: Vec<_> = forgotten.iter().filter_map(|step| steps.remove(step)).collect();
        if steps.is_empty() {
            work.steps.remove(&input);
        }
        before.into_iter().for_each(|guards| self.release(guards));
        self.drop_empty(id);
    }

    /// Notes that the fields of a Flow are recorded, which have these guards.
    pub(super) fn flow(&mut self, id: FlowId, guards: PayloadGuards) {
        self.add(&guards);
        let before = if guards.is_empty() { self.flows.remove(&id) } else { self.flows.insert(id, guards) };
        self.release(before.unwrap_or_default());
    }

    /// Notes that it is recorded that a Work has left.
    pub(super) fn work_left(&mut self, id: WorkId) {
        let Some(OfWork { state, runs, steps }) = self.works.remove(&id) else { return };
        self.release(state);
        runs.into_values().for_each(|guards| self.release(guards));
        steps.into_values().flat_map(BTreeMap::into_values).for_each(|guards| self.release(guards));
    }

    /// Notes that it is recorded that a Flow has left.
    pub(super) fn flow_left(&mut self, id: FlowId) {
        let before = self.flows.remove(&id);
        self.release(before.unwrap_or_default());
    }

    /// Returns the guards that are to be dropped once the transaction of this cycle is durable.
    pub(super) fn take_released(&mut self) -> Vec<PayloadGuards> {
        std::mem::take(&mut self.released)
    }

    /// Returns the guards of references that were recorded since the last call.
    pub(super) fn take_added(&mut self) -> Vec<Arc<PayloadGuard>> {
        std::mem::take(&mut self.added)
    }

    /// Keeps guards of what parked Works and Flows refer to.
    pub(super) fn keep_parked(&mut self, guards: Vec<Arc<PayloadGuard>>) {
        self.parked = guards;
    }

    fn add(&mut self, guards: &PayloadGuards) {
        self.added.extend(guards.iter().cloned());
    }

    fn release(&mut self, guards: PayloadGuards) {
        if !guards.is_empty() {
            self.released.push(guards);
        }
    }

    fn drop_empty(&mut self, id: WorkId) {
        if self.works.get(&id).is_some_and(OfWork::is_empty) {
            self.works.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};
    use std::time::SystemTime;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::id::ActorPath;
    use crate::payload::{Payload, PayloadId, Store, collect};
    use crate::work::{Input, KnownStep};

    /// A part of the record that refers to one payload at most.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Slot {
        State(u64),
        Run(u64, u64),
        Step(u64, u8, usize),
        Flow(u64),
    }

    #[derive(Debug, Clone, Copy)]
    enum Op {
        /// Has a slot refer to a new payload, to that of another slot, or to none.
        Set(Slot, u8),
        WorkLeft(u64),
        FlowLeft(u64),
        Commit,
        Durable,
    }

    fn op() -> impl Strategy<Value = Op> {
        let slot = prop_oneof![
            (0..2_u64).prop_map(Slot::State),
            (0..2_u64, 0..3_u64).prop_map(|(work, place)| Slot::Run(work, place)),
            (0..2_u64, 0..2_u8, 0..2_usize).prop_map(|(work, input, step)| Slot::Step(work, input, step)),
            (0..2_u64).prop_map(Slot::Flow),
        ];
        prop_oneof![
            8 => (slot, 0..4_u8).prop_map(|(slot, to)| Op::Set(slot, to)),
            1 => (0..2_u64).prop_map(Op::WorkLeft),
            1 => (0..2_u64).prop_map(Op::FlowLeft),
            4 => Just(Op::Commit),
            3 => Just(Op::Durable),
        ]
    }

    fn key(input: u8) -> RunKey {
        RunKey::from_bytes([input; 16])
    }

    /// The guards, with the record as it must be.
    struct Checked {
        guards: DurableGuards,
        store: Arc<Store>,
        record: BTreeMap<Slot, PayloadId>,
        /// Records that a process may be restored to, oldest first: the durable one, and those that are committed.
        committed: VecDeque<BTreeSet<PayloadId>>,
        /// Guards that are dropped when each of the committed ones but the first is durable.
        released: VecDeque<Vec<PayloadGuards>>,
    }

    impl Checked {
        fn set(&mut self, slot: Slot, to: u8) {
            let new = match to {
                0 => PayloadGuards::default(),
                1 => self.record.values().next().and_then(|id| self.store.find(*id)).into_iter().collect(),
                _ => {
                    let payload = Payload::new(7_u64, &self.store, &ActorPath::from("maker")).unwrap();
                    collect(|| crate::wire::encode(&payload)).1
                }
            };
            let id = new.iter().next().map(|guard| guard.id());
            let queued = SystemTime::UNIX_EPOCH;
            match (slot, id) {
                (Slot::State(work), _) => self.guards.state(WorkId(work), &new),
                (Slot::Flow(flow), _) => self.guards.flow(FlowId(flow), new),
                (Slot::Run(work, place), Some(_)) => {
                    let input = Input::arrived(Bytes::new(), new);
                    self.guards.fact(WorkId(work), &Fact::Requested { place, key: key(0), input, queued });
                }
                (Slot::Run(work, place), None) => self.guards.fact(WorkId(work), &Fact::Ended { place }),
                (Slot::Step(work, input, step), Some(_)) => {
                    let step = KnownStep::numbered(step).arrived(new);
                    self.guards.fact(WorkId(work), &Fact::Step { input: key(input), step });
                }
                (Slot::Step(work, input, step), None) => {
                    let steps = vec![KnownStep::numbered(step).id];
                    self.guards.fact(WorkId(work), &Fact::StepsForgotten { input: key(input), steps });
                }
            }
            match id {
                Some(id) => drop(self.record.insert(slot, id)),
                None => drop(self.record.remove(&slot)),
            }
        }

        fn apply(&mut self, op: Op) {
            match op {
                Op::Set(slot, to) => self.set(slot, to),
                Op::WorkLeft(work) => {
                    self.guards.work_left(WorkId(work));
                    self.record.retain(|slot, _| match slot {
                        Slot::State(of) | Slot::Run(of, _) | Slot::Step(of, ..) => *of != work,
                        Slot::Flow(_) => true,
                    });
                }
                Op::FlowLeft(flow) => {
                    self.guards.flow_left(FlowId(flow));
                    self.record.remove(&Slot::Flow(flow));
                }
                Op::Commit => {
                    self.guards.take_added();
                    self.committed.push_back(self.record.values().copied().collect());
                    self.released.push_back(self.guards.take_released());
                }
                Op::Durable => {
                    if let Some(released) = self.released.pop_front() {
                        self.committed.pop_front();
                        drop(released);
                    }
                }
            }
        }

        fn alive(&self) -> BTreeSet<PayloadId> {
            self.store.all().iter().map(|guard| guard.id()).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Whatever record a process is restored to, the payloads to which it refers are alive until a later one is
        /// durable; and nothing else stays alive.
        #[test]
        fn payloads_live_until_a_later_record_is_durable(ops in prop::collection::vec(op(), 1..60)) {
            let mut checked = Checked {
                guards: DurableGuards::default(),
                store: Store::for_tests(),
                record: BTreeMap::new(),
                committed: VecDeque::from([BTreeSet::new()]),
                released: VecDeque::new(),
            };
            for op in ops {
                checked.apply(op);
                let alive = checked.alive();
                for record in &checked.committed {
                    prop_assert!(record.is_subset(&alive), "{record:?} of {alive:?} after {op:?}");
                }
            }
            checked.apply(Op::Commit);
            while !checked.released.is_empty() {
                checked.apply(Op::Durable);
            }
            prop_assert_eq!(checked.alive(), checked.record.values().copied().collect());
        }
    }
}
