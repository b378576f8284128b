//! Calls of `react`: when they happen, the view that they have, and their ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::support::*;

/// A Flow that only counts its reactions.
#[derive(Default, Serialize, Children)]
struct Idle {
    reactions: u64,
}

impl Flow for Idle {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.reactions += 1;
        Ok(())
    }
}

/// A Flow with one Work, which also counts its reactions.
#[derive(Serialize, Children)]
struct Watcher {
    probe: WorkRef<Probe>,
    reactions: u64,
}

impl Watcher {
    fn new() -> Self {
        Self { probe: WorkRef::default(), reactions: 0 }
    }
}

impl Flow for Watcher {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.reactions += 1;
        Ok(())
    }
}

#[test]
fn a_flow_reacts_once_at_the_start_and_its_own_writes_are_no_reason_for_more() {
    let app = TestApp::start(Idle::default);
    app.wait_for_state("reactions", |reactions: &u64| *reactions == 1);
    // Each question goes through the same mailbox as every other event that could wake the App.
    for _ in 0..20 {
        assert_eq!(app.reactions(), 1);
    }
    assert_eq!(json(&app), serde_json::json!({ "reactions": 1 }));
}

#[test]
fn an_idle_app_does_not_react() {
    let app = TestApp::start(Watcher::new);
    let probe = app.work::<Probe>("probe");
    // Updates of a Work arrive in order: after this one, its start has been processed.
    app.block_on(probe.tell(Set(1))).unwrap();
    app.wait_for_state("probe.value", |value: &i64| *value == 1);
    let before = app.reactions();
    for _ in 0..100 {
        assert_eq!(app.block_on(probe.ask(Ping)).unwrap(), 1);
    }
    // Publishing an unchanged value causes no reaction either.
    assert_eq!(app.block_on(probe.ask(Set(1))).unwrap(), 1);
    assert_eq!(app.block_on(probe.ask(Set(2))).unwrap(), 1);
    app.wait_for_state("probe.value", |value: &i64| *value == 2);
    assert_eq!(app.reactions(), before + 1);
}

/// A Work that publishes as often as its input says, without a pause.
#[derive(Default, Serialize, Deserialize)]
struct Burst {
    first: u64,
    second: u64,
}

impl Work for Burst {
    type Input = u64;

    async fn run(&mut self, times: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        for _ in 0..times {
            self.first += 1;
            self.second += 1;
            cx.publish(self);
        }
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct OverBurst {
    burst: WorkRef<Burst>,
}

impl Flow for OverBurst {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let burst = self.burst.run(10_000).finished()?;
        assert_eq!(burst.first, 10_000, "a run's last state is visible no later than its success");
        cx.stop("done");
        Ok(())
    }
}

#[test]
fn many_changes_at_once_are_one_batch() {
    // On one thread the App cannot read updates before the run yields.
    let exit = paused(OverBurst::default).wait_for_exit();
    exit.result.unwrap();
    assert!(exit.status.reactions <= 4, "{} reactions", exit.status.reactions);
}

/// A Work that counts up until it is stopped; both fields always change together.
#[derive(Default, Serialize, Deserialize)]
struct Pair {
    first: u64,
    second: u64,
}

static PUBLISHED: AtomicU64 = AtomicU64::new(0);

impl Work for Pair {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        loop {
            self.first += 1;
            self.second += 1;
            cx.publish(self);
            PUBLISHED.store(self.first, Ordering::Release);
            cx.turn(self).await?;
        }
    }
}

#[derive(Default, Serialize, Children)]
struct OverPair {
    pair: WorkRef<Pair>,
    seen: u64,
    rounds: u32,
}

impl Flow for OverPair {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.pair.run(());
        let (first, second) = (self.pair.first, self.pair.second);
        if first != second {
            bail!("half a change: {first} and {second}");
        }
        if first < self.seen {
            bail!("{first} after {}", self.seen);
        }
        self.seen = first;
        if first == 0 {
            return Ok(());
        }
        // The Work continues, but the view of this reaction does not change.
        let mark = PUBLISHED.load(Ordering::Acquire);
        while PUBLISHED.load(Ordering::Acquire) < mark + 2 {
            std::thread::yield_now();
        }
        if self.pair.first != first || self.pair.second != second {
            bail!("the Work changed within a reaction");
        }
        self.rounds += 1;
        if self.rounds == 20 {
            cx.stop("seen enough");
        }
        Ok(())
    }
}

#[test]
fn what_a_reaction_sees_of_a_work_is_whole_and_does_not_change_meanwhile() {
    TestApp::start(OverPair::default).wait_for_exit().result.unwrap();
}

#[derive(Default, Serialize, Children)]
struct Sleeper {
    reactions: u32,
}

impl Flow for Sleeper {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.reactions += 1;
        if self.reactions == 5 {
            cx.stop("slept enough");
        } else {
            cx.wake_in(Duration::from_secs(7200));
            cx.wake_in(Duration::from_secs(3600));
        }
        Ok(())
    }
}

