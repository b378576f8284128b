//! Random test of a node that outlives its heads: transactions of the head become durable in part before the head ends,
//! the node goes on meanwhile, and the next head decides about what the node hosts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::facts::{Fact, Image};
use super::super::*;
use super::at_random::INPUTS;
use super::input;
use crate::flow::adoption::{Expected, Verdict, judge};
use crate::flow::policy::Policy;

const GRACE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
enum Event {
    Request(u8),
    Stop,
    Start,
    Restart,
    /// The incarnation makes its next step.
    Host,
    /// This number of transactions becomes durable.
    Commit(usize),
    /// This number of transactions becomes durable, and the head ends before it does what has waited for them.
    HeadEnds(usize),
    /// A head is started with the journal, and the node reaches it.
    HeadReturns,
    /// A head is started with the journal, and ends before the node reaches it.
    HeadReturnsBriefly,
    /// The process of the node ends, and another one takes its place.
    NodeEnds,
    /// Time passes, in milliseconds.
    Wait(u64),
}

fn quiet() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..INPUTS).prop_map(Event::Request),
        8 => Just(Event::Host),
        5 => (0_usize..4).prop_map(Event::Commit),
        2 => (0_usize..3).prop_map(Event::HeadEnds),
        2 => Just(Event::HeadReturns),
        1 => Just(Event::HeadReturnsBriefly),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => quiet(),
        1 => Just(Event::Stop),
        1 => Just(Event::Start),
        1 => Just(Event::Restart),
        1 => Just(Event::NodeEnds),
        2 => (0_u64..80).prop_map(Event::Wait),
    ]
}

/// An order of the head to the node.
#[derive(Debug)]
enum Effect {
    Launch {
        decision: u64,
        number: u64,
    },
    Run {
        run: u64,
        input: u8,
    },
    Cancel {
        run: u64,
    },
    Stop,
    /// Ends this incarnation, or else the one that was launched while the order waited.
    Kill(Option<u64>),
    Acknowledge {
        number: u64,
        reports: u64,
    },
}

/// An incarnation on the node, living or with reports that are not acknowledged.
#[derive(Debug, Default)]
struct Hosted {
    last_run: u64,
    order: Option<(u64, u8)>,
    began: bool,
    cancelled: bool,
    stops: bool,
    has_ended: bool,
    /// Number of the reports that were acknowledged, and those since.
    acknowledged: u64,
    reports: VecDeque<Report>,
}

/// The head's side: the ledger, and what it waits to have on disk.
struct Head {
    ledger: Ledger,
    pending: VecDeque<(Vec<Fact>, Vec<Effect>)>,
    effects: Vec<Effect>,
    decisions: u64,
    /// The incarnation that the head owns, with the number of its reports that have arrived.
    owned: Option<(u64, u64)>,
    /// Incarnations that are to be killed once that is durable.
    doomed: BTreeSet<u64>,
}

