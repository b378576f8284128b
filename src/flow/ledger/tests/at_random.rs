//! Random test of the ledger: a host carries out its actions, and a model checks them against the requests.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::super::facts::Image;
use super::super::*;
#[cfg(feature = "journal")]
use super::super::{facts::Fact, rows::ImageReader};
use super::input;
use crate::flow::policy::*;
use crate::flow::restart::{OnError, Restart};
#[cfg(feature = "journal")]
use crate::id::ActorPath;
#[cfg(feature = "journal")]
use crate::journal::{Change, Table};
use crate::wire;
use crate::work::{KnownStep, Steps};

pub(super) const INPUTS: u8 = 5;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Request(u8),
    Rerun(u8),
    Forget(u8),
    Start,
    Stop,
    Restart,
    /// The node of the incarnation is about to leave.
    Move,
    /// The incarnation makes its next step, in this way if there are several.
    Host(Way),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// A report about a run that ended long ago.
    Late,
    /// The run in progress intends a step or has done it.
    Stepped(u8, bool),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// Ends the run early when asked to.
    Well,
    /// Completes the run although asked to stop.
    Stubbornly,
    Error,
    Death,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..INPUTS).prop_map(Step::Request),
        1 => (0..INPUTS).prop_map(Step::Rerun),
        1 => (0..INPUTS).prop_map(Step::Forget),
        1 => Just(Step::Start),
        1 => Just(Step::Stop),
        1 => Just(Step::Restart),
        1 => Just(Step::Move),
        10 => prop_oneof![4 => Just(Way::Well), 1 => Just(Way::Stubbornly), 1 => Just(Way::Error), 1 => Just(Way::Death)].prop_map(Step::Host),
        3 => (0_u64..40).prop_map(Step::Wait),
        1 => Just(Step::Late),
        4 => (0..3_u8, any::<bool>()).prop_map(|(number, is_done)| Step::Stepped(number, is_done)),
    ]
}

pub(super) fn policy() -> impl Strategy<Value = Policy> {
    let overlap = proptest::sample::select(vec![Overlap::Queue, Overlap::Latest, Overlap::Restart]);
    let restart = prop_oneof![
        Just(Restart::never()),
        (1_u32..4, 0_u64..20).prop_map(|(max, wait)| {
            let wait = Duration::from_millis(wait);
            Restart::on_failure().max(max).within(Duration::from_millis(200)).backoff(wait..4 * wait)
        }),
    ];
    let timeout = proptest::option::of((1_u64..30).prop_map(Duration::from_millis));
    let on_error = proptest::sample::select(vec![OnError::Capture, OnError::Capture, OnError::Raise]);
    (any::<bool>(), overlap, 0_usize..4, timeout, restart, on_error, 1_u64..30).prop_map(
        |(cache_calls, overlap, queue, timeout, restart, on_error, grace)| Policy {
            on_node_lost: crate::flow::OnNodeLost::Wait,
            cache_calls,
            overlap,
            queue,
            timeout,
            restart,
            on_error,
            grace: Duration::from_millis(grace),
            counts_for_readiness: None,
            remember: crate::flow::Remember::default(),
            journaled: crate::flow::Journaled::All,
        },
    )
}

/// An incarnation in the host.
#[derive(Debug, Default)]
struct Incarnation {
    order: Option<(u64, u8)>,
    began: bool,
    cancelled: bool,
    stops: bool,
}

/// Applies a fact to the rows of the journal.
#[cfg(feature = "journal")]
pub(super) fn write(rows: &mut HashMap<(Table, Vec<u8>), Vec<u8>>, fact: Fact) {
    let mut changes = Vec::new();
    fact.append_to(&mut changes, &ActorPath::from("work"));
    for change in changes {
        match change {
            Change::Put { table, key, value, .. } => drop(rows.insert((table, key), value)),
            Change::Delete { table, key, .. } => drop(rows.remove(&(table, key))),
            other => panic!("a ledger has rows only, and no {other:?}"),
        }
    }
}

/// Reads the image from the rows of the journal.
#[cfg(feature = "journal")]
pub(super) fn read(rows: &HashMap<(Table, Vec<u8>), Vec<u8>>) -> Image {
    let mut reader = ImageReader::new();
    for ((table, key), value) in rows {
        reader.read(*table, key, value).unwrap();
    }
    reader.finish()
}

