//! Random test of the search for cycles against a model: Works in several processes that ask each other, answer, defer,
//! give up, time out and are lost with their process, while all messages between processes take any time.
//!
//! Messages of Works arrive in any order. Those to and from the head arrive in the order of each process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

/// A step of a schedule: its kind, and numbers that choose among the possible ones.
type Step = (u8, u8, u8);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Question {
    ask: AskId,
    to: usize,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    question: Question,
    /// False if something else may make the Work go on, as in `select!`.
    is_only: bool,
    deadline: u64,
    is_reported: bool,
}

#[derive(Debug, Default)]
struct ModelWork {
    process: u64,
    mailbox: VecDeque<AskId>,
    /// True while a handler executes.
    is_busy: bool,
    /// The question of the handler, unless its reply was deferred.
    handles: Option<AskId>,
    waits: Option<Waiting>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Transit {
    Ask(Question),
    Answer(AskId),
}

#[derive(Default)]
struct Model {
    graph: Graph,
    works: Vec<ModelWork>,
    transit: Vec<Transit>,
    deferred: Vec<AskId>,
    to_head: BTreeMap<u64, VecDeque<WaitReport>>,
    from_head: BTreeMap<u64, VecDeque<WaitOrder>>,
    next: u64,
    /// The cycles that have stood at some moment, each as the asks of its Works in order, from the smallest.
    stood: BTreeSet<Vec<AskId>>,
    /// Cycles that the head has confirmed.
    confirmed: BTreeSet<Vec<AskId>>,
    /// Number of asks that have failed.
    failed: usize,
}

fn path(work: usize) -> ActorPath {
    ActorPath::from(format!("w{work}").as_str())
}

impl Model {
    fn new(works: usize, processes: u64) -> Self {
        let process = |work: usize| work as u64 % processes;
        let works = (0..works).map(|work| ModelWork { process: process(work), ..ModelWork::default() });
        Self { works: works.collect(), ..Self::default() }
    }

