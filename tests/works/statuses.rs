//! Information for a Flow about the runs of its Works.

use std::fmt;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Reason, Stage, Status};

use crate::support::{Gated, Journal, Seen, go_on, one, wherever_it_runs};

#[test]
fn a_run_is_pending_then_running_then_succeeded() {
    wherever_it_runs(|placement| {
        let statuses = Seen::new();
        let seen = statuses.clone();
        let app = TestApp::start(move || {
            one(WorkRef::from(Journal::default()).placed(placement), move |work, cx| {
                if !work.has_started() {
                    assert_eq!(work.status(), Status::default());
                    assert!(work.statuses().is_empty());
                    assert_eq!(work.run(1).status().stage, Stage::Pending);
                    assert!(work.is_pending());
                    return Ok(());
                }
                work.run(1).finished()?;
                assert!(work.has_succeeded() && !work.is_running() && !work.has_failed());
                work.statuses().into_iter().for_each(|status| seen.note(status));
                assert_eq!(work.successes(), 1);
                cx.stop("it has run");
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
        let statuses = statuses.all();
        let stages: Vec<_> = statuses.iter().map(|status| status.stage).collect();
        assert_eq!(stages, [Stage::Pending, Stage::Running, Stage::Succeeded]);
        assert!(statuses.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        assert!(statuses.windows(2).all(|pair| pair[0].attempt <= pair[1].attempt));
        assert_eq!(statuses[2].attempt, 1);
        assert_eq!((statuses[2].reason, &statuses[2].message), (None, &None));
    });
}

#[test]
fn while_it_runs_it_is_running_and_each_input_has_a_status_of_its_own() {
    let app = TestApp::start(|| {
        one(WorkRef::from(Gated::default()), |work, _| {
            let (first, second) = (work.run(1).status(), work.run(2).status());
            if !work.begun.is_empty() && work.ended.is_empty() {
                assert!(work.is_running());
                assert_eq!((first.stage, second.stage), (Stage::Running, Stage::Pending));
                assert_eq!((first.attempt, second.attempt), (1, 0));
            }
            Ok(())
        })
    });
    app.wait_for_state("work.begun", |begun: &Vec<u32>| *begun == [1]);
    go_on(&app, "work");
    go_on(&app, "work");
    app.wait_for_work("work", |work| work.successes == 2);
    app.stop().result.unwrap();
}

#[test]
fn the_order_of_statuses_is_that_of_their_numbers_across_runs() {
    let last = Seen::new();
    let seen = last.clone();
    let app = TestApp::start(move || {
        one(WorkRef::from(Journal::default()), move |work, cx| {
            seen.note(work.status().seq);
            for input in 0..100 {
                work.run(input);
            }
            if work.successes() == 100 {
                let kept = work.statuses();
                assert!(kept.len() <= 64);
                assert!(kept.windows(2).all(|pair| pair[0].seq < pair[1].seq));
                cx.stop("all have run");
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
    assert_eq!(*last.all().last().unwrap(), 300, "three for each run");
}

#[derive(Debug)]
struct Engine(std::num::ParseIntError);

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engine does not start")
    }
}

impl std::error::Error for Engine {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// A Work that fails with a chain of causes.
#[derive(Default, Serialize, Deserialize)]
struct Car;

fn start_engine(fuel: &str) -> Result<u32, Engine> {
    fuel.parse().map_err(Engine)
}

fn drive() -> Result<u32> {
    Ok(start_engine("none")?)
}

impl Work for Car {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        drive().map_err(|error| error.context("no trip today"))?;
        Ok(())
    }
}

const CHAIN: &str = "no trip today: the engine does not start: invalid digit found in string";

#[test]
fn the_message_of_a_failure_is_the_whole_chain_of_causes() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let work = WorkRef::from(Car).placed(placement).on_error(OnError::Capture);
            one(work, |work, cx| {
                if work.run(()).status().stage == Stage::Failed {
                    cx.stop("it has failed");
                }
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        let status = &exit.status.works["work"].status;
        assert_eq!(status.message.as_deref(), Some(CHAIN));
        assert_eq!((status.stage, status.reason), (Stage::Failed, Some(Reason::UserError)));
    });
}

#[test]
fn an_error_that_nobody_captures_ends_the_app_with_the_works_path_and_the_whole_chain() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Car).placed(placement), |work, _| {
                work.run(());
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        let error = exit.result.unwrap_err().to_string();
        assert!(error.contains("work `work` failed") && error.contains(CHAIN), "{error}");
        assert_eq!(exit.status.works["work"].status.stage, Stage::Failed);
    });
}