/// The ledger, its host, and the expectations about both.
pub(super) struct Model {
    ledger: Ledger,
    policy: Policy,
    now: Duration,
    incarnation: Option<Incarnation>,
    /// Inputs accepted but not sent yet, in the expected order.
    waiting: VecDeque<u8>,
    /// Input sent and not ended; a restart may send it again, before any waiting input.
    open: Option<u8>,
    /// True if the input that was sent last was forgotten since.
    forgotten: bool,
    succeeded: HashSet<u8>,
    failed: HashSet<u8>,
    /// Inputs accepted and never forgotten.
    owed: HashSet<u8>,
    successes: u64,
    wants_up: bool,
    raised: bool,
    /// True once the App ends, so that nothing new may start.
    winds_down: bool,
    last_seq: u64,
    last_run: u64,
    /// Steps of inputs that have neither succeeded nor been forgotten.
    known: HashMap<u8, Steps>,
    /// Outputs of the last runs of inputs.
    outputs: HashMap<u8, u64>,
    /// Image of all facts, if the ledger records them.
    image: Option<Image>,
    /// Rows of all facts, as the journal keeps them.
    #[cfg(feature = "journal")]
    rows: HashMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Model {
    fn new(policy: Policy) -> Self {
        Self {
            ledger: Ledger::new(policy.clone().into()),
            policy,
            now: Duration::ZERO,
            incarnation: None,
            waiting: VecDeque::new(),
            open: None,
            forgotten: false,
            succeeded: HashSet::new(),
            failed: HashSet::new(),
            owed: HashSet::new(),
            successes: 0,
            wants_up: false,
            raised: false,
            winds_down: false,
            last_seq: 0,
            last_run: 0,
            known: HashMap::new(),
            outputs: HashMap::new(),
            image: None,
            #[cfg(feature = "journal")]
            rows: HashMap::new(),
        }
    }

    /// Creates a model whose ledger records facts.
    pub(super) fn recorded(policy: Policy) -> Self {
        let mut model = Self::new(policy);
        model.ledger.record_facts();
        model.image = Some(Image::new());
        model
    }

    /// Returns true if the input was accepted and never forgotten.
    pub(super) fn owes(&self, number: u8) -> bool {
        self.owed.contains(&number)
    }

    /// Applies the facts since the last call to the image, and compares it with the ledger.
    fn record(&mut self) {
        let Some(image) = &mut self.image else { return };
        for fact in self.ledger.take_facts() {
            #[cfg(feature = "journal")]
            write(&mut self.rows, fact.clone());
            image.apply(fact);
        }
        if !self.ledger.ending {
            assert_eq!(image.without_times(), self.ledger.image());
        }
    }

    /// Ends the process at once, and restores the ledger in another one.
    pub(super) fn end_process(&mut self) {
        let image = self.image.clone().expect("facts are recorded");
        #[cfg(feature = "journal")]
        let image = {
            assert_eq!(read(&self.rows), image, "the rows say something else than the facts");
            read(&self.rows)
        };
        let attempt = |ledger: &Ledger| ledger.current.as_ref().map(|current| current.waiting.attempts);
        let (restarts, attempts) = (self.ledger.restart_count(), attempt(&self.ledger));
        let incarnation = self.incarnation.take();
        self.ledger = Ledger::restore(self.policy.clone().into(), image, None, self.moment());
        if let Some(incarnation) = incarnation.filter(|incarnation| !incarnation.stops) {
            assert_eq!(self.ledger.restart_count(), restarts, "the end of the process counts as a restart");
            let is_again = incarnation.order.is_some() && !incarnation.cancelled && !self.forgotten;
            assert!(
                !is_again || attempt(&self.ledger) == attempts,
                "the end of the process counts as an attempt"
            );
        }
        self.act();
    }

    /// Ends the App in good order, and restores the ledger in another process.
    pub(super) fn end_app(&mut self, meanwhile: &[Step]) {
        let (waiting, open, wants_up) = (self.waiting.clone(), self.open, self.wants_up);
        self.ledger.wind_down(self.moment());
        self.winds_down = true;
        self.act();
        let is_of_host = |step: &&Step| matches!(step, Step::Host(_) | Step::Wait(_) | Step::Stepped(..));
        for step in meanwhile.iter().filter(is_of_host) {
            self.take(step);
        }
        self.ledger.shut_down(self.moment());
        self.stopped();
        self.settle();
        self.winds_down = false;
        (self.waiting, self.wants_up) = (waiting, wants_up);
        self.open = open.filter(|open| !self.succeeded.contains(open) && !self.failed.contains(open));
        self.end_process();
    }

    fn moment(&self) -> Moment {
        Moment { at: self.now, wall: SystemTime::UNIX_EPOCH + self.now }
    }

    pub(super) fn status(&self, number: u8) -> Status {
        self.ledger.run_status(input(number).0)
    }

    pub(super) fn take(&mut self, step: &Step) {
        let now = self.moment();
        match *step {
            Step::Request(number) => {
                let before = self.status(number).seq;
                let (key, bytes) = input(number);
                let result = self.ledger.request(key, bytes, now);
                assert_eq!(result == Requested::Finished, self.succeeded.contains(&number));
                self.find_accepted(number, before);
            }
            Step::Rerun(number) => {
                let before = self.status(number).seq;
                let (key, bytes) = input(number);
                self.ledger.rerun(key, bytes, now);
                self.find_accepted(number, before);
            }
            Step::Forget(number) => {
                self.ledger.forget(input(number).0, now);
                assert_eq!(self.status(number).stage, Stage::NotStarted);
                self.succeeded.remove(&number);
                self.failed.remove(&number);
                self.owed.remove(&number);
                self.waiting.retain(|waiting| *waiting != number);
                self.open = self.open.filter(|open| *open != number);
                let ordered = self.incarnation.as_ref().and_then(|life| life.order);
                self.forgotten |= ordered.is_some_and(|(_, ordered)| ordered == number);
            }
            Step::Start => {
                self.wants_up = true;
                self.ledger.start(now);
            }
            Step::Stop => {
                self.stopped();
                self.ledger.stop(now);
            }
            Step::Restart => {
                self.wants_up = true;
                self.ledger.restart(now);
            }
            Step::Move => self.ledger.move_away(now),
            Step::Host(way) => self.host(way),
            Step::Wait(time) => self.wait_until(self.now + Duration::from_millis(time)),
            Step::Late => {
                let before = self.ledger.status();
                self.ledger.report(Report::RunSucceeded { run: 0 }, now);
                self.ledger.report(Report::RunStopped { run: 0 }, now);
                self.ledger.report(Report::Stepped { run: 0, step: KnownStep::test(9, true) }, now);
                assert_eq!(self.ledger.status(), before);
            }
            Step::Stepped(number, is_done) => {
                let begun = self.incarnation.as_ref().filter(|life| life.began);
                let Some((run, input)) = begun.and_then(|life| life.order) else { return };
                let step = KnownStep::test(number, is_done);
                self.ledger.report(Report::Stepped { run, step: step.clone() }, now);
                if !self.forgotten {
                    self.known.entry(input).or_default().insert(step).unwrap();
                }
            }
        }
        self.act();
    }

    fn stopped(&mut self) {
        self.wants_up = false;
        self.waiting.clear();
        self.open = None;
    }

    /// Checks whether a request was accepted, and updates the waiting inputs.
    fn find_accepted(&mut self, number: u8, seq_before: u64) {
        let status = self.status(number);
        if status.stage != Stage::Pending || status.seq == seq_before {
            return;
        }
        self.wants_up = true;
        self.succeeded.remove(&number);
        self.failed.remove(&number);
        if self.policy.overlap != Overlap::Queue {
            self.waiting.clear();
        }
        self.waiting.push_back(number);
        self.owed.insert(number);
        let most = self.policy.queue.max(1);
        assert!(self.policy.overlap != Overlap::Queue || self.waiting.len() <= most, "{:?}", self.waiting);
    }

    /// Carries out the actions of the ledger.
    fn act(&mut self) {
        for action in self.ledger.take_actions() {
            match action {
                Action::Launch => {
                    assert!(self.incarnation.is_none(), "two incarnations at once");
                    assert!(self.wants_up, "started although it was stopped");
                    assert!(!self.winds_down, "started although the App ends");
                    self.incarnation = Some(Incarnation::default());
                }
                Action::Send(order) => self.send(&order),
                Action::Cancel { run } => {
                    let incarnation = self.incarnation.as_mut().expect("no incarnation to cancel");
                    assert_eq!(incarnation.order.map(|(run, _)| run), Some(run));
                    incarnation.cancelled = true;
                }
                Action::Stop => self.incarnation.as_mut().expect("no incarnation to stop").stops = true,
                Action::Kill => drop(self.incarnation.take().expect("no incarnation to end")),
                Action::Raise(_) => {
                    assert_eq!(self.policy.on_error, OnError::Raise);
                    self.raised = true;
                }
                Action::Close(_) | Action::Restarting(_) | Action::Captured(_) => {}
            }
        }
        if std::mem::take(&mut self.raised) && !self.ledger.ending {
            // The App ends.
            self.stopped();
            self.ledger.shut_down(self.moment());
            self.act();
        }
        let (ledger, last) = (&self.ledger, self.last_seq);
        let news: Vec<_> = ledger.history().map(|status| status.seq).filter(|seq| *seq > last).collect();
        assert!(news.iter().copied().eq(last + 1..=last + news.len() as u64), "{news:?} after {last}");
        self.last_seq += news.len() as u64;
        assert_eq!(self.ledger.successes(), self.successes);
        let failed: Vec<_> =
            (0..INPUTS).filter(|number| self.status(*number).stage == Stage::Failed).collect();
        self.failed.extend(failed);
        for number in 0..INPUTS {
            let is_output = self.status(number).stage == Stage::Succeeded;
            let expected =
                self.outputs.get(&number).filter(|_| is_output).map(|output| KnownStep::output_of(*output));
            let output =
                self.ledger.output(input(number).0).map(|output| KnownStep::test_output(output.clone()));
            assert_eq!(output, expected, "the output of input {number}");
            if matches!(self.status(number).stage, Stage::NotStarted | Stage::Succeeded) {
                self.known.remove(&number);
            }
        }
        if self.open.is_some_and(|number| self.status(number).stage.is_terminal()) {
            self.open = None;
        }
        self.record();
    }

    fn send(&mut self, order: &RunOrder) {
        let number: u8 = wire::decode(&order.input.bytes).unwrap();
        let incarnation = self.incarnation.as_mut().expect("no incarnation to run it");
        assert!(self.wants_up && !incarnation.stops, "a run was sent to a Work that is being stopped");
        assert!(incarnation.order.is_none(), "two runs at once");
        assert!(!self.winds_down, "a run began although the App ends");
        assert!(order.run > self.last_run, "each run has a number of its own");
        self.last_run = order.run;
        let known = self.known.get(&number).cloned().unwrap_or_default();
        assert_eq!(order.steps, known, "steps were lost, or belong to another run");
        let is_again = self.open == Some(number) && !self.waiting.contains(&number);
        if !is_again {
            assert_eq!(self.waiting.pop_front(), Some(number), "out of order");
        }
        assert!(!self.succeeded.contains(&number), "it ran although it had succeeded");
        assert!(!self.failed.contains(&number), "a failed run was retried without a request");
        self.open = Some(number);
        self.forgotten = false;
        self.outputs.remove(&number);
        incarnation.order = Some((order.run, number));
        incarnation.began = false;
        incarnation.cancelled = false;
    }

    /// Makes the next step of the incarnation.
    fn host(&mut self, way: Way) {
        let now = self.moment();
        let Some(incarnation) = &mut self.incarnation else { return };
        let failure = |reason| Failure::new(reason, "no");
        let is_asked_to_leave = incarnation.cancelled || incarnation.stops;
        // Two of three runs set an output, also some of those that fail then.
        if let Some((run, number)) = incarnation.order.filter(|(run, _)| incarnation.began && run % 3 > 0) {
            self.ledger.report(Report::Stepped { run, step: KnownStep::output_of(run) }, now);
            if !self.forgotten {
                self.outputs.insert(number, run);
            }
        }
        let report = match (incarnation.order, way) {
            (_, Way::Death) => {
                self.incarnation = None;
                Report::Died { failure: failure(Reason::Panic) }
            }
            (Some((run, _)), _) if !incarnation.began && !incarnation.stops => {
                incarnation.began = true;
                Report::RunStarted { run }
            }
            (Some((run, number)), Way::Well | Way::Stubbornly) if incarnation.began => {
                incarnation.order = None;
                if is_asked_to_leave && matches!(way, Way::Well) {
                    Report::RunStopped { run }
                } else {
                    self.successes += 1;
                    if !self.forgotten {
                        self.succeeded.insert(number);
                    }
                    Report::RunSucceeded { run }
                }
            }
            (Some((run, _)), Way::Error) if incarnation.began => {
                incarnation.order = None;
                Report::RunFailed { run, failure: failure(Reason::UserError) }
            }
            _ if incarnation.stops => {
                self.incarnation = None;
                let failure = matches!(way, Way::Error).then(|| failure(Reason::UserError));
                Report::Stopped { failure }
            }
            _ => return,
        };
        self.ledger.report(report, now);
    }

    /// Advances the time from deadline to deadline.
    fn wait_until(&mut self, end: Duration) {
        while let Some(deadline) = self.ledger.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.on_time();
        }
        self.now = self.now.max(end);
    }

