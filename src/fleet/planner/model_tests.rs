//! Random schedules: Works come and go, answers are lost, nodes never join, quotas run out, nodes are preempted, and the head
//! is killed and started again, against an engine and nodes that are simulated.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{S, WALL, demand, limits, node, running};
use super::*;

/// The limits of the simulated group.
const MOST: usize = 4;
const BACKLOG: usize = 2;

/// A job at the simulated engine.
#[derive(Debug, Clone)]
struct Job {
    is_running: bool,
    end: Option<AllocationEnd>,
    /// The time at which it has begun.
    began: Duration,
    /// True if its node never joins.
    is_mute: bool,
    has_joined: bool,
    is_leaving: bool,
    /// True while the head does not reach its node.
    is_cut_off: bool,
    works: usize,
}

impl Job {
    fn is_alive(&self) -> bool {
        self.end.is_none()
    }

    fn is_node(&self) -> bool {
        self.is_alive() && self.has_joined && !self.is_cut_off
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Time passes, in seconds.
    Wait(u64),
    /// Works begin to wait.
    Demand(u8),
    /// A Work on a node ends.
    Finish(u8),
    /// The oldest queued job begins, with a node that joins or does not.
    Begin {
        is_mute: bool,
    },
    /// The node of a job that runs joins.
    Join(u8),
    /// A list is made, which fails or not.
    List {
        fails: bool,
    },
    /// The next requests are answered so.
    Answers(Answers),
    Preempt(u8),
    /// A job fails.
    Fail(u8),
    /// The node of a job is cut off, or comes back.
    Cut(u8),
    /// The head is killed and started again.
    Crash,
    End(u8),
    Resume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Good,
    /// The request goes through, and its answer is lost.
    AnswerLost,
    /// The request is lost.
    RequestLost,
    Quota,
    Refused,
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::strategy::{Just, Strategy as _};
    let answers = proptest::sample::select(vec![
        Answers::Good,
        Answers::Good,
        Answers::Good,
        Answers::AnswerLost,
        Answers::RequestLost,
        Answers::Quota,
        Answers::Refused,
    ]);
    prop_oneof![
        6 => (1_u64..90).prop_map(Step::Wait),
        4 => (1_u8..6).prop_map(Step::Demand),
        4 => any::<u8>().prop_map(Step::Finish),
        4 => proptest::bool::weighted(0.15).prop_map(|is_mute| Step::Begin { is_mute }),
        4 => any::<u8>().prop_map(Step::Join),
        4 => proptest::bool::weighted(0.2).prop_map(|fails| Step::List { fails }),
        2 => answers.prop_map(Step::Answers),
        1 => any::<u8>().prop_map(Step::Preempt),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => any::<u8>().prop_map(Step::Cut),
        1 => Just(Step::Crash),
        1 => any::<u8>().prop_map(Step::End),
        1 => Just(Step::Resume),
    ]
}

struct Model {
    planner: Planner,
    now: Duration,
    jobs: BTreeMap<Key, Job>,
    waiting: usize,
    answers: Answers,
    /// True once something has failed by its own fault.
    has_failed: bool,
    heads: u64,
    /// Keys that were requested, to find keys that are used twice.
    requested: BTreeSet<Key>,
}

impl Model {
    fn new() -> Self {
        Self {
            planner: Self::start(0),
            now: S,
            jobs: BTreeMap::new(),
            waiting: 0,
            answers: Answers::Good,
            has_failed: false,
            heads: 0,
            requested: BTreeSet::new(),
        }
    }

    fn start(head: u64) -> Planner {
        Planner::new([("a".to_owned(), Limits { backlog: BACKLOG, ..limits(MOST) })], head)
    }

    fn nodes(&self) -> Vec<NodeRoom> {
        let joined = self.jobs.iter().filter(|(_, job)| job.is_node());
        let nodes = joined.map(|(key, job)| NodeRoom {
            is_leaving: job.is_leaving,
            ends_in: Some((job.began + 3600 * S).saturating_sub(self.now)),
            ..node(key, Resources::cpus(u32::try_from(job.works).unwrap()), job.works)
        });
        nodes.collect()
    }

