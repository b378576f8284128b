//! Works that are restarted, and runs that exceed their timeout.

use std::sync::atomic::{AtomicBool, Ordering};

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{Placement, Reason, Stage};

use crate::support::{Gated, Seen, go_on, one, paused, two};

/// The way in which a Flaky Work fails.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum How {
    Error,
    Panic,
}

/// A Work that fails until the attempt `good_at`.
#[derive(Serialize, Deserialize)]
struct Flaky {
    how: How,
    good_at: u32,
    published: u32,
    lives: u32,
    /// The value of the private field at the start of each attempt.
    found: Vec<u32>,
    attempts: Vec<u32>,
    #[serde(skip)]
    private: u32,
}

fn flaky(how: How, good_at: u32) -> Flaky {
    Flaky { how, good_at, published: 0, lives: 0, found: Vec::new(), attempts: Vec::new(), private: 0 }
}

impl Work for Flaky {
    type Input = ();

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.lives += 1;
        Ok(())
    }

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.found.push(self.private);
        self.private = 9;
        self.attempts.push(cx.attempt());
        self.published += 1;
        cx.publish(self);
        if self.published < self.good_at {
            match self.how {
                How::Error => bail!("try {} failed", self.published),
                How::Panic => panic!("try {} failed", self.published),
            }
        }
        Ok(())
    }
}

fn quick(max: u32) -> Restart {
    Restart::on_failure().max(max).backoff(Duration::from_millis(100)..Duration::from_secs(10))
}

#[test]
fn a_work_that_fails_twice_is_restarted_and_continues_from_its_last_published_state() {
    for how in [How::Error, How::Panic] {
        let statuses = Seen::new();
        let seen = statuses.clone();
        let app = paused(move || {
            one(WorkRef::new(flaky(how, 3)).restart(quick(5)), move |work, cx| {
                let flaky = work.run(()).finished()?;
                assert_eq!(flaky.published, 3);
                assert_eq!(flaky.attempts, [1, 2, 3]);
                assert_eq!(flaky.found, [0, 0, 0], "private fields start anew");
                assert_eq!(flaky.lives, 3);
                work.statuses().into_iter().for_each(|status| seen.note((status.stage, status.attempt)));
                cx.stop("the third was good");
                Ok(())
            })
        });
        let app = app.expect_panic("failed");
        app.wait_for_exit().result.unwrap();
        let expected = [
            (Stage::Pending, 0),
            (Stage::Running, 1),
            (Stage::Failed, 1),
            (Stage::Pending, 1),
            (Stage::Running, 2),
            (Stage::Failed, 2),
            (Stage::Pending, 2),
            (Stage::Running, 3),
            (Stage::Succeeded, 3),
        ];
        assert_eq!(statuses.all(), expected, "{how:?}");
    }
}

