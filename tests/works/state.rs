//! A Flow's view of the fields of a Work.

use std::collections::HashMap;

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{AppError, Reason, Stage, Value};
use serde::Serializer;

use crate::support::{Seen, one, paused, wherever_it_runs};

fn read<T: serde::de::DeserializeOwned>(state: &Value, path: &str) -> T {
    state.get(path).unwrap_or_else(|| panic!("no `{path}`")).decode().unwrap()
}

/// A Work that publishes every number up to its input.
#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
    /// Always twice the count.
    double: u64,
}

impl Work for Counter {
    type Input = u64;

    async fn run(&mut self, up_to: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        for count in 1..=up_to {
            self.count = count;
            self.double = 2 * count;
            cx.publish(self);
        }
        Ok(())
    }
}

#[test]
fn of_many_published_values_a_flow_sees_none_after_a_newer_one_and_always_the_last() {
    wherever_it_runs(|placement| {
        let counts = Seen::new();
        let seen = counts.clone();
        let app = TestApp::start(move || {
            one(WorkRef::from(Counter::default()).placed(placement), move |work, cx| {
                seen.note(work.count);
                work.run(10_000).finished()?;
                cx.stop("the run is over");
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
        let counts = counts.all();
        assert!(counts.is_sorted(), "{counts:?}");
        assert_eq!(counts.last(), Some(&10_000));
    });
}

#[test]
fn fields_that_change_together_arrive_together() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Counter::default()).placed(placement), |work, cx| {
                if work.double != 2 * work.count {
                    bail!("{} is not twice {}", work.double, work.count);
                }
                work.run(5_000).finished()?;
                cx.stop("the run is over");
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    });
}

#[test]
fn in_the_reaction_that_learns_of_a_success_the_final_state_is_there() {
    wherever_it_runs(|placement| {
        for count in [1, 10, 100] {
            let when_succeeded = Seen::new();
            let seen = when_succeeded.clone();
            let app = TestApp::start(move || {
                one(WorkRef::from(Counter::default()).placed(placement), move |work, cx| {
                    work.run(count);
                    if work.has_succeeded() {
                        seen.note(work.count);
                        cx.stop("the run is over");
                    }
                    Ok(())
                })
            });
            app.wait_for_exit().result.unwrap();
            assert_eq!(when_succeeded.all(), [count]);
        }
    });
}

/// A Work that changes its collections in place.
#[derive(Default, Serialize, Deserialize)]
struct Shelf {
    list: Vec<u32>,
    map: HashMap<String, Vec<u32>>,
    nested: Option<Box<Shelf>>,
}

impl Work for Shelf {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        let nested = self.nested.get_or_insert_default();
        nested.list.extend([1, 2, 3]);
        cx.publish(self);
        cx.turn(self).await?;
        self.list.push(4);
        self.map.entry("a".into()).or_default().push(5);
        cx.publish(self);
        cx.turn(self).await?;
        self.map.entry("b".into()).or_default().push(6);
        if let Some(list) = self.map.get_mut("a") {
            list[0] = 7;
        }
        self.nested.as_mut().expect("made above").list.remove(1);
        Ok(())
    }
}

#[test]
fn what_is_changed_in_place_inside_lists_and_maps_arrives() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Shelf::default()).placed(placement), |work, cx| {
                let shelf = work.run(()).finished()?;
                assert_eq!(shelf.list, [4]);
                assert_eq!(shelf.map, HashMap::from([("a".into(), vec![7]), ("b".into(), vec![6])]));
                assert_eq!(shelf.nested.as_ref().unwrap().list, [1, 3]);
                cx.stop("as expected");
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    });
}

#[test]
fn a_publish_that_changes_nothing_is_no_reason_to_react() {
    #[derive(Default, Serialize, Deserialize)]
    struct Same;

    impl Work for Same {
        type Input = ();

        async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
            for _ in 0..100 {
                cx.publish(self);
                cx.sleep(self, Duration::from_secs(1)).await?;
            }
            Ok(())
        }
    }

    let app = paused(|| {
        one(WorkRef::from(Same), |work, cx| {
            work.run(()).finished()?;
            cx.stop("the run is over");
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert!(exit.status.reactions < 10, "{} reactions", exit.status.reactions);
}

/// A Work with a private counter.
#[derive(Default, Serialize, Deserialize)]
struct Private {
    shown: u32,
    #[serde(skip)]
    hidden: u32,
}

impl Work for Private {
    type Input = u32;

    async fn run(&mut self, amount: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.hidden += amount;
        self.shown = self.hidden;
        Ok(())
    }
}

#[test]
fn a_skipped_field_is_not_seen_and_lasts_from_run_to_run() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Private::default()).placed(placement), |work, cx| {
                for amount in 1..=3 {
                    work.run(amount).finished()?;
                }
                assert_eq!((work.shown, work.hidden), (6, 0));
                cx.stop("all have run");
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        assert!(exit.state.get("work.shown").is_some());
        assert!(exit.state.get("work.hidden").is_none());
    });
}

