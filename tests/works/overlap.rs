//! Overlap policies: a new input while a run is in progress.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Reason, Stage};

use crate::support::{Gated, Seen, go_on, one, wherever_it_runs, wish};

/// Starts a Flow that runs the input that the test requested last.
fn run_the_newest(overlap: Overlap, placement: Placement) -> TestApp {
    TestApp::start(move || {
        one(WorkRef::from(Gated::default()).placed(placement).overlap(overlap), |work, _| {
            if let Some(newest) = work.wished.last() {
                work.run(*newest);
            }
            Ok(())
        })
    })
}

fn numbers(app: &TestApp, path: &str, count: usize) -> Vec<u32> {
    app.wait_for_state(path, |numbers: &Vec<u32>| numbers.len() == count)
}

#[test]
fn queue_new_inputs_wait_in_order() {
    wherever_it_runs(|placement| {
        let app = run_the_newest(Overlap::Queue, placement);
        for number in 1..=4 {
            wish(&app, number);
        }
        for done in 1..=4 {
            numbers(&app, "work.begun", done);
            go_on(&app, "work");
        }
        assert_eq!(numbers(&app, "work.ended", 4), [1, 2, 3, 4]);
        app.stop().result.unwrap();
    });
}

#[test]
fn latest_only_the_newest_input_waits_and_the_run_under_way_ends_in_peace() {
    wherever_it_runs(|placement| {
        let app = run_the_newest(Overlap::Latest, placement);
        wish(&app, 1);
        numbers(&app, "work.begun", 1);
        for number in 2..=5 {
            wish(&app, number);
        }
        go_on(&app, "work");
        assert_eq!(numbers(&app, "work.begun", 2), [1, 5]);
        go_on(&app, "work");
        assert_eq!(numbers(&app, "work.ended", 2), [1, 5]);
        app.wait_for_work("work", |work| work.successes == 2);
        assert_eq!(app.stop().status.works["work"].successes, 2);
    });
}

#[test]
fn latest_an_input_that_was_dropped_runs_when_it_is_asked_for_again() {
    let app = run_the_newest(Overlap::Latest, Placement::Thread);
    wish(&app, 1);
    numbers(&app, "work.begun", 1);
    wish(&app, 2);
    wish(&app, 3);
    go_on(&app, "work");
    numbers(&app, "work.begun", 2);
    go_on(&app, "work");
    numbers(&app, "work.ended", 2);
    wish(&app, 2);
    go_on(&app, "work");
    assert_eq!(numbers(&app, "work.ended", 3), [1, 3, 2]);
    app.stop().result.unwrap();
}

#[test]
fn restart_the_run_under_way_is_stopped_and_the_newest_runs() {
    wherever_it_runs(|placement| {
        let app = run_the_newest(Overlap::Restart, placement);
        wish(&app, 1);
        numbers(&app, "work.begun", 1);
        wish(&app, 2);
        assert_eq!(numbers(&app, "work.begun", 2), [1, 2]);
        assert_eq!(numbers(&app, "work.stopped", 1), [1]);
        go_on(&app, "work");
        app.wait_for_stage("work", Stage::Succeeded);
        assert_eq!(numbers(&app, "work.ended", 1), [2]);
        app.stop().result.unwrap();
    });
}

#[test]
fn restart_the_run_that_was_stopped_says_so_and_the_incarnation_lives_on() {
    let statuses = Seen::new();
    let seen = statuses.clone();
    let app = TestApp::start(move || {
        one(WorkRef::from(Gated::default()).overlap(Overlap::Restart), move |work, cx| {
            if work.begun.is_empty() {
                work.run(1);
            } else {
                work.run(2).finished()?;
                work.statuses().into_iter().for_each(|status| seen.note((status.stage, status.reason)));
                cx.stop("the second is done");
            }
            Ok(())
        })
    });
    numbers(&app, "work.begun", 2);
    go_on(&app, "work");
    app.wait_for_exit().result.unwrap();
    let expected = [
        (Stage::Pending, None),
        (Stage::Running, None),
        (Stage::Pending, None),
        (Stage::Stopped, Some(Reason::Stopped)),
        (Stage::Running, None),
        (Stage::Succeeded, None),
    ];
    assert_eq!(statuses.all(), expected);
}

/// A Work whose run ignores the request to stop.
#[derive(Default, Serialize, Deserialize)]
struct Deaf {
    begun: Vec<u32>,
}

impl Work for Deaf {
    type Input = u32;

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        self.begun.push(input);
        cx.publish(self);
        if input == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[test]
fn restart_a_run_that_does_not_leave_is_ended_by_force_after_the_grace_period() {
    let app = crate::support::paused(|| {
        let work = WorkRef::from(Deaf::default()).overlap(Overlap::Restart).grace(Duration::from_secs(3));
        one(work, |work, cx| {
            if work.begun.is_empty() {
                work.run(1);
            } else {
                work.run(2).finished()?;
                cx.stop("the second is done");
            }
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.state.get("work.begun").unwrap().decode::<Vec<u32>>().unwrap(), [1, 2]);
}
