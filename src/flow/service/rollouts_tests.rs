//! Random deployments, and replicas that become ready, break and drain at random, against the guarantees.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const S: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Op {
    Deploy(u8, Overlap),
    Forget(u8),
    Scale(usize),
    /// The replica at this index becomes ready, or is not ready any more.
    Ready(usize, bool),
    Break(usize),
    /// The replica at this index has finished its messages, or has got one.
    Drained(usize, bool),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let overlap = prop_oneof![Just(Overlap::Queue), Just(Overlap::Latest), Just(Overlap::Restart)];
    prop_oneof![
        6 => (0..8_u8, overlap).prop_map(|(input, overlap)| Op::Deploy(input, overlap)),
        1 => (0..8_u8).prop_map(Op::Forget),
        2 => (0..7_usize).prop_map(Op::Scale),
        20 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(index, ready)| Op::Ready(index, ready)),
        2 => any::<usize>().prop_map(Op::Break),
        10 => (any::<usize>(), any::<bool>()).prop_map(|(index, drained)| Op::Drained(index, drained)),
        6 => (1..20_u64).prop_map(Op::Pass),
    ]
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (1..4_usize, 0..4_usize, 1..4_usize).prop_map(|(least, more, max_extra)| Bounds {
        least,
        most: least + more,
        max_extra,
        ready_within: 30 * S,
        drain: 10 * S,
    })
}

struct Checked {
    rollouts: Rollouts<u8>,
    bounds: Bounds,
    seen: BTreeMap<u64, Seen>,
    now: Now,
    /// Replicas that have existed.
    used: BTreeSet<u64>,
    retired: BTreeMap<u64, Duration>,
    serving: u64,
    deployed: u64,
}

impl Checked {
    fn step(&mut self) -> Result<(), TestCaseError> {
        let before = self.rollouts.replicas().clone();
        let candidate = self.rollouts.candidate.clone();
        let was_wanted = self.rollouts.wanted();
        self.rollouts.step(&self.seen, &self.bounds, self.now);
        let after = self.rollouts.replicas();
        let wanted = self.rollouts.wanted();
        prop_assert!((self.bounds.least..=self.bounds.most).contains(&wanted));
        for id in after.keys().filter(|id| !before.contains_key(id)) {
            prop_assert!(self.used.insert(*id), "the number of a replica is used again");
        }
        let limit = wanted.max(was_wanted.min(self.bounds.most)) + self.bounds.max_extra;
        prop_assert!(after.len() <= limit.max(before.len()), "{} replicas, {limit} at most", after.len());
        for (id, replica) in &before {
            if after.contains_key(id) {
                continue;
            }
            let is_drained = self.seen.get(id).is_none_or(|seen| seen.is_drained);
            let is_candidates = candidate.as_ref().is_some_and(|c| c.version.number == replica.version);
            let is_late = replica.drain_until.is_some_and(|until| until <= self.now.at);
            let may_go = is_candidates || replica.drain_until.is_some() && (is_drained || is_late);
            prop_assert!(may_go, "replica {id} was ended with messages");
        }
        for (id, replica) in after {
            if let Some(until) = replica.drain_until {
                let first = *self.retired.entry(*id).or_insert(until);
                prop_assert_eq!(first, until, "the time to drain was extended");
                prop_assert!(until <= self.now.at + self.bounds.drain);
            }
        }
        let serving = self.rollouts.serving().map_or(0, |version| version.number);
        prop_assert!(serving >= self.serving, "version {serving} serves after {}", self.serving);
        if serving > self.serving {
            let own = before.iter().filter(|(_, replica)| replica.version == serving);
            let ready = own.filter(|(id, _)| self.seen.get(id).is_some_and(|seen| seen.is_ready)).count();
            let beside = wanted.min(self.bounds.max_extra);
            prop_assert!(ready >= beside, "version {serving} serves with {ready} of {beside} replicas");
        }
        self.serving = serving;
        for id in self.rollouts.rotation(&self.seen) {
            let replica = after[&id];
            prop_assert!(
                self.seen[&id].is_ready && replica.version == serving && replica.drain_until.is_none()
            );
        }
        if let Some(deadline) = self.rollouts.next_deadline() {
            prop_assert!(deadline > self.now.at, "a step is due at once");
        }
        if let Some(candidate) = &self.rollouts.candidate {
            prop_assert!(candidate.deadline <= self.now.at + self.bounds.ready_within);
        } else {
            prop_assert!(!self.rollouts.is_waiting());
        }
        self.seen.retain(|id, _| self.rollouts.replicas.contains_key(id));
        for id in self.rollouts.replicas.keys() {
            self.seen.entry(*id).or_default();
        }
        Ok(())
    }

