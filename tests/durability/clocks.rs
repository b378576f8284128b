//! Flows that request new inputs at each start, and the warning about it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::SystemTime;

use flowright::prelude::*;
use serde_json::{Value as Json, json};

use crate::editions::{Directory, Shop};

crate::tests![
    input_from_the_clock_is_warned_of,
    input_from_a_schedule_is_not_warned_of,
    new_build_is_not_warned_of,
];

/// The milliseconds since 1970 when this process first asked for them.
fn start() -> u64 {
    static START: OnceLock<u64> = OnceLock::new();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970");
    *START.get_or_init(|| u64::try_from(now().as_millis()).expect("it is earlier than the year 584942417"))
}

#[derive(Default, Serialize, Deserialize)]
struct Stamp {
    runs: u64,
}

impl Work for Stamp {
    type Input = u64;

    async fn run(&mut self, _: u64, _: &mut WorkContext<Self>) -> Result<()> {
        self.runs += 1;
        Ok(())
    }
}

/// A Flow whose input is the start of its process.
#[derive(Default, Serialize, Children)]
struct Clock {
    steady: WorkRef<Stamp>,
    stamp: WorkRef<Stamp>,
}

impl Flow for Clock {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.steady.run(1);
        self.stamp.run(start());
        Ok(())
    }
}

/// A Flow whose input is the number of occurrences of a schedule.
#[derive(Default, Serialize, Children)]
struct Ticker {
    ticks: u64,
    stamp: WorkRef<Stamp>,
}

impl Flow for Ticker {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if cx.schedule("* * * * * *") {
            self.ticks += 1;
        }
        self.stamp.run(self.ticks);
        Ok(())
    }
}

pub(crate) fn run(program: &str) -> Option<ExitCode> {
    Some(match program {
        "clock" => App::new(Clock::default).main(),
        "ticker" => App::new(Ticker::default).main(),
        _ => return None,
    })
}

const WARNING: &str = "with an input that it had not requested before";

fn unstable(shop: &Shop) -> Json {
    shop.get("status")["app"]["journal"]["unstable_inputs"].clone()
}

/// The Work is named once in each start but the first, after any end; the other one of the Flow is not.
fn input_from_the_clock_is_warned_of() {
    let directory = Directory::new("clock");
    for (life, end) in (1..).zip([Shop::kill, Shop::close, Shop::kill, Shop::close]) {
        let shop = Shop::open("clock", &directory);
        shop.state(|state| state["stamp"]["runs"] == life);
        assert_eq!(unstable(&shop), if life == 1 { json!([]) } else { json!(["stamp"]) }, "{life}");
        let lines = end(shop);
        let warned: Vec<_> = lines.iter().filter(|line| line.contains(WARNING)).collect();
        assert_eq!(warned.len(), usize::from(life > 1), "{lines:#?}");
        assert!(
            warned.iter().all(|line| line.contains("of work `stamp`") && line.contains("WARN")),
            "{warned:?}"
        );
    }
}

fn input_from_a_schedule_is_not_warned_of() {
    let directory = Directory::new("ticker");
    let mut runs = 0;
    for end in [Shop::kill, Shop::close, Shop::kill] {
        let shop = Shop::open("ticker", &directory);
        let state = shop.state(|state| state["stamp"]["runs"].as_u64() > Some(runs));
        runs = state["stamp"]["runs"].as_u64().expect("it is a number");
        assert_eq!(unstable(&shop), json!([]));
        let lines = end(shop);
        assert!(!lines.iter().any(|line| line.contains(WARNING)), "{lines:#?}");
    }
}

/// A new build may have reasons of its own; the start after it is warned of.
fn new_build_is_not_warned_of() {
    let directory = Directory::new("clock-build");
    let build = |name: &str| -> PathBuf {
        let path = directory.join(name);
        let this = std::env::current_exe().expect("the path of the test binary is known");
        std::fs::copy(this, &path).expect("there is room for a copy");
        path
    };
    let (first, second) = (build("first"), build("second"));
    for (life, (program, is_warned)) in (1..).zip([(&first, false), (&second, false), (&second, true)]) {
        let shop = Shop::open_build(program, "clock", &directory);
        shop.state(|state| state["stamp"]["runs"] == life);
        let lines = shop.kill();
        assert_eq!(lines.iter().any(|line| line.contains(WARNING)), is_warned, "{life}: {lines:#?}");
    }
}
