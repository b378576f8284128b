//! Random schedules of offers, releases, refusals and rotations against a model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Offer {
        key: Option<u64>,
        is_first: bool,
    },
    /// The replica at this index among those with messages is done with its oldest one.
    Release(usize),
    /// A replica gives back its newest message.
    ComeBack(usize),
    /// A replica refuses its newest message; for a while, or for good.
    Refuse(usize, bool),
    /// These replicas are in rotation from now on, with these limits.
    Rotate(BTreeMap<ReplicaId, usize>),
    /// The callers of waiting messages with this remainder give up.
    GiveUp(u64),
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        40 => (prop::option::of(0..6_u64), prop::bool::weighted(0.2))
            .prop_map(|(key, is_first)| Op::Offer { key, is_first }),
        30 => any::<usize>().prop_map(Op::Release),
        5 => any::<usize>().prop_map(Op::ComeBack),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(choice, for_good)| Op::Refuse(choice, for_good)),
        6 => prop::collection::btree_map(0..8_u64, 1..4_usize, 0..5).prop_map(Op::Rotate),
        2 => (0..5_u64).prop_map(Op::GiveUp),
        1 => Just(Op::Close),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    number: u64,
    key: Option<u64>,
    is_first: bool,
}

#[derive(Default)]
struct Model {
    next: u64,
    rotation: BTreeMap<ReplicaId, usize>,
    closed: BTreeSet<ReplicaId>,
    /// Replicas that are closed for good.
    gone: BTreeSet<ReplicaId>,
    at: BTreeMap<ReplicaId, Vec<Sent>>,
    waiting: Vec<Sent>,
    /// Messages that came back, which go before others.
    returned: BTreeSet<u64>,
    is_closed: bool,
    /// The replica of each key in this rotation.
    owners: BTreeMap<u64, ReplicaId>,
    ended: BTreeSet<u64>,
}

impl Model {
    /// Has a message wait: one that is sent first before all but those like it and those that came back.
    fn enqueue(&mut self, message: Sent) {
        let is_before = |waiting: &Sent| waiting.is_first || self.returned.contains(&waiting.number);
        let first = self.waiting.iter().rposition(is_before).map_or(0, |last| last + 1);
        self.waiting.insert(if message.is_first { first } else { self.waiting.len() }, message);
    }

    fn open(&self) -> Vec<ReplicaId> {
        self.rotation.keys().copied().filter(|id| !self.closed.contains(id)).collect()
    }

    fn refuses(&self) -> bool {
        self.is_closed || !self.rotation.is_empty() && self.rotation.keys().all(|id| self.gone.contains(id))
    }

    fn has_room(&self, id: ReplicaId) -> bool {
        self.open().contains(&id) && self.at.get(&id).map_or(0, Vec::len) < self.rotation[&id]
    }

    fn handed(&mut self, id: ReplicaId, message: Sent) -> Result<(), TestCaseError> {
        prop_assert!(!self.is_closed && self.has_room(id), "{message:?} was handed to {id}");
        if let Some(key) = message.key {
            let owner = *self.owners.entry(key).or_insert(id);
            prop_assert_eq!(owner, id, "the key {} has two replicas in one rotation", key);
        }
        self.at.entry(id).or_default().push(message);
        Ok(())
    }

    /// Checks what the dispatch has done after a change.
    fn follow(&mut self, handed: Handed<Sent>) -> Result<(), TestCaseError> {
        for (id, message) in handed.hand {
            let place = self.waiting.iter().position(|waiting| *waiting == message);
            let Some(place) = place else {
                return Err(TestCaseError::fail(format!("{message:?} did not wait")));
            };
            let earlier = self.waiting[..place].iter().find(|earlier| earlier.key == message.key);
            prop_assert!(earlier.is_none(), "{message:?} has overtaken {earlier:?}");
            self.waiting.remove(place);
            self.handed(id, message)?;
        }
        for (message, _) in handed.refuse {
            prop_assert!(self.refuses(), "{message:?} was refused without a reason");
            let before = self.waiting.len();
            self.waiting.retain(|waiting| *waiting != message);
            prop_assert_eq!(self.waiting.len() + 1, before);
            prop_assert!(self.ended.insert(message.number));
        }
        Ok(())
    }

    fn with_messages(&self, choice: usize) -> Option<ReplicaId> {
        let all: Vec<_> = self.at.iter().filter(|(_, has)| !has.is_empty()).map(|(id, _)| *id).collect();
        (!all.is_empty()).then(|| all[choice % all.len()])
    }

    fn closes(&mut self, id: ReplicaId, for_good: bool) {
        if self.rotation.contains_key(&id) {
            self.closed.insert(id);
            if for_good {
                self.gone.insert(id)
            } else {
                self.gone.remove(&id)
            };
            self.owners.retain(|_, owner| *owner != id);
        }
    }

