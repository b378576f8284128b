//! Restarts of children, and strategies that restart their siblings.

use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::support::*;

#[derive(Serialize, Children)]
struct Group {
    a: WorkRef<Probe>,
    b: WorkRef<Probe>,
    c: FlowRef<Inner>,
    d: WorkRef<Probe>,
    #[serde(skip)]
    strategy: Strategy,
    #[serde(skip)]
    serve: bool,
}

#[derive(Serialize, Children)]
struct Inner {
    e: WorkRef<Probe>,
}

impl Flow for Group {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        if self.serve {
            for work in [&self.a, &self.b, &self.d] {
                work.run(Job::Serve);
            }
        }
        Ok(())
    }

    fn strategy(&self) -> Strategy {
        self.strategy
    }
}

impl Flow for Inner {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

fn group(journal: &str, strategy: Strategy) -> Group {
    let probe = || WorkRef::new(Probe::of(journal)).restart(quick_restarts(20));
    Group { a: probe(), b: probe(), c: Inner { e: probe() }.into(), d: probe(), strategy, serve: false }
}

const PATHS: [&str; 4] = ["a", "b", "c.e", "d"];

/// Returns how often each Work has started, once that is at least `expected` and all of them answer.
fn starts(app: &TestApp, expected: [u32; 4]) -> [u32; 4] {
    for (path, expected) in PATHS.iter().zip(expected) {
        app.wait_for_state(&format!("{path}.starts"), |starts: &u32| *starts >= expected);
    }
    // An answer proves that the start before it is counted.
    for path in PATHS {
        app.block_on(app.work::<Probe>(path).ask(Ping)).unwrap();
    }
    PATHS.map(|path| app.state().get(&format!("{path}.starts")).unwrap().decode().unwrap())
}

fn crash_b(strategy: Strategy, journal: &'static str, expected: [u32; 4]) {
    let app = TestApp::start(move || group(journal, strategy));
    let app = app.expect_panic("was told to crash");
    assert_eq!(starts(&app, [1; 4]), [1; 4]);
    app.block_on(app.work::<Probe>("b").tell(Crash)).unwrap();
    assert_eq!(starts(&app, expected), expected);
    app.stop().result.unwrap();
}

#[test]
fn one_for_one_restarts_only_the_child_that_failed() {
    crash_b(Strategy::one_for_one(), "one_for_one", [1, 2, 1, 1]);
}

#[test]
fn all_for_one_restarts_every_child() {
    crash_b(Strategy::all_for_one(), "all_for_one", [2, 2, 2, 2]);
}

#[test]
fn rest_for_one_restarts_the_child_that_failed_and_those_declared_after_it() {
    crash_b(Strategy::rest_for_one(), "rest_for_one", [1, 2, 2, 2]);
}

#[test]
fn siblings_that_are_restarted_are_stopped_in_good_order_and_begin_their_runs_again() {
    let journal = "siblings";
    let app = TestApp::start(move || Group { serve: true, ..group(journal, Strategy::all_for_one()) });
    let app = app.expect_panic("was told to crash");
    for path in ["a", "b", "d"] {
        app.wait_for_stage(path, Stage::Running);
    }
    app.block_on(app.work::<Probe>("b").tell(Crash)).unwrap();
    for path in ["a", "b", "d"] {
        app.wait_for_state(&format!("{path}.starts"), |starts: &u32| *starts == 2);
        app.wait_for_work(path, |work| work.status.stage == Stage::Running && work.status.attempt == 2);
        // The order to run precedes this message in the mailbox, so that the run has begun when it is answered.
        app.block_on(app.work::<Probe>(path).ask(Ping)).unwrap();
    }
    app.wait_for_state("c.e.starts", |starts: &u32| *starts == 2);
    let mut stopped = noted(journal, "stop");
    stopped.sort();
    assert_eq!(stopped, ["stop a", "stop c.e", "stop d"]);
    assert_eq!(noted(journal, "run").len(), 6);
}

#[test]
fn more_restarts_than_the_limit_are_the_failure_of_the_flow() {
    let strategy = Strategy::one_for_one().limit(2, Duration::from_secs(3600));
    let app = TestApp::start(move || group("limit", strategy));
    let app = app.expect_panic("was told to crash");
    for count in 1..=2 {
        app.block_on(app.work::<Probe>("b").tell(Crash)).unwrap();
        app.wait_for_state("b.starts", |starts: &u32| *starts == count + 1);
    }
    app.block_on(app.work::<Probe>("d").tell(Crash)).unwrap();
    let message = error(app.wait_for_exit());
    assert_says(&message, &["flow `root`", "more than 2 restarts", "3600s", "work `d`", "strategy"]);
}

/// A Flow that restarts its child Flow when that fails.
#[derive(Serialize, Children)]
struct Parent {
    group: FlowRef<Group>,
}

impl Flow for Parent {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

#[test]
fn a_failure_by_the_limit_can_be_cured_by_a_restart_of_the_flow() {
    let strategy = Strategy::one_for_one().limit(0, Duration::from_secs(3600));
    let app = TestApp::start(move || Parent {
        group: FlowRef::new(group("cured", strategy)).restart(quick_restarts(1)),
    });
    let app = app.expect_panic("was told to crash");
    app.wait_for_state("group.a.starts", |starts: &u32| *starts == 1);
    app.block_on(app.work::<Probe>("group.b").tell(Crash)).unwrap();
    app.wait_for_state("group.b.starts", |starts: &u32| *starts == 2);
    app.wait_for_state("group.a.starts", |starts: &u32| *starts == 2);
    app.block_on(app.work::<Probe>("group.b").tell(Crash)).unwrap();
    let message = error(app.wait_for_exit());
    assert_says(&message, &["flow `group` failed", "more than 0 restarts", "work `group.b`"]);
}

/// A Flow whose Work fails each time, with a policy of its own.
#[derive(Serialize, Children)]
struct Stubborn {
    probe: WorkRef<Probe>,
    last: String,
}

impl Flow for Stubborn {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let run = self.probe.run(Job::Fail("never".to_owned()));
        let status = run.status();
        self.last = format!("{} after {} attempts", status.stage, status.attempt);
        if status.stage == Stage::Failed {
            cx.stop("it has failed for good");
        }
        Ok(())
    }
}

fn stubborn(on_error: OnError) -> Stubborn {
    let minute = Duration::from_secs(60);
    let restart = Restart::on_failure().max(3).within(1000 * minute).backoff(minute..10 * minute);
    Stubborn { probe: WorkRef::<Probe>::default().restart(restart).on_error(on_error), last: String::new() }
}

#[test]
fn a_run_is_tried_as_often_as_the_policy_says_and_then_raised() {
    let message = error(paused(|| stubborn(OnError::Raise)).wait_for_exit());
    assert_eq!(message, "work `probe` failed (error): never");
}

#[test]
fn a_run_is_tried_as_often_as_the_policy_says_and_then_captured() {
    let exit = paused(|| stubborn(OnError::Capture)).wait_for_exit();
    exit.result.unwrap();
    let state = exit.state.to_json();
    assert_eq!(state["last"], "failed after 4 attempts");
    assert_eq!(state["probe"]["starts"], 4);
}

/// A Work whose `on_stop` does not return.
#[derive(Default, Serialize, Deserialize)]
struct Clings;

impl Work for Clings {
    type Input = ();

    async fn on_stop(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        std::future::pending().await
    }
}

/// A Flow that fails whenever it reacts.
#[derive(Default, Serialize, Children)]
struct Fails;

impl Flow for Fails {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Err(std::io::Error::other("it fails").into())
    }
}

#[derive(Serialize, Children)]
struct Ending {
    clings: WorkRef<Clings>,
    fails: FlowRef<Fails>,
}

impl Flow for Ending {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

/// The restart for which a Flow waits becomes due while the App stops, and does not keep it from its end.
#[test]
fn app_ends_while_a_flow_waits_for_its_restart() {
    let app = paused(|| {
        let restart =
            Restart::on_failure().max(u32::MAX).backoff(Duration::from_secs(5)..Duration::from_secs(5));
        Ending { clings: WorkRef::default(), fails: FlowRef::new(Fails).restart(restart) }
    });
    app.wait_for_work("clings", |clings| clings.is_up);
    while app.status().flows["fails"].seq < 4 {
        std::thread::yield_now();
    }
    app.stop();
}
