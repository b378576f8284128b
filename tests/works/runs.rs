//! One run per distinct input, in order, one at a time.

use std::collections::{BTreeSet, HashMap, HashSet};

use flowright::Stage;
use flowright::prelude::*;
use flowright::testing::TestApp;

use crate::support::{
    Gated, Journal, Seen, go_on, listen_to_the_log, one, paused, two, warnings, wherever_it_runs,
};

/// A Work that records its inputs, of any type.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Inputs<I: Serialize + serde::de::DeserializeOwned> {
    ran: Vec<I>,
}

impl<I: Serialize + serde::de::DeserializeOwned> Default for Inputs<I> {
    fn default() -> Self {
        Self { ran: Vec::new() }
    }
}

impl<I: Serialize + serde::de::DeserializeOwned + 'static> Work for Inputs<I> {
    type Input = I;

    async fn run(&mut self, input: I, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.ran.push(input);
        Ok(())
    }
}

/// Requests the inputs in each of many reactions, and returns those that ran.
fn run_all<I>(inputs: Vec<I>, placement: Placement) -> Vec<I>
where
    I: Serialize + serde::de::DeserializeOwned + Clone + Send + 'static,
{
    let distinct = Seen::new();
    let asked = inputs.clone();
    let seen = distinct.clone();
    let app = TestApp::start(move || {
        one(WorkRef::from(Inputs::default()).placed(placement), move |work, cx| {
            let mut done = true;
            for input in &asked {
                done &= work.run(input.clone()).finished().is_ok();
            }
            if done {
                seen.note(work.ran.clone());
                cx.stop("all have run");
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
    distinct.all().remove(0)
}

#[test]
fn inputs_that_differ_in_order_are_different_runs() {
    wherever_it_runs(|placement| {
        let inputs = vec![("a".to_owned(), "b".to_owned()), ("b".to_owned(), "a".to_owned())];
        assert_eq!(run_all(inputs.clone(), placement), inputs);
    });
}

#[test]
fn lists_that_differ_in_order_or_repetition_are_different_runs() {
    let inputs = vec![vec![1, 2], vec![2, 1], vec![1, 1], vec![1]];
    assert_eq!(run_all(inputs.clone(), Placement::Thread), inputs);
}

/// A map that is made anew for each request iterates in another order each time, at every level, and is the same input
/// nevertheless.
#[test]
fn equal_maps_are_one_run_whatever_their_order() {
    type Maps = HashMap<String, HashMap<(i8, Option<bool>), Vec<HashMap<u16, f64>>>>;

    fn maps(last: f64) -> Maps {
        let inner = || (0..8).map(|n| (n, f64::from(n))).chain([(8, last)]).collect();
        let middle = || (0..8).map(|n| ((n, Some(n % 2 == 0)), vec![inner(), inner()])).collect();
        (0..8).map(|n| (n.to_string(), middle())).collect()
    }

    wherever_it_runs(|placement| {
        let inputs: Vec<_> = (0..20).map(|n| maps(f64::from(n % 2))).collect();
        assert_eq!(run_all(inputs, placement), [maps(0.0), maps(1.0)]);
    });
}

/// An input with a NaN is the same input each time, and zeros are equal.
#[test]
fn equal_floats_are_one_run() {
    let ran = run_all(vec![f64::NAN, -f64::NAN, 0.0, -0.0, 1.0], Placement::Thread);
    assert!(ran.len() == 3 && ran[0].is_nan() && ran[1..] == [0.0, 1.0], "{ran:?}");
}

/// Nested options are different inputs, and arrive unchanged.
#[test]
fn nested_options_are_different_runs() {
    wherever_it_runs(|placement| {
        let inputs = vec![None, Some(None), Some(Some(None)), Some(Some(Some(0))), Some(Some(Some(1)))];
        assert_eq!(run_all(inputs.clone(), placement), inputs);
        assert_eq!(run_all(vec![None, Some(())], placement), [None, Some(())]);
    });
}

/// `forget` and `rerun` apply to the equal input, whatever the order of its maps.
#[test]
fn equal_map_is_forgotten_and_run_again() {
    let map = || (0..16).map(|n| (n, n)).collect::<HashMap<u8, u8>>();
    let app = TestApp::start(move || {
        one(WorkRef::from(Inputs::default()), move |work, cx| {
            work.run(map()).finished()?;
            match work.successes() {
                1 => work.forget(&map()),
                2 => work.rerun(map()),
                3 => cx.stop("it has run as often as it was asked to"),
                more => panic!("{more} runs"),
            }
            work.run(map());
            Ok(())
        })
    });
    assert_eq!(app.wait_for_exit().result.map_err(|error| error.to_string()), Ok(()));
}

/// A Flow that requests runs of equal sets. Its paths are unique to one test, so that its log lines can be told apart.
#[derive(Serialize, Children)]
struct EqualSets {
    hash_sets: WorkRef<Inputs<HashSet<u32>>>,
    tree_sets: WorkRef<Inputs<BTreeSet<u32>>>,
    #[serde(skip)]
    asked: Vec<HashSet<u32>>,
    #[serde(skip)]
    ran: Seen<(usize, usize)>,
}

impl Flow for EqualSets {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut done = true;
        for set in &self.asked {
            done &= self.hash_sets.run(set.clone()).finished().is_ok();
            done &= self.tree_sets.run(set.iter().copied().collect()).finished().is_ok();
        }
        if done {
            self.ran.note((self.hash_sets.ran.len(), self.tree_sets.ran.len()));
            cx.stop("all have run");
        }
        Ok(())
    }
}

/// Serde serialises a set as a sequence: equal `HashSet`s in different orders are different inputs, for which one line
/// is logged that names the Work and the remedy; equal `BTreeSet`s are one input, and nothing is logged.
#[test]
fn hash_sets_in_another_order_are_told_of_once() {
    listen_to_the_log();
    let ran = Seen::new();
    let seen = ran.clone();
    let app = TestApp::start(move || EqualSets {
        hash_sets: WorkRef::from(Inputs::default()),
        tree_sets: WorkRef::from(Inputs::default()),
        asked: (0..10).map(|_| (0..50).collect()).collect(),
        ran: seen,
    });
    app.wait_for_exit().result.unwrap();
    let (hash_sets, tree_sets) = ran.all()[0];
    assert!(hash_sets > 1, "they are in the same order");
    assert_eq!(tree_sets, 1);
    let logged: Vec<_> = warnings().into_iter().filter(|line| line.contains("_sets` runs inputs")).collect();
    let [line] = &logged[..] else { panic!("one line is logged: {logged:?}") };
    let parts = ["work `hash_sets`", "order of a sequence", "`HashSet`", "`BTreeSet`"];
    assert!(parts.iter().all(|part| line.contains(part)), "{line}");
}

/// The oldest outcomes are forgotten, and a forgotten input runs again when it is requested again.
#[test]
fn forgotten_outcome_runs_again() {
    let ran = Seen::new();
    let seen = ran.clone();
    let app = TestApp::start(move || {
        let mut next = 0;
        one(WorkRef::from(Inputs::default()).remember(2), move |work, cx| {
            // 1 is forgotten when 3 has run, and so runs again.
            let order = [1, 2, 1, 3, 2, 3, 1];
            while let Some(input) = order.get(next) {
                work.run(*input).finished()?;
                next += 1;
            }
            seen.note(work.ran.clone());
            cx.stop("all were asked for");
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
    assert_eq!(ran.all().concat(), [1, 2, 3, 1]);
}

/// With a duration an outcome is forgotten at that age.
#[test]
fn old_outcome_is_forgotten_after_its_time() {
    let app = paused(|| {
        one(WorkRef::from(Inputs::default()).remember(Duration::from_secs(60)), |work, cx| {
            cx.wake_in(Duration::from_secs(25));
            work.run(7_u8);
            if work.successes() == 3 {
                cx.stop("it has run three times");
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
}

#[test]
fn equal_inputs_are_one_run_however_often_they_are_asked_for() {
    wherever_it_runs(|placement| {
        assert_eq!(run_all(vec![1, 2, 1, 1, 2], placement), [1, 2]);
    });
}

#[test]
fn hundreds_of_inputs_run_once_each_in_order_and_one_at_a_time() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Journal::default()).placed(placement), |work, _| {
                for input in 0..500 {
                    work.run(input);
                }
                Ok(())
            })
        });
        app.wait_for_work("work", |work| work.successes == 500);
        let ran: Vec<u32> = app.wait_for_state("work.ran", |_| true);
        assert_eq!(ran, (0..500).collect::<Vec<_>>());
        app.stop().result.unwrap();
    });
}

#[test]
fn a_reaction_without_a_new_input_runs_nothing_again() {
    let app = paused(|| {
        let mut reactions = 0;
        one(WorkRef::from(Journal::default()), move |work, cx| {
            work.run(7);
            reactions += 1;
            if reactions == 50 {
                cx.stop("enough");
            }
            cx.wake_in(Duration::from_secs(1));
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.state.get("work.ran").unwrap().decode::<Vec<u32>>().unwrap(), [7]);
    assert_eq!(exit.status.works["work"].successes, 1);
}

/// Five Works, each of which continues the list of the one before it.
#[derive(Serialize, Children)]
struct Chain {
    links: Vec<WorkRef<Link>>,
    result: Vec<u32>,
}

#[derive(Default, Serialize, Deserialize)]
struct Link {
    number: u32,
    made: Vec<u32>,
    runs: u32,
}

impl Work for Link {
    type Input = Vec<u32>;

    async fn run(&mut self, mut list: Vec<u32>, cx: &mut WorkContext<Self>) -> Result<()> {
        cx.turn(self).await?;
        self.runs += 1;
        list.push(self.number);
        self.made = list;
        Ok(())
    }
}

impl Flow for Chain {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mut list = Vec::new();
        for (n, link) in self.links.iter().enumerate() {
            let later_ones = &self.links[n + 1..];
            if !link.has_succeeded() && later_ones.iter().any(WorkRef::has_started) {
                bail!("a later link was started before link {n} was done");
            }
            list = link.run(list).finished()?.made.clone();
        }
        self.result = list;
        cx.stop("the chain is done");
        Ok(())
    }
}

#[test]
fn a_chain_of_finished_runs_is_sequential_code() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let link = |number| WorkRef::from(Link { number, ..Link::default() }).placed(placement);
            Chain { links: (0..5).map(link).collect(), result: Vec::new() }
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        let result: Vec<u32> = exit.state.get("result").unwrap().decode().unwrap();
        assert_eq!(result, [0, 1, 2, 3, 4]);
        for n in 0..5 {
            assert_eq!(exit.status.works[&format!("links.{n}")].successes, 1);
            let runs: u32 = exit.state.get(&format!("links.{n}.runs")).unwrap().decode().unwrap();
            assert_eq!(runs, 1);
        }
    });
}

#[test]
fn runs_of_two_works_whose_result_is_ignored_are_under_way_at_once() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let work = || WorkRef::from(Gated::default()).placed(placement);
            two(work(), work(), |a, b, _| {
                a.run(1);
                b.run(2);
                Ok(())
            })
        });
        app.wait_for_stage("a", Stage::Running);
        app.wait_for_stage("b", Stage::Running);
        go_on(&app, "b");
        app.wait_for_stage("b", Stage::Succeeded);
        assert_eq!(app.status().works["a"].status.stage, Stage::Running);
        go_on(&app, "a");
        app.wait_for_stage("a", Stage::Succeeded);
        app.stop().result.unwrap();
    });
}