    /// A deadline must lead to progress and not to itself again.
    fn on_time(&mut self) {
        for _ in 0..3 {
            self.ledger.on_time(self.moment());
            self.act();
            if self.ledger.next_deadline().is_none_or(|next| next > self.now) {
                return;
            }
        }
        panic!("the deadline {:?} leads nowhere at {:?}", self.ledger.next_deadline(), self.now);
    }

    /// Makes the host answer everything and the time pass until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000 {
            if self.incarnation.as_ref().is_some_and(|life| life.order.is_some() || life.stops) {
                self.host(Way::Well);
                self.act();
            } else if let Some(deadline) = self.ledger.next_deadline() {
                self.wait_until(deadline);
            } else {
                return;
            }
        }
        panic!("it never comes to rest: {:#?}", self.ledger);
    }
}

proptest! {
    #[test]
    fn whatever_happens_runs_are_one_at_a_time_in_order_never_twice_and_never_lost(
        policy in policy(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let is_queue = policy.overlap == Overlap::Queue;
        let mut model = Model::new(policy);
        for step in &steps {
            model.take(step);
        }
        model.settle();
        for number in 0..INPUTS {
            let stage = model.status(number).stage;
            prop_assert!(!matches!(stage, Stage::Pending | Stage::Running), "{} is left {}", number, stage);
            if is_queue && model.owed.contains(&number) {
                prop_assert!(stage.is_terminal(), "{} was accepted and is {}", number, stage);
            }
        }
    }

    /// From the beginning of the App's end until the Work is asked to stop, the run in progress continues and nothing
    /// new starts.
    #[test]
    fn winding_down_starts_nothing_and_keeps_outcomes(
        policy in policy(),
        before in proptest::collection::vec(step(), 0..30),
        meanwhile in proptest::collection::vec(step(), 0..30),
    ) {
        let mut model = Model::new(policy);
        for step in &before {
            model.take(step);
        }
        let lives = model.incarnation.is_some();
        model.ledger.wind_down(model.moment());
        model.winds_down = true;
        model.act();
        prop_assert_eq!(model.incarnation.is_some(), lives, "it goes on until it is asked to stop");
        for step in meanwhile.iter().filter(|step| !matches!(step, Step::Forget(_))) {
            model.take(step);
        }
        let succeeded = model.succeeded.clone();
        model.ledger.shut_down(model.moment());
        model.stopped();
        model.act();
        model.settle();
        prop_assert!(model.ledger.is_down() && model.incarnation.is_none());
        for number in succeeded {
            prop_assert_eq!(model.status(number).stage, Stage::Succeeded);
        }
        for number in 0..INPUTS {
            prop_assert!(!matches!(model.status(number).stage, Stage::Pending | Stage::Running), "{number} waits on");
        }
    }

    #[test]
    fn after_the_end_of_the_app_nothing_starts_and_outcomes_stay(
        policy in policy(),
        before in proptest::collection::vec(step(), 0..30),
        after in proptest::collection::vec(step(), 0..30),
    ) {
        let mut model = Model::new(policy);
        for step in &before {
            model.take(step);
        }
        let succeeded = model.succeeded.clone();
        model.ledger.shut_down(model.moment());
        model.stopped();
        model.act();
        for step in after.iter().filter(|step| !matches!(step, Step::Forget(_))) {
            model.take(step);
            // Requests have no effect any more.
            model.wants_up = false;
        }
        model.settle();
        prop_assert!(model.ledger.is_down());
        for number in succeeded {
            prop_assert_eq!(model.status(number).stage, Stage::Succeeded);
        }
    }
}
