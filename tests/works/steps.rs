//! Steps of runs: remembered over attempts, bounded, and safe to drop; commits and fencing tokens.

use std::collections::HashMap;
use std::future::{pending, ready};
use std::sync::Mutex;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{FencingToken, InDoubt, Placement, StepError};
use futures::future::{join_all, select};
use futures::pin_mut;

use crate::support::{one, wherever_it_runs};

/// What the actions of steps did, by test.
static DONE: Mutex<Option<HashMap<String, Vec<String>>>> = Mutex::new(None);

/// Records that an action was carried out.
fn did(test: &str, what: impl Into<String>) {
    DONE.lock().unwrap().get_or_insert_default().entry(test.to_owned()).or_default().push(what.into());
}

/// Returns what the actions of a test did so far.
fn done(test: &str) -> Vec<String> {
    DONE.lock().unwrap().get_or_insert_default().get(test).cloned().unwrap_or_default()
}

/// What a run of a [`Careful`] Work does; the text is the name of its test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Task {
    /// Two steps, then an error or a panic until this attempt.
    Fail {
        test: String,
        good_at: u32,
        panics: bool,
    },
    /// A step, then wait until stopped in the first attempt.
    Wait(String),
    /// A step whose action fails until this call.
    Error(String, u32),
    /// Steps with equal and with other names and arguments, one after another and at the same time.
    Same(String),
    Nested,
    /// Drop a step before its action has ended, and do it again.
    Dropped(String),
    Limits,
    /// A payload in a step, then an error in the first attempt.
    Payload(String),
    /// An action that fails in the first attempt.
    Once(String, Option<InDoubtFails>),
    /// Wait in the action of a step for ever.
    Endless(String),
    /// Wait in the action of `once` until the test lets it end.
    Slow(String),
    Many(u32),
    /// Publish and commit, then panic.
    Commit,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct InDoubtFails;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Careful {
    results: Vec<u64>,
    errors: Vec<String>,
    tokens: Vec<FencingToken>,
    waits: bool,
    committed: u32,
    ends: u32,
}

async fn fails(message: &str) -> Result<u64> {
    bail!("{message}")
}

fn is(error: &Error, is_it: impl Fn(&StepError) -> bool) -> bool {
    error.downcast_ref::<StepError>().is_some_and(is_it)
}

