//! Errors and panics in runs, and the policies that decide their consequences.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Reason, Stage};

use crate::support::{Gated, Journal, Seen, go_on, one, two, wherever_it_runs};

/// A Work that refuses odd inputs with an error, and multiples of ten with a panic, except multiples of 100.
#[derive(Default, Serialize, Deserialize)]
struct Picky {
    took: Vec<u32>,
    tries: u32,
}

impl Work for Picky {
    type Input = u32;

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.tries += 1;
        cx.publish(self);
        if input % 2 == 1 {
            bail!("{input} is odd");
        }
        assert!(!input.is_multiple_of(10), "{input} is round");
        self.took.push(input);
        Ok(())
    }
}

/// Requests all of these inputs until each run is over, and returns the stages.
fn run_all(inputs: &'static [u32], placement: Placement) -> (Vec<(Stage, Option<Reason>)>, flowright::Exit) {
    let stages = Seen::new();
    let seen = stages.clone();
    let app = TestApp::start(move || {
        let work = WorkRef::from(Picky::default()).placed(placement).on_error(OnError::Capture);
        one(work, move |work, cx| {
            let statuses: Vec<_> = inputs.iter().map(|input| work.run(*input).status()).collect();
            if statuses.iter().all(|status| status.stage.is_terminal()) {
                statuses.iter().for_each(|status| seen.note((status.stage, status.reason)));
                cx.stop("all are over");
            }
            Ok(())
        })
    });
    let app = app.expect_panic("is round");
    let exit = app.wait_for_exit();
    (stages.all(), exit)
}

#[test]
fn a_captured_error_leaves_the_other_inputs_alone_and_is_not_tried_again() {
    wherever_it_runs(|placement| {
        let (stages, exit) = run_all(&[2, 3, 4, 5, 6], placement);
        exit.result.unwrap();
        let failed = (Stage::Failed, Some(Reason::UserError));
        let fine = (Stage::Succeeded, None);
        assert_eq!(stages, [fine, failed, fine, failed, fine]);
        assert_eq!(exit.state.get("work.took").unwrap().decode::<Vec<u32>>().unwrap(), [2, 4, 6]);
        assert_eq!(exit.state.get("work.tries").unwrap().decode::<u32>().unwrap(), 5);
    });
}

#[test]
fn a_captured_panic_leaves_the_other_inputs_alone_and_is_not_tried_again() {
    wherever_it_runs(|placement| {
        let (stages, exit) = run_all(&[2, 10, 4, 20, 6], placement);
        exit.result.unwrap();
        let failed = (Stage::Failed, Some(Reason::Panic));
        let fine = (Stage::Succeeded, None);
        assert_eq!(stages, [fine, failed, fine, failed, fine]);
        assert_eq!(exit.state.get("work.took").unwrap().decode::<Vec<u32>>().unwrap(), [2, 4, 6]);
        assert_eq!(exit.state.get("work.tries").unwrap().decode::<u32>().unwrap(), 5);
    });
}

#[test]
fn a_work_whose_panic_was_captured_starts_again_for_a_later_input() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let work = WorkRef::from(Picky::default()).placed(placement).on_error(OnError::Capture);
            one(work, |work, cx| {
                if work.run(10).status().stage == Stage::Failed {
                    work.run(2).finished()?;
                    cx.stop("it took the other");
                }
                Ok(())
            })
        });
        let app = app.expect_panic("is round");
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.state.get("work.took").unwrap().decode::<Vec<u32>>().unwrap(), [2]);
    });
}

#[test]
fn a_failed_run_can_be_run_again_when_the_flow_says_so() {
    wherever_it_runs(|placement| {
        for input in [5, 10] {
            let app = TestApp::start(move || {
                let work = WorkRef::from(Picky::default()).placed(placement).on_error(OnError::Capture);
                let mut again = 0;
                one(work, move |work, cx| {
                    if work.run(input).status().stage != Stage::Failed {
                        return Ok(());
                    }
                    if again < 2 {
                        again += 1;
                        work.rerun(input);
                        assert_eq!(work.run(input).status().stage, Stage::Pending);
                    } else {
                        cx.stop("it has failed three times");
                    }
                    Ok(())
                })
            });
            let app = app.expect_panic("is round");
            let exit = app.wait_for_exit();
            exit.result.unwrap();
            assert_eq!(exit.state.get("work.tries").unwrap().decode::<u32>().unwrap(), 3);
        }
    });
}

#[test]
fn a_panic_ends_the_app_by_default_and_says_what_it_said() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Picky::default()).placed(placement), |work, _| {
                work.run(30);
                Ok(())
            })
        });
        let app = app.expect_panic("is round");
        let exit = app.wait_for_exit();
        let error = exit.result.unwrap_err().to_string();
        for part in ["work `work` failed", "panic", "30 is round"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
        assert_eq!(exit.status.works["work"].status.reason, Some(Reason::Panic));
    });
}

