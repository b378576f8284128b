//! Outputs of runs: read by the Flow once the run has succeeded, kept with the run, bounded.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{OutputError, Stage};

use crate::support::{Seen, one, wherever_it_runs};

/// What a run of a [`Teller`] does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Task {
    /// Set these outputs, one after the other.
    Say(Vec<u64>),
    /// Set an output and fail, and set none in the second attempt.
    SayOnlyAtFirst,
    /// Set an output, and then one that is too large or does not serialise.
    Limits,
    /// Set an output with the number of runs so far.
    Count,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Teller {
    runs: u64,
    errors: Vec<String>,
}

/// A value that does not serialise.
struct Silent;

impl Serialize for Silent {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it says nothing"))
    }
}

impl Work for Teller {
    type Input = Task;

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        ensure!(matches!(cx.output(&1), Err(OutputError::NoRun)), "no run has begun");
        Ok(())
    }

    async fn run(&mut self, task: Task, cx: &mut WorkContext<Self>) -> Result<()> {
        self.runs += 1;
        match task {
            Task::Say(outputs) => outputs.iter().try_for_each(|output| cx.output(output))?,
            Task::SayOnlyAtFirst if cx.attempt() == 1 => {
                cx.output(&1)?;
                bail!("the first attempt fails");
            }
            Task::SayOnlyAtFirst => {}
            Task::Limits => {
                cx.output(&7)?;
                self.errors.extend(cx.output(&"x".repeat(64 * 1024)).err().map(|error| error.to_string()));
                self.errors.extend(cx.output(&Silent).err().map(|error| error.to_string()));
            }
            Task::Count => cx.output(&self.runs)?,
        }
        Ok(())
    }
}

/// The Flow reads the last output of each run, in any later reaction too, and waits until the run has succeeded.
#[test]
fn output_is_read_once_its_run_has_succeeded() {
    wherever_it_runs(|placement| {
        let exit = TestApp::start(move || {
            one(WorkRef::new(Teller::default()).placed(placement), |work, cx| {
                let [a, b] =
                    [vec![1, 2], vec![3]].map(|outputs| work.run(Task::Say(outputs)).output::<u64>());
                // Pending as `finished` is: both runs are requested before one is waited for.
                assert_eq!((a?, b?), (2, 3));
                cx.stop("both are read");
                Ok(())
            })
        })
        .wait_for_exit();
        exit.result.expect("the outputs are those that were set");
        assert_eq!(exit.state.get("work.runs").and_then(|runs| runs.decode().ok()), Some(2_u64));
    });
}

/// A run that has set no output, or one of another type, fails the Flow by an error that names the Work.
#[test]
fn output_that_is_missing_or_of_another_type_is_an_error() {
    for (outputs, wanted) in [
        (vec![], "a run of work `work` has succeeded and has set no output"),
        (vec![5], "the output of a run of work `work` is no `alloc::string::String`"),
    ] {
        let exit = TestApp::start(move || {
            one(WorkRef::new(Teller::default()), move |work, _| {
                let text: String = work.run(Task::Say(outputs.clone())).output()?;
                bail!("there is no text `{text}`");
            })
        })
        .wait_for_exit();
        let error = format!("{:#}", Error::from(exit.result.expect_err("the output is of no use")));
        assert!(error.contains(wanted), "{error}");
    }
}

/// The output of an attempt that has failed is not that of the next one.
#[test]
fn output_of_a_failed_attempt_does_not_count() {
    wherever_it_runs(|placement| {
        let exit = TestApp::start(move || {
            let restart = Restart::on_failure().max(1).backoff(Duration::ZERO..Duration::ZERO);
            let work = WorkRef::new(Teller::default()).placed(placement).restart(restart);
            one(work, |work, cx| {
                work.run(Task::SayOnlyAtFirst).finished()?;
                let error = work.run(Task::SayOnlyAtFirst).output::<u64>().expect_err("none was set");
                assert!(matches!(error.downcast_ref(), Some(OutputError::Missing { .. })), "{error:#}");
                cx.stop("it is missing");
                Ok(())
            })
        })
        .wait_for_exit();
        exit.result.expect("the second attempt succeeds");
    });
}

/// An output that cannot be set is an error of the call, and the one before stays.
#[test]
fn output_beyond_its_limits_leaves_the_one_before() {
    let exit = TestApp::start(|| {
        one(WorkRef::new(Teller::default()), |work, cx| {
            assert_eq!(work.run(Task::Limits).output::<u64>()?, 7);
            cx.stop("it is read");
            Ok(())
        })
    })
    .wait_for_exit();
    exit.result.expect("the first output counts");
    let errors: Vec<String> = exit.state.get("work.errors").and_then(|errors| errors.decode().ok()).unwrap();
    assert!(errors[0].contains("has 65541 bytes, and at most 65536 are kept"), "{errors:?}");
    assert!(
        errors[1].contains("cannot be serialised") && errors[1].contains("it says nothing"),
        "{errors:?}"
    );
}

/// A run once more replaces the output, and forgetting an input forgets its output.
#[test]
fn output_is_forgotten_with_its_run() {
    let seen = Seen::new();
    let tell = seen.clone();
    let exit = TestApp::start(move || {
        one(WorkRef::new(Teller::default()), move |work, cx| {
            let output: u64 = work.run(Task::Count).output()?;
            tell.note(output);
            match output {
                1 => work.rerun(Task::Count),
                2 => {
                    work.forget(&Task::Count);
                    work.run(Task::Count);
                }
                _ => cx.stop("three runs"),
            }
            Ok(())
        })
    })
    .wait_for_exit();
    exit.result.expect("it reads all outputs");
    let mut outputs = seen.all();
    outputs.dedup();
    assert_eq!(outputs, [1, 2, 3]);
    assert_eq!(exit.status.works["work"].status.stage, Stage::Succeeded);
}
