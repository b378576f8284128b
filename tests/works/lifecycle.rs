//! Stopping and restarting Works, and their statuses when the App ends.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Reason, Stage};

use crate::support::{Gated, Journal, Seen, go_on, one, paused, two, wherever_it_runs};

#[test]
fn a_stopped_work_starts_again_for_a_new_input_and_keeps_its_state() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let mut stopped = false;
            one(WorkRef::from(Journal::default()).placed(placement), move |work, cx| {
                work.run(1).finished()?;
                if !stopped {
                    stopped = true;
                    work.stop();
                    return Ok(());
                }
                work.run(2).finished()?;
                cx.stop("both have run");
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.state.get("work.ran").unwrap().decode::<Vec<u32>>().unwrap(), [1, 2]);
    });
}

#[test]
fn an_input_that_succeeded_before_a_stop_is_not_run_again() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let mut stops = 0;
            one(WorkRef::from(Journal::default()).placed(placement), move |work, cx| {
                work.run(1).finished()?;
                if stops == 0 {
                    stops = 1;
                    work.stop();
                    return Ok(());
                }
                if work.has_stopped() {
                    assert_eq!(work.run(1).status().stage, Stage::Succeeded);
                    cx.stop("it is still done");
                }
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.state.get("work.ran").unwrap().decode::<Vec<u32>>().unwrap(), [1]);
    });
}

#[test]
fn stopping_ends_the_run_under_way_and_those_that_wait() {
    wherever_it_runs(|placement| {
        let stages = Seen::new();
        let seen = stages.clone();
        let app = TestApp::start(move || {
            let mut stopped = false;
            one(WorkRef::from(Gated::default()).placed(placement), move |work, cx| {
                if !stopped {
                    work.run(1);
                    work.run(2);
                    if !work.begun.is_empty() {
                        stopped = true;
                        work.stop();
                    }
                } else if work.has_stopped() && !work.stopped.is_empty() {
                    work.statuses().into_iter().for_each(|status| seen.note((status.stage, status.reason)));
                    cx.stop("it has stopped");
                }
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        let stopped = (Stage::Stopped, Some(Reason::Stopped));
        assert_eq!(stages.all()[3..], [stopped, stopped]);
        assert_eq!(exit.state.get("work.begun").unwrap().decode::<Vec<u32>>().unwrap(), [1]);
        assert_eq!(exit.state.get("work.stopped").unwrap().decode::<Vec<u32>>().unwrap(), [1]);
    });
}

#[test]
fn an_input_that_was_stopped_runs_when_it_is_asked_for_again() {
    let app = TestApp::start(|| {
        let mut stopped = false;
        one(WorkRef::from(Gated::default()), move |work, cx| {
            let run = work.run(1);
            if work.begun.len() == 1 && !stopped {
                stopped = true;
                work.stop();
                return Ok(());
            }
            run.finished()?;
            cx.stop("it has run");
            Ok(())
        })
    });
    app.wait_for_state("work.begun", |begun: &Vec<u32>| *begun == [1, 1]);
    go_on(&app, "work");
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.state.get("work.stopped").unwrap().decode::<Vec<u32>>().unwrap(), [1]);
    assert_eq!(exit.state.get("work.ended").unwrap().decode::<Vec<u32>>().unwrap(), [1]);
}

#[test]
fn a_work_can_be_started_without_a_run() {
    let app = TestApp::start(|| {
        two(WorkRef::from(Journal::default()), WorkRef::from(Gated::default()), |a, b, _| {
            if b.has_started() {
                b.run(1).finished()?;
                a.start();
            } else {
                a.stop();
                b.run(1);
            }
            Ok(())
        })
    });
    app.wait_for_work("a", |work| !work.is_up);
    go_on(&app, "b");
    app.wait_for_work("a", |work| work.is_up);
    app.stop().result.unwrap();
}

#[test]
fn restarting_starts_the_run_under_way_again_from_the_published_state() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let mut restarted = false;
            one(WorkRef::from(Gated::default()).placed(placement), move |work, cx| {
                if work.begun.len() == 1 && !restarted {
                    restarted = true;
                    work.restart_now();
                }
                work.run(1).finished()?;
                cx.stop("it has run");
                Ok(())
            })
        });
        app.wait_for_state("work.begun", |begun: &Vec<u32>| *begun == [1, 1]);
        go_on(&app, "work");
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.status.works["work"].successes, 1);
        assert_eq!(exit.status.works["work"].status.attempt, 2);
    });
}