struct World {
    policy: Arc<Policy>,
    now: Duration,
    journal: Image,
    head: Option<Head>,
    node: BTreeMap<u64, Hosted>,
    last_number: u64,
    /// Inputs whose request is durable.
    owed: BTreeSet<u8>,
    /// The number of times that a body has begun, by input.
    begun: BTreeMap<u8, u32>,
    adopted: u32,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            policy: Policy { queue: 100, grace: GRACE, ..Policy::default() }.into(),
            now: Duration::ZERO,
            journal: Image::new(),
            head: None,
            node: BTreeMap::new(),
            last_number: 0,
            owed: BTreeSet::new(),
            begun: BTreeMap::new(),
            adopted: 0,
        };
        let mut ledger = Ledger::new(world.policy.clone());
        ledger.record_facts();
        world.head = Some(Head::new(ledger));
        world.with_ledger(|ledger, now| ledger.start(now));
        world
    }

    fn moment(&self) -> Moment {
        Moment { at: self.now, wall: SystemTime::UNIX_EPOCH + self.now }
    }

    /// A cycle of the driver around a call of the ledger.
    fn with_ledger(&mut self, call: impl FnOnce(&mut Ledger, Moment)) {
        let now = self.moment();
        let Some(head) = &mut self.head else { return };
        call(&mut head.ledger, now);
        loop {
            let actions = head.ledger.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                head.effects.push(match action {
                    Action::Launch => {
                        self.last_number += 1;
                        head.ledger.launched_as(self.last_number);
                        head.decisions += 1;
                        Effect::Launch { decision: head.decisions, number: self.last_number }
                    }
                    Action::Send(order) => {
                        let number = (0..INPUTS).find(|number| input(*number).1.bytes == order.input.bytes);
                        Effect::Run { run: order.run, input: number.unwrap() }
                    }
                    Action::Cancel { run } => Effect::Cancel { run },
                    Action::Stop => Effect::Stop,
                    Action::Kill => {
                        head.decisions += 1;
                        // Its reports are ignored from here on.
                        let killed = head.owned.take().map(|(number, _)| number);
                        head.doomed.extend(killed);
                        Effect::Kill(killed)
                    }
                    Action::Close(_) | Action::Restarting(_) | Action::Captured(_) | Action::Raise(_) => {
                        continue;
                    }
                });
            }
        }
        let facts = head.ledger.take_facts();
        head.pending.push_back((facts, std::mem::take(&mut head.effects)));
    }

    /// Makes transactions durable, and carries out what has waited for them.
    fn commit(&mut self, count: usize) {
        for _ in 0..count {
            let Some(effects) = self.make_durable() else { return };
            effects.into_iter().for_each(|effect| self.carry_out(effect));
        }
    }

    /// Makes the next transaction durable. Returns what has waited for it.
    fn make_durable(&mut self) -> Option<Vec<Effect>> {
        let (facts, effects) = self.head.as_mut()?.pending.pop_front()?;
        for fact in facts {
            if let Fact::Requested { input: bytes, .. } = &fact {
                let number = (0..INPUTS).find(|number| input(*number).1.bytes == bytes.bytes).unwrap();
                self.owed.insert(number);
            }
            self.journal.apply(fact);
        }
        Some(effects)
    }

    fn carry_out(&mut self, effect: Effect) {
        let Some(head) = &mut self.head else { return };
        match effect {
            Effect::Launch { decision, .. } if decision != head.decisions => {}
            Effect::Launch { number, .. } => {
                let before = self.node.insert(number, Hosted::default());
                assert!(before.is_none(), "number {number} was used twice");
                assert!(head.owned.is_none(), "{:?} is replaced by {number} while it lives", head.owned);
                head.owned = Some((number, 0));
                head.ledger.placed_on(Some("n".into()));
            }
            Effect::Acknowledge { number, reports } => {
                if let Some(hosted) = self.node.get_mut(&number) {
                    while hosted.acknowledged < reports && hosted.reports.pop_front().is_some() {
                        hosted.acknowledged += 1;
                    }
                    if hosted.has_ended && hosted.reports.is_empty() {
                        self.node.remove(&number);
                    }
                }
            }
            Effect::Kill(killed) => {
                let launched_meanwhile = || head.owned.take().map(|(number, _)| number);
                if let Some(number) = killed.or_else(launched_meanwhile) {
                    self.node.remove(&number);
                }
            }
            to_incarnation => {
                let Some((number, _)) = head.owned else { return };
                let Some(hosted) = self.node.get_mut(&number).filter(|hosted| !hosted.has_ended) else {
                    return;
                };
                match to_incarnation {
                    Effect::Run { run, input } => {
                        assert!(run > hosted.last_run, "run {run} was ordered again");
                        assert!(hosted.order.is_none(), "two runs at a time");
                        (hosted.last_run, hosted.order) = (run, Some((run, input)));
                    }
                    Effect::Cancel { run } => {
                        hosted.cancelled |= hosted.order.is_some_and(|(known, _)| known == run)
                    }
                    _ => hosted.stops = true,
                }
            }
        }
    }

    /// The living incarnation of the node makes its next step.
    fn host(&mut self) {
        let Some((number, hosted)) = self.node.iter_mut().find(|(_, hosted)| !hosted.has_ended) else {
            return;
        };
        let number = *number;
        let report = match hosted.order {
            Some((run, input)) if !hosted.began => {
                hosted.began = true;
                *self.begun.entry(input).or_default() += 1;
                Report::RunStarted { run }
            }
            Some((run, _)) => {
                (hosted.order, hosted.began) = (None, false);
                let is_cut = std::mem::take(&mut hosted.cancelled) || hosted.stops;
                if is_cut { Report::RunStopped { run } } else { Report::RunSucceeded { run } }
            }
            None if hosted.stops => {
                hosted.has_ended = true;
                Report::Stopped { failure: None }
            }
            None => return,
        };
        hosted.reports.push_back(report.clone());
        self.deliver(number, vec![report]);
    }

    /// Reports of an incarnation arrive at its head, if there is one.
    fn deliver(&mut self, number: u64, reports: Vec<Report>) {
        let Some(head) = &mut self.head else { return };
        let Some((owned, count)) = &mut head.owned else { return };
        if *owned != number {
            return;
        }
        *count += reports.len() as u64;
        let reports_now = *count;
        let is_over =
            reports.iter().any(|report| matches!(report, Report::Stopped { .. } | Report::Died { .. }));
        if is_over {
            head.owned = None;
        }
        self.with_ledger(|ledger, now| {
            for report in reports {
                ledger.report(report, now);
            }
        });
        if let Some((_, effects)) = self.head.as_mut().and_then(|head| head.pending.back_mut()) {
            effects.push(Effect::Acknowledge { number, reports: reports_now });
        }
    }

    fn head_ends(&mut self) {
        self.head = None;
    }

    /// Starts a head, if there is none.
    fn head_returns(&mut self) {
        if self.head.is_some() {
            return;
        }
        let image = self.journal.clone();
        let awaited = image.is_alive().then(|| self.now + GRACE);
        let ledger = Ledger::restore(self.policy.clone(), image, awaited, self.moment());
        self.head = Some(Head::new(ledger));
        self.with_ledger(|_, _| ());
    }

    /// The node describes what it hosts.
    fn node_claims(&mut self) {
        let numbers: Vec<_> = self.node.keys().copied().collect();
        for number in numbers {
            let Some(head) = &mut self.head else { return };
            let Some(hosted) = self.node.get(&number) else { continue };
            let expected = Expected { awaited: head.ledger.awaited(), work: "Work", fits: true };
            match judge(Some(expected), number, "Work") {
                Verdict::Adopt => {
                    assert!(head.owned.is_none(), "{number} is adopted beside {:?}", head.owned);
                    head.owned = Some((number, hosted.acknowledged));
                    self.adopted += 1;
                    let (last_run, reports) = (hosted.last_run, hosted.reports.iter().cloned().collect());
                    self.with_ledger(|ledger, now| {
                        ledger.placed_on(Some("n".into()));
                        ledger.adopted(last_run, now);
                    });
                    self.deliver(number, reports);
                }
                Verdict::End(_) => drop(self.node.remove(&number)),
                Verdict::Replace(why) => panic!("{why}"),
            }
        }
        self.with_ledger(|ledger, now| {
            if ledger.awaited().is_some() {
                ledger.not_kept(now);
            }
        });
    }

    fn node_ends(&mut self) {
        self.node.clear();
        if let Some(head) = &mut self.head
            && head.owned.take().is_some()
        {
            self.with_ledger(|ledger, now| ledger.node_lost("it is gone", now));
        }
    }

    fn take(&mut self, event: &Event) {
        match *event {
            Event::Request(number) => {
                let (key, bytes) = input(number);
                self.with_ledger(|ledger, now| {
                    let _ = ledger.request(key, bytes, now);
                });
            }
            Event::Stop => self.with_ledger(|ledger, now| ledger.stop(now)),
            Event::Start => self.with_ledger(|ledger, now| ledger.start(now)),
            Event::Restart => self.with_ledger(|ledger, now| ledger.restart(now)),
            Event::Host => self.host(),
            Event::Commit(count) => self.commit(count),
            Event::HeadEnds(durable) => {
                (0..durable).for_each(|_| drop(self.make_durable()));
                self.head_ends();
            }
            Event::HeadReturns if self.head.is_none() => {
                self.head_returns();
                self.node_claims();
            }
            Event::HeadReturns => {}
            Event::HeadReturnsBriefly if self.head.is_none() => {
                self.head_returns();
                self.head_ends();
            }
            Event::HeadReturnsBriefly => {}
            Event::NodeEnds => self.node_ends(),
            Event::Wait(time) => {
                self.now += Duration::from_millis(time);
                self.with_ledger(|ledger, now| ledger.on_time(now));
            }
        }
        self.check();
    }

    fn check(&self) {
        let living = self.node.iter().filter(|(_, hosted)| !hosted.has_ended).map(|(number, _)| *number);
        let living: Vec<_> = living.collect();
        assert!(living.len() <= 1, "two incarnations live: {living:?}");
        if let (Some(head), [number]) = (&self.head, &living[..])
            && !head.doomed.contains(number)
        {
            assert_eq!(
                head.owned.map(|(owned, _)| owned),
                Some(*number),
                "incarnation {number} is not owned"
            );
        }
    }

    /// Lets everything that was begun end.
    fn settle(&mut self) {
        self.take(&Event::HeadReturns);
        for _ in 0..200 {
            self.commit(usize::MAX);
            self.host();
            self.take(&Event::Wait(1));
        }
    }
}