    fn check(&self, dispatch: &Dispatch<Sent>) -> Result<(), TestCaseError> {
        prop_assert_eq!(dispatch.waiting(), self.waiting.len());
        prop_assert_eq!(dispatch.taken(), self.at.values().map(Vec::len).sum::<usize>());
        for (id, has) in &self.at {
            prop_assert_eq!(dispatch.taken_by(*id), has.len());
        }
        if self.refuses() {
            prop_assert!(self.waiting.is_empty(), "{:?} wait for nothing", self.waiting);
        }
        for waiting in &self.waiting {
            let free = self.open().into_iter().filter(|id| self.has_room(*id));
            match waiting.key {
                None => prop_assert_eq!(free.count(), 0, "{:?} waits though there is room", waiting),
                Some(key) => {
                    let owner = self.owners.get(&key);
                    prop_assert!(
                        owner.is_none_or(|id| !self.has_room(*id)),
                        "{:?} waits for {:?}",
                        waiting,
                        owner
                    );
                }
            }
        }
        let all: BTreeSet<_> =
            self.at.values().flatten().chain(&self.waiting).map(|sent| sent.number).collect();
        prop_assert!(all.is_disjoint(&self.ended));
        prop_assert_eq!(all.len() + self.ended.len(), usize::try_from(self.next).unwrap());
        Ok(())
    }
}

fn run(ops: Vec<Op>, in_turn: bool) -> Result<(), TestCaseError> {
    let (mut dispatch, mut model) = (Dispatch::new(in_turn), Model::default());
    for op in ops {
        match op {
            Op::Offer { key, is_first } => {
                let message = Sent { number: model.next, key, is_first };
                model.next += 1;
                match dispatch.offer(message, key) {
                    Offered::Hand(id, message) => {
                        let earlier = model.waiting.iter().find(|earlier| earlier.key == key);
                        prop_assert!(earlier.is_none(), "{message:?} has overtaken {earlier:?}");
                        model.handed(id, message)?;
                    }
                    Offered::Wait(message) => {
                        dispatch.enqueue(message, key, is_first);
                        model.enqueue(message);
                    }
                    Offered::Refused(message, _) => {
                        prop_assert!(model.refuses());
                        model.ended.insert(message.number);
                    }
                }
            }
            Op::Release(choice) => {
                let Some(id) = model.with_messages(choice) else { continue };
                let done = model.at.get_mut(&id).unwrap().remove(0);
                model.ended.insert(done.number);
                model.follow(dispatch.released(id))?;
            }
            Op::ComeBack(choice) | Op::Refuse(choice, _) => {
                let Some(id) = model.with_messages(choice) else { continue };
                let message = model.at.get_mut(&id).unwrap().pop().unwrap();
                model.returned.insert(message.number);
                model.waiting.insert(0, message);
                let handed = match op {
                    Op::Refuse(_, for_good) => {
                        model.closes(id, for_good);
                        let why = if for_good { CloseReason::Stopped } else { CloseReason::NodeLost };
                        dispatch.refused(id, why, message, message.key)
                    }
                    _ => dispatch.came_back(id, message, message.key),
                };
                model.follow(handed)?;
            }
            Op::Rotate(rotation) => {
                model.owners.clear();
                model.closed.clear();
                model.gone.clear();
                model.rotation = rotation;
                let rotation: Vec<_> = model.rotation.iter().map(|(id, limit)| (*id, *limit)).collect();
                model.follow(dispatch.rotate(&rotation))?;
            }
            Op::GiveUp(remainder) => {
                let gone = |sent: &Sent| sent.number % 5 == remainder;
                for message in dispatch.take_waiting(gone) {
                    prop_assert!(gone(&message));
                    model.ended.insert(message.number);
                }
                model.waiting.retain(|waiting| !gone(waiting));
            }
            Op::Close => {
                model.is_closed = true;
                model.follow(dispatch.close(CloseReason::Stopped))?;
            }
        }
        model.check(&dispatch)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens, no message is lost or doubled, goes to a replica that is not in rotation or has no room, or
    /// waits without need.
    #[test]
    fn messages_go_to_replicas_with_room(ops in prop::collection::vec(op(), 1..120), in_turn: bool) {
        run(ops, in_turn)?;
    }

    /// A replica that joins takes keys over, and one that leaves gives its keys away; no other key moves.
    #[test]
    fn rotation_moves_only_keys_of_its_change(before in 1..8_u64, more in 0..3_u64, keys in prop::collection::vec(any::<u64>(), 1..40)) {
        let rotation = |count: u64| (0..count).map(|id| (id, 1)).collect::<Vec<_>>();
        let mut dispatch = Dispatch::<()>::new(false);
        let owners = |dispatch: &Dispatch<()>| {
            keys.iter().map(|key| dispatch.replicas[dispatch.owner(*key).unwrap()].id).collect::<Vec<_>>()
        };
        dispatch.rotate(&rotation(before));
        let first = owners(&dispatch);
        dispatch.rotate(&rotation(before + more));
        let second = owners(&dispatch);
        for (before_it, after_it) in first.iter().zip(&second) {
            prop_assert!(before_it == after_it || *after_it >= before);
        }
        dispatch.rotate(&rotation(before));
        prop_assert_eq!(owners(&dispatch), first);
    }
}

/// Messages in turn go to each replica with room, also if another one has less to do.
#[test]
fn messages_in_turn_go_to_each_replica() {
    let mut dispatch = Dispatch::new(true);
    dispatch.rotate(&[(1, 2), (2, 2), (3, 2)]);
    let mut hand = |number| match dispatch.offer(number, None) {
        Offered::Hand(id, _) => id,
        _ => panic!("all have room"),
    };
    assert_eq!([0, 1].map(&mut hand), [1, 2]);
    dispatch.released(1);
    let mut hand = |number| match dispatch.offer(number, None) {
        Offered::Hand(id, _) => id,
        _ => panic!("all have room"),
    };
    assert_eq!([2, 3, 4, 5].map(&mut hand), [3, 1, 2, 3]);
}