#[test]
fn at_the_end_of_the_app_each_work_keeps_the_outcome_that_it_had() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let done = WorkRef::from(Journal::default()).placed(placement);
            two(done, WorkRef::from(Gated::default()).placed(placement), |a, b, cx| {
                a.run(1).finished()?;
                b.run(1);
                if !b.begun.is_empty() {
                    cx.stop("one is done and one is not");
                }
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        let [a, b] = ["a", "b"].map(|path| &exit.status.works[path]);
        assert_eq!((a.status.stage, a.successes), (Stage::Succeeded, 1));
        assert_eq!((b.status.stage, b.status.reason), (Stage::Stopped, Some(Reason::Stopped)));
        assert!(!a.is_up && !b.is_up);
    });
}

#[test]
fn a_failure_that_was_captured_is_still_a_failure_at_the_end_of_the_app() {
    #[derive(Default, Serialize, Deserialize)]
    struct Fails;

    impl Work for Fails {
        type Input = ();

        async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
            bail!("no")
        }
    }

    let app = TestApp::start(|| {
        one(WorkRef::from(Fails).on_error(OnError::Capture), |work, cx| {
            work.run(());
            if work.has_failed() {
                cx.stop("it has failed");
            }
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.status.works["work"].status.stage, Stage::Failed);
}

/// A Work that ignores the request to stop.
#[derive(Default, Serialize, Deserialize)]
struct Deaf {
    begun: bool,
    lives: u32,
}

impl Work for Deaf {
    type Input = u32;

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.lives += 1;
        Ok(())
    }

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.begun = true;
        cx.publish(self);
        if input == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[test]
fn a_work_that_does_not_stop_within_its_grace_is_ended_by_force() {
    let app = paused(|| {
        let (mut stopped, mut has_stopped) = (false, false);
        one(WorkRef::from(Deaf::default()).grace(Duration::from_secs(2)), move |work, cx| {
            if !stopped {
                work.run(1);
                if work.begun {
                    stopped = true;
                    work.stop();
                }
            } else if has_stopped || work.has_stopped() {
                has_stopped = true;
                work.run(2).finished()?;
                assert_eq!(work.lives, 2);
                cx.stop("it works again");
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
}

#[test]
fn a_timeout_that_passes_while_the_work_is_being_stopped_does_no_harm() {
    let app = paused(|| {
        let work =
            WorkRef::from(Deaf::default()).timeout(Duration::from_secs(1)).grace(Duration::from_secs(60));
        let mut stopped = false;
        one(work, move |work, cx| {
            if !stopped {
                work.run(1);
                if work.begun {
                    stopped = true;
                    work.stop();
                }
            } else if work.has_stopped() {
                cx.stop("it has stopped");
            }
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.status.works["work"].status.reason, Some(Reason::Stopped));
}

#[test]
fn an_app_whose_work_does_not_stop_ends_after_its_grace_period() {
    let root = || {
        one(WorkRef::from(Deaf::default()), |work, cx| {
            work.run(1);
            if work.begun {
                cx.stop("it has begun");
            }
            Ok(())
        })
    };
    let app = App::new(root).grace(Duration::from_secs(3)).runtime(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    });
    TestApp::start_app(app).wait_for_exit().result.unwrap();
}

/// The Works that began and ended `on_stop`, each in order.
static LEAVING: std::sync::Mutex<(Vec<u32>, Vec<u32>)> = std::sync::Mutex::new((Vec::new(), Vec::new()));

/// A Work that is slow to stop.
#[derive(Default, Serialize, Deserialize)]
struct Leaves {
    number: u32,
    takes: Duration,
}

impl Work for Leaves {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }

    async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
        LEAVING.lock().unwrap().0.push(self.number);
        cx.sleep(self, self.takes).await?;
        LEAVING.lock().unwrap().1.push(self.number);
        Ok(())
    }
}

#[derive(Serialize, Children)]
struct Crowd {
    works: Vec<WorkRef<Leaves>>,
}

impl Flow for Crowd {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        cx.stop("that is all");
        Ok(())
    }
}

/// All Works are asked to stop early enough to do so, however many and however slow they are, and the quick ones stop
/// in the reverse order of their start.
#[test]
fn all_works_are_asked_to_stop_within_the_grace() {
    for (count, slow_each) in [(30, 1), (100, 1), (100, 2), (300, 7)] {
        *LEAVING.lock().unwrap() = <_>::default();
        let takes = move |number: u32| {
            if number.is_multiple_of(slow_each) { Duration::from_secs(4) } else { Duration::from_millis(2) }
        };
        let app = paused(move || {
            let work = |number| {
                WorkRef::from(Leaves { number, takes: takes(number) }).placed(flowright::Placement::Pool)
            };
            Crowd { works: (0..count).map(work).collect() }
        });
        app.wait_for_exit().result.unwrap();
        let (begun, mut ended) = std::mem::take(&mut *LEAVING.lock().unwrap());
        assert!(begun.iter().copied().eq((0..count).rev()), "they are asked in the order {begun:?}");
        let quick: Vec<_> =
            ended.iter().copied().filter(|number| !number.is_multiple_of(slow_each)).collect();
        assert!(quick.is_sorted_by(|a, b| a > b), "the quick ones end in the order {quick:?}");
        ended.sort_unstable();
        assert!(ended.into_iter().eq(0..count), "not all were allowed to stop");
    }
}

/// Queued runs and restarts that are due do not begin while a slow Work delays the shutdown.
#[test]
fn nothing_starts_while_the_app_ends() {
    #[derive(Default, Serialize, Deserialize)]
    struct Steps {
        begun: Vec<u32>,
        ended: Vec<u32>,
        fails: bool,
    }

    impl Work for Steps {
        type Input = u32;

        async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
            self.begun.push(input);
            cx.publish(self);
            if self.fails {
                bail!("as always");
            }
            cx.sleep(self, Duration::from_millis(100)).await?;
            self.ended.push(input);
            Ok(())
        }
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Slow;

    impl Work for Slow {
        type Input = ();

        async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
            Ok(())
        }

        async fn on_stop(&mut self, cx: &mut WorkContext<Self>) -> Result<()> {
            Ok(cx.sleep(self, Duration::from_millis(400)).await?)
        }
    }

    #[derive(Serialize, Children)]
    struct Three {
        steps: WorkRef<Steps>,
        fails: WorkRef<Steps>,
        slow: WorkRef<Slow>,
    }

    impl Flow for Three {
        fn react(&mut self, cx: &mut FlowContext) -> Reaction {
            self.steps.run(1);
            self.steps.run(2);
            self.fails.run(1);
            if self.steps.begun.len() == 1 && self.fails.begun.len() == 1 {
                cx.stop("both have begun");
            }
            Ok(())
        }
    }

    let app = paused(|| {
        let pool = flowright::Placement::Pool;
        let wait = Duration::from_millis(100);
        let restart = Restart::on_failure().max(9).backoff(wait..wait);
        let fails = Steps { fails: true, ..Steps::default() };
        Three {
            steps: WorkRef::from(Steps::default()).placed(pool),
            fails: WorkRef::from(fails).restart(restart).placed(pool),
            slow: WorkRef::from(Slow).placed(pool),
        }
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    let list = |path: &str| exit.state.get(path).unwrap().decode::<Vec<u32>>().unwrap();
    assert_eq!((list("steps.begun"), list("steps.ended")), (vec![1], vec![1]));
    assert_eq!(list("fails.begun"), [1]);
}

/// A Work that blocks its thread until the test is over.
#[derive(Default, Serialize, Deserialize)]
struct Blocks {
    begun: bool,
}

static TEST_IS_OVER: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Work for Blocks {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.begun = true;
        cx.publish(self);
        drop(TEST_IS_OVER.lock());
        Ok(())
    }
}

#[test]
fn an_app_ends_although_a_work_blocks_its_thread() {
    let still_going_on = TEST_IS_OVER.lock().unwrap();
    let root = || {
        one(WorkRef::from(Blocks::default()), |work, cx| {
            work.run(());
            if work.begun {
                cx.stop("it has begun");
            }
            Ok(())
        })
    };
    TestApp::start_app(App::new(root).grace(Duration::ZERO)).wait_for_exit().result.unwrap();
    drop(still_going_on);
}