impl Work for Careful {
    type Input = Task;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.tokens.push(cx.fencing_token());
        let error = cx.step("early", &(), async { Ok(1) }).await.unwrap_err();
        assert!(is(&error, |error| matches!(error, StepError::NoRun { name } if name == "early")), "{error}");
        cx.commit(self).await?;
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.ends += 1;
        cx.commit(self).await?;
        self.ends += 1;
        Ok(())
    }

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        match task {
            Task::Fail { test, good_at, panics } => {
                let first = cx
                    .step("first", &1, async {
                        did(&test, "first");
                        Ok(10_u64)
                    })
                    .await?;
                let second = cx
                    .step("second", &[first], async {
                        did(&test, "second");
                        // The action may change the Work.
                        self.committed = 7;
                        Ok(first + 1)
                    })
                    .await?;
                did(&test, format!("attempt {}", cx.attempt()));
                if cx.attempt() < good_at {
                    assert!(!panics, "attempt {} fails", cx.attempt());
                    bail!("attempt {} fails", cx.attempt());
                }
                self.results = vec![first, second];
            }
            Task::Wait(test) => {
                let value = cx
                    .step("wait", &(), async {
                        did(&test, "step");
                        Ok(5)
                    })
                    .await?;
                if cx.attempt() == 1 {
                    self.waits = true;
                    cx.publish(self);
                    cx.serve_forever(self).await?;
                }
                self.results = vec![value];
            }
            Task::Error(test, good_at) => {
                for call in 1..=good_at {
                    let result = cx
                        .step("error", &(), async {
                            did(&test, "called");
                            if call < good_at {
                                fails(&format!("call {call}")).await
                            } else {
                                Ok(call.into())
                            }
                        })
                        .await;
                    match result {
                        Ok(value) => self.results.push(value),
                        Err(error) => self.errors.push(error.to_string()),
                    }
                }
            }
            Task::Same(test) => {
                let step = |name: &'static str, args: u32, value: u64| {
                    let (cx, test) = (&*cx, &test);
                    cx.step(name, &args, async move {
                        did(test, format!("{name} {args}"));
                        tokio::task::yield_now().await;
                        Ok(value)
                    })
                };
                self.results = vec![step("a", 1, 1).await?, step("a", 1, 2).await?, step("a", 2, 3).await?];
                let together = join_all([step("b", 1, 4), step("b", 1, 5), step("c", 1, 6), step("b", 1, 7)]);
                for result in together.await {
                    self.results.push(result?);
                }
            }
            Task::Nested => {
                let outer = async { cx.step("a", &(), async { Ok(1) }).await };
                let error = cx.step("a", &(), outer).await.unwrap_err();
                assert!(is(&error, |error| matches!(error, StepError::Nested { .. })), "{error}");
                let inner = async { cx.step("b", &(), async { Ok(1) }).await };
                self.results = vec![cx.step("a", &(), inner).await?];
            }
            Task::Dropped(test) => {
                let begun = cx.step("dropped", &(), async {
                    did(&test, "begun");
                    pending::<Result<u64>>().await
                });
                {
                    pin_mut!(begun);
                    select(begun, ready(())).await;
                }
                let value = cx
                    .step("dropped", &(), async {
                        did(&test, "again");
                        Ok(2)
                    })
                    .await?;
                self.results = vec![value];
            }
            Task::Limits => self.limits(cx).await?,
            Task::Payload(test) => {
                let payload = cx
                    .step("payload", &(), async {
                        did(&test, "made");
                        Ok(cx.payload(vec![3_u64; 100_000])?)
                    })
                    .await?;
                ensure!(cx.attempt() > 1, "only the step refers to the payload now");
                self.results = vec![payload.value().await?.iter().sum()];
            }
            Task::Once(test, fails_in_doubt) => {
                let action = async |key: String| {
                    did(&test, key);
                    ensure!(cx.attempt() > 1, "it may have been done");
                    Ok(8)
                };
                let once = cx.once("once", action);
                let value = match fails_in_doubt {
                    Some(InDoubtFails) => once.in_doubt(InDoubt::Fail).await?,
                    None => once.await?,
                };
                let again = cx.once("once", async |key| {
                    did(&test, format!("{key} again"));
                    Ok(9)
                });
                self.results = vec![value, again.await?];
                let other = cx.once("other", async |key| {
                    did(&test, key);
                    Ok(0)
                });
                other.await?;
            }
            Task::Endless(test) => {
                let endless = cx.step("endless", &(), async {
                    did(&test, "begun");
                    pending::<Result<u64>>().await
                });
                endless.await?;
            }
            Task::Slow(test) => {
                let slow = cx.once("slow", async |_| {
                    did(&test, "begun");
                    while !done(&test).contains(&"go".to_owned()) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    did(&test, "ended");
                    Ok(1_u64)
                });
                slow.await?;
            }
            Task::Many(many) => {
                for number in 0..many {
                    self.results = vec![cx.step("many", &number, async { Ok(u64::from(number)) }).await?];
                }
            }
            Task::Commit => {
                self.committed += 1;
                if self.committed < 3 {
                    cx.commit(self).await?;
                    panic!("after the commit");
                }
            }
        }
        Ok(())
    }
}

impl Careful {
    async fn limits(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        let large = cx.step("large", &(), async { Ok("x".repeat(1 << 20)) }).await.unwrap_err();
        assert!(
            is(&large, |error| matches!(error, StepError::TooLarge { size, limit, .. } if size > limit)),
            "{large}"
        );
        let long = "n".repeat(257);
        let long = cx.step(&long, &(), async { Ok(1) }).await.unwrap_err();
        assert!(
            is(&long, |error| matches!(error, StepError::NameTooLong { length: 257, limit: 256 })),
            "{long}"
        );
        let bad = HashMap::from([(vec![1], 1)]);
        let args = cx.step("args", &Unserialisable, async { Ok(bad.len()) }).await.unwrap_err();
        assert!(is(&args, |error| matches!(error, StepError::Args { .. })), "{args}");
        let value = cx.step("value", &(), async { Ok(Unserialisable) }).await.map(drop).unwrap_err();
        assert!(is(&value, |error| matches!(error, StepError::Value { .. })), "{value}");
        // What is remembered is not of the wanted type.
        cx.step("type", &(), async { Ok("text".to_owned()) }).await?;
        let other = cx.step("type", &(), async { Ok(1) }).await.unwrap_err();
        assert!(is(&other, |error| matches!(error, StepError::Value { .. })), "{other}");
        let fitting = cx.step("fitting", &(), async { Ok("x".repeat((1 << 20) - 8)) }).await?;
        self.results = vec![fitting.len() as u64];
        Ok(())
    }
}

/// A value that does not serialise.
#[derive(Debug, Deserialize)]
struct Unserialisable;

impl Serialize for Unserialisable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it does not"))
    }
}

/// A message whose handler makes a step of the run in progress, and commits.
#[derive(Serialize, Deserialize)]
struct StepIn(String);

impl Handle<StepIn> for Careful {
    type Reply = u64;

