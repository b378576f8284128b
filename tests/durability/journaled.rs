//! Works of which only a part is recorded, in an App that is killed.

use flowright::Journaled;
use flowright::prelude::*;
use serde_json::{Value as Json, json};

use crate::editions::{Directory, Shop, begun, line};
use crate::record::{What, note};

crate::tests![
    states_and_runs_come_back_as_far_as_they_are_recorded,
    setting_that_was_changed_counts_from_then_on,
];

/// The input whose run does not end.
const ENDLESS: u64 = 9;

/// The state with which each Work is constructed.
const CONSTRUCTED: u64 = 100;

#[derive(Serialize, Deserialize)]
struct Tally {
    total: u64,
}

impl Work for Tally {
    type Input = u64;

    async fn run(&mut self, number: u64, cx: &mut WorkContext<Self>) -> Result<()> {
        note(cx.path().as_str(), What::Begin, number, cx.attempt());
        self.total += number;
        if number == ENDLESS {
            cx.commit(self).await?;
            cx.serve_forever(self).await?;
        }
        cx.step("count", &number, async { Ok(number) }).await?;
        Ok(())
    }
}

fn tally(journaled: Journaled, placement: Placement) -> WorkRef<Tally> {
    WorkRef::new(Tally { total: CONSTRUCTED }).journal(journaled).placed(placement)
}

#[derive(Serialize, Children)]
struct Bench {
    /// The numbers of finished runs.
    all_done: usize,
    runs_done: usize,
    off_done: usize,
    late_done: usize,
    all: WorkRef<Tally>,
    runs: WorkRef<Tally>,
    off: WorkRef<Tally>,
    /// Works that join while the App runs.
    late: std::collections::BTreeMap<String, WorkRef<Tally>>,
    runs_aside: WorkRef<Tally>,
    off_aside: WorkRef<Tally>,
}

impl Bench {
    fn new(off: Journaled) -> Self {
        let (thread, process) = (Placement::Thread, Placement::Process);
        Self {
            all_done: 0,
            runs_done: 0,
            off_done: 0,
            late_done: 0,
            all: tally(Journaled::All, thread),
            runs: tally(Journaled::RunsOnly, thread),
            off: tally(off, thread),
            late: std::collections::BTreeMap::new(),
            runs_aside: tally(Journaled::RunsOnly, process),
            off_aside: tally(Journaled::Off, process),
        }
    }
}

impl Flow for Bench {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let count = |work: &WorkRef<Tally>| {
            [1, 2].map(|n| work.run(n).finished().is_ok()).iter().filter(|ok| **ok).count()
        };
        (self.all_done, self.runs_done, self.off_done) =
            (count(&self.all), count(&self.runs), count(&self.off));
        for (name, journaled) in [("runs", Journaled::RunsOnly), ("off", Journaled::Off)] {
            self.late.entry(name.to_owned()).or_insert_with(|| tally(journaled, Placement::Pool));
        }
        self.late_done = self.late.values().map(count).sum();
        self.runs_aside.run(ENDLESS);
        self.off_aside.run(ENDLESS);
        self.runs.run(ENDLESS);
        Ok(())
    }
}

pub(crate) fn run(program: &str) -> Option<ExitCode> {
    Some(match program {
        "bench" => App::new(|| Bench::new(Journaled::Off)).main(),
        "bench_all" => App::new(|| Bench::new(Journaled::All)).main(),
        _ => return None,
    })
}

/// The inputs with which the runs of a Work have begun.
fn inputs(directory: &Directory, path: &str) -> Vec<u64> {
    begun(directory).into_iter().filter(|(of, _)| of == path).map(|(_, input)| input).collect()
}

/// Waits until all runs but the endless ones have finished, and these have begun.
fn settled(shop: &Shop) -> Json {
    let is_endless = |work: &Json| work["total"].as_u64() >= Some(CONSTRUCTED + ENDLESS);
    shop.state(|state| {
        let done = ["all_done", "runs_done", "off_done"].map(|name| state[name] == 2);
        let endless = ["runs", "runs_aside", "off_aside"].map(|name| is_endless(&state[name]));
        done == [true; 3] && state["late_done"] == 4 && endless == [true; 3]
    })
}

fn states_and_runs_come_back_as_far_as_they_are_recorded() {
    let directory = Directory::new("journaled");
    let shop = Shop::open("bench", &directory);
    let state = settled(&shop);
    let total = |number: u64| json!({ "total": CONSTRUCTED + number });
    assert_eq!([&state["all"], &state["runs"], &state["off"]], [&total(3), &total(12), &total(3)]);
    shop.kill();
    for life in 2..4 {
        let mut shop = Shop::open("bench", &directory);
        shop.process.expect("adopted work `runs_aside` in its own process");
        let state = settled(&shop);
        assert_eq!(state["all"], total(3), "its state is recorded");
        assert_eq!(state["runs"], total(ENDLESS), "it begins with the constructed state");
        assert_eq!(state["off"], total(3), "it has run again, from the constructed state");
        assert_eq!([&state["late"]["runs"], &state["late"]["off"]], [&total(0), &total(3)]);
        assert_eq!([&state["runs_aside"], &state["off_aside"]], [&total(ENDLESS), &total(ENDLESS)]);
        if life == 3 {
            shop.close();
        } else {
            shop.kill();
        }
        let repeated = [1, 2].repeat(life);
        assert_eq!(inputs(&directory, "all"), [1, 2]);
        assert_eq!(inputs(&directory, "off"), repeated);
        assert_eq!(inputs(&directory, "late.runs"), [1, 2]);
        assert_eq!(inputs(&directory, "late.off"), repeated);
        assert_eq!(inputs(&directory, "runs"), [&[1, 2][..], &[ENDLESS].repeat(life)].concat());
        assert_eq!(inputs(&directory, "runs_aside"), [ENDLESS], "it has gone on");
        assert_eq!(inputs(&directory, "off_aside"), [ENDLESS].repeat(life));
    }
}

/// What was recorded with another setting before does not come back.
fn setting_that_was_changed_counts_from_then_on() {
    let directory = Directory::new("journaled-changed");
    for (life, program) in (1..).zip(["bench_all", "bench_all", "bench", "bench_all", "bench_all"]) {
        let shop = Shop::open(program, &directory);
        let state = settled(&shop);
        assert_eq!(state["off"], json!({ "total": CONSTRUCTED + 3 }), "{life}");
        let lines = shop.close();
        if life > 1 {
            line(&lines, "resumed at position");
        }
        let times = [1, 1, 2, 3, 3][life - 1];
        assert_eq!(inputs(&directory, "off"), [1, 2].repeat(times), "{life}");
    }
}