#[test]
fn other_works_do_not_notice_a_panic() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let picky = WorkRef::from(Picky::default()).placed(placement).on_error(OnError::Capture);
            two(picky, WorkRef::from(Gated::default()).placed(placement), |a, b, _| {
                b.run(1);
                if !b.begun.is_empty() {
                    a.run(10);
                }
                if a.has_failed() {
                    b.run(2);
                }
                Ok(())
            })
        });
        let app = app.expect_panic("is round");
        app.wait_for_stage("a", Stage::Failed);
        go_on(&app, "b");
        go_on(&app, "b");
        app.wait_for_work("b", |work| work.successes == 2);
        let begun: Vec<u32> = app.wait_for_state("b.begun", |_| true);
        assert_eq!(begun, [1, 2]);
        app.stop().result.unwrap();
    });
}

#[test]
fn the_other_works_of_a_failing_app_are_stopped() {
    let app = TestApp::start(|| {
        two(WorkRef::from(Picky::default()), WorkRef::from(Gated::default()), |a, b, _| {
            b.run(1);
            if !b.begun.is_empty() {
                a.run(3);
            }
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap_err();
    assert_eq!(exit.status.works["b"].status.stage, Stage::Stopped);
    assert_eq!(exit.state.get("b.stopped").unwrap().decode::<Vec<u32>>().unwrap(), [1]);
}

#[test]
fn a_flow_that_waits_for_a_run_that_failed_and_was_captured_can_look_and_go_on() {
    let app = TestApp::start(|| {
        let picky = WorkRef::from(Picky::default()).on_error(OnError::Capture);
        two(picky, WorkRef::from(Journal::default()), |a, b, cx| {
            let run = a.run(1);
            if run.status().stage != Stage::Failed {
                run.finished()?;
            }
            b.run(1).finished()?;
            cx.stop("it went on");
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
}

/// Code that knows `anyhow` and not Flowright.
fn checked(input: u32) -> anyhow::Result<u32> {
    anyhow::ensure!(input != 13, "13 is refused");
    Ok(input)
}

/// A Work that calls code which returns `anyhow::Error`.
#[derive(Default, Serialize, Deserialize)]
struct Superstitious {}

impl Work for Superstitious {
    type Input = u32;

    async fn run(&mut self, input: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
        checked(input).context("the input was checked")?;
        checked(input + 1)?;
        Ok(())
    }
}

/// `?` accepts the error of `anyhow` in a run, and its whole chain is in the status.
#[test]
fn anyhow_error_from_a_run_fails_it_with_its_chain() {
    wherever_it_runs(|placement| {
        for (input, message) in [(13, "the input was checked: 13 is refused"), (12, "13 is refused")] {
            let app = TestApp::start(move || {
                let work = WorkRef::from(Superstitious::default()).placed(placement);
                one(work, move |work, _| {
                    work.run(input).finished()?;
                    Ok(())
                })
            });
            let exit = app.wait_for_exit();
            assert!(exit.result.is_err());
            let status = &exit.status.works["work"].status;
            assert_eq!(status.reason, Some(Reason::UserError));
            assert_eq!(status.message.as_deref(), Some(message));
        }
    });
}

#[derive(Debug, thiserror::Error)]
#[error("{place} is refused")]
struct Refused {
    place: String,
}

/// A Work that returns a typed error in the place that its state names.
#[derive(Default, Serialize, Deserialize)]
struct Typed {
    place: String,
}

impl Typed {
    fn enter(&self, place: &str) -> Result<()> {
        if self.place == place {
            Err(Refused { place: place.to_owned() }).context("it is the place")?;
        }
        Ok(())
    }
}

impl Work for Typed {
    type Input = ();

    async fn on_start(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        self.enter("on_start")
    }

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        self.enter("run")
    }

    async fn on_stop(&mut self, _: &mut WorkContext<Self>) -> Result<()> {
        self.enter("on_stop")
    }
}

/// The error of a Work in the process of the App can be downcast from `Exit`, from a run and from hooks.
#[test]
fn error_of_a_work_is_downcast_from_the_exit() {
    wherever_it_runs(|placement| {
        for place in ["on_start", "run", "on_stop"] {
            let app = TestApp::start(move || {
                let work = WorkRef::from(Typed { place: place.to_owned() }).placed(placement);
                one(work, |work, _| {
                    work.run(()).finished()?;
                    work.stop();
                    Ok(())
                })
            });
            let exit = app.wait_for_exit();
            let refused = exit.downcast_ref::<Refused>().map(|refused| refused.place.as_str());
            assert_eq!(refused, Some(place), "{exit:?}");
            assert!(exit.downcast_ref::<std::num::ParseIntError>().is_none());
        }
    });
}