    async fn handle(&mut self, StepIn(test): StepIn, cx: &mut WorkContext<Self>) -> u64 {
        cx.commit(self).await.expect("the Work is not asked to stop");
        let step = cx.step("handler", &(), async {
            did(&test, "handler");
            Ok(3)
        });
        step.await.expect("a run is in progress")
    }
}

fn quick(max: u32) -> Restart {
    Restart::on_failure().max(max).backoff(Duration::ZERO..Duration::ZERO)
}

/// An App with one Work, restarted without delay, that runs this task.
fn runs(placement: Placement, task: Task) -> TestApp {
    TestApp::start(move || {
        one(WorkRef::from(Careful::default()).placed(placement).restart(quick(5)), move |work, _| {
            work.run(task.clone());
            Ok(())
        })
    })
}

fn results(app: &TestApp) -> Vec<u64> {
    app.wait_for_stage("work", Stage::Succeeded);
    app.wait_for_state("work.results", |results: &Vec<u64>| !results.is_empty())
}

/// Steps that were done are not done again after an error or a panic, and their values are the same.
#[test]
fn step_is_not_done_again_after_a_failure() {
    wherever_it_runs(|placement| {
        for panics in [false, true] {
            let test = format!("failure {placement} {panics}");
            let app = runs(placement, Task::Fail { test: test.clone(), good_at: 3, panics });
            let app = app.expect_panic("fails");
            assert_eq!(results(&app), [10, 11]);
            assert_eq!(done(&test), ["first", "second", "attempt 1", "attempt 2", "attempt 3"]);
        }
    });
}

/// A restart of the Work does not repeat a step.
#[test]
fn step_is_not_done_again_after_a_restart() {
    wherever_it_runs(|placement| {
        let test = format!("restart {placement}");
        let task = Task::Wait(test.clone());
        let app = TestApp::start(move || {
            let mut is_restarted = false;
            one(WorkRef::from(Careful::default()).placed(placement), move |work, _| {
                work.run(task.clone());
                if work.waits && !is_restarted {
                    is_restarted = true;
                    work.restart_now();
                }
                Ok(())
            })
        });
        assert_eq!(results(&app), [5]);
        assert_eq!(done(&test), ["step"]);
    });
}