#[test]
fn the_wait_before_a_restart_doubles() {
    let app = paused(|| {
        one(WorkRef::new(flaky(How::Error, 4)).restart(quick(5)), |work, cx| {
            work.run(()).finished()?;
            let failed: Vec<_> = work.statuses().into_iter().filter(|s| s.stage == Stage::Failed).collect();
            let running: Vec<_> = work.statuses().into_iter().filter(|s| s.stage == Stage::Running).collect();
            for (n, (failed, again)) in failed.iter().zip(&running[1..]).enumerate() {
                let waited = again.time.duration_since(failed.time).unwrap();
                assert!(waited >= Duration::from_millis(100 << n), "wait {n} was {waited:?}");
            }
            cx.stop("the fourth was good");
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
}

#[test]
fn when_no_restart_is_left_the_app_fails_with_the_last_error() {
    for how in [How::Error, How::Panic] {
        let app = paused(move || {
            one(WorkRef::new(flaky(how, 10)).restart(quick(2)), |work, _| {
                work.run(());
                Ok(())
            })
        });
        let app = app.expect_panic("failed");
        let exit = app.wait_for_exit();
        let error = exit.result.unwrap_err().to_string();
        assert!(error.contains("try 3 failed"), "{error}");
        assert_eq!(exit.status.works["work"].status.attempt, 3);
    }
}

#[test]
fn when_no_restart_is_left_a_captured_failure_leaves_the_rest_to_the_flow() {
    for how in [How::Error, How::Panic] {
        let app = paused(move || {
            let work = WorkRef::new(flaky(how, 5)).restart(quick(2)).on_error(OnError::Capture);
            let mut failures = 0;
            one(work, move |work, cx| {
                let run = work.run(());
                if run.status().stage == Stage::Failed {
                    failures += 1;
                    cx.wake_in(Duration::from_secs(100));
                    if failures == 2 {
                        work.rerun(());
                    }
                } else {
                    run.finished()?;
                    cx.stop("it was good in the end");
                }
                Ok(())
            })
        });
        let app = app.expect_panic("failed");
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.state.get("work.published").unwrap().decode::<u32>().unwrap(), 5);
    }
}

#[test]
fn runs_that_wait_keep_their_order_behind_the_one_that_is_tried_again() {
    #[derive(Default, Serialize, Deserialize)]
    struct FirstFails {
        ran: Vec<u32>,
    }

    impl Work for FirstFails {
        type Input = u32;

        async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
            self.ran.push(input);
            cx.publish(self);
            assert!(cx.attempt() > 1 || input != 1, "the first try of 1 fails");
            Ok(())
        }
    }

    let app = paused(|| {
        one(WorkRef::from(FirstFails::default()).restart(quick(1)), |work, cx| {
            for input in 0..4 {
                work.run(input);
            }
            if work.successes() == 4 {
                cx.stop("all have run");
            }
            Ok(())
        })
    });
    let app = app.expect_panic("the first try");
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.state.get("work.ran").unwrap().decode::<Vec<u32>>().unwrap(), [0, 1, 1, 2, 3]);
}

/// A Work whose first run never ends.
#[derive(Default, Serialize, Deserialize)]
struct Slow {
    lives: u32,
    note: String,
}

impl Work for Slow {
    type Input = u32;

    async fn on_start(&mut self, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.lives += 1;
        Ok(())
    }

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        if input == 1 && cx.attempt() == 1 {
            cx.sleep(self, Duration::from_secs(60)).await?;
        }
        self.note = format!("{input} done in life {}", self.lives);
        Ok(())
    }
}