    fn id(&mut self) -> AskId {
        self.next += 1;
        // Scrambled, so that no order of asks is that of their ids.
        AskId::numbered(self.next.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn report(&mut self, process: u64, report: WaitReport) {
        self.to_head.entry(process).or_default().push_back(report);
    }

    /// Returns true if a question can be answered although its Work does nothing.
    fn is_under_way(&self, ask: AskId) -> bool {
        self.deferred.contains(&ask) || self.transit.contains(&Transit::Answer(ask))
    }

    /// Returns the asks of the cycle that stands and begins at a Work, from the smallest.
    fn cycle_at(&self, start: usize) -> Option<Vec<AskId>> {
        let (mut asks, mut at) = (Vec::new(), start);
        loop {
            let waits = self.works[at].waits.filter(|waits| waits.is_only)?;
            if self.is_under_way(waits.question.ask) || asks.len() > self.works.len() {
                return None;
            }
            asks.push(waits.question.ask);
            at = waits.question.to;
            if at == start {
                break;
            }
        }
        let smallest = asks.iter().enumerate().min_by_key(|(_, ask)| **ask)?.0;
        asks.rotate_left(smallest);
        Some(asks)
    }

    /// Ends the wait of a Work. A question that was given up is withdrawn from wherever it is.
    fn end_wait(&mut self, work: usize) {
        let Some(waits) = self.works[work].waits.take() else { return };
        let Question { ask, to } = waits.question;
        self.works[to].mailbox.retain(|waiting| *waiting != ask);
        self.transit.retain(|message| !matches!(message, Transit::Ask(question) if question.ask == ask));
        if waits.is_reported {
            self.report(self.works[work].process, WaitReport::Ended { ask });
        }
    }

    /// Has a Work look whether it waits, as a slow ask does.
    fn look(&mut self, work: usize) {
        let ModelWork { process, handles, .. } = self.works[work];
        let Some(waits) = &mut self.works[work].waits else { return };
        if !waits.is_only {
            return;
        }
        waits.is_reported = true;
        let report = WaitReport::Waits {
            ask: waits.question.ask,
            work: path(work),
            asked: path(waits.question.to),
            handles,
            remaining_us: waits.deadline,
        };
        self.report(process, report);
    }

    fn deliver(&mut self, message: Transit) {
        match message {
            Transit::Ask(Question { ask, to }) => self.works[to].mailbox.push_back(ask),
            Transit::Answer(ask) => {
                let is_it = |work: &ModelWork| work.waits.is_some_and(|waits| waits.question.ask == ask);
                if let Some(work) = self.works.iter().position(is_it) {
                    self.end_wait(work);
                }
            }
        }
    }

    /// Checks that the cycle that the head has confirmed has stood, and that the head has not confirmed it before.
    fn must_have_stood(&mut self, ask: AskId) {
        let round = self.graph.waits.get(&ask).and_then(|wait| wait.round).expect("it is being confirmed");
        let mut cycle = self.graph.rounds[&round].cycle.clone();
        let smallest = cycle.iter().enumerate().min_by_key(|(_, ask)| **ask).expect("it has asks").0;
        cycle.rotate_left(smallest);
        assert!(self.stood.contains(&cycle), "no such cycle has stood");
        assert!(self.confirmed.insert(cycle), "a cycle is confirmed once");
    }

    /// The head takes the next report of a process.
    fn head_takes(&mut self, process: u64) {
        let Some(report) = self.to_head.get_mut(&process).and_then(VecDeque::pop_front) else { return };
        for (process, order) in self.graph.reported(process, report, Duration::ZERO) {
            if let WaitOrder::Fail { ask, .. } = &order {
                self.must_have_stood(*ask);
            }
            self.from_head.entry(process).or_default().push_back(order);
        }
    }

    /// A process takes the next order of the head.
    fn process_takes(&mut self, process: u64) {
        let Some(order) = self.from_head.get_mut(&process).and_then(VecDeque::pop_front) else { return };
        let (WaitOrder::Check { ask, .. } | WaitOrder::Fail { ask, .. }) = order;
        let is_it = |work: &ModelWork| {
            work.process == process
                && work.waits.is_some_and(|waits| waits.is_reported && waits.question.ask == ask)
        };
        let Some(number) = self.works.iter().position(is_it) else { return };
        match order {
            WaitOrder::Check { round, asker, .. } => {
                let work = &self.works[number];
                let stands = work.handles == Some(asker) || work.mailbox.contains(&asker);
                self.report(process, WaitReport::Checked { round, ask, stands });
            }
            WaitOrder::Fail { cycle: names, .. } => {
                assert_eq!(
                    names.first(),
                    Some(&path(number)),
                    "the cycle begins with the Work that has asked"
                );
                assert_eq!(names.first(), names.last());
                self.failed += 1;
                self.end_wait(number);
            }
        }
    }

    /// Loses a process. Its Works start anew elsewhere in it, and their questions fail.
    fn lose(&mut self, process: u64) {
        for number in 0..self.works.len() {
            if self.works[number].process != process {
                continue;
            }
            let work = std::mem::take(&mut self.works[number]);
            self.works[number].process = process;
            if let Some(Waiting { question: Question { ask, to }, .. }) = work.waits {
                self.works[to].mailbox.retain(|waiting| *waiting != ask);
                self.transit.retain(|message| !matches!(message, Transit::Ask(it) if it.ask == ask));
            }
            self.transit.extend(work.mailbox.into_iter().chain(work.handles).map(Transit::Answer));
        }
        self.to_head.remove(&process);
        self.from_head.remove(&process);
        self.graph.lost(process);
    }

    fn step(&mut self, (kind, a, b): Step) {
        let number = usize::from(a) % self.works.len();
        let work = &mut self.works[number];
        let is_running = work.is_busy && work.waits.is_none();
        match kind % 16 {
            // A question from outside, or a tell.
            0 if !work.is_busy => work.is_busy = true,
            0 | 1 if !work.is_busy => {
                if let Some(ask) = work.mailbox.pop_front() {
                    (work.is_busy, work.handles) = (true, Some(ask));
                }
            }
            2..=5 if is_running => {
                let to = usize::from(b) % self.works.len();
                if to != number {
                    let question = Question { ask: self.id(), to };
                    let deadline = u64::from(b) * 100 + 200;
                    let is_only = b % 8 != 7;
                    self.works[number].waits =
                        Some(Waiting { question, is_only, deadline, is_reported: false });
                    self.transit.push(Transit::Ask(question));
                }
            }
            6 if is_running => self.deferred.extend(work.handles.take()),
            7 if is_running => {
                work.is_busy = false;
                self.transit.extend(work.handles.take().map(Transit::Answer));
            }
            8 if !self.deferred.is_empty() => {
                let ask = self.deferred.swap_remove(usize::from(b) % self.deferred.len());
                self.transit.push(Transit::Answer(ask));
            }
            9..=10 if !self.transit.is_empty() => {
                let message = self.transit.swap_remove(usize::from(b) % self.transit.len());
                self.deliver(message);
            }
            11 => self.look(number),
            12 => self.head_takes(u64::from(b) % self.works.len() as u64),
            13 => self.process_takes(u64::from(b) % self.works.len() as u64),
            // A timeout, or another branch of `select!`.
            14 if b % 4 == 0 => self.end_wait(number),
            15 if b == 0 => self.lose(u64::from(a) % 3),
            _ => {}
        }
        self.note_cycles();
    }

    fn note_cycles(&mut self) {
        for work in 0..self.works.len() {
            self.stood.extend(self.cycle_at(work));
        }
    }

    fn takes_all_of_the_head(&mut self) {
        while self.to_head.values().any(|reports| !reports.is_empty())
            || self.from_head.values().any(|orders| !orders.is_empty())
        {
            for process in 0..self.works.len() as u64 {
                self.head_takes(process);
                self.process_takes(process);
                self.note_cycles();
            }
        }
    }

    /// Lets everything arrive, with no more steps of Works than looks for cycles, and then lets all waits end.
    fn finish(mut self) -> usize {
        for _ in 0..=self.works.len() {
            while let Some(message) = self.transit.pop() {
                self.deliver(message);
                self.note_cycles();
            }
            self.takes_all_of_the_head();
            (0..self.works.len()).for_each(|work| self.look(work));
            self.takes_all_of_the_head();
        }
        for work in 0..self.works.len() {
            assert_eq!(self.cycle_at(work), None, "a cycle that stands is found");
        }
        (0..self.works.len()).for_each(|work| self.end_wait(work));
        self.takes_all_of_the_head();
        assert!(self.graph.is_empty(), "nothing is kept");
        self.failed
    }
}

fn run(works: usize, processes: u64, steps: &[Step]) -> usize {
    let mut model = Model::new(works, processes);
    steps.iter().for_each(|step| model.step(*step));
    model.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Every cycle that stands is found, one ask of it fails, and no ask fails without one.
    #[test]
    fn cycles_are_found_once_and_never_made_up(
        works in 2..6_usize,
        processes in 1..4_u64,
        steps in proptest::collection::vec(any::<Step>(), 0..300),
    ) {
        run(works, processes, &steps);
    }
}

/// The schedules of the test above have many cycles.
#[test]
fn random_schedules_have_cycles() {
    let mut runner = TestRunner::deterministic();
    let schedules = proptest::collection::vec(any::<Step>(), 300);
    let found =
        (0..200).map(|_| run(3, 2, &schedules.new_tree(&mut runner).unwrap().current())).sum::<usize>();
    assert!(found > 50, "{found} cycles in 200 schedules");
}

fn waits(ask: u64, work: &str, asked: &str, handles: Option<u64>, remaining_us: u64) -> WaitReport {
    let handles = handles.map(AskId::numbered);
    let (work, asked) = (ActorPath::from(work), ActorPath::from(asked));
    WaitReport::Waits { ask: AskId::numbered(ask), work, asked, handles, remaining_us }
}

fn check(round: u64, ask: u64, asker: u64) -> WaitOrder {
    WaitOrder::Check { round, ask: AskId::numbered(ask), asker: AskId::numbered(asker) }
}

fn checked(round: u64, ask: u64, stands: bool) -> WaitReport {
    WaitReport::Checked { round, ask: AskId::numbered(ask), stands }
}

/// The ask with the least time left fails, wherever the cycle was closed.
#[test]
fn ask_whose_timeout_would_pass_first_fails() {
    for (first, second, victim) in [(100, 200, 1), (200, 100, 2), (100, 100, 1)] {
        let mut graph = Graph::default();
        assert!(graph.reported(7, waits(1, "a", "b", None, first), Duration::ZERO).is_empty());
        let orders = graph.reported(8, waits(2, "b", "a", Some(1), second), Duration::ZERO);
        assert_eq!(orders, [(8, check(1, 2, 1)), (7, check(1, 1, 2))]);
        assert!(graph.reported(7, checked(1, 1, true), Duration::ZERO).is_empty());
        let orders = graph.reported(8, checked(1, 2, true), Duration::ZERO);
        let cycle = if victim == 1 { ["a", "b", "a"] } else { ["b", "a", "b"] };
        let cycle = cycle.map(ActorPath::from).to_vec();
        let fail = WaitOrder::Fail { ask: AskId::numbered(victim), cycle };
        assert_eq!(orders, [(if victim == 1 { 7 } else { 8 }, fail)]);
        // No second one, whatever is reported again.
        assert!(graph.reported(7, waits(1, "a", "b", None, first), Duration::ZERO).is_empty());
    }
}

/// A question that a replica handles leads to that replica, although the address of its service was asked.
#[test]
fn cycle_through_a_service_leads_by_its_replica() {
    let mut graph = Graph::default();
    graph.reported(1, waits(1, "client", "server", None, 100), Duration::ZERO);
    let orders = graph.reported(2, waits(2, "server.3", "client", Some(1), 100), Duration::ZERO);
    assert_eq!(orders.len(), 2, "{orders:?}");
}

/// Another process cannot end, confirm or replace a wait that is not its own.
#[test]
fn waits_of_other_processes_are_left_alone() {
    let mut graph = Graph::default();
    graph.reported(1, waits(1, "a", "b", None, 100), Duration::ZERO);
    for report in [WaitReport::Ended { ask: AskId::numbered(1) }, waits(1, "c", "d", None, 1)] {
        graph.reported(2, report, Duration::ZERO);
    }
    let orders = graph.reported(1, waits(2, "b", "a", None, 100), Duration::ZERO);
    assert_eq!(orders.len(), 2, "{orders:?}");
    assert!(graph.reported(2, checked(1, 1, true), Duration::ZERO).is_empty());
    assert!(graph.reported(1, checked(1, 2, true), Duration::ZERO).is_empty());
}