/// A run that was stopped, or has failed for good, continues with its steps when it is requested again, and a run that
/// succeeded begins without them.
#[test]
fn steps_are_known_until_the_run_succeeds() {
    let test = "until success".to_owned();
    let task = Task::Fail { test: test.clone(), good_at: 1, panics: false };
    let failing = Task::Fail { test: test.clone(), good_at: u32::MAX, panics: false };
    let (wanted, flow_wanted) = (task.clone(), failing.clone());
    let app = TestApp::start(move || {
        let work = WorkRef::from(Careful::default()).on_error(OnError::Capture);
        let mut failures = 0;
        one(work, move |work, cx| {
            match work.run(flow_wanted.clone()).status().stage {
                Stage::Failed if failures < 2 => {
                    failures += 1;
                    work.rerun(flow_wanted.clone());
                }
                Stage::Failed => {
                    work.run(wanted.clone()).finished()?;
                    work.rerun(wanted.clone());
                    cx.stop("the second run of the other input ends with the App");
                }
                _ => {}
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
    let done = done(&test);
    assert_eq!(
        done[..5],
        ["first", "second", "attempt 1", "attempt 1", "attempt 1"],
        "reruns know the steps"
    );
    assert_eq!(done[5..8], ["first", "second", "attempt 1"], "another input has steps of its own");
}

/// An error of the action is returned as it is, and the next call acts again.
#[test]
fn error_of_a_step_is_not_remembered() {
    let app = runs(Placement::Thread, Task::Error("error".to_owned(), 3));
    assert_eq!(results(&app), [3]);
    assert_eq!(app.wait_for_state("work.errors", |_: &Vec<String>| true), ["call 1", "call 2"]);
    assert_eq!(done("error").len(), 3);
}

/// The same name and arguments are the same step, also at the same time.
#[test]
fn same_step_is_done_once_in_a_run() {
    wherever_it_runs(|placement| {
        let test = format!("same {placement}");
        let app = runs(placement, Task::Same(test.clone()));
        assert_eq!(results(&app), [1, 1, 3, 4, 4, 6, 4]);
        assert_eq!(done(&test), ["a 1", "a 2", "b 1", "c 1"]);
    });
}

/// A step within itself is an error and not a deadlock; within another it is a step.
#[test]
fn step_within_itself_is_an_error() {
    assert_eq!(results(&runs(Placement::Thread, Task::Nested)), [1]);
}

/// A step that is dropped before its action has ended is not remembered, and does not block the next.
#[test]
fn dropped_step_is_not_remembered() {
    let app = runs(Placement::Pool, Task::Dropped("dropped".to_owned()));
    assert_eq!(results(&app), [2]);
    assert_eq!(done("dropped"), ["begun", "again"]);
}

/// Values, names and arguments beyond their limits are typed errors, and the run goes on.
#[test]
fn limits_of_steps_are_typed_errors() {
    assert_eq!(results(&runs(Placement::Thread, Task::Limits)), [(1 << 20) - 8]);
}

/// A payload is kept alive by the step that has its reference.
#[test]
fn payload_in_a_step_is_kept_alive() {
    wherever_it_runs(|placement| {
        let test = format!("payload {placement}");
        let app = runs(placement, Task::Payload(test.clone()));
        assert_eq!(results(&app), [300_000]);
        assert_eq!(done(&test), ["made"]);
    });
}

/// An action in doubt is repeated with the key of the attempt before; its value is remembered, and another name has
/// another key.
#[test]
fn once_repeats_an_action_in_doubt_with_its_key() {
    wherever_it_runs(|placement| {
        let test = format!("once {placement}");
        let app = runs(placement, Task::Once(test.clone(), None));
        assert_eq!(results(&app), [8, 8]);
        let keys = done(&test);
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert!(keys[0] == keys[1] && keys[0] != keys[2] && keys[0].len() == 32, "{keys:?}");
    });
}

/// With `InDoubt::Fail` an action in doubt is not repeated, and the error has its key.
#[test]
fn once_fails_in_doubt_when_told_to() {
    let task = Task::Once("in doubt".to_owned(), Some(InDoubtFails));
    let app = TestApp::start(move || {
        let work = WorkRef::from(Careful::default()).restart(quick(1)).on_error(OnError::Capture);
        one(work, move |work, _| {
            work.run(task.clone());
            Ok(())
        })
    });
    let failed =
        app.wait_for_work("work", |work| work.status.stage == Stage::Failed && work.status.attempt == 2);
    let message = failed.status.message.unwrap_or_default();
    let keys = done("in doubt");
    assert!(
        keys.len() == 1 && message.contains(&keys[0]) && message.contains("in doubt"),
        "{message} {keys:?}"
    );
}

/// A stop ends a step at once, and waits for the action of `once`, which is remembered.
#[test]
fn stop_drops_a_step_and_not_an_action_that_is_done_once() {
    let app = runs(Placement::Thread, Task::Endless("endless".to_owned()));
    until_done("endless", "begun");
    assert!(app.stop().result.is_ok());
    let app = runs(Placement::Thread, Task::Slow("slow".to_owned()));
    until_done("slow", "begun");
    let stopped = std::thread::spawn(move || app.stop());
    did("slow", "go");
    assert!(stopped.join().unwrap().result.is_ok());
    assert_eq!(done("slow"), ["begun", "go", "ended"]);
}

fn until_done(test: &str, what: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while !done(test).iter().any(|done| done == what) {
        assert!(std::time::Instant::now() < deadline, "{test} never does `{what}`");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A step and a commit in a handler belong to the run that serves it.
#[test]
fn handler_makes_a_step_of_the_run() {
    let app = runs(Placement::Thread, Task::Wait("handler".to_owned()));
    app.wait_for_state("work.waits", |waits: &bool| *waits);
    for _ in 0..2 {
        assert_eq!(app.block_on(app.work::<Careful>("work").ask(StepIn("handler".to_owned()))).unwrap(), 3);
    }
    assert_eq!(done("handler"), ["step", "handler"]);
}

/// Steps are no changes that a Flow sees: it does not react to them.
#[test]
fn flow_does_not_react_to_steps() {
    let app = runs(Placement::Thread, Task::Many(200));
    assert_eq!(results(&app), [199]);
    let reactions = app.reactions();
    assert!(reactions < 20, "{reactions} reactions");
}

/// What was committed survives the incarnation, in hooks as well, and each incarnation has a greater token.
#[test]
fn commit_returns_when_the_app_has_the_state() {
    wherever_it_runs(|placement| {
        let app = runs(placement, Task::Commit);
        let app = app.expect_panic("after the commit");
        app.wait_for_stage("work", Stage::Succeeded);
        let work = app.wait_for_state("work", |work: &Careful| work.committed == 3);
        assert_eq!(work.tokens.len(), 3);
        assert!(work.tokens.is_sorted_by(|a, b| a < b), "{:?}", work.tokens);
        let exit = app.stop();
        assert!(exit.result.is_ok());
        assert_eq!(exit.state.get("work.ends").unwrap().decode::<u32>().unwrap(), 2);
    });
}
