//! Calls of `on_start`, `on_stop` and `on_error`, and the consequences of their errors.

use std::time::Duration;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Placement, Reason, Stage};

use crate::support::{one, paused, wherever_it_runs};

/// The parts of a Work that fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum Fails {
    #[default]
    Nothing,
    Run,
    RunPanics,
    OnStart,
    OnStop,
    OnStopPanics,
    RunAndOnError,
    RunAndOnErrorPanics,
}

/// A Work that records its calls.
#[derive(Default, Serialize, Deserialize)]
struct Diary {
    fails: Fails,
    entries: Vec<String>,
}

impl Diary {
    fn enter(&mut self, entry: impl Into<String>, cx: &mut WorkContext<Self>) {
        self.entries.push(entry.into());
        cx.publish(self);
    }
}

impl Work for Diary {
    type Input = u32;

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.enter(format!("run {input}"), cx);
        match self.fails {
            Fails::Run | Fails::RunAndOnError | Fails::RunAndOnErrorPanics => bail!("run broke"),
            Fails::RunPanics => panic!("run broke"),
            _ => Ok(()),
        }
    }

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.enter("start", cx);
        if self.fails == Fails::OnStart {
            bail!("start broke");
        }
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.enter("stop", cx);
        match self.fails {
            Fails::OnStop => bail!("stop broke"),
            Fails::OnStopPanics => panic!("stop broke"),
            _ => Ok(()),
        }
    }

    async fn on_error(&mut self, error: &Error, cx: &mut WorkContext<Self>) -> Result<()> {
        self.enter(format!("error: {error}"), cx);
        if self.fails == Fails::RunAndOnError {
            bail!("on_error broke too");
        }
        assert_ne!(self.fails, Fails::RunAndOnErrorPanics, "on_error broke too");
        Ok(())
    }
}

fn diary(fails: Fails) -> WorkRef<Diary> {
    WorkRef::from(Diary { fails, entries: Vec::new() })
}

fn entries(exit: &flowright::Exit) -> Vec<String> {
    exit.state.get("work.entries").unwrap().decode().unwrap()
}

#[test]
fn the_hooks_are_called_around_all_runs_and_the_stop_also_at_the_apps_end() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(diary(Fails::Nothing).placed(placement), |work, cx| {
                work.run(1).finished()?;
                work.run(2).finished()?;
                cx.stop("both have run");
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        assert_eq!(entries(&exit), ["start", "run 1", "run 2", "stop"]);
        exit.result.unwrap();
    });
}

#[test]
fn a_work_that_is_stopped_and_started_again_has_its_hooks_called_each_time() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let mut stopped = false;
            one(diary(Fails::Nothing).placed(placement), move |work, cx| {
                work.run(1).finished()?;
                if !stopped {
                    stopped = true;
                    work.stop();
                }
                work.run(2).finished()?;
                cx.stop("both have run");
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        assert_eq!(entries(&exit), ["start", "run 1", "stop", "start", "run 2", "stop"]);
        exit.result.unwrap();
    });
}

#[test]
fn on_start_is_called_before_the_first_reaction_asks_for_anything() {
    let app = TestApp::start(|| one(diary(Fails::Nothing), |_, _| Ok(())));
    app.wait_for_state("work.entries", |entries: &Vec<String>| *entries == ["start"]);
    assert_eq!(app.status().works["work"].status.stage, Stage::NotStarted);
    app.stop().result.unwrap();
}

#[test]
fn on_error_is_called_for_an_error_and_its_state_arrives_with_the_failure() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let work = diary(Fails::Run).placed(placement).on_error(OnError::Capture);
            one(work, |work, cx| {
                work.run(1);
                if work.has_failed() {
                    assert_eq!(work.entries, ["start", "run 1", "error: run broke"]);
                    cx.stop("it has failed");
                }
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    });
}

#[test]
fn an_error_of_on_error_is_added_to_the_failure() {
    let app = TestApp::start(|| {
        one(diary(Fails::RunAndOnError), |work, _| {
            work.run(1);
            Ok(())
        })
    });
    let error = app.wait_for_exit().result.unwrap_err().to_string();
    assert!(error.contains("run broke") && error.contains("on_error broke too"), "{error}");
}