#[test]
fn without_cached_calls_an_input_runs_whenever_the_work_is_idle_and_each_end_lets_the_flow_pass_once() {
    wherever_it_runs(|placement| {
        let passes = Seen::new();
        let seen = passes.clone();
        let app = TestApp::start(move || {
            let work = WorkRef::from(Journal::default()).placed(placement).cache_calls(false);
            one(work, move |work, cx| {
                let journal = work.run(1).finished()?;
                seen.note(journal.ran.len());
                if journal.ran.len() == 20 {
                    cx.stop("enough");
                }
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
        assert_eq!(passes.all(), (1..=20).collect::<Vec<_>>());
    });
}

#[test]
fn forgetting_an_input_makes_it_new_and_leaves_the_others() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let mut forgotten = false;
            one(WorkRef::from(Journal::default()).placed(placement), move |work, cx| {
                work.run(1).finished()?;
                work.run(2).finished()?;
                if !forgotten {
                    forgotten = true;
                    work.forget(&1);
                    assert_eq!(work.run(1).status().stage, Stage::Pending);
                    return Ok(());
                }
                cx.stop("all have run");
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        let ran: Vec<u32> = exit.state.get("work.ran").unwrap().decode().unwrap();
        assert_eq!(ran, [1, 2, 1]);
    });
}

#[test]
fn an_input_that_is_forgotten_while_it_runs_is_not_done_before_it_has_run_again() {
    let ran_when_done = Seen::new();
    let seen = ran_when_done.clone();
    let app = TestApp::start(move || {
        let mut forgotten = false;
        one(WorkRef::from(Gated::default()), move |work, cx| {
            if work.run(1).finished().is_ok() {
                seen.note(work.ended.clone());
                cx.stop("it is done");
            } else if !forgotten && !work.begun.is_empty() {
                forgotten = true;
                work.forget(&1);
                work.run(1);
            }
            Ok(())
        })
    });
    app.wait_for_state("work.begun", |begun: &Vec<u32>| begun.len() == 1);
    app.wait_for_work("work", |work| work.status.seq >= 3);
    go_on(&app, "work");
    app.wait_for_state("work.begun", |begun: &Vec<u32>| begun.len() == 2);
    go_on(&app, "work");
    app.wait_for_exit().result.unwrap();
    assert_eq!(ran_when_done.all(), [[1, 1]]);
}

#[test]
fn an_input_that_succeeded_can_be_run_once_more() {
    let app = TestApp::start(|| {
        let mut again = false;
        one(WorkRef::from(Journal::default()), move |work, _| {
            work.run(1).finished()?;
            if !again {
                again = true;
                work.rerun(1);
            }
            Ok(())
        })
    });
    app.wait_for_work("work", |work| work.successes == 2);
    assert_eq!(app.wait_for_state("work.ran", |_: &Vec<u32>| true), [1, 1]);
    app.stop().result.unwrap();
}

#[test]
fn what_finds_the_queue_full_is_asked_for_again_and_nothing_is_lost() {
    wherever_it_runs(|placement| {
        let longest = Seen::new();
        let seen = longest.clone();
        let app = TestApp::start(move || {
            let work = WorkRef::from(Journal::default()).placed(placement).queue(3);
            one(work, move |work, cx| {
                let stages = (0..60).map(|input| work.run(input).status().stage);
                let waiting = stages.filter(|stage| matches!(stage, Stage::Pending | Stage::Running)).count();
                seen.note(waiting);
                if work.successes() == 60 {
                    cx.stop("all have run");
                }
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        exit.result.unwrap();
        let mut ran: Vec<u32> = exit.state.get("work.ran").unwrap().decode().unwrap();
        ran.sort_unstable();
        assert_eq!(ran, (0..60).collect::<Vec<_>>());
        assert!(longest.all().into_iter().all(|waiting| waiting <= 4), "3 wait and 1 is under way");
    });
}

#[test]
fn with_a_queue_of_none_an_idle_work_still_runs() {
    let app = TestApp::start(|| {
        one(WorkRef::from(Journal::default()).queue(0), |work, cx| {
            for input in 0..3 {
                work.run(input);
            }
            if work.successes() == 3 {
                cx.stop("all have run");
            }
            Ok(())
        })
    });
    app.wait_for_exit().result.unwrap();
}

/// A Work that adds messages to its state, and multiplies a private number.
#[derive(Serialize, Deserialize)]
struct Sum {
    total: u64,
    seen_before: Vec<u64>,
}

impl Work for Sum {
    type Input = u64;

    async fn run(&mut self, amount: u64, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.seen_before.push(self.total);
        self.total += amount;
        Ok(())
    }
}

#[test]
fn each_of_many_waiting_runs_finds_what_the_ones_before_it_left() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            one(WorkRef::from(Sum { total: 100, seen_before: Vec::new() }).placed(placement), |work, _| {
                for amount in 1..=4 {
                    work.run(amount);
                }
                Ok(())
            })
        });
        app.wait_for_work("work", |work| work.successes == 4);
        let seen: Vec<u64> = app.wait_for_state("work.seen_before", |_| true);
        assert_eq!(seen, [100, 101, 103, 106]);
        app.stop().result.unwrap();
    });
}

/// A Work that runs without any message and any Flow.
#[derive(Default, Serialize, Deserialize)]
struct Once {
    runs: u32,
}

impl Work for Once {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        self.runs += 1;
        Ok(())
    }
}

#[test]
fn a_work_as_the_root_runs_once_and_the_app_ends_well() {
    let exit = TestApp::start_app(App::of_work(Once::default)).wait_for_exit();
    exit.result.unwrap();
    assert_eq!(exit.state.get("work.runs").unwrap().decode::<u32>().unwrap(), 1);
    assert_eq!(exit.status.works["work"].status.stage, Stage::Succeeded);
}

/// The last state of a run and its success are read together, so that no Flow sees, and no journal records, one without
/// the other.
#[test]
fn last_state_of_a_run_comes_with_its_success() {
    const RUNS: u32 = 3_000;

    #[derive(Default, Serialize, Deserialize)]
    struct Counter {
        ended: u64,
    }

    impl Work for Counter {
        type Input = u32;

        async fn run(&mut self, _: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
            self.ended += 1;
            Ok(())
        }
    }

    #[derive(Default, Serialize, Children)]
    struct Root {
        counter: WorkRef<Counter>,
        requested: u32,
    }

    impl Flow for Root {
        fn react(&mut self, cx: &mut FlowContext) -> Reaction {
            assert_eq!(self.counter.ended, self.counter.successes());
            while self.requested < RUNS && self.counter.run(self.requested).finished().is_ok() {
                self.requested += 1;
            }
            if self.requested == RUNS {
                cx.stop("all have succeeded");
            }
            Ok(())
        }
    }

    TestApp::start(Root::default).wait_for_exit().result.unwrap();
}