#[test]
fn the_state_that_a_work_was_built_with_is_the_one_that_it_starts_from() {
    let app = TestApp::start(|| {
        one(WorkRef::new(Counter { count: 41, double: 82 }), |work, cx| {
            assert_eq!(work.count, 41);
            work.run(0).finished()?;
            cx.stop("it has run");
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(read::<u64>(&exit.state, "work.count"), 41);
}

/// A Work that publishes some state, then fails.
#[derive(Default, Serialize, Deserialize)]
struct FailsLate {
    progress: u32,
}

impl Work for FailsLate {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        self.progress = 70;
        bail!("stuck at 70 %")
    }
}

#[test]
fn what_a_failing_run_got_to_is_visible_with_its_failure() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let work = WorkRef::from(FailsLate::default()).placed(placement).on_error(OnError::Capture);
            one(work, |work, cx| {
                work.run(());
                if work.has_failed() {
                    assert_eq!(work.progress, 70);
                    cx.stop("it has failed");
                }
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    });
}

/// A Work whose state grows to the size of its input.
#[derive(Default, Serialize, Deserialize)]
struct Large {
    name: String,
    weights: Vec<u8>,
}

impl Work for Large {
    type Input = usize;

    async fn run(&mut self, size: usize, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.name = size.to_string();
        self.weights = vec![200; size];
        Ok(())
    }
}

#[test]
fn a_state_above_the_limit_fails_the_work_with_a_remedy() {
    wherever_it_runs(|placement| {
        let root = move || {
            one(WorkRef::from(Large::default()).placed(placement), |work, _| {
                work.run(5_000);
                Ok(())
            })
        };
        let exit = TestApp::start_app(App::new(root).max_state_bytes(4_000)).wait_for_exit();
        let error = exit.result.unwrap_err().to_string();
        for part in ["`work`", "4000 bytes", "`weights`", "Payload"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
        assert_eq!(exit.status.works["work"].status.stage, Stage::Failed);
        assert_eq!(read::<String>(&exit.state, "work.name"), "", "nothing of it is published");
    });
}

#[test]
fn a_work_whose_state_was_too_large_goes_on_once_it_is_small_again() {
    let root = || {
        one(WorkRef::from(Large::default()).on_error(OnError::Capture), |work, cx| {
            if work.run(5_000).status().stage == Stage::Failed {
                work.run(10).finished()?;
                cx.stop("it is small again");
            }
            Ok(())
        })
    };
    let exit = TestApp::start_app(App::new(root).max_state_bytes(4_000)).wait_for_exit();
    exit.result.unwrap();
    assert_eq!(read::<Vec<u8>>(&exit.state, "work.weights").len(), 10);
}

#[test]
fn an_initial_state_above_the_limit_keeps_the_app_from_starting() {
    let root = || one(WorkRef::from(Large { name: String::new(), weights: vec![1; 5_000] }), |_, _| Ok(()));
    let error = TestApp::try_start(App::new(root).max_state_bytes(4_000)).err().unwrap();
    assert!(matches!(error, AppError::Failed(_)), "{error:?}");
    assert!(error.to_string().contains("initial state of work `work`"), "{error}");
}

fn refuse<S: Serializer>(refused: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    if *refused {
        Err(serde::ser::Error::custom("a socket has no words"))
    } else {
        serializer.serialize_bool(false)
    }
}

/// A Work whose state stops being serialisable.
#[derive(Default, Serialize, Deserialize)]
struct Wired {
    fine: u32,
    #[serde(serialize_with = "refuse")]
    socket: bool,
}

impl Work for Wired {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.socket = true;
        cx.publish(self);
        cx.turn(self).await?;
        unreachable!("a state that cannot be published ends the run at its next turn")
    }
}

#[test]
fn a_state_that_does_not_serialise_fails_the_work_and_names_the_field() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Wired::default()).placed(placement), |work, _| {
                work.run(());
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        let error = exit.result.unwrap_err().to_string();
        for part in ["`work`", "`socket`", "a socket has no words"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
        assert_eq!(exit.status.works["work"].status.reason, Some(Reason::UserError));
    });
}

/// A Work whose input does not always serialise.
#[derive(Default, Serialize, Deserialize)]
struct Takes;

#[derive(Serialize, Deserialize)]
struct Refused {
    #[serde(serialize_with = "refuse")]
    refused: bool,
}

impl Work for Takes {
    type Input = Refused;

    async fn run(&mut self, _: Refused, _cx: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn an_input_that_does_not_serialise_is_the_flows_failure_and_names_the_work() {
    let app = TestApp::start(|| {
        one(WorkRef::from(Takes), |work, _| {
            work.run(Refused { refused: true });
            Ok(())
        })
    });
    let error = format!("{:#}", flowright::Error::from(app.wait_for_exit().result.unwrap_err()));
    for part in ["input", "work `work`", "a socket has no words"] {
        assert!(error.contains(part), "no {part} in: {error}");
    }
}