#[test]
fn a_run_that_takes_too_long_fails_with_the_reason_timeout() {
    let app = paused(|| {
        one(WorkRef::from(Slow::default()).timeout(Duration::from_secs(5)), |work, _| {
            work.run(1);
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    let error = exit.result.unwrap_err().to_string();
    assert!(error.contains("work `work` failed (timeout)") && error.contains("5s"), "{error}");
    assert_eq!(exit.status.works["work"].status.reason, Some(Reason::Timeout));
}

#[test]
fn after_a_timeout_a_new_incarnation_works_on() {
    for restart in [Restart::never(), quick(1)] {
        let tries_again = restart != Restart::never();
        let app = paused(move || {
            let work = WorkRef::from(Slow::default())
                .timeout(Duration::from_secs(5))
                .restart(restart)
                .on_error(OnError::Capture);
            one(work, move |work, cx| {
                let first = work.run(1).status();
                let second = work.run(2).status();
                if first.stage.is_terminal() && second.stage.is_terminal() {
                    let expected = if tries_again { Stage::Succeeded } else { Stage::Failed };
                    assert_eq!((first.stage, second.stage), (expected, Stage::Succeeded));
                    assert_eq!(work.note, "2 done in life 2");
                    cx.stop("both are over");
                }
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    }
}

static RELEASED: AtomicBool = AtomicBool::new(false);
static LATE_PUBLISH: std::sync::Mutex<Option<std::sync::mpsc::Sender<()>>> = std::sync::Mutex::new(None);

/// A Work that blocks its thread the first time, then publishes although it is fenced.
#[derive(Default, Serialize, Deserialize)]
struct Blocks {
    said: Vec<String>,
}

impl Work for Blocks {
    type Input = u32;

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        if input == 1 {
            while !RELEASED.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            self.said.push("too late".into());
            cx.publish(self);
            let late = LATE_PUBLISH.lock().unwrap().take();
            late.expect("the test waits for it").send(()).unwrap();
            return Ok(());
        }
        self.said.push(format!("{input} in time"));
        Ok(())
    }
}

#[test]
fn what_a_thread_that_blocked_past_its_timeout_still_says_is_not_heard() {
    let (late, published) = std::sync::mpsc::channel();
    *LATE_PUBLISH.lock().unwrap() = Some(late);
    let app = TestApp::start(|| {
        let work =
            WorkRef::from(Blocks::default()).timeout(Duration::from_secs(3)).on_error(OnError::Capture);
        two(work, WorkRef::from(Gated::default()), |a, b, _| {
            a.run(1);
            a.run(2).finished()?;
            b.run(0).finished()?;
            a.run(3).finished()?;
            Ok(())
        })
    });
    app.wait_for_state("a.said", |said: &Vec<String>| *said == ["2 in time"]);
    RELEASED.store(true, Ordering::Release);
    published.recv().unwrap();
    go_on(&app, "b");
    let said = app.wait_for_state("a.said", |said: &Vec<String>| said.len() == 2);
    assert_eq!(said, ["2 in time", "3 in time"]);
    app.stop().result.unwrap();
}

/// A Work that blocks its thread, and checks from time to time whether it should leave.
#[derive(Default, Serialize, Deserialize)]
struct Polite;

static LEFT: std::sync::Mutex<Option<std::sync::mpsc::Sender<()>>> = std::sync::Mutex::new(None);

impl Work for Polite {
    type Input = u32;

    async fn run(&mut self, input: u32, cx: &mut WorkContext<Self>) -> Result<()> {
        while input == 1 && !cx.is_stopping() {
            std::thread::yield_now();
        }
        if let Some(left) = LEFT.lock().unwrap().take_if(|_| input == 1) {
            left.send(()).unwrap();
        }
        Ok(())
    }
}

#[test]
fn a_thread_that_blocks_past_its_timeout_learns_that_it_was_given_up() {
    let (left, has_left) = std::sync::mpsc::channel();
    *LEFT.lock().unwrap() = Some(left);
    let app = TestApp::start(|| {
        let work = WorkRef::from(Polite).timeout(Duration::from_millis(20)).on_error(OnError::Capture);
        one(work, |work, _| {
            work.run(1);
            Ok(())
        })
    });
    let failed = app.wait_for_stage("work", Stage::Failed);
    assert_eq!(failed.status.reason, Some(Reason::Timeout));
    has_left.recv_timeout(flowright::testing::DEFAULT_LIMIT).expect("the Work was told to leave");
    app.stop().result.unwrap();
}

#[test]
fn the_timeout_is_for_each_run_from_its_start() {
    let app = paused(|| {
        #[derive(Default, Serialize, Deserialize)]
        struct Four;

        impl Work for Four {
            type Input = u32;

            async fn run(&mut self, _: u32, cx: &mut WorkContext<Self>) -> Result<()> {
                Ok(cx.sleep(self, Duration::from_secs(4)).await?)
            }
        }

        one(WorkRef::from(Four).timeout(Duration::from_secs(5)), |work, cx| {
            for input in 0..5 {
                work.run(input);
            }
            if work.successes() == 5 {
                cx.stop("all have run");
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
}

/// A Work that waits for as long as its input says, then passes on its messages.
#[derive(Default, Serialize, Deserialize)]
struct Patient {
    tries: u32,
}

impl Work for Patient {
    type Input = Duration;

    async fn run(&mut self, input: Duration, cx: &mut WorkContext<Self>) -> Result<()> {
        self.tries += 1;
        if self.tries == 1 && input.is_zero() {
            bail!("not yet");
        }
        cx.publish(self);
        cx.sleep(self, input).await?;
        Ok(())
    }
}

/// A duration that is too long to be added to the present means never, wherever it is given, and nothing panics.
#[test]
fn endless_durations_mean_never() {
    let just_less = Duration::MAX - Duration::from_nanos(1);
    for endless in [Duration::MAX, just_less, Duration::MAX / 2, Duration::from_secs(u64::MAX / 4)] {
        let root = move || {
            let restart = Restart::on_failure().within(endless).backoff(Duration::ZERO..endless);
            let works = [restart.clone(), restart.backoff(endless..endless)].map(|restart| {
                let work = WorkRef::from(Patient::default()).timeout(endless).grace(endless);
                work.restart(restart).placed(Placement::Pool)
            });
            let [soon, never] = works;
            let (mut waiting, mut stops) = (false, 0);
            two(soon, never, move |soon, never, cx| {
                cx.wake_in(endless);
                soon.run(Duration::ZERO);
                never.run(Duration::ZERO);
                if never.tries == 0 || soon.run(Duration::ZERO).status().stage != Stage::Succeeded {
                    return Ok(());
                }
                assert_eq!(never.tries, 1, "it is tried again after the longest of times");
                if !waiting {
                    waiting = true;
                    soon.run(endless);
                } else if soon.tries == 3 && stops == 0 {
                    stops = 1;
                    soon.stop();
                } else if stops == 1 && soon.has_stopped() {
                    cx.stop("all of it");
                }
                Ok(())
            })
        };
        let exit = TestApp::start_app(App::new(root).grace(endless)).wait_for_exit();
        exit.result.unwrap();
        assert_eq!(exit.status.works["a"].status.stage, Stage::Stopped);
    }
}