#[test]
fn a_flow_that_asks_to_be_woken_reacts_then() {
    let exit = paused(Sleeper::default).wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.status.reactions, 5);
    assert_eq!(exit.state.to_json(), serde_json::json!({ "reactions": 5 }));
}

/// A Flow that asks to be woken in a minute, but not in a reaction with another cause. Ends after an hour.
#[derive(Default, Serialize, Children)]
struct Impatient {
    probe: WorkRef<Probe>,
    reacted_after_ms: Vec<u128>,
    #[serde(skip)]
    start: Option<tokio::time::Instant>,
}

impl Flow for Impatient {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let start = self.start.get_or_insert_with(tokio::time::Instant::now);
        self.reacted_after_ms.push(start.elapsed().as_millis());
        if cx.schedule("hourly") {
            cx.stop("nothing woke it for the rest of the hour");
        }
        if self.probe.value == 0 {
            self.probe.run(Job::Set(1));
            cx.wake_in(Duration::from_secs(60));
        }
        Ok(())
    }
}

#[test]
fn a_wake_up_that_is_not_asked_for_again_is_forgotten() {
    let exit = paused(Impatient::default).wait_for_exit();
    exit.result.unwrap();
    let times: Vec<u64> = exit.state.get("reacted_after_ms").unwrap().decode().unwrap();
    assert!(!times.iter().any(|ms| (59_995..60_005).contains(ms)), "{times:?}");
}

#[derive(Default, Serialize, Children)]
struct Stopper {
    probe: WorkRef<Probe>,
    reactions: u32,
}

impl Flow for Stopper {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.reactions += 1;
        if self.probe.value == 1 {
            cx.stop("it is enough");
            cx.stop("it is enough, again");
        }
        Ok(())
    }
}

#[test]
fn a_flow_that_stops_the_app_does_not_react_again() {
    let app = TestApp::start(Stopper::default);
    let probe = app.work::<Probe>("probe");
    let last = app.reactions();
    app.block_on(probe.tell(Set(1))).unwrap();
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert!(exit.status.reactions > last);
    assert_eq!(exit.state.to_json()["reactions"], exit.status.reactions);
    assert_eq!(exit.status.works["probe"].status.stage, Stage::NotStarted, "it keeps the outcome it had");
}

#[derive(Default, Serialize, Children)]
struct Refuser {}

impl Flow for Refuser {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let cause = "many".parse::<u16>().unwrap_err();
        cx.fail(Error::from(cause).context("the port is not usable"));
        cx.stop("too late");
        Ok(())
    }
}

#[test]
fn a_flow_that_fails_the_app_gives_it_the_whole_chain() {
    let message = error(TestApp::start(Refuser::default).wait_for_exit());
    assert_eq!(message, "the port is not usable: invalid digit found in string");
}

#[derive(Default, Serialize, Children)]
struct Parser {
    team: FlowRef<ParsingTeam>,
}

#[derive(Default, Serialize, Children)]
struct ParsingTeam {}

impl Flow for Parser {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let _port: u16 = "many".parse()?;
        Ok(())
    }
}

impl Flow for ParsingTeam {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

#[test]
fn any_error_can_leave_react_by_the_question_mark() {
    let message = error(TestApp::start(Parser::default).wait_for_exit());
    assert_eq!(message, "`react` of flow `root` returned an error: invalid digit found in string");
}

/// Code that knows `anyhow` and not Flowright.
fn configured_port(text: &str) -> anyhow::Result<u16> {
    anyhow::Context::context(text.parse(), "the port is not usable")
}

/// A Flow that calls code which returns `anyhow::Error`.
#[derive(Default, Serialize, Children)]
struct Configured {}

impl Flow for Configured {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        configured_port("many")?;
        Ok(())
    }
}

/// `?` accepts the error of `anyhow` in `react`, and its whole chain is in the failure of the Flow.
#[test]
fn anyhow_error_from_react_fails_the_flow_with_its_chain() {
    let message = error(TestApp::start(Configured::default).wait_for_exit());
    let chain = "the port is not usable: invalid digit found in string";
    assert_eq!(message, format!("`react` of flow `root` returned an error: {chain}"));
}

/// An error whose code panics wherever the App could execute it.
#[derive(Debug, thiserror::Error)]
struct Refused {
    port: u16,
    #[source]
    cause: std::num::ParseIntError,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("no text");
    }
}

/// A Flow that fails with a typed error, in `react` or by `fail`.
#[derive(Default, Serialize, Children)]
struct Typed {
    deliberate: bool,
}

impl Flow for Typed {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let error = Refused { port: 7, cause: "many".parse::<u16>().unwrap_err() };
        if self.deliberate {
            cx.fail(Error::from(error).context("it was refused"));
            return Ok(());
        }
        Err(error).context("it was refused")
    }
}