    fn pick(&self, number: u8, is_meant: impl Fn(&Job) -> bool) -> Option<Key> {
        let meant: Vec<_> = self.jobs.iter().filter(|(_, job)| is_meant(job)).map(|(key, _)| key).collect();
        (!meant.is_empty()).then(|| meant[usize::from(number) % meant.len()].clone())
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Wait(seconds) => self.now += S * u32::try_from(seconds).unwrap(),
            Step::Demand(count) => self.waiting += usize::from(count),
            Step::Finish(number) => {
                if let Some(key) = self.pick(number, |job| job.is_alive() && job.works > 0) {
                    self.jobs.get_mut(&key).unwrap().works -= 1;
                }
            }
            Step::Begin { is_mute } => {
                if let Some(key) = self.pick(0, |job| job.is_alive() && !job.is_running) {
                    let job = self.jobs.get_mut(&key).unwrap();
                    (job.is_running, job.began, job.is_mute) = (true, self.now, is_mute);
                    self.has_failed |= is_mute;
                }
            }
            Step::Join(number) => {
                let may_join =
                    |job: &Job| job.is_alive() && job.is_running && !job.is_mute && !job.has_joined;
                if let Some(key) = self.pick(number, may_join) {
                    self.jobs.get_mut(&key).unwrap().has_joined = true;
                }
            }
            Step::List { fails } => self.list(fails),
            Step::Answers(answers) => self.answers = answers,
            Step::Preempt(number) => {
                if let Some(key) = self.pick(number, |job| job.is_alive() && job.is_running) {
                    self.stop(&key, AllocationEnd::Preempted);
                }
            }
            Step::Fail(number) => {
                if let Some(key) = self.pick(number, |job| job.is_alive() && job.is_running) {
                    self.has_failed = true;
                    self.stop(&key, AllocationEnd::Failed);
                }
            }
            Step::Cut(number) => {
                if let Some(key) = self.pick(number, |job| job.is_alive() && job.has_joined) {
                    let job = self.jobs.get_mut(&key).unwrap();
                    job.is_cut_off = !job.is_cut_off;
                    // A node that is cut off for long is ended before it has lived for a minute, perhaps.
                    self.has_failed = true;
                }
            }
            Step::Crash => {
                self.heads += 1;
                self.planner = Self::start(self.heads);
            }
            Step::End(number) => {
                if let Some(key) = self.pick(number, Job::is_alive) {
                    let action = self.planner.end(self.now, &key);
                    self.carry_out(action.into_iter().collect());
                }
            }
            Step::Resume => assert!(self.planner.resume("a")),
        }
        self.run();
    }

    fn stop(&mut self, key: &Key, end: AllocationEnd) {
        let job = self.jobs.get_mut(key).unwrap();
        self.waiting += std::mem::take(&mut job.works);
        job.end = Some(end);
    }

    fn list(&mut self, fails: bool) {
        if fails {
            let lost = Err(EngineError::Unreachable("timed out".to_owned()));
            self.planner.listed((self.now, WALL + self.now), self.now, &["a".to_owned()], lost);
            return;
        }
        let listed = self.jobs.iter().map(|(key, job)| Listed {
            stage: match (job.end, job.is_running) {
                (Some(end), _) => ListedStage::Ended { end, words: "it failed".to_owned() },
                (None, true) => ListedStage::Running { at: "n1".to_owned() },
                (None, false) => ListedStage::Queued { why: "Priority".to_owned() },
            },
            ends_at: job.is_running.then(|| WALL + job.began + 3600 * S),
            ..running(key)
        });
        let listed = Ok(listed.collect());
        self.planner.listed((self.now, WALL + self.now), self.now, &["a".to_owned()], listed);
        // The engine forgets what has ended.
        self.jobs.retain(|_, job| job.is_alive());
    }