/// A panic of `on_error` ends the incarnation, and a restart begins the next.
#[test]
fn a_panic_of_on_error_is_added_to_the_failure() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let work = diary(Fails::RunAndOnErrorPanics).placed(placement);
            let restart = Restart::on_failure().max(1).backoff(Duration::ZERO..Duration::ZERO);
            one(work.restart(restart), |work, _| {
                work.run(1);
                Ok(())
            })
        });
        let app = app.expect_panic("on_error broke");
        let exit = app.wait_for_exit();
        let again = ["start", "run 1", "error: run broke"];
        assert_eq!(entries(&exit), [again, again].concat());
        assert_eq!(exit.status.works["work"].status.reason, Some(Reason::Panic));
        let error = exit.result.unwrap_err().to_string();
        assert!(error.contains("run broke") && error.contains("on_error broke too"), "{error}");
    });
}

#[test]
fn a_panic_calls_neither_on_error_nor_on_stop() {
    let app = TestApp::start(|| {
        one(diary(Fails::RunPanics), |work, _| {
            work.run(1);
            Ok(())
        })
    });
    let app = app.expect_panic("run broke");
    let exit = app.wait_for_exit();
    assert_eq!(entries(&exit), ["start", "run 1"]);
    exit.result.unwrap_err();
}

#[test]
fn an_error_of_on_start_is_the_works_failure() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(diary(Fails::OnStart).placed(placement), |work, _| {
                work.run(1);
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        assert_eq!(entries(&exit), ["start"]);
        assert_eq!(exit.status.works["work"].status.reason, Some(Reason::UserError));
        let error = exit.result.unwrap_err().to_string();
        assert!(error.contains("work `work` failed") && error.contains("start broke"), "{error}");
    });
}