#[derive(Default, Serialize, Children)]
struct OverTyped {
    typed: FlowRef<Typed>,
}

impl Flow for OverTyped {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

/// The error of a Flow and its sources can be downcast from `Exit`, also that of a child, and without using its text.
#[test]
fn error_of_a_flow_is_downcast_from_the_exit() {
    let typed = |deliberate| move || Typed { deliberate };
    for app in [TestApp::start(typed(false)), TestApp::start(typed(true)), TestApp::start(OverTyped::default)]
    {
        let exit = app.wait_for_exit();
        assert_eq!(exit.downcast_ref::<Refused>().map(|refused| refused.port), Some(7), "{exit:?}");
        assert!(exit.downcast_ref::<std::num::ParseIntError>().is_some());
        assert!(exit.downcast_ref::<std::num::ParseFloatError>().is_none());
        assert_says(&error(exit), &["an error whose `Display` panicked: no text"]);
    }
    let app = TestApp::start(Idle::default);
    assert!(app.stop().downcast_ref::<Refused>().is_none());
}

/// The form in which `Pending` is passed on.
#[derive(Debug, Clone, Copy, Serialize)]
enum Passed {
    Plain,
    Context,
    Twice,
    Source,
    Transparent,
    SourceOfTransparent,
    Io,
}

#[derive(Debug, thiserror::Error)]
enum Unready {
    #[error("the model is not ready")]
    Source(#[source] Pending),
    #[error(transparent)]
    Transparent(#[from] Pending),
    #[error("the model is not ready")]
    Deep(#[source] Box<Unready>),
}

impl Passed {
    fn wrap(self, pending: Pending) -> Error {
        let error = Error::from(pending);
        match self {
            Self::Plain => error,
            Self::Context => error.context("the model is trained first"),
            Self::Twice => error.context("the model is trained first").context("no report yet"),
            Self::Source => Unready::Source(pending).into(),
            Self::Transparent => Unready::from(pending).into(),
            Self::SourceOfTransparent => Unready::Deep(Box::new(pending.into())).into(),
            Self::Io => std::io::Error::other(pending).into(),
        }
    }
}

/// A Flow that waits for a run and passes `Pending` on.
#[derive(Serialize, Children)]
struct Reporter {
    probe: WorkRef<Probe>,
    passed: Passed,
    waited: u32,
}

impl Reporter {
    fn value(&self) -> Result<i64> {
        self.probe
            .run(Job::Set(1))
            .finished()
            .map(|probe| probe.value)
            .map_err(|error| self.passed.wrap(error))
    }
}

impl Flow for Reporter {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.waited += 1;
        let value = self.value()?;
        self.waited -= 1;
        cx.stop(format!("the value is {value}"));
        Ok(())
    }
}

/// `Pending` ends the reaction and is no failure, also with context and inside other errors.
#[test]
fn pending_passed_on_is_not_a_failure_of_the_flow() {
    for passed in [
        Passed::Plain,
        Passed::Context,
        Passed::Twice,
        Passed::Source,
        Passed::Transparent,
        Passed::SourceOfTransparent,
        Passed::Io,
    ] {
        let make = move || Reporter { probe: WorkRef::default(), passed, waited: 0 };
        let exit = TestApp::start(make).wait_for_exit();
        exit.result.unwrap_or_else(|error| panic!("{passed:?}: {error}"));
        assert!(
            exit.state.to_json()["waited"].as_u64() > Some(0),
            "{passed:?}: the run had finished at once"
        );
    }
}

#[derive(Default, Serialize, Children)]
struct Careless {
    team: FlowRef<CarelessTeam>,
}

#[derive(Default, Serialize, Children)]
struct CarelessTeam {
    numbers: Vec<u32>,
}

impl Flow for Careless {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

impl Flow for CarelessTeam {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let _first = self.numbers.first().expect("there are numbers");
        Ok(())
    }
}

#[test]
fn a_panic_in_react_is_the_failure_of_that_flow() {
    let message = error(TestApp::start(Careless::default).wait_for_exit());
    assert_says(&message, &["flow `team`", "panicked: there are numbers"]);
}

#[derive(Default, Serialize, Children)]
struct Quick {
    that_is_too_slow: FlowRef<Slow>,
}

#[derive(Default, Serialize, Children)]
struct Slow {}

impl Flow for Quick {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        cx.stop("done");
        Ok(())
    }
}

impl Flow for Slow {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(110) {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

#[test]
fn a_slow_reaction_is_logged_with_its_flow() {
    listen_to_the_log();
    TestApp::start(Quick::default).wait_for_exit().result.unwrap();
    let warnings = warnings();
    let slow: Vec<_> = warnings.iter().filter(|line| line.contains("that_is_too_slow")).collect();
    assert_eq!(slow.len(), 1, "{warnings:?}");
    assert_says(slow[0], &["flow `that_is_too_slow` took", "to react"]);
}