    /// Ends jobs whose time is over, places Works, plans, and carries out the actions.
    fn run(&mut self) {
        let over = self.jobs.iter().filter(|(_, job)| job.is_alive() && job.is_running);
        let over: Vec<_> =
            over.filter(|(_, job)| job.began + 3600 * S <= self.now).map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| self.stop(key, AllocationEnd::TimeLimit));
        let is_late = |job: &Job| job.is_running && !job.has_joined && job.began + 180 * S <= self.now;
        self.has_failed |= self.jobs.values().any(is_late);
        for job in self.jobs.values_mut() {
            while self.waiting > 0 && job.is_node() && !job.is_leaving && job.works < 4 {
                (job.works, self.waiting) = (job.works + 1, self.waiting - 1);
            }
        }
        let demand = match self.waiting {
            0 => BTreeMap::new(),
            count => [(demand(Resources::cpus(1)), count)].into(),
        };
        let actions = self.planner.plan(self.now, &demand, &self.nodes());
        self.carry_out(actions);
        self.check();
    }

    fn carry_out(&mut self, actions: Vec<PlanAction>) {
        for action in actions {
            match action {
                PlanAction::Submit { keys, .. } => {
                    for key in keys {
                        self.submit(key);
                    }
                }
                PlanAction::Drain { key, if_idle, .. } => {
                    let Some(job) = self.jobs.get_mut(&key).filter(|job| job.is_node()) else { continue };
                    if if_idle && job.works > 0 {
                        self.planner.stays(self.now, &key);
                        continue;
                    }
                    assert!(!if_idle || job.works == 0, "a busy node was sent away as idle");
                    job.is_leaving = true;
                    self.stop(&key, AllocationEnd::Completed);
                }
                PlanAction::End { keys, .. } => {
                    for key in keys {
                        if let Some(job) = self.jobs.get(&key).filter(|job| job.is_alive()) {
                            assert!(!job.is_node() || job.is_leaving, "{key} was ended instead of drained");
                            self.stop(&key, AllocationEnd::Cancelled);
                        }
                    }
                }
                PlanAction::Explain { key } => self.planner.explained(&key, "its output"),
            }
        }
    }

    fn submit(&mut self, key: Key) {
        assert!(self.requested.insert(key.clone()), "{key} was requested twice");
        let lost = || Err(EngineError::Unreachable("timed out".to_owned()));
        let (arrives, answer) = match self.answers {
            Answers::Good => (true, Ok(())),
            Answers::AnswerLost => (true, lost()),
            Answers::RequestLost => (false, lost()),
            Answers::Quota => (false, Err(EngineError::Quota("too many jobs".to_owned()))),
            Answers::Refused => (false, Err(EngineError::Refused("invalid partition".to_owned()))),
        };
        if arrives {
            let job = Job {
                is_running: false,
                end: None,
                began: Duration::ZERO,
                is_mute: false,
                has_joined: false,
                is_leaving: false,
                is_cut_off: false,
                works: 0,
            };
            self.jobs.insert(key.clone(), job);
        }
        self.planner.answered(self.now, &key, answer);
    }

    fn check(&self) {
        let alive = self.jobs.values().filter(|job| job.is_alive());
        assert!(alive.clone().count() <= MOST, "more than {MOST} allocations: {:?}", self.jobs);
        let queued = alive.filter(|job| !job.is_running).count();
        assert!(queued <= BACKLOG, "more than {BACKLOG} are queued: {:?}", self.jobs);
        if !self.has_failed {
            let group = &self.planner.groups["a"];
            assert_eq!(group.breaker.strikes(), 0, "a strike without a failure: {}", group.breaker.why());
        }
    }

    /// Lets everything heal: answers are good, nodes join, and lists are made. All Works run and end, and then all
    /// allocations end.
    fn settle(&mut self) {
        self.answers = Answers::Good;
        self.planner.resume("a");
        for job in self.jobs.values_mut() {
            job.is_cut_off = false;
        }
        for round in 0.. {
            assert!(round < 2000, "it does not settle: {:?} {:?}", self.planner.views(self.now), self.jobs);
            self.take(&Step::List { fails: false });
            self.take(&Step::Begin { is_mute: false });
            self.take(&Step::Join(0));
            self.take(&Step::Wait(10));
            self.take(&Step::Finish(0));
            let works: usize = self.jobs.values().map(|job| job.works).sum();
            let is_empty = self.planner.views(self.now)[0].allocations.is_empty();
            if self.waiting == 0 && works == 0 && is_empty && self.jobs.values().all(|job| !job.is_alive()) {
                break;
            }
        }
    }
}

proptest! {
    /// Whatever happens, the limits hold, nothing is requested twice, only failures are strikes, busy nodes are drained and
    /// not ended, and in the end all Works have run and nothing is left.
    #[test]
    fn random_schedules_keep_the_limits_and_leave_nothing(steps in proptest::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        model.run();
        for step in &steps {
            model.take(step);
        }
        model.settle();
    }
}