impl Head {
    fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            pending: VecDeque::new(),
            effects: Vec::new(),
            decisions: 0,
            owned: None,
            doomed: BTreeSet::new(),
        }
    }
}

proptest! {
    /// Heads end at any moment and the node never: whatever was durable, every run begins once, and ends.
    #[test]
    fn run_begins_once_over_any_number_of_heads(events in proptest::collection::vec(quiet(), 0..80)) {
        let mut world = World::new();
        for event in &events {
            world.take(event);
        }
        world.settle();
        let head = world.head.as_ref().unwrap();
        for number in 0..INPUTS {
            let stage = head.ledger.run_status(input(number).0).stage;
            let begun = world.begun.get(&number).copied().unwrap_or_default();
            prop_assert!(begun <= 1, "the body of {} has begun {} times", number, begun);
            prop_assert_eq!(stage == Stage::Succeeded, begun == 1, "{} is {}", number, stage);
            prop_assert!(stage == Stage::Succeeded || !world.owed.contains(&number), "{} is {}", number, stage);
        }
        prop_assert_eq!(head.ledger.successes() as usize, world.begun.len());
    }

    /// With nodes that end, stops and restarts as well, no incarnation is without a head or has another beside it, and no
    /// run is lost.
    #[test]
    fn incarnation_is_owned_once_whatever_ends(events in proptest::collection::vec(any_event(), 0..80)) {
        let mut world = World::new();
        for event in &events {
            world.take(event);
        }
        world.settle();
        let head = world.head.as_ref().unwrap();
        let is_stopped = events.iter().any(|event| matches!(event, Event::Stop));
        for number in 0..INPUTS {
            let stage = head.ledger.run_status(input(number).0).stage;
            prop_assert!(!matches!(stage, Stage::Pending | Stage::Running), "{} is left {}", number, stage);
            let is_owed = world.owed.contains(&number) && !is_stopped;
            prop_assert!(!is_owed || stage == Stage::Succeeded, "{} was accepted and is {}", number, stage);
        }
        prop_assert!(world.node.values().all(|hosted| !hosted.has_ended), "an end is acknowledged at last");
    }
}