#[test]
fn a_work_whose_on_start_fails_is_restarted_by_its_policy() {
    let app = paused(|| {
        let work = diary(Fails::OnStart).restart(Restart::on_failure().max(2));
        one(work, |work, _| {
            work.run(1);
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    assert_eq!(entries(&exit), ["start", "start", "start"]);
    exit.result.unwrap_err();
}

#[test]
fn what_fails_while_a_work_stops_is_the_works_failure() {
    for fails in [Fails::OnStop, Fails::OnStopPanics] {
        wherever_it_runs(|placement| {
            let app = TestApp::start(move || {
                one(diary(fails).placed(placement), |work, _| {
                    work.run(1).finished()?;
                    work.stop();
                    Ok(())
                })
            });
            let app = app.expect_panic("stop broke");
            let exit = app.wait_for_exit();
            assert_eq!(entries(&exit), ["start", "run 1", "stop"]);
            assert_eq!(exit.status.works["work"].status.stage, Stage::Failed);
            let error = exit.result.unwrap_err().to_string();
            assert!(
                error.contains("work `work` failed") && error.contains("stop broke"),
                "{fails:?}: {error}"
            );
        });
    }
}

#[test]
fn a_captured_error_of_on_stop_is_in_the_status() {
    let app = TestApp::start(|| {
        one(diary(Fails::OnStop).on_error(OnError::Capture), |work, cx| {
            work.run(1).finished()?;
            if work.has_failed() {
                assert!(work.status().message.unwrap().contains("stop broke"));
                cx.stop("it is told");
            } else {
                work.stop();
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
}

/// The hook or run that waits to be stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum Waits {
    #[default]
    OnStart,
    Run,
    OnError,
    OnStop,
}

/// The form in which `Stopped` is passed on.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
enum Passed {
    #[default]
    Plain,
    Transparent,
    TransparentTwice,
    Source,
    SourceOfTransparent,
    Io,
    Boxed,
    Context,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error(transparent)]
    Transparent(#[from] Stopped),
}

#[derive(Debug, thiserror::Error)]
enum Outer {
    #[error("the device gave up")]
    Source(#[source] Stopped),
    #[error("the device gave up")]
    Deep(#[source] Inner),
    #[error(transparent)]
    Transparent(#[from] Inner),
}

impl Passed {
    fn wrap(self, stopped: Stopped) -> Error {
        match self {
            Self::Plain => stopped.into(),
            Self::Transparent => Inner::from(stopped).into(),
            Self::TransparentTwice => Outer::from(Inner::from(stopped)).into(),
            Self::Source => Outer::Source(stopped).into(),
            Self::SourceOfTransparent => Outer::Deep(stopped.into()).into(),
            Self::Io => std::io::Error::other(stopped).into(),
            Self::Boxed => Error::from_boxed(Box::new(std::sync::Arc::new(stopped))),
            Self::Context => Error::from(Outer::from(Inner::from(stopped))).context("in the middle of it"),
        }
    }
}

/// A Work that passes `Stopped` on in the place where it waits to be stopped.
#[derive(Default, Serialize, Deserialize)]
struct Waiter {
    waits: Waits,
    passed: Passed,
    begun: bool,
}

impl Waiter {
    async fn wait(&mut self, here: Waits, cx: &mut WorkContext<Self>) -> Result<()> {
        if self.waits != here {
            return Ok(());
        }
        self.begun = true;
        cx.publish(self);
        match cx.serve_forever(self).await {
            Ok(never) => match never {},
            Err(stopped) => Err(self.passed.wrap(stopped)),
        }
    }
}

impl Work for Waiter {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.wait(Waits::Run, cx).await?;
        if self.waits == Waits::OnError {
            bail!("run broke");
        }
        self.begun = true;
        Ok(())
    }

    async fn on_start(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.wait(Waits::OnStart, cx).await
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.wait(Waits::OnStop, cx).await
    }

    async fn on_error(&mut self, _: &Error, cx: &mut WorkContext<Self>) -> Result<()> {
        self.wait(Waits::OnError, cx).await
    }
}

/// `Stopped` passed on by `?` is a stop in a run and in every hook, also inside other errors.
#[test]
fn stopped_passed_on_is_a_stop_in_every_hook() {
    for waits in [Waits::OnStart, Waits::Run, Waits::OnError, Waits::OnStop] {
        for passed in [
            Passed::Plain,
            Passed::Transparent,
            Passed::TransparentTwice,
            Passed::Source,
            Passed::SourceOfTransparent,
            Passed::Io,
            Passed::Boxed,
            Passed::Context,
        ] {
            let app = TestApp::start(move || {
                let work = WorkRef::from(Waiter { waits, passed, begun: false }).placed(Placement::Pool);
                one(work, |work, _| {
                    work.run(());
                    Ok(())
                })
            });
            app.wait_for_state("work.begun", |begun: &bool| *begun);
            if waits == Waits::OnStop {
                app.wait_for_work("work", |work| work.status.stage == Stage::Succeeded);
            }
            let exit = app.stop();
            exit.result.unwrap_or_else(|error| panic!("{waits:?} {passed:?}: {error}"));
            let status = &exit.status.works["work"].status;
            let (stage, message) = match waits {
                Waits::OnStart | Waits::Run => (Stage::Stopped, None),
                Waits::OnError => (Stage::Failed, Some("run broke")),
                Waits::OnStop => (Stage::Succeeded, None),
            };
            assert_eq!((status.stage, status.message.as_deref()), (stage, message), "{waits:?} {passed:?}");
        }
    }
}

/// A Work that its Flow stops while `on_start` waits has the status stopped, and the App goes on.
#[test]
fn a_work_stopped_in_on_start_has_stopped() {
    let app = TestApp::start(|| {
        let mut stopped = false;
        let work = Waiter { waits: Waits::OnStart, passed: Passed::Transparent, begun: false };
        one(WorkRef::from(work), move |work, cx| {
            if work.begun && !stopped {
                stopped = true;
                work.stop();
            } else if stopped && work.has_stopped() {
                cx.stop("it has stopped");
            }
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.status.works["work"].status.stage, Stage::Stopped);
}

/// A Work that takes some time in `on_stop`.
#[derive(Default, Serialize, Deserialize)]
struct Polite {
    goodbyes: u32,
    seconds: u64,
}

impl Work for Polite {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        self.goodbyes += 1;
        cx.sleep(self, Duration::from_secs(self.seconds)).await?;
        cx.turn(self).await?;
        self.goodbyes += cx.serve(self, async { 1 }).await?;
        Ok(())
    }
}

/// `sleep`, `turn` and `serve` wait in `on_stop`, for as long as the grace period lasts.
#[test]
fn on_stop_sleeps_within_the_grace_period() {
    for (seconds, goodbyes) in [(9, 2), (11, 0)] {
        let app = paused(move || {
            one(WorkRef::from(Polite { goodbyes: 0, seconds }).placed(Placement::Pool), |work, cx| {
                work.run(()).finished()?;
                cx.stop("it has run");
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.state.get("work.goodbyes").unwrap().decode::<u32>().unwrap(), goodbyes);
    }
}