    fn pick(&mut self, index: usize) -> Option<&mut Seen> {
        let count = self.seen.len();
        if count == 0 { None } else { self.seen.values_mut().nth(index % count) }
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Deploy(input, overlap) => {
                let key = Hex([input; 16]);
                self.deployed += u64::from(!self.rollouts.is_known(key));
                self.rollouts.deploy(key, input, overlap, self.now);
                prop_assert!(self.rollouts.is_known(key));
            }
            Op::Forget(input) => self.rollouts.forget(Hex([input; 16])),
            Op::Scale(wanted) => self.rollouts.scale(wanted),
            Op::Ready(index, ready) => {
                if let Some(seen) = self.pick(index) {
                    seen.is_ready = ready && seen.broken.is_none();
                }
            }
            Op::Break(index) => {
                if let Some(seen) = self.pick(index) {
                    (seen.is_ready, seen.broken) = (false, Some("broken".to_owned()));
                }
            }
            Op::Drained(index, drained) => {
                if let Some(seen) = self.pick(index) {
                    seen.is_drained = drained;
                }
            }
            Op::Pass(seconds) => self.now.at += u32::try_from(seconds).unwrap() * S,
        }
        self.step()?;
        prop_assert!(self.rollouts.last_version <= self.deployed, "an input was rolled out twice");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens to replicas, the version that serves only grows, becomes the one that serves when it is ready, and
    /// replicas leave when they have finished.
    #[test]
    fn rollouts_keep_their_guarantees(bounds in bounds(), ops in prop::collection::vec(op(), 1..150)) {
        let now = Now { at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
        let mut checked = Checked {
            rollouts: Rollouts::default(),
            bounds,
            seen: BTreeMap::new(),
            now,
            used: BTreeSet::new(),
            retired: BTreeMap::new(),
            serving: 0,
            deployed: 0,
        };
        for op in ops {
            checked.apply(op)?;
        }
        // Left alone, with replicas that do what they should, all is rolled out.
        for _ in 0..200 {
            for seen in checked.seen.values_mut() {
                *seen = Seen { is_ready: true, broken: None, is_drained: true };
            }
            checked.step()?;
            checked.now.at += S;
        }
        let rollouts = &checked.rollouts;
        prop_assert!(rollouts.candidate.is_none() && !rollouts.is_waiting());
        if rollouts.serving.is_some() {
            prop_assert_eq!(rollouts.replicas.len(), rollouts.wanted);
            prop_assert_eq!(rollouts.rotation(&checked.seen).len(), rollouts.wanted);
        }
    }

    /// A service that is restored from its record goes on as the one that was recorded.
    #[test]
    fn recorded_rollouts_are_restored(bounds in bounds(), ops in prop::collection::vec(op(), 1..60)) {
        let now = Now { at: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
        let mut checked = Checked {
            rollouts: Rollouts::default(),
            bounds,
            seen: BTreeMap::new(),
            now,
            used: BTreeSet::new(),
            retired: BTreeMap::new(),
            serving: 0,
            deployed: 0,
        };
        for op in ops {
            checked.apply(op)?;
            let recorded = crate::state::Value::of(&checked.rollouts).unwrap();
            let restored: Rollouts<u8> = recorded.decode().unwrap();
            prop_assert_eq!(&restored, &checked.rollouts);
        }
    }
}
